//! ONNX's quantisers and `Quantize`.

use super::{eval, f, floats, int_values, u16s};
use crate::{
    DType, Granularity, Op, Scheme, Tensor,
    eval::{
        cast, dequantize_linear, dynamic_quantize_linear,
        numbers::{from_floats, from_ints},
        quantize, quantize_linear,
    },
    num,
    scheme::{Apply, DynamicScale, F32, ScaleBy, ScaleLayout, ScaleRule, ScaleSource},
};

fn bytes(dtype: DType, shape: &[usize], v: &[u8]) -> Tensor {
    Tensor::from_bytes(dtype, shape.to_vec(), v.to_vec()).unwrap()
}

#[test]
fn quantize_linear_in_all_granularities() {
    let x = f(&[2, 4], &[0.5, 1.5, 2.5, -1e9, 3.0, 4.0, f32::NAN, 1e9]);
    let q = |scale: &Tensor, zero: Option<&Tensor>, axis, block, to| {
        quantize_linear(&x, scale, zero, (axis, block), to, true, None).map(|t| t.bytes().to_vec())
    };
    let zero = bytes(DType::U8, &[], &[10]);
    let got = q(&f(&[], &[1.0]), Some(&zero), 1, 0, DType::U8).unwrap();
    assert_eq!(got, [10, 12, 12, 0, 13, 14, 10, 255], "ties to even, saturated");
    let got = q(&f(&[2], &[1.0, 2.0]), None, 0, 0, DType::I8).unwrap();
    assert_eq!(got, [0, 2, 2, 128, 2, 2, 0, 127]);
    let got = q(&f(&[2, 2], &[0.5, 1.0, 1.0, 1.0]), None, -1, 2, DType::I8).unwrap();
    assert_eq!(got, [1, 3, 2, 128, 3, 4, 0, 127]);
    assert!(q(&f(&[3], &[1.0; 3]), None, 0, 0, DType::I8).is_err());
    assert!(q(&f(&[2, 3], &[1.0; 6]), None, 1, 2, DType::I8).is_err());
    assert!(q(&f(&[], &[1.0]), Some(&bytes(DType::I8, &[], &[0])), 1, 0, DType::U8).is_err());
    let fp8 = q(&f(&[], &[1.0]), None, 1, 0, DType::F8E4M3FN).unwrap();
    assert_eq!((fp8[0], fp8[3], fp8[7]), (0x30, 0xfe, 0x7e));
    let open = quantize_linear(&x, &f(&[], &[1.0]), None, (1, 0), DType::F8E4M3FN, false, None).unwrap();
    assert_eq!((open.bytes()[3], open.bytes()[7]), (0xff, 0x7f));
    // The quotient is rounded to the scale's dtype first: 1/3 * 1.5 differs in f16.
    let half = |v: &[f32]| from_floats(DType::F16, &[v.len()], v).unwrap();
    let y = quantize_linear(&half(&[100.06]), &half(&[66.7]), None, (0, 0), DType::I8, true, None).unwrap();
    let quotient = num::round_to(DType::F16, floats(&half(&[100.06])).unwrap()[0] / floats(&half(&[66.7])).unwrap()[0]);
    assert_eq!(int_values(&y), [quotient.round_ties_even() as i128]);
}

#[test]
fn dequantize_linear_undoes_it() {
    let q = bytes(DType::U8, &[2, 2], &[0, 255, 7, 8]);
    let zero = bytes(DType::U8, &[2], &[128, 7]);
    let y = dequantize_linear(&q, &f(&[2], &[0.5, 2.0]), Some(&zero), (0, 0), None).unwrap();
    assert_eq!(floats(&y).unwrap(), [-64.0, 63.5, 0.0, 2.0]);
    let scale = from_floats(DType::BF16, &[], &[0.1]).unwrap();
    let y = dequantize_linear(&bytes(DType::F8E4M3FN, &[1], &[0x7e]), &scale, None, (0, 0), None).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    assert_eq!(floats(&y).unwrap(), [num::round_to(DType::BF16, 448.0 * floats(&scale).unwrap()[0])]);
    assert!(dequantize_linear(&f(&[1], &[1.0]), &scale, None, (0, 0), None).is_err());
}

#[test]
fn dynamic_quantize_linear_includes_zero() {
    let [q, s, z] = dynamic_quantize_linear(&f(&[3], &[1.0, 2.0, -0.55])).unwrap();
    let scale = 2.55f32 / 255.0;
    assert_eq!(floats(&s).unwrap(), [scale]);
    assert_eq!(int_values(&z), [(0.55f32 / scale).round_ties_even() as i128]);
    assert_eq!(int_values(&q), [155, 255, 0]);
    let [q, s, z] = dynamic_quantize_linear(&f(&[2], &[0.0, 0.0])).unwrap();
    assert_eq!((int_values(&q), floats(&s).unwrap(), int_values(&z)), (vec![0, 0], vec![1.0 / 255.0], vec![0]));
}

