//! `FusedNorm`: the one descriptor of the one family of fused ops.
//!
//! A backend says which descriptors it supports; selection, the reference evaluator, the CPU and the GPU runtime all
//! read this struct and nothing else.
//!
//! # Semantics
//! Rows run along the last axis. For each row, with every operation rounded to the dtype that the field names:
//! 1. `h = x`; or `h = round[sum](a + b)` with a residual prologue, handed out as `cast[emitted](h)`; or the product of a
//!    gated activation, as [`Gated`] says. Siblings read `h`, or with [`Source::Separate`] each its own operand.
//! 2. In `compute` arithmetic: `ms = sum_tree(h*h) / N`, each square rounded to `squares`, `v = ms + eps`; then by
//!    [`Root`] `n = h * (1 / sqrt(v))`, `n = h * rsqrt(v)` or `n = h / sqrt(v)`. Without a root there is no norm, and `n = h`.
//! 3. `n = cast[normed](n)`; with a weight, `w = cast[product](w)`, plus one in that dtype if `plus_one`, and
//!    `n = cast[product](n) * w`, rounded to `product`.
//! 4. `y = cast[output](n)`: the normed value. Each epilogue quantises `y` under its [`Scheme`].
//! 5. `y`, the codes and the dequantised values are handed out with zeros behind each row, up to [`Sibling::padded`].
//!
//! `sum_tree` is the canonical row sum of `num::row_sum`.

use serde::{Deserialize, Serialize};

pub use self::{
    gated::{Activation, Gated},
    ports::{InPort, OutPort},
};
use crate::{
    DType, Granularity, Scheme,
    scheme::{F32, Packing, ZeroPoint},
};

mod gated;
mod ports;

/// What happens before the norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prologue {
    /// The rows are read as they are.
    None,
    /// Two operands of one shape are added.
    ResidualAdd(ResidualAdd),
    /// The activation of one operand is multiplied with another of its shape.
    Gated(Gated),
}

/// The dtypes of a residual add. Nearly all have one dtype; what differs from it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResidualAdd {
    /// Dtype of the first operand, and of all that the other fields leave out.
    pub dtype: DType,
    /// Dtype of the second operand, if it is not that of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual: Option<DType>,
    /// Dtype to which the sum is rounded before the norms read it, if it is not that of the first operand: a sum of
    /// 16-bit values may stay in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<DType>,
    /// Dtype in which the sum is handed out, if it is not that of the sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<DType>,
}

impl ResidualAdd {
    /// Operands and sum of one dtype.
    pub const fn of(dtype: DType) -> Self {
        Self { dtype, residual: None, sum: None, emitted: None }
    }

    /// An add with these dtypes: of the operands, of the sum, and of the sum as it is handed out.
    pub fn new([dtype, residual]: [DType; 2], sum: DType, emitted: DType) -> Self {
        let unless = |d: DType, usual| (d != usual).then_some(d);
        Self { dtype, residual: unless(residual, dtype), sum: unless(sum, dtype), emitted: unless(emitted, sum) }
    }

    /// Dtype of the second operand.
    pub fn residual(self) -> DType {
        self.residual.unwrap_or(self.dtype)
    }

    /// Dtype of the sum that the norms read.
    pub fn sum(self) -> DType {
        self.sum.unwrap_or(self.dtype)
    }

    /// Dtype of the sum that is handed out.
    pub fn emitted(self) -> DType {
        self.emitted.unwrap_or_else(|| self.sum())
    }

    fn check(self) -> Result<(), String> {
        let dtypes =
            [("dtype", self.dtype), ("residual", self.residual()), ("sum", self.sum()), ("emitted", self.emitted())];
        for (name, d) in dtypes {
            if !computes(d) {
                return Err(format!("prologue.{name}: expected f32, f16 or bf16, found {d}"));
            }
        }
        if self != Self::new([self.dtype, self.residual()], self.sum(), self.emitted()) {
            return Err("prologue: a dtype that is the usual one is left out".into());
        }
        Ok(())
    }
}

/// True for the dtypes that the arithmetic of a fused norm is defined for.
fn computes(d: DType) -> bool {
    d.is_arithmetic_float() && d != DType::F64
}

/// Which rows the siblings read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// All read the one operand (or the sum of the prologue).
    Shared,
    /// Each reads an operand of its own.
    Separate,
}

/// How the row is divided by its root mean square. Three different functions of the bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// `h * (1 / sqrt(v))`: a rounded root, a rounded reciprocal, a product.
    ReciprocalSqrt,
    /// `h * rsqrt(v)`: one correctly rounded reciprocal root, a product.
    Rsqrt,
    /// `h / sqrt(v)`: a rounded root, a division.
    #[default]
    DivideBySqrt,
}

