//! What a fused op reads and writes, by name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Scheme, scheme::ZeroPoint};

/// An operand of a fused norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InPort {
    /// The rows, the first operand of the residual add or the gate: shape `[..., N]`.
    X,
    /// The second operand of the residual add: shape of X.
    Residual,
    /// What the activation of X is multiplied with: shape of X.
    Up,
    /// The rows of one sibling: shape `[..., N_k]`.
    Rows(usize),
    /// The weight of one sibling: shape `[N_k]`.
    Weight(usize),
    /// The given operand of a sibling's epilogue (a scale, its inverse, a global scale): one element, or one a channel.
    Scale(usize, usize),
    /// The given zero point of a sibling's epilogue: shape as its scale.
    ZeroPoint(usize, usize),
}

/// A result of a fused norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutPort {
    /// The sum of the prologue: shape of X.
    Sum,
    /// The normed value of a sibling: shape of its rows.
    Normed(usize),
    /// Quantised values of a sibling's epilogue: shape of its rows, half as wide where two codes share a byte.
    Q(usize, usize),
    /// Scales of a sibling's epilogue: leading dims of the rows, then scales a row; a scalar for the whole tensor; in a tiled
    /// layout as [`ScaleLayout::shape`](crate::scheme::ScaleLayout::shape) says.
    Scale(usize, usize),
    /// Computed zero point of a sibling's epilogue: a scalar.
    ZeroPoint(usize, usize),
    /// Dequantised values of a sibling's epilogue: shape of its rows.
    Dequantised(usize, usize),
}

impl InPort {
    /// True for rows, and false for a weight or what a quantiser is given.
    pub const fn is_rows(self) -> bool {
        matches!(self, Self::X | Self::Residual | Self::Up | Self::Rows(_))
    }

    /// The sibling that reads it; the first for what siblings share.
    pub const fn sibling(self) -> usize {
        match self {
            Self::X | Self::Residual | Self::Up => 0,
            Self::Rows(k) | Self::Weight(k) | Self::Scale(k, _) | Self::ZeroPoint(k, _) => k,
        }
    }
}

impl OutPort {
    /// The sibling that makes it; the first for the sum.
    pub const fn sibling(self) -> usize {
        match self {
            Self::Sum => 0,
            Self::Normed(k) | Self::Q(k, _) | Self::Scale(k, _) | Self::ZeroPoint(k, _) | Self::Dequantised(k, _) => k,
        }
    }

    /// The epilogue that makes it, if one does.
    pub const fn epilogue(self) -> Option<usize> {
        match self {
            Self::Sum | Self::Normed(_) => None,
            Self::Q(_, e) | Self::Scale(_, e) | Self::ZeroPoint(_, e) | Self::Dequantised(_, e) => Some(e),
        }
    }

    /// The name without numbers, as an op of one quantiser has it: `q`.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Normed(_) => "y",
            Self::Q(..) => "q",
            Self::Scale(..) => "scale",
            Self::ZeroPoint(..) => "zero_point",
            Self::Dequantised(..) => "dequantised",
        }
    }
}

impl Scheme {
    /// Results of a quantiser that is epilogue `e` of sibling `k`, in their fixed order: those of q, scale, zero point and
    /// dequantised value that are handed out.
    pub fn out_ports(&self, k: usize, e: usize) -> impl Iterator<Item = OutPort> + use<> {
        let ports = [
            self.has_codes_output().then_some(OutPort::Q(k, e)),
            self.has_scale_output().then_some(OutPort::Scale(k, e)),
            (self.zero_point == ZeroPoint::Range).then_some(OutPort::ZeroPoint(k, e)),
            self.dequantised.map(|_| OutPort::Dequantised(k, e)),
        ];
        ports.into_iter().flatten()
    }
}

impl fmt::Display for OutPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match (self, self.epilogue()) {
            (Self::Sum, _) => Ok(()),
            (_, None) => write!(f, "{}", self.sibling()),
            (_, Some(e)) => write!(f, "{}_{e}", self.sibling()),
        }
    }
}

impl fmt::Display for InPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X => f.write_str("x"),
            Self::Residual => f.write_str("residual"),
            Self::Up => f.write_str("up"),
            Self::Rows(k) => write!(f, "x{k}"),
            Self::Weight(k) => write!(f, "weight{k}"),
            Self::Scale(k, e) => write!(f, "given_scale{k}_{e}"),
            Self::ZeroPoint(k, e) => write!(f, "given_zero_point{k}_{e}"),
        }
    }
}
