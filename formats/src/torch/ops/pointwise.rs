//! Elementwise ops.

use normfuse_ir::{
    DType, Op, ValueId, num,
    op::{BinaryOp, UnaryOp},
};

use super::{
    super::{
        args::{Call, Scalar},
        memory::Part,
        promote::Operand,
        schema::{Argument, SymArgument},
    },
    Outcome,
};
use crate::reject::{Reject, foreign};

const FLOAT: [(&str, UnaryOp); 17] = [
    ("sqrt.default", UnaryOp::Sqrt),
    ("rsqrt.default", UnaryOp::Rsqrt),
    ("reciprocal.default", UnaryOp::Reciprocal),
    ("exp.default", UnaryOp::Exp),
    ("exp2.default", UnaryOp::Exp2),
    ("log.default", UnaryOp::Log),
    ("log2.default", UnaryOp::Log2),
    ("sin.default", UnaryOp::Sin),
    ("cos.default", UnaryOp::Cos),
    ("tanh.default", UnaryOp::Tanh),
    ("erf.default", UnaryOp::Erf),
    ("sigmoid.default", UnaryOp::Sigmoid),
    ("silu.default", UnaryOp::Silu),
    ("isnan.default", UnaryOp::IsNan),
    ("isinf.default", UnaryOp::IsInf),
    ("special_erf.default", UnaryOp::Erf),
    ("special_exp2.default", UnaryOp::Exp2),
];

/// Ops that leave integers as they are.
const ROUNDING: [(&str, UnaryOp); 3] =
    [("floor.default", UnaryOp::Floor), ("ceil.default", UnaryOp::Ceil), ("round.default", UnaryOp::Round)];

const SAME: [(&str, UnaryOp); 4] = [
    ("abs.default", UnaryOp::Abs),
    ("neg.default", UnaryOp::Neg),
    ("sign.default", UnaryOp::Sign),
    ("relu.default", UnaryOp::Relu),
];

