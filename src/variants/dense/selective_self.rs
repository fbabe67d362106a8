//! Softmax attention at a temperature of each query, and with values scaled each by its own.
//!
//! ```text
//! tau_q,i = tok_q,i + 1 + coef_q ln(pos_q,i + 1)     tau_v,j likewise     what is absent counts 0
//! out_i = Σ_j e^(tau_q,i scale q_i·k_j − lse_i) tau_v,j v_j     over the allowed j
//! ```
//!
//! X. Zhang, X. Chang, M. Li, A. Roy-Chowdhury, J. Chen, S. Oymak, "Selective Attention: Enhancing Transformer through
//! Principled Context Control", NeurIPS 2024, arXiv 2411.12892, section 3. Its released code has the position term of the
//! query, with coef = e^(−e^beta).
//!
//! Kernels `diagnose` (temperatures, values), `attend`, softmax weights; score hook times, mask hooks causal and mask.
//!
//! Limits: positions default to i + Lk − Lq and j, and are 0 or more. A token term may make tau_q negative, which turns the
//! order of the scores. Values are scaled per query head: with fewer KV heads, k and v are widened to H. A row without keys
//! has out = 0 and lse = −∞.

use crate::error::Result;
use crate::hooks;
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, attention, bottom_right, scale, shared_head};
use crate::plan::{Check, PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, LSE, MASK, OUT, Q, V, attend_io, default_scale, given_mask, of_rows};
use crate::variants::steps::{every_head, scratch};
use crate::{named, params};

params! {
    /// Softmax attention at temperatures of tokens.
    pub struct SelectiveSelfAttention {
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for SelectiveSelfAttention {
    const CARD: Card = Card {
        name: "selective-self-attention",
        family: Family::Dense,
        summary: "Softmax attention at a temperature of each query, with scaled values.",
        equation: "out_i = Σ_j softmax_j(tau_i scale q_i·k_j) tau'_j v_j, tau = tok + 1 + coef ln(pos + 1)",
        paper: "Zhang et al., Selective Attention, NeurIPS 2024, arXiv 2411.12892",
        inputs: &[
            Q,
            K,
            V,
            MASK,
            InputSpec::index("pos_q", "Lq").optional(),
            InputSpec::index("pos_k", "Lk").optional(),
            InputSpec::float("coef_q", "H").optional(),
            InputSpec::float("coef_v", "H").optional(),
            InputSpec::float("tok_q", "B H Lq").optional(),
            InputSpec::float("tok_v", "B H Lk").optional(),
        ],
        outputs: &[OUT, LSE, OutputSpec::float("tau_q", "B H Lq"), OutputSpec::float("tau_v", "B H Lk")],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["diagnose", "diagnose", "attend"],
    };
}

/// The output `tau` (B, H, L) as (B, H, L, 1). `first` is the default position of token 0.
fn temperature(plan: &mut PlanBuilder, [tau, position, coefficient, token]: [&str; 4], first: i64) -> Result<Ref> {
    let out = plan.output(tau)?.insert(3);
    let length = out.shape[2];
    let position = match plan.optional(position) {
        Some(given) => {
            plan.check(&given, Check::AtMost(i32::MAX as usize));
            of_rows(&given)
        }
        None => {
            let list = (0..length as i64).map(|i| (first + i).max(0) as i32).collect::<Vec<_>>();
            plan.constant(position, HostTensor::new(&[1, 1, length, 1], list)?)
        }
    };
    let mut chain = match plan.optional(coefficient) {
        None => vec![hooks::take(1.0, 1.0)],
        Some(coefficient) => vec![
            hooks::plus(1.0, 1.0),
            hooks::logarithm(),
            hooks::times(coefficient.insert(1).insert(1).insert(0)),
            hooks::plus(1.0, 1.0),
        ],
    };
    chain.extend(plan.optional(token).map(|token| hooks::plus(token.insert(3), 1.0)));
    plan.fold(tau, Fold::each(), &position.broadcast(&out.shape), &out, chain)?;
    Ok(out)
}

impl Variant for SelectiveSelfAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [heads, lq, lk] = ["H", "Lq", "Lk"].map(|letter| problem.size(letter));
        let tau_q = temperature(plan, ["tau_q", "pos_q", "coef_q", "tok_q"], lk as i64 - lq as i64)?;
        let tau_v = temperature(plan, ["tau_v", "pos_k", "coef_v", "tok_v"], 0)?;
        let mut io = attend_io(plan)?;
        if problem.has("coef_v") || problem.has("tok_v") {
            let scaled = scratch(plan, "v_scaled", &problem.shape("B H Lk Dv")?);
            plan.fold("v_scaled", Fold::each(), &io.v, &scaled, vec![hooks::times(tau_v)])?;
            (io.k, io.v) = (every_head(plan, "k_heads", &io.k, heads)?, scaled);
        }
        io.lse = Some(plan.output("lse")?);
        let mut hooks = vec![hooks::times(tau_q)];
        hooks.extend(given_mask(problem, plan)?);
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)).causal(self.causal), io, hooks)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, lq, _] = q.shape[..] else { panic!("q has rank 4") };
        let (lk, dv) = (k.shape[2], v.shape[3]);
        let tau = |length: usize, names: [&str; 3], default: &dyn Fn(usize) -> i64| {
            let mut tau = Array::zeros(&[batch, heads, length]);
            for n in 0..tau.data.len() {
                let (b, h, i) = (n / (heads * length), n / length % heads, n % length);
                let position = inputs.number(names[0], &[i], default(i).max(0) as f64);
                let term = inputs.number(names[1], &[h], 0.0) * (position + 1.0).ln();
                tau.data[n] = inputs.number(names[2], &[b, h, i], 0.0) + 1.0 + term;
            }
            tau
        };
        let tau_q = tau(lq, ["pos_q", "coef_q", "tok_q"], &|i| bottom_right(i, q, k));
        let tau_v = tau(lk, ["pos_k", "coef_v", "tok_v"], &|j| j as i64);
        let wide = |x: &Array, width: usize, factor: &dyn Fn(&[usize]) -> f64| {
            Array::zeros(&[batch, heads, lk, width]).map_rows(|at, _| {
                let row = x.row(&[at[0], shared_head(at[1], heads, x), at[2]]);
                row.iter().map(|x| factor(at) * x).collect()
            })
        };
        let values = wide(v, dv, &|at| tau_v.get(at));
        let keys = wide(k, k.shape[3], &|_| 1.0);
        let (out, lse) = attention(q, &keys, &values, scale(self.scale, q), &|row, j, s| {
            inputs.allowed(self.causal, row, j).then_some(tau_q.get(&[row.b, row.h, row.i]) * s)
        });
        vec![("out", out), ("lse", lse), ("tau_q", tau_q), ("tau_v", tau_v)]
    }
}
