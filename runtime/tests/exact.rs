//! What the kernels do instead of a division and of a root in f64, gone through on the CPU for every significand. Powers of two change
//! nothing as long as no step overflows or loses bits, which `divisor` in `kernels/num.cuh` and `rsqrt_exact` see to.

use normfuse_ir::{DType, num};
use rayon::prelude::*;

/// Significands of f32, and those of dividends of `bits` bits, which `differ`.
fn quotients(bits: u32, differ: impl Fn(f32, f32) -> bool + Sync) -> u64 {
    (0..1u32 << 23)
        .into_par_iter()
        .map(|fraction| {
            let by = f32::from_bits(0x3f80_0000 | fraction);
            let differ = |leading: &u32| differ(f32::from_bits(0x3f80_0000 | leading << (24 - bits)), by);
            (0..1u32 << (bits - 1)).filter(differ).count() as u64
        })
        .sum()
}

/// True if two numbers lie on the same side of every number of at most `bits` significant bits, or are equal to it.
fn same_side(a: f32, b: f32, bits: u32) -> bool {
    let side = |v: f32| (v.to_bits() >> (24 - bits), v.to_bits().trailing_zeros() >= 24 - bits);
    side(a) == side(b)
}

/// The quotient of a bf16 as `quotient<8, false>` of `kernels/num.cuh` has it.
fn quotient_in_two_parts(x: f32, by: f32) -> f32 {
    let inverse = 1.0 / by;
    let high = f32::from_bits((inverse.to_bits() - 1) & 0xffff_ff00);
    let rest = (-high).mul_add(by, 1.0) * inverse;
    assert!(rest > 0.0, "{by}: zeros would lose their signs");
    x.mul_add(high, x * rest)
}

#[test]
fn quotients_of_bf16_are_on_the_right_side_of_what_has_11_bits() {
    let wrong = |x, by| !same_side(quotient_in_two_parts(x, by), x / by, 11);
    assert_eq!(quotients(8, wrong), 0);
    // Of more bits they are not: the test can see it.
    let by = f32::from_bits(0x3fa0_bfcc);
    assert!(!same_side(quotient_in_two_parts(233.0, by), 233.0 / by, 13));
    for by in [0.75f32, 1.0, 1.3] {
        assert_eq!([0.0, -0.0].map(|x| quotient_in_two_parts(x, by).to_bits()), [0, 1 << 31]);
    }
}

/// One correction of the product with the rounded inverse.
#[test]
#[ignore = "takes a minute: 2^33 divisions"]
fn quotients_of_f16_are_exact_after_one_correction() {
    let wrong = |x: f32, by: f32| {
        let inverse = 1.0 / by;
        let product = x * inverse;
        let once = (-product.mul_add(by, -x)).mul_add(inverse, product);
        once.to_bits() != (x / by).to_bits()
    };
    assert_eq!(quotients(11, wrong), 0);
}

/// From an estimate that is off by as much as the hardware's may be, or more.
#[test]
fn roots_are_exact_after_one_step() {
    let wrong: u64 = (0..1u32 << 24)
        .into_par_iter()
        .map(|at| {
            let v = f64::from(f32::from_bits(0x3f80_0000 + at));
            let exact = 1.0 / v.sqrt();
            let off = |by: f64| {
                let d = f64::from((exact * (1.0 + by)) as f32);
                let e = (-(v * d)).mul_add(d, 1.0);
                let refined = (d * e).mul_add(e.mul_add(0.375, 0.5), d);
                refined as f32 != exact as f32
            };
            [-(2f64.powi(-21)), 0.0, 2f64.powi(-21)].into_iter().filter(|by| off(*by)).count() as u64
        })
        .sum();
    assert_eq!(wrong, 0);
}

/// Whole parts of logarithms by bits, at both ends of each binade and of what is left to the logarithm: between them it grows.
#[test]
fn whole_parts_of_logarithms_are_bits() {
    for exponent in 1..255u32 {
        let log2 = |fraction: u32| num::log2(f32::from_bits(exponent << 23 | fraction));
        let same = |a: f32, b: f32| assert_eq!(a.to_bits(), b.to_bits(), "2^{}: {a} {b}", exponent.cast_signed() - 127);
        same(log2(0).ceil(), (exponent as f32) - 127.0);
        same(log2(0).floor(), (exponent as f32) - 127.0);
        for fraction in [0x1000, 0x40_0000, 0x7f_ffff] {
            same(log2(fraction).ceil(), -(126.0 - exponent as f32));
        }
        for fraction in [1, 0x40_0000, 0x7f_f000] {
            same(log2(fraction).floor(), (exponent as f32) - 127.0);
        }
    }
}

