//! `attend`: O and lse of queries over a set of keys, with a streaming normaliser. Prefill, split decode and lists in one kernel.

mod choice;
mod launch;
mod twin;

pub use twin::visits::Visits;
pub(crate) use twin::visits::{of_kernel, of_twin, tile_of};

use super::key::ScalarType;
use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::Launch;
use crate::tensor::DType;

/// Which keys a row may see, before causality, window and mask hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// All of them.
    Range,
    /// Key blocks listed for each query block: role `indices` alone is a mask (B, heads, nq, nk) of U8 or I32 (0: not listed, 2: listed, and
    /// the mask hooks allow every pair of it; they are not asked); with `indptr`
    /// (B, heads, nq + 1) it is CSR with `indices` (B, heads, nnz).
    Blocks {
        /// Queries a block.
        queries: usize,
        /// Keys a block.
        keys: usize,
    },
    /// Keys listed for each query: role `indices` is (B, heads, Lq, K), −1 for an empty place, in any order. Entry n stands for the
    /// keys n·block <= j < (n + 1)·block; those at or beyond Lk are no keys (a partial last block). A repeated entry counts
    /// again. Causality, window, row bounds and mask hooks restrict the listed keys as they do all others.
    Tokens {
        /// Keys an entry: 1 for a list of tokens, more for a list of blocks.
        block: usize,
    },
}

/// What makes weights of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normaliser {
    /// Softmax: has an lse, and parts merge by it.
    Softmax,
    /// The weight hooks alone; parts add up.
    Weights,
}

/// The operation. Roles q (B, H, Lq, D), k (B, Hk, Lk, D), v (B, Hk, Lk, Dv), out (S, B, H, Lq, Dv), lse and mass (S, B, H, Lq);
/// S is `splits`. Tables: `row_start`, `row_end` (keys start <= j < end of a row), `lengths` (keys in use of a batch entry), `sink`
/// (logits that join the denominator, along the last axis).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// Factor of q·k.
    pub scale: f32,
    /// Which keys.
    pub keys: Keys,
    /// Query i is at i + Lk − Lq (else at i).
    pub bottom_right: bool,
    /// Keys up to the query's position.
    pub causal: bool,
    /// Keys from the query's position − left.
    pub window_left: Option<usize>,
    /// Keys up to the query's position + right.
    pub window_right: Option<usize>,
    /// Keys below this index are seen whatever the window and the row bounds say (but not across causality).
    pub prefix: usize,
    /// Softmax or weight hooks.
    pub normaliser: Normaliser,
    /// Parts that the keys are cut in, each of ceil(Lk / splits); results are partial, to be merged.
    pub splits: usize,
}

impl Attend {
    /// Softmax over all keys, bottom-right aligned, not causal, whole.
    pub fn new(scale: f32) -> Self {
        Attend {
            scale,
            keys: Keys::Range,
            bottom_right: true,
            causal: false,
            window_left: None,
            window_right: None,
            prefix: 0,
            normaliser: Normaliser::Softmax,
            splits: 1,
        }
    }

    /// The same, causal or not.
    #[must_use]
    pub fn causal(mut self, causal: bool) -> Self {
        self.causal = causal;
        self
    }
}

/// Rows that a workgroup takes, about; what it really is, the device decides.
const TILE_ROWS: usize = 128;
/// The same without matrices, and the workgroups for each of those that fill a device, so that short ones follow long ones to the end.
const SMALL_ROWS: usize = 64;
const TURNS: usize = 4;
/// Bytes of one binding that every device has.
const MOST_BYTES: usize = 128 << 20;

impl Attend {
    /// Parts that few rows over many keys are better cut in, for q (B, H, Lq, D) and k (B, Hk, Lk, D): a decode step, a chunk of a long
    /// prefill; and if `small`, a causal square, whose small workgroups would all run at once, until only long ones are left.
    /// 1 where rows alone fill a device, where a part would be too short to be worth a merge, and where a window leaves most
    /// parts without work. `width` is Dv: the parts' results fit one binding of every device. `workgroups`
    /// fill the engine.
    pub(crate) fn parts(&self, q: &[usize], k: &[usize], width: usize, workgroups: usize, small: bool) -> usize {
        let (&[batch, heads, queries, _], &[_, kv_heads, keys, _]) = (q, k) else { return 1 };
        let rows = queries * (heads / kv_heads.max(1)).max(1);
        let decode = rows <= choice::DECODE_ROWS;
        // Rows that end early leave the last parts of a causal square empty.
        let long = keys >= 4 * queries.max(64);
        let uneven = self.causal && !decode && small;
        let banded = self.window_left.is_some() || self.window_right.is_some() && !self.causal;
        if self.keys != Keys::Range
            || self.normaliser != Normaliser::Softmax
            || self.prefix > 0
            || banded
            || !(long || uneven)
        {
            return 1;
        }
        let (tile, least, workgroups) = match (decode, long) {
            (true, _) => (choice::DECODE_ROWS, 256, workgroups),
            (false, true) => (TILE_ROWS, 1024, workgroups),
            (false, false) => (SMALL_ROWS, 1024, TURNS * workgroups),
        };
        let tasks = batch * kv_heads * rows.div_ceil(tile);
        let bytes = 4 * batch * heads * queries * width;
        (workgroups / tasks.max(1)).min(keys / least).min(MOST_BYTES / bytes.max(1)).max(1)
    }
}

/// Tables that the kernel itself reads.
pub(crate) const TABLES: [(&str, ScalarType); 4] = [
    ("row_start", ScalarType::I32),
    ("row_end", ScalarType::I32),
    ("lengths", ScalarType::I32),
    ("sink", ScalarType::F32),
];

impl Kernel for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 8] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("v", DType::F32),
            Role::read("indptr", DType::I32).optional(),
            Role::read("indices", DType::I32).optional(),
            Role::write("out", DType::F32),
            Role::write("lse", DType::F32).scalar().optional(),
            Role::write("mass", DType::F32).scalar().optional(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let first = launch::launch(self, io, caps, 0)?;
        // The portable tile is always among the choices.
        first.ok_or_else(|| Error::new(ErrorKind::Unsupported, "attend: no kernel"))
    }

    fn alternative(&self, n: usize, io: &Io, caps: &Caps) -> Result<Option<Launch>> {
        launch::launch(self, io, caps, n)
    }

    fn reasons(&self, io: &Io, caps: &Caps) -> Vec<String> {
        launch::reasons(self, io, caps)
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        twin::twin(self, io)
    }

    fn flops(&self, io: &Io) -> f64 {
        launch::pairs(self, io) * 2.0 * (io.get("q").layout.shape[3] + io.get("v").layout.shape[3]) as f64
    }
}
