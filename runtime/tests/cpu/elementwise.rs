//! Unary, binary, Where, Clip and Cast: every op, every dtype, hostile values, broadcasting shapes.

use normfuse_ir::{
    DType, Op,
    op::{BinaryOp, UnaryOp},
};

use crate::check::{KINDS, Kind, check, tensor};

#[test]
fn unary_ops_have_the_reference_bits() {
    for op in UnaryOp::ALL {
        for dtype in DType::ALL {
            for (seed, kind) in KINDS.into_iter().enumerate() {
                check(&Op::Unary(op), &[Some(&tensor(dtype, &[7, 31], kind, seed as u64))]);
            }
        }
        check(&Op::Unary(op), &[Some(&tensor(DType::F32, &[5, 8191], Kind::Hostile, 9))]);
        check(&Op::Unary(op), &[Some(&tensor(DType::BF16, &[0, 4], Kind::Tame, 9))]);
        check(&Op::Unary(op), &[Some(&tensor(DType::F16, &[], Kind::Hostile, 9))]);
    }
}

#[test]
fn binary_ops_have_the_reference_bits() {
    let shapes: [(&[usize], &[usize]); 5] =
        [(&[3, 17], &[3, 17]), (&[3, 17], &[]), (&[17], &[3, 1]), (&[2, 1, 5], &[4, 1]), (&[0, 3], &[3])];
    for op in BinaryOp::ALL {
        for dtype in DType::ALL {
            for (seed, (a, b)) in shapes.into_iter().enumerate() {
                for kind in [Kind::Hostile, Kind::Bits] {
                    let a = tensor(dtype, a, kind, seed as u64);
                    let b = tensor(dtype, b, kind, seed as u64 + 100);
                    check(&Op::Binary(op), &[Some(&a), Some(&b)]);
                }
            }
        }
        let a = tensor(DType::BF16, &[9, 1, 4099], Kind::Hostile, 5);
        let b = tensor(DType::BF16, &[9, 2, 1], Kind::Hostile, 6);
        check(&Op::Binary(op), &[Some(&a), Some(&b)]);
    }
}

#[test]
fn powers_of_two_kinds() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let x = tensor(dtype, &[6, 40], Kind::Hostile, 1);
        for exponent in [2.0, 0.5, -0.5, 3.0, 0.0, f32::NAN, -1.0] {
            let scalar = crate::check::cast(&normfuse_ir::Tensor::from_f32(&[1], &[exponent]), dtype);
            check(&Op::Binary(BinaryOp::Pow), &[Some(&x), Some(&scalar)]);
        }
        let mixed = tensor(DType::I64, &[], Kind::Tame, 2);
        check(&Op::Binary(BinaryOp::Pow), &[Some(&x), Some(&mixed)]);
    }
}

#[test]
fn operands_must_agree() {
    let (f32s, bf16s) = (tensor(DType::F32, &[4], Kind::Tame, 1), tensor(DType::BF16, &[4], Kind::Tame, 1));
    let five = tensor(DType::F32, &[5], Kind::Tame, 1);
    for op in BinaryOp::ALL {
        check(&Op::Binary(op), &[Some(&f32s), Some(&five)]);
        if op != BinaryOp::Pow {
            check(&Op::Binary(op), &[Some(&f32s), Some(&bf16s)]);
        }
    }
}

#[test]
fn casts_have_the_reference_bits() {
    for from in DType::ALL {
        for to in DType::ALL {
            for saturate in [false, true] {
                for kind in KINDS {
                    check(&Op::Cast { to, saturate }, &[Some(&tensor(from, &[5, 53], kind, 3))]);
                }
            }
        }
    }
}

#[test]
fn every_16_bit_float_converts() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [DType::F16, DType::BF16] {
        let x = normfuse_ir::Tensor::from_bytes(dtype, vec![256, 256], all.clone()).unwrap();
        for to in [DType::F32, DType::F16, DType::BF16, DType::F8E4M3FN, DType::F8E5M2, DType::I8, DType::Bool] {
            for saturate in [false, true] {
                check(&Op::Cast { to, saturate }, &[Some(&x)]);
            }
        }
        check(&Op::Unary(UnaryOp::Neg), &[Some(&x)]);
    }
}

#[test]
fn select_and_clip() {
    for dtype in DType::ALL {
        for (c, a, b) in [(&[4, 1][..], &[9][..], &[4, 9][..]), (&[], &[2, 2], &[]), (&[3, 1, 2], &[4, 2], &[1, 1, 1])]
        {
            let condition = tensor(DType::Bool, c, Kind::Tame, 1);
            let (a, b) = (tensor(dtype, a, Kind::Bits, 2), tensor(dtype, b, Kind::Bits, 3));
            check(&Op::Where, &[Some(&condition), Some(&a), Some(&b)]);
        }
        let x = tensor(dtype, &[11, 13], Kind::Hostile, 4);
        let bounds = tensor(dtype, &[2], Kind::Tame, 5);
        for low in [None, Some(0.0), Some(-0.0), Some(-1.0), Some(5.0)] {
            for high in [None, Some(2.0), Some(0.0), Some(f32::NAN)] {
                let bound =
                    |v: Option<f32>| v.map(|v| crate::check::cast(&normfuse_ir::Tensor::from_f32(&[], &[v]), dtype));
                let (low, high) = (bound(low), bound(high));
                check(&Op::Clip, &[Some(&x), low.as_ref(), high.as_ref()]);
            }
        }
        check(&Op::Clip, &[Some(&x), Some(&bounds)]);
    }
}
