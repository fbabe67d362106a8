//! The mechanisms: one file a variant, one folder a family, all of them in [`CATALOG`].

mod common;
mod rotary;
mod steps;
mod words;

pub use words::{
    Activation, Align, BiasRule, CandidateMode, DecayRule, FeatureMap, HeadMaskMode, LamaActivation, MaskPattern,
    MemoryActivation, Normaliser, Pattern, PointerMode, Position, QkNorm, Read, RopeLayout, RopeScaling, ZzwMode,
};

use crate::variant::Entry;

/// Lists a family: re-exports every variant and writes its `CATALOG`.
macro_rules! variants {
    ($($file:ident :: $name:ident),* $(,)?) => {
        $(pub use $file::$name;)*

        /// The family's variants.
        pub static CATALOG: &[$crate::variant::Entry] = &[$($crate::variant::Entry::of::<$name>()),*];
    };
}

pub mod dense;
pub mod hierarchical;
pub mod linear;
pub mod sparse;

/// Every variant, by family.
pub static CATALOG: &[&[Entry]] = &[dense::CATALOG, sparse::CATALOG, linear::CATALOG, hierarchical::CATALOG];
