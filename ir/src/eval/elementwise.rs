//! Elementwise ops: f16 and bf16 are computed in f32 and rounded once, integers wrap.

use super::{
    cast::truncate,
    numbers::{Numbers, bools, from_bools, from_doubles, from_floats, from_ints, unsupported},
    shape::{broadcast, broadcast_strides, checked_len, product, shape_error, value_error, walk},
};
use crate::{
    DType, Error, ErrorKind, Result, Tensor, num,
    num::wide,
    op::{BinaryOp, UnaryOp},
};

/// A one-operand op on f32.
fn unary_f32(op: UnaryOp) -> Option<fn(f32) -> f32> {
    Some(match op {
        UnaryOp::Identity => |x| x,
        UnaryOp::Abs => f32::abs,
        UnaryOp::Neg => |x| -x,
        UnaryOp::Sign => |x| {
            if x == 0.0 {
                0.0
            } else if x.is_nan() {
                x
            } else {
                x.signum()
            }
        },
        UnaryOp::Sqrt => f32::sqrt,
        UnaryOp::Reciprocal => |x| 1.0 / x,
        UnaryOp::Rsqrt => num::rsqrt,
        UnaryOp::Exp => num::exp,
        UnaryOp::Exp2 => num::exp2,
        UnaryOp::Log => num::log,
        UnaryOp::Log2 => num::log2,
        UnaryOp::Sin => num::sin,
        UnaryOp::Cos => num::cos,
        UnaryOp::Tanh => num::tanh,
        UnaryOp::Erf => num::erf,
        UnaryOp::Sigmoid => num::sigmoid,
        UnaryOp::Silu => num::silu,
        UnaryOp::Gelu => num::gelu,
        UnaryOp::GeluTanh => num::gelu_tanh,
        UnaryOp::Relu => |x| num::max(x, 0.0),
        UnaryOp::Softplus => num::softplus,
        UnaryOp::Floor => f32::floor,
        UnaryOp::Ceil => f32::ceil,
        UnaryOp::Round => f32::round_ties_even,
        UnaryOp::Not | UnaryOp::BitwiseNot | UnaryOp::IsNan | UnaryOp::IsInf => return None,
    })
}

fn unary_f64(op: UnaryOp) -> Option<fn(f64) -> f64> {
    Some(match op {
        UnaryOp::Identity => |x| x,
        UnaryOp::Abs => f64::abs,
        UnaryOp::Neg => |x| -x,
        UnaryOp::Sign => |x| {
            if x == 0.0 {
                0.0
            } else if x.is_nan() {
                x
            } else {
                x.signum()
            }
        },
        UnaryOp::Sqrt => f64::sqrt,
        UnaryOp::Reciprocal => |x| 1.0 / x,
        UnaryOp::Rsqrt => wide::rsqrt,
        UnaryOp::Exp => wide::exp,
        UnaryOp::Exp2 => wide::exp2,
        UnaryOp::Log => wide::log,
        UnaryOp::Log2 => wide::log2,
        UnaryOp::Sin => wide::sin,
        UnaryOp::Cos => wide::cos,
        UnaryOp::Tanh => wide::tanh,
        UnaryOp::Erf => wide::erf,
        UnaryOp::Sigmoid => wide::sigmoid,
        UnaryOp::Silu => wide::silu,
        UnaryOp::Gelu => wide::gelu,
        UnaryOp::GeluTanh => wide::gelu_tanh,
        UnaryOp::Relu => |x| num::max_f64(x, 0.0),
        UnaryOp::Softplus => wide::softplus,
        UnaryOp::Floor => f64::floor,
        UnaryOp::Ceil => f64::ceil,
        UnaryOp::Round => f64::round_ties_even,
        UnaryOp::Not | UnaryOp::BitwiseNot | UnaryOp::IsNan | UnaryOp::IsInf => return None,
    })
}

fn unary_int(op: UnaryOp) -> Option<fn(i128) -> i128> {
    Some(match op {
        // Rounding an integer to an integer changes nothing.
        UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round => |x| x,
        UnaryOp::Abs => i128::abs,
        UnaryOp::Neg => |x| -x,
        UnaryOp::Sign => i128::signum,
        UnaryOp::Relu => |x| x.max(0),
        UnaryOp::BitwiseNot => |x| !x,
        _ => return None,
    })
}

