//! The reference evaluator: what every op means, slowly and plainly. Runtimes must give its bits.
//!
//! f16 and bf16 are computed in f32 and rounded once an op; sums are the canonical tree of [`crate::num`]; integers
//! wrap. Shapes are concrete, and every check that inference could have made is made again here.

mod attention;
mod cast;
mod elementwise;
mod fused;
mod matmul;
pub mod movement;
mod normalise;
pub mod numbers;
mod quantise;
mod reduce;
mod run;
mod scaled;
mod scatter;
pub mod shape;

pub use attention::attention;
pub use cast::cast;
pub use elementwise::{binary, clip, unary};
pub use fused::fused_norm;
pub use matmul::{gemm, matmul, matmul_integer};
pub use normalise::{layer_norm, rms_norm, skip_rms_norm, softmax};
pub use quantise::{dequantize_linear, dynamic_quantize_linear, quantize, quantize_linear, quotient_dtype};
pub(crate) use reduce::int_limits;
pub use reduce::{arg_reduce, cum_sum, reduce, top_k};
pub use run::run;
pub use scaled::scaled_matmul;
pub use scatter::{scatter_elements, scatter_nd};

use numbers::{Numbers, from_numbers, ints, one_int, unsupported};
use shape::{axis_index, checked_len, shape_error, value_error};

use crate::{DType, Error, ErrorKind, Op, Result, Tensor};

/// Operands by position, with errors that say which one is missing.
struct Operands<'a>(&'a [Option<&'a Tensor>]);

impl<'a> Operands<'a> {
    fn opt(&self, i: usize) -> Option<&'a Tensor> {
        self.0.get(i).copied().flatten()
    }

    fn get(&self, i: usize) -> Result<&'a Tensor> {
        self.opt(i).ok_or_else(|| Error::new(ErrorKind::Structure, format!("operand {i} is missing")))
    }

    fn ints(&self, i: usize) -> Result<Vec<i64>> {
        ints(self.get(i)?).map_err(|e| e.at_port(format!("operand {i}")))
    }

    fn opt_ints(&self, i: usize) -> Result<Option<Vec<i64>>> {
        self.opt(i).map(|t| ints(t).map_err(|e| e.at_port(format!("operand {i}")))).transpose()
    }
}

/// Evaluates one op.
///
/// # Errors
/// `Unsupported` for foreign ops; otherwise what the operands or attributes have wrong.
pub fn eval_node(op: &Op, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    let (min, max) = op.arity();
    if inputs.len() < min || max.is_some_and(|m| inputs.len() > m) {
        return Err(Error::new(
            ErrorKind::Structure,
            format!("`{}` takes {min} or more operands, found {}", op.name(), inputs.len()),
        ));
    }
    for t in inputs.iter().flatten() {
        checked_len(t.dtype(), t.shape())?;
    }
    let outputs = dispatch(op, &Operands(inputs))?;
    if outputs.len() == op.num_outputs() {
        Ok(outputs)
    } else {
        let found = outputs.len();
        Err(Error::new(ErrorKind::Structure, format!("the node has {} results, the op {found}", op.num_outputs())))
    }
}

