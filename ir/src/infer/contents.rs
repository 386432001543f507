//! The contents of small integer tensors, as expressions: what exporters compute shapes with.

use super::{MAX_KNOWN, args::Args, element, index, slice::indices};
use crate::{
    DType, Dim, Op, Type,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

/// An element, if it can be told.
type Element = Option<Dim>;

/// The contents of a result of that type, if it is small and anything of it is known.
pub(super) fn of(args: &Args<'_>, port: usize, ty: &Type) -> Option<Box<[Dim]>> {
    let dtype = ty.dtype.filter(|d| d.is_int() || *d == DType::Bool)?;
    let shape = ty.shape.as_ref()?;
    let count = short(&shape.0)?;
    let elements = elements(args, port, count)?;
    if elements.len() != count {
        return None;
    }
    let elements: Vec<Element> = elements.into_iter().map(|d| d.and_then(|d| fit(dtype, d))).collect();
    if count > 0 && elements.iter().all(Option::is_none) {
        return None;
    }
    let named = |(i, d): (usize, Element)| d.unwrap_or_else(|| args.fresh_data(port, i));
    Some(elements.into_iter().enumerate().map(named).collect())
}

/// Number of elements of a shape, if it is a small number.
fn short(shape: &[Dim]) -> Option<usize> {
    let size = |d: &Dim| usize::try_from(d.as_const()?).ok();
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(size(d)?)).filter(|n| *n <= MAX_KNOWN)
}

/// The value, unless the dtype may wrap it. Expressions are sizes or made of sizes, which the 32-bit types are taken to
/// hold, as the exporter that chose the type did.
fn fit(dtype: DType, d: Dim) -> Element {
    if d.is_collapsed() {
        return None;
    }
    let fits = match (d.as_const(), dtype) {
        (_, DType::I64) | (None, DType::I32) => true,
        (Some(c), DType::Bool) => c == 0 || c == 1,
        (Some(c), DType::U64) => c >= 0,
        (Some(c), _) if dtype.is_signed_int() => (-1i64 << (dtype.bits() - 1)..1i64 << (dtype.bits() - 1)).contains(&c),
        (Some(c), _) => (0..1i64 << dtype.bits()).contains(&c),
        (None, DType::U64 | DType::U32) => d.min_value() >= Some(0),
        (None, _) => false,
    };
    fits.then_some(d)
}

