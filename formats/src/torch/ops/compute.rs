//! Reductions, norms, products and attention.

use normfuse_ir::{
    DType, Op, ValueId,
    op::{AttentionOp, BinaryOp, ReduceOp, UnaryOp},
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
        "mean.dim" | "mean.default" => reduce(c, ReduceOp::Mean)?,
        "sum.dim_IntList" | "sum.default" => reduce(c, ReduceOp::Sum)?,
        "amax.default" | "max.default" | "any.dim" | "any.dims" | "any.default" => reduce(c, ReduceOp::Max)?,
        "amin.default" | "min.default" | "all.dim" | "all.dims" | "all.default" => reduce(c, ReduceOp::Min)?,
        "max.dim" => return extreme(c, true).map(Some),
        "min.dim" => return extreme(c, false).map(Some),
        "argmax.default" | "argmin.default" => {
            let x = c.tensor("self")?;
            let Some(axis) = c.opt_int("dim")? else { return foreign("it has no `dim`") };
            let keepdims = c.flag("keepdim", false)?;
            let op = Op::ArgReduce { max: name.starts_with("argmax"), axis, keepdims, select_last: false };
            c.b.one(op, &[x])?
        }
        "cumsum.default" => {
            let x = c.tensor("self")?;
            let axis = c.required("dim")?;
            let x = summed(c, x)?;
            let axis = c.b.int(axis);
            c.b.one(Op::CumSum { exclusive: false, reverse: false }, &[x, axis])?
        }
        "softmax.int" | "_softmax.default" => softmax(c, false)?,
        "log_softmax.int" | "_log_softmax.default" => softmax(c, true)?,
        "rms_norm.default" => rms_norm(c)?,
        "layer_norm.default" => layer_norm(c)?,
        "linear.default" => {
            let (x, w) = (c.tensor("input")?, c.tensor("weight")?);
            let bias = c.opt_tensor("bias")?;
            let w = match c.b.shape(w)?.len() {
                2 => c.b.one(Op::Transpose { perm: Some(vec![1, 0]) }, &[w])?,
                n => return foreign(format!("its weight has rank {n}")),
            };
            let y = c.b.one(Op::MatMul, &[x, w])?;
            match bias {
                Some(b) => c.b.binary(BinaryOp::Add, y, b)?,
                None => y,
            }
        }
        "mm.default" | "bmm.default" => {
            let (a, b) = (c.tensor("self")?, c.tensor("mat2")?);
            c.b.one(Op::MatMul, &[a, b])?
        }
        "matmul.default" => {
            let (a, b) = (c.tensor("self")?, c.tensor("other")?);
            c.b.one(Op::MatMul, &[a, b])?
        }
        "addmm.default" => {
            let (bias, a, b) = (c.tensor("self")?, c.tensor("mat1")?, c.tensor("mat2")?);
            let mut factor = |name: &str| {
                Ok::<_, Reject>(match c.scalar(name)? {
                    None => F32::new(1.0),
                    Some(Scalar::Int(v)) => F32::new(v as f32),
                    Some(Scalar::Float(v)) => F32::new(v as f32),
                    Some(Scalar::Bool(v)) => F32::new(f32::from(u8::from(v))),
                })
            };
            let (alpha, beta) = (factor("alpha")?, factor("beta")?);
            c.b.one(Op::Gemm { alpha, beta, trans_a: false, trans_b: false }, &[a, b, bias])?
        }
        "scaled_dot_product_attention.default" => attention(c)?,
        _ => return Ok(None),
    };
    Ok(Some(Outcome::one(value)))
}

/// Integers and bools are summed as i64.
fn summed(c: &mut Call<'_, '_>, x: ValueId) -> Result<ValueId, Reject> {
    if let Some(to) = c.dtype("dtype")? {
        return Ok(c.b.cast(x, to)?);
    }
    let d = c.b.dtype(x)?;
    if d.is_int() || d == DType::Bool {
        return Ok(c.b.cast(x, DType::I64)?);
    }
    Ok(x)
}

