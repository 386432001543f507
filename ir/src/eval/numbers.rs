//! Tensors as numbers: decoding an element type to what arithmetic works in, and rounding results back to it.

use super::shape::checked_len;
use crate::{DType, Error, ErrorKind, Result, Tensor, num};

/// A tensor's elements in the type that arithmetic on its dtype uses.
#[derive(Debug, Clone)]
pub enum Numbers {
    /// f32, f16, bf16 and the 8-bit and 4-bit floats, exactly.
    F32(Vec<f32>),
    /// f64.
    F64(Vec<f64>),
    /// Integers of every width, and bool as 0 and 1. Wrapping i128 arithmetic, cut to the width on storing, wraps as
    /// that width does.
    Int(Vec<i128>),
}

/// The error of an op that has no meaning for a dtype.
pub(crate) fn unsupported(dtype: DType) -> Error {
    Error::new(ErrorKind::DType, format!("this op has no definition for {dtype}"))
}

fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(N)
        .map(|c| {
            let mut a = [0; N];
            a.copy_from_slice(c);
            f(a)
        })
        .collect()
}

impl Numbers {
    /// Decodes a tensor.
    pub fn of(t: &Tensor) -> Self {
        let b = t.bytes();
        match t.dtype() {
            DType::F32 => Self::F32(each(b, f32::from_le_bytes)),
            DType::F16 => Self::F32(each(b, |c| half::f16::from_le_bytes(c).to_f32())),
            DType::BF16 => Self::F32(each(b, |c| f32::from_bits(u32::from(u16::from_le_bytes(c)) << 16))),
            DType::F64 => Self::F64(each(b, f64::from_le_bytes)),
            DType::F4E2M1 => Self::F32((0..t.len()).map(|i| num::decode(DType::F4E2M1, num::nibble(b, i))).collect()),
            d @ (DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0) => {
                Self::F32(b.iter().map(|&c| num::decode(d, c)).collect())
            }
            DType::I8 => Self::Int(each(b, |c| i8::from_le_bytes(c).into())),
            DType::I16 => Self::Int(each(b, |c| i16::from_le_bytes(c).into())),
            DType::I32 => Self::Int(each(b, |c| i32::from_le_bytes(c).into())),
            DType::I64 => Self::Int(each(b, |c| i64::from_le_bytes(c).into())),
            DType::U8 => Self::Int(each(b, |c: [u8; 1]| c[0].into())),
            DType::U16 => Self::Int(each(b, |c| u16::from_le_bytes(c).into())),
            DType::U32 => Self::Int(each(b, |c| u32::from_le_bytes(c).into())),
            DType::U64 => Self::Int(each(b, |c| u64::from_le_bytes(c).into())),
            DType::Bool => Self::Int(b.iter().map(|&c| i128::from(c != 0)).collect()),
        }
    }
}

/// The elements of an f32, f16 or bf16 tensor.
///
/// # Errors
/// `DType` for any other element type.
pub fn floats(t: &Tensor) -> Result<Vec<f32>> {
    match (t.dtype(), Numbers::of(t)) {
        (DType::F32 | DType::F16 | DType::BF16, Numbers::F32(v)) => Ok(v),
        (d, _) => Err(Error::new(ErrorKind::DType, format!("expected f32, f16 or bf16, found {d}"))),
    }
}

/// The elements of an integer tensor as i64.
///
/// # Errors
/// `DType` if it is not an integer tensor, `Value` for a u64 past the range of i64.
pub fn ints(t: &Tensor) -> Result<Vec<i64>> {
    match Numbers::of(t) {
        Numbers::Int(v) if t.dtype() != DType::Bool => v
            .into_iter()
            .map(|v| {
                i64::try_from(v).map_err(|_| Error::new(ErrorKind::Value, format!("{v} is past the range of i64")))
            })
            .collect(),
        _ => Err(Error::new(ErrorKind::DType, format!("expected integers, found {}", t.dtype()))),
    }
}

/// The elements of a bool tensor.
///
/// # Errors
/// `DType` for any other element type.
pub fn bools(t: &Tensor) -> Result<Vec<bool>> {
    if t.dtype() == DType::Bool {
        Ok(t.bytes().iter().map(|&b| b != 0).collect())
    } else {
        Err(Error::new(ErrorKind::DType, format!("expected bool, found {}", t.dtype())))
    }
}

