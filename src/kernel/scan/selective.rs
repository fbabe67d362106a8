//! `scan.selective`: the elementwise recurrence, whose decay depends on key and value channel.

use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Launch, ScalarType};
use crate::kernel::reals::Reals;
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TwinIo, for_each_row};
use crate::tensor::DType;

const WORKGROUP: u32 = 128;
const LANES: usize = 8;
/// States of a channel: 16 a lane stay in registers.
const MOST: usize = 16 * LANES;
const TABLES: [(&str, ScalarType); 1] = [("skip", ScalarType::F32)];

/// h_pn = e^(dt_p a_pn) h_pn + dt_p u_p b_n and y_p = Σ_n c_n h_pn + skip_p u_p: roles u and dt (B, L, P), a (P, N), b and c (B, L, N),
/// state_in (B, P, N), out (B, L, P), state (B, P, N); table skip (1, 1, 1, P).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selective;

impl Selective {
    /// B, L, P, N.
    fn sizes(&self, io: &Io) -> Result<[usize; 4]> {
        let (u, a) = (&io.get("u").layout.shape, &io.get("a").layout.shape);
        let (&[batch, tokens, channels], &[rows, states]) = (&u[..], &a[..]) else {
            return Err(self.refuse("u", "rank 3, and a of rank 2", u));
        };
        let expected: [(&str, &[usize]); 7] = [
            ("dt", &[batch, tokens, channels]),
            ("b", &[batch, tokens, states]),
            ("c", &[batch, tokens, states]),
            ("out", &[batch, tokens, channels]),
            ("state", &[batch, channels, states]),
            ("state_in", &[batch, channels, states]),
            ("a", &[channels, states]),
        ];
        for (role, want) in expected {
            if let Some(found) = io.find(role).map(|meta| &meta.layout.shape).filter(|found| found[..] != *want) {
                return Err(self.refuse(role, format!("{want:?}"), found));
            }
        }
        if states > MOST || rows != channels {
            let message = format!("scan.selective: {states} states a channel; the kernel holds up to {MOST}");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok([batch, tokens, channels, states])
    }

    fn refuse(&self, role: &str, expected: impl std::fmt::Display, found: &[usize]) -> Error {
        Error::expected(ErrorKind::Shape, self.name(), role, expected, format!("{found:?}"))
    }
}

impl Kernel for Selective {
    fn name(&self) -> &'static str {
        "scan.selective"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 8] = [
            Role::read("u", DType::F32).scalar(),
            Role::read("dt", DType::F32).scalar(),
            Role::read("a", DType::F32).scalar(),
            Role::read("b", DType::F32).scalar(),
            Role::read("c", DType::F32).scalar(),
            Role::read("state_in", DType::F32).scalar().optional(),
            Role::write("out", DType::F32).scalar(),
            Role::write("state", DType::F32).scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let [batch, tokens, channels, states] = self.sizes(io)?;
        // Without a state before there is a binding for the skip; with one, both do not fit a portable device.
        let bindings = io.roles.len() + usize::from(!io.tables.is_empty());
        if bindings > caps.max_storage_bindings as usize {
            let message = format!(
                "scan.selective: {bindings} storage bindings; the device has max_storage_buffers_per_shader_stage of {}",
                caps.max_storage_bindings
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let tiles = channels.div_ceil(WORKGROUP as usize / LANES);
        let each = states.div_ceil(LANES).next_power_of_two();
        let builder = LaunchBuilder::new(self, "scan/selective", WORKGROUP, io, caps, &TABLES)
            .constant("LANES", LANES as u32)
            .constant("EACH", each as u32)
            .u32("tokens", tokens)
            .u32("channels", channels)
            .u32("states", states)
            .u32("tiles", tiles)
            .strides("a", 2);
        let builder =
            ["u", "dt", "b", "c", "state_in", "out", "state"].iter().fold(builder, |b, role| b.strides(role, 3));
        Ok(builder.groups(batch * tiles))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let [batch, tokens, channels, states] = self.sizes(io.io)?;
        let missing = || Error::new(ErrorKind::Unsupported, "scan.selective: a role is missing or holds no reals");
        let (Some(out), Some(state)) = (io.write_f32("out"), io.write_f32("state")) else { return Err(missing()) };
        let real = |role| Reals::of(io, role).ok_or_else(missing);
        let (u, dt, a, b, c) = (real("u")?, real("dt")?, real("a")?, real("b")?, real("c")?);
        let before = Reals::of(io, "state_in");
        let skip = io.table_row("skip", [0, 0, 0]);
        // A batch entry at a time: the outputs of its channels lie side by side.
        let mut parts: Vec<_> = out.chunks_mut(tokens * channels).zip(state.chunks_mut(channels * states)).collect();
        for_each_row(&mut parts, 1, |n, part| {
            let (out, state) = &mut part[0];
            for (p, h) in state.chunks_exact_mut(states).enumerate() {
                match &before {
                    Some(before) => h.copy_from_slice(before.row(&[n, p])),
                    None => h.fill(0.0),
                }
                let rate = a.row(&[p]);
                for t in 0..tokens {
                    let (u, step) = (u.get(&[n, t, p]), dt.get(&[n, t, p]));
                    let (b, c) = (b.row(&[n, t]), c.row(&[n, t]));
                    let mut y = skip.map_or(0.0, |skip| skip.f32(p as i32)) * u;
                    for (((h, rate), b), c) in h.iter_mut().zip(rate).zip(b).zip(c) {
                        *h = (step * rate).exp() * *h + step * u * b;
                        y += c * *h;
                    }
                    out[t * channels + p] = y;
                }
            }
        });
        debug_assert_eq!(parts.len(), batch);
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        let Ok([batch, tokens, channels, states]) = self.sizes(io) else { return 0.0 };
        6.0 * (batch * tokens * channels * states) as f64
    }
}
