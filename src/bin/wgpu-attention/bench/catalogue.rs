//! The workloads of the benchmark protocol whose variants exist.

use super::data;
use super::documents;
use super::workload::{Cut, Fill, Group, Input, Job, Workload, pairs, set};
use wgpu_attention::{HostTensor, Result};

/// Dense attention: B, H, Hk, Lq, Lk, D.
struct Dense {
    sizes: [usize; 6],
    half: bool,
    causal: bool,
    window: Option<usize>,
}

impl Dense {
    fn new(sizes: [usize; 6], half: bool, causal: bool) -> Self {
        Dense { sizes, half, causal, window: None }
    }

    fn job(&self) -> Job {
        let [b, h, hk, lq, lk, d] = self.sizes;
        let pattern = match (self.causal, lq == lk) {
            (true, true) => "causal_self",
            (true, false) => "causal_cross",
            (false, true) => "noncausal_self",
            (false, false) => "noncausal_cross",
        };
        let mut params = vec![set("pattern", pattern)];
        params.extend(self.window.map(|w| set("window_left", w - 1)));
        // A row at p sees min(p + 1, window) keys; `windowed` is only used with causality and Lq = Lk.
        let windowed = |w: usize| pairs(true, w, w) + (lk - w) as f64 * w as f64;
        let pairs = self.window.map_or_else(|| pairs(self.causal, lq, lk), windowed);
        Job {
            variant: "dense-attention",
            params,
            inputs: qkv([b, h, hk, lq, lk, d], self.half),
            flops: 4.0 * (b * h * d) as f64 * pairs,
            touched: None,
            cut: Cut::Rows { causal: self.causal, block: 1 },
            documents: None,
        }
    }
}

fn qkv([b, h, hk, lq, lk, d]: [usize; 6], half: bool) -> Vec<Input> {
    vec![
        Input::normal("q", &[b, h, lq, d], half),
        Input::normal("k", &[b, hk, lk, d], half),
        Input::normal("v", &[b, hk, lk, d], half),
    ]
}

fn word(half: bool) -> &'static str {
    if half { "f16" } else { "f32" }
}

/// Collects workloads.
#[derive(Default)]
struct List(Vec<Workload>);

impl List {
    fn push(&mut self, id: &str, group: Group, shape: String, job: Job) -> &mut Workload {
        let at = self.0.len();
        self.0.push(Workload { id: id.to_owned(), shape, group, dense: None, ideal: None, job });
        &mut self.0[at]
    }

    fn dense(&mut self, id: &str, group: Group, dense: Dense) -> &mut Workload {
        let [b, h, hk, lq, lk, d] = dense.sizes;
        let length = if lq == lk { lq.to_string() } else { format!("{lq}x{lk}") };
        let mask = match (dense.causal, dense.window) {
            (_, Some(w)) => format!("window {w}"),
            (true, None) => "causal".to_owned(),
            (false, None) => "full".to_owned(),
        };
        self.push(id, group, format!("{b},{h},{hk},{length},{d} {} {mask}", word(dense.half)), dense.job())
    }

    fn decode(&mut self, id: &str, group: Group, [b, h, hk, lk, d]: [usize; 5], half: bool) {
        // Enough ranges to fill a large GPU, none shorter than 256 keys.
        let splits = 1024_usize.div_ceil(b * hk).min(lk / 256).max(1);
        let job = Job {
            variant: "split-kv-decode",
            params: vec![set("splits", splits)],
            inputs: qkv([b, h, hk, 1, lk, d], half),
            flops: 4.0 * (b * h * d * lk) as f64,
            touched: None,
            cut: Cut::Rows { causal: false, block: 1 },
            documents: None,
        };
        self.push(id, group, format!("{b},{h},{hk},1x{lk},{d} {} splits {splits}", word(half)), job);
    }

    fn neighborhood(&mut self, id: &str, [b, h, d]: [usize; 3], grid: &[usize], window: &[usize]) {
        let (length, keys): (usize, usize) = (grid.iter().product(), window.iter().product());
        let tensor = |name| Input::normal(name, &[b, h, length, d], true);
        let job = Job {
            variant: "neighborhood-attention",
            params: vec![set("shape", grid), set("window", window)],
            inputs: vec![tensor("q"), tensor("k"), tensor("v")],
            flops: 4.0 * (b * h * d * length * keys) as f64,
            touched: None,
            cut: Cut::Heads,
            documents: None,
        };
        let by = |list: &[usize]| list.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        self.push(id, Group::Gpu, format!("{b},{h},{h},{},{d} f16 window {}", by(grid), by(window)), job);
    }

