//! ScatterElements and ScatterND with their reductions.

use super::{
    elementwise::{binary_f32, binary_f64, binary_int},
    movement::{Scatter, scatter_copy, scatter_elements_plan, scatter_nd_plan},
    numbers::{Numbers, from_numbers, unsupported, wrapped},
};
use crate::{
    DType, Result, Tensor, num,
    op::{BinaryOp, ScatterReduction},
};

fn as_binary(reduction: ScatterReduction) -> Option<BinaryOp> {
    match reduction {
        ScatterReduction::None => None,
        ScatterReduction::Add => Some(BinaryOp::Add),
        ScatterReduction::Mul => Some(BinaryOp::Mul),
        ScatterReduction::Max => Some(BinaryOp::Max),
        ScatterReduction::Min => Some(BinaryOp::Min),
    }
}

fn apply(x: &Tensor, updates: &Tensor, plan: &Scatter, reduction: ScatterReduction) -> Result<Tensor> {
    let Some(op) = as_binary(reduction) else { return scatter_copy(x, updates, plan) };
    let dtype = x.dtype();
    let bad = || unsupported(dtype);
    let pairs =
        plan.targets.iter().enumerate().flat_map(|(u, &t)| (0..plan.block).map(move |i| (t + i, u * plan.block + i)));
    let mut values = Numbers::of(x);
    match (&mut values, &Numbers::of(updates)) {
        (Numbers::F32(v), Numbers::F32(u)) => {
            let f = binary_f32(op).ok_or_else(bad)?;
            // In order of the updates, each one an operation of its own and rounded as one.
            pairs.for_each(|(to, from)| v[to] = num::round_to(dtype, f(v[to], u[from])));
        }
        (Numbers::F64(v), Numbers::F64(u)) => {
            let f = binary_f64(op).ok_or_else(bad)?;
            pairs.for_each(|(to, from)| v[to] = f(v[to], u[from]));
        }
        (Numbers::Int(v), Numbers::Int(u)) if dtype != DType::Bool => {
            let f = binary_int(op).ok_or_else(bad)?;
            pairs.for_each(|(to, from)| v[to] = wrapped(dtype, f(v[to], u[from]).unwrap_or(0)));
        }
        _ => return Err(bad()),
    }
    from_numbers(dtype, x.shape(), &values)
}

/// ONNX ScatterElements.
///
/// # Errors
/// As the movement of the same name; `DType` if the reduction has no meaning for the operand's dtype.
pub fn scatter_elements(
    x: &Tensor,
    indices: &Tensor,
    updates: &Tensor,
    axis: i64,
    reduction: ScatterReduction,
) -> Result<Tensor> {
    apply(x, updates, &scatter_elements_plan(x, indices, updates, axis)?, reduction)
}

/// ONNX ScatterND.
///
/// # Errors
/// As [`scatter_elements`].
pub fn scatter_nd(x: &Tensor, indices: &Tensor, updates: &Tensor, reduction: ScatterReduction) -> Result<Tensor> {
    apply(x, updates, &scatter_nd_plan(x, indices, updates)?, reduction)
}
