//! Weights from checkpoints: bound by name, all or none, seen in the report, and found by whoever reads what was written.

#[allow(dead_code)] // the reader's own tests use the rest
#[path = "../formats/tests/torch/build.rs"]
mod archive;
mod common;

use std::{fs, path::PathBuf};

use archive::{F32, Program, float, int, ints, meta, t};
use common::{Done, files, normfuse, onnx, s};
use normfuse::{formats::tensors, ir::Tensor};
use serde_json::json;

/// A folder with a program and checkpoints.
struct Disk(tempfile::TempDir);

const NORM: &str = "model.norm.weight";
const HEAD: &str = "model.head.weight";

/// The tensors that the program's parameters are.
fn weights() -> Vec<(String, Tensor)> {
    let ramp = |n: usize, step: f32| (0..n).map(|i| 0.5 + i as f32 * step).collect::<Vec<_>>();
    vec![
        (NORM.into(), Tensor::from_f32(&[8], &ramp(8, 0.25))),
        (HEAD.into(), Tensor::from_f32(&[4, 8], &ramp(32, 0.01))),
    ]
}

impl Disk {
    /// A folder with `m.pt2`: a norm of rows of 8 and a linear layer, exported without data.
    fn new() -> Self {
        let f = |name: &str| ("self", t(name));
        let mut p = Program::new(&[("x", F32, "s0;8")]).weight(NORM, F32, "8", &[]).weight(HEAD, F32, "4;8", &[]);
        for (name, sizes) in [(NORM, "8"), (HEAD, "4;8")] {
            p.weights[name]["tensor_meta"] = meta(F32, sizes, "meta");
        }
        let mean = [f("pow_1"), ("dim", ints(&[-1])), ("keepdim", json!({"as_bool": true}))];
        let p = p
            .then("aten.pow.Tensor_Scalar", &[f("x"), ("exponent", int(2))], "pow_1", F32, "s0;8")
            .then("aten.mean.dim", &mean, "mean", F32, "s0;1")
            .then("aten.add.Tensor", &[f("mean"), ("other", float(1e-6))], "add", F32, "s0;1")
            .then("aten.rsqrt.default", &[f("add")], "rsqrt", F32, "s0;1")
            .then("aten.mul.Tensor", &[f("x"), ("other", t("rsqrt"))], "mul", F32, "s0;8")
            .then("aten.mul.Tensor", &[f("p_model_norm_weight"), ("other", t("mul"))], "mul_1", F32, "s0;8")
            .then(
                "aten.linear.default",
                &[("input", t("mul_1")), ("weight", t("p_model_head_weight"))],
                "y",
                F32,
                "s0;4",
            )
            .output("y");
        let disk = Self(tempfile::tempdir().unwrap());
        fs::write(disk.path("m.pt2"), p.zip()).unwrap();
        let x: Vec<f32> = (0..16).map(|i| (i as f32 - 7.0) * 0.3).collect();
        tensors::write(&disk.path("in.npz"), &[("x".into(), Tensor::from_f32(&[2, 8], &x))]).unwrap();
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn save(&self, name: &str, named: &[(String, Tensor)]) -> PathBuf {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        tensors::write(&self.path(name), named).unwrap();
        self.path(name)
    }

    /// Compiles the program with these arguments behind the usual ones.
    fn compile(&self, more: &[&str]) -> Done {
        let (m, out) = (self.path("m.pt2"), self.path("out.onnx"));
        normfuse([&["compile", s(&m), "-o", s(&out), "--report", "json"], more].concat())
    }

    /// What a model computes of `in.npz`.
    fn run(&self, model: &str, more: &[&str]) -> Vec<u8> {
        let (m, inputs, out) = (self.path(model), self.path("in.npz"), self.path("y.safetensors"));
        let usual = ["run", s(&m), "--inputs", s(&inputs), "--outputs", s(&out)];
        normfuse([&usual, more].concat()).code(0);
        let made = tensors::read(&out).unwrap();
        fs::remove_file(out).unwrap();
        made[0].1.bytes().to_vec()
    }
}

#[test]
fn a_program_gets_its_weights_and_what_was_written_points_at_them() {
    let disk = Disk::new();
    let file = disk.save("w.safetensors", &weights());
    let done = disk.compile(&["--weights", s(&file), "--verify", "--require", "norm=1"]).code(0);
    let report = done.json();
    assert_eq!(report["sites"][0]["weights"], json!([NORM]));
    assert_eq!(report["sites"][0]["bound"], 1);
    assert_eq!(
        report["weights"],
        json!({"checkpoint": "w.safetensors", "bound": 2, "unread": [], "kept": [], "open": [], "extra": []})
    );
    assert_eq!((&report["notes"], &report["verify"]["runs"]), (&json!([]), &json!(3)));
    let graph = onnx::load(&disk.path("out.onnx")).graph.unwrap();
    for t in graph.initializer.iter().filter(|t| [NORM, HEAD].contains(&t.name())) {
        assert_eq!(t.external_data[0].value(), "w.safetensors", "{}", t.name());
    }
    assert_eq!(graph.input.len(), 1);
    let bound = disk.run("m.pt2", &["--weights", s(&file)]);
    assert_eq!(bound, disk.run("out.onnx", &[]));
    // As torch computes it.
    let x: Vec<f64> = (0..8).map(|i| (f64::from(i) - 7.0) * 0.3).collect();
    let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / 8.0 + 1e-6).sqrt();
    let want: f64 = x.iter().enumerate().map(|(i, v)| v * r * (0.5 + i as f64 * 0.25) * (0.5 + i as f64 * 0.01)).sum();
    let found = f64::from(f32::from_le_bytes(bound[..4].try_into().unwrap()));
    assert!((want - found).abs() < 1e-4, "{want} {found}");
    let (m, out) = (disk.path("m.pt2"), disk.path("out.onnx"));
    normfuse(["verify", s(&m), s(&out), "--weights", s(&file)]).code(0);
    let text = normfuse(["compile", s(&m), "--weights", s(&file)]).code(0).stdout;
    assert!(text.contains("1 read by fused ops, all bound"), "{text}");
    assert!(text.contains("2 parameters bound to w.safetensors\n") && text.contains("1 bound\n"), "{text}");
    let told = normfuse(["explain", s(&m), "--weights", s(&file)]).code(0).stdout;
    assert!(told.contains("reads model.norm.weight: 1 bound\n"), "{told}");
}

