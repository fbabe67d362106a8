//! `scan.solve`: a symmetric matrix that keys add to, and the linear system in it that each token asks for.

use super::twin::less_one;
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::reals::{Reals, dot, solve};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, for_each_row};
use crate::tensor::DType;

/// Channels: a row of the matrix stays in the registers of a thread, twice where the solution is direct.
pub const DEEPEST: usize = 128;
/// Of the largest diagonal: a pivot that is rounding.
const FLAT: f32 = 1e-7;
/// Segments of all heads, at most.
const WORKGROUPS: usize = 512;
/// Rows of a segment, at most: llvmpipe leaves every loop after 65535 iterations of all loops of an invocation.
const LONGEST: usize = 512;
/// Rows of a segment, at least: whole chunks of the scan that makes their first states.
const SEGMENT: usize = 64;
const TABLES: [(&str, ScalarType); 3] = [("g", ScalarType::F32), ("w", ScalarType::F32), ("ridge", ScalarType::F32)];

/// What a token asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// (M + Λ)⁻¹ q, by the inverse. Directions whose pivot is rounding are left out.
    Inverse,
    /// The same by so many steps of conjugate gradients from 0; a step with a denominator of 0 is none.
    Steps(usize),
    /// The matrix is an inverse P, from which a key takes what it adds to the matrix: P ← e^−g P, κ = w P k / (1 + w kᵀ P k),
    /// P ← P − κ (P k)ᵀ; the answer is κ.
    Gain,
}

/// M_t = e^g M_{t−1} + w k kᵀ and x_t = (M_t + Λ)⁻¹ q_t. Roles q (B, Hq, Lq, D), k (B, Hk, L, D), state_in (B, H, D, D), out
/// (B, H, Lq, D), state (B, H, D, D); tables `g` log decay and `w` weight (B, H, L, 1), `ridge` Λ (B, H, Lq, D). Symmetric matrices, f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solve {
    /// What a token asks for.
    pub by: By,
    /// Every row counts so many last tokens only, its own included, from a matrix of zeros.
    pub window: Option<usize>,
    /// Every row asks after the last token, from a matrix of zeros; else row t after token t.
    pub last: bool,
    /// Rows of a segment, each of which begins with a state of its own: state_in is (B, H S, D, D). The twin goes through all tokens in order.
    pub segment: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    tokens: usize,
    depth: usize,
    /// Rows of a workgroup.
    each: usize,
    /// Workgroups of a head.
    parts: usize,
}

impl Solve {
    /// Row t after token t, all tokens before it counted.
    pub fn new(by: By) -> Self {
        Solve { by, window: None, last: false, segment: None }
    }

    /// No state goes in and out: rows are independent.
    fn apart(&self) -> bool {
        self.window.is_some() || self.last
    }

    /// Rows of a segment where so many heads and rows are better cut. A gain is not linear in the matrix before it.
    pub(crate) fn segment(&self, heads: usize, rows: usize) -> Option<usize> {
        let each = (heads * rows).div_ceil(WORKGROUPS).next_multiple_of(SEGMENT).min(LONGEST);
        (!self.apart() && self.by != By::Gain && each < rows).then_some(each)
    }

