//! Rows of the table and JSON lines.

use super::ceilings::{Ceilings, round};
use super::check::Checked;
use super::timing::Timed;
use super::workload::Workload;
use crate::list::plain;
use crate::table::{aligned, one_line, short};
use serde_json::{Map, Value, json};
use wgpu_attention::Error;
use wgpu_attention::gpu::Tuned;
use wgpu_attention::kernel::attend::Visits;

/// What was measured of one workload.
#[derive(Clone, Debug)]
pub struct Row {
    /// The workload.
    pub workload: Workload,
    /// Kernels of the plan in order.
    pub kernel: String,
    /// Whether a kernel uses cooperative matrices, whose ceiling then counts.
    pub matrix: bool,
    /// Bytes of inputs and outputs, each once.
    pub bytes: f64,
    /// The check that came first.
    pub checked: Checked,
    /// The tiles that attention visits, where its kernel tells.
    pub visits: Option<Visits>,
    /// Its time over that of [`Workload::ideal`], where both were measured.
    pub over_ideal: Option<f64>,
    /// What `--tune` tried.
    pub tuned: Vec<Tuned>,
    /// Absent when the check failed: a wrong result has no speed.
    pub timed: Option<Timed>,
}

impl Row {
    /// FLOPs a second / 10^9.
    pub fn gflops(&self, ms: f64) -> f64 {
        self.workload.job.flops / ms / 1e6
    }

    /// GB/s.
    pub fn gbs(&self, ms: f64) -> f64 {
        self.bytes / ms / 1e6
    }

    /// The nearer ceiling and the fraction of it: `fma`, `matrix` or `copy`.
    fn bound(&self, ms: f64, ceilings: &Ceilings) -> (&'static str, f64) {
        let (name, most) = match ceilings.matrix.filter(|_| self.matrix) {
            Some(matrix) => ("matrix", matrix),
            None => ("fma", ceilings.fma),
        };
        let (work, copy) = (self.gflops(ms) / most, self.gbs(ms) / ceilings.copy);
        if work >= copy { (name, work) } else { ("copy", copy) }
    }
}

/// The layout of the table: rows are printed as they come, so widths are known beforehand.
#[derive(Debug)]
pub struct Layout {
    widths: Vec<usize>,
    tera: bool,
}

const RIGHT: [bool; 10] = [false, false, true, true, true, true, true, true, true, false];

impl Layout {
    /// Wide enough for these workloads.
    pub fn new(workloads: &[&Workload], ceilings: &Ceilings) -> Self {
        let widest = |text: &dyn Fn(&Workload) -> usize, least: usize| {
            workloads.iter().map(|w| text(w)).max().unwrap_or(0).max(least)
        };
        let mut widths = vec![widest(&|w| w.id.chars().count(), 8), widest(&|w| w.shape.chars().count(), 16)];
        widths.extend([8, 8, 8, 8, 7, 12, 7, 0]);
        Layout { widths, tera: ceilings.fma >= 5e3 }
    }

    /// The header.
    pub fn header(&self) -> String {
        let rate = if self.tera { "TFLOP/s" } else { "GFLOP/s" };
        let cells = ["workload", "B,H,Hk,L,D", "ms", "min", "max", rate, "GB/s", "of ceiling", "error", "kernel"];
        aligned(&cells.map(str::to_owned), &self.widths, &RIGHT)
    }

    /// A measured row, with notes where something deserves one.
    pub fn row(&self, row: &Row, ceilings: &Ceilings, full: usize) -> String {
        let Workload { id, shape, .. } = &row.workload;
        let error = format!("{:.0e}", row.checked.error);
        let Some(timed) = &row.timed else {
            let why = format!(
                "WRONG: error {error} of {:.0e} against the {}; not timed",
                row.checked.allowed, row.checked.by
            );
            return aligned(&[id.clone(), shape.clone(), why], &[self.widths[0], self.widths[1], 0], &[false; 3]);
        };
        let ms = timed.median();
        let (bound, fraction) = row.bound(ms, ceilings);
        let scale = if self.tera { 1e-3 } else { 1.0 };
        let mut last = row.kernel.clone();
        for note in notes(row, timed, full) {
            last += &format!(" [{note}]");
        }
        let cells = [
            id.clone(),
            shape.clone(),
            short(ms),
            short(timed.ms[0]),
            short(timed.most()),
            short(row.gflops(ms) * scale),
            short(row.gbs(ms)),
            format!("{:.0} % {bound:6}", 100.0 * fraction),
            error,
            last,
        ];
        aligned(&cells, &self.widths, &RIGHT)
    }

    /// A workload that was not measured.
    pub fn refused(&self, workload: &Workload, error: &Error) -> String {
        let cells = [workload.id.clone(), workload.shape.clone(), one_line(&format!("refused: {error}"))];
        aligned(&cells, &[self.widths[0], self.widths[1], 0], &[false; 3])
    }
}

