//! One op, as each opset spells it.

use std::borrow::Borrow;

use normfuse_formats::onnx::proto::{ModelProto, NodeProto, TensorProto, tensor_proto::DataType};
use normfuse_ir::{
    DType, Graph, Op, Tensor, Type,
    op::{BinaryOp, Dialect, ReduceOp, UnaryOp},
};

use crate::build::*;

/// A model of one node; operands other than `x` become the initializers given.
fn single(version: i64, n: NodeProto, initializers: Vec<TensorProto>) -> ModelProto {
    let outputs = n.output.iter().filter(|o| !o.is_empty()).map(|o| f32_value(o)).collect();
    let mut g = graph(vec![f32_value("x")], vec![n], outputs);
    g.initializer = initializers;
    let mut m = model(version, g);
    m.opset_import.push(opset("d", 1));
    m
}

/// The op, and that the node is written as it was read (attribute order and explicit defaults aside).
fn same(version: i64, n: impl Borrow<NodeProto>, initializers: Vec<TensorProto>) -> Op {
    let n = n.borrow();
    let m = single(version, n.clone(), initializers);
    let (g, out) = rewrite(&m);
    let written = &out.graph.as_ref().unwrap().node[0];
    assert_eq!(written.op_type, n.op_type);
    assert_eq!(written.input.len(), n.input.len(), "operands of {} at {version}", n.op_type());
    for a in &n.attribute {
        assert!(written.attribute.contains(a), "{} at {version}: {a:?} in {:?}", n.op_type(), written.attribute);
    }
    only_node(&g).op.clone()
}

fn foreign(version: i64, n: impl Borrow<NodeProto>, initializers: Vec<TensorProto>) -> String {
    let n = n.borrow();
    let m = single(version, n.clone(), initializers);
    let (g, out) = rewrite(&m);
    assert_eq!(out.graph.unwrap().node[0], *n, "a foreign node is written as it was");
    reason(&g).to_owned()
}

#[test]
fn axes_as_attribute_and_as_operand() {
    let mean = |n| match n {
        Op::Reduce { op: ReduceOp::Mean, axes, keepdims } => (axes, keepdims),
        op => panic!("{}", op.name()),
    };
    let old = with(node("ReduceMean", &["x"], &["y"]), [ints("axes", &[-1]), int("keepdims", 0)]);
    assert_eq!(mean(same(17, &old, vec![])), (Some(vec![-1]), false));
    assert!(foreign(18, old, vec![]).contains("attribute `axes` is not known at opset 18"));
    let new = with(node("ReduceMean", &["x", "a"], &["y"]), [int("keepdims", 1)]);
    assert_eq!(mean(same(18, &new, vec![i64s("a", &[1, 0])])), (Some(vec![1, 0]), true));
    assert!(foreign(17, new, vec![i64s("a", &[1])]).contains("2 operands"));
    assert_eq!(mean(same(18, node("ReduceMean", &["x"], &["y"]), vec![])), (None, true));
    let sum = node("ReduceSum", &["x", "a"], &["y"]);
    assert!(matches!(same(13, &sum, vec![i64s("a", &[0])]), Op::Reduce { op: ReduceOp::Sum, .. }));
    // No axes and `noop_with_empty_axes`: nothing is reduced.
    let noop = with(node("ReduceMax", &["x"], &["y"]), [int("noop_with_empty_axes", 1)]);
    let (g, _) = rewrite(&single(20, noop, vec![]));
    assert_eq!(only_node(&g).op, Op::Unary(UnaryOp::Identity));
    for (version, n) in [
        (11, with(node("Squeeze", &["x"], &["y"]), [ints("axes", &[0])])),
        (12, with(node("Unsqueeze", &["x"], &["y"]), [ints("axes", &[0, 2])])),
    ] {
        same(version, n, vec![]);
    }
    same(13, node("Squeeze", &["x", "a"], &["y"]), vec![i64s("a", &[0])]);
    same(23, node("Unsqueeze", &["x", "a"], &["y"]), vec![i64s("a", &[0, 2])]);
    assert_eq!(same(13, node("Squeeze", &["x"], &["y"]), vec![]), Op::Squeeze { axes: None });
}

#[test]
fn computed_axes_stay_foreign() {
    let mut m = single(20, node("ReduceSum", &["x", "a"], &["y"]), vec![]);
    m.graph.as_mut().unwrap().input.push(value("a", DataType::Int64, "1"));
    let (g, _) = rewrite(&m);
    assert!(reason(&g).contains("not constant"));
}

