//! Ops that work on whole rows: reductions, softmax and the unfused norms.
//!
//! The axes concerned are brought to the end first (for nearly every op they are there already), so that a row is a
//! slice. Sums are the canonical tree of `num::row_sum`. Rows are independent and run in parallel.

use normfuse_ir::{
    DType, Error, ErrorKind, Result, Tensor,
    eval::movement,
    fused::Root,
    num,
    op::{CastBack, ReduceOp},
    scheme::F32,
};
use rayon::prelude::*;

use super::{
    broadcast::CHUNK,
    buf::{Float, numel, tensor, view, zeros},
    convert::{round_row, to_f32},
    math::{Wide, with_float, with_narrow},
};

/// An axis counted from the front.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize> {
    let positive = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    positive
        .and_then(|a| usize::try_from(a).ok())
        .filter(|&a| a < rank)
        .ok_or_else(|| Error::new(ErrorKind::Shape, format!("axis {axis} of a tensor with {rank} axes")))
}

/// Moves `axes` behind the others, both in their order; the tensor itself if they are there.
fn to_back(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let rank = x.shape().len();
    let mut perm: Vec<i64> = (0..rank).filter(|a| !axes.contains(a)).map(|a| a as i64).collect();
    perm.extend(axes.iter().map(|a| *a as i64));
    if perm.is_sorted() { Ok(x.clone()) } else { movement::transpose(x, Some(&perm)) }
}

/// Calls `write` for blocks of rows of `width` elements that make `made` elements each.
fn by_rows<A: Sync, O: Send>(
    x: &[A],
    width: usize,
    out: &mut [O],
    made: usize,
    write: &(dyn Fn(&[A], &mut [O]) + Sync),
) {
    let rows = (CHUNK / width.max(1)).max(1);
    let work = |(out, x): (&mut [O], &[A])| {
        for (out, row) in out.chunks_exact_mut(made).zip(x.chunks_exact(width)) {
            write(row, out);
        }
    };
    out.par_chunks_mut(rows * made).zip(x.par_chunks(rows * width)).for_each(work);
}

/// A reduction of floats; `None` for what the reference evaluator does.
pub(super) fn reduce(op: ReduceOp, axes: Option<&[i64]>, keepdims: bool, x: &Tensor) -> Result<Option<Tensor>> {
    let rank = x.shape().len();
    let mut reduced = vec![axes.is_none(); rank];
    for axis in axes.unwrap_or_default() {
        reduced[axis_of(*axis, rank)?] = true;
    }
    let at_end: Vec<usize> = (0..rank).filter(|a| reduced[*a]).collect();
    let width = at_end.iter().map(|a| x.shape()[*a]).product::<usize>();
    if op == ReduceOp::Prod || x.is_empty() {
        return Ok(None);
    }
    let mut shape = Vec::with_capacity(rank);
    for (size, reduced) in x.shape().iter().zip(&reduced) {
        match (reduced, keepdims) {
            (false, _) => shape.push(*size),
            (true, true) => shape.push(1),
            (true, false) => {}
        }
    }
    with_float!(x.dtype(), T => {
        let x = to_back(x, &at_end)?;
        let mut out: Vec<T> = zeros(numel(&shape)?)?;
        by_rows(&view::<T>(&x)?, width, &mut out, 1, &|row, out| out[0] = reduce_row(op, row));
        tensor(T::DTYPE, &shape, out).map(Some)
    }, _ => Ok(None))
}

fn reduce_row<T: Float>(op: ReduceOp, row: &[T]) -> T {
    let row = T::widen(row);
    let squares = || T::Wide::row_sum(&row.iter().map(|v| *v * *v).collect::<Vec<_>>());
    let fold = |f: fn(T::Wide, T::Wide) -> T::Wide| row.iter().copied().reduce(f).unwrap_or(T::Wide::ZERO);
    T::down(match op {
        ReduceOp::Mean => T::Wide::row_sum(&row) / T::Wide::from_count(row.len()),
        ReduceOp::Sum => T::Wide::row_sum(&row),
        ReduceOp::SumSquare => squares(),
        ReduceOp::L2 => squares().sqrt(),
        ReduceOp::Max => fold(Wide::larger),
        ReduceOp::Min => fold(Wide::smaller),
        ReduceOp::Prod => row.iter().fold(T::Wide::ONE, |a, b| a * *b),
    })
}

