//! Vector arithmetic for twins: one source over a trait of lanes, compiled once an instruction set, chosen at run time.
//!
//! Everything in `inner.rs` is `inline(always)`; only the wrappers that `vector_set!` makes carry `target_feature`, so the
//! intrinsics end up inside a function that may use them. Nothing here knows attention beyond the shapes of its products.

mod inner;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;

/// A vector of f32.
///
/// # Safety
/// Every method needs the instruction set of the type, and pointers to as many elements as it names.
pub(super) trait Lanes: Copy {
    /// Elements.
    const N: usize;
    /// Side of the square that [`Lanes::transpose`] turns.
    const SQUARE: usize;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `n < N` elements, zeros after them; nothing past them is read.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    unsafe fn load_half(from: *const f16) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// `self * b + c`, fused where the machine can.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// The larger; where `self` is NaN either `b` or NaN.
    unsafe fn max(self, b: Self) -> Self;
    /// The integer in the low bits of `t` added to the exponent of `self`.
    unsafe fn shift_exponent(self, t: Self) -> Self;
    /// `self` where `x` is NaN or at least `limit`, else 0.
    unsafe fn keep(self, x: Self, limit: Self) -> Self;
    unsafe fn sum(self) -> f32;
    unsafe fn maximum(self) -> f32;
    /// Asks for the cache line at `at`, which may be any address.
    unsafe fn prefetch(at: *const u8);
    /// Elements `at..at + SQUARE` of SQUARE rows become SQUARE rows at `to`, `stride` apart.
    unsafe fn transpose(rows: *const *const f32, at: usize, to: *mut f32, stride: usize);
}

/// Rows that will be read soon: every inner loop asks for the next few, so that memory and arithmetic work at the same time.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub rows: *const *const u8,
    pub count: usize,
    /// Bytes of a row.
    pub bytes: usize,
    /// Rows asked for at a time.
    pub each: usize,
}

/// `c [rows, columns] (+)= a [rows, depth] b [depth, columns]`, b in panels of [`Kernels::panel`] columns.
///
/// The last panel is as narrow as the columns need, in whole vectors.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub a: *const f32,
    pub a_stride: usize,
    /// Row 0 of the first panel.
    pub b: *const f32,
    /// Rows that a panel has in memory (`depth` of them are read).
    pub b_rows: usize,
    /// Columns packed from the first panel on, in whole vectors.
    pub b_columns: usize,
    /// Rows skipped in every panel.
    pub b_first: usize,
    pub depth: usize,
    /// Columns wanted, a multiple of [`Kernels::lanes`]; `c` holds as many.
    pub columns: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    /// Adds to `c` instead of overwriting it.
    pub add: bool,
    pub ahead: *mut Ahead,
}

/// `c [rows, columns] += a [rows, depth] b`, row k of b at a pointer of its own.
///
/// With one row a weight of 0 skips its row of b, NaN and all.
#[derive(Clone, Copy)]
pub(super) struct Gathered {
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const *const f32,
    pub depth: usize,
    /// Columns of b; `c` holds them rounded up to whole vectors.
    pub columns: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub ahead: *mut Ahead,
}

/// `c [rows, count] = a [rows, depth] · b`, row n of b at a pointer of its own.
#[derive(Clone, Copy)]
pub(super) struct Dots {
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const *const f32,
    pub count: usize,
    pub depth: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub ahead: *mut Ahead,
}

