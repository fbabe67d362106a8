//! Linear attention: the past is a state of fixed size.
#![allow(clippy::module_inception, reason = "a file is called as its variant")]

pub mod aaren;
pub mod based;
pub mod based_window;
pub mod delta_net;
pub mod efficient_local;
pub mod feature_maps;
pub mod flow;
pub mod flow_causal;
pub mod gated_delta_net;
pub mod gated_linear;
pub mod hyper_zzw;
pub mod hyper_zzw_local;
pub mod lawcat;
pub mod lightning;
pub mod linear;
pub mod lizard;
pub mod mala;
pub mod mala_causal;
pub mod mesa_layer;
pub mod nalaformer;
pub mod nats;
pub mod nats_block_types;
pub mod retention;
pub mod rls_layer;
pub mod rwkv_6;
pub mod rwkv_7;
pub mod scan;
pub mod selective_scan;
pub mod short_conv;
pub mod ssd;
pub mod titans_mac;
pub mod titans_mag;
pub mod titans_mal;
pub mod titans_memory;
pub mod transnormer;
pub mod windowed_least_squares;

variants! {
    aaren::Aaren,
    lightning::LightningAttention,
    linear::LinearAttention,
    retention::Retention,
    gated_linear::GatedLinearAttention,
    delta_net::DeltaNet,
    gated_delta_net::GatedDeltaNet,
    ssd::Ssd,
    rwkv_6::Rwkv6,
    rwkv_7::Rwkv7,
    based::Based,
    short_conv::ShortConv,
    scan::GeneralScan,
    feature_maps::FeatureMaps,
    lawcat::Lawcat,
    transnormer::TransnormerLlm,
    based_window::BasedWindow,
    lizard::Lizard,
    mala::Mala,
    flow::FlowAttention,
    flow_causal::FlowAttentionCausal,
    selective_scan::SelectiveScan,
    mala_causal::MalaCausal,
    nalaformer::Nalaformer,
    titans_mag::TitansMag,
    mesa_layer::MesaLayer,
    rls_layer::RlsLayer,
    windowed_least_squares::WindowedLeastSquares,
    titans_memory::TitansMemory,
    titans_mac::TitansMac,
    titans_mal::TitansMal,
    hyper_zzw::HyperZzw,
    hyper_zzw_local::HyperZzwLocal,
    efficient_local::EfficientLocalAttention,
    nats::NatsL,
    nats_block_types::NatsBlockTypes,
}
