//! Ops that move data: shapes change, elements do not.

use super::args::{Args, show, tensor};
use crate::{Dim, ErrorKind, Result, Type};

/// The product of `num` over that of `den`, which the op promises to be whole; `None` if it cannot be, or has no value.
fn ratio(num: &[Dim], den: &[Dim]) -> Option<Dim> {
    // Equal sizes cancel before anything is multiplied: a sum stays a sum.
    let mut num = num.to_vec();
    let mut rest = Vec::new();
    for d in den {
        match num.iter().position(|n| n == d && !n.is_collapsed()) {
            Some(i) => {
                num.swap_remove(i);
            }
            None => rest.push(d.clone()),
        }
    }
    let (n, d) = (Dim::product(&num), Dim::product(&rest));
    match (n.as_const(), d.as_const()) {
        (_, Some(0)) => None,
        (Some(n), Some(d)) => (n % d == 0).then(|| Dim::from(n / d)),
        _ => Some(n.floor_div(&d)),
    }
}

/// Cancelling a size of 0 on both sides would conclude anything.
fn never_zero(dims: &[Dim]) -> bool {
    dims.iter().all(|d| d.min_value() >= Some(1) || d.has_unknown())
}

pub(super) fn reshape(args: &Args<'_>, allow_zero: bool) -> Result<Type> {
    args.expect_i64(1)?;
    args.expect_rank(1, 1)?;
    let dtype = args.dtype(0);
    let Some(target) = args.contents(1) else { return Ok(tensor(dtype, None)) };
    let x = args.shape(0);
    let value = |message: String| args.error(ErrorKind::Value, 1, message);
    let mut shape = Vec::with_capacity(target.len());
    // The one element that follows from the number of elements: a -1, or the only one that nothing is known of.
    let mut free: Option<usize> = None;
    let mut open = 0;
    for (i, d) in target.iter().enumerate() {
        shape.push(match d.as_const() {
            Some(-1) => {
                if free.replace(i).is_some() {
                    return Err(value(format!("expected at most one -1, found {}", show(&target))));
                }
                args.fresh(0, i)
            }
            Some(0) if !allow_zero => match x {
                Some(x) => {
                    let d = x.get(i).cloned();
                    d.ok_or_else(|| value(format!("a 0 at {i} copies a size of {}, which has none there", show(x))))?
                }
                None => args.fresh(0, i),
            },
            Some(c) if c < -1 => return Err(value(format!("expected a size, 0 or -1 at {i}, found {c}"))),
            Some(_) => d.clone(),
            // A computed -1 means the rest, and a computed 0 a copy: of a size that is then 0 itself, if it is this one.
            None if d.min_value() >= Some(1) => d.clone(),
            None if d.min_value() >= Some(0) && (allow_zero || x.and_then(|x| x.get(i)) == Some(d)) => d.clone(),
            None => {
                open += 1;
                args.fresh(0, i)
            }
        });
    }
    if free.is_none() && open == 1 {
        free = (0..shape.len()).find(|i| shape[*i] == args.fresh(0, *i));
    } else if open > 0 {
        return Ok(tensor(dtype, Some(shape)));
    }
    let Some(x) = x else { return Ok(tensor(dtype, Some(shape))) };
    if let Some(i) = free {
        let mut others = shape.clone();
        others.remove(i);
        if never_zero(&others) {
            shape[i] = match ratio(x, &others) {
                Some(d) => d,
                None => {
                    return Err(args.shape_error(1, format!("{} does not reshape to {}", show(x), show(&target))));
                }
            };
        }
    } else if let (Some(n), Some(m)) = (Dim::product(x).as_const(), Dim::product(&shape).as_const())
        && n != m
    {
        let found = format!("expected {n} elements as {} has, found {} with {m}", show(x), show(&target));
        return Err(args.shape_error(1, found));
    }
    Ok(tensor(dtype, Some(shape)))
}

pub(super) fn squeeze(args: &Args<'_>, axes: Option<&[i64]>) -> Result<Type> {
    let Some(x) = args.shape(0) else { return Ok(tensor(args.dtype(0), None)) };
    let Some(axes) = axes else {
        // Which axes go depends on every size: the rank is only known if all are.
        let all = x.iter().all(|d| d.as_const().is_some() || d.min_value() >= Some(2));
        let kept = x.iter().filter(|d| d.as_const() != Some(1)).cloned().collect();
        return Ok(tensor(args.dtype(0), all.then_some(kept)));
    };
    let mut gone = vec![false; x.len()];
    for axis in args.axes(axes, x.len())? {
        if x[axis].as_const().is_some_and(|c| c != 1) {
            return Err(args.shape_error(0, format!("expected size 1 at axis {axis}, found {}", show(x))));
        }
        gone[axis] = true;
    }
    let kept = x.iter().zip(gone).filter(|(_, gone)| !gone).map(|(d, _)| d.clone()).collect();
    Ok(tensor(args.dtype(0), Some(kept)))
}

