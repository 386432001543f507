//! In-place ops: values where that is provable, refused by name elsewhere.

use serde_json::json;

use crate::build::*;

fn slice(of: &str, from: i64, to: i64) -> Vec<(&'static str, serde_json::Value)> {
    vec![("self", t(of)), ("dim", int(1)), ("start", int(from)), ("end", int(to))]
}

fn buffer() -> Program {
    Program::new(&[("a", F32, "2;1"), ("b", F32, "2;2")]).then(
        "aten.new_empty.default",
        &[("self", t("a")), ("size", ints(&[2, 3]))],
        "k",
        F32,
        "2;3",
    )
}

fn inputs() -> [normfuse_ir::Tensor; 2] {
    [f32s(&[2, 1], &[1., 2.]), f32s(&[2, 2], &[3., 4., 5., 6.])]
}

fn copy(p: Program, into: &str, from: &str, name: &str, sizes: &str) -> Program {
    p.then("aten.copy_.default", &[("self", t(into)), ("src", t(from))], name, F32, sizes)
}

#[test]
fn fresh_memory_that_is_filled_in_pieces_is_their_concat() {
    // The later columns first: the order of writes is not that of the columns.
    let p = buffer().then("aten.slice.Tensor", &slice("k", 1, i64::MAX), "right", F32, "2;2");
    let p = copy(p, "right", "b", "c0", "2;2").then("aten.slice.Tensor", &slice("k", 0, 1), "left", F32, "2;1");
    let p = copy(p, "left", "a", "c1", "2;1").output("k");
    assert_eq!(floats(&p.run(&inputs())[0]), [1., 3., 4., 2., 5., 6.]);
}

#[test]
fn memory_that_is_read_before_it_is_full_is_refused() {
    let p = buffer().then("aten.slice.Tensor", &slice("k", 1, 3), "right", F32, "2;2");
    let e = copy(p, "right", "b", "c0", "2;2").output("k").refused();
    assert!(e.contains("graph output `k`") && e.contains("not written in full"), "{e}");
    let e = buffer().then("aten.abs.default", &[("self", t("k"))], "y", F32, "2;3").output("y").refused();
    assert!(e.contains("node `y`") && e.contains("not written in full"), "{e}");
}

#[test]
fn pieces_that_overlap_are_refused() {
    let p = buffer().then("aten.slice.Tensor", &slice("k", 1, 3), "right", F32, "2;2");
    let p = copy(p, "right", "b", "c0", "2;2").then("aten.slice.Tensor", &slice("k", 0, 2), "left", F32, "2;2");
    let e = copy(p, "left", "b", "c1", "2;2").output("k").refused();
    assert!(e.contains("node `c1`") && e.contains("overlaps"), "{e}");
}

#[test]
fn a_slice_of_a_value_that_is_written_is_that_value_with_the_slice_replaced() {
    let p = Program::new(&[("a", F32, "2;1"), ("b", F32, "2;2")])
        .then("aten.cat.default", &[("tensors", ts(&["b", "a"])), ("dim", int(1))], "k", F32, "2;3")
        .then("aten.slice.Tensor", &slice("k", 1, 2), "s", F32, "2;1");
    let p = copy(p, "s", "a", "c", "2;1").output("k").output("s").output("c");
    let out = p.run(&inputs());
    assert_eq!(floats(&out[0]), [3., 1., 1., 5., 2., 2.]);
    assert_eq!((floats(&out[1]), floats(&out[2])), (vec![1., 2.], vec![1., 2.]));
}