fn dispatch(op: &Op, x: &Operands) -> Result<Vec<Tensor>> {
    let one = |t: Result<Tensor>| t.map(|t| vec![t]);
    match op {
        Op::Unary(u) => one(unary(*u, x.get(0)?)),
        Op::Binary(b) => one(binary(*b, x.get(0)?, x.get(1)?)),
        Op::Cast { to, saturate } => one(cast(x.get(0)?, *to, *saturate)),
        Op::BitCast { to } => one(movement::bit_cast(x.get(0)?, *to)),
        Op::Clip => one(clip(x.get(0)?, x.opt(1), x.opt(2))),
        Op::Where => one(movement::where_select(x.get(0)?, x.get(1)?, x.get(2)?)),
        Op::Reduce { op, axes, keepdims } => one(reduce(*op, x.get(0)?, axes.as_deref(), *keepdims)),
        Op::ArgReduce { max, axis, keepdims, select_last } => {
            one(arg_reduce(x.get(0)?, *max, *axis, *keepdims, *select_last))
        }
        Op::TopK { axis, largest, .. } => top_k(x.get(0)?, x.get(1)?, *axis, *largest).map(Vec::from),
        Op::CumSum { exclusive, reverse } => one(cum_sum(x.get(0)?, x.get(1)?, *exclusive, *reverse)),
        Op::Softmax { axis, log } => one(softmax(x.get(0)?, *axis, *log)),
        Op::LayerNorm { axis, eps, stash } => one(layer_norm(x.get(0)?, x.get(1)?, x.opt(2), *axis, eps.get(), *stash)),
        Op::RmsNorm { axis, eps, stash, root, cast } => {
            one(rms_norm(x.get(0)?, x.get(1)?, *axis, eps.get(), *stash, (*root, *cast)))
        }
        Op::SkipRmsNorm { eps } => skip_rms_norm(x.get(0)?, x.get(1)?, x.get(2)?, x.opt(3), eps.get()).map(Vec::from),
        Op::MatMul => one(matmul(x.get(0)?, x.get(1)?)),
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            one(gemm(x.get(0)?, x.get(1)?, x.opt(2), (alpha.get(), beta.get()), (*trans_a, *trans_b)))
        }
        Op::MatMulInteger => one(matmul_integer(x.get(0)?, x.get(1)?, x.opt(2), x.opt(3))),
        Op::ScaledMatMul(product) => {
            one(scaled_matmul(product, [x.get(0)?, x.get(1)?], [x.get(2)?, x.get(3)?], x.opt(4)))
        }
        Op::Attention(a) => attention(a, x.0),
        Op::QuantizeLinear { axis, block_size, to, saturate, precision, .. } => {
            one(quantize_linear(x.get(0)?, x.get(1)?, x.opt(2), (*axis, *block_size), *to, *saturate, *precision))
        }
        Op::DequantizeLinear { axis, block_size, to, .. } => {
            one(dequantize_linear(x.get(0)?, x.get(1)?, x.opt(2), (*axis, *block_size), *to))
        }
        Op::DynamicQuantizeLinear => dynamic_quantize_linear(x.get(0)?).map(Vec::from),
        Op::Quantize(s) => {
            let given = s.given.and_then(|_| x.opt(1));
            quantize(s, x.get(0)?, given, x.opt(1 + usize::from(s.given.is_some())))
        }
        Op::FusedNorm(f) => fused_norm(f, x.0),
        Op::Foreign(f) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("`{}` is a foreign op and cannot be executed: {}", op.name(), f.reason),
        )),
        _ => dispatch_movement(op, x),
    }
}

/// Ops that rearrange or make elements.
fn dispatch_movement(op: &Op, x: &Operands) -> Result<Vec<Tensor>> {
    use movement as m;
    Ok(vec![match op {
        Op::Reshape { allow_zero } => m::reshape(x.get(0)?, &x.ints(1)?, *allow_zero)?,
        Op::Squeeze { axes } => m::squeeze(x.get(0)?, axes.as_deref())?,
        Op::Unsqueeze { axes } => m::unsqueeze(x.get(0)?, axes)?,
        Op::Flatten { axis } => m::flatten(x.get(0)?, *axis)?,
        Op::Transpose { perm } => m::transpose(x.get(0)?, perm.as_deref())?,
        Op::Expand => m::expand(x.get(0)?, &x.ints(1)?)?,
        Op::Tile => m::tile(x.get(0)?, &x.ints(1)?)?,
        Op::Concat { axis } => m::concat(&(0..x.0.len()).map(|i| x.get(i)).collect::<Result<Vec<_>>>()?, *axis)?,
        Op::Split { axis, outputs } => return m::split(x.get(0)?, *axis, x.opt_ints(1)?.as_deref(), *outputs),
        Op::Slice => {
            let (axes, steps) = (x.opt_ints(3)?, x.opt_ints(4)?);
            m::slice(x.get(0)?, &x.ints(1)?, &x.ints(2)?, axes.as_deref(), steps.as_deref())?
        }
        Op::Pad => m::pad(x.get(0)?, &x.ints(1)?, x.opt(2), x.opt_ints(3)?.as_deref())?,
        Op::Shape { start, end } => shape_of(x.get(0)?, *start, *end),
        Op::Size => Tensor::from_i64(&[], &[x.get(0)?.len() as i64]),
        Op::Range => range(x.get(0)?, x.get(1)?, x.get(2)?)?,
        Op::ConstantOfShape { dtype, value } => m::constant_of_shape(*dtype, value, &x.ints(0)?)?,
        Op::Gather { axis } => m::gather(x.get(0)?, x.get(1)?, *axis)?,
        Op::GatherElements { axis } => m::gather_elements(x.get(0)?, x.get(1)?, *axis)?,
        Op::GatherNd { batch_dims } => m::gather_nd(x.get(0)?, x.get(1)?, *batch_dims)?,
        Op::ScatterElements { axis, reduction } => {
            scatter_elements(x.get(0)?, x.get(1)?, x.get(2)?, *axis, *reduction)?
        }
        Op::ScatterNd { reduction } => scatter_nd(x.get(0)?, x.get(1)?, x.get(2)?, *reduction)?,
        Op::OneHot { axis } => one_hot(x.get(0)?, x.get(1)?, x.get(2)?, *axis)?,
        Op::NonZero => non_zero(x.get(0)?)?,
        Op::Trilu { upper } => m::trilu(x.get(0)?, x.opt(1).map_or(Ok(0), one_int)?, *upper)?,
        _ => return Err(Error::new(ErrorKind::Unsupported, format!("`{}` is not evaluated", op.name()))),
    }])
}

