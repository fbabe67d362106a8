//! The variants at work here, and what each needs to be an induction head.

use crate::cache::{CachedHead, Recipe};
use crate::embed::Row;
use crate::head::Head;
use crate::state::StateHead;
use crate::summaries::{BLOCK, Summaries};
use wgpu_attention::variants::FeatureMap;
use wgpu_attention::variants::dense::SplitKvDecode;
use wgpu_attention::variants::hierarchical::{Hisa, NativeSparseAttention};
use wgpu_attention::variants::linear::{LinearAttention, Retention};
use wgpu_attention::variants::sparse::{BlockSparseAttention, StreamingAttention};
use wgpu_attention::{HostTensor, Inputs, Result, Runtime};

/// Factor of q·k. A whole match scores 1, the best of 256 Ki other contexts about 0.6; e^(0.4 · 32) leaves them nothing.
const SCALE: Option<f32> = Some(32.0);
/// First and last places of the streaming head.
pub const STREAM: (usize, usize) = (64, 1024);

/// A variant and how to make a head of it.
pub struct Mechanism {
    /// The variant's name.
    pub name: &'static str,
    /// Its family.
    pub family: &'static str,
    /// Why it may miss a needle.
    pub why: &'static str,
    /// A head for so many bytes.
    pub make: for<'a> fn(&'a Runtime, usize) -> Result<Box<dyn Head + 'a>>,
}

/// Those that are tried, by family.
pub static ALL: [Mechanism; 7] = [
    Mechanism {
        name: "split-kv-decode",
        family: "dense",
        why: "it sees every byte; a miss means that the text holds a longer match than the needle",
        make: split_kv_decode,
    },
    Mechanism {
        name: "streaming-attention",
        family: "sparse",
        why: "it keeps the first 64 and the last 1024 bytes; what lies between is gone",
        make: streaming,
    },
    Mechanism {
        name: "block-sparse-attention",
        family: "sparse",
        why: "it attends to the 16 blocks whose summaries look most like the query, and they did not hold the needle",
        make: block_sparse,
    },
    Mechanism {
        name: "linear-attention",
        family: "linear",
        why: "all bytes add up in one state; what the others leave in it grows as the root of the length and drowns the needle",
        make: linear_attention,
    },
    Mechanism {
        name: "retention",
        family: "linear",
        why: "it forgets: head h keeps 1/e of a byte after 2^(5 + h) more, and the slow heads drown as linear attention does",
        make: retention,
    },
    Mechanism {
        name: "hisa",
        family: "hierarchical",
        why: "the mean of the needle's block of 8 index keys was not among the best 256",
        make: hisa,
    },
    Mechanism {
        name: "native-sparse-attention",
        family: "hierarchical",
        why: "the means of 16 keys dilute the needle's, and its block was not among the 32 selected",
        make: native_sparse,
    },
];

fn split_kv_decode(runtime: &Runtime, length: usize) -> Result<Box<dyn Head + '_>> {
    let variant = SplitKvDecode { splits: 16, scale: SCALE, ..Default::default() };
    let queries = |text: &[u8]| Ok(Inputs::new().with("q", query(Row::Suffixes, text)?));
    let recipe = Recipe {
        variant: Box::new(variant),
        caches: keys(Row::Suffixes),
        queries: Box::new(queries),
        ring: None,
        lengths: true,
    };
    Ok(Box::new(CachedHead::new(runtime, recipe, length)?))
}

fn streaming(runtime: &Runtime, length: usize) -> Result<Box<dyn Head + '_>> {
    let (sink, recent) = STREAM;
    // The cache is a ring, so that its memory is bounded too; a softmax does not ask for the order of its keys.
    let variant = StreamingAttention { sink, recent, scale: SCALE, ..Default::default() };
    let queries = |text: &[u8]| Ok(Inputs::new().with("q", query(Row::Suffixes, text)?));
    let recipe = Recipe {
        variant: Box::new(variant),
        caches: keys(Row::Suffixes),
        queries: Box::new(queries),
        ring: Some(STREAM),
        lengths: false,
    };
    Ok(Box::new(CachedHead::new(runtime, recipe, length)?))
}