/// `verify` binds the checkpoint to the model. What was written keeps its own data, or a wrong weight would be mended before
/// anybody compares.
#[test]
fn a_weight_that_was_written_wrong_is_compared_as_it_was_written() {
    let disk = Disk::new();
    let mut wrong = weights();
    wrong[0].1 = Tensor::from_f32(&[8], &[1.0; 8]);
    let wrong = disk.save("wrong.safetensors", &wrong);
    disk.compile(&["--weights", s(&wrong)]).code(0);
    let (m, out) = (disk.path("m.pt2"), disk.path("out.onnx"));
    let file = disk.save("w.safetensors", &weights());
    normfuse(["verify", s(&m), s(&out), "--weights", s(&file)]).code(1).says("first site that differs");
    normfuse(["verify", s(&m), s(&out), "--weights", s(&wrong)]).code(0);
    // What was written without data gets the checkpoint's.
    disk.compile(&[]).code(0);
    normfuse(["verify", s(&m), s(&out), "--weights", s(&file)]).code(0);
}

#[test]
fn without_weights_the_report_says_so() {
    let disk = Disk::new();
    let report = disk.compile(&["--verify"]).code(0).json();
    assert_eq!((&report["sites"][0]["weights"], &report["sites"][0]["bound"]), (&json!([NORM]), &json!(0)));
    assert!(report["verify"]["skipped"].as_str().unwrap().contains("2 parameters have no data"), "{report}");
    assert!(report["notes"][0].as_str().unwrap().contains("--weights"), "{report}");
    let m = disk.path("m.pt2");
    let text = normfuse(["compile", s(&m)]).code(0).stdout;
    assert!(text.contains("1 read by fused ops, 0 bound, 1 not") && text.contains("0 of 1 bound"), "{text}");
    normfuse(["run", s(&m), "--dim", "s0=2"]).code(2).says("--random-weights SEED");
    normfuse(["run", s(&m), "--inputs", s(&disk.path("in.npz"))]).code(2).says("--weights FILE");
}

