//! A real Rust compiler's graph through the pass and back: tract reads an ONNX model, the pass says what it would fuse, each
//! edit becomes one patch of tract's with one op of ours in it, and tract runs both.
//!
//! ```sh
//! cargo run --manifest-path examples/tract/Cargo.toml
//! ```
//!
//! The two runs do not agree bit for bit, and the fused op is not to blame for that: how tract adds up a row is its own affair
//! (it depends on the vector units of the machine), while normfuse defines the order. So the outputs are compared within an
//! error, and then once more, bit for bit, with tract's row sums replaced by the defined ones.

mod convert;
mod fused;
mod sum;

use std::{collections::BTreeMap, sync::Arc};

use normfuse_ir::{Descriptor, Shape, ValueId};
use normfuse_passes::{Options, edits::Edit};
use tract_onnx::{prelude::*, tract_core::ops::change_axes::AxisOp, tract_hir::internal::*};

/// Two roundings of f32 an element are off by far less than this, and a wrong weight, eps or axis by far more.
const TOLERANCE: f32 = 1e-5;

fn main() -> TractResult<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/models/llama_ts.onnx");
    // As the exporter spelled it: tract's own rewriting comes after ours. It wants sizes for this model, which flattens axes.
    let (batch, seq) = (2, 5);
    let mut model = tract_onnx::onnx().model_for_path(path)?;
    for i in 0..model.inputs.len() {
        model.set_input_fact(i, InferenceFact::dt_shape(i64::datum_type(), [batch, seq]))?;
    }
    let source = model.into_typed()?;

    let (graph, outlets) = convert::to_ir(&source)?;
    let options = Options {
        supports: Arc::new(fused::supports),
        supports_quantize: Arc::new(|_| Err("no quantisers here".into())),
        verify: true,
        ..Options::default()
    };
    let found = normfuse_passes::edits(&graph, &options)?;
    for site in &found.report.sites {
        let why = site.hint.clone().unwrap_or_else(|| format!("{} nodes in one", site.replaced.len()));
        println!("{}: {:?}, {why}", site.anchor, site.outcome);
    }
    ensure!(found.edits.len() == 3, "the model has three norms");

    let mut rewritten = source.clone();
    // The last one first: what it reads is then still where the source has it.
    for edit in found.edits.iter().rev() {
        patch(&rewritten, edit, &outlets)?.apply(&mut rewritten)?;
    }
    rewritten.check_consistency()?;
    let count = |m: &TypedModel| m.nodes.iter().filter(|n| !n.op.name().starts_with("Dummy")).count();
    println!("{} nodes, {} after", count(&source), count(&rewritten));

    let ids = tract_ndarray::Array2::from_shape_fn((batch, seq), |(b, s)| (7 * s + 3 * b + 1) as i64 % 60);
    let inputs: TVec<TValue> = tvec!(
        Tensor::from(ids).into_tvalue(),
        Tensor::from(tract_ndarray::Array2::<i64>::ones((batch, seq))).into_tvalue(),
    );
    let run = |model: TypedModel| -> TractResult<Vec<f32>> {
        let results = model.into_runnable()?.run(inputs.clone())?;
        Ok(results[0].try_as_plain_ram()?.as_slice::<f32>()?.to_vec())
    };
    let [before, after] = [run(source.clone())?, run(rewritten.clone())?];
    let largest = before.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = before.iter().zip(&after).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    println!("tract's row sums: off by {off:e} of {largest}");
    ensure!(largest > 0.0 && off <= TOLERANCE * largest, "off by {off:e}");

    let same = run(sum::defined(&source)?)?;
    let after = run(sum::defined(&rewritten)?)?;
    let differ = same.iter().zip(&after).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    println!("defined row sums: {differ} of {} elements differ", same.len());
    ensure!(differ == 0, "the bits differ");

    // What tract does with a model does not stop at an op of ours.
    let optimised = run(rewritten.into_optimized()?)?;
    let off = before.iter().zip(&optimised).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    ensure!(off <= TOLERANCE * largest, "optimised: off by {off:e}");
    Ok(())
}

/// An edit as a patch of tract's: taps where the operands are, the fused op, shunts where its results go.
fn patch(model: &TypedModel, edit: &Edit, outlets: &BTreeMap<ValueId, OutletId>) -> TractResult<TypedModelPatch> {
    ensure!(edit.shape_readers.is_empty(), "sizes are numbers here");
    let mut patch = TypedModelPatch::new("normfuse");
    let mut operands: TVec<OutletId> = tvec!();
    for input in &edit.inputs {
        let tap = patch.tap_model(model, outlets[&input.value.id])?;
        operands.push(view(&mut patch, &format!("{}.{}", edit.name, input.port), tap, &dims(&input.shape)?)?);
    }
    let Descriptor::Norm(norm) = &edit.descriptor else { bail!("no quantisers here: the options refuse them") };
    let made = patch.wire_node(&edit.name, fused::NormfuseNorm((**norm).clone()), &operands)?;
    for (output, made) in edit.outputs.iter().zip(made) {
        for value in &output.values {
            let outlet = outlets[&value.id];
            let shape = model.outlet_fact(outlet)?.shape.to_tvec();
            let by = view(&mut patch, &format!("{}.{}", edit.name, value.name), made, &shape)?;
            patch.shunt_outside(model, outlet, by)?;
        }
    }
    Ok(patch)
}

fn dims(shape: &Shape) -> TractResult<TVec<TDim>> {
    shape.0.iter().map(|d| Ok(d.as_const().context("sizes are numbers here")?.to_dim())).collect()
}

/// An outlet in another shape.
fn view(patch: &mut TypedModelPatch, name: &str, of: OutletId, shape: &[TDim]) -> TractResult<OutletId> {
    let own = patch.outlet_fact(of)?.shape.to_tvec();
    if &*own == shape {
        return Ok(of);
    }
    Ok(patch.wire_node(name, AxisOp::Reshape(0, own, shape.into()), &[of])?[0])
}
