//! Shapes at run time: checked sizes, axes, strides, broadcasting, and the walk over several strided operands at once.

use crate::{DType, Error, ErrorKind, Result, tensor::byte_len};

/// No single result may be larger than this many bytes (16 GiB): a shape that data computes can ask for anything.
const MAX_BYTES: usize = 1 << 34;

/// A shape error.
pub(crate) fn shape_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Shape, message)
}

/// A data error.
pub(crate) fn value_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Value, message)
}

/// Number of elements; an error if a tensor of them would be unreasonably large. Sizes beside a 0 count too: they are
/// what loops and other shapes are made of.
///
/// # Errors
/// `Shape`.
pub fn checked_len(dtype: DType, shape: &[usize]) -> Result<usize> {
    let stretched: Vec<usize> = shape.iter().map(|&d| d.max(1)).collect();
    if byte_len(dtype, &stretched)? > MAX_BYTES {
        return Err(shape_error(format!("a result {dtype}{shape:?} is larger than 16 GiB")));
    }
    Ok(product(shape))
}

/// Product of sizes. Saturates, which happens only beside a 0 in a shape that is a tensor's.
pub fn product(shape: &[usize]) -> usize {
    shape.iter().fold(1, |n, &d| n.saturating_mul(d))
}

/// A buffer of zeroed bytes for `shape` with elements of `size` bytes; refuses what memory cannot hold.
pub(crate) fn zeroed(size: usize, shape: &[usize]) -> Result<Vec<u8>> {
    let len = shape
        .iter()
        .try_fold(size, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MAX_BYTES)
        .ok_or_else(|| shape_error(format!("a result of shape {shape:?} is larger than 16 GiB")))?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(len)
        .map_err(|_| shape_error(format!("no memory for a result of shape {shape:?} ({len} bytes)")))?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// A possibly negative axis as an index below `rank`.
///
/// # Errors
/// `Shape` if it is out of range.
pub fn axis_index(axis: i64, rank: usize) -> Result<usize> {
    let r = rank as i64;
    if axis < -r || axis >= r {
        return Err(shape_error(format!("axis {axis} is out of range for a tensor of rank {rank}")));
    }
    Ok(if axis < 0 { axis + r } else { axis } as usize)
}

/// Axes as sorted indices without repetition.
///
/// # Errors
/// `Shape` if one is out of range or named twice.
pub fn axis_set(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut set = axes.iter().map(|&a| axis_index(a, rank)).collect::<Result<Vec<_>>>()?;
    set.sort_unstable();
    if set.windows(2).any(|w| w[0] == w[1]) {
        return Err(shape_error(format!("axes {axes:?} name an axis twice")));
    }
    Ok(set)
}

/// Element strides of a row-major tensor.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        // Wraps only beside a dimension of 0, where no element is ever visited.
        strides[i - 1] = strides[i].wrapping_mul(shape[i]);
    }
    strides
}

/// The common shape of operands under numpy broadcasting.
///
/// # Errors
/// `Shape` if two sizes of one axis differ and neither is 1.
pub fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (o, &d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            if *o == 1 {
                *o = d;
            } else if d != 1 && d != *o {
                return Err(shape_error(format!("shapes {shapes:?} do not broadcast together")));
            }
        }
    }
    Ok(out)
}

/// Strides that read `shape` as if it were broadcast to `out`: 0 along repeated axes.
///
/// # Errors
/// `Shape` if it does not broadcast to `out`.
pub fn broadcast_strides(shape: &[usize], out: &[usize]) -> Result<Vec<usize>> {
    let fits =
        shape.len() <= out.len() && shape.iter().zip(&out[out.len() - shape.len()..]).all(|(&d, &o)| d == o || d == 1);
    if !fits {
        return Err(shape_error(format!("shape {shape:?} does not broadcast to {out:?}")));
    }
    let lead = out.len() - shape.len();
    let own = strides(shape);
    Ok((0..out.len()).map(|i| if i < lead || shape[i - lead] == 1 { 0 } else { own[i - lead] }).collect())
}

/// Visits every index of `shape` in row-major order with the offset of each of `N` strided operands. Offsets wrap, so a
/// negative stride is its two's complement.
pub fn walk<const N: usize>(shape: &[usize], strides: [&[usize]; N], mut f: impl FnMut([usize; N])) {
    if shape.contains(&0) {
        return;
    }
    let Some(last) = shape.len().checked_sub(1) else {
        f([0; N]);
        return;
    };
    let mut index = vec![0; last];
    let mut base = [0usize; N];
    loop {
        let mut at = base;
        for _ in 0..shape[last] {
            f(at);
            for (a, s) in at.iter_mut().zip(strides) {
                *a = a.wrapping_add(s[last]);
            }
        }
        let mut axis = last;
        loop {
            let Some(next) = axis.checked_sub(1) else { return };
            axis = next;
            index[axis] += 1;
            for (b, s) in base.iter_mut().zip(strides) {
                *b = b.wrapping_add(s[axis]);
            }
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
            for (b, s) in base.iter_mut().zip(strides) {
                *b = b.wrapping_sub(s[axis].wrapping_mul(shape[axis]));
            }
        }
    }
}

/// Offsets of every index of `shape` under one set of strides, in row-major order.
pub fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut all = Vec::new();
    walk(shape, [strides], |[o]| all.push(o));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_operands_in_row_major_order() {
        let out = broadcast(&[&[2, 1], &[3]]).unwrap();
        assert_eq!(out, [2, 3]);
        let (a, b) = (broadcast_strides(&[2, 1], &out).unwrap(), broadcast_strides(&[3], &out).unwrap());
        let mut seen = Vec::new();
        walk(&out, [&a, &b], |o| seen.push(o));
        assert_eq!(seen, [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]);
        seen.clear();
        walk(&[], [&[], &[]], |o| seen.push(o));
        assert_eq!(seen, [[0, 0]], "a scalar has one element");
        seen.clear();
        walk(&[2, 0], [&[0, 1], &[0, 1]], |o| seen.push(o));
        assert!(seen.is_empty());
        assert_eq!(offsets(&[2, 2, 2], &[1, 2, 4]), [0, 4, 2, 6, 1, 5, 3, 7]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(broadcast(&[&[2], &[3]]).is_err());
        assert_eq!(broadcast(&[&[0], &[1]]).unwrap(), [0]);
        assert!(broadcast_strides(&[2, 3], &[3]).is_err());
        assert!(axis_index(2, 2).is_err() && axis_index(-3, 2).is_err() && axis_index(0, 0).is_err());
        assert_eq!(axis_set(&[-1, 0], 3).unwrap(), [0, 2]);
        assert!(axis_set(&[-1, 2], 3).is_err());
        assert!(checked_len(DType::F32, &[usize::MAX, 2]).is_err());
        assert!(zeroed(4, &[1 << 40]).is_err());
    }
}
