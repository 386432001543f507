//! Ops. Operands that may be computed (a target shape, slice bounds) stay operands; what is always constant is an
//! attribute. Semantics follow the ONNX op of the same name at its newest opset unless the comment says otherwise,
//! with the freedom that ONNX leaves closed as numerics demand (see the crate documentation).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    DType, FusedNorm, Scheme,
    fused::Root,
    scaled::ScaledMatMul,
    scheme::{F32, ZeroPoint},
};

/// One-operand elementwise ops; result has the operand's shape and dtype, except for the predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnaryOp {
    /// Copy.
    Identity,
    /// Magnitude; clears the sign bit.
    Abs,
    /// Flips the sign.
    Neg,
    /// -1, 0, 1.
    Sign,
    /// IEEE square root.
    Sqrt,
    /// IEEE `1 / x`.
    Reciprocal,
    /// Correctly rounded `1 / sqrt(x)`: not the same function as `reciprocal(sqrt(x))`.
    Rsqrt,
    /// e^x.
    Exp,
    /// 2^x.
    Exp2,
    /// Natural logarithm.
    Log,
    /// Logarithm to base 2.
    Log2,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// Error function.
    Erf,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x * sigmoid(x)` in one rounding.
    Silu,
    /// `0.5 * x * (1 + erf(x / sqrt 2))` in one rounding.
    Gelu,
    /// The tanh form of gelu, in one rounding.
    GeluTanh,
    /// `max(x, 0)`, NaN stays.
    Relu,
    /// `log(1 + e^x)`.
    Softplus,
    /// Toward minus infinity.
    Floor,
    /// Toward plus infinity.
    Ceil,
    /// To nearest, ties to even.
    Round,
    /// Boolean negation.
    Not,
    /// Bitwise complement of an integer.
    BitwiseNot,
    /// True for NaN; result is bool.
    IsNan,
    /// True for plus or minus infinity; result is bool.
    IsInf,
}

impl UnaryOp {
    /// All that there are.
    pub const ALL: [Self; 28] = [
        Self::Identity,
        Self::Abs,
        Self::Neg,
        Self::Sign,
        Self::Sqrt,
        Self::Reciprocal,
        Self::Rsqrt,
        Self::Exp,
        Self::Exp2,
        Self::Log,
        Self::Log2,
        Self::Sin,
        Self::Cos,
        Self::Tanh,
        Self::Erf,
        Self::Sigmoid,
        Self::Silu,
        Self::Gelu,
        Self::GeluTanh,
        Self::Relu,
        Self::Softplus,
        Self::Floor,
        Self::Ceil,
        Self::Round,
        Self::Not,
        Self::BitwiseNot,
        Self::IsNan,
        Self::IsInf,
    ];
}

/// Two-operand elementwise ops with multidirectional (numpy) broadcasting; both operands have one dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinaryOp {
    /// `a + b`; integers wrap.
    Add,
    /// `a - b`; integers wrap.
    Sub,
    /// `a * b`; integers wrap.
    Mul,
    /// `a / b`; integers truncate.
    Div,
    /// `a ^ b`; the exponent may have another dtype, the result has the base's.
    Pow,
    /// Larger; NaN propagates, `max(-0, +0) = +0`.
    Max,
    /// Smaller; NaN propagates, `min(-0, +0) = -0`.
    Min,
    /// Remainder with the divisor's sign (integers; `Mod` with `fmod=0`).
    Mod,
    /// Remainder with the dividend's sign (C `fmod`).
    Fmod,
    /// Logical and of bools.
    And,
    /// Logical or of bools.
    Or,
    /// Logical exclusive or of bools.
    Xor,
    /// Result is bool.
    Equal,
    /// Result is bool.
    Less,
    /// Result is bool.
    LessOrEqual,
    /// Result is bool.
    Greater,
    /// Result is bool.
    GreaterOrEqual,
    /// Of integers.
    BitwiseAnd,
    /// Of integers.
    BitwiseOr,
    /// Of integers.
    BitwiseXor,
    /// Of unsigned integers.
    ShiftLeft,
    /// Of unsigned integers.
    ShiftRight,
}

impl BinaryOp {
    /// All that there are.
    pub const ALL: [Self; 22] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Pow,
        Self::Max,
        Self::Min,
        Self::Mod,
        Self::Fmod,
        Self::And,
        Self::Or,
        Self::Xor,
        Self::Equal,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::BitwiseAnd,
        Self::BitwiseOr,
        Self::BitwiseXor,
        Self::ShiftLeft,
        Self::ShiftRight,
    ];
}

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceOp {
    /// Canonical tree sum, then one IEEE division by the count.
    Mean,
    /// Canonical tree sum.
    Sum,
    /// Canonical tree sum of rounded squares.
    SumSquare,
    /// Square root of `SumSquare`.
    L2,
    /// Product.
    Prod,
    /// Largest; NaN propagates.
    Max,
    /// Smallest; NaN propagates.
    Min,
}

/// How a scatter combines an update with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScatterReduction {
    /// Replace.
    #[default]
    None,
    /// Add.
    Add,
    /// Multiply.
    Mul,
    /// Larger.
    Max,
    /// Smaller.
    Min,
}

/// An attribute of a foreign op that this crate carries but does not read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForeignAttr {
    /// Attribute name.
    pub name: String,
    /// The attribute in the encoding of the format it came from; base64 in text and JSON.
    #[serde(with = "crate::document::base64_bytes")]
    pub payload: Arc<[u8]>,
}

/// An op that the IR does not know. It passes through with its attributes; it is never executed or rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ForeignOp {
    /// Operator set domain, empty for the ONNX default.
    pub domain: String,
    /// Operator name.
    pub op_type: String,
    /// Overload of a local function, empty in nearly all files.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub overload: String,
    /// The encoding of the payloads: `onnx` (an `AttributeProto` each).
    pub encoding: String,
    /// Attributes, in file order.
    pub attributes: Vec<ForeignAttr>,
    /// The last this many operands are not listed by the node: its subgraphs capture them by name.
    pub captures: usize,
    /// Number of outputs.
    pub outputs: usize,
    /// Why the reader kept it foreign, for error messages: `unknown op`, `axes is not constant`, ...
    pub reason: String,
}

/// Where a norm's value goes from the dtype of stage one to the result's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CastBack {
    /// `cast[dtype of x](n) * scale`.
    #[default]
    BeforeScale,
    /// `cast[dtype of scale](n * scale)`, the product in the dtype of stage one.
    AfterScale,
}

impl CastBack {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    fn is_before_scale(&self) -> bool {
        *self == Self::BeforeScale
    }
}

/// Who wrote a quantiser down. The meaning is the same; only the name that it has in ONNX differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// `QuantizeLinear` and `DequantizeLinear` of ONNX itself.
    #[default]
    Onnx,
    /// The same names in onnxruntime's domain `com.microsoft`, for types that ONNX had not yet.
    Microsoft,
    /// `trt::TRT_FP8QuantizeLinear` and `trt::TRT_FP8DequantizeLinear`, which ModelOpt exports for `TensorRT`: to
    /// f8e4m3fn, saturating.
    TensorRt,
}

impl Dialect {
    /// True for ONNX's own, which text and JSON leave out.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    fn is_onnx(&self) -> bool {
        *self == Self::Onnx
    }
}

/// ONNX `Attention` (opset 23 and 24). Operands: Q, K, V, then optional `attn_mask`, `past_key`, `past_value`.
/// Outputs: Y, then as many of `present_key`, `present_value`, `qk_matmul_output` as the node has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttentionOp {
    /// Causal mask on top of the operand's.
    pub is_causal: bool,
    /// Scale of QK^T; `None` is `1/sqrt(head_size)`.
    pub scale: Option<F32>,
    /// Tanh soft cap of the scores; 0 is none.
    pub softcap: F32,
    /// Heads of a 3-D query.
    pub q_num_heads: Option<u64>,
    /// Heads of a 3-D key and value.
    pub kv_num_heads: Option<u64>,
    /// Which intermediate `qk_matmul_output` is: 0 raw, 1 capped, 2 capped and masked, 3 after softmax.
    pub qk_matmul_output_mode: u8,
    /// Dtype of the softmax, if it is not the operands'.
    pub softmax_dtype: Option<DType>,
    /// Number of outputs the node has (1 to 4).
    pub outputs: usize,
}

/// A node's operation. Optional operands in the middle of the list are `None` in the node's operands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Elementwise, one operand.
    Unary(UnaryOp),
    /// Elementwise, two operands.
    Binary(BinaryOp),
    /// `x` to another dtype. Operand: x. Floats go to integers toward zero, NaN to 0 and what is out of range to the
    /// nearest limit; integers go to integers by their low bits.
    Cast {
        /// Target dtype.
        to: DType,
        /// For 8-bit and 4-bit float targets: saturate out-of-range values instead of NaN or inf.
        saturate: bool,
    },
    /// The bits of x in another dtype of as many bits, none of them bool; nothing is converted. Operand: x.
    BitCast {
        /// Target dtype.
        to: DType,
    },
    /// Operands: x, optional min, optional max (scalars). NaN in x passes through.
    Clip,
    /// Operands: condition, a, b; broadcast.
    Where,
    /// Operand: x. Reduces `axes` (all if `None`); axes may be negative.
    Reduce {
        /// What is computed.
        op: ReduceOp,
        /// Axes, or all.
        axes: Option<Vec<i64>>,
        /// Reduced axes stay with size 1.
        keepdims: bool,
    },
    /// Operand: x. Index (i64) of the extreme along an axis, the first one on ties unless `select_last`.
    ArgReduce {
        /// True for the largest, false for the smallest.
        max: bool,
        /// Axis, may be negative.
        axis: i64,
        /// The axis stays with size 1.
        keepdims: bool,
        /// Last extreme on ties.
        select_last: bool,
    },
    /// Operands: x, k (i64, one element). Outputs: values, indices (i64). Ties: the lower index first.
    TopK {
        /// Axis, may be negative.
        axis: i64,
        /// Largest first, else smallest.
        largest: bool,
        /// Sorted output (we always sort).
        sorted: bool,
    },
    /// Operands: x, axis (one element).
    CumSum {
        /// Sum of the elements before.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// Operand: x. `exp(x - max) / sum`, in f32 for 16-bit floats, one rounding.
    Softmax {
        /// Axis, may be negative.
        axis: i64,
        /// The logarithm of it.
        log: bool,
    },
    /// Operands: x, scale, optional bias. Output: normalised value.
    LayerNorm {
        /// First normalised axis.
        axis: i64,
        /// Added to the variance.
        eps: F32,
        /// Dtype of stage one.
        stash: DType,
    },
    /// Rows over their root mean square, times a scale. Stage one, `n = x / sqrt(mean(x*x) + eps)` as `root` says,
    /// runs in `stash`; `cast` says where the scale comes in. Operands: x, scale. The result has the scale's dtype.
    ///
    /// ONNX `RMSNormalization` divides by the root and casts before the scale; the two must have one dtype.
    /// onnxruntime's `SimplifiedLayerNormalization` multiplies by the reciprocal of the root, all in f32, and casts
    /// last. That is what its CPU kernel (1.32) computes on rows of 16 or more; shorter ones it divides, and a node is
    /// not to mean different things for different rows.
    RmsNorm {
        /// First normalised axis.
        axis: i64,
        /// Added to the mean square.
        eps: F32,
        /// Dtype of stage one.
        stash: DType,
        /// How the row is divided by its root mean square.
        #[serde(default, skip_serializing_if = "Root::divides")]
        root: Root,
        /// Where the value leaves `stash`.
        #[serde(default, skip_serializing_if = "CastBack::is_before_scale")]
        cast: CastBack,
    },
    /// onnxruntime's `SkipSimplifiedLayerNormalization`, as its CPU kernel computes it. Operands: x, skip, scale,
    /// optional bias, all of one dtype (f32, f16 or bf16); skip and bias broadcast to x. Outputs: y and the sum.
    ///
    /// In f32: `h = (x + skip) + bias`, `y = cast((h / sqrt(mean(h*h) + eps)) * scale)` over the last axis, and
    /// `sum = cast(h)`. The norm reads h before it is rounded to 16 bits, so this is an add and a norm only in f32.
    SkipRmsNorm {
        /// Added to the mean square.
        eps: F32,
    },
    /// Operands: a, b; numpy semantics.
    #[serde(rename = "matmul")]
    MatMul,
    /// `alpha * a' * b' + beta * c`. Operands: a, b, optional c.
    Gemm {
        /// Factor of the product.
        alpha: F32,
        /// Factor of c.
        beta: F32,
        /// Transpose a.
        trans_a: bool,
        /// Transpose b.
        trans_b: bool,
    },
    /// Operands: a, b (8-bit integers), optional zero points of a and b. Result i32, exact.
    #[serde(rename = "matmul_integer")]
    MatMulInteger,
    /// A product of codes and their scales. Operands: a, b, scale of a, scale of b (f32), optional bias; see [`ScaledMatMul`].
    #[serde(rename = "scaled_matmul")]
    ScaledMatMul(ScaledMatMul),
    /// Scaled dot-product attention.
    Attention(AttentionOp),
    /// Operands: x, shape (i64).
    Reshape {
        /// A 0 in the shape is a size of 0 instead of a copy of the input's.
        allow_zero: bool,
    },
    /// Operand: x. Drops axes of size 1 (all of them if `None`).
    Squeeze {
        /// Axes, may be negative.
        axes: Option<Vec<i64>>,
    },
    /// Operand: x. Adds axes of size 1.
    Unsqueeze {
        /// Axes of the result, may be negative.
        axes: Vec<i64>,
    },
    /// Operand: x. To 2-D: axes before `axis`, axes from `axis` on.
    Flatten {
        /// Split point, may be negative.
        axis: i64,
    },
    /// Operand: x.
    Transpose {
        /// Source axis of each result axis; `None` reverses.
        perm: Option<Vec<i64>>,
    },
    /// Operands: x, shape (i64); two-way broadcasting.
    Expand,
    /// Operands: x, repeats (i64).
    Tile,
    /// Operands: one or more tensors.
    Concat {
        /// Axis, may be negative.
        axis: i64,
    },
    /// Operands: x, optional sizes (i64). Without sizes: equal chunks, the last one smaller.
    Split {
        /// Axis, may be negative.
        axis: i64,
        /// Number of outputs.
        outputs: usize,
    },
    /// Operands: x, starts, ends, optional axes, optional steps (integers).
    Slice,
    /// Operands: x, pads (i64), optional value, optional axes; constant mode.
    Pad,
    /// Operand: x. Result: its sizes `[start, end)` as i64.
    Shape {
        /// First axis, may be negative.
        start: i64,
        /// One past the last axis; `None` is the rank.
        end: Option<i64>,
    },
    /// Operand: x. Number of elements as an i64 scalar.
    Size,
    /// Operands: start, limit, delta (scalars of one dtype).
    Range,
    /// Operand: shape (i64). Result filled with `value` (little-endian bytes of one element of `dtype`).
    ConstantOfShape {
        /// Element type of the result.
        dtype: DType,
        /// The element's bytes.
        value: Vec<u8>,
    },
    /// Operands: x, indices (integers, may be negative).
    Gather {
        /// Axis, may be negative.
        axis: i64,
    },
    /// Operands: x, indices of the same rank.
    GatherElements {
        /// Axis, may be negative.
        axis: i64,
    },
    /// Operands: x, indices.
    GatherNd {
        /// Leading axes that x and indices share.
        batch_dims: i64,
    },
    /// Operands: x, indices, updates.
    ScatterElements {
        /// Axis, may be negative.
        axis: i64,
        /// How updates combine.
        reduction: ScatterReduction,
    },
    /// Operands: x, indices, updates.
    ScatterNd {
        /// How updates combine.
        reduction: ScatterReduction,
    },
    /// Operands: indices, depth (scalar), values (`[off, on]`).
    OneHot {
        /// Where the new axis goes.
        axis: i64,
    },
    /// Operand: x. Indices of non-zero elements, `[rank, count]`, i64.
    NonZero,
    /// Operands: x, optional k (i64 scalar). Keeps a triangle, zeros the rest.
    Trilu {
        /// Upper triangle, else lower.
        upper: bool,
    },
    /// ONNX `QuantizeLinear`. Operands: x, scale, optional zero point. `q = saturate(round_even(x / scale) + zero)`.
    /// The quotient is rounded to `precision`; before that, x and the scale are.
    QuantizeLinear {
        /// Axis of the scale where it is not a scalar.
        axis: i64,
        /// Values a scale along the axis; 0 is per tensor or per axis.
        block_size: u64,
        /// Result dtype (that of the zero point, where there is one).
        to: DType,
        /// Saturate FP8 targets.
        saturate: bool,
        /// Dtype of the quotient; `None` is the scale's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        precision: Option<DType>,
        /// Its name in ONNX.
        #[serde(default, skip_serializing_if = "Dialect::is_onnx")]
        dialect: Dialect,
    },
    /// ONNX `DequantizeLinear`. Operands: q, scale, optional zero point. `(q - zero) * scale`, rounded once, to `to`.
    DequantizeLinear {
        /// Axis of the scale where it is not a scalar.
        axis: i64,
        /// Values a scale along the axis; 0 is per tensor or per axis.
        block_size: u64,
        /// Result dtype; `None` is the scale's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<DType>,
        /// Its name in ONNX.
        #[serde(default, skip_serializing_if = "Dialect::is_onnx")]
        dialect: Dialect,
    },
    /// ONNX `DynamicQuantizeLinear`. Operand: x (f32). Outputs: q (u8), scale (f32), zero point (u8).
    DynamicQuantizeLinear,
    /// A recognised quantiser. Operands: v, then the given scale and zero point where the scheme has them. Outputs: q,
    /// then the scales and the zero point where they are computed, and the dequantised value where the scheme has it.
    Quantize(Arc<Scheme>),
    /// The fused family; ports as the descriptor says.
    FusedNorm(Arc<FusedNorm>),
    /// Anything else.
    Foreign(Arc<ForeignOp>),
}

impl Op {
    /// Number of outputs.
    pub fn num_outputs(&self) -> usize {
        match self {
            Self::TopK { .. } | Self::SkipRmsNorm { .. } => 2,
            Self::DynamicQuantizeLinear => 3,
            Self::Split { outputs, .. } => *outputs,
            Self::Attention(a) => a.outputs,
            Self::Quantize(s) => s.out_ports(0, 0).count(),
            Self::FusedNorm(f) => f.out_ports().len(),
            Self::Foreign(f) => f.outputs,
            _ => 1,
        }
    }

    /// True for the ops that the pass makes, which come with a body that spells them out.
    pub const fn is_fused(&self) -> bool {
        matches!(self, Self::Quantize(_) | Self::FusedNorm(_))
    }

    /// Smallest and largest number of operands; `None` if unbounded.
    pub fn arity(&self) -> (usize, Option<usize>) {
        match self {
            Self::Foreign(_) => (0, None),
            Self::Concat { .. } => (1, None),
            Self::Binary(_)
            | Self::TopK { .. }
            | Self::CumSum { .. }
            | Self::RmsNorm { .. }
            | Self::MatMul
            | Self::Reshape { .. }
            | Self::Expand
            | Self::Tile
            | Self::Gather { .. }
            | Self::GatherElements { .. }
            | Self::GatherNd { .. } => (2, Some(2)),
            Self::Where | Self::Range | Self::ScatterElements { .. } | Self::ScatterNd { .. } | Self::OneHot { .. } => {
                (3, Some(3))
            }
            Self::SkipRmsNorm { .. } => (3, Some(4)),
            Self::Clip => (1, Some(3)),
            Self::LayerNorm { .. }
            | Self::Gemm { .. }
            | Self::QuantizeLinear { .. }
            | Self::DequantizeLinear { .. } => (2, Some(3)),
            Self::MatMulInteger | Self::Pad => (2, Some(4)),
            Self::ScaledMatMul(_) => (4, Some(5)),
            Self::Attention(_) => (3, Some(6)),
            Self::Split { .. } | Self::Trilu { .. } => (1, Some(2)),
            Self::Slice => (3, Some(5)),
            Self::Quantize(s) => {
                let n = 1 + usize::from(s.given.is_some()) + usize::from(s.zero_point == ZeroPoint::Given);
                (n, Some(n))
            }
            Self::FusedNorm(f) => {
                let n = f.in_ports().len();
                (n, Some(n))
            }
            _ => (1, Some(1)),
        }
    }

    /// The op's name in the text form and in messages: `mul`, `reduce_mean`, `fused_norm`, `trt::TRT_FP8QuantizeLinear`.
    pub fn name(&self) -> String {
        fn tag<T: Serialize>(v: &T) -> String {
            match serde_json::to_value(v) {
                Ok(serde_json::Value::String(s)) => s,
                Ok(serde_json::Value::Object(m)) => m.keys().next().cloned().unwrap_or_default(),
                _ => String::new(),
            }
        }
        match self {
            Self::Unary(u) => tag(u),
            Self::Binary(b) => tag(b),
            Self::Reduce { op, .. } => format!("reduce_{}", tag(op)),
            Self::Foreign(f) if f.domain.is_empty() => f.op_type.clone(),
            Self::Foreign(f) => format!("{}::{}", f.domain, f.op_type),
            other => tag(other),
        }
    }

    /// Names of the outputs, in port order.
    pub fn output_names(&self) -> Vec<String> {
        match self {
            Self::TopK { .. } => vec!["values".into(), "indices".into()],
            Self::SkipRmsNorm { .. } => vec!["y".into(), "sum".into()],
            Self::DynamicQuantizeLinear => vec!["y".into(), "y_scale".into(), "y_zero_point".into()],
            Self::Quantize(s) => s.out_ports(0, 0).map(|p| p.word().to_owned()).collect(),
            Self::FusedNorm(f) => f.out_ports().iter().map(ToString::to_string).collect(),
            _ => match self.num_outputs() {
                1 => vec!["y".into()],
                n => (0..n).map(|i| format!("y{i}")).collect(),
            },
        }
    }
}