fn reduce(c: &mut Call<'_, '_>, op: ReduceOp) -> Result<ValueId, Reject> {
    let mut x = c.tensor("self")?;
    let name = &c.node.target;
    if matches!(op, ReduceOp::Sum | ReduceOp::Mean) {
        if op == ReduceOp::Sum {
            x = summed(c, x)?;
        } else if let Some(to) = c.dtype("dtype")? {
            x = c.b.cast(x, to)?;
        }
    } else if (name.contains(".any.") || name.contains(".all.")) && c.b.dtype(x)? != DType::Bool {
        return foreign("its operand is not bool");
    }
    let axes = c.opt_ints("dim")?.filter(|a| !a.is_empty());
    let keepdims = c.flag("keepdim", false)?;
    Ok(c.b.one(Op::Reduce { op, axes, keepdims }, &[x])?)
}

/// The extreme along an axis and where it is; where nobody asks where, only the first.
fn extreme<'p>(c: &mut Call<'_, 'p>, max: bool) -> Result<Outcome<'p>, Reject> {
    let x = c.tensor("self")?;
    let axis = c.required("dim")?;
    let keepdims = c.flag("keepdim", false)?;
    let op = if max { ReduceOp::Max } else { ReduceOp::Min };
    let names = c.results();
    let value = c.b.one(Op::Reduce { op, axes: Some(vec![axis]), keepdims }, &[x])?;
    let index = match names.get(1) {
        Some(name) if c.b.used.contains(name) => {
            Some(c.b.one(Op::ArgReduce { max, axis, keepdims, select_last: false }, &[x])?)
        }
        _ => None,
    };
    Ok(Outcome::Values(vec![Some(value), index]))
}

fn softmax(c: &mut Call<'_, '_>, log: bool) -> Result<ValueId, Reject> {
    let mut x = c.tensor("self")?;
    let axis = c.required("dim")?;
    if let Some(to) = c.dtype("dtype")? {
        x = c.b.cast(x, to)?;
    }
    if c.flag("half_to_float", false)? {
        x = c.b.cast(x, DType::F32)?;
    }
    let x = c.b.float(x)?;
    Ok(c.b.one(Op::Softmax { axis, log }, &[x])?)
}

/// `x * rsqrt(mean(x*x) + eps) * weight` in f32, rounded once to the type of x (torch 2.9 and later).
fn rms_norm(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("input")?;
    let axes = c.ints("normalized_shape")?.len() as i64;
    let weight = c.opt_tensor("weight")?;
    let Some(eps) = c.float("eps")? else {
        return foreign("its eps is the type's own, which torch versions choose differently");
    };
    let dtype = c.b.dtype(x)?;
    let inner = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
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

fn layer_norm(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("input")?;
    let axes = c.ints("normalized_shape")?.len() as i64;
    let (weight, bias) = (c.opt_tensor("weight")?, c.opt_tensor("bias")?);
    let eps = F32::new(c.float("eps")?.unwrap_or(1e-5) as f32);
    c.skip(&["cudnn_enable", "cudnn_enabled"]);
    let Some(weight) = weight else { return foreign("it has no weight") };
    let mut operands = vec![x, weight];
    operands.extend(bias);
    Ok(c.b.one(Op::LayerNorm { axis: -axes, eps, stash: DType::F32 }, &operands)?)
}

fn attention(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let (q, k, v) = (c.tensor("query")?, c.tensor("key")?, c.tensor("value")?);
    let mask = c.opt_tensor("attn_mask")?;
    if c.float("dropout_p")?.unwrap_or(0.0) != 0.0 {
        return foreign("it drops values at random");
    }
    let is_causal = c.flag("is_causal", false)?;
    let scale = c.float("scale")?.map(|s| F32::new(s as f32));
    let grouped = c.flag("enable_gqa", false)?;
    let (qs, ks) = (c.b.shape(q)?, c.b.shape(k)?);
    if qs.len() != 4 || ks.len() != 4 {
        return foreign("its operands do not have rank 4");
    }
    // What ONNX does unasked, torch does only if it is told to.
    if !grouped && qs[1] != ks[1] {
        return foreign("query and key have different numbers of heads");
    }
    let op = AttentionOp {
        is_causal,
        scale,
        softcap: F32::new(0.0),
        q_num_heads: None,
        kv_num_heads: None,
        qk_matmul_output_mode: 0,
        softmax_dtype: None,
        outputs: 1,
    };
    let mut operands = vec![q, k, v];
    operands.extend(mask);
    Ok(c.b.one(Op::Attention(op), &operands)?)
}