    /// One of the linear family: B, H, L, D. `state` gives a state before the first token.
    fn linear(
        &mut self,
        id: &str,
        group: Group,
        variant: &'static str,
        [b, h, l, d]: [usize; 4],
        half: bool,
        state: bool,
    ) -> Result<()> {
        let tensor = |name| Input::normal(name, &[b, h, l, d], half);
        let mut inputs = vec![tensor("q"), tensor("k"), tensor("v")];
        match variant {
            "gated-linear-attention" => inputs.push(Input::made("log_decay", &[b, h, l, d], Fill::LogGate)),
            "gated-delta-net" | "delta-net" => {
                inputs.push(Input::made("beta", &[b, h, l], Fill::Gate));
                if variant == "gated-delta-net" {
                    inputs.push(Input::made("log_decay", &[b, h, l], Fill::LogGate));
                }
            }
            _ => {}
        }
        if matches!(variant, "retention" | "lightning-attention") {
            // Given, because the default of a head depends on how many there are, and heads are checked one at a time.
            let decay = |head: usize| (-(-5.0 - 8.0 * head as f64 / h as f64).exp2()).ln_1p() as f32;
            inputs.push(Input::given("log_decay", HostTensor::new(&[h], (0..h).map(decay).collect::<Vec<f32>>())?));
        }
        if state {
            inputs.push(Input::normal("state", &[b, h, d, d], false));
        }
        let scale = (d as f64).powf(-0.5);
        let params = match variant {
            "linear-attention" => vec![set("phi", "identity"), set("normalise", false), set("scale", scale)],
            "lightning-attention" => vec![set("scale", scale)],
            _ => Vec::new(),
        };
        // Counted with chunks of 64, whatever the kernel does; a step has no chunk.
        let token = (4 * d * d + 64.min(l) * 2 * d) as f64;
        let job = Job {
            variant,
            params,
            inputs,
            flops: (b * h * l) as f64 * token,
            touched: None,
            cut: Cut::Heads,
            documents: None,
        };
        let name = variant.trim_end_matches("-attention");
        self.push(id, group, format!("{b},{h},{h},{l},{d} {} {name}", word(half)), job);
        Ok(())
    }
}

/// All workloads in the order of the protocol.
pub fn all() -> Result<Vec<Workload>> {
    let mut list = List::default();
    dense(&mut list)?;
    sparse(&mut list)?;
    list.0.extend(documents::workloads(&|[b, h, l, d], half| Dense::new([b, h, h, l, l, d], half, false).job())?);
    linear(&mut list)?;
    small(&mut list)?;
    Ok(list.0)
}

fn dense(list: &mut List) -> Result<()> {
    let same = |[b, h, hk, l, d]: [usize; 5]| [b, h, hk, l, l, d];
    for (id, sizes, half, causal) in [
        ("P1", [2, 16, 16, 8192, 128], true, false),
        ("P2", [2, 16, 16, 8192, 128], true, true),
        ("P3", [2, 32, 32, 8192, 64], true, false),
        ("P4", [2, 32, 32, 8192, 64], true, true),
        ("P5", [1, 32, 8, 16384, 128], true, true),
        ("P6", [1, 16, 16, 4096, 64], false, false),
        ("P7", [1, 16, 16, 4096, 64], false, true),
        ("P8", [1, 16, 16, 4096, 128], false, false),
        ("P9", [64, 12, 12, 197, 64], true, false),
    ] {
        list.dense(id, Group::Gpu, Dense::new(same(sizes), half, causal));
    }
    packed(list)?;
    for l in [128, 512, 2048] {
        list.dense(&format!("P1@L{l}"), Group::Named, Dense::new(same([2, 16, 16, l, 128]), true, false));
    }
    for d in [32, 64, 80, 96, 256] {
        list.dense(&format!("P1@D{d}"), Group::Named, Dense::new(same([2, 16, 16, 8192, d]), true, false));
    }
    list.dense("X1", Group::Gpu, Dense::new([1, 32, 8, 512, 32768, 128], true, true));
    for (id, sizes) in [
        ("G1", [1, 32, 8, 131_072, 128]),
        ("G2", [16, 32, 8, 8192, 128]),
        ("G3", [32, 32, 32, 4096, 128]),
        ("G4", [1, 32, 8, 8192, 128]),
    ] {
        list.decode(id, Group::Gpu, sizes, true);
    }
    Ok(())
}