/// Applies a one-operand op.
///
/// # Errors
/// `DType` if the op has no meaning for the operand's.
pub fn unary(op: UnaryOp, x: &Tensor) -> Result<Tensor> {
    let (dtype, shape) = (x.dtype(), x.shape());
    if op == UnaryOp::Identity {
        return Ok(x.clone());
    }
    if op == UnaryOp::Not {
        return from_bools(shape, &bools(x)?.iter().map(|b| !b).collect::<Vec<_>>());
    }
    match Numbers::of(x) {
        Numbers::F32(v) if op == UnaryOp::IsNan => from_bools(shape, &v.iter().map(|v| v.is_nan()).collect::<Vec<_>>()),
        Numbers::F64(v) if op == UnaryOp::IsNan => from_bools(shape, &v.iter().map(|v| v.is_nan()).collect::<Vec<_>>()),
        Numbers::F32(v) if op == UnaryOp::IsInf => {
            from_bools(shape, &v.iter().map(|v| v.is_infinite()).collect::<Vec<_>>())
        }
        Numbers::F64(v) if op == UnaryOp::IsInf => {
            from_bools(shape, &v.iter().map(|v| v.is_infinite()).collect::<Vec<_>>())
        }
        Numbers::F32(v) => {
            let f = unary_f32(op).ok_or_else(|| unsupported(dtype))?;
            from_floats(dtype, shape, &v.iter().map(|&v| f(v)).collect::<Vec<_>>())
        }
        Numbers::F64(v) => {
            let f = unary_f64(op).ok_or_else(|| unsupported(dtype))?;
            from_doubles(shape, &v.iter().map(|&v| f(v)).collect::<Vec<_>>())
        }
        Numbers::Int(_) if dtype == DType::Bool => Err(unsupported(dtype)),
        Numbers::Int(v) => {
            let f = unary_int(op).ok_or_else(|| unsupported(dtype))?;
            from_ints(dtype, shape, &v.iter().map(|&v| f(v)).collect::<Vec<_>>())
        }
    }
}

/// A two-operand arithmetic op on f32.
pub(crate) fn binary_f32(op: BinaryOp) -> Option<fn(f32, f32) -> f32> {
    Some(match op {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Pow => num::pow,
        BinaryOp::Max => num::max,
        BinaryOp::Min => num::min,
        BinaryOp::Fmod => |a, b| a % b,
        BinaryOp::Mod => |a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        },
        _ => return None,
    })
}

/// A two-operand arithmetic op on f64.
pub(crate) fn binary_f64(op: BinaryOp) -> Option<fn(f64, f64) -> f64> {
    Some(match op {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Pow => wide::pow,
        BinaryOp::Max => num::max_f64,
        BinaryOp::Min => num::min_f64,
        BinaryOp::Fmod => |a, b| a % b,
        BinaryOp::Mod => |a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        },
        _ => return None,
    })
}

/// A two-operand arithmetic op on integers; `None` as a result is a division by zero.
pub(crate) fn binary_int(op: BinaryOp) -> Option<fn(i128, i128) -> Option<i128>> {
    Some(match op {
        BinaryOp::Add => |a, b| Some(a + b),
        BinaryOp::Sub => |a, b| Some(a - b),
        // Two u64 fit; more than that cannot come in.
        BinaryOp::Mul => |a, b| Some(a.wrapping_mul(b)),
        BinaryOp::Div => i128::checked_div,
        BinaryOp::Mod => |a, b| {
            let r = a.checked_rem(b)?;
            Some(if r != 0 && (r < 0) != (b < 0) { r + b } else { r })
        },
        BinaryOp::Fmod => i128::checked_rem,
        BinaryOp::Pow => |a, b| Some(int_pow(a, b)),
        BinaryOp::Max => |a, b| Some(a.max(b)),
        BinaryOp::Min => |a, b| Some(a.min(b)),
        BinaryOp::BitwiseAnd => |a, b| Some(a & b),
        BinaryOp::BitwiseOr => |a, b| Some(a | b),
        BinaryOp::BitwiseXor => |a, b| Some(a ^ b),
        BinaryOp::ShiftLeft => |a, b| Some(if (0..64).contains(&b) { a << b } else { 0 }),
        // What is shifted out at the low end leaves the sign.
        BinaryOp::ShiftRight => |a, b| Some(a >> if (0..64).contains(&b) { b } else { 127 }),
        _ => return None,
    })
}

/// Wrapping power; a negative exponent truncates the fraction, and `0^-n` is 0.
fn int_pow(a: i128, b: i128) -> i128 {
    if b < 0 {
        return match a {
            1 => 1,
            -1 => 1 - 2 * (b & 1),
            _ => 0,
        };
    }
    let (mut result, mut base, mut e) = (1i128, a, b);
    while e > 0 {
        if e & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        e >>= 1;
    }
    result
}

fn zip<A: Copy, B: Copy, R>(
    a: (&[A], &[usize]),
    b: (&[B], &[usize]),
    out: &[usize],
    mut f: impl FnMut(A, B) -> R,
) -> Result<Vec<R>> {
    let (sa, sb) = (broadcast_strides(a.1, out)?, broadcast_strides(b.1, out)?);
    let mut result = Vec::with_capacity(product(out));
    walk(out, [&sa, &sb], |[i, j]| result.push(f(a.0[i], b.0[j])));
    Ok(result)
}