fn elements(args: &Args<'_>, port: usize, count: usize) -> Option<Vec<Element>> {
    let all = |v: Vec<Dim>| Some(v.into_iter().map(Some).collect());
    // Row-major elements of an operand of any rank, or of a vector (or scalar).
    let flat = || args.flat(0);
    let x = || args.known(0);
    match args.op {
        Op::Unary(op) => Some(flat()?.iter().map(|d| unary(*op, d)).collect()),
        Op::Binary(op) => {
            args.known(0).or(args.known(1))?;
            let (a, b) = (args.contents(0)?, args.contents(1)?);
            (0..count).map(|i| Some(binary(*op, at(&a, i)?, at(&b, i)?))).collect()
        }
        Op::Cast { to, .. } => {
            let bool = |d: &Dim| d.equals(&Dim::from(0)).map(|zero| Dim::from(i64::from(!zero)));
            Some(flat()?.iter().map(|d| if *to == DType::Bool { bool(d) } else { Some(d.clone()) }).collect())
        }
        Op::Clip => {
            let bound = |port: usize| if args.present(port) { args.scalar(port).map(Some) } else { Some(None) };
            let (lo, hi) = (bound(1)?, bound(2)?);
            let clip = |d: &Dim| {
                let d = lo.map_or_else(|| d.clone(), |lo| d.maximum(lo));
                Some(hi.map_or_else(|| d.clone(), |hi| d.minimum(hi)))
            };
            Some(x()?.iter().map(clip).collect())
        }
        Op::Where => {
            let (c, a, b) = (args.known(0)?, args.contents(1)?, args.contents(2)?);
            (0..count).map(|i| Some(select(at(c, i)?, at(&a, i)?, at(&b, i)?))).collect()
        }
        Op::Reduce { op, axes, .. } if axes.as_ref().is_none_or(|a| !a.is_empty()) => Some(vec![reduce(*op, x()?)]),
        Op::Reshape { .. } | Op::Squeeze { .. } | Op::Unsqueeze { .. } | Op::Flatten { .. } => all(flat()?.to_vec()),
        Op::Transpose { perm } => transposed(flat()?, args.shape(0)?, perm.as_deref()),
        Op::OneHot { axis } => {
            let (picks, depth, values) = (args.numbers(0)?, args.scalar(1)?.as_const()?, args.known(2)?);
            let [off, on] = values else { return None };
            // One row an index; another axis than the last would interleave them.
            let last = *axis == -1 || args.shape(0)?.is_empty() || usize::try_from(*axis).ok() == Some(1);
            let row = |i: i64| (0..depth).map(move |d| if d == i || d == i.wrapping_add(depth) { on } else { off });
            last.then(|| picks.into_iter().flat_map(row).cloned().map(Some).collect())
        }
        Op::Expand => (0..count).map(|i| Some(Some(at(x()?, i)?.clone()))).collect(),
        Op::Tile => all(x()?.iter().cycle().take(if x()?.is_empty() { 0 } else { count }).cloned().collect()),
        Op::Concat { .. } => {
            (0..args.len()).find_map(|p| args.known(p))?;
            let parts: Option<Vec<_>> = (0..args.len()).map(|p| args.contents(p)).collect();
            all(parts?.concat())
        }
        Op::Split { outputs, .. } => {
            let (x, n) = (x()?, *outputs);
            let first: usize = if args.present(1) {
                let sizes = args.numbers(1)?;
                usize::try_from(sizes.get(..port)?.iter().try_fold(0i64, |n, s| n.checked_add(*s))?).ok()?
            } else {
                port * x.len().div_ceil(n.max(1))
            };
            all(x.get(first..first.checked_add(count)?)?.to_vec())
        }
        Op::Slice => {
            let (starts, ends) = (args.numbers(1)?, args.numbers(2)?);
            let axis = if args.present(3) { *args.numbers(3)?.first()? } else { 0 };
            let step = if args.present(4) { *args.numbers(4)?.first()? } else { 1 };
            let ([start], [end]) = (starts.as_slice(), ends.as_slice()) else { return None };
            let rank = args.shape(0)?.len();
            let (rows, width) = rows(flat()?, args.shape(0)?)?;
            if step == 0 || !(axis == 0 || axis.checked_add(rank as i64) == Some(0)) {
                return None;
            }
            let picks = indices(rows.len().checked_div(width)?, *start, *end, step);
            picks
                .into_iter()
                .map(|i| rows.get(i * width..(i + 1) * width))
                .collect::<Option<Vec<_>>>()
                .and_then(|r| all(r.concat()))
        }
        Op::Shape { start, end } => {
            let shape = args.shape(0)?;
            let (start, end) = index::shape_axes(shape.len(), *start, *end);
            all(shape.get(start..end)?.to_vec())
        }
        Op::Size => all(vec![args.shape(0)?.iter().fold(Dim::from(1), |n, d| &n * d)]),
        Op::Range => {
            let (start, delta) = (args.scalar(0)?, args.scalar(2)?);
            all((0..count).map(|i| start + &(delta * &Dim::from(i as i64))).collect())
        }
        Op::ConstantOfShape { dtype, value } => all(vec![Dim::from(element(*dtype, value)?); count]),
        Op::Gather { .. } | Op::GatherElements { .. } => {
            let (x, picks) = (x()?, args.numbers(1)?);
            let n = x.len() as i64;
            picks
                .into_iter()
                .map(|i| x.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?).cloned().map(Some))
                .collect()
        }
        _ => None,
    }
}

/// Elements in rows along the first axis, with the width of a row; nothing of a scalar or of empty rows.
fn rows<'a>(x: &'a [Dim], shape: &[Dim]) -> Option<(&'a [Dim], usize)> {
    short(shape.get(1..)?).filter(|width| *width > 0).map(|width| (x, width))
}

