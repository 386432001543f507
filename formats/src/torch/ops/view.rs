//! Views: ops that move nothing, or may have to copy to give the shape that is asked for.

use std::sync::Arc;

use normfuse_ir::{DType, Dim, Op, ValueId};

use super::{
    super::{
        args::{Call, Scalar},
        build::axis_of,
        expr::Expr,
        memory::Part,
    },
    Outcome,
};
use crate::{
    error::FormatError,
    reject::{Reject, foreign},
};

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let (base, overload) = name.split_once('.').unwrap_or((name, ""));
    // What is not a view in torch either: its result is new memory.
    match (base, overload) {
        ("clone" | "lift_fresh_copy", "default") => return Ok(Some(Outcome::one(c.tensor("self")?))),
        ("cat" | "concat", "default") => return join(c).map(Some),
        ("stack", "default") => return stack(c).map(Some),
        ("repeat", "default") => return repeat(c).map(Some),
        ("repeat_interleave", "self_int") => return repeat_interleave(c).map(Some),
        ("constant_pad_nd" | "pad", "default") => return pad(c).map(Some),
        _ => {}
    }
    if name == "view.dtype" {
        return bits(c).map(Some);
    }
    let whole = matches!((base, overload), ("alias" | "detach" | "lift_fresh" | "detach_", "default"));
    let known = match base {
        "view" | "reshape" | "_unsafe_view" | "contiguous" | "expand" | "permute" | "t" | "numpy_T" | "unsqueeze"
        | "split_with_sizes" | "chunk" => overload == "default",
        "flatten" => overload == "using_ints",
        "unflatten" | "transpose" | "select" | "unbind" => overload == "int",
        "squeeze" => matches!(overload, "dim" | "dims" | "default"),
        "slice" => overload == "Tensor",
        "split" | "unsafe_split" => matches!(overload, "Tensor" | "sizes"),
        _ => whole,
    };
    if !known {
        return Ok(None);
    }
    let of = c.name("self")?;
    if matches!(base, "slice" | "select") && c.b.memory.is_fresh(of) {
        return part_of_fresh(c, of, base).map(Some);
    }
    let x = c.tensor("self")?;
    if matches!(base, "split_with_sizes" | "chunk" | "split" | "unsafe_split") {
        c.skip(&["split_sizes", "split_size", "chunks"]);
        let dim = c.int("dim", 0)?;
        let axis = c.b.axis(x, dim)?;
        return split(c, of, x, axis).map(Some);
    }
    if base == "unbind" {
        return unbind(c, of, x).map(Some);
    }
    // Never copies, as `reshape` and its like do where strides ask for it.
    let reshaped = matches!(base, "view" | "squeeze" | "unsqueeze");
    let mut part = if whole {
        Part::Whole
    } else if reshaped {
        Part::Reshaped
    } else {
        Part::Other
    };
    let value = match base {
        "view" | "reshape" | "_unsafe_view" | "flatten" | "unflatten" => reshape(c, x)?,
        "expand" => {
            let to = target(c, "size")?;
            c.b.expand(x, &to)?
        }
        "permute" => {
            let dims = c.ints("dims")?;
            transposed(c, x, &dims)?
        }
        "t" | "numpy_T" => {
            let rank = c.b.shape(x)?.len() as i64;
            transposed(c, x, &(0..rank).rev().collect::<Vec<_>>())?
        }
        "transpose" => {
            let rank = c.b.shape(x)?.len();
            let (a, b) = (c.required("dim0")?, c.required("dim1")?);
            let (a, b) = (axis_of(a, rank.max(1))?, axis_of(b, rank.max(1))?);
            if rank == 0 {
                x
            } else {
                let mut perm: Vec<i64> = (0..rank as i64).collect();
                perm.swap(a, b);
                transposed(c, x, &perm)?
            }
        }
        "unsqueeze" => {
            let axis = c.required("dim")?;
            c.b.one(Op::Unsqueeze { axes: vec![axis] }, &[x])?
        }
        "squeeze" => squeeze(c, x)?,
        "select" => {
            let axis = c.required("dim")?;
            let Some(index) = c.opt_size("index")? else { return foreign("it has no `index`") };
            part = selected(&c.b.shape(x)?, axis, &index)?;
            let index = if let Some(i) = index.dim().as_const() {
                c.b.int(i)
            } else {
                let v = c.b.size(&index)?;
                c.b.one(Op::Squeeze { axes: Some(vec![0]) }, &[v])?
            };
            c.b.one(Op::Gather { axis }, &[x, index])?
        }
        "slice" => {
            let (value, found) = slice(c, x)?;
            part = found;
            value
        }
        _ => x,
    };
    Ok(Some(Outcome::View { of, part, value }))
}

