//! `normfuse run`: a graph on given or random inputs.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use normfuse::{
    cpu::Plan,
    formats::tensors,
    ir::{DType, Graph, Tensor},
};

use super::{
    args, bits,
    failure::{Failure, Result},
    gpu::Gpu,
    inputs, output,
    progress::Progress,
    random_weights, table,
    weights::{self, Of},
};

pub fn main(args: &args::Run) -> Result<()> {
    let mut progress = Progress::new();
    progress.step("reading");
    let graph = open(&args.model, &args.weights, Of::Model)?;
    let dims = inputs::bindings(&graph, &args.random.dims)?;
    let gpu = Gpu::open(args.device)?;
    let made = made_up(&graph, &args.random)?;
    let given = match &args.inputs {
        Some(file) => inputs::load(&graph, file, &made)?,
        None => inputs::random(&graph, args.random.seed, &dims, inputs::MOST_BYTES, &made)?,
    };
    let graph = Arc::new(graph);
    let results = match gpu {
        None => {
            progress.step("running");
            let plan = Plan::new(&graph).map_err(Failure::of_graph(&args.model))?;
            execute(&plan, &given, &progress).map_err(Failure::of_graph(&args.model))?
        }
        Some(gpu) => {
            progress.step("running on the GPU");
            let executable = gpu.load(&graph, &args.model, &progress)?;
            executable.run(&given).map_err(Failure::of_graph(&args.model))?
        }
    };
    let named: Vec<(String, Tensor)> = graph.outputs().iter().map(|o| o.name.clone()).zip(results).collect();
    if let Some(file) = &args.outputs {
        progress.step("writing");
        tensors::write(file, &for_file(file, &named)?)?;
    }
    drop(progress);
    output::print(&summary(&named)?)
}

/// Weights that were asked for in place of those that the graph has not.
pub fn made_up(graph: &Graph, random: &args::Random) -> Result<BTreeMap<String, Tensor>> {
    random.weights_seed.map_or_else(|| Ok(BTreeMap::new()), |seed| random_weights::make(graph, seed))
}

/// Reads a graph with its weights and infers its types, so that what does not fit is found before anything runs.
pub fn open(path: &Path, weights: &args::Checkpoint, of: Of) -> Result<Graph> {
    let mut graph = weights::open(path, weights, of)?.graph;
    normfuse::ir::infer::infer(&mut graph).map_err(Failure::of_graph(path))?;
    graph.verify().map_err(Failure::of_graph(path))?;
    Ok(graph)
}

/// Runs a plan under a progress bar.
pub fn execute(plan: &Plan, inputs: &[Tensor], progress: &Progress) -> normfuse::ir::Result<Vec<Tensor>> {
    plan.run_observed(inputs, &mut |done| {
        progress.at(done.index + 1, done.total);
        Ok(())
    })
}

/// The tensors as this file can hold them: numpy has no bf16 and nothing below, so `.npz` gets those as f32, exactly.
fn for_file(file: &Path, outputs: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
    let numpy = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    let narrow = |t: &Tensor| t.dtype().is_float() && !matches!(t.dtype(), DType::F16 | DType::F32 | DType::F64);
    let widen = |(name, tensor): &(String, Tensor)| {
        let wide = if numpy && narrow(tensor) { bits::cast(tensor, DType::F32) } else { Ok(tensor.clone()) };
        wide.map(|t| (name.clone(), t)).map_err(|e| Failure::Usage(format!("output `{name}`: {e}")))
    };
    outputs.iter().map(widen).collect()
}

/// A line an output: name, type, and the range of its numbers.
fn summary(outputs: &[(String, Tensor)]) -> Result<String> {
    let mut rows = Vec::new();
    for (name, tensor) in outputs {
        let numbers = bits::numbers(tensor).map_err(|e| Failure::Usage(format!("output `{name}`: {e}")))?;
        let (mut low, mut high, mut nans) = (f64::INFINITY, f64::NEG_INFINITY, 0usize);
        for n in numbers {
            // Comparisons with NaN are false, so it changes neither end.
            low = if n < low { n } else { low };
            high = if n > high { n } else { high };
            nans += usize::from(n.is_nan());
        }
        let range = if low <= high { format!("{low:.6e} .. {high:.6e}") } else { "-".into() };
        let nans = if nans > 0 { format!("{nans} NaN") } else { String::new() };
        rows.push(vec![name.clone(), format!("{}{:?}", tensor.dtype(), tensor.shape()), range, nans]);
    }
    Ok(table::columns(&rows))
}
