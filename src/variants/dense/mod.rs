//! Dense attention: every allowed pair is scored.
#![allow(clippy::module_inception, reason = "a file is called as its variant")]

pub mod alibi;
pub mod dense;
pub mod merge_lse;
pub mod sigmoid;
pub mod sink_logit;
pub mod softcap;
pub mod split_kv;
pub mod varlen;

variants! {
    alibi::AlibiAttention,
    dense::DenseAttention,
    merge_lse::MergeLse,
    sigmoid::SigmoidAttention,
    sink_logit::SinkLogitAttention,
    softcap::SoftcapAttention,
    split_kv::SplitKvDecode,
    varlen::VarlenAttention,
}
