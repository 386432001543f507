//! `verify --bisect`: fused ops that are each sound, some of them wired to the wrong value, and the ones that are named.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, model, normfuse, onnx, s};
use tempfile::TempDir;

/// Fused ops of the DeepSeek graph, what they read, and something else of the same type: another norm's weight, or rows
/// from elsewhere. The second op is the dual norm; its first norm has a width of its own, so nothing else fits that one.
const WRONG: [(&str, &str, &str); 4] = [
    (
        "fused_norm/node_mean",
        "fused_norm(%embedding, %model.model.layers.0.input_layernorm.weight)",
        "fused_norm(%embedding, %model.model.layers.0.post_attention_layernorm.weight)",
    ),
    (
        "fused_norm/node_mean_1",
        "%model.model.layers.0.self_attn.kv_a_layernorm.weight) {prologue",
        "%model.model.layers.0.input_layernorm.weight) {prologue",
    ),
    ("fused_norm/node_mean_3", "fused_norm(%embedding, %linear_4, ", "fused_norm(%linear_4, %linear_4, "),
    ("fused_norm/node_mean_4", "fused_norm(%add_30, ", "fused_norm(%embedding, "),
];

struct Case {
    folder: TempDir,
    source: PathBuf,
    text: String,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = model("deepseek_v3_fp8.onnx");
        let out = folder.path().join("rewritten.nf");
        normfuse(["compile", s(&source), "-o", s(&out)]).code(0);
        let text = std::fs::read_to_string(&out).unwrap();
        Self { folder, source, text }
    }

    /// The rewritten graph with these of [`WRONG`] put in, as a file.
    fn tampered(&self, wrong: &[usize]) -> PathBuf {
        let mut text = self.text.clone();
        for (_, from, to) in wrong.iter().map(|i| WRONG[*i]) {
            assert_eq!(text.matches(from).count(), 1, "`{from}`");
            text = text.replace(from, to);
        }
        let path = self.folder.path().join("tampered.nf");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn bisect(&self, rewritten: &Path, more: &[&str]) -> Done {
        let args = ["verify", s(&self.source), s(rewritten), "--bisect"];
        normfuse(args.into_iter().chain(more.iter().copied()))
    }
}

/// Lines of the section `bisect` that name a site, as `site: first source node`.
fn named(done: &Done) -> Vec<String> {
    let section = done.stdout.split("\nbisect\n").nth(1).unwrap_or_else(|| panic!("no section in {}", done.stdout));
    let site = |line: &str| {
        let (name, replaced) = line.trim().split_once(": replaced ")?;
        Some(format!("{name}: {}", replaced.split(", ").next()?))
    };
    section.lines().filter_map(site).collect()
}

#[test]
fn the_one_wrong_site_of_several_is_named() {
    let case = Case::new();
    for (i, first) in [(0, "node__to_copy_4"), (1, "node__to_copy_13"), (2, "node_add_30"), (3, "node_add_47")] {
        let done = case.bisect(&case.tampered(&[i]), &[]).code(1).says("first site that differs");
        assert_eq!(named(&done), [format!("{}: {first}", WRONG[i].0)], "{}", done.stdout);
        assert!(done.stdout.contains("1 of 4 fused sites makes the difference"), "{}", done.stdout);
    }
}

#[test]
fn two_wrong_sites_are_both_named() {
    let case = Case::new();
    let done = case.bisect(&case.tampered(&[1, 3]), &[]).code(1);
    assert_eq!(named(&done), ["fused_norm/node_mean_1: node__to_copy_13", "fused_norm/node_mean_4: node_add_47"]);
    assert!(done.stdout.contains("2 of 4 fused sites make the difference"), "{}", done.stdout);
}

#[test]
fn given_inputs_and_json_files_are_bisected_too() {
    let case = Case::new();
    let inputs = model("deepseek_v3_fp8.npz");
    let json = case.folder.path().join("tampered.json");
    normfuse(["compile", s(&case.tampered(&[0])), "-o", s(&json)]).code(0);
    let done = case.bisect(&json, &["--inputs", s(&inputs)]).code(1);
    assert!(done.stdout.starts_with("inputs of "), "{}", done.stdout);
    assert_eq!(named(&done), ["fused_norm/node_mean: node__to_copy_4"]);
}

#[test]
fn a_weight_with_other_contents_under_its_name_is_found_at_the_site_that_reads_it() {
    let case = Case::new();
    let mut m = onnx::load(&case.source);
    let weights = &mut m.graph.as_mut().unwrap().initializer;
    let weight = weights.iter_mut().find(|t| t.name().ends_with("kv_a_layernorm.weight")).expect("a norm's weight");
    let mut bytes = weight.raw_data().to_vec();
    bytes[1] ^= 0x01; // the second byte of a bf16: sign and most of the exponent
    weight.raw_data = Some(bytes.into());
    let changed = case.folder.path().join("source.onnx");
    onnx::save(&m, &changed);
    let rewritten = case.tampered(&[]);
    let done = normfuse(["verify", s(&changed), s(&rewritten), "--bisect"]).code(1);
    assert_eq!(named(&done), ["fused_norm/node_mean_1: node__to_copy_13"], "{}", done.stdout);
}

#[test]
fn a_difference_outside_of_fused_sites_is_not_blamed_on_them() {
    let case = Case::new();
    let path = case.folder.path().join("tampered.nf");
    assert!(case.text.contains(" = sigmoid("));
    std::fs::write(&path, case.text.replace(" = sigmoid(", " = tanh(")).unwrap();
    let done = case.bisect(&path, &[]).code(1);
    assert_eq!(named(&done), [""; 0]);
    assert!(done.stdout.contains("with all 4 fused sites off there is still a difference"), "{}", done.stdout);
}

#[test]
fn where_nothing_differs_there_is_nothing_to_find() {
    let case = Case::new();
    let done = case.bisect(&case.tampered(&[]), &[]).code(0);
    assert!(!done.stdout.contains("bisect"), "{}", done.stdout);
}
