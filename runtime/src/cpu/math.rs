//! The arithmetic of f32 and f64 by one set of names, and dispatch from a dtype to a type.
//!
//! Nothing is computed here: elementary functions, extremes and row sums are those of `normfuse_ir::num`, the rest is
//! IEEE.

use std::ops::{Add, Div, Mul, Neg, Rem, Sub};

use normfuse_ir::num::{self, wide};

use super::buf::Float;

macro_rules! arithmetic {
    ($($name:ident)*) => {
        /// The two types that float arithmetic happens in.
        pub(crate) trait Wide:
            Float<Wide = Self>
            + PartialOrd
            + Add<Output = Self>
            + Sub<Output = Self>
            + Mul<Output = Self>
            + Div<Output = Self>
            + Rem<Output = Self>
            + Neg<Output = Self>
        {
            /// Zero.
            const ZERO: Self;
            /// One.
            const ONE: Self;
            $(#[doc = concat!("`num::", stringify!($name), "`.")] fn $name(self) -> Self;)*
            /// A count, rounded.
            fn from_count(n: usize) -> Self;
            /// An f32 constant, exactly.
            fn from_f32(v: f32) -> Self;
            /// NaN?
            fn is_nan(self) -> bool;
            /// Plus or minus infinity?
            fn is_infinite(self) -> bool;
            /// Clears the sign.
            fn abs(self) -> Self;
            /// IEEE square root.
            fn sqrt(self) -> Self;
            /// Toward minus infinity.
            fn floor(self) -> Self;
            /// Toward plus infinity.
            fn ceil(self) -> Self;
            /// To nearest, ties to even.
            fn round_even(self) -> Self;
            /// NaN propagates, `max(-0, +0) = +0`.
            fn larger(self, other: Self) -> Self;
            /// NaN propagates, `min(-0, +0) = -0`.
            fn smaller(self, other: Self) -> Self;
            /// Power.
            fn power(self, exponent: Self) -> Self;
            /// The canonical row sum.
            fn row_sum(values: &[Self]) -> Self;
        }
        wide!(f32, num, max, min, row_sum, $($name)*);
        wide!(f64, wide, max_f64, min_f64, row_sum_f64, $($name)*);
    };
}

macro_rules! wide {
    ($t:ident, $functions:ident, $max:ident, $min:ident, $sum:ident, $($name:ident)*) => {
        impl Wide for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            $(#[inline] fn $name(self) -> Self { $functions::$name(self) })*
            #[inline]
            fn from_count(n: usize) -> Self { n as Self }
            #[inline]
            fn from_f32(v: f32) -> Self { v.into() }
            #[inline]
            fn is_nan(self) -> bool { $t::is_nan(self) }
            #[inline]
            fn is_infinite(self) -> bool { $t::is_infinite(self) }
            #[inline]
            fn abs(self) -> Self { $t::abs(self) }
            #[inline]
            fn sqrt(self) -> Self { $t::sqrt(self) }
            #[inline]
            fn floor(self) -> Self { $t::floor(self) }
            #[inline]
            fn ceil(self) -> Self { $t::ceil(self) }
            #[inline]
            fn round_even(self) -> Self { $t::round_ties_even(self) }
            #[inline]
            fn larger(self, other: Self) -> Self { num::$max(self, other) }
            #[inline]
            fn smaller(self, other: Self) -> Self { num::$min(self, other) }
            #[inline]
            fn power(self, exponent: Self) -> Self { $functions::pow(self, exponent) }
            fn row_sum(values: &[Self]) -> Self { num::$sum(values) }
        }
    };
}

arithmetic!(rsqrt exp exp2 log log2 sin cos tanh erf sigmoid silu gelu gelu_tanh softplus);

/// Runs `$body` with `$T` standing for the Rust type of a float dtype; `$other` for any other dtype.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr, _ => $other:expr $(,)?) => {
        match $dtype {
            normfuse_ir::DType::F32 => {
                type $T = f32;
                $body
            }
            normfuse_ir::DType::F16 => {
                type $T = half::f16;
                $body
            }
            normfuse_ir::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            normfuse_ir::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => $other,
        }
    };
}

/// As `with_float`, for the types that are computed in f32.
macro_rules! with_narrow {
    ($dtype:expr, $T:ident => $body:expr, _ => $other:expr $(,)?) => {
        match $dtype {
            normfuse_ir::DType::F32 => {
                type $T = f32;
                $body
            }
            normfuse_ir::DType::F16 => {
                type $T = half::f16;
                $body
            }
            normfuse_ir::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            _ => $other,
        }
    };
}

/// As `with_float`, for the integers that graphs compute with in bulk; the other widths run on the reference evaluator,
/// which keeps the number of compiled loops down.
macro_rules! with_int {
    ($dtype:expr, $T:ident => $body:expr, _ => $other:expr $(,)?) => {
        match $dtype {
            normfuse_ir::DType::I8 => {
                type $T = i8;
                $body
            }
            normfuse_ir::DType::I32 => {
                type $T = i32;
                $body
            }
            normfuse_ir::DType::I64 => {
                type $T = i64;
                $body
            }
            normfuse_ir::DType::U8 => {
                type $T = u8;
                $body
            }
            _ => $other,
        }
    };
}

pub(super) use {with_float, with_int, with_narrow};
