//! A recurrent state for most of the past and softmax attention for the blocks that are worth keeping, in one layer.
//!
//! ```text
//! linear_t = scale q_tᵀ S_t     S runs the gated delta rule from the start of the token's own block, whatever the block's type
//! after a complete block: S stays (linear), or goes back to S at the block's start times Π e^{g} (softmax; without
//!   decay_softmax_blocks the product is dropped)
//! softmax_i = Σ_j softmax_j(scale_attn q_i·k_j) v_j     over the earlier softmax blocks and the own block up to i
//! out = w_0 rms(linear) + w_1 rms(softmax)              q, k of the linear branch are x / √(Σ x² + 1e-6)
//! ```
//!
//! D. Deng, A. Bentzen Winje, L. Fehring, M. Lindauer, "Neural Attention Search Linear: Towards Adaptive Token-Level Hybrid
//! Attention Models", ICML 2026, arXiv 2602.03681, section 3; `nats-l-block-types` makes the types.
//!
//! Kernels `transform` (unit length), `scan` three times, `diagnose` (joins), `attend` over a block mask, `transform` (norms),
//! `combine`. No state is rolled back: within a block S is a matrix P_t times the state at its start, plus what the block wrote. Both
//! are scans of all blocks at once (P_t of an identity), and the scan that stays reads with P_tᵀ q_t in softmax blocks.
//!
//! Limits: always causal. All inputs have the same heads. `state` is the one after the last complete block: a later call begins with the
//! tokens of the open block. The keys of softmax blocks are no state: `softmax` sees what the call holds. No rotary embedding.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::{Attend, Keys};
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Scan};
use crate::kernel::transform::{Gate, Norm};
use crate::oracle::{Array, Inputs, Outputs, attention, dot, scale, unit};
use crate::plan::{AttendIo, PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{STATE, default_scale, same_heads};
use crate::variants::steps::{changed, scratch};
use crate::{named, params};

params! {
    /// Neural attention search, linear.
    pub struct NatsL {
        /// Tokens of a block.
        block: usize = 64,
        /// Factor of q in the linear branch; default D^-1/2.
        scale: Option<f32> = None,
        /// Factor of q·k in the softmax branch; default Da^-1/2.
        scale_attn: Option<f32> = None,
        /// Softmax blocks, too, let the state decay.
        decay_softmax_blocks: bool = true,
    }
}

/// Numbers of the states of blocks that are scanned at once, at most: 64 MiB, enough blocks to fill a device.
const STATES: usize = 1 << 24;

/// The eps of the branches' norms.
const NORM_EPS: f32 = 1e-5;

impl Named for NatsL {
    const CARD: Card = Card {
        name: "nats-l",
        family: Family::Linear,
        summary: "A recurrent state for most blocks of tokens and softmax attention for those worth keeping.",
        equation: "out = w_0 rms(gated delta rule over linear blocks + own) + w_1 rms(attn over softmax blocks + own)",
        paper: "Deng et al., Neural Attention Search Linear (NAtS-L), ICML 2026, arXiv 2602.03681",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B H L D"),
            InputSpec::real("v", "B H L Dv"),
            InputSpec::float("beta", "B H L"),
            InputSpec::float("log_decay", "B H L"),
            InputSpec::flag("is_softmax", "B H (L+block-1)//block"),
            InputSpec::real("q_attn", "B H L Da").optional(),
            InputSpec::real("k_attn", "B H L Da").optional(),
            InputSpec::real("v_attn", "B H L Dv").optional(),
            InputSpec::float("weights", "B H L 2").optional(),
            STATE,
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("linear", "B H L Dv"),
            OutputSpec::float("softmax", "B H L Dv"),
            OutputSpec::float("lse", "B H L"),
            OutputSpec::float("state", "B H D Dv"),
        ],
        forms: &["prefill", "chunked", "step"],
        kernels: &["transform", "scan", "diagnose", "attend", "transform", "combine"],
    };
}

