//! ATen's rules for operands of different types, and for the numbers that stand in a program.
//!
//! The kinds are bool, integer and float. Integers among floats that are numbers become torch's default type: f32, unless the
//! model was exported under another, which the types of results show ([`Builder::default_float`]). Tensors decide over tensors of rank 0, and those over numbers: what is lower
//! has a say only if its kind is higher. 16-bit floats are computed in f32 and rounded once.
//!
//! Torch's backends disagree about what comes in beside a tensor of 16 bits, and models are trained and served on GPUs,
//! so this is what the CUDA kernels do: a number (also a size that is computed, or a tensor of rank 0 on the CPU beside
//! one on another device) comes in as f32 and is never rounded; a tensor of rank 0 on the same device is loaded in the
//! 16-bit type, which rounds it. The CPU's kernels differ in that they round numbers of `x + c`, `x - c` and `c - x`, and
//! do not round a tensor of rank 0 on the right of a product or quotient. Exponents are rounded on both. A quotient is
//! one division, where CUDA multiplies by the reciprocal of a number.

use std::cmp::Ordering;

use normfuse_ir::{DType, Op, Tensor, ValueId, num, op::BinaryOp};

use super::{args::Scalar, build::Builder};
use crate::reject::{Reject, foreign};

/// An operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operand {
    Tensor(ValueId),
    /// A tensor of rank 0 on the CPU beside one on another device, which comes in as numbers do.
    Host(ValueId),
    /// An integer that is computed: a number, whatever its type.
    Size(ValueId),
    Scalar(Scalar),
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Kind {
    Bool,
    Int,
    Float,
}

fn kind(d: DType) -> Kind {
    match d {
        DType::Bool => Kind::Bool,
        d if d.is_int() => Kind::Int,
        _ => Kind::Float,
    }
}

fn is_16_bit(d: DType) -> bool {
    matches!(d, DType::F16 | DType::BF16)
}

/// True for a number by which a product of floats is exact, unless it leaves their range.
fn is_power_of_two(v: f64) -> bool {
    v.is_normal() && v.to_bits() << 12 == 0
}

/// The type that two tensor types of equal rank in the rules meet in; `None` where torch has none or the IR lacks it.
fn meet(a: DType, b: DType) -> Option<DType> {
    if a == b {
        return Some(a);
    }
    let bits = |d: DType| d.bits();
    match (kind(a), kind(b)) {
        (x, y) if x < y => Some(b),
        (x, y) if x > y => Some(a),
        (Kind::Int, _) => match (a.is_unsigned_int(), b.is_unsigned_int()) {
            (x, y) if x == y => Some(if bits(a) > bits(b) { a } else { b }),
            // u8 beside a signed type; wider unsigned types do not promote in torch.
            (true, _) if a == DType::U8 => Some(if b == DType::I8 { DType::I16 } else { b }),
            (_, true) if b == DType::U8 => Some(if a == DType::I8 { DType::I16 } else { a }),
            _ => None,
        },
        _ => match (a, b) {
            _ if !a.is_arithmetic_float() || !b.is_arithmetic_float() => None,
            (DType::F64, _) | (_, DType::F64) => Some(DType::F64),
            _ => Some(DType::F32),
        },
    }
}

/// A number as an element of a type, and whether that is the number itself.
fn element(s: Scalar, dtype: DType) -> Option<(Tensor, bool)> {
    let tensor = |bytes: Vec<u8>| Tensor::from_bytes(dtype, Vec::new(), bytes).ok();
    let as_f64 = match s {
        Scalar::Bool(v) => f64::from(u8::from(v)),
        Scalar::Int(v) => v as f64,
        Scalar::Float(v) => v,
    };
    // Torch converts through f32.
    let narrow = as_f64 as f32;
    Some(match dtype {
        DType::F64 => (tensor(as_f64.to_le_bytes().to_vec())?, true),
        DType::F32 => (tensor(narrow.to_le_bytes().to_vec())?, true),
        DType::F16 | DType::BF16 => {
            let bits = if dtype == DType::F16 { num::f32_to_f16(narrow) } else { num::f32_to_bf16(narrow) };
            let back = num::round_to(dtype, narrow);
            (tensor(bits.to_le_bytes().to_vec())?, back == narrow || narrow.is_nan())
        }
        DType::Bool => (tensor(vec![u8::from(as_f64 != 0.0)])?, true),
        d if d.is_int() => {
            let Scalar::Int(v) = (match s {
                Scalar::Bool(v) => Scalar::Int(i64::from(v)),
                // A whole number is one, whatever it is written as.
                Scalar::Float(v) if v == v.trunc() && v.abs() < 9.0e15 => Scalar::Int(v as i64),
                s => s,
            }) else {
                return None;
            };
            let bytes = v.to_le_bytes();
            let size = d.bits() / 8;
            let sign = if d.is_signed_int() && bytes[size - 1] & 0x80 != 0 { 0xff } else { 0 };
            let fits = bytes[size..].iter().all(|b| *b == sign)
                && (size < 8 || d.is_signed_int() || v >= 0)
                && (d.is_unsigned_int() || (v < 0) == (bytes[size - 1] & 0x80 != 0));
            if !fits {
                return None;
            }
            (tensor(bytes[..size].to_vec())?, true)
        }
        _ => return None,
    })
}

