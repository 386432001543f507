//! rten optimises while it loads, so its pass is what a load with optimisation takes longer than one without.

use std::{error::Error, path::Path, time::Instant};

use rten::{Model, ModelOptions, Value, ValueOrView};
use rten_tensor::{Tensor, prelude::*};
use serde_json::{Value as Json, json};

use crate::tensors::{Input, difference, median};

fn load(path: &Path, optimise: bool) -> Result<Model, Box<dyn Error>> {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(optimise).prepack_weights(false);
    Ok(options.load_file(path)?)
}

fn run(model: &Model, inputs: &[Input]) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let mut values: Vec<(rten::NodeId, ValueOrView)> = Vec::new();
    for i in inputs {
        let shape = i.shape.as_slice();
        let value: Value = match i.dtype.as_str() {
            "int64" => Tensor::from_data(shape, i.i64s().into_iter().map(|v| v as i32).collect::<Vec<_>>()).into(),
            "float32" => Tensor::from_data(shape, i.f32s()).into(),
            "bool" => Tensor::from_data(shape, i.bytes.iter().map(|b| i32::from(*b)).collect::<Vec<_>>()).into(),
            other => return Err(format!("no inputs of {other}").into()),
        };
        values.push((model.node_id(&i.name)?, value.into()));
    }
    let results = model.run(values, model.output_ids(), None)?;
    let floats = results.into_iter().filter_map(|v| Tensor::<f32>::try_from(v).ok());
    Ok(floats.map(|t| t.to_vec()).collect())
}

pub fn measure(path: &Path, runs: usize, inputs: Option<&Path>) -> Result<Json, Box<dyn Error>> {
    let timed = |optimise: bool| -> Result<f64, Box<dyn Error>> {
        let start = Instant::now();
        load(path, optimise)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..runs {
        times[0].push(timed(false)?);
        times[1].push(timed(true)?);
    }
    let [plain, optimised] = times.map(median);
    let off = match inputs.map(Input::all).transpose()? {
        None => json!("no inputs"),
        Some(inputs) => match (run(&load(path, false)?, &inputs), run(&load(path, true)?, &inputs)) {
            (Ok(a), Ok(b)) => json!(difference(&a, &b)),
            (Err(e), _) | (_, Err(e)) => json!(format!("does not run: {e}")),
        },
    };
    Ok(json!({ "import_ms": plain, "pass_ms": optimised - plain, "difference": off }))
}
