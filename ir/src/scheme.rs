//! `Scheme`: everything that decides the bits of a quantised value and of its scales.
//!
//! Quantisers in use differ in a handful of scalar operations and in their order, and each order gives other bits. So a
//! scheme does not name variants: it *is* the short program that the source spelled, as lists of [`Step`]s. A quantiser
//! that nobody has named yet is one more list.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::{
    dequantised::Dequantised,
    layout::ScaleLayout,
    step::{Step, run},
};
use crate::DType;

mod dequantised;
mod layout;
mod step;

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
    /// One given scale for each position of the last axis, the same for all rows.
    Channel,
}

/// What the chains of a scheme begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The given operand: a scale, or its inverse (static quantisation).
    Given,
    /// The largest magnitude of the values that share a scale; 0 if there are none.
    Amax,
    /// `max(0, largest) - min(0, smallest)`, and 1 where that is 0 (ONNX DynamicQuantizeLinear).
    Range,
}

/// How a value meets the factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Apply {
    /// `v / factor`.
    Divide,
    /// `v * factor`.
    Multiply,
}

/// How the last value becomes a code of the element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encode {
    /// Nearest even; past the largest finite value NaN or infinity as the type says (torch). Integers: toward zero,
    /// saturated, NaN is 0.
    Cast,
    /// Nearest even, saturated to the largest finite value (ONNX `saturate=1`, CUDA `satfinite`).
    Saturate,
    /// f4e2m1 by comparisons of magnitudes: as saturating, but the sign is `v < 0`, so that -0 and NaN are code 0.
    Compare,
}

/// How codes lie in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// A tensor of the element type.
    #[default]
    None,
    /// 4-bit codes, one in each u8.
    Codes,
    /// 4-bit codes, two in each u8, the even index in the low nibble: the last axis is half as long.
    Nibbles,
}

/// The zero point of integer elements, added after the last step; the sum saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroPoint {
    /// There is none.
    #[default]
    None,
    /// An operand of the element type, of the given scale's shape.
    Given,
    /// `round(clamp(0 - min(0, smallest) / factor, 0, 255))`, a result of the op (ONNX DynamicQuantizeLinear).
    Range,
}

/// The scale as the op gives it.
///
/// The cast to the dtype saturates, and to f8e8m0 rounds up. Where the source's does not, as torch's, the last step is that
/// cast ([`Step::Cast`]): its result is a value of the dtype already.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScaleOutput {
    /// From the origin to the scale.
    pub steps: Vec<Step>,
    /// Its dtype: f32, f16, bf16, f8e8m0, f8e4m3fn, or u8 for an exponent (toward zero, saturated).
    pub dtype: DType,
}

/// The type of a quantised value.
///
/// Semantics, for a value `v` and the origin `o` (amax, range or given operand) of its tensor, row or group, each step
/// rounded to `compute`:
/// 1. `f = factor(o)`;
/// 2. `v = v / f` or `v * f`, as `apply` says;
/// 3. `q = encode(post(v)) + zero point`;
/// 4. the scale that is handed out, if one is: `cast(scale.steps(o))`;
/// 5. the dequantised value, if it is handed out: `cast[dtype]((q - zero point) * scale)`, in f32.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scheme {
    /// Element type of `q`.
    pub element: DType,
    /// How codes lie in the result.
    #[serde(default, skip_serializing_if = "is_default")]
    pub packing: Packing,
    /// Values a scale.
    pub granularity: Granularity,
    /// The dtype in which the quantiser computes.
    pub compute: DType,
    /// Dtype of the given operand, if there is one: one element, or one a channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<DType>,
    /// What the chains begin with.
    pub origin: Origin,
    /// From the origin to the factor.
    pub factor: Vec<Step>,
    /// How a value meets the factor.
    pub apply: Apply,
    /// From there to the value that is encoded.
    pub post: Vec<Step>,
    /// How that becomes a code.
    pub encode: Encode,
    /// The zero point.
    #[serde(default, skip_serializing_if = "is_default")]
    pub zero_point: ZeroPoint,
    /// The scale that is handed out; a scale that was given is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleOutput>,
    /// Order of the scales in memory.
    #[serde(default)]
    pub layout: ScaleLayout,
    /// The quantised value as a number, if that is handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantised: Option<Dequantised>,
}

fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}

impl Scheme {
    /// A saturating quantiser whose scale follows from amax by `steps`, divides, and is handed out in f32.
    pub fn dynamic(element: DType, granularity: Granularity, steps: Vec<Step>) -> Self {
        Self {
            origin: Origin::Amax,
            given: None,
            scale: Some(ScaleOutput { steps: steps.clone(), dtype: DType::F32 }),
            factor: steps,
            granularity,
            ..Self::fixed(element, Apply::Divide)
        }
    }

