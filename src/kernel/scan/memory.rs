//! `scan.memory`: a network per head whose weights are the state, trained on the tokens as they come.

use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::reals::Reals;
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, for_each_row};
use crate::tensor::DType;

const WORKGROUP: u32 = 128;
/// Floats of a token's vectors: the workgroup memory of every device.
const VECTORS: usize = 4096;
/// Rows of a matrix that a thread takes at once.
const ROWS: usize = 8;
/// Iterations of all loops of an invocation, at most.
const ITERATIONS: usize = 60_000;
const TABLES: [(&str, ScalarType); 3] =
    [("theta", ScalarType::F32), ("alpha", ScalarType::F32), ("eta", ScalarType::F32)];

/// The activation between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// x σ(x).
    Silu,
    /// max(x, 0).
    Relu,
    /// tanh x.
    Tanh,
}

impl Act {
    /// Activation and slope.
    fn of(self, x: f32) -> [f32; 2] {
        match self {
            Act::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                [x * s, s * (1.0 + x * (1.0 - s))]
            }
            Act::Relu => [x.max(0.0), f32::from(u8::from(x > 0.0))],
            Act::Tanh => [x.tanh(), 1.0 - x.tanh().powi(2)],
        }
    }
}

/// P_t = η_t P_{t−1} − θ_t ∇|M_τ(k_t) − v_t|² gain/2, M_t = (1 − α_t) M_{t−1} + P_t, out_t = M_t(q_t), τ the last token before the chunk of t.
///
/// Roles q and k (B, Hx, L, D), v (B, Hx, L, Dv), out (B, H, L, Dv), surprise |M_τ(k_t) − v_t|² (B, H, L); `last` (3, B, H, Hid or D, Dv) and,
/// with two layers, `hidden` (3, B, H, D, Hid): weights, momentum and the weights at τ, read and written. Tables theta, alpha, eta (B, H, L, 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Tokens whose gradients are taken at the same weights.
    pub chunk: usize,
    /// Tokens before the first, counted from a chunk's first.
    pub position: usize,
    /// Between two layers.
    pub act: Act,
    /// Factor of M(k) − v in the gradient: 2 for the square.
    pub gain: f32,
    /// The read comes before the write.
    pub read_before: bool,
    /// Tokens of this stage, first and end; all of them where none. Others are left as they are, so that stages follow each other.
    pub stretch: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    heads: usize,
    tokens: usize,
    depth: usize,
    /// What enters the last layer.
    inner: usize,
    width: usize,
}

impl Memory {
    fn sizes(&self, io: &Io) -> Result<Sizes> {
        let (out, last) = (&io.get("out").layout.shape, &io.get("last").layout.shape);
        let (&[batch, heads, tokens, width], &[_, _, _, inner, _]) = (&out[..], &last[..]) else {
            return Err(self.refuse("last", "rank 5, and out of rank 4", last));
        };
        let depth = io.get("k").layout.shape.last().copied().unwrap_or(0);
        let expected: [(&str, &[usize]); 7] = [
            ("q", &[batch, 0, tokens, depth]),
            ("k", &[batch, 0, tokens, depth]),
            ("v", &[batch, 0, tokens, width]),
            ("out", &[batch, heads, tokens, width]),
            ("surprise", &[batch, heads, tokens]),
            ("hidden", &[3, batch, heads, depth, inner]),
            ("last", &[3, batch, heads, inner, width]),
        ];
        for (role, want) in expected {
            let Some(found) = io.find(role).map(|meta| &meta.layout.shape) else { continue };
            let fits = |(n, want): (&usize, &usize)| n == want || (*want == 0 && *n != 0 && heads.is_multiple_of(*n));
            if found.len() != want.len() || !found.iter().zip(want).all(fits) {
                return Err(self.refuse(role, format!("{want:?}"), found));
            }
        }
        if self.chunk == 0 || (io.find("hidden").is_none() && inner != depth) {
            return Err(self.refuse(
                "last",
                format!("{depth} rows without a hidden layer, and chunks of a token or more"),
                last,
            ));
        }
        Ok(Sizes { batch, heads, tokens, depth, inner, width })
    }

    /// Tokens of a stage. Work of a submit stays bounded, and llvmpipe leaves every loop after 65535 iterations of all loops of an invocation.
    pub(crate) fn tokens(depth: usize, hidden: Option<usize>, width: usize) -> usize {
        let (rounds, rows) = (|n: usize| n.div_ceil(WORKGROUP as usize), |n: usize| n.div_ceil(ROWS) + 1);
        let last = rounds(width) * 2 * rows(hidden.unwrap_or(depth));
        let hidden = hidden.map_or(0, |inner| rounds(inner) * (2 * rows(depth) + rows(width)));
        (ITERATIONS / (1 + rounds(depth) + hidden + last + rows(width))).max(1)
    }

