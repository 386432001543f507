//! Reductions, extremes, sorting and running sums. Reduced elements are taken in row-major order, and sums are the
//! canonical tree over them.

use super::{
    numbers::{Numbers, from_ints, from_numbers, one_int, unsupported},
    shape::{axis_index, axis_set, checked_len, offsets, shape_error, strides, value_error},
};
use crate::{DType, Result, Tensor, num, op::ReduceOp};

/// A tensor seen as groups of elements along some axes.
pub(crate) struct Groups {
    /// Offset of the first element of each group, in row-major order of the other axes.
    pub outer: Vec<usize>,
    /// Offsets within a group, in row-major order of the reduced axes.
    pub inner: Vec<usize>,
}

impl Groups {
    /// Groups along `axes` (sorted, distinct).
    pub fn along(shape: &[usize], axes: &[usize]) -> Result<Self> {
        checked_len(DType::F64, shape)?;
        let own = strides(shape);
        let pick = |reduced: bool| {
            let (dims, steps): (Vec<usize>, Vec<usize>) = shape
                .iter()
                .zip(&own)
                .enumerate()
                .filter(|(a, _)| axes.contains(a) == reduced)
                .map(|(_, (&d, &s))| (d, s))
                .unzip();
            offsets(&dims, &steps)
        };
        Ok(Self { outer: pick(false), inner: pick(true) })
    }

    /// Calls `f` with the elements of each group.
    pub fn map<T: Copy, R>(&self, values: &[T], mut f: impl FnMut(&[T]) -> R) -> Vec<R> {
        let mut group = Vec::with_capacity(self.inner.len());
        self.outer
            .iter()
            .map(|o| {
                group.clear();
                group.extend(self.inner.iter().map(|i| values[o + i]));
                f(&group)
            })
            .collect()
    }

    /// Rewrites every group in place with the values that `f` makes of it.
    pub fn rewrite<T: Copy>(&self, values: &mut [T], mut f: impl FnMut(&mut Vec<T>)) {
        let mut group = Vec::with_capacity(self.inner.len());
        for o in &self.outer {
            group.clear();
            group.extend(self.inner.iter().map(|i| values[o + i]));
            f(&mut group);
            for (i, v) in self.inner.iter().zip(&group) {
                values[o + i] = *v;
            }
        }
    }
}

fn reduced_shape(shape: &[usize], axes: &[usize], keepdims: bool) -> Vec<usize> {
    shape
        .iter()
        .enumerate()
        .filter(|(a, _)| keepdims || !axes.contains(a))
        .map(|(a, &d)| if axes.contains(&a) { 1 } else { d })
        .collect()
}

fn reduce_f32(op: ReduceOp, g: &[f32]) -> f32 {
    match op {
        ReduceOp::Mean => num::row_sum(g) / g.len() as f32,
        ReduceOp::Sum => num::row_sum(g),
        ReduceOp::SumSquare => num::row_sum_squares(g),
        ReduceOp::L2 => num::row_sum_squares(g).sqrt(),
        ReduceOp::Prod => g.iter().product(),
        ReduceOp::Max => g.iter().copied().reduce(num::max).unwrap_or(f32::NEG_INFINITY),
        ReduceOp::Min => g.iter().copied().reduce(num::min).unwrap_or(f32::INFINITY),
    }
}

fn reduce_f64(op: ReduceOp, g: &[f64]) -> f64 {
    match op {
        ReduceOp::Mean => num::row_sum_f64(g) / g.len() as f64,
        ReduceOp::Sum => num::row_sum_f64(g),
        ReduceOp::SumSquare => num::row_sum_squares_f64(g),
        ReduceOp::L2 => num::row_sum_squares_f64(g).sqrt(),
        ReduceOp::Prod => g.iter().product(),
        ReduceOp::Max => g.iter().copied().reduce(num::max_f64).unwrap_or(f64::NEG_INFINITY),
        ReduceOp::Min => g.iter().copied().reduce(num::min_f64).unwrap_or(f64::INFINITY),
    }
}

