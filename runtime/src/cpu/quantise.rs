//! The quantisers: ONNX's three ops, and `Quantize` as its scheme says.

use normfuse_ir::{DType, Granularity, Result, Scheme, Tensor, num};
use rayon::prelude::*;

use super::{
    broadcast::{CHUNK, Walk, map, map3},
    buf::{Float, tensor, view, zeros},
    convert::{decode_table, to_f32},
    math::{with_int, with_narrow},
    rows::axis_of,
    scheme,
};

/// Integers in which codes less their zero points are exact.
type Exact = i64;

/// The shape under which scales broadcast to `x`: none for one scale, else along an axis. `None` for blocks and for
/// shapes that do not fit.
fn scale_shape(x: &Tensor, scale: &Tensor, axis: i64, block: u64) -> Option<Vec<usize>> {
    if block != 0 {
        return None;
    }
    if scale.len() == 1 {
        return Some(Vec::new());
    }
    let axis = axis_of(axis, x.shape().len()).ok()?;
    let mut shape = vec![1; x.shape().len() - axis];
    shape[0] = x.shape()[axis];
    (*scale.shape() == shape[..1]).then_some(shape)
}

/// The zero points of an integer type, one for each scale. `None` where they do not fit.
fn zero_points(zero: Option<&Tensor>, scale: &Tensor, dtype: DType) -> Result<Option<Vec<Exact>>> {
    let Some(zero) = zero else { return Ok(Some(vec![0; scale.len()])) };
    if zero.dtype() != dtype || (zero.shape() != scale.shape() && (zero.len() != 1 || scale.len() != 1)) {
        return Ok(None);
    }
    with_int!(dtype, Z => Ok(Some(view::<Z>(zero)?.iter().map(|&z| z as Exact).collect())), _ => Ok(None))
}

/// True if a float target's zero point is absent or, as the op demands, zero.
fn no_offset(zero: Option<&Tensor>, scale: &Tensor, dtype: DType) -> bool {
    zero.is_none_or(|z| {
        z.dtype() == dtype
            && z.shape() == scale.shape()
            && z.bytes().iter().all(|&code| num::decode(dtype, code) == 0.0)
    })
}

/// To nearest even, plus the zero point, within the type; NaN is the zero point.
fn to_int(v: f32, zero: i64, (low, high): (i64, i64)) -> i64 {
    (v.round_ties_even() as i64).saturating_add(zero).clamp(low, high)
}

/// ONNX `QuantizeLinear` of one scale or one along an axis, to 8-bit types, in the scale's precision; `None` for the
/// rest.
pub(super) fn quantize_linear(
    x: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    (axis, block): (i64, u64),
    to: DType,
    saturate: bool,
    precision: Option<DType>,
) -> Result<Option<Tensor>> {
    if precision.is_some_and(|p| p != scale.dtype()) {
        return Ok(None);
    }
    let Some(shape) = scale_shape(x, scale, axis, block) else { return Ok(None) };
    let limits = match to {
        DType::I8 => Some((-128, 127)),
        DType::U8 => Some((0, 255)),
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ if no_offset(zero, scale, to) => None,
        _ => return Ok(None),
    };
    let zeros = if limits.is_some() { zero_points(zero, scale, to)? } else { Some(vec![0; scale.len()]) };
    let Some(zeros) = zeros else { return Ok(None) };
    let walk = Walk::new([x.shape(), &shape, &shape])?;
    with_narrow!(x.dtype(), T => with_narrow!(scale.dtype(), S => {
        // The quotient is rounded to the scale's type, and so is what is divided.
        let codes = map3(&walk, (&view::<T>(x)?, &view::<S>(scale)?, &zeros), |v: T, s: S, zero| {
            let v = S::down(S::down(v.up()).up() / s.up()).up();
            match limits {
                Some(limits) => to_int(v, zero, limits) as u8,
                None => num::cast_f32_to(to, v, saturate),
            }
        })?;
        tensor(to, x.shape(), codes).map(Some)
    }, _ => Ok(None)), _ => Ok(None))
}

