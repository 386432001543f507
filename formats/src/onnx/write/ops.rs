//! One op of the IR to one node, as its opset spells it.

use normfuse_ir::{
    DType, Node, Op, Tensor,
    fused::Root,
    op::{AttentionOp, BinaryOp, CastBack, ScatterReduction, UnaryOp},
    scheme::F32,
};

use super::{
    nodes::{Writer, string},
    weights,
};
use crate::{
    FormatError, Result,
    onnx::{
        MICROSOFT, dtype, ops as table,
        proto::{AttributeProto, NodeProto, attribute_proto::AttributeType},
    },
};

/// An integer attribute.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

/// A truth value, as 0 or 1.
pub(super) fn flag(name: &str, value: bool) -> AttributeProto {
    int(name, i64::from(value))
}

fn float(name: &str, value: F32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value.get()),
        ..AttributeProto::default()
    }
}

pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

fn tensor(name: &str, value: &Tensor) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(weights::inline("", value)),
        ..AttributeProto::default()
    }
}

/// An element type, by its number.
pub(super) fn dtype_attr(name: &str, d: DType) -> AttributeProto {
    int(name, i64::from(dtype::to_onnx(d)))
}

/// An op or attribute that no opset has.
pub(super) fn inexpressible(what: &str) -> FormatError {
    FormatError::invalid(format!("ONNX has no op that is exactly `{what}`")).hint("write .nf or .json instead")
}

