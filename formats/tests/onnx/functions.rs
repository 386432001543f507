//! Local functions are inlined.

use normfuse_formats::onnx::proto::{FunctionProto, ModelProto, attribute_proto::AttributeType};
use normfuse_ir::Op;

use crate::build::*;

fn calling(functions: Vec<FunctionProto>, nodes: Vec<normfuse_formats::onnx::proto::NodeProto>) -> ModelProto {
    let mut m = chain(20, nodes);
    m.opset_import.push(opset("local", 1));
    m.functions = functions;
    m
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> normfuse_formats::onnx::proto::NodeProto {
    in_domain("local", node(name, inputs, outputs))
}

#[test]
fn calls_become_the_nodes_of_the_function() {
    let inner = function("local", "Sq", &["a"], &["b"], vec![node("Mul", &["a", "a"], &["b"])]);
    let outer = function("local", "Quad", &["a"], &["b"], vec![call("Sq", &["a"], &["t"]), call("Sq", &["t"], &["b"])]);
    let (g, out) =
        rewrite(&calling(vec![inner, outer], vec![call("Quad", &["x"], &["t"]), call("Quad", &["t"], &["y"])]));
    assert_eq!(ops(&g), ["mul", "mul", "mul", "mul"]);
    let mut names: Vec<String> = g.values().map(|(_, v)| v.name.clone()).collect();
    // `t` of the caller and of the two calls are three values.
    assert!(names.contains(&"t".to_owned()) && names.contains(&"the Quad/t".to_owned()), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
    assert!(out.functions.is_empty());
    let first = &out.graph.as_ref().unwrap().node[0];
    assert_eq!((first.name(), first.input[0].as_str()), ("the Quad/the Sq/the Mul", "x"));
}

#[test]
fn attributes_are_substituted_or_defaulted_or_left_out() {
    let mut f = function(
        "local",
        "Cat",
        &["a"],
        &["b"],
        vec![with(node("Flatten", &["a"], &["b"]), [reference("axis", AttributeType::Int, "at")])],
    );
    let axis = |f: &FunctionProto, given: Option<i64>| {
        let c = with(call("Cat", &["x"], &["y"]), given.map(|v| int("at", v)));
        let g = read(&calling(vec![f.clone()], vec![c])).unwrap();
        match only_node(&g).op {
            Op::Flatten { axis } => axis,
            _ => panic!("not a flatten"),
        }
    };
    f.attribute = vec!["at".into()];
    assert_eq!((axis(&f, Some(0)), axis(&f, None)), (0, 1));
    f.attribute.clear();
    f.attribute_proto = vec![int("at", 2)];
    assert_eq!((axis(&f, Some(0)), axis(&f, None)), (0, 2));
    let wrong = with(call("Cat", &["x"], &["y"]), [float("at", 1.0)]);
    assert!(refused(&calling(vec![f.clone()], vec![wrong])).contains("type FLOAT from the call"));
    let unknown = with(call("Cat", &["x"], &["y"]), [int("other", 1)]);
    assert!(refused(&calling(vec![f], vec![unknown])).contains("`other`, which it does not declare"));
}

#[test]
fn ports_may_be_left_out_handed_through_or_shared() {
    let f = function(
        "local",
        "F",
        &["a", "lo", "hi"],
        &["same", "c", "c2"],
        vec![node("Clip", &["a", "lo", "hi"], &["c"])],
    );
    let mut f = f;
    f.output = vec!["a".into(), "c".into(), "c".into()];
    let mut m = calling(vec![f], vec![call("F", &["x", "", "hi"], &["y", "z", "w"])]);
    let g = m.graph.as_mut().unwrap();
    g.initializer.push(f32s("hi", &[], &[1.0]));
    g.output.push(f32_value("z"));
    g.output.push(f32_value("w"));
    let (g, _) = rewrite(&m);
    assert_eq!(ops(&g), ["clip", "identity", "identity"]);
    let clip = g.nodes().next().unwrap().1;
    assert!(clip.inputs[1].is_none() && clip.inputs[2].is_some());
}

#[test]
fn subgraphs_inside_functions_are_renamed_and_their_calls_inlined() {
    let sq = function("local", "Sq", &["a"], &["b"], vec![node("Mul", &["a", "a"], &["b"])]);
    let branch = |op: &str| graph(vec![], vec![call(op, &["a"], &["inner"])], vec![f32_value("inner")]);
    let f = function(
        "local",
        "Maybe",
        &["c", "a"],
        &["b"],
        vec![with(
            node("If", &["c"], &["b"]),
            [graph_attr("then_branch", branch("Sq")), graph_attr("else_branch", branch("Sq"))],
        )],
    );
    let mut m = calling(vec![sq, f], vec![call("Maybe", &["c", "x"], &["t"]), call("Maybe", &["c", "t"], &["y"])]);
    m.graph.as_mut().unwrap().initializer = vec![normfuse_formats::onnx::proto::TensorProto {
        data_type: Some(9),
        int32_data: vec![1],
        ..f32s("c", &[], &[])
    }];
    let (g, out) = rewrite(&m);
    for (_, n) in g.nodes() {
        let Op::Foreign(f) = &n.op else { panic!("{}", n.op.name()) };
        assert_eq!((f.op_type.as_str(), f.captures, n.inputs.len()), ("If", 1, 2));
    }
    let nodes = &out.graph.as_ref().unwrap().node;
    let inner = |i: usize, branch: usize| nodes[i].attribute[branch].g.as_ref().unwrap().node[0].clone();
    assert_eq!(inner(0, 0).op_type(), "Mul");
    assert_eq!((inner(0, 0).input[0].as_str(), inner(1, 0).input[0].as_str()), ("x", "t"));
    // Each copy defines names of its own.
    let all: std::collections::BTreeSet<String> =
        [(0, 0), (0, 1), (1, 0), (1, 1)].iter().map(|(i, b)| inner(*i, *b).output[0].clone()).collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn recursion_and_explosion_are_errors() {
    let me = function("local", "Me", &["a"], &["b"], vec![call("Me", &["a"], &["b"])]);
    assert!(refused(&calling(vec![me], vec![call("Me", &["x"], &["y"])])).contains("`Me` calls itself"));
    let a = function("local", "A", &["a"], &["b"], vec![call("B", &["a"], &["b"])]);
    let b = function("local", "B", &["a"], &["b"], vec![call("A", &["a"], &["b"])]);
    let e = refused(&calling(vec![a, b], vec![call("A", &["x"], &["y"])]));
    assert!(e.contains("calls itself"), "{e}");
    let level = |i: usize, twice: bool| {
        let (this, next) = (format!("F{i}"), format!("F{}", i + 1));
        let nodes = if twice {
            vec![call(&next, &["a"], &["t"]), call(&next, &["t"], &["b"])]
        } else {
            vec![call(&next, &["a"], &["b"])]
        };
        function("local", &this, &["a"], &["b"], nodes)
    };
    let last = |i: usize| function("local", &format!("F{i}"), &["a"], &["b"], vec![node("Neg", &["a"], &["b"])]);
    let mut deep: Vec<_> = (0..70).map(|i| level(i, false)).collect();
    deep.push(last(70));
    assert!(refused(&calling(deep, vec![call("F0", &["x"], &["y"])])).contains("more than 64 deep"));
    let mut wide: Vec<_> = (0..40).map(|i| level(i, true)).collect();
    wide.push(last(40));
    assert!(refused(&calling(wide, vec![call("F0", &["x"], &["y"])])).contains("unfold to more than"));
}

#[test]
fn malformed_functions_are_errors() {
    let f = function("local", "F", &["a"], &["b"], vec![node("Neg", &["ghost"], &["b"])]);
    let e = refused(&calling(vec![f.clone()], vec![call("F", &["x"], &["y"])]));
    assert!(e.contains("`ghost`"), "{e}");
    let e = refused(&calling(vec![f.clone(), f.clone()], vec![call("F", &["x"], &["y"])]));
    assert!(e.contains("one function of that name"), "{e}");
    let e = refused(&calling(vec![f.clone()], vec![call("F", &["x", "x"], &["y"])]));
    assert!(e.contains("at most 1 operands"), "{e}");
    let nothing = function("local", "F", &["a"], &["b"], vec![node("Neg", &["a"], &["c"])]);
    let e = refused(&calling(vec![nothing], vec![call("F", &["x"], &["y"])]));
    assert!(e.contains("to make its result `b`"), "{e}");
}

#[test]
fn a_function_is_read_at_its_own_opset() {
    // `axes` is an attribute at 12 and an operand at 20.
    let mut f =
        function("local", "F", &["a"], &["b"], vec![with(node("Unsqueeze", &["a"], &["b"]), [ints("axes", &[0])])]);
    f.opset_import = vec![opset("", 12)];
    let m = calling(vec![f.clone()], vec![call("F", &["x"], &["y"])]);
    let (g, out) = rewrite(&m);
    assert!(matches!(&only_node(&g).op, Op::Unsqueeze { axes } if axes == &[0]));
    assert_eq!(out.graph.unwrap().node[0].input.len(), 2);
    // What the IR does not know cannot change its opset.
    f.node = vec![node("Det", &["a"], &["b"])];
    assert!(refused(&calling(vec![f], vec![call("F", &["x"], &["y"])])).contains("opset 12"));
}
