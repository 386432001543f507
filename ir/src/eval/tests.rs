//! Tests of ops that other files do not test beside themselves.

mod fused;
mod fuzz;
mod gated;
mod norms;
mod quant;
mod scaled;

use std::sync::Arc;

use super::{
    numbers::{Numbers, floats, from_doubles, from_floats, from_ints},
    *,
};
use crate::{
    Graph, Type,
    fused::Root,
    op::{AttentionOp, BinaryOp, CastBack, ForeignOp, ReduceOp, ScatterReduction, UnaryOp},
    scheme::F32,
};

pub(super) fn f(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_f32(shape, v)
}

fn narrow(dtype: DType, v: &[f32]) -> Tensor {
    from_floats(dtype, &[v.len()], v).unwrap()
}

fn int(dtype: DType, v: &[i128]) -> Tensor {
    from_ints(dtype, &[v.len()], v).unwrap()
}

/// The bits of 16-bit elements.
fn u16s(t: &Tensor) -> Vec<u16> {
    t.bytes().as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
}

fn int_values(t: &Tensor) -> Vec<i128> {
    match Numbers::of(t) {
        Numbers::Int(v) => v,
        _ => panic!("integers"),
    }
}

fn bits(t: &Tensor) -> Vec<u32> {
    floats(t).unwrap().iter().map(|v| v.to_bits()).collect()
}

pub(super) fn eval(op: &Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    eval_node(op, &inputs)
}

#[test]
fn sixteen_bit_ops_round_once() {
    for dtype in [DType::F16, DType::BF16] {
        let (a, b) = (narrow(dtype, &[1.0, 3.0, 0.1]), narrow(dtype, &[1e-4, 0.3, 0.7]));
        let (x, y) = (floats(&a).unwrap(), floats(&b).unwrap());
        let got = floats(&binary(BinaryOp::Div, &a, &b).unwrap()).unwrap();
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| crate::num::round_to(dtype, x / y)).collect();
        assert_eq!(got, want);
        let got = floats(&unary(UnaryOp::Exp, &a).unwrap()).unwrap();
        assert_eq!(got, x.iter().map(|&v| crate::num::round_to(dtype, crate::num::exp(v))).collect::<Vec<_>>());
    }
    // The sum of squares in bf16 is taken in f32: 256 ones would stop at 256 + 1 = 256 if each step were rounded.
    let ones = narrow(DType::BF16, &[1.0; 300]);
    assert_eq!(floats(&reduce(ReduceOp::Sum, &ones, None, false).unwrap()).unwrap(), [300.0]);
    assert_eq!(floats(&reduce(ReduceOp::Mean, &ones, None, false).unwrap()).unwrap(), [1.0]);
}

#[test]
fn integers_wrap_and_refuse_to_divide_by_zero() {
    let (a, b) = (int(DType::I8, &[127, -128, 100]), int(DType::I8, &[1, -1, 3]));
    assert_eq!(int_values(&binary(BinaryOp::Add, &a, &b).unwrap()), [-128, 127, 103]);
    assert_eq!(int_values(&binary(BinaryOp::Mul, &a, &b).unwrap()), [127, -128, 44]);
    assert_eq!(int_values(&binary(BinaryOp::Div, &a, &b).unwrap()), [127, -128, 33]);
    assert_eq!(int_values(&unary(UnaryOp::Neg, &a).unwrap()), [-127, -128, -100]);
    let zero = int(DType::I8, &[0]);
    assert_eq!(binary(BinaryOp::Div, &a, &zero).unwrap_err().kind, ErrorKind::Value);
    let (m, n) = (int(DType::I32, &[-7, 7, -7]), int(DType::I32, &[3, -3, -3]));
    assert_eq!(int_values(&binary(BinaryOp::Mod, &m, &n).unwrap()), [2, -2, -1]);
    assert_eq!(int_values(&binary(BinaryOp::Fmod, &m, &n).unwrap()), [-1, 1, -1]);
    let (x, s) = (int(DType::U8, &[255, 1, 1]), int(DType::U8, &[4, 7, 200]));
    assert_eq!(int_values(&binary(BinaryOp::ShiftLeft, &x, &s).unwrap()), [240, 128, 0]);
    assert_eq!(int_values(&binary(BinaryOp::ShiftRight, &int(DType::I8, &[-5]), &int(DType::I8, &[9])).unwrap()), [-1]);
    assert_eq!(
        int_values(&binary(BinaryOp::Pow, &int(DType::I32, &[2, 3, -1]), &int(DType::I64, &[31, -1, -3])).unwrap()),
        [i128::from(i32::MIN), 0, -1]
    );
}

