//! Sine and cosine, with an argument reduction that is exact enough for every finite number.

use super::wide::horner;

/// The fraction bits of 2/pi, most significant first.
const TWO_OVER_PI: [u64; 20] = [
    0xa2f9_836e_4e44_1529,
    0xfc27_57d1_f534_ddc0,
    0xdb62_9599_3c43_9041,
    0xfe51_63ab_debb_c561,
    0xb724_6e3a_424d_d2e0,
    0x0649_2eea_09d1_921c,
    0xfe1d_eb1c_b129_a73e,
    0xe882_35f5_2ebb_4484,
    0xe99c_7026_b45f_7e41,
    0x3991_d639_8353_39f4,
    0x9c84_5f8b_bdf9_283b,
    0x1ff8_97ff_de05_980f,
    0xef2f_118b_5a0a_6d1f,
    0x6d36_7ecf_27cb_09b7,
    0x4f46_3f66_9e5f_ea2d,
    0x7527_bac7_ebe5_f17b,
    0x3d07_39f7_8a52_92ea,
    0x6bfb_5fb1_1f8d_5d08,
    0x5603_3046_fc7b_6bab,
    0xf0cf_bc20_9af4_361d,
];

/// `(-1)^n / (2n + 1)!`: sin(r) / r in r*r.
const SIN: [f64; 9] = [
    1.0,
    -0.166_666_666_666_666_66,
    0.008_333_333_333_333_333,
    -0.000_198_412_698_412_698_4,
    2.755_731_922_398_589_3e-6,
    -2.505_210_838_544_172e-8,
    1.605_904_383_682_161_3e-10,
    -7.647_163_731_819_816e-13,
    2.811_457_254_345_520_6e-15,
];

/// `(-1)^n / (2n)!`: cos(r) in r*r.
const COS: [f64; 10] = [
    1.0,
    -0.5,
    0.041_666_666_666_666_664,
    -0.001_388_888_888_888_889,
    2.480_158_730_158_73e-5,
    -2.755_731_922_398_589e-7,
    2.087_675_698_786_81e-9,
    -1.147_074_559_772_972_5e-11,
    4.779_477_332_387_385e-14,
    -1.561_920_696_858_622_6e-16,
];

/// 64 bits of 2/pi that start at a bit index after the binary point; bits before it are zero.
fn bits_of_two_over_pi(start: i64) -> u64 {
    let word = |i: i64| usize::try_from(i).ok().and_then(|i| TWO_OVER_PI.get(i)).copied().unwrap_or(0);
    let (i, shift) = (start.div_euclid(64), start.rem_euclid(64));
    if shift == 0 { word(i) } else { word(i) << shift | word(i + 1) >> (64 - shift) }
}

/// A finite x >= pi/4 as (q, r): x = q * pi/2 + r modulo 2 pi, |r| <= pi/4.
///
/// x is m * 2^e. Of 2/pi only 192 bits matter: higher ones contribute multiples of 4 quadrants, lower ones less than
/// 2^-137 of a quadrant. So m times those bits, modulo 2^192, is the quadrant in 2 bits and its fraction in 190.
fn reduce(x: f64) -> (u64, f64) {
    let bits = x.to_bits();
    let m = u128::from(bits & ((1 << 52) - 1) | 1 << 52);
    let e = (bits >> 52) as i64 - 1023 - 52;
    let start = e + 190 - 192;
    let low = m * u128::from(bits_of_two_over_pi(start + 128));
    let mid = m * u128::from(bits_of_two_over_pi(start + 64)) + (low >> 64);
    let high = (m as u64).wrapping_mul(bits_of_two_over_pi(start)).wrapping_add((mid >> 64) as u64);
    // To the nearest quadrant: the remainder is signed.
    let q = high.wrapping_add(1 << 61) >> 62;
    let rest = high.wrapping_sub(q << 62) as i64;
    let fraction = rest as f64 * (1.0 / (1u64 << 62) as f64)
        + (mid as u64) as f64 * (1.0 / (1u64 << 62) as f64 / (1u128 << 64) as f64);
    (q, fraction * std::f64::consts::FRAC_PI_2)
}

/// sin(x + turns * pi/2).
fn sin_turned(x: f64, turns: u64) -> f64 {
    if !x.is_finite() {
        return f64::NAN;
    }
    let a = x.abs();
    let (q, r) = if a < std::f64::consts::FRAC_PI_4 { (0, a) } else { reduce(a) };
    // Cosine is even; sine takes the sign of x at the end.
    let quadrant = (q + turns) & 3;
    let z = r * r;
    let v = if quadrant & 1 == 0 { r * horner(z, &SIN) } else { horner(z, &COS) };
    let v = if quadrant & 2 == 0 { v } else { -v };
    if turns == 0 && x.is_sign_negative() { -v } else { v }
}

/// Sine.
pub fn sin(x: f64) -> f64 {
    sin_turned(x, 0)
}

/// Cosine.
pub fn cos(x: f64) -> f64 {
    sin_turned(x, 1)
}
