//! The twin of `scan/*`: chunks of small matrix products, or token by token with erase.

mod chunk;
mod product;
mod step;

use super::launch::{Sizes, erases, has_z};
use super::{Decay, Divide, Pass, Scan};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::reals::Reals;
use crate::kernel::{TwinIo, for_each_row};
use std::ops::Range;

/// What a scan reads.
struct Source<'a> {
    op: Scan,
    sizes: Sizes,
    q: Reals<'a>,
    k: Reals<'a>,
    v: Reals<'a>,
    g: Option<Reals<'a>>,
    a: Option<Reals<'a>>,
    b: Option<Reals<'a>>,
    ab: Option<Reals<'a>>,
    state: Option<Reals<'a>>,
    io: &'a TwinIo<'a>,
}

/// The scan of one (batch, head) over some columns of the values.
struct Part<'a> {
    head: usize,
    columns: Range<usize>,
    /// (Lq, columns)
    out: &'a mut [f32],
    /// (D, columns)
    state: &'a mut [f32],
    /// (D)
    z: Vec<f32>,
}

pub(super) fn twin(op: &Scan, io: &mut TwinIo) -> Result<()> {
    let mut sizes = Sizes::of(op, io.io)?;
    let mut op = *op;
    let sums = matches!(op.pass, Pass::Sums(_));
    if sums && op.pass.segments(sizes.tokens) > 1 {
        // Heads and columns fill the cores: the reads go through all segments in order.
        return Ok(());
    }
    let missing = || Error::new(ErrorKind::Unsupported, "scan: a role is missing or holds no reals");
    let mut unread = Vec::new();
    if sums {
        // One read that nobody looks at.
        (sizes.queries, op.bidirectional) = (1, true);
        unread.resize(sizes.batch * sizes.heads * sizes.width, 0.0);
    }
    let out = io.write_f32("out").or(sums.then_some(&mut unread[..]));
    let (Some(out), Some(state)) = (out, io.write_f32("state")) else { return Err(missing()) };
    let z = io.write_f32("z");
    let real = |role| Reals::of(io, role);
    let (Some(q), Some(k), Some(v)) = (real(if sums { "k" } else { "q" }), real("k"), real("v")) else {
        return Err(missing());
    };
    let (g, a, b, ab, before) = (real("g"), real("a"), real("b"), real("ab"), real("state_in"));
    let source = Source { op, sizes, q, k, v, g, a, b, ab, state: before, io };

    // Columns are independent: few heads are cut into tiles, so that every core has work.
    let heads = sizes.batch * sizes.heads;
    let tiles = threads().div_ceil(heads).min(sizes.width.div_ceil(16));
    let step = sizes.width.div_ceil(tiles);
    let (rows, width) = (sizes.queries, sizes.width);
    if tiles == 1 {
        let places = out.chunks_mut(rows * width).zip(state.chunks_mut(sizes.depth * width)).enumerate();
        let mut parts: Vec<Part> = places.map(|(n, (out, state))| source.part(n, 0..width, out, state)).collect();
        for_each_row(&mut parts, 1, |_, part| source.run(&mut part[0]));
        write_z(z, parts.iter());
        return Ok(());
    }
    let (mut out_tiles, mut state_tiles) = (vec![0.0; out.len()], vec![0.0; state.len()]);
    let mut parts = Vec::new();
    let (mut out_rest, mut state_rest) = (&mut out_tiles[..], &mut state_tiles[..]);
    for head in 0..heads {
        for first in (0..width).step_by(step) {
            let columns = first..(first + step).min(width);
            let (out, state);
            (out, out_rest) = out_rest.split_at_mut(rows * columns.len());
            (state, state_rest) = state_rest.split_at_mut(sizes.depth * columns.len());
            parts.push(source.part(head, columns, out, state));
        }
    }
    for_each_row(&mut parts, 1, |_, part| source.run(&mut part[0]));
    for part in &parts {
        scatter(out, part.out, part.head * rows * width, width, &part.columns);
        scatter(state, part.state, part.head * sizes.depth * width, width, &part.columns);
    }
    write_z(z, parts.iter().filter(|part| part.columns.start == 0));
    Ok(())
}