/// P10: sixteen sequences of 512 to 8192 tokens, packed.
fn packed(list: &mut List) -> Result<()> {
    let (heads, d) = (16, 128);
    let mut cu = vec![0_i32];
    let mut allowed = 0.0;
    for u in data::uniform(16, 10) {
        let length = 512 + (u * (8192.0 - 512.0)) as usize;
        cu.push(cu[cu.len() - 1] + length as i32);
        allowed += pairs(true, length, length);
    }
    let tokens = cu[16] as usize;
    let tensor = |name| Input::normal(name, &[heads, tokens, d], true);
    let given = |name| Ok(Input::given(name, HostTensor::new(&[17], cu.clone())?));
    let job = Job {
        variant: "varlen-attention",
        params: vec![set("causal", true)],
        inputs: vec![tensor("q"), tensor("k"), tensor("v"), given("cu_q")?, given("cu_k")?],
        flops: 4.0 * (heads * d) as f64 * allowed,
        touched: None,
        cut: Cut::Sequences { causal: true },
        documents: None,
    };
    list.push("P10", Group::Gpu, format!("16 packed,{heads},{heads},{tokens},{d} f16 causal"), job);
    Ok(())
}

fn sparse(list: &mut List) -> Result<()> {
    let (l, h, d, block) = (32768, 16, 128, 128);
    list.dense("S1@dense", Group::Gpu, Dense::new([1, h, h, l, l, d], true, true));
    let n = l / block;
    let random = data::uniform(n * n, 1);
    for (id, density) in [("S1@0.05", 0.05), ("S1@0.1", 0.1), ("S1@0.25", 0.25)] {
        // Random blocks, the diagonal and the first column, as in the peers' runs.
        let keep: Vec<u8> =
            (0..n * n).map(|at| u8::from(at / n == at % n || at % n == 0 || random[at] < density)).collect();
        let blocks = (0..n * n).filter(|at| at % n <= at / n && keep[*at] == 1).count();
        let touched = (blocks * block * block) as f64;
        let allowed = touched - (n * block * (block - 1) / 2) as f64;
        let mut inputs = qkv([1, h, h, l, l, d], true);
        inputs.push(Input::given("block_mask", HostTensor::new(&[1, n, n], keep)?));
        let job = Job {
            variant: "block-sparse-attention",
            params: vec![set("block_q", block), set("block_k", block), set("causal", true)],
            inputs,
            flops: 4.0 * (h * d) as f64 * allowed,
            touched: Some(touched / allowed),
            cut: Cut::Rows { causal: true, block },
            documents: None,
        };
        let shape = format!("1,{h},{h},{l},{d} f16 {:.0} % of blocks", 100.0 * density);
        list.push(id, Group::Gpu, shape, job).dense = Some("S1@dense");
    }
    for (id, l, dense) in [("S2", 65536, "S2@dense"), ("S2@131072", 131_072, "S2@131072-dense")] {
        // The longer dense baseline takes seventy TFLOP: only when asked for.
        let group = if l == 65536 { Group::Gpu } else { Group::Named };
        list.dense(dense, group, Dense::new([1, h, h, l, l, d], true, true));
        let (window, sink) = (1024, 64);
        list.push(
            id,
            Group::Gpu,
            format!("1,{h},{h},{l},{d} f16 window {window} + sink {sink}"),
            streaming(1, h, l, d, true),
        )
        .dense = Some(dense);
    }
    list.neighborhood("N1", [1, 16, 64], &[32768], &[257]);
    list.neighborhood("N2", [8, 16, 64], &[64, 64], &[13, 13]);
    list.neighborhood("N3", [64, 4, 32], &[56, 56], &[7, 7]);
    list.neighborhood("N4", [1, 16, 64], &[16, 48, 48], &[5, 11, 11]);
    Ok(())
}

