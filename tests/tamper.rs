//! Breaks the function body, the descriptor, both alike, and the source, and sees `verify` fail each time: a check that
//! cannot fail checks nothing.

mod common;

use std::path::{Path, PathBuf};

use common::{
    model, normfuse,
    onnx::{self, FunctionProto, ModelProto},
    s,
};
use tempfile::TempDir;

/// The DeepSeek graph and its rewrite.
fn compiled() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let source = model("deepseek_v3_fp8.onnx");
    let rewritten = folder.path().join("rewritten.onnx");
    normfuse(["compile", s(&source), "-o", s(&rewritten)]).code(0);
    normfuse(["verify", s(&source), s(&rewritten)]).code(0);
    (folder, source, rewritten)
}

/// The functions of our domain.
fn bodies(m: &mut ModelProto) -> impl Iterator<Item = &mut FunctionProto> {
    m.functions.iter_mut().filter(|f| f.domain() == normfuse::formats::onnx::DOMAIN)
}

/// Changes the eps of a fused node's descriptor.
fn change_descriptors(m: &mut ModelProto) {
    let graph = m.graph.as_mut().unwrap();
    let nodes = graph.node.iter_mut().filter(|n| n.domain() == normfuse::formats::onnx::DOMAIN);
    let mut changed = 0;
    for node in nodes {
        let attribute = node.attribute.iter_mut().find(|a| a.name() == "descriptor").expect("a descriptor");
        let mut json: serde_json::Value = serde_json::from_slice(attribute.s()).expect("JSON");
        for sibling in json["siblings"].as_array_mut().expect("siblings") {
            sibling["eps"] = serde_json::json!(0.5);
        }
        attribute.s = Some(json.to_string().into_bytes());
        changed += 1;
    }
    assert_eq!(changed, 4);
}

/// Makes every constant of the bodies that holds eps a half; returns how many there were.
fn change_eps_of_bodies(m: &mut ModelProto) -> usize {
    let mut changed = 0;
    for tensor in bodies(m).flat_map(|f| &mut f.node).flat_map(|n| &mut n.attribute).filter_map(|a| a.t.as_mut()) {
        if tensor.raw_data() == 1e-6f32.to_le_bytes() {
            tensor.raw_data = Some(0.5f32.to_le_bytes().to_vec().into());
            changed += 1;
        }
    }
    changed
}

#[test]
fn a_body_that_is_not_its_descriptor_is_refused() {
    let (_folder, source, rewritten) = compiled();
    let whole = onnx::load(&rewritten);
    // One op of one body at a time: not even the last one of them passes.
    let count = bodies(&mut whole.clone()).count();
    assert!(count >= 2, "{count} distinct bodies");
    for i in 0..count {
        let mut m = whole.clone();
        let body = bodies(&mut m).nth(i).unwrap();
        let root = body.node.iter_mut().find(|n| n.op_type() == "Sqrt").expect("every norm has a root");
        root.op_type = Some("Abs".into());
        onnx::save(&m, &rewritten);
        let done = normfuse(["verify", s(&source), s(&rewritten)]).code(2).says("rewritten.onnx");
        let done = done.says("compile the source model again");
        assert_eq!(done.stderr.matches("node `").count(), 1, "{}", done.stderr);
    }
}

#[test]
fn a_descriptor_that_is_not_its_body_is_refused() {
    let (_folder, source, rewritten) = compiled();
    let mut m = onnx::load(&rewritten);
    change_descriptors(&mut m);
    onnx::save(&m, &rewritten);
    normfuse(["verify", s(&source), s(&rewritten)]).code(2).says("rewritten.onnx");
    // Nor is it compiled, run or explained as if nothing were wrong.
    normfuse(["compile", s(&rewritten)]).code(2);
    normfuse(["run", s(&rewritten), "--dim", "batch=1", "--dim", "seq=2"]).code(2);
}

#[test]
fn the_text_form_is_held_to_the_same() {
    let (folder, source, _) = compiled();
    let path = folder.path().join("rewritten.nf");
    normfuse(["compile", s(&source), "-o", s(&path)]).code(0);
    let text = std::fs::read_to_string(&path).unwrap();
    // In the descriptor `eps` is a field, in the body it is a constant, and the root is an op.
    for (from, to) in [("eps=1e-6", "eps=0.5"), (": f32[] = 1e-6", ": f32[] = 0.5"), (" = sqrt(", " = abs(")] {
        assert!(text.contains(from), "no `{from}`");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        normfuse(["verify", s(&source), s(&path)]).code(2).says("rewritten.nf");
    }
}

