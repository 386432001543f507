//! Whole graphs on a GPU against the CPU: every model of `tests/models`, every graph of `tests/in`, and, on request, every model of a
//! folder, before and after fusion. A missing GPU or NVRTC skips the tests, and says so on standard error; a missing cuBLASLt fails
//! them.

mod compare;
mod data;
#[path = "../common/graphs.rs"]
mod files;
mod folder;
#[path = "../common/hostile.rs"]
mod hostile;
mod integers;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use normfuse::{
    cpu,
    cuda::{Compiler, Device, exec::Executable, product::Products},
    ir::{Graph, Op, Tensor, body::bits_equal},
};

use compare::{Gpu, between_products, compare};
use data::{inputs, made_up};
use files::{graphs, open, root};

/// What is there, or none, and the reason is said, past the harness, which would keep it to itself.
fn gpu() -> Option<Gpu> {
    let found = Device::open(0).and_then(|device| Ok((device, Compiler::load()?)));
    found.inspect_err(|e| _ = writeln!(io::stderr(), "skipped: {e}")).ok()
}

fn fused(graph: &Graph) -> Graph {
    files::fused(graph, Arc::new(normfuse::cuda::supports))
}

/// What is wrong with a graph before and after fusion; `None` for one that the CPU does not run either.
fn check(gpu: &Gpu, path: &Path) -> Option<Vec<String>> {
    let source = open(path);
    if source.nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))) {
        return None;
    }
    check_on(gpu, path, &source, &inputs(path, &source))
}

/// The same on these inputs.
fn check_on(gpu: &Gpu, path: &Path, source: &Graph, given: &[Tensor]) -> Option<Vec<String>> {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let results = [source, &fused(source)].map(|graph| compare(gpu, graph, given).map(|ran| ran.results));
    let mut failed = Vec::new();
    match &results {
        [Ok(before), Ok(after)] => {
            for (a, b) in before.iter().zip(after) {
                if let Some(differs) = bits_equal(a, b) {
                    failed.push(format!("{name}: fused differs from unfused: {differs}"));
                }
            }
        }
        [Err(why), _] | [_, Err(why)] if why.starts_with("not on the CPU") => return None,
        [before, after] => {
            for (what, result) in [("source", before), ("fused", after)] {
                failed.extend(result.as_ref().err().map(|why| format!("{name} ({what}): {why}")));
            }
        }
    }
    Some(failed)
}

/// Does something with each of some files, on as many threads as there are.
fn on_all_threads(mut files: Vec<PathBuf>, each: impl Fn(&Path) + Sync) {
    files.reverse();
    let left = Mutex::new(files);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().pop();
                    let Some(path) = next else { return };
                    each(&path);
                }
            });
        }
    });
}

fn check_all(folder: &str, least: usize) {
    let Some(gpu) = gpu() else { return };
    let found = Mutex::new((0, Vec::new()));
    on_all_threads(graphs(folder), |path| {
        if let Some(failed) = check(&gpu, path) {
            let mut found = found.lock().unwrap();
            found.0 += 1;
            for line in &failed {
                let _ = writeln!(io::stderr(), "{line}");
            }
            found.1.extend(failed);
        }
    });
    let (ran, failed) = found.into_inner().unwrap();
    let _ = writeln!(io::stderr(), "{ran} graphs of {folder} ran, {} differ", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ran >= least, "{ran}");
}

/// On the CPU alone: the graph between its products makes what the whole one does.
#[test]
fn a_graph_between_its_products_is_that_graph() {
    for path in graphs("tests/models") {
        let source = open(&path);
        let given = inputs(&path, &source);
        for graph in [&source, &fused(&source)] {
            let whole = cpu::Plan::new(graph).unwrap().run(&given).unwrap();
            let (cut, given) = between_products(graph, &given).unwrap();
            assert!(cut.node_count() < graph.node_count() && cut.outputs().len() > whole.len());
            let parts = cpu::Plan::new(&cut).unwrap().run(&given).unwrap();
            for (whole, part) in whole.iter().zip(&parts) {
                assert_eq!(bits_equal(whole, part), None, "{}", path.display());
            }
        }
    }
}

