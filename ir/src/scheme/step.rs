//! `Step`: the scalar operations that scales and values go through.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::F32;
use crate::{DType, num};

/// One scalar operation, rounded to the dtype of the arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The larger of x and c; NaN propagates.
    Max(F32),
    /// The smaller of x and c; NaN propagates.
    Min(F32),
    /// `x + c`.
    Add(F32),
    /// `x * c`.
    Mul(F32),
    /// `x / c`.
    Div(F32),
    /// `c / x`.
    Over(F32),
    /// `c ^ x`.
    Power(F32),
    /// Natural logarithm.
    Log,
    /// Logarithm to base 2. Another function than `log(x) / ln 2`.
    Log2,
    /// `2 ^ x`.
    Exp2,
    /// Toward minus infinity.
    Floor,
    /// Toward plus infinity.
    Ceil,
    /// To the nearest integer, ties to even.
    Round,
    /// `x * given`.
    MulGiven,
    /// `x / given`.
    DivGiven,
    /// `given / x`.
    GivenOver,
    /// `given / x`, and 0 where x is 0.
    GivenOverOrZero,
    /// The larger of x and given; NaN propagates.
    MaxGiven,
    /// The smaller of x and given; NaN propagates. vLLM's `scale_ub`.
    MinGiven,
    /// c where x is 0.
    IfZero(F32),
    /// Through another float type; arithmetic goes on in that type if it is f32, f16 or bf16, and where it was if not.
    Cast {
        /// The type.
        to: DType,
        /// The saturating form of the cast, for the 8-bit and 4-bit types.
        saturate: bool,
    },
}

impl Step {
    /// True if the step reads the given operand.
    pub const fn reads_given(self) -> bool {
        matches!(
            self,
            Self::MulGiven | Self::DivGiven | Self::GivenOver | Self::GivenOverOrZero | Self::MaxGiven | Self::MinGiven
        )
    }

    /// The step on one value, in the arithmetic of `at` (f32, f16 or bf16), which a cast may change.
    pub fn apply(self, x: f32, at: &mut DType, given: f32) -> f32 {
        let y = match self {
            Self::Max(c) => num::max(x, c.get()),
            Self::Min(c) => num::min(x, c.get()),
            Self::Add(c) => x + c.get(),
            Self::Mul(c) => x * c.get(),
            Self::Div(c) => x / c.get(),
            Self::Over(c) => c.get() / x,
            Self::Power(c) => num::pow(c.get(), x),
            Self::Log => num::log(x),
            Self::Log2 => num::log2(x),
            Self::Exp2 => num::exp2(x),
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Round => x.round_ties_even(),
            Self::MulGiven => x * given,
            Self::DivGiven => x / given,
            Self::GivenOverOrZero if x == 0.0 => 0.0,
            Self::GivenOver | Self::GivenOverOrZero => given / x,
            Self::MaxGiven => num::max(x, given),
            Self::MinGiven => num::min(x, given),
            Self::IfZero(c) if x == 0.0 => c.get(),
            Self::IfZero(_) => x,
            Self::Cast { to, saturate } => {
                if to.is_arithmetic_float() {
                    *at = to;
                    x
                } else {
                    return num::decode(to, num::cast_f32_to(to, x, saturate));
                }
            }
        };
        num::round_to(*at, y)
    }
}

impl fmt::Display for Step {
    /// As it is said behind a value: `* 2`, `max 1e-10`, `log2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max(c) => write!(f, "max {:?}", c.get()),
            Self::Min(c) => write!(f, "min {:?}", c.get()),
            Self::Add(c) => write!(f, "+ {:?}", c.get()),
            Self::Mul(c) => write!(f, "* {:?}", c.get()),
            Self::Div(c) => write!(f, "/ {:?}", c.get()),
            Self::Over(c) => write!(f, "{:?} over it", c.get()),
            Self::Power(c) => write!(f, "{:?} ^ it", c.get()),
            Self::Log => f.write_str("log"),
            Self::Log2 => f.write_str("log2"),
            Self::Exp2 => f.write_str("exp2"),
            Self::Floor => f.write_str("floor"),
            Self::Ceil => f.write_str("ceil"),
            Self::Round => f.write_str("round"),
            Self::MulGiven => f.write_str("* given"),
            Self::DivGiven => f.write_str("/ given"),
            Self::GivenOver => f.write_str("given over it"),
            Self::GivenOverOrZero => f.write_str("given over it, 0 at 0"),
            Self::MaxGiven => f.write_str("max given"),
            Self::MinGiven => f.write_str("min given"),
            Self::IfZero(c) => write!(f, "{:?} at 0", c.get()),
            Self::Cast { to, saturate: true } => write!(f, "cast {to}"),
            Self::Cast { to, saturate: false } => write!(f, "cast {to} unsaturated"),
        }
    }
}

/// A chain of steps on one value, beginning in the arithmetic of `compute`.
pub fn run(steps: &[Step], x: f32, compute: DType, given: f32) -> f32 {
    let mut at = compute;
    steps.iter().fold(num::round_to(compute, x), |x, step| step.apply(x, &mut at, given))
}
