//! Complex numbers, as rotary embeddings are spelled with them.
//!
//! The IR has none. A complex tensor is the real one of its parts, with one more axis of size 2 at the end, which is what
//! torch keeps in memory: `view_as_complex` and `view_as_real` move nothing. Where a call is not known here it is foreign,
//! and reads and makes complex tensors of which nothing is known.

use normfuse_ir::{
    DType, Op, ValueId,
    op::{BinaryOp, UnaryOp},
};

use super::{
    super::{
        args::{Call, Scalar, results, tensors_of},
        build::axis_of,
        expr::Expr,
        memory::Part,
        schema::Argument,
    },
    Outcome, view,
};
use crate::reject::{Reject, foreign};

/// The call's results, if it reads or makes a complex tensor.
///
/// # Errors
/// Foreign for what is not known here; so nothing else may take the parts for the numbers.
pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let read = c.node.inputs.iter().any(|a| tensors_of(&a.arg).iter().any(|t| c.b.is_complex(t)));
    if !read && !results(c.node).iter().any(|r| c.b.is_complex(r)) {
        return Ok(None);
    }
    let (base, overload) = name.split_once('.').unwrap_or((name, ""));
    let value = match (base, overload) {
        ("view_as_complex", "default") => {
            let of = c.name("self")?;
            let value = c.tensor("self")?;
            return Ok(Some(Outcome::View { of, part: Part::Other, value }));
        }
        ("view_as_real" | "resolve_conj" | "resolve_neg", "default") => {
            let (of, value) = (c.name("self")?, parts(c, "self")?);
            return Ok(Some(Outcome::View { of, part: Part::Other, value }));
        }
        ("real" | "imag", "default") => {
            let (of, x) = (c.name("self")?, parts(c, "self")?);
            let value = part(c, x, i64::from(base == "imag"))?;
            return Ok(Some(Outcome::View { of, part: Part::Other, value }));
        }
        ("polar", "default") => polar(c)?,
        ("complex", "default") => {
            let (re, im) = (c.tensor("real")?, c.tensor("imag")?);
            joined(c, re, im)?
        }
        ("neg", "default") => {
            let x = parts(c, "self")?;
            c.b.unary(UnaryOp::Neg, x)?
        }
        ("_conj" | "conj" | "conj_physical", "default") => {
            let (of, x) = (c.name("self")?, parts(c, "self")?);
            let (re, im) = (part(c, x, 0)?, part(c, x, 1)?);
            let im = c.b.unary(UnaryOp::Neg, im)?;
            let value = joined(c, re, im)?;
            let view = base != "conj_physical";
            return Ok(Some(if view { Outcome::View { of, part: Part::Other, value } } else { Outcome::one(value) }));
        }
        ("mul", "Tensor" | "Scalar") => {
            let (a, b) = (operand(c, "self")?, operand(c, "other")?);
            product(c, a, b)?
        }
        ("add" | "sub", "Tensor" | "Scalar") => {
            let (a, b) = (operand(c, "self")?, operand(c, "other")?);
            if c.scalar("alpha")?.is_some_and(|s| s != Scalar::Int(1)) {
                return foreign("`alpha` is not 1");
            }
            c.b.binary(if base == "add" { BinaryOp::Add } else { BinaryOp::Sub }, a, b)?
        }
        ("clone" | "lift_fresh_copy", "default") => parts(c, "self")?,
        _ => return moved(c, base, overload).map(Some),
    };
    Ok(Some(Outcome::one(value)))
}

/// Ops that move complex numbers and compute nothing.
fn moved<'p>(c: &mut Call<'_, 'p>, base: &str, overload: &str) -> Result<Outcome<'p>, Reject> {
    let unknown = || foreign("it is not known for complex numbers");
    let result = c.result()?;
    if !c.b.is_complex(result) {
        return unknown();
    }
    let of = c.name("self")?;
    let x = parts(c, "self")?;
    let rank = c.b.shape(x)?.len() - 1;
    let value = match (base, overload) {
        ("alias" | "detach" | "lift_fresh" | "contiguous", "default") => x,
        ("to" | "_to_copy", _) => {
            c.skip(&["dtype", "other"]);
            let to = of_parts(c, result)?;
            c.b.cast(x, to)?
        }
        ("unsqueeze", "default") => {
            let axis = axis_of(c.required("dim")?, rank + 1)? as i64;
            c.b.one(Op::Unsqueeze { axes: vec![axis] }, &[x])?
        }
        ("view" | "reshape" | "_unsafe_view" | "expand", "default") => {
            c.skip(&["size", "shape"]);
            let mut to = c.b.meta_sizes(result)?;
            to.push(Expr::Int(2).into());
            if base == "expand" { c.b.expand(x, &to)? } else { c.b.reshape(x, &to)? }
        }
        ("slice", "Tensor") if c.int("dim", 0)? >= 0 => view::slice(c, x)?.0,
        ("index_select", "default") | ("index", "Tensor") => {
            let (axis, ids) = lookup(c, base, rank)?;
            c.b.one(Op::Gather { axis }, &[x, ids])?
        }
        _ => return unknown(),
    };
    let looked_up = base.starts_with("index");
    Ok(if looked_up { Outcome::one(value) } else { Outcome::View { of, part: Part::Other, value } })
}