#[test]
fn memory_that_is_written_in_another_shape_has_the_values_in_its_own() {
    // As batched experts add their bias: to the squeezed product.
    let p = Program::new(&[("a", F32, "2;1"), ("b", F32, "2")])
        .then("aten.abs.default", &[("self", t("a"))], "k", F32, "2;1")
        .then("aten.squeeze.dim", &[("self", t("k")), ("dim", int(-1))], "s", F32, "2")
        .then("aten.add_.Tensor", &[("self", t("s")), ("other", t("b"))], "c", F32, "2")
        .then("aten.unsqueeze.default", &[("self", t("s")), ("dim", int(0))], "u", F32, "1;2")
        .then("aten.view.default", &[("self", t("u")), ("size", ints(&[2, 1]))], "v", F32, "2;1")
        .then("aten.mul_.Scalar", &[("self", t("v")), ("other", int(2))], "d", F32, "2;1")
        .output("k")
        .output("d");
    let out = p.run(&[f32s(&[2, 1], &[-1., 2.]), f32s(&[2], &[3., 4.])]);
    assert_eq!(out[0].shape(), [2, 1]);
    assert_eq!((floats(&out[0]), floats(&out[1])), (vec![8., 12.], vec![8., 12.]));
    // The name under which it was written first is not the memory any more.
    let e = p.output("s").refused();
    assert!(e.contains("`s`, whose memory `d` changed under another name"), "{e}");
    // What may be a copy is not.
    let p = Program::new(&[("a", F32, "2;1"), ("b", F32, "2")])
        .then("aten.abs.default", &[("self", t("a"))], "k", F32, "2;1")
        .then("aten.reshape.default", &[("self", t("k")), ("shape", ints(&[2]))], "s", F32, "2")
        .then("aten.add_.Tensor", &[("self", t("s")), ("other", t("b"))], "c", F32, "2")
        .output("k");
    let e = p.refused();
    assert!(e.contains("node `c`") && e.contains("a view or copy of `k`"), "{e}");
}

/// A reshape may be a view or a copy. Where nothing of its memory is read behind the write, nobody can tell.
#[test]
fn what_may_be_a_copy_is_written_where_nothing_else_of_it_is_read_again() {
    let before = || {
        Program::new(&[("a", F32, "2;1"), ("b", F32, "2")])
            .then("aten.abs.default", &[("self", t("a"))], "k", F32, "2;1")
            .then("aten.reshape.default", &[("self", t("k")), ("shape", ints(&[2]))], "s", F32, "2")
            .then("aten.unsqueeze.default", &[("self", t("s")), ("dim", int(0))], "u", F32, "1;2")
            .then("mine.kept.default", &[("x", t("k"))], "w", F32, "2;1")
            .then("aten.add_.Tensor", &[("self", t("s")), ("other", t("b"))], "c", F32, "2")
    };
    // Read by none that is left: the unknown op may have kept what it was given.
    let graph = before().output("c").output("s").read();
    assert_eq!(graph.outputs()[0].value, graph.outputs()[1].value);
    for later in ["k", "u", "w"] {
        let e = before().output("c").output(later).refused();
        assert!(e.contains("node `c`") && e.contains("`s`, a view or copy of `k`"), "{later}: {e}");
    }
}

/// Only memory that nothing was written into holds what one likes.
#[test]
fn memory_with_some_contents_is_not_read_as_zeros() {
    let ids = json!({"as_optional_tensors": [{"as_tensor": {"name": "i"}}]});
    let put = |p: Program| {
        let puts =
            [("self", t("k")), ("indices", ids.clone()), ("values", t("b")), ("accumulate", json!({"as_bool": false}))];
        p.then("aten.arange.default", &[("end", int(1))], "i", I64, "1")
            .then("aten.index_put_.default", &puts, "p", F32, "2;3")
            .output("k")
    };
    let fresh = || {
        let size = [("size", ints(&[2, 3]))];
        Program::new(&[("a", F32, "2;1"), ("b", F32, "3")]).then("aten.empty.memory_format", &size, "k", F32, "2;3")
    };
    let out = put(fresh()).run(&[f32s(&[2, 1], &[1., 2.]), f32s(&[3], &[3., 4., 5.])]);
    assert_eq!(floats(&out[0]), [3., 4., 5., 0., 0., 0.]);
    let p = copy(fresh().then("aten.slice.Tensor", &slice("k", 0, 1), "left", F32, "2;1"), "left", "a", "c", "2;1");
    let e = put(p).refused();
    assert!(e.contains("node `p`") && e.contains("not written in full"), "{e}");
}

