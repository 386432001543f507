//! Reductions, products and attention.

use normfuse_ir::{
    DType, Op, ValueId,
    op::{AttentionOp, BinaryOp, ReduceOp},
    scheme::F32,
};

use super::{
    super::{
        args::{Call, Scalar},
        build::axis_of,
    },
    Outcome,
    einsum::product,
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
            if c.b.shape(x)?.is_empty() {
                axis_of(axis, 1)?;
                x
            } else {
                let axis = c.b.int(axis);
                c.b.one(Op::CumSum { exclusive: false, reverse: false }, &[x, axis])?
            }
        }
        "softmax.int" | "_softmax.default" => softmax(c, false)?,
        "log_softmax.int" | "_log_softmax.default" => softmax(c, true)?,
        "linear.default" => linear(c)?,
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

/// A product with a weight's rows. With a bias, 16 bits are rounded once, behind the sum: so the rows of all axes but the
/// last are those of one matrix.
fn linear(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let (name, x, w) = (c.name("input")?, c.tensor("input")?, c.tensor("weight")?);
    let bias = c.opt_tensor("bias")?;
    let rank = c.b.shape(x)?.len();
    let w = match c.b.shape(w)?.len() {
        2 => c.b.one(Op::Transpose { perm: Some(vec![1, 0]) }, &[w])?,
        n => return foreign(format!("its weight has rank {n}")),
    };
    // A vector's bias is added by an op of its own.
    if let Some(b) = bias.filter(|_| rank > 1 && matches!(c.b.ty(x).dtype, Some(DType::F16 | DType::BF16))) {
        let mut rows = c.b.meta_sizes(name)?;
        let columns = rows.split_off(rank - 1);
        let matrix = [vec![product(&rows)], columns].concat();
        let x = c.b.reshape(x, &matrix)?;
        let one = F32::new(1.0);
        let y = c.b.one(Op::Gemm { alpha: one, beta: one, trans_a: false, trans_b: false }, &[x, w, b])?;
        let result = c.result()?;
        let sizes = c.b.meta_sizes(result)?;
        return c.b.reshape(y, &sizes);
    }
    let y = c.b.one(Op::MatMul, &[x, w])?;
    Ok(match bias {
        Some(b) => c.b.binary(BinaryOp::Add, y, b)?,
        None => y,
    })
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
    let whether = [".any.", ".all."].iter().any(|n| c.node.target.contains(n));
    if matches!(op, ReduceOp::Sum | ReduceOp::Mean) {
        if op == ReduceOp::Sum {
            x = summed(c, x)?;
        } else if let Some(to) = c.dtype("dtype")? {
            x = c.b.cast(x, to)?;
        }
    } else if whether && c.b.dtype(x)? != DType::Bool {
        return foreign("its operand is not bool");
    }
    let axes = c.opt_ints("dim")?;
    // Over no axes, of a list of them, is over all of them, but for these two.
    if whether && axes.as_ref().is_some_and(Vec::is_empty) {
        return Ok(x);
    }
    let axes = axes.filter(|a| !a.is_empty());
    let keepdims = c.flag("keepdim", false)?;
    let axes = axes_of(c, x, axes)?;
    Ok(c.b.one(Op::Reduce { op, axes, keepdims }, &[x])?)
}

/// Axes of a tensor; one of rank 0 has a first and a last axis in torch, over which nothing is reduced.
pub fn axes_of(c: &Call<'_, '_>, x: ValueId, axes: Option<Vec<i64>>) -> Result<Option<Vec<i64>>, Reject> {
    let rank = c.b.shape(x)?.len();
    for axis in axes.iter().flatten() {
        axis_of(*axis, rank.max(1))?;
    }
    Ok(axes.filter(|_| rank > 0))
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
        Some(name) if c.b.last_read.contains_key(name) => {
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
    let mut x = c.b.float(x)?;
    // A tensor of rank 0 has a first and a last axis in torch.
    let flat = c.b.shape(x)?.is_empty();
    if flat {
        x = c.b.one(Op::Unsqueeze { axes: vec![0] }, &[x])?;
    }
    let y = c.b.one(Op::Softmax { axis, log }, &[x])?;
    Ok(if flat { c.b.one(Op::Squeeze { axes: Some(vec![0]) }, &[y])? } else { y })
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
    let shapes = [c.b.shape(q)?, c.b.shape(k)?, c.b.shape(v)?];
    let rank = shapes[0].len();
    if !(2..=4).contains(&rank) || shapes.iter().any(|s| s.len() != rank) {
        return foreign("its operands do not have 2, 3 or 4 axes each");
    }
    let sizes: Vec<i64> = shapes.iter().filter_map(|s| s[0].as_const()).collect();
    if rank > 2 && sizes.iter().any(|n| *n != sizes[0]) {
        return foreign("its operands are repeated along their first axis");
    }
    // What ONNX does unasked, torch does only if it is told to.
    if rank == 4 && !grouped && shapes[0][1] != shapes[1][1] {
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
    // Axes that are not there are in front of the last two; a mask of as many axes lacks the same ones.
    let missing: Vec<i64> = (0..4 - rank as i64).map(|i| i + rank as i64 - 2).collect();
    let mut operands = vec![q, k, v];
    if let Some(mask) = mask {
        let masked = c.b.shape(mask)?.len();
        if masked > rank {
            return foreign("its mask has more axes than the query");
        }
        operands.push(mask);
    }
    if missing.is_empty() {
        return Ok(c.b.one(Op::Attention(op), &operands)?);
    }
    for v in &mut operands {
        if c.b.shape(*v)?.len() == rank {
            *v = c.b.one(Op::Unsqueeze { axes: missing.clone() }, &[*v])?;
        }
    }
    let y = c.b.one(Op::Attention(op), &operands)?;
    Ok(c.b.one(Op::Squeeze { axes: Some(missing) }, &[y])?)
}