#[test]
fn a_renamed_norm_weight_is_an_error_with_both_names_and_no_file() {
    let disk = Disk::new();
    let mut renamed = weights();
    renamed[0].0 = "model.norm.weight1".into();
    let file = disk.save("w.safetensors", &renamed);
    let done = disk.compile(&["--weights", s(&file)]).code(2);
    for part in ["w.safetensors", "1 missing, 1 extra", "missing: model.norm.weight,", "extra: model.norm.weight1,"] {
        assert!(done.stderr.contains(part), "no `{part}` in {}", done.stderr);
    }
    assert_eq!((done.stdout.as_str(), files(disk.0.path()).len()), ("", 3));
    for command in ["run", "explain"] {
        normfuse([command, s(&disk.path("m.pt2")), "--weights", s(&file)]).code(2).says("missing: model.norm.weight,");
    }
}

#[test]
fn each_misfit_is_told() {
    let disk = Disk::new();
    let other = |i: usize, t: Tensor| {
        let mut all = weights();
        all[i].1 = t;
        all
    };
    let half = Tensor::from_bytes(normfuse::ir::DType::F16, vec![8], vec![0; 16]).unwrap();
    let more = [weights(), vec![("model.layers.61.w".into(), Tensor::from_f32(&[1], &[0.0]))]].concat();
    for (named, what) in [
        (weights()[..1].to_vec(), "1 missing\n  missing: model.head.weight, f32[4, 8]"),
        (more.clone(), "1 extra\n  extra: model.layers.61.w, f32[1]"),
        (other(0, half), "1 of another type\n  of another type: model.norm.weight, expected f32, found f16[8]"),
        (
            other(1, Tensor::from_f32(&[8, 4], &[0.0; 32])),
            "1 of another shape\n  of another shape: model.head.weight, expected [4, 8], found f32[8, 4]",
        ),
    ] {
        let file = disk.save("w.safetensors", &named);
        disk.compile(&["--weights", s(&file)]).code(2).says(what);
        assert!(!disk.path("out.onnx").exists());
    }
    let file = disk.save("w.safetensors", &more);
    disk.compile(&["--weights", s(&file), "--allow-extra", "model.layers.6"]).code(2).says("1 extra");
    let report = disk.compile(&["--weights", s(&file), "--allow-extra", "model.layers.61"]).code(0).json();
    assert_eq!(report["weights"]["extra"], json!(["model.layers.61.w"]));
    let one = disk.save("w.safetensors", &weights()[..1]);
    let report = disk.compile(&["--weights", s(&one), "--allow-missing", HEAD]).code(0).json();
    assert_eq!((&report["weights"]["open"], &report["sites"][0]["bound"]), (&json!([HEAD]), &json!(1)));
    normfuse(["compile", s(&disk.path("m.pt2")), "--allow-extra", "x"]).code(2).says("--weights <FILE>");
}

/// What a flag names and nothing has is an error, with the names that are most like it.
#[test]
fn names_that_nothing_has_are_refused() {
    let disk = Disk::new();
    let file = disk.save("w.safetensors", &weights());
    let from = ["--weights", s(&file)];
    let refused = |flag: &str, name: &str, words: &[&str]| {
        let done = disk.compile(&[&from[..], &[flag, name]].concat()).code(2);
        for word in words {
            assert!(done.stderr.contains(word), "expected {word:?} in {}", done.stderr);
        }
        assert!(!disk.path("out.onnx").exists());
    };
    refused(
        "--allow-missing",
        "model.nrom",
        &["unknown: model.nrom, which --allow-missing", "the model has model.norm.weight"],
    );
    refused("--allow-extra", "model.layers.61", &["unknown: model.layers.61, which --allow-extra", "that has model."]);
    refused("--tied", &format!("model.heat.weight={HEAD}"), &["unknown: model.heat.weight, which --tied", HEAD]);
    refused(
        "--tied",
        &format!("{HEAD}=model.embed"),
        &["unknown: model.embed, which --tied says is in the checkpoint"],
    );
    let prefixes = ["--weights-prefix", "found `", "names in the model begin with: model."];
    for prefix in ["model", "mod.", "", "model.norm"] {
        refused("--weights-prefix", prefix, &prefixes);
    }
}