#[test]
fn arithmetic_in_place_keeps_the_type_of_the_tensor() {
    let p = Program::new(&[("x", BF16, "2"), ("f", F32, "2")])
        .then("aten.abs.default", &[("self", t("x"))], "y", BF16, "2")
        .then("aten.div_.Tensor", &[("self", t("y")), ("other", t("f"))], "d", BF16, "2")
        .output("y")
        .output("d");
    let out = p.run(&[bf16s(&[2], &[-3., 5.]), f32s(&[2], &[2., 3.])]);
    assert_eq!(floats(&out[0]), floats(&bf16s(&[2], &[1.5, 5. / 3.])));
    assert_eq!(floats(&out[0]), floats(&out[1]));
}

#[test]
fn inputs_and_weights_are_not_written() {
    let e = Program::new(&[("x", F32, "2")])
        .then("aten.add_.Tensor", &[("self", t("x")), ("other", int(1))], "y", F32, "2")
        .output("y")
        .refused();
    assert!(e.contains("node `y`") && e.contains("which is `x` or a view of it"), "{e}");
    let view = [("self", t("p_w")), ("size", ints(&[1, 2]))];
    let e = Program::new(&[])
        .weight("w", F32, "2", &le(&[1., 2.]))
        .then("aten.view.default", &view, "v", F32, "1;2")
        .then("aten.mul_.Tensor", &[("self", t("v")), ("other", int(2))], "y", F32, "1;2")
        .output("y")
        .refused();
    assert!(e.contains("node `y`") && e.contains("`p_w` or a view of it"), "{e}");
}

#[test]
fn a_tensor_that_changes_under_another_name_is_not_read() {
    let base = || {
        Program::new(&[("x", F32, "2")]).then("aten.abs.default", &[("self", t("x"))], "y", F32, "2").then(
            "aten.view.default",
            &[("self", t("y")), ("size", ints(&[2, 1]))],
            "v",
            F32,
            "2;1",
        )
    };
    let add = [("self", t("y")), ("other", int(1))];
    let e = base().then("aten.add_.Tensor", &add, "z", F32, "2").output("v").refused();
    assert!(e.contains("`v`, whose memory `z` changed under another name"), "{e}");
    // A view that is all of the memory changes it.
    let add = [("self", t("v")), ("other", int(1))];
    let p = base().then("aten.add_.Tensor", &add, "z", F32, "2;1").output("y");
    assert_eq!(floats(&p.run(&[f32s(&[2], &[-1., 2.])])[0]), [2., 3.]);
}

#[test]
fn ops_in_place_that_nobody_knows_are_refused_by_name() {
    let mut p = Program::new(&[("x", F32, "2")])
        .then("aten.abs.default", &[("self", t("x"))], "y", F32, "2")
        .then("aten.erfinv_.default", &[("self", t("y"))], "z", F32, "2")
        .output("z");
    // Who has decomposed the program already is not told to.
    for (verifier, hint) in
        [("TRAINING", "export the model with run_decompositions()"), ("ATEN", "write it out of place")]
    {
        p.json["verifiers"] = json!([verifier]);
        let e = p.refused();
        assert!(e.contains("node `z`") && e.contains("torch.ops.aten.erfinv_.default") && e.contains(hint), "{e}");
    }
}

