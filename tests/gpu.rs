//! Whole graphs on a GPU against the CPU: every model of `tests/models` and every graph of `tests/in`, before and after fusion.
//! A missing GPU or NVRTC skips the tests, and says so on standard error; a missing cuBLASLt fails them.

#[path = "common/graphs.rs"]
mod files;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use normfuse::{
    cpu,
    cuda::{Compiler, Device, exec::Executable, product::Products},
    formats::tensors,
    ir::{DType, Graph, Op, Tensor, body::bits_equal, eval},
};

use files::{graphs, input_shapes, open, root};

/// What is there, or none, and the reason is said, past the harness, which would keep it to itself.
fn gpu() -> Option<(Device, Compiler)> {
    let found = Device::open(0).and_then(|device| Ok((device, Compiler::load()?)));
    found.inspect_err(|e| _ = writeln!(io::stderr(), "skipped: {e}")).ok()
}

fn fused(graph: &Graph) -> Graph {
    files::fused(graph, Arc::new(normfuse::cuda::supports))
}

/// Spread numbers of both signs, now and then a large one; integers from 0 to 2.
fn made_up(graph: &Graph, size: i64) -> Vec<Tensor> {
    let mut state = 0x9e37_79b9u32;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut tensor = |(id, shape): (&normfuse::ir::ValueId, Vec<usize>)| {
        let value = graph.value(*id);
        if let Some(stored) = value.stored() {
            return stored.clone();
        }
        let count: usize = shape.iter().product();
        let dtype = value.ty.dtype.unwrap();
        let mut number = || {
            let n = next();
            if dtype.is_int() || dtype == DType::Bool {
                return if dtype == DType::Bool { 1.0 } else { (n % 3) as f32 };
            }
            let large = if n.is_multiple_of(37) { 20.0 } else { 1.0 };
            ((n >> 8) as f32 / (1u32 << 23) as f32 - 1.0) * large
        };
        let numbers: Vec<f32> = (0..count).map(|_| number()).collect();
        eval::cast(&Tensor::from_f32(&shape, &numbers), dtype, true).unwrap()
    };
    graph.inputs().iter().zip(input_shapes(graph, size)).map(&mut tensor).collect()
}

/// Inputs that an exporter left beside the model, or others.
fn inputs(path: &Path, graph: &Graph) -> Vec<Tensor> {
    let file = path.with_extension("npz");
    if path.extension().is_some_and(|e| e == "nf") || !file.exists() {
        return made_up(graph, 7);
    }
    let found: BTreeMap<String, Tensor> = tensors::read(&file).unwrap().into_iter().collect();
    let named = |id: &normfuse::ir::ValueId| {
        let value = graph.value(*id);
        let given = found.get(&format!("in.{}", value.name)).or_else(|| found.get(&value.name));
        let given = given.cloned().or_else(|| value.stored().cloned())?;
        let to = value.ty.dtype.unwrap();
        Some(if given.dtype() == to { given } else { eval::cast(&given, to, true).unwrap() })
    };
    graph.inputs().iter().map(named).collect::<Option<Vec<_>>>().unwrap_or_else(|| made_up(graph, 7))
}

fn numbers(t: &Tensor) -> Vec<f32> {
    let wide = eval::cast(t, DType::F32, true).unwrap();
    wide.bytes().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// How far apart two tensors are: 1 less their cosine.
fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    let (a, b) = (numbers(a), numbers(b));
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(&a, &a) * dot(&b, &b)).sqrt();
    if norms == 0.0 { 0.0 } else { 1.0 - dot(&a, &b) / norms }
}

fn has_products(graph: &Graph) -> bool {
    graph.nodes().any(|(_, n)| matches!(n.op, Op::MatMul | Op::Gemm { .. } | Op::Attention(_)))
}

