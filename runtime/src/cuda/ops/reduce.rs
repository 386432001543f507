//! Reductions, places of extremes, running sums, softmax.

use normfuse_ir::{
    DType, Op, Result,
    eval::shape::{axis_index, axis_set},
    op::ReduceOp,
};

use super::{
    Call, Lowered, Typed, Word,
    groups::Groups,
    place::count,
    text::{Params, tag},
    undefined,
};

const HEADER: &str = "group.cuh";

fn one(launch: super::Launch) -> Lowered {
    Lowered { launches: vec![launch], scratch: 0 }
}

/// The words of one operand, one result and the groups of the operand.
fn params(groups: &Groups) -> Params {
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    p.output("y", Word::Output(0));
    groups.words(&mut p);
    p
}

/// The numbers of a group.
fn value(x: &Typed, groups: &Groups) -> String {
    let next = groups.next() && x.dtype.bits() >= 8;
    format!("    auto value = numbers<{}, {next}>(p.x, at);\n", tag(x.dtype))
}

/// `Reduce`.
pub fn reduce(call: &Call<'_>, op: ReduceOp, axes: Option<&[i64]>) -> Result<Lowered> {
    let (x, y) = (call.input(0)?, call.output(0)?);
    let rank = x.shape.len();
    let axes = axes.map_or_else(|| Ok((0..rank).collect()), |a| axis_set(a, rank))?;
    let groups = Groups::along(&x.shape, &axes);
    let whole = x.dtype.is_int();
    let fits = match op {
        ReduceOp::Max | ReduceOp::Min => whole || x.dtype.is_arithmetic_float() || x.dtype == DType::Bool,
        ReduceOp::L2 => x.dtype.is_arithmetic_float(),
        ReduceOp::Mean => x.dtype.is_arithmetic_float() || whole && groups.len > 0,
        _ => whole || x.dtype.is_arithmetic_float(),
    };
    if !fits {
        return Err(undefined(call.op, x.dtype));
    }
    if count(&y.shape) == 0 {
        return Ok(Lowered::default());
    }
    let groups = if op == ReduceOp::Prod && !whole { groups.in_order() } else { groups };
    let name = match op {
        ReduceOp::Mean => "MEAN",
        ReduceOp::Sum => "SUM",
        ReduceOp::SumSquare => "SUM_SQUARE",
        ReduceOp::L2 => "L2",
        ReduceOp::Prod => "PROD",
        ReduceOp::Max => "MAX",
        ReduceOp::Min => "MIN",
    };
    let t = tag(x.dtype);
    let body = format!(
        "{}    const Raw<{t}> y = reduced<{t}, {name}>(team, p.n, depth, shared, value);\n    \
         if (here && team.thread == 0) ((Raw<{t}>*)p.y)[group] = y;\n",
        value(x, &groups)
    );
    Ok(one(groups.launch(params(&groups), HEADER, "", &body, 16)?))
}

/// `ArgReduce`.
pub fn arg_reduce(call: &Call<'_>, max: bool, axis: i64, last: bool) -> Result<Lowered> {
    let x = call.input(0)?;
    let axis = axis_index(axis, x.shape.len())?;
    if x.shape[axis] == 0 {
        let message = format!("axis {axis} is empty and has no extreme");
        return Err(normfuse_ir::Error::new(normfuse_ir::ErrorKind::Shape, message));
    }
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let groups = Groups::along(&x.shape, &[axis]);
    let body = format!(
        "{}    const i64 place = place_of_extreme<{}, {max}, {last}>(team, p.n, shared, value);\n    \
         if (here && team.thread == 0) ((i64*)p.y)[group] = place;\n",
        value(x, &groups),
        tag(x.dtype)
    );
    Ok(one(groups.launch(params(&groups), HEADER, "", &body, 16)?))
}

/// `Softmax`, or its logarithm.
pub fn softmax(call: &Call<'_>, axis: i64, log: bool) -> Result<Lowered> {
    let x = call.input(0)?;
    let axis = axis_index(axis, x.shape.len())?;
    if !x.dtype.is_arithmetic_float() {
        return Err(undefined(call.op, x.dtype));
    }
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let groups = Groups::along(&x.shape, &[axis]);
    let t = tag(x.dtype);
    let body = format!(
        "{}    softmax_of<Num<{t}>, {log}>(team, p.n, depth, (Num<{t}>*)shared, lowest<{t}>(), value,\n        \
         [&](u64 i, Num<{t}> v) {{ if (here) ((Raw<{t}>*)p.y)[at(i)] = put<{t}>(v); }});\n",
        value(x, &groups)
    );
    Ok(one(groups.launch(params(&groups), HEADER, "", &body, 8)?))
}

/// `CumSum`: each group by one thread, since each sum is rounded before the next element is added.
pub fn cum_sum(call: &Call<'_>, exclusive: bool, reverse: bool) -> Result<Lowered> {
    let x = call.input(0)?;
    let [axis] = call.ints(1)?[..] else {
        return Err(normfuse_ir::Error::new(normfuse_ir::ErrorKind::Shape, "expected one axis"));
    };
    let axis = axis_index(axis, x.shape.len())?;
    if !(x.dtype.is_int() || x.dtype.is_arithmetic_float()) {
        return Err(undefined(call.op, x.dtype));
    }
    if count(&x.shape) == 0 {
        return Ok(Lowered::default());
    }
    let groups = Groups::along(&x.shape, &[axis]).in_order();
    let t = tag(x.dtype);
    let body = format!(
        "{}    if (!here) return;\n    Num<{t}> sum = 0;\n    for (u64 i = 0; i < p.n; ++i) {{\n        \
         const u64 k = {reverse} ? p.n - 1 - i : i;\n        const Num<{t}> v = value(k);\n        \
         const Num<{t}> with = i == 0 ? v : op_add(sum, v, nullptr);\n        \
         ((Raw<{t}>*)p.y)[at(k)] = put<{t}>({exclusive} ? (i == 0 ? (Num<{t}>)0 : sum) : with);\n        sum = with;\n    }}\n",
        value(x, &groups)
    );
    Ok(one(groups.launch(params(&groups), HEADER, "", &body, 1)?))
}

/// Which of the ops here it is.
pub fn lower(call: &Call<'_>) -> Result<Option<Lowered>> {
    Ok(Some(match call.op {
        Op::Reduce { op, axes, .. } => reduce(call, *op, axes.as_deref())?,
        Op::ArgReduce { max, axis, select_last, .. } => arg_reduce(call, *max, *axis, *select_last)?,
        Op::Softmax { axis, log } => softmax(call, *axis, *log)?,
        Op::CumSum { exclusive, reverse } => cum_sum(call, *exclusive, *reverse)?,
        _ => return Ok(None),
    }))
}
