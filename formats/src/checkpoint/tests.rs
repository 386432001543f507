use std::{fs, path::PathBuf};

use normfuse_ir::{Data, Graph, Tensor, text};
use tempfile::TempDir;

use super::*;
use crate::{Cause, tensors};

/// A folder with checkpoints in it.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Tensors of f32, each of `n` elements that are all `v`.
    fn save(&self, name: &str, named: &[(&str, usize, f32)]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let named: Vec<_> =
            named.iter().map(|(name, n, v)| ((*name).to_owned(), Tensor::from_f32(&[*n], &vec![*v; *n]))).collect();
        tensors::write(&path, &named).unwrap();
        path
    }

    fn index(&self, json: &str) -> PathBuf {
        let path = self.path("model.safetensors.index.json");
        fs::write(&path, json).unwrap();
        path
    }
}

fn graph(text: &str) -> Graph {
    text::parse(text, &mut |_| unreachable!("no weights")).unwrap()
}

/// A graph of two parameters of three f32 each: one with data, one without.
fn two() -> Graph {
    graph(
        "graph \"g\"\ninput %x: f32[3]\ninput %model.norm.weight: f32[3]\nconst %model.b.bias: f32[3] = [1, 1, 1]\n\
         %y = mul(%x, %model.norm.weight)\n%z = add(%y, %model.b.bias)\noutput %z\n",
    )
}

fn refused(graph: &mut Graph, checkpoint: &Checkpoint, rules: &Rules) -> String {
    let before = text::print(graph);
    let e = bind(graph, checkpoint, rules).unwrap_err();
    assert_eq!(e.file(), Some(checkpoint.path()));
    assert!(matches!(e.cause(), Cause::Misfit(_)), "{e}");
    assert_eq!(text::print(graph), before, "the graph is as it was");
    e.to_string()
}

fn bytes(graph: &Graph, name: &str) -> Vec<u8> {
    graph.values().find(|(_, v)| v.name == name).unwrap().1.as_const().unwrap().bytes().to_vec()
}

#[test]
fn parameters_become_regions_of_the_file_under_their_own_names() {
    let disk = Disk::new();
    let file = disk.save("m.safetensors", &[("model.norm.weight", 3, 5.0), ("model.b.bias", 3, 7.0)]);
    let checkpoint = Checkpoint::open(&file).unwrap();
    let mut g = two();
    let bound = bind(&mut g, &checkpoint, &Rules::default()).unwrap();
    assert_eq!((bound.checkpoint.as_str(), bound.bound), ("m.safetensors", 2));
    assert_eq!(g.inputs().len(), 1);
    assert_eq!(bytes(&g, "model.norm.weight"), 5.0f32.to_le_bytes().repeat(3));
    assert_eq!(bytes(&g, "model.b.bias"), 7.0f32.to_le_bytes().repeat(3));
    for (_, v) in g.values().filter(|(_, v)| v.as_const().is_some()) {
        let Data::External(r) = v.as_const().unwrap().data() else { panic!("`{}` was copied", v.name) };
        assert_eq!((&*r.file, r.data.origin()), ("m.safetensors", Some(file.canonicalize().unwrap().as_path())));
        assert_eq!(fs::read(&file).unwrap()[r.offset as usize..][..12], *r.data.bytes());
    }
}

#[test]
fn everything_that_does_not_fit_is_one_sorted_error() {
    let disk = Disk::new();
    let text = "graph \"g\"\ninput %x: f32[3]\ninput %a.z: f32[3]\nconst %a.m: f32[3] = [1, 1, 1]\n\
                const %a.s: f32[2] = [1, 1]\nconst %a.t: f16[3] = [1, 1, 1]\nconst %a.b: f32[3] = [1, 1, 1]\n\
                const %one: f32[3] = [1, 1, 1]\n%y = add(%x, %a.z)\n%y1 = add(%y, %a.m)\n%y2 = add(%y1, %a.b)\n\
                %y3 = add(%y2, %one)\noutput %y3\noutput %a.s\noutput %a.t\n";
    let tensors = [("a.z", 3, 0.), ("a.s", 3, 0.), ("a.t", 3, 0.), ("b", 1, 0.), ("a.e", 2, 0.)];
    let checkpoint = Checkpoint::open(&disk.save("m.safetensors", &tensors)).unwrap();
    let e = refused(&mut graph(text), &checkpoint, &Rules::default());
    let want = "the checkpoint does not fit the model: 2 missing, 2 extra, 1 of another shape, 1 of another type\n  \
                missing: a.b, f32[3]\n  missing: a.m, f32[3]\n  extra: a.e, f32[2] in m.safetensors\n  \
                extra: b, f32[1] in m.safetensors\n  \
                of another shape: a.s, expected [2], found f32[3] in m.safetensors\n  \
                of another type: a.t, expected f16, found f32[3] in m.safetensors\n";
    assert!(e.contains(want), "{e}");
    assert!(e.contains("--allow-missing") && e.contains("--allow-extra"), "{e}");
}