const COMPARE: [(&str, BinaryOp); 5] = [
    ("eq", BinaryOp::Equal),
    ("lt", BinaryOp::Less),
    ("le", BinaryOp::LessOrEqual),
    ("gt", BinaryOp::Greater),
    ("ge", BinaryOp::GreaterOrEqual),
];

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    if let Some((_, op)) = FLOAT.iter().find(|(n, _)| *n == name) {
        let x = c.tensor("self")?;
        let x = c.b.float(x)?;
        return Ok(Some(Outcome::one(c.b.unary(*op, x)?)));
    }
    if let Some((_, op)) = SAME.iter().find(|(n, _)| *n == name) {
        let x = c.tensor("self")?;
        if c.b.dtype(x)? == DType::Bool {
            return foreign("arithmetic of bools");
        }
        return Ok(Some(Outcome::one(signed(c, *op, x)?)));
    }
    if let Some((_, op)) = ROUNDING.iter().find(|(n, _)| *n == name) {
        let x = c.tensor("self")?;
        let value = if c.b.dtype(x)?.is_int() { c.b.unary(UnaryOp::Identity, x)? } else { c.b.unary(*op, x)? };
        return Ok(Some(Outcome::one(value)));
    }
    let (base, overload) = name.split_once('.').unwrap_or((name, ""));
    let value = match (base, overload) {
        ("add" | "sub" | "mul" | "div" | "rsub", "Tensor" | "Scalar") => arithmetic(c, base)?,
        ("true_divide", "Tensor") => arithmetic(c, "div")?,
        ("div", "Tensor_mode" | "Scalar_mode") => {
            let mode = c.text("rounding_mode", "")?;
            whole_quotient(c, mode)?
        }
        ("floor_divide", "default" | "Scalar") => whole_quotient(c, "floor")?,
        ("remainder" | "fmod", "Tensor" | "Scalar") => remainder(c, base == "remainder")?,
        ("maximum" | "minimum", "default") | ("max" | "min", "other") => {
            let (a, b) = (c.tensor("self")?, c.tensor("other")?);
            let op = if base.starts_with("max") { BinaryOp::Max } else { BinaryOp::Min };
            c.b.arithmetic(op, Operand::Tensor(a), Operand::Tensor(b))?
        }
        ("pow", "Tensor_Scalar") => power(c)?,
        ("square", "default") => square(c)?,
        ("pow", "Scalar") => power_of_number(c)?,
        ("pow", "Tensor_Tensor") => {
            let (a, b) = (c.tensor("self")?, c.tensor("exponent")?);
            c.b.arithmetic(BinaryOp::Pow, Operand::Tensor(a), Operand::Tensor(b))?
        }
        ("ne", "Tensor" | "Scalar") => {
            let (a, b) = operands(c)?;
            let equal = c.b.comparison(BinaryOp::Equal, a, b)?;
            c.b.unary(UnaryOp::Not, equal)?
        }
        ("gelu", "default") => {
            let x = c.tensor("self")?;
            match c.text("approximate", "none")? {
                "none" => c.b.unary(UnaryOp::Gelu, x)?,
                "tanh" => c.b.unary(UnaryOp::GeluTanh, x)?,
                other => return foreign(format!("`approximate` is `{other}`")),
            }
        }
        ("softplus", "default") => softplus(c)?,
        ("log1p" | "special_log1p", "default") => log_of_one_more(c)?,
        ("clamp" | "clamp_min" | "clamp_max" | "clip", "default") => clamp(c, "min", "max")?,
        ("clamp" | "clamp_min" | "clamp_max" | "clip", "Tensor") => clamp_to_tensors(c)?,
        ("hardtanh", "default") => hardtanh(c)?,
        ("where", "self" | "ScalarSelf" | "ScalarOther") => {
            let condition = c.tensor("condition")?;
            let (a, b) = operands(c)?;
            let dtype = c.b.result_type(a, b)?;
            let (a, b) = c.b.operands_as(a, b, dtype)?;
            c.b.one(Op::Where, &[condition, a, b])?
        }
        ("outer", "default") => {
            let (a, b) = (c.tensor("self")?, c.tensor("vec2")?);
            let column = c.b.one(Op::Unsqueeze { axes: vec![1] }, &[a])?;
            c.b.arithmetic(BinaryOp::Mul, Operand::Tensor(column), Operand::Tensor(b))?
        }
        ("dropout", "default") => {
            let (x, p) = (c.tensor("input")?, c.float("p")?);
            if c.flag("train", true)? && p != Some(0.0) {
                return foreign("it drops values at random");
            }
            // The same tensor.
            let of = c.name("input")?;
            return Ok(Some(Outcome::View { of, part: Part::Whole, value: x }));
        }
        ("masked_fill", "Scalar") => {
            let (x, mask) = (c.tensor("self")?, c.tensor("mask")?);
            let Some(value) = c.scalar("value")? else { return foreign("it has no `value`") };
            let dtype = c.b.dtype(x)?;
            let value = c.b.scalar(value, dtype)?;
            c.b.one(Op::Where, &[mask, value, x])?
        }
        ("masked_fill", "Tensor") => {
            let (x, mask, value) = (c.tensor("self")?, c.tensor("mask")?, c.tensor("value")?);
            let dtype = c.b.dtype(x)?;
            let value = c.b.cast(value, dtype)?;
            c.b.one(Op::Where, &[mask, value, x])?
        }
        ("to" | "_to_copy" | "type_as" | "convert_element_type", _) => return convert(c, base, overload).map(Some),
        _ => return logic(c, base, overload),
    };
    Ok(Some(Outcome::one(value)))
}

/// Bools, bits and comparisons.
fn logic<'p>(c: &mut Call<'_, 'p>, base: &str, overload: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match (base, overload) {
        ("logical_not", "default") => {
            let x = c.tensor("self")?;
            if c.b.dtype(x)? == DType::Bool {
                c.b.unary(UnaryOp::Not, x)?
            } else {
                c.b.comparison(BinaryOp::Equal, Operand::Tensor(x), Operand::Scalar(Scalar::Int(0)))?
            }
        }
        ("bitwise_not", "default") => {
            let x = c.tensor("self")?;
            let bool = c.b.dtype(x)? == DType::Bool;
            c.b.unary(if bool { UnaryOp::Not } else { UnaryOp::BitwiseNot }, x)?
        }
        ("logical_and" | "logical_or" | "logical_xor", "default") => {
            let (a, b) = (c.tensor("self")?, c.tensor("other")?);
            if c.b.dtype(a)? != DType::Bool || c.b.dtype(b)? != DType::Bool {
                return foreign("its operands are not bools");
            }
            bits(c, &base["logical_".len()..], Operand::Tensor(a), Operand::Tensor(b))?
        }
        ("bitwise_and" | "bitwise_or" | "bitwise_xor", "Tensor" | "Scalar") => {
            let (a, b) = operands(c)?;
            bits(c, &base["bitwise_".len()..], a, b)?
        }
        ("__and__" | "__or__" | "__xor__", "Tensor" | "Scalar") => {
            let (a, b) = operands(c)?;
            bits(c, base.trim_matches('_'), a, b)?
        }
        ("__lshift__" | "__rshift__" | "bitwise_left_shift" | "bitwise_right_shift", _) => {
            let (a, b) = operands(c)?;
            shift(c, base.contains("lshift") || base.contains("left"), a, b)?
        }
        _ => match COMPARE.iter().find(|(n, _)| *n == base) {
            Some((_, op)) if matches!(overload, "Tensor" | "Scalar") => {
                let (a, b) = operands(c)?;
                c.b.comparison(*op, a, b)?
            }
            _ => return Ok(None),
        },
    };
    Ok(Some(Outcome::one(value)))
}

