//! Cast between every pair of element types.
//!
//! - float to float: one rounding, to nearest even; 8-bit and 4-bit targets as `num::cast_f64_to` says.
//! - float to integer: toward zero; NaN is 0 and what is out of range becomes the nearest limit.
//! - integer to integer: the low bits (wraps).
//! - integer to float: one rounding; out of range is infinity, or as an 8-bit target says.
//! - to bool: true unless zero (NaN is true). From bool: 0 and 1.

use super::numbers::{Numbers, from_bools, from_codes, from_doubles, from_floats, from_ints};
use crate::{DType, Result, Tensor, num};

/// Casts a tensor.
///
/// # Errors
/// `Shape` if the result would be too large.
pub fn cast(x: &Tensor, to: DType, saturate: bool) -> Result<Tensor> {
    if x.dtype() == to {
        return Ok(x.clone());
    }
    let shape = x.shape();
    match Numbers::of(x) {
        Numbers::F32(v) => match to {
            DType::F32 | DType::F16 | DType::BF16 => from_floats(to, shape, &v),
            DType::F64 => from_doubles(shape, &v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()),
            // Every f32 is an f64, so the routes below round once all the same.
            _ => from_f64s(to, shape, &v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), saturate),
        },
        Numbers::F64(v) => from_f64s(to, shape, &v, saturate),
        Numbers::Int(v) => match to {
            DType::F32 => from_floats(to, shape, &v.iter().map(|&v| v as f32).collect::<Vec<_>>()),
            DType::F64 => from_doubles(shape, &v.iter().map(|&v| v as f64).collect::<Vec<_>>()),
            d if d.is_float() => from_f64s(d, shape, &v.iter().map(|&v| to_odd(v)).collect::<Vec<_>>(), saturate),
            d => from_ints(d, shape, &v),
        },
    }
}

/// An integer as an f64 rounded to odd where it does not fit: rounding that to fewer bits gives what rounding the
/// integer once would have given.
fn to_odd(v: i128) -> f64 {
    let magnitude = v.unsigned_abs();
    let drop = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let kept = (magnitude >> drop) | u128::from(magnitude & ((1 << drop) - 1) != 0);
    let f = (kept << drop) as f64;
    if v < 0 { -f } else { f }
}

/// A float as an integer of `dtype`: toward zero, limits at the ends, NaN is 0.
pub(crate) fn truncate(dtype: DType, v: f64) -> i128 {
    match dtype {
        DType::I8 => (v as i8).into(),
        DType::I16 => (v as i16).into(),
        DType::I32 => (v as i32).into(),
        DType::U8 => (v as u8).into(),
        DType::U16 => (v as u16).into(),
        DType::U32 => (v as u32).into(),
        DType::U64 => (v as u64).into(),
        _ => (v as i64).into(),
    }
}

fn from_f64s(to: DType, shape: &[usize], v: &[f64], saturate: bool) -> Result<Tensor> {
    let sixteen = |f: fn(f64) -> u16| -> Result<Tensor> {
        Tensor::from_bytes(to, shape.to_vec(), v.iter().flat_map(|&v| f(v).to_le_bytes()).collect())
    };
    match to {
        DType::F64 => from_doubles(shape, v),
        DType::F32 => from_floats(to, shape, &v.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        DType::F16 => sixteen(num::f64_to_f16),
        DType::BF16 => sixteen(num::f64_to_bf16),
        DType::Bool => from_bools(shape, &v.iter().map(|&v| v != 0.0).collect::<Vec<_>>()),
        d if d.is_int() => from_ints(d, shape, &v.iter().map(|&v| truncate(d, v)).collect::<Vec<_>>()),
        d => from_codes(d, shape, v.iter().map(|&v| num::cast_f64_to(d, v, saturate)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(v: &[f32]) -> Tensor {
        Tensor::from_f32(&[v.len()], v)
    }

    #[test]
    fn every_pair_runs_and_keeps_small_integers() {
        for from in DType::ALL {
            for to in DType::ALL {
                let x = cast(&f32s(&[0.0, 1.0, 4.0, 0.5]), from, true).unwrap();
                let y = cast(&x, to, true).unwrap();
                assert_eq!((y.dtype(), y.shape()), (to, &[4][..]));
                let back = cast(&y, DType::F32, true).unwrap();
                let Numbers::F32(v) = Numbers::of(&back) else { panic!("f32") };
                assert_eq!(v[1], 1.0, "{from} to {to}");
                if from != DType::Bool && to != DType::Bool {
                    assert_eq!(v[2], 4.0, "{from} to {to}");
                }
            }
        }
    }

    #[test]
    fn floats_truncate_and_saturate_to_integers() {
        let x = f32s(&[1.9, -1.9, 300.0, -300.0, f32::NAN, f32::INFINITY]);
        assert_eq!(cast(&x, DType::I8, true).unwrap().bytes(), [1, 0xff, 127, 0x80, 0, 127]);
        assert_eq!(cast(&x, DType::U8, true).unwrap().bytes(), [1, 0, 255, 0, 0, 255]);
        assert_eq!(cast(&x, DType::Bool, true).unwrap().bytes(), [1; 6]);
        assert_eq!(cast(&f32s(&[0.0, -0.0, 1e-45]), DType::Bool, true).unwrap().bytes(), [0, 0, 1]);
        let wide = Tensor::from_i64(&[3], &[300, -1, i64::MIN]);
        assert_eq!(cast(&wide, DType::U8, true).unwrap().bytes(), [44, 255, 0]);
    }

    #[test]
    fn f64_and_integers_round_once() {
        // Just above a bf16 tie: by way of f32 it would become the tie and go down to even.
        let v = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        let x = from_doubles(&[1], &[v]).unwrap();
        assert_eq!(cast(&x, DType::BF16, true).unwrap().bytes(), 0x3f81u16.to_le_bytes());
        let f16_tie = from_doubles(&[1], &[1.0 + 2f64.powi(-11) + 2f64.powi(-45)]).unwrap();
        assert_eq!(cast(&f16_tie, DType::F16, true).unwrap().bytes(), 0x3c01u16.to_le_bytes());
        // 2^62 + 2^54 is a bf16 tie; one more than that is lost in an f64.
        let x = Tensor::from_i64(&[2], &[(1 << 62) + (1 << 54), (1 << 62) + (1 << 54) + 1]);
        assert_eq!(cast(&x, DType::BF16, true).unwrap().bytes(), [0x80, 0x5e, 0x81, 0x5e]);
        assert_eq!(to_odd(-5), -5.0);
    }

    #[test]
    fn fp8_has_two_forms() {
        let x = f32s(&[1000.0, f32::NEG_INFINITY, 0.5]);
        assert_eq!(cast(&x, DType::F8E4M3FN, true).unwrap().bytes(), [0x7e, 0xfe, 0x30]);
        assert_eq!(cast(&x, DType::F8E4M3FN, false).unwrap().bytes(), [0x7f, 0xff, 0x30]);
        assert_eq!(cast(&x, DType::F4E2M1, true).unwrap().bytes(), [0xf7, 0x01]);
    }
}
