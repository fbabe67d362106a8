//! Which blocks of tokens are kept for softmax attention: a learned score of the mean of what a block holds.
//!
//! ```text
//! score_t = mean over the tokens of block t of x · W_score     two numbers a head
//! is_softmax_t = score_t0 ≥ score_t1                           else the block goes into the recurrent state
//! ```
//!
//! D. Deng, A. Bentzen Winje, L. Fehring, M. Lindauer, "Neural Attention Search Linear: Towards Adaptive Token-Level Hybrid
//! Attention Models", ICML 2026, arXiv 2602.03681, section 3; `nats-l` takes the result.
//!
//! Kernels `pool` (means), `diagnose` (scores, comparison).
//!
//! Limits: complete blocks only, and at least one: the type of a block is known when it ends. A tie is softmax. The search that
//! trains the scores is outside.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::{Fold, Of, Reduce};
use crate::kernel::pool::Pool;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, scratch};
use crate::{named, params};

params! {
    /// Types of the blocks of NAtS-L.
    pub struct NatsBlockTypes {
        /// Tokens of a block.
        block: usize = 64,
    }
}

impl Named for NatsBlockTypes {
    const CARD: Card = Card {
        name: "nats-l-block-types",
        family: Family::Linear,
        summary: "Which blocks of tokens are kept for softmax attention.",
        equation: "is_softmax_t = [s_t0 ≥ s_t1], s_t = mean over block t of x · W_score",
        paper: "Deng et al., Neural Attention Search Linear (NAtS-L), ICML 2026, arXiv 2602.03681",
        // x has no heads.
        inputs: &[InputSpec::float("x", "B L Cx"), InputSpec::float("w_score", "Cx H 2")],
        outputs: &[OutputSpec::flag("is_softmax", "B H L//block"), OutputSpec::float("score", "B H L//block 2")],
        forms: &["prefill"],
        kernels: &["pool", "diagnose"],
    };
}

impl Variant for NatsBlockTypes {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (x, weight) = (plan.input("x")?, plan.input("w_score")?);
        let ([batch, length, width], heads) = ([0, 1, 2].map(|axis| x.shape[axis]), weight.shape[1]);
        if self.block == 0 || self.block > length {
            return Err(problem.refuse(ErrorKind::Parameter, "block", format!("from 1 to L = {length}"), self.block));
        }
        let mean = scratch(plan, "mean", &[batch, length / self.block, width]);
        let pool = Pool { size: self.block, stride: self.block, offset: 0, mean: true };
        plan.pool("mean", pool, &x.lead(5), None, &mean.lead(5))?;
        let score = plan.output("score")?;
        let [_, _, blocks, _] = score.shape[..] else { unreachable!("four words") };
        let mean = mean.insert(1).broadcast(&[batch, heads, blocks, width]);
        let sides = changed(plan, "sides", &weight.permute(&[1, 2, 0]), Vec::new())?;
        let sides = sides.broadcast(&[batch, heads, 2, width]);
        let dot = Fold { of: Of::Dot, reduce: Reduce::Each, ..Fold::each() };
        plan.fold_pairs("score", dot, [&mean, &sides, &score], None, Vec::new())?;
        // Not less: 1 where linear is ahead, then 1 where that is 0.
        let [softmax, linear] = [0, 1].map(|n| score.narrow(3, n, 1));
        let steps = vec![hooks::above(softmax, 0.0), hooks::equals(0.0)];
        let flags = plan.output("is_softmax")?;
        plan.fold("compare", Fold::each(), &linear, &flags.insert(3), steps)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (x, weight) = (inputs.get("x"), inputs.get("w_score"));
        let ([batch, length, width], heads) = ([0, 1, 2].map(|axis| x.shape[axis]), weight.shape[1]);
        let score = Array::zeros(&[batch, heads, length / self.block, 2]).map_rows(|at, _| {
            let mean = |c: usize| {
                let tokens = at[2] * self.block..(at[2] + 1) * self.block;
                tokens.map(|t| x.get(&[at[0], t, c])).sum::<f64>() / self.block as f64
            };
            (0..2).map(|side| (0..width).map(|c| mean(c) * weight.get(&[c, at[1], side])).sum()).collect()
        });
        let flags = score.map_rows(|_, s| vec![f64::from(u8::from(s[0] >= s[1]))]);
        vec![("is_softmax", Array { shape: flags.shape[..3].to_vec(), ..flags }), ("score", score)]
    }
}