/// Smallest and largest value of an integer dtype (bool: 0 and 1).
pub(crate) fn int_limits(dtype: DType) -> (i128, i128) {
    match dtype.bits() as u32 {
        _ if dtype == DType::Bool => (0, 1),
        bits if dtype.is_unsigned_int() => (0, (1 << bits) - 1),
        bits => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
    }
}

fn reduce_int(op: ReduceOp, dtype: DType, g: &[i128]) -> Option<i128> {
    let sum = |f: fn(i128) -> i128| g.iter().fold(0i128, |a, &v| a.wrapping_add(f(v)));
    Some(match op {
        // The exact sum, divided toward zero.
        ReduceOp::Mean => sum(|v| v).checked_div(g.len() as i128)?,
        ReduceOp::Sum => sum(|v| v),
        ReduceOp::SumSquare => sum(|v| v.wrapping_mul(v)),
        ReduceOp::Prod => g.iter().fold(1i128, |a, &v| a.wrapping_mul(v)),
        ReduceOp::Max => g.iter().copied().max().unwrap_or(int_limits(dtype).0),
        ReduceOp::Min => g.iter().copied().min().unwrap_or(int_limits(dtype).1),
        ReduceOp::L2 => return None,
    })
}

/// Reduces axes (all if `None`).
///
/// # Errors
/// `Shape` if an axis is out of range, `DType` if the op has no meaning for the operand's.
pub fn reduce(op: ReduceOp, x: &Tensor, axes: Option<&[i64]>, keepdims: bool) -> Result<Tensor> {
    let (dtype, shape) = (x.dtype(), x.shape());
    let axes = axes.map_or_else(|| Ok((0..shape.len()).collect()), |a| axis_set(a, shape.len()))?;
    let out = reduced_shape(shape, &axes, keepdims);
    let groups = Groups::along(shape, &axes)?;
    let result = match Numbers::of(x) {
        Numbers::F32(v) => Numbers::F32(groups.map(&v, |g| reduce_f32(op, g))),
        Numbers::F64(v) => Numbers::F64(groups.map(&v, |g| reduce_f64(op, g))),
        Numbers::Int(_) if dtype == DType::Bool && !matches!(op, ReduceOp::Max | ReduceOp::Min) => {
            return Err(unsupported(dtype));
        }
        Numbers::Int(v) => {
            let values: Option<Vec<i128>> = groups.map(&v, |g| reduce_int(op, dtype, g)).into_iter().collect();
            Numbers::Int(values.ok_or_else(|| unsupported(dtype))?)
        }
    };
    from_numbers(dtype, &out, &result)
}

