//! ONNX's quantisers and `Quantize`.

use super::{eval, f, floats, int_values, u16s};
use crate::{
    DType, Granularity, Op, Scheme, Tensor,
    body::bits_equal,
    eval::{
        cast, dequantize_linear, dynamic_quantize_linear,
        numbers::{from_floats, from_ints},
        quantize, quantize_linear,
    },
    num,
    scheme::{Apply, Dequantised, Encode, F32, Packing, ScaleLayout, ScaleOutput, Step, ZeroPoint},
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

fn c(v: f32) -> F32 {
    F32::new(v)
}

fn scheme(granularity: Granularity) -> Scheme {
    Scheme::dynamic(DType::F8E4M3FN, granularity, vec![Step::Max(c(1e-10)), Step::Div(c(448.0))])
}

#[test]
fn schemes_decide_the_bits() {
    let v = f(&[2, 4], &[1.0, -2.0, 0.0, 3.0, 0.0, 0.0, f32::NAN, 1.0]);
    let run = |s: &Scheme, v: &Tensor| quantize(s, v, None, None);
    let out = run(&scheme(Granularity::Group(2)), &v).unwrap();
    assert_eq!(out[1].shape(), [2, 2]);
    let s = floats(&out[1]).unwrap();
    assert_eq!(s[..3], [2.0 / 448.0, 3.0 / 448.0, 1e-10 / 448.0]);
    assert!(s[3].is_nan(), "NaN goes through amax");
    assert_eq!(out[0].bytes()[..6], [0x76, 0xfe, 0x00, 0x7e, 0, 0]);
    assert_eq!(out[0].bytes()[6..], [0x7f, 0x7f]);
    assert_eq!(run(&scheme(Granularity::Token), &v).unwrap()[1].shape(), [2, 1]);
    assert_eq!(run(&scheme(Granularity::Tensor), &v).unwrap()[1].shape(), [0usize; 0]);
    assert!(run(&scheme(Granularity::Group(3)), &v).is_err());
    let floor = Scheme::dynamic(DType::F8E4M3FN, Granularity::Token, vec![Step::Mul(c(0.5)), Step::Max(c(7.0))]);
    assert_eq!(floats(&run(&floor, &f(&[1, 1], &[4.0])).unwrap()[1]).unwrap(), [7.0]);
}

#[test]
fn values_meet_given_scales() {
    // A value where v / s, v * (1 / s) and v * s part.
    let (v, s) = (f(&[1], &[29.0 * 7.0]), f(&[], &[7.0]));
    let q = |scheme: Scheme| eval(&Op::Quantize(scheme.into()), &[&v, &s]).unwrap()[0].bytes()[0];
    let fixed = |apply| Scheme::fixed(DType::F8E4M3FN, apply);
    let all = (q(fixed(Apply::Divide)), q(fixed(Apply::Divide).by_reciprocal()), q(fixed(Apply::Multiply)));
    assert_eq!(all, (0x5e, 0x5f, 0x7e));
    let one = f(&[1], &[1.0]);
    let run = |s: &Scheme, v: &[f32]| quantize(s, &f(&[v.len()], v), Some(&one), None).unwrap().remove(0);
    let clamped = Scheme { encode: Encode::Cast, ..fixed(Apply::Divide).clamped(-2.0, 2.0) };
    assert_eq!(run(&clamped, &[1e9, -3.0, f32::NAN]).bytes(), [0x40, 0xc0, 0x7f]);
    assert!(quantize(&clamped, &v, None, None).is_err());
    let int8 = Scheme { element: DType::I8, post: vec![Step::Round], ..fixed(Apply::Divide) };
    assert_eq!(int_values(&run(&int8, &[0.5, 1.5, 200.0, -200.0])), [0, 2, 127, -128]);
    let toward_zero = Scheme { post: Vec::new(), ..int8 };
    assert_eq!(int_values(&run(&toward_zero, &[0.9, -1.9, f32::NAN, 300.0])), [0, -1, 0, 127]);
    let fp4 = Scheme { element: DType::F4E2M1, ..fixed(Apply::Divide) };
    assert_eq!(run(&fp4, &[0.5, 5.0, -9.0]).bytes(), [0x61, 0x0f]);
}

#[test]
fn codes_become_numbers_again_as_dequantize_linear_makes_them() {
    let v: Vec<f32> =
        (0..48).map(|i| [0.3, -7.0, 1e-9, 448.0, -0.0, 3.3e4, f32::NAN, 0.07][i % 8] * (1 + i) as f32).collect();
    let v = f(&[3, 16], &v);
    let byte = |s: Scheme| Scheme { scale: s.scale.map(|s| ScaleOutput { dtype: DType::F8E8M0, ..s }), ..s };
    let half = |s: Scheme| Scheme { scale: s.scale.map(|s| ScaleOutput { dtype: DType::F16, ..s }), ..s };
    let fixed = |element| Scheme { element, post: vec![Step::Round], ..Scheme::fixed(element, Apply::Divide) };
    let of = |s: &Scheme| match s.granularity {
        Granularity::Group(g) => (-1, u64::from(g)),
        Granularity::Token => (1, 16),
        _ => (-1, 0),
    };
    let cases = [
        scheme(Granularity::Tensor),
        scheme(Granularity::Token),
        scheme(Granularity::Group(4)),
        half(scheme(Granularity::Token)),
        byte(scheme(Granularity::Group(8))),
        Scheme { element: DType::F4E2M1, ..scheme(Granularity::Group(8)) },
        fixed(DType::F8E5M2),
        Scheme { zero_point: ZeroPoint::Given, ..fixed(DType::I8) },
        Scheme { zero_point: ZeroPoint::Given, granularity: Granularity::Channel, ..fixed(DType::U8) },
    ];
    for s in cases {
        let n = if s.granularity == Granularity::Channel { 16 } else { 1 };
        let given = f(&[n], &(0..n).map(|i| 0.37 * (1 + i) as f32).collect::<Vec<_>>());
        let zero = bytes(s.element, &[n], &(0..n).map(|i| (3 + i * 17) as u8).collect::<Vec<_>>());
        let (given, zero) = (s.given.map(|_| &given), (s.zero_point == ZeroPoint::Given).then_some(&zero));
        let apart = quantize(&s, &v, given, zero).unwrap();
        let scale = if s.has_scale_output() { Some(&apart[1]) } else { given };
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let want = dequantize_linear(&apart[0], scale.unwrap(), zero, of(&s), Some(dtype)).unwrap();
            for (codes, scales) in [(true, true), (true, false), (false, true), (false, false)] {
                let scales = scales && s.scale.is_some();
                let all = Scheme { dequantised: Some(Dequantised { dtype, codes, scales }), ..s.clone() };
                let mut found = quantize(&all, &v, given, zero).unwrap();
                assert_eq!(found.len(), 1 + usize::from(codes) + usize::from(scales));
                assert!(bits_equal(&want, &found.pop().unwrap()).is_none(), "{all:?}");
                let beside = [codes.then(|| &apart[0]), scales.then(|| &apart[1])].into_iter().flatten();
                assert!(beside.zip(&found).all(|(want, found)| bits_equal(want, found).is_none()), "{all:?}");
            }
        }
    }
    let only = Scheme { dequantised: Some(Dequantised::only(DType::BF16)), ..scheme(Granularity::Token) };
    assert_eq!(only.to_string(), "f8e4m3fn/token+bf16");
    assert!(only.arithmetic().ends_with("dequantised = cast bf16 of q * scale, q and scale not handed out"));
    assert_eq!(only.of_codes(), Scheme { scale: None, ..scheme(Granularity::Token) });
}

