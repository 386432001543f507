//! Reductions, softmax and the unfused norms.

use normfuse_ir::{
    DType, Op, Tensor,
    fused::Root,
    op::{CastBack, ReduceOp},
    scheme::F32,
};

use crate::check::{KINDS, Kind, check, tensor};

const REDUCTIONS: [ReduceOp; 7] =
    [ReduceOp::Mean, ReduceOp::Sum, ReduceOp::SumSquare, ReduceOp::L2, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min];

#[test]
fn reductions_have_the_reference_bits() {
    for op in REDUCTIONS {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::U8, DType::Bool, DType::I64] {
            for (seed, kind) in KINDS.into_iter().enumerate() {
                for shape in [&[5, 1][..], &[3, 8], &[2, 3, 129], &[1, 7, 4, 33], &[], &[0, 3], &[3, 0]] {
                    let x = tensor(dtype, shape, kind, seed as u64);
                    let rank = shape.len() as i64;
                    let mut sets = vec![None, Some(vec![]), Some(vec![0]), Some(vec![-1]), Some(vec![rank - 1, 0])];
                    if rank > 2 {
                        sets.push(Some(vec![1]));
                        sets.push(Some(vec![-1, 1]));
                    }
                    for axes in sets {
                        let keepdims = seed % 2 == 0;
                        check(&Op::Reduce { op, axes, keepdims }, &[Some(&x)]);
                    }
                }
            }
        }
        for n in [1, 7, 8, 9, 255, 256, 257, 1536, 7168] {
            let x = tensor(DType::F32, &[9, n], Kind::Tame, n as u64);
            check(&Op::Reduce { op, axes: Some(vec![-1]), keepdims: true }, &[Some(&x)]);
            let x = tensor(DType::BF16, &[9, n], Kind::Outliers, n as u64);
            check(&Op::Reduce { op, axes: Some(vec![-1]), keepdims: true }, &[Some(&x)]);
        }
    }
}

#[test]
fn softmax_has_the_reference_bits() {
    for log in [false, true] {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32] {
            for (seed, kind) in KINDS.into_iter().enumerate() {
                for shape in [&[1][..], &[4, 18], &[2, 3, 129], &[2, 5, 3, 2], &[0, 3], &[3, 0]] {
                    for axis in [-1, 0, shape.len() as i64 - 1, shape.len() as i64 / 2] {
                        let x = tensor(dtype, shape, kind, seed as u64);
                        check(&Op::Softmax { axis, log }, &[Some(&x)]);
                    }
                }
            }
        }
        // A masked row: all minus infinity but one, and all.
        let mut row = vec![f32::NEG_INFINITY; 10];
        row[2] = 1.0;
        check(&Op::Softmax { axis: -1, log }, &[Some(&Tensor::from_f32(&[2, 5], &row))]);
        check(&Op::Softmax { axis: 5, log }, &[Some(&Tensor::from_f32(&[2, 5], &row))]);
    }
}

/// ONNX's norm, onnxruntime's, and the others that can be said.
const FORMS: [(Root, CastBack); 6] = [
    (Root::DivideBySqrt, CastBack::BeforeScale),
    (Root::ReciprocalSqrt, CastBack::AfterScale),
    (Root::Rsqrt, CastBack::AfterScale),
    (Root::DivideBySqrt, CastBack::AfterScale),
    (Root::ReciprocalSqrt, CastBack::BeforeScale),
    (Root::Rsqrt, CastBack::BeforeScale),
];

fn rms_norm(axis: i64, stash: DType, (root, cast): (Root, CastBack)) -> Op {
    Op::RmsNorm { axis, eps: F32::new(1e-6), stash, root, cast }
}

#[test]
fn rms_norm_has_the_reference_bits() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for scale_dtype in [dtype, DType::F32] {
            for stash in [DType::F32, DType::BF16, DType::F16] {
                for (seed, kind) in KINDS.into_iter().enumerate() {
                    for (shape, axis) in [(&[5, 33][..], -1), (&[2, 3, 4, 8], -1), (&[2, 3, 4, 8], 2), (&[0, 4], -1)] {
                        let x = tensor(dtype, shape, kind, seed as u64);
                        let from = if axis < 0 { shape.len() - 1 } else { axis as usize };
                        let scale = tensor(scale_dtype, &shape[from..], Kind::Tame, 7);
                        for form in FORMS {
                            check(&rms_norm(axis, stash, form), &[Some(&x), Some(&scale)]);
                        }
                    }
                }
            }
        }
    }
    let x = tensor(DType::F32, &[5, 33], Kind::Tame, 1);
    for shape in [&[32][..], &[1], &[5, 33], &[]] {
        for form in FORMS {
            let scale = tensor(DType::F32, shape, Kind::Tame, 2);
            check(&rms_norm(-1, DType::F32, form), &[Some(&x), Some(&scale)]);
        }
    }
}

#[test]
fn skip_rms_norm_has_the_reference_bits() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for (seed, kind) in KINDS.into_iter().enumerate() {
            let op = Op::SkipRmsNorm { eps: F32::new(1e-6) };
            let x = tensor(dtype, &[2, 5, 33], kind, seed as u64);
            let (scale, bias) = (tensor(dtype, &[33], Kind::Tame, 7), tensor(dtype, &[33], Kind::Tame, 8));
            for skip in [&[2, 5, 33][..], &[5, 33], &[2, 5, 32]] {
                let skip = tensor(dtype, skip, kind, 9);
                check(&op, &[Some(&x), Some(&skip), Some(&scale)]);
                check(&op, &[Some(&x), Some(&skip), Some(&scale), Some(&bias)]);
            }
        }
    }
}

#[test]
fn layer_norm_has_the_reference_bits() {
    for dtype in [DType::F32, DType::BF16] {
        let op = Op::LayerNorm { axis: -1, eps: F32::new(1e-5), stash: DType::F32 };
        let x = tensor(dtype, &[5, 33], Kind::Outliers, 1);
        let (scale, bias) = (tensor(dtype, &[33], Kind::Tame, 2), tensor(dtype, &[33], Kind::Tame, 3));
        check(&op, &[Some(&x), Some(&scale)]);
        check(&op, &[Some(&x), Some(&scale), Some(&bias)]);
    }
}
