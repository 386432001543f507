//! How long import, the pass and export take, each by itself, and how that grows with the graph.
//!
//! `cargo bench --bench pass` first prints a table of sizes (once each, with memory), then lets criterion measure.
//! `-- --write MODEL NODES FILE` writes a grown graph as ONNX. `-- --table [TEXT]` prints the lines whose names have the text in them, and no more; a filter of criterion's skips it.

mod grow;
mod memory;

use std::{hint::black_box, path::PathBuf, sync::Arc, time::Instant};

use criterion::{BatchSize, Criterion, Throughput};
use normfuse::{
    cpu,
    formats::onnx,
    ir::{Graph, infer},
    passes::{self, Observer},
};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Models of `tests/models`, each with the two ends of its layer in the residual stream.
const MODELS: [(&str, &str, &str); 3] = [
    ("deepseek_v3_fp8", "embedding", "add_47"),
    ("llama_ts", "/model/model/embed_tokens/Gather_output_0", "/model/model/layers.0/Add_1_output_0"),
    ("llama_native", "embedding", "add_10"),
];

/// Sizes of repeated layers, in nodes.
const SIZES: [usize; 4] = [2_000, 20_000, 200_000, 1_000_000];

/// Norms that share one eps.
const CONSUMERS: usize = 250_000;

fn model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{name}.onnx"))
}

fn options() -> passes::Options {
    passes::Options { supports: Arc::new(cpu::supports), ..passes::Options::default() }
}

/// Milliseconds that `f` takes: on the clock, and of this thread's processor, which on a busy machine is less.
fn timed<R>(f: impl FnOnce() -> R) -> (R, f64, f64) {
    let (wall, cpu) = (Instant::now(), cpu_time());
    let r = f();
    let wall = wall.elapsed().as_secs_f64();
    (r, wall * 1e3, (cpu_time() - cpu) * 1e3)
}

/// Seconds that this thread ran; NaN where the system does not say. Tells less than a few milliseconds badly.
fn cpu_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).map_or(f64::NAN, |ns| ns / 1e9)
}

/// Hears how many regions there were and how many were solved.
#[derive(Default)]
struct Regions {
    seen: usize,
    solved: usize,
}

impl Observer for Regions {
    fn solved(&mut self, distinct: usize, regions: usize) {
        (self.solved, self.seen) = (distinct, regions);
    }
}

/// One line of the table: the pass in all, how much of it are inference and the verifier (which runs twice), and memory.
/// Each goes through several times, and the fastest counts, as the first also pays for cold caches and for memory that
/// the system has not handed out yet.
fn line(name: &str, source: Graph) {
    let nodes = source.node_count();
    let part = |ms: f64| ms * 2e3 / nodes as f64;
    // The processor's clock ticks every few milliseconds: of less it says nothing.
    let ticked = |ms: f64| if ms < 20.0 { "-".to_owned() } else { format!("{:.2}", part(ms)) };
    let mut regions = Regions::default();
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..(200_000 / nodes).clamp(3, 20) {
        let mut graph = source.clone();
        let run = || passes::run_with(&mut graph, &options(), &mut regions).expect("it is legal");
        let (_, wall, cpu) = timed(run);
        best = Some(best.map_or((wall, cpu), |(w, c)| (w.min(wall), c.min(cpu))));
    }
    let (wall, cpu) = best.expect("at least one run");
    let mut graph = source.clone();
    let (_, _, infer) = timed(|| infer::infer(&mut graph).expect("it is legal"));
    let ((), _, before) = timed(|| graph.verify_inferred().expect("it is legal"));
    drop(graph);
    let mut graph = source;
    let (report, peak) = memory::peak(|| passes::run(&mut graph, &options()).expect("it is legal"));
    let ((), _, after) = timed(|| graph.verify().expect("the pass verified it"));
    let fused = report.summary.fused;
    println!(
        "{name:<28} {nodes:>8} {:>6}/{:<6} {wall:>9.1} {:>8.2} {:>7} {:>7} {:>7} {:>3}/{:<6} {:>6}",
        fused.norm + fused.norm_quant,
        report.summary.norms,
        part(wall),
        ticked(cpu),
        ticked(infer),
        ticked(before + after),
        regions.solved,
        regions.seen,
        peak / nodes,
    );
}

