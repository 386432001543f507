//! A checkpoint in DeepSeek-V3's layout and names, the bf16 program and the model's config.json.

use std::{
    fs,
    path::{Path, PathBuf},
};

use normfuse::{
    formats::{checkpoint::Checkpoint, tensors},
    ir::{Data, Tensor},
};
use serde_json::{Value, json};

use super::{
    common::{Done, normfuse, s},
    cosine, numbers,
};

/// A file of the model.
fn file(name: &str) -> PathBuf {
    super::file("deepseek_v3", name)
}

/// How a checkpoint of the model is named on the command line.
fn sources<'a>(weights: &'a Path, config: &'a Path) -> [&'a str; 6] {
    ["--weights", s(weights), "--weights-prefix", "model.", "--quant-config", s(config)]
}

/// The first result of a run.
fn run(args: &[&str], folder: &Path) -> Tensor {
    let out = folder.join("y.safetensors");
    normfuse([&["run"], args, &["--outputs", s(&out)]].concat()).code(0);
    tensors::read(&out).unwrap().swap_remove(0).1
}

#[test]
fn a_checkpoint_computes_what_torch_does() {
    let folder = tempfile::tempdir().unwrap();
    let (model, weights, config) = (file("model.pt2"), file("model.safetensors.index.json"), file("config.json"));
    let (inputs, fused) = (file("reference.npz"), folder.path().join("fused.onnx"));
    let from = sources(&weights, &config);
    let asked = ["-o", s(&fused), "--copy-weights", "--verify", "--require", "norm_quant=4", "--report", "json"];
    let report = normfuse([&["compile", s(&model)], &from[..], &asked].concat()).code(0).json();
    assert_eq!(
        report["quantised"],
        json!({"schemes": {"f8e4m3fn/block128x128 x f8e4m3fn/group128": 8}, "quantisers": 6, "left": ["model.lm_head"]}),
        "q_a and kv_a read one quantiser, gate and up another"
    );
    let (parameters, scales) = (14 + 1, 8);
    assert_eq!(report["weights"]["bound"], parameters + scales);
    assert_eq!(report["weights"]["kept"], json!(["model.model.rotary_emb.inv_freq"]));
    for site in report["sites"].as_array().unwrap() {
        assert_eq!(site["weights"].as_array().unwrap().len(), site["bound"], "{site}");
    }
    assert_eq!(report["verify"]["runs"], 3);

    let reference = tensors::read(&inputs).unwrap();
    let reference = numbers(&reference.iter().find(|(n, _)| n == "out.logits").expect("torch's result").1);
    let given = ["--inputs", s(&inputs)];
    let source = run(&[&[s(&model)], &from[..], &given].concat(), folder.path());
    let found = cosine(&reference, &numbers(&source));
    assert!(found >= 0.9995, "cosine {found}");
    let rewritten = run(&[&[s(&fused)], &given[..]].concat(), folder.path());
    assert_eq!(source.bytes(), rewritten.bytes());
    normfuse([&["verify", s(&model), s(&fused)], &from[..]].concat()).code(0);
    let text = normfuse([&["compile", s(&model)], &from[..]].concat()).code(0).stdout;
    assert!(text.contains("8 quantised (8 to f8e4m3fn/block128x128 x f8e4m3fn/group128), by 6 quantisers"), "{text}");
    let told = normfuse([&["explain", s(&model)], &from[..]].concat()).code(0).stdout;
    assert!(told.contains("reads model.model.layers.0.self_attn.q_a_layernorm.weight: 1 bound"), "{told}");
}

/// The checkpoint's tensors.
fn stored() -> Vec<(String, Tensor)> {
    let checkpoint = Checkpoint::open(&file("model.safetensors.index.json")).unwrap();
    let tensor = |(name, s): (&str, &normfuse::formats::checkpoint::Stored)| {
        let data = Data::External(s.region.clone());
        (name.to_owned(), Tensor::new(s.dtype.unwrap(), s.shape.clone(), data).unwrap())
    };
    checkpoint.tensors().map(tensor).collect()
}

/// Compiles with a checkpoint that was changed, and a config; nothing must be written.
fn compile(change: impl FnOnce(&mut Vec<(String, Tensor)>), config: Option<&Value>) -> Done {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut all = stored();
    change(&mut all);
    let (weights, described, out) = (at("w.safetensors"), at("config.json"), at("out.onnx"));
    tensors::write(&weights, &all).unwrap();
    match config {
        Some(config) => fs::write(&described, config.to_string()).unwrap(),
        None => drop(fs::copy(file("config.json"), &described).unwrap()),
    }
    let model = file("model.pt2");
    let from = sources(&weights, &described);
    let done = normfuse([&["compile", s(&model), "-o", s(&out), "--copy-weights"], &from[..]].concat());
    assert_eq!(out.exists(), done.code == 0);
    done
}

#[track_caller]
fn refused(done: &Done, words: &[&str]) {
    assert_eq!(done.code, 2, "{}", done.stderr);
    for w in words {
        assert!(done.stderr.contains(w), "expected {w:?} in {:?}", done.stderr);
    }
}

fn rename(all: &mut [(String, Tensor)], old: &str, new: &str) {
    all.iter_mut().find(|(n, _)| n == old).expect("a tensor of the checkpoint").0 = new.into();
}

const Q_A: &str = "model.layers.0.self_attn.q_a_proj";

#[test]
fn a_checkpoint_in_one_file_does_too() {
    compile(|_| {}, None).code(0);
}

#[test]
fn a_renamed_norm_weight_is_an_error() {
    let norm = "model.layers.0.self_attn.q_a_layernorm.weight";
    let done = compile(|all| rename(all, norm, "model.layers.0.self_attn.q_norm.weight"), None);
    refused(&done, &["1 missing, 1 extra", norm, "model.layers.0.self_attn.q_norm.weight"]);
}

