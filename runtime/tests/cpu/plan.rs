//! The plan: schedule, inputs, errors.

use std::sync::Arc;

use normfuse_ir::{
    DType, Dim, ErrorKind, Graph, Op, Shape, Tensor, Type, ValueId,
    op::{BinaryOp, ForeignOp, UnaryOp},
};
use normfuse_runtime::Plan;

use crate::check::assert_same;

fn node(graph: &mut Graph, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let outputs: Vec<String> = (0..op.num_outputs()).map(|i| format!("{name}.{i}")).collect();
    let id = graph.add_node(name, op, &inputs, outputs).unwrap();
    graph.node(id).outputs[0]
}

fn foreign() -> Op {
    Op::Foreign(Arc::new(ForeignOp {
        domain: "trt".into(),
        op_type: "TRT_Thing".into(),
        overload: String::new(),
        encoding: "onnx".into(),
        attributes: vec![],
        captures: 0,
        outputs: 1,
        reason: "unknown op".into(),
    }))
}

/// `y = (x + w) * (x + w)`, and `w` and `x` are results too.
fn sample() -> Graph {
    let mut graph = Graph::new("sample");
    let x = graph.add_input("x", Type::tensor(DType::F32, Shape(vec![Dim::sym("n"), Dim::from(2)])));
    let w = graph.add_const("w", Tensor::from_f32(&[2], &[10.0, 20.0]));
    let sum = node(&mut graph, "sum", Op::Binary(BinaryOp::Add), &[x, w]);
    let product = node(&mut graph, "product", Op::Binary(BinaryOp::Mul), &[sum, sum]);
    graph.add_output("y", product);
    graph.add_output("w", w);
    graph.add_output("x", x);
    graph.add_output("again", product);
    graph
}

#[test]
fn runs_many_times_and_returns_inputs_and_constants() {
    let plan = Plan::new(&sample()).unwrap();
    assert_eq!(plan.len(), 2);
    for _ in 0..2 {
        let x = Tensor::from_f32(&[1, 2], &[1.0, 2.0]);
        let y = Tensor::from_f32(&[1, 2], &[121.0, 484.0]);
        let w = Tensor::from_f32(&[2], &[10.0, 20.0]);
        assert_same("sample", &plan.run(std::slice::from_ref(&x)).unwrap(), &[y.clone(), w, x, y]);
    }
}

#[test]
fn constants_are_not_copied() {
    let graph = sample();
    let w = graph.values().find_map(|(_, v)| v.as_const()).unwrap();
    let out = Plan::new(&graph).unwrap().run(&[Tensor::from_f32(&[1, 2], &[0.0; 2])]).unwrap();
    assert_eq!(out[1].bytes().as_ptr(), w.bytes().as_ptr());
}

#[test]
fn an_observer_sees_every_node_in_order_and_can_stop() {
    let plan = Plan::new(&sample()).unwrap();
    let x = [Tensor::from_f32(&[1, 2], &[1.0, 2.0])];
    let mut seen = Vec::new();
    plan.run_observed(&x, &mut |e| {
        seen.push((e.name.to_owned(), e.index, e.total, e.outputs[0].bytes().to_vec()));
        Ok(())
    })
    .unwrap();
    let bytes = |v: [f32; 2]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(seen, [("sum".into(), 0, 2, bytes([11.0, 22.0])), ("product".into(), 1, 2, bytes([121.0, 484.0]))]);
    let stop = || normfuse_ir::Error::new(ErrorKind::Value, "enough");
    assert_eq!(plan.run_observed(&x, &mut |_| Err(stop())).unwrap_err(), stop());
}

#[test]
fn inputs_are_checked() {
    let plan = Plan::new(&sample()).unwrap();
    let cases = [
        (vec![], ErrorKind::Structure, "the graph takes 1 inputs (x), found 0"),
        (vec![Tensor::from_i64(&[1, 2], &[1, 2])], ErrorKind::DType, "input `x`: expected f32, found i64"),
        (vec![Tensor::from_f32(&[2], &[1.0; 2])], ErrorKind::Shape, "input `x`: expected 2 axes, found [2]"),
        (vec![Tensor::from_f32(&[2, 3], &[1.0; 6])], ErrorKind::Shape, "input `x`: axis 1: expected 2, found 3"),
    ];
    for (inputs, kind, message) in cases {
        let error = plan.run(&inputs).unwrap_err();
        assert_eq!((error.kind, error.to_string()), (kind, message.to_owned()));
    }
}

#[test]
fn one_symbol_has_one_size() {
    let mut graph = Graph::new("two");
    let n = || Type::tensor(DType::F32, Shape(vec![Dim::sym("n")]));
    let (a, b) = (graph.add_input("a", n()), graph.add_input("b", n()));
    let y = node(&mut graph, "y", Op::Binary(BinaryOp::Add), &[a, b]);
    graph.add_output("y", y);
    let plan = Plan::new(&graph).unwrap();
    let sized = |n: usize| Tensor::from_f32(&[n], &vec![1.0; n]);
    assert!(plan.run(&[sized(3), sized(3)]).is_ok());
    let error = plan.run(&[sized(3), sized(1)]).unwrap_err();
    assert_eq!(error.to_string(), "input `b`: axis 0: `n` is 3 in input `a`, found 1");
}

