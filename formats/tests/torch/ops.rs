//! ATen's promotion and roundings, and ops whose meaning is not in their name.

use normfuse_ir::{DType, Op, Tensor, op::BinaryOp};
use serde_json::{Value, json};

use crate::build::*;

/// One call on bf16 `x` (and f32 `f`, if it is named), and what it gives.
fn one(x: &[f32], target: &str, inputs: &[(&str, Value)], dtype: i64) -> Vec<f32> {
    let n = x.len().to_string();
    let p = Program::new(&[("x", BF16, &n)]).then(target, inputs, "y", dtype, &n).output("y");
    floats(&p.run(&[bf16s(&[x.len()], x)])[0])
}

fn bf16(v: f32) -> f32 {
    floats(&bf16s(&[1], &[v]))[0]
}

#[test]
fn a_number_beside_16_bits_comes_in_as_f32() {
    // 0.1 is no bf16: rounding it first would give other products.
    let x: Vec<f32> = (0..128).map(|k| 1.0 + k as f32 / 128.0).collect();
    let y = one(&x, "aten.mul.Tensor", &[("self", t("x")), ("other", float(0.1))], BF16);
    assert_eq!(y, x.iter().map(|x| bf16(x * 0.1)).collect::<Vec<_>>());
    assert_ne!(y, x.iter().map(|x| bf16(x * bf16(0.1))).collect::<Vec<_>>());
    // One that is goes in as it is, without casts around the op.
    let p = Program::new(&[("x", BF16, "1")])
        .then("aten.mul.Tensor", &[("self", t("x")), ("other", float(0.5))], "y", BF16, "1")
        .output("y");
    assert_eq!(p.read().node_count(), 1);
}

#[test]
fn a_tensor_of_rank_0_does_not_widen_and_is_rounded_where_it_is_on_the_same_device() {
    let x: Vec<f32> = (0..128).map(|k| 1.0 + k as f32 / 128.0).collect();
    let p = Program::new(&[("x", BF16, "128"), ("f", F32, "")])
        .then("aten.mul.Tensor", &[("self", t("x")), ("other", t("f"))], "y", BF16, "128")
        .output("y");
    let (rounded, whole): (Vec<f32>, Vec<f32>) = x.iter().map(|x| (bf16(x * bf16(0.1)), bf16(x * 0.1))).unzip();
    assert_ne!(rounded, whole);
    let of = |p: &Program| floats(&p.run(&[bf16s(&[128], &x), f32s(&[], &[0.1])])[0]);
    assert_eq!(of(&p), rounded);
    let mut p = p;
    for name in ["x", "y"] {
        p.graph()["tensor_values"][name] = meta(BF16, "128", "cuda");
    }
    assert_eq!(of(&p), whole, "beside a tensor elsewhere, one on the CPU is a number");
    p.graph()["tensor_values"]["f"] = meta(F32, "", "cuda");
    assert_eq!(of(&p), rounded);
    let p = Program::new(&[("x", BF16, "1"), ("f", F32, "1")])
        .then("aten.mul.Tensor", &[("self", t("x")), ("other", t("f"))], "y", F32, "1")
        .output("y");
    assert_eq!(floats(&p.run(&[bf16s(&[1], &[3.140_625]), f32s(&[1], &[0.1])])[0]), [3.140_625 * 0.1]);
}

#[test]
fn the_logarithm_of_one_more_is_rounded_once() {
    let x = [0.0, -0.0, 1e-30, 1e-10, -3e-9, 1e-4, 0.5, -0.999_999_9, -1.0, -1.5, 3.0, 8191.0, 3e38, f32::INFINITY];
    let n = x.len().to_string();
    let p = Program::new(&[("x", F32, &n)]).then("aten.log1p.default", &[("self", t("x"))], "y", F32, &n).output("y");
    let y = floats(&p.run(&[f32s(&[x.len()], &x)])[0]);
    for (x, y) in x.iter().zip(y) {
        let want = f64::from(*x).ln_1p() as f32;
        assert!(y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()), "{x}: {y} instead of {want}");
    }
    let near = [0.001_953_125, 3.0];
    assert_eq!(
        one(&near, "aten.log1p.default", &[("self", t("x"))], BF16),
        near.map(|x: f32| bf16(f64::from(x).ln_1p() as f32))
    );
}

