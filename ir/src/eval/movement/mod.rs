//! Data movement: ops that copy elements and do no arithmetic, byte-generic in the element's size, so every runtime on
//! the host shares them. 4-bit elements are unpacked to a byte each, moved and packed again.

mod index;
mod join;
mod view;

pub use index::{
    Scatter, gather, gather_elements, gather_nd, one_hot, scatter_copy, scatter_elements_plan, scatter_nd_plan,
};
pub use join::{concat, constant_of_shape, pad, split, tile, trilu, where_select};
pub use view::{
    bit_cast, broadcast_to, expand, flatten, reshape, reshape_target, slice, slice_range, squeeze, squeeze_shape,
    transpose, unsqueeze, unsqueeze_shape,
};

use std::borrow::Cow;

use super::shape::{strides, walk, zeroed};
use crate::{DType, Error, ErrorKind, Result, Tensor, num};

/// A tensor's elements as bytes: `size` of them each.
pub(super) struct Elements<'a> {
    pub bytes: Cow<'a, [u8]>,
    pub size: usize,
}

pub(super) fn elements(x: &Tensor) -> Elements<'_> {
    if x.dtype().bits() == 4 {
        Elements { bytes: Cow::Owned(num::unpack_nibbles(x.bytes(), x.len())), size: 1 }
    } else {
        Elements { bytes: Cow::Borrowed(x.bytes()), size: x.dtype().bits() / 8 }
    }
}

/// A tensor from bytes in the form of [`Elements`].
pub(super) fn assemble(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Result<Tensor> {
    let bytes = if dtype.bits() == 4 { num::pack_nibbles(&bytes) } else { bytes };
    Tensor::from_bytes(dtype, shape.to_vec(), bytes)
}

pub(super) fn same_dtype(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dtype() == b.dtype() {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::DType,
            format!("expected {} as the first operand is, found {}", a.dtype(), b.dtype()),
        ))
    }
}

fn copy_sized<const N: usize>(src: &[u8], dst: &mut [u8], shape: &[usize], from: &[usize], offset: usize) {
    let mut out = dst.chunks_exact_mut(N);
    walk(shape, [from], |[at]| {
        let at = offset.wrapping_add(at) * N;
        if let Some(d) = out.next() {
            d.copy_from_slice(&src[at..at + N]);
        }
    });
}

/// Reads `shape` elements at `offset` with `from` strides (in elements; negative ones in two's complement) into
/// row-major bytes. The caller has made sure that every element lies inside `src`.
pub(super) fn gather_strided(
    src: &[u8],
    size: usize,
    shape: &[usize],
    from: &[usize],
    offset: usize,
) -> Result<Vec<u8>> {
    let mut dst = zeroed(size, shape)?;
    if shape.contains(&0) {
        return Ok(dst);
    }
    // A row-major tail of the shape moves as one block.
    let mut outer = shape.len();
    let mut block = 1;
    while outer > 0 && (shape[outer - 1] == 1 || from[outer - 1] == block) {
        block *= shape[outer - 1];
        outer -= 1;
    }
    if block > 1 {
        let mut out = dst.chunks_exact_mut(block * size);
        walk(&shape[..outer], [&from[..outer]], |[at]| {
            let at = offset.wrapping_add(at) * size;
            if let Some(d) = out.next() {
                d.copy_from_slice(&src[at..at + block * size]);
            }
        });
        return Ok(dst);
    }
    match size {
        1 => copy_sized::<1>(src, &mut dst, shape, from, offset),
        2 => copy_sized::<2>(src, &mut dst, shape, from, offset),
        4 => copy_sized::<4>(src, &mut dst, shape, from, offset),
        _ => copy_sized::<8>(src, &mut dst, shape, from, offset),
    }
    Ok(dst)
}

/// Writes row-major `src` of `shape` into `dst`, a row-major tensor of shape `dst_shape`, at index `start`.
pub(super) fn place(src: &[u8], size: usize, shape: &[usize], dst: &mut [u8], dst_shape: &[usize], start: &[usize]) {
    let Some(last) = shape.len().checked_sub(1) else {
        dst[..size].copy_from_slice(&src[..size]);
        return;
    };
    let to = strides(dst_shape);
    let offset: usize = start.iter().zip(&to).map(|(i, s)| i * s).sum();
    let row = shape[last] * size;
    if row == 0 {
        return;
    }
    let mut rows = src.chunks_exact(row);
    walk(&shape[..last], [&to[..last]], |[at]| {
        let at = (offset + at) * size;
        if let Some(r) = rows.next() {
            dst[at..at + row].copy_from_slice(r);
        }
    });
}

#[cfg(test)]
mod tests;
