//! Softmax attention with a learned bias for each bucket of distances, finer near and coarser far.
//!
//! ```text
//! s_ij = scale q_i·k_j + table[bucket(j − i'), h]     i' = i + Lk − Lq     nb buckets, exact = nb/2
//! bidirectional: half of the buckets for j > i', n = |j − i'|     else n = max(i' − j, 0)
//! bucket = n below exact, else min(nb − 1, exact + ⌊ln(n/exact) / ln(max_distance/exact) (nb − exact)⌋)
//! ```
//!
//! C. Raffel, N. Shazeer, A. Roberts, K. Lee, S. Narang, M. Matena, Y. Zhou, W. Li, P. J. Liu, "Exploring the Limits of
//! Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020, arXiv 1910.10683, section 2.1; the buckets are
//! those of the authors' code.
//!
//! Kernel `attend`, softmax weights; score hook bucket_bias, mask hooks causal and mask. The bucket of each distance is
//! found on the host: a logarithm of a shader would flip buckets at their borders.
//!
//! Limits: at least 2 buckets (4 bidirectional) and a `max_distance` above the exact ones. The output `buckets` is (Lq,
//! Lk), for inspection. A row without keys has out = 0 and lse = −∞.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, attention, bottom_right};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, given_mask, softmax};
use crate::{named, params};

params! {
    /// Softmax attention with bucketed relative biases.
    pub struct T5BiasAttention {
        /// Half of the buckets are for later keys.
        bidirectional: bool = true,
        /// Distance from which on all keys share the last bucket.
        max_distance: usize = 128,
        /// Factor of q·k.
        scale: f32 = 1.0,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
    }
}

impl Named for T5BiasAttention {
    const CARD: Card = Card {
        name: "t5-bias-attention",
        family: Family::Dense,
        summary: "Softmax attention with a learned bias for each bucket of distances.",
        equation: "s_ij = scale q_i·k_j + table[bucket(j − i'), h]",
        paper: "Raffel et al., Exploring the Limits of Transfer Learning, JMLR 2020, arXiv 1910.10683",
        inputs: &[Q, K, V, MASK, InputSpec::float("table", "Nb H")],
        outputs: &[OUT, LSE, OutputSpec::index("buckets", "Lq Lk")],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["attend", "diagnose"],
    };
}

impl T5BiasAttention {
    /// The bucket of key − query.
    fn bucket(&self, distance: i64, buckets: usize) -> usize {
        let (side, count) = if self.bidirectional { (buckets / 2, buckets / 2) } else { (0, buckets) };
        let first = if distance > 0 { side } else { 0 };
        let n = if self.bidirectional { distance.unsigned_abs() } else { (-distance).max(0) as u64 } as f64;
        let exact = count / 2;
        if n < exact as f64 {
            return first + n as usize;
        }
        let share = (n / exact as f64).ln() / (self.max_distance as f64 / exact as f64).ln();
        first + (exact + (share * (count - exact) as f64) as usize).min(count - 1)
    }
}

impl Variant for T5BiasAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [lq, lk, buckets] = [problem.size("Lq"), problem.size("Lk"), problem.size("Nb")];
        let least = if self.bidirectional { 4 } else { 2 };
        if buckets < least {
            return Err(problem.refuse(ErrorKind::Shape, "table", format!("{least} buckets or more"), buckets));
        }
        let exact = buckets / if self.bidirectional { 4 } else { 2 };
        if self.max_distance <= exact {
            let expected = format!("more than the {exact} exact distances");
            return Err(problem.refuse(ErrorKind::Parameter, "max_distance", expected, self.max_distance));
        }
        // Distances from −(Lk − 1), of the last query and key 0, to Lq − 1.
        let list = (0..lq + lk - 1).map(|n| self.bucket(n as i64 - (lk as i64 - 1), buckets) as i32);
        let list = plan.constant("bucket", HostTensor::new(&[1, 1, 1, lq + lk - 1], list.collect::<Vec<_>>())?);
        let table = plan.input("table")?.permute(&[1, 0]).insert(1).insert(0);
        let mut hooks = vec![hooks::bucket_bias(&list, lk - 1, &table)];
        hooks.extend(given_mask(problem, plan)?);
        softmax(plan, Attend::new(self.scale).causal(self.causal), hooks)?;
        let zero = plan.constant("zero", HostTensor::zeros(&[1, 1, 1, 1])).broadcast(&[1, 1, lq, lk]);
        let out = plan.output("buckets")?;
        plan.fold("buckets", Fold::each(), &zero, &out, vec![hooks::bucket(&list, lk - 1)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let table = inputs.get("table");
        let bucket = |i: usize, j: usize| {
            let (mut nb, mut offset) = (table.shape[0], 0);
            let rel = j as i64 - bottom_right(i, q, k);
            let n = if self.bidirectional {
                nb /= 2;
                offset = if rel > 0 { nb } else { 0 };
                rel.abs()
            } else {
                (-rel).max(0)
            };
            let exact = nb / 2;
            if (n as usize) < exact {
                return offset + n as usize;
            }
            let ratio = (n as f64 / exact as f64).ln() / (self.max_distance as f64 / exact as f64).ln();
            offset + (nb - 1).min(exact + (ratio * (nb - exact) as f64).floor() as usize)
        };
        let (out, lse) = attention(q, k, v, f64::from(self.scale), &|row, j, s| {
            inputs.allowed(self.causal, row, j).then(|| s + table.get(&[bucket(row.i, j), row.h]))
        });
        let (lq, lk) = (q.shape[2], k.shape[2]);
        let data = (0..lq * lk).map(|n| bucket(n / lk, n % lk) as f64).collect();
        vec![("out", out), ("lse", lse), ("buckets", Array { shape: vec![lq, lk], data })]
    }
}
