//! The operands of one node, and the checks that ops have in common.

use std::fmt;

use super::ports;
use crate::{DType, Dim, Error, ErrorKind, Op, Result, Shape, Type};

/// What is known of one operand.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    /// Its type, as far as it is known.
    pub ty: &'a Type,
    /// Its contents, if it is a small integer tensor: see [`super::Facts::known`].
    pub known: Option<&'a [Dim]>,
}

/// An op with its operands.
pub(super) struct Args<'a> {
    pub(super) op: &'a Op,
    operands: &'a [Option<Operand<'a>>],
    tag: &'a dyn fmt::Display,
}

impl<'a> Args<'a> {
    pub(super) fn new(op: &'a Op, operands: &'a [Option<Operand<'a>>], tag: &'a dyn fmt::Display) -> Result<Self> {
        let (min, max) = op.arity();
        let bad = |message: String| Err(Error::new(ErrorKind::Structure, message));
        if operands.len() < min || max.is_some_and(|m| operands.len() > m) {
            let most = max.map_or_else(|| "any number".into(), |m| m.to_string());
            return bad(format!("`{}` takes {min} to {most} operands, found {}", op.name(), operands.len()));
        }
        if let Some(p) = operands.iter().take(min).position(Option::is_none)
            && !matches!(op, Op::Foreign(_))
        {
            return bad(format!("`{}` needs {}", op.name(), ports::operand(op, p)));
        }
        if let Some(p) = operands.iter().position(|o| o.is_some_and(|o| o.ty.opaque.is_some()))
            && !matches!(op, Op::Foreign(_))
        {
            let message = "expected a tensor, found a value of a type that only foreign ops can read";
            return Err(Error::new(ErrorKind::DType, message).at_port(ports::operand(op, p)));
        }
        Ok(Self { op, operands, tag })
    }

    /// Number of operands, left-out ones in the middle included.
    pub(super) fn len(&self) -> usize {
        self.operands.len()
    }

    fn get(&self, port: usize) -> Option<&Operand<'a>> {
        self.operands.get(port).and_then(Option::as_ref)
    }

    pub(super) fn present(&self, port: usize) -> bool {
        self.get(port).is_some()
    }

    pub(super) fn dtype(&self, port: usize) -> Option<DType> {
        self.get(port).and_then(|o| o.ty.dtype)
    }

