//! Inputs and outputs that many cards name alike.

use crate::error::{ErrorKind, Result};
use crate::hook::Hook;
use crate::hooks;
use crate::kernel::attend::{Attend, Normaliser};
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::Decay;
use crate::kernel::transform::{Map, Norm, Rotary};
use crate::oracle::{Array, Inputs, slopes};
use crate::plan::{AttendIo, Check, PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{InputSpec, OutputSpec};
use crate::variants::steps::{product, scratch};
use crate::variants::{DecayRule, FeatureMap};
use std::ops::Range;

/// Queries.
pub(crate) const Q: InputSpec = InputSpec::real("q", "B H Lq D");
/// Keys.
pub(crate) const K: InputSpec = InputSpec::real("k", "B Hk Lk D");
/// Values.
pub(crate) const V: InputSpec = InputSpec::real("v", "B Hk Lk Dv");
/// Queries of self-attention.
pub(crate) const Q_SELF: InputSpec = InputSpec::real("q", "B H L D");
/// Keys of self-attention.
pub(crate) const K_SELF: InputSpec = InputSpec::real("k", "B Hk L D");
/// Values of self-attention.
pub(crate) const V_SELF: InputSpec = InputSpec::real("v", "B Hk L Dv");
/// Keys with the heads of q.
pub(crate) const K_OWN: InputSpec = InputSpec::real("k", "B H L D");
/// Values with the heads of q.
pub(crate) const V_OWN: InputSpec = InputSpec::real("v", "B H L Dv");
/// Logarithm of what a token leaves of the state, one number a head.
pub(crate) const LOG_DECAY: InputSpec = InputSpec::float("log_decay", "B H L").optional();
/// Weight of a token.
pub(crate) const BETA: InputSpec = InputSpec::float("beta", "B H L").optional();
/// 1 = the pair is allowed.
pub(crate) const MASK: InputSpec = InputSpec::flag("mask", "broadcastable to B H Lq Lk").optional();
/// Added to the scores.
pub(crate) const BIAS: InputSpec = InputSpec::float("bias", "broadcastable to B H Lq Lk").optional();
/// Keys in use of every batch entry.
pub(crate) const LENGTHS: InputSpec = InputSpec::index("lengths", "B").optional();
/// State before the first token.
pub(crate) const STATE: InputSpec = InputSpec::float("state", "B H D Dv").optional();
/// Normaliser before the first token.
pub(crate) const Z: InputSpec = InputSpec::float("z", "B H D").optional();
/// Index queries, several heads.
pub(crate) const Q_IDX: InputSpec = InputSpec::real("q_idx", "B Lq Hi Di");
/// Index keys, one head.
pub(crate) const K_IDX: InputSpec = InputSpec::real("k_idx", "B Lk Di");
/// Weights of the index heads.
pub(crate) const W_IDX: InputSpec = InputSpec::float("w", "B Lq Hi");

/// Outputs.
pub(crate) const OUT: OutputSpec = OutputSpec::float("out", "B H Lq Dv");
/// Log-sum-exp of the scores.
pub(crate) const LSE: OutputSpec = OutputSpec::float("lse", "B H Lq");
/// Outputs of self-attention.
pub(crate) const OUT_SELF: OutputSpec = OutputSpec::float("out", "B H L Dv");
/// State after the last token.
pub(crate) const LAST_STATE: OutputSpec = OutputSpec::float("state", "B H D Dv");
/// Log-sum-exp of the scores of self-attention.
pub(crate) const LSE_SELF: OutputSpec = OutputSpec::float("lse", "B H L");
/// Sum of the weights.
pub(crate) const MASS: OutputSpec = OutputSpec::float("mass", "B H Lq");

/// D^-1/2 unless given.
pub(crate) fn default_scale(given: Option<f32>, problem: &Problem) -> f32 {
    given.unwrap_or_else(|| (problem.size("D") as f64).powf(-0.5) as f32)
}

/// `attend` on q, k, v and the output `out`.
pub(crate) fn attend_io(plan: &mut PlanBuilder) -> Result<AttendIo> {
    let out = plan.output("out")?;
    Ok(AttendIo::new(&plan.input("q")?, &plan.input("k")?, &plan.input("v")?, &out))
}

/// Softmax attention of q, k and v into the outputs `out` and `lse`.
pub(crate) fn softmax(plan: &mut PlanBuilder, op: Attend, hooks: Vec<Hook>) -> Result<()> {
    let mut io = attend_io(plan)?;
    io.lse = Some(plan.output("lse")?);
    plan.attend("attend", op, io, hooks)
}

/// The same where row i sees the keys `limits(i)` only, besides those that `op` lets through as a prefix.
pub(crate) fn softmax_within(
    plan: &mut PlanBuilder,
    op: Attend,
    rows: usize,
    limits: impl Fn(usize) -> Range<usize>,
) -> Result<()> {
    let mut io = attend_io(plan)?;
    io.lse = Some(plan.output("lse")?);
    (io.row_start, io.row_end) = row_limits(plan, rows, limits)?;
    plan.attend("attend", op, io, Vec::new())
}

/// `row_start` and `row_end` of [`AttendIo`], known with the plan.
pub(crate) fn row_limits(
    plan: &mut PlanBuilder,
    rows: usize,
    limits: impl Fn(usize) -> Range<usize>,
) -> Result<(Option<Ref>, Option<Ref>)> {
    let table = |limit: &dyn Fn(usize) -> usize| {
        HostTensor::new(&[1, 1, rows, 1], (0..rows).map(|i| limit(i) as i32).collect::<Vec<_>>())
    };
    let (start, end) = (table(&|i| limits(i).start)?, table(&|i| limits(i).end)?);
    Ok((Some(plan.constant("row_start", start)), Some(plan.constant("row_end", end))))
}

/// Segments one after the other: the range of tokens of each, which together are all of `length` tokens.
pub(crate) fn segments(problem: &Problem, name: &str, lengths: &[usize], length: usize) -> Result<Vec<Range<usize>>> {
    let mut end = 0_usize;
    let list: Vec<_> = lengths
        .iter()
        .map(|n| {
            let start = end;
            end = start.saturating_add(*n);
            start..end
        })
        .collect();
    if end != length {
        return Err(problem.refuse(ErrorKind::Parameter, name, format!("lengths that sum to L = {length}"), end));
    }
    Ok(list)
}

/// The output `name` holds these numbers, known with the plan. Whole numbers below 2^24 stay exact.
pub(crate) fn constant_output(plan: &mut PlanBuilder, name: &str, numbers: HostTensor) -> Result<()> {
    let out = plan.output_as(name, numbers.shape())?;
    let data = plan.constant(name, numbers);
    plan.fold(name, Fold::each(), &data, &out, Vec::new())
}

/// The same of whole numbers in a row.
pub(crate) fn index_output(plan: &mut PlanBuilder, name: &str, numbers: impl Iterator<Item = usize>) -> Result<()> {
    let numbers: Vec<i32> = numbers.map(|n| n as i32).collect();
    constant_output(plan, name, HostTensor::new(&[numbers.len()], numbers)?)
}

/// Numbers of queries (Lq), as a table of rows.
pub(crate) fn of_rows(numbers: &Ref) -> Ref {
    numbers.insert(1).insert(0).insert(0)
}

/// Numbers of keys (Lk), as a table of columns.
pub(crate) fn of_keys(numbers: &Ref) -> Ref {
    numbers.insert(0).insert(0).insert(0)
}

/// Numbers of tokens, known with the plan, as a table (1, 1, L, 1).
pub(crate) fn of_time(plan: &mut PlanBuilder, name: &str, length: usize, of: impl Fn(usize) -> f64) -> Result<Ref> {
    let table = (0..length).map(|t| of(t) as f32).collect::<Vec<_>>();
    Ok(plan.constant(name, HostTensor::new(&[1, 1, length, 1], table)?))
}

/// The input `lengths`, checked.
pub(crate) fn lengths(problem: &Problem, plan: &mut PlanBuilder) -> Option<Ref> {
    let lengths = plan.optional("lengths")?;
    plan.check(&lengths, Check::AtMost(problem.size("Lk")));
    Some(lengths)
}

/// The keys that each row may see, (B, H, Lq, 1) or a constant of (1, 1, Lq, 1): with a mask a first pass counts them.
pub(crate) fn allowed_keys(problem: &Problem, plan: &mut PlanBuilder, causal: bool) -> Result<Ref> {
    let [lq, lk] = [problem.size("Lq"), problem.size("Lk")];
    if !problem.has("mask") {
        let seen = |i: usize| if causal { (i + 1 + lk).saturating_sub(lq).min(lk) } else { lk };
        return Ok(plan.constant("count", HostTensor::from_fn(&[1, 1, lq, 1], |i| seen(i) as f32)));
    }
    let count = plan.scratch("count", DType::F32, &problem.shape("B H Lq")?);
    let mut io = attend_io(plan)?;
    io.out = plan.scratch("unused", DType::F32, &problem.shape("B H Lq Dv")?);
    io.mass = Some(count.clone());
    let mut counting = vec![hooks::one()];
    counting.extend(given_mask(problem, plan)?);
    let op = Attend { normaliser: Normaliser::Weights, ..Attend::new(1.0).causal(causal) };
    plan.attend("count", op, io, counting)?;
    Ok(count.insert(3))
}

/// The softcap hook; a cap is above 0.
pub(crate) fn softcap(problem: &Problem, name: &str, cap: f32) -> Result<Hook> {
    if cap <= 0.0 {
        return Err(problem.refuse(ErrorKind::Parameter, name, "a number above 0", cap));
    }
    Ok(hooks::softcap(cap))
}

/// Softmax attention of q, k and v with hooks and the optional input `mask`, into `out` and, where the card has it, `lse`.
pub(crate) fn softmax_masked(
    problem: &Problem,
    plan: &mut PlanBuilder,
    op: Attend,
    mut hooks: Vec<Hook>,
) -> Result<()> {
    hooks.extend(given_mask(problem, plan)?);
    let mut io = attend_io(plan)?;
    if problem.card().outputs.iter().any(|output| output.name == "lse") {
        io.lse = Some(plan.output("lse")?);
    }
    plan.attend("attend", op, io, hooks)
}

/// The hook of the optional input `mask`.
pub(crate) fn given_mask(problem: &Problem, plan: &PlanBuilder) -> Result<Vec<Hook>> {
    let full = problem.shape("B H Lq Lk")?;
    Ok(plan.optional("mask").map(|mask| hooks::given(mask.broadcast(&full))).into_iter().collect())
}

/// The hook of the optional input `bias`.
pub(crate) fn given_bias(problem: &Problem, plan: &PlanBuilder) -> Result<Vec<Hook>> {
    let full = problem.shape("B H Lq Lk")?;
    Ok(plan.optional("bias").map(|bias| hooks::bias(bias.broadcast(&full))).into_iter().collect())
}

/// Scratch for `count` partial results of the outputs `out` and `lse`.
pub(crate) fn parts(plan: &mut PlanBuilder, count: usize) -> Result<(Ref, Ref)> {
    let (out, lse) = (plan.output("out")?.shape, plan.output("lse")?.shape);
    let outs = plan.scratch("outs", DType::F32, &[&[count], &out[..]].concat());
    let lses = plan.scratch("lses", DType::F32, &[&[count], &lse[..]].concat());
    Ok((outs, lses))
}

/// The geometric slopes of ALiBi: 2^(-8(h + 1)/H) for a power of two, else those of the power below, then every second one of its double.
pub(crate) fn head_slopes(heads: usize) -> Vec<f32> {
    let base = 1 << heads.max(1).ilog2();
    let slope = |n: usize, h: usize| (2.0_f64).powf(-8.0 * (h + 1) as f64 / n as f64) as f32;
    (0..heads).map(|h| if h < base { slope(base, h) } else { slope(2 * base, 2 * (h - base)) }).collect()
}

/// The input under a feature map.
pub(crate) fn mapped(plan: &mut PlanBuilder, name: &str, map: FeatureMap) -> Result<Ref> {
    let x = plan.input(name)?;
    if map == FeatureMap::Identity {
        return Ok(x);
    }
    let feature = map.feature();
    let shape = [x.shape[0], x.shape[1], x.shape[2], feature.width(x.shape[3])];
    let out = plan.scratch(&format!("phi_{name}"), DType::F32, &shape);
    plan.map(&format!("phi_{name}"), Map { feature }, &x, &out)?;
    Ok(out)
}

/// The input with rows x / √(Σ x² + 1e-6), or as it is.
pub(crate) fn unit_rows(plan: &mut PlanBuilder, name: &str, on: bool) -> Result<Ref> {
    let x = plan.input(name)?;
    if on { unit_of(plan, name, &x) } else { Ok(x) }
}

/// Rows x / √(Σ x² + 1e-6).
pub(crate) fn unit_of(plan: &mut PlanBuilder, name: &str, x: &Ref) -> Result<Ref> {
    let out = scratch(plan, &format!("unit_{name}"), &x.shape);
    plan.norm(&format!("unit_{name}"), Norm::unit(x.shape[3], 1e-6), x, None, &out)?;
    Ok(out)
}

/// Binds a log decay (B, H, L), (B, H, L, 1) or (B, H, L, D) to a scan.
pub(crate) fn decay_of(io: &mut ScanIo, given: Ref) -> Decay {
    let given = if given.shape.len() == 3 { given.insert(3) } else { given };
    if given.shape[3] == 1 {
        io.decay = Some(given);
        return Decay::Scalar;
    }
    io.g = Some(given);
    Decay::Channel
}

/// A log decay (B, H, L) or (B, H, L, D) at a token and channel, for oracles.
pub(crate) fn gate_at(given: &Array, [b, h, t]: [usize; 3], d: usize) -> f64 {
    if given.shape.len() == 3 { given.get(&[b, h, t]) } else { given.get(&[b, h, t, d]) }
}

/// The input times the learned map of another input (D, Do), as it is where that is absent.
pub(crate) fn projected(plan: &mut PlanBuilder, name: &str, weight: &str) -> Result<Ref> {
    let x = plan.input(name)?;
    match plan.optional(weight) {
        Some(weight) => project(plan, name, &x, &weight),
        None => Ok(x),
    }
}

/// x (H, P, D) or (1, H, P, D) for every batch entry; what has batch entries stays as it is.
pub(crate) fn every_batch(problem: &Problem, x: Ref) -> Ref {
    let x = x.lead(4);
    let shape = [&[problem.size("B")], &x.shape[1..]].concat();
    if x.shape == shape { x } else { x.broadcast(&shape) }
}

/// x (B, H, L, D) times a learned map (D, Do).
pub(crate) fn project(plan: &mut PlanBuilder, name: &str, x: &Ref, weight: &Ref) -> Result<Ref> {
    let [batch, heads, rows, _] = x.shape[..] else { unreachable!("x has four axes") };
    let out = scratch(plan, &format!("projected_{name}"), &[batch, heads, rows, weight.shape[1]]);
    let every = [batch, heads, weight.shape[0], weight.shape[1]];
    product(plan, &format!("project_{name}"), x, &weight.insert(0).insert(0).broadcast(&every), 1.0, &out, None)?;
    Ok(out)
}

/// Softmax attention over the last keys and some that every query sees.
pub(crate) struct Window {
    /// Keys, the query's own included.
    pub size: usize,
    /// Factor of q·k.
    pub scale: f32,
    /// (B, H, L, D), (B, Hk, L, D), (B, Hk, L, Dv)
    pub qkv: [Ref; 3],
    /// Keys and values that every query sees.
    pub extra: Option<[Ref; 2]>,
}

impl Window {
    pub(crate) fn stages(self, problem: &Problem, plan: &mut PlanBuilder, out: &Ref, lse: &Ref) -> Result<()> {
        if self.size == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "window", "1 or more keys", 0));
        }
        let [q, k, v] = &self.qkv;
        let op = Attend { window_left: Some(self.size - 1), ..Attend::new(self.scale).causal(true) };
        let Some([k_extra, v_extra]) = &self.extra else {
            return plan.attend("window", op, AttendIo::new(q, k, v, out).lse(lse), Vec::new());
        };
        let outs = scratch(plan, "outs", &[&[2], &out.shape[..]].concat());
        let lses = scratch(plan, "lses", &[&[2], &lse.shape[..]].concat());
        let part = |n: usize, k: &Ref, v: &Ref| AttendIo::new(q, k, v, &outs.select(0, n)).lse(&lses.select(0, n));
        plan.attend("window", op, part(0, k, v), Vec::new())?;
        plan.attend("extra keys", Attend::new(self.scale), part(1, k_extra, v_extra), Vec::new())?;
        plan.merge(&outs, &lses, None, out, Some(lse))
    }
}

