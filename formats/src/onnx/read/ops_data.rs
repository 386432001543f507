//! Shapes and data movement.

use normfuse_ir::{Op, Tensor, op::ScatterReduction};

use super::{
    attrs::port,
    functions::label,
    ops::{Cx, required},
    tensor,
};
use crate::{
    FormatError,
    onnx::dtype,
    reject::{Reject, foreign},
};

impl Cx<'_, '_, '_> {
    /// The op, if this file knows it.
    pub fn data_op(&mut self, name: &str) -> Result<Option<Op>, Reject> {
        let opset = self.b.opset;
        Ok(Some(match name {
            "Reshape" => Op::Reshape { allow_zero: opset >= 14 && self.attrs.flag("allowzero", false)? },
            "Squeeze" => Op::Squeeze { axes: self.axes()? },
            "Unsqueeze" => match self.axes()? {
                Some(axes) => Op::Unsqueeze { axes },
                None => return Err(required("axes")),
            },
            "Flatten" => Op::Flatten { axis: self.attrs.int("axis", 1)? },
            "Transpose" => Op::Transpose { perm: self.attrs.ints("perm")? },
            "Expand" => Op::Expand,
            "Tile" => Op::Tile,
            "Concat" => Op::Concat { axis: self.attrs.opt_int("axis")?.ok_or_else(|| required("axis"))? },
            "Split" => self.split()?,
            "Slice" => Op::Slice,
            "Pad" => match self.attrs.string("mode", "constant")? {
                "constant" => Op::Pad,
                other => return foreign(format!("pad mode `{other}`")),
            },
            "Shape" if opset < 15 => Op::Shape { start: 0, end: None },
            "Shape" => Op::Shape { start: self.attrs.int("start", 0)?, end: self.attrs.opt_int("end")? },
            "Size" => Op::Size,
            "Range" => Op::Range,
            "ConstantOfShape" => self.constant_of_shape()?,
            "Gather" => Op::Gather { axis: self.attrs.int("axis", 0)? },
            "GatherElements" => Op::GatherElements { axis: self.attrs.int("axis", 0)? },
            "GatherND" => Op::GatherNd { batch_dims: if opset < 12 { 0 } else { self.attrs.int("batch_dims", 0)? } },
            "ScatterElements" => {
                Op::ScatterElements { axis: self.attrs.int("axis", 0)?, reduction: self.scatter_reduction()? }
            }
            "ScatterND" => Op::ScatterNd { reduction: self.scatter_reduction()? },
            "OneHot" => Op::OneHot { axis: self.attrs.int("axis", -1)? },
            "NonZero" => Op::NonZero,
            "Trilu" => {
                self.since(14)?;
                Op::Trilu { upper: self.attrs.flag("upper", true)? }
            }
            _ => return Ok(None),
        }))
    }

    /// Axes of `Squeeze` and `Unsqueeze`: an attribute until opset 12, then an operand.
    fn axes(&mut self) -> Result<Option<Vec<i64>>, Reject> {
        if self.b.opset < 13 { Ok(self.attrs.ints("axes")?) } else { self.axes_operand(1) }
    }

    fn split(&mut self) -> Result<Op, Reject> {
        let outputs = self.node.output.len();
        let axis = self.attrs.int("axis", 0)?;
        if self.b.opset < 13 {
            if let Some(sizes) = self.attrs.ints("split")? {
                let sizes = Tensor::from_i64(&[sizes.len()], &sizes);
                let sizes = self.b.fresh_constant(&format!("{}_sizes", label(self.node)), sizes);
                self.inputs.push(Some(sizes));
            }
        } else if self.b.opset >= 18
            && let Some(n) = self.attrs.count("num_outputs")?
        {
            if self.inputs.len() > 1 {
                return foreign("both sizes and num_outputs");
            }
            if n != outputs as u64 {
                return Err(FormatError::mismatch(format!("{outputs}, as many as the node has results"), n)
                    .at_port(port("num_outputs"))
                    .into());
            }
        }
        if outputs == 0 {
            return Err(FormatError::mismatch("at least one result", "none").into());
        }
        Ok(Op::Split { axis, outputs })
    }

    fn constant_of_shape(&mut self) -> Result<Op, Reject> {
        let Some(t) = self.attrs.tensor("value")? else {
            return Ok(Op::ConstantOfShape { dtype: normfuse_ir::DType::F32, value: vec![0; 4] });
        };
        if let Err(name) = dtype::from_onnx(i64::from(t.data_type())) {
            return foreign(format!("a value of type {name}"));
        }
        let value = tensor::read(t, self.b.folder()).map_err(|e| e.at_port(port("value")))?;
        if value.len() != 1 {
            return Err(FormatError::mismatch("one element", value.len()).at_port(port("value")).into());
        }
        Ok(Op::ConstantOfShape { dtype: value.dtype(), value: value.bytes().to_vec() })
    }

    fn scatter_reduction(&mut self) -> Result<ScatterReduction, Reject> {
        if self.b.opset < 16 {
            return Ok(ScatterReduction::None);
        }
        Ok(match self.attrs.string("reduction", "none")? {
            "none" => ScatterReduction::None,
            "add" => ScatterReduction::Add,
            "mul" => ScatterReduction::Mul,
            "max" => ScatterReduction::Max,
            "min" => ScatterReduction::Min,
            other => return foreign(format!("reduction `{other}`")),
        })
    }
}
