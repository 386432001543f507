//! How bad input has to end: one clear error that names the file, exit 2, no large allocation, no output file.

use std::path::Path;

use tempfile::TempDir;

use super::{Done, files, normfuse, s};

/// More than any of these needs, and far less than they claim.
pub const MOST_KIB: u64 = 200 << 10;

/// Compiles bytes under a name, which must be refused with these words.
#[track_caller]
pub fn refused(name: &str, bytes: &[u8], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    refused_at(&folder, &path, words);
}

/// Compiles a file of a folder, which must be refused with these words.
#[track_caller]
pub fn refused_at(folder: &TempDir, path: &Path, words: &[&str]) {
    let before = files(folder.path());
    let done = normfuse(["compile", s(path), "-o", s(&folder.path().join("out.onnx"))]);
    assert_refusal(&done, path, words);
    assert_eq!(files(folder.path()), before, "an output file remains");
}

/// Fails the test unless a run ended with one error that has these words.
#[track_caller]
pub fn assert_refusal(done: &Done, path: &Path, words: &[&str]) {
    assert_eq!(done.code, 2, "stdout: {}\nstderr: {}", done.stdout, done.stderr);
    assert!(done.stdout.is_empty(), "{}", done.stdout);
    assert_eq!(done.stderr.matches("error:").count(), 1, "one error: {}", done.stderr);
    for word in words {
        assert!(done.stderr.contains(word), "no `{word}` in: {}", done.stderr);
    }
    // The file at fault is the model, or a data file beside it that the model names.
    assert!(done.stderr.contains(s(path.parent().unwrap())), "no file in: {}", done.stderr);
    assert!(done.peak_kib < MOST_KIB, "{} KiB", done.peak_kib);
}