#[test]
fn dtypes_must_agree() {
    let (a, b) = (f(&[1], &[1.0]), narrow(DType::F16, &[1.0]));
    assert_eq!(binary(BinaryOp::Add, &a, &b).unwrap_err().kind, ErrorKind::DType);
    assert_eq!(floats(&binary(BinaryOp::Pow, &b, &Tensor::from_i64(&[], &[2])).unwrap()).unwrap(), [1.0]);
    assert_eq!(unary(UnaryOp::Not, &a).unwrap_err().kind, ErrorKind::DType);
    let fp8 = cast(&a, DType::F8E4M3FN, true).unwrap();
    assert_eq!(binary(BinaryOp::Add, &fp8, &fp8).unwrap_err().kind, ErrorKind::DType, "no arithmetic on fp8");
}

#[test]
fn nan_and_zeros_in_extremes() {
    let x = f(&[4], &[f32::NAN, -0.0, 5.0, -5.0]);
    let got = clip(&x, Some(&f(&[], &[0.0])), Some(&f(&[1], &[1.0]))).unwrap();
    assert!(floats(&got).unwrap()[0].is_nan());
    assert_eq!(bits(&got)[1..], [0.0f32, 1.0, 0.0].map(f32::to_bits), "max(-0, +0) is +0");
    assert!(clip(&x, Some(&x), None).is_err());
    let max = reduce(ReduceOp::Max, &f(&[2, 2], &[f32::NAN, 1.0, -0.0, 0.0]), Some(&[1]), false).unwrap();
    assert!(floats(&max).unwrap()[0].is_nan());
    assert_eq!(bits(&max)[1], 0);
    assert_eq!(floats(&reduce(ReduceOp::Max, &f(&[0], &[]), None, true).unwrap()).unwrap(), [f32::NEG_INFINITY]);
    let index = arg_reduce(&f(&[4], &[1.0, f32::NAN, 9.0, f32::NAN]), true, 0, false, false).unwrap();
    assert_eq!(int_values(&index), [1]);
    assert_eq!(int_values(&arg_reduce(&f(&[3], &[2.0, 1.0, 1.0]), false, -1, true, true).unwrap()), [2]);
}

#[test]
fn reductions_over_inner_axes_use_the_tree() {
    let v: Vec<f32> = (0..3 * 20 * 2).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1.1).collect();
    let x = f(&[3, 20, 2], &v);
    let got = floats(&reduce(ReduceOp::SumSquare, &x, Some(&[-2]), true).unwrap()).unwrap();
    for (o, got) in got.iter().enumerate() {
        let row: Vec<f32> = (0..20).map(|i| v[o / 2 * 40 + i * 2 + o % 2]).collect();
        assert_eq!(*got, crate::num::row_sum_squares(&row));
    }
    let all = reduce(ReduceOp::Sum, &x, None, false).unwrap();
    assert_eq!((all.shape(), floats(&all).unwrap()[0]), (&[][..], crate::num::row_sum(&v)));
    assert_eq!(reduce(ReduceOp::Sum, &x, Some(&[0, 2]), true).unwrap().shape(), [1, 20, 1]);
    assert!(reduce(ReduceOp::Sum, &x, Some(&[3]), true).is_err());
    assert_eq!(int_values(&reduce(ReduceOp::Mean, &int(DType::I8, &[-128, -127]), None, false).unwrap()), [-127]);
}

#[test]
fn softmax_follows_its_definition() {
    let v = [0.5, -1.0, 3.0, 2.0, f32::NEG_INFINITY];
    let e: Vec<f32> = v.iter().map(|x| crate::num::exp(x - 3.0)).collect();
    let sum = crate::num::row_sum(&e);
    let got = softmax(&f(&[1, 5], &v), -1, false).unwrap();
    assert_eq!(floats(&got).unwrap(), e.iter().map(|e| e / sum).collect::<Vec<_>>());
    let log = floats(&softmax(&f(&[5, 1], &v), 0, true).unwrap()).unwrap();
    assert_eq!(log[2], 0.0 - crate::num::log(sum));
    assert!(softmax(&Tensor::from_i64(&[1], &[1]), 0, false).is_err());
}

/// How RMSNormalization divides and casts.
const ONNX: (Root, CastBack) = (Root::DivideBySqrt, CastBack::BeforeScale);