#[test]
fn helper_constants_are_shared() {
    let nodes = vec![
        node("ReduceMean", &["x", "a"], &["t"]),
        node("ReduceMax", &["t", "b"], &["u"]),
        node("Unsqueeze", &["u", "c"], &["y"]),
    ];
    let mut m = chain(20, nodes);
    m.graph.as_mut().unwrap().initializer = vec![i64s("a", &[-1]), i64s("b", &[-1]), i64s("c", &[0])];
    let (_, out) = rewrite(&m);
    let g = out.graph.unwrap();
    let names: Vec<&str> = g.initializer.iter().map(normfuse_formats::onnx::proto::TensorProto::name).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn split_in_three_spellings() {
    let sizes = |op: Op| assert!(matches!(op, Op::Split { axis: 1, outputs: 2 }));
    let n = |inputs: &[&str]| with(node("Split", inputs, &["y", "z"]), [int("axis", 1)]);
    sizes(same(11, with(n(&["x"]), [ints("split", &[1, 3])]), vec![]));
    sizes(same(13, n(&["x", "s"]), vec![i64s("s", &[1, 3])]));
    sizes(same(13, n(&["x"]), vec![]));
    sizes(same(18, with(n(&["x"]), [int("num_outputs", 2)]), vec![]));
    let m = single(11, with(n(&["x"]), [ints("split", &[1, 3])]), vec![]);
    let g = read(&m).unwrap();
    let s = g.value(only_node(&g).inputs[1].unwrap()).as_const().unwrap();
    assert_eq!(s.bytes(), [1i64, 3].map(i64::to_le_bytes).concat());
}

#[test]
fn softmax_before_13_flattens() {
    let n = |axis| with(node("Softmax", &["x"], &["y"]), [int("axis", axis)]);
    assert_eq!(same(13, n(0), vec![]), Op::Softmax { axis: 0, log: false });
    assert_eq!(same(11, n(-1), vec![]), Op::Softmax { axis: -1, log: false });
    // Axis 1 of a matrix is the last one, also by default.
    let (g, _) = rewrite(&single(11, node("Softmax", &["x"], &["y"]), vec![]));
    assert_eq!(only_node(&g).op, Op::Softmax { axis: -1, log: false });
    assert!(foreign(11, n(0), vec![]).contains("several axes"));
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4])));
    let id = g.add_node("s", Op::Softmax { axis: 0, log: false }, &[Some(x)], ["y"]).unwrap();
    g.add_output("y", g.node(id).outputs[0]);
    assert!(write_at(&g, 12).contains("opset 13"), "{}", write_at(&g, 12));
}

/// Writes at an opset; the error, or nothing.
fn write_at(g: &Graph, version: i64) -> String {
    let mut g = g.clone();
    g.info.opsets.insert(String::new(), version);
    *g.declared_mut().next().unwrap() = Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4]));
    Disk::new().write(&g).map_or_else(|e| e.to_string(), |_| String::new())
}

#[test]
fn casts_and_their_attributes() {
    let n = |to: DataType, more: Vec<_>| with(with(node("Cast", &["x"], &["y"]), [int("to", to as i64)]), more);
    let cast = |op| match op {
        Op::Cast { to, saturate } => (to, saturate),
        op => panic!("{}", op.name()),
    };
    assert_eq!(cast(same(13, n(DataType::Float16, vec![]), vec![])), (DType::F16, true));
    assert_eq!(cast(same(19, n(DataType::Float8e4m3fn, vec![]), vec![])), (DType::F8E4M3FN, true));
    let exact = n(DataType::Float8e4m3fn, vec![int("saturate", 0)]);
    assert_eq!(cast(same(19, &exact, vec![])), (DType::F8E4M3FN, false));
    assert!(foreign(18, exact, vec![]).contains("`saturate`"));
    // Where it means nothing there is one form.
    let (g, _) = rewrite(&single(19, n(DataType::Float, vec![int("saturate", 0)]), vec![]));
    assert_eq!(only_node(&g).op, Op::Cast { to: DType::F32, saturate: true });
    assert!(foreign(21, n(DataType::Int4, vec![]), vec![]).contains("a cast to INT4"));
    let down = n(DataType::Float8e8m0, vec![string("round_mode", "down")]);
    assert!(foreign(24, down, vec![]).contains("round up"));
    let (g, _) = rewrite(&single(24, n(DataType::Float8e8m0, vec![string("round_mode", "up")]), vec![]));
    assert!(matches!(only_node(&g).op, Op::Cast { to: DType::F8E8M0, saturate: true }));
    let nearest = n(DataType::Float8e8m0, vec![int("saturate", 0), string("round_mode", "nearest")]);
    assert_eq!(cast(same(24, nearest, vec![])), (DType::F8E8M0, false));
    let up = n(DataType::Float8e8m0, vec![int("saturate", 0)]);
    assert!(foreign(24, up, vec![]).contains("does not saturate and rounds `up`"));
    let like = node("CastLike", &["x", "k"], &["y"]);
    let (g, out) = rewrite(&single(20, like, vec![i64s("k", &[1])]));
    assert!(matches!(only_node(&g).op, Op::Cast { to: DType::I64, .. }));
    assert_eq!(out.graph.unwrap().node[0].op_type(), "Cast");
}