/// `full` is the number of samples that the protocol asks for.
fn notes(row: &Row, timed: &Timed, full: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if timed.ms.len() < full {
        notes.push(format!("{} sample{}", timed.ms.len(), if timed.ms.len() == 1 { "" } else { "s" }));
    }
    // Device and host time must agree within 5 %, or both are shown.
    if timed.timestamps && (timed.host / timed.median() - 1.0).abs() > 0.05 {
        notes.push(format!("host {} ms", short(timed.host)));
    }
    if timed.slow > 0 {
        notes.push(format!("{} samples taken again, the device was below its clock", timed.slow));
    }
    if timed.sets > 1 {
        notes.push(format!("{} input sets in turn", timed.sets));
    }
    if let Some(touched) = row.workload.job.touched {
        notes.push(format!("pairs touched/allowed {}", short(touched)));
    }
    // Elsewhere the sizes alone say it.
    let skips = row.workload.ideal.is_some() || row.workload.job.touched.is_some();
    if let Some(Visits { rows, keys, visited, dense }) = row.visits.filter(|_| skips) {
        let fewer = short(dense as f64 / visited.max(1) as f64);
        notes.push(format!("{visited} of {dense} tiles of {rows} x {keys}, {fewer}x fewer"));
    }
    if let (Some(ratio), Some(ideal)) = (row.over_ideal, row.workload.ideal) {
        notes.push(format!("{ratio:.2} times {ideal}"));
    }
    notes
}

/// The JSON line of a measured row.
pub fn json(row: &Row, device: &str, ceilings: &Ceilings) -> Value {
    let mut line = head(&row.workload, device);
    let job = &row.workload.job;
    line.insert("kernel".into(), json!(row.kernel));
    line.insert("gflop".into(), json!(round(job.flops / 1e9)));
    line.insert("mb".into(), json!(round(row.bytes / 1e6)));
    line.insert("touched_over_allowed".into(), json!(job.touched.map(round)));
    line.insert("tiles_visited".into(), json!(row.visits.map(|v| v.visited)));
    line.insert("tiles_dense".into(), json!(row.visits.map(|v| v.dense)));
    line.insert("tile".into(), json!(row.visits.map(|v| [v.rows, v.keys])));
    line.insert("over_ideal".into(), json!(row.over_ideal.map(round)));
    let tried = |t: &(String, wgpu_attention::Result<f64>)| match &t.1 {
        Ok(ms) => json!({ "kernel": t.0, "ms": round(*ms) }),
        Err(error) => json!({ "kernel": t.0, "refused": error.to_string() }),
    };
    let tuned = |t: &Tuned| json!({ "stage": t.stage, "tried": t.tried.iter().map(tried).collect::<Vec<_>>() });
    line.insert("tuned".into(), row.tuned.iter().map(tuned).collect());
    let checked = &row.checked;
    let checked = json!({
        "by": checked.by,
        "error": round(checked.error),
        "allowed": checked.allowed,
        "passed": checked.passed(),
    });
    line.insert("checked".into(), checked);
    line.insert("ceilings".into(), ceilings.json());
    if let Some(timed) = &row.timed {
        let ms = timed.median();
        let stages: Vec<_> =
            timed.stages.iter().map(|s| json!({ "stage": s.label, "kernel": s.kernel, "ms": round(s.ms) })).collect();
        let numbers = json!({
            "ms": { "median": round(ms), "min": round(timed.ms[0]), "max": round(timed.most()) },
            "clock": if timed.timestamps { "timestamps" } else { "host" },
            "host_ms": round(timed.host),
            "latency_ms": round(timed.latency),
            "samples": timed.ms.len(),
            "runs_a_sample": timed.repeat,
            "input_sets": timed.sets,
            "gflops": round(row.gflops(ms)),
            "gbs": round(row.gbs(ms)),
            "of_fma": round(row.gflops(ms) / ceilings.fma),
            "of_matrix": ceilings.matrix.filter(|_| row.matrix).map(|m| round(row.gflops(ms) / m)),
            "of_copy": round(row.gbs(ms) / ceilings.copy),
            "stages": stages,
        });
        if let Value::Object(numbers) = numbers {
            line.extend(numbers);
        }
    }
    Value::Object(line)
}

/// What `--tune` tried, a line a kernel; `*` marks the one that is taken.
pub fn tuned(row: &Row) -> Vec<String> {
    let line = |of: &Tuned, (kernel, ms): &(String, wgpu_attention::Result<f64>)| {
        let mark = if *kernel == of.kernel { '*' } else { ' ' };
        match ms {
            Ok(ms) => format!("  {mark} {}: {kernel}: {} ms", of.stage, short(*ms)),
            Err(error) => format!("  {mark} {}: {kernel}: {}", of.stage, one_line(&error.to_string())),
        }
    };
    row.tuned.iter().flat_map(|of| of.tried.iter().map(move |tried| line(of, tried))).collect()
}

/// The JSON line of a workload that was not measured.
pub fn refused(workload: &Workload, device: &str, error: &Error) -> Value {
    let mut line = head(workload, device);
    line.insert("refused".into(), json!(error.to_string()));
    line.insert("kind".into(), json!(format!("{:?}", error.kind())));
    Value::Object(line)
}

fn head(workload: &Workload, device: &str) -> Map<String, Value> {
    let params: Map<_, _> = workload.job.params.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    let mut line = Map::new();
    line.insert("workload".into(), json!(workload.id));
    line.insert("device".into(), json!(device));
    line.insert("crate".into(), json!(env!("CARGO_PKG_VERSION")));
    line.insert("variant".into(), json!(workload.job.variant));
    line.insert("shape".into(), json!(workload.shape));
    line.insert("params".into(), Value::Object(params));
    line
}