#[test]
fn a_foreign_op_is_refused_at_once_unless_nothing_needs_it() {
    let mut graph = sample();
    let x = graph.inputs()[0];
    let y = node(&mut graph, "mystery", foreign(), &[x]);
    assert_eq!(Plan::new(&graph).unwrap().len(), 2, "dead code is not run");
    graph.add_output("z", y);
    let error = Plan::new(&graph).unwrap_err();
    assert_eq!((error.kind, error.node.as_deref()), (ErrorKind::Unsupported, Some("mystery")));
    assert!(error.message.contains("trt::TRT_Thing") && error.message.contains("unknown op"), "{error}");
}

#[test]
fn a_cycle_is_an_error() {
    let mut graph = Graph::new("cycle");
    let x = graph.add_input("x", Type::default());
    let a = node(&mut graph, "a", Op::Binary(BinaryOp::Add), &[x, x]);
    let b = node(&mut graph, "b", Op::Unary(UnaryOp::Neg), &[a]);
    let (first, _) = graph.producer(a).unwrap();
    graph.set_input(first, 1, Some(b));
    graph.add_output("y", b);
    assert_eq!(Plan::new(&graph).unwrap_err().kind, ErrorKind::Structure);
}

#[test]
fn an_error_names_the_node() {
    let mut graph = Graph::new("bad");
    let x = graph.add_input("x", Type::default());
    let w = graph.add_const("w", Tensor::from_f32(&[3], &[0.0; 3]));
    let y = node(&mut graph, "layers.0/add", Op::Binary(BinaryOp::Add), &[x, w]);
    graph.add_output("y", y);
    let error = Plan::new(&graph).unwrap().run(&[Tensor::from_f32(&[2], &[0.0; 2])]).unwrap_err();
    assert_eq!((error.kind, error.node.as_deref()), (ErrorKind::Shape, Some("layers.0/add")));
}

#[test]
fn misaligned_bytes_are_read_all_the_same() {
    struct Shifted(Vec<u8>, usize);
    impl normfuse_ir::RegionBytes for Shifted {
        fn bytes(&self) -> &[u8] {
            &self.0[self.1..]
        }
    }
    let plan = Plan::new(&sample()).unwrap();
    for shift in 0..4 {
        let mut bytes = vec![0; shift];
        bytes.extend([1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()));
        let data = normfuse_ir::Data::Inline(Arc::new(Shifted(bytes, shift)));
        let x = Tensor::new(DType::F32, vec![1, 2], data).unwrap();
        let y = plan.run(&[x]).unwrap().remove(0);
        assert_same("shifted", &[y], &[Tensor::from_f32(&[1, 2], &[121.0, 484.0])]);
    }
}

#[test]
fn a_region_shorter_than_it_claims_is_an_error() {
    struct Short;
    impl normfuse_ir::RegionBytes for Short {
        fn bytes(&self) -> &[u8] {
            &[0; 4]
        }
    }
    let region = normfuse_ir::Region { file: "w.data".into(), offset: 0, len: 8, data: Arc::new(Short) };
    let short = Tensor::new(DType::F32, vec![2], normfuse_ir::Data::External(region)).unwrap();
    let mut graph = Graph::new("short");
    let w = graph.add_const("w", short.clone());
    let y = node(&mut graph, "neg", Op::Unary(UnaryOp::Neg), &[w]);
    graph.add_output("y", y);
    let error = Plan::new(&graph).unwrap_err();
    assert_eq!((error.node.as_deref(), error.port.as_deref()), (Some("neg"), Some("w")));
    let x = Tensor::from_f32(&[1, 2], &[0.0; 2]);
    let plan = Plan::new(&sample()).unwrap();
    assert!(plan.run(&[x]).is_ok());
    assert!(plan.run(&[short.reshaped(vec![1, 2]).unwrap()]).is_err());
}

#[test]
fn a_result_of_another_shape_than_the_graph_says_is_an_error_of_its_node() {
    let mut graph = Graph::new("shapes");
    let x = graph.add_input("x", Type::tensor(DType::F32, Shape(vec![Dim::sym("n")])));
    let y = node(&mut graph, "y", Op::Unary(UnaryOp::Exp), &[x]);
    graph.type_mut(y).shape = Some(Shape(vec![Dim::from(3)]));
    graph.add_output("y", y);
    let plan = Plan::new(&graph).unwrap();
    plan.run(&[Tensor::from_f32(&[3], &[0.0; 3])]).unwrap();
    let e = plan.run(&[Tensor::from_f32(&[2], &[0.0; 2])]).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Shape);
    let text = e.to_string();
    assert!(text.contains("node `y`") && text.contains("[3]") && text.contains("found [2]"), "{text}");
}