fn compare<T: Copy + PartialOrd>(op: BinaryOp) -> Option<fn(T, T) -> bool> {
    Some(match op {
        BinaryOp::Equal => |a, b| a == b,
        BinaryOp::Less => |a, b| a < b,
        BinaryOp::LessOrEqual => |a, b| a <= b,
        BinaryOp::Greater => |a, b| a > b,
        BinaryOp::GreaterOrEqual => |a, b| a >= b,
        _ => return None,
    })
}

fn logic(op: BinaryOp) -> Option<fn(bool, bool) -> bool> {
    Some(match op {
        BinaryOp::And => |a, b| a & b,
        BinaryOp::Or => |a, b| a | b,
        BinaryOp::Xor => |a, b| a ^ b,
        _ => return None,
    })
}

/// Applies a two-operand op with broadcasting.
///
/// # Errors
/// `Shape` if the operands do not broadcast, `DType` if they differ or the op has no meaning for them, `Value` for an
/// integer division by zero.
pub fn binary(op: BinaryOp, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let dtype = a.dtype();
    let out = broadcast(&[a.shape(), b.shape()])?;
    checked_len(dtype, &out)?;
    if let Some(f) = logic(op) {
        return from_bools(&out, &zip((&bools(a)?, a.shape()), (&bools(b)?, b.shape()), &out, f)?);
    }
    if op == BinaryOp::Pow && dtype != b.dtype() {
        return mixed_pow(a, b, &out);
    }
    if dtype != b.dtype() {
        return Err(Error::new(
            ErrorKind::DType,
            format!("operands must have one dtype, found {dtype} and {}", b.dtype()),
        ));
    }
    let (sa, sb) = (a.shape(), b.shape());
    let bad = || unsupported(dtype);
    match (Numbers::of(a), Numbers::of(b)) {
        (Numbers::F32(x), Numbers::F32(y)) => match compare(op) {
            Some(f) => from_bools(&out, &zip((&x, sa), (&y, sb), &out, f)?),
            None => from_floats(dtype, &out, &zip((&x, sa), (&y, sb), &out, binary_f32(op).ok_or_else(bad)?)?),
        },
        (Numbers::F64(x), Numbers::F64(y)) => match compare(op) {
            Some(f) => from_bools(&out, &zip((&x, sa), (&y, sb), &out, f)?),
            None => from_doubles(&out, &zip((&x, sa), (&y, sb), &out, binary_f64(op).ok_or_else(bad)?)?),
        },
        (Numbers::Int(x), Numbers::Int(y)) => match compare(op) {
            Some(f) => from_bools(&out, &zip((&x, sa), (&y, sb), &out, f)?),
            None if dtype == DType::Bool => Err(bad()),
            None => {
                let f = binary_int(op).ok_or_else(bad)?;
                let values: Option<Vec<i128>> = zip((&x, sa), (&y, sb), &out, f)?.into_iter().collect();
                from_ints(dtype, &out, &values.ok_or_else(|| value_error("an integer is divided by zero"))?)
            }
        },
        _ => Err(bad()),
    }
}

/// `a ^ b` of different dtypes: the result has the base's.
fn mixed_pow(a: &Tensor, b: &Tensor, out: &[usize]) -> Result<Tensor> {
    let (sa, sb) = (a.shape(), b.shape());
    let exponent: Vec<f64> = match Numbers::of(b) {
        Numbers::F32(v) => v.into_iter().map(f64::from).collect(),
        Numbers::F64(v) => v,
        Numbers::Int(v) => {
            if let Numbers::Int(base) = Numbers::of(a) {
                return from_ints(a.dtype(), out, &zip((&base, sa), (&v, sb), out, int_pow)?);
            }
            v.into_iter().map(|v| v as f64).collect()
        }
    };
    match Numbers::of(a) {
        Numbers::F32(v) => from_floats(a.dtype(), out, &zip((&v, sa), (&exponent, sb), out, num::pow_wide)?),
        Numbers::F64(v) => from_doubles(out, &zip((&v, sa), (&exponent, sb), out, wide::pow)?),
        Numbers::Int(v) => {
            let values = zip((&v, sa), (&exponent, sb), out, |x, y| truncate(a.dtype(), wide::pow(x as f64, y)))?;
            from_ints(a.dtype(), out, &values)
        }
    }
}

/// `min(max(x, lo), hi)` with scalar bounds; NaN in x passes through.
///
/// # Errors
/// `Shape` if a bound is not one element, `DType` if its dtype is not x's.
pub fn clip(x: &Tensor, lo: Option<&Tensor>, hi: Option<&Tensor>) -> Result<Tensor> {
    let mut result = x.clone();
    for (bound, op) in [(lo, BinaryOp::Max), (hi, BinaryOp::Min)] {
        if let Some(bound) = bound {
            if bound.len() != 1 {
                return Err(shape_error(format!("a bound must be one element, found shape {:?}", bound.shape())));
            }
            result = binary(op, &result, &bound.reshaped(Vec::new())?)?;
        }
    }
    Ok(result)
}