#[test]
fn names_may_have_a_prefix_and_be_tied() {
    let disk = Disk::new();
    let bare: Vec<_> = weights().into_iter().map(|(n, t)| (n.trim_start_matches("model.").to_owned(), t)).collect();
    let file = disk.save("w.safetensors", &bare);
    disk.compile(&["--weights", s(&file)]).code(2).says("--weights-prefix model.");
    let want = disk.run("m.pt2", &["--weights", s(&disk.save("a.safetensors", &weights()))]);
    assert_eq!(disk.run("m.pt2", &["--weights", s(&file), "--weights-prefix", "model."]), want);
    let mut other = weights();
    other[1].0 = "model.embed.weight".into();
    let file = disk.save("w.safetensors", &other);
    disk.compile(&["--weights", s(&file)]).code(2).says("--tied");
    let tied = format!("{HEAD}=model.embed.weight");
    assert_eq!(disk.run("m.pt2", &["--weights", s(&file), "--tied", &tied]), want);
}

#[test]
fn parts_are_mapped_through_the_index_and_never_left() {
    let disk = Disk::new();
    let want = disk.run("m.pt2", &["--weights", s(&disk.save("w.safetensors", &weights()))]);
    let inside = disk.path("ckpt");
    disk.save("ckpt/a.safetensors", &weights()[..1]);
    disk.save("ckpt/b.safetensors", &weights()[1..]);
    let index = inside.join("model.safetensors.index.json");
    let write = |b: &str| {
        let map = json!({"weight_map": {NORM: "a.safetensors", HEAD: b}});
        fs::write(&index, map.to_string()).unwrap();
    };
    write("b.safetensors");
    assert_eq!(disk.run("m.pt2", &["--weights", s(&index)]), want);
    disk.compile(&["--weights", s(&index)]).code(0);
    assert_eq!(disk.run("out.onnx", &[]), want);
    write("../w.safetensors");
    disk.compile(&["--weights", s(&index)]).code(2).says("part `../w.safetensors`").says("leaves it");
    write("gone.safetensors");
    disk.compile(&["--weights", s(&index)]).code(2).says("gone.safetensors");
    normfuse(["compile", s(&disk.path("m.pt2")), "--weights", s(&inside)]).code(2).says("found a folder");
}

#[test]
fn another_folder_needs_a_copy_and_the_checkpoint_is_never_written_over() {
    let disk = Disk::new();
    let file = disk.save("w.safetensors", &weights());
    let want = disk.run("m.pt2", &["--weights", s(&file)]);
    fs::create_dir(disk.path("dst")).unwrap();
    let (m, out) = (disk.path("m.pt2"), disk.path("dst/out.onnx"));
    let usual = ["compile", s(&m), "--weights", s(&file), "-o"];
    normfuse([&usual[..], &[s(&out)]].concat()).code(2).says("--copy-weights");
    assert_eq!(files(&disk.path("dst")), [""; 0]);
    normfuse([&usual[..], &[s(&out), "--copy-weights"]].concat()).code(0);
    let before = fs::read(&file).unwrap();
    normfuse([&usual[..], &[s(&file), "--emit", "onnx"]].concat()).code(2).says("write to another file");
    assert_eq!(fs::read(&file).unwrap(), before);
    fs::remove_file(&file).unwrap();
    assert_eq!(disk.run("dst/out.onnx", &[]), want);
}

