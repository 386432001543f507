//! What goes in comes out: names, metadata, types, foreign ops, constants.

use normfuse_formats::onnx::proto::{
    GraphProto, NodeProto, SparseTensorProto, TensorAnnotation, TensorProto, TypeProto, ValueInfoProto,
    tensor_proto::DataType, type_proto,
};
use normfuse_ir::{DType, Dim, Op, op::UnaryOp};

use crate::build::*;

fn proto_of(m: &normfuse_formats::onnx::proto::ModelProto) -> &GraphProto {
    m.graph.as_ref().unwrap()
}

#[test]
fn model_fields_and_metadata_stay() {
    let mut n = node("Neg", &["x"], &["t"]);
    n.doc_string = Some("why".into());
    n.metadata_props = vec![entry("namespace", "a.b"), entry("namespace", "twice")];
    let mut m = chain(20, vec![n, node("Mul", &["t", "w"], &["y"])]);
    m.producer_name = Some("exporter".into());
    m.producer_version = Some("1.2".into());
    m.domain = Some("org".into());
    m.model_version = Some(7);
    m.doc_string = Some("a model".into());
    m.metadata_props = vec![entry("k", "v"), entry("a", "b")];
    m.opset_import.push(opset("com.example", 3));
    let g = m.graph.as_mut().unwrap();
    g.doc_string = Some("a graph".into());
    g.metadata_props = vec![entry("gk", "gv")];
    g.initializer = vec![TensorProto { doc_string: Some("weight".into()), ..f32s("w", &[], &[2.0]) }];
    g.value_info = vec![f32_value("t")];
    g.value_info[0].metadata_props = vec![entry("m", "n")];
    g.input[0].doc_string = Some("rows".into());
    g.quantization_annotation = vec![TensorAnnotation {
        tensor_name: Some("t".into()),
        quant_parameter_tensor_names: vec![entry("SCALE_TENSOR", "w")],
    }];
    let (_, out) = rewrite(&m);
    // Only the weight's bytes are spelled another way.
    let w = &mut m.graph.as_mut().unwrap().initializer[0];
    w.float_data.clear();
    w.raw_data = Some(bytes::Bytes::copy_from_slice(&2f32.to_le_bytes()));
    assert_eq!(out, m);
}

#[test]
fn operands_that_are_attributes_inside_keep_their_names() {
    let reduce = |x, axes, y| with(node("ReduceMean", &[x, axes], &[y]), [int("keepdims", 1)]);
    let mut m = chain(20, vec![reduce("x", "the axes", "t"), reduce("t", "same", "u"), reduce("u", "other", "y")]);
    m.graph.as_mut().unwrap().initializer = vec![i64s("the axes", &[-1]), i64s("same", &[-1]), i64s("other", &[0])];
    let (_, out) = rewrite(&m);
    // Equal ones are one.
    let read: Vec<&str> = proto_of(&out).node.iter().map(|n| n.input[1].as_str()).collect();
    assert_eq!(read, ["same", "same", "other"]);
    assert_eq!(proto_of(&out).initializer.len(), 2);
}

#[test]
fn what_axes_mean_stays() {
    let mut m = chain(20, vec![node("Neg", &["x"], &["y"])]);
    let g = m.graph.as_mut().unwrap();
    for v in g.input.iter_mut().chain(&mut g.output) {
        let ty = v.r#type.as_mut().unwrap();
        ty.denotation = Some("TENSOR".into());
        let Some(type_proto::Value::TensorType(t)) = &mut ty.value else { panic!("a tensor") };
        t.shape.as_mut().unwrap().dim[0].denotation = Some("DATA_BATCH".into());
    }
    let (_, out) = rewrite(&m);
    assert_eq!(proto_of(&out), proto_of(&m));
}

