//! Ops that index, and ops that make tensors from sizes.

use super::args::{Args, show, tensor};
use crate::{DType, Dim, ErrorKind, Result, Type};

/// The axes `[start, end)` of a rank that `Shape` reads.
pub(super) fn shape_axes(rank: usize, start: i64, end: Option<i64>) -> (usize, usize) {
    let n = rank as i64;
    let fix = |b: i64| (if b < 0 { b.saturating_add(n) } else { b }).clamp(0, n) as usize;
    let (start, end) = (fix(start), end.map_or(rank, fix));
    (start.min(end), end)
}

pub(super) fn shape(args: &Args<'_>, start: i64, end: Option<i64>) -> Type {
    let count = match args.shape(0) {
        Some(x) => {
            let (start, end) = shape_axes(x.len(), start, end);
            Dim::from((end - start) as i64)
        }
        None => args.fresh(0, 0),
    };
    tensor(Some(DType::I64), Some(vec![count]))
}

pub(super) fn range(args: &Args<'_>) -> Result<Type> {
    for port in 0..3 {
        args.expect(
            port,
            |d| matches!(d, DType::I16 | DType::I32 | DType::I64) || d.is_arithmetic_float(),
            "i16, i32, i64 or a float",
        )?;
        args.expect_one(port)?;
    }
    let dtype = args.same_dtype(&[0, 1, 2])?;
    let unknown = || args.fresh(0, 0);
    let (Some(start), Some(limit), Some(delta)) = (args.scalar(0), args.scalar(1), args.scalar(2)) else {
        return Ok(tensor(dtype, Some(vec![unknown()])));
    };
    let zero = Dim::from(0);
    let length = match delta.as_const() {
        Some(0) => return Err(args.error(ErrorKind::Value, 2, "expected a step that is not 0")),
        Some(k) => {
            let span = if k > 0 { limit - start } else { start - limit };
            match k.checked_abs() {
                Some(1) => span.maximum(&zero),
                Some(k) => (&span.maximum(&zero) + &Dim::from(k - 1)).floor_div(&Dim::from(k)),
                None => unknown(),
            }
        }
        None => unknown(),
    };
    Ok(tensor(dtype, Some(vec![args.size(&length, 0, 0)])))
}

pub(super) fn constant_of_shape(args: &Args<'_>, dtype: DType) -> Result<Type> {
    args.expect_i64(0)?;
    args.expect_rank(0, 1)?;
    let Some(sizes) = args.contents(0) else { return Ok(tensor(Some(dtype), None)) };
    if let Some(c) = sizes.iter().filter_map(Dim::as_const).find(|c| *c < 0) {
        return Err(args.error(ErrorKind::Value, 0, format!("expected sizes, found {c}")));
    }
    let shape = sizes.iter().enumerate().map(|(i, d)| args.size(d, 0, i)).collect();
    Ok(tensor(Some(dtype), Some(shape)))
}

pub(super) fn gather(args: &Args<'_>, axis: i64) -> Result<Type> {
    args.expect_index(1)?;
    let (Some(x), Some(indices)) = (args.shape(0), args.shape(1)) else { return Ok(tensor(args.dtype(0), None)) };
    let axis = args.axis(axis, x.len())?;
    if let (Some(n), Some(numbers)) = (x[axis].as_const(), args.numbers(1))
        && let Some(i) = numbers.into_iter().find(|i| *i >= n || *i < -n)
    {
        return Err(args.error(ErrorKind::Value, 1, format!("expected an index from -{n} to {}, found {i}", n - 1)));
    }
    let shape = x[..axis].iter().chain(indices).chain(&x[axis + 1..]).cloned().collect();
    Ok(tensor(args.dtype(0), Some(shape)))
}

pub(super) fn gather_elements(args: &Args<'_>, axis: i64) -> Result<Type> {
    args.expect_index(1)?;
    let indices = args.shape(1);
    if let Some(x) = args.shape(0) {
        args.expect_rank(1, x.len())?;
        args.axis(axis, x.len())?;
    }
    Ok(tensor(args.dtype(0), indices.map(<[Dim]>::to_vec)))
}

