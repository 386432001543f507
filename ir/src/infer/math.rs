//! Ops that compute: elementwise, reductions, norms, products, attention.

use super::args::{Args, show, tensor};
use crate::{
    DType, Dim, ErrorKind, Op, Result, Type,
    op::{AttentionOp, BinaryOp, CastBack, UnaryOp},
};

fn number(d: DType) -> bool {
    d.is_int() || d.is_arithmetic_float()
}

fn wide_number(d: DType) -> bool {
    d.is_arithmetic_float() || matches!(d, DType::I32 | DType::I64 | DType::U32 | DType::U64)
}

const NUMBER: &str = "an integer, f32, f16, bf16 or f64";
const FLOAT: &str = "f32, f16, bf16 or f64";

fn unary(args: &Args<'_>, op: UnaryOp) -> Result<Option<DType>> {
    use UnaryOp as U;
    match op {
        U::Identity => Ok(args.dtype(0)),
        U::Abs | U::Sign => args.expect(0, number, NUMBER),
        U::Neg | U::Relu => {
            args.expect(0, |d| d.is_signed_int() || d.is_arithmetic_float(), "a signed integer, f32, f16, bf16 or f64")
        }
        U::Not => args.expect(0, |d| d == DType::Bool, "bool"),
        U::BitwiseNot => args.expect(0, DType::is_int, "an integer"),
        U::IsNan | U::IsInf => args.expect(0, DType::is_float, "a float").map(|_| Some(DType::Bool)),
        _ => args.expect(0, DType::is_arithmetic_float, FLOAT),
    }
}

fn binary(args: &Args<'_>, op: BinaryOp) -> Result<Option<DType>> {
    use BinaryOp as B;
    type Accept = fn(DType) -> bool;
    let (accept, what): (Accept, &str) = match op {
        B::Add
        | B::Sub
        | B::Mul
        | B::Div
        | B::Max
        | B::Min
        | B::Fmod
        | B::Pow
        | B::Less
        | B::LessOrEqual
        | B::Greater
        | B::GreaterOrEqual => (number, NUMBER),
        B::Equal => (|d| number(d) || d == DType::Bool, "a number or bool"),
        B::Mod | B::BitwiseAnd | B::BitwiseOr | B::BitwiseXor => (DType::is_int, "an integer"),
        B::And | B::Or | B::Xor => (|d| d == DType::Bool, "bool"),
        B::ShiftLeft | B::ShiftRight => (DType::is_unsigned_int, "an unsigned integer"),
    };
    let a = args.expect(0, accept, what)?;
    args.expect(1, accept, what)?;
    let same = if op == B::Pow { a } else { args.same_dtype(&[0, 1])? };
    let predicate = matches!(op, B::Equal | B::Less | B::LessOrEqual | B::Greater | B::GreaterOrEqual);
    Ok(if predicate || matches!(op, B::And | B::Or | B::Xor) { Some(DType::Bool) } else { same })
}

pub(super) fn elementwise(args: &Args<'_>) -> Result<Type> {
    let x = || args.shape(0).map(<[Dim]>::to_vec);
    Ok(match args.op {
        Op::Unary(u) => tensor(unary(args, *u)?, x()),
        Op::Binary(b) => tensor(binary(args, *b)?, args.broadcast(&[0, 1], 0)?),
        Op::Cast { to, .. } => tensor(Some(*to), x()),
        Op::BitCast { to } => {
            let what = "a type of as many bits as the result's, and no bool";
            args.expect(0, |d| d != DType::Bool, what)?;
            match args.dtype(0) {
                Some(d) if d.bits() != to.bits() => {
                    return Err(args.error(ErrorKind::DType, 0, format!("expected {what}, found {d}")));
                }
                _ => {}
            }
            tensor(Some(*to), x())
        }
        Op::Clip => {
            args.expect(0, number, NUMBER)?;
            args.expect_one(1)?;
            args.expect_one(2)?;
            tensor(args.same_dtype(&[0, 1, 2])?, x())
        }
        _ => {
            args.expect(0, |d| d == DType::Bool, "bool")?;
            tensor(args.same_dtype(&[1, 2])?, args.broadcast(&[0, 1, 2], 0)?)
        }
    })
}