/// The linear branch. Tensors of tokens are (B H, L, ..), so that the tokens of every block of every head are rows of one scan.
struct Linear {
    batch: usize,
    length: usize,
    block: usize,
    op: Scan,
    /// q, k (unit length), v.
    qkv: [Ref; 3],
    beta: Ref,
    gate: Ref,
}

impl Linear {
    /// Tokens of complete blocks.
    fn complete(&self) -> usize {
        self.length / self.block * self.block
    }

    /// (B, H, n, D): n tokens from `first`.
    fn tokens(&self, x: &Ref, first: usize, n: usize) -> Ref {
        x.narrow(1, first, n).split(0, self.batch)
    }

    /// (B H, blocks, block, D): the complete blocks.
    fn blocks(&self, x: &Ref) -> Ref {
        x.narrow(1, 0, self.complete()).split(1, self.length / self.block)
    }

    /// Scratch (B H, n, width).
    fn scratch(&self, plan: &mut PlanBuilder, name: &str, n: usize, width: usize) -> Ref {
        scratch(plan, name, &[self.qkv[0].shape[0], n, width])
    }

    /// What a token takes of its own block, (B H, blocks, block, Dv), or of the state at the block's start, (B H, blocks, block, D): a scan
    /// of all blocks from zeros, or one from identities that writes nothing.
    fn own(&self, plan: &mut PlanBuilder, name: &str, written: bool, decays: bool) -> Result<Ref> {
        // Blocks outermost: as many of them at once as their states have memory.
        let outermost = |x: &Ref| self.blocks(x).permute(&[1, 0, 2, 3]);
        let [q, k, v] = self.qkv.each_ref().map(outermost);
        let (beta, gate) = (outermost(&self.beta), outermost(&self.gate));
        let ([blocks, heads], depth) = ([k.shape[0], k.shape[1]], k.shape[3]);
        let width = if written { v.shape[3] } else { depth };
        let out = scratch(plan, name, &[blocks, heads, self.block, width]);
        let start = (!written).then(|| {
            let one = |n: usize| f32::from(u8::from(n / depth == n % depth));
            plan.constant("identity", HostTensor::from_fn(&[1, 1, depth, depth], one))
        });
        let zeros = (!written).then(|| plan.constant("zeros", HostTensor::from_fn(&[1, 1, 1, depth], |_| 0.0)));
        let decay = if decays { Decay::Scalar } else { Decay::None };
        let op = Scan { decay, scale: if written { self.op.scale } else { 1.0 }, ..self.op };
        let most = (STATES / (heads * depth * width)).max(1);
        for first in (0..blocks).step_by(most) {
            let part = |x: &Ref| x.narrow(0, first, most.min(blocks - first));
            let (q, k, out) = (part(&q), part(&k), part(&out));
            let state = scratch(plan, "unused", &[k.shape[0], heads, depth, width]);
            let v = zeros.as_ref().map_or_else(|| part(&v), |zeros| zeros.broadcast(&k.shape));
            let mut io = ScanIo::new(&q, &k, &v, &out, &state);
            io.state_in = start.as_ref().map(|start| start.broadcast(&state.shape));
            (io.w, io.decay) = (Some(part(&beta)), decays.then(|| part(&gate)));
            plan.scan(name, op, io)?;
        }
        Ok(out.permute(&[1, 0, 2, 3]))
    }