#[test]
fn a_quantiser_alone_is_held_to_its_body() {
    let folder = tempfile::tempdir().unwrap();
    let folder_of_graphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/alone");
    let graphs = [("input_token.nf", "quantize/"), ("silu_token.nf", "gated_act/")];
    for (extension, (graph, op)) in [("nf", graphs[0]), ("nf", graphs[1]), ("json", graphs[0]), ("json", graphs[1])] {
        let source = folder_of_graphs.join(graph);
        let path = folder.path().join(format!("rewritten.{extension}"));
        normfuse(["compile", s(&source), "-o", s(&path), "--verify", "--require", "quant=1"]).code(0);
        normfuse(["verify", s(&source), s(&path)]).code(0);
        let text = std::fs::read_to_string(&path).unwrap();
        // The scheme comes first, the body's constants after it; one of both is changed.
        assert!(text.contains("448.0"), "{text}");
        std::fs::write(&path, text.replacen("448.0", "440.0", 1)).unwrap();
        let done = normfuse(["verify", s(&source), s(&path)]).code(2).says(op);
        assert!(done.stderr.contains("differ"), "{}", done.stderr);
    }
}

#[test]
fn a_fused_op_that_agrees_with_its_body_but_not_with_the_source_differs() {
    let (_folder, source, rewritten) = compiled();
    let mut m = onnx::load(&rewritten);
    change_descriptors(&mut m);
    assert!(change_eps_of_bodies(&mut m) >= 2);
    onnx::save(&m, &rewritten);
    let done = normfuse(["verify", s(&source), s(&rewritten)]).code(1);
    // The first fused op is named, with what it replaced.
    let first = onnx::load(&rewritten).graph.unwrap().node.into_iter().find(|n| n.domain() == "normfuse").unwrap();
    assert!(done.stderr.contains(&format!("first site that differs: `{}`", first.name())), "{}", done.stderr);
    assert!(done.stdout.contains("elements differ"), "{}", done.stdout);
}

#[test]
fn a_source_that_changed_differs_at_the_site_that_reads_the_change() {
    let (folder, source, rewritten) = compiled();
    let mut m = onnx::load(&source);
    let weights = &mut m.graph.as_mut().unwrap().initializer;
    let weight = weights.iter_mut().find(|t| t.name().ends_with("kv_a_layernorm.weight")).expect("a norm's weight");
    let mut bytes = weight.raw_data().to_vec();
    bytes[1] ^= 0x01; // the second byte of a bf16: sign and most of the exponent
    weight.raw_data = Some(bytes.into());
    let changed = folder.path().join("source.onnx");
    onnx::save(&m, &changed);
    let done = normfuse(["verify", s(&changed), s(&rewritten)]).code(1).says("first site that differs");
    let report = normfuse(["compile", s(&source), "--report", "json"]).code(0).json();
    let sites = report["sites"].as_array().unwrap();
    let fused = |name: &str| sites.iter().find(|s| s["op"] == name).is_some();
    let named = done.stderr.split('`').nth(1).unwrap();
    assert!(fused(named), "`{named}` is no fused op: {}", done.stderr);
}

#[test]
fn graphs_with_other_outputs_or_inputs_are_not_equal() {
    let (folder, source, rewritten) = compiled();
    let mut m = onnx::load(&rewritten);
    m.graph.as_mut().unwrap().output[0].name = Some("other".into());
    let other = folder.path().join("other.onnx");
    // The value must exist under its new name for the file to be legal.
    let graph = m.graph.as_mut().unwrap();
    graph.node.push(onnx::node("Identity", &["logits"], &["other"]));
    onnx::save(&m, &other);
    normfuse(["verify", s(&source), s(&other)]).code(1).says("outputs");
    normfuse(["verify", s(&source), s(&model("llama_ts.onnx"))]).code(1).says("inputs");
}

#[test]
fn a_fusion_that_we_got_wrong_is_called_ours() {
    let mut graph = normfuse::open(&model("deepseek_v3_fp8.onnx")).unwrap();
    let options =
        normfuse::passes::Options { supports: std::sync::Arc::new(normfuse::cpu::supports), ..Default::default() };
    normfuse::passes::run(&mut graph, &options).unwrap();
    let fused = graph.nodes().find_map(|(id, n)| match &n.op {
        normfuse::ir::Op::FusedNorm(f) => Some((id, n.name.clone(), (**f).clone())),
        _ => None,
    });
    let (id, name, mut descriptor) = fused.expect("a fused op");
    descriptor.siblings[0].eps = normfuse::ir::scheme::F32::new(0.5);
    graph.set_op(id, normfuse::ir::Op::FusedNorm(descriptor.into())).unwrap();
    let e = normfuse::passes::verify_bodies(&graph).unwrap_err();
    assert_eq!(e.node, Some(name));
    assert!(e.to_string().contains("a fault of normfuse"), "{e}");
    assert_eq!(e.to_string().matches("node `").count(), 1, "{e}");
}
