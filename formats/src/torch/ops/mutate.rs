//! In-place ops as the values that they leave behind: see [`super::super::memory`].

use normfuse_ir::{Op, ValueId, op::BinaryOp};

use super::{
    super::{args::Call, build::axis_of, memory::Write, promote::Operand},
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
        "slice_scatter.default" => return scattered(c).map(Some),
        "copy_.default" => {
            let (to, src) = (c.name("self")?, c.tensor("src")?);
            let sizes = c.b.meta_sizes(to)?;
            c.b.expand(src, &sizes)?
        }
        "fill_.Scalar" | "zero_.default" => {
            let to = c.name("self")?;
            let Some(dtype) = c.b.declared(to)?.dtype else { return foreign("the type of `self` is not known") };
            let s = c.scalar("value")?.unwrap_or(super::super::args::Scalar::Int(0));
            let one = c.b.scalar(s, dtype)?;
            let sizes = c.b.meta_sizes(to)?;
            c.b.expand(one, &sizes)?
        }
        "add_.Tensor" | "add_.Scalar" => arithmetic(c, BinaryOp::Add)?,
        "sub_.Tensor" | "sub_.Scalar" => arithmetic(c, BinaryOp::Sub)?,
        "mul_.Tensor" | "mul_.Scalar" => arithmetic(c, BinaryOp::Mul)?,
        "div_.Tensor" | "div_.Scalar" => arithmetic(c, BinaryOp::Div)?,
        "scatter_.value" | "scatter_.src" => index::scatter(c)?,
        "index_put_.default" => index::put(c)?,
        "masked_fill_.Scalar" => {
            let (x, mask) = (c.tensor("self")?, c.tensor("mask")?);
            let Some(s) = c.scalar("value")? else { return foreign("it has no `value`") };
            let dtype = c.b.dtype(x)?;
            let value = c.b.scalar(s, dtype)?;
            c.b.one(Op::Where, &[mask, value, x])?
        }
        _ => return Ok(None),
    };
    let to = c.name("self")?;
    if let Some(name) = c.unknown() {
        return foreign(format!("argument `{name}` is not known"));
    }
    write(c, to, value)?;
    Ok(Some(Outcome::Done))
}

fn arithmetic(c: &mut Call<'_, '_>, op: BinaryOp) -> Result<ValueId, Reject> {
    let (a, b) = pointwise::operands(c)?;
    if let Some(alpha) = c.scalar("alpha")?
        && alpha != super::super::args::Scalar::Int(1)
    {
        return foreign("`alpha` is not 1");
    }
    let Operand::Tensor(x) = a else { return foreign("`self` is a number") };
    let dtype = c.b.dtype(x)?;
    let value = c.b.arithmetic(op, a, b)?;
    // The result has the type that the tensor has, whatever was computed in.
    Ok(c.b.cast(value, dtype)?)
}

/// A copy of a tensor in which a range of an axis is another one.
fn scattered<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let (of, src) = (c.name("self")?, c.tensor("src")?);
    let sizes: Vec<Option<i64>> = c.b.meta_sizes(of)?.iter().map(|e| e.dim().as_const()).collect();
    let dim = c.int("dim", 0)?;
    let axis = axis_of(dim, sizes.len())?;
    let (start, end, step) = view::bounds(c)?;
    if step == 1 && start.dim().as_const() == Some(0) && end.dim().as_const() == Some(i64::MAX) {
        return Ok(Outcome::one(src));
    }
    let Some((start, end)) = view::place(&start, &end, sizes[axis]).filter(|_| step == 1) else {
        return foreign("the range that it replaces is not known");
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

/// The tensor has the value from here on, and so has all of its memory.
fn write<'p>(c: &mut Call<'_, 'p>, to: &'p str, value: ValueId) -> Result<(), Reject> {
    let declared = c.b.declared(to)?;
    let value = match declared.dtype {
        Some(d) => c.b.cast(value, d)?,
        None => value,
    };
    let shape = match c.b.memory.whole_of(to).map(str::to_owned) {
        Some(whole) => c.b.meta_sizes(&whole)?,
        None => Vec::new(),
    };
    let sizes: Vec<Option<i64>> = shape.iter().map(|e| e.dim().as_const()).collect();
    let label = c.node.label().to_owned();
    match c.b.memory.write(to, value, &label, &sizes)? {
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
        c.b.memory.view(name, to, super::super::memory::Part::Whole, Some(value))?;
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