#[test]
fn several_operands_become_pairs() {
    for (name, op) in [("Max", BinaryOp::Max), ("Min", BinaryOp::Min), ("Sum", BinaryOp::Add)] {
        let g = read(&single(20, node(name, &["x", "x", "x"], &["y"]), vec![])).unwrap();
        assert!(g.nodes().all(|(_, n)| n.op == Op::Binary(op)) && g.node_count() == 2);
        let last = g.producer(g.outputs()[0].value).unwrap().0;
        assert!(g.producer(g.node(last).inputs[0].unwrap()).is_some(), "from the left");
        let g = read(&single(20, node(name, &["x"], &["y"]), vec![])).unwrap();
        assert_eq!(only_node(&g).op, Op::Unary(UnaryOp::Identity));
        rewrite(&single(20, node(name, &["x", "x"], &["y"]), vec![]));
    }
    assert!(foreign(20, node("Mean", &["x", "x"], &["y"]), vec![]).contains("mean"));
}

#[test]
fn dropout_in_inference_is_a_copy() {
    let read_op = |version, n, init| read(&single(version, n, init)).map(|g| only_node(&g).op.name()).unwrap();
    let off = TensorProto { data_type: Some(DataType::Bool as i32), int32_data: vec![0], ..f32s("m", &[], &[]) };
    let on = TensorProto { int32_data: vec![1], ..off.clone() };
    assert_eq!(read_op(11, with(node("Dropout", &["x"], &["y"]), [float("ratio", 0.5)]), vec![]), "identity");
    assert_eq!(read_op(13, node("Dropout", &["x", "", "m"], &["y"]), vec![off]), "identity");
    assert_eq!(read_op(13, node("Dropout", &["x", "", "m"], &["y"]), vec![on]), "Dropout");
    assert_eq!(read_op(13, node("Dropout", &["x"], &["y", "mask"]), vec![]), "Dropout");
    let mut m = chain(13, vec![node("Dropout", &["x"], &["y", "mask"])]);
    m.graph.as_mut().unwrap().output.truncate(1);
    assert_eq!(only_node(&read(&m).unwrap()).op.name(), "identity", "a mask that nobody reads");
}

fn quantize(axis: i64, block_size: u64, to: DType, saturate: bool, precision: Option<DType>) -> Op {
    Op::QuantizeLinear { axis, block_size, to, saturate, precision, dialect: Dialect::Onnx }
}