#[test]
fn a_product_with_one_is_no_op() {
    let times = |dtype: i64, one: Value, result: i64| {
        Program::new(&[("x", dtype, "3")])
            .then("aten.reciprocal.default", &[("self", t("x"))], "r", if dtype == I64 { F32 } else { dtype }, "3")
            .then("aten.mul.Tensor", &[("self", t("r")), ("other", one)], "y", result, "3")
            .output("y")
    };
    let p = times(BF16, float(1.0), BF16);
    assert_eq!(p.read().node_count(), 1);
    assert_eq!(floats(&p.run(&[bf16s(&[3], &[2., -4., 0.5])])[0]), [0.5, -0.25, 2.]);
    assert_eq!(times(F32, int(1), F32).read().node_count(), 1);
    assert_eq!(times(F32, float(2.0), F32).read().node_count(), 2);
    // Of integers it is a cast.
    let p = Program::new(&[("i", I64, "2")])
        .then("aten.mul.Tensor", &[("self", t("i")), ("other", float(1.0))], "y", F32, "2")
        .output("y");
    assert_eq!(floats(&p.run(&[Tensor::from_i64(&[2], &[3, -1])])[0]), [3., -1.]);
}

#[test]
fn integers_divide_as_floats_and_meet_floats_there() {
    let p = Program::new(&[("i", I64, "3")])
        .then("aten.div.Tensor", &[("self", t("i")), ("other", int(2))], "h", F32, "3")
        .then("aten.mul.Tensor", &[("self", t("i")), ("other", float(0.5))], "m", F32, "3")
        .then("aten.eq.Scalar", &[("self", t("i")), ("other", int(2))], "e", BOOL, "3")
        .then("aten.sum.dim_IntList", &[("self", t("e")), ("dim", ints(&[0]))], "s", I64, "")
        .output("h")
        .output("m")
        .output("s");
    let out = p.run(&[Tensor::from_i64(&[3], &[1, 2, -3])]);
    assert_eq!((floats(&out[0]), floats(&out[1])), (vec![0.5, 1., -1.5], vec![0.5, 1., -1.5]));
    assert_eq!(floats(&out[2]), [1.]);
}

#[test]
fn a_comparison_with_a_number_that_16_bits_round_stays_foreign() {
    let p = |v: f64| {
        Program::new(&[("x", BF16, "2")])
            .then("aten.gt.Scalar", &[("self", t("x")), ("other", float(v))], "y", BOOL, "2")
            .output("y")
            .read()
    };
    assert!(p(0.1).nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))));
    assert!(!p(0.25).nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))));
}

#[test]
fn casts_to_fp8_do_not_saturate() {
    let p = Program::new(&[("x", F32, "2")])
        .then("aten.to.dtype", &[("self", t("x")), ("dtype", json!({"as_scalar_type": 29}))], "y", 29, "2")
        .output("y");
    let out = p.run(&[f32s(&[2], &[448., 1000.])]);
    assert_eq!((out[0].dtype(), out[0].bytes()), (DType::F8E4M3FN, &[0x7e, 0x7f][..]));
}

#[test]
fn several_index_tensors_are_looked_up_together() {
    let p = Program::new(&[("x", F32, "2;3"), ("i", I64, "2;1"), ("j", I64, "3")])
        .then("aten.index.Tensor", &[("self", t("x")), ("indices", ts(&["i", "j"]))], "y", F32, "2;3")
        .output("y");
    let x = f32s(&[2, 3], &[0., 1., 2., 10., 11., 12.]);
    let out = p.run(&[x, Tensor::from_i64(&[2, 1], &[1, 0]), Tensor::from_i64(&[3], &[2, 0, -1])]);
    assert_eq!(floats(&out[0]), [12., 10., 12., 2., 0., 2.]);
}

#[test]
fn an_empty_vector_joins_anything() {
    let p = Program::new(&[("e", F32, "0"), ("x", F32, "1;2")])
        .then("aten.cat.default", &[("tensors", ts(&["e", "x"])), ("dim", int(-2))], "y", F32, "1;2")
        .output("y");
    assert_eq!(floats(&p.run(&[f32s(&[0], &[]), f32s(&[1, 2], &[1., 2.])])[0]), [1., 2.]);
}

