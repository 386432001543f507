//! Conversions: the `Cast` op, and rows of narrow floats to and from f32 for the kernels that compute in f32.

use std::borrow::Cow;

use half::{bf16, f16, slice::HalfFloatSliceExt};
use normfuse_ir::{DType, Error, ErrorKind, Result, Tensor, num};

use super::{
    broadcast::map,
    buf::{Float, tensor, view},
    math::{with_int, with_narrow},
};

/// The `Cast` op; `None` for pairs of dtypes that the reference evaluator converts.
///
/// Rust's `as` is the definition for integers: floats go toward zero, NaN to 0, out of range to the limit; integers wrap.
pub(super) fn cast(x: &Tensor, to: DType, saturate: bool) -> Result<Option<Tensor>> {
    if x.dtype() == to {
        return Ok(Some(x.clone()));
    }
    /// A result with one element for each of `x`.
    macro_rules! each {
        ($values:expr, $f:expr) => {
            tensor(to, x.shape(), map($values, $f)?).map(Some)
        };
    }
    match (x.dtype(), to) {
        (DType::F32 | DType::F16 | DType::BF16, _) => {
            // To f32 first, which is exact.
            let values = to_f32(x)?;
            match to {
                DType::F32 => tensor(to, x.shape(), values.into_owned()).map(Some),
                DType::F16 => each!(&values, f16::from_f32),
                DType::BF16 => each!(&values, bf16::down),
                DType::F64 => each!(&values, f64::from),
                DType::Bool => each!(&values, |v: f32| u8::from(v != 0.0)),
                DType::F4E2M1 => Ok(None),
                int if int.is_int() => with_int!(int, T => each!(&values, |v: f32| v as T), _ => Ok(None)),
                float8 => each!(&values, |v: f32| num::cast_f32_to(float8, v, saturate)),
            }
        }
        (
            DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ,
            DType::F32 | DType::F16 | DType::BF16,
        ) => {
            let table = decode_table(x.dtype());
            with_narrow!(to, T => {
                // Narrow types hold these values exactly, so rounding the table is no second rounding.
                let table: Vec<T> = table.iter().map(|v| T::down(*v)).collect();
                each!(&view::<u8>(x)?, |code: u8| table[usize::from(code)])
            }, _ => Ok(None))
        }
        (DType::Bool, _) if to.is_int() => {
            with_int!(to, T => each!(&view::<u8>(x)?, |v| T::from(v != 0)), _ => Ok(None))
        }
        (DType::Bool, DType::F32 | DType::F16 | DType::BF16) => {
            with_narrow!(to, T => each!(&view::<u8>(x)?, |v| T::down(if v == 0 { 0.0 } else { 1.0 })), _ => Ok(None))
        }
        (from, _) => with_int!(from, A => {
            let values = view::<A>(x)?;
            match to {
                DType::F32 => each!(&values, |v: A| v as f32),
                DType::F64 => each!(&values, |v: A| v as f64),
                // f32 holds them exactly, so that is no second rounding.
                DType::F16 if from.bits() <= 16 => each!(&values, |v: A| f16::from_f32(v as f32)),
                DType::BF16 if from.bits() <= 16 => each!(&values, |v: A| bf16::from_f32(v as f32)),
                DType::Bool => each!(&values, |v: A| u8::from(v != 0)),
                _ => with_int!(to, B => each!(&values, |v: A| v as B), _ => Ok(None)),
            }
        }, _ => Ok(None)),
    }
}

/// All elements as f32, for a tensor whose dtype embeds in f32.
pub(super) fn to_f32(x: &Tensor) -> Result<Cow<'_, [f32]>> {
    match x.dtype() {
        DType::F32 => view(x),
        DType::F16 => Ok(Cow::Owned(f16::widen(&view(x)?).into_owned())),
        DType::BF16 => Ok(Cow::Owned(bf16::widen(&view(x)?).into_owned())),
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => {
            let table = decode_table(x.dtype());
            Ok(Cow::Owned(view::<u8>(x)?.iter().map(|&code| table[usize::from(code)]).collect()))
        }
        DType::F4E2M1 => {
            let codes = num::unpack_nibbles(x.bytes(), x.len());
            Ok(Cow::Owned(codes.into_iter().map(|code| num::decode(DType::F4E2M1, code)).collect()))
        }
        other => Err(Error::new(ErrorKind::DType, format!("expected a float that f32 holds, found {other}"))),
    }
}

/// The value of each of the 256 codes of an 8-bit float.
pub(super) fn decode_table(dtype: DType) -> Vec<f32> {
    (0..=255).map(|code| num::decode(dtype, code)).collect()
}

/// Reads row `row` of a tensor of f32, f16 or bf16 rows into `out`, whose length is the width.
pub(super) fn read_row(x: &Tensor, row: usize, out: &mut [f32]) {
    let size = x.dtype().bits() / 8;
    let bytes = &x.bytes()[row * out.len() * size..][..out.len() * size];
    match x.dtype() {
        DType::F16 => {
            for (v, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *v = f16::from_le_bytes(*b).to_f32();
            }
        }
        DType::BF16 => {
            for (v, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *v = bf16::from_le_bytes(*b).up();
            }
        }
        _ => {
            for (v, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *v = f32::from_le_bytes(*b);
            }
        }
    }
}

/// Stores values that are already rounded to `dtype` (f32, f16 or bf16).
pub(super) fn store(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    match dtype {
        DType::F16 => {
            for (b, v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *b = f16::from_f32(*v).to_le_bytes();
            }
        }
        DType::BF16 => {
            for (b, v) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
                *b = bf16::from_f32(*v).to_le_bytes();
            }
        }
        _ => {
            for (b, v) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
                *b = v.to_le_bytes();
            }
        }
    }
}

/// Rounds values to f32, f16 or bf16 in place.
pub(super) fn round_row(dtype: DType, values: &mut [f32]) {
    match dtype {
        DType::F16 => {
            let mut narrow = [f16::ZERO; 64];
            for chunk in values.chunks_mut(narrow.len()) {
                let narrow = &mut narrow[..chunk.len()];
                narrow.convert_from_f32_slice(chunk);
                narrow.convert_to_f32_slice(chunk);
            }
        }
        DType::BF16 => values.iter_mut().for_each(|v| *v = num::round_to(DType::BF16, *v)),
        _ => {}
    }
}
