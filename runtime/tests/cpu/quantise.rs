//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear and Quantize.

use std::sync::Arc;

use normfuse_ir::{
    DType, FusedNorm, Granularity, Op, Scheme, Tensor,
    fused::Sibling,
    op::Dialect,
    scheme::{ScaleLayout, ScaleOutput, Step},
};

use crate::{
    check::{KINDS, Kind, Noise, assert_same, cast, check, one_node, run_on, tensor},
    schemes,
};

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const TARGETS: [DType; 9] = [
    DType::I8,
    DType::U8,
    DType::I16,
    DType::U16,
    DType::F8E4M3FN,
    DType::F8E4M3FNUZ,
    DType::F8E5M2,
    DType::F8E5M2FNUZ,
    DType::F4E2M1,
];

/// Positive scales of all sizes.
fn scales(dtype: DType, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| [0.037, 1.0, 0.5, 3.3, 1e-4, 0.007_812_5][i % 6]).collect();
    cast(&Tensor::from_f32(shape, &values), dtype)
}

/// `(shape of x, shape of the scale, axis, block)`, some of which do not fit.
const SCALED: [(&[usize], &[usize], i64, u64); 10] = [
    (&[4, 6, 10], &[], 1, 0),
    (&[4, 6, 10], &[1], -1, 0),
    (&[4, 6, 10], &[10], -1, 0),
    (&[4, 6, 10], &[6], 1, 0),
    (&[4, 6, 10], &[4], 0, 0),
    (&[4, 6, 10], &[4, 6, 2], 2, 5),
    (&[4, 6, 10], &[4, 2, 10], 1, 3),
    (&[4, 6, 10], &[5], 1, 0),
    (&[40, 900], &[900], 1, 0),
    (&[0, 3], &[3], 1, 0),
];

fn quantize(axis: i64, block_size: u64, to: DType, saturate: bool, precision: Option<DType>) -> Op {
    Op::QuantizeLinear { axis, block_size, to, saturate, precision, dialect: Dialect::Onnx }
}

fn dequantize(axis: i64, block_size: u64, to: Option<DType>) -> Op {
    Op::DequantizeLinear { axis, block_size, to, dialect: Dialect::Onnx }
}

#[test]
fn quantize_linear_has_the_reference_bits() {
    for to in TARGETS {
        for (n, (x, s, axis, block_size)) in SCALED.into_iter().enumerate() {
            for x_dtype in [DType::F32, DType::F16, DType::BF16, DType::I32] {
                let kind = KINDS[n % 4];
                let x = tensor(x_dtype, x, kind, n as u64);
                for scale_dtype in FLOATS {
                    let scale = scales(scale_dtype, s);
                    let zero = tensor(to, s, Kind::Bits, 3);
                    let no_zero = Tensor::from_bytes(to, zero.shape().to_vec(), vec![0; zero.bytes().len()]).unwrap();
                    for saturate in [true, false] {
                        let op = |precision| quantize(axis, block_size, to, saturate, precision);
                        check(&op(None), &[Some(&x), Some(&scale)]);
                        check(&op(None), &[Some(&x), Some(&scale), Some(&zero)]);
                        check(&op(None), &[Some(&x), Some(&scale), Some(&no_zero)]);
                        check(&op(Some(x_dtype).filter(|d| d.is_float())), &[Some(&x), Some(&scale)]);
                    }
                }
            }
        }
    }
}

#[test]
fn dequantize_linear_has_the_reference_bits() {
    for from in TARGETS.into_iter().chain([DType::I32]) {
        for (n, (q, s, axis, block_size)) in SCALED.into_iter().enumerate() {
            let q = tensor(from, q, Kind::Bits, n as u64);
            for scale_dtype in FLOATS {
                let scale = scales(scale_dtype, s);
                let zero = tensor(from, s, Kind::Bits, 3);
                let no_zero = Tensor::from_bytes(from, zero.shape().to_vec(), vec![0; zero.bytes().len()]).unwrap();
                let op = |to| dequantize(axis, block_size, to);
                check(&op(None), &[Some(&q), Some(&scale)]);
                check(&op(None), &[Some(&q), Some(&scale), Some(&zero)]);
                check(&op(None), &[Some(&q), Some(&scale), Some(&no_zero)]);
                check(&op(Some(FLOATS[n % 3])), &[Some(&q), Some(&scale)]);
            }
        }
    }
    let (q, scale) = (tensor(DType::I8, &[4], Kind::Bits, 1), scales(DType::F32, &[]));
    let other = tensor(DType::U8, &[], Kind::Bits, 1);
    check(&dequantize(0, 0, None), &[Some(&q), Some(&scale), Some(&other)]);
}