fn threads() -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    return rayon::current_num_threads();
    #[cfg(target_arch = "wasm32")]
    1
}

/// Puts the rows of a tile where they belong in rows of the full width.
fn scatter(to: &mut [f32], tile: &[f32], first: usize, width: usize, columns: &Range<usize>) {
    for (n, row) in tile.chunks(columns.len()).enumerate() {
        to[first + n * width..][columns.clone()].copy_from_slice(row);
    }
}

fn write_z<'a, 'b: 'a>(z: Option<&mut [f32]>, parts: impl Iterator<Item = &'a Part<'b>>) {
    if let Some(z) = z {
        for part in parts {
            z[part.head * part.z.len()..][..part.z.len()].copy_from_slice(&part.z);
        }
    }
}

impl<'s> Source<'s> {
    /// The part before its first token.
    fn part<'a>(&self, head: usize, columns: Range<usize>, out: &'a mut [f32], state: &'a mut [f32]) -> Part<'a> {
        let at = [head / self.sizes.heads, head % self.sizes.heads];
        // The first segment's, where there are several.
        let first = at[1] * self.op.pass.segments(self.sizes.tokens);
        for (d, row) in state.chunks_mut(columns.len()).enumerate() {
            match &self.state {
                Some(before) => row.copy_from_slice(&before.row(&[at[0], first, d])[columns.clone()]),
                None => match self.io.table_row("s_in", [at[0], first, d]) {
                    Some(before) => {
                        row.iter_mut().zip(columns.clone()).for_each(|(s, c)| *s = before.f32(c as i32));
                    }
                    None => row.fill(0.0),
                },
            }
        }
        let z_in = self.io.table_row("z_in", [at[0], first, 0]);
        let z = (0..self.sizes.depth).map(|d| z_in.map_or(0.0, |z| z.f32(d as i32))).collect();
        Part { head, columns, out, state, z }
    }

