//! One node to one op: the dispatch, elementwise ops, casts and reductions.
//!
//! The rule for all: an attribute, operand or spelling that is not known keeps the node foreign. It is never dropped.

use std::sync::Arc;

use normfuse_ir::{
    DType, Graph, Op, Tensor, ValueId,
    op::{BinaryOp, CastBack, ReduceOp, UnaryOp},
};

use super::{
    attrs::{Attrs, port},
    build::Builder,
    functions::{domain, label},
    tensor,
};
use crate::{
    FormatError, Result,
    map::DataFolder,
    onnx::{MICROSOFT, TENSOR_RT, dtype, ops as table, proto::NodeProto},
    reject::{Reject, foreign},
};

/// What a node becomes.
pub struct Mapped {
    /// The op.
    pub op: Op,
    /// Its operands.
    pub inputs: Vec<Option<ValueId>>,
    /// The body of a fused op.
    pub body: Option<Arc<Graph>>,
}

/// One node while it is mapped.
pub struct Cx<'b, 'm, 'n> {
    pub b: &'b mut Builder<'m>,
    pub node: &'n NodeProto,
    pub attrs: Attrs<'n>,
    /// Operands, without trailing ones that are left out.
    pub inputs: Vec<Option<ValueId>>,
}

impl Cx<'_, '_, '_> {
    /// The op, or why the node stays foreign.
    pub fn map(mut self) -> Result<Mapped, Reject> {
        let op = match (domain(self.node.domain()), self.node.op_type()) {
            ("", name @ ("Max" | "Min" | "Sum" | "Mean")) => self.variadic(name)?,
            ("", name) => self.op(name)?,
            (MICROSOFT, name) => self.microsoft_op(name)?,
            (TENSOR_RT, name) => self.tensor_rt_op(name)?,
            _ => return foreign("an operator set that normfuse does not know"),
        };
        if let Some(name) = self.attrs.unknown() {
            return foreign(format!("attribute `{name}` is not known at opset {}", self.b.opset));
        }
        if op.arity().1.is_some_and(|max| self.inputs.len() > max) {
            return foreign(format!("{} operands are more than normfuse knows", self.inputs.len()));
        }
        let known: Vec<usize> = (0..op.num_outputs()).map(|r| table::result_port(&op, r)).collect();
        let mut others = self.node.output.iter().enumerate().filter(|(port, _)| !known.contains(port));
        if let Some((port, _)) = others.find(|(_, n)| !n.is_empty() && self.b.is_used(n)) {
            return foreign(format!("result {port} is used"));
        }
        if let Op::RmsNorm { cast: CastBack::BeforeScale, .. } = op {
            self.one_dtype()?;
        }
        Ok(Mapped { op, inputs: self.inputs, body: None })
    }

    fn op(&mut self, name: &str) -> Result<Op, Reject> {
        if let Some((_, op, since)) = table::UNARY.iter().find(|(n, ..)| *n == name) {
            self.since(*since)?;
            if *op == UnaryOp::IsInf
                && !(self.attrs.flag("detect_negative", true)? && self.attrs.flag("detect_positive", true)?)
            {
                return foreign("it looks for one sign of infinity");
            }
            return Ok(Op::Unary(*op));
        }
        if let Some((_, op, since)) = table::BINARY.iter().find(|(n, ..)| *n == name) {
            self.since(*since)?;
            return Ok(Op::Binary(*op));
        }
        if let Some((_, op, since)) = table::REDUCE.iter().find(|(n, ..)| *n == name) {
            return self.reduce(*op, *since);
        }
        match name {
            "Mod" => Ok(Op::Binary(if self.attrs.flag("fmod", false)? { BinaryOp::Fmod } else { BinaryOp::Mod })),
            "BitShift" => match self.attrs.string("direction", "")? {
                "LEFT" => Ok(Op::Binary(BinaryOp::ShiftLeft)),
                "RIGHT" => Ok(Op::Binary(BinaryOp::ShiftRight)),
                other => {
                    Err(FormatError::mismatch("LEFT or RIGHT", format!("`{other}`")).at_port(port("direction")).into())
                }
            },
            "Cast" => {
                let Some(to) = self.attrs.opt_int("to")? else { return Err(required("to")) };
                match dtype::from_onnx(to) {
                    Ok(to) => self.cast(to),
                    Err(name) => foreign(format!("a cast to {name}")),
                }
            }
            "BitCast" => {
                self.since(26)?;
                let Some(to) = self.attrs.opt_int("to")? else { return Err(required("to")) };
                let bools = matches!(*self.inputs.as_slice(), [Some(x)] if self.b.dtype(x) == Some(DType::Bool));
                match dtype::from_onnx(to) {
                    Ok(to) if bools || to == DType::Bool => foreign(format!("bools and bits, as {to}")),
                    Ok(to) => Ok(Op::BitCast { to }),
                    Err(name) => foreign(format!("bits as {name}")),
                }
            }
            "CastLike" => {
                self.since(15)?;
                let [x, Some(like)] = *self.inputs.as_slice() else { return foreign("it needs two operands") };
                match self.b.dtype(like) {
                    Some(to) => {
                        self.inputs = vec![x];
                        self.cast(to)
                    }
                    None => foreign("the type of the second operand is not known"),
                }
            }
            "Clip" => Ok(Op::Clip),
            "Where" => Ok(Op::Where),
            "Dropout" => self.dropout(),
            "ArgMax" | "ArgMin" => Ok(Op::ArgReduce {
                max: name == "ArgMax",
                axis: self.attrs.int("axis", 0)?,
                keepdims: self.attrs.flag("keepdims", true)?,
                select_last: self.b.opset >= 12 && self.attrs.flag("select_last_index", false)?,
            }),
            "TopK" => Ok(Op::TopK {
                axis: self.attrs.int("axis", -1)?,
                largest: self.attrs.flag("largest", true)?,
                sorted: self.attrs.flag("sorted", true)?,
            }),
            "CumSum" => Ok(Op::CumSum {
                exclusive: self.attrs.flag("exclusive", false)?,
                reverse: self.attrs.flag("reverse", false)?,
            }),
            "Constant" => foreign("a constant that is no dense tensor of a known element type"),
            _ => match self.data_op(name)? {
                Some(op) => Ok(op),
                None => match self.nn_op(name)? {
                    Some(op) => Ok(op),
                    None => foreign("unknown op"),
                },
            },
        }
    }

    /// Keeps the node foreign at opsets that do not have the op yet.
    pub fn since(&self, opset: i64) -> Result<(), Reject> {
        if self.b.opset < opset {
            foreign(format!("the op needs opset {opset}, found {}", self.b.opset))
        } else {
            Ok(())
        }
    }

    fn cast(&mut self, to: DType) -> Result<Op, Reject> {
        let saturate = self.b.opset < 19 || self.attrs.flag("saturate", true)?;
        if self.b.opset >= 24 && to == DType::F8E8M0 {
            // Two of six are casts that somebody has: ONNX's default, and torch's.
            return match (saturate, self.attrs.string("round_mode", "up")?) {
                (true, "up") | (false, "nearest") => Ok(Op::Cast { to, saturate }),
                (true, mode) => foreign(format!("a cast to f8e8m0 that saturates and does not round up but `{mode}`")),
                (false, mode) => {
                    foreign(format!("a cast to f8e8m0 that does not saturate and rounds `{mode}`, not to the nearest"))
                }
            };
        }
        // Elsewhere the attribute has no meaning; one form for one function.
        let matters =
            matches!(to, DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0);
        Ok(Op::Cast { to, saturate: saturate || !matters })
    }

    /// `Max(a, b, c)` is `max(max(a, b), c)`.
    fn variadic(&mut self, name: &str) -> Result<Op, Reject> {
        let op = match name {
            "Max" => BinaryOp::Max,
            "Min" => BinaryOp::Min,
            _ => BinaryOp::Add,
        };
        if let Some(attr) = self.attrs.unknown() {
            return foreign(format!("attribute `{attr}` is not known at opset {}", self.b.opset));
        }
        if self.inputs.contains(&None) {
            return foreign("an operand in the middle is left out");
        }
        match self.inputs.len() {
            0 => return foreign("it has no operands"),
            1 => return Ok(Op::Unary(UnaryOp::Identity)),
            _ if name == "Mean" => return foreign("a mean of several tensors"),
            _ => {}
        }
        let base = format!("{}_partial", label(self.node));
        while self.inputs.len() > 2 {
            let partial = self.b.helper(&base, Op::Binary(op), &self.inputs[..2])?;
            self.inputs.splice(..2, [Some(partial)]);
        }
        Ok(Op::Binary(op))
    }

    fn reduce(&mut self, op: ReduceOp, as_operand: i64) -> Result<Op, Reject> {
        let keepdims = self.attrs.flag("keepdims", true)?;
        let mut noop = false;
        let axes = if self.b.opset < as_operand {
            self.attrs.ints("axes")?
        } else {
            noop = self.attrs.flag("noop_with_empty_axes", false)?;
            self.axes_operand(1)?
        };
        let axes = axes.filter(|a| !a.is_empty());
        if noop && axes.is_none() {
            return match op {
                ReduceOp::SumSquare | ReduceOp::L2 => foreign("noop_with_empty_axes of a reduction that is not a fold"),
                _ => Ok(Op::Unary(UnaryOp::Identity)),
            };
        }
        Ok(Op::Reduce { op, axes, keepdims })
    }

    /// Axes that are the last operand at `port`: constant ones become an attribute, others keep the node foreign.
    pub fn axes_operand(&mut self, port: usize) -> Result<Option<Vec<i64>>, Reject> {
        if self.inputs.len() > port + 1 {
            return foreign(format!("{} operands are more than normfuse knows", self.inputs.len()));
        }
        let Some(Some(value)) = self.inputs.get(port).copied() else { return Ok(None) };
        let Some(axes) = self.b.const_ints(value) else { return foreign("the axes are not constant") };
        self.inputs.truncate(port);
        Ok(Some(axes))
    }

    fn dropout(&mut self) -> Result<Op, Reject> {
        if self.b.opset < 12 {
            self.attrs.opt_float("ratio")?;
        } else {
            self.attrs.opt_int("seed")?;
            match self.inputs.get(2).copied().flatten() {
                None => {}
                Some(mode) if self.b.const_ints(mode).is_some_and(|v| v == [0]) => {}
                Some(_) => return foreign("it may be in training mode"),
            }
        }
        if self.inputs.len() > 3 {
            return foreign("more than three operands");
        }
        // A mask that somebody reads keeps it foreign: `map` looks at results that the op lacks.
        self.inputs.truncate(1);
        Ok(Op::Unary(UnaryOp::Identity))
    }
}

/// An attribute that ONNX requires is not there.
pub fn required(name: &str) -> Reject {
    FormatError::mismatch("a value, for the attribute is required", "none").at_port(port(name)).into()
}

/// The tensor of a `Constant` node; `None` where the IR has no such constant.
pub fn constant(attrs: &mut Attrs<'_>, folder: &mut DataFolder) -> Result<Option<Tensor>> {
    let tensor = if let Some(t) = attrs.tensor("value")? {
        if dtype::from_onnx(i64::from(t.data_type())).is_err() {
            return Ok(None);
        }
        Some(tensor::read(t, folder).map_err(|e| e.at_port(port("value")))?)
    } else if let Some(v) = attrs.opt_float("value_float")? {
        Some(Tensor::from_f32(&[], &[v.get()]))
    } else if let Some(v) = attrs.floats("value_floats")? {
        Some(Tensor::from_f32(&[v.len()], v))
    } else if let Some(v) = attrs.opt_int("value_int")? {
        Some(Tensor::from_i64(&[], &[v]))
    } else {
        attrs.ints("value_ints")?.map(|v| Tensor::from_i64(&[v.len()], &v))
    };
    Ok(tensor.filter(|_| attrs.unknown().is_none()))
}
