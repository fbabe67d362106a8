//! From a case to numbers: the variants of the catalogue do the work on the engine, the rest is counting.

use crate::failure::Failure;
use wgpu_attention::case::Case;
use wgpu_attention::{DType, HostTensor, Inputs, Runtime, Value, variant};

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub rows: Vec<usize>,
    pub heads: Vec<usize>,
    pub batch: usize,
    pub layer: Option<usize>,
    pub causal: bool,
    pub epsilon: f64,
    pub needle: Option<(usize, usize)>,
}

/// One head's numbers.
#[derive(Clone, Debug)]
pub struct Head {
    /// Mean over the rows of entropy / ln(allowed keys): 1 looks everywhere alike, 0 at one key.
    pub entropy: f64,
    /// The key that gets the largest mean weight of the rows that see it, and that weight.
    pub sink: (usize, f64),
    /// Retrieval score, or the share of the shown rows whose top key lies in the needle.
    pub found: Option<f64>,
}

/// One head's weights in the rows that are shown, [rows, keys]; a pair that is not allowed is `None`.
#[derive(Clone, Debug)]
pub struct Map {
    pub head: usize,
    pub weights: Vec<Vec<Option<f64>>>,
}

/// Everything that the picture shows.
#[derive(Clone, Debug)]
pub struct Findings {
    pub title: String,
    pub engine: String,
    /// Sizes in words.
    pub sizes: String,
    pub heads: Vec<Head>,
    pub rows: Vec<usize>,
    pub keys: usize,
    pub maps: Vec<Map>,
    pub epsilon: f64,
    pub needle: Option<(usize, usize)>,
    /// Whether `found` is the retrieval score of the paper.
    pub retrieval: bool,
}

impl Findings {
    /// What the last number of a head is called.
    pub fn found_name(&self) -> &'static str {
        if self.retrieval { "retrieval score" } else { "needle found" }
    }
}

/// The call in one batch entry: heads, rows, keys, and which pairs are allowed.
struct Pairs {
    heads: usize,
    queries: usize,
    keys: usize,
    causal: bool,
    mask: Option<HostTensor>,
}

impl Pairs {
    fn allowed(&self, h: usize, i: usize, j: usize) -> bool {
        let early = !self.causal || j + self.queries <= i + self.keys;
        early && self.mask.as_ref().is_none_or(|m| m.data().get(m.layout().at(&[0, h, i, j])) != 0.0)
    }
}

/// Measures the case.
pub fn gather(case: &Case, request: &Request, runtime: &Runtime) -> Result<Findings, Failure> {
    let find = |name: &str| case.inputs.iter().find(|(n, _)| n == name).map(|(_, t)| t);
    match (find("q"), find("k"), find("weights")) {
        (Some(q), Some(k), _) if q.shape().len() == 4 && k.shape().len() == 4 => scored(case, request, runtime, q, k),
        (_, _, Some(weights)) => given(case, request, runtime, weights),
        _ => {
            let names: Vec<&str> = case.inputs.iter().map(|(n, _)| n.as_str()).collect();
            let expected = "diagnose takes `q` and `k` of rank 4, or `weights`";
            Err(Failure::input(format!("{expected}; the file has {}", names.join(", "))))
        }
    }
}

/// Of q and k: the statistics stream, and only the rows that are shown are ever stored.
fn scored(
    case: &Case,
    request: &Request,
    runtime: &Runtime,
    q: &HostTensor,
    k: &HostTensor,
) -> Result<Findings, Failure> {
    let batch = entry(request.batch, q.shape()[0], "--batch")?;
    let (q, k) = (q.narrow(0, batch, 1).contiguous(), k.narrow(0, batch, 1).contiguous());
    let [_, heads, queries, depth] = q.shape()[..] else { return Err(Failure::input("`q` has rank 4")) };
    let full = [1, heads, queries, k.shape()[2]];
    let mask = case.inputs.iter().find(|(n, t)| n == "mask" && t.dtype() == DType::U8).map(|(_, mask)| {
        let mask = if mask.shape().len() == 4 && mask.shape()[0] > 1 { mask.narrow(0, batch, 1) } else { mask.clone() };
        let layout = mask.layout().broadcast(&full);
        layout.ok_or(()).and_then(|layout| mask.with_layout(layout).map_err(drop))
    });
    let mask = mask.transpose().map_err(|()| Failure::input(format!("`mask` does not broadcast to {full:?}")))?;
    let pairs = Pairs { heads, queries, keys: full[3], causal: request.causal || causal(case), mask };
    let scale = case.params.iter().find(|(n, _)| n == "scale").map_or(Value::None, |(_, v)| v.clone());

    let mut inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &k);
    if let Some(mask) = &pairs.mask {
        inputs = inputs.with("mask", mask.contiguous());
    }
    let params = [("causal".to_owned(), Value::Bool(pairs.causal)), ("scale".to_owned(), scale.clone())];
    let statistics = runtime.call_blocking(&*variant::find("attention-statistics")?.make(&params)?, &inputs)?;
    let entropy = statistics.get("normalised_entropy")?.to_f64();
    let columns = statistics.get("column_sum")?.to_f64();

    let rows = rows(request, queries)?;
    let chosen = HostTensor::new(&[1, heads, rows.len(), depth], pick(&q, &rows))?;
    let flags: Vec<u8> = each(heads, &rows, pairs.keys, |h, i, j| u8::from(pairs.allowed(h, i, j)));
    let mask = HostTensor::new(&[1, heads, rows.len(), pairs.keys], flags)?;
    let chosen = if q.dtype() == DType::F16 { chosen.to_f16() } else { chosen };
    let inputs = Inputs::new().with("q", &chosen).with("k", &k).with("mask", &mask);
    let params = [("mode".to_owned(), Value::Text("dot".into())), ("scale".to_owned(), scale)];
    let map = runtime.call_blocking(&*variant::find("pointer-scores")?.make(&params)?, &inputs)?;
    let map = map.get("probabilities")?.to_f32();

    // Rows without keys have no entropy.
    let lively: Vec<Vec<usize>> = (0..heads)
        .map(|h| (0..queries).filter(|&i| (0..pairs.keys).any(|j| pairs.allowed(h, i, j))).collect())
        .collect();
    let entropy: Vec<f64> = (0..heads).map(|h| mean(lively[h].iter().map(|&i| entropy[h * queries + i]))).collect();
    let sizes = format!("q {:?}, k {:?}", q.shape(), k.shape());
    finish(request, runtime, pairs, sizes, rows, Numbers { entropy, columns, map })
}

