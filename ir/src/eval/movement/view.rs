//! Ops whose result reads the operand through another shape and strides.

use super::{super::shape, assemble, elements, gather_strided};
use crate::{
    DType, Error, ErrorKind, Result, Tensor,
    eval::shape::{axis_index, axis_set, broadcast, broadcast_strides, product, shape_error, strides, value_error},
};

/// The concrete shape that a Reshape asks for.
///
/// # Errors
/// `Shape` if the target is malformed or has another number of elements.
pub fn reshape_target(input: &[usize], target: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(target.len());
    let mut hole = None;
    for (i, &d) in target.iter().enumerate() {
        out.push(match d {
            -1 if hole.is_none() => {
                hole = Some(i);
                1
            }
            -1 => return Err(shape_error(format!("the target shape {target:?} has more than one -1"))),
            0 if !allow_zero => *input.get(i).ok_or_else(|| {
                shape_error(format!("the 0 at {i} of target shape {target:?} copies a size that {input:?} has not"))
            })?,
            d => usize::try_from(d).map_err(|_| shape_error(format!("size {d} in target shape {target:?}")))?,
        });
    }
    let count = |s: &[usize]| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let mismatch = || shape_error(format!("shape {input:?} cannot be reshaped to {target:?}"));
    let (have, want) = (count(input).ok_or_else(mismatch)?, count(&out).ok_or_else(mismatch)?);
    if let Some(i) = hole {
        if want == 0 || !have.is_multiple_of(want) {
            return Err(mismatch());
        }
        out[i] = have / want;
    } else if have != want {
        return Err(mismatch());
    }
    Ok(out)
}

/// Reshape; the bytes are shared.
///
/// # Errors
/// As [`reshape_target`].
pub fn reshape(x: &Tensor, target: &[i64], allow_zero: bool) -> Result<Tensor> {
    x.reshaped(reshape_target(x.shape(), target, allow_zero)?)
}

/// The shape after Squeeze.
///
/// # Errors
/// `Shape` if an axis is out of range or not of size 1.
pub fn squeeze_shape(input: &[usize], axes: Option<&[i64]>) -> Result<Vec<usize>> {
    let Some(axes) = axes else {
        return Ok(input.iter().copied().filter(|&d| d != 1).collect());
    };
    let axes = axis_set(axes, input.len())?;
    if let Some(a) = axes.iter().find(|&&a| input[a] != 1) {
        return Err(shape_error(format!("axis {a} of shape {input:?} is squeezed but not of size 1")));
    }
    Ok(input.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect())
}

/// Squeeze; the bytes are shared.
///
/// # Errors
/// As [`squeeze_shape`].
pub fn squeeze(x: &Tensor, axes: Option<&[i64]>) -> Result<Tensor> {
    x.reshaped(squeeze_shape(x.shape(), axes)?)
}

/// The shape after Unsqueeze.
///
/// # Errors
/// `Shape` if an axis is out of range or named twice.
pub fn unsqueeze_shape(input: &[usize], axes: &[i64]) -> Result<Vec<usize>> {
    let rank = input.len() + axes.len();
    let axes = axis_set(axes, rank)?;
    let mut rest = input.iter();
    Ok((0..rank).map(|i| if axes.contains(&i) { 1 } else { rest.next().copied().unwrap_or(1) }).collect())
}

/// Unsqueeze; the bytes are shared.
///
/// # Errors
/// As [`unsqueeze_shape`].
pub fn unsqueeze(x: &Tensor, axes: &[i64]) -> Result<Tensor> {
    x.reshaped(unsqueeze_shape(x.shape(), axes)?)
}

/// The same bits in another dtype; the bytes are shared.
///
/// # Errors
/// `Value` if the dtypes differ in width, or one is bool.
pub fn bit_cast(x: &Tensor, to: DType) -> Result<Tensor> {
    if x.dtype().bits() != to.bits() || [x.dtype(), to].contains(&DType::Bool) {
        let message = format!("expected two types of as many bits, and no bool, found {} and {to}", x.dtype());
        return Err(Error::new(ErrorKind::Value, message));
    }
    Tensor::new(to, x.shape().to_vec(), x.data().clone())
}

/// Flatten to 2-D; the bytes are shared.
///
/// # Errors
/// `Shape` if the axis is out of range.
pub fn flatten(x: &Tensor, axis: i64) -> Result<Tensor> {
    let rank = x.shape().len();
    // Unlike elsewhere the rank itself is allowed: all axes on the left.
    let at = if axis == rank as i64 { rank } else { axis_index(axis, rank)? };
    let (left, right) = x.shape().split_at(at);
    x.reshaped(vec![product(left), product(right)])
}

