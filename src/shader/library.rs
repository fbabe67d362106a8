//! The files under `shaders/`, built into the crate.

/// The text of `shaders/NAME.wgsl`.
pub fn source(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text)
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every file: name and text.
        pub const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*];
    };
}

files![
    "lib/at",
    "lib/elementwise",
    "lib/half",
    "lib/less_one",
    "attend/tile",
    "attend/tile_keys",
    "attend/tile_scores",
    "attend/tile_stage",
    "attend/decode",
    "attend/decode_matrix",
    "attend/decode_stage",
    "attend/finish",
    "attend/matrix",
    "attend/matrix_16",
    "attend/matrix_8",
    "attend/matrix_bounds",
    "attend/matrix_bounds_listed",
    "attend/matrix_epoch_alone",
    "attend/matrix_epoch_together",
    "attend/matrix_rows",
    "attend/matrix_stage",
    "attend/polynomial",
    "attend/rows",
    "attend/keys_range",
    "attend/keys_blocks",
    "attend/keys_tokens",
    "combine/merge",
    "combine/mix",
    "diagnose/fold",
    "diagnose/put_flags",
    "diagnose/put_index",
    "diagnose/put_real",
    "pool/pool",
    "scan/addresses",
    "scan/carry",
    "scan/chunk",
    "scan/chunk_blocks",
    "scan/chunk_levels",
    "scan/chunk_record",
    "scan/chunk_rows",
    "scan/chunk_state",
    "scan/chunk_tile",
    "scan/chunk_token",
    "scan/chunks",
    "scan/chunks_channel",
    "scan/common",
    "scan/delta",
    "scan/matrix",
    "scan/matrix_parts",
    "scan/memory",
    "scan/powers",
    "scan/reads",
    "scan/reads_parts",
    "scan/recurrent",
    "scan/segment",
    "scan/selective",
    "scan/solve",
    "scan/state",
    "scan/state_in",
    "scan/sums",
    "select/block_map",
    "select/score",
    "select/segments",
    "select/topk",
    "transform/conv",
    "transform/map",
    "transform/norm",
    "transform/rotary",
];
