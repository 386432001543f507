//! normfuse: import, pass and export each by themselves.

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use normfuse::{
    Format, cpu,
    formats::onnx::WriteOptions,
    ir::{Graph, Op, Tensor, body},
    passes,
};
use serde_json::{Value, json};

use crate::tensors::{Input, median};

/// What the CPU runtime computes before and after, where it runs both: the same bits, or which result differs.
fn compare(source: &Graph, fused: &Graph, inputs: &[Input]) -> Result<Value, Box<dyn Error>> {
    let mut tensors = Vec::new();
    for id in source.inputs() {
        let value = source.value(*id);
        let input = inputs.iter().find(|i| i.name == value.name).ok_or("an input is missing")?;
        let dtype = value.ty.dtype.ok_or("an input has no dtype")?;
        tensors.push(Tensor::from_bytes(dtype, input.shape.clone(), input.bytes.clone())?);
    }
    let before = cpu::Plan::new(source)?.run(&tensors)?;
    let after = cpu::Plan::new(fused)?.run(&tensors)?;
    let differs = before.iter().zip(&after).position(|(a, b)| body::bits_equal(a, b).is_some());
    Ok(differs.map_or(json!(0.0), |i| json!(format!("result {i} has other bits"))))
}

pub fn measure(model: &Path, runs: usize, folder: &Path) -> Result<Value, Box<dyn Error>> {
    let out = folder.join("fused.onnx");
    let options = passes::Options { supports: Arc::new(cpu::supports), ..passes::Options::default() };
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut last = None;
    for _ in 0..runs {
        let start = Instant::now();
        let source = normfuse::open(model)?;
        times[0].push(start.elapsed().as_secs_f64());
        let mut graph = source.clone();
        let start = Instant::now();
        let report = passes::run(&mut graph, &options)?;
        times[1].push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        normfuse::save(&graph, &out, Format::Onnx, &WriteOptions { copy_weights: true })?;
        times[2].push(start.elapsed().as_secs_f64());
        last = Some((report, source, graph));
    }
    let (report, source, graph) = last.ok_or("no runs")?;
    let fused = graph.nodes().filter_map(|(_, n)| match &n.op {
        Op::FusedNorm(f) => Some(f),
        _ => None,
    });
    let quantisers: usize = fused.flat_map(|f| &f.siblings).map(|s| s.epilogues.len()).sum();
    let inputs = Input::all(folder).ok();
    let off = inputs.map_or(json!("no inputs"), |i| {
        let why = |e: Box<dyn Error>| json!(format!("does not run: {e}"));
        compare(&source, &graph, &i).unwrap_or_else(why)
    });
    let [import, pass, export] = times.map(|t| median(t) * 1e3);
    Ok(json!({
        "import_ms": import, "pass_ms": pass, "export_ms": export, "nodes": report.summary.nodes_before,
        // A native norm that stands alone is one op already: it counts, though it is left as it is.
        "difference": off,
        "norms": report.summary.norms, "quantisers": quantisers, "quantisers_found": report.summary.quants,
    }))
}