#[test]
fn quantisers() {
    let zero = |ty: DataType| TensorProto { data_type: Some(ty as i32), int32_data: vec![0], ..f32s("z", &[], &[]) };
    let s = || f32s("s", &[], &[0.5]);
    let q = |inputs: &[&str]| node("QuantizeLinear", inputs, &["y"]);
    let op = same(13, with(q(&["x", "s", "z"]), [int("axis", 0)]), vec![s(), zero(DataType::Int8)]);
    assert_eq!(op, quantize(0, 0, DType::I8, true, None));
    let op = same(19, with(q(&["x", "s", "z"]), [int("saturate", 0)]), vec![s(), zero(DataType::Float8e4m3fn)]);
    assert_eq!(op, quantize(1, 0, DType::F8E4M3FN, false, None));
    let op = same(21, with(q(&["x", "s"]), [int("output_dtype", 17), int("block_size", 2)]), vec![s()]);
    assert_eq!(op, quantize(1, 2, DType::F8E4M3FN, true, None));
    let op = same(10 + 1, q(&["x", "s"]), vec![s()]);
    assert_eq!(op, quantize(1, 0, DType::U8, true, None));
    let op = same(23, with(q(&["x", "s"]), [int("precision", 10)]), vec![s()]);
    assert_eq!(op, quantize(1, 0, DType::U8, true, Some(DType::F16)));
    assert!(foreign(23, with(q(&["x", "s"]), [int("precision", 7)]), vec![s()]).contains("precision is i64"));
    assert!(foreign(22, with(q(&["x", "s"]), [int("precision", 1)]), vec![s()]).contains("`precision`"));
    assert!(foreign(21, with(q(&["x", "s"]), [int("output_dtype", 22)]), vec![s()]).contains("INT4"));
    let whole = TensorProto { data_type: Some(DataType::Int32 as i32), int32_data: vec![2], ..f32s("s", &[], &[]) };
    assert!(foreign(23, q(&["x", "s"]), vec![whole]).contains("a scale of i32"));
    assert!(foreign(17, with(q(&["x", "s"]), [int("block_size", 2)]), vec![s()]).contains("`block_size`"));
    let d = |attrs: Vec<_>| with(node("DequantizeLinear", &["x", "s"], &["y"]), attrs);
    let dequantize = |axis, to| Op::DequantizeLinear { axis, block_size: 0, to, dialect: Dialect::Onnx };
    assert_eq!(same(13, d(vec![int("axis", 0)]), vec![s()]), dequantize(0, None));
    assert_eq!(same(23, d(vec![int("output_dtype", 10)]), vec![s()]), dequantize(1, Some(DType::F16)));
    let (g, _) = rewrite(&single(23, d(vec![int("output_dtype", 1)]), vec![s()]));
    assert_eq!(only_node(&g).op, dequantize(1, None), "the scale's own type needs no saying");
}

#[test]
fn norms_and_attention() {
    let w = || f32s("w", &[4], &[1.0; 4]);
    let n = with(node("RMSNormalization", &["x", "w"], &["y"]), [float("epsilon", 1e-6), int("stash_type", 1)]);
    assert!(matches!(same(23, &n, vec![w()]), Op::RmsNorm { axis: -1, stash: DType::F32, .. }));
    assert!(foreign(22, n, vec![w()]).contains("needs opset 23"));
    let n = |outs: &[&str]| node("LayerNormalization", &["x", "w"], outs);
    assert!(matches!(same(17, n(&["y"]), vec![w()]), Op::LayerNorm { .. }));
    assert!(foreign(17, n(&["y", "mean"]), vec![w()]).contains("result 1 is used"));
    let n = |attrs: Vec<_>| with(node("Attention", &["x", "x", "x"], &["y"]), attrs);
    let op = same(23, n(vec![float("scale", 0.5), int("is_causal", 1), int("q_num_heads", 2)]), vec![]);
    assert!(matches!(op, Op::Attention(a) if a.is_causal && a.q_num_heads == Some(2) && a.outputs == 1));
    assert!(foreign(23, n(vec![int("left_window_size", 3)]), vec![]).contains("left_window_size"));
    assert!(foreign(25, n(vec![int("left_window_size", 3)]), vec![]).contains("sliding window"));
    let seven = node("Attention", &["x", "x", "x", "", "", "", "x"], &["y"]);
    assert!(foreign(24, seven, vec![]).contains("7 operands"));
    // Results in the middle that are left out stay left out.
    same(23, node("Attention", &["x", "x", "x"], &["y", "", "", "qk"]), vec![]);
}

#[test]
fn a_norm_of_two_types_is_read_as_torch_meant_it() {
    let mut g = graph(
        vec![value("x", DataType::Bfloat16, "2 4")],
        vec![node("RMSNormalization", &["x", "w"], &["y"])],
        vec![value("y", DataType::Float, "2 4")],
    );
    g.initializer = vec![f32s("w", &[4], &[1.0; 4])];
    let (g, _) = rewrite(&model(23, g));
    assert_eq!(ops(&g), ["cast", "rms_norm"]);
    let cast = g.nodes().find(|(_, n)| n.op.name() == "cast").unwrap().1;
    assert_eq!(cast.op, Op::Cast { to: DType::F32, saturate: true });
    assert_eq!(g.value(cast.inputs[0].unwrap()).name, "x");
    assert!(g.info.notes[0].contains("bf16 with a scale of f32"), "{:?}", g.info.notes);
}