fn block_sparse(runtime: &Runtime, length: usize) -> Result<Box<dyn Head + '_>> {
    let variant = BlockSparseAttention { block_q: 1, block_k: BLOCK, scale: SCALE, ..Default::default() };
    let mut summaries = Summaries::default();
    let queries = move |text: &[u8]| {
        summaries.extend(text);
        Ok(Inputs::new().with("q", query(Row::Suffixes, text)?).with("block_mask", summaries.mask(text)?))
    };
    let recipe = Recipe {
        variant: Box::new(variant),
        caches: keys(Row::Suffixes),
        queries: Box::new(queries),
        ring: None,
        lengths: false,
    };
    Ok(Box::new(CachedHead::new(runtime, recipe, length)?))
}

fn linear_attention(runtime: &Runtime, _length: usize) -> Result<Box<dyn Head + '_>> {
    // Sums of positive weights would end at the commonest byte, so weights of either sign are left to cancel.
    let variant = LinearAttention { phi: FeatureMap::Identity, normalise: false, ..Default::default() };
    // One row of the state for each channel of a key: 1 MiB in all, half of what the caches hold of 4 Ki bytes.
    let (width, heads) = (4096, 16);
    Ok(Box::new(StateHead::new(runtime, Box::new(variant), Row::Whole(width), heads, Inputs::new())?))
}

fn retention(runtime: &Runtime, _length: usize) -> Result<Box<dyn Head + '_>> {
    let (width, heads) = (2048, 8);
    // No rotation: a key has to match its query at any distance.
    let still = Inputs::new().with("theta", HostTensor::zeros(&[width / heads / 2]));
    Ok(Box::new(StateHead::new(runtime, Box::new(Retention::default()), Row::Whole(width), heads, still)?))
}

fn hisa(runtime: &Runtime, length: usize) -> Result<Box<dyn Head + '_>> {
    // Short blocks: the mean of a long one no longer shows a dozen bytes of needle.
    let variant = Hisa { block_size: 8, block_topk: 256, topk: 512, scale: SCALE, causal: true };
    let queries = |text: &[u8]| {
        let weight = HostTensor::from_fn(&[1, 1, 1], |_| 1.0);
        let inputs = Inputs::new().with("q", query(Row::Suffixes, text)?).with("w", weight);
        Ok(inputs.with("q_idx", query(Row::Blurred, text)?))
    };
    let mut caches = keys(Row::Suffixes);
    caches.push(("k_idx", Row::Blurred, 1));
    let recipe = Recipe { variant: Box::new(variant), caches, queries: Box::new(queries), ring: None, lengths: false };
    Ok(Box::new(CachedHead::new(runtime, recipe, length)?))
}

fn native_sparse(runtime: &Runtime, length: usize) -> Result<Box<dyn Head + '_>> {
    let shape =
        NativeSparseAttention { cmp_length: 16, cmp_stride: 8, sel_block: 32, sel_count: 32, ..Default::default() };
    let variant = NativeSparseAttention { scale: SCALE, ..shape };
    let queries = |text: &[u8]| {
        // The selected blocks decide; the compressed tokens are there to select them.
        let gates = HostTensor::new(&[1, 1, 1, 3], vec![0.05, 0.9, 0.05])?;
        Ok(Inputs::new().with("q", query(Row::Both, text)?).with("gates", gates))
    };
    // One key serves for choosing blocks and for attending, so it holds what each needs.
    let recipe = Recipe {
        variant: Box::new(variant),
        caches: keys(Row::Both),
        queries: Box::new(queries),
        ring: None,
        lengths: false,
    };
    Ok(Box::new(CachedHead::new(runtime, recipe, length)?))
}

fn keys(row: Row) -> Vec<(&'static str, Row, usize)> {
    vec![("k", row, 2), ("v", Row::Byte, 2)]
}

fn query(row: Row, text: &[u8]) -> Result<HostTensor> {
    HostTensor::new(&[1, 1, 1, row.width()], row.of(text))
}