pub(super) fn unsqueeze(args: &Args<'_>, axes: &[i64]) -> Result<Type> {
    let Some(x) = args.shape(0) else { return Ok(tensor(args.dtype(0), None)) };
    let rank = x.len() + axes.len();
    let mut added = vec![false; rank];
    args.axes(axes, rank)?.into_iter().for_each(|a| added[a] = true);
    let mut rest = x.iter().cloned();
    let shape = added.into_iter().filter_map(|new| if new { Some(Dim::from(1)) } else { rest.next() }).collect();
    Ok(tensor(args.dtype(0), Some(shape)))
}

pub(super) fn flatten(args: &Args<'_>, axis: i64) -> Result<Type> {
    let Some(x) = args.shape(0) else { return Ok(tensor(args.dtype(0), None)) };
    let (outer, inner) = x.split_at(args.split_point(axis, x.len())?);
    Ok(tensor(args.dtype(0), Some(vec![Dim::product(outer), Dim::product(inner)])))
}

pub(super) fn transpose(args: &Args<'_>, perm: Option<&[i64]>) -> Result<Type> {
    let Some(x) = args.shape(0) else { return Ok(tensor(args.dtype(0), None)) };
    let Some(perm) = perm else { return Ok(tensor(args.dtype(0), Some(x.iter().rev().cloned().collect()))) };
    if perm.len() != x.len() {
        let found = format!("expected a permutation of {} axes, found {perm:?}", x.len());
        return Err(args.shape_error(0, found));
    }
    let shape = args.axes(perm, x.len())?.into_iter().map(|a| x[a].clone()).collect();
    Ok(tensor(args.dtype(0), Some(shape)))
}

pub(super) fn expand(args: &Args<'_>) -> Result<Type> {
    args.expect_i64(1)?;
    args.expect_rank(1, 1)?;
    let (Some(x), Some(target)) = (args.shape(0), args.contents(1)) else { return Ok(tensor(args.dtype(0), None)) };
    if let Some((i, c)) = target.iter().enumerate().find_map(|(i, d)| Some((i, d.as_const().filter(|c| *c < 0)?))) {
        return Err(args.error(ErrorKind::Value, 1, format!("expected a size at {i}, found {c}")));
    }
    // An unknown element is named after the operand: it is not a size of the result.
    let target: Vec<Dim> = target.iter().enumerate().map(|(i, d)| args.size(d, 1000, i)).collect();
    Ok(tensor(args.dtype(0), Some(args.broadcast_two(x, &target, 1, 0)?)))
}

pub(super) fn tile(args: &Args<'_>) -> Result<Type> {
    args.expect_i64(1)?;
    args.expect_rank(1, 1)?;
    let Some(x) = args.shape(0) else { return Ok(tensor(args.dtype(0), None)) };
    let Some(repeats) = args.contents(1) else {
        return Ok(tensor(args.dtype(0), Some((0..x.len()).map(|i| args.fresh(0, i)).collect())));
    };
    if repeats.len() != x.len() {
        return Err(args.shape_error(1, format!("expected {} repeats, found {}", x.len(), repeats.len())));
    }
    let shape = x.iter().zip(&repeats).enumerate().map(|(i, (d, r))| match r.as_const() {
        Some(c) if c < 0 => Err(args.error(ErrorKind::Value, 1, format!("expected a number of repeats, found {c}"))),
        _ if r.min_value() >= Some(0) => Ok(d * r),
        _ => Ok(args.fresh(0, i)),
    });
    Ok(tensor(args.dtype(0), Some(shape.collect::<Result<_>>()?)))
}

