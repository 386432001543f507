//! Quantisers and norms that other tools write in domains of their own.

use normfuse_formats::onnx::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType};
use normfuse_ir::{
    DType, Dim, Graph, Op,
    fused::Root,
    op::{CastBack, Dialect},
};

use crate::build::*;

fn trt(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    in_domain("trt", node(&format!("TRT_{op}"), inputs, outputs))
}

fn microsoft(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    in_domain("com.microsoft", node(op, inputs, outputs))
}

/// `x: f32[2, 4]`, `s: f32[]`, and these nodes at an opset that has no FP8.
fn model_of(nodes: Vec<NodeProto>, declared: Vec<ValueInfoProto>, output: ValueInfoProto) -> ModelProto {
    let mut g = graph(vec![f32_value("x")], nodes, vec![output]);
    g.initializer = vec![f32s("s", &[], &[0.5])];
    g.value_info = declared;
    let mut m = model(17, g);
    m.opset_import.extend([opset("trt", 1), opset("com.microsoft", 1)]);
    m
}

fn nodes_of(m: &ModelProto) -> &[NodeProto] {
    &m.graph.as_ref().unwrap().node
}

fn dtype(g: &Graph, name: &str) -> Option<DType> {
    g.values().find(|(_, v)| v.name == name).unwrap().1.ty.dtype
}

#[test]
fn model_opts_fp8_pair_is_a_quantiser_under_other_names() {
    let pair = vec![trt("FP8QuantizeLinear", &["x", "s"], &["q"]), trt("FP8DequantizeLinear", &["q", "s"], &["y"])];
    // The exporter calls the codes u8.
    let m = model_of(pair, vec![value("q", DataType::Uint8, "2 4")], f32_value("y"));
    let (mut g, out) = rewrite(&m);
    assert_eq!(nodes_of(&out), nodes_of(&m));
    assert_eq!(ops(&g), ["quantize_linear", "dequantize_linear"]);
    let quantise = Op::QuantizeLinear {
        axis: 1,
        block_size: 0,
        to: DType::F8E4M3FN,
        saturate: true,
        precision: None,
        dialect: Dialect::TensorRt,
    };
    assert!(g.nodes().any(|(_, n)| n.op == quantise));
    normfuse_ir::infer::infer(&mut g).unwrap();
    assert_eq!((dtype(&g, "q"), dtype(&g, "y")), (Some(DType::F8E4M3FN), Some(DType::F32)));
    // Written with all types known, the codes are still what the exporter calls them.
    let out = Disk::new().write(&g).unwrap();
    let graph = out.graph.unwrap();
    assert_eq!(graph.value_info, [value("q", DataType::Uint8, "2 4")]);
    assert_eq!(out.opset_import.iter().filter(|o| o.domain() == "trt").count(), 1);
}

#[test]
fn codes_that_are_read_as_bytes_stay_bytes() {
    let q = || trt("FP8QuantizeLinear", &["x", "s"], &["q"]);
    let bytes = || vec![value("q", DataType::Uint8, "2 4")];
    let y = value("y", DataType::Uint8, "2 4");
    let m = model_of(vec![q(), node("Identity", &["q"], &["y"])], bytes(), y);
    let (g, out) = rewrite(&m);
    assert_eq!(nodes_of(&out), nodes_of(&m));
    assert_eq!(ops(&g), ["trt::TRT_FP8QuantizeLinear", "identity"]);
    let m = model_of(vec![q()], vec![], value("q", DataType::Uint8, "2 4"));
    assert_eq!(ops(&rewrite(&m).0), ["trt::TRT_FP8QuantizeLinear"], "a result of the graph is read by everybody");
    // Declared as what they are, they may go anywhere.
    let y = value("y", DataType::Float8e4m3fn, "2 4");
    let m = model_of(vec![q(), node("Identity", &["q"], &["y"])], vec![], y);
    assert_eq!(ops(&rewrite(&m).0), ["quantize_linear", "identity"]);
    // Bytes from elsewhere are not known to be FP8.
    let mut m = model_of(vec![trt("FP8DequantizeLinear", &["b", "s"], &["y"])], vec![], f32_value("y"));
    m.graph.as_mut().unwrap().input.push(value("b", DataType::Uint8, "2 4"));
    let (g, _) = rewrite(&m);
    assert!(reason(&g).contains("dequantises u8"), "{}", reason(&g));
}

#[test]
fn onnxruntimes_quantisers_keep_their_domain() {
    let zero = TensorProto { data_type: Some(DataType::Uint16 as i32), int32_data: vec![7], ..f32s("z", &[], &[]) };
    let pair = vec![
        microsoft("QuantizeLinear", &["x", "s", "z"], &["q"]),
        microsoft("DequantizeLinear", &["q", "s", "z"], &["y"]),
    ];
    let mut m = model_of(pair, vec![], f32_value("y"));
    m.graph.as_mut().unwrap().initializer.push(zero);
    let (g, out) = rewrite(&m);
    assert_eq!(nodes_of(&out), nodes_of(&m), "a scalar scale has no axis");
    assert!(
        g.nodes().any(|(_, n)| matches!(n.op, Op::QuantizeLinear { to: DType::U16, dialect: Dialect::Microsoft, .. }))
    );
    let along = with(microsoft("QuantizeLinear", &["x", "v"], &["y"]), [int("axis", 1)]);
    let mut m = model_of(vec![along], vec![], value("y", DataType::Uint8, "2 4"));
    m.graph.as_mut().unwrap().initializer.push(f32s("v", &[4], &[0.5; 4]));
    let (_, out) = rewrite(&m);
    assert_eq!(nodes_of(&out), nodes_of(&m));
    let m = model_of(vec![microsoft("QGemm", &["x"], &["y"])], vec![], f32_value("y"));
    assert_eq!(reason(&rewrite(&m).0), "unknown op");
}

