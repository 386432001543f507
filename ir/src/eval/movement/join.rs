//! Ops that put a result together from whole pieces.

use super::{assemble, elements, gather_strided, place, same_dtype};
use crate::{
    DType, Result, Tensor,
    eval::{
        numbers::bools,
        shape::{
            axis_index, axis_set, broadcast, broadcast_strides, checked_len, product, shape_error, strides,
            value_error, walk, zeroed,
        },
    },
};

/// Concat along an axis.
///
/// # Errors
/// `DType` or `Shape` if the operands differ in more than the size of that axis.
pub fn concat(parts: &[&Tensor], axis: i64) -> Result<Tensor> {
    let first = parts.first().ok_or_else(|| shape_error("expected at least one operand"))?;
    let axis = axis_index(axis, first.shape().len())?;
    let mut out = first.shape().to_vec();
    for (i, part) in parts.iter().enumerate().skip(1) {
        same_dtype(first, part)?;
        let s = part.shape();
        if s.len() != out.len() || s.iter().zip(&out).enumerate().any(|(a, (x, y))| a != axis && x != y) {
            return Err(shape_error(format!(
                "operand {i} of shape {s:?} does not join {:?} along axis {axis}",
                first.shape()
            )));
        }
        out[axis] = out[axis].checked_add(s[axis]).ok_or_else(|| shape_error("the joined axis overflows"))?;
    }
    checked_len(first.dtype(), &out)?;
    let sources: Vec<_> = parts.iter().map(|p| elements(p)).collect();
    let size = sources[0].size;
    let mut bytes = zeroed(size, &out)?;
    bytes.clear();
    let inner = product(&out[axis + 1..]).saturating_mul(size);
    let outer = if out.contains(&0) { 0 } else { product(&out[..axis]) };
    for o in 0..outer {
        for (part, source) in parts.iter().zip(&sources) {
            let block = part.shape()[axis] * inner;
            bytes.extend_from_slice(&source.bytes[o * block..(o + 1) * block]);
        }
    }
    assemble(first.dtype(), &out, bytes)
}

/// Split along an axis into `outputs` pieces of the given sizes, or equal ones with a smaller last one.
///
/// # Errors
/// `Shape` if the sizes do not add up to the axis.
pub fn split(x: &Tensor, axis: i64, sizes: Option<&[i64]>, outputs: usize) -> Result<Vec<Tensor>> {
    let axis = axis_index(axis, x.shape().len())?;
    let n = x.shape()[axis];
    let sizes: Vec<usize> = if let Some(s) = sizes {
        let sizes: Option<Vec<usize>> = s.iter().map(|&v| usize::try_from(v).ok()).collect();
        sizes
            .filter(|v| v.len() == outputs && v.iter().try_fold(0usize, |a, &b| a.checked_add(b)) == Some(n))
            .ok_or_else(|| shape_error(format!("sizes {s:?} do not split an axis of {n} into {outputs}")))?
    } else {
        let chunk = n.div_ceil(outputs.max(1));
        (0..outputs).map(|i| n.saturating_sub(i * chunk).min(chunk)).collect()
    };
    let e = elements(x);
    let from = strides(x.shape());
    let mut start = 0;
    sizes
        .into_iter()
        .map(|size| {
            let mut out = x.shape().to_vec();
            out[axis] = size;
            let bytes = gather_strided(&e.bytes, e.size, &out, &from, start * from[axis])?;
            start += size;
            assemble(x.dtype(), &out, bytes)
        })
        .collect()
}

/// Tile: repeats each axis as often as `repeats` says.
///
/// # Errors
/// `Shape` if the lengths differ, a count is negative, or the result would be too large.
pub fn tile(x: &Tensor, repeats: &[i64]) -> Result<Tensor> {
    let bad = || shape_error(format!("repeats {repeats:?} do not fit a tensor of shape {:?}", x.shape()));
    if repeats.len() != x.shape().len() {
        return Err(bad());
    }
    let own = strides(x.shape());
    let (mut out, mut seen, mut from) = (Vec::new(), Vec::new(), Vec::new());
    for ((&d, &r), &s) in x.shape().iter().zip(repeats).zip(&own) {
        let r = usize::try_from(r).map_err(|_| bad())?;
        out.push(d.checked_mul(r).ok_or_else(bad)?);
        // Seen as [repeat, size] the repetition is a stride of 0.
        seen.extend([r, d]);
        from.extend([0, s]);
    }
    checked_len(x.dtype(), &out)?;
    let e = elements(x);
    assemble(x.dtype(), &out, gather_strided(&e.bytes, e.size, &seen, &from, 0)?)
}

