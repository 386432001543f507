//! Products of codes and scales against the plain ops that they stand for.

use crate::{
    DType, Op, Tensor,
    body::{
        bits_equal,
        hostile::{Rng, Row, rows},
    },
    eval::{binary, cast, eval_node, matmul, movement},
    op::BinaryOp,
    scaled::{ScalePer, ScaledMatMul},
};

const CODES: [DType; 2] = [DType::F8E4M3FN, DType::F8E5M2];

fn codes(dtype: DType, shape: &[usize], rng: &mut Rng) -> Tensor {
    let kinds = [Row::Bell, Row::SignedZeros, Row::Bell];
    cast(&rows(DType::F32, shape, &kinds, rng).unwrap(), dtype, true).unwrap()
}

fn scales(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::from_f32(shape, &(0..count).map(|i| 0.01 + i as f32 * 0.037).collect::<Vec<_>>())
}

fn wide(t: &Tensor) -> Tensor {
    cast(t, DType::F32, true).unwrap()
}

fn times(a: &Tensor, b: &Tensor) -> Tensor {
    binary(BinaryOp::Mul, a, b).unwrap()
}

/// Columns `[from, to)` of the last axis.
fn columns(t: &Tensor, from: usize, to: usize) -> Tensor {
    movement::slice(t, &[from as i64], &[to as i64], Some(&[-1]), None).unwrap()
}

fn turned(t: &Tensor) -> Tensor {
    movement::transpose(t, None).unwrap()
}

fn run(product: ScaledMatMul, operands: &[&Tensor]) -> Tensor {
    let inputs: Vec<Option<&Tensor>> = operands.iter().copied().map(Some).collect();
    eval_node(&Op::ScaledMatMul(product), &inputs).unwrap().remove(0)
}

fn same(found: &Tensor, want: &Tensor) {
    assert_eq!((found.dtype(), found.shape()), (want.dtype(), want.shape()));
    assert_eq!(bits_equal(found, want), None);
}

#[test]
fn whole_rows_are_a_product_and_two_factors() {
    let mut rng = Rng::new(1);
    for (a_dtype, b_dtype) in [(CODES[0], CODES[0]), (CODES[1], CODES[0])] {
        let (a, b) = (codes(a_dtype, &[2, 3, 20], &mut rng), codes(b_dtype, &[5, 20], &mut rng));
        let bias = scales(&[5]);
        for (a_per, a_shape) in [(ScalePer::Tensor, vec![1, 1]), (ScalePer::Row, vec![2, 3, 1])] {
            for (b_per, b_shape) in [(ScalePer::Tensor, vec![]), (ScalePer::Row, vec![5, 1])] {
                let (x, y) = (scales(&a_shape), scales(&b_shape));
                let product = matmul(&wide(&a), &turned(&wide(&b))).unwrap();
                let row = if b_per == ScalePer::Row { turned(&y) } else { y.clone() };
                let scaled = times(&times(&product, &x), &row);
                for to in [DType::F32, DType::BF16, DType::F16] {
                    let op = ScaledMatMul { a: a_per, b: b_per, to };
                    same(&run(op, &[&a, &b, &x, &y]), &cast(&scaled, to, true).unwrap());
                    let added = binary(BinaryOp::Add, &scaled, &bias).unwrap();
                    same(&run(op, &[&a, &b, &x, &y, &bias]), &cast(&added, to, true).unwrap());
                }
            }
        }
    }
}

#[test]
fn groups_are_products_that_are_added_in_order() {
    let mut rng = Rng::new(2);
    // The last group is cut off, and so is the last block of rows.
    let (m, n, k, g, r) = (3, 5, 20, 8, 2);
    let (a, b) = (codes(CODES[0], &[m, k], &mut rng), codes(CODES[0], &[n, k], &mut rng));
    for (b_per, b_rows) in [(ScalePer::Block(1, g), 1), (ScalePer::Block(r, g), r as usize), (ScalePer::Row, 1)] {
        let groups = k.div_ceil(g as usize);
        let across = if b_per == ScalePer::Row { 1 } else { groups };
        let (x, y) = (scales(&[m, groups]), scales(&[n.div_ceil(b_rows), across]));
        let row_of = Tensor::from_i64(&[n], &(0..n).map(|j| (j / b_rows) as i64).collect::<Vec<_>>());
        let by_row = movement::gather(&y, &row_of, 0).unwrap();
        let parts: Vec<Tensor> = (0..groups)
            .map(|i| {
                let (from, to) = (i * g as usize, ((i + 1) * g as usize).min(k));
                let part = matmul(&wide(&columns(&a, from, to)), &turned(&wide(&columns(&b, from, to)))).unwrap();
                let at = i.min(across - 1);
                times(&times(&part, &columns(&x, i, i + 1)), &turned(&columns(&by_row, at, at + 1)))
            })
            .collect();
        let (first, rest) = parts.split_first().unwrap();
        let want = rest.iter().fold(first.clone(), |sum, part| binary(BinaryOp::Add, &sum, part).unwrap());
        let op = ScaledMatMul { a: ScalePer::Block(1, g), b: b_per, to: DType::F32 };
        same(&run(op, &[&a, &b, &x, &y]), &want);
    }
}

#[test]
fn sums_of_nothing_are_zero() {
    let mut rng = Rng::new(3);
    let (a, b) = (codes(CODES[0], &[2, 0], &mut rng), codes(CODES[0], &[3, 0], &mut rng));
    let op = ScaledMatMul { a: ScalePer::Tensor, b: ScalePer::Tensor, to: DType::F32 };
    same(&run(op, &[&a, &b, &scales(&[]), &scales(&[1])]), &Tensor::from_f32(&[2, 3], &[0.0; 6]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut rng = Rng::new(4);
    let (a, b) = (codes(CODES[0], &[2, 8], &mut rng), codes(CODES[0], &[3, 8], &mut rng));
    let (one, f) = (scales(&[1]), DType::F32);
    let refused = |op: ScaledMatMul, operands: [&Tensor; 4], why: &str| {
        let said = eval_node(&Op::ScaledMatMul(op), &operands.map(Some)).unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    };
    let whole = ScaledMatMul { a: ScalePer::Tensor, b: ScalePer::Tensor, to: f };
    refused(whole, [&a, &codes(CODES[0], &[3, 7], &mut rng), &one, &one], "do not multiply");
    refused(whole, [&a, &scales(&[3, 8]), &one, &one], "expected f8e4m3fn or f8e5m2, found f32");
    refused(whole, [&a, &b, &scales(&[2, 1]), &one], "expected scales of [1, 1], found [2, 1]");
    refused(ScaledMatMul { a: ScalePer::Row, ..whole }, [&a, &b, &one, &one], "expected scales of [2, 1], found [1]");
    let blocks = ScaledMatMul { a: ScalePer::Block(1, 4), b: ScalePer::Block(2, 8), to: f };
    refused(blocks, [&a, &b, &scales(&[2, 2]), &scales(&[2, 1])], "expected blocks of 4 columns");
    let tall = ScaledMatMul { a: ScalePer::Block(2, 4), ..whole };
    refused(tall, [&a, &b, &scales(&[1, 2]), &one], "expected blocks of 1 row");
    refused(ScaledMatMul { to: DType::I32, ..whole }, [&a, &b, &one, &one], "to: expected f32, f16 or bf16");
}
