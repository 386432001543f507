//! The quantised value as a number again: what a graph with fake quantisers goes on with.

use serde::{Deserialize, Serialize};

use super::{Origin, ScaleLayout, Scheme};
use crate::DType;

/// A result beside the codes, or in their place: `cast[dtype]((q - zero point) * scale)`, the difference exact and the product
/// rounded to f32, with the scale as it is given or as it is handed out.
///
/// What is handed out with it is said here, since the scheme itself says what codes and scales are: they are computed
/// either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dequantised {
    /// Its dtype: f32, f16 or bf16.
    pub dtype: DType,
    /// True if the codes are a result, too.
    pub codes: bool,
    /// True if computed scales are a result, too.
    pub scales: bool,
}

impl Dequantised {
    /// The dequantised value and nothing else.
    pub const fn only(dtype: DType) -> Self {
        Self { dtype, codes: false, scales: false }
    }
}

impl Scheme {
    /// True if the op that quantises hands out the codes.
    pub const fn has_codes_output(&self) -> bool {
        match &self.dequantised {
            Some(d) => d.codes,
            None => true,
        }
    }

    /// True if the op that quantises has a scale output.
    pub const fn has_scale_output(&self) -> bool {
        self.scale.is_some()
            && match &self.dequantised {
                Some(d) => d.scales,
                None => true,
            }
    }

    /// The scheme of the codes and scales that are handed out, whatever else the op gives.
    #[must_use]
    pub fn of_codes(&self) -> Self {
        let scale = self.scale.clone().filter(|_| self.has_scale_output());
        Self { scale, dequantised: None, ..self.clone() }
    }

    /// Checks that codes meet a scale, and one that is a number.
    pub(super) fn check_dequantised(&self) -> Result<(), String> {
        let Some(d) = self.dequantised else { return Ok(()) };
        if !matches!(d.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(format!("dequantised.dtype: expected f32, f16 or bf16, found {}", d.dtype));
        }
        match (&self.scale, self.origin) {
            (_, Origin::Given) if d.scales => return Err("dequantised.scales: a given scale is not handed out".into()),
            (None, Origin::Amax | Origin::Range) => {
                return Err("dequantised: codes meet a computed scale, found no `scale` that says which".into());
            }
            (Some(s), _) if !(s.dtype.is_arithmetic_float() || s.dtype == DType::F8E8M0) => {
                let found = s.dtype;
                return Err(format!("dequantised: expected scales of f32, f16, bf16 or f8e8m0, found {found}"));
            }
            _ => {}
        }
        if !d.scales && self.layout != ScaleLayout::RowMajor {
            return Err("layout: no scales are handed out".into());
        }
        Ok(())
    }

    /// In words, behind what the codes are.
    pub(super) fn dequantised_words(&self) -> Option<String> {
        let d = self.dequantised?;
        let codes = if self.zero_point == super::ZeroPoint::None { "q" } else { "(q - zero point)" };
        let scale = if self.origin == Origin::Given { "given" } else { "scale" };
        let only = match (d.codes, d.scales || self.origin == Origin::Given) {
            (true, true) => "",
            (false, true) => ", q not handed out",
            (true, false) => ", scale not handed out",
            (false, false) => ", q and scale not handed out",
        };
        Some(format!("dequantised = cast {} of {codes} * {scale}{only}", d.dtype))
    }
}