#[test]
fn a_renamed_norm_weight_is_missing_and_extra() {
    let disk = Disk::new();
    let file = disk.save("m.safetensors", &[("model.norm.weight1", 3, 5.0), ("model.b.bias", 3, 7.0)]);
    let e = refused(&mut two(), &Checkpoint::open(&file).unwrap(), &Rules::default());
    assert!(
        e.contains("1 missing, 1 extra") && e.contains("missing: model.norm.weight, f32[3], and the model has no"),
        "{e}"
    );
    let file = disk.save("n.safetensors", &[("model.norm.weight", 3, 5.0), ("model.b.bias1", 3, 7.0)]);
    let e = refused(&mut two(), &Checkpoint::open(&file).unwrap(), &Rules::default());
    assert!(e.contains("missing: model.b.bias, f32[3]") && e.contains("extra: model.b.bias1"), "{e}");
}

#[test]
fn what_is_permitted_is_reported() {
    let disk = Disk::new();
    let file = disk.save("m.safetensors", &[("model.norm.weight", 3, 5.0), ("mtp.6.w", 1, 0.), ("mtp.60.w", 1, 0.)]);
    let checkpoint = Checkpoint::open(&file).unwrap();
    let rules = |extra: &str| Rules {
        allow_extra: vec![extra.into()],
        allow_missing: vec!["model.b".into()],
        ..Rules::default()
    };
    let e = refused(&mut two(), &checkpoint, &rules("mtp.6"));
    assert!(e.contains("1 extra") && e.contains("mtp.60.w"), "{e}");
    let mut g = two();
    let bound = bind(&mut g, &checkpoint, &rules("mtp")).unwrap();
    assert_eq!((bound.kept, bound.extra), (vec!["model.b.bias".to_owned()], vec!["mtp.6.w".into(), "mtp.60.w".into()]));
    assert_eq!(bytes(&g, "model.b.bias"), 1.0f32.to_le_bytes().repeat(3));
}

#[test]
fn a_wrapper_s_prefix_is_suggested_and_never_guessed() {
    let disk = Disk::new();
    let file = disk.save("m.safetensors", &[("norm.weight", 3, 5.0), ("b.bias", 3, 7.0)]);
    let checkpoint = Checkpoint::open(&file).unwrap();
    let e = refused(&mut two(), &checkpoint, &Rules::default());
    assert!(e.ends_with("names of 2 parameters that are missing would be found with --weights-prefix model."), "{e}");
    let mut g = two();
    let rules = Rules { prefix: "model.".into(), ..Rules::default() };
    assert_eq!(bind(&mut g, &checkpoint, &rules).unwrap().bound, 2);
}

#[test]
fn tied_weights_are_one_tensor() {
    let disk = Disk::new();
    let tie = |name: &str| Rules { tied: vec![("model.b.bias".into(), name.into())], ..Rules::default() };
    let file = disk.save("m.safetensors", &[("model.norm.weight", 3, 5.0)]);
    let mut g = two();
    bind(&mut g, &Checkpoint::open(&file).unwrap(), &tie("model.norm.weight")).unwrap();
    assert_eq!(bytes(&g, "model.b.bias"), bytes(&g, "model.norm.weight"));
    // Under both names: equal bytes or nothing.
    let all = [("model.norm.weight", 3, 5.0), ("model.b.bias", 3, 7.0), ("head", 3, 7.0)];
    let file = disk.save("n.safetensors", &all);
    bind(&mut two(), &Checkpoint::open(&file).unwrap(), &tie("head")).unwrap();
    let file = disk.save("o.safetensors", &[all[0], all[1], ("head", 3, 8.0)]);
    let e = refused(&mut two(), &Checkpoint::open(&file).unwrap(), &tie("head"));
    assert!(e.contains("tied otherwise: model.b.bias, which `model.b.bias` and `head` both are and differ"), "{e}");
}

