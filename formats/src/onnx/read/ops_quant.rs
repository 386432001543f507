//! Quantisers, in the names that ONNX, onnxruntime and ModelOpt give them, and what else onnxruntime has of its own.

use normfuse_ir::{DType, Op, op::Dialect};

use super::ops::Cx;
use crate::{
    onnx::dtype,
    reject::{Reject, foreign},
};

impl Cx<'_, '_, '_> {
    /// An op of onnxruntime's own domain, `com.microsoft`.
    pub fn microsoft_op(&mut self, name: &str) -> Result<Op, Reject> {
        match name {
            "QuantizeLinear" => {
                let (axis, block_size, to) = (self.attrs.int("axis", 1)?, 0, self.quantised_type(0)?);
                Ok(quantize(axis, block_size, to, true, None, Dialect::Microsoft))
            }
            "DequantizeLinear" => {
                let axis = self.attrs.int("axis", 1)?;
                Ok(Op::DequantizeLinear { axis, block_size: 0, to: None, dialect: Dialect::Microsoft })
            }
            "SkipSimplifiedLayerNormalization" => {
                self.no_doubles()?;
                Ok(Op::SkipRmsNorm { eps: self.attrs.float("epsilon", 1e-12)? })
            }
            _ => foreign("unknown op"),
        }
    }

    /// An op of the domain `trt`, in which ModelOpt exports for `TensorRT`.
    pub fn tensor_rt_op(&mut self, name: &str) -> Result<Op, Reject> {
        let dialect = Dialect::TensorRt;
        match name {
            "TRT_FP8QuantizeLinear" => {
                if self.inputs.len() != 2 {
                    return foreign("it needs two operands");
                }
                // ModelOpt declares the result u8, since its opsets know no FP8. That is a name for the codes as long as
                // nobody looks at them as numbers.
                if self.node.output.first().is_some_and(|q| self.b.is_declared_bytes(q) && self.b.is_read_as_bytes(q)) {
                    return foreign("its result is declared as u8, and not only TRT_FP8DequantizeLinear reads it");
                }
                Ok(quantize(self.attrs.int("axis", 1)?, 0, DType::F8E4M3FN, true, None, dialect))
            }
            "TRT_FP8DequantizeLinear" => {
                let [Some(q), Some(_)] = *self.inputs.as_slice() else { return foreign("it needs two operands") };
                match self.b.dtype(q) {
                    Some(DType::F8E4M3FN) => {
                        Ok(Op::DequantizeLinear { axis: self.attrs.int("axis", 1)?, block_size: 0, to: None, dialect })
                    }
                    Some(other) => foreign(format!("it dequantises {other}")),
                    None => foreign("the type of what it dequantises is not known"),
                }
            }
            "TRT_FP4DynamicQuantize" | "TRT_MXFP8DynamicQuantize" => {
                foreign("TensorRT does not say how it rounds the scales, so there are no bits to keep")
            }
            _ => foreign("unknown op"),
        }
    }

    /// `QuantizeLinear` of the default domain.
    pub fn quantize_linear(&mut self) -> Result<Op, Reject> {
        let opset = self.b.opset;
        let axis = if opset < 13 { 1 } else { self.attrs.int("axis", 1)? };
        let saturate = opset < 19 || self.attrs.flag("saturate", true)?;
        let block_size = if opset < 21 { 0 } else { self.attrs.count("block_size")?.unwrap_or(0) };
        let to = if opset < 21 { 0 } else { self.attrs.int("output_dtype", 0)? };
        let precision = if opset < 23 { None } else { self.float_type("precision")? };
        self.float_scale()?;
        let to = self.quantised_type(to)?;
        Ok(quantize(axis, block_size, to, saturate, precision, Dialect::Onnx))
    }

    /// `DequantizeLinear` of the default domain.
    pub fn dequantize_linear(&mut self) -> Result<Op, Reject> {
        let opset = self.b.opset;
        let axis = if opset < 13 { 1 } else { self.attrs.int("axis", 1)? };
        let block_size = if opset < 21 { 0 } else { self.attrs.count("block_size")?.unwrap_or(0) };
        let to = if opset < 23 { None } else { self.float_type("output_dtype")? };
        self.float_scale()?;
        // One form for one function: a type that the scale has anyway is not said.
        let scale = self.inputs.get(1).copied().flatten().and_then(|s| self.b.dtype(s));
        Ok(Op::DequantizeLinear { axis, block_size, to: to.filter(|to| scale != Some(*to)), dialect: Dialect::Onnx })
    }

    /// The type that a quantiser gives: the zero point's, else the one of that number, else u8.
    fn quantised_type(&self, number: i64) -> Result<DType, Reject> {
        if let Some(zero) = self.inputs.get(2).copied().flatten() {
            return match self.b.dtype(zero) {
                Some(d) => Ok(d),
                None => foreign("the type of the zero point is not known"),
            };
        }
        match number {
            0 => Ok(DType::U8),
            n => dtype::from_onnx(n).or_else(|name| foreign(format!("a result of type {name}"))),
        }
    }

    /// An attribute that names a float type; 0 is none.
    fn float_type(&mut self, name: &str) -> Result<Option<DType>, Reject> {
        match self.attrs.int(name, 0)? {
            0 => Ok(None),
            n => match dtype::from_onnx(n) {
                Ok(d) if d.is_arithmetic_float() => Ok(Some(d)),
                Ok(d) => foreign(format!("{name} is {d}")),
                Err(other) => foreign(format!("{name} is {other}")),
            },
        }
    }

    /// ONNX allows i32 scales, without saying what the quotient of integers is.
    fn float_scale(&self) -> Result<(), Reject> {
        match self.inputs.get(1).copied().flatten().and_then(|s| self.b.dtype(s)) {
            Some(d) if d.is_int() => foreign(format!("a scale of {d}")),
            _ => Ok(()),
        }
    }
}

fn quantize(axis: i64, block_size: u64, to: DType, saturate: bool, precision: Option<DType>, dialect: Dialect) -> Op {
    // Elsewhere the attribute has no meaning; one form for one function.
    let matters = matches!(to, DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ);
    Op::QuantizeLinear { axis, block_size, to, saturate: saturate || !matters, precision, dialect }
}
