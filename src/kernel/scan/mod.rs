//! `scan`: the linear recurrence S_t = diag(e^g) S_{t-1} + b (a^T S_{t-1}) + w k v^T and its read.

use super::{Io, Kernel, Role, TwinIo};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::Launch;
use crate::tensor::DType;

/// The width of the log decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// None.
    None,
    /// One number a head or a token and head: table `g_scalar`, broadcast to (B, H, L, 1).
    Scalar,
    /// One number a channel: role `g` (B, H, L, D).
    Channel,
}

/// What a read is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divide {
    /// Nothing.
    None,
    /// q·z + eps.
    Sum(f32),
    /// max(|q·z|, 1).
    AbsMax1,
}

/// The operation. Roles q (B, Hq, Lq, D), k (B, Hk, L, D), v (B, Hv, L, Dv) (head h of H = max reads h / (H / Hx)), `g` (B, H, L, D),
/// erase vectors `a`, `b` (B, H, L, D), state_in (B, H, D, Dv), out (B, H, Lq, Dv), state (B, H, D, Dv), z (B, H, D).
/// Tables: `g_scalar` (B, H, L, 1) scalar log decay; `keep` (B, 1, L, 1) 0 for a masked key (no write, no decay, no erase); `w` (B, H, L, 1)
/// write weight; `u` (1, H, 1, D) bonus of a read before the write; `z_in` (B, H, 1, D).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan {
    /// The width of the log decay.
    pub decay: Decay,
    /// Factor of q.
    pub scale: f32,
    /// The read comes before the write, with bonus `u`.
    pub read_before: bool,
    /// Divisor of a read.
    pub divide: Divide,
    /// Every query reads the state after the last key (no causality; Lq and L may differ).
    pub bidirectional: bool,
}

impl Kernel for Scan {
    fn name(&self) -> &'static str {
        "scan"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 10] = [
            Role::read("q", DType::F32),
            Role::read("k", DType::F32),
            Role::read("v", DType::F32),
            Role::read("g", DType::F32).optional(),
            Role::read("a", DType::F32).optional(),
            Role::read("b", DType::F32).optional(),
            Role::read("state_in", DType::F32).optional(),
            Role::write("out", DType::F32),
            Role::write("state", DType::F32),
            Role::write("z", DType::F32).optional(),
        ];
        &ROLES
    }

    fn launch(&self, _io: &Io, _caps: &Caps) -> Result<Launch> {
        Err(Error::new(ErrorKind::Unsupported, "LAUNCH-MISSING"))
    }

    fn twin(&self, _io: &mut TwinIo) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "TWIN-MISSING"))
    }

    fn flops(&self, _io: &Io) -> f64 {
        0.0
    }
}
