//! Ops that index.

use std::sync::Arc;

use normfuse_ir::{
    DType, Op, ValueId,
    op::{BinaryOp, ScatterReduction},
};

use super::{
    super::{args::Call, expr::Expr, schema::Argument},
    Outcome, create,
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
        "index_put.default" | "_unsafe_index_put.default" => put(c)?,
        "index_fill.int_Scalar" | "index_fill.int_Tensor" => put_along(c, "value")?,
        "index_copy.default" => put_along(c, "source")?,
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
    let rank = c.b.shape(x)?.len();
    match given.as_slice() {
        [] => foreign("it has no index"),
        _ if given.len() > rank => foreign("it has more indices than axes"),
        [(axis, ids)] => Ok(c.b.one(Op::Gather { axis: *axis as i64 }, &[x, *ids])?),
        _ => {
            let result = c.result()?;
            let all = c.b.meta_sizes(result)?;
            let axes: Vec<usize> = given.iter().map(|(axis, _)| *axis).collect();
            let Some(found) = all.len().checked_sub(rank - axes.len()) else {
                return foreign("its result has too few axes");
            };
            // Indices of axes side by side are looked up in their place, others in front.
            let before = if axes.windows(2).all(|w| w[0] + 1 == w[1]) { axes[0] } else { 0 };
            let Some(shape) = all.get(before..before + found) else { return foreign("its result has too few axes") };
            let ids: Vec<ValueId> = given.iter().map(|(_, v)| *v).collect();
            let places = places(c, &ids, shape)?;
            let x = first(c, x, &axes)?;
            let y = c.b.one(Op::GatherNd { batch_dims: 0 }, &[x, places])?;
            if before == 0 {
                return Ok(y);
            }
            let perm = (found..found + before).chain(0..found).chain(found + before..all.len());
            Ok(c.b.one(Op::Transpose { perm: Some(perm.map(|a| a as i64).collect()) }, &[y])?)
        }
    }
}

/// The tensor with these axes in front of the others.
fn first(c: &mut Call<'_, '_>, x: ValueId, axes: &[usize]) -> Result<ValueId, Reject> {
    if axes.iter().enumerate().all(|(i, axis)| i == *axis) {
        return Ok(x);
    }
    let rest = (0..c.b.shape(x)?.len()).filter(|a| !axes.contains(a));
    let perm = axes.iter().copied().chain(rest).map(|a| a as i64).collect();
    Ok(c.b.one(Op::Transpose { perm: Some(perm) }, &[x])?)
}

/// The tensor with some elements replaced; also the arithmetic of `index_put_`.
pub fn put(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let (x, values) = (create::contents(c, "self")?, c.tensor("values")?);
    let names = c.names("indices")?;
    let adds = c.flag("accumulate", false)?;
    let (mut given, mut axes) = (Vec::new(), Vec::new());
    for (axis, name) in names.iter().enumerate() {
        if let Some(name) = name {
            given.push(c.b.memory.read(name)?);
            axes.push(axis);
        }
    }
    let (rank, dtype) = (c.b.shape(x)?.len(), c.b.dtype(x)?);
    let values = c.b.cast(values, dtype)?;
    if let [mask] = given[..]
        && c.b.dtype(mask)? == DType::Bool
        && axes == [0]
    {
        let Some(behind) = rank.checked_sub(c.b.shape(mask)?.len()) else {
            return foreign("the mask has more axes than the tensor");
        };
        // One value for all, or one for each place of the axes that the mask does not have.
        if adds || c.b.shape(values)?.len() > behind {
            return foreign("it puts values one by one where a mask says, which depends on data");
        }
        let axes: Vec<i64> = (0..behind as i64).map(|a| a - behind as i64).collect();
        let mask = if axes.is_empty() { mask } else { c.b.one(Op::Unsqueeze { axes }, &[mask])? };
        return Ok(c.b.one(Op::Where, &[mask, values, x])?);
    }
    if names.len() > rank {
        return foreign("it has more indices than axes");
    }
    put_at(c, x, (&given, &axes), values, adds)
}

