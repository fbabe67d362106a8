//! Which blocks to attend to, from a Bloom filter of each: a block pattern that is the caller's own.

use crate::embed::{BLUR, gram};
use wgpu_attention::{HostTensor, Result};

/// Places of a block.
pub const BLOCK: usize = 64;
/// Blocks attended to.
const KEPT: usize = 16;

/// For each block, 512 bits of which the short contexts in it set some.
#[derive(Default)]
pub struct Summaries {
    filters: Vec<[u64; 8]>,
    seen: usize,
}

impl Summaries {
    /// Takes in what the text has more than at the call before; a shorter text is a new one.
    pub fn extend(&mut self, text: &[u8]) {
        if text.len() < self.seen {
            *self = Self::default();
        }
        self.filters.resize(text.len().div_ceil(BLOCK), [0; 8]);
        for place in self.seen..text.len() {
            for bit in bits(&text[..place]) {
                self.filters[place / BLOCK][bit / 64] |= 1 << (bit % 64);
            }
        }
        self.seen = text.len();
    }

    /// The mask (1, 1, blocks) of the blocks that share most with the end of the text, the later ones first among equals.
    pub fn mask(&self, text: &[u8]) -> Result<HostTensor> {
        let wanted: Vec<usize> = bits(text).collect();
        let shared = |f: &[u64; 8]| wanted.iter().filter(|&&bit| f[bit / 64] >> (bit % 64) & 1 == 1).count();
        let mut order: Vec<(usize, usize)> = self.filters.iter().map(shared).zip(0..).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let mut mask = vec![0_u8; order.len()];
        order.iter().take(KEPT).for_each(|&(_, block)| mask[block] = 1);
        HostTensor::new(&[1, 1, mask.len()], mask)
    }
}

/// The bits of the last short contexts.
fn bits(context: &[u8]) -> impl Iterator<Item = usize> {
    let (count, bytes) = BLUR;
    context[context.len().saturating_sub(count + bytes - 1)..].windows(bytes).map(|part| (gram(part) % 512) as usize)
}
