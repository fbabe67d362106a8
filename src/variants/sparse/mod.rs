//! Sparse attention: a pattern of pairs, given or found.

pub mod block_sparse;
pub mod neighborhood;
pub mod streaming;

variants! {
    block_sparse::BlockSparseAttention,
    neighborhood::NeighborhoodAttention,
    streaming::StreamingAttention,
}