    /// Complete blocks into a scratch (B H, n, Dv) and the committed state, flags (B, H, blocks).
    fn commit(&self, plan: &mut PlanBuilder, flags: &Ref, decays: bool) -> Result<Ref> {
        let n = self.complete();
        let kept = self.scratch(plan, "kept", n, 1);
        // 1 in softmax blocks, of every token.
        let rows = scratch(plan, "types", &[self.qkv[0].shape[0], flags.shape[2]]);
        plan.fold("types", Fold::each(), flags, &rows.split(0, self.batch), vec![hooks::above(0.5, 0.0)])?;
        let kept_blocks = self.blocks(&kept);
        let each = rows.insert(2).insert(3).broadcast(&kept_blocks.shape);
        plan.fold("kept", Fold::each(), &each, &kept_blocks, Vec::new())?;
        let kept = self.tokens(&kept, 0, n);
        let open = changed(plan, "open", &kept, vec![hooks::times(-1.0), hooks::plus(1.0, 1.0)])?;
        let when_open = |plan: &mut PlanBuilder, name: &str, x: &Ref| {
            changed(plan, name, &self.tokens(x, 0, n), vec![hooks::times(&open)])
        };
        let write = when_open(plan, "write", &self.beta)?;
        let gate = if decays { self.tokens(&self.gate, 0, n) } else { when_open(plan, "fade", &self.gate)? };

        let local = self.own(plan, "own", true, true)?;
        // Where the committed state decays through a softmax block, it brings that decay itself.
        let through = self.own(plan, "through", false, !decays)?;
        let moved = |x: &Ref| hooks::times(kept_blocks.broadcast(&x.shape));
        let q = self.blocks(&self.qkv[0]);
        let query = self.scratch(plan, "query", n, q.shape[3]);
        let steps = vec![hooks::plus(&q, -1.0), moved(&q), hooks::plus(&q, 1.0)];
        plan.fold("query", Fold::each(), &through, &self.blocks(&query), steps)?;
        let [query, k, v] = [&query, &self.qkv[1], &self.qkv[2]].map(|x| self.tokens(x, 0, n));
        let read = self.scratch(plan, "read", n, v.shape[3]);
        let state = plan.output("state")?;
        let mut io = ScanIo::new(&query, &k, &v, &self.tokens(&read, 0, n), &state);
        (io.w, io.decay, io.state_in) = (Some(write), Some(gate), plan.optional("state"));
        plan.scan("commit", self.op, io)?;
        let out = self.scratch(plan, "complete", n, v.shape[3]);
        let steps = vec![moved(&local), hooks::plus(self.blocks(&read), 1.0)];
        plan.fold("complete", Fold::each(), &local, &self.blocks(&out), steps)?;
        Ok(out)
    }

    /// The open block from the committed state.
    fn open(&self, plan: &mut PlanBuilder, state: Option<Ref>) -> Result<Ref> {
        let (first, n) = (self.complete(), self.length - self.complete());
        let [q, k, v] = self.qkv.each_ref().map(|x| self.tokens(x, first, n));
        let out = self.scratch(plan, "open", n, v.shape[3]);
        let unused = scratch(plan, "unused", &[k.shape[0], k.shape[1], k.shape[3], v.shape[3]]);
        let mut io = ScanIo::new(&q, &k, &v, &self.tokens(&out, 0, n), &unused);
        (io.w, io.decay) = (Some(self.tokens(&self.beta, first, n)), Some(self.tokens(&self.gate, first, n)));
        io.state_in = state;
        plan.scan("open", self.op, io)?;
        Ok(out)
    }
}