#[test]
fn differences_repetitions_and_extremes() {
    let p = Program::new(&[("x", F32, "2;2")])
        .then(
            "aten.repeat_interleave.self_int",
            &[("self", t("x")), ("repeats", int(2)), ("dim", int(1))],
            "r",
            F32,
            "2;4",
        )
        .then("aten.diff.default", &[("self", t("r")), ("dim", int(-1)), ("prepend", t("x"))], "d", F32, "2;5")
        .node(call("aten.max.dim", &[("self", t("d")), ("dim", int(1))], &["m", "at"]));
    let mut p = p.output("r").output("d").output("m").output("at");
    p.value("m", F32, "2");
    p.value("at", I64, "2");
    let out = p.run(&[f32s(&[2, 2], &[1., 2., 5., 3.])]);
    assert_eq!(floats(&out[0]), [1., 1., 2., 2., 5., 5., 3., 3.]);
    assert_eq!(floats(&out[1]), [1., -1., 0., 1., 0., -2., 2., 0., -2., 0.]);
    assert_eq!((floats(&out[2]), floats(&out[3])), (vec![1., 2.], vec![0., 1.]));
}

#[test]
fn rms_norm_is_f32_until_its_last_rounding() {
    let p = Program::new(&[("x", BF16, "1;4")])
        .weight("w", BF16, "4", &bf16_bytes(&[1.1, 2., 0.3, 1.]))
        .then(
            "aten.rms_norm.default",
            &[("input", t("x")), ("normalized_shape", ints(&[4])), ("weight", t("p_w")), ("eps", float(1e-5))],
            "y",
            BF16,
            "1;4",
        )
        .output("y");
    let x = [3., -4., 0.1, 1.].map(bf16);
    let r = 1.0 / ((x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3]) / 4.0 + 1e-5f32).sqrt();
    let w = [1.1, 2., 0.3, 1.].map(bf16);
    let want: Vec<f32> = x.iter().zip(w).map(|(x, w)| bf16(x * r * w)).collect();
    assert_eq!(floats(&p.run(&[bf16s(&[1, 4], &x)])[0]), want);
}

#[test]
fn torchao_int8_is_scale_and_codes() {
    let block = ("block_size", ints(&[1, 4]));
    let scale_args = [
        ("input", t("x")),
        ("mapping_type", json!({"as_string": "SYMMETRIC"})),
        block.clone(),
        ("target_dtype", json!({"as_scalar_type": I8})),
        ("quant_min", int(-128)),
        ("quant_max", int(127)),
        ("eps", float(2f64.powi(-23))),
        ("scale_dtype", json!({"as_scalar_type": F32})),
        ("zero_point_dtype", json!({"as_scalar_type": I8})),
        ("keepdim", json!({"as_bool": true})),
    ];
    let codes = [
        ("input", t("x")),
        block,
        ("scale", t("s")),
        ("zero_point", t("zp")),
        ("output_dtype", json!({"as_scalar_type": I8})),
        ("quant_min", int(-128)),
        ("quant_max", int(127)),
    ];
    let mut p = Program::new(&[("x", BF16, "s0;4")])
        .node(call("torchao.choose_qparams_affine.default", &scale_args, &["s", "zp"]))
        .then("torchao.quantize_affine.default", &codes, "q", I8, "s0;4")
        .output("q")
        .output("s");
    p.value("s", F32, "s0;1");
    p.value("zp", I8, "s0;1");
    let x = [3., -4., 0.5, 1.];
    let out = p.run(&[bf16s(&[1, 4], &x)]);
    let scale = bf16(4.0 / 127.5);
    assert_eq!(floats(&out[1]), [scale]);
    let want: Vec<f32> = x.iter().map(|v| (v * (1.0 / scale)).round_ties_even().clamp(-128., 127.)).collect();
    assert_eq!(floats(&out[0]), want);
}