/// The shape without some axes, or with size 1 there.
fn without(x: &[Dim], axes: &[usize], keepdims: bool) -> Vec<Dim> {
    let mut gone = vec![false; x.len()];
    for a in axes {
        gone[*a] = true;
    }
    let kept = |(d, gone): (&Dim, &bool)| match (gone, keepdims) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Dim::from(1)),
        (true, false) => None,
    };
    x.iter().zip(&gone).filter_map(kept).collect()
}

pub(super) fn reduce(args: &Args<'_>) -> Result<Type> {
    match args.op {
        Op::ArgReduce { axis, keepdims, .. } => {
            args.expect(0, number, NUMBER)?;
            let shape = args.shape(0).map(|x| Ok(without(x, &[args.axis(*axis, x.len())?], *keepdims))).transpose()?;
            Ok(tensor(Some(DType::I64), shape))
        }
        Op::Reduce { op, axes, keepdims } => {
            use crate::op::ReduceOp as R;
            let dtype = match op {
                R::Max | R::Min => args.expect(0, |d| number(d) || d == DType::Bool, "a number or bool")?,
                _ => args.expect(0, number, NUMBER)?,
            };
            let reduced = |x: &[Dim]| {
                let axes = match axes {
                    Some(a) => args.axes(a, x.len())?,
                    None => (0..x.len()).collect(),
                };
                Ok(without(x, &axes, *keepdims))
            };
            Ok(tensor(dtype, args.shape(0).map(reduced).transpose()?))
        }
        _ => Ok(Type::default()),
    }
}

pub(super) fn top_k(args: &Args<'_>, axis: i64) -> Result<Vec<Type>> {
    let dtype = args.expect(0, number, NUMBER)?;
    args.expect_i64(1)?;
    args.expect_one(1)?;
    let mut shape = None;
    if let Some(x) = args.shape(0) {
        let axis = args.axis(axis, x.len())?;
        let mut s = x.to_vec();
        s[axis] = match args.scalar(1) {
            Some(k) => {
                let most = s[axis].max_value();
                if let (Some(k), Some(most)) = (k.as_const(), most)
                    && (k < 0 || k > most)
                {
                    return Err(args.error(ErrorKind::Value, 1, format!("expected 0 to {most}, found {k}")));
                }
                args.size(k, 0, axis)
            }
            None => args.fresh(0, axis),
        };
        shape = Some(s);
    }
    Ok(vec![tensor(dtype, shape.clone()), tensor(Some(DType::I64), shape)])
}

/// `CumSum` and `Softmax`: the shape stays.
pub(super) fn along_axis(args: &Args<'_>) -> Result<Type> {
    let dtype = if let Op::Softmax { axis, .. } = args.op {
        if let Some(x) = args.shape(0) {
            args.axis(*axis, x.len())?;
        }
        args.expect(0, DType::is_arithmetic_float, FLOAT)?
    } else {
        args.expect_index(1)?;
        args.expect_one(1)?;
        if let (Some(x), Some(axis)) = (args.shape(0), args.scalar(1).and_then(Dim::as_const)) {
            args.axis(axis, x.len())?;
        }
        args.expect(0, wide_number, "i32, i64, u32, u64 or a float")?
    };
    Ok(tensor(dtype, args.shape(0).map(<[Dim]>::to_vec)))
}

pub(super) fn norm(args: &Args<'_>, axis: i64, stash: DType) -> Result<Type> {
    if !stash.is_arithmetic_float() {
        return Err(args.error(ErrorKind::DType, 0, format!("stash: expected {FLOAT}, found {stash}")));
    }
    args.expect(0, DType::is_arithmetic_float, FLOAT)?;
    let dtype = if matches!(args.op, Op::RmsNorm { cast: CastBack::AfterScale, .. }) {
        args.expect(1, DType::is_arithmetic_float, FLOAT)?
    } else {
        args.same_dtype(&[0, 1, 2])?
    };
    let shape = args.shape(0).map(<[Dim]>::to_vec);
    if let Some(x) = &shape {
        args.axis(axis, x.len())?;
        broadcast_to(args, x, &[1, 2])?;
    }
    Ok(tensor(dtype, shape))
}