/// The axis and the indices of a lookup by one tensor.
fn lookup(c: &mut Call<'_, '_>, base: &str, rank: usize) -> Result<(i64, ValueId), Reject> {
    let (axis, ids) = if base == "index_select" {
        let axis = c.required("dim")?;
        (axis_of(axis, rank)?, c.tensor("index")?)
    } else {
        let names = c.names("indices")?;
        let given: Vec<_> = names.iter().enumerate().filter_map(|(axis, n)| n.map(|n| (axis, n))).collect();
        let [(axis, name)] = given[..] else { return foreign("complex numbers are looked up by several indices") };
        (axis_of(axis as i64, rank)?, c.b.memory.read(name)?)
    };
    if !matches!(c.b.dtype(ids)?, DType::I32 | DType::I64) {
        return foreign("it selects by a mask, so that its size depends on data");
    }
    Ok((axis as i64, ids))
}

/// The parts of a complex tensor.
fn parts(c: &mut Call<'_, '_>, argument: &str) -> Result<ValueId, Reject> {
    let name = c.name(argument)?;
    let x = c.tensor(argument)?;
    match c.b.ty(x).dtype {
        _ if !c.b.is_complex(name) => foreign(format!("argument `{argument}` is not complex")),
        Some(_) => Ok(x),
        None => foreign("it reads complex numbers that a foreign op makes"),
    }
}

/// The element type of a complex tensor's parts; only those in which arithmetic is one rounding an op.
fn of_parts(c: &mut Call<'_, '_>, name: &str) -> Result<DType, Reject> {
    match c.b.form(name)?.dtype {
        Some(d @ (DType::F32 | DType::F64)) => Ok(d),
        _ => foreign("complex numbers of 16-bit parts"),
    }
}

/// An operand in the type of the result: a real one is a complex one without an imaginary part, for ATen computes so.
fn operand(c: &mut Call<'_, '_>, argument: &str) -> Result<ValueId, Reject> {
    let result = c.result()?;
    let dtype = of_parts(c, result)?;
    let Some(Argument::Tensor(name)) = c.get(argument) else {
        let Some(s) = c.scalar(argument)? else { return foreign(format!("it has no `{argument}`")) };
        let (re, im) = (c.b.scalar(s, dtype)?, c.b.scalar(Scalar::Int(0), dtype)?);
        return joined(c, re, im);
    };
    if c.b.is_complex(name) {
        let x = parts(c, argument)?;
        return Ok(c.b.cast(x, dtype)?);
    }
    let x = c.tensor(argument)?;
    let re = c.b.cast(x, dtype)?;
    let zero = c.b.scalar(Scalar::Int(0), dtype)?;
    let sizes = c.b.meta_sizes(name)?;
    let im = c.b.expand(zero, &sizes)?;
    joined(c, re, im)
}

/// One part of each number.
fn part(c: &mut Call<'_, '_>, x: ValueId, which: i64) -> Result<ValueId, Reject> {
    let which = c.b.int(which);
    Ok(c.b.one(Op::Gather { axis: -1 }, &[x, which])?)
}

/// Numbers of these parts, which have one shape.
fn joined(c: &mut Call<'_, '_>, re: ValueId, im: ValueId) -> Result<ValueId, Reject> {
    if c.b.shape(re)? != c.b.shape(im)? || c.b.dtype(re)? != c.b.dtype(im)? {
        return foreign("its parts have different types");
    }
    let re = c.b.one(Op::Unsqueeze { axes: vec![-1] }, &[re])?;
    let im = c.b.one(Op::Unsqueeze { axes: vec![-1] }, &[im])?;
    Ok(c.b.one(Op::Concat { axis: -1 }, &[re, im])?)
}

/// Numbers by length and angle.
fn polar(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let (length, angle) = (c.tensor("abs")?, c.tensor("angle")?);
    let result = c.result()?;
    of_parts(c, result)?;
    let (cos, sin) = (c.b.unary(UnaryOp::Cos, angle)?, c.b.unary(UnaryOp::Sin, angle)?);
    let (re, im) = (c.b.binary(BinaryOp::Mul, length, cos)?, c.b.binary(BinaryOp::Mul, length, sin)?);
    joined(c, re, im)
}

/// `(a + bi)(c + di) = (ac - bd) + (ad + bc)i`, each product and sum rounded by itself.
fn product(c: &mut Call<'_, '_>, x: ValueId, y: ValueId) -> Result<ValueId, Reject> {
    let (xr, xi) = (part(c, x, 0)?, part(c, x, 1)?);
    let (yr, yi) = (part(c, y, 0)?, part(c, y, 1)?);
    let mut times = |a: ValueId, b: ValueId| c.b.binary(BinaryOp::Mul, a, b);
    let (rr, ii, ri, ir) = (times(xr, yr)?, times(xi, yi)?, times(xr, yi)?, times(xi, yr)?);
    let (re, im) = (c.b.binary(BinaryOp::Sub, rr, ii)?, c.b.binary(BinaryOp::Add, ri, ir)?);
    joined(c, re, im)
}