#[test]
fn norms_round_where_onnx_says() {
    let v = [1.0, 2.0, -3.0, 0.5];
    let x = narrow(DType::BF16, &v);
    let w = narrow(DType::BF16, &[0.3, 0.7, 1.1, 1.3]);
    let root = (crate::num::row_sum_squares(&v) / 4.0 + 1e-6).sqrt();
    let scale = floats(&w).unwrap();
    let r = |v| crate::num::round_to(DType::BF16, v);
    let want: Vec<f32> = v.iter().zip(&scale).map(|(v, w)| r(r(v / root) * w)).collect();
    assert_eq!(floats(&rms_norm(&x, &w, -1, 1e-6, DType::F32, ONNX).unwrap()).unwrap(), want);
    // A scale of a wider type decides the result's.
    let y = rms_norm(&x, &f(&[4], &scale), -1, 1e-6, DType::F32, ONNX).unwrap();
    let want: Vec<f32> = v.iter().zip(&scale).map(|(v, w)| r(v / root) * w).collect();
    assert_eq!((y.dtype(), floats(&y).unwrap()), (DType::F32, want));
    assert!(rms_norm(&x, &f(&[3], &[1.0; 3]), -1, 1e-6, DType::F32, ONNX).is_err());
    let y = layer_norm(&f(&[2], &[1.0, 3.0]), &f(&[2], &[2.0, 2.0]), Some(&f(&[2], &[0.0, 1.0])), 0, 0.0, DType::F32);
    assert_eq!(floats(&y.unwrap()).unwrap(), [-2.0, 3.0]);
}

