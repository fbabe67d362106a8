//! What the head is made of in place of trained weights: random signs, seeded by the bytes they stand for.
//!
//! A context is a sum over its suffixes, each a vector of random signs of its own with a weight that grows with its length, so that
//! q·k of two contexts is about the weight of their longest common suffix: 1 when the last eight bytes agree, near 0 when none do.

use rayon::prelude::*;
use wgpu_attention::{HostTensor, Layout, Result};

/// Bytes of context that a key tells apart.
pub const CONTEXT: usize = 8;
/// Channels of keys and of values.
pub const WIDTH: usize = 64;
/// Contexts that a blurred row sums, and bytes of each.
pub const BLUR: (usize, usize) = (12, 4);

/// What a row of a tensor embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The byte at the place.
    Byte,
    /// The context before the place: all suffixes up to [`CONTEXT`] bytes, weight m² for m bytes.
    Suffixes,
    /// The context as one vector: only all of its [`CONTEXT`] bytes count, and none with fewer than four different ones. In so many
    /// channels.
    Whole(usize),
    /// The last few short contexts at once, so that neighbours look alike and the mean of a block still shows them.
    Blurred,
    /// `Suffixes` and `Blurred` side by side.
    Both,
}

impl Row {
    /// Channels.
    pub fn width(self) -> usize {
        match self {
            Row::Byte | Row::Suffixes | Row::Blurred => WIDTH,
            Row::Whole(width) => width,
            Row::Both => 2 * WIDTH,
        }
    }

    /// The row after `context`.
    pub fn of(self, context: &[u8]) -> Vec<f32> {
        let mut row = vec![0.0; self.width()];
        self.add(context, &mut row);
        row
    }

    fn add(self, context: &[u8], row: &mut [f32]) {
        match self {
            Row::Byte => context.last().into_iter().for_each(|&byte| add_signs(row, gram(&[byte]), 1.0)),
            Row::Suffixes => {
                let total: usize = (1..=CONTEXT).map(|m| m * m).sum();
                let mut hash = 0;
                for (m, &byte) in (1..=CONTEXT).zip(context.iter().rev()) {
                    hash = mix(hash ^ (u64::from(byte) + 1));
                    add_signs(row, hash, m as f32 / (total as f32).sqrt());
                }
            }
            Row::Whole(_) => {
                // Indentation and rules come so often that, added up, they would drown all else.
                let told = |part: &&[u8]| part.iter().enumerate().filter(|&(n, b)| !part[..n].contains(b)).count() >= 4;
                if let Some(part) = context.last_chunk::<CONTEXT>().map(|part| &part[..]).filter(told) {
                    add_signs(row, gram(part), 1.0);
                }
            }
            Row::Blurred => {
                let (count, bytes) = BLUR;
                for part in context[context.len().saturating_sub(count + bytes - 1)..].windows(bytes) {
                    add_signs(row, gram(part), 1.0 / (count as f32).sqrt());
                }
            }
            Row::Both => {
                let (left, right) = row.split_at_mut(WIDTH);
                Row::Suffixes.add(context, left);
                Row::Blurred.add(context, right);
            }
        }
    }

    /// The rows of the places `range` of a text, `[range, width]`. A key embeds what comes before its place, a value the byte at it.
    pub fn rows(self, text: &[u8], range: std::ops::Range<usize>) -> Vec<f32> {
        let (width, ahead) = (self.width(), usize::from(self == Row::Byte));
        let mut rows = vec![0.0; range.len() * width];
        let of = |(n, row): (usize, &mut [f32])| self.add(&text[..range.start + n + ahead], row);
        rows.par_chunks_mut(width).enumerate().for_each(of);
        rows
    }

    /// The rows as a tensor (1, heads, L, width / heads), without a copy.
    pub fn tensor(self, text: &[u8], range: std::ops::Range<usize>, heads: usize) -> Result<HostTensor> {
        let (width, length) = (self.width() / heads, range.len());
        let strides = vec![0, width, self.width(), 1];
        HostTensor::strided(Layout { shape: vec![1, heads, length, width], strides, offset: 0 }, self.rows(text, range))
    }
}

/// The byte whose row is nearest.
pub fn nearest_byte(value: &[f32]) -> u8 {
    let score = |byte: u8| Row::Byte.of(&[byte]).iter().zip(value).map(|(a, b)| a * b).sum::<f32>();
    (0..=u8::MAX).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or(0)
}

/// A number for a run of bytes, read from its end.
pub fn gram(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |hash, &byte| mix(hash ^ (u64::from(byte) + 1)))
}

/// SplitMix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Adds a vector of norm `weight` whose signs follow from the seed.
fn add_signs(row: &mut [f32], mut seed: u64, weight: f32) {
    let one = weight / (row.len() as f32).sqrt();
    for part in row.chunks_mut(64) {
        seed = mix(seed ^ 0x5555);
        for (n, x) in part.iter_mut().enumerate() {
            *x += f32::from_bits(one.to_bits() ^ ((seed >> n & 1) as u32) << 31);
        }
    }
}
