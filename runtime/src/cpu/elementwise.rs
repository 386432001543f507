//! Elementwise ops: unary, binary, Where and Clip, in every dtype that has arithmetic.
//!
//! 16-bit floats are computed in f32 and rounded once. Each op is its own instance of a loop, so that the cheap ones
//! vectorise. Combinations without a loop here (float ops of integers, integer powers and divisions) return `None`, and
//! the caller runs them on the reference evaluator.

use normfuse_ir::{
    DType, Error, ErrorKind, Result, Tensor,
    op::{BinaryOp, UnaryOp},
};

use super::{
    broadcast::{Walk, map, map2, map3},
    buf::{Float, tensor, view},
    math::{Wide, with_float, with_int},
};

/// A one-operand op.
pub(super) fn unary(op: UnaryOp, x: &Tensor) -> Result<Option<Tensor>> {
    if op == UnaryOp::Identity {
        return Ok(Some(x.clone()));
    }
    with_float!(x.dtype(), T => float_unary::<T>(op, x), _ => int_unary(op, x))
}

fn float_unary<T: Float>(op: UnaryOp, x: &Tensor) -> Result<Option<Tensor>> {
    use UnaryOp as U;
    let values = view::<T>(x)?;
    /// A loop over the operand in its wide type.
    macro_rules! each {
        ($f:expr) => {
            tensor(T::DTYPE, x.shape(), map(&values, |v: T| T::down($f(v.up())))?)
        };
    }
    macro_rules! test {
        ($f:expr) => {
            tensor(DType::Bool, x.shape(), map(&values, |v: T| u8::from($f(v.up())))?)
        };
    }
    match op {
        U::Abs => each!(Wide::abs),
        U::Neg => each!(|v: T::Wide| -v),
        U::Sqrt => each!(Wide::sqrt),
        U::Reciprocal => each!(|v| T::Wide::ONE / v),
        U::Rsqrt => each!(Wide::rsqrt),
        U::Exp => each!(Wide::exp),
        U::Exp2 => each!(Wide::exp2),
        U::Log => each!(Wide::log),
        U::Log2 => each!(Wide::log2),
        U::Sin => each!(Wide::sin),
        U::Cos => each!(Wide::cos),
        U::Tanh => each!(Wide::tanh),
        U::Erf => each!(Wide::erf),
        U::Sigmoid => each!(Wide::sigmoid),
        U::Silu => each!(Wide::silu),
        U::Gelu => each!(Wide::gelu),
        U::GeluTanh => each!(Wide::gelu_tanh),
        U::Relu => each!(|v: T::Wide| v.larger(T::Wide::ZERO)),
        U::Softplus => each!(Wide::softplus),
        U::Floor => each!(Wide::floor),
        U::Ceil => each!(Wide::ceil),
        U::Round => each!(Wide::round_even),
        U::IsNan => test!(Wide::is_nan),
        U::IsInf => test!(Wide::is_infinite),
        U::Identity | U::Sign | U::Not | U::BitwiseNot => return Ok(None),
    }
    .map(Some)
}

fn int_unary(op: UnaryOp, x: &Tensor) -> Result<Option<Tensor>> {
    let out = match (op, x.dtype()) {
        (UnaryOp::Not, DType::Bool) => tensor(DType::Bool, x.shape(), map(&view::<u8>(x)?, |v| u8::from(v == 0))?)?,
        (UnaryOp::BitwiseNot, dtype) => {
            with_int!(dtype, T => tensor(dtype, x.shape(), map(&view::<T>(x)?, |v| !v)?)?, _ => return Ok(None))
        }
        (UnaryOp::Neg, dtype) if dtype.is_signed_int() => {
            with_int!(dtype, T => tensor(dtype, x.shape(), map(&view::<T>(x)?, |v| (0 as T).wrapping_sub(v))?)?, _ => return Ok(None))
        }
        _ => return Ok(None),
    };
    Ok(Some(out))
}

/// A two-operand op with broadcasting.
pub(super) fn binary(op: BinaryOp, a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    if a.dtype() != b.dtype() {
        // A power may mix dtypes; for the others the reference evaluator words the error.
        return Ok(None);
    }
    let walk = Walk::new([a.shape(), b.shape()])?;
    with_float!(a.dtype(), T => float_binary::<T>(op, &walk, a, b), _ => int_binary(op, &walk, a, b))
}

fn float_binary<T: Float>(op: BinaryOp, walk: &Walk<2>, a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    use BinaryOp as B;
    let (x, y) = (view::<T>(a)?, view::<T>(b)?);
    macro_rules! each {
        ($f:expr) => {
            tensor(T::DTYPE, &walk.shape, map2(walk, &x, &y, |a: T, b: T| T::down($f(a.up(), b.up())))?)
        };
    }
    macro_rules! test {
        ($f:expr) => {
            tensor(DType::Bool, &walk.shape, map2(walk, &x, &y, |a: T, b: T| u8::from($f(&a.up(), &b.up())))?)
        };
    }
    match op {
        B::Add => each!(|a, b| a + b),
        B::Sub => each!(|a, b| a - b),
        B::Mul => each!(|a, b| a * b),
        B::Div => each!(|a, b| a / b),
        B::Pow => match y[..] {
            // x^2 is x * x in `num::pow` too; asking once instead of for each element lets it vectorise.
            [two] if two.up() == T::Wide::from_f32(2.0) => each!(|a: T::Wide, _| a * a),
            _ => each!(Wide::power),
        },
        B::Max => each!(Wide::larger),
        B::Min => each!(Wide::smaller),
        B::Equal => test!(PartialEq::eq),
        B::Less => test!(PartialOrd::lt),
        B::LessOrEqual => test!(PartialOrd::le),
        B::Greater => test!(PartialOrd::gt),
        B::GreaterOrEqual => test!(PartialOrd::ge),
        _ => return Ok(None),
    }
    .map(Some)
}