/// Pad with a constant (zero bytes without `value`); negative pads crop. `pads` lists all begins, then all ends, of
/// `axes` (all if `None`).
///
/// # Errors
/// `Shape` if the lists disagree or more is cropped than there is.
pub fn pad(x: &Tensor, pads: &[i64], value: Option<&Tensor>, axes: Option<&[i64]>) -> Result<Tensor> {
    let rank = x.shape().len();
    let all: Vec<i64> = (0..rank as i64).collect();
    let axes = axes.unwrap_or(&all);
    axis_set(axes, rank)?;
    if pads.len() != 2 * axes.len() {
        return Err(shape_error(format!(
            "expected {} pads for {} axes, found {}",
            2 * axes.len(),
            axes.len(),
            pads.len()
        )));
    }
    let e = elements(x);
    let (mut out, mut kept) = (x.shape().to_vec(), x.shape().to_vec());
    let (mut skip, mut start) = (vec![0usize; rank], vec![0usize; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        let a = axis_index(axis, rank)?;
        let (begin, end) = (pads[i], pads[i + axes.len()]);
        let n = x.shape()[a] as i64;
        let bad = || shape_error(format!("pads {begin} and {end} do not fit axis {a} of size {n}"));
        let crop = begin.min(0).checked_add(end.min(0)).and_then(|c| c.checked_add(n)).filter(|&c| c >= 0);
        kept[a] = crop.ok_or_else(bad)? as usize;
        let grown = (kept[a] as i64).checked_add(begin.max(0)).and_then(|c| c.checked_add(end.max(0)));
        out[a] = grown.ok_or_else(bad)? as usize;
        skip[a] = begin.min(0).unsigned_abs() as usize;
        start[a] = begin.max(0) as usize;
    }
    checked_len(x.dtype(), &out)?;
    let mut bytes = zeroed(e.size, &out)?;
    if let Some(value) = value {
        same_dtype(x, value)?;
        if value.len() != 1 {
            return Err(shape_error(format!("the pad value must be one element, found shape {:?}", value.shape())));
        }
        let v = elements(value);
        for d in bytes.chunks_exact_mut(e.size) {
            d.copy_from_slice(&v.bytes);
        }
    }
    if !kept.contains(&0) {
        let from = strides(x.shape());
        let offset = skip.iter().zip(&from).map(|(i, s)| i * s).sum();
        let middle = gather_strided(&e.bytes, e.size, &kept, &from, offset)?;
        place(&middle, e.size, &kept, &mut bytes, &out, &start);
    }
    assemble(x.dtype(), &out, bytes)
}

/// Where: `a` where the condition holds, else `b`; all three broadcast.
///
/// # Errors
/// `DType` if the condition is not bool or a and b differ, `Shape` if they do not broadcast.
pub fn where_select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_dtype(a, b)?;
    let condition_bits = bools(condition)?;
    let out = broadcast(&[condition.shape(), a.shape(), b.shape()])?;
    checked_len(a.dtype(), &out)?;
    let s = [condition.shape(), a.shape(), b.shape()].map(|s| broadcast_strides(s, &out));
    let [sc, sa, sb] = s;
    let (ea, eb) = (elements(a), elements(b));
    let mut bytes = zeroed(ea.size, &out)?;
    let mut cells = bytes.chunks_exact_mut(ea.size);
    walk(&out, [&sc?, &sa?, &sb?], |[c, i, j]| {
        let (source, at) = if condition_bits[c] { (&ea, i) } else { (&eb, j) };
        if let Some(cell) = cells.next() {
            cell.copy_from_slice(&source.bytes[at * source.size..(at + 1) * source.size]);
        }
    });
    assemble(a.dtype(), &out, bytes)
}

/// Trilu: keeps the upper or lower triangle of the last two axes from diagonal `k`, zeros the rest.
///
/// # Errors
/// `Shape` for a tensor of rank below 2.
pub fn trilu(x: &Tensor, k: i64, upper: bool) -> Result<Tensor> {
    let [.., rows, cols] = *x.shape() else {
        return Err(shape_error(format!("expected rank 2 or more, found shape {:?}", x.shape())));
    };
    let e = elements(x);
    let mut bytes = e.bytes.to_vec();
    for (at, cell) in bytes.chunks_exact_mut(e.size).enumerate() {
        let (i, j) = ((at / cols % rows) as i64, (at % cols) as i64);
        let distance = (j - i).saturating_sub(k);
        if (upper && distance < 0) || (!upper && distance > 0) {
            cell.fill(0);
        }
    }
    assemble(x.dtype(), x.shape(), bytes)
}

/// A tensor filled with one element, given as little-endian bytes.
///
/// # Errors
/// `Shape` for a negative size or an unreasonable number of elements, `Value` if the bytes are not one element.
pub fn constant_of_shape(dtype: DType, value: &[u8], shape: &[i64]) -> Result<Tensor> {
    if dtype.size_of(1) != Some(value.len()) {
        return Err(value_error(format!("{} bytes are not one element of {dtype}", value.len())));
    }
    let shape: Vec<usize> = shape
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| shape_error(format!("size {d} in shape {shape:?}"))))
        .collect::<Result<_>>()?;
    checked_len(dtype, &shape)?;
    let mut bytes = zeroed(value.len(), &shape)?;
    for cell in bytes.chunks_exact_mut(value.len()) {
        cell.copy_from_slice(value);
    }
    assemble(dtype, &shape, bytes)
}
