//! In-place ops as the values that they leave behind: see [`super::super::memory`].

use normfuse_ir::{Op, ValueId, op::BinaryOp};

use super::{
    super::{args::Call, memory::Write, promote::Operand},
    Outcome, index, pointwise,
};
use crate::reject::{Reject, foreign};

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match name {
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

/// The tensor has the value from here on, and so has all of its memory.
fn write<'p>(c: &mut Call<'_, 'p>, to: &'p str, value: ValueId) -> Result<(), Reject> {
    let declared = c.b.declared(to)?;
    let value = match declared.dtype {
        Some(d) => c.b.cast(value, d)?,
        None => value,
    };
    let sizes = match c.b.memory.whole_of(to).map(str::to_owned) {
        Some(whole) => c.b.meta_sizes(&whole)?.iter().map(|e| e.dim().as_const()).collect(),
        None => Vec::new(),
    };
    let label = c.node.label().to_owned();
    match c.b.memory.write(to, value, &label, &sizes)? {
        Write::Pending => {}
        Write::Whole(v) => c.b.memory.settle(to, v, v),
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