impl DecayRule {
    /// The input `log_decay` (H), or the constant that the rule makes; none without decay.
    pub(crate) fn decay(
        self,
        problem: &Problem,
        plan: &mut PlanBuilder,
        layer: usize,
        layers: usize,
    ) -> Result<Option<Ref>> {
        if layer >= layers {
            return Err(problem.refuse(ErrorKind::Parameter, "layer", format!("below `layers` = {layers}"), layer));
        }
        if let Some(given) = plan.optional("log_decay") {
            return Ok(Some(given));
        }
        let heads = problem.size("H");
        let (at, of) = (layer as f64, layers as f64);
        let rate: Box<dyn Fn(usize) -> f64> = match self {
            DecayRule::None => return Ok(None),
            DecayRule::Slopes => {
                let (slopes, factor) = (head_slopes(heads), 1.0 - at / (of - 1.0).max(1.0) + 1e-5);
                Box::new(move |h| f64::from(slopes[h]) * factor)
            }
            DecayRule::Linear => Box::new(move |h| 8.0 * h as f64 / heads as f64 * (1.0 - at / of)),
        };
        let decay: Vec<f32> = (0..heads).map(|h| -rate(h) as f32).collect();
        Ok(Some(plan.constant("decay", HostTensor::new(&[heads], decay)?)))
    }

