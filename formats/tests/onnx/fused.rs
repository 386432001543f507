//! Fused ops: nodes of our domain with a local function each.

use std::sync::Arc;

use normfuse_formats::onnx::{
    DOMAIN,
    proto::{AttributeProto, ModelProto},
};
use normfuse_ir::{
    DType, FusedNorm, Graph, Op, Scheme, Shape, Tensor, Type,
    fused::{Prologue, ResidualAdd, Root, Sibling},
    op::{BinaryOp, ReduceOp, UnaryOp},
    scheme::{Apply, F32},
};

use crate::build::*;

fn norm(eps: f32) -> FusedNorm {
    let plain = Sibling::plain(4, DType::F32);
    FusedNorm::of(vec![Sibling { eps: F32::new(eps), root: Some(Root::ReciprocalSqrt), ..plain }])
}

/// What `norm` stands for; `layer` only changes names.
fn body(eps: f32, layer: &str) -> Graph {
    let mut g = Graph::new(layer);
    let x = g.add_input(format!("{layer}.x"), Type::default());
    let w = g.add_input(format!("{layer}.w"), Type::default());
    let eps = g.add_const(format!("{layer}.eps"), Tensor::from_f32(&[], &[eps]));
    let mut step = |op: Op, ins: &[normfuse_ir::ValueId], name: &str| {
        let ins: Vec<_> = ins.iter().copied().map(Some).collect();
        let id = g.add_node(format!("{layer}/{name}"), op, &ins, [format!("{layer}.{name}")]).unwrap();
        g.node(id).outputs[0]
    };
    let sq = step(Op::Binary(BinaryOp::Mul), &[x, x], "sq");
    let ms = step(Op::Reduce { op: ReduceOp::Mean, axes: Some(vec![-1]), keepdims: true }, &[sq], "ms");
    let v = step(Op::Binary(BinaryOp::Add), &[ms, eps], "v");
    let root = step(Op::Unary(UnaryOp::Sqrt), &[v], "root");
    let r = step(Op::Unary(UnaryOp::Reciprocal), &[root], "r");
    let n = step(Op::Binary(BinaryOp::Mul), &[x, r], "n");
    let y = step(Op::Binary(BinaryOp::Mul), &[n, w], "y");
    g.add_output("y", y);
    g
}

/// Two layers with one body, and a third of another eps.
fn three_norms() -> Graph {
    let mut g = Graph::new("g");
    let ty = || Type::tensor(DType::F32, Shape::from_concrete(&[2, 4]));
    let mut x = g.add_input("x", ty());
    for (layer, eps) in [("l0", 1e-6), ("l1", 1e-6), ("l2", 1e-5)] {
        let w = g.add_const(format!("{layer}.weight"), Tensor::from_f32(&[4], &[1.0, 2.0, 3.0, 4.0]));
        let op = Op::FusedNorm(Arc::new(norm(eps)));
        let id = g.add_node(format!("{layer}.norm"), op, &[Some(x), Some(w)], [format!("{layer}.y")]).unwrap();
        let (_, provenance, slot) = g.node_meta_mut(id);
        let provenance = Arc::make_mut(provenance);
        provenance.replaced = vec![format!("{layer}/sq"), format!("{layer}/\"ms\"")];
        provenance.rules = vec!["rms_norm".into()];
        *slot = Some(Arc::new(body(eps, layer)));
        x = g.node(id).outputs[0];
        *g.type_mut(x) = ty();
    }
    g.add_output("y", x);
    g.info.opsets.insert(String::new(), 18);
    g
}