impl Root {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(crate) fn divides(&self) -> bool {
        *self == Self::DivideBySqrt
    }
}

/// The weight of one norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Weight {
    /// Dtype in which it is stored; shape `[N]`.
    pub dtype: DType,
    /// True if the factor is `1 + w`, computed in the dtype of the product (Gemma).
    pub plus_one: bool,
    /// Dtype of the product, if it is not the sibling's `normed`: a row that was rounded to 16 bits, times an f32 weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<DType>,
}

/// One norm of the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sibling {
    /// Row width N in elements.
    pub width: u64,
    /// Dtype of the rows that it reads.
    pub input: DType,
    /// Dtype of the statistics and of `h * r`.
    pub compute: DType,
    /// Dtype to which the squares are rounded before they are averaged, if it is not `compute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub squares: Option<DType>,
    /// Added to the mean square, in `compute`.
    pub eps: F32,
    /// How the row is divided by its root mean square. Without one it is no norm, and the row is quantised, or scaled by the
    /// weight, as it is: `eps` is 0, `squares` is left out and `compute` is the dtype of the rows.
    pub root: Option<Root>,
    /// Dtype to which the normalised row is rounded before the weight.
    pub normed: DType,
    /// The weight, if there is one.
    pub weight: Option<Weight>,
    /// Dtype of the normed value.
    pub output: DType,
    /// Elements in a row of the normed value, of the codes and of the dequantised values as they are handed out, if those are more
    /// than the width: zeros, and codes of 0, behind. Scales are of the row's own values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padded: Option<u64>,
    /// True if the normed value itself is an output.
    pub emit_normed: bool,
    /// Quantisers of the normed value, in port order.
    pub epilogues: Vec<Scheme>,
}

impl Sibling {
    /// RMSNorm as most models have it: rows of `width` elements of a dtype, statistics in f32 with an eps of 1e-6, the row
    /// times `rsqrt`, rounded, then times a weight of the same dtype; the normed value is the only output.
    pub fn plain(width: u64, dtype: DType) -> Self {
        Self {
            width,
            input: dtype,
            compute: DType::F32,
            squares: None,
            eps: F32::new(1e-6),
            root: Some(Root::Rsqrt),
            normed: dtype,
            weight: Some(Weight { dtype, plus_one: false, product: None }),
            output: dtype,
            padded: None,
            emit_normed: true,
            epilogues: Vec::new(),
        }
    }

    /// Rows that are quantised as they are, with no norm and no weight.
    pub fn undivided(width: u64, dtype: DType, epilogues: Vec<Scheme>) -> Self {
        Self {
            compute: dtype,
            eps: F32::new(0.0),
            root: None,
            weight: None,
            emit_normed: false,
            epilogues,
            ..Self::plain(width, dtype)
        }
    }

    /// Elements in a row of the normed value, of the codes and of the dequantised values as they are handed out.
    pub fn handed_out(&self) -> u64 {
        self.padded.unwrap_or(self.width)
    }

    /// Dtype to which the squares are rounded.
    pub fn squares(&self) -> DType {
        self.squares.unwrap_or(self.compute)
    }

    /// Dtype of the weight product; `normed` where there is none.
    pub fn product(&self) -> DType {
        self.weight.and_then(|w| w.product).unwrap_or(self.normed)
    }

