//! Attention. Small integers make the scores exact, and a value matrix with one entry a column makes the second
//! product exact too, so that whole results can be compared bit for bit.

use normfuse_ir::{DType, Op, Tensor, op::AttentionOp, scheme::F32};

use crate::check::{Kind, Noise, cast, check, tensor};

fn integers(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut noise = Noise::new(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| noise.below(7) as f32 - 3.0).collect();
    cast(&Tensor::from_f32(shape, &values), dtype)
}

/// Values `[batch, heads, keys, size]` with one entry that is not zero in each column.
fn sparse(dtype: DType, shape: [usize; 4]) -> Tensor {
    let [_, _, keys, size] = shape;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i| {
            let (key, column) = (i / size % keys.max(1), i % size);
            if key == (column * 5 + i / (size * keys.max(1))) % keys { [1.0, -2.0, 0.5][column % 3] } else { 0.0 }
        })
        .collect();
    cast(&Tensor::from_f32(&shape, &values), dtype)
}

fn op(outputs: usize) -> AttentionOp {
    AttentionOp {
        is_causal: false,
        scale: Some(F32::new(0.25)),
        softcap: F32::new(0.0),
        q_num_heads: None,
        kv_num_heads: None,
        qk_matmul_output_mode: 0,
        softmax_dtype: None,
        outputs,
    }
}

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

#[test]
fn heads_masks_and_every_stage() {
    for dtype in FLOATS {
        let q = integers(dtype, &[2, 6, 5, 8], 1);
        let k = integers(dtype, &[2, 2, 9, 8], 2);
        let v = sparse(dtype, [2, 2, 9, 12]);
        let masks = [
            None,
            Some(tensor(DType::Bool, &[5, 9], Kind::Tame, 3)),
            Some(tensor(DType::Bool, &[2, 1, 5, 9], Kind::Tame, 4)),
            Some(tensor(DType::Bool, &[1], Kind::Tame, 4)),
            Some(integers(dtype, &[2, 6, 5, 9], 5)),
            Some(integers(dtype, &[6, 1, 9], 5)),
            Some(integers(dtype, &[5, 4], 5)),
            Some(tensor(DType::Bool, &[5, 12], Kind::Tame, 3)),
        ];
        for mask in &masks {
            for is_causal in [false, true] {
                for softcap in [0.0, 30.0] {
                    for mode in 0..4 {
                        let a =
                            AttentionOp { is_causal, softcap: F32::new(softcap), qk_matmul_output_mode: mode, ..op(4) };
                        check(&Op::Attention(a), &[Some(&q), Some(&k), Some(&v), mask.as_ref()]);
                    }
                }
            }
        }
        let unscaled = AttentionOp { scale: None, ..op(1) };
        check(&Op::Attention(unscaled), &[Some(&q), Some(&k), Some(&v)]);
    }
}

#[test]
fn three_axes_and_the_past() {
    for dtype in FLOATS {
        let q = integers(dtype, &[2, 3, 32], 1);
        let k = integers(dtype, &[2, 3, 16], 2);
        let v = sparse(dtype, [1, 2, 3, 16]).reshaped(vec![2, 3, 16]).unwrap();
        let a = AttentionOp { is_causal: true, q_num_heads: Some(4), kv_num_heads: Some(2), ..op(3) };
        check(&Op::Attention(a.clone()), &[Some(&q), Some(&k), Some(&v)]);
        let past_k = integers(dtype, &[2, 2, 4, 8], 3);
        let past_v = cast(&Tensor::from_f32(&[2, 2, 4, 8], &[0.0; 128]), dtype);
        check(&Op::Attention(a.clone()), &[Some(&q), Some(&k), Some(&v), None, Some(&past_k), Some(&past_v)]);
        check(&Op::Attention(a.clone()), &[Some(&q), Some(&k), Some(&v), None, Some(&past_k)]);
        let headless = AttentionOp { q_num_heads: None, ..a.clone() };
        check(&Op::Attention(headless), &[Some(&q), Some(&k), Some(&v)]);
        let odd = AttentionOp { kv_num_heads: Some(3), ..a };
        check(&Op::Attention(odd), &[Some(&q), Some(&k), Some(&v)]);
    }
}

#[test]
fn rows_that_see_nothing_are_zeros() {
    let q = integers(DType::BF16, &[1, 1, 3, 8], 1);
    let k = integers(DType::BF16, &[1, 1, 4, 8], 2);
    let v = sparse(DType::BF16, [1, 1, 4, 8]);
    let mask = Tensor::from_bytes(DType::Bool, vec![3, 4], vec![0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0]).unwrap();
    for mode in 0..4 {
        let a = AttentionOp { qk_matmul_output_mode: mode, ..op(4) };
        check(&Op::Attention(a), &[Some(&q), Some(&k), Some(&v), Some(&mask)]);
    }
}

#[test]
fn empty_and_ill_fitting_operands() {
    let make = |shape: &[usize]| integers(DType::F32, shape, 1);
    let cases: [[&[usize]; 3]; 8] = [
        [&[0, 2, 3, 4], &[0, 2, 3, 4], &[0, 2, 3, 4]],
        [&[1, 2, 0, 4], &[1, 2, 3, 4], &[1, 2, 3, 4]],
        [&[1, 2, 3, 4], &[1, 2, 0, 4], &[1, 2, 0, 5]],
        [&[1, 2, 3, 0], &[1, 2, 3, 0], &[1, 2, 3, 1]],
        [&[1, 2, 3, 4], &[1, 2, 3, 5], &[1, 2, 3, 5]],
        [&[1, 3, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4]],
        [&[1, 2, 3, 4], &[1, 0, 3, 4], &[1, 0, 3, 4]],
        [&[3, 4], &[3, 4], &[3, 4]],
    ];
    for case in cases {
        let [q, k, v] = case.map(make);
        for is_causal in [false, true] {
            let a = AttentionOp { is_causal, qk_matmul_output_mode: 3, ..op(4) };
            check(&Op::Attention(a), &[Some(&q), Some(&k), Some(&v)]);
        }
    }
    let [q, k, v] = cases[1].map(|_| make(&[1, 2, 3, 4]));
    check(&Op::Attention(op(1)), &[Some(&q), Some(&k), Some(&v), Some(&make(&[2, 3, 3, 3]))]);
    check(&Op::Attention(op(1)), &[Some(&q), Some(&k), Some(&cast(&v, DType::F16))]);
}