#[test]
fn only_what_the_source_declared_is_declared() {
    let nodes = vec![node("Neg", &["x"], &["t"]), node("Abs", &["t"], &["u"]), node("Neg", &["u"], &["y"])];
    let mut m = chain(20, nodes);
    for declared in [vec![], vec![value("t", DataType::Float, "2 4")]] {
        m.graph.as_mut().unwrap().value_info.clone_from(&declared);
        let disk = Disk::new();
        let mut g = disk.read(&m).unwrap();
        normfuse_ir::infer::infer(&mut g).unwrap();
        assert_eq!(proto_of(&disk.write(&g).unwrap()).value_info, declared);
    }
}

#[test]
fn declared_types_stay() {
    let g = graph(
        vec![value("x", DataType::Float16, "batch 4 ? 0")],
        vec![node("Neg", &["x"], &["t"]), node("Abs", &["t"], &["y"])],
        vec![value("y", DataType::Float16, "batch 4 ? s70*s72")],
    );
    let mut m = model(20, g);
    m.graph.as_mut().unwrap().value_info = vec![value("t", DataType::Float16, "batch 2*seq 2 odd-name")];
    let (g, out) = rewrite(&m);
    let ty = &g.value(g.inputs()[0]).ty;
    assert_eq!(ty.dtype, Some(DType::F16));
    let dims = &ty.shape.as_ref().unwrap().0;
    assert_eq!((&dims[0], dims[1].as_const(), dims[3].as_const()), (&Dim::sym("batch"), Some(4), Some(0)));
    assert!(dims[2].has_unknown());
    let product = &g.outputs()[0].declared.shape.as_ref().unwrap().0[3];
    assert_eq!(*product, Dim::sym("s72") * Dim::sym("s70"));
    assert_eq!((&proto_of(&out).input, &proto_of(&out).value_info), (&proto_of(&m).input, &proto_of(&m).value_info));
    assert_eq!(proto_of(&out).output, proto_of(&m).output);
}

#[test]
fn foreign_ops_keep_every_byte() {
    let foreign = NodeProto {
        overload: Some("v2".into()),
        ..with(
            in_domain("trt", node("Magic", &["x", "", "x", ""], &["", "t", ""])),
            [
                int("a", -3),
                floats("f", &[1.5, f32::NAN]),
                string("s", "\u{1F600}"),
                tensor_attr("t", TensorProto { data_type: Some(DataType::Int4 as i32), ..i64s("c", &[1, 2]) }),
            ],
        )
    };
    let mut m = chain(20, vec![foreign.clone(), node("Neg", &["t"], &["y"])]);
    m.opset_import.push(opset("trt", 1));
    let (g, out) = rewrite(&m);
    let Op::Foreign(f) = &g.nodes().next().unwrap().1.op else { panic!("not foreign") };
    assert_eq!((f.domain.as_str(), f.op_type.as_str(), f.captures, f.outputs), ("trt", "Magic", 0, 3));
    let (a, b) = (&proto_of(&out).node[0], &foreign);
    // NaN keeps them from being equal as values.
    assert_eq!(prost::Message::encode_to_vec(a), prost::Message::encode_to_vec(b));
}

fn branches(body: &[NodeProto]) -> NodeProto {
    let make = |name: &str| {
        let mut nodes = body.to_vec();
        nodes.push(node("Identity", &["t"], &[name]));
        graph(vec![], nodes, vec![f32_value(name)])
    };
    with(node("If", &["c"], &["z"]), [graph_attr("then_branch", make("a")), graph_attr("else_branch", make("b"))])
}

fn conditional() -> normfuse_formats::onnx::proto::ModelProto {
    let mut m = chain(20, vec![node("Neg", &["x"], &["t"]), branches(&[]), node("Abs", &["z"], &["y"])]);
    m.graph.as_mut().unwrap().input.push(value("c", DataType::Bool, ""));
    m
}

#[test]
fn subgraphs_capture_by_name() {
    let m = conditional();
    let (g, out) = rewrite(&m);
    let (_, n) = g.nodes().find(|(_, n)| n.op.name() == "If").unwrap();
    assert!(matches!(&n.op, Op::Foreign(f) if f.captures == 1));
    // The value is alive through the branch alone.
    assert_eq!(g.value(n.inputs[1].unwrap()).name, "t");
    assert_eq!(proto_of(&out).node[1], proto_of(&m).node[1]);
}

