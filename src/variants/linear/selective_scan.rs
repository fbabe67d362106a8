//! A state space whose decay is chosen by the data, channel by channel: the recurrence of Mamba.
//!
//! ```text
//! h_pn = e^{Δ_p a_pn} h_pn + Δ_p u_p B_n     out_p = Σ_n C_n h_pn + skip_p u_p     at every token; a < 0
//! ```
//!
//! A. Gu, T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", COLM 2024, arXiv 2312.00752, sections
//! 3.2 and 3.3.
//!
//! Kernel `scan.selective`, of its own: the decay is a matrix per token, which no product of vectors gives, so that the
//! matrix scan does not serve.
//!
//! Limits: always causal, a real, Δ positive as given, up to 128 states a channel. A skip and a state together need nine
//! bindings; without a ninth the skip is a stage of its own.

use crate::error::Result;
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Mamba's selective scan.
    pub struct SelectiveScan {}
}

impl Named for SelectiveScan {
    const CARD: Card = Card {
        name: "selective-scan",
        family: Family::Linear,
        summary: "A state space whose decay is chosen by the data, channel by channel.",
        equation: "h_pn = e^{Δ_p a_pn} h_pn + Δ_p u_p B_n, out_p = Σ_n C_n h_pn + skip_p u_p",
        paper: "Gu, Dao, Mamba, COLM 2024, arXiv 2312.00752",
        inputs: &[
            InputSpec::float("u", "B L P"),
            InputSpec::float("dt", "B L P"),
            InputSpec::float("a", "P Ns"),
            InputSpec::float("bmat", "B L Ns"),
            InputSpec::float("cmat", "B L Ns"),
            InputSpec::float("skip", "P").optional(),
            InputSpec::float("state", "B P Ns").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B L P"), OutputSpec::float("state", "B P Ns")],
        forms: &["prefill", "recurrent", "step"],
        kernels: &["scan", "diagnose"],
    };
}

impl Variant for SelectiveScan {
    named!();

    fn plan(&self, _: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [u, dt, a, b, c] = ["u", "dt", "a", "bmat", "cmat"].map(|name| plan.input(name));
        let (u, out, skip, before) = (u?, plan.output("out")?, plan.optional("skip"), plan.optional("state"));
        // Both do not fit the bindings of every device.
        let apart = skip.is_some() && before.is_some();
        let read = if apart { scratch(plan, "read", &out.shape) } else { out.clone() };
        let inside = skip.clone().filter(|_| !apart);
        let state = plan.output("state")?;
        plan.selective("scan", [&u, &dt?, &a?, &b?, &c?], [before, inside], [&read, &state])?;
        match skip.filter(|_| apart) {
            Some(skip) => {
                let steps =
                    vec![hooks::times(skip.lead(4).broadcast(&u.lead(4).shape)), hooks::plus(read.lead(4), 1.0)];
                plan.fold("skip", Fold::each(), &u, &out, steps)
            }
            None => Ok(()),
        }
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (u, a) = (inputs.get("u"), inputs.get("a"));
        let ([batch, length, channels], states) = ([u.shape[0], u.shape[1], u.shape[2]], a.shape[1]);
        let mut h = inputs.find("state").cloned().unwrap_or_else(|| Array::zeros(&[batch, channels, states]));
        let mut out = Array::zeros(&u.shape);
        for b in 0..batch {
            for t in 0..length {
                for p in 0..channels {
                    let (x, dt) = (u.get(&[b, t, p]), inputs.get("dt").get(&[b, t, p]));
                    let mut y = inputs.number("skip", &[p], 0.0) * x;
                    for n in 0..states {
                        let new = (dt * a.get(&[p, n])).exp() * h.get(&[b, p, n])
                            + dt * x * inputs.get("bmat").get(&[b, t, n]);
                        h.set(&[b, p, n], new);
                        y += inputs.get("cmat").get(&[b, t, n]) * new;
                    }
                    out.set(&[b, t, p], y);
                }
            }
        }
        vec![("out", out), ("state", h)]
    }
}