/// Operands that broadcast to x, if they are there.
fn broadcast_to(args: &Args<'_>, x: &[Dim], ports: &[usize]) -> Result<()> {
    for &port in ports {
        let Some(w) = args.shape(port) else { continue };
        let fits = |(w, x): (&Dim, &Dim)| match (w.as_const(), x.as_const()) {
            (Some(w), Some(x)) => w == 1 || w == x,
            _ => true,
        };
        if w.len() > x.len() || !w.iter().rev().zip(x.iter().rev()).all(fits) {
            let found = format!("expected a shape that broadcasts to {}, found {}", show(x), show(w));
            return Err(args.shape_error(port, found));
        }
    }
    Ok(())
}

pub(super) fn skip_rms_norm(args: &Args<'_>) -> Result<Vec<Type>> {
    args.expect(0, |d| matches!(d, DType::F32 | DType::F16 | DType::BF16), "f32, f16 or bf16")?;
    let dtype = args.same_dtype(&[0, 1, 2, 3])?;
    let shape = args.shape(0).map(<[Dim]>::to_vec);
    if let Some(x) = &shape {
        args.axis(-1, x.len())?;
        broadcast_to(args, x, &[1, 2, 3])?;
    }
    Ok(vec![tensor(dtype, shape.clone()), tensor(dtype, shape)])
}

fn product_shape(args: &Args<'_>) -> Result<Option<Vec<Dim>>> {
    let (Some(a), Some(b)) = (args.shape(0), args.shape(1)) else { return Ok(None) };
    let (Some((ka, a_rows)), Some(kb)) = (a.split_last(), b.get(b.len().saturating_sub(2))) else {
        let port = usize::from(!a.is_empty());
        return Err(args.shape_error(port, "expected rank 1 or more, found a scalar"));
    };
    args.unify(1, ka, kb, || format!("inner size of {} x {}", show(a), show(b)))?;
    let (a_batch, m) = match a_rows.split_last() {
        Some((m, batch)) => (batch, Some(m)),
        None => (a_rows, None),
    };
    let (b_batch, n) = match b {
        [batch @ .., _, n] => (batch, Some(n)),
        _ => (&b[..0], None),
    };
    let mut shape = args.broadcast_two(a_batch, b_batch, 1, 0)?;
    shape.extend(m.into_iter().chain(n).cloned());
    Ok(Some(shape))
}

pub(super) fn mat_mul(args: &Args<'_>) -> Result<Type> {
    args.expect(0, wide_number, "i32, i64, u32, u64 or a float")?;
    args.expect(1, wide_number, "i32, i64, u32, u64 or a float")?;
    Ok(tensor(args.same_dtype(&[0, 1])?, product_shape(args)?))
}

pub(super) fn mat_mul_integer(args: &Args<'_>) -> Result<Type> {
    for port in 0..2 {
        args.expect(port, |d| matches!(d, DType::I8 | DType::U8), "i8 or u8")?;
        args.same_dtype(&[port, port + 2])?;
        if let Some(z) = args.shape(port + 2)
            && let Some(x) = args.shape(port)
            && z.len() > x.len()
        {
            let found = format!("expected at most the rank of {}, found {}", show(x), show(z));
            return Err(args.shape_error(port + 2, found));
        }
    }
    Ok(tensor(Some(DType::I32), product_shape(args)?))
}

pub(super) fn gemm(args: &Args<'_>, trans_a: bool, trans_b: bool) -> Result<Type> {
    args.expect(0, wide_number, "i32, i64, u32, u64 or a float")?;
    let dtype = args.same_dtype(&[0, 1, 2])?;
    args.expect_rank(0, 2)?;
    args.expect_rank(1, 2)?;
    let turned = |port: usize, turn: bool| match args.shape(port) {
        Some([r, c]) => Some(if turn { (c, r) } else { (r, c) }),
        _ => None,
    };
    let (Some((m, ka)), Some((kb, n))) = (turned(0, trans_a), turned(1, trans_b)) else {
        return Ok(tensor(dtype, None));
    };
    args.unify(1, ka, kb, || "inner size".into())?;
    let shape = vec![m.clone(), n.clone()];
    if let Some(c) = args.shape(2) {
        let all = args.broadcast_two(&shape, c, 2, 0)?;
        let grown = |(a, b): (&Dim, &Dim)| a.as_const() == Some(1) && b.as_const().is_some_and(|b| b != 1);
        if all.len() > 2 || shape.iter().zip(&all).any(grown) {
            let found = format!("expected a shape that broadcasts to {}, found {}", show(&shape), show(c));
            return Err(args.shape_error(2, found));
        }
    }
    Ok(tensor(dtype, Some(shape)))
}