#[test]
fn types_that_the_file_does_not_declare_are_inferred_where_a_spelling_needs_them() {
    // `t` is not declared: its rank says that axis 1 is the last one, its dtype what the zero point's is.
    let m = chain(11, vec![node("Neg", &["x"], &["t"]), node("Softmax", &["t"], &["y"])]);
    assert_eq!(ops(&read(&m).unwrap()), ["neg", "softmax"]);
    let z = TensorProto { data_type: Some(DataType::Int8 as i32), int32_data: vec![1], ..f32s("z", &[], &[]) };
    let mut m = chain(13, vec![node("Neg", &["z"], &["t"]), node("QuantizeLinear", &["x", "s", "t"], &["y"])]);
    m.graph.as_mut().unwrap().initializer = vec![z, f32s("s", &[], &[0.5])];
    let g = read(&m).unwrap();
    assert!(g.nodes().any(|(_, n)| matches!(n.op, Op::QuantizeLinear { to: DType::I8, .. })));
}

#[test]
fn other_spellings_that_depend_on_the_opset() {
    assert_eq!(
        same(20, with(node("Gelu", &["x"], &["y"]), [string("approximate", "tanh")]), vec![]),
        Op::Unary(UnaryOp::GeluTanh)
    );
    assert!(foreign(19, node("Gelu", &["x"], &["y"]), vec![]).contains("opset 20"));
    assert_eq!(same(24, node("Swish", &["x"], &["y"]), vec![]), Op::Unary(UnaryOp::Silu));
    assert!(
        foreign(20, with(node("Pad", &["x", "p"], &["y"]), [string("mode", "edge")]), vec![i64s("p", &[0; 4])])
            .contains("edge")
    );
    assert_eq!(
        same(20, with(node("Pad", &["x", "p"], &["y"]), [string("mode", "constant")]), vec![i64s("p", &[0; 4])]),
        Op::Pad
    );
    assert!(foreign(14, with(node("Shape", &["x"], &["y"]), [int("start", 1)]), vec![]).contains("`start`"));
    assert_eq!(
        same(15, with(node("Shape", &["x"], &["y"]), [int("start", 1), int("end", -1)]), vec![]),
        Op::Shape { start: 1, end: Some(-1) }
    );
    assert!(foreign(20, with(node("IsInf", &["x"], &["y"]), [int("detect_positive", 0)]), vec![]).contains("one sign"));
    assert_eq!(same(13, with(node("Mod", &["x", "x"], &["y"]), [int("fmod", 1)]), vec![]), Op::Binary(BinaryOp::Fmod));
    assert_eq!(
        same(11, with(node("BitShift", &["x", "x"], &["y"]), [string("direction", "RIGHT")]), vec![]),
        Op::Binary(BinaryOp::ShiftRight)
    );
    assert!(matches!(
        same(12, with(node("ArgMax", &["x"], &["y"]), [int("select_last_index", 1)]), vec![]),
        Op::ArgReduce { select_last: true, .. }
    ));
    let scatter = |r: &str| with(node("ScatterND", &["x", "i", "x"], &["y"]), [string("reduction", r)]);
    same(16, scatter("add"), vec![i64s("i", &[0])]);
    same(18, scatter("max"), vec![i64s("i", &[0])]);
    assert!(foreign(13, scatter("add"), vec![i64s("i", &[0])]).contains("`reduction`"));
    let fill = with(node("ConstantOfShape", &["s"], &["y"]), [tensor_attr("value", i64s("", &[7]))]);
    let op = read(&single(20, fill, vec![i64s("s", &[2])])).map(|g| only_node(&g).op.clone()).unwrap();
    assert_eq!(op, Op::ConstantOfShape { dtype: DType::I64, value: 7i64.to_le_bytes().to_vec() });
    assert!(foreign(20, node("Range", &["x", "x", "x", "x"], &["y"]), vec![]).contains("4 operands"));
    assert!(foreign(20, node("Det", &["x"], &["y"]), vec![]).contains("unknown op"));
    assert!(foreign(20, in_domain("d", node("Add", &["x", "x"], &["y"])), vec![]).contains("operator set"));
}