/// ONNX Shape: bounds are clamped.
fn shape_of(x: &Tensor, start: i64, end: Option<i64>) -> Tensor {
    let rank = x.shape().len() as i64;
    let clamp = |v: i64| if v < 0 { v.saturating_add(rank) } else { v }.clamp(0, rank) as usize;
    let (start, end) = (clamp(start), end.map_or(rank as usize, clamp));
    let sizes: Vec<i64> = x.shape().get(start..end).unwrap_or_default().iter().map(|&d| d as i64).collect();
    Tensor::from_i64(&[sizes.len()], &sizes)
}

/// ONNX Range: `start + i * delta`, each a product and a sum of the dtype.
fn range(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<Tensor> {
    let dtype = start.dtype();
    if limit.dtype() != dtype || delta.dtype() != dtype {
        return Err(Error::new(ErrorKind::DType, "start, limit and delta must have one dtype"));
    }
    if [start, limit, delta].iter().any(|t| t.len() != 1) {
        return Err(shape_error("start, limit and delta must be one element each"));
    }
    let count = |n: f64| -> Result<usize> {
        if n.is_nan() || n >= 1e15 {
            return Err(value_error(format!("a range of {n} elements")));
        }
        // Negative and zero counts are empty.
        let n = n as usize;
        checked_len(dtype, &[n])?;
        Ok(n)
    };
    let zero = || value_error("a range with delta 0");
    let (n, numbers) = match (Numbers::of(start), Numbers::of(limit), Numbers::of(delta)) {
        (Numbers::F32(a), Numbers::F32(b), Numbers::F32(d)) if dtype.is_arithmetic_float() => {
            let (a, b, d) = (a[0], b[0], d[0]);
            let n = count(((f64::from(b) - f64::from(a)) / f64::from(d)).ceil())?;
            let r = |v| crate::num::round_to(dtype, v);
            (n, Numbers::F32((0..n).map(|i| a + r(r(i as f32) * d)).collect()))
        }
        (Numbers::F64(a), Numbers::F64(b), Numbers::F64(d)) => {
            let (a, b, d) = (a[0], b[0], d[0]);
            let n = count(((b - a) / d).ceil())?;
            (n, Numbers::F64((0..n).map(|i| a + i as f64 * d).collect()))
        }
        (Numbers::Int(a), Numbers::Int(b), Numbers::Int(d)) if dtype.is_int() => {
            let (a, b, d) = (a[0], b[0], d[0]);
            let exact = (b - a).checked_div(d).ok_or_else(zero)? + i128::from((b - a) % d != 0 && (b > a) == (d > 0));
            let n = count(exact as f64)?;
            (n, Numbers::Int((0..n).map(|i| a + i as i128 * d).collect()))
        }
        _ => return Err(unsupported(dtype)),
    };
    from_numbers(dtype, &[n], &numbers)
}

fn one_hot(indices: &Tensor, depth: &Tensor, values: &Tensor, axis: i64) -> Result<Tensor> {
    // ONNX allows floats for both, which name integers all the same.
    let whole = |t: &Tensor| cast(t, DType::I64, true).and_then(|t| ints(&t));
    let [depth] = whole(depth)?[..] else { return Err(shape_error("depth must be one element")) };
    axis_index(axis, indices.shape().len() + 1)?;
    movement::one_hot(&whole(indices)?, indices.shape(), depth, values, axis)
}

fn non_zero(x: &Tensor) -> Result<Tensor> {
    let flags: Vec<bool> = match Numbers::of(x) {
        Numbers::F32(v) => v.iter().map(|&v| v != 0.0).collect(),
        Numbers::F64(v) => v.iter().map(|&v| v != 0.0).collect(),
        Numbers::Int(v) => v.iter().map(|&v| v != 0).collect(),
    };
    let own = shape::strides(x.shape());
    let hits: Vec<usize> = (0..flags.len()).filter(|&i| flags[i]).collect();
    let indices: Vec<i64> =
        own.iter().zip(x.shape()).flat_map(|(&s, &d)| hits.iter().map(move |&i| (i / s % d) as i64)).collect();
    checked_len(DType::I64, &[own.len(), hits.len()])?;
    Ok(Tensor::from_i64(&[own.len(), hits.len()], &indices))
}

#[cfg(test)]
mod tests;
