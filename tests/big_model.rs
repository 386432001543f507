//! A model with 100 GB of weights: compiling it takes no memory for them and copies none of them.

mod common;

use std::fs::File;

use common::{
    files, normfuse,
    onnx::{self, FLOAT, GraphProto, external, floats, model, node, rms_norm, value},
};

/// Rows of 64 Ki values, and square f32 matrices of 16 GiB.
const WIDTH: i64 = 1 << 16;
const MATRIX: u64 = 4 << 32;
const LAYERS: u64 = 6;

#[test]
fn a_hundred_gigabytes_stay_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (mut nodes, mut weights) = (Vec::new(), vec![floats("two", &[], &[2.0]), floats("eps", &[], &[1e-6])]);
    let mut row = "x".to_owned();
    let norms_at = LAYERS * MATRIX;
    for i in 0..LAYERS {
        let (matrix, weight) = (format!("layer{i}.proj.weight"), format!("layer{i}.norm.weight"));
        let (normed, product, next) = (format!("normed{i}"), format!("product{i}"), format!("row{i}"));
        nodes.extend(rms_norm(&format!("layer{i}."), &row, &weight, &normed));
        nodes.push(node("MatMul", &[&normed, &matrix], &[&product]));
        nodes.push(node("Add", &[&product, &row], &[&next]));
        weights.push(external(&matrix, &[WIDTH, WIDTH], "weights.bin", i * MATRIX, MATRIX));
        weights.push(external(&weight, &[WIDTH], "weights.bin", norms_at + i * 4 * WIDTH as u64, 4 * WIDTH as u64));
        row = next;
    }
    let m = model(GraphProto {
        node: nodes,
        input: vec![value("x", FLOAT, &[0, WIDTH])],
        output: vec![value(&row, FLOAT, &[0, WIDTH])],
        initializer: weights,
        ..GraphProto::default()
    });
    let source = folder.path().join("big.onnx");
    onnx::save(&m, &source);
    let length = norms_at + LAYERS * 4 * WIDTH as u64;
    assert!(length > 100_000_000_000);
    // A hole: the length is real, the blocks are not.
    File::create(folder.path().join("weights.bin")).and_then(|f| f.set_len(length)).expect("a sparse file");

    let out = folder.path().join("fused.onnx");
    let done =
        normfuse(["compile", source.to_str().unwrap(), "-o", out.to_str().unwrap(), "--verify", "--report", "json"])
            .code(0);
    let report = done.json();
    assert_eq!(report["summary"]["fused"]["norm"], LAYERS);
    assert!(report["verify"]["skipped"].is_string() && report["verify"]["bodies"].as_u64() >= Some(1), "{report}");
    if cfg!(target_os = "linux") {
        assert!((1..200 << 10).contains(&done.peak_kib), "{} KiB", done.peak_kib);
    }
    assert_eq!(files(folder.path()), ["big.onnx", "fused.onnx", "weights.bin"]);
    assert!(out.metadata().unwrap().len() < 5_000_000);

    // In another folder the weights would have to be copied, and that is for the user to ask for.
    let elsewhere = tempfile::tempdir().unwrap();
    let out = elsewhere.path().join("fused.onnx");
    normfuse(["compile", source.to_str().unwrap(), "-o", out.to_str().unwrap()]).code(2).says("copy");
    assert_eq!(files(elsewhere.path()), [""; 0]);
}
