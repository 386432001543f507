//! What attributes must be, whatever the operands are.

use crate::{DType, Error, ErrorKind, FusedNorm, Op, Result, Scheme, op::Dialect};

fn bad(message: impl Into<String>) -> Result<()> {
    Err(Error::new(ErrorKind::Structure, message))
}

/// Refuses attributes that no operands could make legal.
///
/// # Errors
/// `Structure` with the attribute, what was expected and what was found.
pub(super) fn check_attributes(op: &Op) -> Result<()> {
    match op {
        Op::ConstantOfShape { dtype, value } => match dtype.size_of(1) {
            Some(n) if n != value.len() => bad(format!("value: expected {n} bytes of {dtype}, found {}", value.len())),
            _ => Ok(()),
        },
        Op::LayerNorm { stash, .. } | Op::RmsNorm { stash, .. } if !stash.is_arithmetic_float() => {
            bad(format!("stash: expected f32, f16, bf16 or f64, found {stash}"))
        }
        Op::Split { outputs: 0, .. } => bad("outputs: expected at least 1, found 0"),
        Op::Attention(a) => {
            if !(1..=4).contains(&a.outputs) {
                return bad(format!("outputs: expected 1 to 4, found {}", a.outputs));
            }
            if a.qk_matmul_output_mode > 3 {
                return bad(format!("qk_matmul_output_mode: expected 0 to 3, found {}", a.qk_matmul_output_mode));
            }
            match a.softmax_dtype {
                Some(d) if !d.is_arithmetic_float() => {
                    bad(format!("softmax_dtype: expected f32, f16, bf16 or f64, found {d}"))
                }
                _ => Ok(()),
            }
        }
        Op::BitCast { to: DType::Bool } => bad("to: expected a type that any bits are an element of, found bool"),
        Op::GatherNd { batch_dims } if *batch_dims < 0 => {
            bad(format!("batch_dims: expected 0 or more, found {batch_dims}"))
        }
        Op::QuantizeLinear { to, .. } if !(to.is_quantised() || matches!(to, DType::I16 | DType::U16)) => {
            bad(format!("to: expected an 8-bit or 4-bit type, i16 or u16, found {to}"))
        }
        Op::QuantizeLinear { precision: Some(d), .. } if !d.is_arithmetic_float() => {
            bad(format!("precision: expected f32, f16, bf16 or f64, found {d}"))
        }
        Op::QuantizeLinear { to, dialect: Dialect::TensorRt, .. } if *to != DType::F8E4M3FN => {
            bad(format!("to: expected f8e4m3fn in this dialect, found {to}"))
        }
        Op::DequantizeLinear { to: Some(d), .. } if !d.is_arithmetic_float() => {
            bad(format!("to: expected f32, f16, bf16 or f64, found {d}"))
        }
        Op::ScaledMatMul(product) => product.check().or_else(bad),
        Op::Quantize(scheme) => check_scheme(scheme),
        Op::FusedNorm(f) => check_fused(f),
        Op::Foreign(f) if f.domain.is_empty() && f.op_type.is_empty() => {
            bad("expected the name of an op that normfuse does not know, found none")
        }
        _ => Ok(()),
    }
}

fn check_scheme(s: &Scheme) -> Result<()> {
    s.check().or_else(|message| bad(format!("scheme.{message}")))
}

fn check_fused(f: &FusedNorm) -> Result<()> {
    if let Err(message) = f.check() {
        return bad(message);
    }
    // What a shape of i64 sizes cannot say.
    if let Some(s) = f.siblings.iter().find(|s| i64::try_from(s.width).is_err()) {
        return bad(format!("siblings.width: {} is too large", s.width));
    }
    Ok(())
}
