//! Bad input: one clear error that names the file, exit 2, no panic, no large allocation, no output file.

mod common;

use std::path::{Path, PathBuf};

use common::{
    model, normfuse,
    onnx::{
        self, AttributeProto, FLOAT, FunctionProto, GraphProto, INT64, ModelProto, NodeProto, OperatorSetIdProto,
        external, floats, node, one_norm, tensor, value,
    },
    refusal::{MOST_KIB, assert_refusal, refused, refused_at},
    s,
};
use prost::Message;

#[track_caller]
fn refused_model(m: &ModelProto, words: &[&str]) {
    refused("m.onnx", &m.encode_to_vec(), words);
}

fn graph(nodes: Vec<NodeProto>, initializers: Vec<onnx::TensorProto>) -> ModelProto {
    onnx::model(GraphProto {
        node: nodes,
        input: vec![value("x", FLOAT, &[0, 8])],
        output: vec![value("y", FLOAT, &[0, 8])],
        initializer: initializers,
        ..GraphProto::default()
    })
}

#[test]
fn truncated() {
    let whole = std::fs::read(model("deepseek_v3_fp8.onnx")).unwrap();
    for cut in [0, 1, 7, 100, whole.len() / 4, whole.len() / 2, whole.len() - 1000] {
        refused("cut.onnx", &whole[..cut], &[]);
    }
    for extension in ["nf", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("whole.{extension}"));
        normfuse(["compile", s(&model("llama_ts.onnx")), "-o", s(&path)]).code(0);
        let text = std::fs::read(&path).unwrap();
        for part in [1, 3, 7] {
            refused(&format!("cut.{extension}"), &text[..text.len() * part / 8], &[]);
        }
    }
}

#[test]
fn garbage() {
    let mut noise = Vec::new();
    let mut state = 1u32;
    for _ in 0..4096 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.push((state >> 24) as u8);
    }
    for name in ["a.onnx", "a.pt2", "a.nf", "a.json"] {
        refused(name, &noise, &[]);
        refused(name, b"\x7fELF\x02\x01\x01 not a model", &[]);
    }
    refused("a.json", b"{\"graph\": 1}", &[]);
    refused("a.pb", &noise, &["ends in .onnx"]);
}

#[test]
fn missing_model_and_folder_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    refused_at(&folder, &folder.path().join("none.onnx"), &[]);
    let inner = folder.path().join("folder.onnx");
    std::fs::create_dir(&inner).unwrap();
    refused_at(&folder, &inner, &[]);
}

#[test]
fn cyclic() {
    let m =
        graph(vec![node("Add", &["x", "b"], &["a"]), node("Abs", &["a"], &["b"]), node("Abs", &["a"], &["y"])], vec![]);
    refused_model(&m, &["make_"]);
    let m = graph(vec![node("Add", &["x", "y"], &["y"])], vec![]);
    refused_model(&m, &["make_y"]);
    refused("loop.nf", b"graph \"g\"\ninput %x: f32[4]\n%a = add(%x, %b)\n%b = abs(%a)\noutput %b\n", &["b"]);
}

#[test]
fn wrong_typed() {
    let ids = tensor("ids", INT64, &[8], vec![0; 64]);
    refused_model(&graph(vec![node("Mul", &["x", "ids"], &["y"])], vec![ids]), &["make_y"]);
    let shape = floats("shape", &[2], &[4.0, 2.0]);
    refused_model(&graph(vec![node("Reshape", &["x", "shape"], &["y"])], vec![shape]), &["make_y"]);
    let wide = floats("w", &[3], &[1.0; 3]);
    refused_model(&graph(vec![node("Mul", &["x", "w"], &["y"])], vec![wide]), &["make_y", "8", "3"]);
    refused_model(&graph(vec![node("Mul", &["x"], &["y"])], vec![]), &["make_y"]);
    refused_model(&graph(vec![node("Mul", &["x", "nothing"], &["y"])], vec![]), &["make_y", "nothing"]);
    refused_model(&graph(vec![node("Abs", &["x"], &["a"])], vec![]), &["y"]);
}

