//! Quantisers, in the names of their dialects.

use normfuse_ir::{DType, Node, Op, op::Dialect};

use super::{
    nodes::Writer,
    ops::{dtype_attr, flag, inexpressible, int},
};
use crate::{
    FormatError, Result,
    onnx::{MICROSOFT, TENSOR_RT, proto::AttributeProto},
};

/// Domain, op type and attributes.
pub type Spelled = (&'static str, &'static str, Vec<AttributeProto>);

impl Writer<'_> {
    /// The node that a `QuantizeLinear` or `DequantizeLinear` of the IR is.
    pub(super) fn quantiser(&self, node: &Node) -> Result<Spelled> {
        match node.op {
            Op::QuantizeLinear { dialect: Dialect::Onnx, .. } => Ok(("", "QuantizeLinear", self.quantize(node)?)),
            Op::DequantizeLinear { axis, block_size, to, dialect: Dialect::Onnx } => {
                let mut attrs = self.quant_axis(axis, block_size)?;
                attrs.extend(self.blocks(block_size)?);
                if let Some(to) = to {
                    self.since(23, "a result of another type than the scale")?;
                    attrs.push(dtype_attr("output_dtype", to));
                }
                Ok(("", "DequantizeLinear", attrs))
            }
            Op::QuantizeLinear { axis, block_size: 0, to, saturate: true, precision: None, dialect } => {
                let zero = node.input(2).is_some();
                match dialect {
                    Dialect::TensorRt if to == DType::F8E4M3FN && !zero => {
                        Ok((TENSOR_RT, "TRT_FP8QuantizeLinear", axis_unless_1(axis)))
                    }
                    Dialect::Microsoft if zero || to == DType::U8 => {
                        Ok((MICROSOFT, "QuantizeLinear", self.axis_of_vector(node, axis)))
                    }
                    _ => Err(inexpressible("a quantiser of this dialect and type")),
                }
            }
            Op::DequantizeLinear { axis, block_size: 0, to: None, dialect } => Ok(match dialect {
                Dialect::TensorRt => (TENSOR_RT, "TRT_FP8DequantizeLinear", axis_unless_1(axis)),
                _ => (MICROSOFT, "DequantizeLinear", self.axis_of_vector(node, axis)),
            }),
            _ => Err(inexpressible("a quantiser of this dialect with blocks or types of its own")),
        }
    }

    /// onnxruntime takes an axis as the word that the scale is a vector.
    fn axis_of_vector(&self, node: &Node, axis: i64) -> Vec<AttributeProto> {
        let shape = node.input(1).and_then(|s| self.graph.value(s).ty.shape.as_ref());
        let scalar = shape.is_some_and(|s| s.rank() == 0);
        if scalar { axis_unless_1(axis) } else { vec![int("axis", axis)] }
    }

    /// Before opset 13 a scale was one number, and the axis (1, as we read it) meant nothing.
    fn quant_axis(&self, axis: i64, block_size: u64) -> Result<Vec<AttributeProto>> {
        if self.opset >= 13 {
            return Ok(vec![int("axis", axis)]);
        }
        if axis != 1 || block_size != 0 {
            self.since(13, "an axis of the scale")?;
        }
        Ok(vec![])
    }

    fn blocks(&self, block_size: u64) -> Result<Option<AttributeProto>> {
        if block_size == 0 {
            return Ok(None);
        }
        self.since(21, "blocks that share a scale")?;
        Ok(Some(int("block_size", i64::try_from(block_size).unwrap_or(i64::MAX))))
    }

    fn quantize(&self, node: &Node) -> Result<Vec<AttributeProto>> {
        let Op::QuantizeLinear { axis, block_size, to, saturate, precision, .. } = node.op else { return Ok(vec![]) };
        let mut attrs = self.quant_axis(axis, block_size)?;
        attrs.extend(self.blocks(block_size)?);
        if !saturate {
            self.since(19, "a quantiser that does not saturate")?;
            attrs.push(flag("saturate", false));
        }
        if let Some(precision) = precision {
            self.since(23, "the precision of a quotient")?;
            attrs.push(dtype_attr("precision", precision));
        }
        match node.input(2) {
            Some(zero) => {
                if let Some(found) = self.graph.value(zero).ty.dtype.filter(|d| *d != to) {
                    return Err(FormatError::mismatch(format!("a zero point of {to}, as the result is"), found));
                }
            }
            None if to != DType::U8 => {
                self.since(21, "a quantiser to another type than u8 without a zero point")?;
                attrs.push(dtype_attr("output_dtype", to));
            }
            None => {}
        }
        Ok(attrs)
    }
}

fn axis_unless_1(axis: i64) -> Vec<AttributeProto> {
    if axis == 1 { vec![] } else { vec![int("axis", axis)] }
}