#[test]
fn one_function_a_distinct_body() {
    let disk = Disk::new();
    let m = disk.write(&three_norms()).unwrap();
    let names: Vec<&str> = m.functions.iter().map(normfuse_formats::onnx::proto::FunctionProto::name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for f in &m.functions {
        assert_eq!((f.domain(), f.name().len()), (DOMAIN, "FusedNorm_".len() + 8));
        assert!(f.name().starts_with("FusedNorm_"));
        assert_eq!(
            (f.input.as_slice(), f.output.as_slice()),
            (&["x".into(), "weight0".into()][..], &["y0".into()][..])
        );
        assert_eq!(f.attribute, ["descriptor"]);
        assert_eq!((f.opset_import.len(), f.opset_import[0].version()), (1, 18));
        let op_types: Vec<&str> = f.node.iter().map(normfuse_formats::onnx::proto::NodeProto::op_type).collect();
        // At opset 18 the axes are an operand: a constant of the function, like eps.
        assert_eq!(op_types, ["Constant", "Constant", "Mul", "ReduceMean", "Add", "Sqrt", "Reciprocal", "Mul", "Mul"]);
    }
    let nodes = &m.graph.as_ref().unwrap().node;
    assert_eq!(nodes[0].op_type(), nodes[1].op_type());
    assert_ne!(nodes[0].op_type(), nodes[2].op_type());
    assert!(m.ir_version() >= 8);
    assert!(m.opset_import.iter().any(|o| (o.domain(), o.version()) == (DOMAIN, 1)));
    assert_eq!(disk.write(&three_norms()).unwrap(), m);
}

#[test]
fn read_back_it_is_the_fused_op_again() {
    let disk = Disk::new();
    let m = disk.write(&three_norms()).unwrap();
    let g = disk.read(&m).unwrap();
    assert_eq!(ops(&g), ["fused_norm"; 3]);
    let first = g.nodes().next().unwrap().1;
    assert!(matches!(&first.op, Op::FusedNorm(f) if **f == norm(1e-6)));
    assert_eq!(first.provenance.replaced, ["l0/sq", "l0/\"ms\""]);
    assert_eq!(first.provenance.rules, ["rms_norm"]);
    assert!(first.provenance.metadata.is_empty());
    let body = first.body.as_ref().unwrap();
    assert_eq!(ops(body), ["mul", "reduce_mean", "add", "sqrt", "reciprocal", "mul", "mul"]);
    assert_eq!((body.inputs().len(), body.outputs().len()), (2, 1));
    assert_eq!(disk.write(&g).unwrap(), m, "written again it is the same file");
}

fn broken(change: impl FnOnce(&mut ModelProto)) -> String {
    let disk = Disk::new();
    let mut m = disk.write(&three_norms()).unwrap();
    change(&mut m);
    refused(&m)
}

#[test]
fn a_descriptor_and_its_function_must_fit() {
    let e = broken(|m| m.functions.clear());
    assert!(e.contains("node `l0.norm`") && e.contains("a local function `normfuse.FusedNorm_"), "{e}");
    let e = broken(|m| m.graph.as_mut().unwrap().node[0].attribute[0].s = Some(b"{}".to_vec()));
    assert!(e.contains("attribute `descriptor`") && e.contains("missing field"), "{e}");
    let e = broken(|m| m.graph.as_mut().unwrap().node[0].attribute.clear());
    assert!(e.contains("the JSON of a fused norm"), "{e}");
    let e = broken(|m| m.graph.as_mut().unwrap().node[0].attribute.push(int("extra", 1)));
    assert!(e.contains("`extra`"), "{e}");
    let e = broken(|m| m.functions.iter_mut().for_each(|f| f.output.push("x".into())));
    assert!(e.contains("expected a function of 2 operands and 1 results"), "{e}");
    let e = broken(|m| {
        let mut f = norm(1e-6);
        f.siblings.clear();
        let s = serde_json::to_vec(&f).unwrap();
        m.graph.as_mut().unwrap().node[0].attribute[0].s = Some(s);
    });
    assert!(e.contains("expected at least one, found none"), "{e}");
    let e = broken(|m| m.opset_import.iter_mut().filter(|o| o.domain() == DOMAIN).for_each(|o| o.version = Some(2)));
    assert!(e.contains("version 1 of the operator set `normfuse`"), "{e}");
}

#[test]
fn a_descriptor_and_its_function_must_be_one_function() {
    // The descriptor says another eps than the body.
    let e = broken(|m| {
        let s = serde_json::to_vec(&norm(1e-3)).unwrap();
        m.graph.as_mut().unwrap().node[1].attribute[0].s = Some(s);
    });
    assert!(e.contains("node `l1.norm`, output `y0`") && e.contains("differ"), "{e}");
    // The body divides instead of multiplying with the reciprocal: the same in real numbers, not in bits.
    let e = broken(|m| {
        for f in &mut m.functions {
            let i = f.node.iter().position(|n| n.op_type() == "Reciprocal").unwrap();
            let root = f.node.remove(i).input.remove(0);
            f.node[i].op_type = Some("Div".into());
            f.node[i].input[1] = root;
        }
    });
    assert!(e.contains("node `l0.norm`, output `y0`") && e.contains("differ"), "{e}");
}

/// A quantiser with a given scale, and what it stands for.
fn quantiser(high: f32) -> Graph {
    let mut b = Graph::new("body");
    let v = b.add_input("v", Type::default());
    let s = b.add_input("s", Type::default());
    let bound = |b: &mut Graph, v: f32| b.add_const(format!("{v}"), Tensor::from_f32(&[], &[v]));
    let (low, high) = (bound(&mut b, -448.0), bound(&mut b, high));
    let mut step = |op: Op, ins: &[normfuse_ir::ValueId], name: &str| {
        let ins: Vec<_> = ins.iter().copied().map(Some).collect();
        let id = b.add_node(name, op, &ins, [name]).unwrap();
        b.node(id).outputs[0]
    };
    let m = step(Op::Binary(BinaryOp::Mul), &[v, s], "m");
    let c = step(Op::Clip, &[m, low, high], "c");
    let q = step(Op::Cast { to: DType::F8E4M3FN, saturate: true }, &[c], "q");
    b.add_output("q", q);
    let scheme = Arc::new(Scheme::fixed(DType::F8E4M3FN, Apply::Multiply).clamped(-448.0, 448.0));
    let mut g = Graph::new("g");
    let v = g.add_input("v", Type::tensor(DType::F32, Shape::from_concrete(&[2, 4])));
    let s = g.add_input("s", Type::tensor(DType::F32, Shape::from_concrete(&[])));
    let id = g.add_node("quantize/q", Op::Quantize(scheme), &[Some(v), Some(s)], ["q"]).unwrap();
    let (_, provenance, slot) = g.node_meta_mut(id);
    Arc::make_mut(provenance).replaced = vec!["m".into(), "c".into(), "q".into()];
    *slot = Some(Arc::new(b));
    let q = g.node(id).outputs[0];
    *g.type_mut(q) = Type::tensor(DType::F8E4M3FN, Shape::from_concrete(&[2, 4]));
    g.add_output("q", q);
    g.info.opsets.insert(String::new(), 20);
    g
}

#[test]
fn a_quantiser_is_a_function_with_its_scheme() {
    let disk = Disk::new();
    let source = quantiser(448.0);
    let m = disk.write(&source).unwrap();
    let f = &m.functions[0];
    assert!(f.domain() == DOMAIN && f.name().starts_with("Quantize_"), "{}", f.name());
    assert_eq!(f.attribute, ["scheme"]);
    assert_eq!((&f.input[..], &f.output[..]), (&["x".into(), "given_scale0_0".into()][..], &["q0_0".into()][..]));
    let g = disk.read(&m).unwrap();
    let (first, before) = (g.nodes().next().unwrap().1, source.nodes().next().unwrap().1);
    assert_eq!((&first.op, &first.provenance.replaced), (&before.op, &before.provenance.replaced));
    assert_eq!(ops(first.body.as_ref().unwrap()), ["mul", "clip", "cast"]);
    assert_eq!(disk.write(&g).unwrap(), m, "written again it is the same file");
}

#[test]
fn a_scheme_and_its_function_must_be_one_function() {
    let disk = Disk::new();
    let whole = disk.write(&quantiser(448.0)).unwrap();
    let broken = |change: &dyn Fn(&mut AttributeProto)| {
        let mut m = whole.clone();
        change(&mut m.graph.as_mut().unwrap().node[0].attribute[0]);
        refused(&m)
    };
    let e = broken(&|a| a.s = Some(String::from_utf8_lossy(a.s()).replace("448.0", "320.0").into_bytes()));
    assert!(e.contains("node `quantize/q`, output `q`") && e.contains("differ"), "{e}");
    let e = broken(&|a| a.s = Some(b"{}".to_vec()));
    assert!(e.contains("attribute `scheme`") && e.contains("missing field"), "{e}");
    let e = broken(&|a| a.s = Some(String::from_utf8_lossy(a.s()).replace("f8e4m3fn", "f32").into_bytes()));
    assert!(e.contains("attribute `scheme`") && e.contains("expected a quantised type"), "{e}");
    let e = broken(&|a| a.name = Some("descriptor".into()));
    assert!(e.contains("attribute `descriptor`") && e.contains("the JSON of a fused norm"), "{e}");
    let e = refused(&disk.write(&quantiser(320.0)).unwrap());
    assert!(e.contains("node `quantize/q`, output `q`") && e.contains("differ"), "{e}");
}

#[test]
fn a_fused_op_without_its_source_cannot_be_written() {
    let mut g = three_norms();
    let id = g.nodes().next().unwrap().0;
    *g.node_meta_mut(id).2 = None;
    let disk = Disk::new();
    let e = disk.write(&g).unwrap_err().to_string();
    assert!(e.contains("node `l0.norm`") && e.contains(".nf"), "{e}");
    assert!(disk.files().is_empty(), "{:?}", disk.files());
}

#[test]
fn a_body_imports_the_domains_of_its_nodes() {
    let mut b = Graph::new("body");
    let ins: Vec<_> = ["a", "b", "w"].map(|n| Some(b.add_input(n, Type::default()))).into();
    let id = b.add_node("skip", Op::SkipRmsNorm { eps: F32::new(1e-6) }, &ins, ["y", "sum"]).unwrap();
    for (port, name) in [(1, "sum"), (0, "y0")] {
        b.add_output(name, b.node(id).outputs[port]);
    }
    let mut f = norm(1e-6);
    f.prologue = Prologue::ResidualAdd(ResidualAdd::of(DType::F32));
    f.emit_sum = true;
    f.siblings[0].root = Some(Root::DivideBySqrt);
    let mut g = Graph::new("g");
    let ty = || Type::tensor(DType::F32, Shape::from_concrete(&[2, 4]));
    let x = g.add_input("x", ty());
    let w = g.add_const("w", Tensor::from_f32(&[4], &[1.0, 2.0, 3.0, 4.0]));
    let id = g.add_node("norm", Op::FusedNorm(Arc::new(f)), &[Some(x), Some(x), Some(w)], ["h", "y"]).unwrap();
    *g.node_meta_mut(id).2 = Some(Arc::new(b));
    for (port, name) in [(0, "h"), (1, "y")] {
        let out = g.node(id).outputs[port];
        *g.type_mut(out) = ty();
        g.add_output(name, out);
    }
    g.info.opsets = [(String::new(), 18), ("com.microsoft".to_owned(), 2)].into();
    let disk = Disk::new();
    let m = disk.write(&g).unwrap();
    assert_eq!(m.functions[0].opset_import, [opset("", 18), opset("com.microsoft", 2)]);
    assert_eq!(m.functions[0].node[0].output, ["y0", "", "", "sum"]);
    // Read back, the function and the descriptor must agree, and be written as they were.
    let again = disk.write(&disk.read(&m).unwrap()).unwrap();
    assert_eq!(again, m);
}
