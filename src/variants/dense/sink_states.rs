//! Which tokens are secondary sinks, from hidden states: those that point where the primary sink points, in some layers.
//!
//! ```text
//! present_lt = t > primary and |cos(x_lt, x_l,primary)| > threshold
//! layers_t   = Σ_l present_lt
//! label_t    = 2 (as the primary) for layers_t ≥ Nl − margin, else 1 (secondary) for layers_t ≥ min_layers, else 0 (noise)
//! ```
//!
//! "On the Existence and Behaviour of Secondary Attention Sinks", 2025 (published code).
//!
//! Kernel `diagnose`: dot products and norms along the channels, flags, and counts over the layers.
//!
//! Limits: min_layers ≤ Nl − margin, else the classes overlap. Of several candidate primaries the one of highest mean norm
//! is the caller's choice. A state of zeros has cosine 0.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, dot};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{changed, folded};
use crate::{named, params};

params! {
    /// Classes of sinks by hidden states.
    pub struct SinkStates {
        /// The token of the primary sink.
        primary: usize = 0,
        /// Cosine above which a state points the same way.
        threshold: f32 = 0.9,
        /// Layers from which on a token is a secondary sink.
        min_layers: usize = 5,
        /// Layers that a sink of the primary's class may lack.
        margin: usize = 15,
    }
}

impl Named for SinkStates {
    const CARD: Card = Card {
        name: "sink-states",
        family: Family::Dense,
        summary: "Secondary sinks, by hidden states that point where the primary sink points.",
        equation: "layers_t = #{l : |cos(x_lt, x_l,primary)| > threshold}, label_t by layers_t",
        paper: "On the Existence and Behaviour of Secondary Attention Sinks, 2025",
        inputs: &[InputSpec::float("hidden", "Nl L Cx")],
        outputs: &[
            OutputSpec::flag("present", "Nl L"),
            OutputSpec::index("layers", "L"),
            OutputSpec::index("label", "L"),
        ],
        forms: &["prefill"],
        kernels: &["diagnose"],
    };
}

impl Variant for SinkStates {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (depth, length) = (problem.size("Nl"), problem.size("L"));
        if self.primary >= length {
            let expected = format!("a token below L = {length}");
            return Err(problem.refuse(ErrorKind::Parameter, "primary", expected, self.primary));
        }
        if self.min_layers + self.margin > depth {
            let expected = format!("min_layers + margin <= Nl = {depth}");
            let found = format!("{} + {}", self.min_layers, self.margin);
            return Err(problem.refuse(ErrorKind::Parameter, "margin", expected, found));
        }
        let hidden = plan.input("hidden")?.insert(1);
        let primary = hidden.narrow(2, self.primary, 1);
        let dots = folded(plan, "dots", Fold::sum(), &hidden, vec![hooks::times(primary)])?.permute(&[0, 1, 3, 2]);
        let squares = folded(plan, "squares", Fold::sum(), &hidden, vec![hooks::times(&hidden)])?;
        let root = vec![hooks::at_least(1e-30), hooks::power(-0.5)];
        let norm = changed(plan, "inverse_norm", &squares.permute(&[0, 1, 3, 2]), root)?;
        let after = HostTensor::from_fn(&[1, 1, 1, length], |t| if t > self.primary { 1.0 } else { 0.0 });
        let after = plan.constant("after", after);
        let chain = vec![
            hooks::times(&norm),
            hooks::times(norm.narrow(3, self.primary, 1)),
            hooks::magnitude(),
            hooks::above(self.threshold, 0.0),
            hooks::times(after),
        ];
        let (present, layers, label) = (plan.output("present")?, plan.output("layers")?, plan.output("label")?);
        plan.fold("present", Fold::each(), &dots, &present.insert(1).insert(1), chain)?;
        plan.fold("layers", Fold::sum(), &present.permute(&[1, 0]), &layers.insert(1), Vec::new())?;
        let from = |count: usize| hooks::above(count as f32 - 0.5, 0.0);
        let some = changed(plan, "some", &layers, vec![from(self.min_layers)])?;
        plan.fold("label", Fold::each(), &layers, &label, vec![from(depth - self.margin), hooks::plus(some, 1.0)])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let hidden = inputs.get("hidden");
        let [depth, length, _] = hidden.shape[..] else { panic!("hidden has rank 3") };
        let present = Array::zeros(&[depth, length]).map_rows(|at, _| {
            let primary = hidden.row(&[at[0], self.primary]);
            let one = |t: usize| {
                let x = hidden.row(&[at[0], t]);
                let cosine = dot(x, primary) / (dot(x, x) * dot(primary, primary)).sqrt().max(1e-30);
                t > self.primary && cosine.abs() > f64::from(self.threshold)
            };
            (0..length).map(|t| f64::from(u8::from(one(t)))).collect()
        });
        let layers = Array::zeros(&[length])
            .map_rows(|_, _| (0..length).map(|t| (0..depth).map(|l| present.get(&[l, t])).sum()).collect());
        let label = layers.map_rows(|_, n| {
            let class = |&n: &f64| match n as usize {
                n if n >= depth - self.margin => 2.0,
                n if n >= self.min_layers => 1.0,
                _ => 0.0,
            };
            n.iter().map(class).collect()
        });
        vec![("present", present), ("layers", layers), ("label", label)]
    }
}