/// What unsigned integers and NaNs are special for: the first are negated as what is left of zero, and a NaN's sign is 0.
fn signed(c: &mut Call<'_, '_>, op: UnaryOp, x: ValueId) -> Result<ValueId, Reject> {
    let dtype = c.b.dtype(x)?;
    let zero = |c: &mut Call<'_, '_>| c.b.scalar(Scalar::Int(0), dtype);
    match op {
        UnaryOp::Neg if dtype.is_unsigned_int() => {
            let zero = zero(c)?;
            Ok(c.b.binary(BinaryOp::Sub, zero, x)?)
        }
        UnaryOp::Sign if dtype.is_arithmetic_float() => {
            let zero = zero(c)?;
            let (sign, nan) = (c.b.unary(op, x)?, c.b.unary(UnaryOp::IsNan, x)?);
            Ok(c.b.one(Op::Where, &[nan, zero, sign])?)
        }
        _ => Ok(c.b.unary(op, x)?),
    }
}

/// `self` and `other`, which may each be a number.
pub fn operands(c: &mut Call<'_, '_>) -> Result<(Operand, Operand), Reject> {
    let mut device = |name: &str| match c.get(name) {
        Some(Argument::Tensor(t)) => c.b.device(t),
        _ => None,
    };
    let devices = [device("self"), device("other")];
    let elsewhere = devices.into_iter().flatten().any(|d| d != "cpu");
    let mut one = |name: &str| match c.get(name) {
        Some(Argument::Tensor(t)) => {
            let on_host = elsewhere && c.b.device(t) == Some("cpu");
            let x = c.tensor(name)?;
            Ok(if on_host && c.b.shape(x)?.is_empty() { Operand::Host(x) } else { Operand::Tensor(x) })
        }
        Some(Argument::SymInt(SymArgument::Name(_))) => {
            let Some(size) = c.opt_size(name)? else { return foreign("no size") };
            let v = c.b.size(&size)?;
            Ok(Operand::Size(c.b.one(Op::Squeeze { axes: Some(vec![0]) }, &[v])?))
        }
        _ => match c.scalar(name)? {
            Some(s) => Ok(Operand::Scalar(s)),
            None => foreign(format!("it has no `{name}`")),
        },
    };
    Ok((one("self")?, one("other")?))
}

fn arithmetic(c: &mut Call<'_, '_>, base: &str) -> Result<ValueId, Reject> {
    let (a, b) = operands(c)?;
    let alpha = c.scalar("alpha")?.filter(|alpha| !matches!(alpha, Scalar::Int(1) | Scalar::Float(1.0)));
    let both_bool = |o: Operand| matches!(o, Operand::Tensor(x) if c.b.dtype(x).ok() == Some(DType::Bool));
    if base == "mul" && both_bool(a) && both_bool(b) {
        return bits(c, "and", a, b);
    }
    // `1.0 / x` is exported as a reciprocal times one: no number changes, its bits neither.
    if let (Operand::Tensor(x), Operand::Scalar(Scalar::Int(1) | Scalar::Float(1.0))) = (a, b) {
        let dtype = c.b.dtype(x)?;
        if matches!(base, "mul" | "div") && dtype.is_arithmetic_float() && c.b.result_type(a, b)? == dtype {
            return Ok(x);
        }
    }
    match base {
        "add" => c.b.arithmetic_with(BinaryOp::Add, a, b, alpha),
        "sub" => c.b.arithmetic_with(BinaryOp::Sub, a, b, alpha),
        "rsub" => c.b.arithmetic_with(BinaryOp::Sub, b, a, alpha),
        "mul" => c.b.arithmetic(BinaryOp::Mul, a, b),
        _ => c.b.arithmetic(BinaryOp::Div, a, b),
    }
}

