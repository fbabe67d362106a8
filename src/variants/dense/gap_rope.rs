//! Rotary embedding of video over time, row and column, with a gap in time between reference frames and the video.
//!
//! ```text
//! reference frame r is at t = r, video frame f at t = ref_frames + gap + f; tokens of a frame are row-major (y, x)
//! channels: `dims` of them turn with t, y and x, each group by its own base^(−2c/dims_g) a position; the rest pass through
//! ```
//!
//! Z. Mai, Y.-W. Tai, "ContextAnyone: Context-Aware Diffusion for Character-Consistent Text-to-Video Generation", 2025,
//! arXiv 2512.07328, the section on Gap-RoPE.
//!
//! Kernel `transform` (rotary) with three positions a token; `diagnose` writes the positions.
//!
//! Limits: only differences of positions matter to attention; a gap of 0 is consecutive frames. Each entry of `dims` is
//! even and they sum to at most D; frames times height times width is L.

use crate::error::{ErrorKind, Result};
use crate::oracle::{Array, Inputs, Outputs, frequencies as theta_of, rotate};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::RopeLayout;
use crate::variants::common::constant_output;
use crate::variants::rotary::{Turn, channels, frequencies, turned_into};
use crate::{named, params};

params! {
    /// Rotary embedding of reference frames and video.
    pub struct GapRope {
        /// Frames before the gap.
        ref_frames: usize = 1,
        /// Frames after the gap.
        video_frames: usize = 2,
        /// Rows of a frame.
        height: usize = 2,
        /// Columns of a frame.
        width: usize = 2,
        /// Positions in time that are left free.
        gap: usize = 0,
        /// Channels that turn with time, row and column.
        dims: Vec<usize> = vec![4, 4, 4],
        /// Base of the frequencies.
        base: f32 = 10000.0,
        /// Which channels of a group are a pair.
        layout: RopeLayout = RopeLayout::Interleaved,
    }
}

impl Named for GapRope {
    const CARD: Card = Card {
        name: "gap-rope",
        family: Family::Dense,
        summary: "Rotary embedding over time, row and column with a gap in time.",
        equation: "x' = R(t, y, x) x, t = r for reference frames, ref_frames + gap + f for video",
        paper: "Mai, Tai, ContextAnyone, 2025, arXiv 2512.07328",
        inputs: &[InputSpec::real("x", "B H L D")],
        outputs: &[OutputSpec::float("out", "B H L D"), OutputSpec::index("positions", "L 3")],
        forms: &["prefill", "bidirectional"],
        kernels: &["transform", "diagnose"],
    };
}

impl Variant for GapRope {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [length, depth] = [problem.size("L"), problem.size("D")];
        let refuse = |name: &str, expected: String, found: String| {
            Err(problem.refuse(ErrorKind::Parameter, name, expected, found))
        };
        let sum = self.dims.iter().fold(0_usize, |sum, &n| sum.saturating_add(n));
        if self.dims.len() != 3 || self.dims.iter().any(|n| n % 2 == 1) || sum > depth {
            let expected = format!("three even numbers that sum to at most D = {depth}");
            return refuse("dims", expected, format!("{:?}", self.dims));
        }
        if self.base <= 0.0 {
            return refuse("base", "a number above 0".into(), self.base.to_string());
        }
        let frame = self.height.saturating_mul(self.width);
        let tokens = self.ref_frames.saturating_add(self.video_frames).saturating_mul(frame);
        if tokens != length {
            return refuse(
                "video_frames",
                format!("frames of {frame} tokens, L = {length} in all"),
                tokens.to_string(),
            );
        }
        let position = |n: usize| {
            let (t, rest) = (n / 3 / frame, n / 3 % frame);
            let t = if t < self.ref_frames { t } else { t + self.gap };
            [t, rest / self.width, rest % self.width][n % 3]
        };
        let mut first = 0;
        let turns: Vec<Turn> = self
            .dims
            .iter()
            .enumerate()
            .map(|(axis, &n)| {
                first += n;
                let interleaved = self.layout == RopeLayout::Interleaved;
                Turn { first: first - n, axis, theta: frequencies(f64::from(self.base), n), interleaved }
            })
            .collect();
        let channel = plan.constant("channel", channels(problem, "base", depth, &turns)?);
        let places = plan.constant("position", HostTensor::from_fn(&[1, 1, length, 3], |n| position(n) as f32));
        let (x, out) = (plan.input("x")?, plan.output("out")?);
        turned_into(plan, "rotate", &x, [&channel, &places], 1.0, &out)?;
        let list = (0..3 * length).map(|n| position(n) as i32).collect::<Vec<_>>();
        constant_output(plan, "positions", HostTensor::new(&[length, 3], list)?)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let x = inputs.get("x");
        let mut positions = Vec::new();
        for frame in 0..self.ref_frames + self.video_frames {
            let t = if frame < self.ref_frames { frame } else { frame + self.gap };
            for row in 0..self.height {
                for column in 0..self.width {
                    positions.push([t, row, column]);
                }
            }
        }
        let out = x.map_rows(|at, row| {
            let (mut y, mut first) = (row.to_vec(), 0);
            for (axis, &n) in self.dims.iter().enumerate() {
                let pair = |c: usize| match self.layout {
                    RopeLayout::Half => (first + c, first + c + n / 2),
                    RopeLayout::Interleaved => (first + 2 * c, first + 2 * c + 1),
                };
                y = rotate(&y, &theta_of(f64::from(self.base), n), positions[at[2]][axis] as f64, pair);
                first += n;
            }
            y
        });
        let data = positions.iter().flatten().map(|&p| p as f64).collect();
        vec![("out", out), ("positions", Array { shape: vec![positions.len(), 3], data })]
    }
}
