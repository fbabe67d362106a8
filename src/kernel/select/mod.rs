//! `select`: scores of candidates, the indices of the largest, and the key ranges of packed rows.

mod block_map;
mod launch;
mod twin;

pub use block_map::BlockMap;

use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::Result;
use crate::kernel::key::Launch;
use crate::tensor::DType;

/// How the scores of the heads of a group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ_h w_h max(0, q_h·k): the lightning indexer's. Role `w` (B, H, Lq).
    WeightedRelu,
    /// Σ_h exp(scale q_h·k − lse_h): the probabilities that attention over the same candidates gave. Role `lse` (B, H, Lq).
    Probability,
}

/// Scores of candidates: roles q (B, H, Lq, D), k (B, Hs, Nk, D), optional `w` and `lse` (B, H, Lq), optional `list` (B, Hs, Lq, n):
/// candidate blocks of `list_block` consecutive rows of k each (candidate slot s is row list[s / list_block] * list_block +
/// s % list_block). Output `scores` (B, Hs, Lq, N): N = Nk, or n * list_block with a list. Query head h belongs to score head
/// h / (H / Hs). Candidate n (a row of k) is visible to query i when not causal or n * unit + lead <= i + Lk − Lq, Lk = `tokens`.
/// Invisible candidates get −∞ (0 with [`Reduce::Probability`]), as do empty places of the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// How heads combine.
    pub reduce: Reduce,
    /// Factor: of the sum with [`Reduce::WeightedRelu`], of q·k with [`Reduce::Probability`].
    pub scale: f32,
    /// Whether later candidates are hidden.
    pub causal: bool,
    /// Tokens that the queries' positions count against (Lk).
    pub tokens: usize,
    /// Tokens from one candidate to the next.
    pub unit: usize,
    /// Tokens a candidate reaches past its first (0: visible from its first token on).
    pub lead: usize,
    /// Rows of k in one entry of `list`.
    pub list_block: usize,
}

/// Indices of the largest scores of each row: role `scores` (B, Hs, Lq, N), optional `list` (B, Hs, Lq, n) that maps a slot to
/// list[slot / list_block] * list_block + slot % list_block; output `indices` (B, Hs, Lq, K) i32, ascending, −1 in unused places.
/// Ties go to the lower slot; scores of −∞ (at most −1e30) are never taken. With `causal`, slot n (of `unit` tokens) beyond the query's own
/// (n * unit > i + tokens − Lq) is never taken; the first `force_first` slots and the last `force_last` up to the query's own always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    /// Whether slots beyond the query's own are hidden.
    pub causal: bool,
    /// Tokens that the queries' positions count against (Lk).
    pub tokens: usize,
    /// Tokens a slot.
    pub unit: usize,
    /// First slots that are always taken.
    pub force_first: usize,
    /// Last slots, up to the query's own, that are always taken.
    pub force_last: usize,
    /// Slots in one entry of `list`.
    pub list_block: usize,
}

/// The key range of each packed row, from cumulative lengths: roles cu_q, cu_k (n + 1) i32; outputs `start` and `end` (Tq) i32.
/// Row r of sequence s sees `cu_k[s] <= j < cu_k[s + 1]`, with causality aligned inside the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Later keys of the sequence are hidden.
    pub causal: bool,
    /// The last row of a sequence sees its last key (else row 0 sees key 0).
    pub bottom_right: bool,
}

impl Score {
    /// Σ_h w_h max(0, q_h·k) over `tokens` candidates of one token each, all visible, unscaled.
    pub fn weighted_relu(tokens: usize) -> Self {
        Score { reduce: Reduce::WeightedRelu, scale: 1.0, causal: false, tokens, unit: 1, lead: 0, list_block: 1 }
    }

    /// Probabilities of causal attention, summed over the heads of a group.
    pub fn probability(scale: f32, tokens: usize) -> Self {
        Score { reduce: Reduce::Probability, scale, causal: true, ..Score::weighted_relu(tokens) }
    }
}

impl TopK {
    /// The largest scores, whatever the slot.
    pub fn plain() -> Self {
        TopK { causal: false, tokens: 1, unit: 1, force_first: 0, force_last: 0, list_block: 1 }
    }
}

/// The role that holds the numbers of a reduction, one a query head and row.
fn factors(reduce: Reduce) -> &'static str {
    match reduce {
        Reduce::WeightedRelu => "w",
        Reduce::Probability => "lse",
    }
}

impl Kernel for Score {
    fn name(&self) -> &'static str {
        "select.score"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 6] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("w", DType::F32).scalar().optional(),
            Role::read("lse", DType::F32).scalar().optional(),
            Role::read("list", DType::I32).optional(),
            Role::write("scores", DType::F32).scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::score(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::score(self, io)
    }

    fn flops(&self, io: &Io) -> f64 {
        launch::pairs(self, io) * 2.0 * io.get("q").layout.shape[3] as f64
    }
}

impl Kernel for TopK {
    fn name(&self) -> &'static str {
        "select.topk"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 3] = [
            Role::read("scores", DType::F32).scalar(),
            Role::read("list", DType::I32).optional(),
            Role::write("indices", DType::I32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::top_k(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::top_k(self, io)
    }

    fn flops(&self, _io: &Io) -> f64 {
        0.0
    }
}

impl Kernel for Segments {
    fn name(&self) -> &'static str {
        "select.segments"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 4] = [
            Role::read("cu_q", DType::I32),
            Role::read("cu_k", DType::I32),
            Role::write("start", DType::I32),
            Role::write("end", DType::I32),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        launch::segments(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::segments(self, io)
    }

    fn flops(&self, _io: &Io) -> f64 {
        0.0
    }
}