/// Streaming attention, window 1024 and sink 64.
pub fn streaming(b: usize, h: usize, l: usize, d: usize, half: bool) -> Job {
    let (window, sink) = (1024, 64);
    let row = |p: usize| (p + 1).min(window) + sink.min((p + 1).saturating_sub(window));
    let allowed: usize = (0..l).map(row).sum();
    Job {
        variant: "streaming-attention",
        params: vec![set("sink", sink), set("recent", window)],
        inputs: qkv([b, h, h, l, l, d], half),
        flops: 4.0 * (b * h * d * allowed) as f64,
        touched: None,
        cut: Cut::Rows { causal: true, block: 1 },
        documents: None,
    }
}

/// Causal dense attention.
pub fn causal(b: usize, h: usize, l: usize, d: usize, half: bool) -> Job {
    Dense::new([b, h, h, l, l, d], half, true).job()
}

/// Causal linear attention without a normaliser.
pub fn recurrent(b: usize, h: usize, l: usize, d: usize, half: bool) -> Result<Job> {
    let mut list = List::default();
    list.linear("", Group::Named, "linear-attention", [b, h, l, d], half, false)?;
    Ok(list.0.remove(0).job)
}

fn linear(list: &mut List) -> Result<()> {
    let kinds = [("linear", "linear-attention"), ("retention", "retention"), ("lightning", "lightning-attention")];
    let gated = [("gla", "gated-linear-attention"), ("gated-delta", "gated-delta-net"), ("delta", "delta-net")];
    for (id, sizes) in [("L1", [2, 16, 16384, 128]), ("L0", [8, 8, 1024, 64])] {
        let [b, h, l, d] = sizes;
        let dense = if id == "L1" { "L1@dense" } else { "L0@dense" };
        list.dense(dense, Group::Gpu, Dense::new([b, h, h, l, l, d], true, true));
        for (name, variant) in kinds.into_iter().chain(gated) {
            list.linear(&format!("{id}-{name}"), Group::Gpu, variant, sizes, true, false)?;
            if let Some(last) = list.0.last_mut() {
                last.dense = Some(dense);
            }
        }
    }
    list.linear("L1b-linear", Group::Gpu, "linear-attention", [1, 96, 8192, 128], true, false)?;
    list.linear("L3", Group::Gpu, "lightning-attention", [1, 8, 131_072, 128], true, false)?;
    list.linear("L4", Group::Gpu, "lightning-attention", [64, 32, 1, 128], true, true)
}

fn small(list: &mut List) -> Result<()> {
    let same = |l: usize, d: usize| [1, 8, 8, l, l, d];
    for (id, sizes, causal) in [
        ("C1", same(512, 64), false),
        ("C2", same(1024, 64), false),
        ("C3", same(1024, 64), true),
        ("C4", same(2048, 128), false),
        ("C5", same(4096, 64), true),
    ] {
        list.dense(id, Group::Cpu, Dense::new(sizes, false, causal));
    }
    let window = Dense { window: Some(256), ..Dense::new(same(4096, 64), false, true) };
    list.dense("C6", Group::Cpu, window).dense = Some("C5");
    list.dense("C7@dense", Group::Cpu, Dense::new(same(8192, 64), false, true));
    list.linear("C7", Group::Cpu, "linear-attention", [1, 8, 8192, 64], false, false)?;
    if let Some(last) = list.0.last_mut() {
        last.dense = Some("C7@dense");
    }
    list.dense("V1-full", Group::Software, Dense::new(same(256, 64), false, false));
    list.dense("V1-causal", Group::Software, Dense::new(same(256, 64), false, true));
    list.decode("V1-decode", Group::Software, [1, 8, 2, 512, 64], false);
    Ok(())
}

/// The workloads that a name means: one of that very id, else all of its group (`S1` is S1@0.05 and so on), or, with a
/// trailing `*`, all that begin so.
pub fn named<'a>(all: &'a [Workload], name: &str) -> Vec<&'a Workload> {
    let wanted = name.to_lowercase();
    let is = |w: &&Workload, test: &dyn Fn(&str) -> bool| test(&w.id.to_lowercase());
    if let Some(prefix) = wanted.strip_suffix('*') {
        return all.iter().filter(|w| is(w, &|id| id.starts_with(prefix))).collect();
    }
    let exact: Vec<_> = all.iter().filter(|w| is(w, &|id| id == wanted)).collect();
    if !exact.is_empty() {
        return exact;
    }
    all.iter().filter(|w| is(w, &|id| id.split(['@', '-']).next() == Some(&wanted))).collect()
}
