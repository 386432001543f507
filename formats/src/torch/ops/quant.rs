//! Quantisers of torchao, and products of integers.

use std::sync::Arc;

use normfuse_ir::{
    DType, Op, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use super::{
    super::{
        args::{Call, Scalar},
        expr::{Expr, Operator},
        promote::Operand,
    },
    Outcome,
};
use crate::reject::{Reject, foreign};

/// Products of codes without scales.
pub fn aten<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match name {
        "_int_mm.default" => {
            let (a, b) = (c.tensor("self")?, c.tensor("mat2")?);
            c.b.one(Op::MatMulInteger, &[a, b])?
        }
        _ => return Ok(None),
    };
    Ok(Some(Outcome::one(value)))
}

/// torchao's own ops.
pub fn torchao<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    match name {
        "choose_qparams_affine.default" => choose_qparams(c).map(Some),
        "quantize_affine.default" => quantize(c).map(Some),
        "choose_scale_float8.default" => choose_scale(c).map(Some),
        _ => Ok(None),
    }
}

/// A tensor in blocks: its sizes with each axis that has several blocks cut in two, the axes inside the blocks, and the
/// sizes with 1 in their place.
struct Blocks {
    sizes: Vec<Arc<Expr>>,
    inside: Vec<i64>,
    scales: Vec<Arc<Expr>>,
}

fn blocks(c: &mut Call<'_, '_>, tensor: &str, block: &[i64]) -> Result<Blocks, Reject> {
    let shape = c.b.meta_sizes(tensor)?;
    if shape.len() != block.len() {
        return foreign("its block has another rank than the tensor");
    }
    let one = Arc::new(Expr::Int(1));
    let mut b = Blocks { sizes: Vec::new(), inside: Vec::new(), scales: Vec::new() };
    for (size, block) in shape.iter().zip(block) {
        let whole = *block == -1 || size.dim().as_const() == Some(*block);
        if *block > 1 && !whole {
            let count = Expr::Op(Operator::FloorDiv, Box::new(((**size).clone(), Expr::Int(*block))));
            b.sizes.extend([Arc::new(count.clone()), Arc::new(Expr::Int(*block))]);
            b.inside.push(b.sizes.len() as i64 - 1);
            b.scales.extend([Arc::new(count), one.clone()]);
            continue;
        }
        b.sizes.push(size.clone());
        if *block == 1 {
            b.scales.push(size.clone());
        } else {
            b.inside.push(b.sizes.len() as i64 - 1);
            b.scales.push(one.clone());
        }
    }
    Ok(b)
}

/// The largest magnitude of each block, in the tensor's type.
fn largest(c: &mut Call<'_, '_>, x: ValueId, b: &Blocks) -> Result<ValueId, Reject> {
    let x = c.b.reshape(x, &b.sizes)?;
    let magnitudes = c.b.unary(UnaryOp::Abs, x)?;
    if b.inside.is_empty() {
        return Ok(magnitudes);
    }
    Ok(c.b.one(Op::Reduce { op: ReduceOp::Max, axes: Some(b.inside.clone()), keepdims: true }, &[magnitudes])?)
}

/// The result in the shape that the file types it with.
fn shaped(c: &mut Call<'_, '_>, x: ValueId, name: &str) -> Result<ValueId, Reject> {
    let sizes = c.b.meta_sizes(name)?;
    c.b.reshape(x, &sizes)
}

/// Symmetric scales: `max(|x|) / ((max - min) / 2)` in the tensor's type, at least eps. (torchao takes the largest of
/// `-min` and `max` over each block, with 0 among them: that is the largest magnitude.)
fn choose_qparams<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let of = c.name("input")?;
    let x = c.tensor("input")?;
    let block = c.ints("block_size")?;
    if c.text("mapping_type", "")? != "SYMMETRIC" {
        return foreign("its mapping is not symmetric");
    }
    c.skip(&["target_dtype", "keepdim"]);
    let (Some(lo), Some(hi)) = (c.float("quant_min")?, c.float("quant_max")?) else {
        return foreign("its range is that of the type");
    };
    let Some(eps) = c.float("eps")? else { return foreign("it has no `eps`") };
    let from = c.b.dtype(x)?;
    let to = c.dtype("scale_dtype")?.unwrap_or(from);
    let zero_type = c.dtype("zero_point_dtype")?.unwrap_or(DType::I32);
    let b = blocks(c, of, &block)?;
    let max = largest(c, x, &b)?;
    let half = Scalar::Float((hi - lo) / 2.0);
    let scale = c.b.arithmetic(BinaryOp::Div, Operand::Tensor(max), Operand::Scalar(half))?;
    let floor = c.b.scalar(Scalar::Float(eps), from)?;
    let scale = c.b.clip(scale, Some(floor), None)?;
    let scale = c.b.cast(scale, to)?;
    let names = c.results();
    let [first, second] = *names.as_slice() else { return foreign("it does not have two results") };
    let scale = shaped(c, scale, first)?;
    let zero = if c.b.last_read.contains_key(second) {
        let sizes = c.b.meta_sizes(second)?;
        let middle = Scalar::Int(((hi + lo + 1.0) / 2.0) as i64);
        let value = c.b.scalar(middle, zero_type)?;
        Some(c.b.expand(value, &sizes)?)
    } else {
        None
    };
    Ok(Outcome::Values(vec![Some(scale), zero]))
}

