//! `Slice`: bounds may be negative, past the end, or expressions.

use super::args::{Args, show, tensor};
use crate::{DType, Dim, ErrorKind, Result, Type};

/// A bound at least this far out means "to the end" on an axis whose size is an expression (ONNX recommends INT_MAX).
const FAR: i64 = i32::MAX as i64;

pub(super) fn slice(args: &Args<'_>) -> Result<Type> {
    for port in 1..5 {
        args.expect_index(port)?;
        args.expect_rank(port, 1)?;
    }
    args.same_dtype(&[1, 2, 3, 4])?;
    let dtype: Option<DType> = args.dtype(0);
    let Some(x) = args.shape(0) else { return Ok(tensor(dtype, None)) };
    let unknown = |axes: &[usize]| {
        let mut shape = x.to_vec();
        for a in axes {
            shape[*a] = args.fresh(0, *a);
        }
        Ok(tensor(dtype, Some(shape)))
    };
    let (starts, ends) = (args.contents(1), args.contents(2));
    let Some(count) = starts.as_ref().or(ends.as_ref()).map(Vec::len) else {
        return unknown(&(0..x.len()).collect::<Vec<_>>());
    };
    let axes = match (args.present(3), args.numbers(3)) {
        (false, _) => (0..count.min(x.len())).collect(),
        (true, Some(a)) => args.axes(&a, x.len())?,
        (true, None) => return unknown(&(0..x.len()).collect::<Vec<_>>()),
    };
    let lengths = [(1, starts.as_ref().map(Vec::len)), (2, ends.as_ref().map(Vec::len)), (3, Some(axes.len()))];
    if let Some((port, n)) = lengths.iter().find_map(|(p, n)| n.filter(|n| *n != count).map(|n| (*p, n))) {
        return Err(args.shape_error(port, format!("expected {count} bounds, found {n} for {}", show(x))));
    }
    let steps = match (args.present(4), args.known(4)) {
        (false, _) => Some(vec![1; count]),
        (true, Some(_)) => args.numbers(4),
        (true, None) => None,
    };
    let (Some(starts), Some(ends), Some(steps)) = (starts, ends, steps) else { return unknown(&axes) };
    if steps.len() != count {
        return Err(args.shape_error(4, format!("expected {count} steps, found {}", steps.len())));
    }
    if steps.contains(&0) {
        return Err(args.error(ErrorKind::Value, 4, "expected a step that is not 0"));
    }
    let mut shape = x.to_vec();
    for (i, &axis) in axes.iter().enumerate() {
        shape[axis] = length(&x[axis], &starts[i], &ends[i], steps[i]).unwrap_or_else(|| args.fresh(0, axis));
    }
    Ok(tensor(dtype, Some(shape)))
}

/// A bound counted from the front; `None` if its sign is unknown.
fn from_front(bound: &Dim, size: &Dim) -> Option<Dim> {
    if bound.min_value() >= Some(0) {
        Some(bound.clone())
    } else if bound.max_value().is_some_and(|v| v < 0) {
        Some(size + bound)
    } else {
        None
    }
}

/// Number of elements between two bounds.
fn length(size: &Dim, start: &Dim, end: &Dim, step: i64) -> Option<Dim> {
    if let (Some(size), Some(start), Some(end)) = (size.as_const(), start.as_const(), end.as_const()) {
        return Some(Dim::from(count(size, start, end, step)));
    }
    if step < 0 {
        // Only the reversal of a whole axis has a simple length.
        let whole = start.as_const().is_some_and(|s| s == -1 || s >= FAR) && end.as_const().is_some_and(|e| e <= -FAR);
        return whole.then(|| steps_in(size, step.checked_neg()?)).flatten();
    }
    let zero = Dim::from(0);
    let end =
        if end.as_const().is_some_and(|e| e >= FAR) { size.clone() } else { from_front(end, size)?.minimum(size) };
    // The end is at most the size and the start at least 0, so that clamping start above or end below changes nothing.
    let start = match start.as_const() {
        Some(s) if s <= -FAR => zero.clone(),
        Some(s) if s >= FAR => return Some(zero),
        _ => from_front(start, size)?.maximum(&zero),
    };
    steps_in(&(&end - &start).maximum(&zero), step)
}