#[test]
fn initializers_that_lie() {
    let cases = [
        tensor("w", FLOAT, &[8], vec![0; 31]),
        tensor("w", FLOAT, &[8], vec![0; 33]),
        tensor("w", FLOAT, &[-8], vec![0; 32]),
        tensor("w", FLOAT, &[1 << 62, 1 << 62], vec![0; 32]),
        tensor("w", FLOAT, &[1 << 29], vec![0; 32]),
        tensor("w", 77, &[8], vec![0; 32]),
        onnx::TensorProto { raw_data: None, ..tensor("w", FLOAT, &[1 << 29], vec![]) },
    ];
    for w in cases {
        refused_model(&one_norm(w), &["w"]);
    }
}

#[test]
fn absurd_sizes_of_inputs() {
    let mut m = one_norm(floats("w", &[8], &[1.0; 8]));
    m.graph.as_mut().unwrap().input = vec![value("x", FLOAT, &[2, i64::MAX])];
    m.graph.as_mut().unwrap().output = vec![value("y", FLOAT, &[2, i64::MAX])];
    refused_model(&m, &["`x`", "9223372036854775807"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let sized = |x, y, t| {
        let mut m = one_norm(floats("w", &[8], &[1.0; 8]));
        let g = m.graph.as_mut().unwrap();
        g.input = vec![value("x", FLOAT, &[x, 8])];
        g.output = vec![value("y", FLOAT, &[y, 8])];
        g.value_info = vec![value("sq", FLOAT, &[t, 8])];
        m
    };
    refused_model(&sized(-3, 0, 0), &["`x`", "axis 0", "-3"]);
    refused_model(&sized(0, -2, 0), &["`y`", "axis 0", "-2"]);
    refused_model(&sized(0, 0, i64::MIN), &["`sq`", "axis 0"]);
    // Exporters do write this one, for a size that they do not know.
    onnx::save(&sized(-1, -1, -1), &path);
    normfuse(["compile", s(&path), "--require", "norm=1"]).code(0);
    m.graph.as_mut().unwrap().input = vec![value("x", FLOAT, &[1 << 40, 8])];
    m.graph.as_mut().unwrap().output = vec![value("y", FLOAT, &[1 << 40, 8])];
    refused_model(&m, &["`x`", "[1099511627776, 8]"]);
    // A size that only running would need is refused there.
    onnx::save(&m, &path);
    let done = normfuse(["run", s(&path)]).code(2);
    assert!(done.peak_kib < MOST_KIB);
    m.graph.as_mut().unwrap().input = vec![value("x", FLOAT, &[0, 8])];
    onnx::save(&m, &path);
    let done = normfuse(["run", s(&path), "--dim", "rows=1000000000000"]).code(2).says("x");
    assert!(done.peak_kib < MOST_KIB);
    normfuse(["run", s(&path)]).code(2).says("--dim rows=N");
    normfuse(["run", s(&path), "--dim", "row=4"]).code(2).says("rows");
    normfuse(["run", s(&path), "--dim", "rows=4"]).code(0);
}

#[test]
fn absurd_widths() {
    let mut m = one_norm(floats("w", &[1], &[1.0]));
    let mut wide = |width: i64| {
        m.graph.as_mut().unwrap().input = vec![value("x", FLOAT, &[0, width])];
        m.graph.as_mut().unwrap().output = vec![value("y", FLOAT, &[0, width])];
        m.clone()
    };
    refused_model(&wide(1 << 33), &["make_ms", "8589934592"]);
    // A row that is too long to compare on is not fused: the file would not be read again.
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.onnx"), folder.path().join("out.onnx"));
    onnx::save(&wide(1 << 28), &path);
    for (runs_on, precondition) in [("cpu", "checkable"), ("both", "supported")] {
        let done = normfuse(["compile", s(&path), "-o", s(&out), "--verify", "--report", "json", "--runs-on", runs_on])
            .code(0);
        assert!(done.peak_kib < MOST_KIB, "{} KiB", done.peak_kib);
        assert_eq!(done.json()["sites"][0]["precondition"], precondition);
    }
    normfuse(["explain", s(&out)]).code(0);
}

#[test]
fn fixed_sizes_of_any_length_are_compared_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.onnx"), folder.path().join("out.onnx"));
    let mut m = one_norm(floats("w", &[8], &[1.0; 8]));
    m.graph.as_mut().unwrap().input = vec![value("x", FLOAT, &[1 << 20, 1 << 10, 8])];
    m.graph.as_mut().unwrap().output = vec![value("y", FLOAT, &[1 << 20, 1 << 10, 8])];
    onnx::save(&m, &path);
    let args = ["compile", s(&path), "-o", s(&out), "--verify", "--report", "json", "--require", "norm=1"];
    let done = normfuse(args).code(0);
    assert_eq!(done.json()["verify"]["bodies"], 1);
    let read = normfuse(["explain", s(&out)]).code(0);
    assert!(done.peak_kib.max(read.peak_kib) < MOST_KIB, "{} and {} KiB", done.peak_kib, read.peak_kib);
}

#[test]
fn external_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::write(folder.path().join("w.bin"), vec![0u8; 64]).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), vec![0u8; 64]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("link")).unwrap();
    let secret = outside.path().join("secret");
    let mut cases = vec![
        ("none.bin", 0, 32),
        ("w.bin", 48, 32),
        ("w.bin", u64::MAX - 8, 32),
        ("w.bin", 0, 2 << 30),
        ("w.bin", 0, u64::MAX),
        ("w.bin", 0, 31),
        ("../w.bin", 0, 32),
        ("sub/../../w.bin", 0, 32),
        ("", 0, 32),
        ("sub", 0, 32),
        (s(&secret), 0, 32),
    ];
    if cfg!(unix) {
        cases.push(("link", 0, 32));
    }
    for (location, offset, length) in cases {
        onnx::save(&one_norm(external("w", &[8], location, offset, length)), &path);
        refused_at(&folder, &path, &["`w`"]);
    }
    onnx::save(&one_norm(external("w", &[8], "w.bin", 32, 32)), &path);
    normfuse(["compile", s(&path)]).code(0);
}