    fn sizes(&self, io: &Io) -> Result<Sizes> {
        let (k, out) = (&io.get("k").layout.shape, &io.get("out").layout.shape);
        let (&[batch, _, tokens, depth], &[_, heads, queries, _]) = (&k[..], &out[..]) else {
            return Err(self.refuse("k", "rank 4, and out of rank 4", k));
        };
        let each = if self.apart() { 1 } else { self.segment.unwrap_or(tokens) };
        let parts = queries.div_ceil(each.max(1));
        let states = heads * if self.segment.is_some() { parts } else { 1 };
        let expected = [
            ("q", queries, depth, 0),
            ("k", tokens, depth, 0),
            ("out", queries, depth, heads),
            ("state", depth, depth, heads),
        ];
        for (role, rows, width, exact) in expected.into_iter().chain([("state_in", depth, depth, states)]) {
            let Some(found) = io.find(role).map(|meta| &meta.layout.shape) else { continue };
            let fits = |n: usize| if exact == 0 { n != 0 && heads.is_multiple_of(n) } else { n == exact };
            if found.len() != 4 || found[0] != batch || !fits(found[1]) || found[2..] != [rows, width] {
                return Err(self.refuse(role, format!("({batch}, heads, {rows}, {width})"), found));
            }
        }
        if io.find("q").is_none() != (self.by == By::Gain) || (!self.last && queries != tokens) {
            return Err(self.refuse("q", format!("{tokens} rows like k, or none for a gain"), out));
        }
        if self.apart() && (io.find("state_in").is_some() || io.find("state").is_some() || self.by == By::Gain) {
            return Err(self.refuse("state", "none with a window or after the last token", k));
        }
        if depth > DEEPEST {
            let message = format!("scan.solve: {depth} channels; the kernel holds up to {DEEPEST}");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(Sizes { batch, heads, queries, tokens, depth, each, parts })
    }

    fn refuse(&self, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
        Error::expected(ErrorKind::Shape, self.name(), role, expected, format!("{found:?}"))
    }
}

impl Kernel for Solve {
    fn name(&self) -> &'static str {
        "scan.solve"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 5] = [
            Role::read("q", DType::F32).optional(),
            Role::read("k", DType::F32),
            Role::read("state_in", DType::F32).optional(),
            Role::write("out", DType::F32).scalar(),
            Role::write("state", DType::F32).optional(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = self.sizes(io)?;
        let depth = s.depth.next_power_of_two().max(16) as u32;
        let share = |role: &str| io.find(role).map_or(1, |meta| s.heads / meta.layout.shape[1]);
        let steps = if let By::Steps(n) = self.by { n } else { 0 };
        Ok(LaunchBuilder::new(self, "scan/solve", depth, io, caps, &TABLES)
            .import("lib/less_one")
            .constant("DEPTH", depth)
            .switch("GAIN", self.by == By::Gain)
            .switch("DIRECT", self.by == By::Inverse)
            .switch("LAST", self.last)
            .switch("WINDOW", self.apart())
            .switch("HAS_WEIGHT", io.has_table("w"))
            .switch("HAS_STATE", io.find("state").is_some())
            .u32("heads", s.heads)
            .u32("tokens", s.tokens)
            .u32("depth", s.depth)
            .u32("each", s.each)
            .u32("parts", s.parts)
            .u32("parts_in", if self.segment.is_some() { s.parts } else { 1 })
            .u32("window", self.window.unwrap_or(s.tokens))
            .u32("steps", steps)
            .u32("q_share", share("q"))
            .u32("k_share", share("k"))
            .strides("q", 4)
            .strides("k", 4)
            .strides("state_in", 4)
            .strides("out", 4)
            .strides("state", 4)
            .groups(s.batch * s.heads * s.parts))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let s = self.sizes(io.io)?;
        let (out, state) = (io.write_f32("out"), io.write_f32("state"));
        let missing = || Error::new(ErrorKind::Unsupported, "scan.solve: a role is missing or holds no reals");
        let (Some(out), Some(k)) = (out, Reals::of(io, "k")) else { return Err(missing()) };
        let source = Source { op: *self, io, s, q: Reals::of(io, "q"), k };
        if self.apart() {
            for_each_row(out, s.depth, |n, out| {
                let ([b, h], i) = ([n / s.queries / s.heads, n / s.queries % s.heads], n % s.queries);
                let asks = if self.last { s.tokens - 1 } else { i };
                let from = (asks + 1).saturating_sub(self.window.unwrap_or(s.tokens));
                let mut m = vec![vec![0.0; s.depth]; s.depth];
                for t in from..=asks {
                    source.write([b, h], t, &mut m);
                }
                out.copy_from_slice(&source.answer([b, h], i, &m));
            });
            return Ok(());
        }
        let before = Reals::of(io, "state_in");
        let states = state.map_or_else(Vec::new, |x| x.chunks_mut(s.depth * s.depth).map(Some).collect());
        let states = states.into_iter().chain(std::iter::repeat_with(|| None));
        let mut heads: Vec<_> = out.chunks_mut(s.queries * s.depth).zip(states).collect();
        let first = if self.segment.is_some() { s.parts } else { 1 };
        for_each_row(&mut heads, 1, |n, head| {
            let (out, state) = &mut head[0];
            let [b, h] = [n / s.heads, n % s.heads];
            let row = |d| before.as_ref().map_or_else(|| vec![0.0; s.depth], |x| x.row(&[b, h * first, d]).to_vec());
            let mut m: Vec<Vec<f32>> = (0..s.depth).map(row).collect();
            for (t, out) in out.chunks_mut(s.depth).enumerate() {
                if self.by == By::Gain {
                    out.copy_from_slice(&source.gain([b, h], t, &mut m));
                } else {
                    source.write([b, h], t, &mut m);
                    out.copy_from_slice(&source.answer([b, h], t, &m));
                }
            }
            if let Some(state) = state {
                state.copy_from_slice(&m.concat());
            }
        });
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = self.sizes(io) else { return 0.0 };
        let (depth, rows) = (s.depth as f64, (s.batch * s.heads * s.queries) as f64);
        let written = if self.apart() { self.window.unwrap_or(s.tokens).min(s.tokens) } else { 1 };
        let answer = match self.by {
            By::Inverse => depth,
            By::Steps(n) => n as f64,
            By::Gain => 2.0,
        };
        2.0 * rows * depth * depth * (written as f64 + answer)
    }
}

/// What the twin reads.
struct Source<'a, 'b> {
    op: Solve,
    io: &'b TwinIo<'a>,
    s: Sizes,
    q: Option<Reals<'a>>,
    k: Reals<'a>,
}

impl Source<'_, '_> {
    fn number(&self, table: &str, [b, h]: [usize; 2], t: usize, default: f32) -> f32 {
        self.io.table_row(table, [b, h, t]).map_or(default, |row| row.f32(0))
    }