impl NatsL {
    fn linear(&self, problem: &Problem, plan: &mut PlanBuilder, flags: &Ref) -> Result<()> {
        let [batch, heads, length, _] = problem.shape("B H L D")?[..] else { unreachable!("four words") };
        let mut rows = |name: &str, unit: bool| -> Result<Ref> {
            let x = plan.input(name)?;
            let x = if x.shape.len() == 3 { x.insert(3) } else { x };
            let width = x.shape[3];
            let out = scratch(plan, &format!("rows_{name}"), &[batch * heads, length, width]);
            let (label, to) = (format!("rows_{name}"), out.split(0, batch));
            if unit {
                plan.norm(&label, Norm::unit(width, 1e-6), &x, None, &to)?;
            } else {
                plan.fold(&label, Fold::each(), &x, &to, Vec::new())?;
            }
            Ok(out)
        };
        let qkv = [rows("q", true)?, rows("k", true)?, rows("v", false)?];
        let (beta, gate) = (rows("beta", false)?, rows("log_decay", false)?);
        let op = Scan { delta: true, decay: Decay::Scalar, ..Scan::new(default_scale(self.scale, problem)) };
        let branch = Linear { batch, length, block: self.block, op, qkv, beta, gate };
        let (linear, state, blocks) = (plan.output("linear")?, plan.output("state")?, length / self.block);
        let complete = match blocks {
            0 => {
                // Nothing is committed.
                let before = plan.optional("state");
                let zero = plan.constant("zero", HostTensor::from_fn(&[1, 1, 1, 1], |_| 0.0)).broadcast(&state.shape);
                plan.fold("state", Fold::each(), &before.unwrap_or(zero), &state, Vec::new())?;
                None
            }
            _ => Some(branch.commit(plan, &flags.narrow(2, 0, blocks), self.decay_softmax_blocks)?),
        };
        let open = if length % self.block == 0 { None } else { Some(branch.open(plan, Some(state))?) };
        let tokens = |x: &Ref| x.split(0, batch);
        match (complete, open) {
            (Some(a), Some(b)) => {
                let (a, b) = (tokens(&a), tokens(&b));
                let any = a.narrow(2, 0, 1).broadcast(&linear.shape);
                plan.fold("linear", Fold::each(), &any, &linear, vec![hooks::stacked(&a, &b)])
            }
            (Some(x), None) | (None, Some(x)) => plan.fold("linear", Fold::each(), &tokens(&x), &linear, Vec::new()),
            (None, None) => Ok(()),
        }
    }

    fn softmax(&self, problem: &Problem, plan: &mut PlanBuilder, flags: &Ref) -> Result<()> {
        let mut given = Vec::new();
        for (name, default) in [("q_attn", "q"), ("k_attn", "k"), ("v_attn", "v")] {
            given.push(plan.optional(name).map_or_else(|| plan.input(default), Ok)?);
        }
        let [q, k, v] = &given[..] else { unreachable!("three names") };
        if q.shape[3] != k.shape[3] || q.dtype != k.dtype {
            let of = |x: &Ref| format!("{} of width {}", x.dtype.name(), x.shape[3]);
            return Err(problem.refuse(ErrorKind::Shape, "k_attn", format!("{}, like the queries", of(q)), of(k)));
        }
        for (name, x) in [("q_attn", q), ("k_attn", k), ("v_attn", v)] {
            let heads = problem.size("H");
            if x.shape[1] != heads {
                let expected = format!("{heads} heads like `q`");
                return Err(problem.refuse(ErrorKind::Shape, name, expected, x.shape[1]));
            }
        }
        let blocks = flags.shape[2];
        let square = [flags.shape[0], flags.shape[1], blocks, blocks];
        let seen = plan.scratch("seen", DType::U8, &square);
        // The own block, and those of softmax; causality hides the later ones.
        let steps = vec![hooks::diagonal(1.0), hooks::above(0.5, 0.0)];
        plan.fold("seen", Fold::each(), &flags.insert(2).broadcast(&square), &seen, steps)?;
        let scale = self.scale_attn.unwrap_or_else(|| (q.shape[3] as f64).powf(-0.5) as f32);
        let block = self.block.min(problem.size("L"));
        let keys = Keys::Blocks { queries: block, keys: block };
        let mut io = AttendIo::new(q, k, v, &plan.output("softmax")?).lse(&plan.output("lse")?);
        io.indices = Some(seen);
        plan.attend("softmax", Attend { keys, ..Attend::new(scale).causal(true) }, io, Vec::new())
    }
}

impl Variant for NatsL {
    named!();

