//! Softmax attention with rotary position embedding: queries and keys turn with their position, so that scores depend on
//! differences.
//!
//! ```text
//! angle = pos · θ_c     θ_c = base^(−2c/rot)     c = 0 .. rot/2 − 1, channels from rot on pass through
//! (a, b) → m (a cos − b sin, b cos + a sin)     pairs (c, c + rot/2) or (2c, 2c + 1)     m = 1, with yarn 0.1 ln s + 1
//! linear: θ/s     ntk: base s^(rot/(rot − 2))     dynamic_ntk: the same with s n/L₀ − (s − 1), n = max(seq_len, L₀)
//! yarn, llama3: θ/s for slow pairs, θ for fast ones, a linear blend between
//! ```
//!
//! J. Su, Y. Lu, S. Pan, A. Murtadha, B. Wen, Y. Liu, "RoFormer: Enhanced Transformer with Rotary Position Embedding",
//! 2021, arXiv 2104.09864, section 3.2. B. Peng, J. Quesnelle, H. Fan, E. Shippole, "YaRN: Efficient Context Window
//! Extension of Large Language Models", ICLR 2024, arXiv 2309.00071, sections 3.1 to 3.4. Llama Team, "The Llama 3 Herd
//! of Models", 2024, arXiv 2407.21783, the rule of its released code.
//!
//! Kernels `transform` (rotary), `attend`; frequencies are made on the host in f64, positions are data.
//!
//! Limits: positions are real numbers below 2^31, exact as f32 holds them. Frequencies from 0 to 2π a position, an even
//! `rotary_dim`, a `factor` above 0. Without `seq_len`, dynamic_ntk takes Lk; it changes what earlier keys turned with, so
//! give it raw keys. Turned q and k are f32, also of f16 inputs.

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::oracle::{Array, Inputs, Outputs, Scaling, attention, rotate, scale, scaled_frequencies};
use crate::params::ParamType;
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, LSE, OUT, Q, V, attend_io, constant_output, default_scale};
use crate::variants::rotary::{Turn, channels, frequencies, turned};
use crate::variants::{RopeLayout, RopeScaling};
use crate::{named, params};
use std::f64::consts::TAU;

params! {
    /// Softmax attention with rotary position embedding.
    pub struct RopeAttention {
        /// Base of the frequencies.
        base: f32 = 10000.0,
        /// Channels that turn; default D.
        rotary_dim: Option<usize> = None,
        /// Which channels are a pair.
        layout: RopeLayout = RopeLayout::Half,
        /// How frequencies stretch; absent: not.
        scaling: Option<RopeScaling> = None,
        /// By how much they stretch.
        factor: f32 = 1.0,
        /// Length the frequencies were trained at, in tokens.
        original_len: usize = 4096,
        /// Length of `dynamic_ntk`, in tokens; absent: Lk.
        seq_len: Option<usize> = None,
        /// Rotations over the original length from which on `yarn` does not stretch.
        beta_fast: f32 = 32.0,
        /// Rotations up to which `yarn` stretches fully.
        beta_slow: f32 = 1.0,
        /// Wavelengths over the original length up to which `llama3` stretches fully.
        low_freq_factor: f32 = 1.0,
        /// Wavelengths from which on it does not.
        high_freq_factor: f32 = 4.0,
        /// Query i sees keys up to i + Lk − Lq.
        causal: bool = false,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for RopeAttention {
    const CARD: Card = Card {
        name: "rope-attention",
        family: Family::Dense,
        summary: "Softmax attention with rotary position embedding, of any scaling and layout.",
        equation: "s_ij = scale (R_pos_i q_i)·(R_pos_j k_j), R turns pair c by pos θ_c",
        paper: "Su et al., RoFormer, 2021, arXiv 2104.09864; Peng et al., YaRN, ICLR 2024, arXiv 2309.00071",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::float("pos_q", "Lq | B Lq | B H Lq"),
            InputSpec::float("pos_k", "Lk | B Lk | B Hk Lk"),
        ],
        outputs: &[OUT, LSE, OutputSpec::float("inv_freq", "rotary_dim/2")],
        forms: &["prefill", "decode", "bidirectional", "cross"],
        kernels: &["transform", "transform", "attend", "diagnose"],
    };
}

impl RopeAttention {
    /// The angles a position, and the factor of what turns.
    fn angles(&self, rot: usize, keys: usize) -> (Vec<f64>, f32) {
        let (base, s, trained) = (f64::from(self.base), f64::from(self.factor), self.original_len as f64);
        let plain = frequencies(base, rot);
        let stretched = |by: f64| {
            let power = if rot > 2 { rot as f64 / (rot - 2) as f64 } else { 0.0 };
            frequencies(base * by.powf(power), rot)
        };
        // Stretches pair c by a share of the factor.
        let blend = |share: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let one = |(c, theta): (usize, &f64)| theta * (1.0 + share(c, *theta) * (1.0 / s - 1.0));
            plain.iter().enumerate().map(one).collect()
        };
        match self.scaling {
            None => (plain, 1.0),
            Some(RopeScaling::Linear) => (blend(&|_, _| 1.0), 1.0),
            Some(RopeScaling::Ntk) => (stretched(s), 1.0),
            Some(RopeScaling::DynamicNtk) => {
                let length = self.seq_len.unwrap_or(keys).max(self.original_len) as f64;
                (stretched(s * length / trained - (s - 1.0)), 1.0)
            }
            Some(RopeScaling::Yarn) => {
                let pair =
                    |rotations: f32| rot as f64 * (trained / (TAU * f64::from(rotations))).ln() / (2.0 * base.ln());
                let low = pair(self.beta_fast).floor().max(0.0);
                let high = pair(self.beta_slow).ceil().min(rot as f64 - 1.0);
                let width = if high == low { 0.001 } else { high - low };
                let warmth = if s > 1.0 { 0.1 * s.ln() + 1.0 } else { 1.0 };
                (blend(&|c, _| ((c as f64 - low) / width).clamp(0.0, 1.0)), warmth as f32)
            }
            Some(RopeScaling::Llama3) => {
                let (low, high) = (f64::from(self.low_freq_factor), f64::from(self.high_freq_factor));
                let share = |_: usize, theta: f64| {
                    let waves = trained * theta / TAU;
                    if waves < low {
                        1.0
                    } else if waves > high {
                        0.0
                    } else {
                        (high - waves) / (high - low)
                    }
                };
                (blend(&share), 1.0)
            }
        }
    }

    fn check(&self, problem: &Problem, rot: usize) -> Result<()> {
        let refuse = |name: &str, expected: String, found: String| {
            Err(problem.refuse(ErrorKind::Parameter, name, expected, found))
        };
        let width = problem.size("D");
        if rot == 0 || rot % 2 == 1 || rot > width {
            return refuse("rotary_dim", format!("an even number from 2 to D = {width}"), rot.to_string());
        }
        let needs = |of: f32, name: &str| match of > 0.0 {
            true => Ok(()),
            false => refuse(name, "a number above 0".into(), of.to_string()),
        };
        needs(self.base, "base")?;
        needs(self.factor, "factor")?;
        needs(self.original_len as f32, "original_len")?;
        if self.scaling == Some(RopeScaling::Yarn) {
            needs(self.beta_slow, "beta_slow")?;
            needs(self.beta_fast, "beta_fast")?;
            needs(self.base - 1.0, "base − 1 (of yarn)")?;
        }
        Ok(())
    }
}

