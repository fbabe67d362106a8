//! The records of `scan.chunks` against their definition in f64. Runs on adapters that have cooperative matrices; elsewhere it says so.

mod common;

use common::{matrix_engines, random};
use wgpu_attention::kernel::Op;
use wgpu_attention::kernel::key::ScalarType;
use wgpu_attention::kernel::scan::{Chunks, Decay};
use wgpu_attention::plan::PlanBuilder;
use wgpu_attention::variant::{Card, Family, InputSpec, OutputSpec};
use wgpu_attention::{DType, HostTensor, Inputs, Problem, Result, Value, Variant, oracle};

const C: usize = 32;

/// One stage over its inputs.
#[derive(Debug)]
struct Stage {
    op: Chunks,
    heads: usize,
    inputs: Vec<(&'static str, HostTensor)>,
    card: &'static Card,
}

impl Variant for Stage {
    fn card(&self) -> &'static Card {
        self.card
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let mut bindings = Vec::new();
        let mut tables = Vec::new();
        for (name, _) in &self.inputs {
            let input = plan.input(name)?;
            match *name {
                "g_scalar" | "w" => tables.push((*name, input, ScalarType::F32)),
                "keep" => tables.push((*name, input, ScalarType::Bool)),
                _ => bindings.push((*name, input)),
            }
        }
        bindings.extend([("chunks", plan.output("chunks")?), ("marks", plan.output("marks")?)]);
        plan.stage("chunks", Op::Chunks(self.op), bindings, tables, Vec::new())
    }

    fn oracle(&self, _: &oracle::Inputs) -> oracle::Outputs {
        Vec::new()
    }
}

fn words(shape: &[usize]) -> &'static str {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").leak()
}

