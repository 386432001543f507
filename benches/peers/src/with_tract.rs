//! tract: reading and typing, then `into_decluttered`, which is its rewriting.

use std::{error::Error, path::Path, time::Instant};

use serde_json::{Value as Json, json};
use tract_onnx::prelude::*;

use crate::tensors::{Input, difference, median};

fn tensor(i: &Input) -> Result<Tensor, Box<dyn Error>> {
    let dtype = match i.dtype.as_str() {
        "int64" => i64::datum_type(),
        "float32" => f32::datum_type(),
        "float16" => f16::datum_type(),
        "bool" => bool::datum_type(),
        other => return Err(format!("no inputs of {other}").into()),
    };
    // SAFETY: the bytes are a tensor of that dtype and shape, and every pattern is a value of these dtypes (a bool is 0 or 1).
    Ok(unsafe { Tensor::from_raw_dt(dtype, &i.shape, &i.bytes)? })
}

/// The model as its exporter spelled it, with the sizes of the inputs where there are some: tract wants them for models
/// that flatten axes.
fn typed(path: &Path, inputs: &[Input]) -> Result<TypedModel, Box<dyn Error>> {
    let mut model = tract_onnx::onnx().model_for_path(path)?;
    for i in 0..model.inputs.len() {
        let name = model.node(model.inputs[i].node).name.clone();
        if let Some(input) = inputs.iter().find(|n| n.name == name) {
            let fact = InferenceFact::dt_shape(tensor(input)?.datum_type(), &input.shape);
            model.set_input_fact(i, fact)?;
        }
    }
    Ok(model.into_typed()?)
}

fn run(model: &TypedModel, inputs: &[Input]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let mut values = tvec!();
    for outlet in &model.inputs {
        let name = &model.node(outlet.node).name;
        let input = inputs.iter().find(|i| i.name == *name).ok_or("an input is missing")?;
        values.push(tensor(input)?.into_tvalue());
    }
    let mut floats = Vec::new();
    for v in model.clone().into_runnable()?.run(values)? {
        if v.datum_type().is_float() {
            floats.push(v.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec());
        }
    }
    Ok(floats)
}

pub fn measure(path: &Path, runs: usize, inputs: Option<&Path>) -> Result<Json, Box<dyn Error>> {
    let inputs = inputs.map(Input::all).transpose()?.unwrap_or_default();
    let mut times: [Vec<f64>; 2] = Default::default();
    let mut last = None;
    for _ in 0..runs {
        let start = Instant::now();
        let source = typed(path, &inputs)?;
        times[0].push(start.elapsed().as_secs_f64() * 1e3);
        let copy = source.clone();
        let start = Instant::now();
        let rewritten = copy.into_decluttered()?;
        times[1].push(start.elapsed().as_secs_f64() * 1e3);
        last = Some((source, rewritten));
    }
    let (source, rewritten) = last.ok_or("no runs")?;
    let norms = rewritten.nodes.iter().filter(|n| matches!(&*n.op.name(), "RmsNorm" | "ScaledRmsNorm")).count();
    let off = match (run(&source, &inputs), run(&rewritten, &inputs)) {
        _ if inputs.is_empty() => json!("no inputs"),
        (Ok(a), Ok(b)) => json!(difference(&a, &b)),
        (Err(e), _) | (_, Err(e)) => json!(format!("does not run: {e}")),
    };
    let [import, pass] = times.map(median);
    Ok(json!({ "import_ms": import, "pass_ms": pass, "norms": norms, "difference": off }))
}
