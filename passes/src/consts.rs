//! Reading one-element constants of a graph.

use half::{bf16, f16};
use normfuse_ir::{DType, Graph, ValueId};

use crate::term::Num;

/// A constant of `dtype` with this value, if the dtype holds it exactly or is the dtype that the op computes in.
pub fn num(dtype: DType, value: f64) -> Option<Num> {
    match dtype {
        DType::F32 | DType::F64 => Some(Num::new(dtype, value)),
        DType::F16 => Some(Num::new(dtype, f16::from_f64(value).to_f64())),
        DType::BF16 => Some(Num::new(dtype, bf16::from_f64(value).to_f64())),
        _ => None,
    }
}

/// The value of a one-element constant whose value f64 holds exactly.
pub fn scalar(graph: &Graph, value: ValueId) -> Option<Num> {
    let t = graph.value(value).as_const()?;
    if t.len() != 1 {
        return None;
    }
    let b = t.bytes();
    let v = match t.dtype() {
        DType::F32 => f64::from(f32::from_le_bytes(b.try_into().ok()?)),
        DType::F64 => f64::from_le_bytes(b.try_into().ok()?),
        DType::F16 => f16::from_le_bytes(b.try_into().ok()?).to_f64(),
        DType::BF16 => bf16::from_le_bytes(b.try_into().ok()?).to_f64(),
        DType::I32 => f64::from(i32::from_le_bytes(b.try_into().ok()?)),
        DType::I64 => {
            let i = i64::from_le_bytes(b.try_into().ok()?);
            if i.unsigned_abs() > 1 << 53 {
                return None;
            }
            i as f64
        }
        _ => return None,
    };
    Some(Num::new(t.dtype(), v))
}