    /// The same of every head, for oracles.
    pub(crate) fn log_decay(self, inputs: &Inputs, heads: usize, layer: usize, layers: usize) -> Vec<f64> {
        let (layer, layers) = (layer as f64, layers as f64);
        match (inputs.find("log_decay"), self) {
            (Some(given), _) => given.data.clone(),
            (None, DecayRule::None) => vec![0.0; heads],
            (None, DecayRule::Slopes) => {
                slopes(heads).iter().map(|s| -s * (1.0 - layer / (layers - 1.0).max(1.0) + 1e-5)).collect()
            }
            (None, DecayRule::Linear) => {
                (0..heads).map(|h| -8.0 * h as f64 / heads as f64 * (1.0 - layer / layers)).collect()
            }
        }
    }
}

/// x (B, H, L, D) with its pairs of neighbouring channels turned by position · base^(−2c/D), positions from `offset`.
pub(crate) fn rotated(plan: &mut PlanBuilder, name: &str, x: &Ref, base: f64, offset: usize) -> Result<Ref> {
    let (length, d) = (x.shape[2], x.shape[3]);
    if d < 2 {
        return Ok(x.clone());
    }
    // Made in f64: an angle of f32 is wrong by 0.01 at position 10^5.
    let angle = |n: usize| {
        let (t, c) = (n / (d / 2), n % (d / 2));
        (offset + t) as f64 * base.powf(-2.0 * c as f64 / d as f64)
    };
    let mut table = |name, of: fn(f64) -> f64| {
        let data = HostTensor::from_fn(&[length, d / 2], |n| of(angle(n)) as f32);
        (name, plan.constant(name, data).insert(0).insert(0))
    };
    let tables = vec![table("cos", f64::cos), table("sin", f64::sin)];
    let out = scratch(plan, &format!("{name}_turned"), &x.shape);
    plan.rotary(&format!("{name}_turned"), Rotary { interleaved: true, offset, scale: 1.0 }, x, &out, tables)?;
    Ok(out)
}

/// k and v have the heads of q.
pub(crate) fn same_heads(problem: &Problem, plan: &PlanBuilder) -> Result<()> {
    heads_of_q(problem, plan, &["k", "v"])
}

/// φ(q), φ(k) and v, which have the same heads.
pub(crate) fn mapped_qkv(problem: &Problem, plan: &mut PlanBuilder, map: FeatureMap) -> Result<[Ref; 3]> {
    same_heads(problem, plan)?;
    Ok([mapped(plan, "q", map)?, mapped(plan, "k", map)?, plan.input("v")?])
}

/// An optional number of each token (B, H, L) as (B, H, L, 1).
pub(crate) fn of_token(plan: &PlanBuilder, name: &str) -> Option<Ref> {
    plan.optional(name).map(|x| x.insert(3))
}

/// These inputs have the heads of q.
pub(crate) fn heads_of_q(problem: &Problem, plan: &PlanBuilder, names: &[&str]) -> Result<()> {
    let heads = plan.input("q")?.shape[1];
    for name in names {
        let found = plan.input(name)?.shape[1];
        if found != heads {
            return Err(problem.refuse(ErrorKind::Shape, name, format!("{heads} heads like `q`"), found));
        }
    }
    Ok(())
}
