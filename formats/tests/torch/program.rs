//! What survives of a program: names, places, sizes, guards.

use normfuse_ir::{Op, Tensor};
use serde_json::json;

use crate::build::*;

/// A norm, as the decomposed form of it is exported, over rows of symbolic number.
fn norm() -> Program {
    let f = |name: &str| ("self", t(name));
    let mut p = Program::new(&[("x", BF16, "Symbol('s0', positive=True, integer=True);4")])
        .weight("model.norm.weight", BF16, "4", &bf16_bytes(&[1., 2., 0.5, 1.]))
        .then("aten.to.dtype", &[f("x"), ("dtype", json!({"as_scalar_type": F32}))], "to", F32, "s0;4")
        .then("aten.pow.Tensor_Scalar", &[f("to"), ("exponent", int(2))], "pow_1", F32, "s0;4")
        .then(
            "aten.mean.dim",
            &[f("pow_1"), ("dim", ints(&[-1])), ("keepdim", json!({"as_bool": true}))],
            "mean",
            F32,
            "s0;1",
        )
        .then("aten.add.Tensor", &[f("mean"), ("other", float(1e-6))], "add", F32, "s0;1")
        .then("aten.rsqrt.default", &[f("add")], "rsqrt", F32, "s0;1")
        .then("aten.mul.Tensor", &[f("to"), ("other", t("rsqrt"))], "mul", F32, "s0;4")
        .then("aten.to.dtype", &[f("mul"), ("dtype", json!({"as_scalar_type": BF16}))], "to_1", BF16, "s0;4")
        .then("aten.mul.Tensor", &[f("p_model_norm_weight"), ("other", t("to_1"))], "mul_1", BF16, "s0;4")
        .output("mul_1");
    for node in p.graph()["nodes"].as_array_mut().unwrap() {
        node["metadata"] = json!({
            "nn_module_stack": "L__self__,,run.Outer;L__self__model,model,m.Model;L__n,model.norm,m.Norm",
            "stack_trace": "File \"/secret/run.py\", line 3, in forward\n  File \"/secret/modeling_m.py\", line 42, in forward\n    x",
        });
    }
    p
}

#[test]
fn nodes_keep_their_names_and_say_where_they_were() {
    let graph = norm().read();
    let names: Vec<&str> = graph.nodes().map(|(_, n)| n.name.as_str()).collect();
    assert_eq!(names, ["to", "pow_1", "mean", "add", "rsqrt", "mul", "to_1", "mul_1"]);
    for (_, node) in graph.nodes() {
        assert_eq!(node.provenance.place().as_deref(), Some("model.norm (modeling_m.py:42)"));
        assert_eq!(graph.value(node.outputs[0]).name, node.name);
        assert!(!format!("{:?}", node.provenance).contains("secret"));
    }
    assert_eq!(graph.value(graph.outputs()[0].value).ty.shape.as_ref().unwrap().to_string(), "[s0, 4]");
}

#[test]
fn it_computes_what_it_says() {
    let x = [3., -4., 0., 1., 100., 2., -2., 7.];
    let out = norm().run(&[bf16s(&[2, 4], &x)]);
    let weight = [1., 2., 0.5, 1.];
    let want: Vec<f32> = x
        .chunks(4)
        .flat_map(|row| {
            let r = 1.0 / (row.iter().map(|v| v * v).sum::<f32>() / 4.0 + 1e-6).sqrt();
            let normed = floats(&bf16s(&[4], &row.iter().map(|v| v * r).collect::<Vec<_>>()));
            floats(&bf16s(&[4], &normed.iter().zip(weight).map(|(n, w)| n * w).collect::<Vec<_>>()))
        })
        .collect();
    assert_eq!(floats(&out[0]), want);
}

#[test]
fn guards_ranges_and_assertions_are_no_nodes() {
    let mut p = norm();
    p.json["guards_code"] = json!(["L['x'].size()[0] <= 9"]);
    p.json["range_constraints"] = json!({"s0": {"min_val": 1, "max_val": 9}, "s1": {"min_val": 2, "max_val": null}});
    let count = p.read().node_count();
    let check = [("a", t("x")), ("dtype", json!({"as_scalar_type": BF16}))];
    let graph = p.node(call("aten._assert_tensor_metadata.default", &check, &[])).read();
    assert_eq!(graph.node_count(), count);
    let said = graph.info.metadata.iter().filter(|(key, _)| key.starts_with("torch.export."));
    let said: Vec<&str> = said.map(|(_, v)| v.as_str()).collect();
    assert_eq!(said, ["L['x'].size()[0] <= 9", "1..9 s0; 2.. s1"]);
}