    fn range(&self, s: &Sizes) -> (usize, usize) {
        self.stretch.map_or((0, s.tokens), |(first, end)| (first, end.min(s.tokens)))
    }

    fn refuse(&self, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
        Error::expected(ErrorKind::Shape, self.name(), role, expected, format!("{found:?}"))
    }

    /// Whether a token's vectors fit the workgroup memory of every device: D, the hidden width if any, and Dv.
    pub fn fits(depth: usize, hidden: Option<usize>, width: usize) -> bool {
        let [input, inner, width] = Self::rounded(depth, hidden, width);
        2 * input + 3 * inner + width <= VECTORS
    }

    /// Lengths of the arrays: a width that changes a little keeps its kernel.
    fn rounded(depth: usize, hidden: Option<usize>, width: usize) -> [usize; 3] {
        let up = |n: usize| n.next_multiple_of(32);
        [if hidden.is_some() { up(depth) } else { 1 }, up(hidden.unwrap_or(depth)), up(width)]
    }
}

impl Kernel for Memory {
    fn name(&self) -> &'static str {
        "scan.memory"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 7] = [
            Role::read("q", DType::F32).scalar(),
            Role::read("k", DType::F32).scalar(),
            Role::read("v", DType::F32).scalar(),
            Role::write("hidden", DType::F32).scalar().optional(),
            Role::write("last", DType::F32).scalar(),
            Role::write("out", DType::F32).scalar(),
            Role::write("surprise", DType::F32).scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let s = self.sizes(io)?;
        let hidden = io.find("hidden").map(|_| s.inner);
        if !Self::fits(s.depth, hidden, s.width) {
            let message = format!(
                "scan.memory: D = {}, hidden {}, Dv = {}; a token's vectors hold up to {VECTORS} numbers",
                s.depth, s.inner, s.width
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let [input, inner, width] = Self::rounded(s.depth, hidden, s.width).map(|n| n as u32);
        let (first, end) = self.range(&s);
        let share = |role: &str| s.heads / io.get(role).layout.shape[1];
        Ok(LaunchBuilder::new(self, "scan/memory", WORKGROUP, io, caps, &TABLES)
            .constant("INPUT", input)
            .constant("INNER", inner)
            .constant("WIDTH", width)
            .constant("ACT", self.act as u32)
            .switch("HIDDEN", hidden.is_some())
            .switch("READ_BEFORE", self.read_before)
            .u32("heads", s.heads)
            .u32("first", first)
            .u32("end", end)
            .u32("depth", s.depth)
            .u32("inner", s.inner)
            .u32("width", s.width)
            .u32("chunk", self.chunk)
            .u32("position", self.position % self.chunk)
            .f32("gain", self.gain)
            .u32("q_share", share("q"))
            .u32("k_share", share("k"))
            .u32("v_share", share("v"))
            .strides("q", 4)
            .strides("k", 4)
            .strides("v", 4)
            .strides("hidden", 5)
            .strides("last", 5)
            .strides("out", 4)
            .strides("surprise", 3)
            .groups(s.batch * s.heads))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let s = self.sizes(io.io)?;
        let (hidden, last) = (io.write_f32("hidden"), io.write_f32("last"));
        let (out, surprise) = (io.write_f32("out"), io.write_f32("surprise"));
        let missing = || Error::new(ErrorKind::Unsupported, "scan.memory: a role is missing or holds no reals");
        let (Some(last), Some(out), Some(surprise)) = (last, out, surprise) else { return Err(missing()) };
        let real = |role| Reals::of(io, role).ok_or_else(missing);
        let [q, k, v] = [real("q")?, real("k")?, real("v")?];
        let rows = |name: &str, x: &Reals, [b, h]: [usize; 2], t: usize| -> Vec<f32> {
            x.row(&[b, h / (s.heads / io.io.get(name).layout.shape[1]), t]).to_vec()
        };
        let ((first, end), count) = (self.range(&s), s.batch * s.heads);
        let hidden: Vec<Option<Layer>> = match hidden {
            Some(hidden) => Layer::of_heads(hidden, count, s.inner).into_iter().map(Some).collect(),
            None => (0..count).map(|_| None).collect(),
        };
        let layers = hidden.into_iter().zip(Layer::of_heads(last, count, s.width));
        let outs = out.chunks_mut(s.tokens * s.width).zip(surprise.chunks_mut(s.tokens));
        let mut heads: Vec<_> = layers.zip(outs).collect();
        for_each_row(&mut heads, 1, |n, head| {
            let ((hidden, last), (out, surprise)) = &mut head[0];
            let at = [n / s.heads, n % s.heads];
            let tokens = out.chunks_mut(s.width).zip(surprise.iter_mut()).enumerate();
            for (t, (out, surprise)) in tokens.skip(first).take(end - first) {
                let rate = |table| io.table_row(table, [at[0], at[1], t]).map_or(0.0, |row| row.f32(0));
                let step = Step { stay: 1.0 - rate("alpha"), keep: rate("eta"), theta: rate("theta") * self.gain };
                let [query, key, value] = [rows("q", &q, at, t), rows("k", &k, at, t), rows("v", &v, at, t)];
                if (self.position + t).is_multiple_of(self.chunk) {
                    hidden.iter_mut().chain([&mut *last]).for_each(|layer| layer.anchor.copy_from_slice(layer.weights));
                }
                let (inner, slope): (Vec<f32>, Vec<f32>) = match hidden {
                    Some(hidden) => hidden.recall(&key).into_iter().map(|x| self.act.of(x).into()).unzip(),
                    None => (key.clone(), Vec::new()),
                };
                let error: Vec<f32> = last.recall(&inner).iter().zip(&value).map(|(y, v)| y - v).collect();
                *surprise = error.iter().map(|e| e * e).sum();
                let asked = match hidden {
                    Some(hidden) => {
                        let back = last.anchor.chunks(s.width).zip(&slope);
                        let back: Vec<f32> =
                            back.map(|(row, slope)| crate::kernel::reals::dot(row, &error) * slope).collect();
                        let read = hidden.learn(step, &key, &back, &query, self.read_before);
                        read.into_iter().map(|x| self.act.of(x)[0]).collect()
                    }
                    None => query,
                };
                out.copy_from_slice(&last.learn(step, &inner, &error, &asked, self.read_before));
            }
        });
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok(s) = self.sizes(io) else { return 0.0 };
        let hidden = if io.find("hidden").is_some() { s.depth * s.inner } else { 0 };
        // A product at the anchor, one back, the momentum, the weights and the read.
        let (first, end) = self.range(&s);
        (10 * s.batch * s.heads * (end - first) * (hidden + s.inner * s.width)) as f64
    }
}

/// The rates of a token.
#[derive(Clone, Copy)]
struct Step {
    stay: f32,
    keep: f32,
    theta: f32,
}

/// One layer of one head.
struct Layer<'a> {
    weights: &'a mut [f32],
    momentum: &'a mut [f32],
    anchor: &'a mut [f32],
    columns: usize,
}

