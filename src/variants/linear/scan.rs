//! The recurrence that the linear variants are presets of, with everything it takes, under its own names.
//!
//! ```text
//! S_t = diag(e^{g_t}) S_{t−1} + b_t (a_tᵀ S_{t−1}) + w_t k_t v_tᵀ        z_t = e^{g_t} ⊙ z_{t−1} + w_t kn_t
//! read after:  n_t = scale q_tᵀ S_t       read before: n_t = scale q_tᵀ (S_{t−1} + diag(u) w_t k_t v_tᵀ)
//! none: out = n     sum: out = n / (scale qn_tᵀ z_t + eps)     abs_max1: out = n / max(|scale qn_tᵀ z_t|, 1)
//! ```
//!
//! S. Yang, B. Wang, Y. Shen, R. Panda, Y. Kim, "Gated Linear Attention Transformers with Hardware-Efficient Training",
//! ICML 2024, arXiv 2312.06635, section 4; with erase: S. Yang et al., arXiv 2406.06484, section 3.
//!
//! Kernel `scan`; where the normaliser has vectors of its own, a second scan over values of 1 and `diagnose` to divide.
//!
//! Limits: always causal. `erase_left` and `erase_right` come together, `bonus` only with read = before. The normaliser
//! is never erased. q, k and v may each have fewer heads than the state.

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::{Decay, Divide, Scan};
use crate::oracle::{Inputs, Outputs, Recurrence};
use crate::plan::{PlanBuilder, Ref, ScanIo};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{STATE, Z, decay_of, gate_at};
use crate::variants::{Normaliser, Read};
use crate::{named, params};

params! {
    /// The general linear recurrence.
    pub struct GeneralScan {
        /// Whether a token reads what it writes.
        read: Read = Read::After,
        /// What a read is divided by.
        normaliser: Normaliser = Normaliser::None,
        /// Added to the sum of the weights.
        eps: f32 = 1e-6,
        /// Factor of q and q_norm.
        scale: f32 = 1.0,
    }
}

impl Named for GeneralScan {
    const CARD: Card = Card {
        name: "scan",
        family: Family::Linear,
        summary: "The recurrence that the linear variants are presets of.",
        equation: "S_t = diag(e^{g_t}) S_{t−1} + b_t (a_tᵀ S_{t−1}) + w_t k_t v_tᵀ, out_t = scale q_tᵀ S_t",
        paper: "Yang et al., Gated Linear Attention Transformers, ICML 2024, arXiv 2312.06635",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::float("log_decay", "H | B H L | B H L D").optional(),
            InputSpec::float("erase_left", "B H L D").optional(),
            InputSpec::float("erase_right", "B H L D").optional(),
            InputSpec::float("write", "B H L").optional(),
            InputSpec::float("bonus", "H D").optional(),
            InputSpec::float("q_norm", "B H L D").optional(),
            InputSpec::float("k_norm", "B H L D").optional(),
            STATE,
            Z,
        ],
        outputs: &[
            OutputSpec::float("out", "B H L Dv"),
            OutputSpec::float("state", "B H D Dv"),
            OutputSpec::float("z", "B H D"),
        ],
        forms: &["prefill", "chunked", "recurrent", "step"],
        kernels: &["scan"],
    };
}

impl GeneralScan {
    fn check(&self, problem: &Problem) -> Result<()> {
        if problem.has("erase_left") != problem.has("erase_right") {
            return Err(problem.refuse(
                ErrorKind::MissingInput,
                "erase_right",
                "both erase vectors or none",
                "one of them",
            ));
        }
        if problem.has("bonus") && self.read == Read::After {
            return Err(problem.refuse(ErrorKind::Unsupported, "bonus", "read = before", "read = after"));
        }
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        Ok(())
    }

    /// q·z of every row from vectors of its own, by a scan over values of 1; z comes out as its state.
    fn divisor(&self, plan: &mut PlanBuilder, like: &ScanIo, decay: Decay) -> Result<Ref> {
        let pick = |name: &str, or: &Ref| plan.optional(name).unwrap_or_else(|| or.clone());
        let (q, k) = (pick("q_norm", &like.q), pick("k_norm", &like.k));
        let (out, tokens) = (&like.out.shape, like.k.shape[2]);
        let ones = plan.constant("ones", HostTensor::from_fn(&[1, 1, tokens, 1], |_| 1.0));
        let by = plan.scratch("by", DType::F32, &[out[0], out[1], tokens, 1]);
        let z = plan.output("z")?.insert(3);
        let mut io = ScanIo::new(&q, &k, &ones.broadcast(&[out[0], 1, tokens, 1]), &by, &z);
        (io.decay, io.g, io.w) = (like.decay.clone(), like.g.clone(), like.w.clone());
        io.state_in = plan.optional("z").map(|z| z.insert(3));
        plan.scan("normaliser", Scan { decay, ..Scan::new(self.scale) }, io)?;
        Ok(by)
    }
}

