//! `Scheme`: everything that decides the bits of a quantised value and of its scales.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::DType;

/// An f32 that is compared, hashed and serialised by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct F32(u32);

impl F32 {
    /// Wraps a value.
    pub const fn new(v: f32) -> Self {
        Self(v.to_bits())
    }

    /// The value.
    pub const fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl From<f32> for F32 {
    fn from(v: f32) -> Self {
        Self::new(v)
    }
}

impl fmt::Debug for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:e}", self.get())
    }
}

impl Serialize for F32 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        // Finite values print as the shortest decimal that reads back to the same bits; the others by their bits.
        if self.get().is_finite() { s.serialize_f32(self.get()) } else { s.serialize_str(&format!("0x{:08x}", self.0)) }
    }
}

impl<'de> Deserialize<'de> for F32 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Repr {
            Num(f64),
            Bits(String),
        }
        match Repr::deserialize(d)? {
            // Printed from an f32, so the nearest f32 of the nearest f64 is that f32 again.
            Repr::Num(v) => Ok(Self::new(v as f32)),
            Repr::Bits(s) => s
                .strip_prefix("0x")
                .and_then(|h| u32::from_str_radix(h, 16).ok())
                .map(Self)
                .ok_or_else(|| serde::de::Error::custom(format!("`{s}` is not an f32"))),
        }
    }
}

/// How many values share one scale. Groups and tokens run along the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// One scale for the whole tensor.
    Tensor,
    /// One scale a row (token).
    Token,
    /// One scale for this many consecutive values of a row.
    Group(u32),
}

/// How the scale follows from `amax` (the largest magnitude under one scale).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DynamicScale {
    /// `amax = max(amax, floor)` before anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amax_floor: Option<F32>,
    /// How amax becomes a scale.
    pub by: ScaleBy,
    /// `scale = max(scale, floor)` after the division.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_floor: Option<F32>,
    /// What happens to the scale after that.
    pub rule: ScaleRule,
}

/// Amax to scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleBy {
    /// `amax / c`, one IEEE division.
    Divide(F32),
    /// `amax * c`, one IEEE multiplication.
    Multiply(F32),
}

/// What is done to a linear scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRule {
    /// Nothing: the scale is an f32.
    Linear,
}

/// Where the scale comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleSource {
    /// An operand of the op (static quantisation); the op has no scale output.
    Given,
    /// Computed from the data; the op has a scale output.
    Dynamic(DynamicScale),
}

/// How a value meets its scale, each a different function of the bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Apply {
    /// `v / s`.
    Divide,
    /// `v * (1 / s)`, the reciprocal rounded first.
    MultiplyReciprocal,
    /// `v * m`, where the operand is already the inverse scale (static quantisation with a folded reciprocal).
    Multiply,
}

/// In what order scales lie in memory; see numerics.md for the byte formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleLayout {
    /// `s[m*G + g]`.
    #[default]
    RowMajor,
    /// `s[g*M + m]`.
    ColumnMajor,
    /// `s[g*roundup(M, 4) + m]`.
    TmaAligned,
}

/// The type of a quantised value.
///
/// Semantics, in `compute` arithmetic, for a value `v` and the scale `s` of its tensor, row or group:
/// `q = cast(clamp(apply(v, s)))`, where the cast saturates if `saturate` is set. Integer elements round to nearest even
/// and always saturate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scheme {
    /// Element type of `q`.
    pub element: DType,
    /// Values a scale.
    pub granularity: Granularity,
    /// Element type of the scale: f32.
    pub scale_dtype: DType,
    /// Where the scale comes from.
    pub scale: ScaleSource,
    /// How a value meets its scale.
    pub apply: Apply,
    /// Explicit `[lo, hi]` clamp before the cast; NaN passes through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clamp: Option<[F32; 2]>,
    /// The form of the cast: saturating (ONNX `saturate=1`), or out of range becomes NaN or inf as the type says.
    pub saturate: bool,
    /// The dtype in which the quantiser computes; every op is rounded to it.
    pub compute: DType,
    /// Order of the scales in memory.
    #[serde(default)]
    pub layout: ScaleLayout,
}

impl Scheme {
    /// True if the op that quantises has a scale output.
    pub fn has_scale_output(&self) -> bool {
        matches!(self.scale, ScaleSource::Dynamic(_))
    }

    /// Scales in a row of `n` values; `None` if groups do not divide it, or one scale serves the tensor.
    pub fn scales_per_row(&self, n: u64) -> Option<u64> {
        match self.granularity {
            Granularity::Token => Some(1),
            Granularity::Group(g) if g > 0 && n.is_multiple_of(u64::from(g)) => Some(n / u64::from(g)),
            Granularity::Tensor | Granularity::Group(_) => None,
        }
    }
}

impl fmt::Display for Scheme {
    /// A short name for reports: `f8e4m3fn/group128`, `f8e4m3fn/token`, `f8e4m3fn/tensor(static)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.element)?;
        match self.granularity {
            Granularity::Tensor => f.write_str("tensor")?,
            Granularity::Token => f.write_str("token")?,
            Granularity::Group(g) => write!(f, "group{g}")?,
        }
        if !self.has_scale_output() {
            f.write_str("(static)")?;
        }
        Ok(())
    }
}