#[test]
fn products() {
    let (a, b) = (f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), f(&[3, 1], &[1.0, 0.0, -1.0]));
    let y = matmul(&a, &b).unwrap();
    assert_eq!((y.shape(), floats(&y).unwrap()), (&[2, 1][..], vec![-2.0, -2.0]));
    assert_eq!(matmul(&a, &f(&[3], &[1.0; 3])).unwrap().shape(), [2]);
    assert_eq!(matmul(&f(&[3], &[1.0; 3]), &f(&[3], &[1.0; 3])).unwrap().shape(), [0usize; 0]);
    assert_eq!(matmul(&f(&[5, 1, 2, 3], &[1.0; 30]), &f(&[4, 3, 2], &[1.0; 24])).unwrap().shape(), [5, 4, 2, 2]);
    assert!(matmul(&a, &a).is_err() && matmul(&f(&[], &[1.0]), &a).is_err());
    let bt = f(&[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let y = gemm(&a, &bt, Some(&f(&[2], &[10.0, 20.0])), (2.0, 0.5), (false, true)).unwrap();
    assert_eq!(floats(&y).unwrap(), [7.0, 14.0, 13.0, 20.0]);
    let i8s = |shape: &[usize], v: &[u8]| Tensor::from_bytes(DType::U8, shape.to_vec(), v.to_vec()).unwrap();
    let y = matmul_integer(&i8s(&[2, 2], &[1, 2, 3, 4]), &i8s(&[2, 1], &[1, 1]), Some(&i8s(&[2], &[1, 2])), None);
    assert_eq!(int_values(&y.unwrap()), [1, 3]);
    // bf16 products are accumulated in f32 and rounded once.
    let y = matmul(
        &from_floats(DType::BF16, &[1, 300], &[1.0; 300]).unwrap(),
        &from_floats(DType::BF16, &[300, 1], &[1.0; 300]).unwrap(),
    );
    assert_eq!(floats(&y.unwrap()).unwrap(), [300.0]);
}

fn attention_op() -> AttentionOp {
    AttentionOp {
        is_causal: false,
        scale: Some(F32::new(1.0)),
        softcap: F32::new(0.0),
        q_num_heads: None,
        kv_num_heads: None,
        qk_matmul_output_mode: 0,
        softmax_dtype: None,
        outputs: 1,
    }
}

#[test]
fn attention_masks_and_grouped_heads() {
    let q = f(&[1, 2, 2, 1], &[0.0; 4]);
    let k = f(&[1, 1, 2, 1], &[1.0, 2.0]);
    let v = f(&[1, 1, 2, 1], &[10.0, 20.0]);
    let run = |op: AttentionOp, mask: Option<&Tensor>| {
        floats(&attention(&op, &[Some(&q), Some(&k), Some(&v), mask]).unwrap()[0]).unwrap()
    };
    assert_eq!(run(attention_op(), None), [15.0; 4], "both query heads read the one key head");
    assert_eq!(run(AttentionOp { is_causal: true, ..attention_op() }, None), [10.0, 15.0, 10.0, 15.0]);
    let mask = Tensor::from_bytes(DType::Bool, vec![2, 2], vec![0, 1, 0, 0]).unwrap();
    assert_eq!(run(attention_op(), Some(&mask)), [20.0, 0.0, 20.0, 0.0], "a row that sees nothing is zero");
    let added = f(&[2, 2], &[0.0, f32::NEG_INFINITY, 0.0, 0.0]);
    assert_eq!(run(attention_op(), Some(&added)), [10.0, 15.0, 10.0, 15.0]);
    let past = f(&[1, 1, 1, 1], &[0.0]);
    let op = AttentionOp { is_causal: true, outputs: 3, ..attention_op() };
    let y = attention(&op, &[Some(&q), Some(&k), Some(&v), None, Some(&past), Some(&past)]).unwrap();
    assert_eq!(y[1].shape(), [1, 1, 3, 1]);
    assert_eq!(floats(&y[0]).unwrap()[..2], [5.0, 10.0], "the past is visible to the first query");
    let three = AttentionOp { q_num_heads: Some(2), kv_num_heads: Some(1), ..attention_op() };
    let (q3, kv3) = (f(&[1, 2, 2], &[0.0; 4]), f(&[1, 2, 1], &[10.0, 20.0]));
    let y = attention(&three, &[Some(&q3), Some(&kv3), Some(&kv3)]).unwrap();
    assert_eq!((y[0].shape(), floats(&y[0]).unwrap()), (&[1, 2, 2][..], vec![15.0; 4]));
    assert!(attention(&attention_op(), &[Some(&q3), Some(&kv3), Some(&kv3)]).is_err(), "3-D needs head counts");
    assert!(attention(&attention_op(), &[Some(&q), Some(&k), Some(&v), None, Some(&past)]).is_err());
}

#[test]
fn sorting_and_running_sums() {
    let x = f(&[5], &[1.0, 3.0, 3.0, f32::NAN, 2.0]);
    let [v, i] = top_k(&x, &Tensor::from_i64(&[1], &[3]), -1, true).unwrap();
    assert_eq!((int_values(&i), floats(&v).unwrap()[1..].to_vec()), (vec![3, 1, 2], vec![3.0, 3.0]));
    let [_, i] = top_k(&x, &Tensor::from_i64(&[1], &[2]), 0, false).unwrap();
    assert_eq!(int_values(&i), [0, 4]);
    assert!(top_k(&x, &Tensor::from_i64(&[1], &[6]), 0, false).is_err());
    let axis = Tensor::from_i64(&[], &[0]);
    let sums = |e, r| floats(&cum_sum(&f(&[3], &[1.0, 2.0, 4.0]), &axis, e, r).unwrap()).unwrap();
    assert_eq!(sums(false, false), [1.0, 3.0, 7.0]);
    assert_eq!(sums(true, false), [0.0, 1.0, 3.0]);
    assert_eq!(sums(true, true), [6.0, 4.0, 0.0]);
}

#[test]
fn scatters_combine_in_order() {
    let x = int(DType::I8, &[100, 1]);
    let idx = Tensor::from_i64(&[2], &[0, 0]);
    let u = int(DType::I8, &[100, 3]);
    let add = scatter_elements(&x, &idx, &u, 0, ScatterReduction::Add).unwrap();
    assert_eq!(int_values(&add), [-53, 1]);
    assert_eq!(int_values(&scatter_elements(&x, &idx, &u, 0, ScatterReduction::None).unwrap()), [3, 1]);
    let y = scatter_nd(
        &f(&[2, 2], &[1.0; 4]),
        &Tensor::from_i64(&[1, 1], &[1]),
        &f(&[1, 2], &[5.0, f32::NAN]),
        ScatterReduction::Max,
    );
    let y = floats(&y.unwrap()).unwrap();
    assert_eq!(y[..3], [1.0, 1.0, 5.0]);
    assert!(y[3].is_nan());
}

#[test]
fn makers() {
    let t = |v: i64| Tensor::from_i64(&[], &[v]);
    let range_of = |a, b, d| range(&t(a), &t(b), &t(d)).map(|t| int_values(&t));
    assert_eq!(range_of(0, 7, 3).unwrap(), [0, 3, 6]);
    assert_eq!(range_of(5, 0, -2).unwrap(), [5, 3, 1]);
    assert_eq!(range_of(5, 0, 2).unwrap(), [0i128; 0]);
    assert_eq!(range_of(0, 6, 3).unwrap(), [0, 3]);
    assert!(range_of(0, 1, 0).is_err() && range_of(i64::MIN, i64::MAX, 1).is_err());
    let r = range(&f(&[], &[0.0]), &f(&[], &[1.0]), &f(&[], &[0.3])).unwrap();
    assert_eq!(floats(&r).unwrap(), [0.0, 0.3, 0.6, 3.0 * 0.3]);
    let nz = non_zero(&f(&[2, 2], &[0.0, 1.0, f32::NAN, -0.0])).unwrap();
    assert_eq!((nz.shape(), int_values(&nz)), (&[2, 2][..], vec![0, 1, 1, 0]));
    let shape = eval(&Op::Shape { start: -2, end: Some(9) }, &[&f(&[3, 1, 2], &[0.0; 6])]).unwrap();
    assert_eq!(int_values(&shape[0]), [1, 2]);
    let hot = one_hot(&Tensor::from_i64(&[2], &[1, -1]), &f(&[1], &[3.0]), &f(&[2], &[0.0, 1.0]), -1).unwrap();
    assert_eq!(floats(&hot).unwrap(), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn f64_tensors_stay_f64() {
    let x = from_doubles(&[2], &[0.1, 2.0]).unwrap();
    let Numbers::F64(v) = Numbers::of(&unary(UnaryOp::Exp, &x).unwrap()) else { panic!("f64") };
    assert!((v[1] / 2f64.exp() - 1.0).abs() < 1e-14);
    let Numbers::F64(v) = Numbers::of(&binary(BinaryOp::Pow, &x, &f(&[], &[2.0])).unwrap()) else { panic!("f64") };
    assert_eq!(v, [0.1 * 0.1, 4.0]);
}

#[test]
fn graphs_run_in_order_and_name_the_node_that_fails() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, vec!["n".into(), 2.into()]));
    let y = g.add_input("y", Type::tensor(DType::F32, vec!["n".into(), 2.into()]));
    let c = g.add_const("c", f(&[], &[2.0]));
    let a = g.add_node("a", Op::Binary(BinaryOp::Mul), &[Some(x), Some(c)], ["av"]).unwrap();
    let av = g.node(a).outputs[0];
    let b = g.add_node("b", Op::Binary(BinaryOp::Sub), &[Some(av), Some(y)], ["bv"]).unwrap();
    let bv = g.node(b).outputs[0];
    for (name, v) in [("b", bv), ("a", av), ("x", x), ("c", c)] {
        g.add_output(name, v);
    }
    let (xs, ys) = (f(&[1, 2], &[1.0, 2.0]), f(&[1, 2], &[0.5, 0.5]));
    let out = run(&g, &[xs.clone(), ys]).unwrap();
    let out: Vec<Vec<f32>> = out.iter().map(|t| floats(t).unwrap()).collect();
    assert_eq!(out, [vec![1.5, 3.5], vec![2.0, 4.0], vec![1.0, 2.0], vec![2.0]]);
    assert_eq!(run(&g, std::slice::from_ref(&xs)).unwrap_err().kind, ErrorKind::Structure);
    let e = run(&g, &[xs.clone(), f(&[3, 2], &[0.0; 6])]).unwrap_err();
    assert_eq!((e.kind, e.port.as_deref()), (ErrorKind::Shape, Some("input `y`")), "n is one size");
    assert!(
        run(&g, &[xs.clone(), f(&[1, 3], &[0.0; 3])]).is_err() && run(&g, &[xs.clone(), int(DType::I8, &[1])]).is_err()
    );
    let foreign = ForeignOp {
        domain: "trt".into(),
        op_type: "Quantize".into(),
        overload: String::new(),
        encoding: "onnx".into(),
        attributes: Vec::new(),
        captures: 0,
        outputs: 1,
        reason: "unknown domain".into(),
    };
    let z = g.add_node("z", Op::Foreign(Arc::new(foreign)), &[Some(bv)], ["zv"]).unwrap();
    g.add_output("z", g.node(z).outputs[0]);
    let e = run(&g, &[xs.clone(), xs]).unwrap_err();
    assert_eq!((e.kind, e.node.as_deref()), (ErrorKind::Unsupported, Some("z")));
    assert!(e.message.contains("trt::Quantize") && e.message.contains("unknown domain"));
}
