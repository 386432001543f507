//! Products: exact where every sum is exact, near the reference elsewhere, and the same bits on any number of threads.

use normfuse_ir::{DType, Error, Op, Tensor, eval, scheme::F32};

use crate::check::{Kind, Noise, assert_same, cast, check, one_node, run_on, tensor};

/// Small integers: products and sums are exact in f32 in any order, and in bf16 once rounded.
fn integers(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut noise = Noise::new(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| noise.below(7) as f32 - 3.0).collect();
    cast(&Tensor::from_f32(shape, &values), dtype)
}

const SHAPES: [(&[usize], &[usize]); 14] = [
    (&[1, 8], &[8, 1]),
    (&[18, 64], &[64, 300]),
    (&[1, 33], &[33, 513]),
    (&[600, 5], &[5, 3]),
    (&[7], &[7, 5]),
    (&[5, 7], &[7]),
    (&[7], &[7]),
    (&[2, 3, 4, 6], &[2, 3, 6, 5]),
    (&[2, 1, 4, 6], &[3, 6, 5]),
    (&[4, 6], &[2, 3, 6, 5]),
    (&[2, 3, 4, 6], &[1, 1, 6, 2]),
    (&[3, 0], &[0, 4]),
    (&[0, 3], &[3, 4]),
    (&[2, 0, 3], &[2, 3, 4]),
];

#[test]
fn exact_products_have_the_reference_bits() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        for (seed, (a, b)) in SHAPES.into_iter().enumerate() {
            let (a, b) = (integers(dtype, a, seed as u64), integers(dtype, b, seed as u64 + 50));
            check(&Op::MatMul, &[Some(&a), Some(&b)]);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    for (a, b) in [(&[2, 3][..], &[2, 3][..]), (&[], &[3]), (&[2, 3], &[]), (&[2, 4, 3], &[3, 3, 5])] {
        check(&Op::MatMul, &[Some(&integers(DType::F32, a, 1)), Some(&integers(DType::F32, b, 2))]);
    }
    check(&Op::MatMul, &[Some(&integers(DType::F32, &[2, 2], 1)), Some(&integers(DType::F16, &[2, 2], 2))]);
}

/// The largest difference, relative to the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let values = |t: &Tensor| -> Vec<f32> {
        cast(t, DType::F32).bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (a, b) = (values(a), values(b));
    let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(&b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest.max(f32::MIN_POSITIVE)
}

fn run_everywhere(op: &Op, operands: &[Option<&Tensor>]) -> Result<Tensor, Error> {
    let (graph, inputs) = one_node(op, operands)?;
    let results = [1, 2, 4].map(|threads| run_on(threads, &graph, &inputs));
    let [one, two, four] = results;
    let one = one?;
    assert_same("two threads", &two?, &one);
    assert_same("four threads", &four?, &one);
    Ok(one[0].clone())
}

#[test]
fn threads_are_not_seen_and_the_reference_is_near() {
    for (dtype, bound) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3), (DType::F64, 1e-7)] {
        for (a, b) in [(&[18, 256][..], &[256, 700][..]), (&[1, 512], &[512, 300]), (&[2, 4, 40, 33], &[2, 4, 33, 40])]
        {
            let (a, b) = (tensor(dtype, a, Kind::Tame, 1), tensor(dtype, b, Kind::Tame, 2));
            let operands = [Some(&a), Some(&b)];
            let got = run_everywhere(&Op::MatMul, &operands).unwrap();
            let want = eval::eval_node(&Op::MatMul, &operands).unwrap().remove(0);
            let found = distance(&got, &want);
            assert!(found <= bound, "{dtype}: {found}");
        }
    }
}

#[test]
fn nan_and_infinity_get_through() {
    let a = Tensor::from_f32(&[2, 2], &[f32::NAN, 0.0, f32::INFINITY, 1.0]);
    let b = Tensor::from_f32(&[2, 2], &[0.0, 1.0, 1.0, 1.0]);
    check(&Op::MatMul, &[Some(&a), Some(&b)]);
    check(&Op::MatMul, &[Some(&b), Some(&a)]);
}

#[test]
fn gemm_in_all_its_forms() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
            for (alpha, beta) in [(1.0, 1.0), (2.0, 1.0), (1.0, 0.0), (0.5, -2.0)] {
                let op = Op::Gemm { alpha: F32::new(alpha), beta: F32::new(beta), trans_a, trans_b };
                let a = integers(dtype, if trans_a { &[9, 20] } else { &[20, 9] }, 1);
                let b = integers(dtype, if trans_b { &[270, 9] } else { &[9, 270] }, 2);
                check(&op, &[Some(&a), Some(&b)]);
                for c in [&[][..], &[270], &[20, 1], &[20, 270], &[1, 270]] {
                    check(&op, &[Some(&a), Some(&b), Some(&integers(dtype, c, 3))]);
                }
                check(&op, &[Some(&a), Some(&b), Some(&integers(dtype, &[3, 20, 270], 3))]);
                check(&op, &[Some(&a), Some(&integers(dtype, &[4, 4], 1))]);
            }
        }
    }
}

#[test]
fn integer_products_are_exact() {
    for a_dtype in [DType::U8, DType::I8] {
        for b_dtype in [DType::U8, DType::I8] {
            let a = tensor(a_dtype, &[3, 18, 40], Kind::Bits, 1);
            let b = tensor(b_dtype, &[40, 70], Kind::Bits, 2);
            let batched = tensor(b_dtype, &[3, 40, 70], Kind::Bits, 3);
            let zero = |dtype, shape: &[usize]| tensor(dtype, shape, Kind::Bits, 4);
            for b in [&b, &batched] {
                check(&Op::MatMulInteger, &[Some(&a), Some(b)]);
                check(&Op::MatMulInteger, &[Some(&a), Some(b), Some(&zero(a_dtype, &[]))]);
                check(&Op::MatMulInteger, &[Some(&a), Some(b), None, Some(&zero(b_dtype, &[1]))]);
                check(
                    &Op::MatMulInteger,
                    &[Some(&a), Some(b), Some(&zero(a_dtype, &[1])), Some(&zero(b_dtype, &[70]))],
                );
                check(&Op::MatMulInteger, &[Some(&a), Some(b), Some(&zero(a_dtype, &[2]))]);
            }
            let flat = tensor(a_dtype, &[18, 40], Kind::Bits, 1);
            check(&Op::MatMulInteger, &[Some(&flat), Some(&b), Some(&zero(a_dtype, &[18]))]);
        }
    }
}