/// What an N-D index picks: `indices` without its last axis, then the axes of x that neither it nor the batch covers.
fn picked(args: &Args<'_>, batch: usize) -> Result<Option<Vec<Dim>>> {
    args.expect_i64(1)?;
    let (Some(x), Some(indices)) = (args.shape(0), args.shape(1)) else { return Ok(None) };
    let Some((depth, outer)) = indices.split_last() else {
        return Err(args.shape_error(1, "expected rank 1 or more, found a scalar"));
    };
    if batch > outer.len() || batch > x.len() {
        let found = format!("expected {batch} batch axes in {} and {}", show(x), show(indices));
        return Err(args.shape_error(1, found));
    }
    for i in 0..batch {
        args.unify(1, &x[i], &outer[i], || format!("batch axis {i}"))?;
    }
    let Some(depth) = depth.as_const() else { return Ok(None) };
    match usize::try_from(depth).ok().and_then(|d| x.get(batch.checked_add(d)?..)) {
        Some(rest) => Ok(Some(outer.iter().chain(rest).cloned().collect())),
        None => Err(args.shape_error(1, format!("indices of {depth} axes do not fit {}", show(x)))),
    }
}

pub(super) fn gather_nd(args: &Args<'_>, batch_dims: i64) -> Result<Type> {
    let batch = usize::try_from(batch_dims)
        .map_err(|_| args.shape_error(0, format!("batch_dims: expected 0 or more, found {batch_dims}")))?;
    Ok(tensor(args.dtype(0), picked(args, batch)?))
}

pub(super) fn scatter_elements(args: &Args<'_>, axis: i64) -> Result<Type> {
    args.expect_index(1)?;
    let dtype = args.same_dtype(&[0, 2])?;
    let x = args.shape(0);
    if let Some(x) = x {
        args.axis(axis, x.len())?;
        args.expect_rank(1, x.len())?;
    }
    if let Some(indices) = args.shape(1) {
        args.unify_shape(2, indices)?;
    }
    Ok(tensor(dtype, x.map(<[Dim]>::to_vec)))
}

pub(super) fn scatter_nd(args: &Args<'_>) -> Result<Type> {
    let dtype = args.same_dtype(&[0, 2])?;
    if let Some(updates) = picked(args, 0)? {
        args.unify_shape(2, &updates)?;
    }
    Ok(tensor(dtype, args.shape(0).map(<[Dim]>::to_vec)))
}

pub(super) fn one_hot(args: &Args<'_>, axis: i64) -> Result<Type> {
    args.expect(0, |d| d.is_int() || d.is_arithmetic_float(), "a number")?;
    args.expect(1, |d| d.is_int() || d.is_arithmetic_float(), "a number")?;
    args.expect_one(1)?;
    if let Some([n]) = args.shape(2) {
        args.unify(2, &Dim::from(2), n, || "off and on values".into())?;
    } else {
        args.expect_rank(2, 1)?;
    }
    let Some(indices) = args.shape(0) else { return Ok(tensor(args.dtype(2), None)) };
    let axis = args.axis(axis, indices.len() + 1)?;
    let depth = match args.scalar(1) {
        Some(d) if d.as_const().is_some_and(|c| c < 0) => {
            return Err(args.error(ErrorKind::Value, 1, format!("expected a size, found {d}")));
        }
        Some(d) => args.size(d, 0, axis),
        None => args.fresh(0, axis),
    };
    let mut shape = indices.to_vec();
    shape.insert(axis, depth);
    Ok(tensor(args.dtype(2), Some(shape)))
}

pub(super) fn non_zero(args: &Args<'_>) -> Type {
    let rank = args.shape(0).map_or_else(|| args.fresh(0, 0), |x| Dim::from(x.len() as i64));
    tensor(Some(DType::I64), Some(vec![rank, args.fresh(0, 1)]))
}

pub(super) fn trilu(args: &Args<'_>) -> Result<Type> {
    args.expect_i64(1)?;
    args.expect_one(1)?;
    match args.shape(0) {
        Some(x) if x.len() < 2 => Err(args.shape_error(0, format!("expected rank 2 or more, found {}", show(x)))),
        x => Ok(tensor(args.dtype(0), x.map(<[Dim]>::to_vec))),
    }
}
