//! What a compiled hook depends on: the structure of a mask, read off its code.

use super::program::{Binary, Op, Program, Reg, Source, Unary};

/// The inputs that a hook's result may change with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depends {
    bits: u64,
}

const BATCH: u64 = 1;
const HEAD: u64 = 2;
const ROW: u64 = 4;
const QUERY: u64 = 8;
const KEY: u64 = 16;
const SCORE: u64 = 32;
const FIRST_ARG: u32 = 6;

impl Depends {
    fn of(source: Source) -> Self {
        let bits = match source {
            Source::Batch => BATCH,
            Source::Head => HEAD,
            Source::Row => ROW,
            Source::Query => QUERY,
            Source::Key => KEY,
            Source::Score => SCORE,
            Source::Arg(n) => 1 << (FIRST_ARG + n.min(57) as u32),
        };
        Depends { bits }
    }

    fn and(self, other: Self) -> Self {
        Depends { bits: self.bits | other.bits }
    }

    /// On `at.batch`.
    pub fn batch(self) -> bool {
        self.bits & BATCH != 0
    }

    /// On `at.head`.
    pub fn head(self) -> bool {
        self.bits & HEAD != 0
    }

    /// On where the query or the key is, and not only on arguments.
    pub fn positions(self) -> bool {
        self.bits & (ROW | QUERY | KEY) != 0
    }

    /// On where the query is, and not only on arguments.
    pub fn query(self) -> bool {
        self.bits & (ROW | QUERY) != 0
    }

    /// On argument `n` after `at`.
    pub fn arg(self, n: usize) -> bool {
        self.bits & Self::of(Source::Arg(n)).bits != 0
    }
}

/// What a mask rule hangs on; the more is known, the cheaper its block map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Structure {
    /// Nothing is known: every pair of a tile is asked.
    Pairs,
    /// Only per-token arguments, not positions: neighbours with the same values are asked once.
    Segments,
    /// Only the distance of query and key (and heads): the border of a tile tells about all of it.
    Distance,
}

/// How a value hangs on the two positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Not yet written.
    Nothing,
    /// Not at all.
    Free,
    /// a · query + b · key + something free.
    Line(i32, i32),
    /// Some function of query − key.
    Distance,
    /// Some function of both.
    Any,
}

impl Form {
    fn line(a: i32, b: i32) -> Self {
        if (a, b) == (0, 0) { Form::Free } else { Form::Line(a, b) }
    }

    /// What a function of a value of this form hangs on.
    fn opaque(self) -> Self {
        match self {
            Form::Line(a, b) if a + b == 0 => Form::Distance,
            Form::Line(..) => Form::Any,
            other => other,
        }
    }

    /// What a function of values of both forms hangs on, or a value that is one of the two.
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Form::Nothing, x) | (x, Form::Nothing) => x,
            (a, b) if a == b => a,
            (a, b) => match (a.opaque(), b.opaque()) {
                (Form::Any, _) | (_, Form::Any) => Form::Any,
                (Form::Distance, _) | (_, Form::Distance) => Form::Distance,
                _ => Form::Free,
            },
        }
    }

    /// The sum, the other times `factor`.
    fn plus(self, other: Self, factor: i32) -> Self {
        let parts = |form| match form {
            Form::Free => Some((0, 0)),
            Form::Line(a, b) => Some((a, b)),
            _ => None,
        };
        let sum = parts(self).zip(parts(other)).and_then(|((a, b), (c, d))| {
            Some(Form::line(a.checked_add(c.checked_mul(factor)?)?, b.checked_add(d.checked_mul(factor)?)?))
        });
        sum.unwrap_or_else(|| self.with(other).opaque())
    }
}

impl Program {
    /// The inputs that the result may change with.
    pub fn depends(&self) -> Depends {
        let none = vec![Depends::default(); self.registers];
        let start = |to: &mut Vec<Depends>| {
            self.sources.iter().for_each(|(source, reg)| to[*reg as usize] = Depends::of(*source));
        };
        self.flow(
            none,
            start,
            |op, read| op.reads().into_iter().map(read).fold(Depends::default(), Depends::and),
            Depends::and,
        )
    }

    /// What a mask rule hangs on.
    pub fn structure(&self) -> Structure {
        if !self.depends().positions() {
            return Structure::Segments;
        }
        let start = |to: &mut Vec<Form>| {
            self.constants.iter().for_each(|(reg, _)| to[*reg as usize] = Form::Free);
            for (source, reg) in &self.sources {
                to[*reg as usize] = match source {
                    Source::Query => Form::Line(1, 0),
                    Source::Key => Form::Line(0, 1),
                    Source::Batch | Source::Head => Form::Free,
                    Source::Arg(n) if !self.args[*n].along_rows && !self.args[*n].along_keys => Form::Free,
                    _ => Form::Any,
                };
            }
        };
        let result = self.flow(vec![Form::Nothing; self.registers], start, form, Form::with);
        match result.opaque() {
            Form::Any => Structure::Pairs,
            _ => Structure::Distance,
        }
    }

    /// Values of an abstract domain run through the code until nothing changes. Everything written under a condition hangs on all
    /// conditions of the code: coarse, and enough.
    fn flow<T: Copy + PartialEq>(
        &self,
        mut values: Vec<T>,
        start: impl Fn(&mut Vec<T>),
        of: impl Fn(&Op, &dyn Fn(Reg) -> T) -> T,
        join: impl Fn(T, T) -> T,
    ) -> T {
        start(&mut values);
        loop {
            let before = values.clone();
            for op in self.row.iter().chain(&self.code) {
                let mut value = of(op, &|r| values[r as usize]);
                let variable = matches!(op, Op::Move { .. });
                if variable && self.branches {
                    value = self.conditions().map(|r| values[r as usize]).fold(value, &join);
                }
                for to in op.writes() {
                    let to = &mut values[to as usize];
                    *to = join(*to, value);
                }
            }
            if values == before {
                break;
            }
        }
        values[self.result as usize]
    }

    fn conditions(&self) -> impl Iterator<Item = Reg> + '_ {
        self.code.iter().filter_map(|op| match op {
            Op::Only { condition, .. } | Op::Others { condition, .. } => Some(*condition),
            _ => None,
        })
    }
}

/// The form of what an instruction writes.
fn form(op: &Op, read: &dyn Fn(Reg) -> Form) -> Form {
    match *op {
        Op::Copy { from, .. } | Op::Move { from, .. } => read(from),
        Op::Unary { op: Unary::NegI, a, .. } => Form::Free.plus(read(a), -1),
        Op::Binary { op: Binary::AddI, a, b, .. } => read(a).plus(read(b), 1),
        Op::Binary { op: Binary::SubI, a, b, .. } => read(a).plus(read(b), -1),
        // Positions are below 2^31, so that order is that of the difference.
        Op::Binary { op: Binary::Equal | Binary::NotEqual | Binary::LessI | Binary::LessEqualI, a, b, .. } => {
            read(a).plus(read(b), -1).opaque()
        }
        _ => op.reads().into_iter().map(read).fold(Form::Nothing, Form::with).opaque(),
    }
}
