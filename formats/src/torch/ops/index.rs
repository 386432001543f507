//! Ops that index.

use std::sync::Arc;

use normfuse_ir::{
    DType, Op, ValueId,
    op::{BinaryOp, ScatterReduction},
};

use super::{
    super::{args::Call, expr::Expr},
    Outcome,
};
use crate::reject::{Reject, foreign};

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match name {
        "embedding.default" => {
            let (table, ids) = (c.tensor("weight")?, c.tensor("indices")?);
            // What they say is only of gradients.
            c.skip(&["padding_idx", "scale_grad_by_freq", "sparse"]);
            c.b.one(Op::Gather { axis: 0 }, &[table, ids])?
        }
        "index_select.default" => {
            let (x, ids) = (c.tensor("self")?, c.tensor("index")?);
            let axis = c.required("dim")?;
            c.b.one(Op::Gather { axis }, &[x, ids])?
        }
        "index.Tensor" => index(c)?,
        "gather.default" => {
            let (x, ids) = (c.tensor("self")?, c.tensor("index")?);
            let axis = c.required("dim")?;
            c.skip(&["sparse_grad"]);
            c.b.one(Op::GatherElements { axis }, &[x, ids])?
        }
        "scatter.value" | "scatter.src" | "scatter_add.default" => scatter(c)?,
        "topk.default" => return top_k(c).map(Some),
        "one_hot.default" => {
            let x = c.tensor("self")?;
            let classes = c.int("num_classes", -1)?;
            if classes < 0 {
                return foreign("the number of classes is computed from data");
            }
            let (depth, values) = (c.b.int(classes), c.b.ints(&[0, 1]));
            c.b.one(Op::OneHot { axis: -1 }, &[x, depth, values])?
        }
        "diff.default" => diff(c)?,
        "tril.default" | "triu.default" => {
            let x = c.tensor("self")?;
            let k = c.int("diagonal", 0)?;
            let k = c.b.int(k);
            c.b.one(Op::Trilu { upper: name.starts_with("triu") }, &[x, k])?
        }
        _ => return Ok(None),
    };
    Ok(Some(Outcome::one(value)))
}

/// One index tensor is a gather; several for the first axes are broadcast and looked up together.
fn index(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let names = c.names("indices")?;
    let mut given = Vec::new();
    for (axis, name) in names.iter().enumerate() {
        if let Some(name) = name {
            given.push((axis, c.b.memory.read(name)?));
        }
    }
    for (_, ids) in &given {
        if !matches!(c.b.dtype(*ids)?, DType::I32 | DType::I64) {
            return foreign("it selects by a mask, so that its size depends on data");
        }
    }
    match given.as_slice() {
        [] => foreign("it has no index"),
        [(axis, ids)] => Ok(c.b.one(Op::Gather { axis: *axis as i64 }, &[x, *ids])?),
        _ if given.iter().enumerate().all(|(i, (axis, _))| i == *axis) => {
            let result = c.result()?;
            let all = c.b.meta_sizes(result)?;
            let rank = all.len().checked_sub(c.b.shape(x)?.len() - given.len());
            let Some(shape) = rank.and_then(|r| all.get(..r)) else { return foreign("its result has too few axes") };
            let ids: Vec<ValueId> = given.iter().map(|(_, v)| *v).collect();
            let places = places(c, &ids, shape)?;
            Ok(c.b.one(Op::GatherNd { batch_dims: 0 }, &[x, places])?)
        }
        _ => foreign("several index tensors, not of the first axes"),
    }
}

/// Index tensors of one shape side by side in a last axis.
pub fn places(c: &mut Call<'_, '_>, ids: &[ValueId], shape: &[Arc<Expr>]) -> Result<ValueId, Reject> {
    let mut parts = Vec::new();
    for v in ids {
        let wide = c.b.cast(*v, DType::I64)?;
        let wide = c.b.expand(wide, shape)?;
        parts.push(c.b.one(Op::Unsqueeze { axes: vec![-1] }, &[wide])?);
    }
    Ok(if let [one] = parts.as_slice() { *one } else { c.b.one(Op::Concat { axis: -1 }, &parts)? })
}

/// Also the arithmetic of `scatter_`.
pub fn scatter(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let (x, ids) = (c.tensor("self")?, c.tensor("index")?);
    let axis = c.required("dim")?;
    let dtype = c.b.dtype(x)?;
    let updates = if c.get("src").is_some() {
        c.tensor("src")?
    } else {
        let Some(value) = c.scalar("value")? else { return foreign("it has neither `src` nor `value`") };
        let value = c.b.scalar(value, dtype)?;
        let shape = c.b.one(Op::Shape { start: 0, end: None }, &[ids])?;
        c.b.one(Op::Expand, &[value, shape])?
    };
    let sum = c.node.target.contains("scatter_add");
    if sum && c.b.dtype(x)? != DType::F32 && !c.b.dtype(x)?.is_int() {
        return foreign("a sum whose roundings depend on its order");
    }
    let reduction = if sum { ScatterReduction::Add } else { ScatterReduction::None };
    // With `src`, torch reads as much of it as there are indices.
    if c.b.shape(updates)? != c.b.shape(ids)? && c.get("src").is_some() {
        return foreign("`src` is larger than `index`");
    }
    Ok(c.b.one(Op::ScatterElements { axis, reduction }, &[x, ids, updates])?)
}

fn top_k<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let x = c.tensor("self")?;
    let k = c.required("k")?;
    let axis = c.int("dim", -1)?;
    let (largest, sorted) = (c.flag("largest", true)?, c.flag("sorted", true)?);
    let k = c.b.ints(&[k]);
    let values = c.b.emit(Op::TopK { axis, largest, sorted }, &[Some(x), Some(k)])?;
    Ok(Outcome::Values(values.into_iter().map(Some).collect()))
}

/// Each element minus the one before it.
fn diff(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let (n, dim) = (c.int("n", 1)?, c.int("dim", -1)?);
    let (before, after) = (c.opt_tensor("prepend")?, c.opt_tensor("append")?);
    if n != 1 || c.b.dtype(x)? == DType::Bool {
        return foreign("it is no single difference of numbers");
    }
    let axis = c.b.axis(x, dim)? as i64;
    let mut parts: Vec<ValueId> = before.into_iter().collect();
    parts.push(x);
    parts.extend(after);
    let parts = c.b.together(&parts)?;
    let all = if let [one] = parts.as_slice() { *one } else { c.b.one(Op::Concat { axis }, &parts)? };
    let [zero, one, minus, end, axes] = [0, 1, -1, i64::MAX, axis].map(|v| c.b.ints(&[v]));
    let later = c.b.one(Op::Slice, &[all, one, end, axes])?;
    let earlier = c.b.one(Op::Slice, &[all, zero, minus, axes])?;
    Ok(c.b.binary(BinaryOp::Sub, later, earlier)?)
}