impl Stage {
    fn new(op: Chunks, heads: usize, inputs: Vec<(&'static str, HostTensor)>) -> Self {
        let &[batch, _, tokens, depth] = inputs[1].1.shape() else { panic!("k of rank 4") };
        let p = depth.next_power_of_two().max(C);
        let record = if op.delta { 3 * C * p + 2 * C * C } else { 2 * C * p + C * C };
        let specs = inputs.iter().map(|(name, t)| match t.dtype() {
            DType::U8 => InputSpec::flag(name, words(t.shape())),
            _ => InputSpec::real(name, words(t.shape())),
        });
        let output = |name, dtype, inner| {
            let shape = words(&[batch, heads, tokens.div_ceil(C), inner]);
            OutputSpec { name, shape, dtype, optional: false }
        };
        let outputs = vec![output("chunks", DType::F16, record), output("marks", DType::F32, 2 * p + C)];
        let card = Card {
            name: "chunks",
            family: Family::Dense,
            summary: "",
            equation: "",
            paper: "",
            inputs: specs.collect::<Vec<_>>().leak(),
            outputs: outputs.leak(),
            forms: &[],
            kernels: &[],
        };
        Stage { op, heads, inputs, card: Box::leak(Box::new(card)) }
    }

    /// Runs on every adapter with matrices and compares.
    fn check(&self, title: &str) {
        let call = self.inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
        for (name, runtime) in matrix_engines() {
            let title = format!("{title} on {name}");
            let outputs = runtime.call_blocking(self, &call).unwrap_or_else(|e| panic!("{title}: {e}"));
            let wgpu_attention::Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
            let verdicts = engine.matrix_verdicts();
            assert!(!verdicts.is_empty() && verdicts.values().all(|right| *right), "{title}: {verdicts:?}");
            let got = |name: &str| outputs.get(name).expect("an output").to_f64();
            let side = runtime.caps().matrix.expect("matrices") as usize;
            self.compare(&title, side, &got("chunks"), &got("marks"));
        }
    }

    fn compare(&self, title: &str, side: usize, chunks: &[f64], marks: &[f64]) {
        let &[batch, _, tokens, depth] = self.inputs[1].1.shape() else { unreachable!() };
        let (p, count) = (depth.next_power_of_two().max(C), tokens.div_ceil(C));
        // Products of f32 keys are those of their halves.
        let absolute = if self.inputs[1].1.dtype() == DType::F16 { 1e-5 } else { 1e-3 };
        let tensors: Vec<_> = self.inputs.iter().map(|(name, t)| (*name, t.shape(), t.to_f64())).collect();
        let record = chunks.len() / (batch * self.heads * count);
        for n in 0..batch * self.heads * count {
            let at = (n / count / self.heads, n / count % self.heads, n % count * C);
            let title = format!("{title}, chunk {at:?}");
            let want = self.definition(&tensors, at, p);
            let got = &chunks[n * record..][..record];
            let mut start = 0;
            for (name, rows, columns, want) in &want.parts {
                let part = &got[start..][..rows * columns];
                start += rows * columns;
                let unpacked: Vec<f64> =
                    (0..rows * columns).map(|e| part[packed(side, *columns, e / columns, e % columns)]).collect();
                close(&format!("{title}: {name}"), want, &unpacked, 1e-3, absolute);
                if *name == "K~" {
                    // A compiler may sum the numbers that the halves were rounded from.
                    let sums = &marks[n * (2 * p + C) + p..][..p];
                    for (d, (row, sum)) in unpacked.chunks(*columns).zip(sums).enumerate() {
                        let (want, size) = row.iter().fold((0.0, 0.0), |(x, y), k| (x + k, y + k.abs()));
                        assert!(
                            (want - sum).abs() <= 5e-4 * size + 2e-6,
                            "{title}: sum {sum} of row {d} of K~, wanted {want}"
                        );
                    }
                }
            }
            assert_eq!(start, record, "{title}");
            let marks = &marks[n * (2 * p + C)..][..2 * p + C];
            close(&format!("{title}: decays"), &want.decays, &marks[..depth], 1e-4, 0.0);
            assert!(marks.iter().all(|x| x.is_finite()), "{title}");
            close(&format!("{title}: sums of A"), &want.sums, &marks[2 * p..], 1e-4, absolute.max(1e-4));
        }
    }

    /// The record of the chunk of `batch`, `head`, first token.
    fn definition(
        &self,
        tensors: &[(&str, &[usize], Vec<f64>)],
        (batch, head, first): (usize, usize, usize),
        p: usize,
    ) -> Record {
        let element = |name: &str, token: usize, d: usize| {
            let (_, shape, data) = tensors.iter().find(|(n, ..)| *n == name)?;
            let (h, j) = (head * shape[1] / self.heads, token % shape[2]);
            Some(data[((batch * shape[1] + h) * shape[2] + j) * shape[3] + d])
        };
        let &[_, _, tokens, depth] = self.inputs[1].1.shape() else { unreachable!() };
        let kept = |i: usize| first + i < tokens && element("keep", first + i, 0) != Some(0.0);
        let mut q = vec![vec![0.0; p]; C];
        let (mut k, mut g) = (q.clone(), q.clone());
        let mut w = vec![0.0; C];
        for i in 0..C {
            for d in 0..depth {
                if first + i < tokens {
                    q[i][d] = self.op.scale as f64 * element("q", first + i, d).expect("q");
                }
                if kept(i) {
                    k[i][d] = element("k", first + i, d).expect("k");
                    let decay = element("g_scalar", first + i, 0).or_else(|| element("g", first + i, d));
                    g[i][d] = decay.unwrap_or(0.0).max(-120.0);
                }
                if i > 0 {
                    g[i][d] += g[i - 1][d];
                }
            }
            w[i] = if kept(i) { element("w", first + i, 0).unwrap_or(1.0) } else { 0.0 };
        }
        let pair = |x: &[Vec<f64>], i: usize, j: usize| -> f64 {
            (0..depth).map(|d| x[i][d] * k[j][d] * (g[i][d] - g[j][d]).exp()).sum()
        };
        let delta = self.op.delta;
        let by = |j: usize| if delta { 1.0 } else { w[j] };
        let table = |rows: usize, columns: usize, of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..rows * columns).map(|n| of(n / columns, n % columns)).collect()
        };
        let seen = table(C, C, &|i, j| if j <= i { by(j) * pair(&q, i, j) } else { 0.0 });
        let mut parts = vec![
            ("Q^", C, p, table(C, p, &|i, d| q[i][d] * g[i][d].exp())),
            ("K~", p, C, table(p, C, &|d, j| by(j) * k[j][d] * (g[C - 1][d] - g[j][d]).exp())),
            ("A", C, C, seen.clone()),
        ];
        if delta {
            parts.push(("K^", C, p, table(C, p, &|i, d| k[i][d] * g[i][d].exp())));
            let mut inverse = vec![vec![0.0; C]; C];
            for i in 0..C {
                for c in 0..=i {
                    let before: f64 = (c..i).map(|j| w[i] * pair(&k, i, j) * inverse[j][c]).sum();
                    inverse[i][c] = if i == c { 1.0 } else { -before };
                }
            }
            parts.push(("T", C, C, table(C, C, &|i, j| inverse[i][j] * w[j])));
        }
        let sums = seen.chunks(C).map(|row| row.iter().sum()).collect();
        Record { parts, decays: g[C - 1][..depth].iter().map(|g| g.exp()).collect(), sums }
    }
}