/// `ceil(length / step)`.
fn steps_in(length: &Dim, step: i64) -> Option<Dim> {
    if step == 1 {
        return Some(length.clone());
    }
    Some((length + &Dim::from(step.checked_sub(1)?)).floor_div(&Dim::from(step)))
}

/// The same of numbers, exactly, in arithmetic that cannot overflow.
pub(super) fn count(size: i64, start: i64, end: i64, step: i64) -> i64 {
    let (n, s) = (i128::from(size), i128::from(step));
    let front = |b: i64| if b < 0 { i128::from(b) + n } else { i128::from(b) };
    let (from, to) = if s > 0 {
        (front(start).clamp(0, n), front(end).clamp(0, n))
    } else {
        (front(start).clamp(-1, n - 1), front(end).clamp(-1, n - 1))
    };
    let span = if s > 0 { to - from } else { from - to };
    let steps = (span.max(0) + s.abs() - 1) / s.abs();
    i64::try_from(steps).unwrap_or(0)
}

/// Elements that a slice of a short vector takes.
pub(super) fn indices(size: usize, start: i64, end: i64, step: i64) -> Vec<usize> {
    let n = size as i128;
    let front = if start < 0 { i128::from(start) + n } else { i128::from(start) };
    let first = if step > 0 { front.clamp(0, n) } else { front.clamp(-1, n - 1) };
    (0..count(size as i64, start, end, step))
        .filter_map(|i| usize::try_from(first + i128::from(i) * i128::from(step)).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_agree_with_python() {
        let python = |n: i64, s: i64, e: i64, k: i64| -> Vec<usize> {
            // numpy's rule, one element at a time.
            let (lo, hi) = if k > 0 { (0, n) } else { (-1, n - 1) };
            let fix = |b: i64| (if b < 0 { b + n } else { b }).clamp(lo, hi);
            let (mut i, e) = (fix(s), fix(e));
            let mut out = Vec::new();
            while (k > 0 && i < e) || (k < 0 && i > e) {
                out.push(i as usize);
                i += k;
            }
            out
        };
        for n in 0..5 {
            for s in -7..7 {
                for e in -7..7 {
                    for k in [-3, -2, -1, 1, 2, 3] {
                        let want = python(n, s, e, k);
                        assert_eq!(indices(n as usize, s, e, k), want, "{n} {s} {e} {k}");
                        assert_eq!(count(n, s, e, k), want.len() as i64);
                    }
                }
            }
        }
        assert_eq!(count(4, i64::MIN, i64::MAX, 1), 4);
        assert_eq!(count(4, i64::MAX, i64::MIN, i64::MIN), 1);
    }

    #[test]
    fn expressions_agree_with_numbers() {
        let bounds = ["0", "1", "3", "-1", "-2", "2147483647", "-2147483648", "a", "a + 1", "b", "a - 1", "-a"];
        for size in ["a", "a + 1", "4", "2*a"] {
            for start in bounds {
                for end in bounds {
                    for step in [1, 2, 3, -1] {
                        let d = |s: &str| s.parse::<Dim>().unwrap();
                        let Some(found) = length(&d(size), &d(start), &d(end), step) else { continue };
                        for (a, b) in [(1, 1), (1, 2), (2, 1), (3, 5), (7, 2)] {
                            let bind = |s: &str| Some(if s == "a" { a } else { b });
                            let at = |s: &str| d(s).eval(&bind).unwrap();
                            let want = count(at(size), at(start), at(end), step);
                            assert_eq!(found.eval(&bind), Some(want), "[{start}:{end}:{step}] of {size}: {found}");
                        }
                    }
                }
            }
        }
    }
}