#[test]
fn what_bodies_hide_is_noted() {
    assert!(rewrite(&conditional()).0.info.notes.is_empty());
    let mean = with(node("ReduceMean", &["t"], &["m"]), []);
    let quantise = || node("QuantizeLinear", &["t", "m"], &["q"]);
    let inner = branches(&[mean, quantise(), quantise()]);
    let mut m = conditional();
    m.graph.as_mut().unwrap().node[1] = inner;
    let notes = rewrite(&m).0.info.notes;
    let expected =
        "node `the If`: nothing is looked for in the bodies of `If`, in which there are 4 QuantizeLinear, 2 ReduceMean";
    assert_eq!(notes, [expected]);
}

#[test]
fn a_captured_value_that_was_replaced_keeps_its_name() {
    let disk = Disk::new();
    let mut g = disk.read(&conditional()).unwrap();
    let (neg, x) = (g.nodes().next().unwrap().0, g.inputs()[0]);
    let old = g.node(neg).outputs[0];
    let new = g.add_node("new", Op::Unary(UnaryOp::Sign), &[Some(x)], ["other"]).unwrap();
    let new = g.node(new).outputs[0];
    g.replace_uses(old, new);
    g.remove_dead([neg]);
    let out = disk.write(&g).unwrap();
    let sign = proto_of(&out).node.iter().find(|n| n.op_type() == "Sign").unwrap();
    assert_eq!(sign.output, ["t"]);
    // And if the caller asks for it under another name too, that is a copy.
    g.add_output("other", new);
    let declared = g.outputs()[0].declared.clone();
    *g.declared_mut().nth(1).unwrap() = declared;
    let out = disk.write(&g).unwrap();
    let nodes = &proto_of(&out).node;
    let sign = nodes.iter().find(|n| n.op_type() == "Sign").unwrap();
    let copy = nodes.iter().find(|n| n.op_type() == "Identity").unwrap();
    assert_eq!((sign.output[0].as_str(), copy.input[0].as_str(), copy.output[0].as_str()), ("other", "other", "t"));
    disk.read(&out).unwrap();
}

#[test]
fn an_undefined_capture_is_an_error() {
    let mut m = conditional();
    m.graph.as_mut().unwrap().node.remove(0);
    let e = refused(&m);
    assert!(e.contains("node `the If`") && e.contains("`t`, which nothing makes"), "{e}");
}

#[test]
fn outputs_keep_their_names_whatever_is_behind_them() {
    let mut m = chain(20, vec![node("Neg", &["x"], &["y"])]);
    let g = m.graph.as_mut().unwrap();
    g.initializer = vec![f32s("w", &[2, 4], &[0.5; 8])];
    g.output.push(f32_value("x"));
    g.output.push(f32_value("w"));
    let disk = Disk::new();
    let mut g = disk.read(&m).unwrap();
    assert_eq!(proto_of(&disk.write(&g).unwrap()).node.len(), 1);
    // The same values under other names: an input, a weight and a result each get a copy.
    let values: Vec<_> = g.outputs().iter().map(|o| o.value).collect();
    for (i, v) in values.into_iter().enumerate() {
        g.add_output(format!("second{i}"), v);
    }
    let ty = g.outputs()[0].declared.clone();
    g.declared_mut().for_each(|d| *d = ty.clone());
    let out = disk.write(&g).unwrap();
    let names: Vec<&str> =
        proto_of(&out).output.iter().map(normfuse_formats::onnx::proto::ValueInfoProto::name).collect();
    assert_eq!(names, ["y", "x", "w", "second0", "second1", "second2"]);
    let made: Vec<(&str, &str)> =
        proto_of(&out).node.iter().map(|n| (n.input[0].as_str(), n.output[0].as_str())).collect();
    assert_eq!(made, [("x", "second1"), ("w", "second2"), ("x", "y"), ("y", "second0")]);
    assert_eq!(proto_of(&out).initializer[0].name(), "w");
}

