//! What a fuzzer does with bytes: one function for each reader. The targets beside this file call them, and so does
//! `tests/corpora.rs` with every file of the corpora.
//!
//! Readers take files, so bytes become one, in a folder that lasts as long as the thread. Where a container keeps random
//! bytes from ever reaching a parser (a zip directory, the length of a header), bytes that are none are put into one.
//! What has been read is typed, as every command does, and then written and read again.

use std::{
    fs,
    io::{Cursor, Write},
    path::{Path, PathBuf},
};

use normfuse::{
    formats::{checkpoint::Checkpoint, json, nf, onnx, quant_config::QuantConfig, tensors, torch},
    ir::{DType, Graph, Tensor, infer, text},
    passes::linears::{self, Source},
};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// The data file that models may refer to, and its size in bytes.
const DATA: (&str, usize) = ("w.data", 4096);

thread_local! {
    static FOLDER: TempDir = {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(DATA.0), vec![0x3f; DATA.1]).expect("a file");
        folder
    };
}

/// Bytes as a file of this name.
fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.with(|f| f.path().join(name));
    fs::write(&path, bytes).expect("a file");
    path
}

/// An ONNX model.
pub fn onnx(bytes: &[u8]) {
    let path = put("m.onnx", bytes);
    if let Ok(graph) = onnx::read(&path) {
        again(&graph);
        let copy = path.with_file_name("copy.onnx");
        if onnx::write(&graph, &copy, &onnx::WriteOptions::default()).is_ok() {
            let _ = onnx::read(&copy);
        }
    }
}

/// A torch.export archive, or its records, each on a line: the program, the list of weights, the bytes of all weights.
pub fn pt2(bytes: &[u8]) {
    let path = if bytes.starts_with(b"PK") { put("m.pt2", bytes) } else { put("m.pt2", &archive(bytes)) };
    if let Ok(graph) = torch::read(&path) {
        again(&graph);
    }
}

fn archive(bytes: &[u8]) -> Vec<u8> {
    let mut lines = bytes.splitn(3, |b| *b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    stored(&[
        ("m/models/model.json", line()),
        ("m/data/weights/model_weights_config.json", line()),
        ("m/data/weights/w", line()),
        ("m/archive_format", b"pt2"),
    ])
}

/// A graph as text.
pub fn text(bytes: &[u8]) {
    if let Ok(graph) = nf::read(&put("m.nf", bytes)) {
        again(&graph);
    }
}

/// A graph as JSON.
pub fn json(bytes: &[u8]) {
    if let Ok(graph) = json::read(&put("m.json", bytes)) {
        again(&graph);
    }
}

/// A `.npz` archive, or one array of it.
pub fn npz(bytes: &[u8]) {
    let path = if bytes.starts_with(b"PK") { put("t.npz", bytes) } else { put("t.npz", &stored(&[("x.npy", bytes)])) };
    tensors_again(&path);
}

/// A `.safetensors` file, or its header and its data, each on a line; an index of such files, if it is one.
pub fn safetensors(bytes: &[u8]) {
    let _ = Checkpoint::open(&put("t.safetensors.index.json", bytes));
    let path = if bytes.starts_with(b"{") {
        let (header, data) = bytes.split_at(bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()));
        let length = header.len() as u64;
        put("t.safetensors", &[&length.to_le_bytes(), header, data.get(1..).unwrap_or_default()].concat())
    } else {
        put("t.safetensors", bytes)
    };
    let _ = Checkpoint::open(&path);
    tensors_again(&path);
}

/// Two linear layers, of which the second one has a class of its own, behind names that lists may have.
const LAYERS: &str = r#"graph "layers"
input %x: bf16[tokens, 128]
input %model.layers.0.mlp.up_proj.weight: bf16[6, 128]
input %lm_head.weight: bf16[4, 128]
%up.t = transpose(%model.layers.0.mlp.up_proj.weight) {perm=[1, 0]}
%up = matmul(%x, %up.t)
%head.t = transpose(%lm_head.weight) {perm=[1, 0]}
%head = matmul(%x, %head.t) from {metadata=[[torch.class, a.Head]]}
output %up
output %head
"#;

/// The quantisation that a model's `config.json` describes, on two layers with and without weights.
pub fn config(bytes: &[u8]) {
    let Ok(config) = QuantConfig::read(&put("config.json", bytes)) else { return };
    let scheme = |module: &str, class: Option<&str>| config.scheme_of(module, class);
    let spared = |module: &str, class: Option<&str>| config.spares(module, class);
    let mut graph = text::parse(LAYERS, &mut |_| unreachable!("no weights")).expect("a graph");
    for data in [false, true] {
        if data {
            let made = |rows: usize| Tensor::from_bytes(DType::BF16, vec![rows, 128], vec![0x3f; rows * 256]);
            let (up, head) = (made(6).expect("its size"), made(4).expect("its size"));
            let weights = vec![(graph.inputs()[1], up), (graph.inputs()[2], head)];
            graph.set_consts(weights);
        }
        let mut quantised = graph.clone();
        let source = Source { scheme: &scheme, spared: &spared, stored: None };
        if linears::quantise(&mut quantised, source).is_ok() {
            infer::infer(&mut quantised).unwrap_or_else(|e| panic!("a quantised layer has no types: {e}"));
            quantised.verify().unwrap_or_else(|e| panic!("a quantised layer is not legal: {e}"));
            again(&quantised);
        }
    }
}

/// What was read and has types is written as text, read again, and is the same.
fn again(graph: &Graph) {
    let mut typed = graph.clone();
    if infer::infer(&mut typed).is_err() || typed.verify().is_err() {
        return;
    }
    let path = FOLDER.with(|f| f.path().join("again.nf"));
    nf::write(graph, &path).unwrap_or_else(|e| panic!("what was read cannot be written: {e}"));
    let second = nf::read(&path).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
    assert_eq!(text::print(graph), text::print(&second), "it changes as it is written and read");
}

/// Tensors that were read are written and read again, and are the same.
fn tensors_again(path: &Path) {
    let Ok(first) = tensors::read(path) else { return };
    let copy = path.with_file_name("copy").with_extension(path.extension().expect("it has one"));
    // Not every name or type of one format is one of the other's, and some of neither can be written.
    if tensors::write(&copy, &first).is_ok() {
        let second = tensors::read(&copy).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
        assert_eq!(first.len(), second.len());
        for (name, t) in &first {
            let other = second.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("`{name}` is gone"));
            assert_eq!((t.dtype(), t.shape(), t.bytes()), (other.1.dtype(), other.1.shape(), other.1.bytes()));
        }
    }
}

/// A zip archive of records as they are.
fn stored(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in records {
        zip.start_file(*name, options).expect("a record");
        zip.write_all(bytes).expect("a record");
    }
    zip.finish().expect("an archive").into_inner()
}
