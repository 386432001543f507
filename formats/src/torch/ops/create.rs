//! Ops that make tensors out of sizes and numbers.

use std::sync::Arc;

use normfuse_ir::{DType, Dim, Op, Tensor, ValueId, op::BinaryOp};

use super::{
    super::{
        args::{Call, Scalar},
        expr::Expr,
        schema::Argument,
    },
    Outcome,
};
use crate::reject::{Reject, foreign};

/// Up to how many elements a filled tensor is a constant.
const SMALL: i64 = 64;

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let (base, _) = name.split_once('.').unwrap_or((name, ""));
    let value = match base {
        "arange" => arange(c)?,
        "eye" => eye(c)?,
        "scalar_tensor" => {
            let Some(s) = c.scalar("s")? else { return foreign("it has no `s`") };
            let dtype = result_dtype(c)?;
            c.b.scalar(s, dtype)?
        }
        "zeros" | "new_zeros" | "zeros_like" => filled(c, Scalar::Int(0))?,
        "ones" | "new_ones" | "ones_like" => filled(c, Scalar::Int(1))?,
        "full" | "new_full" | "full_like" => {
            let Some(s) = c.scalar("fill_value")? else { return foreign("it has no `fill_value`") };
            filled(c, s)?
        }
        "empty" | "new_empty" | "empty_like" | "empty_strided" | "new_empty_strided" | "empty_permuted" => {
            c.skip(&["self", "size", "dtype", "stride", "physical_layout"]);
            let result = c.result()?;
            c.b.declared(result)?;
            c.b.memory.fresh(result)?;
            return Ok(Some(Outcome::Done));
        }
        _ => return Ok(None),
    };
    Ok(Some(Outcome::one(value)))
}

/// The type of the result as the file has it: an argument, that of another tensor, or torch's default.
fn result_dtype(c: &mut Call<'_, '_>) -> Result<DType, Reject> {
    c.skip(&["dtype"]);
    let result = c.result()?;
    let declared = c.b.declared(result)?;
    declared.dtype.ok_or_else(|| Reject::Foreign("the type of its result is not known".into()))
}

fn filled(c: &mut Call<'_, '_>, s: Scalar) -> Result<ValueId, Reject> {
    c.skip(&["self", "size"]);
    let dtype = result_dtype(c)?;
    let result = c.result()?;
    let sizes = c.b.meta_sizes(result)?;
    let one = c.b.scalar(s, dtype)?;
    fill(c, one, &sizes)
}

/// A tensor's contents before a write into some places of it. Memory that nothing was written into may hold anything, and
/// so zeros.
pub fn contents(c: &mut Call<'_, '_>, name: &str) -> Result<ValueId, Reject> {
    let of = c.name(name)?;
    if !c.b.memory.is_untouched(of) {
        return c.tensor(name);
    }
    let Some(dtype) = c.b.declared(of)?.dtype else { return foreign("the type of its new memory is not known") };
    let sizes = c.b.meta_sizes(of)?;
    let zero = c.b.scalar(Scalar::Int(0), dtype)?;
    fill(c, zero, &sizes)
}

/// A constant of rank 0, as often as the sizes say.
fn fill(c: &mut Call<'_, '_>, one: ValueId, sizes: &[Arc<Expr>]) -> Result<ValueId, Reject> {
    let Some(element) = c.b.graph.value(one).as_const().cloned() else { return foreign("no constant") };
    let dims: Vec<Dim> = sizes.iter().map(|e| e.dim()).collect();
    if dims.is_empty() {
        return Ok(one);
    }
    let count = Dim::product(&dims).as_const();
    let shape: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect();
    if let (Some(n), Some(shape)) = (count.filter(|n| (0..=SMALL).contains(n)), shape) {
        let bytes = element.bytes().repeat(n as usize);
        let base = c.b.graph.value(one).name.clone();
        return Ok(c.b.constant(&base, Tensor::from_bytes(element.dtype(), shape, bytes)?));
    }
    let shape = c.b.shape_operand(sizes)?;
    Ok(c.b.one(Op::ConstantOfShape { dtype: element.dtype(), value: element.bytes().to_vec() }, &[shape])?)
}

fn arange(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let dtype = result_dtype(c)?;
    let float = |c: &mut Call<'_, '_>, name: &str| matches!(c.get(name), Some(Argument::Float(_)));
    if ["start", "end", "step"].iter().any(|name| float(c, name)) && dtype.is_arithmetic_float() {
        return steps(c, dtype);
    }
    // Whole numbers are counted as such, whatever type they become.
    let wide = if matches!(dtype, DType::I16 | DType::I32) { dtype } else { DType::I64 };
    let operands = [bound(c, "start", 0, wide)?, bound(c, "end", 0, wide)?, bound(c, "step", 1, wide)?];
    let counted = c.b.one(Op::Range, &operands)?;
    Ok(c.b.cast(counted, dtype)?)
}

/// One where both places are the same, else 0.
fn eye(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    c.skip(&["n", "m"]);
    let dtype = result_dtype(c)?;
    let result = c.result()?;
    let sizes = c.b.meta_sizes(result)?;
    let [rows, columns] = sizes.as_slice() else { return foreign(format!("its result has {} axes", sizes.len())) };
    let (rows, columns) = (places(c, rows)?, places(c, columns)?);
    let rows = c.b.one(Op::Unsqueeze { axes: vec![1] }, &[rows])?;
    let same = c.b.binary(BinaryOp::Equal, rows, columns)?;
    Ok(c.b.cast(same, dtype)?)
}

/// The places of an axis of a size.
fn places(c: &mut Call<'_, '_>, size: &Expr) -> Result<ValueId, Reject> {
    let count = c.b.size(size)?;
    let count = c.b.one(Op::Squeeze { axes: Some(vec![0]) }, &[count])?;
    let (zero, one) = (c.b.int(0), c.b.int(1));
    Ok(c.b.one(Op::Range, &[zero, count, one])?)
}

/// With bounds that are no whole numbers the program says how many there are, and each is computed by itself, in a wider
/// type than it has.
fn steps(c: &mut Call<'_, '_>, dtype: DType) -> Result<ValueId, Reject> {
    let wide = if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { DType::F64 };
    let (start, step) = (bound(c, "start", 0, wide)?, bound(c, "step", 1, wide)?);
    c.skip(&["end"]);
    let result = c.result()?;
    let sizes = c.b.meta_sizes(result)?;
    let [size] = sizes.as_slice() else { return foreign(format!("its result has {} axes", sizes.len())) };
    let places = places(c, size)?;
    let places = c.b.cast(places, wide)?;
    let from_start = c.b.binary(BinaryOp::Mul, places, step)?;
    let value = c.b.binary(BinaryOp::Add, from_start, start)?;
    Ok(c.b.cast(value, dtype)?)
}

/// A bound of a range, as a number of a type.
fn bound(c: &mut Call<'_, '_>, name: &str, default: i64, dtype: DType) -> Result<ValueId, Reject> {
    if matches!(c.get(name), Some(Argument::Float(_))) {
        let s = c.scalar(name)?.unwrap_or(Scalar::Int(default));
        return c.b.scalar(s, dtype);
    }
    let size = c.opt_size(name)?.unwrap_or_else(|| Arc::new(Expr::Int(default)));
    if let Some(n) = size.dim().as_const() {
        return c.b.scalar(Scalar::Int(n), dtype);
    }
    let v = c.b.size(&size)?;
    let v = c.b.one(Op::Squeeze { axes: Some(vec![0]) }, &[v])?;
    Ok(c.b.cast(v, dtype)?)
}