#[test]
fn inputs_with_initializers_have_defaults() {
    let mut m = chain(20, vec![node("Add", &["x", "w"], &["y"])]);
    let g = m.graph.as_mut().unwrap();
    g.input.push(value("w", DataType::Float, "2 4"));
    g.initializer = vec![f32s("w", &[2, 4], &[1.0; 8])];
    let (g, out) = rewrite(&m);
    let w = g.value(g.inputs()[1]);
    assert_eq!((w.as_const().is_none(), w.stored().unwrap().bytes().len()), (true, 32));
    assert_eq!(proto_of(&out).input, proto_of(&m).input);
    assert_eq!(proto_of(&out).initializer[0].name(), "w");
    // Nothing reads it, and it stays part of the interface.
    m.graph.as_mut().unwrap().node[0] = node("Abs", &["x"], &["y"]);
    let (_, out) = rewrite(&m);
    assert_eq!((proto_of(&out).input.len(), proto_of(&out).initializer.len()), (2, 1));
    // A default that is not of the input's type.
    m.graph.as_mut().unwrap().initializer[0] = i64s("w", &[1]);
    assert!(read(&m).unwrap().verify().unwrap_err().to_string().contains("`w`"));
}

#[test]
fn old_files_list_their_constants_among_the_inputs() {
    let mut m = chain(20, vec![node("Add", &["x", "w"], &["y"])]);
    m.ir_version = Some(3);
    let g = m.graph.as_mut().unwrap();
    g.input.push(f32_value("w"));
    g.initializer = vec![f32s("w", &[2, 4], &[1.0; 8])];
    let (g, out) = rewrite(&m);
    assert_eq!((g.inputs().len(), proto_of(&out).input.len()), (1, 1));
    assert_eq!(out.ir_version, Some(4));
}

#[test]
fn a_default_stays_in_its_data_file() {
    let disk = Disk::new();
    disk.put("w.data", &[7; 32]);
    let mut m = chain(20, vec![node("Add", &["x", "w"], &["y"])]);
    let g = m.graph.as_mut().unwrap();
    g.input.push(value("w", DataType::Float, "4"));
    g.initializer = vec![external("w", DataType::Float, &[4], &[("location", "w.data"), ("offset", "16")])];
    let g = disk.read(&m).unwrap();
    assert!(matches!(g.value(g.inputs()[1]).stored().unwrap().data(), normfuse_ir::Data::External(_)));
    let out = disk.write(&g).unwrap();
    let entries = &proto_of(&out).initializer[0].external_data;
    assert_eq!((entries[0].value(), entries[1].value()), ("w.data", "16"));
}