#[test]
fn dynamic_quantize_linear_has_the_reference_bits() {
    for kind in KINDS {
        for shape in [&[7, 33][..], &[], &[0], &[50, 900]] {
            for dtype in [DType::F32, DType::F16] {
                check(&Op::DynamicQuantizeLinear, &[Some(&tensor(dtype, shape, kind, 5))]);
            }
        }
    }
    for values in [[0.0; 4], [-0.0; 4], [1.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, 0.0], [1e-45, 0.0, -1e-45, 0.0]] {
        check(&Op::DynamicQuantizeLinear, &[Some(&Tensor::from_f32(&[4], &values))]);
    }
}

#[test]
fn quantize_has_the_reference_bits() {
    let mut noise = Noise::new(9);
    let schemes = schemes::in_use().into_iter().chain((0..400).map(|_| schemes::random(&mut noise)));
    for (n, scheme) in schemes.enumerate() {
        let op = Op::Quantize(Arc::new(scheme.clone()));
        for (seed, kind) in KINDS.into_iter().enumerate() {
            let dtype = FLOATS[(n + seed) % FLOATS.len()];
            for shape in [&[5, 64][..], &[2, 3, 32], &[0, 32], &[32]] {
                let v = tensor(dtype, shape, kind, seed as u64);
                let given = schemes::operands(&scheme, shape[shape.len() - 1], seed as u64);
                let operands: Vec<Option<&Tensor>> = std::iter::once(&v).chain(&given).map(Some).collect();
                check(&op, &operands);
            }
        }
    }
    let group = schemes::linear(Granularity::Group(16));
    check(&Op::Quantize(Arc::new(group)), &[Some(&tensor(DType::F32, &[2, 15], Kind::Tame, 1))]);
}

/// In tiles scales have bytes of their own: through the op and through both fused kinds, as the evaluator has them.
#[test]
fn scales_in_tiles_have_zeros_between() {
    for layout in ScaleLayout::ALL.into_iter().filter(|l| l.is_tiled()) {
        for (lead, width, group) in [(vec![3], 80, 16), (vec![2, 65], 32, 32), (vec![0], 32, 16), (vec![1], 16 * 9, 16)]
        {
            for dtype in [DType::F8E8M0, DType::U8] {
                let scale = Some(ScaleOutput { steps: vec![Step::Div(448.0.into())], dtype });
                let scheme = Scheme { layout, scale, ..schemes::linear(Granularity::Group(group)) };
                let v = tensor(DType::F32, &[&lead[..], &[width]].concat(), Kind::Tame, 1);
                check(&Op::Quantize(Arc::new(scheme.clone())), &[Some(&v)]);
                let norm = FusedNorm::of(vec![Sibling::undivided(width as u64, DType::F32, vec![scheme])]);
                check(&Op::FusedNorm(Arc::new(norm)), &[Some(&v)]);
            }
        }
    }
}

/// A layout is where scales lie on a device; a tensor of the CPU is row-major under any, with the same elements.
#[test]
fn scales_are_the_same_under_any_layout() {
    let v = tensor(DType::F32, &[3, 32], Kind::Tame, 1);
    for granularity in [Granularity::Token, Granularity::Group(16)] {
        let run = |layout| {
            let op = Op::Quantize(Arc::new(Scheme { layout, ..schemes::linear(granularity) }));
            check(&op, &[Some(&v)]);
            let (graph, inputs) = one_node(&op, &[Some(&v)]).unwrap();
            run_on(1, &graph, &inputs).unwrap()
        };
        let rows = run(ScaleLayout::RowMajor);
        assert_eq!(rows[1].shape(), [3, if granularity == Granularity::Token { 1 } else { 2 }]);
        for layout in [ScaleLayout::ColumnMajor, ScaleLayout::TmaAligned] {
            assert_same(&format!("{layout:?}"), &run(layout), &rows);
        }
    }
}