#[test]
fn a_scale_that_is_missing_or_of_another_shape_is_an_error() {
    let scale = format!("{Q_A}.weight_scale_inv");
    let done = compile(|all| all.retain(|(n, _)| *n != scale), None);
    refused(&done, &["1 missing", &scale]);
    let done =
        compile(|all| all.iter_mut().find(|(n, _)| *n == scale).unwrap().1 = Tensor::from_f32(&[1, 1], &[1.0]), None);
    refused(&done, &["1 of another shape", &scale, "expected [2, 1], found f32[1, 1]"]);
    let done =
        compile(|all| all.iter_mut().find(|(n, _)| *n == scale).unwrap().1 = Tensor::from_i64(&[2, 1], &[1, 1]), None);
    refused(&done, &["1 of another type", &scale]);
}

#[test]
fn layers_that_the_config_leaves_are_as_the_program_has_them() {
    let mut config: Value = serde_json::from_slice(&fs::read(file("config.json")).unwrap()).unwrap();
    config["quantization_config"]["modules_to_not_convert"] = json!(["self_attn"]);
    let done = compile(|_| {}, Some(&config));
    refused(&done, &["of another type", "5 extra", "expected bf16, found f8e4m3fn[256, 128]"]);
}

/// As GPT-OSS's, which is for experts alone.
#[test]
fn a_config_that_leaves_every_layer_quantises_nothing_and_says_so() {
    let mut config: Value = serde_json::from_slice(&fs::read(file("config.json")).unwrap()).unwrap();
    config["quantization_config"]["modules_to_not_convert"] = json!(["layers", "lm_head"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let done = normfuse(["compile", s(&file("model.pt2")), "--quant-config", s(&path), "--weights-prefix", "model."]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("nothing is quantised: every linear layer"), "{}", done.stdout);
}

#[test]
fn a_config_that_is_not_known_is_an_error() {
    let known: Value = serde_json::from_slice(&fs::read(file("config.json")).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = known.clone();
        config["quantization_config"][key] = value;
        compile(|_| {}, Some(&config))
    };
    refused(&with("quant_method", json!("awq")), &["config.json", "quant_method", "`awq`"]);
    refused(&with("rotation", json!("hadamard")), &["config.json", "rotation"]);
    refused(&with("fmt", json!("e5m2")), &["config.json", "`fmt`", "e5m2"]);
    refused(
        &with("weight_block_size", json!([128, 96])),
        &["model.pt2", "q_a_proj", "multiple of 96 values, found 128"],
    );
    refused(&compile(|_| {}, Some(&json!({"hidden_size": 128}))), &["config.json", "quantization_config"]);
    let (model, config) = (file("model.pt2"), file("config.json"));
    let done = normfuse(["compile", s(&model), "--quant-config", s(&config), "-o", s(&config), "--emit", "onnx"]);
    refused(&done, &["the config itself"]);
    refused(&normfuse(["compile", s(&model), "--weights-prefix", "model."]), &["--weights"]);
    refused(&normfuse(["compile", s(&model), "--quant-config", "no/such.json"]), &["no/such.json"]);
}

/// A scale that no quantiser leaves makes every product NaN or nothing, and would be seen by nobody.
#[test]
fn scales_that_are_none_are_refused() {
    let name = format!("{Q_A}.weight_scale_inv");
    for bad in [f32::NAN, 0.0, -1.0, f32::INFINITY] {
        let done = compile(
            |all| {
                let (_, scale) = all.iter_mut().find(|(n, _)| *n == name).expect("a scale");
                let mut numbers = vec![0.5; scale.len()];
                *numbers.last_mut().unwrap() = bad;
                *scale = Tensor::from_f32(scale.shape(), &numbers);
            },
            None,
        );
        let at = format!("found {bad} at element");
        refused(&done, &["1 no scale", &format!("model.{name}, expected finite numbers above 0"), &at]);
    }
}

#[test]
fn a_checkpoint_that_is_not_quantised_is_no_source_of_codes() {
    let done = compile(|all| all.retain(|(n, _)| !n.ends_with("weight_scale_inv")), None);
    refused(&done, &["none of the 8 scales that the config asks for", "it is not quantised", "Without --weights"]);
}

/// Lists of transformers name what is no linear layer, too.
#[test]
fn what_the_config_s_lists_name_in_vain_is_noted() {
    let mut config: Value = serde_json::from_slice(&fs::read(file("config.json")).unwrap()).unwrap();
    let at = match config.get_mut("quantization_config") {
        Some(inner) => inner,
        None => &mut config,
    };
    at["modules_to_not_convert"] = json!(["lm_head", "model.embed_tokens", "nrom"]);
    let done = compile(|_| {}, Some(&config));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let note = "the config names what is no linear layer of the model: `model.embed_tokens`, `nrom`";
    assert!(done.stdout.contains(note), "{}", done.stdout);
}

#[test]
fn without_a_checkpoint_quantised_parameters_are_inputs() {
    let (model, config) = (file("model.pt2"), file("config.json"));
    let from = ["--quant-config", s(&config), "--weights-prefix", "model."];
    let made = ["--verify", "--random-weights", "1", "--report", "json"];
    let report = normfuse([&["compile", s(&model)], &from[..], &made].concat()).code(0).json();
    assert_eq!(report["verify"]["runs"], 3);
    assert_eq!(report["summary"]["fused"]["norm_quant"], 4);
    let note = report["notes"][0].as_str().unwrap();
    assert!(note.starts_with("23 parameters have no data"), "{note}");
}
