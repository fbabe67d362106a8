//! Softmax attention of every token of a 1-D, 2-D or 3-D grid over its window of nearest tokens.
//!
//! ```text
//! per axis of n, coordinate x: residue g = x mod δ, place t = ⌊x/δ⌋, length m = ⌈(n − g)/δ⌉
//!   w_l = ⌊w/2⌋     w_r = w − 1 − w_l
//!   leader λ = min(⌊t/σ⌋σ + ⌊σ/2⌋, m − 1)     start = m − w if λ + w_r ≥ m else max(λ − w_l, 0)     end = start + w
//!   causal: λ = min(⌊t/σ⌋σ + σ − 1, m − 1)    start = max(λ − w + 1, 0)                              end = t + 1
//!   keys: g + δ u, start ≤ u < end          N-D: the product over the axes
//! out_i = Σ_j e^(scale q_i·k_j − lse_i) v_j     lse_i = ln Σ_j e^(scale q_i·k_j)
//! ```
//!
//! A. Hassani, W.-M. Hwu, H. Shi, "Faster Neighborhood Attention: Reducing the O(n²) Cost of Self Attention at the
//! Threadblock Level", NeurIPS 2024, arXiv 2403.04690; stride σ: A. Hassani et al., "Generalized Neighborhood
//! Attention: Multi-dimensional Sparse Attention at the Speed of Light", 2025, arXiv 2504.16922.
//!
//! Kernel `attend`, softmax weights; mask hook neighborhood; with extra keys a second `attend` and `combine`.
//!
//! Limits: 1 to 3 axes whose product is L, 1 ≤ window · dilation ≤ n and 1 ≤ stride ≤ window on each. Windows at a
//! border move inwards and keep their size, except on causal axes. `extra_k` and `extra_v` go together and join the
//! softmax.

use crate::error::{Error, ErrorKind, Result};
use crate::hooks::{self, Axis};
use crate::kernel::attend::Attend;
use crate::oracle::{Inputs, Outputs, attention, merge, scale};
use crate::plan::{AttendIo, PlanBuilder};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{attend_io, default_scale, parts};
use crate::{named, params};