/// `clamp(round(x * (1 / scale)) + zero, min, max)`, each step in the type that promotion gives it.
fn quantize<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let of = c.name("input")?;
    let (x, scale) = (c.tensor("input")?, c.tensor("scale")?);
    let zero = c.opt_tensor("zero_point")?;
    let block = c.ints("block_size")?;
    let Some(to) = c.dtype("output_dtype")? else { return foreign("it has no `output_dtype`") };
    let (Some(lo), Some(hi)) = (c.scalar("quant_min")?, c.scalar("quant_max")?) else {
        return foreign("its range is that of the type");
    };
    let b = blocks(c, of, &block)?;
    let x = c.b.reshape(x, &b.sizes)?;
    let scale = c.b.reshape(scale, &b.scales)?;
    let inverse = c.b.unary(UnaryOp::Reciprocal, scale)?;
    let y = c.b.arithmetic(BinaryOp::Mul, Operand::Tensor(x), Operand::Tensor(inverse))?;
    let mut y = c.b.unary(UnaryOp::Round, y)?;
    // Adding 0 changes nothing that an integer shows.
    if let Some(zero) = zero.filter(|z| !(is_zero(c, *z) && to.is_int())) {
        let zero = c.b.reshape(zero, &b.scales)?;
        y = c.b.arithmetic(BinaryOp::Add, Operand::Tensor(y), Operand::Tensor(zero))?;
    }
    let dtype = c.b.dtype(y)?;
    let (lo, hi) = (c.b.scalar(lo, dtype)?, c.b.scalar(hi, dtype)?);
    let y = c.b.clip(y, Some(lo), Some(hi))?;
    let result = c.result()?;
    let y = shaped(c, y, result)?;
    Ok(Outcome::one(c.b.cast(y, to)?))
}

/// True for a constant 0, repeated or not.
fn is_zero(c: &Call<'_, '_>, v: ValueId) -> bool {
    let mut v = v;
    while let Some((node, _)) = c.b.graph.producer(v) {
        let node = c.b.graph.node(node);
        match (&node.op, node.input(0)) {
            (Op::Expand, Some(x)) => v = x,
            _ => return false,
        }
    }
    let constant = c.b.graph.value(v).as_const();
    constant.is_some_and(|t| t.len() == 1 && t.dtype().is_int() && t.bytes().iter().all(|b| *b == 0))
}

/// `max(|x|) / max of the type` in the tensor's type, as f32.
fn choose_scale<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let of = c.name("tensor")?;
    let x = c.tensor("tensor")?;
    let block = c.opt_ints("block_size")?.filter(|b| !b.is_empty());
    let Some(largest_code) = c.dtype("float8_dtype")?.and_then(largest_of) else {
        return foreign("its `float8_dtype` is none that normfuse knows");
    };
    if c.dtype("scale_dtype")?.is_some_and(|d| d != DType::F32) {
        return foreign("its scales are not f32");
    }
    let rank = c.b.shape(x)?.len();
    let b = blocks(c, of, &block.unwrap_or_else(|| vec![-1; rank]))?;
    let max = largest(c, x, &b)?;
    let max = Operand::Tensor(max);
    let scale = c.b.arithmetic(BinaryOp::Div, max, Operand::Scalar(Scalar::Float(largest_code)))?;
    let scale = c.b.cast(scale, DType::F32)?;
    let result = c.result()?;
    Ok(Outcome::one(shaped(c, scale, result)?))
}

fn largest_of(d: DType) -> Option<f64> {
    match d {
        DType::F8E4M3FN => Some(448.0),
        DType::F8E4M3FNUZ => Some(240.0),
        DType::F8E5M2 | DType::F8E5M2FNUZ => Some(57344.0),
        _ => None,
    }
}