    /// Runs a part with the widest vectors of this machine.
    fn run(&self, part: &mut Part) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the instruction sets are there.
            return unsafe { self.run_avx2(part) };
        }
        // A fused multiply-add is a library call where the target has none.
        self.run_as::<{ cfg!(any(target_feature = "fma", target_arch = "aarch64")) }>(part);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run_avx2(&self, part: &mut Part) {
        self.run_as::<true>(part);
    }

    #[inline(always)]
    fn run_as<const FUSED: bool>(&self, part: &mut Part) {
        // A divisor counts the token itself, which a read before the write does not.
        let apart = self.op.read_before && self.op.divide != Divide::None;
        if erases(&self.op, self.io.io) || apart { self.steps::<FUSED>(part) } else { self.chunks::<FUSED>(part) }
    }

    /// Batch and head of a part.
    fn at(&self, part: &Part) -> [usize; 2] {
        [part.head / self.sizes.heads, part.head % self.sizes.heads]
    }

    /// The head of a role that a head of the state reads.
    fn head_of(&self, role: &str, head: usize) -> usize {
        let meta = self.io.io.find(role).unwrap_or_else(|| self.io.io.get("k"));
        head / (self.sizes.heads / meta.layout.shape[1])
    }

    fn kept(&self, at: [usize; 2], token: usize) -> bool {
        self.io.table_row("keep", [at[0], at[1], token]).is_none_or(|keep| keep.bool(0))
    }

    /// A row of q times the scale.
    fn query(&self, at: [usize; 2], i: usize, to: &mut [f32]) {
        let row = self.q.row(&[at[0], self.head_of("q", at[1]), i]);
        to.iter_mut().zip(row).for_each(|(to, x)| *to = self.op.scale * x);
    }

    /// A row of k times its write weight, and the columns of its value; zeros where the token is not kept.
    fn key(&self, at: [usize; 2], j: usize, columns: &Range<usize>, key: &mut [f32], value: &mut [f32]) {
        if !self.kept(at, j) {
            key.fill(0.0);
            value.fill(0.0);
            return;
        }
        let weight = self.io.table_row("w", [at[0], at[1], j]).map_or(1.0, |w| w.f32(0));
        let row = self.k.row(&[at[0], self.head_of("k", at[1]), j]);
        key.iter_mut().zip(row).for_each(|(to, x)| *to = weight * x);
        value.copy_from_slice(&self.v.row(&[at[0], self.head_of("v", at[1]), j])[columns.clone()]);
    }

    /// The erase vectors of a token; `key` is its key times its write weight, `less` its decay less one.
    fn erase(&self, at: [usize; 2], t: usize, key: &[f32], less: &[f32], a: &mut [f32], b: &mut [f32]) -> bool {
        if !erases(&self.op, self.io.io) || !self.kept(at, t) {
            return false;
        }
        if self.op.delta {
            let raw = self.k.row(&[at[0], self.head_of("k", at[1]), t]);
            a.iter_mut().zip(raw).zip(less).for_each(|((a, k), less)| *a = k + less * k);
            b.iter_mut().zip(key).for_each(|(b, k)| *b = -k);
            return true;
        }
        for (side, (role, to)) in [("a", a), ("b", b)].into_iter().enumerate() {
            let of = if side == 0 { &self.a } else { &self.b };
            match (of, &self.ab) {
                (Some(x), _) => to.copy_from_slice(x.row(&[at[0], self.head_of(role, at[1]), t])),
                (None, Some(ab)) => {
                    let head = at[1] / (self.sizes.heads / self.io.io.get("ab").layout.shape[2]);
                    to.copy_from_slice(ab.row(&[side, at[0], head, t]));
                }
                (None, None) => to.fill(0.0),
            }
        }
        true
    }

    /// Scalar log decay of a token, 0 where there is none.
    fn scalar_decay(&self, at: [usize; 2], j: usize) -> f32 {
        if self.op.decay != Decay::Scalar || !self.kept(at, j) {
            return 0.0;
        }
        self.io.table_row("g_scalar", [at[0], at[1], j]).map_or(0.0, |g| g.f32(0))
    }

    /// Channel log decay of a kept token.
    fn channel_decay(&self, at: [usize; 2], j: usize) -> Option<&[f32]> {
        let g = self.g.as_ref().filter(|_| self.kept(at, j))?;
        Some(g.row(&[at[0], self.head_of("g", at[1]), j]))
    }

    /// q·(u w k): the weight of the token itself in a read before the write.
    fn bonus(&self, at: [usize; 2], q: &[f32], key: &[f32]) -> f32 {
        let Some(u) = self.io.table_row("u", [at[0], at[1], 0]) else { return 0.0 };
        q.iter().zip(key).enumerate().map(|(d, (q, k))| q * u.f32(d as i32) * k).sum()
    }

    fn has_z(&self) -> bool {
        has_z(&self.op, self.io.io)
    }

    /// Divides a read by what its divisor q·z makes of it.
    fn divide(&self, read: &mut [f32], by: f32) {
        let factor = match self.op.divide {
            Divide::None => return,
            Divide::Sum(eps) if by + eps == 0.0 => 0.0,
            Divide::Sum(eps) => 1.0 / (by + eps),
            Divide::AbsMax1 => 1.0 / by.abs().max(1.0),
        };
        read.iter_mut().for_each(|x| *x *= factor);
    }
}

/// e^g − 1. S + (e^g − 1) S keeps a slow decay that e^g rounds: the same factor every step, its error would add up.
pub(super) fn less_one(g: f64) -> f32 {
    g.exp_m1() as f32
}