fn softplus(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    for (name, default) in [("beta", 1.0), ("threshold", 20.0)] {
        let usual = |s: Scalar| matches!(s, Scalar::Int(v) if v as f64 == default) || s == Scalar::Float(default);
        if c.scalar(name)?.is_some_and(|s| !usual(s)) {
            return foreign(format!("`{name}` is not {default}"));
        }
    }
    Ok(c.b.unary(UnaryOp::Softplus, x)?)
}

/// The quotient of integers as an integer, rounded down or toward zero.
fn whole_quotient(c: &mut Call<'_, '_>, mode: &str) -> Result<ValueId, Reject> {
    let (a, b) = operands(c)?;
    let dtype = c.b.result_type(a, b)?;
    if !dtype.is_int() {
        return foreign("a quotient of floats that is rounded to a whole number");
    }
    let (x, y) = c.b.operands_as(a, b, dtype)?;
    match mode {
        "trunc" => Ok(c.b.binary(BinaryOp::Div, x, y)?),
        "floor" => floor_quotient(c, x, y),
        other => foreign(format!("`rounding_mode` is `{other}`")),
    }
}

/// One less than the quotient that is rounded toward zero, where something is left and the signs differ. The operands
/// are not changed on the way, for the dividend less what is left may be out of range.
fn floor_quotient(c: &mut Call<'_, '_>, x: ValueId, y: ValueId) -> Result<ValueId, Reject> {
    let dtype = c.b.dtype(x)?;
    let quotient = c.b.binary(BinaryOp::Div, x, y)?;
    if dtype.is_unsigned_int() {
        return Ok(quotient);
    }
    let zero = c.b.scalar(Scalar::Int(0), dtype)?;
    let rest = c.b.binary(BinaryOp::Mod, x, y)?;
    let none = c.b.binary(BinaryOp::Equal, rest, zero)?;
    let some = c.b.unary(UnaryOp::Not, none)?;
    let (left, right) = (c.b.binary(BinaryOp::Less, x, zero)?, c.b.binary(BinaryOp::Less, y, zero)?);
    let differ = c.b.binary(BinaryOp::Xor, left, right)?;
    let below = c.b.binary(BinaryOp::And, some, differ)?;
    let one = c.b.cast(below, dtype)?;
    Ok(c.b.binary(BinaryOp::Sub, quotient, one)?)
}

/// What a division leaves: of the divisor's sign if the quotient was rounded down, else of the dividend's.
fn remainder(c: &mut Call<'_, '_>, down: bool) -> Result<ValueId, Reject> {
    let (a, b) = operands(c)?;
    let dtype = c.b.result_type(a, b)?;
    if dtype == DType::Bool {
        return foreign("arithmetic of bools");
    }
    let (x, y) = c.b.operands_as(a, b, dtype)?;
    if dtype.is_int() {
        return Ok(c.b.binary(if down { BinaryOp::Mod } else { BinaryOp::Fmod }, x, y)?);
    }
    // Both operands are rounded to 16 bits, and only what is left is computed in f32.
    let compute = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let (x, y) = (c.b.cast(x, compute)?, c.b.cast(y, compute)?);
    let mut rest = c.b.binary(BinaryOp::Fmod, x, y)?;
    if down {
        let zero = c.b.scalar(Scalar::Float(0.0), compute)?;
        let none = c.b.binary(BinaryOp::Equal, rest, zero)?;
        let some = c.b.unary(UnaryOp::Not, none)?;
        let (left, right) = (c.b.binary(BinaryOp::Less, rest, zero)?, c.b.binary(BinaryOp::Less, y, zero)?);
        let signs_differ = c.b.binary(BinaryOp::Xor, left, right)?;
        let off = c.b.binary(BinaryOp::And, some, signs_differ)?;
        let up = c.b.binary(BinaryOp::Add, rest, y)?;
        rest = c.b.one(Op::Where, &[off, up, rest])?;
    }
    Ok(c.b.cast(rest, dtype)?)
}

