//! Products, norms and attention.

use normfuse_ir::{
    DType, Op,
    fused::Root,
    op::{AttentionOp, CastBack, UnaryOp},
};

use super::{attrs::port, functions::label, ops::Cx};
use crate::{
    FormatError,
    onnx::dtype,
    reject::{Reject, foreign},
};

impl Cx<'_, '_, '_> {
    /// The op, if this file knows it.
    pub fn nn_op(&mut self, name: &str) -> Result<Option<Op>, Reject> {
        Ok(Some(match name {
            "Gelu" => {
                self.since(20)?;
                match self.attrs.string("approximate", "none")? {
                    "none" => Op::Unary(UnaryOp::Gelu),
                    "tanh" => Op::Unary(UnaryOp::GeluTanh),
                    other => return foreign(format!("approximation `{other}`")),
                }
            }
            "Swish" => {
                self.since(24)?;
                if self.attrs.float("alpha", 1.0)?.get() != 1.0 {
                    return foreign("alpha is not 1");
                }
                Op::Unary(UnaryOp::Silu)
            }
            "Softmax" | "LogSoftmax" => self.softmax(name == "LogSoftmax")?,
            "LayerNormalization" => {
                self.since(17)?;
                let (axis, eps, stash) = self.norm()?;
                Op::LayerNorm { axis, eps, stash }
            }
            "RMSNormalization" => {
                self.since(23)?;
                let (axis, eps, stash) = self.norm()?;
                Op::RmsNorm { axis, eps, stash, root: Root::DivideBySqrt, cast: CastBack::BeforeScale }
            }
            // onnxruntime's, which it registers in ONNX's own domain for every opset.
            "SimplifiedLayerNormalization" => {
                let (axis, eps, stash) = self.norm()?;
                if stash != DType::F32 {
                    return foreign(format!("stage one in {stash}"));
                }
                self.no_doubles()?;
                Op::RmsNorm { axis, eps, stash, root: Root::ReciprocalSqrt, cast: CastBack::AfterScale }
            }
            "MatMul" => Op::MatMul,
            "MatMulInteger" => Op::MatMulInteger,
            "Gemm" => Op::Gemm {
                alpha: self.attrs.float("alpha", 1.0)?,
                beta: self.attrs.float("beta", 1.0)?,
                trans_a: self.attrs.flag("transA", false)?,
                trans_b: self.attrs.flag("transB", false)?,
            },
            "Attention" => self.attention()?,
            "QuantizeLinear" => self.quantize_linear()?,
            "DequantizeLinear" => self.dequantize_linear()?,
            "DynamicQuantizeLinear" => Op::DynamicQuantizeLinear,
            _ => return Ok(None),
        }))
    }

    /// Before opset 13 the axes from `axis` on were one: the same function only where that is the last axis.
    fn softmax(&mut self, log: bool) -> Result<Op, Reject> {
        if self.b.opset >= 13 {
            return Ok(Op::Softmax { axis: self.attrs.int("axis", -1)?, log });
        }
        let axis = self.attrs.int("axis", 1)?;
        let rank = self.inputs.first().copied().flatten().and_then(|x| self.b.rank(x));
        let last = axis == -1 || rank.is_some_and(|r| i64::try_from(r).is_ok_and(|r| axis == r - 1));
        if !last {
            return foreign("a softmax over several axes at once");
        }
        Ok(Op::Softmax { axis: -1, log })
    }

    /// onnxruntime's kernels compute norms of f64 in f64, whatever they are told.
    pub fn no_doubles(&self) -> Result<(), Reject> {
        match self.inputs.first().copied().flatten().and_then(|x| self.b.dtype(x)) {
            Some(DType::F64) => foreign("a norm of f64"),
            _ => Ok(()),
        }
    }

    fn norm(&mut self) -> Result<(i64, normfuse_ir::scheme::F32, DType), Reject> {
        let stash = self.attrs.int("stash_type", 1)?;
        let Ok(stash) = dtype::from_onnx(stash) else { return foreign(format!("stash type {stash}")) };
        Ok((self.attrs.int("axis", -1)?, self.attrs.float("epsilon", 1e-5)?, stash))
    }

    /// `RMSNormalization` of two dtypes: illegal, and what torch writes for `(x.float() * r) * (1 + w.float())`. The
    /// narrower operand is widened, so that the scale is multiplied in the wider type as torch did.
    pub fn one_dtype(&mut self) -> Result<(), Reject> {
        let [Some(x), Some(scale)] = *self.inputs.as_slice() else { return Ok(()) };
        let (Some(dx), Some(ds)) = (self.b.dtype(x), self.b.dtype(scale)) else { return Ok(()) };
        if dx == ds {
            return Ok(());
        }
        let node = label(self.node);
        let (port, value, to) = if dx.embeds_in(ds) {
            (0, x, ds)
        } else if ds.embeds_in(dx) {
            (1, scale, dx)
        } else {
            return foreign(format!("a norm of {dx} with a scale of {ds}"));
        };
        let base = format!("{node}_{}_{to}", if port == 0 { "x" } else { "scale" });
        let cast = self.b.helper(&base, Op::Cast { to, saturate: true }, &[Some(value)])?;
        let shape = self.b.graph.value(value).ty.shape.clone();
        *self.b.graph.type_mut(cast) = normfuse_ir::Type { dtype: Some(to), shape, ..normfuse_ir::Type::default() };
        if let Some(slot) = self.inputs.get_mut(port) {
            *slot = Some(cast);
        }
        self.b.graph.info.notes.push(format!(
            "node `{node}`: RMSNormalization of {dx} with a scale of {ds} is not legal ONNX; read as a norm in {to}"
        ));
        Ok(())
    }

    fn attention(&mut self) -> Result<Op, Reject> {
        self.since(23)?;
        if self.b.opset >= 25 {
            for side in ["left_window_size", "right_window_size"] {
                if self.attrs.int(side, -1)? != -1 {
                    return foreign("a sliding window");
                }
            }
        }
        let mode = self.attrs.int("qk_matmul_output_mode", 0)?;
        let Some(mode) = u8::try_from(mode).ok().filter(|m| *m <= 3) else {
            return Err(FormatError::mismatch("0 to 3", mode).at_port(port("qk_matmul_output_mode")).into());
        };
        let softmax_dtype = match self.attrs.opt_int("softmax_precision")? {
            None => None,
            Some(n) => match dtype::from_onnx(n) {
                Ok(d) => Some(d),
                Err(name) => return foreign(format!("softmax in {name}")),
            },
        };
        let outputs = self.node.output.iter().rposition(|n| !n.is_empty()).map_or(1, |last| last + 1);
        if outputs > 4 {
            return foreign("more than four results");
        }
        Ok(Op::Attention(AttentionOp {
            is_causal: self.attrs.flag("is_causal", false)?,
            scale: self.attrs.opt_float("scale")?,
            softcap: self.attrs.float("softcap", 0.0)?,
            q_num_heads: self.attrs.count("q_num_heads")?,
            kv_num_heads: self.attrs.count("kv_num_heads")?,
            qk_matmul_output_mode: mode,
            softmax_dtype,
            outputs,
        }))
    }
}