    /// A saturating quantiser of one given f32 scale, or its inverse.
    pub fn fixed(element: DType, apply: Apply) -> Self {
        Self {
            element,
            packing: Packing::None,
            granularity: Granularity::Tensor,
            compute: DType::F32,
            given: Some(DType::F32),
            origin: Origin::Given,
            factor: Vec::new(),
            apply,
            post: Vec::new(),
            encode: Encode::Saturate,
            zero_point: ZeroPoint::None,
            scale: None,
            layout: ScaleLayout::RowMajor,
            dequantised: None,
        }
    }

    /// The same with a product with the rounded reciprocal of the factor in place of the division.
    #[must_use]
    pub fn by_reciprocal(mut self) -> Self {
        self.factor.push(Step::Over(F32::new(1.0)));
        self.apply = Apply::Multiply;
        self
    }

    /// The same with values clamped before they are encoded.
    #[must_use]
    pub fn clamped(mut self, low: f32, high: f32) -> Self {
        self.post.extend([Step::Max(F32::new(low)), Step::Min(F32::new(high))]);
        self
    }

    /// Dtype of the scales that are handed out, if any are: words, where the layout packs them.
    pub fn scale_dtype(&self) -> Option<DType> {
        self.scale.as_ref().filter(|_| self.has_scale_output()).map(|s| self.layout.dtype(s.dtype))
    }

    /// Dtype of the quantised tensor.
    pub const fn q_dtype(&self) -> DType {
        match self.packing {
            Packing::None => self.element,
            Packing::Codes | Packing::Nibbles => DType::U8,
        }
    }

    /// Elements of the quantised tensor in a row of `n` values, which [`Self::check`] has found to be even if it must.
    pub const fn q_width(&self, n: u64) -> u64 {
        match self.packing {
            Packing::Nibbles => n / 2,
            Packing::None | Packing::Codes => n,
        }
    }

    /// Scales in a row of `n` values; `None` if groups do not divide it, or scales are not of rows.
    pub fn scales_per_row(&self, n: u64) -> Option<u64> {
        match self.granularity {
            Granularity::Token => Some(1),
            Granularity::Group(g) if g > 0 && n.is_multiple_of(u64::from(g)) => Some(n / u64::from(g)),
            Granularity::Tensor | Granularity::Channel | Granularity::Group(_) => None,
        }
    }

    /// The arithmetic in words, in order: how the factor and the scale follow, and what happens to a value.
    ///
    /// ```
    /// use normfuse_ir::{DType, Granularity, Scheme, scheme::Step};
    /// let s = Scheme::dynamic(DType::F8E4M3FN, Granularity::Token, vec![Step::Div(448.0.into()), Step::Max(1e-10.into())]);
    /// assert_eq!(s.arithmetic(), "scale f32 = amax, / 448.0, max 1e-10; q = v / scale, cast f8e4m3fn");
    /// ```
    pub fn arithmetic(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_arithmetic(&mut text);
        text
    }

    fn write_arithmetic(&self, out: &mut impl fmt::Write) -> fmt::Result {
        if let Some(s) = &self.scale {
            write!(out, "scale {} = ", s.dtype)?;
            self.write_chain(&s.steps, out)?;
            out.write_str("; ")?;
        }
        let factor = if self.scale.as_ref().is_some_and(|s| s.steps == self.factor) {
            "scale"
        } else if self.origin == Origin::Given && self.factor.is_empty() {
            "given"
        } else {
            out.write_str("factor = ")?;
            self.write_chain(&self.factor, out)?;
            out.write_str("; ")?;
            "factor"
        };
        write!(out, "q = v {} {factor}", if self.apply == Apply::Divide { '/' } else { '*' })?;
        for step in &self.post {
            write!(out, ", {step}")?;
        }
        match self.zero_point {
            ZeroPoint::None => {}
            ZeroPoint::Given => out.write_str(", + given zero point")?,
            ZeroPoint::Range => out.write_str(", + zero point of the range")?,
        }
        match (self.element.is_int(), self.encode) {
            (true, _) | (_, Encode::Saturate) => write!(out, ", cast {}", self.element)?,
            (_, Encode::Cast) => write!(out, ", cast {} unsaturated", self.element)?,
            (_, Encode::Compare) => write!(out, ", to {} by comparisons", self.element)?,
        }
        if self.compute != DType::F32 {
            write!(out, "; in {}", self.compute)?;
        }
        self.layout.words().map_or(Ok(()), |words| write!(out, "; scales {words}"))?;
        self.dequantised_words().map_or(Ok(()), |words| write!(out, "; {words}"))
    }

