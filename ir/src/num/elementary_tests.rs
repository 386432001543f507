//! The oracle is the platform's f64 library, which is good to an ulp of f64, and series of another kind for erf.

use super::super::wide;
use super::*;

/// f32 patterns spread over the whole range, with both signs, and the values around every power of two.
fn samples() -> Vec<f32> {
    let mut all: Vec<f32> = (0..=u32::MAX / 65_521).map(|i| f32::from_bits(i * 65_521)).collect();
    for e in -149..128 {
        let p = 2f64.powi(e) as f32;
        all.extend([p, p.next_up(), p.next_down(), -p, -p.next_up(), -p.next_down()]);
    }
    all.extend((-3000..3000).map(|i| i as f32 * 0.0173));
    all.retain(|v| v.is_finite());
    all
}

/// Relative error below 2^-40 where an f32 result is neither zero nor infinite, else the same f32.
fn close(name: &str, x: f64, got: f64, want: f64) {
    if got.is_nan() && want.is_nan() {
        return;
    }
    let (g, w) = (got as f32, want as f32);
    if w == 0.0 || w.is_infinite() || g == 0.0 || g.is_infinite() {
        let same = g == w || (w == 0.0 && g.abs() < 1e-44) || (g == 0.0 && w.abs() < 1e-44);
        assert!(same, "{name}({x:e}): {got:e}, not {want:e}");
        return;
    }
    let error = ((got - want) / want).abs();
    assert!(error < 2f64.powi(-40), "{name}({x:e}): {got:e}, not {want:e}, error 2^{}", error.log2());
}

#[test]
fn cores_agree_with_the_platform_library() {
    type F = fn(f64) -> f64;
    let table: [(&str, F, F); 9] = [
        ("exp", wide::exp, f64::exp),
        ("exp2", wide::exp2, f64::exp2),
        ("log", wide::log, f64::ln),
        ("log2", wide::log2, f64::log2),
        ("sin", wide::sin, f64::sin),
        ("cos", wide::cos, f64::cos),
        ("tanh", wide::tanh, f64::tanh),
        ("softplus", wide::softplus, |x| if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }),
        ("sigmoid", wide::sigmoid, |x| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }),
    ];
    for x in samples() {
        for (name, ours, theirs) in table {
            let x = f64::from(x);
            close(name, x, ours(x), theirs(x));
        }
    }
}

/// `e^(-x^2) * 2/sqrt(pi) * sum 2^n x^(2n+1) / (2n+1)!!`: all terms positive, so nothing cancels.
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > sum.abs() * 1e-18 && n < 500.0 {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
}

/// Laplace's continued fraction, for x from 2 on.
fn erfc_fraction(x: f64) -> f64 {
    let mut tail = 0.0;
    for k in (1..300).rev() {
        tail = f64::from(k) / 2.0 / (x + tail);
    }
    (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + tail)
}

#[test]
fn erf_and_gelu_agree_with_series_of_another_kind() {
    let mut xs: Vec<f64> = (1..2400).map(|i| f64::from(i) * 0.0025).collect();
    xs.extend([1e-300, 1e-45, 1e-20, 1e-8, 0.999_999, 1.0, 1.000_001]);
    for x in xs {
        close("erf", x, wide::erf(x), erf_series(x));
        close("erf", -x, wide::erf(-x), -erf_series(x));
    }
    for i in 0..2000 {
        let x = f64::from(i) * 0.007;
        let half = x / std::f64::consts::SQRT_2;
        close("gelu", x, wide::gelu(x), 0.5 * x * (1.0 + erf_series(half)));
        let tail = if half < 2.0 { 1.0 - erf_series(half) } else { erfc_fraction(half) };
        close("gelu", -x, wide::gelu(-x), -0.5 * x * tail);
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        close("gelu_tanh", x, wide::gelu_tanh(x), x / (1.0 + (-2.0 * u).exp()));
        close("gelu_tanh", -x, wide::gelu_tanh(-x), -x / (1.0 + (2.0 * u).exp()));
    }
}

#[test]
fn special_values() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let neg_zero = |v: f32| v.to_bits() == (-0.0f32).to_bits();
    assert_eq!((exp(inf), exp(-inf), exp(0.0), exp(89.0), exp(-104.0)), (inf, 0.0, 1.0, inf, 0.0));
    assert_eq!((exp2(-149.0), exp2(-150.0), exp2(127.0), exp2(128.0)), (1e-45, 0.0, 2f32.powi(127), inf));
    assert_eq!((log(0.0), log(-0.0), log(inf), log(1.0)), (-inf, -inf, inf, 0.0));
    assert!(log(-1.0).is_nan() && log2(-inf).is_nan());
    assert_eq!((log2(1e-45), log2(8.0), log2(2f32.powi(-126))), (-149.0, 3.0, -126.0));
    assert!(sin(inf).is_nan() && cos(-inf).is_nan());
    assert!(neg_zero(sin(-0.0)) && neg_zero(tanh(-0.0)) && neg_zero(erf(-0.0)) && neg_zero(silu(-0.0)));
    assert_eq!((tanh(inf), tanh(-inf), erf(inf), erf(-inf)), (1.0, -1.0, 1.0, -1.0));
    assert_eq!((sigmoid(inf), sigmoid(-inf), sigmoid(0.0)), (1.0, 0.0, 0.5));
    assert_eq!((silu(inf), gelu(inf), gelu_tanh(inf), softplus(inf), softplus(-inf)), (inf, inf, inf, inf, 0.0));
    assert!(silu(-inf).is_nan() && gelu(-inf).is_nan() && gelu_tanh(-inf).is_nan());
    assert_eq!((rsqrt(0.0), rsqrt(-0.0), rsqrt(inf), rsqrt(4.0)), (inf, -inf, 0.0, 0.5));
    assert!(rsqrt(-1.0).is_nan());
    for f in [exp, exp2, log, log2, sin, cos, tanh, erf, sigmoid, silu, gelu, gelu_tanh, softplus, rsqrt] {
        assert!(f(nan).is_nan());
    }
}