impl Writer<'_> {
    /// Fails at opsets that do not have it yet.
    pub(super) fn since(&self, opset: i64, what: &str) -> Result<()> {
        if self.opset >= opset {
            return Ok(());
        }
        Err(FormatError::mismatch(format!("opset {opset}, the first that has {what}"), format!("opset {}", self.opset))
            .hint("convert the source to a newer opset"))
    }

    /// Fills in op type, attributes and operands. `proto.input` holds the IR's operands, a left-out one as an empty name.
    pub fn spell(&mut self, node: &Node, proto: &mut NodeProto) -> Result<()> {
        let (op_type, attribute) = match &node.op {
            Op::Unary(op) => self.unary(*op)?,
            Op::Binary(op) => self.binary(*op)?,
            Op::Cast { to, saturate } => {
                let mut attrs = vec![dtype_attr("to", *to)];
                if !saturate {
                    self.since(19, "a cast that does not saturate")?;
                    attrs.push(flag("saturate", false));
                    if *to == DType::F8E8M0 {
                        attrs.push(string("round_mode", "nearest"));
                    }
                }
                ("Cast", attrs)
            }
            Op::BitCast { to } => {
                self.since(26, "BitCast")?;
                ("BitCast", vec![dtype_attr("to", *to)])
            }
            Op::Clip => ("Clip", vec![]),
            Op::Where => ("Where", vec![]),
            Op::Reduce { op, axes, keepdims } => {
                let Some((name, _, as_operand)) = table::REDUCE.iter().find(|(_, o, _)| o == op) else {
                    return Err(inexpressible(&node.op.name()));
                };
                let mut attrs = vec![flag("keepdims", *keepdims)];
                if let Some(axes) = axes {
                    if self.opset < *as_operand {
                        attrs.push(ints("axes", axes));
                    } else {
                        proto.input.push(self.ints(axes));
                    }
                }
                (*name, attrs)
            }
            Op::ArgReduce { max, axis, keepdims, select_last } => {
                let mut attrs = vec![int("axis", *axis), flag("keepdims", *keepdims)];
                if *select_last {
                    self.since(12, "select_last_index")?;
                    attrs.push(flag("select_last_index", true));
                }
                (if *max { "ArgMax" } else { "ArgMin" }, attrs)
            }
            Op::TopK { axis, largest, sorted } => {
                ("TopK", vec![int("axis", *axis), flag("largest", *largest), flag("sorted", *sorted)])
            }
            Op::CumSum { exclusive, reverse } => {
                ("CumSum", vec![flag("exclusive", *exclusive), flag("reverse", *reverse)])
            }
            Op::SkipRmsNorm { eps } => {
                proto.domain = Some(MICROSOFT.into());
                ("SkipSimplifiedLayerNormalization", vec![float("epsilon", *eps)])
            }
            Op::QuantizeLinear { .. } | Op::DequantizeLinear { .. } => {
                let (domain, op_type, attrs) = self.quantiser(node)?;
                proto.domain = Some(domain.into()).filter(|_| !domain.is_empty());
                (op_type, attrs)
            }
            Op::Quantize(_) | Op::FusedNorm(_) | Op::Foreign(_) => {
                return Err(FormatError::invalid("not an op of the default domain"));
            }
            op => match self.movement(op, node, proto)? {
                Some(spelled) => spelled,
                None => self.math(op, node)?.ok_or_else(|| inexpressible(&op.name()))?,
            },
        };
        proto.op_type = Some(op_type.into());
        proto.attribute = attribute;
        Ok(())
    }

    fn unary(&self, op: UnaryOp) -> Result<(&'static str, Vec<AttributeProto>)> {
        if let Some((name, _, since)) = table::UNARY.iter().find(|(_, o, _)| *o == op) {
            self.since(*since, name)?;
            return Ok((name, vec![]));
        }
        match op {
            UnaryOp::Silu => {
                self.since(24, "Swish")?;
                Ok(("Swish", vec![]))
            }
            UnaryOp::Gelu | UnaryOp::GeluTanh => {
                self.since(20, "Gelu")?;
                Ok(("Gelu", vec![string("approximate", if op == UnaryOp::Gelu { "none" } else { "tanh" })]))
            }
            _ => Err(inexpressible(&Op::Unary(op).name())),
        }
    }

    fn binary(&self, op: BinaryOp) -> Result<(&'static str, Vec<AttributeProto>)> {
        if let Some((name, _, since)) = table::BINARY.iter().find(|(_, o, _)| *o == op) {
            self.since(*since, name)?;
            return Ok((name, vec![]));
        }
        Ok(match op {
            BinaryOp::Max => ("Max", vec![]),
            BinaryOp::Min => ("Min", vec![]),
            BinaryOp::Mod => ("Mod", vec![flag("fmod", false)]),
            BinaryOp::Fmod => ("Mod", vec![flag("fmod", true)]),
            BinaryOp::ShiftLeft => ("BitShift", vec![string("direction", "LEFT")]),
            BinaryOp::ShiftRight => ("BitShift", vec![string("direction", "RIGHT")]),
            _ => return Err(inexpressible(&Op::Binary(op).name())),
        })
    }

    fn movement(
        &mut self,
        op: &Op,
        node: &Node,
        proto: &mut NodeProto,
    ) -> Result<Option<(&'static str, Vec<AttributeProto>)>> {
        Ok(Some(match op {
            Op::Reshape { allow_zero } => {
                let mut attrs = vec![];
                if *allow_zero {
                    self.since(14, "allowzero")?;
                    attrs.push(flag("allowzero", true));
                }
                ("Reshape", attrs)
            }
            Op::Squeeze { axes } => match axes {
                None => ("Squeeze", vec![]),
                Some(axes) => ("Squeeze", self.axes(axes, proto)),
            },
            Op::Unsqueeze { axes } => ("Unsqueeze", self.axes(axes, proto)),
            Op::Flatten { axis } => ("Flatten", vec![int("axis", *axis)]),
            Op::Transpose { perm } => ("Transpose", perm.iter().map(|p| ints("perm", p)).collect()),
            Op::Expand => ("Expand", vec![]),
            Op::Tile => ("Tile", vec![]),
            Op::Concat { axis } => ("Concat", vec![int("axis", *axis)]),
            Op::Split { axis, outputs } => ("Split", self.split(*axis, *outputs, node, proto)?),
            Op::Slice => ("Slice", vec![]),
            Op::Pad => {
                if node.input(3).is_some() {
                    self.since(18, "the axes of Pad")?;
                }
                ("Pad", vec![string("mode", "constant")])
            }
            Op::Shape { start, end } => {
                let mut attrs = vec![];
                if *start != 0 || end.is_some() {
                    self.since(15, "start and end of Shape")?;
                    attrs.push(int("start", *start));
                    attrs.extend(end.map(|e| int("end", e)));
                }
                ("Shape", attrs)
            }
            Op::Size => ("Size", vec![]),
            Op::Range => ("Range", vec![]),
            Op::ConstantOfShape { dtype, value } => {
                let value = Tensor::from_bytes(*dtype, vec![1], value.clone())?;
                ("ConstantOfShape", vec![tensor("value", &value)])
            }
            Op::Gather { axis } => ("Gather", vec![int("axis", *axis)]),
            Op::GatherElements { axis } => ("GatherElements", vec![int("axis", *axis)]),
            Op::GatherNd { batch_dims } => {
                let mut attrs = vec![];
                if *batch_dims != 0 {
                    self.since(12, "batch_dims")?;
                    attrs.push(int("batch_dims", *batch_dims));
                }
                ("GatherND", attrs)
            }
            Op::ScatterElements { axis, reduction } => {
                let mut attrs = vec![int("axis", *axis)];
                attrs.extend(self.scatter(*reduction)?);
                ("ScatterElements", attrs)
            }
            Op::ScatterNd { reduction } => ("ScatterND", self.scatter(*reduction)?.into_iter().collect()),
            Op::OneHot { axis } => ("OneHot", vec![int("axis", *axis)]),
            Op::NonZero => ("NonZero", vec![]),
            Op::Trilu { upper } => {
                self.since(14, "Trilu")?;
                ("Trilu", vec![flag("upper", *upper)])
            }
            _ => return Ok(None),
        }))
    }

    fn axes(&mut self, axes: &[i64], proto: &mut NodeProto) -> Vec<AttributeProto> {
        if self.opset < 13 {
            return vec![ints("axes", axes)];
        }
        proto.input.push(self.ints(axes));
        vec![]
    }

    fn split(&self, axis: i64, outputs: usize, node: &Node, proto: &mut NodeProto) -> Result<Vec<AttributeProto>> {
        let mut attrs = vec![int("axis", axis)];
        match node.input(1) {
            None if self.opset >= 18 => attrs.push(int("num_outputs", outputs as i64)),
            Some(sizes) if self.opset < 13 => {
                let sizes =
                    self.graph.value(sizes).as_const().filter(|t| t.dtype() == DType::I64).ok_or_else(|| {
                        FormatError::mismatch("constant sizes of Split before opset 13", "computed ones")
                    })?;
                let sizes: Vec<i64> = sizes.bytes().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
                attrs.push(ints("split", &sizes));
                proto.input.truncate(1);
            }
            _ => {}
        }
        Ok(attrs)
    }

    fn scatter(&self, reduction: ScatterReduction) -> Result<Option<AttributeProto>> {
        let (since, name) = match reduction {
            ScatterReduction::None => return Ok(None),
            ScatterReduction::Add => (16, "add"),
            ScatterReduction::Mul => (16, "mul"),
            ScatterReduction::Max => (18, "max"),
            ScatterReduction::Min => (18, "min"),
        };
        self.since(since, &format!("scatter reduction `{name}`"))?;
        Ok(Some(string("reduction", name)))
    }

    fn math(&self, op: &Op, node: &Node) -> Result<Option<(&'static str, Vec<AttributeProto>)>> {
        Ok(Some(match op {
            Op::Softmax { axis, log } => {
                let name = if *log { "LogSoftmax" } else { "Softmax" };
                let shape = node.input(0).and_then(|x| self.graph.value(x).ty.shape.as_ref());
                let last = *axis == -1 || shape.is_some_and(|s| *axis == s.rank() as i64 - 1);
                if !last {
                    self.since(13, "softmax over an axis that is not the last")?;
                }
                (name, vec![int("axis", *axis)])
            }
            Op::LayerNorm { axis, eps, stash } => {
                self.since(17, "LayerNormalization")?;
                ("LayerNormalization", norm(*axis, *eps, *stash))
            }
            Op::RmsNorm { axis, eps, stash, root: Root::DivideBySqrt, cast: CastBack::BeforeScale } => {
                self.since(23, "RMSNormalization")?;
                ("RMSNormalization", norm(*axis, *eps, *stash))
            }
            Op::RmsNorm { axis, eps, stash, root: Root::ReciprocalSqrt, cast: CastBack::AfterScale }
                if *stash == DType::F32 =>
            {
                ("SimplifiedLayerNormalization", norm(*axis, *eps, *stash))
            }
            Op::MatMul => ("MatMul", vec![]),
            Op::MatMulInteger => ("MatMulInteger", vec![]),
            Op::Gemm { alpha, beta, trans_a, trans_b } => (
                "Gemm",
                vec![float("alpha", *alpha), float("beta", *beta), flag("transA", *trans_a), flag("transB", *trans_b)],
            ),
            Op::Attention(a) => {
                self.since(23, "Attention")?;
                ("Attention", attention(a))
            }
            Op::DynamicQuantizeLinear => ("DynamicQuantizeLinear", vec![]),
            _ => return Ok(None),
        }))
    }
}

fn norm(axis: i64, eps: F32, stash: DType) -> Vec<AttributeProto> {
    vec![int("axis", axis), float("epsilon", eps), dtype_attr("stash_type", stash)]
}

fn attention(a: &AttentionOp) -> Vec<AttributeProto> {
    let mut attrs = vec![flag("is_causal", a.is_causal)];
    attrs.extend(a.scale.map(|s| float("scale", s)));
    attrs.push(float("softcap", a.softcap));
    let count = |name: &str, n: u64| int(name, i64::try_from(n).unwrap_or(i64::MAX));
    attrs.extend(a.q_num_heads.map(|n| count("q_num_heads", n)));
    attrs.extend(a.kv_num_heads.map(|n| count("kv_num_heads", n)));
    attrs.push(int("qk_matmul_output_mode", i64::from(a.qk_matmul_output_mode)));
    attrs.extend(a.softmax_dtype.map(|d| dtype_attr("softmax_precision", d)));
    attrs
}