#[test]
fn random_weights_are_for_runs_and_never_written() {
    let disk = Disk::new();
    let m = disk.path("m.pt2");
    let run = |seed: &str, dim: &str| normfuse(["run", s(&m), "--random-weights", seed, "--dim", dim]).code(0).stdout;
    assert_eq!(run("1", "s0=3"), run("1", "s0=3"));
    assert_ne!(run("1", "s0=3"), run("2", "s0=3"));
    assert!(run("1", "s0=4096").contains("f32[4096, 4]"));
    assert_ne!(disk.run("m.pt2", &["--random-weights", "1"]), disk.run("m.pt2", &["--random-weights", "2"]));
    let report = disk.compile(&["--verify", "--random-weights", "7"]).code(0).json();
    assert_eq!((&report["verify"]["runs"], &report["sites"][0]["bound"]), (&json!(3), &json!(0)));
    let graph = onnx::load(&disk.path("out.onnx")).graph.unwrap();
    let inputs: Vec<&str> = graph.input.iter().map(onnx::ValueInfoProto::name).collect();
    assert_eq!(inputs, ["x", NORM, HEAD]);
    assert!(graph.initializer.iter().all(|t| ![NORM, HEAD].contains(&t.name())));
    normfuse(["verify", s(&m), s(&disk.path("out.onnx")), "--random-weights", "7"]).code(0);
    // The file still knows which inputs are parameters.
    let file = disk.save("w.safetensors", &weights());
    assert_eq!(disk.run("out.onnx", &["--weights", s(&file)]), disk.run("m.pt2", &["--weights", s(&file)]));
    normfuse(["compile", s(&m), "--random-weights", "7"]).code(2).says("--verify");
    normfuse(["run", s(&m), "--random-weights", "7", "--weights", s(&file)]).code(2).says("cannot be used with");
}

#[test]
fn constants_of_onnx_are_bound_by_their_names() {
    let disk = Disk::new();
    let path = disk.path("m.onnx");
    onnx::save(&onnx::one_norm(onnx::floats(NORM, &[8], &[1.0; 8])), &path);
    let file = disk.save("w.safetensors", &weights()[..1]);
    let ones = disk.run("m.onnx", &[]);
    let bound = disk.run("m.onnx", &["--weights", s(&file)]);
    assert_ne!(ones, bound);
    let out = disk.path("out.onnx");
    normfuse(["compile", s(&path), "-o", s(&out), "--weights", s(&file), "--verify"]).code(0);
    assert_eq!(disk.run("out.onnx", &[]), bound);
    let renamed = disk.save("w1.safetensors", &[("model.norm.weight1".into(), weights()[0].1.clone())]);
    let done = normfuse(["compile", s(&path), "--weights", s(&renamed)]).code(2);
    assert!(done.stderr.contains("missing: model.norm.weight,"), "{}", done.stderr);
}

#[test]
fn a_fused_op_s_weight_that_nothing_gives_is_an_error() {
    let disk = Disk::new();
    let path = disk.path("m.onnx");
    // The name is none of a parameter, so only the op that reads it tells.
    let mut m = onnx::one_norm(onnx::floats("w", &[8], &[1.0; 8]));
    let graph = m.graph.as_mut().unwrap();
    graph.initializer.retain(|t| t.name() != "w");
    graph.input.push(onnx::value("w", onnx::FLOAT, &[8]));
    graph.node.push(onnx::node("Mul", &["y", HEAD], &["z"]));
    graph.initializer.push(onnx::floats(HEAD, &[4, 1, 8], &[1.0; 32]));
    graph.output[0] = onnx::value("z", onnx::FLOAT, &[4, 0, 8]);
    onnx::save(&m, &path);
    let file = disk.save("w.safetensors", &[(HEAD.into(), Tensor::from_f32(&[4, 1, 8], &[2.0; 32]))]);
    let out = disk.path("out.onnx");
    let args = ["compile", s(&path), "-o", s(&out), "--weights", s(&file)];
    normfuse(args).code(2).says("1 weights of fused ops are bound to nothing").says("w, read by fused_norm/make_ms");
    assert!(!out.exists());
    normfuse(args.iter().chain(&["--allow-missing", "w"])).code(0);
    let named = [("w".to_owned(), weights()[0].1.clone()), (HEAD.into(), Tensor::from_f32(&[4, 1, 8], &[2.0; 32]))];
    disk.save("w.safetensors", &named);
    normfuse(args).code(0);
}