#[test]
fn a_scaled_product_is_rounded_once() {
    let e4m3 = |name: &'static str| (name, 29, "1;2");
    let mut p = Program::new(&[e4m3("a"), ("b", 29, "2;1"), ("sa", F32, "1;1"), ("sb", F32, "")]);
    p.value("y", BF16, "1;1");
    let args = [
        ("self", t("a")),
        ("mat2", t("b")),
        ("scale_a", t("sa")),
        ("scale_b", t("sb")),
        ("out_dtype", json!({"as_scalar_type": BF16})),
    ];
    let p = p.node(call("aten._scaled_mm.default", &args, &["y"])).output("y");
    let code = |shape: &[usize]| Tensor::from_bytes(DType::F8E4M3FN, shape.to_vec(), vec![0x38, 0x40]).unwrap();
    // [1, 2] . [1, 2] = 5
    let out = p.run(&[code(&[1, 2]), code(&[2, 1]), f32s(&[1, 1], &[0.3]), f32s(&[], &[0.7])]);
    assert_eq!(floats(&out[0]), [bf16(5.0 * 0.3 * 0.7)]);
}

#[test]
fn powers_of_small_integers_are_of_64_bits_on_the_way() {
    let p = Program::new(&[("x", I8, "3")])
        .then("aten.pow.Tensor_Scalar", &[("self", t("x")), ("exponent", int(3))], "y", I8, "3")
        .output("y");
    for (_, node) in p.read().nodes().filter(|(_, n)| matches!(n.op, Op::Binary(BinaryOp::Pow))) {
        assert_eq!(p.read().value(node.inputs[0].unwrap()).ty.dtype, Some(DType::I64), "ONNX has no Pow of i8");
    }
    let x = Tensor::from_bytes(DType::I8, vec![3], vec![5, 6, 0xfd]).unwrap();
    assert_eq!(p.run(&[x])[0].bytes(), [125, 216, 229]);
}

#[test]
fn a_bias_is_added_before_the_one_rounding_to_16_bits() {
    let inputs = [("input", t("x")), ("weight", t("w")), ("bias", t("b"))];
    for (dtype, sizes) in [(BF16, "2;1;2"), (F32, "2;1;2"), (BF16, "2")] {
        let out = if sizes == "2" { "1" } else { "2;1;1" };
        let graph = Program::new(&[("x", dtype, sizes), ("w", dtype, "1;2"), ("b", dtype, "1")])
            .then("aten.linear.default", &inputs, "y", dtype, out)
            .output("y")
            .read();
        let once = graph.nodes().any(|(_, n)| matches!(n.op, Op::Gemm { .. }));
        assert_eq!(once, dtype == BF16 && sizes != "2", "{sizes}");
    }
    // 256 + 1 is no bf16: rounded to 256, it would stay that with one more.
    let p = Program::new(&[("x", BF16, "1;2"), ("w", BF16, "1;2"), ("b", BF16, "1")])
        .then("aten.linear.default", &inputs, "y", BF16, "1;1")
        .output("y");
    let out = p.run(&[bf16s(&[1, 2], &[256., 1.]), bf16s(&[1, 2], &[1., 1.]), bf16s(&[1], &[1.])]);
    assert_eq!(floats(&out[0]), [258.]);
}

#[test]
fn a_result_of_another_shape_than_the_program_says_is_an_error_of_its_node() {
    let p = Program::new(&[])
        .then("aten.arange.default", &[("end", float(2.0)), ("dtype", json!({"as_scalar_type": I64}))], "n", I64, "2")
        .then("aten.arange.default", &[("end", int(5)), ("dtype", json!({"as_scalar_type": F32}))], "y", F32, "8")
        .output("y");
    let e = p.refused();
    assert!(e.contains("node `y`") && e.contains("[5]") && e.contains("found [8]"), "{e}");
}

#[test]
fn a_size_that_is_a_result_is_refused_by_its_name() {
    let mut p = Program::new(&[("x", F32, "2")]);
    let spec = json!({"user_output": {"arg": {"as_sym_int": {"as_name": "size"}}}});
    p.json["graph_module"]["signature"]["output_specs"].as_array_mut().unwrap().push(spec);
    let e = p.refused();
    assert!(e.contains("expected results that are tensors, found a computed integer (`size`)"), "{e}");
}