fn int_binary(op: BinaryOp, walk: &Walk<2>, a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    use BinaryOp as B;
    if a.dtype() == DType::Bool {
        let (x, y) = (view::<u8>(a)?, view::<u8>(b)?);
        macro_rules! logic {
            ($f:expr) => {
                tensor(DType::Bool, &walk.shape, map2(walk, &x, &y, |a: u8, b: u8| u8::from($f(a != 0, b != 0)))?)
            };
        }
        return match op {
            B::And => logic!(|a, b| a && b),
            B::Or => logic!(|a, b| a || b),
            B::Xor => logic!(|a, b| a != b),
            B::Equal => logic!(|a, b| a == b),
            _ => return Ok(None),
        }
        .map(Some);
    }
    with_int!(a.dtype(), T => {
        let (x, y) = (view::<T>(a)?, view::<T>(b)?);
        macro_rules! each {
            ($f:expr) => {
                tensor(a.dtype(), &walk.shape, map2(walk, &x, &y, $f)?)
            };
        }
        macro_rules! test {
            ($f:expr) => {
                tensor(DType::Bool, &walk.shape, map2(walk, &x, &y, |a: T, b: T| u8::from($f(&a, &b)))?)
            };
        }
        match op {
            B::Add => each!(T::wrapping_add),
            B::Sub => each!(T::wrapping_sub),
            B::Mul => each!(T::wrapping_mul),
            B::Max => each!(Ord::max),
            B::Min => each!(Ord::min),
            B::BitwiseAnd => each!(|a, b| a & b),
            B::BitwiseOr => each!(|a, b| a | b),
            B::BitwiseXor => each!(|a, b| a ^ b),
            B::Equal => test!(PartialEq::eq),
            B::Less => test!(PartialOrd::lt),
            B::LessOrEqual => test!(PartialOrd::le),
            B::Greater => test!(PartialOrd::gt),
            B::GreaterOrEqual => test!(PartialOrd::ge),
            _ => return Ok(None),
        }
        .map(Some)
    }, _ => Ok(None))
}

/// `condition ? a : b`; moves elements by size, so every dtype of whole bytes is served.
pub(super) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    if condition.dtype() != DType::Bool || a.dtype() != b.dtype() {
        return Ok(None);
    }
    let walk = Walk::new([condition.shape(), a.shape(), b.shape()])?;
    let condition = view::<u8>(condition)?;
    macro_rules! each {
        ($t:ty) => {
            map3(&walk, (&condition, &view::<$t>(a)?, &view::<$t>(b)?), |c, a, b| if c != 0 { a } else { b })
                .and_then(|values| tensor(a.dtype(), &walk.shape, values))
        };
    }
    match a.dtype().bits() {
        8 => each!(u8),
        16 => each!(u16),
        32 => each!(u32),
        64 => each!(u64),
        _ => return Ok(None),
    }
    .map(Some)
}

/// `min(max(x, low), high)` with scalar bounds, each optional; NaN passes through.
pub(super) fn clip(x: &Tensor, low: Option<&Tensor>, high: Option<&Tensor>) -> Result<Option<Tensor>> {
    for (name, bound) in [("min", low), ("max", high)] {
        let Some(bound) = bound else { continue };
        if bound.dtype() != x.dtype() || bound.len() != 1 {
            let found = format!("expected one {}, found {}{:?}", x.dtype(), bound.dtype(), bound.shape());
            return Err(Error::new(ErrorKind::Shape, found).at_port(name));
        }
    }
    with_float!(x.dtype(), T => {
        let (low, high) = (scalar::<T>(low)?.map(Float::up), scalar::<T>(high)?.map(Float::up));
        let clipped = map(&view::<T>(x)?, |v: T| {
            let v = low.map_or(v.up(), |low| v.up().larger(low));
            T::down(high.map_or(v, |high| v.smaller(high)))
        })?;
        tensor(T::DTYPE, x.shape(), clipped).map(Some)
    }, _ => with_int!(x.dtype(), T => {
        let (low, high) = (scalar::<T>(low)?, scalar::<T>(high)?);
        let clipped = map(&view::<T>(x)?, |v: T| {
            let v = low.map_or(v, |low| v.max(low));
            high.map_or(v, |high| v.min(high))
        })?;
        tensor(x.dtype(), x.shape(), clipped).map(Some)
    }, _ => Ok(None)))
}

fn scalar<T: bytemuck::Pod>(bound: Option<&Tensor>) -> Result<Option<T>> {
    bound.map(|b| Ok(view::<T>(b)?.first().copied())).transpose().map(Option::flatten)
}