impl<'a> Layer<'a> {
    fn of_heads(state: &'a mut [f32], count: usize, columns: usize) -> Vec<Layer<'a>> {
        let each = state.len() / (3 * count);
        let (weights, rest) = state.split_at_mut(count * each);
        let (momentum, anchor) = rest.split_at_mut(count * each);
        let parts = weights.chunks_mut(each).zip(momentum.chunks_mut(each)).zip(anchor.chunks_mut(each));
        parts.map(|((weights, momentum), anchor)| Layer { weights, momentum, anchor, columns }).collect()
    }

    /// Anchorᵀ x.
    fn recall(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; self.columns];
        for (row, x) in self.anchor.chunks(self.columns).zip(x) {
            y.iter_mut().zip(row).for_each(|(y, w)| *y += w * x);
        }
        y
    }

    /// One step along x backᵀ, and the read Wᵀ query after it or before it.
    fn learn(&mut self, step: Step, x: &[f32], back: &[f32], query: &[f32], before: bool) -> Vec<f32> {
        let mut read = vec![0.0; self.columns];
        let rows = self.weights.chunks_mut(self.columns).zip(self.momentum.chunks_mut(self.columns));
        for (((weights, momentum), x), query) in rows.zip(x).zip(query) {
            for (((w, p), back), read) in weights.iter_mut().zip(momentum).zip(back).zip(&mut read) {
                let old = *w;
                *p = step.keep * *p - step.theta * back * x;
                *w = step.stay * old + *p;
                *read += query * if before { old } else { *w };
            }
        }
        read
    }
}