params! {
    /// Softmax attention over windows of a token grid.
    pub struct NeighborhoodAttention {
        /// Sizes of the token grid, row-major.
        shape: Vec<usize> = vec![8],
        /// Keys of the window along each axis.
        window: Vec<usize> = vec![3],
        /// Queries that share a window along each axis; default 1.
        stride: Option<Vec<usize>> = None,
        /// Distance of neighbouring keys along each axis; default 1.
        dilation: Option<Vec<usize>> = None,
        /// Axes along which no later key is seen; default none.
        causal: Option<Vec<bool>> = None,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for NeighborhoodAttention {
    const CARD: Card = Card {
        name: "neighborhood-attention",
        family: Family::Sparse,
        summary: "Softmax attention of every token of a grid over its window of nearest tokens.",
        equation: "out_i = Σ_j softmax_j(scale q_i·k_j) v_j over the window of i, moved inwards at the borders",
        paper: "Hassani, Hwu, Shi, Faster Neighborhood Attention, NeurIPS 2024, arXiv 2403.04690",
        inputs: &[
            InputSpec::real("q", "B H L D"),
            InputSpec::real("k", "B Hk L D"),
            InputSpec::real("v", "B Hk L Dv"),
            InputSpec::real("extra_k", "B Hk E D").optional(),
            InputSpec::real("extra_v", "B Hk E Dv").optional(),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dv"), OutputSpec::float("lse", "B H L")],
        forms: &["prefill", "bidirectional"],
        kernels: &["attend", "combine"],
    };
}

impl Variant for NeighborhoodAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let axes = self.axes(problem)?;
        let length = problem.size("L");
        // Key range of each token: the window along the slowest axis bounds it.
        let pitch = axes[0].pitch;
        let range: Vec<(usize, usize)> = (0..length)
            .map(|i| {
                let x = i / pitch;
                let (start, end) = axes[0].window(x);
                let residue = x % axes[0].dilation;
                ((residue + start * axes[0].dilation) * pitch, (residue + (end - 1) * axes[0].dilation + 1) * pitch)
            })
            .collect();
        let bound = |end: bool| range.iter().map(|&(a, b)| if end { b as i32 } else { a as i32 }).collect::<Vec<_>>();
        let op = Attend::new(default_scale(self.scale, problem));
        let hooks = axes.iter().map(|&axis| hooks::neighborhood(axis)).collect();
        let mut io = attend_io(plan)?;
        io.row_start = Some(plan.constant("row_start", HostTensor::new(&[1, 1, length, 1], bound(false))?));
        io.row_end = Some(plan.constant("row_end", HostTensor::new(&[1, 1, length, 1], bound(true))?));
        let (out, lse) = (plan.output("out")?, plan.output("lse")?);
        let (Some(k), Some(v)) = (plan.optional("extra_k"), plan.optional("extra_v")) else {
            if problem.has("extra_k") != problem.has("extra_v") {
                let message = "neighborhood-attention: `extra_k` and `extra_v` go together; one of them is missing";
                return Err(Error::new(ErrorKind::MissingInput, message));
            }
            io.lse = Some(lse);
            return plan.attend("attend", op, io, hooks);
        };
        let (outs, lses) = parts(plan, 2)?;
        (io.out, io.lse) = (outs.select(0, 0), Some(lses.select(0, 0)));
        let extra = AttendIo::new(&io.q, &k, &v, &outs.select(0, 1)).lse(&lses.select(0, 1));
        plan.attend("window", op, io, hooks)?;
        plan.attend("extra", op, extra, Vec::new())?;
        plan.merge(&outs, &lses, None, &out, Some(&lse))
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let scale = scale(self.scale, q);
        let near = |mut i: usize, mut j: usize| {
            (0..self.shape.len()).rev().all(|axis| {
                let n = self.shape[axis];
                let (x, y) = (i % n, j % n);
                (i, j) = (i / n, j / n);
                self.axis_allows(axis, x, y)
            })
        };
        let grid = attention(q, k, v, scale, &|row, j, s| near(row.i, j).then_some(s));
        let (out, lse) = match (inputs.find("extra_k"), inputs.find("extra_v")) {
            (Some(k), Some(v)) => merge(&[grid, attention(q, k, v, scale, &|_, _, s| Some(s))]),
            _ => grid,
        };
        vec![("out", out), ("lse", lse)]
    }
}

impl NeighborhoodAttention {
    /// The axes, checked: slowest first.
    fn axes(&self, problem: &Problem) -> Result<Vec<Axis>> {
        let rank = self.shape.len();
        let refuse =
            |name, expected: String, found: String| Err(problem.refuse(ErrorKind::Parameter, name, expected, found));
        if !(1..=3).contains(&rank) || self.shape.contains(&0) {
            return refuse("shape", "1 to 3 sizes of 1 or more".into(), format!("{:?}", self.shape));
        }
        if self.shape.iter().product::<usize>() != problem.size("L") {
            return refuse(
                "shape",
                format!("sizes whose product is L = {}", problem.size("L")),
                format!("{:?}", self.shape),
            );
        }
        let stride = self.stride.clone().unwrap_or_else(|| vec![1; rank]);
        let dilation = self.dilation.clone().unwrap_or_else(|| vec![1; rank]);
        let causal = self.causal.clone().unwrap_or_else(|| vec![false; rank]);
        for (name, found) in [
            ("window", self.window.len()),
            ("stride", stride.len()),
            ("dilation", dilation.len()),
            ("causal", causal.len()),
        ] {
            if found != rank {
                return refuse(name, format!("{rank} entries, one an axis"), format!("{found}"));
            }
        }
        let mut axes = Vec::new();
        for a in 0..rank {
            let (size, window) = (self.shape[a], self.window[a]);
            if dilation[a] == 0 || window == 0 || window * dilation[a] > size {
                return refuse(
                    "window",
                    format!("1 <= window * dilation <= {size}"),
                    format!("{window} * {}", dilation[a]),
                );
            }
            if !(1..=window).contains(&stride[a]) {
                return refuse("stride", format!("1 to window = {window}"), stride[a].to_string());
            }
            let pitch = self.shape[a + 1..].iter().product();
            axes.push(Axis { pitch, size, window, stride: stride[a], dilation: dilation[a], causal: causal[a] });
        }
        Ok(axes)
    }

    /// Whether the window of coordinate `x` holds coordinate `y`.
    fn axis_allows(&self, axis: usize, x: usize, y: usize) -> bool {
        let (n, w) = (self.shape[axis], self.window[axis]);
        let stride = self.stride.as_ref().map_or(1, |s| s[axis]);
        let dilation = self.dilation.as_ref().map_or(1, |d| d[axis]);
        let (g, t) = (x % dilation, x / dilation);
        let m = (n - g).div_ceil(dilation);
        let (start, end) = if self.causal.as_ref().is_some_and(|c| c[axis]) {
            let leader = (t / stride * stride + stride - 1).min(m - 1);
            ((leader + 1).saturating_sub(w), t + 1)
        } else {
            let (left, right) = (w / 2, w - 1 - w / 2);
            let leader = (t / stride * stride + stride / 2).min(m - 1);
            let start = if leader + right >= m { m - w } else { leader.saturating_sub(left) };
            (start, start + w)
        };
        y % dilation == g && (start..end).contains(&(y / dilation))
    }
}
