//! `scan.carry`: from what each segment adds to the states at the segments' starts.

use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo};
use crate::tensor::DType;

const WORKGROUP: u32 = 64;
const TABLES: [(&str, ScalarType); 1] = [("z_in", ScalarType::F32)];

/// In place of what each segment adds, the state at its start: S_0 = state_in, S_{n+1} = total_n S_n + sums_n. Roles state
/// (B, H S, D, Dv) and z (B, H S, D), read and written; total (B, H S, 1 or D); state_in (B, H, D, Dv); table z_in (B, H, 1, D);
/// end (B, H, D, Dv) and z_end (B, H, D), S_n after the last segment.
///
/// The twin of the scan goes through all tokens in order, so the twin of this one sets the first segment only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// S.
    pub segments: usize,
}

impl Carry {
    fn sizes(&self, io: &Io) -> Result<[usize; 4]> {
        match io.get("state").layout.shape[..] {
            [batch, parts, depth, width] if parts % self.segments == 0 => {
                Ok([batch, parts / self.segments, depth, width])
            }
            ref found => {
                let expected = format!("(B, a multiple of {}, D, Dv)", self.segments);
                Err(Error::expected(ErrorKind::Shape, self.name(), "state", expected, format!("{found:?}")))
            }
        }
    }
}

impl Kernel for Carry {
    fn name(&self) -> &'static str {
        "scan.carry"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 6] = [
            Role::read("total", DType::F32).optional().scalar(),
            Role::read("state_in", DType::F32).optional(),
            Role::write("state", DType::F32),
            Role::write("z", DType::F32).optional().scalar(),
            Role::write("end", DType::F32).optional(),
            Role::write("z_end", DType::F32).optional().scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let [batch, heads, depth, width] = self.sizes(io)?;
        let vectors = width.div_ceil(4);
        let channel = io.find("total").is_some_and(|t| t.layout.shape[2] > 1);
        Ok(LaunchBuilder::new(self, "scan/carry", WORKGROUP, io, caps, &TABLES)
            .switch("DECAY", io.find("total").is_some())
            .switch("HAS_Z", io.find("z").is_some())
            .u32("heads", heads)
            .u32("segments", self.segments)
            .u32("depth", depth)
            .u32("width", width)
            .u32("vectors", vectors)
            .u32("items", batch * heads * depth * vectors)
            .u32("channel", usize::from(channel))
            .strides("total", 3)
            .strides("state_in", 4)
            .strides("state", 4)
            .strides("z", 3)
            .strides("end", 4)
            .strides("z_end", 3)
            .groups((batch * heads * depth * vectors).div_ceil(WORKGROUP as usize)))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let [batch, heads, depth, width] = self.sizes(io.io)?;
        if io.io.find("end").is_some() {
            // Only the scan by matrices asks for it.
            return Err(super::chunks::unserved(self));
        }
        let before = crate::kernel::reals::Reals::of(io, "state_in");
        let (state, z) = (io.write_f32("state"), io.write_f32("z"));
        let first = |n: usize| (n / heads) * heads * self.segments + n % heads * self.segments;
        if let Some(state) = state {
            for n in 0..batch * heads {
                for d in 0..depth {
                    let row = &mut state[(first(n) * depth + d) * width..][..width];
                    match &before {
                        Some(before) => row.copy_from_slice(before.row(&[n / heads, n % heads, d])),
                        None => row.fill(0.0),
                    }
                }
            }
        }
        if let Some(z) = z {
            for n in 0..batch * heads {
                let given = io.table_row("z_in", [n / heads, n % heads, 0]);
                let row = &mut z[first(n) * depth..][..depth];
                row.iter_mut().enumerate().for_each(|(d, z)| *z = given.map_or(0.0, |given| given.f32(d as i32)));
            }
        }
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        2.0 * io.get("state").layout.len() as f64
    }
}