fn typed(name: &str, value: type_proto::Value) -> ValueInfoProto {
    let ty = TypeProto { denotation: None, value: Some(value) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

/// Strings, sequences, maps, 4-bit integers, complex numbers, sparse tensors: ops over them are foreign, and the ops
/// beside them are not.
#[test]
fn values_that_the_ir_has_no_type_for_pass_through() {
    let floats_of = f32_value("f").r#type.unwrap();
    let sequence = type_proto::Sequence { elem_type: Some(Box::new(floats_of)) };
    let sequence = |name| typed(name, type_proto::Value::SequenceType(Box::new(sequence.clone())));
    let with_type = |ty: DataType, name: &str| TensorProto { data_type: Some(ty as i32), ..f32s(name, &[3], &[]) };
    let four =
        TensorProto { raw_data: Some(bytes::Bytes::from_static(&[0x21, 0x03])), ..with_type(DataType::Int4, "i4") };
    let words = vec![b"a".to_vec(), b"\xff".to_vec(), Vec::new()];
    let words =
        TensorProto { string_data: words, doc_string: Some("words".into()), ..with_type(DataType::String, "w") };
    let complex = TensorProto { float_data: vec![0.5; 6], ..with_type(DataType::Complex64, "c") };
    let sparse = SparseTensorProto {
        values: Some(f32s("sparse", &[1], &[2.0])),
        indices: Some(i64s("", &[1])),
        dims: vec![2, 4],
    };
    let nodes = vec![
        node("StringConcat", &["s", "w"], &["t"]),
        node("Identity", &["t"], &["u"]),
        node("SequenceInsert", &["seq", "x"], &["longer"]),
        node("DequantizeLinear", &["i4", "scale"], &["d"]),
        node("Identity", &["c"], &["cc"]),
        node("Mul", &["x", "sparse"], &["sum"]),
        node("Abs", &["x"], &["y"]),
    ];
    let strings = |name| value(name, DataType::String, "3");
    let mut m = model(20, graph(vec![f32_value("x"), strings("s"), sequence("seq")], nodes, vec![f32_value("y")]));
    let g = m.graph.as_mut().unwrap();
    g.output.extend([strings("u"), sequence("longer"), value("cc", DataType::Complex64, "3"), f32_value("sum")]);
    g.initializer = vec![four, words, complex, f32s("scale", &[], &[])];
    g.initializer[3].raw_data = Some(bytes::Bytes::from_static(&[0; 4]));
    g.sparse_initializer = vec![sparse];
    g.value_info = vec![strings("t"), f32_value("d")];
    let (_, out) = rewrite(&m);
    assert_eq!(proto_of(&out), proto_of(&m));
    let disk = Disk::new();
    let graph = disk.read(&m).unwrap();
    graph.verify().unwrap();
    let foreign: Vec<bool> = graph.nodes().map(|(_, n)| matches!(n.op, Op::Foreign(_))).collect();
    assert_eq!(foreign, [true, true, true, true, true, true, false]);
    // The other forms say all of it.
    for form in [normfuse_ir::text::print(&graph), normfuse_ir::json::print(&graph)] {
        let no_files = &mut |w: &normfuse_ir::text::WeightRef| panic!("{}", w.name);
        let back = match form.strip_prefix('{') {
            Some(_) => normfuse_ir::json::parse(&form, no_files),
            None => normfuse_ir::text::parse(&form, no_files),
        };
        assert_eq!(disk.write(&back.unwrap()).unwrap(), out);
    }
}

#[test]
fn bytes_of_any_type_stay_in_their_data_file() {
    let disk = Disk::new();
    disk.put("w.data", &[7; 32]);
    let mut m = chain(20, vec![node("DequantizeLinear", &["w", "x"], &["y"])]);
    let place = [("location", "w.data"), ("offset", "16"), ("length", "2")];
    m.graph.as_mut().unwrap().initializer = vec![external("w", DataType::Uint4, &[3], &place)];
    let g = disk.read(&m).unwrap();
    assert_eq!(proto_of(&disk.write(&g).unwrap()).initializer, proto_of(&m).initializer);
}

#[test]
fn constants_of_every_spelling() {
    let constant = |a| with(node("Constant", &[], &["c"]), [a]);
    for (a, dtype, shape, bytes) in [
        (tensor_attr("value", f32s("", &[1, 2], &[1.0, 2.0])), DType::F32, vec![1, 2], 8),
        (float("value_float", 3.0), DType::F32, vec![], 4),
        (floats("value_floats", &[3.0, 4.0]), DType::F32, vec![2], 8),
        (int("value_int", -3), DType::I64, vec![], 8),
        (ints("value_ints", &[1, 2, 3]), DType::I64, vec![3], 24),
    ] {
        let mut m = chain(20, vec![constant(a), in_domain("d", node("Use", &["c"], &["y"]))]);
        m.opset_import.push(opset("d", 1));
        let (g, _) = rewrite(&m);
        let c = g.values().find(|(_, v)| v.name == "c").unwrap().1.as_const().unwrap();
        assert_eq!((c.dtype(), c.shape(), c.bytes().len()), (dtype, shape.as_slice(), bytes));
    }
    let (g, _) = rewrite(&chain(20, vec![constant(string("value_string", "s")), node("Use", &["c"], &["y"])]));
    assert!(ops(&g).contains(&"Constant".to_owned()), "strings stay foreign");
}

/// One number in every element type, in the typed field and raw.
#[test]
fn tensors_of_every_type() {
    let t = |ty: DataType| TensorProto { data_type: Some(ty as i32), ..f32s("w", &[1], &[]) };
    let i32s = |ty, v| TensorProto { int32_data: vec![v], ..t(ty) };
    let u64s = |ty, v| TensorProto { uint64_data: vec![v], ..t(ty) };
    let four = TensorProto { dims: vec![3], int32_data: vec![0x21, 0x03], ..t(DataType::Float4e2m1) };
    for (tensor, dtype, bytes) in [
        (TensorProto { float_data: vec![1.5], ..t(DataType::Float) }, DType::F32, 1.5f32.to_le_bytes().to_vec()),
        (TensorProto { double_data: vec![1.5], ..t(DataType::Double) }, DType::F64, 1.5f64.to_le_bytes().to_vec()),
        (i32s(DataType::Float16, 0x3c01), DType::F16, vec![1, 0x3c]),
        (i32s(DataType::Bfloat16, 0xbf80), DType::BF16, vec![0x80, 0xbf]),
        (i32s(DataType::Float8e4m3fn, 0x7e), DType::F8E4M3FN, vec![0x7e]),
        (i32s(DataType::Float8e4m3fnuz, 0x80), DType::F8E4M3FNUZ, vec![0x80]),
        (i32s(DataType::Float8e5m2, 0xff), DType::F8E5M2, vec![0xff]),
        (i32s(DataType::Float8e8m0, 0x7f), DType::F8E8M0, vec![0x7f]),
        (four, DType::F4E2M1, vec![0x21, 0x03]),
        (i32s(DataType::Int8, -2), DType::I8, vec![0xfe]),
        (i32s(DataType::Int16, -2), DType::I16, vec![0xfe, 0xff]),
        (i32s(DataType::Int32, -2), DType::I32, (-2i32).to_le_bytes().to_vec()),
        (TensorProto { int64_data: vec![-2], ..t(DataType::Int64) }, DType::I64, (-2i64).to_le_bytes().to_vec()),
        (i32s(DataType::Uint8, 254), DType::U8, vec![254]),
        (i32s(DataType::Uint16, 0xfffe), DType::U16, vec![0xfe, 0xff]),
        (u64s(DataType::Uint32, 0xffff_fffe), DType::U32, 0xffff_fffe_u32.to_le_bytes().to_vec()),
        (u64s(DataType::Uint64, u64::MAX), DType::U64, vec![0xff; 8]),
        (i32s(DataType::Bool, 1), DType::Bool, vec![1]),
    ] {
        let mut m = chain(20, vec![in_domain("d", node("Use", &["w"], &["y"]))]);
        m.opset_import.push(opset("d", 1));
        m.graph.as_mut().unwrap().initializer = vec![tensor];
        let (g, out) = rewrite(&m);
        let w = g.values().find(|(_, v)| v.name == "w").unwrap().1.as_const().unwrap();
        assert_eq!((w.dtype(), w.bytes()), (dtype, bytes.as_slice()));
        assert_eq!(proto_of(&out).initializer[0].raw_data.as_deref(), Some(bytes.as_slice()), "{dtype}");
    }
}

#[test]
fn unused_weights_stay_and_left_out_results_stay_out() {
    let mut m = chain(
        20,
        vec![
            with(node("TopK", &["x", "k"], &["", "i"]), [int("axis", 1)]),
            with(node("Cast", &["i"], &["y"]), [int("to", 1)]),
        ],
    );
    m.graph.as_mut().unwrap().initializer = vec![i64s("k", &[2]), i64s("unused", &[1])];
    let (g, out) = rewrite(&m);
    assert!(g.values().any(|(_, v)| v.name == "unused"));
    assert_eq!(proto_of(&out).node[0].output, ["", "i"]);
    let names: Vec<&str> = proto_of(&out).initializer.iter().map(TensorProto::name).collect();
    assert_eq!(names, ["k", "unused"]);
}
