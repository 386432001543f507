//! Scalar numerics: the one definition of every rounding, conversion and elementary function, and of the row sum.
//!
//! Every function here is a fixed sequence of IEEE operations on f32, f64 and integers: no math library, no fma, no
//! dependence on the machine. Another backend (a CUDA kernel) gets the same bits by doing the same operations.
//!
//! - [`row_sum`], [`row_sum_squares`]: the canonical tree.
//! - [`round_to`], [`cast_f32_to`], [`decode`]: roundings and the 8-bit and 4-bit floats.
//! - [`exp`] and its friends: computed in f64 (module [`wide`]) with a relative error below 2^-40 and rounded once.

mod convert;
mod elementary;
mod erf;
mod sum;
mod trig;
pub mod wide;

pub use convert::{
    cast_f32_to, cast_f64_to, decode, f32_to_bf16, f32_to_f16, f64_to_bf16, f64_to_f16, nibble, pack_nibbles, round_to,
    unpack_nibbles,
};
pub use elementary::{
    cos, erf, exp, exp2, gelu, gelu_tanh, log, log2, pow, pow_wide, rsqrt, sigmoid, silu, sin, softplus, tanh,
};
pub use sum::{VECTOR, row_sum, row_sum_by, row_sum_f64, row_sum_squares, row_sum_squares_f64};

macro_rules! extremes {
    ($t:ty, $max:ident, $min:ident) => {
        /// The larger value; NaN propagates and `max(-0, +0) = +0`.
        #[inline]
        pub fn $max(a: $t, b: $t) -> $t {
            if a.is_nan() || b.is_nan() {
                <$t>::NAN
            } else if a == b {
                // Equal values differ at most in the sign of a zero.
                <$t>::from_bits(a.to_bits() & b.to_bits())
            } else if a > b {
                a
            } else {
                b
            }
        }

        /// The smaller value; NaN propagates and `min(-0, +0) = -0`.
        #[inline]
        pub fn $min(a: $t, b: $t) -> $t {
            if a.is_nan() || b.is_nan() {
                <$t>::NAN
            } else if a == b {
                <$t>::from_bits(a.to_bits() | b.to_bits())
            } else if a < b {
                a
            } else {
                b
            }
        }
    };
}

extremes!(f32, max, min);
extremes!(f64, max_f64, min_f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_propagate_nan_and_order_zeros() {
        assert_eq!(max(-0.0, 0.0).to_bits(), 0);
        assert_eq!(max(0.0, -0.0).to_bits(), 0);
        assert_eq!(max(-0.0, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(min(0.0, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(min(-0.0, 0.0).to_bits(), (-0.0f32).to_bits());
        assert!(max(f32::NAN, 1.0).is_nan() && max(1.0, f32::NAN).is_nan());
        assert!(min(f32::NAN, 1.0).is_nan() && min(1.0, f32::NAN).is_nan());
        assert_eq!((max(2.0, -3.0), min(2.0, -3.0)), (2.0, -3.0));
        assert_eq!((max_f64(f64::INFINITY, 1.0), min_f64(f64::NEG_INFINITY, 1.0)), (f64::INFINITY, f64::NEG_INFINITY));
    }
}