#[test]
fn what_an_opset_cannot_say_is_an_error() {
    let unary = |op: Op| {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4])));
        let id = g.add_node("n", op, &[Some(x)], ["y"]).unwrap();
        g.add_output("y", g.node(id).outputs[0]);
        g
    };
    for (op, version, message) in [
        (Op::Unary(UnaryOp::Gelu), 17, "opset 20"),
        (Op::Unary(UnaryOp::Exp2), 14, "an opset of 15 or later for `Exp2`"),
        (Op::Cast { to: DType::F8E5M2, saturate: false }, 18, "opset 19"),
        (Op::Reshape { allow_zero: true }, 13, "operands"),
    ] {
        if op.arity().0 == 1 {
            let e = write_at(&unary(op), version);
            assert!(e.contains("node `n`") && e.contains(message), "{e}");
        }
    }
    assert_eq!(write_at(&unary(Op::Unary(UnaryOp::Gelu)), 20), "");
    assert!(write_at(&unary(Op::Unary(UnaryOp::Neg)), 29).contains("opset from 11 to 28"));
    let mut g = unary(Op::Unary(UnaryOp::Neg));
    let e = Disk::new().write(&g).unwrap_err().to_string();
    assert!(e.contains("element type") && e.contains("run shape inference"), "{e}");
    // Without opsets: the newest.
    *g.declared_mut().next().unwrap() = Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4]));
    let m = Disk::new().write(&g).unwrap();
    assert_eq!((m.opset_import[0].version(), m.ir_version()), (28, 14));
}

#[test]
fn ops_that_onnx_lacks_are_functions_of_our_own() {
    for (op, name) in [(UnaryOp::Rsqrt, "Rsqrt"), (UnaryOp::Exp2, "Exp2"), (UnaryOp::Log2, "Log2")] {
        let ty = Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4]));
        let mut g = Graph::new("g");
        let x = g.add_input("x", ty.clone());
        let id = g.add_node("n", Op::Unary(op), &[Some(x)], ["y"]).unwrap();
        g.add_output("y", g.node(id).outputs[0]);
        *g.declared_mut().next().unwrap() = ty;
        let m = Disk::new().write(&g).unwrap();
        assert_eq!((m.functions[0].domain(), m.functions[0].name()), ("normfuse", name));
        assert_eq!(m.graph.as_ref().unwrap().node[0].domain(), "normfuse");
        // Read back, it is the op and not what other runtimes execute in its place.
        assert_eq!(only_node(&read(&m).unwrap()).op, Op::Unary(op));
        rewrite(&m);
    }
}

#[test]
fn writing_twice_gives_the_same_bytes() {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4])));
    let mut last = x;
    for i in 0..20 {
        let c = g.add_const(format!("c{i}"), Tensor::from_f32(&[], &[i as f32]));
        let id =
            g.add_node(format!("n{i}"), Op::Binary(BinaryOp::Add), &[Some(last), Some(c)], [format!("t{i}")]).unwrap();
        last = g.node(id).outputs[0];
    }
    g.add_output("y", last);
    *g.declared_mut().next().unwrap() = Type::tensor(DType::F32, normfuse_ir::Shape::from_concrete(&[2, 4]));
    let bytes = |disk: &Disk| {
        disk.write(&g).unwrap();
        std::fs::read(disk.path("out.onnx")).unwrap()
    };
    assert_eq!(bytes(&Disk::new()), bytes(&Disk::new()));
}

#[test]
fn element_types_need_their_opsets() {
    for (dtype, first, version) in [
        (DType::F8E4M3FN, 19, 9),
        (DType::F8E4M3FNUZ, 19, 9),
        (DType::F8E5M2, 19, 9),
        (DType::F8E5M2FNUZ, 19, 9),
        (DType::F4E2M1, 23, 11),
        (DType::F8E8M0, 24, 12),
    ] {
        let graph = |opset: i64| {
            let mut g = Graph::new("g");
            let ty = |d| Type::tensor(d, normfuse_ir::Shape::from_concrete(&[2]));
            let x = g.add_input("x", ty(DType::F32));
            let mut cast = |from, to, name: &str| {
                let node = g.add_node(name, Op::Cast { to, saturate: true }, &[Some(from)], [name]).unwrap();
                let made = g.node(node).outputs[0];
                *g.type_mut(made) = ty(to);
                made
            };
            let q = cast(x, dtype, "q");
            let y = cast(q, DType::F32, "y");
            g.add_output("codes", q);
            g.add_output("y", y);
            g.info.opsets.insert(String::new(), opset);
            g
        };
        let disk = Disk::new();
        let written = disk.write(&graph(first)).unwrap();
        assert_eq!(written.ir_version(), version, "{dtype}");
        let e = disk.write(&graph(first - 1)).unwrap_err().to_string();
        for said in ["node `q`".to_owned(), format!("opset {first}, the first that has tensors of {dtype}")] {
            assert!(e.contains(&said), "{e}");
        }
        // A file that is of an older version than its types is of theirs when it is written.
        let mut g = graph(first);
        g.info.fields.insert("onnx.ir_version".into(), "7".into());
        assert_eq!(disk.write(&g).unwrap().ir_version(), version, "{dtype}");
    }
}
