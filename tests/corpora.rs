//! The fuzzer's corpora through what the fuzzer runs: every seed, and every file that once broke a reader.

#[path = "../fuzz/src/lib.rs"]
mod readers;

use std::{fs, path::Path};

/// Runs each file of a corpus, whose seeds cannot all have been lost.
fn each(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora").join(target);
    let files: Vec<_> = fs::read_dir(&folder).expect("a corpus").map(|e| e.expect("an entry").path()).collect();
    assert!(files.len() >= 15, "{} files in {}", files.len(), folder.display());
    for file in files {
        let bytes = fs::read(&file).expect("a seed");
        if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
            eprintln!("{} did it", file.display());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn onnx() {
    each("onnx", readers::onnx);
}

#[test]
fn pt2() {
    each("pt2", readers::pt2);
}

#[test]
fn text() {
    each("text", readers::text);
}

#[test]
fn json() {
    each("json", readers::json);
}

#[test]
fn npz() {
    each("npz", readers::npz);
}

#[test]
fn safetensors() {
    each("safetensors", readers::safetensors);
}

#[test]
fn config() {
    each("config", readers::config);
}
