//! `normfuse bench`: fused ops on a GPU beside their limit; models are in `bench_model.rs`.

use std::{fs, path::Path};

use normfuse::cuda::{
    Compiler, Device,
    measure::{self, Bench, Measured, Op},
    regimes::Regimes,
};

use super::{
    args, bench_model,
    failure::{Failure, Result},
    output,
    progress::Progress,
};

/// Widths unless others are asked for.
const WIDTHS: [u64; 2] = [4096, 7168];

pub fn main(args: &args::Bench) -> Result<()> {
    if let Some(model) = &args.model {
        return bench_model::main(args, model);
    }
    if args.ops.iter().any(|op| op == "list") {
        return output::print(&(Op::names().join("\n") + "\n"));
    }
    let (widths, rows) = sizes(&args.dims, &WIDTHS, &measure::ROWS)?;
    let mut ops = Vec::new();
    for name in &args.ops {
        // One with widths of its own is one op.
        let widths = if Op::fixed(name) { &widths[..1] } else { &widths[..] };
        for width in widths {
            ops.push(Op::of(name, *width).map_err(usage)?);
        }
    }
    let table = args.regimes.as_deref().map(read).transpose()?;
    let mut progress = Progress::new();
    progress.step("opening the GPU");
    let bench = open(&args.gpu)?;
    let (name, copy) = (bench.device().name(), bench.bandwidth() / 1e9);
    // Line by line: all of them take minutes.
    output::print(&format!("{name}; device copy {copy:.0} GB/s\n{}\n", Measured::header()))?;
    for op in &ops {
        progress.step("measuring");
        let every = if args.all_shapes { bench.kernels(op, measure::shapes(op)).map_err(usage)? } else { Vec::new() };
        for rows in &rows {
            let picked = match (&table, args.all_shapes) {
                (_, true) => Vec::new(),
                (Some(table), _) => vec![table.choose(&op.norm, *rows, true)],
                (None, _) => vec![bench.device().shape(&op.norm, *rows, true)],
            };
            let picked = bench.kernels(op, picked).map_err(usage)?;
            let kernels = if args.all_shapes { &every } else { &picked };
            output::print(&format!("{}\n", bench.measure(op, kernels, *rows).map_err(usage)?))?;
        }
    }
    Ok(())
}

/// The GPU, with what compiles for it.
pub fn open(gpu: &args::Gpu) -> Result<Bench> {
    let device = Device::open(gpu.gpu).map_err(usage)?;
    let compiler = Compiler::load().map_err(usage)?;
    Bench::new(&device, compiler, usize::from(gpu.replays)).map_err(usage)
}

/// Widths and numbers of rows that were asked for, or the usual ones.
pub fn sizes(dims: &[args::Binding], widths: &[u64], rows: &[u64]) -> Result<(Vec<u64>, Vec<u64>)> {
    let named = |name: &str, usual: &[u64]| {
        let sizes: Vec<u64> = dims.iter().filter(|d| d.name == name).map(|d| d.size.unsigned_abs()).collect();
        if sizes.is_empty() { usual.to_vec() } else { sizes }
    };
    match dims.iter().find(|d| d.name != "n" && d.name != "m") {
        Some(other) => {
            Err(Failure::Usage(format!("--dim: expected n=N or m=M, found `{}={}`", other.name, other.size)))
        }
        None => Ok((named("n", widths), named("m", rows))),
    }
}

/// An error that is no file's.
#[allow(clippy::needless_pass_by_value, reason = "as `map_err` passes it")]
pub fn usage(e: normfuse::ir::Error) -> Failure {
    Failure::Usage(e.to_string())
}

fn read(file: &Path) -> Result<Regimes> {
    let in_file = |e: &dyn std::fmt::Display| Failure::Usage(format!("{}: {e}", file.display()));
    let text = fs::read_to_string(file).map_err(|e| in_file(&e))?;
    Regimes::parse(&text).map_err(|e| in_file(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(all: &[&str]) -> Vec<args::Binding> {
        all.iter().map(|d| d.parse().unwrap()).collect()
    }

    #[test]
    fn sizes_are_those_asked_for_or_the_usual_ones() {
        assert_eq!(sizes(&dims(&[]), &[1], &[2]).unwrap(), (vec![1], vec![2]));
        assert_eq!(sizes(&dims(&["m=3", "m=4"]), &[1], &[2]).unwrap(), (vec![1], vec![3, 4]));
        assert_eq!(sizes(&dims(&["n=5", "m=3"]), &[1], &[2]).unwrap(), (vec![5], vec![3]));
        let said = sizes(&dims(&["k=5"]), &[1], &[2]).unwrap_err().to_string();
        assert!(said.contains("found `k=5`"), "{said}");
    }
}
