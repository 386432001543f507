//! Running and timing graphs from the command line: what is refused, and in which words.

mod common;

use std::{fs, path::PathBuf};

use common::{normfuse, normfuse_with, s};
use tempfile::TempDir;

fn written(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

const DOUBLE: &str = r#"graph "double"
opset "" 20
input %x: f32[rows, 4]
%y = add(%x, %x)
output %y
"#;

/// A library that is no driver, under the driver's names: one that this process has loaded itself.
#[cfg(target_os = "linux")]
fn no_driver() -> TempDir {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let library = files.find(|file| file.contains("libgcc_s.so") || file.contains("libc.so")).expect("a library");
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::os::unix::fs::symlink(library, folder.path().join(name)).unwrap();
    }
    folder
}

#[cfg(target_os = "linux")]
#[test]
fn a_driver_without_its_functions_is_refused_in_words() {
    let (_folder, model) = written("m.nf", DOUBLE);
    let driver = no_driver();
    let path = [("LD_LIBRARY_PATH", s(driver.path()))];
    let commands = [&["run", s(&model), "--dim", "rows=2", "--device", "cuda"][..], &["bench", "--op", "rms_norm"]];
    for command in commands {
        let done = normfuse_with(&path, command).code(2);
        let done = done.says("expected a CUDA driver of CUDA 12.8 or later").says("says no version and has no `cu");
        done.says("install NVIDIA's driver again").says("or run on the CPU");
    }
}

/// A device that cannot be opened is said before weights are made up and inputs are read.
#[cfg(target_os = "linux")]
#[test]
fn the_device_is_opened_before_inputs_are_read() {
    let (folder, model) = written("m.nf", DOUBLE);
    let driver = no_driver();
    let none = folder.path().join("none.npz");
    let args = ["run", s(&model), "--inputs", s(&none), "--device", "cuda"];
    normfuse_with(&[("LD_LIBRARY_PATH", s(driver.path()))], args).code(2).says("expected a CUDA driver");
    normfuse(["run", s(&model), "--inputs", s(&none)]).code(2).says("none.npz");
}

#[test]
fn the_number_of_a_gpu_is_that_of_ops_and_not_of_models() {
    let (_folder, model) = written("m.nf", DOUBLE);
    let done = normfuse(["bench", s(&model), "--dim", "rows=2", "--gpu", "1"]).code(2);
    done.says("the argument '[MODEL]' cannot be used with '--gpu <N>'");
}

/// The file of inputs is at fault, not the model.
#[test]
fn inputs_of_other_sizes_are_refused_with_their_file() {
    let (folder, model) = written("m.nf", DOUBLE);
    let inputs = folder.path().join("in.safetensors");
    for (shape, found) in [(&[4][..], "found 1, [4]"), (&[1, 2, 4], "found 3, [1, 2, 4]"), (&[2, 5], "found 2, [2, 5]")]
    {
        let x = normfuse::ir::Tensor::from_f32(shape, &vec![1.0; shape.iter().product()]);
        normfuse::formats::tensors::write(&inputs, &[("x".to_owned(), x)]).unwrap();
        let done = normfuse(["run", s(&model), "--inputs", s(&inputs)]).code(2);
        let done = done.says("in.safetensors: input `x`: expected 2 axes, [rows, 4], ").says(found);
        assert!(!done.stderr.contains("m.nf"), "{}", done.stderr);
    }
}

#[test]
fn a_table_of_the_cpu_has_no_row_of_dashes() {
    let attention = r#"graph "attends"
opset "" 23
input %q: f32[1, 2, 4, 8]
input %k: f32[1, 2, 4, 8]
%y = attention(%q, %k, %k)
output %y
"#;
    let (_folder, model) = written("m.nf", attention);
    let text = normfuse(["bench", s(&model), "--replays", "1"]).code(0).stdout;
    assert!(text.contains("attention and its cache") && !text.contains("without attention"), "{text}");
}
