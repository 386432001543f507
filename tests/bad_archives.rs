//! torch.export archives and checkpoints that are broken: one clear error, exit 2, nothing written.

mod common;

use std::{
    fs,
    io::{Cursor, Write},
};

use common::{
    files, normfuse,
    refusal::{assert_refusal, refused},
    s,
};
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// `y = x * w`, as torch writes it.
struct Archive {
    program: Value,
    weights: Value,
    data: Vec<u8>,
    more: Vec<(String, Vec<u8>)>,
    without: &'static str,
    method: CompressionMethod,
}

fn meta(sizes: &[Value]) -> Value {
    let strides: Vec<Value> = if sizes.len() == 2 { vec![json!({"as_int": 2})] } else { Vec::new() };
    let strides = [strides, vec![json!({"as_int": 1})]].concat();
    json!({
        "dtype": 7, "sizes": sizes, "strides": strides, "storage_offset": {"as_int": 0}, "requires_grad": false,
        "device": {"type": "cpu", "index": null}, "layout": 7,
    })
}

fn tensor(name: &str) -> Value {
    json!({"as_tensor": {"name": name}})
}

fn call(target: &str, operands: &[&str], result: &str) -> Value {
    let names = ["self", "other"];
    let inputs = operands.iter().zip(names).map(|(o, n)| json!({"name": n, "arg": tensor(o), "kind": 1}));
    json!({
        "target": target, "inputs": inputs.collect::<Vec<_>>(), "outputs": [tensor(result)], "metadata": {}, "name": result,
    })
}

