//! The messages of reversed attention: which head a token speaks through, and how much it still says.
//!
//! ```text
//! p_h       = softmax_h(head_logits_h / temperature)
//! control_i = previous_i σ(control_logits_i)     previous = 1 in the first layer
//! message_hi = p_hi control_i
//! ```
//!
//! M. Ding, Y. Shen, L. Fan, Z. Chen, Z. Chen, P. Luo, J. B. Tenenbaum, C. Gan, "Visual Dependency Transformers:
//! Dependency Tree Emerges from Reversed Attention", CVPR 2023, arXiv 2304.03282, section 3.2 (head selector, message
//! controller).
//!
//! Kernels `diagnose` for the arithmetic, `transform` for the softmax over heads.
//!
//! Limits: the two small networks that make the logits are outside; biases belong to them.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Array, Inputs, Outputs, features};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Head selector and message controller.
    pub struct ReversedMessage {
        /// Divides the logits of the heads; above 0.
        temperature: f32 = 0.1,
    }
}

impl Named for ReversedMessage {
    const CARD: Card = Card {
        name: "reversed-message",
        family: Family::Dense,
        summary: "The messages of reversed attention, by head selector and controller.",
        equation: "message_hi = softmax_h(logits_ih / temperature) previous_i σ(control_i)",
        paper: "Ding et al., Visual Dependency Transformers, CVPR 2023, arXiv 2304.03282",
        inputs: &[
            InputSpec::float("head_logits", "B L H"),
            InputSpec::float("control_logits", "B L"),
            InputSpec::float("previous", "B L").optional(),
        ],
        outputs: &[OutputSpec::float("message", "B H L"), OutputSpec::float("control", "B L")],
        forms: &["prefill", "bidirectional"],
        kernels: &["diagnose", "transform", "diagnose", "diagnose"],
    };
}

impl Variant for ReversedMessage {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.temperature <= 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "temperature", "a number above 0", self.temperature));
        }
        let shape = problem.shape("1 B L H")?;
        let (logits, heads) = (scratch(plan, "logits", &shape), scratch(plan, "heads", &shape));
        let sharpen = Fold::each().scaled(1.0 / self.temperature);
        plan.fold("sharpen", sharpen, &plan.input("head_logits")?, &logits, Vec::new())?;
        plan.map("heads", Map { feature: Feature::Softmax }, &logits, &heads)?;
        let control = plan.output("control")?;
        let mut chain = vec![hooks::logistic()];
        chain.extend(plan.optional("previous").map(|p| hooks::times(p.lead(4))));
        plan.fold("control", Fold::each(), &plan.input("control_logits")?, &control, chain)?;
        let message = plan.output("message")?;
        let by_token = vec![hooks::times(control.insert(1).lead(4))];
        plan.fold("message", Fold::each(), &heads.permute(&[0, 1, 3, 2]), &message, by_token)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let logits = inputs.get("head_logits");
        let [batch, length, heads] = logits.shape[..] else { panic!("head_logits has rank 3") };
        let control = inputs.get("control_logits").map_rows(|at, row| {
            let open = |(i, x): (usize, &f64)| inputs.number("previous", &[at[0], i], 1.0) / (1.0 + (-x).exp());
            row.iter().enumerate().map(open).collect()
        });
        let p = logits.map_rows(|_, row| {
            features::softmax(&row.iter().map(|x| x / f64::from(self.temperature)).collect::<Vec<_>>())
        });
        let message = Array::zeros(&[batch, heads, length])
            .map_rows(|at, _| (0..length).map(|i| p.get(&[at[0], i, at[1]]) * control.get(&[at[0], i])).collect());
        vec![("message", message), ("control", control)]
    }
}
