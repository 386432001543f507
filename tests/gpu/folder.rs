//! Every model of a folder on both devices, as a table.

use std::{fmt::Write as _, path::Path, sync::Mutex, time::Instant};

use normfuse::ir::{Graph, Op, Tensor, body::bits_equal, infer};

use crate::{
    compare::{Apart, Gpu, between_products, compare, is_product, memory, numbers},
    data::{inputs, missing_bytes},
    files::files_in,
    fused, gpu, on_all_threads,
};

/// Bytes of parameters from which on they are not made up: neither the CPU nor its memory is there for that.
const MOST_MADE_UP: usize = 1 << 30;

const COLUMNS: [&str; 9] =
    ["model", "graph", "nodes", "launches", "arena", "least", "between products", "1 - cosine", "largest diff"];

/// A line of the table, and what is wrong.
type Row = (Vec<String>, Option<String>);

/// The values of a graph that are no products, with the CPU's products as inputs; how many have its bits.
fn between(gpu: &Gpu, graph: &Graph, given: &[Tensor]) -> Result<String, String> {
    let (cut, given) = between_products(graph, given)?;
    assert!(!cut.nodes().any(|(_, n)| is_product(&n.op)));
    compare(gpu, &cut, &given).map_err(|e| format!("between products: {e}"))?;
    Ok(format!("{} equal", cut.outputs().len()))
}

/// That numbers are numbers, and not all the same: others would be equal on any device.
fn says_something(result: &Tensor) -> Result<(), String> {
    let numbers = numbers(result);
    let finite = numbers.iter().all(|v| v.is_finite());
    let same = numbers.len() > 1 && numbers.iter().all(|v| *v == numbers[0]);
    if finite && !same { Ok(()) } else { Err(format!("a result says nothing: finite: {finite}, all the same: {same}")) }
}

/// Source and fused graph of a model; the model's name alone, and why, where it cannot run here.
fn rows(gpu: &Gpu, path: &Path) -> Vec<Row> {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let only = |why: String| vec![(vec![name.clone(), why], None)];
    let source = match normfuse::open(path) {
        Ok(mut graph) => match infer::infer(&mut graph).and_then(|_| graph.verify()) {
            Ok(()) => graph,
            Err(e) => return only(format!("refused: {e}")),
        },
        Err(e) => return only(format!("refused: {e}")),
    };
    if let Some((_, node)) = source.nodes().find(|(_, n)| matches!(n.op, Op::Foreign(_))) {
        return only(format!("has `{}`, which runs nowhere", node.op.name()));
    }
    let missing = missing_bytes(&source);
    if missing > MOST_MADE_UP {
        return only(format!("not run: {} GiB of weights that the file has not", missing >> 30));
    }
    let given = inputs(path, &source);
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for (form, graph) in [("source", &source), ("fused", &fused(&source))] {
        let mut row = vec![name.clone(), form.to_owned(), graph.node_count().to_string()];
        let mut done = || {
            let (arena, least, launches) = memory(graph, &given)?;
            row.extend([launches.to_string(), arena.to_string(), format!("{:.3}", arena as f64 / least.max(1) as f64)]);
            row.push(between(gpu, graph, &given)?);
            let ran = compare(gpu, graph, &given)?;
            ran.results.iter().try_for_each(says_something)?;
            let Apart { angle, largest } = ran.apart;
            row.extend([format!("{angle:.1e}"), format!("{largest:.1e}")]);
            Ok(ran.results)
        };
        let failed: Option<String> = match done() {
            Ok(made) => {
                results.push(made);
                None
            }
            Err(why) => Some(why),
        };
        rows.push((row, failed));
    }
    if let [before, after] = &results[..] {
        let differs = before.iter().zip(after).find_map(|(a, b)| bits_equal(a, b));
        let last = rows.last_mut().unwrap();
        last.0.push(if differs.is_some() { "differs from source" } else { "source's bits" }.to_owned());
        last.1 = differs.map(|d| format!("fused differs from unfused: {d}"));
    }
    rows
}

/// `NORMFUSE_GRAPHS=FOLDER cargo test --release --test gpu -- --ignored --nocapture folder`
#[test]
#[ignore = "needs a folder of exported models"]
fn models_of_a_folder_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { panic!("a GPU is what this is about") };
    let folder = std::env::var_os("NORMFUSE_GRAPHS").unwrap_or_else(|| "target/graphs".into());
    let began = Instant::now();
    let all = Mutex::new(Vec::new());
    on_all_threads(files_in(Path::new(&folder)), |path| {
        let found = rows(&gpu, path);
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("{seconds:.0} s: {}", path.display());
        all.lock().unwrap().push(found);
    });
    let mut all = all.into_inner().unwrap();
    all.sort();
    let mut text = format!("{}\n", gpu.0.name());
    let rows: Vec<&Row> = all.iter().flatten().collect();
    let width = |c: usize| {
        let cells = rows.iter().filter(|(r, _)| r.len() > 2).filter_map(|(r, _)| r.get(c)).map(String::len);
        cells.chain(COLUMNS.get(c).map(|n| n.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=COLUMNS.len()).map(width).collect();
    let head = COLUMNS.map(str::to_owned).to_vec();
    for (row, failed) in std::iter::once((&head, &None)).chain(rows.iter().map(|(r, f)| (r, f))) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let wrong = failed.as_ref().map(|why| format!("  FAIL {why}")).unwrap_or_default();
        let _ = writeln!(text, "{}{wrong}", cells.join("  ").trim_end());
    }
    println!("{text}");
    let failed = rows.iter().filter(|(_, failed)| failed.is_some()).count();
    let ran = rows.iter().filter(|(row, _)| row.len() > 2).count();
    println!("{ran} graphs, {failed} failed");
    assert!(ran > 0 && failed == 0, "{failed} of {ran}");
}