#[test]
fn new_contents_of_a_buffer_are_a_result() {
    let mut p = Program::new(&[("x", F32, "2")])
        .weight("cache", F32, "2", &le(&[1., 2.]))
        .then("aten.add.Tensor", &[("self", t("p_cache")), ("other", t("x"))], "y", F32, "2")
        .output("y");
    let spec = json!({"buffer_mutation": {"arg": {"name": "y"}, "buffer_name": "cache"}});
    p.json["graph_module"]["signature"]["output_specs"].as_array_mut().unwrap().push(spec);
    let graph = p.read();
    assert_eq!(graph.outputs().iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["y", "cache.new"]);
    assert!(graph.info.notes[0].contains("`cache` changes"), "{:?}", graph.info.notes);
}

/// `y`, new memory, and what a call makes of it.
fn of_new_memory(target: &str, inputs: &[(&str, serde_json::Value)], sizes: &str) -> Program {
    let new = Program::new(&[("x", F32, "2;3")]).then("aten.abs.default", &[("self", t("x"))], "y", F32, "2;3");
    let inputs = [&[("self", t("y"))], inputs].concat();
    new.then(target, &inputs, "v", F32, sizes)
}

/// Adds one to a tensor.
fn add(p: Program, to: &str, sizes: &str) -> Program {
    p.then("aten.add_.Tensor", &[("self", t(to)), ("other", int(1))], "w", F32, sizes)
}

#[test]
fn what_an_unknown_op_makes_may_be_its_operands_memory() {
    let calls = || {
        [
            of_new_memory("aten.unfold.default", &[("dimension", int(1)), ("size", int(3)), ("step", int(1))], "2;1;3"),
            of_new_memory("aten.diagonal.default", &[], "2"),
            of_new_memory("mine.part.default", &[], "2"),
        ]
    };
    for (p, sizes) in calls().into_iter().zip(["2;1;3", "2", "2"]) {
        let e = add(p, "v", sizes).output("y").refused();
        assert!(e.contains("node `w`") && e.contains("`v`, that is `v` or a view of it, which may share"), "{e}");
    }
    for p in calls() {
        let e = add(p, "y", "2;3").output("v").refused();
        assert!(e.contains("`v`, whose memory `w` changed under another name"), "{e}");
    }
    // Of another type it is no view, and what was made of one tensor says nothing of the next.
    let p = of_new_memory("aten.erfinv.default", &[], "2;3")
        .then("aten.isposinf.default", &[("self", t("y"))], "b", BOOL, "2;3")
        .then("aten.exp.default", &[("self", t("y"))], "e", F32, "2;3");
    let p = add(p, "y", "2;3");
    assert!(["b", "e"].iter().all(|name| p.clone().output(name).read().outputs().len() == 1));
}

#[test]
fn views_under_other_names_are_written_or_refused_as_views() {
    let p = of_new_memory("aten.narrow.default", &[("dim", int(1)), ("start", int(-2)), ("length", int(2))], "2;2");
    let p = add(p, "v", "2;2").output("y");
    assert_eq!(floats(&p.run(&[f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.])])[0]), [1., 3., 4., 4., 6., 7.]);
    let p = of_new_memory("aten.view_as.default", &[("other", t("x"))], "2;3");
    let p = add(p, "v", "2;3").output("y");
    assert_eq!(floats(&p.run(&[f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.])])[0]), [2., 3., 4., 5., 6., 7.]);
    let refused = [
        ("aten.movedim.int", vec![("source", int(0)), ("destination", int(1))], "3;2"),
        ("aten.mT.default", vec![], "3;2"),
        ("aten.ravel.default", vec![], "6"),
        ("aten.reshape_as.default", vec![("other", t("x"))], "2;3"),
        ("aten.expand_as.default", vec![("other", t("x"))], "2;3"),
        ("aten.swapaxes.default", vec![("axis0", int(0)), ("axis1", int(1))], "3;2"),
        (
            "aten.to.dtype",
            vec![("dtype", json!({"as_scalar_type": F32})), ("memory_format", json!({"as_memory_format": 2}))],
            "2;3",
        ),
    ];
    for (target, inputs, sizes) in refused {
        let e = add(of_new_memory(target, &inputs, sizes), "v", sizes).output("y").refused();
        assert!(e.contains("node `w`") && e.contains("`v`, a view or copy of `y`"), "{target}: {e}");
        let e = add(of_new_memory(target, &inputs, sizes), "y", "2;3").output("v").refused();
        assert!(e.contains("`v`, whose memory `w` changed under another name"), "{target}: {e}");
    }
}