/// Batch, heads, length and head size of an attention operand.
type Heads = [Dim; 4];

fn heads(args: &Args<'_>, port: usize, count: Option<u64>) -> Result<Option<Heads>> {
    match args.shape(port) {
        None => Ok(None),
        Some([b, h, s, d]) => Ok(Some([b.clone(), h.clone(), s.clone(), d.clone()])),
        Some([b, s, w]) => {
            let Some(h) = count.and_then(|c| i64::try_from(c).ok()).filter(|c| *c > 0) else {
                return Err(args.shape_error(port, "a 3-D operand needs the number of heads as an attribute"));
            };
            if w.as_const().is_some_and(|w| w % h != 0) {
                return Err(args.shape_error(port, format!("expected a multiple of {h} heads, found a width of {w}")));
            }
            let h = Dim::from(h);
            Ok(Some([b.clone(), h.clone(), s.clone(), w.floor_div(&h)]))
        }
        Some(s) => Err(args.shape_error(port, format!("expected rank 3 or 4, found {}", show(s)))),
    }
}

pub(super) fn attention(args: &Args<'_>, a: &AttentionOp) -> Result<Vec<Type>> {
    for port in 0..3 {
        args.expect(port, DType::is_arithmetic_float, FLOAT)?;
    }
    let dtype = args.same_dtype(&[0, 1, 4])?;
    let value_dtype = args.same_dtype(&[2, 5])?;
    args.expect(3, |d| d == DType::Bool || number(d), "bool or a number")?;
    let results = |shapes: [Option<Vec<Dim>>; 4]| {
        let [y, k, v, qk] = shapes;
        let mut all = vec![tensor(dtype, y), tensor(dtype, k), tensor(value_dtype, v), tensor(dtype, qk)];
        all.truncate(a.outputs);
        all
    };
    let (Some(q), Some(k), Some(v)) =
        (heads(args, 0, a.q_num_heads)?, heads(args, 1, a.kv_num_heads)?, heads(args, 2, a.kv_num_heads)?)
    else {
        return Ok(results([None, None, None, None]));
    };
    let batch = args.unify(1, &q[0], &k[0], || "batch".into())?;
    let batch = args.unify(2, &batch, &v[0], || "batch".into())?;
    let kv_heads = args.unify(2, &k[1], &v[1], || "heads".into())?;
    if let (Some(hq), Some(hk)) = (q[1].as_const(), kv_heads.as_const())
        && (hk == 0 || hq % hk != 0)
    {
        return Err(args.shape_error(1, format!("expected heads that divide the query's {hq}, found {hk}")));
    }
    args.unify(1, &q[3], &k[3], || "head size".into())?;
    let length = args.unify(2, &k[2], &v[2], || "length".into())?;
    let with_past = |port: usize, width: &Dim| -> Result<Dim> {
        args.expect_rank(port, 4)?;
        let Some([b, h, past, d]) = args.shape(port) else {
            return Ok(if args.present(port) { args.fresh(port, 2) } else { length.clone() });
        };
        args.unify(port, &batch, b, || "batch".into())?;
        args.unify(port, &kv_heads, h, || "heads".into())?;
        args.unify(port, width, d, || "head size".into())?;
        Ok(past + &length)
    };
    let key_length = with_past(4, &k[3])?;
    let value_length = with_past(5, &v[3])?;
    let total = args.unify(5, &key_length, &value_length, || "length with the past".into())?;
    let scores = [batch.clone(), q[1].clone(), q[2].clone(), total.clone()];
    if let Some(mask) = args.shape(3)
        && (mask.len() > 4 || args.broadcast_two(&scores, mask, 3, 0).is_err())
    {
        let found = format!("expected a mask that broadcasts to {}, found {}", show(&scores), show(mask));
        return Err(args.shape_error(3, found));
    }
    let y = if args.shape(0).is_some_and(|s| s.len() == 3) {
        vec![batch.clone(), q[2].clone(), &q[1] * &v[3]]
    } else {
        vec![batch.clone(), q[1].clone(), q[2].clone(), v[3].clone()]
    };
    let present = |width: &Dim| vec![batch.clone(), kv_heads.clone(), total.clone(), width.clone()];
    Ok(results([Some(y), Some(present(&k[3])), Some(present(&v[3])), Some(scores.to_vec())]))
}