    fn key(&self, [b, h]: [usize; 2], t: usize) -> &[f32] {
        let shared = self.io.io.get("k").layout.shape[1];
        self.k.row(&[b, h / (self.s.heads / shared), t])
    }

    /// M ← e^g M + w k kᵀ.
    fn write(&self, at: [usize; 2], t: usize, m: &mut [Vec<f32>]) {
        let (less, w) = (less_one(f64::from(self.number("g", at, t, 0.0))), self.number("w", at, t, 1.0));
        let key = self.key(at, t);
        for (row, x) in m.iter_mut().zip(key) {
            row.iter_mut().zip(key).for_each(|(m, y)| *m += less * *m + w * (x * y));
        }
    }

    /// κ, and P without what it takes.
    fn gain(&self, at: [usize; 2], t: usize, p: &mut [Vec<f32>]) -> Vec<f32> {
        let (grow, w) = (less_one(-f64::from(self.number("g", at, t, 0.0))), self.number("w", at, t, 1.0));
        let key = self.key(at, t);
        p.iter_mut().for_each(|row| row.iter_mut().for_each(|p| *p += grow * *p));
        let u: Vec<f32> = p.iter().map(|row| dot(row, key)).collect();
        let factor = w / (1.0 + w * dot(&u, key));
        for (row, x) in p.iter_mut().zip(&u) {
            row.iter_mut().zip(&u).for_each(|(p, y)| *p -= factor * (x * y));
        }
        u.iter().map(|u| factor * u).collect()
    }

    /// (M + Λ)⁻¹ q of row i.
    fn answer(&self, at: [usize; 2], i: usize, m: &[Vec<f32>]) -> Vec<f32> {
        let q = self.q.as_ref().map_or(&[][..], |q| {
            let shared = self.io.io.get("q").layout.shape[1];
            q.row(&[at[0], at[1] / (self.s.heads / shared), i])
        });
        let ridge = self.io.table_row("ridge", [at[0], at[1], i]);
        let own: Vec<f32> = (0..self.s.depth).map(|d| ridge.as_ref().map_or(0.0, |r| r.f32(d as i32))).collect();
        let By::Steps(steps) = self.op.by else {
            let mut lower: Vec<Vec<f32>> = m.iter().enumerate().map(|(a, row)| row[..=a].to_vec()).collect();
            lower.iter_mut().zip(&own).for_each(|(row, own)| *row.last_mut().expect("a diagonal") += own);
            return solve(lower, q.to_vec(), FLAT);
        };
        let (mut x, mut rest) = (vec![0.0; q.len()], q.to_vec());
        let (mut direction, mut size) = (rest.clone(), dot(&rest, &rest));
        for _ in 0..steps {
            let y: Vec<f32> =
                m.iter().zip(&own).zip(&direction).map(|((row, own), d)| dot(row, &direction) + own * d).collect();
            let bend = dot(&direction, &y);
            let length = if bend == 0.0 { 0.0 } else { size / bend };
            x.iter_mut().zip(&direction).for_each(|(x, d)| *x += length * d);
            rest.iter_mut().zip(&y).for_each(|(r, y)| *r -= length * y);
            let now = dot(&rest, &rest);
            let keep = if size == 0.0 { 0.0 } else { now / size };
            direction.iter_mut().zip(&rest).for_each(|(d, r)| *d = r + keep * *d);
            size = now;
        }
        x
    }
}
