//! A gate for rows and a gate for columns of an image, each from a one-dimensional convolution of what the image holds on average.
//!
//! ```text
//! s_h = mean over X of x     s_w = mean over Y of x
//! gate = σ(GN(conv(s)))      conv: K taps, zeros outside, channels in `conv_groups` groups; the same conv and norm for both
//! GN(y) = (y − μ) / √(σ² + eps) · gn_weight + gn_bias     μ, σ² over the channels of one of `norm_groups` groups and all places
//! out = x · gate_h · gate_w
//! ```
//!
//! W. Xu, Y. Wan, "ELA: Efficient Local Attention for Deep Convolutional Neural Networks", 2024, arXiv 2403.01123, section 3.2.
//!
//! Kernels `diagnose` (means, convolution, gates) and `transform` (norm) for each direction, `diagnose` (product).
//!
//! Limits: K is odd; both numbers of groups divide the channels. Not causal. The paper's sizes (K, conv_groups, norm_groups): T (5, Ch,
//! 32), B (7, Ch, 16), S (5, Ch/8, 16), L (7, Ch/8, 16).

use crate::error::{ErrorKind, Result};
use crate::hooks;
use crate::kernel::diagnose::Fold;
use crate::kernel::transform::{Gate, Norm};
use crate::oracle::{Array, Inputs, Outputs};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::steps::{folded, scratch};
use crate::{named, params};

params! {
    /// Efficient local attention.
    pub struct EfficientLocalAttention {
        /// Groups of channels that the convolution keeps apart; default one a channel.
        conv_groups: Option<usize> = None,
        /// Groups of channels that are normalised together.
        norm_groups: usize = 16,
        /// Added to the variance.
        eps: f32 = 1e-5,
    }
}

impl Named for EfficientLocalAttention {
    const CARD: Card = Card {
        name: "efficient-local-attention",
        family: Family::Linear,
        summary: "A gate for the rows and a gate for the columns of an image.",
        equation: "out = x σ(GN(conv(mean_X x))) σ(GN(conv(mean_Y x)))",
        paper: "Xu, Wan, ELA: Efficient Local Attention for Deep Convolutional Neural Networks, 2024, arXiv 2403.01123",
        inputs: &[
            InputSpec::real("x", "B Ch Y X"),
            InputSpec::float("conv_weight", "Ch Ch//conv_groups K"),
            InputSpec::float("gn_weight", "Ch").optional(),
            InputSpec::float("gn_bias", "Ch").optional(),
        ],
        outputs: &[
            OutputSpec::float("out", "B Ch Y X"),
            OutputSpec::float("gate_h", "B Ch Y"),
            OutputSpec::float("gate_w", "B Ch X"),
        ],
        forms: &["bidirectional"],
        kernels: &["diagnose", "transform", "diagnose"],
    };
}

impl EfficientLocalAttention {
    /// σ(GN(conv(mean over the last axis of x))) into gate (B, Ch, N), x (B, Ch, N, M).
    fn gate(&self, plan: &mut PlanBuilder, name: &str, x: &Ref, conv_groups: usize, gate: &Ref) -> Result<()> {
        let [batch, channels, length, across] = x.shape[..] else { unreachable!("an image") };
        let label = |of: &str| format!("{name} {of}");
        let mean = folded(plan, &label("mean"), Fold::mean(across), x, Vec::new())?.permute(&[0, 1, 3, 2]);
        // The channels of a group are the rows of one image, which the window covers from top to bottom.
        let groups = mean.split(1, conv_groups).select(3, 0);
        let weight = plan.input("conv_weight")?;
        let taps = weight.insert(0).broadcast(&[&[batch], &weight.shape[..]].concat());
        let along = vec![hooks::correlation(&groups, &taps, [0, weight.shape[2] / 2])];
        // (B, Ch N): seen as channels, or as groups of them.
        let flat = |plan: &mut PlanBuilder, of: &str| scratch(plan, &label(of), &[batch, channels * length]);
        let by_channel = |x: &Ref| x.split(1, channels).insert(2);
        let by_group = |x: &Ref| x.split(1, self.norm_groups).insert(2);
        let conv = flat(plan, "conv");
        plan.fold(&label("conv"), Fold::each(), &mean, &by_channel(&conv), along)?;
        let count = channels / self.norm_groups * length;
        let centre = folded(plan, &label("centre"), Fold::mean(count), &by_group(&conv), Vec::new())?;
        let (centred, normed) = (flat(plan, "centred"), flat(plan, "normed"));
        let less = hooks::plus(centre.broadcast(&by_group(&conv).shape), -1.0);
        plan.fold(&label("centred"), Fold::each(), &by_group(&conv), &by_group(&centred), vec![less])?;
        let norm = Norm { eps: self.eps, gate: Gate::Sigmoid, scale: 1.0 };
        plan.norm(&label("norm"), norm, &by_group(&centred), None, &by_group(&normed))?;
        let normed = by_channel(&normed);
        let of_channel = |plan: &PlanBuilder, name: &str| {
            plan.optional(name).map(|x| x.insert(1).insert(2).insert(0).broadcast(&normed.shape))
        };
        let mut steps: Vec<_> = of_channel(plan, "gn_weight").map(hooks::times).into_iter().collect();
        steps.extend(of_channel(plan, "gn_bias").map(|bias| hooks::plus(bias, 1.0)));
        steps.push(hooks::logistic());
        plan.fold(name, Fold::each(), &normed, &gate.insert(2), steps)
    }
}