struct Record {
    parts: Vec<(&'static str, usize, usize, Vec<f64>)>,
    decays: Vec<f64>,
    sums: Vec<f64>,
}

/// Where an element lies in matrices of `side` one after another.
fn packed(side: usize, columns: usize, row: usize, column: usize) -> usize {
    let matrix = row / side * (columns / side) + column / side;
    matrix * side * side + row % side * side + column % side
}

/// Each element to `relative` of itself and to `absolute` of the largest; f16 has steps of 6e-8 near zero.
fn close(title: &str, want: &[f64], got: &[f64], relative: f64, absolute: f64) {
    assert_eq!(want.len(), got.len(), "{title}");
    let largest = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    for (n, (w, g)) in want.iter().zip(got).enumerate() {
        let allowed = relative * w.abs() + absolute * largest + 6e-8;
        assert!((w - g).abs() <= allowed, "{title}: {g} at {n}, wanted {w} within {allowed:.1e}");
    }
}

/// Batches, heads, those of q and of k, tokens, channels.
type Size = [usize; 6];

fn op(decay: Decay, delta: bool) -> Chunks {
    Chunks::new(decay, delta, 0.3)
}

/// Halves; keys of length 1, so that weights up to 2 keep T small.
fn halves([b, _, hq, hk, l, d]: Size) -> Vec<(&'static str, HostTensor)> {
    let k = random(&[b, hk, l, d], 2).to_f32();
    let lengths: Vec<f32> = k.chunks(d).map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).collect();
    let k = HostTensor::from_fn(&[b, hk, l, d], |n| k[n] / lengths[n / d]);
    vec![("q", random(&[b, hq, l, d], 1).to_f16()), ("k", k.to_f16())]
}

/// Numbers of every token and head.
fn table([b, h, _, _, l, _]: Size, of: impl Fn(usize) -> f32) -> HostTensor {
    HostTensor::from_fn(&[b, h, l, 1], of)
}

/// From 0 to 1, evenly.
fn share(n: usize, seed: usize) -> f32 {
    ((n * 2_654_435_761 + seed * 40_503) % 65_537) as f32 / 65_537.0
}

#[test]
fn depths_and_shared_heads() {
    for (n, size) in [[1, 2, 2, 1, 75, 20], [1, 1, 1, 1, 32, 32], [2, 4, 2, 4, 33, 64], [1, 1, 1, 1, 95, 128]]
        .into_iter()
        .enumerate()
    {
        for delta in [false, true] {
            let weights = table(size, |n| share(n, 1));
            let mut inputs = halves(size);
            if n % 2 == 0 {
                inputs.push(("w", weights));
            }
            Stage::new(op(Decay::None, delta), size[1], inputs.clone()).check(&format!("{size:?}, delta {delta}"));
            inputs.push(("g_scalar", table(size, |n| -0.3 * share(n, 2))));
            Stage::new(op(Decay::Scalar, delta), size[1], inputs).check(&format!("{size:?}, decay, delta {delta}"));
        }
    }
}

#[test]
fn floats_and_masked_tokens() {
    let size = [2, 2, 2, 2, 70, 32];
    let [b, h, _, _, l, d] = size;
    let masked = |n: usize| n % 5 == 2 || (n / l == 1 && n % l > 40);
    let keep =
        HostTensor::new(&[b, 1, l, 1], (0..b * l).map(|n| u8::from(!masked(n))).collect::<Vec<_>>()).expect("flags");
    // Token of a row of k and of a table.
    let nan = |n: usize, row: usize, x: f32| if masked(n / (h * l * row) * l + n / row % l) { f32::NAN } else { x };
    for half in [false, true] {
        for delta in [false, true] {
            let mut inputs = halves(size);
            let k = inputs[1].1.to_f32();
            let k = HostTensor::from_fn(&[b, h, l, d], |n| nan(n, d, k[n]));
            inputs[1].1 = if half { k.to_f16() } else { k };
            if !half {
                inputs[0].1 = random(&[b, h, l, d], 1);
            }
            inputs.push(("keep", keep.clone()));
            inputs.push(("w", table(size, |n| nan(n, 1, share(n, 3)))));
            inputs.push(("g_scalar", table(size, |n| nan(n, 1, -0.5 * share(n, 4)))));
            Stage::new(op(Decay::Scalar, delta), h, inputs).check(&format!("masked, half {half}, delta {delta}"));
        }
    }
}

#[test]
fn strong_decays() {
    let size = [1, 1, 1, 1, 64, 32];
    for (title, fastest) in [("strong", 120.0), ("stronger than counts", 1e4)] {
        for delta in [false, true] {
            let mut inputs = halves(size);
            // Strong ones among weak ones.
            let g = |n: usize| -share(n, 5) * if n.is_multiple_of(3) { fastest } else { 0.01 };
            inputs.push(("g_scalar", table(size, g)));
            Stage::new(op(Decay::Scalar, delta), 1, inputs).check(&format!("{title}, delta {delta}"));
        }
    }
}

#[test]
fn equal_keys() {
    let size = [1, 1, 1, 1, 64, 64];
    for weight in [1.0, 1.9, 0.05] {
        for decay in [Decay::None, Decay::Scalar] {
            let mut inputs = halves(size);
            inputs[1].1 = HostTensor::from_fn(&[1, 1, 64, 64], |_| 0.125).to_f16();
            inputs.push(("w", table(size, |_| weight)));
            if decay == Decay::Scalar {
                inputs.push(("g_scalar", table(size, |n| -0.001 * share(n, 6))));
            }
            Stage::new(op(decay, true), 1, inputs).check(&format!("equal keys of weight {weight}, {decay:?}"));
        }
    }
}