fn scheme(granularity: Granularity) -> Scheme {
    Scheme {
        element: DType::F8E4M3FN,
        granularity,
        scale_dtype: DType::F32,
        scale: ScaleSource::Dynamic(DynamicScale {
            amax_floor: Some(F32::new(1e-10)),
            by: ScaleBy::Divide(F32::new(448.0)),
            scale_floor: None,
            rule: ScaleRule::Linear,
        }),
        apply: Apply::Divide,
        clamp: None,
        saturate: true,
        compute: DType::F32,
        layout: ScaleLayout::RowMajor,
    }
}

#[test]
fn schemes_decide_the_bits() {
    let v = f(&[2, 4], &[1.0, -2.0, 0.0, 3.0, 0.0, 0.0, f32::NAN, 1.0]);
    let out = quantize(&scheme(Granularity::Group(2)), &v, None).unwrap();
    assert_eq!(out[1].shape(), [2, 2]);
    let s = floats(&out[1]).unwrap();
    assert_eq!(s[..3], [2.0 / 448.0, 3.0 / 448.0, 1e-10 / 448.0]);
    assert!(s[3].is_nan(), "NaN goes through amax");
    assert_eq!(out[0].bytes()[..6], [0x76, 0xfe, 0x00, 0x7e, 0, 0]);
    assert_eq!(out[0].bytes()[6..], [0x7f, 0x7f]);
    let token = quantize(&scheme(Granularity::Token), &v, None).unwrap();
    assert_eq!(token[1].shape(), [2, 1]);
    assert_eq!(quantize(&scheme(Granularity::Tensor), &v, None).unwrap()[1].shape(), [0usize; 0]);
    assert!(quantize(&scheme(Granularity::Group(3)), &v, None).is_err());
    let mut floor = scheme(Granularity::Token);
    if let ScaleSource::Dynamic(d) = &mut floor.scale {
        (d.by, d.scale_floor) = (ScaleBy::Multiply(F32::new(0.5)), Some(F32::new(7.0)));
    }
    assert_eq!(floats(&quantize(&floor, &f(&[1, 1], &[4.0]), None).unwrap()[1]).unwrap(), [7.0]);
    // A value where v / s, v * (1 / s) and v * s part.
    let (v, s) = (f(&[1], &[29.0 * 7.0]), f(&[], &[7.0]));
    let q = |apply| {
        let scheme = Scheme { scale: ScaleSource::Given, apply, ..scheme(Granularity::Tensor) };
        eval(&Op::Quantize(scheme.into()), &[&v, &s]).unwrap()[0].bytes()[0]
    };
    assert_eq!((q(Apply::Divide), q(Apply::MultiplyReciprocal), q(Apply::Multiply)), (0x5e, 0x5f, 0x7e));
    let clamped = Scheme {
        scale: ScaleSource::Given,
        clamp: Some([F32::new(-2.0), F32::new(2.0)]),
        saturate: false,
        ..scheme(Granularity::Tensor)
    };
    let y = quantize(&clamped, &f(&[3], &[1e9, -3.0, f32::NAN]), Some(&f(&[1], &[1.0]))).unwrap();
    assert_eq!(y[0].bytes(), [0x40, 0xc0, 0x7f]);
    assert!(quantize(&clamped, &v, None).is_err());
    let int8 = Scheme { element: DType::I8, scale: ScaleSource::Given, ..scheme(Granularity::Tensor) };
    let y = quantize(&int8, &f(&[4], &[0.5, 1.5, 200.0, -200.0]), Some(&f(&[], &[1.0]))).unwrap();
    assert_eq!(int_values(&y[0]), [0, 2, 127, -128]);
    let fp4 = Scheme { element: DType::F4E2M1, ..int8 };
    let y = quantize(&fp4, &f(&[3], &[0.5, 5.0, -9.0]), Some(&f(&[], &[1.0]))).unwrap();
    assert_eq!(y[0].bytes(), [0x61, 0x0f]);
}