    pub(super) fn shape(&self, port: usize) -> Option<&'a [Dim]> {
        self.get(port).and_then(|o| o.ty.shape.as_ref()).map(|s| s.0.as_slice())
    }

    /// A size that nothing is known of.
    pub(super) fn fresh(&self, port: usize, axis: usize) -> Dim {
        Dim::unknown(format_args!("{}.{port}.{axis}", self.tag))
    }

    /// An integer that nothing is known of.
    pub(super) fn fresh_data(&self, port: usize, index: usize) -> Dim {
        Dim::unknown_data(format_args!("{}.{port}.{index}", self.tag))
    }

    /// The contents of a scalar or vector; where only their number is known, unknown integers.
    pub(super) fn contents(&self, port: usize) -> Option<Vec<Dim>> {
        if let Some(k) = self.known(port) {
            return Some(k.to_vec());
        }
        let n = match self.shape(port)? {
            [] => 1,
            [n] => usize::try_from(n.as_const()?).ok().filter(|n| *n <= super::MAX_KNOWN)?,
            _ => return None,
        };
        // Tagged by the operand, 1000 past the results, so that they differ from the results' own unknowns.
        Some((0..n).map(|i| self.fresh_data(1000 + port, i)).collect())
    }

    /// The contents of a scalar or vector, if really known.
    pub(super) fn known(&self, port: usize) -> Option<&'a [Dim]> {
        self.flat(port).filter(|_| self.shape(port).is_some_and(|s| s.len() <= 1))
    }

    /// The contents of an operand of any rank, row-major.
    pub(super) fn flat(&self, port: usize) -> Option<&'a [Dim]> {
        self.get(port).and_then(|o| o.known)
    }

    /// The contents of an operand, if all are numbers.
    pub(super) fn numbers(&self, port: usize) -> Option<Vec<i64>> {
        self.known(port)?.iter().map(Dim::as_const).collect()
    }

    /// The one element of an operand.
    pub(super) fn scalar(&self, port: usize) -> Option<&'a Dim> {
        match self.known(port)? {
            [d] => Some(d),
            _ => None,
        }
    }

    /// A computed integer as a size of the result: unknown if it may be negative, since a negative one does not get
    /// through the op (or means something else to it).
    pub(super) fn size(&self, d: &Dim, port: usize, axis: usize) -> Dim {
        if d.min_value().is_some_and(|v| v >= 0) { d.clone() } else { self.fresh(port, axis) }
    }

    pub(super) fn error(&self, kind: ErrorKind, port: usize, message: impl Into<String>) -> Error {
        Error::new(kind, message).at_port(ports::operand(self.op, port))
    }

    pub(super) fn shape_error(&self, port: usize, message: impl Into<String>) -> Error {
        self.error(ErrorKind::Shape, port, message)
    }

    /// The operand's dtype, which must be one that the op takes.
    pub(super) fn expect(&self, port: usize, accept: fn(DType) -> bool, what: &str) -> Result<Option<DType>> {
        match self.dtype(port) {
            Some(d) if !accept(d) => Err(self.error(ErrorKind::DType, port, format!("expected {what}, found {d}"))),
            d => Ok(d),
        }
    }

    /// Any of the integer types of indices.
    pub(super) fn expect_index(&self, port: usize) -> Result<Option<DType>> {
        self.expect(port, |d| matches!(d, DType::I32 | DType::I64), "i32 or i64")
    }

    pub(super) fn expect_i64(&self, port: usize) -> Result<Option<DType>> {
        self.expect(port, |d| d == DType::I64, "i64")
    }

    /// The operand must have this dtype.
    pub(super) fn expect_dtype(&self, port: usize, want: DType) -> Result<()> {
        match self.dtype(port) {
            Some(d) if d != want => Err(self.error(ErrorKind::DType, port, format!("expected {want}, found {d}"))),
            _ => Ok(()),
        }
    }

    /// The one dtype of several operands, as far as it is known.
    pub(super) fn same_dtype(&self, ports: &[usize]) -> Result<Option<DType>> {
        let mut first: Option<(usize, DType)> = None;
        for &port in ports {
            match (first, self.dtype(port)) {
                (None, Some(d)) => first = Some((port, d)),
                (Some((p, want)), Some(d)) if d != want => {
                    let as_what = ports::operand(self.op, p);
                    return Err(self.error(
                        ErrorKind::DType,
                        port,
                        format!("expected {want} as {as_what} has, found {d}"),
                    ));
                }
                _ => {}
            }
        }
        Ok(first.map(|(_, d)| d))
    }

    /// The operand must have this rank, if its shape is known.
    pub(super) fn expect_rank(&self, port: usize, rank: usize) -> Result<()> {
        match self.shape(port) {
            Some(s) if s.len() != rank => {
                Err(self.shape_error(port, format!("expected rank {rank}, found {}", show(s))))
            }
            _ => Ok(()),
        }
    }

    /// The operand must have one element.
    pub(super) fn expect_one(&self, port: usize) -> Result<()> {
        match self.shape(port) {
            Some(s) if s.iter().any(|d| d.as_const().is_some_and(|c| c != 1)) => {
                Err(self.shape_error(port, format!("expected one element, found {}", show(s))))
            }
            _ => Ok(()),
        }
    }

    /// An axis of an operand (or of a shape of that rank), counted from the front.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let positive = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        positive.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < rank).ok_or_else(|| {
            self.shape_error(
                0,
                format!("axis {axis} is not an axis of rank {rank}: expected -{rank} to {}", rank as i64 - 1),
            )
        })
    }

    /// A position between axes, `0..=rank`.
    pub(super) fn split_point(&self, axis: i64, rank: usize) -> Result<usize> {
        if axis == rank as i64 { Ok(rank) } else { self.axis(axis, rank) }
    }

    /// Several different axes.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>> {
        let mut seen = vec![false; rank];
        axes.iter()
            .map(|&a| {
                let axis = self.axis(a, rank)?;
                if std::mem::replace(&mut seen[axis], true) {
                    return Err(self.shape_error(0, format!("axis {axis} is given twice")));
                }
                Ok(axis)
            })
            .collect()
    }

    /// Two sizes that the op needs equal: the more informative one.
    pub(super) fn unify(&self, port: usize, a: &Dim, b: &Dim, what: impl FnOnce() -> String) -> Result<Dim> {
        match (a.as_const(), b.as_const()) {
            (Some(x), Some(y)) if x != y => Err(self.shape_error(port, format!("{}: expected {x}, found {y}", what()))),
            (None, Some(_)) => Ok(b.clone()),
            (None, None) if a.has_unknown() && !b.has_unknown() => Ok(b.clone()),
            _ => Ok(a.clone()),
        }
    }

    /// The shape that operand `port` shares with `want`.
    pub(super) fn unify_shape(&self, port: usize, want: &[Dim]) -> Result<Vec<Dim>> {
        let Some(found) = self.shape(port) else { return Ok(want.to_vec()) };
        if found.len() != want.len() {
            return Err(self.shape_error(port, format!("expected shape {}, found {}", show(want), show(found))));
        }
        want.iter()
            .zip(found)
            .enumerate()
            .map(|(i, (w, f))| self.unify(port, w, f, || format!("axis {i} of {}", show(found))))
            .collect()
    }
}

/// A shape, for messages.
pub(super) fn show(dims: &[Dim]) -> Shape {
    Shape(dims.to_vec())
}

/// The type of a row-major result.
pub(super) fn tensor(dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Type {
    Type { dtype, shape: shape.map(Shape), ..Type::default() }
}