impl Builder<'_> {
    /// The type in which ATen computes two operands, and that of the result.
    pub fn result_type(&mut self, a: Operand, b: Operand) -> Result<DType, Reject> {
        let none = || Reject::Foreign("torch has no common type for the operands that normfuse has".into());
        match (a, b) {
            (Operand::Scalar(_), Operand::Scalar(_)) => foreign("neither operand is a tensor"),
            (Operand::Scalar(s), Operand::Tensor(x) | Operand::Host(x) | Operand::Size(x))
            | (Operand::Tensor(x) | Operand::Host(x) | Operand::Size(x), Operand::Scalar(s)) => {
                let d = self.dtype(x)?;
                Ok(match s {
                    Scalar::Float(_) if kind(d) < Kind::Float => self.default_float(),
                    Scalar::Int(_) if kind(d) < Kind::Int => DType::I64,
                    _ => d,
                })
            }
            (
                Operand::Tensor(x) | Operand::Host(x) | Operand::Size(x),
                Operand::Tensor(y) | Operand::Host(y) | Operand::Size(y),
            ) => {
                let (dx, dy) = (self.dtype(x)?, self.dtype(y)?);
                // Tensors over tensors of rank 0 over numbers.
                let say = |o: Operand, v: ValueId| match o {
                    Operand::Size(_) => Ok::<_, Reject>(0),
                    _ => Ok(if self.shape(v)?.is_empty() { 1 } else { 2 }),
                };
                let (high, low) = match say(a, x)?.cmp(&say(b, y)?) {
                    Ordering::Equal => return meet(dx, dy).ok_or_else(none),
                    Ordering::Less => (dy, dx),
                    Ordering::Greater => (dx, dy),
                };
                if kind(low) > kind(high) { meet(low, high).ok_or_else(none) } else { Ok(high) }
            }
        }
    }

    /// A number as a constant of a type.
    ///
    /// # Errors
    /// Foreign, if the type does not hold it.
    pub fn scalar(&mut self, s: Scalar, dtype: DType) -> Result<ValueId, Reject> {
        match element(s, dtype) {
            Some((tensor, _)) => Ok(self.constant(&format!("{dtype}_{s}"), tensor)),
            None => foreign(format!("the number {s} is no {dtype}")),
        }
    }

    fn operand(&mut self, o: Operand, dtype: DType) -> Result<ValueId, Reject> {
        match o {
            Operand::Tensor(x) | Operand::Host(x) | Operand::Size(x) => Ok(self.cast(x, dtype)?),
            Operand::Scalar(s) => self.scalar(s, dtype),
        }
    }

    /// Both operands in one type.
    pub fn operands_as(&mut self, a: Operand, b: Operand, dtype: DType) -> Result<(ValueId, ValueId), Reject> {
        Ok((self.operand(a, dtype)?, self.operand(b, dtype)?))
    }

    /// Arithmetic with promotion; the result has the type that ATen gives it.
    pub fn arithmetic(&mut self, op: BinaryOp, a: Operand, b: Operand) -> Result<ValueId, Reject> {
        self.arithmetic_with(op, a, b, None)
    }

    /// As [`Builder::arithmetic`], with the second operand multiplied by a number first.
    ///
    /// # Errors
    /// Foreign also for a product of floats that may be rounded: whether it is depends on the backend, and on the CPU on
    /// the element's place.
    pub fn arithmetic_with(
        &mut self,
        op: BinaryOp,
        a: Operand,
        b: Operand,
        alpha: Option<Scalar>,
    ) -> Result<ValueId, Reject> {
        let mut dtype = self.result_type(a, b)?;
        if op == BinaryOp::Div && kind(dtype) < Kind::Float {
            dtype = self.default_float();
        }
        if dtype == DType::Bool {
            return foreign("arithmetic of bools");
        }
        let wide =
            is_16_bit(dtype) && (alpha.is_some() || self.comes_in_wide(a, dtype)? || self.comes_in_wide(b, dtype)?);
        // ONNX has no powers of these integers; those of 64 bits end in the same bits.
        let narrow = matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::U32);
        let compute = match op {
            _ if wide => DType::F32,
            BinaryOp::Pow if narrow => DType::I64,
            _ => dtype,
        };
        let (x, mut y) = (self.comes_in(a, dtype, compute)?, self.comes_in(b, dtype, compute)?);
        if let Some(alpha) = alpha {
            let exact = match alpha {
                Scalar::Int(v) => dtype.is_int() || is_power_of_two(v as f64),
                Scalar::Float(v) => dtype.is_arithmetic_float() && is_power_of_two(v),
                Scalar::Bool(_) => false,
            };
            if !exact {
                return foreign(format!(
                    "`alpha` is no power of two but {alpha}: backends round its product differently"
                ));
            }
            let factor = self.scalar(alpha, compute)?;
            y = self.binary(BinaryOp::Mul, y, factor)?;
        }
        let r = self.binary(op, x, y)?;
        Ok(self.cast(r, dtype)?)
    }

    /// An operand of a computation in `compute` whose result is rounded to `dtype`.
    fn comes_in(&mut self, o: Operand, dtype: DType, compute: DType) -> Result<ValueId, Reject> {
        match o {
            // Loaded in the type of the result, whatever is computed in.
            Operand::Tensor(x) if is_16_bit(dtype) => {
                let x = self.cast(x, dtype)?;
                Ok(self.cast(x, compute)?)
            }
            o => self.operand(o, compute),
        }
    }

    /// True for a number that 16 bits would round.
    fn comes_in_wide(&self, o: Operand, dtype: DType) -> Result<bool, Reject> {
        Ok(match o {
            Operand::Scalar(s) => element(s, dtype).is_some_and(|(_, exact)| !exact),
            Operand::Host(x) | Operand::Size(x) => self.dtype(x)? != dtype,
            Operand::Tensor(_) => false,
        })
    }

    /// A comparison. A number that the tensor's 16-bit type does not hold is compared as different backends round it.
    pub fn comparison(&mut self, op: BinaryOp, a: Operand, b: Operand) -> Result<ValueId, Reject> {
        let mut dtype = self.result_type(a, b)?;
        for o in [a, b] {
            if is_16_bit(dtype) && self.comes_in_wide(o, dtype)? {
                return foreign(format!("it compares {dtype} with a number that is none"));
            }
        }
        if dtype == DType::Bool && op != BinaryOp::Equal {
            dtype = DType::I64;
        }
        let (x, y) = (self.operand(a, dtype)?, self.operand(b, dtype)?);
        Ok(self.binary(op, x, y)?)
    }

    /// Tensors in one type, as `cat` and `where` take them.
    pub fn together(&mut self, all: &[ValueId]) -> Result<Vec<ValueId>, Reject> {
        let Some((first, rest)) = all.split_first() else { return Ok(Vec::new()) };
        let mut dtype = self.dtype(*first)?;
        for v in rest {
            let d = self.dtype(*v)?;
            match meet(dtype, d) {
                Some(d) => dtype = d,
                None => return foreign(format!("torch has no common type for {dtype} and {d} that normfuse has")),
            }
        }
        all.iter().map(|v| Ok(self.cast(*v, dtype)?)).collect()
    }

    /// The value as a float: integers and bools become the default type.
    pub fn float(&mut self, x: ValueId) -> Result<ValueId, Reject> {
        if kind(self.dtype(x)?) == Kind::Float {
            return Ok(x);
        }
        let to = self.default_float();
        Ok(self.cast(x, to)?)
    }

    /// A value of f32 arithmetic in another type.
    pub fn clip(&mut self, x: ValueId, lo: Option<ValueId>, hi: Option<ValueId>) -> Result<ValueId, Reject> {
        let made = self.emit(Op::Clip, &if hi.is_some() { vec![Some(x), lo, hi] } else { vec![Some(x), lo] })?;
        made.first().copied().ok_or_else(|| Reject::Foreign("no result".into()))
    }
}
