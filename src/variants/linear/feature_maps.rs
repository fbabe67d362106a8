//! The feature maps of linear attention by themselves, after an optional learned map.
//!
//! ```text
//! out = φ(x W)     W learned, identity if absent
//! elu1: x + 1 if x > 0 else e^x   relu, relu2, silu, sigmoid, exp: elementwise   softmax: over the features
//! exp_pm: [e^x, e^−x]   hedgehog: softmax([2x, −2x])   taylor: [1, x / D^¼, vec(x xᵀ) / √(2D)]   dpfp(ν): r ⊙ roll(r, s), s ≤ ν
//! ```
//!
//! M. Zhang, K. Bhatia, H. Kumbong, C. Ré, "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax
//! Mimicry", ICLR 2024, arXiv 2402.04347, section 4; dpfp: I. Schlag, K. Irie, J. Schmidhuber, ICML 2021, arXiv 2102.11174.
//!
//! Kernels `attend` (the learned map, as a product), `transform` (map).
//!
//! Limits: the learned map is shared by the heads. e^x overflows f32 beyond 88.

use crate::error::{ErrorKind, Result};
use crate::kernel::transform::{Feature, Map};
use crate::oracle::{Inputs, Outputs, dot, features};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::FeatureMap;
use crate::variants::common::projected;
use crate::{named, params};

params! {
    /// A feature map.
    pub struct FeatureMaps {
        /// The map.
        map: FeatureMap = FeatureMap::Elu1,
        /// Order of dpfp.
        nu: usize = 1,
    }
}

impl Named for FeatureMaps {
    const CARD: Card = Card {
        name: "feature-maps",
        family: Family::Linear,
        summary: "The feature maps of linear attention by themselves.",
        equation: "out = φ(x W)",
        paper: "Zhang et al., The Hedgehog & the Porcupine, ICLR 2024, arXiv 2402.04347",
        inputs: &[InputSpec::real("x", "B H L D"), InputSpec::float("weight", "D Do").optional()],
        outputs: &[OutputSpec::float("out", "B H L F")],
        forms: &["prefill"],
        kernels: &["attend", "transform"],
    };
}

impl Variant for FeatureMaps {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.nu == 0 {
            return Err(problem.refuse(ErrorKind::Parameter, "nu", "1 or more", 0));
        }
        let x = projected(plan, "x", "weight")?;
        let feature = match self.map.feature() {
            Feature::Dpfp(_) => Feature::Dpfp(self.nu),
            other => other,
        };
        let shape = [x.shape[0], x.shape[1], x.shape[2], feature.width(x.shape[3])];
        let out = plan.output_as("out", &shape)?;
        plan.map("map", Map { feature }, &x, &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let out = inputs.get("x").map_rows(|_, x| {
            let x = match inputs.find("weight") {
                None => x.to_vec(),
                Some(w) => {
                    (0..w.shape[1]).map(|e| dot(x, &(0..x.len()).map(|d| w.get(&[d, e])).collect::<Vec<_>>())).collect()
                }
            };
            if self.map == FeatureMap::Dpfp { features::dpfp(&x, self.nu) } else { self.map.features(&x) }
        });
        vec![("out", out)]
    }
}
