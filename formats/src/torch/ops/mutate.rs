//! In-place ops as the values that they leave behind: see [`super::super::memory`].

use normfuse_ir::{Dim, Op, Tensor, ValueId};

use super::{
    super::{
        args::{Call, Scalar},
        build::{Builder, axis_of},
        memory::{Part, Write},
    },
    Outcome, index, pointwise, view,
};
use crate::reject::{Reject, foreign};

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match name {
        // What is left of them after run_decompositions(): of the first operand only its type is read.
        "copy.default" => {
            let (to, src) = (c.name("self")?, c.tensor("src")?);
            let Some(dtype) = c.b.declared(to)?.dtype else { return foreign("the type of `self` is not known") };
            let sizes = c.b.meta_sizes(to)?;
            let src = c.b.cast(src, dtype)?;
            return Ok(Some(Outcome::one(c.b.expand(src, &sizes)?)));
        }
        "slice_scatter.default" | "select_scatter.default" => {
            return scattered(c, name.starts_with("select")).map(Some);
        }
        "copy_.default" => {
            let (to, src) = (c.name("self")?, c.tensor("src")?);
            let sizes = c.b.meta_sizes(to)?;
            c.b.expand(src, &sizes)?
        }
        "fill_.Scalar" | "zero_.default" => {
            let to = c.name("self")?;
            let Some(dtype) = c.b.declared(to)?.dtype else { return foreign("the type of `self` is not known") };
            let s = c.scalar("value")?.unwrap_or(Scalar::Int(0));
            let one = c.b.scalar(s, dtype)?;
            let sizes = c.b.meta_sizes(to)?;
            c.b.expand(one, &sizes)?
        }
        "scatter_.value" | "scatter_.src" => index::scatter(c)?,
        "index_put_.default" => index::put(c)?,
        "index_fill_.int_Scalar" | "index_fill_.int_Tensor" => index::put_along(c, "value")?,
        "index_copy_.default" => index::put_along(c, "source")?,
        // What an op computes out of place, it writes into its operand in place.
        _ => {
            let (base, overload) = name.split_once('.').unwrap_or((name, ""));
            if !super::mutates(&c.node.target) {
                return Ok(None);
            }
            let pure = match base.strip_prefix("__i").filter(|_| super::OPERATORS.contains(&base)) {
                Some(operator) => format!("__{operator}"),
                None => base.strip_suffix('_').unwrap_or_default().to_owned(),
            };
            let overload = match (pure.as_str(), overload) {
                ("pow", "Scalar") => "Tensor_Scalar",
                ("pow", "Tensor") => "Tensor_Tensor",
                (_, same) => same,
            };
            match pointwise::op(c, &format!("{pure}.{overload}"))? {
                Some(Outcome::Values(values)) => match values[..] {
                    [Some(value)] => value,
                    _ => return Ok(None),
                },
                _ => return Ok(None),
            }
        }
    };
    let to = c.name("self")?;
    if let Some(name) = c.unknown() {
        return foreign(format!("argument `{name}` is not known"));
    }
    write(c, to, value)?;
    Ok(Some(Outcome::Done))
}

/// A copy of a tensor in which a range of an axis, or one place of it, is another tensor.
fn scattered<'p>(c: &mut Call<'_, 'p>, select: bool) -> Result<Outcome<'p>, Reject> {
    let (of, mut src) = (c.name("self")?, c.tensor("src")?);
    let shape: Vec<Dim> = c.b.meta_sizes(of)?.iter().map(|e| e.dim()).collect();
    let sizes: Vec<Option<i64>> = shape.iter().map(Dim::as_const).collect();
    let dim = c.int("dim", 0)?;
    let axis = axis_of(dim, sizes.len())?;
    let Some(dtype) = c.b.declared(of)?.dtype else { return foreign("the type of `self` is not known") };
    src = c.b.cast(src, dtype)?;
    let (start, end) = if select {
        let Some(index) = c.opt_size("index")? else { return foreign("it has no `index`") };
        let Part::Select { index, .. } = view::selected(&shape, dim, &index)? else {
            return foreign("the place that it replaces is not known");
        };
        src = c.b.one(Op::Unsqueeze { axes: vec![axis as i64] }, &[src])?;
        (index, index + 1)
    } else {
        let (start, end, step) = view::bounds(c)?;
        if step == 1 && start.dim().as_const() == Some(0) && end.dim().as_const() == Some(i64::MAX) {
            return Ok(Outcome::one(src));
        }
        let Some((start, end)) = view::place(&start, &end, sizes[axis]) else {
            return foreign("the range that it replaces is not known");
        };
        if step != 1 {
            let old = c.tensor("self")?;
            return Ok(Outcome::one(interleaved(c, old, axis, (start, end, step), src)?));
        }
        (start, end)
    };
    if !c.b.memory.is_fresh(of) {
        let old = c.tensor("self")?;
        return Ok(Outcome::one(replaced(c, old, axis, (start, end), src)?));
    }
    let result = c.result()?;
    match c.b.memory.scatter(of, result, axis, (start, end, src), &sizes)? {
        Write::Joined { axis, pieces } => {
            let axis = axis as i64;
            Ok(Outcome::one(if let [one] = pieces[..] { one } else { c.b.one(Op::Concat { axis }, &pieces)? }))
        }
        _ => Ok(Outcome::Done),
    }
}

