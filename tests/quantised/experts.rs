//! A checkpoint that has the tensors of each expert, and a program that has all experts in one parameter.

use std::path::PathBuf;

use normfuse::{
    formats::{checkpoint::Checkpoint, tensors},
    ir::{Data, Tensor},
};

use super::{
    common::{Done, normfuse, s},
    cosine, numbers,
};

/// A file of the model.
fn file(name: &str) -> PathBuf {
    super::file("deepseek_v3_moe", name)
}

const EXPERT: &str = "model.layers.0.mlp.experts.2";

#[test]
fn experts_compute_what_torch_does() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (model, weights, config) = (file("model.pt2"), file("model.safetensors.index.json"), file("config.json"));
    let from = ["--weights", s(&weights), "--weights-prefix", "model.", "--quant-config", s(&config)];
    let (fused, out, inputs) = (at("fused.onnx"), at("y.safetensors"), file("reference.npz"));
    let asked = ["-o", s(&fused), "--copy-weights", "--verify", "--report", "json"];
    let report = normfuse([&["compile", s(&model)], &from[..], &asked].concat()).code(0).json();
    let (parameters, experts, scales) = (17, 3 * 3 * 2, 8);
    assert_eq!(report["weights"]["bound"], parameters + experts + scales);
    assert_eq!(report["verify"]["runs"], 3);
    let note = "2 parameters of all experts are made of the 18 that the checkpoint has for each";
    assert_eq!(report["notes"][0], note);

    let given = ["--inputs", s(&inputs), "--outputs", s(&out)];
    let run = |args: &[&str]| {
        normfuse([&["run"], args, &given].concat()).code(0);
        tensors::read(&out).unwrap().swap_remove(0).1
    };
    let source = run(&[&[s(&model)], &from[..]].concat());
    let reference = tensors::read(&inputs).unwrap();
    let reference = numbers(&reference.iter().find(|(n, _)| n == "out.logits").expect("torch's result").1);
    let found = cosine(&reference, &numbers(&source));
    assert!(found >= 0.9995, "cosine {found}");
    assert_eq!(source.bytes(), run(&[s(&fused)]).bytes());
    normfuse([&["verify", s(&model), s(&fused)], &from[..]].concat()).code(0);
}

/// Compiles with a checkpoint that was changed.
fn compile(change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> Done {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&file("model.safetensors.index.json")).unwrap();
    let tensor = |(name, s): (&str, &normfuse::formats::checkpoint::Stored)| {
        let data = Data::External(s.region.clone());
        (name.to_owned(), Tensor::new(s.dtype.unwrap(), s.shape.clone(), data).unwrap())
    };
    let mut all = checkpoint.tensors().map(tensor).collect();
    change(&mut all);
    let (model, weights, config) = (file("model.pt2"), folder.path().join("w.safetensors"), file("config.json"));
    tensors::write(&weights, &all).unwrap();
    let from = ["--weights", s(&weights), "--weights-prefix", "model.", "--quant-config", s(&config)];
    normfuse([&["compile", s(&model)], &from[..]].concat())
}

#[test]
fn what_does_not_fit_is_named_by_expert() {
    let (gate, down) = (format!("{EXPERT}.gate_proj.weight"), format!("{EXPERT}.down_proj.weight_scale_inv"));
    let done = compile(|all| {
        all.retain(|(name, _)| *name != gate);
        all.iter_mut().find(|(name, _)| *name == down).unwrap().1 = Tensor::from_f32(&[2, 1], &[1.0, 1.0]);
        all.push((EXPERT.replace('2', "3") + ".up_proj.weight", Tensor::from_f32(&[1], &[1.0])));
    })
    .code(2);
    let sizes = "expected [1, 1], found f32[2, 1]";
    for part in
        ["1 missing, 1 extra, 1 of another shape", &gate, "f8e4m3fn[128, 128]", &down, sizes, "experts.3.up_proj"]
    {
        assert!(done.stderr.contains(part), "expected {part:?} in {:?}", done.stderr);
    }
    let done =
        compile(|all| all.iter_mut().find(|(name, _)| *name == down).unwrap().1 = Tensor::from_f32(&[1, 1], &[-1.0]));
    done.code(2).says("1 no scale");
}
