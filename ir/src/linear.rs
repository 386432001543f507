//! How a linear layer is quantised: what a model's configuration says of it, in numbers. Reading the configuration and
//! rewriting the graph are others' business; this is what they agree on.
//!
//! A quantised layer computes `cast(dequantised(x) · dequantised(W)ᵀ)`, the product in f32 and the cast to the dtype of
//! the layer's result. `W` is `[N, K]` as torch has it; `x` has K elements a row.

use std::fmt;

use serde::Serialize;

use crate::{DType, scheme::F32};

/// How one linear layer is quantised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct LinearScheme {
    /// Its weight.
    pub weight: WeightScheme,
    /// What it reads; `None` where only the weight is quantised.
    pub activation: Option<Activation>,
}

/// A quantised weight and the parameters that hold it. Names are the last part of a parameter's name, behind the
/// layer's own: `weight`, `weight_scale_inv`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct WeightScheme {
    /// Type of the codes: `f8e4m3fn`, `i8` or `f4e2m1`.
    pub element: DType,
    /// Name of the codes, `[N, K]`.
    pub codes: String,
    /// The codes are kept as `[N, K / n, n]`.
    pub cut: Option<usize>,
    /// Name of the scales.
    pub scale: String,
    /// What shares a scale.
    pub per: WeightPer,
    /// What the scales are.
    pub kind: ScaleKind,
}

/// What a weight's scales are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum ScaleKind {
    /// A float that codes are multiplied by: f32, f16 or bf16, or a power of two in f8e8m0.
    Float,
    /// A power of two in f8e8m0.
    Power,
    /// An f8e4m3fn that is divided by one f32 for the whole weight, which has the name `global`.
    TwoLevel {
        /// Name of the f32, `[1]`.
        global: String,
    },
}

/// Which elements of a weight `[N, K]` share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum WeightPer {
    /// All: `[]` or `[1]`.
    Tensor,
    /// A row: `[N, 1]` or `[N]`.
    Channel,
    /// So many along a row: `[N, K / n]`.
    Group(usize),
    /// Rows and columns of a block, the last of which may be cut off: `[ceil(N / r), ceil(K / c)]`.
    Block(usize, usize),
}

/// How what a layer reads is quantised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Activation {
    /// With one scale that the model has: `sat(x / s)`, or `sat(x * (1 / s))`.
    Static {
        /// Type of the codes.
        element: DType,
        /// Name of the scale, f32, `[]` or `[1]`.
        scale: String,
        /// It divides.
        divide: bool,
    },
    /// With scales that follow from the values: `sat(x / s)`.
    Dynamic {
        /// Type of the codes.
        element: DType,
        /// What shares a scale.
        per: ActivationPer,
        /// The scale.
        rule: ScaleRule,
    },
    /// NVFP4: e2m1, 16 values a scale `e4m3(G * (amax * (1 / 6)))`, `sat(x * (G / scale))`, and 0 where that scale is 0.
    TwoLevel {
        /// Name of `G`, f32, `[]` or `[1]`.
        global: String,
    },
}

/// Which values share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum ActivationPer {
    /// All.
    Tensor,
    /// A row.
    Token,
    /// So many along a row.
    Group(usize),
}

/// A scale from the largest magnitude among the values, in f32. `FMAX` is the largest value of the codes' type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum ScaleRule {
    /// `max(amax, floor) / FMAX`.
    FloorOnAmax(F32),
    /// `max(amax / FMAX, floor)`.
    FloorOnScale(F32),
    /// `2^ceil(log2(max(amax, floor) / FMAX))`.
    PowerAbove(F32),
    /// OCP's `2^(floor(log2(amax)) - e)`, e the exponent of `FMAX`.
    Microscaling,
}

impl LinearScheme {
    /// Values of a row that share a scale on either side: rows must be divisible by them. 1 where nothing asks for that.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        let of_weight = match self.weight.per {
            WeightPer::Group(n) => n,
            WeightPer::Tensor | WeightPer::Channel | WeightPer::Block(..) => 1,
        };
        let of_activation = match &self.activation {
            Some(Activation::Dynamic { per: ActivationPer::Group(n), .. }) => *n,
            Some(Activation::TwoLevel { .. }) => NVFP4_GROUP,
            _ => 1,
        };
        [of_weight, of_activation, self.weight.cut.unwrap_or(1)].into_iter()
    }
}

/// Values that share a scale in NVFP4.
pub const NVFP4_GROUP: usize = 16;

impl fmt::Display for WeightScheme {
    /// `f8e4m3fn/block128x128`, `i8/channel`, `f4e2m1/group16(f8e4m3fn)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.element)?;
        match self.per {
            WeightPer::Tensor => f.write_str("tensor")?,
            WeightPer::Channel => f.write_str("channel")?,
            WeightPer::Group(n) => write!(f, "group{n}")?,
            WeightPer::Block(r, c) => write!(f, "block{r}x{c}")?,
        }
        match self.kind {
            ScaleKind::Float => Ok(()),
            ScaleKind::Power => f.write_str("(f8e8m0)"),
            ScaleKind::TwoLevel { .. } => f.write_str("(f8e4m3fn)"),
        }
    }
}

impl fmt::Display for Activation {
    /// In the words of [`crate::Scheme`]: `f8e4m3fn/group128`, `f8e4m3fn/tensor(static)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { element, .. } => write!(f, "{element}/tensor(static)"),
            Self::Dynamic { element, per, rule } => {
                write!(f, "{element}/")?;
                match per {
                    ActivationPer::Tensor => f.write_str("tensor")?,
                    ActivationPer::Token => f.write_str("token")?,
                    ActivationPer::Group(n) => write!(f, "group{n}")?,
                }
                match rule {
                    ScaleRule::PowerAbove(_) => f.write_str("(pow2)"),
                    ScaleRule::Microscaling => f.write_str("(f8e8m0)"),
                    ScaleRule::FloorOnAmax(_) | ScaleRule::FloorOnScale(_) => Ok(()),
                }
            }
            Self::TwoLevel { .. } => write!(f, "f4e2m1/group{NVFP4_GROUP}(f8e4m3fn)"),
        }
    }
}

impl fmt::Display for LinearScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.activation {
            Some(activation) => write!(f, "{} x {activation}", self.weight),
            None => write!(f, "{}, activations as they are", self.weight),
        }
    }
}
