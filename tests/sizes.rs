//! Sizes of symbolic dimensions: `--dim`, and the ranges that a program was exported for. And the log, which is for people.

#[allow(dead_code)] // the reader's own tests use the rest
#[path = "../formats/tests/torch/build.rs"]
mod archive;
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use archive::{F32, Program, float, int, ints, t};
use common::{model, normfuse, s};
use normfuse::{formats::tensors, ir::Tensor};
use serde_json::json;

/// A norm of rows of 8, exported for 2 to 99 of them.
fn program(folder: &Path) -> PathBuf {
    let f = |name: &str| ("self", t(name));
    let mean = [f("pow_1"), ("dim", ints(&[-1])), ("keepdim", json!({"as_bool": true}))];
    let mut p = Program::new(&[("x", F32, "s0;8")])
        .then("aten.pow.Tensor_Scalar", &[f("x"), ("exponent", int(2))], "pow_1", F32, "s0;8")
        .then("aten.mean.dim", &mean, "mean", F32, "s0;1")
        .then("aten.add.Tensor", &[f("mean"), ("other", float(1e-6))], "add", F32, "s0;1")
        .then("aten.rsqrt.default", &[f("add")], "rsqrt", F32, "s0;1")
        .then("aten.mul.Tensor", &[f("x"), ("other", t("rsqrt"))], "y", F32, "s0;8")
        .output("y");
    p.json["range_constraints"] = json!({"s0": {"min_val": 2, "max_val": 99}});
    let path = folder.join("m.pt2");
    fs::write(&path, p.zip()).unwrap();
    path
}

#[test]
fn sizes_outside_of_the_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (m, out) = (program(folder.path()), folder.path().join("m.onnx"));
    let given = |rows: usize| {
        let file = folder.path().join(format!("{rows}.npz"));
        tensors::write(&file, &[("x".into(), Tensor::from_f32(&[rows, 8], &vec![1.0; rows * 8]))]).unwrap();
        file
    };
    // Random sizes are within it.
    let done = normfuse(["compile", s(&m), "-o", s(&out), "--verify", "--report", "json"]).code(0);
    assert_eq!(done.json()["verify"]["runs"], 3);
    let text = normfuse(["verify", s(&m), s(&out)]).code(0).stdout;
    assert!(text.contains(" s0=3") && !text.contains(" s0=1\n"), "{text}");
    // What was compiled knows it, too.
    for model in [&m, &out] {
        normfuse(["run", s(model), "--dim", "s0=99"]).code(0);
        normfuse(["run", s(model), "--dim", "s0=200"]).code(2).says("--dim s0=200: expected a size from 2 to 99");
        normfuse(["run", s(model), "--inputs", s(&given(99))]).code(0);
        for rows in [1, 200] {
            let done = normfuse(["run", s(model), "--inputs", s(&given(rows))]).code(2);
            let words = format!("{rows}.npz: input `x`, axis 0: expected `s0` from 2 to 99, found {rows}");
            assert!(done.stderr.contains(&words), "{}", done.stderr);
        }
    }
    normfuse(["verify", s(&m), s(&out), "--inputs", s(&given(200))]).code(2).says("found 200");
    normfuse(["verify", s(&m), s(&out), "--dim", "s0=1"]).code(2).says("--dim s0=1: expected a size from 2 to 99");
}

#[test]
fn compile_verifies_with_the_sizes_that_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let m = program(folder.path());
    let verify = |dim: &str| normfuse(["compile", s(&m), "--verify", "--dim", dim, "--report", "json"]);
    assert_eq!(verify("s0=64").code(0).json()["verify"]["runs"], 3);
    verify("s0=100").code(2).says("--dim s0=100: expected a size from 2 to 99");
    verify("rows=3").code(2).says("--dim rows: no input has such a dimension; symbolic ones: s0");
    normfuse(["compile", s(&m), "--dim", "s0=3"]).code(2).says("--verify");
}

#[test]
fn an_op_that_onnx_has_not_says_what_helps() {
    let folder = tempfile::tempdir().unwrap();
    let program =
        Program::new(&[("x", F32, "8")]).then("aten.some_op.default", &[("self", t("x"))], "y", F32, "8").output("y");
    let (m, out) = (folder.path().join("m.pt2"), folder.path().join("m.onnx"));
    fs::write(&m, program.zip()).unwrap();
    let done = normfuse(["compile", s(&m), "-o", s(&out)]).code(2);
    for part in ["some_op.default", "write .nf or .json instead", "run_decompositions()"] {
        assert!(done.stderr.contains(part), "expected {part:?} in {}", done.stderr);
    }
}

#[test]
fn the_log_is_about_the_program_and_without_colours() {
    let done = normfuse(["-v", "compile", s(&model("llama_ts.onnx"))]).code(0);
    assert_eq!(done.stderr, "", "nothing of note happens");
    let done = normfuse(["-vvv", "compile", s(&model("llama_ts.onnx"))]).code(0);
    assert!(done.stderr.contains("DEBUG fusing"), "{}", done.stderr);
    for noise in ["Iteration", "REBUILT", "\u{1b}"] {
        assert!(!done.stderr.contains(noise), "{noise:?} in {}", done.stderr);
    }
}
