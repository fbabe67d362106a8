//! The shared hooks: one WGSL file and one twin each. Where a twin and its WGSL differ, GPU and CPU tests differ.

mod mask;
mod score;
mod weight;

pub use mask::{Axis, given, neighborhood, positions};
pub use score::{alibi, bias, neg_log, shift, softcap};
pub use weight::{one, sigmoid};

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