/// The functions of one instruction set. Lengths of rows passed to `max`, `exp2`, `sum` and `scale` are multiples of `lanes`.
pub(super) struct Kernels {
    /// Name, for reports.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests report it"))]
    pub name: &'static str,
    /// Elements of a vector.
    pub lanes: usize,
    /// Columns of a packed panel.
    pub panel: usize,
    /// Rows that `multiply` takes, falling.
    pub rows: [usize; 3],
    /// The product over panels; `rows` is one of the three.
    pub multiply: unsafe fn(&Product, rows: usize),
    /// The product over scattered rows, for any number of rows.
    pub gather: unsafe fn(&Gathered, rows: usize),
    /// Dot products with scattered rows, for any number of rows.
    pub dots: unsafe fn(&Dots, rows: usize),
    /// `count` rows (a multiple of `lanes`) of `depth` as panels of columns [panel][depth][column].
    pub pack_transposed: unsafe fn(rows: *const *const f32, count: usize, depth: usize, to: *mut f32),
    /// `count` rows of `width` as panels [panel][allotted rows][column], zeros after `width`.
    pub pack: unsafe fn(rows: *const *const f32, count: usize, width: usize, to: *mut f32, allotted: usize),
    /// f16 to f32.
    pub widen: unsafe fn(from: *const f16, count: usize, to: *mut f32),
    /// The largest element; NaN is passed over or returned.
    pub max: unsafe fn(*const f32, usize) -> f32,
    /// x becomes 2^(x log2 e − shift), exactly 0 below 2^-125; returns the sum. `shift` is at least x log2 e.
    pub exp2: unsafe fn(*mut f32, usize, shift: f32) -> f32,
    /// The sum.
    pub sum: unsafe fn(*const f32, usize) -> f32,
    /// x becomes x * factor.
    pub scale: unsafe fn(*mut f32, usize, factor: f32),
}

impl Kernels {
    /// `n` rounded up to whole vectors.
    pub fn padded(&self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }
}

/// The fastest set that this machine runs.
pub(super) fn kernels() -> &'static Kernels {
    available()[0]
}

/// Every set that this machine runs, fastest first.
#[allow(clippy::vec_init_then_push, reason = "which pushes remain depends on the target")]
pub(super) fn available() -> Vec<&'static Kernels> {
    let mut sets: Vec<&'static Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let fma = std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c");
        if fma && std::is_x86_feature_detected!("avx512f") {
            sets.push(&x86::AVX512);
        }
        if fma {
            sets.push(&x86::AVX2);
        }
    }
    #[cfg(target_arch = "aarch64")]
    sets.push(&neon::NEON);
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    sets.push(&wasm::SIMD128);
    sets.push(&portable::PORTABLE);
    sets
}

/// A static [`Kernels`] called `$set` over the lanes `$v`: `rows` that a product takes, `vectors` in a row of a panel.
macro_rules! vector_set {
    ($set:ident, $text:literal, $v:ty, rows [$m0:literal, $m1:literal, $m2:literal], vectors $n:literal $(, enable $features:literal)?) => {
        pub(in super::super) static $set: super::Kernels = {
            use super::{Dots, Gathered, Product, inner};
            $(#[target_feature(enable = $features)])?
            unsafe fn multiply(p: &Product, rows: usize) {
                unsafe {
                    match rows {
                        $m0 => inner::multiply::<$v, $m0, $n>(p),
                        $m1 => inner::multiply::<$v, $m1, $n>(p),
                        _ => inner::multiply::<$v, $m2, $n>(p),
                    }
                }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn gather(p: &Gathered, rows: usize) {
                unsafe { inner::gather::<$v>(p, rows) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn dots(p: &Dots, rows: usize) {
                unsafe { inner::dots::<$v>(p, rows) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pack_transposed(rows: *const *const f32, count: usize, depth: usize, to: *mut f32) {
                unsafe { inner::pack_transposed::<$v, $n>(rows, count, depth, to) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pack(rows: *const *const f32, count: usize, width: usize, to: *mut f32, allotted: usize) {
                unsafe { inner::pack::<$v, $n>(rows, count, width, to, allotted) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn widen(from: *const half::f16, count: usize, to: *mut f32) {
                unsafe { inner::widen::<$v>(from, count, to) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn max(row: *const f32, n: usize) -> f32 {
                unsafe { inner::max::<$v>(row, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn exp2(row: *mut f32, n: usize, shift: f32) -> f32 {
                unsafe { inner::exp2::<$v>(row, n, shift) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn sum(row: *const f32, n: usize) -> f32 {
                unsafe { inner::sum::<$v>(row, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn scale(row: *mut f32, n: usize, factor: f32) {
                unsafe { inner::scale::<$v>(row, n, factor) }
            }
            super::Kernels {
                name: $text,
                lanes: <$v as super::Lanes>::N,
                panel: <$v as super::Lanes>::N * $n,
                rows: [$m0, $m1, $m2],
                multiply,
                gather,
                dots,
                pack_transposed,
                pack,
                widen,
                max,
                exp2,
                sum,
                scale,
            }
        };
    };
}
use vector_set;