/// Of weights that the file holds.
fn given(case: &Case, request: &Request, runtime: &Runtime, weights: &HostTensor) -> Result<Findings, Failure> {
    let shape = weights.shape().to_vec();
    // (heads, rows, keys) of one batch entry and layer; decode steps are the rows of each head.
    let map = match shape.len() {
        3 => weights.permute(&[1, 0, 2]),
        4 => weights.narrow(0, entry(request.batch, shape[0], "--batch")?, 1),
        5 => {
            let layer = entry(request.layer.unwrap_or(shape[0] - 1), shape[0], "--layer")?;
            weights.narrow(0, layer, 1).narrow(1, entry(request.batch, shape[1], "--batch")?, 1)
        }
        _ => return Err(Failure::input(format!("`weights` {shape:?} are not of rank 3, 4 or 5"))),
    };
    let map = map.contiguous();
    let [heads, queries, keys] = map.shape()[map.shape().len() - 3..] else { unreachable!("rank 3 or more") };
    let all = map.to_f64();
    let causal = (request.causal || causal(case)) && shape.len() > 3;
    let pairs = Pairs { heads, queries, keys, causal, mask: None };
    let at = |h: usize, i: usize, j: usize| all[(h * queries + i) * keys + j];
    let entropy = (0..heads).map(|h| mean((0..queries).map(|i| information((0..keys).map(|j| at(h, i, j)).collect()))));
    let columns = (0..heads * keys).map(|n| (0..queries).map(|i| at(n / keys, i, n % keys)).sum());
    let rows = rows(request, queries)?;
    let shown = each(heads, &rows, keys, |h, i, j| at(h, i, j) as f32);
    let numbers = Numbers { entropy: entropy.collect(), columns: columns.collect(), map: shown };
    let mut findings = finish(request, runtime, pairs, format!("weights {shape:?}"), rows, numbers)?;
    if shape.len() == 3 {
        retrieval(case, request, runtime, &mut findings)?;
    }
    Ok(findings)
}

/// The retrieval score of decode steps, where the file has the tokens for it.
fn retrieval(case: &Case, request: &Request, runtime: &Runtime, findings: &mut Findings) -> Result<(), Failure> {
    let names = ["weights", "context_ids", "generated_ids"];
    let inputs = case.inputs.iter().filter(|(n, _)| names.contains(&n.as_str()));
    let inputs = inputs.fold(Inputs::new(), |all, (name, tensor)| all.with(name, tensor));
    if inputs.iter().count() < names.len() {
        return Ok(());
    }
    let mut params: Vec<(String, Value)> = case
        .params
        .iter()
        .filter(|(n, _)| ["needle_start", "needle_end", "top_k"].contains(&n.as_str()))
        .cloned()
        .collect();
    if let Some((start, end)) = request.needle {
        params.push(("needle_start".into(), Value::Int(start as i64)));
        params.push(("needle_end".into(), Value::Int(end as i64)));
    }
    let bound = |name: &str| params.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let (Some(Value::Int(start)), Some(Value::Int(end))) = (bound("needle_start"), bound("needle_end")) else {
        return Ok(());
    };
    let scores = runtime.call_blocking(&*variant::find("retrieval-score")?.make(&params)?, &inputs)?;
    for (head, score) in findings.heads.iter_mut().zip(scores.get("score")?.to_f64()) {
        head.found = Some(score);
    }
    findings.needle = Some((start as usize, end as usize));
    findings.retrieval = true;
    Ok(())
}

