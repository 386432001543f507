//! One elementwise op as an expression of `kernels/scalar.cuh`, and which dtypes it is defined for.

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result,
    op::{BinaryOp, UnaryOp},
};

use super::text::tag;

/// What a step is in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// The element of the result.
    pub text: String,
    /// Dtype of the result.
    pub dtype: DType,
    /// True if it is computed in f64, or by a loop.
    pub heavy: bool,
    /// True if it may report a fault.
    pub faults: bool,
}

/// An operand of a step: its dtype, and the name of its element.
pub type Operand<'a> = (DType, &'a str);

fn undefined(op: &Op, dtype: DType) -> Error {
    Error::new(ErrorKind::DType, format!("`{}` has no definition for {dtype}", op.name()))
}

fn is_heavy_unary(op: UnaryOp) -> bool {
    use UnaryOp as U;
    !matches!(
        op,
        U::Identity
            | U::Abs
            | U::Neg
            | U::Sign
            | U::Sqrt
            | U::Reciprocal
            | U::Rsqrt
            | U::Relu
            | U::Floor
            | U::Ceil
            | U::Round
            | U::Not
            | U::BitwiseNot
            | U::IsNan
            | U::IsInf
    )
}

/// The name of an op, which is that of its function without `op_`.
fn function(op: &Op) -> String {
    format!("op_{}", op.name())
}

fn unary(op: &Op, which: UnaryOp, (dtype, x): Operand<'_>) -> Result<Expression> {
    use UnaryOp as U;
    let t = tag(dtype);
    let number = format!("get<{t}>({x})");
    let done = |text: String, dtype: DType| Expression { text, dtype, heavy: is_heavy_unary(which), faults: false };
    let same = || done(format!("put<{t}>({}({number}))", function(op)), dtype);
    match which {
        U::Identity => Ok(done(x.to_owned(), dtype)),
        U::Not if dtype == DType::Bool => Ok(same()),
        U::IsNan | U::IsInf if dtype.is_float() => Ok(done(format!("(u8){}({number})", function(op)), DType::Bool)),
        U::BitwiseNot if dtype.is_int() => Ok(same()),
        U::Not | U::IsNan | U::IsInf | U::BitwiseNot => Err(undefined(op, dtype)),
        _ if dtype.is_arithmetic_float() => Ok(same()),
        U::Floor | U::Ceil | U::Round | U::Abs | U::Neg | U::Sign | U::Relu if dtype.is_int() => Ok(same()),
        _ => Err(undefined(op, dtype)),
    }
}

fn binary(op: &Op, which: BinaryOp, (da, a): Operand<'_>, (db, b): Operand<'_>) -> Result<Expression> {
    use BinaryOp as B;
    if which == B::Pow {
        let fits = (da.is_int() || da.is_arithmetic_float()) && (db.is_int() || db.is_arithmetic_float());
        if !fits {
            return Err(undefined(op, if da.is_int() || da.is_arithmetic_float() { db } else { da }));
        }
        let text = format!("power<{}, {}>({a}, {b})", tag(da), tag(db));
        return Ok(Expression { text, dtype: da, heavy: true, faults: false });
    }
    if da != db {
        return Err(Error::new(ErrorKind::DType, format!("operands must have one dtype, found {da} and {db}")));
    }
    let t = tag(da);
    let call = format!("{}(get<{t}>({a}), get<{t}>({b}), fault)", function(op));
    let whole = da.is_int() || da.is_arithmetic_float();
    let (fits, dtype) = match which {
        B::And | B::Or | B::Xor => (da == DType::Bool, da),
        B::Equal | B::Less | B::LessOrEqual | B::Greater | B::GreaterOrEqual => (true, DType::Bool),
        B::BitwiseAnd | B::BitwiseOr | B::BitwiseXor | B::ShiftLeft | B::ShiftRight => (da.is_int(), da),
        _ => (whole, da),
    };
    if !fits {
        return Err(undefined(op, da));
    }
    let divides = matches!(which, B::Div | B::Mod | B::Fmod);
    let text = if dtype == da && dtype != DType::Bool { format!("put<{t}>({call})") } else { format!("(u8)({call})") };
    let heavy = matches!(which, B::Mod | B::Fmod) || divides && (da.is_int() || da == DType::F64);
    Ok(Expression { text, dtype, heavy, faults: divides && da.is_int() })
}

fn clip(op: &Op, (dtype, x): Operand<'_>, bounds: [Option<Operand<'_>>; 2]) -> Result<Expression> {
    let t = tag(dtype);
    let mut text = x.to_owned();
    for (bound, name) in bounds.into_iter().zip(["max_nan", "min_nan"]) {
        let Some((db, b)) = bound else { continue };
        if db != dtype || !(dtype.is_int() || dtype.is_arithmetic_float()) {
            return Err(undefined(op, db));
        }
        text = format!("put<{t}>({name}(get<{t}>({text}), get<{t}>({b})))");
    }
    Ok(Expression { text, dtype, heavy: false, faults: false })
}

/// An op over elements that the text has by name.
///
/// # Errors
/// `DType` if the evaluator has no definition for the operands' dtypes, `Structure` if one is missing, `Unsupported` for an
/// op that is not elementwise.
pub fn expression(op: &Op, operands: &[Option<Operand<'_>>]) -> Result<Expression> {
    let optional = |i: usize| operands.get(i).copied().flatten();
    let missing = |i: usize| Error::new(ErrorKind::Structure, format!("`{}`: operand {i} is missing", op.name()));
    let get = |i: usize| optional(i).ok_or_else(|| missing(i));
    let (dtype, x) = get(0)?;
    let light = |text: String, dtype: DType| Expression { text, dtype, heavy: false, faults: false };
    match op {
        Op::Unary(u) => unary(op, *u, (dtype, x)),
        Op::Binary(b) => binary(op, *b, (dtype, x), get(1)?),
        Op::Cast { to, saturate } => {
            let text = format!("cast<{}, {}, {saturate}>({x})", tag(*to), tag(dtype));
            let narrow = to.is_narrow_float() || dtype == DType::F64 && to.bits() < 32;
            Ok(Expression { text, dtype: *to, heavy: narrow && *to != DType::F8E4M3FN, faults: false })
        }
        Op::BitCast { to } => {
            if dtype.bits() != to.bits() || [dtype, *to].contains(&DType::Bool) {
                let message = format!("expected two types of as many bits, and no bool, found {dtype} and {to}");
                return Err(Error::new(ErrorKind::Value, message));
            }
            Ok(light(format!("bits_as<{}, {}>({x})", tag(*to), tag(dtype)), *to))
        }
        Op::Clip => clip(op, (dtype, x), [optional(1), optional(2)]),
        Op::Where => {
            let ((da, a), (db, b)) = (get(1)?, get(2)?);
            if dtype != DType::Bool || da != db {
                return Err(undefined(op, if dtype == DType::Bool { db } else { dtype }));
            }
            Ok(light(format!("{x} != 0 ? {a} : {b}"), da))
        }
        _ => Err(Error::new(ErrorKind::Unsupported, format!("`{}` is not elementwise", op.name()))),
    }
}