#[test]
fn codes_by_comparison_and_their_packing() {
    let one = f(&[], &[1.0]);
    let v = [-0.0, -0.1, 0.25, 0.26, -0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0, f32::NAN];
    let of = |encode, packing| {
        let s = Scheme { packing, encode, ..Scheme::fixed(DType::F4E2M1, Apply::Multiply) };
        quantize(&s, &f(&[1, v.len()], &v), Some(&one), None).unwrap().remove(0)
    };
    let codes = of(Encode::Compare, Packing::Codes);
    assert_eq!((codes.dtype(), codes.shape()), (DType::U8, &[1, 12][..]));
    assert_eq!(codes.bytes(), [0, 8, 0, 1, 10, 2, 4, 4, 6, 6, 7, 0]);
    assert_eq!(of(Encode::Saturate, Packing::Codes).bytes()[..2], [8, 8], "a cast keeps the sign of zero");
    let packed = of(Encode::Compare, Packing::Nibbles);
    assert_eq!((packed.dtype(), packed.shape()), (DType::U8, &[1, 6][..]));
    assert_eq!(packed.bytes(), [0x80, 0x10, 0x2a, 0x44, 0x66, 0x07]);
    let odd = Scheme { packing: Packing::Nibbles, ..Scheme::fixed(DType::F4E2M1, Apply::Multiply) };
    assert!(quantize(&odd, &f(&[1, 3], &[1.0; 3]), Some(&one), None).is_err());
}