/// The tensor with one value, or a tensor, at some places of an axis; also the arithmetic of these ops in place.
pub fn put_along(c: &mut Call<'_, '_>, values: &str) -> Result<ValueId, Reject> {
    let (x, ids) = (create::contents(c, "self")?, c.tensor("index")?);
    let dtype = c.b.dtype(x)?;
    let dim = c.required("dim")?;
    let axis = c.b.axis(x, dim)?;
    if c.b.shape(ids)?.len() != 1 {
        return foreign("its index is no list of places");
    }
    let values = match c.get(values) {
        Some(Argument::Tensor(_)) => c.tensor(values)?,
        _ => match c.scalar(values)? {
            Some(number) => c.b.scalar(number, dtype)?,
            None => return foreign(format!("it has no `{values}`")),
        },
    };
    let values = c.b.cast(values, dtype)?;
    put_at(c, x, (&[ids], &[axis]), values, false)
}

/// Values at places of these axes, an index tensor for each.
fn put_at(
    c: &mut Call<'_, '_>,
    x: ValueId,
    (given, axes): (&[ValueId], &[usize]),
    values: ValueId,
    adds: bool,
) -> Result<ValueId, Reject> {
    let (rank, dtype) = (c.b.shape(x)?.len(), c.b.dtype(x)?);
    for ids in given {
        if !matches!(c.b.dtype(*ids)?, DType::I32 | DType::I64) {
            return foreign("it puts values one by one where a mask says, which depends on data");
        }
    }
    if adds && dtype != DType::F32 && !dtype.is_int() {
        return foreign("a sum whose roundings depend on its order");
    }
    // All indices have one shape, so that it need not be computed.
    let Some((one, rest)) = given.split_first() else { return foreign("it has no index") };
    let shape = c.b.shape(*one)?;
    for other in rest {
        if c.b.shape(*other)? != shape {
            return foreign("its indices have different shapes");
        }
    }
    let mut parts = Vec::new();
    for ids in given {
        let wide = c.b.cast(*ids, DType::I64)?;
        parts.push(c.b.one(Op::Unsqueeze { axes: vec![-1] }, &[wide])?);
    }
    let places = if let [one] = parts[..] { one } else { c.b.one(Op::Concat { axis: -1 }, &parts)? };
    // As for a look-up: values have the indices' axes in the place of those that are side by side, and else in front.
    let before = if axes.windows(2).all(|w| w[0] + 1 == w[1]) { axes[0] } else { 0 };
    let moved = first(c, x, axes)?;
    let mut updates = spread(c, values, *one, if before == 0 { moved } else { x }, before..before + axes.len())?;
    if before > 0 {
        let (n, all) = (shape.len(), shape.len() + rank - axes.len());
        let perm = (before..before + n).chain(0..before).chain(before + n..all);
        updates = c.b.one(Op::Transpose { perm: Some(perm.map(|a| a as i64).collect()) }, &[updates])?;
    }
    let reduction = if adds { ScatterReduction::Add } else { ScatterReduction::None };
    let y = c.b.one(Op::ScatterNd { reduction }, &[moved, places, updates])?;
    if moved == x {
        return Ok(y);
    }
    // Back to where they were.
    let order: Vec<usize> = axes.iter().copied().chain((0..rank).filter(|a| !axes.contains(a))).collect();
    let place = |axis: usize| order.iter().position(|a| *a == axis).unwrap_or(axis) as i64;
    Ok(c.b.one(Op::Transpose { perm: Some((0..rank).map(place).collect()) }, &[y])?)
}

/// Values in the shape of the tensor, with that of the indices in the place of these axes.
fn spread(
    c: &mut Call<'_, '_>,
    values: ValueId,
    ids: ValueId,
    x: ValueId,
    axes: std::ops::Range<usize>,
) -> Result<ValueId, Reject> {
    let sizes = c.b.shape(x)?;
    let want = [&sizes[..axes.start], &c.b.shape(ids)?, &sizes[axes.end..]].concat();
    if c.b.shape(values)? == want {
        return Ok(values);
    }
    let ids = c.b.one(Op::Shape { start: 0, end: None }, &[ids])?;
    let back = c.b.one(Op::Shape { start: axes.end as i64, end: None }, &[x])?;
    let mut parts = vec![ids, back];
    if axes.start > 0 {
        parts.insert(0, c.b.one(Op::Shape { start: 0, end: Some(axes.start as i64) }, &[x])?);
    }
    let shape = c.b.one(Op::Concat { axis: 0 }, &parts)?;
    Ok(c.b.one(Op::Expand, &[values, shape])?)
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
    let (x, ids) = (create::contents(c, "self")?, c.tensor("index")?);
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
