//! The twin of `attend/tile`.

use super::Attend;
use crate::error::Result;
use crate::kernel::TwinIo;

pub(super) fn twin(_op: &Attend, _io: &mut TwinIo) -> Result<()> {
    Err(crate::error::Error::new(crate::error::ErrorKind::Unsupported, "TWIN-MISSING"))
}