#[test]
fn models_are_those_of_the_cpu() {
    check_all("tests/models", 10);
}

#[test]
fn small_graphs_are_those_of_the_cpu() {
    check_all("tests/in", 100);
}

/// NaN and infinities: the bits of the CPU, and after fusion those of before.
#[test]
fn rows_without_numbers_have_the_defined_results() {
    let Some(gpu) = gpu() else { return };
    let (mut ran, mut failed) = (0, Vec::new());
    for (path, source) in hostile::without_products() {
        if let Some(wrong) = check_on(&gpu, &path, &source, &hostile::hostile(&made_up(&source, 7))) {
            ran += 1;
            failed.extend(wrong);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ran > 60, "{ran}");
}

/// An engine's own stream and memory: one bucket, whose results go to two places in turn.
#[test]
fn runs_in_memory_of_the_caller_are_the_same() {
    let Some((device, compiler)) = gpu() else { return };
    let graph = Arc::new(fused(&open(&root().join("tests/in/fuse/quant_token.nf"))));
    let given = made_up(&graph, 7);
    let products = Box::new(Products::new(&device));
    let executable = Executable::load(graph, &device, compiler, products).unwrap();
    let bound = executable.bind(&executable.given(&given)).unwrap();
    let want = bound.run(&given).unwrap();
    let inputs: Vec<_> = given.iter().map(|t| device.upload(t.bytes()).unwrap()).collect();
    let places: Vec<Vec<_>> =
        (0..2).map(|_| want.iter().map(|t| device.upload(&vec![0xa5; t.bytes().len()]).unwrap()).collect()).collect();
    let addresses =
        |all: &[normfuse::cuda::Buffer]| all.iter().map(normfuse::cuda::Buffer::address).collect::<Vec<u64>>();
    for turn in 0..6 {
        let outputs = &places[turn % 2];
        // SAFETY: the stream is the device's, and the buffers are as large as inputs and results and live until the downloads.
        unsafe { bound.run_on(device.stream().cu_stream(), &addresses(&inputs), &addresses(outputs)) }.unwrap();
        for (want, buffer) in want.iter().zip(outputs) {
            assert_eq!(want.bytes(), buffer.download().unwrap(), "turn {turn}");
        }
        bound.check().unwrap();
    }
    // SAFETY: it is refused before anything is launched.
    let said = unsafe { bound.run_on(device.stream().cu_stream(), &[], &[]) }.unwrap_err().to_string();
    assert!(said.contains("expected addresses of"), "{said}");
}

/// Memory that others take of the GPU meanwhile is counted, too: run this test alone.
#[test]
#[ignore = "needs a GPU that nobody else uses"]
fn runs_leave_no_memory_behind() {
    let Some((device, compiler)) = gpu() else { return };
    for (path, runs) in [("tests/in/fuse/quant_token.nf", 1000), ("tests/models/llama_token.onnx", 1000)] {
        let path = root().join(path);
        let source = open(&path);
        let graph = Arc::new(fused(&source));
        let given = inputs(&path, &source);
        let run = || {
            let products = Box::new(Products::new(&device));
            let executable = Executable::load(graph.clone(), &device, compiler, products).unwrap();
            executable.run(&given).unwrap();
            executable.run(&given).unwrap();
        };
        // The driver keeps what it needs for the most that was there.
        (0..50).for_each(|_| run());
        let before = device.free_memory().unwrap();
        (0..runs).for_each(|_| run());
        let after = device.free_memory().unwrap();
        let _ = writeln!(io::stderr(), "{}: {before} bytes were free, {after} are after {runs} runs", path.display());
        assert!(before.saturating_sub(after) < 4 << 20, "{before} bytes were free, {after} are");
    }
}
