//! How long a model takes to load and then to compile, and how much memory both take.
//!
//! `cargo bench --bench load -- FILE...` prints a line for each file, `.pt2` or any other that is read; without files,
//! for those of `tests/models`. Each is measured in processes of its own, so that nothing is warm and the memory is that
//! of one model: the fastest run counts, and the most memory. The limits are those that a model of DeepSeek-V3's
//! size has to keep (61 layers, 671 billion parameters without data, 245 norms).

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use normfuse::{cpu, passes};

/// The program's own, so that memory is what the program takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Processes for each file.
const RUNS: usize = 5;
/// Milliseconds to load, milliseconds to compile, megabytes in all.
const LIMITS: [f64; 3] = [500.0, 200.0, 200.0];
/// With this, the process is one that measures a file.
const ONE: &str = "--one";

/// What one run found.
struct Run {
    nodes: usize,
    norms: usize,
    /// In the order of [`LIMITS`].
    took: [f64; 3],
}

/// The most memory that this process has held, in megabytes; NaN where the system does not tell.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0 / 1e6)
}

/// Loads and compiles, as the program does.
fn one(file: &Path) -> Result<Run, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let source = normfuse::open(file)?;
    let load = start.elapsed();
    let start = Instant::now();
    let mut graph = source.clone();
    let options = passes::Options { supports: Arc::new(cpu::supports), ..passes::Options::default() };
    let report = passes::run(&mut graph, &options)?;
    let compile = start.elapsed();
    let took = [load.as_secs_f64() * 1e3, compile.as_secs_f64() * 1e3, peak()];
    Ok(Run { nodes: source.node_count(), norms: report.summary.norms, took })
}

/// A run in a process of its own.
fn apart(file: &Path) -> Result<Run, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let out = Command::new(this).arg(ONE).arg(file).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&out.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    match numbers[..] {
        [nodes, norms, load, compile, peak] if out.status.success() => {
            Ok(Run { nodes: nodes as usize, norms: norms as usize, took: [load, compile, peak] })
        }
        _ => Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
    }
}

fn line(file: &Path) -> Result<(), String> {
    let mut best = apart(file)?;
    for _ in 1..RUNS {
        let [load, compile, peak] = apart(file)?.took;
        let [l, c, p] = best.took;
        best.took = [l.min(load), c.min(compile), p.max(peak)];
    }
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let kept = best.took.iter().zip(LIMITS).all(|(took, limit)| *took < limit);
    let [load, compile, peak] = best.took;
    let verdict = if kept { "within" } else { "over" };
    println!("{name:<44} {:>7} {:>6} {load:>9.1} {compile:>10.1} {peak:>8.1}  {verdict}", best.nodes, best.norms);
    Ok(())
}

fn models() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let entries = std::fs::read_dir(folder).expect("the models of the tests");
    let mut all: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "onnx" || e == "pt2"));
    all.sort();
    all
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match &args[..] {
        // `cargo test --benches`: the program's tests load and compile.
        [first, ..] if first == "--test" => return Ok(()),
        [first, file] if first == ONE => {
            let Run { nodes, norms, took: [load, compile, peak] } = one(Path::new(file))?;
            println!("{nodes} {norms} {load} {compile} {peak}");
            return Ok(());
        }
        _ => {}
    }
    let files = if args.is_empty() { models() } else { args.into_iter().map(PathBuf::from).collect() };
    println!("{:<44} {:>7} {:>6} {:>9} {:>10} {:>8}", "model", "nodes", "norms", "load ms", "compile ms", "peak MB");
    let [load, compile, peak] = LIMITS;
    println!("{:<44} {:>7} {:>6} {load:>9.1} {compile:>10.1} {peak:>8.1}", "limits", "", "");
    for file in files {
        line(&file)?;
    }
    Ok(())
}
