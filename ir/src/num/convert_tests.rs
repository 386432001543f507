use super::*;

const SMALL: [DType; 5] = [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1];

fn codes(dtype: DType) -> std::ops::Range<u16> {
    0..if dtype == DType::F4E2M1 { 16 } else { 256 }
}

/// Finite codes of one sign by growing value.
fn ladder(dtype: DType) -> Vec<(f64, u8)> {
    let mut all: Vec<(f64, u8)> = codes(dtype)
        .map(|c| (f64::from(decode(dtype, c as u8)), c as u8))
        .filter(|(v, _)| v.is_finite() && v.is_sign_positive())
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// Nearest by search over all values, ties to the even code; beyond the largest value plus half a step it is out of
/// range.
fn oracle(dtype: DType, v: f64, saturate: bool) -> u8 {
    let sign: u8 = if dtype == DType::F4E2M1 { 8 } else { 0x80 };
    let (inf, nan) = match dtype {
        DType::F8E4M3FN => (0x7f, 0x7f),
        DType::F8E4M3FNUZ | DType::F8E5M2FNUZ => (0x80, 0x80),
        DType::F8E5M2 => (0x7c, 0x7e),
        _ => (7, 7),
    };
    if v.is_nan() {
        return nan;
    }
    let ladder = ladder(dtype);
    let a = v.abs();
    let (top, top_code) = ladder[ladder.len() - 1];
    let step = top - ladder[ladder.len() - 2].0;
    // The tie at the upper edge goes to the largest value where that is even, else out of range.
    let edge = top + step / 2.0;
    let magnitude = if a > edge || (a == edge && top_code & 1 == 1) {
        if saturate { top_code } else { inf }
    } else {
        let mut best = ladder[0];
        for &(value, code) in &ladder[1..] {
            let (new, old) = ((value - a).abs(), (best.0 - a).abs());
            if new < old || (new == old && code & 1 == 0) {
                best = (value, code);
            }
        }
        best.1
    };
    let fnuz = matches!(dtype, DType::F8E4M3FNUZ | DType::F8E5M2FNUZ);
    if v.is_sign_positive() || (fnuz && (magnitude == 0 || magnitude == 0x80)) { magnitude } else { magnitude | sign }
}

#[test]
fn known_values() {
    assert_eq!(decode(DType::F8E4M3FN, 0x7e), 448.0);
    assert_eq!(decode(DType::F8E4M3FN, 0x01), 2f32.powi(-9));
    assert!(decode(DType::F8E4M3FN, 0xff).is_nan());
    assert_eq!(decode(DType::F8E4M3FNUZ, 0x7f), 240.0);
    assert!(decode(DType::F8E4M3FNUZ, 0x80).is_nan());
    // Twice the range of E5M2 below, the same largest value above, where E5M2 has infinity and NaN.
    assert_eq!(decode(DType::F8E5M2FNUZ, 0x7f), 57344.0);
    assert_eq!(decode(DType::F8E5M2FNUZ, 0x01), 2f32.powi(-17));
    assert!(decode(DType::F8E5M2FNUZ, 0x80).is_nan());
    assert_eq!(decode(DType::F8E5M2, 0x7b), 57344.0);
    assert_eq!(decode(DType::F8E5M2, 0xfc), f32::NEG_INFINITY);
    assert!(decode(DType::F8E5M2, 0x7d).is_nan());
    let e2m1: Vec<f32> = (0..8).map(|c| decode(DType::F4E2M1, c)).collect();
    assert_eq!(e2m1, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    assert_eq!(decode(DType::F4E2M1, 8).to_bits(), (-0.0f32).to_bits());
    assert_eq!((decode(DType::F8E8M0, 0), decode(DType::F8E8M0, 127)), (2f32.powi(-127), 1.0));
    assert!(decode(DType::F8E8M0, 255).is_nan());
    for (v, want) in [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6), (5.1, 7)] {
        assert_eq!(cast_f32_to(DType::F4E2M1, v, true), want, "{v}");
    }
    assert_eq!(cast_f32_to(DType::F8E4M3FN, 464.0, false), 0x7e);
    assert_eq!(cast_f32_to(DType::F8E4M3FN, 464.1, false), 0x7f);
    assert_eq!(cast_f32_to(DType::F8E4M3FN, 464.1, true), 0x7e);
    assert_eq!(cast_f32_to(DType::F8E5M2, f32::NEG_INFINITY, false), 0xfc);
    assert_eq!(cast_f32_to(DType::F8E5M2, f32::NEG_INFINITY, true), 0xfb);
    assert_eq!(cast_f32_to(DType::F8E4M3FNUZ, -1e-9, true), 0);
    assert_eq!(cast_f32_to(DType::F8E4M3FNUZ, f32::NEG_INFINITY, false), 0x80);
    assert_eq!(cast_f32_to(DType::F4E2M1, f32::NAN, false), 7);
    assert_eq!(cast_f32_to(DType::F4E2M1, -0.0, false), 8);
}

#[test]
fn every_code_survives_the_round_trip() {
    for dtype in SMALL {
        for c in codes(dtype) {
            let v = decode(dtype, c as u8);
            if !v.is_nan() {
                for saturate in [true, false] {
                    let back = cast_f32_to(dtype, v, saturate);
                    if v.is_finite() || !saturate {
                        assert_eq!(u16::from(back), c, "{dtype} {v}");
                    }
                }
            }
        }
    }
}

#[test]
fn midpoints_and_neighbours_match_a_search() {
    for dtype in SMALL {
        let ladder = ladder(dtype);
        let mut probes = vec![f64::INFINITY, f64::NAN, 1e300, 1e-300, 5e-324, 464.0, 61440.0, 248.0];
        let top = ladder[ladder.len() - 1].0;
        for pair in ladder.windows(2) {
            probes.extend([pair[0].0, f64::midpoint(pair[0].0, pair[1].0)]);
        }
        probes.extend([top, top * 1.0625, top * 1.125, top * 1.25, top * 2.0]);
        for p in probes {
            for near in
                [p, p.next_up(), p.next_down(), f64::from((p as f32).next_up()), f64::from((p as f32).next_down())]
            {
                for v in [near, -near] {
                    for saturate in [true, false] {
                        let (got, want) = (cast_f64_to(dtype, v, saturate), oracle(dtype, v, saturate));
                        let nan_both = decode(dtype, got).is_nan() && decode(dtype, want).is_nan();
                        assert!(got == want || nan_both, "{dtype} {v:e} saturate={saturate}: {got:#x}, not {want:#x}");
                    }
                }
            }
        }
    }
}

#[test]
fn sixteen_bit_rounding_matches_the_next_representable_values() {
    for dtype in [DType::F16, DType::BF16] {
        let value = |code: u16| match dtype {
            DType::F16 => half::f16::from_bits(code).to_f64(),
            _ => half::bf16::from_bits(code).to_f64(),
        };
        let encode64 = |v: f64| if dtype == DType::F16 { f64_to_f16(v) } else { f64_to_bf16(v) };
        let encode32 = |v: f32| if dtype == DType::F16 { f32_to_f16(v) } else { f32_to_bf16(v) };
        let top = if dtype == DType::F16 { 0x7bffu16 } else { 0x7f7f };
        for code in 0..=top {
            let low = value(code);
            // Past the largest value the next step is where IEEE rounding overflows.
            let high = if code == top { low + (low - value(code - 1)) } else { value(code + 1) };
            let mid = f64::midpoint(low, high);
            let even = if code & 1 == 0 { code } else { code + 1 };
            let near = [(low, code), (mid, even), (mid.next_down(), code), (mid.next_up(), code + 1)];
            for (v, want) in near {
                assert_eq!(encode64(v), want, "{dtype} {v:e}");
                assert_eq!(encode64(-v), want | 0x8000, "{dtype} -{v:e}");
            }
            let mid32 = mid as f32;
            if f64::from(mid32) == mid {
                for (v, want) in [(mid32, even), (mid32.next_down(), code), (mid32.next_up(), code + 1)] {
                    assert_eq!(encode32(v), want, "{dtype} f32 {v:e}");
                    assert_eq!(encode32(-v), want | 0x8000, "{dtype} f32 -{v:e}");
                    assert_eq!(f64::from(round_to(dtype, v)), if want > top { f64::INFINITY } else { value(want) });
                }
            }
        }
        assert_eq!(encode32(f32::INFINITY), top + 1);
        assert!(round_to(dtype, f32::NAN).is_nan());
        assert!(round_to(dtype, f32::from_bits(0x7f80_0001)).is_nan(), "a payload in the dropped bits stays NaN");
    }
}

#[test]
fn e8m0_both_ways() {
    for e in -126..=127 {
        let v = 2f32.powi(e);
        let code = (e + 127) as u8;
        assert_eq!(cast_f32_to(DType::F8E8M0, v, true), code);
        assert_eq!(cast_f32_to(DType::F8E8M0, v, false), code);
        assert_eq!(cast_f32_to(DType::F8E8M0, v.next_up(), true), (code + 1).min(254));
        assert_eq!(cast_f32_to(DType::F8E8M0, v.next_up(), false), code);
        assert_eq!(cast_f32_to(DType::F8E8M0, v * 1.5, false), code + 1);
        assert_eq!(cast_f32_to(DType::F8E8M0, (v * 1.5).next_down(), false), code);
        assert_eq!(decode(DType::F8E8M0, code), v);
    }
    assert_eq!(cast_f32_to(DType::F8E8M0, 0.0, true), 0);
    assert_eq!(cast_f32_to(DType::F8E8M0, 2f32.powi(-127), true), 0);
    assert_eq!(cast_f32_to(DType::F8E8M0, f32::INFINITY, true), 254);
    assert_eq!(cast_f32_to(DType::F8E8M0, f32::INFINITY, false), 255);
    assert_eq!(cast_f32_to(DType::F8E8M0, f32::NAN, true), 255);
    assert_eq!(cast_f32_to(DType::F8E8M0, f32::MAX, false), 255);
    assert_eq!(cast_f64_to(DType::F8E8M0, 1e300, true), 254);
}

#[test]
fn nibbles_pack_low_first() {
    let packed = pack_nibbles(&[1, 2, 15]);
    assert_eq!(packed, [0x21, 0x0f]);
    assert_eq!(unpack_nibbles(&packed, 3), [1, 2, 15]);
    assert_eq!(nibble(&packed, 1), 2);
}

/// So a cast that does not saturate may be a step before one that does: of what it leaves, the second changes nothing.
#[test]
fn values_of_a_type_are_their_own_codes_however_they_are_cast() {
    for dtype in [DType::F8E8M0, DType::F8E4M3FN] {
        for code in 0..=255 {
            let v = decode(dtype, code);
            for saturate in [false, true] {
                let again = cast_f32_to(dtype, v, saturate);
                assert!(again == code || v.is_nan() && decode(dtype, again).is_nan(), "{dtype} {code:#x} {saturate}");
            }
        }
    }
}