/// `log(1 + x)` of 16 or 32 bits in f64: `log(u) * (x / (u - 1))` with the rounded `u = 1 + x` (Kahan), which is `log(u)` where
/// nothing was rounded, and `x` where nothing of it is left.
fn log_of_one_more(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let x = c.b.float(x)?;
    let dtype = c.b.dtype(x)?;
    if dtype == DType::F64 {
        return foreign("of 64 bits, which would need more of them on the way");
    }
    let x = c.b.cast(x, DType::F64)?;
    let one = c.b.scalar(Scalar::Float(1.0), DType::F64)?;
    let u = c.b.binary(BinaryOp::Add, x, one)?;
    let log = c.b.unary(UnaryOp::Log, u)?;
    let more = c.b.binary(BinaryOp::Sub, u, one)?;
    let lost = c.b.binary(BinaryOp::Div, x, more)?;
    let corrected = c.b.binary(BinaryOp::Mul, log, lost)?;
    let exact = c.b.binary(BinaryOp::Equal, more, x)?;
    let y = c.b.one(Op::Where, &[exact, log, corrected])?;
    let tiny = c.b.binary(BinaryOp::Equal, u, one)?;
    let y = c.b.one(Op::Where, &[tiny, x, y])?;
    Ok(c.b.cast(y, dtype)?)
}

fn square(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    c.b.arithmetic(BinaryOp::Mul, Operand::Tensor(x), Operand::Tensor(x))
}

/// ATen computes some exponents by other ops than a power.
fn power(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let Some(exponent) = c.scalar("exponent")? else { return foreign("it has no `exponent`") };
    let number = match exponent {
        Scalar::Int(v) => v as f64,
        Scalar::Float(v) => v,
        Scalar::Bool(_) => return foreign("the exponent is a bool"),
    };
    let float = c.b.dtype(x)?.is_arithmetic_float();
    if float && number == 0.5 {
        return Ok(c.b.unary(UnaryOp::Sqrt, x)?);
    }
    if float && number == -0.5 {
        return Ok(c.b.unary(UnaryOp::Rsqrt, x)?);
    }
    if float && number == -1.0 {
        return Ok(c.b.unary(UnaryOp::Reciprocal, x)?);
    }
    if float && (number == 3.0 || number == -2.0) {
        // Two roundings each, with f32 between them for 16 bits: no one op of ours.
        return foreign(format!("the exponent {number} is computed by products"));
    }
    let dtype = c.b.result_type(Operand::Tensor(x), Operand::Scalar(exponent))?;
    // An exponent has the type of the power.
    let exponent = match dtype {
        DType::F16 | DType::BF16 => Scalar::Float(f64::from(num::round_to(dtype, number as f32))),
        _ => exponent,
    };
    c.b.arithmetic(BinaryOp::Pow, Operand::Tensor(x), Operand::Scalar(exponent))
}

/// A number to the power of a tensor. As every base it has the type of the power.
fn power_of_number(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let exponent = c.tensor("exponent")?;
    let Some(base) = c.scalar("self")? else { return foreign("it has no `self`") };
    if matches!(base, Scalar::Bool(_)) {
        return foreign("the base is a bool");
    }
    let dtype = c.b.result_type(Operand::Scalar(base), Operand::Tensor(exponent))?;
    let base = c.b.scalar(base, dtype)?;
    c.b.arithmetic(BinaryOp::Pow, Operand::Tensor(base), Operand::Tensor(exponent))
}

fn bits(c: &mut Call<'_, '_>, name: &str, a: Operand, b: Operand) -> Result<ValueId, Reject> {
    let dtype = c.b.result_type(a, b)?;
    let op = match (name, dtype == DType::Bool) {
        ("and", true) => BinaryOp::And,
        ("or", true) => BinaryOp::Or,
        ("xor", true) => BinaryOp::Xor,
        ("and", false) => BinaryOp::BitwiseAnd,
        ("or", false) => BinaryOp::BitwiseOr,
        _ => BinaryOp::BitwiseXor,
    };
    if dtype != DType::Bool && !dtype.is_int() {
        return foreign("bits of floats");
    }
    let (x, y) = c.b.operands_as(a, b, dtype)?;
    Ok(c.b.binary(op, x, y)?)
}