/// Softmax along an axis, or its logarithm; `None` for dtypes without one.
pub(super) fn softmax(axis: i64, log: bool, x: &Tensor) -> Result<Option<Tensor>> {
    let rank = x.shape().len();
    let axis = axis_of(axis, rank)?;
    with_float!(x.dtype(), T => {
        let rows = to_back(x, &[axis])?;
        let width = x.shape()[axis];
        let mut out: Vec<T> = zeros(x.len())?;
        if !x.is_empty() {
            by_rows(&view::<T>(&rows)?, width, &mut out, width, &|row, out| {
                let mut row = T::widen(row).into_owned();
                softmax_row(&mut row, log);
                for (o, v) in out.iter_mut().zip(row) {
                    *o = T::down(v);
                }
            });
        }
        let out = tensor(T::DTYPE, rows.shape(), out)?;
        if axis + 1 == rank {
            return Ok(Some(out));
        }
        // The inverse: the last axis goes back between its old neighbours.
        let mut back: Vec<i64> = (0..rank as i64 - 1).collect();
        back.insert(axis, rank as i64 - 1);
        movement::transpose(&out, Some(&back)).map(Some)
    }, _ => Ok(None))
}

/// `exp(x - max) / sum`, or `x - max - log(sum)`, in place.
pub(super) fn softmax_row<W: Wide>(row: &mut [W], log: bool) {
    let Some(max) = row.iter().copied().reduce(Wide::larger) else { return };
    for v in &mut *row {
        *v = *v - max;
    }
    if log {
        let sum = W::row_sum(&row.iter().map(|v| v.exp()).collect::<Vec<_>>()).log();
        for v in row {
            *v = *v - sum;
        }
    } else {
        for v in &mut *row {
            *v = v.exp();
        }
        let sum = W::row_sum(row);
        for v in row {
            *v = *v / sum;
        }
    }
}

/// `RmsNorm`: the row as x's dtype, or as it is, times the scale, in the scale's dtype. `None` where stage one is not
/// f32, f16 or bf16, and for a scale that broadcasts.
pub(super) fn rms_norm(
    axis: i64,
    eps: F32,
    stash: DType,
    (root, cast): (Root, CastBack),
    x: &Tensor,
    scale: &Tensor,
) -> Result<Option<Tensor>> {
    let axis = axis_of(axis, x.shape().len())?;
    let normalised = &x.shape()[axis..];
    let stash_is_narrow = matches!(stash, DType::F32 | DType::F16 | DType::BF16);
    if !stash_is_narrow || x.is_empty() || scale.shape() != normalised {
        return Ok(None);
    }
    let width = numel(normalised)?;
    let rounded = |v: f32| num::round_to(stash, v);
    with_narrow!(x.dtype(), T => with_narrow!(scale.dtype(), S => {
        let mut factor = to_f32(scale)?.into_owned();
        let (cast_to, product) = match cast {
            CastBack::BeforeScale => (T::DTYPE, S::DTYPE),
            CastBack::AfterScale => {
                round_row(stash, &mut factor);
                (stash, stash)
            }
        };
        let mut out: Vec<S> = zeros(x.len())?;
        by_rows(&view::<T>(x)?, width, &mut out, width, &|row, out| {
            let mut row: Vec<f32> = row.iter().map(|v| v.up()).collect();
            round_row(stash, &mut row);
            let mut squares: Vec<f32> = row.iter().map(|v| v * v).collect();
            round_row(stash, &mut squares);
            let mean = rounded(num::row_sum(&squares) / width as f32);
            let v = rounded(mean + rounded(eps.get()));
            let divisor = rounded(v.sqrt());
            match root {
                Root::DivideBySqrt => {
                    for x in &mut row {
                        *x /= divisor;
                    }
                }
                Root::ReciprocalSqrt | Root::Rsqrt => {
                    let by = rounded(if root == Root::Rsqrt { num::rsqrt(v) } else { 1.0 / divisor });
                    for x in &mut row {
                        *x *= by;
                    }
                }
            }
            round_row(stash, &mut row);
            round_row(cast_to, &mut row);
            for ((o, v), w) in out.iter_mut().zip(row).zip(&factor) {
                *o = S::down(num::round_to(product, v * w));
            }
        });
        tensor(S::DTYPE, x.shape(), out).map(Some)
    }, _ => Ok(None)), _ => Ok(None))
}
