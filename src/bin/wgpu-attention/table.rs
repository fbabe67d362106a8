//! Aligned columns.

/// Rows under a header. Columns of numbers are set to the right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headers; a header that starts with `>` heads a column of numbers.
    pub fn new(header: &[&str]) -> Self {
        let right = header.iter().map(|h| h.starts_with('>')).collect();
        let header = header.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Table { rows: vec![header], right }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, header first, each indented by `indent` blanks.
    pub fn lines(&self, indent: usize) -> Vec<String> {
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        self.rows.iter().map(|row| " ".repeat(indent) + &aligned(row, &widths, &self.right)).collect()
    }
}

/// Cells padded to the widths, two blanks between them.
pub fn aligned(cells: &[String], widths: &[usize], right: &[bool]) -> String {
    let mut text = String::new();
    for (c, cell) in cells.iter().enumerate() {
        let blanks = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
        text += if c == 0 { "" } else { "  " };
        text += &if right[c] { blanks + cell } else { cell.clone() + &blanks };
    }
    text.trim_end().to_owned()
}

/// A message of several lines (a shader compiler's) as one: a row of a table has no second.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Bytes with a unit: `512 B`, `1.5 MiB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 { format!("{value:.0} {}", units[unit]) } else { format!("{value:.1} {}", units[unit]) }
}

/// A number with about three significant digits and no exponent.
pub fn short(x: f64) -> String {
    match x.abs() {
        a if !a.is_finite() => "-".to_owned(),
        a if a == 0.0 || a >= 99.95 => format!("{x:.0}"),
        a if a >= 9.995 => format!("{x:.1}"),
        a if a >= 0.9995 => format!("{x:.2}"),
        a if a >= 0.0995 => format!("{x:.3}"),
        _ => format!("{x:.4}"),
    }
}