fn checked(dtype: DType, shape: &[usize], len: usize) -> Result<()> {
    let want = checked_len(dtype, shape)?;
    if want == len {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Shape, format!("{len} elements do not fill the shape {shape:?}")))
    }
}

/// A tensor of f32 values, each rounded once to `dtype` (f32, f16 or bf16).
///
/// # Errors
/// `DType` for any other dtype, `Shape` if the number of values is wrong.
pub fn from_floats(dtype: DType, shape: &[usize], values: &[f32]) -> Result<Tensor> {
    checked(dtype, shape, values.len())?;
    let bytes = match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&v| num::f32_to_f16(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| num::f32_to_bf16(v).to_le_bytes()).collect(),
        d => return Err(unsupported(d)),
    };
    Tensor::from_bytes(dtype, shape.to_vec(), bytes)
}

/// A tensor of f64 values.
///
/// # Errors
/// `Shape` if the number of values is wrong.
pub fn from_doubles(shape: &[usize], values: &[f64]) -> Result<Tensor> {
    checked(DType::F64, shape, values.len())?;
    Tensor::from_bytes(DType::F64, shape.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// A tensor of integers cut to the width of `dtype`; for bool, what is not 0 is true.
///
/// # Errors
/// `DType` for a float dtype, `Shape` if the number of values is wrong.
pub fn from_ints(dtype: DType, shape: &[usize], values: &[i128]) -> Result<Tensor> {
    checked(dtype, shape, values.len())?;
    let bytes = match dtype {
        DType::Bool => values.iter().map(|&v| u8::from(v != 0)).collect(),
        d if d.is_int() => {
            let size = d.bits() / 8;
            values.iter().flat_map(|v| v.to_le_bytes().into_iter().take(size)).collect()
        }
        d => return Err(unsupported(d)),
    };
    Tensor::from_bytes(dtype, shape.to_vec(), bytes)
}

/// A bool tensor.
///
/// # Errors
/// `Shape` if the number of values is wrong.
pub fn from_bools(shape: &[usize], values: &[bool]) -> Result<Tensor> {
    checked(DType::Bool, shape, values.len())?;
    Tensor::from_bytes(DType::Bool, shape.to_vec(), values.iter().map(|&v| u8::from(v)).collect())
}

/// A tensor of 8-bit or 4-bit float codes, a byte each; nibbles are packed.
///
/// # Errors
/// `Shape` if the number of codes is wrong.
pub fn from_codes(dtype: DType, shape: &[usize], codes: Vec<u8>) -> Result<Tensor> {
    checked(dtype, shape, codes.len())?;
    let bytes = if dtype.bits() == 4 { num::pack_nibbles(&codes) } else { codes };
    Tensor::from_bytes(dtype, shape.to_vec(), bytes)
}

/// A tensor of `dtype` from numbers of its arithmetic type.
///
/// # Errors
/// `DType` if the numbers are not what arithmetic on `dtype` gives.
pub fn from_numbers(dtype: DType, shape: &[usize], numbers: &Numbers) -> Result<Tensor> {
    match numbers {
        Numbers::F32(v) => from_floats(dtype, shape, v),
        Numbers::F64(v) if dtype == DType::F64 => from_doubles(shape, v),
        Numbers::F64(_) => Err(unsupported(dtype)),
        Numbers::Int(v) => from_ints(dtype, shape, v),
    }
}

/// The one integer in a tensor of one element.
///
/// # Errors
/// If it has another number of elements, or they are not integers.
pub fn one_int(t: &Tensor) -> Result<i64> {
    match ints(t)?[..] {
        [v] => Ok(v),
        _ => Err(Error::new(ErrorKind::Shape, format!("expected one element, found shape {:?}", t.shape()))),
    }
}

/// An integer cut to the width of its dtype, as storing and loading it would.
pub(crate) fn wrapped(dtype: DType, v: i128) -> i128 {
    match dtype {
        DType::I8 => (v as i8).into(),
        DType::I16 => (v as i16).into(),
        DType::I32 => (v as i32).into(),
        DType::I64 => (v as i64).into(),
        DType::U8 => (v as u8).into(),
        DType::U16 => (v as u16).into(),
        DType::U32 => (v as u32).into(),
        DType::U64 => (v as u64).into(),
        _ => (v != 0).into(),
    }
}