/// The same memory as elements of another type.
fn bits<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let (of, x) = (c.name("self")?, c.tensor("self")?);
    let Some(to) = c.dtype("dtype")? else { return foreign("it has no `dtype`") };
    let from = c.b.dtype(x)?;
    if from == to {
        return Ok(Outcome::View { of, part: Part::Whole, value: x });
    }
    if from == DType::Bool || to == DType::Bool {
        return foreign("bits that are bools");
    }
    if from.bits() != to.bits() {
        return foreign(format!("elements of {from} as elements of {to}, of which there are more or fewer"));
    }
    Ok(Outcome::View { of, part: Part::Other, value: c.b.one(Op::BitCast { to }, &[x])? })
}

/// The sizes of the result as the file types it; they must be those that the call asks for.
fn target(c: &mut Call<'_, '_>, argument: &str) -> Result<Vec<Arc<Expr>>, Reject> {
    let result = c.result()?;
    let sizes = c.b.meta_sizes(result)?;
    let asked = c.opt_sizes(argument)?.or(c.opt_sizes("shape")?);
    let Some(asked) = asked else { return foreign(format!("it has no `{argument}`")) };
    let differ =
        asked.len() != sizes.len() || asked.iter().zip(&sizes).any(|(a, b)| **a != Expr::Int(-1) && a.dim() != b.dim());
    if differ {
        let list = |all: &[Arc<Expr>]| all.iter().map(|e| e.dim().to_string()).collect::<Vec<_>>().join(", ");
        return Err(FormatError::mismatch(
            format!("a result of the shape that is asked for, [{}]", list(&asked)),
            format!("[{}]", list(&sizes)),
        )
        .into());
    }
    Ok(sizes)
}

fn reshape(c: &mut Call<'_, '_>, x: ValueId) -> Result<ValueId, Reject> {
    let to = if c.node.target.contains("flatten") {
        // The axes say the same as the result's type, and inference compares the numbers of elements.
        c.skip(&["start_dim", "end_dim", "dim", "sizes"]);
        let result = c.result()?;
        c.b.meta_sizes(result)?
    } else {
        target(c, "size")?
    };
    c.b.reshape(x, &to)
}

pub fn transposed(c: &mut Call<'_, '_>, x: ValueId, dims: &[i64]) -> Result<ValueId, Reject> {
    let rank = c.b.shape(x)?.len();
    let perm: Vec<i64> = dims.iter().map(|d| axis_of(*d, rank).map(|a| a as i64)).collect::<Result<_, _>>()?;
    if perm.len() == rank && perm.is_sorted() {
        return Ok(x);
    }
    Ok(c.b.one(Op::Transpose { perm: Some(perm) }, &[x])?)
}