#[test]
fn steps_are_taken_in_order_and_in_their_dtype() {
    use crate::scheme::run;
    let ue8m0 = [Step::Div(c(448.0)), Step::Log2, Step::Ceil, Step::Exp2];
    assert_eq!(run(&ue8m0, 448.0, DType::F32, 0.0), 1.0);
    assert_eq!(run(&ue8m0, 449.0, DType::F32, 0.0), 2.0);
    // ln(8) / ln(2) falls just short of 3 in f32, where log2 is exact: two functions.
    let by_ln = [Step::Log, Step::Div(c(std::f32::consts::LN_2)), Step::Floor];
    let differs = (-126..128).any(|e| {
        let x = 2f32.powi(e);
        run(&by_ln, x, DType::F32, 0.0) != run(&[Step::Log2, Step::Floor], x, DType::F32, 0.0)
    });
    assert!(differs);
    let third = num::round_to(DType::BF16, 1.0 / 3.0);
    assert_eq!(run(&[Step::Div(c(3.0))], 1.0, DType::BF16, 0.0), third);
    let widened = [Step::Div(c(3.0)), Step::Cast { to: DType::F32, saturate: true }, Step::Div(c(3.0))];
    assert_eq!(run(&widened, 1.0, DType::BF16, 0.0), third / 3.0);
    let narrow = [Step::Cast { to: DType::F8E4M3FN, saturate: true }, Step::GivenOverOrZero];
    assert_eq!((run(&narrow, 500.0, DType::F32, 896.0), run(&narrow, 1e-9, DType::F32, 896.0)), (2.0, 0.0));
    assert_eq!(run(&[Step::IfZero(c(1.0))], -0.0, DType::F32, 0.0), 1.0);
}

#[test]
fn what_a_scheme_cannot_be_is_said() {
    let says = |s: Scheme| s.check().unwrap_err();
    let token = || scheme(Granularity::Token);
    let fixed = || Scheme::fixed(DType::F8E4M3FN, Apply::Divide);
    assert!(says(Scheme { element: DType::F32, ..token() }).starts_with("element"));
    assert!(says(Scheme { packing: Packing::Nibbles, ..token() }).starts_with("packing"));
    assert!(says(Scheme { encode: Encode::Compare, ..token() }).starts_with("encode"));
    assert!(says(Scheme { zero_point: ZeroPoint::Given, ..token() }).starts_with("zero_point"));
    assert!(says(Scheme { factor: vec![Step::MulGiven], ..token() }).starts_with("given"));
    assert!(says(Scheme { granularity: Granularity::Token, ..fixed() }).starts_with("granularity"));
    assert!(says(Scheme { granularity: Granularity::Channel, ..token() }).starts_with("granularity"));
    assert!(says(Scheme { scale: token().scale, ..fixed() }).starts_with("scale"));
    let tiles = |granularity, dtype| Scheme {
        layout: ScaleLayout::PackedUe8m0,
        scale: Some(ScaleOutput { steps: Vec::new(), dtype }),
        ..scheme(granularity)
    };
    assert!(says(tiles(Granularity::Group(4), DType::F32)).starts_with("layout: tiles are of scales of a byte"));
    assert!(says(tiles(Granularity::Group(4), DType::F8E4M3FN)).starts_with("layout"));
    assert!(says(tiles(Granularity::Token, DType::U8)).starts_with("layout: tiles are of scales of groups"));
    let numbers = |d: Dequantised, s: Scheme| says(Scheme { dequantised: Some(d), ..s });
    let only = Dequantised::only(DType::BF16);
    assert!(
        numbers(Dequantised::only(DType::F64), token()).starts_with("dequantised.dtype: expected f32, f16 or bf16")
    );
    assert!(numbers(only, Scheme { scale: None, ..token() }).starts_with("dequantised: codes meet a computed scale"));
    assert!(numbers(Dequantised { scales: true, ..only }, fixed()).starts_with("dequantised.scales: a given scale"));
    assert!(numbers(only, tiles(Granularity::Group(4), DType::F8E8M0)).starts_with("layout: no scales are handed out"));
    assert!(numbers(only, tiles(Granularity::Group(4), DType::U8)).starts_with("dequantised: expected scales of f32"));
    assert!(
        tiles(Granularity::Group(4), DType::U8)
            .arithmetic()
            .ends_with("four in a word, words column-major, columns aligned to 4")
    );
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