impl Archive {
    fn new() -> Self {
        let rows = || meta(&[json!({"as_expr": {"expr_str": "s0", "hint": null}}), json!({"as_int": 2})]);
        let one = || meta(&[json!({"as_int": 2})]);
        Self {
            program: json!({
                "graph_module": {
                    "graph": {
                        "inputs": [], "outputs": [], "sym_int_values": {}, "sym_bool_values": {},
                        "nodes": [call("torch.ops.aten.mul.Tensor", &["x", "p_w"], "y")],
                        "tensor_values": {"x": rows(), "p_w": one(), "y": rows()},
                    },
                    "signature": {
                        "input_specs": [
                            {"user_input": {"arg": tensor("x")}},
                            {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
                        ],
                        "output_specs": [{"user_output": {"arg": tensor("y")}}],
                    },
                    "module_call_graph": [],
                },
                "opset_version": {"aten": 10}, "range_constraints": {}, "schema_version": {"major": 8, "minor": 8},
            }),
            weights: json!({
                "config": {"w": {"path_name": "weight_0", "is_param": true, "use_pickle": false, "tensor_meta": one()}},
            }),
            data: [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect(),
            more: Vec::new(),
            without: "-",
            method: CompressionMethod::Stored,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut records = vec![
            ("m/data/weights/weight_0".to_owned(), self.data.clone()),
            ("m/data/weights/model_weights_config.json".to_owned(), self.weights.to_string().into_bytes()),
            ("m/models/model.json".to_owned(), self.program.to_string().into_bytes()),
            ("m/archive_format".to_owned(), b"pt2".to_vec()),
        ];
        records.retain(|(name, _)| !name.ends_with(self.without));
        records.extend(self.more.iter().cloned());
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(self.method);
        for (name, bytes) in &records {
            zip.start_file(name.as_str(), options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }
}

/// The archive, changed in one respect, is refused with these words.
#[track_caller]
fn broken(words: &[&str], change: impl FnOnce(&mut Archive)) {
    let mut archive = Archive::new();
    change(&mut archive);
    refused("m.pt2", &archive.bytes(), words);
}

#[test]
fn what_they_are_made_from_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt2");
    fs::write(&path, Archive::new().bytes()).unwrap();
    normfuse(["compile", s(&path), "-o", s(&folder.path().join("m.nf"))]).code(0);
    assert_eq!(files(folder.path()), ["m.nf", "m.pt2"]);
}

#[test]
fn archives_that_are_cut_off() {
    let whole = Archive::new().bytes();
    for cut in [0, 1, 30, whole.len() / 2, whole.len() - 30, whole.len() - 1] {
        refused("cut.pt2", &whole[..cut], &["cut.pt2", "zip archive"]);
    }
}

#[test]
fn records_that_are_missing_short_compressed_or_outside() {
    broken(&["models/NAME.json"], |a| a.without = "model.json");
    broken(&["`w`", "data/weights/weight_0"], |a| a.without = "weight_0");
    broken(&["`w`", "data for the tensor"], |a| a.without = "weights_config.json");
    broken(&["archive_format"], |a| a.without = "archive_format");
    broken(&["`w`", "8 bytes", "7 bytes"], |a| a.data.truncate(7));
    broken(&["stored as it is", "Deflated"], |a| a.method = CompressionMethod::Deflated);
    for name in ["/etc/passwd", "m/../../x", "..\\x", "C:\\x"] {
        broken(&["inside the archive", "leaves it"], |a| a.more.push((name.into(), b"x".to_vec())));
    }
    broken(&["`w`", "inside the archive"], |a| a.weights["config"]["w"]["path_name"] = json!("../../x"));
}

#[test]
fn weights_that_are_pickled_or_lie() {
    broken(&["node `y`", "`w`", "pickled"], |a| a.weights["config"]["w"]["use_pickle"] = json!(true));
    broken(&["`w`", "[2]"], |a| a.weights["config"]["w"]["tensor_meta"]["sizes"] = json!([{"as_int": 1}]));
    let far = json!({"as_int": i64::MAX});
    broken(&["`w`"], |a| a.weights["config"]["w"]["tensor_meta"]["sizes"] = json!([far]));
    broken(&["`w`"], |a| a.weights["config"]["w"]["tensor_meta"]["storage_offset"] = far);
}

#[test]
fn programs_of_another_schema_or_that_contradict_themselves() {
    broken(&["major version 8", "version 9.0"], |a| a.program["schema_version"] = json!({"major": 9, "minor": 0}));
    broken(&["node `y`", "a size expression", "s0 +"], |a| {
        a.program["graph_module"]["graph"]["tensor_values"]["y"]["sizes"][0]["as_expr"]["expr_str"] = json!("s0 +");
    });
    let nodes = |nodes: Value| move |a: &mut Archive| a.program["graph_module"]["graph"]["nodes"] = nodes;
    broken(&["node `y`", "`ghost`"], nodes(json!([call("torch.ops.aten.mul.Tensor", &["x", "ghost"], "y")])));
    let two = |a: &mut Archive| {
        let graph = &mut a.program["graph_module"]["graph"];
        graph["tensor_values"]["z"] = graph["tensor_values"]["y"].clone();
        graph["nodes"] = json!([
            call("torch.ops.aten.mul.Tensor", &["x", "z"], "y"),
            call("torch.ops.aten.abs.default", &["y"], "z"),
        ]);
    };
    broken(&["node `y`", "`z`", "cycle"], two);
}

/// The headers of a checkpoint are no more believed than those of an archive.
#[test]
fn checkpoints_whose_header_lies() {
    let header = |dtype: &str, shape: &[u64], ends: [u64; 2]| {
        json!({"w": {"dtype": dtype, "shape": shape, "data_offsets": ends}}).to_string()
    };
    let file = |length: u64, header: &str| [&length.to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    let right = header("F32", &[2], [0, 8]);
    let cases = [
        (file(u64::MAX, &right), "header"),
        (file(right.len() as u64 + 9, &right), "header"),
        (file(3, &right), "header"),
        ([&2u64.to_le_bytes()[..], b"[]"].concat(), "header"),
        (file(header("F32", &[3], [0, 8]).len() as u64, &header("F32", &[3], [0, 8])), "`w`"),
        (file(header("F32", &[4], [0, 16]).len() as u64, &header("F32", &[4], [0, 16])), "16"),
        (file(header("F32", &[u64::MAX, 2], [0, 8]).len() as u64, &header("F32", &[u64::MAX, 2], [0, 8])), "`w`"),
        (file(header("F32", &[2], [8, 0]).len() as u64, &header("F32", &[2], [8, 0])), "`w`"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let (model, checkpoint) = (folder.path().join("m.pt2"), folder.path().join("w.safetensors"));
    fs::write(&model, Archive::new().bytes()).unwrap();
    let out = folder.path().join("out.nf");
    let compile = || normfuse(["compile", s(&model), "-o", s(&out), "--weights", s(&checkpoint)]);
    for (bytes, word) in cases {
        fs::write(&checkpoint, bytes).unwrap();
        assert_refusal(&compile(), &checkpoint, &["w.safetensors", word]);
        assert!(!out.exists());
    }
    fs::write(&checkpoint, file(right.len() as u64, &right)).unwrap();
    compile().code(0);
    assert!(out.exists());
}