/// A tensor may be a view of something larger, so a record with more in it is read, and said.
#[test]
fn records_that_are_longer_than_their_tensors_are_noted() {
    let long = |more: usize| {
        let mut bytes = le(&[1., 2.]);
        bytes.extend(vec![0; more]);
        let p = Program::new(&[("x", F32, "2")]).weight("m.w", F32, "2", &bytes);
        p.then("aten.mul.Tensor", &[("self", t("x")), ("other", t("p_m_w"))], "y", F32, "2").output("y").read()
    };
    assert!(long(0).info.notes.is_empty());
    let [note] = &long(2).info.notes[..] else { panic!("{:?}", long(2).info.notes) };
    assert!(note.starts_with("1 records hold more than their tensors take: `data/weights/"), "{note}");
    assert!(note.ends_with("the first, 2 bytes"), "{note}");
}

/// They leave nothing in the graph, and nevertheless read only what is there.
#[test]
fn assertions_of_what_nothing_makes_are_refused() {
    let number = |name: &str| json!({"as_sym_bool": {"as_name": name}});
    for (target, argument) in [
        ("aten._assert_tensor_metadata.default", ("a", t("nothing"))),
        ("aten._assert_scalar.default", ("self", number("nothing"))),
        ("aten.sym_constrain_range_for_size.default", ("size", json!({"as_sym_int": {"as_name": "nothing"}}))),
        ("aten.sym_size.int", ("self", t("nothing"))),
    ] {
        let e = norm().node(call(target, &[argument], &[])).refused();
        assert!(
            e.contains("expected an operand that an input or an earlier node makes, found `nothing`"),
            "{target}: {e}"
        );
    }
    let mut made = call("_operator.ge", &[("a", int(1))], &[]);
    made["outputs"] = json!([number("ge")]);
    let p = norm().node(made).node(call("aten._assert_scalar.default", &[("self", number("ge"))], &[]));
    p.read();
}

#[test]
fn shapes_that_sizes_compute_are_read_off_the_inputs() {
    // [s0, s1, 6] -> [s0 * s1, 6] -> [s1, s0, 2, 3]: the second has two sizes that nothing else tells.
    let s = |n: &str| json!({"as_name": n});
    let p = Program::new(&[("x", F32, "s0;s1;6")])
        .sym("a", "x", 0, "s0")
        .sym("b", "x", 1, "Symbol('s1', positive=True, integer=True)")
        .then("aten.view.default", &[("self", t("x")), ("size", ints(&[-1, 6]))], "v", F32, "s0*s1;6")
        .then(
            "aten.view.default",
            &[("self", t("v")), ("size", json!({"as_sym_ints": [s("b"), s("a"), {"as_int": 2}, {"as_int": 3}]}))],
            "w",
            F32,
            "s1;s0;2;3",
        )
        .output("w");
    let out = p.run(&[f32s(&[2, 3, 6], &(0..36).map(|v| v as f32).collect::<Vec<_>>())]);
    assert_eq!(out[0].shape(), [3, 2, 2, 3]);
    let shapes = p.read().nodes().filter(|(_, n)| matches!(n.op, Op::Shape { .. })).count();
    assert_eq!(shapes, 2);
}

#[test]
fn calls_that_nobody_knows_pass_through_with_their_types() {
    let graph = Program::new(&[("x", F32, "s0;2")])
        .then("my.magic.default", &[("self", t("x")), ("k", int(3))], "y", F32, "s0;4")
        .then("aten.abs.default", &[("self", t("y"))], "z", F32, "s0;4")
        .output("z")
        .read();
    let (_, node) = graph.nodes().next().unwrap();
    let Op::Foreign(f) = &node.op else { panic!("{:?}", node.op) };
    assert_eq!((f.domain.as_str(), f.op_type.as_str(), f.reason.as_str()), ("my", "magic.default", "unknown op"));
    assert_eq!(graph.value(graph.outputs()[0].value).ty.shape.as_ref().unwrap().to_string(), "[s0, 4]");
}

#[test]
fn an_argument_that_an_op_does_not_know_keeps_it_foreign() {
    let p = |extra: serde_json::Value| {
        Program::new(&[("x", F32, "2")])
            .then("aten.silu.default", &[("self", t("x")), ("beta", extra)], "y", F32, "2")
            .output("y")
            .read()
    };
    let (_, node) = p(float(2.0)).nodes().next().map(|(i, n)| (i, n.clone())).unwrap();
    let Op::Foreign(f) = &node.op else { panic!("{:?}", node.op) };
    assert_eq!(f.reason, "argument `beta` is not known");
    assert!(!p(json!({"as_none": true})).nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))));
}

#[test]
fn equal_calls_are_one_node() {
    let p = Program::new(&[("x", F32, "2")])
        .then("aten.abs.default", &[("self", t("x"))], "a", F32, "2")
        .then("aten.abs.default", &[("self", t("x"))], "b", F32, "2")
        .then("aten.add.Tensor", &[("self", t("a")), ("other", t("b"))], "y", F32, "2")
        .output("y");
    assert_eq!(p.read().node_count(), 2);
    let out: Vec<Tensor> = p.run(&[f32s(&[2], &[-1., 3.])]);
    assert_eq!(floats(&out[0]), [2., 6.]);
}