/// A message of `bytes` as field `tag` of the message around it.
fn wrapped(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

#[test]
fn deep_nesting() {
    // A graph in an attribute of a node of a graph in ...
    let mut inner = Vec::new();
    for _ in 0..3000 {
        let attribute = wrapped(6, &inner);
        let node = wrapped(5, &attribute);
        inner = wrapped(1, &node);
    }
    let mut bytes = one_norm(floats("w", &[8], &[1.0; 8])).encode_to_vec();
    bytes.extend(wrapped(7, &inner));
    refused("deep.onnx", &bytes, &[]);
    refused("deep.json", "[".repeat(1_000_000).as_bytes(), &[]);
    refused("deep.nf", ["graph \"g\"\ninput %x: f32[", &"(".repeat(1_000_000)].concat().as_bytes(), &[]);
}

fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![
            OperatorSetIdProto { domain: None, version: Some(17) },
            OperatorSetIdProto { domain: Some("local".into()), version: Some(1) },
        ],
        ..FunctionProto::default()
    }
}

fn call(name: &str, input: &str, output: &str) -> NodeProto {
    NodeProto { domain: Some("local".into()), ..node(name, &[input], &[output]) }
}

#[test]
fn functions_that_never_end() {
    let mut m = graph(vec![call("f", "x", "y")], vec![]);
    m.opset_import.push(OperatorSetIdProto { domain: Some("local".into()), version: Some(1) });
    m.functions = vec![function("f", vec![call("f", "a", "b")])];
    refused_model(&m, &["f"]);
    // Forty functions, each calling the next one twice: a million million nodes.
    m.functions = (0..40)
        .map(|i| {
            let next = format!("f{}", i + 1);
            let nodes = if i == 39 {
                vec![node("Abs", &["a"], &["b"])]
            } else {
                vec![call(&next, "a", "m"), call(&next, "m", "b")]
            };
            function(&format!("f{i}"), nodes)
        })
        .collect();
    m.graph.as_mut().unwrap().node = vec![call("f0", "x", "y")];
    refused_model(&m, &["f"]);
}