fn squeeze(c: &mut Call<'_, '_>, x: ValueId) -> Result<ValueId, Reject> {
    let shape = c.b.shape(x)?;
    let asked = match c.opt_ints("dim")? {
        Some(dims) => dims.iter().map(|d| axis_of(*d, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.len()).collect(),
    };
    // Axes of other sizes stay; a symbol is not 1, or the program would not have been exported so.
    let axes: Vec<i64> = asked.into_iter().filter(|a| shape[*a].as_const() == Some(1)).map(|a| a as i64).collect();
    if axes.is_empty() {
        return Ok(x);
    }
    Ok(c.b.one(Op::Squeeze { axes: Some(axes) }, &[x])?)
}

/// Start, end and step of a slice.
pub fn bounds(c: &mut Call<'_, '_>) -> Result<(Arc<Expr>, Arc<Expr>, i64), Reject> {
    if let Some(length) = c.opt_size("length")? {
        return narrowed(c, &length);
    }
    let start = c.opt_size("start")?.unwrap_or_else(|| Arc::new(Expr::Int(0)));
    let end = c.opt_size("end")?.unwrap_or_else(|| Arc::new(Expr::Int(i64::MAX)));
    Ok((start, end, c.int("step", 1)?))
}

/// Those of `narrow`, which has a length.
fn narrowed(c: &mut Call<'_, '_>, length: &Expr) -> Result<(Arc<Expr>, Arc<Expr>, i64), Reject> {
    let Some(start) = c.opt_size("start")? else { return foreign("it has no `start`") };
    let end = match (start.dim().as_const(), length.dim().as_const()) {
        (Some(start), Some(length)) => match start.checked_add(length) {
            // Counted from the end, it may reach there.
            Some(0) if start < 0 => Expr::Int(i64::MAX),
            Some(end) => Expr::Int(end),
            None => return foreign("its end is out of range"),
        },
        _ => Expr::plus(&start, length),
    };
    if !matches!(end, Expr::Int(_)) && start.dim().as_const().is_some_and(|s| s < 0) {
        return foreign("it begins so far from the end, and its length is computed");
    }
    Ok((start, Arc::new(end), 1))
}

/// Where a slice of an axis of that many elements begins and ends, counted from the front.
pub fn place(start: &Expr, end: &Expr, size: Option<i64>) -> Option<(i64, i64)> {
    let n = size?;
    let fix = |v: i64| (if v < 0 { v.saturating_add(n) } else { v }).clamp(0, n);
    let (start, end) = (fix(start.dim().as_const()?), fix(end.dim().as_const()?));
    Some((start, end.max(start)))
}

pub fn slice(c: &mut Call<'_, '_>, x: ValueId) -> Result<(ValueId, Part), Reject> {
    let dim = c.int("dim", 0)?;
    let axis = c.b.axis(x, dim)?;
    let (start, end, step) = bounds(c)?;
    let size = c.b.shape(x)?[axis].as_const();
    if step == 1 && start.dim().as_const() == Some(0) && end.dim().as_const() == Some(i64::MAX) {
        return Ok((x, Part::Whole));
    }
    let part = match place(&start, &end, size) {
        Some((start, end)) if step == 1 => Part::Slice { axis, start, end },
        _ => Part::Other,
    };
    let (from, to) = (c.b.size(&start)?, c.b.size(&end)?);
    let axes = c.b.ints(&[axis as i64]);
    let mut operands = vec![x, from, to, axes];
    if step != 1 {
        operands.push(c.b.ints(&[step]));
    }
    Ok((c.b.one(Op::Slice, &operands)?, part))
}

/// What of its memory one place of an axis is.
pub fn selected(shape: &[Dim], axis: i64, index: &Expr) -> Result<Part, Reject> {
    let axis = axis_of(axis, shape.len())?;
    let size = shape[axis].as_const();
    let index = index.dim().as_const().and_then(|i| if i < 0 { i.checked_add(size?) } else { Some(i) });
    Ok(match index.filter(|i| (0..size.unwrap_or(i64::MAX)).contains(i)) {
        Some(index) => Part::Select { axis, index },
        None => Part::Other,
    })
}

/// A part of memory that nobody wrote into: only a place to write.
pub fn part_of_fresh<'p>(c: &mut Call<'_, 'p>, of: &'p str, base: &str) -> Result<Outcome<'p>, Reject> {
    let sizes: Vec<Dim> = c.b.meta_sizes(of)?.iter().map(|e| e.dim()).collect();
    let part = if base == "select" {
        let axis = c.required("dim")?;
        let Some(index) = c.opt_size("index")? else { return foreign("it has no `index`") };
        selected(&sizes, axis, &index)?
    } else {
        let dim = c.int("dim", 0)?;
        let axis = axis_of(dim, sizes.len())?;
        let (start, end, step) = bounds(c)?;
        match place(&start, &end, sizes[axis].as_const()) {
            Some((start, end)) if step == 1 => Part::Slice { axis, start, end },
            _ if step == 1 && start.dim().as_const() == Some(0) && end.dim().as_const() == Some(i64::MAX) => {
                Part::Whole
            }
            _ => Part::Other,
        }
    };
    let result = c.result()?;
    c.b.memory.view(result, of, part, None)?;
    Ok(Outcome::Done)
}

/// Parts along an axis, of the sizes that the file types.
pub fn split<'p>(c: &mut Call<'_, 'p>, of: &'p str, x: ValueId, axis: usize) -> Result<Outcome<'p>, Reject> {
    let names = c.results();
    let mut sizes = Vec::with_capacity(names.len());
    for name in &names {
        let of_result = c.b.meta_sizes(name)?;
        let Some(size) = of_result.get(axis) else { return foreign("a result has fewer axes than the tensor") };
        sizes.push(size.clone());
    }
    let operand = c.b.shape_operand(&sizes)?;
    let values = c.b.emit(Op::Split { axis: axis as i64, outputs: names.len() }, &[Some(x), Some(operand)])?;
    Ok(Outcome::Views { of, values })
}

