//! A part of every result is computed again by a reference before anything is timed.

use super::workload::{Cut, Job, inputs};
use wgpu_attention::case::{self, Tolerance, compare};
use wgpu_attention::{Error, ErrorKind, HostTensor, Result, Runtime, Variant};

/// What was checked and how it came out.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Reference and extent in words.
    pub by: String,
    /// Largest difference over the largest expected value (log-sum-exp: over 1 or the expected value).
    pub error: f64,
    /// What is allowed.
    pub allowed: f64,
}

impl Checked {
    /// Whether the result may be trusted.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }
}

/// What computes the expected values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The variant's definition in f64.
    Oracle,
    /// The CPU engine, which the golden cases hold to the oracles: where an oracle would take minutes.
    Cpu,
}

/// Rows of a place that is checked; rows of one block, when blocks decide.
const ROWS: usize = 8;

/// Letters of shapes in words, and the range of each that is kept.
type Ranges = Vec<(&'static str, usize, usize)>;

/// Compares `outputs` with a reference on parts of the job.
pub fn check(
    job: &Job,
    variant: &dyn Variant,
    tensors: &[(String, HostTensor)],
    outputs: &[(String, HostTensor)],
    reference: Reference,
) -> Result<Checked> {
    let places = places(job, tensors)?;
    let mut error = 0.0_f64;
    for place in &places {
        let mut part: Vec<(String, HostTensor)> =
            place.instead.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
        for (name, tensor) in tensors {
            // An argument of code is no input of the variant.
            let Some(spec) = variant.card().input(name) else { continue };
            if place.instead.iter().all(|(n, _)| n != name) {
                part.push((name.clone(), cut(spec.shape, tensor, &place.inputs).contiguous()));
            }
        }
        for (name, want) in expected(variant, &part, reference)? {
            let Some(spec) = variant.card().outputs.iter().find(|o| o.name == name) else { continue };
            let Some((_, got)) = outputs.iter().find(|(n, _)| *n == name) else { continue };
            let got = cut(spec.shape, got, &place.outputs);
            error = error.max(compare(&want, &got, tolerance(&name)));
        }
    }
    let name = if reference == Reference::Oracle { "oracle" } else { "CPU engine" };
    let by = match job.cut {
        Cut::Heads => format!("{name}, {} whole heads", places.len()),
        _ => format!("{name}, {} rows", places.iter().map(|p| p.rows).sum::<usize>()),
    };
    Ok(Checked { by, error, allowed: if job.half() { 4e-3 } else { 1e-4 } })
}

/// A tensor of NaN like each output, made and dropped: the outputs of the next run are likely to lie in that memory, so that rows
/// which nobody writes show.
pub fn poison(runtime: &Runtime, outputs: &[Vec<usize>]) -> Result<()> {
    let made: Result<Vec<_>> = outputs
        .iter()
        .map(|shape| runtime.upload(&HostTensor::new(shape, vec![f32::NAN; shape.iter().product()])?))
        .collect();
    drop(made?);
    Ok(())
}

fn tolerance(output: &str) -> Tolerance {
    if output == "lse" { Tolerance::Absolute(0.0) } else { Tolerance::Relative(0.0) }
}

fn expected(
    variant: &dyn Variant,
    part: &[(String, HostTensor)],
    reference: Reference,
) -> Result<Vec<(String, HostTensor)>> {
    match reference {
        Reference::Oracle => {
            let results = variant.oracle(&case::oracle_inputs(part.iter().map(|(n, t)| (n.as_str(), t))));
            let tensor = |array: &wgpu_attention::oracle::Array| {
                HostTensor::new(&array.shape, array.data.iter().map(|&x| x as f32).collect::<Vec<_>>())
            };
            results.iter().map(|(name, array)| Ok(((*name).to_owned(), tensor(array)?))).collect()
        }
        Reference::Cpu => {
            let outputs = Runtime::cpu().call_blocking(variant, &inputs(part))?;
            Ok(outputs.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect())
        }
    }
}

/// A part of a job.
struct Place {
    inputs: Ranges,
    outputs: Ranges,
    /// Rows of all heads, 0 where heads are whole.
    rows: usize,
    /// Inputs that are not a part of the job's: in place of one of the same name, or beside them.
    instead: Vec<(&'static str, HostTensor)>,
}

fn places(job: &Job, tensors: &[(String, HostTensor)]) -> Result<Vec<Place>> {
    let find = |name: &str| {
        let missing = || Error::new(ErrorKind::MissingInput, format!("{}: a workload needs `{name}`", job.variant));
        tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t).ok_or_else(missing)
    };
    let (q, k) = (find("q")?.shape(), find("k")?.shape());
    let mut list = Vec::new();
    if let Cut::Sequences { causal } = job.cut {
        let cu: Vec<usize> = find("cu_q")?.to_i32().iter().map(|&n| n as usize).collect();
        let (heads, group) = (k[0], q[0] / k[0]);
        for (head, n) in [(0, 0), (heads - 1, cu.len() - 2)] {
            let length = cu[n + 1] - cu[n];
            for (row, rows) in rows_of(length, 1) {
                let keys = if causal { row + rows } else { length };
                let mut inputs = heads_of(0, head, group);
                inputs.extend([("Tq", cu[n] + row, rows), ("Tk", cu[n], keys)]);
                let ends = |n: usize| HostTensor::new(&[2], vec![0, n as i32]);
                let instead = vec![("cu_q", ends(rows)?), ("cu_k", ends(keys)?)];
                list.push(Place { outputs: inputs.clone(), inputs, rows: rows * group, instead });
            }
        }
        return Ok(list);
    }
    let (batch, heads, group) = (q[0], k[1], q[1] / k[1]);
    for (b, head) in if batch * heads > 1 { vec![(0, 0), (batch - 1, heads - 1)] } else { vec![(0, 0)] } {
        let own = heads_of(b, head, group);
        let Cut::Rows { causal, block } = job.cut else {
            list.push(Place { inputs: own.clone(), outputs: own, rows: 0, instead: Vec::new() });
            continue;
        };
        let (lq, lk) = (q[2], k[2]);
        for (row, rows) in rows_of(lq, block) {
            let keys = if causal { row + rows + lk - lq } else { lk };
            let mut inputs = own.clone();
            inputs.extend([
                ("Lq", row, rows),
                ("Lk", 0, keys),
                ("nq", row / block, 1),
                ("nk", 0, keys.div_ceil(block)),
            ]);
            // The oracle of the mask's code is the mask as a tensor.
            let mask = job.documents.as_ref().map(|documents| documents.table(row, rows, keys)).transpose()?;
            let instead = mask.map(|mask| ("mask", mask)).into_iter().collect();
            list.push(Place { outputs: inputs.clone(), inputs, rows: rows * group, instead });
        }
    }
    Ok(list)
}

fn heads_of(b: usize, head: usize, group: usize) -> Ranges {
    vec![("B", b, 1), ("H", head * group, group), ("Hk", head, 1)]
}

/// Rows at the start, behind the middle and at the end; each run of rows lies within one block.
fn rows_of(length: usize, block: usize) -> Vec<(usize, usize)> {
    if length <= 3 * ROWS {
        return vec![(0, length.min(ROWS))];
    }
    let behind = length * 5 / 8;
    let last = if block > 1 { (length - 1) / block * block } else { length - ROWS };
    [0, behind / block * block, last].map(|row| (row, ROWS.min(length - row))).to_vec()
}

/// The part of a tensor whose shape in words is `words`. An axis of size 1 is broadcast and stays.
fn cut(words: &str, tensor: &HostTensor, ranges: &Ranges) -> HostTensor {
    let rank = tensor.shape().len();
    let words = words
        .split('|')
        .map(|w| w.split_whitespace().collect::<Vec<_>>())
        .find(|w| w.len() == rank)
        .unwrap_or_default();
    let mut part = tensor.clone();
    for (axis, word) in words.iter().enumerate() {
        if let Some(&(_, start, length)) = ranges.iter().find(|(letter, ..)| letter == word)
            && part.shape()[axis] > 1
        {
            part = part.narrow(axis, start, length);
        }
    }
    part
}

/// Whether the machine has memory for the tensors of a job; asking too much would end the process.
pub fn fits_host(bytes: u64) -> Result<()> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free =
        field.and_then(|f| f.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).map_or(u64::MAX, |kb| kb << 10);
    if bytes > free {
        let message = format!("the inputs and outputs take {bytes} bytes of host memory; {free} are free");
        return Err(Error::new(ErrorKind::OutOfMemory, message));
    }
    Ok(())
}