#[test]
fn claims_of_two_gigabytes() {
    let whole = one_norm(floats("w", &[8], &[1.0; 8])).encode_to_vec();
    // A graph, a name and an initializer that say they are 2 GiB long.
    for prefix in [vec![0x3a], vec![0x3a, 0x10, 0x12], vec![0x12]] {
        let mut bytes = whole.clone();
        bytes.extend(prefix);
        prost::encoding::encode_varint((2 << 30) - 1, &mut bytes);
        bytes.extend([0; 64]);
        refused("claim.onnx", &bytes, &[]);
    }
    // Operands that ask for that much: sizes that only the contents of a constant give.
    let shape = tensor("shape", INT64, &[2], [1i64 << 40, 1 << 20].iter().flat_map(|v| v.to_le_bytes()).collect());
    let mut fill = node("ConstantOfShape", &["shape"], &["c"]);
    fill.attribute.push(AttributeProto {
        name: Some("value".into()),
        r#type: Some(onnx::attribute_proto::AttributeType::Tensor as i32),
        t: Some(floats("", &[1], &[1.0])),
        ..AttributeProto::default()
    });
    let m = graph(vec![fill, node("ReduceMax", &["c"], &["m"]), node("Add", &["x", "m"], &["y"])], vec![shape]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    onnx::save(&m, &path);
    let done = normfuse(["run", s(&path), "--dim", "rows=2"]);
    assert_refusal(&done, &path, &["make_c"]);
}

#[test]
fn text_weights_that_are_gone_or_stale() {
    let folder = tempfile::tempdir().unwrap();
    let (path, text) = (folder.path().join("m.onnx"), folder.path().join("m.nf"));
    std::fs::write(folder.path().join("w.bin"), [0u8; 32]).unwrap();
    onnx::save(&one_norm(external("w", &[8], "w.bin", 0, 32)), &path);
    normfuse(["compile", s(&path), "-o", s(&text)]).code(0);
    normfuse(["compile", s(&text)]).code(0);
    std::fs::write(folder.path().join("w.bin"), [1u8; 32]).unwrap();
    refused_at(&folder, &text, &["w.bin"]);
    std::fs::remove_file(folder.path().join("w.bin")).unwrap();
    refused_at(&folder, &text, &["w.bin"]);
}

/// The inputs of a run: of another name, type, shape, or no tensors at all.
#[test]
fn inputs_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let m = folder.path().join("m.onnx");
    onnx::save(&one_norm(floats("w", &[8], &[1.0; 8])), &m);
    let write = |name: &str, tensors: &[(&str, normfuse::ir::Tensor)]| -> PathBuf {
        let path = folder.path().join(name);
        let named: Vec<_> = tensors.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        normfuse::formats::tensors::write(&path, &named).unwrap();
        path
    };
    let rows = |n: usize| normfuse::ir::Tensor::from_f32(&[n, 8], &vec![0.5; n * 8]);
    let refuse =
        |path: &Path, words: &[&str]| assert_refusal(&normfuse(["run", s(&m), "--inputs", s(path)]), &m, words);
    let refuse_file = |path: &Path, words: &[&str]| {
        assert_refusal(&normfuse(["run", s(&m), "--inputs", s(path)]), path, words);
    };
    refuse_file(&write("other.npz", &[("z", rows(2))]), &["`x`"]);
    refuse_file(&write("more.npz", &[("x", rows(2)), ("z", rows(2))]), &["`z`"]);
    refuse_file(&write("twice.npz", &[("x", rows(2)), ("in.x", rows(2))]), &["x"]);
    refuse(&write("flat.npz", &[("x", normfuse::ir::Tensor::from_f32(&[16], &[0.0; 16]))]), &["x"]);
    refuse(&write("narrow.npz", &[("x", normfuse::ir::Tensor::from_f32(&[4, 4], &[0.0; 16]))]), &["x"]);
    let junk = folder.path().join("junk.npz");
    std::fs::write(&junk, b"PK\x03\x04 junk").unwrap();
    refuse_file(&junk, &[]);
    refuse_file(&folder.path().join("gone.safetensors"), &[]);
    let good = write("good.safetensors", &[("in.x", rows(3)), ("out.y", rows(1)), ("out32.y", rows(1))]);
    normfuse(["run", s(&m), "--inputs", s(&good)]).code(0);
    // Only what converts exactly is converted.
    let wide = |v: f64| {
        let bytes = [v; 8].iter().flat_map(|v| v.to_le_bytes()).collect();
        normfuse::ir::Tensor::from_bytes(normfuse::ir::DType::F64, vec![1, 8], bytes).unwrap()
    };
    normfuse(["run", s(&m), "--inputs", s(&write("exact.npz", &[("x", wide(0.25))]))]).code(0);
    refuse_file(&write("inexact.npz", &[("x", wide(0.1))]), &["f32", "exactly"]);
}
