//! Hierarchical attention: a search over summaries or scores, then attention over what it found.

pub mod hisa;
pub mod indexer;
pub mod native_sparse;
pub mod token_list;

variants! {
    hisa::Hisa,
    indexer::LightningIndexer,
    native_sparse::NativeSparseAttention,
    token_list::TokenListAttention,
}
