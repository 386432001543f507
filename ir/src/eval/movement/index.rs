//! Ops that pick or place elements by computed indices.

use super::{assemble, elements, same_dtype};
use crate::{
    DType, Error, ErrorKind, Result, Tensor,
    eval::{
        numbers::ints,
        shape::{axis_index, checked_len, product, shape_error, strides, value_error, walk, zeroed},
    },
};

/// A possibly negative index below `n`.
fn wrap(index: i64, n: usize) -> Result<usize> {
    let i = if index < 0 { index.checked_add(n as i64).unwrap_or(-1) } else { index };
    usize::try_from(i)
        .ok()
        .filter(|&i| i < n)
        .ok_or_else(|| value_error(format!("index {index} is out of range for an axis of size {n}")))
}

/// Gather: whole slices along an axis.
///
/// # Errors
/// `Shape` if the axis is out of range, `Value` if an index is.
pub fn gather(x: &Tensor, indices: &Tensor, axis: i64) -> Result<Tensor> {
    let axis = axis_index(axis, x.shape().len())?;
    let n = x.shape()[axis];
    let picks = ints(indices)?.into_iter().map(|i| wrap(i, n)).collect::<Result<Vec<_>>>()?;
    let (before, after) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    let out: Vec<usize> = [before, indices.shape(), after].concat();
    checked_len(x.dtype(), &out)?;
    let e = elements(x);
    let block = product(after).saturating_mul(e.size);
    let outer = if out.contains(&0) { 0 } else { product(before) };
    let mut bytes = Vec::new();
    for o in 0..outer {
        for &p in &picks {
            let at = (o * n + p) * block;
            bytes.extend_from_slice(&e.bytes[at..at + block]);
        }
    }
    assemble(x.dtype(), &out, bytes)
}

/// The offset in a tensor of shape `x` of every element of `indices`, whose values replace the index along `axis`.
fn element_offsets(x: &[usize], indices: &Tensor, axis: i64) -> Result<Vec<usize>> {
    let axis = axis_index(axis, x.len())?;
    let fits = indices.shape().len() == x.len()
        && indices.shape().iter().zip(x).enumerate().all(|(a, (i, d))| a == axis || i <= d);
    if !fits {
        return Err(shape_error(format!("indices of shape {:?} do not fit {x:?} along axis {axis}", indices.shape())));
    }
    let own = strides(x);
    let mut others = own.clone();
    others[axis] = 0;
    let mut values = ints(indices)?.into_iter();
    let mut result = Vec::with_capacity(indices.len());
    let mut failed = None;
    walk(indices.shape(), [&others], |[base]| match wrap(values.next().unwrap_or(0), x[axis]) {
        Ok(i) => result.push(base + i * own[axis]),
        Err(e) => failed = failed.take().or(Some(e)),
    });
    failed.map_or(Ok(result), Err)
}

/// GatherElements: one element for each index.
///
/// # Errors
/// `Shape` if ranks or sizes disagree, `Value` if an index is out of range.
pub fn gather_elements(x: &Tensor, indices: &Tensor, axis: i64) -> Result<Tensor> {
    let offsets = element_offsets(x.shape(), indices, axis)?;
    let e = elements(x);
    let mut bytes = Vec::with_capacity(offsets.len() * e.size);
    for at in offsets {
        bytes.extend_from_slice(&e.bytes[at * e.size..(at + 1) * e.size]);
    }
    assemble(x.dtype(), indices.shape(), bytes)
}

/// Offsets of the slices that index tuples (the last axis of `indices`) name in the axes of x from `batch` on, and the
/// number of elements in one slice.
fn tuple_offsets(x: &[usize], indices: &Tensor, batch: usize) -> Result<(Vec<usize>, usize)> {
    let Some((&depth, lead)) = indices.shape().split_last() else {
        return Err(shape_error("indices must have rank 1 or more"));
    };
    if batch > lead.len() || batch + depth > x.len() || lead[..batch] != x[..batch] {
        return Err(shape_error(format!(
            "indices of shape {:?} do not index {x:?} with {batch} batch axes",
            indices.shape()
        )));
    }
    let own = strides(x);
    let block = product(&x[batch + depth..]);
    let per_batch = product(&lead[batch..]);
    let batch_elements = product(&x[batch..]);
    let tuples = checked_len(DType::I64, lead)?;
    let values = ints(indices)?;
    let mut result = Vec::with_capacity(tuples);
    for t in 0..tuples {
        let mut at = t.checked_div(per_batch).unwrap_or(0).wrapping_mul(batch_elements);
        for d in 0..depth {
            at = at.wrapping_add(wrap(values[t * depth + d], x[batch + d])?.wrapping_mul(own[batch + d]));
        }
        result.push(at);
    }
    Ok((result, block))
}