fn transposed(x: &[Dim], shape: &[Dim], perm: Option<&[i64]>) -> Option<Vec<Element>> {
    let rank = shape.len();
    let sizes: Vec<usize> = shape.iter().map(|d| short(std::slice::from_ref(d))).collect::<Option<_>>()?;
    let positive = |a: &i64| usize::try_from(if *a < 0 { a + rank as i64 } else { *a }).ok();
    let perm: Vec<usize> = match perm {
        Some(p) => p.iter().map(positive).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    let stride = |axis: usize| sizes.get(axis + 1..).map(|s| s.iter().product::<usize>());
    // Offsets of the result's elements, an axis at a time.
    let mut offsets = vec![0usize];
    for axis in perm {
        let (size, stride) = (*sizes.get(axis)?, stride(axis)?);
        offsets = offsets.iter().flat_map(|o| (0..size).map(move |i| o + i * stride)).collect();
    }
    offsets.into_iter().map(|o| x.get(o).cloned().map(Some)).collect()
}

/// The element that broadcasts to a position.
fn at(v: &[Dim], i: usize) -> Option<&Dim> {
    if let [one] = v { Some(one) } else { v.get(i) }
}

fn unary(op: UnaryOp, d: &Dim) -> Element {
    let negated = || &Dim::from(0) - d;
    match op {
        UnaryOp::Identity => Some(d.clone()),
        UnaryOp::Neg => Some(negated()),
        UnaryOp::Abs if d.min_value() >= Some(0) => Some(d.clone()),
        UnaryOp::Abs if d.max_value().is_some_and(|v| v <= 0) => Some(negated()),
        UnaryOp::Not => d.as_const().map(|c| Dim::from(i64::from(c == 0))),
        _ => None,
    }
}

fn select(condition: &Dim, a: &Dim, b: &Dim) -> Element {
    match condition.as_const() {
        Some(0) => Some(b.clone()),
        Some(_) => Some(a.clone()),
        None => (a == b).then(|| a.clone()),
    }
}

fn reduce(op: ReduceOp, x: &[Dim]) -> Element {
    let fold = |f: fn(&Dim, &Dim) -> Dim| {
        x.split_first().map(|(first, rest)| rest.iter().fold(first.clone(), |a, d| f(&a, d)))
    };
    match op {
        ReduceOp::Sum => Some(x.iter().fold(Dim::from(0), |n, d| &n + d)),
        ReduceOp::SumSquare => Some(x.iter().fold(Dim::from(0), |n, d| &n + &(d * d))),
        ReduceOp::Prod => Some(x.iter().fold(Dim::from(1), |n, d| &n * d)),
        ReduceOp::Max => fold(Dim::maximum),
        ReduceOp::Min => fold(Dim::minimum),
        ReduceOp::Mean | ReduceOp::L2 => None,
    }
}

/// `a < b`, if that can be told.
fn less(a: &Dim, b: &Dim) -> Option<bool> {
    let difference = a - b;
    if difference.is_collapsed() {
        None
    } else if difference.max_value().is_some_and(|v| v < 0) {
        Some(true)
    } else if difference.min_value() >= Some(0) {
        Some(false)
    } else {
        None
    }
}

fn binary(op: BinaryOp, a: &Dim, b: &Dim) -> Element {
    use BinaryOp as B;
    let truth = |v: Option<bool>| v.map(|v| Dim::from(i64::from(v)));
    let logic = |f: fn(bool, bool) -> bool, decides: Option<i64>| {
        let (x, y) = (a.as_const(), b.as_const());
        match (x, y) {
            (Some(x), Some(y)) => truth(Some(f(x != 0, y != 0))),
            _ if decides.is_some() && (x == decides || y == decides) => decides.map(Dim::from),
            _ => None,
        }
    };
    // Truncation, floor and remainder agree where neither operand is negative.
    let natural = a.min_value() >= Some(0) && b.min_value() >= Some(1);
    let numbers = a.as_const().zip(b.as_const());
    match op {
        B::Add => Some(a + b),
        B::Sub => Some(a - b),
        B::Mul => Some(a * b),
        B::Div => match numbers {
            Some((a, b)) => a.checked_div(b).map(Dim::from),
            None if natural => Some(a.floor_div(b)),
            None => a.div_exact(b),
        },
        B::Mod if b.min_value() >= Some(1) || b.max_value().is_some_and(|v| v < 0) => Some(a.modulo(b)),
        B::Fmod => match numbers {
            Some((a, b)) => a.checked_rem(b).map(Dim::from),
            None => natural.then(|| a.modulo(b)),
        },
        B::Pow => {
            let (a, b) = numbers?;
            a.checked_pow(u32::try_from(b).ok()?).map(Dim::from)
        }
        B::Max => Some(a.maximum(b)),
        B::Min => Some(a.minimum(b)),
        B::Equal => truth(a.equals(b)),
        B::Less => truth(less(a, b)),
        B::Greater => truth(less(b, a)),
        B::LessOrEqual => truth(less(b, a).map(|v| !v)),
        B::GreaterOrEqual => truth(less(a, b).map(|v| !v)),
        B::And => logic(|a, b| a && b, Some(0)),
        B::Or => logic(|a, b| a || b, Some(1)),
        B::Xor => logic(|a, b| a != b, None),
        _ => None,
    }
}
