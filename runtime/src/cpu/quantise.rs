//! The quantisers: ONNX's three ops, and `Quantize` as its scheme says.

use normfuse_ir::{
    DType, Error, ErrorKind, Granularity, Result, Scheme, Tensor, num,
    scheme::{Packing, ZeroPoint},
};
use rayon::prelude::*;

use super::{
    broadcast::{CHUNK, Walk, map, map3},
    buf::{Float, tensor, view, zeros},
    convert::{decode_table, store, to_f32},
    fused_norm,
    math::{with_int, with_narrow},
    rows::axis_of,
    scheme::{self, Extremes, Given, Shared},
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

/// The given operand of a scheme for rows of `width`: one element, or one a channel.
pub(super) fn given_scales(scheme: &Scheme, tensor: &Tensor, width: u64) -> Result<Vec<f32>> {
    if let Some(dtype) = scheme.given {
        fused_norm::expect_dtype(tensor, dtype)?;
    }
    expect_count(scheme, tensor, width)?;
    Ok(to_f32(tensor)?.into_owned())
}

/// The given zero point of a scheme for rows of `width`: one element, or one a channel.
pub(super) fn given_zeros(scheme: &Scheme, tensor: &Tensor, width: u64) -> Result<Vec<i32>> {
    fused_norm::expect_dtype(tensor, scheme.element)?;
    expect_count(scheme, tensor, width)?;
    let zeros = match scheme.element {
        DType::I8 => view::<i8>(tensor)?.iter().map(|&z| i32::from(z)).collect(),
        _ => view::<u8>(tensor)?.iter().map(|&z| i32::from(z)).collect(),
    };
    Ok(zeros)
}

fn expect_count(scheme: &Scheme, tensor: &Tensor, width: u64) -> Result<()> {
    let want = if scheme.granularity == Granularity::Channel { width } else { 1 };
    if tensor.len() as u64 == want {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, format!("expected {want} elements, found shape {:?}", tensor.shape())))
}

/// The quantised tensor of values of a shape, from a code a byte.
pub(super) fn q_tensor(scheme: &Scheme, shape: &[usize], codes: Vec<u8>) -> Result<Tensor> {
    let mut shape = shape.to_vec();
    if let (Packing::Nibbles, Some(last)) = (scheme.packing, shape.last_mut()) {
        if !last.is_multiple_of(2) {
            let message = format!("two codes in a byte need rows of an even size, found {last}");
            return Err(Error::new(ErrorKind::Shape, message));
        }
        *last /= 2;
    }
    let packed = scheme.element.bits() == 4 && scheme.packing != Packing::Codes;
    let bytes = if packed { num::pack_nibbles(&codes) } else { codes };
    Tensor::from_bytes(scheme.q_dtype(), shape, bytes)
}

/// Quantises under one scale for all values: the results of [`Scheme::out_ports`].
pub(super) fn whole_tensor(scheme: &Scheme, v: &Tensor, given: &Given) -> Result<Vec<Tensor>> {
    let values = to_f32(v)?;
    let parts: Vec<Extremes> = values.par_chunks(CHUNK).map(|c| Extremes::of(scheme, c)).collect();
    let extremes = parts.into_iter().fold(Extremes::NONE, Extremes::join);
    let given = (given.scales.first().copied().unwrap_or(0.0), given.zeros.first().copied().unwrap_or(0));
    let shared = Shared::new(scheme, extremes, given);
    let mut codes: Vec<u8> = zeros(v.len())?;
    values
        .par_chunks(CHUNK)
        .zip(codes.par_chunks_mut(CHUNK))
        .for_each(|(values, codes)| scheme::quantise_group(scheme, shared, values, codes));
    let mut results = Vec::new();
    let dequantised = scheme.dequantised.map(|d| {
        let mut bytes = zeros(v.len() * d.dtype.bits() / 8)?;
        let chunks = bytes.par_chunks_mut(CHUNK * d.dtype.bits() / 8).zip(codes.par_chunks(CHUNK));
        chunks.for_each(|(bytes, codes)| {
            let mut numbers = vec![0.0; codes.len()];
            scheme::dequantise_group(scheme, shared, codes, &mut numbers);
            store(d.dtype, &numbers, bytes);
        });
        Tensor::from_bytes(d.dtype, v.shape().to_vec(), bytes)
    });
    if scheme.has_codes_output() {
        results.push(q_tensor(scheme, v.shape(), codes)?);
    }
    if let Some(scale) = scheme.scale.as_ref().filter(|_| scheme.has_scale_output()) {
        let mut bytes = vec![0; scheme::scale_bytes(scale.dtype)];
        scheme::store_scales(scale.dtype, &[shared.scale], &mut bytes);
        results.push(Tensor::from_bytes(scale.dtype, Vec::new(), bytes)?);
    }
    if scheme.zero_point == ZeroPoint::Range {
        results.push(tensor(DType::U8, &[], vec![shared.zero as u8])?);
    }
    if let Some(dequantised) = dequantised {
        results.push(dequantised?);
    }
    Ok(results)
}

/// The `Quantize` op; `None` for what the reference evaluator does: schemes and operands that do not fit, empty tensors,
/// dequantised values of rows.
pub(super) fn quantize(
    scheme: &Scheme,
    v: &Tensor,
    given: Option<&Tensor>,
    zero: Option<&Tensor>,
) -> Result<Option<Vec<Tensor>>> {
    let fits = scheme::supports(scheme, "").is_ok()
        && !v.is_empty()
        && matches!(v.dtype(), DType::F32 | DType::F16 | DType::BF16);
    let Some(&width) = v.shape().last().filter(|_| fits) else { return Ok(None) };
    let mut operands = Given::default();
    if scheme.given.is_some() {
        let Some(t) = given else { return Ok(None) };
        operands.scales = given_scales(scheme, t, width as u64)?;
    }
    if scheme.zero_point == ZeroPoint::Given {
        let Some(t) = zero else { return Ok(None) };
        operands.zeros = given_zeros(scheme, t, width as u64)?;
    }
    if scheme::of_whole_tensor(scheme) {
        return whole_tensor(scheme, v, &operands).map(Some);
    }
    let per_row = scheme.scales_per_row(width as u64);
    if scheme.dequantised.is_some() || (matches!(scheme.granularity, Granularity::Group(_)) && per_row.is_none()) {
        return Ok(None);
    }
    let values = to_f32(v)?;
    let mut codes: Vec<u8> = zeros(v.len())?;
    let rows = values.par_chunks(width).zip(codes.par_chunks_mut(width));
    let (Some(scale), Some(per_row)) = (&scheme.scale, per_row) else {
        rows.for_each(|(row, codes)| scheme::quantise_row(scheme, &operands, row, codes, None, None));
        return Ok(Some(vec![q_tensor(scheme, v.shape(), codes)?]));
    };
    let per_row = per_row as usize;
    let mut scales: Vec<f32> = zeros(v.len() / width * per_row)?;
    rows.zip(scales.par_chunks_mut(per_row))
        .for_each(|((row, codes), scales)| scheme::quantise_row(scheme, &operands, row, codes, Some(scales), None));
    let mut shape = v.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = per_row;
    }
    let mut bytes = zeros(scales.len() * scheme::scale_bytes(scale.dtype))?;
    scheme::store_scales(scale.dtype, &scales, &mut bytes);
    let scales = scheme::laid_out(scheme, Tensor::from_bytes(scale.dtype, shape, bytes)?)?;
    Ok(Some(vec![q_tensor(scheme, v.shape(), codes)?, scales]))
}
