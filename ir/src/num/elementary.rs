//! Elementary functions of f32: the f64 core of [`wide`](super::wide), rounded once.

use super::wide;

macro_rules! rounded {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(x: f32) -> f32 {
            // The one rounding.
            wide::$name(f64::from(x)) as f32
        }
    )*};
}

rounded! {
    /// e^x.
    exp;
    /// 2^x, exact for integers.
    exp2;
    /// Natural logarithm.
    log;
    /// Logarithm to base 2, exact for powers of two.
    log2;
    /// Sine, good for arguments of any size.
    sin;
    /// Cosine, good for arguments of any size.
    cos;
    /// Hyperbolic tangent.
    tanh;
    /// Error function.
    erf;
    /// `1 / (1 + e^-x)`.
    sigmoid;
    /// `x * sigmoid(x)` in one rounding.
    silu;
    /// `0.5 * x * (1 + erf(x / sqrt 2))` in one rounding.
    gelu;
    /// The tanh form of gelu in one rounding.
    gelu_tanh;
    /// `ln(1 + e^x)`.
    softplus;
    /// Correctly rounded `1 / sqrt(x)`.
    rsqrt;
}

/// x^y; see [`wide::pow`].
pub fn pow(x: f32, y: f32) -> f32 {
    pow_wide(x, f64::from(y))
}

/// x^y for an exponent that an f32 may not hold (an i64 or f64 operand).
pub fn pow_wide(x: f32, y: f64) -> f32 {
    wide::pow(f64::from(x), y) as f32
}

#[cfg(test)]
#[path = "elementary_tests.rs"]
mod tests;