#[test]
fn onnxruntimes_norms_are_norms() {
    let norm = |outs: &[&str]| {
        let attrs = [int("axis", -1), float("epsilon", 1e-6), int("stash_type", 1)];
        with(node("SimplifiedLayerNormalization", &["x", "w"], outs), attrs)
    };
    let with_weight = |nodes, output| {
        let mut m = model_of(nodes, vec![], output);
        m.graph.as_mut().unwrap().initializer.push(f32s("w", &[4], &[1.0; 4]));
        m
    };
    let m = with_weight(vec![norm(&["y"])], f32_value("y"));
    let (g, out) = rewrite(&m);
    assert_eq!(nodes_of(&out), nodes_of(&m));
    let form = |op: &Op| match op {
        Op::RmsNorm { axis: -1, stash: DType::F32, root, cast, .. } => (*root, *cast),
        op => panic!("{}", op.name()),
    };
    assert_eq!(form(&only_node(&g).op), (Root::ReciprocalSqrt, CastBack::AfterScale));
    let (g, _) = rewrite(&with_weight(vec![norm(&["y", "inverse"])], f32_value("y")));
    assert_eq!(only_node(&g).op.name(), "rms_norm", "an inverse that nobody reads");
    let (g, _) = rewrite(&with_weight(vec![norm(&["t", "y"])], value("y", DataType::Float, "2 1")));
    assert_eq!(reason(&g), "result 1 is used");
    let mut m = with_weight(vec![norm(&["y"])], value("y", DataType::Double, "2 4"));
    m.graph.as_mut().unwrap().input = vec![value("x", DataType::Double, "2 4")];
    assert_eq!(reason(&rewrite(&m).0), "a norm of f64");

    // Operands x, skip, gamma and bias; results y, mean, inverse deviation and the sum.
    let skip = |ins: &[&str], outs: &[&str]| {
        with(microsoft("SkipSimplifiedLayerNormalization", ins, outs), [float("epsilon", 1e-6)])
    };
    for (ins, outs) in
        [(&["x", "x", "w"][..], &["y"][..]), (&["x", "x", "w", "w"], &["y"]), (&["x", "x", "w"], &["t", "", "", "y"])]
    {
        let m = with_weight(vec![skip(ins, outs)], f32_value("y"));
        let (g, out) = rewrite(&m);
        assert_eq!(nodes_of(&out), nodes_of(&m));
        assert!(matches!(only_node(&g).op, Op::SkipRmsNorm { eps } if eps.get() == 1e-6));
        let result = g.values().find(|(_, v)| v.name == "y").unwrap().0;
        let port = usize::from(outs.len() > 1);
        assert_eq!(only_node(&g).outputs[port], result);
    }
    let m = with_weight(vec![skip(&["x", "x", "w"], &["t", "", "y"])], value("y", DataType::Float, "2 1"));
    assert_eq!(reason(&rewrite(&m).0), "result 2 is used");
}

#[test]
fn what_stays_foreign_still_says_how_large_its_results_are() {
    let fp4 = with(trt("FP4DynamicQuantize", &["x", "s"], &["q", "sq"]), [int("axis", -1), int("block_size", 3)]);
    let m = model_of(vec![fp4, node("Shape", &["sq"], &["y"])], vec![], value("y", DataType::Int64, "2"));
    let (mut g, out) = rewrite(&m);
    assert_eq!(nodes_of(&out)[0], nodes_of(&m)[0]);
    normfuse_ir::infer::infer(&mut g).unwrap();
    assert_eq!((dtype(&g, "q"), dtype(&g, "sq")), (Some(DType::F4E2M1), Some(DType::F8E4M3FN)));
    let shape = |g: &Graph, name: &str| g.values().find(|(_, v)| v.name == name).unwrap().1.ty.shape.clone().unwrap();
    assert_eq!(shape(&g, "q").0, [Dim::from(2), Dim::from(4)]);
    assert_eq!(shape(&g, "sq").0, [Dim::from(2), Dim::from(2)]);
    let packed = with(microsoft("MatMulNBits", &["x", "s", "s"], &["p"]), [int("N", 6), int("K", 4)]);
    let m = model_of(vec![packed, node("Shape", &["p"], &["y"])], vec![], value("y", DataType::Int64, "2"));
    let (g, _) = rewrite(&m);
    assert_eq!((dtype(&g, "p"), shape(&g, "p").0), (Some(DType::F32), vec![Dim::from(2), Dim::from(6)]));
    // Names that an exporter invents for sizes give way to sizes.
    let pair = vec![trt("FP4QDQ", &["x"], &["w"]), node("Neg", &["w"], &["y"])];
    let m = model_of(pair, vec![value("w", DataType::Float, "FP4QDQ_dim_0 ?")], f32_value("y"));
    let (g, _) = rewrite(&m);
    assert_eq!(shape(&g, "w").0, [Dim::from(2), Dim::from(4)]);
    // At this opset `block_size` keeps the node foreign; its rows are still those of its operand.
    let blocks = with(node("DequantizeLinear", &["q", "sq"], &["d"]), [int("block_size", 2)]);
    let fp4 = with(trt("FP4DynamicQuantize", &["x", "s"], &["q", "sq"]), [int("block_size", 2)]);
    let m = model_of(vec![fp4, blocks, node("Shape", &["d"], &["y"])], vec![], value("y", DataType::Int64, "2"));
    let (g, _) = rewrite(&m);
    assert_eq!((dtype(&g, "d"), shape(&g, "d").0.len()), (None, 2));
}