/// The bits here and below are those of `onnx.reference` (1.23).
#[test]
fn every_fp8_type_saturates_or_not() {
    let x = f(&[9], &[1e-5, -1e-6, 3.3, -57344.0, 61440.0, 61441.0, -1e9, f32::NAN, f32::INFINITY]);
    let cases: [(DType, bool, [u8; 9]); 8] = [
        (DType::F8E4M3FN, true, [0, 0x80, 0x45, 0xfe, 0x7e, 0x7e, 0xfe, 0x7f, 0x7e]),
        (DType::F8E4M3FN, false, [0, 0x80, 0x45, 0xff, 0x7f, 0x7f, 0xff, 0x7f, 0x7f]),
        (DType::F8E4M3FNUZ, true, [0, 0, 0x4d, 0xff, 0x7f, 0x7f, 0xff, 0x80, 0x7f]),
        (DType::F8E4M3FNUZ, false, [0, 0, 0x4d, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]),
        (DType::F8E5M2, true, [0x01, 0x80, 0x43, 0xfb, 0x7b, 0x7b, 0xfb, 0x7e, 0x7b]),
        (DType::F8E5M2, false, [0x01, 0x80, 0x43, 0xfb, 0x7c, 0x7c, 0xfc, 0x7e, 0x7c]),
        (DType::F8E5M2FNUZ, true, [0x01, 0, 0x47, 0xff, 0x7f, 0x7f, 0xff, 0x80, 0x7f]),
        (DType::F8E5M2FNUZ, false, [0x01, 0, 0x47, 0xff, 0x80, 0x80, 0x80, 0x80, 0x80]),
    ];
    for (to, saturate, want) in cases {
        let q = quantize_linear(&x, &f(&[], &[1.0]), None, (0, 0), to, saturate, None).unwrap();
        assert_eq!(q.bytes(), want, "{to} {saturate}");
    }
    let codes = bytes(DType::F8E5M2FNUZ, &[5], &[0x7f, 0x80, 0x01, 0xff, 0x3d]);
    let y = dequantize_linear(&codes, &f(&[], &[0.1]), None, (0, 0), Some(DType::F16)).unwrap();
    assert_eq!(u16s(&y), [0x6d9a, 0x7e00, 0x000d, 0xed9a, 0x2c00], "the sign of NaN apart");
}

#[test]
fn fp4_in_blocks_under_powers_of_two() {
    let x = f(&[2, 6], &[0.3, -0.8, 1.3, 7.0, -100.0, 0.26, 5.0, -2.6, 0.2, 0.1, -0.0, 3.5]);
    let scale = bytes(DType::F8E8M0, &[2, 2], &[125, 128, 127, 126]);
    let q = quantize_linear(&x, &scale, None, (1, 3), DType::F4E2M1, true, None).unwrap();
    // 1, -3, 6 and 4, -6, 0; 4, -3, 0 and 0, -0, 6: two to a byte, the first one low.
    assert_eq!(q.bytes(), [0xd2, 0x67, 0x0f, 0xd6, 0x00, 0x78]);
    let q = bytes(DType::F4E2M1, &[2, 4], &[0x21, 0xf3, 0x78, 0xc9]);
    let y = dequantize_linear(&q, &scale, None, (1, 2), Some(DType::BF16)).unwrap();
    assert_eq!(u16s(&y), [0x3e00, 0x3e80, 0x4040, 0xc140, 0x8000, 0x40c0, 0xbe80, 0xbf80]);
    // Without a result type there is none: nothing is computed in powers of two.
    assert!(dequantize_linear(&q, &scale, None, (1, 2), None).is_err());
}

#[test]
fn the_quotient_has_the_precision_that_is_asked_for() {
    let (x, scale) = (f(&[4], &[10.03, 1486.271, 3.3, 0.7]), f(&[], &[0.37]));
    let q = |x: &Tensor, scale: &Tensor, precision| {
        int_values(&quantize_linear(x, scale, None, (0, 0), DType::I16, true, precision).unwrap())
    };
    assert_eq!(q(&x, &scale, None), [27, 4017, 9, 2]);
    assert_eq!(q(&x, &scale, Some(DType::F16)), [27, 4014, 9, 2]);
    assert_eq!(q(&x, &scale, Some(DType::BF16)), [27, 4032, 9, 2]);
    // Else it is the scale's, as the op is specified, whatever x is. (onnxruntime's CPU kernel divides in f32.)
    let half = |t: &Tensor| cast(t, DType::F16, true).unwrap();
    assert_eq!(q(&half(&x), &half(&scale), None), [27, 4014, 9, 2]);
    assert_eq!(q(&x, &half(&scale), None), [27, 4014, 9, 2]);
    let wide = cast(&half(&scale), DType::F32, true).unwrap();
    assert_eq!(q(&half(&x), &wide, None), [27, 4015, 9, 2]);
    // The product is rounded once, from f32.
    let codes = from_ints(DType::I16, &[3], &[32767, -32768, 12345]).unwrap();
    let y = dequantize_linear(&codes, &f(&[], &[0.0123]), None, (0, 0), Some(DType::F16)).unwrap();
    assert_eq!(u16s(&y), [0x5e4c, 0xde4c, 0x58bf]);
}
