//! Dense attention: every allowed pair is scored.
#![allow(clippy::module_inception, reason = "a file is called as its variant")]

pub mod affine_parameters;
pub mod affine_scaled;
pub mod alibi;
pub mod blockrank;
pub mod calibration;
pub mod candidate_isolation;
pub mod channel;
pub mod dara;
pub mod decoupled;
pub mod dense;
pub mod efficient;
pub mod emphasis_factor;
pub mod emphasize;
pub mod expert;
pub mod flow;
pub mod gap_rope;
pub mod head_mask;
pub mod informed_tokens;
pub mod lama;
pub mod latent_pooling;
pub mod local_polynomial;
pub mod lrpe_d;
pub mod mask_column_intervals;
pub mod mask_rules;
pub mod mask_slices;
pub mod merge_lse;
pub mod mixed_modal;
pub mod moh;
pub mod moh_gates;
pub mod normalised_cut;
pub mod p_laplacian;
pub mod p_laplacian_cross;
pub mod paint;
pub mod pine;
pub mod pka;
pub mod pka_keyword_region;
pub mod pm_rope;
pub mod pointer;
pub mod prefix_lm;
pub mod qk_norm;
pub mod rcmha;
pub mod ref_heatmap;
pub mod region_cross;
pub mod relu;
pub mod retrieval_score;
pub mod reversed;
pub mod reversed_message;
pub mod rollout;
pub mod rope;
pub mod selective_self;
pub mod sigmoid;
pub mod sink_logit;
pub mod sink_score;
pub mod sink_states;
pub mod soft_pag;
pub mod softcap;
pub mod split_kv;
pub mod static_masks;
pub mod statistics;
pub mod t5_bias;
pub mod temp_scale;
pub mod token_emphasis;
pub mod transformer_xl;
pub mod transpose;
pub mod varlen;
pub mod x_pool;

variants! {
    affine_parameters::AffineParameters,
    affine_scaled::AffineScaledAttention,
    alibi::AlibiAttention,
    blockrank::BlockrankAttention,
    calibration::AttentionCalibration,
    candidate_isolation::CandidateIsolation,
    channel::ChannelAttention,
    dara::DaraAttention,
    decoupled::DecoupledAttention,
    dense::DenseAttention,
    efficient::EfficientAttention,
    emphasis_factor::EmphasisFactor,
    emphasize::EmphasizeAttention,
    expert::ExpertAttention,
    flow::AttentionFlow,
    gap_rope::GapRope,
    head_mask::HeadMaskAttention,
    informed_tokens::InformedTokens,
    lama::LamaAttention,
    latent_pooling::LatentPoolingAttention,
    local_polynomial::LocalPolynomialAttention,
    lrpe_d::LrpeDAttention,
    mask_column_intervals::MaskColumnIntervals,
    mask_rules::MaskRules,
    mask_slices::MaskSlices,
    merge_lse::MergeLse,
    mixed_modal::MixedModal,
    moh::MohAttention,
    moh_gates::MohGates,
    normalised_cut::NormalisedCut,
    p_laplacian::PLaplacianAttention,
    p_laplacian_cross::PLaplacianCross,
    paint::PaintAttention,
    pine::PineAttention,
    pka::PkaAttention,
    pka_keyword_region::PkaKeywordRegion,
    pm_rope::PmRopeAttention,
    pointer::PointerScores,
    prefix_lm::PrefixLm,
    qk_norm::QkNormAttention,
    rcmha::RcmhaAttention,
    ref_heatmap::RefHeatmap,
    region_cross::RegionCrossAttention,
    relu::ReluAttention,
    retrieval_score::RetrievalScore,
    reversed::ReversedAttention,
    reversed_message::ReversedMessage,
    rollout::AttentionRollout,
    rope::RopeAttention,
    selective_self::SelectiveSelfAttention,
    sigmoid::SigmoidAttention,
    sink_logit::SinkLogitAttention,
    sink_score::SinkScore,
    sink_states::SinkStates,
    soft_pag::SoftPagAttention,
    softcap::SoftcapAttention,
    split_kv::SplitKvDecode,
    static_masks::StaticMaskPatterns,
    statistics::AttentionStatistics,
    t5_bias::T5BiasAttention,
    temp_scale::TempScaleAttention,
    token_emphasis::TokenEmphasisAttention,
    transformer_xl::TransformerXlAttention,
    transpose::TransposeAttention,
    varlen::VarlenAttention,
    x_pool::XPoolAttention,
}