impl Variant for GeneralScan {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        self.check(problem)?;
        let (out, state) = (plan.output("out")?, plan.output("state")?);
        let mut io = ScanIo::new(&plan.input("q")?, &plan.input("k")?, &plan.input("v")?, &out, &state);
        (io.a, io.b) = (plan.optional("erase_left"), plan.optional("erase_right"));
        io.w = plan.optional("write").map(|w| w.insert(3));
        io.state_in = plan.optional("state");
        let decay = match plan.optional("log_decay") {
            None => Decay::None,
            Some(given) if given.shape.len() == 1 => {
                io.decay = Some(given.insert(1).insert(1).insert(0));
                Decay::Scalar
            }
            Some(given) => decay_of(&mut io, given),
        };
        let read_before = self.read == Read::Before;
        if read_before {
            let none = || HostTensor::zeros(&[1, 1, 1, 1]);
            let full = [1, out.shape[1], 1, io.k.shape[3]];
            let bonus = plan.optional("bonus").map(|u| u.insert(1).insert(0));
            io.u = Some(bonus.unwrap_or_else(|| plan.constant("no_bonus", none()).broadcast(&full)));
        }
        let op = Scan { decay, read_before, ..Scan::new(self.scale) };
        if !problem.has("q_norm") && !problem.has("k_norm") {
            (io.z, io.z_in) = (Some(plan.output("z")?), plan.optional("z"));
            let divide = match self.normaliser {
                Normaliser::None => Divide::None,
                Normaliser::Sum => Divide::Sum(self.eps),
                Normaliser::AbsMax1 => Divide::AbsMax1,
            };
            return plan.scan("scan", Scan { divide, ..op }, io);
        }
        let by = self.divisor(plan, &io, decay)?;
        let change = match self.normaliser {
            Normaliser::None => return plan.scan("scan", op, io),
            Normaliser::Sum => vec![hooks::plus(self.eps, 1.0)],
            Normaliser::AbsMax1 => vec![hooks::magnitude(), hooks::at_least(1.0)],
        };
        let divisor = plan.scratch("divisor", DType::F32, &by.shape);
        plan.fold("divisor", Fold::each(), &by, &divisor, change)?;
        let read = plan.scratch("read", DType::F32, &out.shape);
        io.out = read.clone();
        plan.scan("scan", op, io)?;
        plan.fold("divide", Fold::each(), &read, &out, vec![hooks::over(divisor.broadcast(&out.shape))])
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let gate = |at: [usize; 3], d: usize| match inputs.find("log_decay") {
            None => 0.0,
            Some(given) if given.shape.len() == 1 => given.get(&[at[1]]),
            Some(given) => gate_at(given, at, d),
        };
        let write = |at: [usize; 3]| inputs.number("write", &at, 1.0);
        let erase = |at: [usize; 3]| ["erase_left", "erase_right"].map(|name| inputs.get(name).row(&at).to_vec());
        let scale = f64::from(self.scale);
        let plain = Recurrence::new([q, k, v], scale);
        let (heads, d) = (plain.heads, k.shape[3]);
        let none = crate::oracle::Array::zeros(&[heads, d]);
        let bonus = (self.read == Read::Before).then(|| inputs.find("bonus").unwrap_or(&none));
        let erase = inputs.find("erase_left").is_some().then_some(&erase as &dyn Fn([usize; 3]) -> [Vec<f64>; 2]);
        let main = Recurrence { gate: &gate, write: &write, erase, bonus, state: inputs.find("state"), ..plain };
        let ones = v.map_rows(|_, _| vec![1.0]);
        let pick = |name: &str, or| inputs.find(name).unwrap_or(or);
        let qkv = [pick("q_norm", q), pick("k_norm", k), &ones];
        let z_in = inputs.find("z").map(|z| z.map_rows(|_, x| x.to_vec()));
        let z_in = z_in.map(|mut z| {
            z.shape.push(1);
            z
        });
        let norm =
            Recurrence { gate: &gate, write: &write, state: z_in.as_ref(), heads, ..Recurrence::new(qkv, scale) };
        let ([read, state, _], [by, mut z, _]) = (main.run(), norm.run());
        z.shape.pop();
        let out = read.map_rows(|at, n| {
            let by = by.row(at)[0];
            let by = match self.normaliser {
                Normaliser::None => 1.0,
                Normaliser::Sum => by + f64::from(self.eps),
                Normaliser::AbsMax1 => by.abs().max(1.0),
            };
            n.iter().map(|n| if by == 0.0 { 0.0 } else { n / by }).collect()
        });
        vec![("out", out), ("state", state), ("z", z)]
    }
}
