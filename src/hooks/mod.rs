//! The shared hooks: one WGSL file and one twin each. Where a twin and its WGSL differ, GPU and CPU tests differ.

mod lookup;
mod mask;
mod number;
mod rule;
mod score;
mod weight;

pub use lookup::{
    Bound, box_sum, bucket, bucket_bias, correlation, displaced, joined, keep_largest, nearest_first, padded, pick,
    ranked, region, relative, stacked,
};
pub use mask::{Axis, alone, given, hidden, later, neighborhood, positions};
pub use number::{
    Number, above, ahead, at_least, diagonal, equals, except, faded, gain, hat, hyperbolic, inverse_log, log_factor,
    log_sigmoid, logistic, magnitude, over, plus, power, probability, take, times,
};
pub use rule::{Rule, attributes, intervals, slices};
pub use score::{alibi, bias, logarithm, neg_log, shift, silence, softcap};
pub use weight::{one, relu, sigmoid};

/// `Hook::new` with the text of a file under `shaders/hooks/`.
macro_rules! hook {
    ($point:ident, $folder:literal, $name:literal, $twin:expr) => {
        $crate::hook::Hook::new(
            $crate::kernel::key::Point::$point,
            $name,
            include_str!(concat!("../../shaders/hooks/", $folder, "/", $name, ".wgsl")),
            $twin,
        )
    };
}
use hook;