/// `E2M1::encode` of `kernels/num.cuh`.
fn e2m1_by_a_sum(v: f32) -> u8 {
    let bits = v.to_bits();
    let magnitude = (bits & 0x7fff_ffff).min(0x40c0_0000);
    let power = (magnitude & 0x7f80_0000).max(0x3f80_0000) + (22 << 23);
    let sum = (f32::from_bits(magnitude) + f32::from_bits(power)).to_bits();
    let code = sum - power + (power >> 22) - 2 * (127 + 22);
    (code | if v.is_nan() { 0 } else { bits >> 28 & 8 }) as u8
}

/// `e2m1_pair` of `kernels/num.cuh`, of one of the pair.
fn e2m1_of_bf16(v: half::bf16) -> u8 {
    let bits = v.to_bits();
    let magnitude = (bits & 0x7fff).min(0x40c0);
    let power = (magnitude & 0x7f80).max(0x3f80);
    let sum =
        half::bf16::from_f32(half::bf16::from_bits(magnitude).to_f32() + 64.0 * half::bf16::from_bits(power).to_f32());
    let code = sum.to_bits() - power + (power >> 6) - (0x300 - 12 + 2 * (127 + 6));
    (code | bits >> 12 & 8) as u8
}

/// `cut_to_odd` of `kernels/num.cuh`.
fn cut_to_odd(v: f32) -> half::bf16 {
    half::bf16::from_bits((v.to_bits() >> 16) as u16 | u16::from(v.to_bits() & 0xffff != 0))
}

#[test]
fn codes_of_four_bits_are_a_sum_of_bf16() {
    let wrong = |v: f32| e2m1_of_bf16(cut_to_odd(v)) != num::cast_f32_to(DType::F4E2M1, v, true);
    let halves = [0.0f32, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 7.0];
    for at in halves.into_iter().flat_map(|v| [v.to_bits(), (-v).to_bits()]) {
        for bits in [at.wrapping_sub(1), at, at + 1, at + 0xffff, at + 0x1_0000].map(f32::from_bits) {
            assert!(bits.is_nan() || !wrong(bits), "{bits}");
        }
    }
    let every_32nd = (0..1u32 << 27).into_par_iter().map(|at| f32::from_bits(at << 5 | 0x15));
    assert_eq!(every_32nd.filter(|v| !v.is_nan() && wrong(*v)).count(), 0);
}

/// Every 32nd f32, and both neighbours of what lies half way between two codes.
#[test]
fn codes_of_four_bits_are_a_sum() {
    let wrong = |bits: u32| {
        let v = f32::from_bits(bits);
        e2m1_by_a_sum(v) != num::cast_f32_to(DType::F4E2M1, v, true)
    };
    let halves = [0.0f32, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 7.0, f32::INFINITY];
    for at in halves.into_iter().flat_map(|v| [v.to_bits(), (-v).to_bits()]) {
        assert!(![at.wrapping_sub(1), at, at + 1].into_iter().any(wrong), "{}", f32::from_bits(at));
    }
    assert_eq!((0..1u32 << 27).into_par_iter().filter(|at| wrong(at << 5 | 0x15)).count(), 0);
}

/// What may be wrong with the hardware's power of two and with its reciprocal, relatively: two units of the last place, and one.
const POWER_OFF: [f64; 3] = [-1.0 / 4_194_304.0, 0.0, 1.0 / 4_194_304.0];
const INVERSE_OFF: [f64; 3] = [-1.0 / 8_388_608.0, 0.0, 1.0 / 8_388_608.0];

/// `logistic` of `kernels/gate.cuh`.
fn logistic(t: f32, rest: f32, off: (f64, f64)) -> f32 {
    let power = (f64::from(t).exp2() * (1.0 + off.0)) as f32;
    let power = (power * std::f32::consts::LN_2).mul_add(rest, power);
    (1.0 / f64::from(1.0 + power) * (1.0 + off.1)) as f32
}