    fn check(&self, at: &str, sum: Option<DType>) -> Result<(), String> {
        if self.width == 0 {
            return Err(format!("{at}.width: expected at least 1, found 0"));
        }
        let dtypes = [
            ("input", self.input),
            ("compute", self.compute),
            ("squares", self.squares()),
            ("normed", self.normed),
            ("weight.product", self.product()),
            ("output", self.output),
        ];
        for (name, d) in dtypes {
            if !computes(d) {
                return Err(format!("{at}.{name}: expected f32, f16 or bf16, found {d}"));
            }
        }
        for (name, said, usual) in [
            ("squares", self.squares, self.compute),
            ("weight.product", self.weight.and_then(|w| w.product), self.normed),
        ] {
            if said == Some(usual) {
                return Err(format!("{at}.{name}: {usual} is the usual one and is left out"));
            }
        }
        if let Some(sum) = sum.filter(|d| *d != self.input) {
            return Err(format!("{at}.input: expected {sum} as the prologue makes, found {}", self.input));
        }
        if self.root.is_none() {
            let usual = Self::undivided(self.width, self.input, Vec::new());
            if (self.compute, self.squares, self.eps) != (usual.compute, usual.squares, usual.eps) {
                return Err(format!(
                    "{at}.root: without one there are no statistics: expected compute {}, no squares and an eps \
                     of 0, found {}, {:?} and {:?}",
                    self.input, self.compute, self.squares, self.eps
                ));
            }
        }
        if let Some(padded) = self.padded
            && padded <= self.width
        {
            return Err(format!("{at}.padded: expected more than the width of {}, found {padded}", self.width));
        }
        for (e, scheme) in self.epilogues.iter().enumerate() {
            let at = format!("{at}.epilogues[{e}]");
            scheme.check().map_err(|m| format!("{at}.{m}"))?;
            if let Granularity::Group(g) = scheme.granularity
                && scheme.scales_per_row(self.width).is_none()
            {
                return Err(format!("{at}.granularity: groups of {g} do not divide a row of {}", self.width));
            }
            if scheme.packing == Packing::Nibbles && !self.width.is_multiple_of(2) {
                return Err(format!("{at}.packing: two codes in a byte need an even row, found {}", self.width));
            }
            // Zeros begin with a byte, and end with one.
            let four_bits = scheme.element.bits() == 4 && scheme.packing != Packing::Codes;
            if let Some(padded) = self.padded.filter(|p| four_bits && (p | self.width) % 2 == 1) {
                return Err(format!(
                    "{at}.packing: two codes in a byte need even rows, found {} and {padded}",
                    self.width
                ));
            }
        }
        Ok(())
    }
}

/// The descriptor of a fused norm; see the module documentation for its semantics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FusedNorm {
    /// What happens before the norms.
    pub prologue: Prologue,
    /// Which rows the siblings read.
    pub source: Source,
    /// True if the sum of the prologue is an output.
    pub emit_sum: bool,
    /// K >= 1 norms.
    pub siblings: Vec<Sibling>,
}

impl FusedNorm {
    /// A gated activation under quantisers: rows of `width` elements, no norm.
    pub fn gated(gated: Gated, width: u64, epilogues: Vec<Scheme>) -> Self {
        let rows = Sibling::undivided(width, gated.product(), epilogues);
        Self { prologue: Prologue::Gated(gated), ..Self::of(vec![rows]) }
    }

    /// How many of the siblings are norms.
    pub fn norms(&self) -> usize {
        self.siblings.iter().filter(|s| s.root.is_some()).count()
    }

    /// Norms that all read one operand, with nothing before them.
    pub fn of(siblings: Vec<Sibling>) -> Self {
        Self { prologue: Prologue::None, source: Source::Shared, emit_sum: false, siblings }
    }

    /// Operands in their fixed order: rows (X, Residual or Up, or one per sibling), then per sibling its weight and the
    /// given scales of its epilogues.
    pub fn in_ports(&self) -> Vec<InPort> {
        let mut ports = match (self.source, self.prologue) {
            (Source::Shared, Prologue::None) => vec![InPort::X],
            (Source::Shared, Prologue::ResidualAdd(_)) => vec![InPort::X, InPort::Residual],
            (Source::Shared, Prologue::Gated(_)) => vec![InPort::X, InPort::Up],
            (Source::Separate, _) => (0..self.siblings.len()).map(InPort::Rows).collect(),
        };
        for (k, sibling) in self.siblings.iter().enumerate() {
            if sibling.weight.is_some() {
                ports.push(InPort::Weight(k));
            }
            for (e, scheme) in sibling.epilogues.iter().enumerate() {
                if scheme.given.is_some() {
                    ports.push(InPort::Scale(k, e));
                }
                if scheme.zero_point == ZeroPoint::Given {
                    ports.push(InPort::ZeroPoint(k, e));
                }
            }
        }
        ports
    }

    /// Dtype of an operand of rows, as the prologue or the sibling that reads it has it; `None` for other operands.
    pub fn rows_dtype(&self, port: InPort) -> Option<DType> {
        match (port, self.prologue) {
            (InPort::X, Prologue::ResidualAdd(add)) => Some(add.dtype),
            (InPort::Residual, Prologue::ResidualAdd(add)) => Some(add.residual()),
            (InPort::X, Prologue::Gated(gated)) => Some(gated.dtype),
            (InPort::Up, Prologue::Gated(gated)) => Some(gated.up()),
            (InPort::X, Prologue::None) => self.siblings.first().map(|s| s.input),
            (InPort::Rows(k), _) => self.siblings.get(k).map(|s| s.input),
            _ => None,
        }
    }

