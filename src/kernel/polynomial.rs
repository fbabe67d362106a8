//! `attend.polynomial`: local polynomial regression of values on keys, given the weights.

use super::key::Launch;
use super::reals::{Reals, dot, solve};
use super::{Io, Kernel, LaunchBuilder, Role, TwinIo, for_each_row};
use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::DType;

/// Monomials that the kernel has threads and memory for.
pub const MOST_PLACES: usize = 64;
/// Values up to this width.
pub const WIDEST: usize = 512;
/// Of the largest pivot: directions in which the keys do not spread are left out.
const FLAT: f32 = 1e-7;

/// The value at z = 0 of the polynomial that fits v_j over z_j = k_j − q_i with weights p_ij: `out_i = c` of
/// `min Σ_j p_ij |v_j − c − C φ(z_j)|² + ridge |C|²`, φ(z) the coordinates and, of degree 2, their products z_a z_b with a ≤ b.
///
/// Roles q (B, H, Lq, D), k (B, Hk, Lk, D), v (B, Hk, Lk, Dv), p (B, H, Lq, Lk), out (B, H, Lq, Dv). A row without weights gives 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Polynomial {
    /// 1 or 2.
    pub degree: usize,
    /// Added to the diagonal of the weighted covariance.
    pub ridge: f32,
}

impl Polynomial {
    /// Monomials of `depth` coordinates.
    pub fn places(degree: usize, depth: usize) -> usize {
        depth + if degree > 1 { depth * (depth + 1) / 2 } else { 0 }
    }
}

impl Kernel for Polynomial {
    fn name(&self) -> &'static str {
        "attend.polynomial"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 5] = [
            Role::read("q", DType::F32).scalar(),
            Role::read("k", DType::F32).scalar(),
            Role::read("v", DType::F32).scalar(),
            Role::read("p", DType::F32).scalar(),
            Role::write("out", DType::F32).scalar(),
        ];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let [batch, heads, queries, keys] = io.get("p").layout.shape[..] else { return Err(rank("p")) };
        let [_, kv_heads, _, width] = io.get("v").layout.shape[..] else { return Err(rank("v")) };
        let depth = io.get("q").layout.shape[3];
        let places = Self::places(self.degree, depth);
        if places > MOST_PLACES || width > WIDEST {
            let message = format!(
                "attend.polynomial: {places} monomials and Dv = {width}; the kernel holds {MOST_PLACES} and {WIDEST}"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        Ok(LaunchBuilder::new(self, "attend/polynomial", MOST_PLACES as u32, io, caps, &[])
            .u32("heads", heads)
            .u32("group", heads / kv_heads)
            .u32("queries", queries)
            .u32("keys", keys)
            .u32("depth", depth)
            .u32("width", width)
            .u32("places", places)
            .f32("ridge", self.ridge)
            .strides("q", 4)
            .strides("k", 4)
            .strides("v", 4)
            .strides("p", 4)
            .strides("out", 4)
            .groups(batch * heads * queries))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let all = ["q", "k", "v", "p"].map(|role| Reals::of(io, role));
        let ([Some(q), Some(k), Some(v), Some(p)], Some(out)) = (all, io.write_f32("out")) else {
            let message = "attend.polynomial: a tensor is missing or holds no reals";
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let [_, heads, queries, keys] = io.io.get("p").layout.shape[..] else { return Err(rank("p")) };
        let [_, kv_heads, _, width] = io.io.get("v").layout.shape[..] else { return Err(rank("v")) };
        let places = Self::places(self.degree, io.io.get("q").layout.shape[3]);
        for_each_row(out, width, |r, row| {
            let [b, h, i] = [r / (heads * queries), r / queries % heads, r % queries];
            let kv = h / (heads / kv_heads);
            let (query, weights) = (q.row(&[b, h, i]), p.row(&[b, h, i]));
            let mut phi: Vec<Vec<f32>> = Vec::with_capacity(keys);
            for j in 0..keys {
                phi.push(monomials(query, k.row(&[b, kv, j]), places));
            }
            let mut mean = vec![0.0; places];
            for (phi, p) in phi.iter().zip(weights) {
                mean.iter_mut().zip(phi).for_each(|(m, x)| *m += p * x);
            }
            // Centred before they are multiplied: the difference of two large sums would have few digits.
            phi.iter_mut().for_each(|phi| phi.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m));
            let y = solve(self.gram(&phi, weights, places), mean, FLAT);
            row.fill(0.0);
            for (j, (phi, p)) in phi.iter().zip(weights).enumerate().filter(|(_, (_, p))| **p != 0.0) {
                let weight = p * (1.0 - dot(phi, &y));
                row.iter_mut().zip(v.row(&[b, kv, j])).for_each(|(o, v)| *o += weight * v);
            }
        });
        Ok(())
    }

    fn flops(&self, io: &Io) -> f64 {
        let places = Self::places(self.degree, io.get("q").layout.shape[3]) as f64;
        io.get("p").layout.len() as f64 * (places * places + 2.0 * io.get("v").layout.shape[3] as f64)
    }
}

impl Polynomial {
    /// Σ_j p_j φ_j φ_jᵀ + ridge I, the lower triangle in rows.
    fn gram(&self, phi: &[Vec<f32>], weights: &[f32], places: usize) -> Vec<Vec<f32>> {
        let mut gram: Vec<Vec<f32>> = (0..places).map(|a| vec![0.0; a + 1]).collect();
        for (phi, p) in phi.iter().zip(weights).filter(|(_, p)| **p != 0.0) {
            for (a, row) in gram.iter_mut().enumerate() {
                let x = p * phi[a];
                row.iter_mut().zip(phi).for_each(|(g, y)| *g += x * y);
            }
        }
        gram.iter_mut().enumerate().for_each(|(a, row)| row[a] += self.ridge);
        gram
    }
}

/// φ(k − q).
fn monomials(q: &[f32], k: &[f32], places: usize) -> Vec<f32> {
    let z: Vec<f32> = k.iter().zip(q).map(|(k, q)| k - q).collect();
    let pairs = (0..z.len()).flat_map(|a| (a..z.len()).map(move |b| (a, b)));
    let mut phi = z.clone();
    phi.extend(pairs.take(places - z.len()).map(|(a, b)| z[a] * z[b]));
    phi
}

fn rank(role: &str) -> Error {
    Error::expected(ErrorKind::Shape, "attend.polynomial", role, "rank 4", "another rank")
}