#[test]
fn what_torch_passes_on_is_the_same_tensor() {
    let drop = [("input", t("y")), ("p", float(0.5)), ("train", json!({"as_bool": false}))];
    let same = [("self", t("y"))];
    for (target, inputs) in [("aten.dropout.default", &drop[..]), ("aten.resolve_neg.default", &same)] {
        let new = Program::new(&[("x", F32, "2;3")]).then("aten.abs.default", &[("self", t("x"))], "y", F32, "2;3");
        let p = add(new.then(target, inputs, "v", F32, "2;3"), "v", "2;3").output("y");
        assert_eq!(floats(&p.run(&[f32s(&[2, 3], &[1.; 6])])[0]), [2.; 6], "{target}");
    }
    for equation in ["ij->ji", "ij->ij"] {
        let inputs = [("equation", json!({"as_string": equation})), ("tensors", ts(&["y"]))];
        let sizes = if equation == "ij->ji" { "3;2" } else { "2;3" };
        let p = Program::new(&[("x", F32, "2;3")]).then("aten.abs.default", &[("self", t("x"))], "y", F32, "2;3").then(
            "aten.einsum.default",
            &inputs,
            "v",
            F32,
            sizes,
        );
        let e = add(p, "y", "2;3").output("v").refused();
        assert!(e.contains("`v`, whose memory `w` changed under another name"), "{equation}: {e}");
    }
}

#[test]
fn python_s_operators_in_place_are_in_place() {
    let p = || {
        Program::new(&[("x", I64, "2")]).then("aten.abs.default", &[("self", t("x"))], "y", I64, "2").then(
            "aten.view.default",
            &[("self", t("y")), ("size", ints(&[2, 1]))],
            "v",
            I64,
            "2;1",
        )
    };
    for (op, want) in [("iand", [1, 2]), ("ior", [3, 7]), ("ixor", [2, 5]), ("ilshift", [8, 48]), ("irshift", [0, 0])] {
        let target = format!("aten.__{op}__.Scalar");
        let inputs = [("self", t("y")), ("other", int(3))];
        let p = p().then(&target, &inputs, "w", I64, "2");
        let out = p.clone().output("y").run(&[normfuse_ir::Tensor::from_i64(&[2], &[-1, 6])]);
        assert_eq!(out[0].bytes(), normfuse_ir::Tensor::from_i64(&[2], &want).bytes(), "{op}");
        let e = p.output("v").refused();
        assert!(e.contains("`v`, whose memory `w` changed under another name"), "{op}: {e}");
    }
}

#[test]
fn an_unknown_op_without_a_result_has_changed_what_it_was_given() {
    let p = || {
        let mut p = of_new_memory("aten.view.default", &[("size", ints(&[6]))], "6");
        let node = call("mine.add_one.default", &[("x", t("v")), ("w", t("x"))], &[]);
        p.graph()["nodes"].as_array_mut().unwrap().push(node);
        p
    };
    for name in ["y", "v", "x"] {
        let e = p().output(name).refused();
        assert!(e.contains(&format!("`{name}`, whose memory `torch.ops.mine.add_one.default` changed")), "{e}");
    }
    // One with a result is said to be taken for a function.
    let graph = of_new_memory("mine.part.default", &[], "2").output("y").read();
    assert!(graph.info.notes[0].contains("`torch.ops.mine.part.default` is not known"), "{:?}", graph.info.notes);
}