/// Transpose; without a permutation the axes are reversed.
///
/// # Errors
/// `Shape` if `perm` is not a permutation of the axes.
pub fn transpose(x: &Tensor, perm: Option<&[i64]>) -> Result<Tensor> {
    let rank = x.shape().len();
    let perm: Vec<usize> = match perm {
        None => (0..rank).rev().collect(),
        Some(p) => {
            if p.len() != rank || axis_set(p, rank).is_err() {
                return Err(shape_error(format!("{p:?} is not a permutation of the axes of a tensor of rank {rank}")));
            }
            p.iter().map(|&a| axis_index(a, rank)).collect::<Result<_>>()?
        }
    };
    let own = strides(x.shape());
    let out: Vec<usize> = perm.iter().map(|&a| x.shape()[a]).collect();
    let from: Vec<usize> = perm.iter().map(|&a| own[a]).collect();
    let e = elements(x);
    assemble(x.dtype(), &out, gather_strided(&e.bytes, e.size, &out, &from, 0)?)
}

/// Repeats axes of size 1 to the sizes of `shape` (one-way broadcasting).
///
/// # Errors
/// `Shape` if x does not broadcast to it, or the result would be too large.
pub fn broadcast_to(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if x.shape() == shape {
        return Ok(x.clone());
    }
    let from = broadcast_strides(x.shape(), shape)?;
    shape::checked_len(x.dtype(), shape)?;
    let e = elements(x);
    assemble(x.dtype(), shape, gather_strided(&e.bytes, e.size, shape, &from, 0)?)
}

/// ONNX Expand: two-way broadcasting with a target shape.
///
/// # Errors
/// As [`broadcast_to`], and for a negative size.
pub fn expand(x: &Tensor, target: &[i64]) -> Result<Tensor> {
    let target: Vec<usize> = target
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| shape_error(format!("size {d} in target shape {target:?}"))))
        .collect::<Result<_>>()?;
    broadcast_to(x, &broadcast(&[x.shape(), &target])?)
}

/// ONNX Slice with numpy's clamping of bounds. Without axes: the first ones; without steps: 1.
///
/// # Errors
/// `Shape` if the lists disagree or an axis is out of range, `Value` for a step of 0.
pub fn slice(x: &Tensor, starts: &[i64], ends: &[i64], axes: Option<&[i64]>, steps: Option<&[i64]>) -> Result<Tensor> {
    let rank = x.shape().len();
    let n = starts.len();
    let first: Vec<i64> = (0..n as i64).collect();
    let axes = axes.unwrap_or(&first);
    let ones = vec![1; n];
    let steps = steps.unwrap_or(&ones);
    if ends.len() != n || axes.len() != n || steps.len() != n {
        return Err(shape_error(format!(
            "starts, ends, axes and steps must be of one length, found {n}, {}, {}, {}",
            ends.len(),
            axes.len(),
            steps.len()
        )));
    }
    axis_set(axes, rank)?;
    let mut out = x.shape().to_vec();
    let mut from = strides(x.shape());
    let mut offset = 0usize;
    for i in 0..n {
        let a = axis_index(axes[i], rank)?;
        let size = x.shape()[a] as i64;
        let (start, len) = slice_range(size, starts[i], ends[i], steps[i])?;
        offset += start * from[a];
        out[a] = len;
        from[a] = from[a].wrapping_mul(steps[i] as usize);
    }
    let e = elements(x);
    assemble(x.dtype(), &out, gather_strided(&e.bytes, e.size, &out, &from, offset)?)
}

/// First index and number of elements of a slice of an axis of `size`.
///
/// # Errors
/// `Value` for a step of 0.
pub fn slice_range(size: i64, start: i64, end: i64, step: i64) -> Result<(usize, usize)> {
    if step == 0 {
        return Err(value_error("a slice has step 0"));
    }
    let wrap = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
    let (start, end) = if step > 0 {
        (wrap(start).clamp(0, size), wrap(end).clamp(0, size))
    } else {
        (wrap(start).clamp(-1, size - 1), wrap(end).clamp(-1, size - 1))
    };
    let span = if step > 0 { end - start } else { start - end };
    if span <= 0 {
        return Ok((0, 0));
    }
    let len = (span as u64).div_ceil(step.unsigned_abs());
    Ok((start as usize, len as usize))
}