impl Variant for EfficientLocalAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let channels = problem.size("Ch");
        let conv_groups = self.conv_groups.unwrap_or(channels);
        for (name, groups) in [("conv_groups", conv_groups), ("norm_groups", self.norm_groups)] {
            if groups == 0 || !channels.is_multiple_of(groups) {
                return Err(problem.refuse(
                    ErrorKind::Parameter,
                    name,
                    format!("a divisor of Ch = {channels}"),
                    groups,
                ));
            }
        }
        if self.eps < 0.0 {
            return Err(problem.refuse(ErrorKind::Parameter, "eps", "0 or more", self.eps));
        }
        let weight = plan.input("conv_weight")?;
        if weight.shape[1] != channels / conv_groups || weight.shape[2].is_multiple_of(2) {
            let expected = format!("[{channels}, {}, an odd K]", channels / conv_groups);
            return Err(problem.refuse(ErrorKind::Shape, "conv_weight", expected, format!("{:?}", weight.shape)));
        }
        let (x, gate_h, gate_w) = (plan.input("x")?, plan.output("gate_h")?, plan.output("gate_w")?);
        self.gate(plan, "gate_h", &x, conv_groups, &gate_h)?;
        self.gate(plan, "gate_w", &x.permute(&[0, 1, 3, 2]), conv_groups, &gate_w)?;
        let gates = [gate_h.insert(3), gate_w.insert(2)].map(|gate| hooks::times(gate.broadcast(&x.shape)));
        let out = plan.output("out")?;
        plan.fold("gate", Fold::each(), &x, &out, gates.into())
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let (x, weight) = (inputs.get("x"), inputs.get("conv_weight"));
        let [batch, channels, rows, columns] = x.shape[..] else { panic!("x has rank 4") };
        let (each, taps) = (weight.shape[1], weight.shape[2]);
        let gate = |length: usize, mean: &dyn Fn(usize, usize, usize) -> f64| {
            let conv = Array::zeros(&[batch, channels, length]).map_rows(|at, _| {
                let (b, c) = (at[0], at[1]);
                let of = |n: usize| {
                    let mut sum = 0.0;
                    for (i, t) in (0..each * taps).map(|m| (m / taps, m % taps)) {
                        if let Some(place) = (n + t).checked_sub(taps / 2).filter(|&place| place < length) {
                            sum += weight.get(&[c, i, t]) * mean(b, c / each * each + i, place);
                        }
                    }
                    sum
                };
                (0..length).map(of).collect()
            });
            let together = channels / self.norm_groups;
            conv.map_rows(|at, y| {
                let first = at[1] / together * together;
                let group: Vec<f64> = (first..first + together).flat_map(|c| conv.row(&[at[0], c]).to_vec()).collect();
                let mean = group.iter().sum::<f64>() / group.len() as f64;
                let variance = group.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / group.len() as f64;
                let (weight, bias) =
                    (inputs.number("gn_weight", &[at[1]], 1.0), inputs.number("gn_bias", &[at[1]], 0.0));
                let normed = |y: &f64| (y - mean) / (variance + f64::from(self.eps)).sqrt() * weight + bias;
                y.iter().map(|y| 1.0 / (1.0 + (-normed(y)).exp())).collect()
            })
        };
        let of_row = |b, c, y| x.row(&[b, c, y]).iter().sum::<f64>() / columns as f64;
        let of_column = |b, c, n| (0..rows).map(|y| x.get(&[b, c, y, n])).sum::<f64>() / rows as f64;
        let (gate_h, gate_w) = (gate(rows, &of_row), gate(columns, &of_column));
        let out = x.map_rows(|at, x| {
            let row = gate_h.get(at);
            x.iter().zip(gate_w.row(&at[..2])).map(|(x, column)| x * row * column).collect()
        });
        vec![("out", out), ("gate_h", gate_h), ("gate_w", gate_w)]
    }
}