/// Every line whose name has `filter` in it.
fn table(filter: &str) {
    println!(
        "Milliseconds in all, then per 2,000 nodes: in all, of the processor, and what inference and verifying take of that."
    );
    println!("Regions: distinct (each solved once) of all. Memory: most bytes a node beyond the graph.");
    println!(
        "{:<28} {:>8} {:>13} {:>9} {:>8} {:>7} {:>7} {:>7} {:>10} {:>6}",
        "graph", "nodes", "fused", "ms", "ms/2000", "cpu", "infer", "verify", "regions", "bytes"
    );
    for (name, from, to) in MODELS {
        let source = normfuse::open(&model(name)).expect("a model of tests/models");
        for size in [0].into_iter().chain(SIZES) {
            let title = if size == 0 { name.to_owned() } else { format!("{name} x {size}") };
            if title.contains(filter) {
                line(&title, grow::layers(&source, from, to, size));
            }
        }
    }
    if "one eps".contains(filter) {
        line("one eps", grow::one_eps(CONSUMERS));
    }
}

/// A grown graph as a file, for other programs.
fn write(name: &str, nodes: &str, file: &str) {
    let (_, from, to) = MODELS.into_iter().find(|(n, ..)| *n == name).expect("a name of MODELS");
    let source = normfuse::open(&model(name)).expect("a model of tests/models");
    let graph = grow::layers(&source, from, to, nodes.parse().expect("a number of nodes"));
    onnx::write(&graph, file.as_ref(), &onnx::WriteOptions { copy_weights: true }).expect("it was read from ONNX");
}

fn measure(c: &mut Criterion) {
    let options = options();
    let folder = std::env::temp_dir().join(format!("normfuse-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for files of the bench");
    for (name, from, to) in MODELS {
        let source = normfuse::open(&model(name)).expect("a model of tests/models");
        for size in [0].into_iter().chain(SIZES) {
            let graph = grow::layers(&source, from, to, size);
            let nodes = graph.node_count();
            let mut group = c.benchmark_group(format!("{name}/{nodes}"));
            group.throughput(Throughput::Elements(nodes as u64)).sample_size(10);
            group.bench_function("pass", |b| {
                let run = |mut graph: Graph| {
                    passes::run(&mut graph, &options).expect("it is legal");
                    black_box(graph)
                };
                b.iter_batched(|| graph.clone(), run, BatchSize::PerIteration);
            });
            if size <= 20_000 {
                let (before, after) = (folder.join("before.onnx"), folder.join("after.onnx"));
                let copy = onnx::WriteOptions { copy_weights: true };
                onnx::write(&graph, &before, &copy).expect("it was read from ONNX");
                group.bench_function("import", |b| {
                    b.iter_with_large_drop(|| onnx::read(&before).expect("it was written just now"));
                });
                let mut fused = graph.clone();
                passes::run(&mut fused, &options).expect("it is legal");
                group.bench_function("export", |b| {
                    b.iter(|| onnx::write(&fused, &after, &copy).expect("it was read from ONNX"));
                });
            }
            group.finish();
        }
    }
    let mut group = c.benchmark_group("one eps");
    group.sample_size(10);
    let graph = grow::one_eps(CONSUMERS);
    group.throughput(Throughput::Elements(graph.node_count() as u64));
    group.bench_function("pass", |b| {
        b.iter_batched(
            || graph.clone(),
            |mut graph| {
                passes::run(&mut graph, &options).expect("it is legal");
                black_box(graph)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
    std::fs::remove_dir_all(folder).expect("it was made above");
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // `cargo test --benches`: all this has tests on small graphs.
        ["--test", ..] => return,
        ["--table"] => return table(""),
        ["--table", filter] => return table(filter),
        ["--write", name, nodes, file] => return write(name, nodes, file),
        [] => table(""),
        _ => {}
    }
    let mut c = Criterion::default().configure_from_args();
    measure(&mut c);
    c.final_summary();
}