    /// Dtype of an operand; `None` for one that the op does not have.
    pub fn operand_dtype(&self, port: InPort) -> Option<DType> {
        let sibling = self.siblings.get(port.sibling())?;
        match port {
            InPort::X | InPort::Residual | InPort::Up | InPort::Rows(_) => self.rows_dtype(port),
            InPort::Weight(_) => sibling.weight.map(|w| w.dtype),
            InPort::Scale(_, e) => sibling.epilogues.get(e)?.given,
            InPort::ZeroPoint(_, e) => Some(sibling.epilogues.get(e)?.element),
        }
    }

    /// Elements in a row of an operand, or in one that is no rows; `None` for one that the op does not have.
    pub fn operand_width(&self, port: InPort) -> Option<u64> {
        let sibling = self.siblings.get(port.sibling())?;
        match port {
            InPort::Scale(_, e) | InPort::ZeroPoint(_, e) => {
                let channels = sibling.epilogues.get(e)?.granularity == Granularity::Channel;
                Some(if channels { sibling.width } else { 1 })
            }
            _ => Some(sibling.width),
        }
    }

    /// Results in their fixed order: the sum, then per sibling the normed value and, an epilogue at a time, q, scale, zero
    /// point and dequantised value.
    pub fn out_ports(&self) -> Vec<OutPort> {
        let mut ports = Vec::new();
        if self.emit_sum {
            ports.push(OutPort::Sum);
        }
        for (k, sibling) in self.siblings.iter().enumerate() {
            if sibling.emit_normed {
                ports.push(OutPort::Normed(k));
            }
            for (e, scheme) in sibling.epilogues.iter().enumerate() {
                ports.extend(scheme.out_ports(k, e));
            }
        }
        ports
    }

    /// Dtype of a result; `None` for one that the op does not have.
    pub fn result_dtype(&self, port: OutPort) -> Option<DType> {
        let scheme = |k: usize, e: usize| self.siblings.get(k)?.epilogues.get(e);
        match (port, self.prologue) {
            (OutPort::Sum, Prologue::ResidualAdd(add)) => Some(add.emitted()),
            (OutPort::Sum, Prologue::None | Prologue::Gated(_)) => None,
            (OutPort::Normed(k), _) => self.siblings.get(k).map(|s| s.output),
            (OutPort::Q(k, e), _) => scheme(k, e).map(Scheme::q_dtype),
            (OutPort::Scale(k, e), _) => scheme(k, e)?.scale_dtype(),
            (OutPort::ZeroPoint(k, e), _) => scheme(k, e).map(|_| DType::U8),
            (OutPort::Dequantised(k, e), _) => scheme(k, e)?.dequantised.map(|d| d.dtype),
        }
    }

    /// Elements of a result that one row makes, of scales in a tiled layout the scales; `None` for one that the op does not have, or that is of the whole tensor.
    pub fn result_width(&self, port: OutPort) -> Option<u64> {
        let sibling = self.siblings.get(port.sibling())?;
        match port {
            OutPort::Q(_, e) => Some(sibling.epilogues.get(e)?.q_width(sibling.handed_out())),
            OutPort::Scale(_, e) => sibling.epilogues.get(e)?.scales_per_row(sibling.width),
            OutPort::ZeroPoint(..) => None,
            OutPort::Normed(_) | OutPort::Dequantised(..) => Some(sibling.handed_out()),
            OutPort::Sum => Some(sibling.width),
        }
    }

    /// Checks what the types cannot: at least one sibling and one output, widths that groups divide, dtypes that the
    /// arithmetic is defined for, a prologue only with a shared source.
    ///
    /// # Errors
    /// A sentence that names the field, what was expected and what was found.
    pub fn check(&self) -> Result<(), String> {
        if self.siblings.is_empty() {
            return Err("siblings: expected at least one, found none".into());
        }
        if self.out_ports().is_empty() {
            return Err("a fused norm without outputs computes nothing".into());
        }
        if self.source == Source::Separate && self.prologue != Prologue::None {
            return Err("prologue: separate sources take none".into());
        }
        if self.emit_sum && !matches!(self.prologue, Prologue::ResidualAdd(_)) {
            return Err("emit_sum: there is no residual add to emit the sum of".into());
        }
        let sum = match self.prologue {
            Prologue::ResidualAdd(add) => {
                add.check()?;
                if !self.emit_sum && add.emitted.is_some() {
                    return Err("prologue.emitted: the sum is not handed out".into());
                }
                Some(add.sum())
            }
            Prologue::Gated(gated) => {
                gated.check()?;
                Some(gated.product())
            }
            Prologue::None => None,
        };
        for (k, s) in self.siblings.iter().enumerate() {
            s.check(&format!("siblings[{k}]"), sum)?;
        }
        Ok(())
    }
}