/// GatherND: a slice for each index tuple.
///
/// # Errors
/// `Shape` if the shapes disagree, `Value` if an index is out of range.
pub fn gather_nd(x: &Tensor, indices: &Tensor, batch_dims: i64) -> Result<Tensor> {
    let batch = usize::try_from(batch_dims).map_err(|_| shape_error(format!("batch_dims is {batch_dims}")))?;
    let (offsets, block) = tuple_offsets(x.shape(), indices, batch)?;
    let (depth, lead) = indices.shape().split_last().map_or((0, &[][..]), |(d, l)| (*d, l));
    let out: Vec<usize> = [lead, &x.shape()[batch + depth..]].concat();
    checked_len(x.dtype(), &out)?;
    let e = elements(x);
    let mut bytes = Vec::new();
    if block > 0 && !x.is_empty() {
        for at in offsets {
            bytes.extend_from_slice(&e.bytes[at * e.size..(at + block) * e.size]);
        }
    }
    assemble(x.dtype(), &out, bytes)
}

/// Where a scatter's updates go: update block `i` starts at element `targets[i]` and is `block` elements long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scatter {
    /// Element offsets in the result, in the order of the updates.
    pub targets: Vec<usize>,
    /// Elements in one update.
    pub block: usize,
}

fn check_updates(x: &Tensor, updates: &Tensor, want: &[usize]) -> Result<()> {
    same_dtype(x, updates)?;
    if updates.shape() == want {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::Shape,
            format!("updates must have shape {want:?} as the indices say, found {:?}", updates.shape()),
        ))
    }
}

/// Where ScatterElements puts its updates.
///
/// # Errors
/// `DType` or `Shape` if the operands disagree, `Value` if an index is out of range.
pub fn scatter_elements_plan(x: &Tensor, indices: &Tensor, updates: &Tensor, axis: i64) -> Result<Scatter> {
    check_updates(x, updates, indices.shape())?;
    Ok(Scatter { targets: element_offsets(x.shape(), indices, axis)?, block: 1 })
}

/// Where ScatterND puts its updates.
///
/// # Errors
/// As [`scatter_elements_plan`].
pub fn scatter_nd_plan(x: &Tensor, indices: &Tensor, updates: &Tensor) -> Result<Scatter> {
    let (targets, block) = tuple_offsets(x.shape(), indices, 0)?;
    let (depth, lead) = indices.shape().split_last().map_or((0, &[][..]), |(d, l)| (*d, l));
    check_updates(x, updates, &[lead, &x.shape()[depth..]].concat())?;
    Ok(Scatter { targets, block })
}

/// A copy of x with the updates in place; of two updates of one element the later one stays.
///
/// # Errors
/// `Shape` if the plan was made for other operands.
pub fn scatter_copy(x: &Tensor, updates: &Tensor, plan: &Scatter) -> Result<Tensor> {
    let (e, u) = (elements(x), elements(updates));
    let mut bytes = e.bytes.to_vec();
    let len = plan.block * e.size;
    if len > 0 {
        for (&target, update) in plan.targets.iter().zip(u.bytes.chunks_exact(len)) {
            let at = target * e.size;
            bytes
                .get_mut(at..at + len)
                .ok_or_else(|| shape_error("an update lies outside the tensor"))?
                .copy_from_slice(update);
        }
    }
    assemble(x.dtype(), x.shape(), bytes)
}

/// OneHot: `values[1]` where the new axis' index equals the (wrapped) index, else `values[0]`; an index out of
/// `[-depth, depth)` is off everywhere.
///
/// # Errors
/// `Shape` if `values` is not two elements or the axis is out of range, `Value` for a negative depth.
pub fn one_hot(indices: &[i64], shape: &[usize], depth: i64, values: &Tensor, axis: i64) -> Result<Tensor> {
    if values.shape() != [2] {
        return Err(shape_error(format!("values must be [off, on], found shape {:?}", values.shape())));
    }
    let axis = axis_index(axis, shape.len() + 1)?;
    let n = usize::try_from(depth).map_err(|_| value_error(format!("depth is {depth}")))?;
    let mut out = shape.to_vec();
    out.insert(axis, n);
    checked_len(values.dtype(), &out)?;
    let v = elements(values);
    let (off, on) = v.bytes.split_at(v.size);
    let mut bytes = zeroed(v.size, &out)?;
    for cell in bytes.chunks_exact_mut(v.size) {
        cell.copy_from_slice(off);
    }
    let inner = product(&shape[axis..]);
    for (at, &index) in indices.iter().enumerate() {
        if let Ok(i) = wrap(index, n) {
            let cell = ((at / inner.max(1)) * n + i) * inner + at % inner.max(1);
            bytes[cell * v.size..(cell + 1) * v.size].copy_from_slice(on);
        }
    }
    assemble(values.dtype(), &out, bytes)
}