/// What is wrong with a result behind products, whose sums are in another order: of f32 the largest difference is at most 1e-4 of the
/// largest magnitude; of 16 bits the cosine is at least 0.9999. Codes may flip: behind them it is at least 0.999.
fn too_far(graph: &Graph, want: &Tensor, found: &Tensor) -> Option<String> {
    let coded = graph.values().any(|(_, v)| v.ty.dtype.is_some_and(DType::is_quantised));
    let apart = apart(want, found);
    let most = if coded { 1e-3 } else { 1e-4 };
    if apart.is_nan() || apart > most {
        return Some(format!("1 - cosine is {apart:e}, expected at most {most:e}"));
    }
    if coded || want.dtype() != DType::F32 {
        return None;
    }
    let (want, found) = (numbers(want), numbers(found));
    let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let differ = want.iter().zip(&found).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    (differ > 1e-4 * largest).then(|| format!("differs by {differ:e} of {largest:e}"))
}

/// One graph on both; what differs, if anything does. The GPU's results.
fn compare(gpu: &(Device, Compiler), graph: &Graph, given: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let want = match cpu::Plan::new(graph).and_then(|plan| plan.run(given)) {
        Ok(want) => want,
        Err(e) => return Err(format!("not on the CPU: {e}")),
    };
    let (device, compiler) = gpu;
    let products = Box::new(Products::new(device));
    let executable =
        Executable::load(Arc::new(graph.clone()), device, *compiler, products).map_err(|e| e.to_string())?;
    let found = executable.run(given).map_err(|e| e.to_string())?;
    // Replayed, it makes the same again.
    let again = executable.run(given).map_err(|e| e.to_string())?;
    for (i, ((want, found), again)) in want.iter().zip(&found).zip(&again).enumerate() {
        let name = &graph.outputs()[i].name;
        if let Some(differs) = bits_equal(found, again) {
            return Err(format!("`{name}` differs from run to run: {differs}"));
        }
        if has_products(graph) {
            if let Some(why) = too_far(graph, want, found) {
                return Err(format!("`{name}`: {why}"));
            }
        } else if let Some(differs) = bits_equal(want, found) {
            return Err(format!("`{name}`: {differs}"));
        }
    }
    Ok(found)
}

/// What is wrong with a graph before and after fusion; `None` for one that the CPU does not run either.
fn check(gpu: &(Device, Compiler), path: &Path) -> Option<Vec<String>> {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let source = open(path);
    if source.nodes().any(|(_, n)| matches!(n.op, Op::Foreign(_))) {
        return None;
    }
    let given = inputs(path, &source);
    let results = [&source, &fused(&source)].map(|graph| compare(gpu, graph, &given));
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

/// All graphs of a folder, on as many threads as there are: compiling takes longer than running.
fn check_all(folder: &str, least: usize) {
    let Some(gpu) = gpu() else { return };
    let left = Mutex::new(graphs(folder));
    let found = Mutex::new((0, Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(path) = left.lock().unwrap().pop() else { return };
                    if let Some(failed) = check(&gpu, &path) {
                        let mut found = found.lock().unwrap();
                        found.0 += 1;
                        for line in &failed {
                            let _ = writeln!(io::stderr(), "{line}");
                        }
                        found.1.extend(failed);
                    }
                }
            });
        }
    });
    let (ran, failed) = found.into_inner().unwrap();
    let _ = writeln!(io::stderr(), "{ran} graphs of {folder} ran, {} differ", failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ran >= least, "{ran}");
}

#[test]
fn models_are_those_of_the_cpu() {
    check_all("tests/models", 10);
}

#[test]
fn small_graphs_are_those_of_the_cpu() {
    check_all("tests/in", 100);
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

#[test]
fn runs_leave_no_memory_behind() {
    let Some((device, compiler)) = gpu() else { return };
    let path = root().join("tests/in/fuse/quant_token.nf");
    let graph = Arc::new(fused(&open(&path)));
    let given = made_up(&graph, 7);
    let run = || {
        let products = Box::new(Products::new(&device));
        let executable = Executable::load(graph.clone(), &device, compiler, products).unwrap();
        executable.run(&given).unwrap()
    };
    run();
    let before = device.free_memory().unwrap();
    for _ in 0..1000 {
        run();
    }
    let after = device.free_memory().unwrap();
    // The driver takes some of its own now and then, of a few MiB.
    assert!(before.saturating_sub(after) < 16 << 20, "{before} bytes were free, {after} are");
}