/// ONNX `DequantizeLinear` of one scale or one along an axis, to the scale's dtype; `None` for the rest.
pub(super) fn dequantize_linear(
    q: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    (axis, block): (i64, u64),
    to: Option<DType>,
) -> Result<Option<Tensor>> {
    if to.is_some_and(|to| to != scale.dtype()) {
        return Ok(None);
    }
    let Some(shape) = scale_shape(q, scale, axis, block) else { return Ok(None) };
    let walk = Walk::new([q.shape(), &shape, &shape])?;
    with_narrow!(scale.dtype(), S => {
        let scales = view::<S>(scale)?;
        match q.dtype() {
            DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ if no_offset(zero, scale, q.dtype()) => {
                let table = decode_table(q.dtype());
                let values = map3(&walk, (&view::<u8>(q)?, &scales, &scales), |q: u8, s: S, _| {
                    S::down(table[usize::from(q)] * s.up())
                })?;
                tensor(S::DTYPE, q.shape(), values).map(Some)
            }
            // The difference of wider integers may not fit an i64.
            DType::I8 | DType::U8 | DType::I32 => {
                let Some(zeros) = zero_points(zero, scale, q.dtype())? else { return Ok(None) };
                with_int!(q.dtype(), Q => {
                    let values = map3(&walk, (&view::<Q>(q)?, &scales, &zeros), |q: Q, s: S, zero| {
                        S::down((q as Exact - zero) as f32 * s.up())
                    })?;
                    tensor(S::DTYPE, q.shape(), values).map(Some)
                }, _ => Ok(None))
            }
            _ => Ok(None),
        }
    }, _ => Ok(None))
}

/// ONNX `DynamicQuantizeLinear`; `None` if x is not f32.
pub(super) fn dynamic_quantize_linear(x: &Tensor) -> Result<Option<[Tensor; 3]>> {
    if x.dtype() != DType::F32 {
        return Ok(None);
    }
    let values = view::<f32>(x)?;
    // Extremes are associative, NaN and signed zeros included, so chunks may be joined in any way.
    let extreme = |f: fn(f32, f32) -> f32| {
        let parts: Vec<f32> = values.par_chunks(CHUNK).map(|c| c.iter().copied().fold(0.0, f)).collect();
        parts.into_iter().fold(0.0, f)
    };
    let (low, high) = (extreme(num::min), extreme(num::max));
    let range = if high == low { 1.0 } else { high - low };
    let scale = range / 255.0;
    let zero = to_int((0.0 - low / scale).clamp(0.0, 255.0), 0, (0, 255));
    let codes = map(&values, |v: f32| to_int(v / scale, zero, (0, 255)) as u8)?;
    Ok(Some([
        tensor(DType::U8, x.shape(), codes)?,
        tensor(DType::F32, &[], vec![scale])?,
        tensor(DType::U8, &[], vec![zero as u8])?,
    ]))
}

/// The `Quantize` op; `None` for what the reference evaluator does: a dynamic scale for a whole tensor, 4-bit elements,
/// quantisers that compute in 16 bits, empty tensors.
pub(super) fn quantize(scheme: &Scheme, v: &Tensor, given: Option<&Tensor>) -> Result<Option<Vec<Tensor>>> {
    let dynamic = scheme.has_scale_output();
    let Some(&width) = v.shape().last() else { return Ok(None) };
    if scheme.compute != DType::F32
        || scheme.scale_dtype != DType::F32
        || scheme.element.bits() != 8
        || !scheme.element.is_quantised()
        || v.is_empty()
        || scheme::supports(scheme, "").is_err()
        || (dynamic && scheme.scales_per_row(width as u64).is_none())
        || !matches!(v.dtype(), DType::F32 | DType::F16 | DType::BF16)
    {
        return Ok(None);
    }
    let given = match (dynamic, given) {
        (true, _) => f32::NAN,
        (false, Some(given)) if given.len() == 1 && matches!(given.dtype(), DType::F32 | DType::F16 | DType::BF16) => {
            to_f32(given)?[0]
        }
        _ => return Ok(None),
    };
    let values = to_f32(v)?;
    let per_row = width / scheme::group_size(scheme, width);
    let mut codes: Vec<u8> = zeros(v.len())?;
    let rows = values.par_chunks(width).zip(codes.par_chunks_mut(width));
    if !dynamic {
        rows.for_each(|(row, codes)| scheme::quantise_row(scheme, given, row, codes, None));
        return Ok(Some(vec![tensor(scheme.element, v.shape(), codes)?]));
    }
    let mut scales: Vec<f32> = zeros(v.len() / width * per_row)?;
    rows.zip(scales.par_chunks_mut(per_row))
        .for_each(|((row, codes), scales)| scheme::quantise_row(scheme, given, row, codes, Some(scales)));
    let mut shape = v.shape().to_vec();
    if scheme.granularity == Granularity::Tensor {
        shape.clear();
    } else if let Some(last) = shape.last_mut() {
        *last = per_row;
    }
    Ok(Some(vec![tensor(scheme.element, v.shape(), codes)?, tensor(DType::F32, &shape, scales)?]))
}