fn shift(c: &mut Call<'_, '_>, left: bool, a: Operand, b: Operand) -> Result<ValueId, Reject> {
    let dtype = c.b.result_type(a, b)?;
    let op = if left { BinaryOp::ShiftLeft } else { BinaryOp::ShiftRight };
    if dtype.is_unsigned_int() {
        let (x, y) = c.b.operands_as(a, b, dtype)?;
        return Ok(c.b.binary(op, x, y)?);
    }
    // Signed integers are shifted as the unsigned ones of the same bits.
    let (unsigned, bits) = match dtype {
        DType::I8 => (DType::U8, 8),
        DType::I16 => (DType::U16, 16),
        DType::I32 => (DType::U32, 32),
        DType::I64 => (DType::U64, 64),
        other => return foreign(format!("a shift of {other}")),
    };
    let (Operand::Tensor(x), Operand::Scalar(Scalar::Int(by))) = (a, b) else {
        return foreign("a shift of signed integers by another tensor");
    };
    if !(0..bits).contains(&by) {
        return foreign("a shift by as many bits as there are, or more");
    }
    let x = c.b.cast(x, dtype)?;
    let x = c.b.one(Op::BitCast { to: unsigned }, &[x])?;
    let by_bits = c.b.scalar(Scalar::Int(by), unsigned)?;
    let shifted = c.b.binary(op, x, by_bits)?;
    let mut y = c.b.one(Op::BitCast { to: dtype }, &[shifted])?;
    if !left && by > 0 {
        // To the right, the sign is repeated in front: `(y ^ m) - m`, m being the place to which it was shifted.
        let sign = c.b.scalar(Scalar::Int(1 << (bits - 1 - by)), dtype)?;
        y = c.b.binary(BinaryOp::BitwiseXor, y, sign)?;
        y = c.b.binary(BinaryOp::Sub, y, sign)?;
    }
    Ok(y)
}

/// Bounds that are tensors: the largest of the first and the value, and of that and the second the smallest. A NaN on any side
/// is the result.
fn clamp_to_tensors(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let mut x = c.tensor("self")?;
    for (name, op) in [("min", BinaryOp::Max), ("max", BinaryOp::Min)] {
        if let Some(bound) = c.opt_tensor(name)? {
            x = c.b.arithmetic(op, Operand::Tensor(x), Operand::Tensor(bound))?;
        }
    }
    Ok(x)
}

fn hardtanh(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let dtype = c.b.dtype(x)?;
    if !dtype.is_arithmetic_float() {
        return foreign("its operand is no float");
    }
    let mut bound = |name: &str, default: i64| {
        let number = c.scalar(name)?.unwrap_or(Scalar::Int(default));
        c.b.scalar(number, dtype)
    };
    let (lo, hi) = (bound("min_val", -1)?, bound("max_val", 1)?);
    c.b.clip(x, Some(lo), Some(hi))
}

/// Between two numbers, the arguments of these names.
fn clamp(c: &mut Call<'_, '_>, min: &str, max: &str) -> Result<ValueId, Reject> {
    let x = c.tensor("self")?;
    let (lo, hi) = (c.scalar(min)?, c.scalar(max)?);
    let mut dtype = c.b.dtype(x)?;
    for s in lo.iter().chain(&hi) {
        dtype = match (dtype, c.b.result_type(Operand::Tensor(x), Operand::Scalar(*s))?) {
            (d, r) if d.is_arithmetic_float() || d == r => d,
            (_, r) => r,
        };
    }
    let x = c.b.cast(x, dtype)?;
    let lo = lo.map(|s| c.b.scalar(s, dtype)).transpose()?;
    let hi = hi.map(|s| c.b.scalar(s, dtype)).transpose()?;
    c.b.clip(x, lo, hi)
}

fn convert<'p>(c: &mut Call<'_, 'p>, base: &str, overload: &str) -> Result<Outcome<'p>, Reject> {
    let of = c.name(if base == "convert_element_type" { "a" } else { "self" })?;
    let x = c.b.memory.read(of)?;
    let to = match (base, overload) {
        ("type_as", _) | ("to", "other") => {
            let other = c.tensor("other")?;
            Some(c.b.dtype(other)?)
        }
        _ => c.dtype("dtype")?,
    };
    // To another device is a copy; in another order of memory, or as a prim, perhaps.
    let result = c.result()?;
    let copies = base == "_to_copy" || c.flag("copy", false)? || c.b.device(of) != c.b.device(result);
    let part = if base == "convert_element_type" || c.is_reordered() { Part::Other } else { Part::Whole };
    let from = c.b.dtype(x)?;
    Ok(match to.filter(|to| *to != from) {
        Some(to) => Outcome::one(c.b.cast(x, to)?),
        None if copies => Outcome::one(x),
        // As it is: the same tensor.
        None => Outcome::View { of, part, value: x },
    })
}