#[test]
fn a_default_stays_a_default() {
    let disk = Disk::new();
    let mut g = two();
    let default = Tensor::from_f32(&[3], &[0.0; 3]);
    g.set_default(g.inputs()[1], default);
    let none = disk.save("n.safetensors", &[("model.b.bias", 3, 7.0)]);
    assert!(
        refused(&mut g, &Checkpoint::open(&none).unwrap(), &Rules::default()).contains("missing: model.norm.weight")
    );
    let file = disk.save("m.safetensors", &[("model.norm.weight", 3, 5.0), ("model.b.bias", 3, 7.0)]);
    bind(&mut g, &Checkpoint::open(&file).unwrap(), &Rules::default()).unwrap();
    let stored = g.value(g.inputs()[1]).stored().unwrap();
    assert_eq!(stored.bytes(), 5.0f32.to_le_bytes().repeat(3));
}

#[test]
fn parts_are_found_through_the_index() {
    let disk = Disk::new();
    disk.save("a.safetensors", &[("model.norm.weight", 3, 5.0)]);
    disk.save("sub/b.safetensors", &[("model.b.bias", 3, 7.0)]);
    let path = disk.index(
        r#"{"metadata": {"total_size": 24}, "weight_map": {"model.norm.weight": "a.safetensors", "model.b.bias": "sub/b.safetensors"}}"#,
    );
    let mut g = two();
    bind(&mut g, &Checkpoint::open(&path).unwrap(), &Rules::default()).unwrap();
    assert_eq!(bytes(&g, "model.b.bias"), 7.0f32.to_le_bytes().repeat(3));
}

/// As Hugging Face's cache has them: the names are links to files that are called by their hash, in another folder.
#[cfg(unix)]
#[test]
fn parts_may_be_links() {
    let disk = Disk::new();
    disk.save("blobs/a.safetensors", &[("model.norm.weight", 3, 1.0)]);
    disk.save("blobs/b.safetensors", &[("model.b.bias", 3, 2.0)]);
    fs::create_dir_all(disk.path("snapshots/main")).unwrap();
    let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, disk.path("snapshots/main").join(to)).unwrap();
    link("../../blobs/a.safetensors", "a.safetensors");
    link("../../blobs/b.safetensors", "b.safetensors");
    let json = r#"{"weight_map": {"model.norm.weight": "a.safetensors", "model.b.bias": "b.safetensors"}}"#;
    fs::write(disk.path("blobs/index"), json).unwrap();
    link("../../blobs/index", "model.safetensors.index.json");
    let checkpoint = Checkpoint::open(&disk.path("snapshots/main/model.safetensors.index.json")).unwrap();
    let mut g = two();
    assert_eq!(bind(&mut g, &checkpoint, &Rules::default()).unwrap().bound, 2);
    assert_eq!(bytes(&g, "model.b.bias"), 2.0f32.to_le_bytes().repeat(3));
    // A name is no link.
    let outside = json.replace("a.safetensors", "../../blobs/a.safetensors");
    let index = disk.path("snapshots/main/other.safetensors.index.json");
    fs::write(&index, outside).unwrap();
    let e = Checkpoint::open(&index).unwrap_err().to_string();
    assert!(e.contains("inside the model's folder") && e.contains("../../blobs"), "{e}");
}