    fn write_chain(&self, steps: &[Step], out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(match self.origin {
            Origin::Given => "given",
            Origin::Amax => "amax",
            Origin::Range => "range",
        })?;
        steps.iter().try_for_each(|s| write!(out, ", {s}"))
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field, what was expected and what was found.
    pub fn check(&self) -> Result<(), String> {
        let narrow = |d: DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
        if !self.element.is_quantised() {
            return Err(format!("element: expected a quantised type, found {}", self.element));
        }
        if !narrow(self.compute) {
            return Err(format!("compute: expected f32, f16 or bf16, found {}", self.compute));
        }
        if let Some(d) = self.given.filter(|d| !narrow(*d)) {
            return Err(format!("given: expected f32, f16 or bf16, found {d}"));
        }
        if self.granularity == Granularity::Group(0) {
            return Err("granularity: expected a group of at least 1, found 0".into());
        }
        let of_four_bits = self.element.bits() == 4;
        if self.packing != Packing::None && !of_four_bits {
            return Err(format!("packing: expected none for elements of {}, found {:?}", self.element, self.packing));
        }
        if self.encode == Encode::Compare && !of_four_bits {
            return Err(format!("encode: comparisons are defined for f4e2m1, found {}", self.element));
        }
        if self.zero_point != ZeroPoint::None && !self.element.is_int() {
            return Err(format!("zero_point: expected none for elements of {}", self.element));
        }
        let scale_steps = self.scale.iter().flat_map(|s| &s.steps);
        let steps = || self.factor.iter().chain(scale_steps.clone()).chain(&self.post);
        if let Some(Step::Cast { to, .. }) =
            steps().find(|s| matches!(s, Step::Cast { to, .. } if !narrow(*to) && !to.is_narrow_float()))
        {
            return Err(format!("steps: expected casts to f32, f16, bf16 or an 8-bit or 4-bit float, found {to}"));
        }
        if self.post.iter().any(|s| s.reads_given()) {
            return Err("post: its steps read no operand".into());
        }
        if self.given.is_none() && (self.origin == Origin::Given || steps().any(|s| s.reads_given())) {
            return Err("given: a step or the origin reads an operand, found none".into());
        }
        if let Some(s) = &self.scale
            && !(narrow(s.dtype) || matches!(s.dtype, DType::F8E8M0 | DType::F8E4M3FN | DType::U8))
        {
            return Err(format!("scale.dtype: expected f32, f16, bf16, f8e8m0, f8e4m3fn or u8, found {}", s.dtype));
        }
        if let Some(s) = &self.scale {
            self.layout.check(s.dtype, matches!(self.granularity, Granularity::Group(_)))?;
        }
        self.check_dequantised()?;
        let by_row = matches!(self.granularity, Granularity::Token | Granularity::Group(_));
        match self.origin {
            Origin::Given if self.scale.is_some() => Err("scale: a given scale is not handed out".into()),
            Origin::Given if by_row => Err(format!(
                "granularity: a given scale is one a tensor or one a channel, found {:?}",
                self.granularity
            )),
            Origin::Amax | Origin::Range if self.granularity == Granularity::Channel => {
                Err("granularity: a computed scale is not one a channel".into())
            }
            Origin::Range if self.granularity != Granularity::Tensor => {
                Err(format!("granularity: a range is that of the tensor, found {:?}", self.granularity))
            }
            Origin::Given | Origin::Amax if self.zero_point == ZeroPoint::Range => {
                Err("zero_point: one that follows from a range needs the range as origin".into())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Scheme {
    /// A short name for reports: `f8e4m3fn/group128`, `f8e4m3fn/token`, `f8e4m3fn/tensor(static)`,
    /// `f4e2m1/group32(u8)`; with the dequantised value `f8e4m3fn/token+bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.element)?;
        match self.granularity {
            Granularity::Tensor => f.write_str("tensor")?,
            Granularity::Token => f.write_str("token")?,
            Granularity::Group(g) => write!(f, "group{g}")?,
            Granularity::Channel => f.write_str("channel")?,
        }
        match &self.scale {
            None if self.origin == Origin::Given => f.write_str("(static)"),
            Some(s) if s.dtype != DType::F32 => write!(f, "({})", s.dtype),
            _ if self.factor.iter().any(|s| matches!(s, Step::Exp2 | Step::Power(_))) => f.write_str("(pow2)"),
            _ => Ok(()),
        }?;
        self.dequantised.map_or(Ok(()), |d| write!(f, "+{}", d.dtype))
    }
}