pub(super) fn concat(args: &Args<'_>, axis: i64) -> Result<Type> {
    let ports: Vec<usize> = (0..args.len()).collect();
    let dtype = args.same_dtype(&ports)?;
    let Some(rank) = ports.iter().find_map(|p| args.shape(*p)).map(<[Dim]>::len) else {
        return Ok(tensor(dtype, None));
    };
    let axis = args.axis(axis, rank)?;
    let mut shape: Option<Vec<Dim>> = None;
    let mut all = true;
    let mut total = Dim::from(0);
    for &port in &ports {
        args.expect_rank(port, rank)?;
        let Some(s) = args.shape(port) else {
            all = false;
            continue;
        };
        total = &total + &s[axis];
        shape = Some(match shape {
            None => s.to_vec(),
            Some(mut acc) => {
                for i in (0..rank).filter(|i| *i != axis) {
                    if acc[i] != s[i] {
                        acc[i] = args.unify(port, &acc[i], &s[i], || format!("axis {i} of {}", show(s)))?;
                    }
                }
                acc
            }
        });
    }
    if let Some(s) = &mut shape {
        s[axis] = if all { total } else { args.fresh(0, axis) };
    }
    Ok(tensor(dtype, shape))
}

pub(super) fn split(args: &Args<'_>, axis: i64, outputs: usize) -> Result<Vec<Type>> {
    args.expect_i64(1)?;
    args.expect_rank(1, 1)?;
    let dtype = args.dtype(0);
    let Some(x) = args.shape(0) else { return Ok(vec![tensor(dtype, None); outputs]) };
    let axis = args.axis(axis, x.len())?;
    let whole = &x[axis];
    let sizes: Vec<Dim> = if args.present(1) {
        match args.contents(1) {
            Some(sizes) => {
                if sizes.len() != outputs {
                    return Err(args.shape_error(1, format!("expected {outputs} sizes, found {}", sizes.len())));
                }
                let total = sizes.iter().fold(Dim::from(0), |n, d| &n + d);
                if let Some(c) = sizes.iter().filter_map(Dim::as_const).find(|c| *c < 0) {
                    return Err(args.error(ErrorKind::Value, 1, format!("expected sizes, found {c}")));
                }
                args.unify(1, whole, &total, || format!("sum of the sizes of axis {axis}"))?;
                sizes.iter().enumerate().map(|(o, d)| args.size(d, o, axis)).collect()
            }
            None => (0..outputs).map(|o| args.fresh(o, axis)).collect(),
        }
    } else {
        let n = Dim::from(outputs as i64);
        if let Some(chunk) = whole.div_exact(&n) {
            vec![chunk; outputs]
        } else {
            let chunk = (whole + &Dim::from(outputs as i64 - 1)).floor_div(&n);
            let last = whole - &(&chunk * &Dim::from(outputs as i64 - 1));
            if last.as_const().is_some_and(|c| c < 0) {
                return Err(args.shape_error(0, format!("a size of {whole} does not split into {outputs} parts")));
            }
            let mut sizes = vec![chunk; outputs];
            if let Some(slot) = sizes.last_mut() {
                *slot = args.size(&last, outputs - 1, axis);
            }
            sizes
        }
    };
    let part = |size: Dim| {
        let mut s = x.to_vec();
        s[axis] = size;
        tensor(dtype, Some(s))
    };
    Ok(sizes.into_iter().map(part).collect())
}

pub(super) fn pad(args: &Args<'_>) -> Result<Type> {
    let dtype = args.same_dtype(&[0, 2])?;
    args.expect_i64(1)?;
    args.expect_rank(1, 1)?;
    args.expect_one(2)?;
    args.expect_index(3)?;
    let Some(x) = args.shape(0) else { return Ok(tensor(dtype, None)) };
    let axes = match (args.present(3), args.numbers(3)) {
        (false, _) => Some((0..x.len()).collect()),
        (true, Some(a)) => Some(args.axes(&a, x.len())?),
        (true, None) => None,
    };
    let (Some(axes), Some(pads)) = (axes, args.known(1)) else {
        return Ok(tensor(dtype, Some((0..x.len()).map(|i| args.fresh(0, i)).collect())));
    };
    if pads.len() != 2 * axes.len() {
        return Err(args.shape_error(1, format!("expected {} pads, found {}", 2 * axes.len(), pads.len())));
    }
    let mut shape = x.to_vec();
    for (i, axis) in axes.iter().enumerate() {
        let padded = &(&x[*axis] + &pads[i]) + &pads[i + axes.len()];
        if let Some(c) = padded.as_const().filter(|c| *c < 0) {
            return Err(args.error(ErrorKind::Value, 1, format!("axis {axis} would get size {c}")));
        }
        shape[*axis] = args.size(&padded, 0, *axis);
    }
    Ok(tensor(dtype, Some(shape)))
}