#[test]
fn an_index_that_does_not_agree_with_its_files_is_refused() {
    let disk = Disk::new();
    disk.save("a.safetensors", &[("x", 3, 5.0), ("y", 1, 0.)]);
    disk.save("b.safetensors", &[("x", 3, 5.0)]);
    fs::write(disk.path("secret"), "s").unwrap();
    for (json, file, what) in [
        (
            r#"{"weight_map": {"x": "a.safetensors"}}"#,
            "a.safetensors",
            "tensor `y`: expected a tensor that the index has",
        ),
        (
            r#"{"weight_map": {"x": "a.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}"#,
            "a.safetensors",
            "tensor `z`: expected a tensor that the index has for this file, found none",
        ),
        (
            r#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}"#,
            "a.safetensors",
            "tensor `x`: expected a tensor that the index has for this file",
        ),
        (r#"{"weight_map": {"x": "b.safetensors", "x": "a.safetensors"}}"#, "index.json", "the tensor `x` twice"),
        (r#"{"weight_map": {"x": "gone.safetensors"}}"#, "gone.safetensors", "part `gone.safetensors`"),
        (
            r#"{"weight_map": {"x": "../a.safetensors"}}"#,
            "index.json",
            "part `../a.safetensors`: expected a path inside",
        ),
        (r#"{"weight_map": {"x": "/etc/passwd"}}"#, "index.json", "the absolute path"),
        (r#"{"weight_map": {"x": "secret"}}"#, "secret", "no whole .safetensors file"),
        (r#"{"weight_map": {"x": 3}}"#, "index.json", "expected a `weight_map` from tensors to files"),
        ("{}", "index.json", "weight_map"),
        ("", "index.json", "weight_map"),
    ] {
        let e = Checkpoint::open(&disk.index(json)).unwrap_err();
        assert!(e.to_string().contains(what), "{json}: {e}");
        assert!(e.file().unwrap().to_string_lossy().ends_with(file), "{json}: {e}");
    }
    let json = r#"{"weight_map": {"z": "a.safetensors", "x": "a.safetensors", "u": "gone.safetensors", "v": "../a"}}"#;
    let e = Checkpoint::open(&disk.index(json)).unwrap_err().to_string();
    for what in ["4 faults", "tensor `y`", "tensor `z`", "part `gone.safetensors`", "part `../a`", "beside the index"] {
        assert!(e.contains(what), "{what}: {e}");
    }
    for (path, what) in [("", "found a folder"), ("a.bin", "the extension `bin`"), ("gone.safetensors", "gone")] {
        let e = Checkpoint::open(&disk.path(path)).unwrap_err().to_string();
        assert!(e.contains(what), "{path}: {e}");
    }
}

#[test]
fn two_files_with_one_tensor_are_refused_under_two_names_of_one_file_too() {
    let disk = Disk::new();
    disk.save("a.safetensors", &[("x", 3, 5.0), ("y", 3, 5.0)]);
    let e = Checkpoint::open(&disk.index(r#"{"weight_map": {"x": "a.safetensors", "y": "./a.safetensors"}}"#));
    assert!(e.unwrap_err().to_string().contains("a tensor that the index has for this file"));
}

#[test]
fn headers_that_lie_name_the_file_and_the_tensor() {
    let disk = Disk::new();
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let one = |name: &str, at: &str| format!(r#""{name}": {{"dtype": "F32", "shape": [2], "data_offsets": [{at}]}}"#);
    let both = |a: &str, b: &str| format!("{{{}, {}}}", one("a", a), one("b", b));
    for (bytes, what) in [
        (file(&both("0, 8", "8, 16"), 15), "its tensors end at byte 16 of 15"),
        (file(&both("0, 8", "8, 16"), 17), "its tensors end at byte 16 of 17"),
        (file(&both("0, 8", "4, 12"), 12), "tensor `b`: this is no whole .safetensors file: it overlaps another one"),
        (file(&both("0, 8", "9, 17"), 17), "tensor `b`: this is no whole .safetensors file: it overlaps another one"),
        (file(&both("0, 8", "8, 15"), 15), "tensor `b`"),
        (file(&both("8, 0", "8, 16"), 16), "tensor `a`"),
        (file(&both("0, 8", "8, 18446744073709551615"), 16), "tensor `b`"),
        (file(&format!("{{{}, {}}}", one("a", "0, 8"), one("a", "0, 8")), 8), "two tensors are named `a`"),
        (file(&both("0, 8", "8, 16").replace("F32", "WAT"), 16), "`a`: unknown variant `WAT`"),
        (100_000_001u64.to_le_bytes().to_vec(), "it claims a header of 100000001 bytes"),
        (99_000_000u64.to_le_bytes().to_vec(), "it ends inside its header"),
        (vec![1, 0, 0], "it has no header"),
    ] {
        let path = disk.path("lie.safetensors");
        fs::write(&path, bytes).unwrap();
        let e = Checkpoint::open(&path).unwrap_err();
        assert_eq!(e.file(), Some(path.as_path()));
        assert!(e.to_string().contains(what), "{what}: {e}");
    }
    // The same in order.
    let path = disk.path("right.safetensors");
    fs::write(&path, file(&both("8, 16", "0, 8"), 16)).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().get("a").unwrap().region.len, 8);
}
