//! One small real export per exporter: recognised, rewritten, and run against what torch computed.

mod common;

use std::path::Path;

use common::{model, normfuse, s};
use normfuse::{
    formats::tensors,
    ir::{DType, Op, Tensor, eval},
};

fn numbers(t: &Tensor) -> Vec<f64> {
    let wide = eval::eval_node(&Op::Cast { to: DType::F64, saturate: false }, &[Some(t)]).unwrap();
    wide[0].bytes().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Runs the source and the rewritten model on the inputs in the `.npz` beside it; returns torch's logits and both of ours.
fn logits(file: &str) -> [Vec<f64>; 3] {
    let folder = tempfile::tempdir().unwrap();
    let (source, inputs) = (model(file), model(file).with_extension("npz"));
    let rewritten = folder.path().join("rewritten.onnx");
    normfuse(["compile", s(&source), "-o", s(&rewritten), "--verify", "--copy-weights"]).code(0);
    normfuse(["verify", s(&source), s(&rewritten), "--inputs", s(&inputs)]).code(0);
    let run = |model: &Path, out: &str| {
        let out = folder.path().join(out);
        normfuse(["run", s(model), "--inputs", s(&inputs), "--outputs", s(&out)]).code(0);
        // The one result; torch.export has names of its own for results.
        numbers(&tensors::read(&out).unwrap()[0].1)
    };
    let stored = tensors::read(&inputs).unwrap();
    let reference = numbers(&stored.iter().find(|(n, _)| n == "out.logits").expect("torch's result").1);
    [reference, run(&source, "a.npz"), run(&rewritten, "b.safetensors")]
}

fn assert_close(file: &str, tolerance: f64) {
    let [want, before, after] = logits(file);
    assert_eq!(before, after);
    let largest = want.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let off = want.iter().zip(&after).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
    assert!(off <= tolerance * largest, "{file}: off by {off}, largest {largest}");
}

fn assert_aligned(file: &str, cosine: f64) {
    let [want, before, after] = logits(file);
    assert_eq!(before, after);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let found = dot(&want, &after) / (dot(&want, &want) * dot(&after, &after)).sqrt();
    assert!(found >= cosine, "{file}: cosine {found}");
}

#[test]
fn dynamo_exporter_fp8_groups() {
    assert_aligned("deepseek_v3_fp8.onnx", 0.9995);
}

#[test]
fn torchscript_exporter() {
    assert_close("llama_ts.onnx", 1e-5);
    let report = normfuse(["compile", s(&model("llama_ts.onnx")), "--report", "json"]).code(0).json();
    assert_eq!((&report["summary"]["norms"], &report["summary"]["fused"]["norm"]), (&3.into(), &3.into()));
}

/// torch repeats a quantiser for each reader, and ONNX's exporter merges equal ones.
#[test]
fn quantisers_of_a_summary_add_up() {
    for (file, counts) in [
        ("deepseek_v3_static.pt2", "6 recognised, 4 fused with norms, 2 equal to one of those, 0 alone"),
        ("deepseek_v3_static.onnx", "4 recognised, 4 fused with norms, 0 alone"),
    ] {
        let text = normfuse(["compile", s(&model(file))]).code(0).stdout;
        let row = text.lines().find(|l| l.trim_start().starts_with("quantisers")).unwrap_or_else(|| panic!("{text}"));
        assert!(row.ends_with(counts), "{file}: {row}");
    }
    let report = normfuse(["compile", s(&model("deepseek_v3_static.pt2")), "--report", "json"]).code(0).json();
    assert_eq!(report["summary"]["merged_quants"], 2);
}

#[test]
fn native_norm_ops() {
    assert_aligned("llama_native.onnx", 0.9995);
    let report = normfuse(["compile", s(&model("llama_native.onnx")), "--report", "json"]).code(0).json();
    assert_eq!(report["summary"]["norms"], 3);
}

#[test]
fn torch_export_archive() {
    assert_aligned("deepseek_v3_fp8.pt2", 0.9995);
}

#[test]
fn rotary_embeddings_by_complex_numbers() {
    assert_aligned("deepseek_v2.pt2", 0.9995);
}

/// Also a layer whose queries are scaled by `log1p` of their position.
#[test]
fn chunked_attention_and_experts() {
    assert_aligned("llama4.pt2", 0.9995);
    let report = normfuse(["compile", s(&model("llama4.pt2")), "--report", "json"]).code(0).json();
    // Before attention, of q and k in the layer that rotates them, before experts and MLP, and the last one.
    assert_eq!(report["summary"]["norms"], 7);
}
