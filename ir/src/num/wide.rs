//! The f64 cores of the elementary functions: additions, multiplications, divisions and square roots of f64 in a
//! fixed order, and moves of exponent bits. Nothing is fused and nothing calls a math library.
//!
//! Relative error stays below 2^-40 wherever an f32 result is finite and not zero, mostly below 2^-48. Ops on f64
//! tensors use these functions as they are.

pub use super::erf::{erf, gelu};
pub use super::trig::{cos, sin};

const LOG2_E: f64 = std::f64::consts::LOG2_E;
/// ln 2 with the low bits cleared, so that its product with an exponent is exact, and the rest of ln 2.
const LN2_HI: f64 = 0.693_147_180_369_123_8;
const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;

/// 1/n!
const INV_FACTORIAL: [f64; 16] = [
    1.0,
    1.0,
    0.5,
    0.166_666_666_666_666_66,
    0.041_666_666_666_666_664,
    0.008_333_333_333_333_333,
    0.001_388_888_888_888_889,
    0.000_198_412_698_412_698_4,
    2.480_158_730_158_73e-5,
    2.755_731_922_398_589_3e-6,
    2.755_731_922_398_589e-7,
    2.505_210_838_544_172e-8,
    2.087_675_698_786_81e-9,
    1.605_904_383_682_161_3e-10,
    1.147_074_559_772_972_5e-11,
    7.647_163_731_819_816e-13,
];

/// `c[0] + x*(c[1] + x*(c[2] + ...))`.
#[inline]
pub(super) fn horner(x: f64, c: &[f64]) -> f64 {
    c.iter().rev().fold(0.0, |sum, &k| k + x * sum)
}

/// Nearest integer, ties to even, for |x| < 2^51: adding and taking away 1.5 * 2^52 leaves no room for a fraction.
#[inline]
fn nearest(x: f64) -> f64 {
    const BIG: f64 = 6_755_399_441_055_744.0;
    (x + BIG) - BIG
}

/// `p * 2^k` for |k| < 2000, in two steps, so that a result near either end of the range is still right.
#[inline]
fn scale(p: f64, k: i64) -> f64 {
    let power = |k: i64| f64::from_bits(((k + 1023) as u64) << 52);
    let half = k / 2;
    p * power(half) * power(k - half)
}

/// e^r for |r| below 0.35.
#[inline]
fn exp_kernel(r: f64) -> f64 {
    horner(r, &INV_FACTORIAL[..14])
}

/// e^x.
pub fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 710.0 {
        return f64::INFINITY;
    }
    if x < -746.0 {
        return 0.0;
    }
    let k = nearest(x * LOG2_E);
    let r = (x - k * LN2_HI) - k * LN2_LO;
    scale(exp_kernel(r), k as i64)
}

/// 2^x.
pub fn exp2(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 1025.0 {
        return f64::INFINITY;
    }
    if x < -1080.0 {
        return 0.0;
    }
    let k = nearest(x);
    scale(exp_kernel((x - k) * std::f64::consts::LN_2), k as i64)
}

/// e^x - 1.
fn exp_m1(x: f64) -> f64 {
    if x.abs() < 0.5 { x * horner(x, &INV_FACTORIAL[1..]) } else { exp(x) - 1.0 }
}

/// ln(1 + f) for |f| below 0.42: twice the inverse hyperbolic tangent of f / (2 + f).
#[inline]
fn log_kernel(f: f64) -> f64 {
    const ATANH: [f64; 13] = [
        2.0,
        0.666_666_666_666_666_6,
        0.4,
        0.285_714_285_714_285_7,
        0.222_222_222_222_222_2,
        0.181_818_181_818_181_82,
        0.153_846_153_846_153_85,
        0.133_333_333_333_333_33,
        0.117_647_058_823_529_41,
        0.105_263_157_894_736_84,
        0.095_238_095_238_095_23,
        0.086_956_521_739_130_43,
        0.08,
    ];
    let s = f / (2.0 + f);
    s * horner(s * s, &ATANH)
}

/// A positive finite number as (m, e) with x = m * 2^e and m between sqrt(1/2) and sqrt(2).
#[inline]
fn split(x: f64) -> (f64, f64) {
    // An f64 denormal is first made normal.
    let (x, bias) = if x < f64::MIN_POSITIVE { (x * 18_014_398_509_481_984.0, 1077) } else { (x, 1023) };
    let bits = x.to_bits();
    let e = (bits >> 52) as i64 - bias;
    let m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 { (m * 0.5, (e + 1) as f64) } else { (m, e as f64) }
}

