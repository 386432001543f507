//! From an op to the code that runs it.

use normfuse_ir::{Error, ErrorKind, Op, Result, Tensor, eval};

use super::{attention, convert, elementwise, fused_norm, matmul, quantise, rows};

/// Runs one op; `inputs` by port, results by port.
pub(crate) fn execute(op: &Op, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    let port = |i: usize| -> Result<&Tensor> {
        let missing = || Error::new(ErrorKind::Structure, format!("`{}` needs operand {i}", op.name()));
        inputs.get(i).copied().flatten().ok_or_else(missing)
    };
    let optional = |i: usize| inputs.get(i).copied().flatten();
    let fast = match op {
        Op::Unary(u) => elementwise::unary(*u, port(0)?)?,
        Op::Binary(b) => elementwise::binary(*b, port(0)?, port(1)?)?,
        Op::Cast { to, saturate } => convert::cast(port(0)?, *to, *saturate)?,
        Op::Where => elementwise::select(port(0)?, port(1)?, port(2)?)?,
        Op::Clip => elementwise::clip(port(0)?, optional(1), optional(2))?,
        Op::Reduce { op, axes, keepdims } => rows::reduce(*op, axes.as_deref(), *keepdims, port(0)?)?,
        Op::Softmax { axis, log } => rows::softmax(*axis, *log, port(0)?)?,
        Op::RmsNorm { axis, eps, stash, root, cast } => {
            rows::rms_norm(*axis, *eps, *stash, (*root, *cast), port(0)?, port(1)?)?
        }
        Op::MatMul => matmul::matmul(port(0)?, port(1)?)?,
        Op::Gemm { alpha, beta, trans_a, trans_b } => {
            matmul::gemm((*alpha, *beta), (*trans_a, *trans_b), port(0)?, port(1)?, optional(2))?
        }
        Op::MatMulInteger => Some(matmul::matmul_integer(port(0)?, port(1)?, optional(2), optional(3))?),
        Op::Attention(a) => {
            if let Some(outputs) = attention::attention(a, inputs)? {
                return Ok(outputs);
            }
            None
        }
        Op::QuantizeLinear { axis, block_size, to, saturate, precision, .. } => {
            let given = (*axis, *block_size);
            quantise::quantize_linear(port(0)?, port(1)?, optional(2), given, *to, *saturate, *precision)?
        }
        Op::DequantizeLinear { axis, block_size, to, .. } => {
            quantise::dequantize_linear(port(0)?, port(1)?, optional(2), (*axis, *block_size), *to)?
        }
        Op::DynamicQuantizeLinear => {
            if let Some(outputs) = quantise::dynamic_quantize_linear(port(0)?)? {
                return Ok(outputs.into());
            }
            None
        }
        Op::Quantize(scheme) => {
            let given = scheme.given.and_then(|_| optional(1));
            let zero = optional(1 + usize::from(scheme.given.is_some()));
            if let Some(outputs) = quantise::quantize(scheme, port(0)?, given, zero)? {
                return Ok(outputs);
            }
            None
        }
        Op::FusedNorm(f) => return fused_norm::run(f, inputs),
        _ => None,
    };
    match fast {
        Some(tensor) => Ok(vec![tensor]),
        None => eval::eval_node(op, inputs),
    }
}
