//! Context-dependent kernels over a whole image: what a slow network says of a channel, times its activations.
//!
//! ```text
//! matmul:       out_c = w_c z_c           w_c (Y, Y), z_c (Y, X)
//! elementwise:  out = z ⊙ w ⊙ z           w broadcast to z: a score of channels, of places or of both
//! ```
//!
//! H. Zhang, "HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction", 2024, arXiv 2401.17948, section 3
//! (global form); the product of matrices takes w alone, as the released code does.
//!
//! Kernel `attend` (product of matrices) or `diagnose` (two products of numbers).
//!
//! Limits: the slow network, a small net of coordinates, is outside: its kernels are the input `w`. Not causal. Matrices take
//! images of up to 512 columns. No gate follows the elementwise form.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::ZzwMode;
use crate::variants::steps::product;
use crate::{named, params};

params! {
    /// The global HyperZZW operator.
    pub struct HyperZzw {
        /// A product of matrices, or of numbers.
        mode: ZzwMode = ZzwMode::Matmul,
    }
}

impl Named for HyperZzw {
    const CARD: Card = Card {
        name: "hyper-zzw",
        family: Family::Linear,
        summary: "Context-dependent kernels over a whole image.",
        equation: "out_c = W_c Z_c, or out = Z ⊙ W ⊙ Z",
        paper: "Zhang, HyperZ·Z·W Operator Connects Slow-Fast Networks, 2024, arXiv 2401.17948",
        inputs: &[InputSpec::real("z", "B Ch Y X"), InputSpec::float("w", "Ch Y Y | broadcastable to B Ch Y X")],
        outputs: &[OutputSpec::float("out", "B Ch Y X")],
        forms: &["bidirectional"],
        kernels: &["attend", "diagnose"],
    };
}

impl Variant for HyperZzw {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let full = problem.shape("B Ch Y X")?;
        let [batch, channels, rows, _] = full[..] else { unreachable!("four words") };
        let (z, w, out) = (plan.input("z")?, plan.input("w")?, plan.output("out")?);
        if self.mode == ZzwMode::Matmul {
            if w.shape != [channels, rows, rows] {
                let expected = format!("[{channels}, {rows}, {rows}], a matrix of rows for each channel");
                return Err(problem.refuse(ErrorKind::Shape, "w", expected, format!("{:?}", w.shape)));
            }
            let every = w.insert(0).broadcast(&[batch, channels, rows, rows]);
            return product(plan, "multiply", &every, &z, 1.0, &out, None);
        }
        let w = w.lead(4);
        if w.shape.iter().zip(&full).any(|(&n, &want)| n != 1 && n != want) {
            let expected = format!("a shape that broadcasts to {full:?}");
            return Err(problem.refuse(ErrorKind::Shape, "w", expected, format!("{:?}", w.shape)));
        }
        let twice = vec![hooks::times(w.broadcast(&full)), hooks::times(&z)];
        plan.fold("multiply", Fold::each(), &z, &out, twice)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (z, w) = (inputs.get("z"), inputs.get("w"));
        let [_, _, rows, columns] = z.shape[..] else { panic!("z has rank 4") };
        let mut out = Array::zeros(&z.shape);
        for n in 0..out.data.len() {
            let (b, c, y, x) =
                (n / columns / rows / z.shape[1], n / columns / rows % z.shape[1], n / columns % rows, n % columns);
            out.data[n] = match self.mode {
                ZzwMode::Matmul => (0..rows).map(|j| w.get(&[c, y, j]) * z.get(&[b, c, j, x])).sum(),
                // The last axes of w are those of z.
                ZzwMode::Elementwise => z.data[n] * w.get(&[b, c, y, x][4 - w.shape.len()..]) * z.data[n],
            };
        }
        vec![("out", out)]
    }
}