/// A total order in which NaN is the largest value and the zeros are equal.
fn order_f64(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Values that compare as the tensor's do: floats in f64, which holds all of ours but needs no rounding.
enum Keys {
    Float(Vec<f64>),
    Int(Vec<i128>),
}

impl Keys {
    fn of(x: &Tensor) -> Self {
        match Numbers::of(x) {
            Numbers::F32(v) => Self::Float(v.into_iter().map(f64::from).collect()),
            Numbers::F64(v) => Self::Float(v),
            Numbers::Int(v) => Self::Int(v),
        }
    }

    fn compare(&self, i: usize, j: usize) -> std::cmp::Ordering {
        match self {
            Self::Float(v) => order_f64(v[i], v[j]),
            Self::Int(v) => v[i].cmp(&v[j]),
        }
    }

    fn is_nan(&self, i: usize) -> bool {
        matches!(self, Self::Float(v) if v[i].is_nan())
    }
}

/// Index of the extreme along an axis. A NaN is the extreme wherever there is one, largest or smallest.
///
/// # Errors
/// `Shape` if the axis is out of range or empty.
pub fn arg_reduce(x: &Tensor, max: bool, axis: i64, keepdims: bool, select_last: bool) -> Result<Tensor> {
    let axis = axis_index(axis, x.shape().len())?;
    if x.shape()[axis] == 0 {
        return Err(shape_error(format!("axis {axis} is empty and has no extreme")));
    }
    let keys = Keys::of(x);
    let groups = Groups::along(x.shape(), &[axis])?;
    let better = |new: usize, old: usize| {
        let by_value = match (keys.is_nan(new), keys.is_nan(old)) {
            (false, false) if max => keys.compare(new, old),
            (false, false) => keys.compare(old, new),
            (a, b) => a.cmp(&b),
        };
        by_value.is_gt() || (by_value.is_eq() && select_last)
    };
    let picks: Vec<i128> = groups
        .outer
        .iter()
        .map(|o| {
            let best = (1..groups.inner.len())
                .fold(0, |best, i| if better(o + groups.inner[i], o + groups.inner[best]) { i } else { best });
            best as i128
        })
        .collect();
    from_ints(DType::I64, &reduced_shape(x.shape(), &[axis], keepdims), &picks)
}

/// The k extremes along an axis, best first; ties by the lower index. NaN counts as the largest value.
///
/// # Errors
/// `Shape` if the axis is out of range, `Value` if k is negative or more than there is.
pub fn top_k(x: &Tensor, k: &Tensor, axis: i64, largest: bool) -> Result<[Tensor; 2]> {
    let axis = axis_index(axis, x.shape().len())?;
    let n = x.shape()[axis];
    let k = one_int(k)?;
    let k = usize::try_from(k)
        .ok()
        .filter(|&k| k <= n)
        .ok_or_else(|| value_error(format!("k is {k}, but axis {axis} has {n} elements")))?;
    let keys = Keys::of(x);
    let groups = Groups::along(x.shape(), &[axis])?;
    let mut out = x.shape().to_vec();
    out[axis] = k;
    let places = Groups::along(&out, &[axis])?;
    let mut indices = vec![0i128; checked_len(DType::I64, &out)?];
    for (from, to) in groups.outer.iter().zip(&places.outer) {
        let mut order: Vec<usize> = (0..n).collect();
        // A stable sort keeps the lower index first among equals.
        order.sort_by(|&i, &j| {
            let by_value = keys.compare(from + groups.inner[i], from + groups.inner[j]);
            if largest { by_value.reverse() } else { by_value }
        });
        for (slot, pick) in places.inner.iter().zip(order) {
            indices[to + slot] = pick as i128;
        }
    }
    let indices = from_ints(DType::I64, &out, &indices)?;
    Ok([super::movement::gather_elements(x, &indices, axis as i64)?, indices])
}

/// Running sum along an axis, in order; each output is rounded once.
///
/// # Errors
/// `Shape` if the axis is out of range, `DType` for bool and the narrow floats.
pub fn cum_sum(x: &Tensor, axis: &Tensor, exclusive: bool, reverse: bool) -> Result<Tensor> {
    fn run<T: Copy + Default>(g: &mut [T], exclusive: bool, reverse: bool, add: impl Fn(T, T) -> T) {
        let mut sum = None;
        let n = g.len();
        for i in 0..n {
            let at = if reverse { n - 1 - i } else { i };
            let with = sum.map_or(g[at], |s| add(s, g[at]));
            g[at] = if exclusive { sum.unwrap_or_default() } else { with };
            sum = Some(with);
        }
    }
    let axis = axis_index(one_int(axis)?, x.shape().len())?;
    if x.dtype() == DType::Bool {
        return Err(unsupported(x.dtype()));
    }
    let groups = Groups::along(x.shape(), &[axis])?;
    let mut values = Numbers::of(x);
    match &mut values {
        Numbers::F32(v) => groups.rewrite(v, |g| run(g, exclusive, reverse, |a, b| a + b)),
        Numbers::F64(v) => groups.rewrite(v, |g| run(g, exclusive, reverse, |a, b| a + b)),
        Numbers::Int(v) => groups.rewrite(v, |g| run(g, exclusive, reverse, i128::wrapping_add)),
    }
    from_numbers(x.dtype(), x.shape(), &values)
}