fn unbind<'p>(c: &mut Call<'_, 'p>, of: &'p str, x: ValueId) -> Result<Outcome<'p>, Reject> {
    let axis = c.int("dim", 0)?;
    let mut values = Vec::new();
    for i in 0..c.results().len() {
        let index = c.b.int(i as i64);
        values.push(c.b.one(Op::Gather { axis }, &[x, index])?);
    }
    Ok(Outcome::Views { of, values })
}

fn join<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let tensors = c.tensors("tensors")?;
    let axis = c.int("dim", 0)?;
    let parts = c.b.together(&tensors)?;
    // By an old rule an empty vector joins anything and adds nothing.
    let mut shapes = Vec::new();
    for v in &parts {
        shapes.push(c.b.shape(*v)?);
    }
    let rank = shapes.iter().map(Vec::len).max().unwrap_or(0);
    let nothing = |s: &[normfuse_ir::Dim]| rank != 1 && matches!(s, [n] if n.as_const() == Some(0));
    let kept: Vec<ValueId> = parts.into_iter().zip(&shapes).filter(|(_, s)| !nothing(s)).map(|(v, _)| v).collect();
    let value = match kept.as_slice() {
        [] => return foreign("it joins nothing"),
        [one] => *one,
        _ => c.b.one(Op::Concat { axis }, &kept)?,
    };
    Ok(Outcome::one(value))
}

fn stack<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let tensors = c.tensors("tensors")?;
    let axis = c.int("dim", 0)?;
    let mut parts = Vec::new();
    for v in c.b.together(&tensors)? {
        parts.push(c.b.one(Op::Unsqueeze { axes: vec![axis] }, &[v])?);
    }
    Ok(Outcome::one(c.b.one(Op::Concat { axis }, &parts)?))
}

/// More places before and after, or fewer, along each axis from the last one on.
fn pad<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let x = c.tensor("self")?;
    let by = c.ints("pad")?;
    let mode = c.text("mode", "constant")?;
    if mode != "constant" {
        return foreign(format!("`mode` is `{mode}`"));
    }
    let value = c.scalar("value")?;
    let rank = c.b.shape(x)?.len();
    if by.len() % 2 != 0 || by.len() / 2 > rank {
        return foreign(format!("it has {} numbers for {rank} axes", by.len()));
    }
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (axis, pair) in (0..rank).rev().zip(by.chunks(2)) {
        (before[axis], after[axis]) = (pair[0], pair[1]);
    }
    let by = c.b.ints(&[before, after].concat());
    let mut operands = vec![x, by];
    // The IR fills with zero bytes unasked.
    if let Some(value) = value.filter(|v| !matches!(v, Scalar::Int(0) | Scalar::Bool(false)) && !is_positive_zero(*v)) {
        let dtype = c.b.dtype(x)?;
        operands.push(c.b.scalar(value, dtype)?);
    }
    Ok(Outcome::one(c.b.one(Op::Pad, &operands)?))
}

fn is_positive_zero(v: Scalar) -> bool {
    matches!(v, Scalar::Float(v) if v.to_bits() == 0)
}

/// The whole tensor several times along each axis, of which there may be new ones in front.
fn repeat<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let x = c.tensor("self")?;
    let Some(times) = c.opt_sizes("repeats")? else { return foreign("it has no `repeats`") };
    let Some(new) = times.len().checked_sub(c.b.shape(x)?.len()) else {
        return foreign("it has fewer numbers than axes");
    };
    let axes: Vec<i64> = (0..new as i64).collect();
    let wide = if axes.is_empty() { x } else { c.b.one(Op::Unsqueeze { axes }, &[x])? };
    let times = c.b.shape_operand(&times)?;
    Ok(Outcome::one(c.b.one(Op::Tile, &[wide, times])?))
}

/// Each element several times in a row: a new axis, repeated, and joined with the one before it.
fn repeat_interleave<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let x = c.tensor("self")?;
    let repeats = c.required("repeats")?;
    let Some(dim) = c.opt_int("dim")? else { return foreign("it has no `dim`") };
    c.skip(&["output_size"]);
    let axis = c.b.axis(x, dim)?;
    let rank = c.b.shape(x)?.len();
    let wide = c.b.one(Op::Unsqueeze { axes: vec![axis as i64 + 1] }, &[x])?;
    let mut times = vec![1; rank + 1];
    times[axis + 1] = repeats;
    let times = c.b.ints(&times);
    let many = c.b.one(Op::Expand, &[wide, times])?;
    let result = c.result()?;
    let to = c.b.meta_sizes(result)?;
    Ok(Outcome::one(c.b.reshape(many, &to)?))
}
