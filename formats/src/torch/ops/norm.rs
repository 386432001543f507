//! Norms, of rows and of whole tensors.

use normfuse_ir::{
    DType, Op, Tensor, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
    scheme::F32,
};

use super::{
    super::{
        args::{Call, Scalar},
        promote::Operand,
    },
    Outcome,
};
use crate::reject::{Reject, foreign};

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match name {
        "rms_norm.default" => rms_norm(c)?,
        "layer_norm.default" => layer_norm(c)?,
        "native_layer_norm.default" => {
            // Mean and reciprocal deviation are for gradients.
            if c.results().iter().skip(1).any(|name| c.b.last_read.contains_key(name)) {
                return foreign("its mean or deviation is read");
            }
            return Ok(Some(Outcome::Values(vec![Some(layer_norm(c)?), None, None])));
        }
        "linalg_vector_norm.default" => vector_norm(c)?,
        _ => return Ok(None),
    };
    Ok(Some(Outcome::one(value)))
}

/// The type in which torch computes a row of another one.
fn inner(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// `x * rsqrt(mean(x*x) + eps) * weight` in f32, rounded once to the type of x (torch 2.9 and later). Without an eps it is
/// the distance from 1 to the next number of the type that is computed in; before pytorch#142848 (torch 2.7) it was that
/// of x's type.
fn rms_norm(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("input")?;
    let axes = c.ints("normalized_shape")?.len() as i64;
    let weight = c.opt_tensor("weight")?;
    let eps = c.float("eps")?;
    let dtype = c.b.dtype(x)?;
    let inner = inner(dtype);
    let eps = match (eps, inner) {
        (Some(eps), _) => eps,
        (None, _) if !c.b.version.is_at_least(2, 7) => {
            return foreign(
                "its eps is left to torch, and versions before 2.7, or one that is not known, chose another",
            );
        }
        (None, DType::F64) => f64::EPSILON,
        (None, _) => f64::from(f32::EPSILON),
    };
    let wide = c.b.cast(x, inner)?;
    let square = c.b.arithmetic(BinaryOp::Pow, Operand::Tensor(wide), Operand::Scalar(Scalar::Int(2)))?;
    let axes = (-axes..0).collect();
    let mean = c.b.one(Op::Reduce { op: ReduceOp::Mean, axes: Some(axes), keepdims: true }, &[square])?;
    let sum = c.b.arithmetic(BinaryOp::Add, Operand::Tensor(mean), Operand::Scalar(Scalar::Float(eps)))?;
    let r = c.b.unary(UnaryOp::Rsqrt, sum)?;
    let mut y = c.b.binary(BinaryOp::Mul, wide, r)?;
    if let Some(w) = weight {
        let w = c.b.cast(w, inner)?;
        y = c.b.binary(BinaryOp::Mul, y, w)?;
    }
    Ok(c.b.cast(y, dtype)?)
}

/// All in f32 and rounded once: the IR's op would round 16 bits after each step, as ONNX does.
fn layer_norm(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("input")?;
    let axes = c.ints("normalized_shape")?.len() as i64;
    let (weight, bias) = (c.opt_tensor("weight")?, c.opt_tensor("bias")?);
    let eps = F32::new(c.float("eps")?.unwrap_or(1e-5) as f32);
    c.skip(&["cudnn_enable", "cudnn_enabled"]);
    let dtype = c.b.dtype(x)?;
    if dtype == DType::F64 {
        return foreign("of 64 bits, which the IR's op computes in 32");
    }
    let mut operands = vec![c.b.cast(x, DType::F32)?];
    operands.push(match weight {
        Some(w) => c.b.cast(w, DType::F32)?,
        None => c.b.constant("ones", Tensor::from_f32(&[1], &[1.0])),
    });
    if let Some(b) = bias {
        operands.push(c.b.cast(b, DType::F32)?);
    }
    let y = c.b.one(Op::LayerNorm { axis: -axes, eps, stash: DType::F32 }, &operands)?;
    Ok(c.b.cast(y, dtype)?)
}

/// The root of the sum of squares, the sum of magnitudes or the largest one, in f32 and rounded once.
fn vector_norm(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let order = match c.scalar("ord")?.unwrap_or(Scalar::Int(2)) {
        Scalar::Int(v) => v as f64,
        Scalar::Float(v) => v,
        Scalar::Bool(_) => return foreign("its order is a bool"),
    };
    let axes = c.opt_ints("dim")?.filter(|a| !a.is_empty());
    let keepdims = c.flag("keepdim", false)?;
    let from = c.b.dtype(x)?;
    let to = c.dtype("dtype")?.unwrap_or(from);
    if !from.is_arithmetic_float() || !to.is_arithmetic_float() {
        return foreign("its operand is no float");
    }
    let axes = super::compute::axes_of(c, x, axes)?;
    let wide = c.b.cast(x, inner(to))?;
    let (terms, op) = if order == 2.0 {
        (c.b.binary(BinaryOp::Mul, wide, wide)?, ReduceOp::Sum)
    } else if order == 1.0 {
        (c.b.unary(UnaryOp::Abs, wide)?, ReduceOp::Sum)
    } else if order == f64::INFINITY {
        (c.b.unary(UnaryOp::Abs, wide)?, ReduceOp::Max)
    } else {
        return foreign(format!("its order is {order}, and neither 1, 2 nor infinity"));
    };
    let mut y = c.b.one(Op::Reduce { op, axes, keepdims }, &[terms])?;
    if order == 2.0 {
        y = c.b.unary(UnaryOp::Sqrt, y)?;
    }
    Ok(c.b.cast(y, to)?)
}