#[test]
fn pow_follows_c99() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let specials = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 2.5, 1e10, -1e10, 1e38, inf, -inf, nan];
    for x in specials {
        for y in specials {
            let (got, want) = (pow(x, y), f64::from(x).powf(f64::from(y)) as f32);
            assert!(
                got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()),
                "pow({x}, {y}) = {got}, not {want}"
            );
        }
    }
}

#[test]
fn pow_of_small_multiples_of_a_half_is_exact_arithmetic() {
    for x in samples() {
        assert_eq!(pow(x, 2.0).to_bits(), (x * x).to_bits(), "{x:e}");
        assert_eq!(pow(x, 1.0).to_bits(), x.to_bits(), "{x:e}");
        assert_eq!(pow(x, -1.0).to_bits(), (1.0 / x).to_bits(), "{x:e}");
        if x > 0.0 {
            assert_eq!(pow(x, 0.5).to_bits(), x.sqrt().to_bits(), "{x:e}");
            assert_eq!(pow(x, -0.5).to_bits(), rsqrt(x).to_bits(), "{x:e}");
            for y in [0.3, 1.7, -2.2, 9.0, 11.5] {
                close("pow", f64::from(x), wide::pow(f64::from(x), y), f64::from(x).powf(y));
            }
        }
    }
}

/// Correct if the midpoints between r and its neighbours enclose 1/sqrt(m): compares m * midpoint^2 with 1 in integers.
fn rsqrt_is_correct(m: u64, r: f32) -> bool {
    // r is in (2^-13, 1] for m in [1, 2^26); its ulp is at least 2^-37, so midpoints are multiples of 2^-38.
    let scaled = |v: f64| (v * 2f64.powi(38)) as u128;
    let low = scaled(f64::midpoint(f64::from(r), f64::from(r.next_down())));
    let high = scaled(f64::midpoint(f64::from(r), f64::from(r.next_up())));
    let one = 1u128 << 76;
    u128::from(m) * low * low < one && u128::from(m) * high * high > one
}

#[test]
fn rsqrt_is_correctly_rounded() {
    // Every significand at both parities of the exponent, so every f32 by scaling.
    for m in 1u64 << 23..1 << 25 {
        let m = if m < 1 << 24 { m } else { m & !1 };
        assert!(rsqrt_is_correct(m, rsqrt(m as f32)), "{m}");
    }
}

#[test]
fn huge_angles_are_reduced_exactly() {
    // Known values, the last one of the f64 that comes nearest to an odd multiple of pi/2.
    assert_eq!(sin(f32::MAX), -0.521_876_5);
    assert_eq!(cos(f32::MAX), 0.853_021);
    assert_eq!(wide::sin(1e22), -0.852_200_849_767_188_8);
    let nearest_to_zero = wide::cos(6_381_956_970_095_103.0 * 2f64.powi(797));
    assert!((nearest_to_zero / -4.687_165_924_254_628e-19 - 1.0).abs() < 1e-15, "{nearest_to_zero:e}");
}

/// What the norm rules rest on: for no f32 from +0 on is a power by -1/2, 1/2, -1 or 2 another number than the root or
/// product that says it shorter.
fn powers_are_roots(patterns: impl Iterator<Item = u32>) {
    for x in patterns.map(f32::from_bits) {
        let same = |name: &str, a: f32, b: f32| {
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{name} of {x:e}: {a:e} and {b:e}");
        };
        same("-1/2", pow(x, -0.5), rsqrt(x));
        same("1/2", pow(x, 0.5), x.sqrt());
        same("-1", pow(x, -1.0), 1.0 / x);
        same("2", pow(x, 2.0), x * x);
    }
}

#[test]
fn powers_of_a_half_are_roots_on_samples() {
    powers_are_roots(samples().into_iter().filter(|x| x.is_sign_positive()).map(f32::to_bits));
    powers_are_roots([f32::INFINITY, f32::NAN].map(f32::to_bits).into_iter());
}

#[test]
#[ignore = "all 2^31 f32 from +0 on: a minute in a release build"]
fn powers_of_a_half_are_roots_everywhere() {
    powers_are_roots(0..=f32::INFINITY.to_bits());
}
