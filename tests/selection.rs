//! The kernels of `select`, `pool` and `combine`, one stage at a time, on every engine against index loops, at odd sizes.

mod common;

use common::engines;
use wgpu_attention::hook::Hook;
use wgpu_attention::kernel::key::ScalarType;
use wgpu_attention::kernel::{Op, combine, pool, select};
use wgpu_attention::plan::PlanBuilder;
use wgpu_attention::{
    Card, DType, Family, HostTensor, InputSpec, Inputs, OutputSpec, Problem, Result, Value, Variant, oracle,
};

/// A plan of one stage: roles are the inputs and outputs of that name.
#[derive(Debug)]
struct Stage {
    card: &'static Card,
    op: Op,
    inputs: Vec<(&'static str, HostTensor)>,
    /// Name and tensor (1, 1, 1, n) or (1, H, 1, n) of the stage's tables.
    tables: Vec<(&'static str, HostTensor)>,
    outputs: Vec<(&'static str, DType, Vec<usize>)>,
}

impl Stage {
    fn new(op: Op) -> Self {
        let card = Card {
            name: "stage",
            family: Family::Hierarchical,
            summary: "",
            equation: "",
            paper: "",
            inputs: &[],
            outputs: &[],
            forms: &[],
            kernels: &[],
        };
        Stage { card: Box::leak(Box::new(card)), op, inputs: Vec::new(), tables: Vec::new(), outputs: Vec::new() }
    }

    fn input(mut self, name: &'static str, tensor: HostTensor) -> Self {
        self.inputs.push((name, tensor));
        self
    }

    fn table(mut self, name: &'static str, tensor: HostTensor) -> Self {
        self.tables.push((name, tensor));
        self
    }

    fn output(mut self, name: &'static str, dtype: DType, shape: &[usize]) -> Self {
        self.outputs.push((name, dtype, shape.to_vec()));
        self
    }

    /// The outputs on every engine, each through `check`.
    fn run(mut self, label: &str, check: impl Fn(&str, &[HostTensor])) {
        let words = |shape: &[usize]| -> &'static str {
            Box::leak(shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ").into_boxed_str())
        };
        let tensors = self.inputs.iter().chain(&self.tables);
        let specs: Vec<InputSpec> = tensors
            .map(|(name, t)| match t.dtype() {
                DType::I32 => InputSpec::index(name, words(t.shape())),
                _ => InputSpec::real(name, words(t.shape())),
            })
            .collect();
        let outputs: Vec<OutputSpec> = self
            .outputs
            .iter()
            .map(|(name, dtype, shape)| OutputSpec { name, shape: words(shape), dtype: *dtype, optional: false })
            .collect();
        self.card = Box::leak(Box::new(Card { inputs: specs.leak(), outputs: outputs.leak(), ..*self.card }));
        let mut inputs = Inputs::new();
        self.inputs.iter().chain(&self.tables).for_each(|(name, t)| inputs.insert(name, t));
        for (engine, runtime) in engines() {
            let result = runtime.call_blocking(&self, &inputs).unwrap_or_else(|e| panic!("{label} on {engine}: {e}"));
            let tensors: Vec<HostTensor> =
                self.outputs.iter().map(|(name, ..)| result.get(name).expect("an output").clone()).collect();
            check(&format!("{label} on {engine}"), &tensors);
        }
    }
}

impl Variant for Stage {
    fn card(&self) -> &'static Card {
        self.card
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn plan(&self, _problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let mut bindings = Vec::new();
        for (name, _) in &self.inputs {
            bindings.push((*name, plan.input(name)?));
        }
        for (name, ..) in &self.outputs {
            bindings.push((*name, plan.output(name)?));
        }
        let mut tables = Vec::new();
        for (name, tensor) in &self.tables {
            let full: Vec<usize> = tensor.shape().to_vec();
            tables.push((*name, plan.input(name)?.broadcast(&full), ScalarType::F32));
        }
        plan.stage("stage", self.op.clone(), bindings, tables, Vec::<Hook>::new())
    }

    fn oracle(&self, _inputs: &oracle::Inputs) -> oracle::Outputs {
        Vec::new()
    }
}

/// Numbers in [−1, 1) that repeat on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() + 1.0) * 0.5 * n as f32) as usize % n
    }

    fn tensor(&mut self, shape: &[usize]) -> HostTensor {
        HostTensor::from_fn(shape, |_| self.next())
    }
}

fn indices(shape: &[usize], data: Vec<i32>) -> HostTensor {
    HostTensor::new(shape, data).expect("as many indices as the shape says")
}

fn close(label: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{label}");
    for (n, (&got, &want)) in got.iter().zip(want).enumerate() {
        let same = f64::from(got) == want || (f64::from(got) - want).abs() <= 2e-5 * want.abs().max(1.0);
        assert!(same, "{label}: element {n} is {got}, not {want}");
    }
}

/// B, H, Hs, Lq, Nk, D and the entries of a list (0: none), of blocks of 5.
const SCORES: [[usize; 7]; 9] = [
    [1, 1, 1, 1, 1, 1, 0],
    [1, 64, 1, 1, 130, 64, 0],
    [2, 4, 2, 7, 65, 60, 0],
    [1, 6, 2, 33, 63, 20, 0],
    [1, 3, 1, 100, 100, 17, 0],
    [2, 4, 4, 65, 7, 128, 0],
    [1, 96, 1, 2, 70, 8, 0],
    [2, 8, 2, 9, 43, 12, 4],
    [1, 80, 1, 5, 101, 16, 30],
];

#[test]
fn scores_equal_loops() {
    let mut numbers = Numbers(1);
    for (case, &[batch, heads, score_heads, queries, keys, depth, entries]) in SCORES.iter().enumerate() {
        for reduce in [select::Reduce::WeightedRelu, select::Reduce::Probability] {
            let (causal, unit, lead, block) = (case % 3 != 1, [1, 3][case % 2], case % 4, 5);
            let tokens = keys * unit + lead;
            let op = select::Score { reduce, scale: 0.7, causal, tokens, unit, lead, list_block: block };
            let (q, k) =
                (numbers.tensor(&[batch, heads, queries, depth]), numbers.tensor(&[batch, score_heads, keys, depth]));
            let (q, k) = if case == 5 { (q.to_f16(), k.to_f16()) } else { (q, k) };
            let factors = numbers.tensor(&[batch, heads, queries]);
            let list: Vec<i32> = (0..batch * score_heads * queries * entries)
                .map(|_| numbers.below(keys.div_ceil(block) + 1) as i32 - 1)
                .collect();
            let slots = if entries > 0 { entries * block } else { keys };

            let (qs, ks, fs) = (q.to_f64(), k.to_f64(), factors.to_f64());
            let mut want = Vec::new();
            for row in 0..batch * score_heads * queries {
                let (b, s, i) = (row / (score_heads * queries), row / queries % score_heads, row % queries);
                for slot in 0..slots {
                    let n = match entries {
                        0 => slot as i64,
                        _ => match list[row * entries + slot / block] {
                            -1 => -1,
                            entry => entry as i64 * block as i64 + (slot % block) as i64,
                        },
                    };
                    let seen = n >= 0
                        && n < keys as i64
                        && (!causal || n * unit as i64 + lead as i64 <= i as i64 + tokens as i64 - queries as i64);
                    let group = heads / score_heads;
                    let sum: f64 = if !seen {
                        0.0
                    } else {
                        (s * group..(s + 1) * group)
                            .map(|h| {
                                let (at, to) = (
                                    ((b * heads + h) * queries + i) * depth,
                                    ((b * score_heads + s) * keys + n as usize) * depth,
                                );
                                let dot = oracle::dot(&qs[at..at + depth], &ks[to..to + depth]);
                                let f = fs[(b * heads + h) * queries + i];
                                if reduce == select::Reduce::WeightedRelu {
                                    f * dot.max(0.0)
                                } else {
                                    (0.7_f32 as f64 * dot - f).exp()
                                }
                            })
                            .sum()
                    };
                    want.push(match (seen, reduce) {
                        (true, select::Reduce::WeightedRelu) => 0.7_f32 as f64 * sum,
                        (false, select::Reduce::WeightedRelu) => f64::NEG_INFINITY,
                        _ => sum,
                    });
                }
            }
            let role = if reduce == select::Reduce::WeightedRelu { "w" } else { "lse" };
            let mut stage = Stage::new(Op::Score(op)).input("q", q).input("k", k).input(role, factors);
            if entries > 0 {
                stage = stage.input("list", indices(&[batch, score_heads, queries, entries], list));
            }
            let label = format!("case {case} {reduce:?}");
            stage.output("scores", DType::F32, &[batch, score_heads, queries, slots]).run(&label, |label, out| {
                // Sums over many heads: the error grows with the terms, not with their sum.
                let allowed = 2e-5 * (heads / score_heads) as f64;
                for (n, (&got, &want)) in out[0].to_f32().iter().zip(&want).enumerate() {
                    let same = f64::from(got) == want || (f64::from(got) - want).abs() <= allowed * want.abs().max(1.0);
                    assert!(same, "{label}: element {n} is {got}, not {want}");
                }
            });
        }
    }
}

/// The definition: forced slots first, then the largest, ties to the lower slot, nothing hidden and nothing at or below −1e30.
fn best(scores: &[f32], op: &select::TopK, query: usize, queries: usize, places: usize) -> Vec<i32> {
    let position = query as i64 + op.tokens as i64 - queries as i64;
    let own = if op.causal {
        position.div_euclid(op.unit as i64).min(scores.len() as i64 - 1)
    } else {
        scores.len() as i64 - 1
    };
    let mut order: Vec<(f32, usize)> = scores
        .iter()
        .enumerate()
        .filter(|(n, _)| *n as i64 <= own)
        .map(|(n, &s)| (if n < op.force_first || n as i64 > own - op.force_last as i64 { f32::INFINITY } else { s }, n))
        .filter(|(s, _)| *s > -1e30)
        .collect();
    order.sort_by(|a, b| b.0.partial_cmp(&a.0).expect("no NaN is left").then(a.1.cmp(&b.1)));
    let mut list: Vec<i32> = order.iter().take(places).map(|(_, n)| *n as i32).collect();
    list.sort_unstable();
    list.resize(places, -1);
    list
}

fn top_k(label: &str, op: select::TopK, shape: [usize; 4], scores: Vec<f32>, places: usize) {
    let [batch, heads, queries, slots] = shape;
    let want: Vec<i32> =
        scores.chunks(slots).enumerate().flat_map(|(r, row)| best(row, &op, r % queries, queries, places)).collect();
    let stage = Stage::new(Op::TopK(op)).input("scores", HostTensor::new(&shape, scores).expect("scores"));
    stage.output("indices", DType::I32, &[batch, heads, queries, places]).run(label, |label, out| {
        let got = out[0].to_i32();
        let wrong = got.iter().zip(&want).position(|(a, b)| a != b);
        assert!(wrong.is_none(), "{label}: place {wrong:?} of {:?}", wrong.map(|n| (got[n], want[n])));
    });
}

#[test]
fn top_k_takes_the_largest_of_rows_of_any_length() {
    let mut numbers = Numbers(2);
    for slots in [1, 2, 5, 127, 128, 129, 255, 1024, 1025, 4099, 200_001] {
        for places in [1, 7, 600, slots + 3] {
            if slots == 200_001 && places == 7 {
                continue;
            }
            let scores = (0..2 * slots).map(|_| numbers.next() * 100.0).collect();
            top_k(&format!("{places} of {slots}"), select::TopK::plain(), [1, 1, 2, slots], scores, places);
        }
    }
}

#[test]
fn top_k_gives_ties_to_the_lower_slot() {
    let mut numbers = Numbers(3);
    for (slots, places, levels) in [(100, 30, 1), (200, 77, 3), (2050, 1000, 3), (5000, 17, 2), (3000, 2999, 1)] {
        let scores = (0..3 * slots).map(|_| numbers.below(levels) as f32 - 1.0).collect();
        top_k(&format!("{levels} levels of {slots}"), select::TopK::plain(), [3, 1, 1, slots], scores, places);
    }
}

#[test]
fn top_k_never_takes_what_is_no_score() {
    let odd = [
        f32::NAN,
        -f32::NAN,
        f32::NEG_INFINITY,
        -1e30,
        -2e30,
        f32::INFINITY,
        0.0,
        -0.0,
        -1.0,
        1.0,
        -9.9e29,
        1e-40,
        f32::MAX,
        f32::MIN,
    ];
    let mut numbers = Numbers(4);
    for places in [1, 3, 6, 200] {
        for slots in [150, 1500] {
            let scores = (0..4 * slots).map(|_| odd[numbers.below(odd.len())]).collect();
            top_k(&format!("{places} of {slots} odd scores"), select::TopK::plain(), [1, 2, 2, slots], scores, places);
        }
    }
    top_k("nothing", select::TopK::plain(), [1, 1, 1, 40], vec![f32::NEG_INFINITY; 40], 9);
    top_k("no number", select::TopK::plain(), [1, 1, 1, 1500], vec![f32::NAN; 1500], 9);
    // Zeros of both signs are equal.
    top_k("zeros", select::TopK::plain(), [1, 1, 1, 6], vec![-0.0, 0.0, -0.0, 0.0, -1.0, 0.0], 3);
}

#[test]
fn top_k_hides_later_slots_and_takes_forced_ones() {
    let mut numbers = Numbers(5);
    for (tokens, unit, queries, first, last, places) in [
        (70, 1, 9, 1, 2, 8),
        (1000, 64, 5, 1, 2, 6),
        (33, 16, 40, 2, 1, 2),
        (640, 3, 7, 0, 3, 100),
        (90, 7, 3, 20, 20, 4),
        (64, 64, 64, 1, 1, 3),
    ] {
        let slots = tokens_to_slots(tokens, unit);
        for causal in [true, false] {
            let op = select::TopK { causal, tokens, unit, force_first: first, force_last: last, list_block: 1 };
            let scores =
                (0..2 * queries * slots).map(|n| if n % 11 == 3 { f32::NAN } else { numbers.next() }).collect();
            top_k(&format!("{op:?}"), op, [2, 1, queries, slots], scores, places);
        }
    }
}

fn tokens_to_slots(tokens: usize, unit: usize) -> usize {
    tokens.div_ceil(unit)
}

#[test]
fn top_k_maps_slots_through_a_list() {
    let (entries, block, places) = (4, 3, 7);
    let list = vec![2, 5, 9, -1, 0, 1, 7, 8];
    let scores: Vec<f32> = (0..2 * entries * block)
        .map(|n| if n / block == 3 { f32::NEG_INFINITY } else { ((n * 7) % 10) as f32 })
        .collect();
    let mut want = Vec::new();
    for row in 0..2 {
        let slots = best(&scores[row * 12..row * 12 + 12], &select::TopK::plain(), 0, 2, places);
        want.extend(slots.iter().map(|&n| {
            if n < 0 { -1 } else { list[row * entries + n as usize / block] * block as i32 + n % block as i32 }
        }));
    }
    let op = select::TopK { list_block: block, ..select::TopK::plain() };
    Stage::new(Op::TopK(op))
        .input("scores", HostTensor::new(&[1, 1, 2, 12], scores).expect("scores"))
        .input("list", indices(&[1, 1, 2, entries], list))
        .output("indices", DType::I32, &[1, 1, 2, places])
        .run("list", |label, out| assert_eq!(out[0].to_i32(), want, "{label}"));
}

#[test]
fn segments_give_each_row_its_sequence() {
    // Empty sequences on either side, and rows beyond the last sequence.
    let (cu_q, cu_k, rows) = (vec![0, 3, 3, 10, 12, 12, 80], vec![0, 5, 9, 9, 10, 30, 100], 90);
    for (causal, bottom_right) in [(false, true), (true, true), (true, false)] {
        let (mut start, mut end) = (vec![0; rows], vec![0; rows]);
        for n in 1..cu_q.len() {
            for row in cu_q[n - 1]..cu_q[n] {
                let keys: Vec<i32> = (cu_k[n - 1]..cu_k[n])
                    .filter(|j| {
                        let shift = if bottom_right { (cu_k[n] - cu_k[n - 1]) - (cu_q[n] - cu_q[n - 1]) } else { 0 };
                        !causal || j - cu_k[n - 1] <= row - cu_q[n - 1] + shift
                    })
                    .collect();
                start[row as usize] = cu_k[n - 1];
                end[row as usize] = cu_k[n - 1] + keys.len() as i32;
            }
        }
        Stage::new(Op::Segments(select::Segments { causal, bottom_right }))
            .input("cu_q", indices(&[cu_q.len()], cu_q.clone()))
            .input("cu_k", indices(&[cu_k.len()], cu_k.clone()))
            .output("start", DType::I32, &[rows])
            .output("end", DType::I32, &[rows])
            .run("segments", |label, out| {
                assert_eq!(out[0].to_i32(), start, "{label}");
                assert_eq!(out[1].to_i32(), end, "{label}");
            });
    }
}

#[test]
fn pools_equal_loops() {
    let mut numbers = Numbers(6);
    // Length, width, windows, taps, step, before, mean, weights.
    let cases: [([usize; 6], bool, bool); 6] = [
        ([10, 8, 4, 3, 3, 0], true, false),
        ([100, 60, 6, 32, 16, 0], true, false),
        ([33, 1, 9, 7, 4, 3], false, true),
        ([7, 3, 4, 2, 3, 1], false, false),
        ([5, 17, 1, 9, 4, 0], true, false),
        ([64, 20, 5, 16, 12, 5], false, true),
    ];
    for (case, (sizes, mean, weighted)) in cases.into_iter().enumerate() {
        let [length, width, windows, size, stride, offset] = sizes;
        let x = numbers.tensor(&[2, 1, 3, length, width]);
        let x = if case == 1 { x.to_f16() } else { x };
        let weight = numbers.tensor(&[1, 1, 1, size]);
        let (xs, ws) = (x.to_f64(), weight.to_f64());
        let mut want = Vec::new();
        for outer in 0..6 {
            for n in 0..windows {
                for d in 0..width {
                    let taps: Vec<(usize, usize)> = (0..size)
                        .filter_map(|t| Some((t, (n * stride + t).checked_sub(offset)?)))
                        .filter(|(_, j)| *j < length)
                        .collect();
                    let sum: f64 = taps
                        .iter()
                        .map(|(t, j)| if weighted { ws[*t] } else { 1.0 } * xs[(outer * length + j) * width + d])
                        .sum();
                    want.push(if mean { sum / taps.len().max(1) as f64 } else { sum });
                }
            }
        }
        let mut stage = Stage::new(Op::Pool(pool::Pool { size, stride, offset, mean })).input("x", x);
        if weighted {
            stage = stage.table("tap", weight);
        }
        stage
            .output("out", DType::F32, &[2, 1, 3, windows, width])
            .run(&format!("pool {case}"), |label, out| close(label, &out[0].to_f32(), &want));
    }
}

#[test]
fn merges_equal_loops() {
    let mut numbers = Numbers(7);
    for (parts, heads, rows, width, sinks) in
        [(1, 1, 1, 1, 0), (3, 2, 5, 8, 0), (7, 3, 33, 17, 2), (4, 2, 3, 60, 1), (33, 1, 3, 20, 1), (300, 2, 1, 68, 0)]
    {
        let count = 2 * heads * rows;
        let mut outs: Vec<f32> = (0..parts * count * width).map(|_| numbers.next()).collect();
        let mut lses: Vec<f32> = (0..parts * count).map(|_| numbers.next() * 50.0).collect();
        for r in (0..parts * count).filter(|r| r % 3 == 1 || r % count == 2) {
            lses[r] = f32::NEG_INFINITY;
            // The output of an empty part is not defined.
            outs[r * width] = f32::NAN;
        }
        let sink = numbers.tensor(&[1, heads, 1, sinks.max(1)]);
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for r in 0..count {
            let h = r / rows % heads;
            let logits = (0..sinks).map(|n| sink.to_f64()[h * sinks + n]);
            let total: f64 = (0..parts).map(|p| f64::from(lses[p * count + r]).exp()).chain(logits.map(f64::exp)).sum();
            lse.push(total.ln());
            for d in 0..width {
                let seen = (0..parts).filter(|p| lses[p * count + r] > f32::MIN);
                out.push(
                    seen.map(|p| {
                        f64::from(lses[p * count + r]).exp() / total * f64::from(outs[(p * count + r) * width + d])
                    })
                    .sum(),
                );
            }
        }
        let shape = [parts, 2, heads, rows, width];
        let mut stage = Stage::new(Op::Merge(combine::Merge))
            .input("outs", HostTensor::new(&shape, outs).expect("parts"))
            .input("lses", HostTensor::new(&shape[..4], lses).expect("parts"));
        if sinks > 0 {
            stage = stage.table("sink", sink);
        }
        stage.output("out", DType::F32, &shape[1..]).output("lse", DType::F32, &shape[1..4]).run(
            "merge",
            |label, got| {
                close(label, &got[0].to_f32(), &out);
                close(label, &got[1].to_f32(), &lse);
            },
        );
    }
}

#[test]
fn mixes_equal_loops() {
    let mut numbers = Numbers(8);
    for (parts, width) in [(1, 4), (2, 7), (3, 64), (3, 1)] {
        let shape = [2, 3, 5, width];
        let gates = numbers.tensor(&[2, 3, 5, parts]);
        let xs: Vec<HostTensor> = (0..parts).map(|_| numbers.tensor(&shape)).collect();
        let data: Vec<Vec<f64>> = xs.iter().map(HostTensor::to_f64).collect();
        let want: Vec<f64> = (0..30 * width)
            .map(|at| (0..parts).map(|p| gates.to_f64()[at / width * parts + p] * data[p][at]).sum())
            .collect();
        let mut stage = Stage::new(Op::Mix(combine::Mix)).input("gates", gates);
        for (name, x) in ["x0", "x1", "x2"].into_iter().zip(xs) {
            stage = stage.input(name, x);
        }
        stage.output("out", DType::F32, &shape).run("mix", |label, out| close(label, &out[0].to_f32(), &want));
    }
}