    /// Those of complete blocks: the next call begins with the open block.
    fn absorbed(&self, tokens: usize) -> usize {
        tokens - tokens % self.block.max(1)
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        same_heads(problem, plan)?;
        if self.block == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "block", "1 or more tokens", 0));
        }
        let flags = plan.input("is_softmax")?;
        self.linear(problem, plan, &flags)?;
        self.softmax(problem, plan, &flags)?;
        let norm = Norm { eps: NORM_EPS, gate: Gate::Silu, scale: 1.0 };
        let mut normed = |name: &str| -> Result<Ref> {
            let x = plan.output(name)?;
            let out = scratch(plan, &format!("normed_{name}"), &x.shape);
            plan.norm(&format!("norm_{name}"), norm, &x, None, &out)?;
            Ok(out)
        };
        let parts = [normed("linear")?, normed("softmax")?];
        let weights = plan.optional("weights").unwrap_or_else(|| {
            let shape = [&parts[0].shape[..3], &[2]].concat();
            plan.constant("weights", HostTensor::from_fn(&[1, 1, 1, 2], |_| 1.0)).broadcast(&shape)
        });
        let out = plan.output("out")?;
        plan.mix(parts.each_ref(), &weights, &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, depth] = q.shape[..] else { panic!("q has rank 4") };
        let (width, flags) = (v.shape[3], inputs.get("is_softmax"));
        let soft = |b: usize, h: usize, block: usize| flags.get(&[b, h, block]) != 0.0;
        let (beta, gate) = (inputs.get("beta"), inputs.get("log_decay"));
        let (unit_q, unit_k) = (q.map_rows(|_, x| unit(x, 1e-6)), k.map_rows(|_, x| unit(x, 1e-6)));
        let mut state = inputs.find("state").cloned().unwrap_or_else(|| Array::zeros(&[batch, heads, depth, width]));
        let mut linear = Array::zeros(&[batch, heads, length, width]);
        for (b, h) in (0..batch * heads).map(|n| (n / heads, n % heads)) {
            let mut committed: Vec<Vec<f64>> = (0..depth).map(|c| state.row(&[b, h, c]).to_vec()).collect();
            for first in (0..length).step_by(self.block) {
                let mut running = committed.clone();
                let tokens = first..length.min(first + self.block);
                for t in tokens.clone() {
                    let (k, decay) = (unit_k.row(&[b, h, t]), gate.get(&[b, h, t]).exp());
                    running.iter_mut().flatten().for_each(|s| *s *= decay);
                    for e in 0..width {
                        let held: f64 = (0..depth).map(|c| running[c][e] * k[c]).sum();
                        let new = beta.get(&[b, h, t]) * (v.get(&[b, h, t, e]) - held);
                        (0..depth).for_each(|c| running[c][e] += k[c] * new);
                        let column: Vec<f64> = running.iter().map(|row| row[e]).collect();
                        linear.set(&[b, h, t, e], scale(self.scale, q) * dot(unit_q.row(&[b, h, t]), &column));
                    }
                }
                if first + self.block > length {
                    continue;
                }
                if !soft(b, h, first / self.block) {
                    committed = running;
                } else if self.decay_softmax_blocks {
                    let decay = tokens.map(|t| gate.get(&[b, h, t])).sum::<f64>().exp();
                    committed.iter_mut().flatten().for_each(|s| *s *= decay);
                }
            }
            (0..depth).for_each(|c| state.row_mut(&[b, h, c]).copy_from_slice(&committed[c]));
        }
        let or = |name: &str, default| inputs.find(name).unwrap_or(default);
        let (q, k, v) = (or("q_attn", q), or("k_attn", k), or("v_attn", v));
        let (softmax, lse) = attention(q, k, v, scale(self.scale_attn, q), &|row, j, s| {
            let own = j / self.block == row.i / self.block;
            (j <= row.i && (own || soft(row.b, row.h, j / self.block))).then_some(s)
        });
        let rms = |x: &[f64]| (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + f64::from(NORM_EPS)).sqrt();
        let out = linear.map_rows(|at, x| {
            let y = softmax.row(at);
            let [a, b] = [0, 1].map(|n| inputs.number("weights", &[at[0], at[1], at[2], n], 1.0));
            x.iter().zip(y).map(|(l, s)| a * l / rms(x) + b * s / rms(y)).collect()
        });
        vec![("out", out), ("linear", linear), ("softmax", softmax), ("lse", lse), ("state", state)]
    }
}