fn quick_sigmoid(x: f32, off: (f64, f64)) -> f32 {
    let (high, low) = (std::f32::consts::LOG2_E, 1.925_963e-8_f32);
    let t = x * -high;
    logistic(t, x.mul_add(-low, x.mul_add(-high, -t)), off)
}

fn quick_gelu_tanh(x: f32, off: (f64, f64)) -> f32 {
    let wide = f64::from(x);
    let t = wide * (-2.302_208_198_144_325 - 0.102_943_239_580_023_5 * (wide * wide));
    let high = t as f32;
    x * logistic(high, (t - f64::from(high)) as f32, off)
}

type Quick = fn(f32, (f64, f64)) -> f32;

/// Its name, by f32, as it is, and the largest magnitude that f32 is asked for.
type Activation = (&'static str, Quick, fn(f32) -> f32, f32);

/// Where both ends of the interval around what f32 gives round to the same, that is what the function rounds to: for every number of
/// 16 bits, however wrong the hardware is within its bounds. And nearly everywhere they do.
#[test]
fn activations_are_decided_by_f32() {
    let functions: [Activation; 4] = [
        ("sigmoid", quick_sigmoid, num::sigmoid, 64.0),
        ("silu", |x, off| x * quick_sigmoid(x, off), num::silu, 64.0),
        ("x * sigmoid", |x, off| x * quick_sigmoid(x, off), |x| x * num::sigmoid(x), 64.0),
        ("gelu_tanh", quick_gelu_tanh, num::gelu_tanh, 8.0),
    ];
    let narrow: [fn(u16) -> f32; 2] =
        [|bits| half::bf16::from_bits(bits).to_f32(), |bits| half::f16::from_bits(bits).to_f32()];
    for (name, quick, function, most) in functions {
        for (dtype, from) in [(DType::BF16, narrow[0]), (DType::F16, narrow[1])] {
            let asked: Vec<f32> =
                (0..=u16::MAX).map(from).filter(|x| (2f32.powi(-30)..=most).contains(&x.abs())).collect();
            let mut undecided = 0;
            for x in &asked {
                let want = num::round_to(dtype, function(*x)).to_bits();
                for off in POWER_OFF.iter().flat_map(|p| INVERSE_OFF.map(|i| (*p, i))) {
                    let v = quick(*x, off);
                    let ends = [1.0 - 2f32.powi(-20), 1.0 + 2f32.powi(-20)].map(|by| num::round_to(dtype, v * by));
                    if ends[0].to_bits() == ends[1].to_bits() {
                        assert_eq!(ends[0].to_bits(), want, "{name} of {dtype} {x:e}, off by {off:?}");
                    } else {
                        undecided += 1;
                    }
                }
            }
            assert!(undecided < 9 * asked.len() / 100, "{name} of {dtype}: {undecided} of {} times nine", asked.len());
        }
    }
}

/// Beyond what the hardware is asked for, and between: a function of f32 is as simple as `kernels/gate.cuh` says.
#[test]
fn activations_of_tiny_and_huge_numbers_are_simple() {
    let same = |a: f32, b: f32, x: f32| assert_eq!(a.to_bits(), b.to_bits(), "{x:e}");
    for bits in (0..2f32.powi(-30).to_bits()).step_by(997).chain(0..1 << 16) {
        for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
            same(num::sigmoid(x), 0.5, x);
            same(num::silu(x), x * 0.5, x);
            same(num::gelu_tanh(x), x * 0.5, x);
        }
    }
    for bits in (64f32.to_bits() + 1..=f32::INFINITY.to_bits()).step_by(997) {
        let x = f32::from_bits(bits);
        same(num::sigmoid(x), 1.0, x);
        same(num::silu(x), x, x);
    }
}

/// Codes as numbers, by way of f16, which the hardware widens.
#[test]
fn codes_are_f16_but_for_an_exponent() {
    let number = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
    for code in 0..=255u8 {
        let (bits, five) = (u32::from(code), num::decode(DType::F8E5M2, code));
        assert!(number(bits << 8).to_bits() == five.to_bits() || five.is_nan() && number(bits << 8).is_nan(), "{code}");
        if code < 16 {
            let four = number((bits & 8) << 12 | (bits & 7) << 9) * 16384.0;
            assert_eq!(four.to_bits(), num::decode(DType::F4E2M1, code).to_bits(), "{code}");
        }
    }
}