impl Variant for RopeAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let width = problem.size("D");
        let rot = self.rotary_dim.unwrap_or(width);
        self.check(problem, rot)?;
        let (theta, factor) = self.angles(rot, problem.size("Lk"));
        let interleaved = self.layout == RopeLayout::Interleaved;
        let turn = Turn { first: 0, axis: 0, theta: theta.clone(), interleaved };
        let channel = plan.constant("channel", channels(problem, "base", width, &[turn])?);
        // (L), (B, L) or (B, H, L) as (B, H, L, 1).
        let of = |r: Ref| {
            let lead = if r.shape.len() == 2 { r.insert(1) } else { r };
            (lead.shape.len()..3).fold(lead, |r, _| r.insert(0)).insert(3)
        };
        let mut io = attend_io(plan)?;
        io.q = turned(plan, "q_turned", &io.q, [&channel, &of(plan.input("pos_q")?)], factor)?;
        io.k = turned(plan, "k_turned", &io.k, [&channel, &of(plan.input("pos_k")?)], factor)?;
        io.lse = Some(plan.output("lse")?);
        plan.attend("attend", Attend::new(default_scale(self.scale, problem)).causal(self.causal), io, Vec::new())?;
        constant_output(plan, "inv_freq", HostTensor::from_fn(&[rot / 2], |c| theta[c] as f32))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let rot = self.rotary_dim.unwrap_or(q.shape[3]);
        let scaling = Scaling {
            factor: f64::from(self.factor),
            original_len: self.original_len as f64,
            seq_len: self.seq_len.unwrap_or(k.shape[2]) as f64,
            beta_fast: f64::from(self.beta_fast),
            beta_slow: f64::from(self.beta_slow),
            low_freq_factor: f64::from(self.low_freq_factor),
            high_freq_factor: f64::from(self.high_freq_factor),
        };
        let word = self.scaling.map_or(String::new(), |rule| rule.to_value().to_string());
        let (theta, factor) = scaled_frequencies(&word, f64::from(self.base), rot, scaling);
        let pair = |c: usize| match self.layout {
            RopeLayout::Half => (c, c + rot / 2),
            RopeLayout::Interleaved => (2 * c, 2 * c + 1),
        };
        let turned = |x: &Array, positions: &str| {
            let positions = inputs.get(positions);
            x.map_rows(|at, row| {
                let at = if positions.shape.len() == 2 { vec![at[0], at[2]] } else { at.to_vec() };
                let mut y = rotate(row, &theta, positions.get(&at), pair);
                y[..rot].iter_mut().for_each(|y| *y *= factor);
                y
            })
        };
        let (q_turned, k_turned) = (turned(q, "pos_q"), turned(k, "pos_k"));
        let (out, lse) = attention(&q_turned, &k_turned, v, scale(self.scale, q), &|row, j, s| {
            inputs.allowed(self.causal, row, j).then_some(s)
        });
        vec![("out", out), ("lse", lse), ("inv_freq", Array { shape: vec![theta.len()], data: theta })]
    }
}