/// Per head the mean entropy, per head and key the column sum, per head, shown row and key the weight.
struct Numbers {
    entropy: Vec<f64>,
    columns: Vec<f64>,
    map: Vec<f32>,
}

fn finish(
    request: &Request,
    runtime: &Runtime,
    pairs: Pairs,
    sizes: String,
    rows: Vec<usize>,
    numbers: Numbers,
) -> Result<Findings, Failure> {
    let keys = pairs.keys;
    if let Some((_, end)) = request.needle.filter(|(_, end)| *end > keys) {
        return Err(Failure::input(format!("--needle ends at {end}; there are {keys} keys")));
    }
    let weight = |h: usize, r: usize, j: usize| f64::from(numbers.map[(h * rows.len() + r) * keys + j]);
    let head = |h: usize| {
        let seen = |j: usize| (0..pairs.queries).filter(|&i| pairs.allowed(h, i, j)).count().max(1);
        let importance = |j: usize| numbers.columns[h * keys + j] / seen(j) as f64;
        // Columns that few rows see are noisy: the last token of a causal map always has its own row.
        let steady: Vec<usize> = (0..keys).filter(|&j| 4 * seen(j) >= pairs.queries).collect();
        let sink =
            steady.iter().fold((0, 0.0), |best, &j| if importance(j) > best.1 { (j, importance(j)) } else { best });
        let top = |r: usize| (0..keys).fold(0, |best, j| if weight(h, r, j) > weight(h, r, best) { j } else { best });
        let hits = |(start, end): (usize, usize)| (0..rows.len()).filter(|&r| (start..end).contains(&top(r))).count();
        let found = request.needle.map(|needle| hits(needle) as f64 / rows.len() as f64);
        Head { entropy: numbers.entropy[h], sink, found }
    };
    let heads = (0..pairs.heads).map(head).collect();
    let chosen = match &request.heads[..] {
        [] => (0..pairs.heads.min(16)).collect(),
        list => list.iter().map(|&h| entry(h, pairs.heads, "--heads")).collect::<Result<Vec<_>, _>>()?,
    };
    let map = |&head: &usize| {
        let one = |r: usize, j: usize| pairs.allowed(head, rows[r], j).then(|| weight(head, r, j));
        Map { head, weights: (0..rows.len()).map(|r| (0..keys).map(|j| one(r, j)).collect()).collect() }
    };
    Ok(Findings {
        title: String::new(),
        engine: runtime.describe(),
        sizes,
        heads,
        maps: chosen.iter().map(map).collect(),
        rows,
        keys,
        epsilon: request.epsilon,
        needle: request.needle,
        retrieval: false,
    })
}

/// The rows to show.
fn rows(request: &Request, queries: usize) -> Result<Vec<usize>, Failure> {
    if request.rows.is_empty() {
        let count = queries.min(24);
        return Ok((1..=count).map(|n| n * queries / count - 1).collect());
    }
    request.rows.iter().map(|&row| entry(row, queries, "--rows")).collect()
}

fn entry(index: usize, count: usize, option: &str) -> Result<usize, Failure> {
    if index < count { Ok(index) } else { Err(Failure::input(format!("{option}: {index} is not below {count}"))) }
}

/// Whether the case's parameters say so.
fn causal(case: &Case) -> bool {
    case.params.iter().any(|(name, value)| match value {
        Value::Bool(yes) => name == "causal" && *yes,
        Value::Text(text) => name == "pattern" && text.starts_with("causal"),
        _ => false,
    })
}

/// The chosen rows of a contiguous (1, H, L, D).
fn pick(x: &HostTensor, rows: &[usize]) -> Vec<f32> {
    let [_, heads, length, depth] = x.shape()[..] else { return Vec::new() };
    let data = x.to_f32();
    let row = |(h, i): (usize, usize)| data[(h * length + i) * depth..][..depth].to_vec();
    (0..heads).flat_map(|h| rows.iter().map(move |&i| (h, i))).flat_map(row).collect()
}

/// One number a head, row and key.
fn each<T>(heads: usize, rows: &[usize], keys: usize, of: impl Fn(usize, usize, usize) -> T) -> Vec<T> {
    let pairs = (0..heads).flat_map(|h| rows.iter().flat_map(move |&i| (0..keys).map(move |j| (h, i, j))));
    pairs.map(|(h, i, j)| of(h, i, j)).collect()
}

/// Entropy of a row over ln of its keys with a weight; 0 for fewer than two.
fn information(p: Vec<f64>) -> f64 {
    let p: Vec<f64> = p.into_iter().filter(|p| *p > 0.0).collect();
    let sum: f64 = p.iter().map(|p| -p * p.ln()).sum();
    if p.len() < 2 { 0.0 } else { sum / (p.len() as f64).ln() }
}

fn mean(list: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = list.fold((0.0, 0), |(sum, count), x| (sum + x, count + 1));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}