/// The value of a logarithm where it is not an ordinary number.
#[inline]
fn log_special(x: f64) -> Option<f64> {
    if x.is_nan() || x < 0.0 {
        Some(f64::NAN)
    } else if x == 0.0 {
        Some(f64::NEG_INFINITY)
    } else if x == f64::INFINITY {
        Some(x)
    } else {
        None
    }
}

/// Natural logarithm.
pub fn log(x: f64) -> f64 {
    log_special(x).unwrap_or_else(|| {
        let (m, e) = split(x);
        e * LN2_HI + (log_kernel(m - 1.0) + e * LN2_LO)
    })
}

/// Logarithm to base 2; exact for powers of two.
pub fn log2(x: f64) -> f64 {
    log_special(x).unwrap_or_else(|| {
        let (m, e) = split(x);
        e + log_kernel(m - 1.0) * LOG2_E
    })
}

/// ln(1 + y) for y in [0, 1].
fn log_1p_unit(y: f64) -> f64 {
    if y < 0.41 { log_kernel(y) } else { log(1.0 + y) }
}

/// `1 / sqrt(x)`: two roundings in f64, which rounded to f32 is the correctly rounded value for every f32.
pub fn rsqrt(x: f64) -> f64 {
    1.0 / x.sqrt()
}

/// x^y with the special cases of C99.
///
/// Exponents that are small multiples of a half are products and a square root, so `pow(x, 2)` is `x * x`.
pub fn pow(x: f64, y: f64) -> f64 {
    if y == 0.0 || x == 1.0 {
        return 1.0;
    }
    if x.is_nan() || y.is_nan() {
        return f64::NAN;
    }
    let a = x.abs();
    if y.is_infinite() {
        return if a == 1.0 {
            1.0
        } else if (a > 1.0) == (y > 0.0) {
            f64::INFINITY
        } else {
            0.0
        };
    }
    // From 2^53 on every number is an even integer.
    let integer = y.abs() >= 9_007_199_254_740_992.0 || y == (y as i64) as f64;
    let odd = integer && y.abs() < 9_007_199_254_740_992.0 && (y as i64) & 1 == 1;
    let sign = if odd && x.is_sign_negative() { -1.0 } else { 1.0 };
    if a == 0.0 || a.is_infinite() {
        return sign * if (a == 0.0) == (y > 0.0) { 0.0 } else { f64::INFINITY };
    }
    if x < 0.0 && !integer {
        return f64::NAN;
    }
    sign * pow_by_products(a, y).unwrap_or_else(|| exp2(log2(a) * y))
}

/// a^y for positive a where 2y is an integer of at most 16; none otherwise, or where a reciprocal would lose bits.
fn pow_by_products(a: f64, y: f64) -> Option<f64> {
    let twice = y.abs() * 2.0;
    if twice > 16.0 || twice != (twice as u32) as f64 {
        return None;
    }
    let halves = twice as u32;
    let mut p = if halves % 2 == 1 { a.sqrt() } else { 1.0 };
    for _ in 0..halves / 2 {
        p *= a;
    }
    if y > 0.0 {
        Some(p)
    } else if p.is_normal() {
        Some(1.0 / p)
    } else {
        None
    }
}

/// Hyperbolic tangent.
pub fn tanh(x: f64) -> f64 {
    if x.abs() > 22.0 {
        return 1f64.copysign(x);
    }
    let e = exp_m1(2.0 * x);
    e / (e + 2.0)
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid(x: f64) -> f64 {
    let e = exp(-x.abs());
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// `x * sigmoid(x)`; NaN at minus infinity, as the product is.
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))`, by way of `(1 + tanh(u)) / 2 = sigmoid(2u)`.
pub fn gelu_tanh(x: f64) -> f64 {
    const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
    let u = SQRT_2_OVER_PI * (x + 0.044_715 * (x * x * x));
    x * sigmoid(2.0 * u)
}

/// `ln(1 + e^x)`.
pub fn softplus(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let tail = log_1p_unit(exp(-x.abs()));
    if x > 0.0 { x + tail } else { tail }
}
