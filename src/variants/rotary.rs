//! Rotary embedding in plans: what each channel turns with, from angles made in f64.

use crate::error::{ErrorKind, Result};
use crate::kernel::transform::Rotary;
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use std::f64::consts::TAU;

/// Channels from `first` on that turn in pairs, by `theta` a position in column `axis` of the positions.
pub(crate) struct Turn {
    pub first: usize,
    pub axis: usize,
    pub theta: Vec<f64>,
    /// Pairs are neighbours; else they are half of the channels apart.
    pub interleaved: bool,
}

/// The table `channel` of [`Rotary`] for rows of `width` channels; those that no turn names pass through.
pub(crate) fn channels(problem: &Problem, base: &str, width: usize, turns: &[Turn]) -> Result<HostTensor> {
    let mut table = vec![0_i32; 4 * width];
    table[2 * width..3 * width].fill(-1);
    for turn in turns {
        let half = turn.theta.len();
        for (c, theta) in turn.theta.iter().enumerate() {
            // Only the fraction of a turn is kept, which a fractional position would show.
            if !(0.0..TAU).contains(theta) {
                return Err(problem.refuse(ErrorKind::Parameter, base, "angles from 0 to 2 pi a position", theta));
            }
            let words = (theta / TAU * 2.0_f64.powi(64)) as u64;
            let (a, b) = if turn.interleaved { (2 * c, 2 * c + 1) } else { (c, c + half) };
            for (own, other, second) in [(a, b, 0), (b, a, 1)] {
                let d = turn.first + own;
                table[d] = (words >> 32) as u32 as i32;
                table[width + d] = words as u32 as i32;
                table[2 * width + d] = 2 * (turn.first + other) as i32 + second;
                table[3 * width + d] = turn.axis as i32;
            }
        }
    }
    HostTensor::new(&[1, 1, 4, width], table)
}

/// x (B, H, L, D) turned by `channel` and its positions (B, H, L, axes), which broadcast; turned channels times `scale`. Scratch.
pub(crate) fn turned(
    plan: &mut PlanBuilder,
    name: &str,
    x: &Ref,
    [channel, position]: [&Ref; 2],
    scale: f32,
) -> Result<Ref> {
    let out = plan.scratch(name, DType::F32, &x.shape);
    turned_into(plan, name, x, [channel, position], scale, &out)?;
    Ok(out)
}

/// The same into `out`.
pub(crate) fn turned_into(
    plan: &mut PlanBuilder,
    name: &str,
    x: &Ref,
    [channel, position]: [&Ref; 2],
    scale: f32,
    out: &Ref,
) -> Result<()> {
    let op = Rotary { interleaved: false, offset: 0, scale };
    plan.rotary(name, op, x, out, vec![("channel", channel.clone()), ("position", position.clone())])
}

/// x (B, H, L, D) turned in pairs half a row apart, by `base^(−2c/D)` a position; positions in f64 are known with the plan. Scratch.
pub(crate) fn turned_at(plan: &mut PlanBuilder, name: &str, x: &Ref, base: f32, positions: &[f64]) -> Result<Ref> {
    let half = x.shape[3] / 2;
    let theta = frequencies(f64::from(base), 2 * half);
    let angle = |n: usize| positions[n / half] * theta[n % half];
    let shape = [1, 1, positions.len(), half];
    let cos = plan.constant("cos", HostTensor::from_fn(&shape, |n| angle(n).cos() as f32));
    let sin = plan.constant("sin", HostTensor::from_fn(&shape, |n| angle(n).sin() as f32));
    let out = plan.scratch(name, DType::F32, &x.shape);
    let op = Rotary { interleaved: false, offset: 0, scale: 1.0 };
    plan.rotary(name, op, x, &out, vec![("cos", cos), ("sin", sin)])?;
    Ok(out)
}

/// base^(−2c/width) for every pair c.
pub(crate) fn frequencies(base: f64, width: usize) -> Vec<f64> {
    (0..width / 2).map(|c| base.powf(-((2 * c) as f64) / width as f64)).collect()
}
