//! Linear attention: the past is a state of fixed size.
#![allow(clippy::module_inception, reason = "a file is called as its variant")]

pub mod aaren;
pub mod lightning;
pub mod linear;
pub mod retention;

variants! {
    aaren::Aaren,
    lightning::LightningAttention,
    linear::LinearAttention,
    retention::Retention,
}