/// Every `step`-th place of a range of an axis is of another tensor: a choice among the places of both.
fn interleaved(
    c: &mut Call<'_, '_>,
    old: ValueId,
    axis: usize,
    (start, end, step): (i64, i64, i64),
    new: ValueId,
) -> Result<ValueId, Reject> {
    /// Longer axes would need a constant as long.
    const LONGEST: i64 = 1 << 16;
    let Some(n) = c.b.shape(old)?[axis].as_const().filter(|n| *n <= LONGEST && step > 0) else {
        return foreign("the places that it replaces are not known, or too many");
    };
    let chosen = |i: i64| if i >= start && i < end && (i - start) % step == 0 { n + (i - start) / step } else { i };
    let places: Vec<i64> = (0..n).map(chosen).collect();
    let replaced = places.iter().filter(|p| **p >= n).count();
    if c.b.shape(new)?.get(axis).and_then(Dim::as_const) != Some(replaced as i64) {
        return foreign(format!("`src` does not have {replaced} places for the range"));
    }
    let places = c.b.constant("places", Tensor::from_i64(&[places.len()], &places));
    let axis = axis as i64;
    let both = c.b.one(Op::Concat { axis }, &[old, new])?;
    Ok(c.b.one(Op::Gather { axis }, &[both, places])?)
}

/// The tensor has the value from here on, and so has all of its memory.
fn write<'p>(c: &mut Call<'_, 'p>, to: &'p str, value: ValueId) -> Result<(), Reject> {
    let declared = c.b.declared(to)?;
    let value = match declared.dtype {
        Some(d) => c.b.cast(value, d)?,
        None => value,
    };
    let Builder { memory, last_read, place, .. } = &mut *c.b;
    memory.detach(to, |other| last_read.get(other).is_some_and(|at| *at > *place));
    let shape = match c.b.memory.whole_of(to).map(str::to_owned) {
        Some(whole) => c.b.meta_sizes(&whole)?,
        None => Vec::new(),
    };
    let sizes: Vec<Option<i64>> = shape.iter().map(|e| e.dim().as_const()).collect();
    let label = c.node.label().to_owned();
    let piece = match c.b.memory.part(to) {
        Some(Part::Select { axis, .. }) => c.b.one(Op::Unsqueeze { axes: vec![axis as i64] }, &[value])?,
        _ => value,
    };
    match c.b.memory.write(to, value, piece, &label, &sizes)? {
        Write::Pending => {}
        Write::Whole(v) => c.b.memory.settle(to, v, v),
        Write::Reshaped(v) => {
            let whole = c.b.reshape(v, &shape)?;
            c.b.memory.settle(to, v, whole);
        }
        Write::Joined { axis, pieces } => {
            let whole =
                if let [one] = pieces.as_slice() { *one } else { c.b.one(Op::Concat { axis: axis as i64 }, &pieces)? };
            c.b.memory.settle(to, value, whole);
        }
        Write::Into { old, axis, start, end, new } => {
            let whole = replaced(c, old, axis, (start, end), new)?;
            c.b.memory.settle(to, value, whole);
        }
    }
    for name in c.results() {
        c.b.name_result(value, name)?;
        c.b.memory.view(name, to, Part::Whole, Some(value))?;
    }
    Ok(())
}

/// What was there before the range, the new values, what was there after it.
fn replaced(
    c: &mut Call<'_, '_>,
    old: ValueId,
    axis: usize,
    range: (i64, i64),
    new: ValueId,
) -> Result<ValueId, Reject> {
    let axes = c.b.ints(&[axis as i64]);
    let mut parts = Vec::new();
    if range.0 > 0 {
        let (from, to) = (c.b.ints(&[0]), c.b.ints(&[range.0]));
        parts.push(c.b.one(Op::Slice, &[old, from, to, axes])?);
    }
    parts.push(new);
    if c.b.shape(old)?[axis].as_const() != Some(range.1) {
        let (from, to) = (c.b.ints(&[range.1]), c.b.ints(&[i64::MAX]));
        parts.push(c.b.one(Op::Slice, &[old, from, to, axes])?);
    }
    Ok(if let [one] = parts.as_slice() { *one } else { c.b.one(Op::Concat { axis: axis as i64 }, &parts)? })
}
