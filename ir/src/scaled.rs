//! Products of codes and the scales that they came with.
//!
//! `a` is `[.., M, K]` and `b` is `[N, K]`, as a linear layer has its weight; the result is `[.., M, N]`. With `g` the columns that
//! share a scale (all K where none do on either side), in f32 and one rounding a step:
//! `y[m, n] = sum over the groups, in order, of (sum over k of the group, in order, of a[m, k] * b[n, k]) * scale_a * scale_b`,
//! plus `bias[n]`, cast to the result's dtype. A product of two 8-bit floats is exact in f32, so only the sums round.
//!
//! This is what `torch._scaled_mm` and cuBLASLt compute, up to the order of the sums.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DType, Dim};

/// What of the rows of a matrix shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalePer {
    /// All: one element.
    Tensor,
    /// A row: `[.., rows, 1]`.
    Row,
    /// A block of so many rows and columns, the last of which may be cut off: `[.., ceil(rows / r), ceil(columns / c)]`.
    Block(u64, u64),
}

impl ScalePer {
    /// The shape of the scales of a matrix with these rows and so many columns, where `up` divides and rounds up; `None` if one element
    /// of any rank is for all.
    pub fn shape<D: Clone>(self, rows: &[D], columns: &D, one: D, up: impl Fn(&D, u64) -> D) -> Option<Vec<D>> {
        match self {
            Self::Tensor => None,
            Self::Row => Some([rows, &[one]].concat()),
            // Rows of their own may have any sizes, and those stay as they are said.
            Self::Block(1, c) => Some([rows, &[up(columns, c)]].concat()),
            Self::Block(r, c) => Some(rows.iter().map(|d| up(d, r)).chain([up(columns, c)]).collect()),
        }
    }

    /// The same of symbolic sizes.
    pub fn shape_of_dims(self, rows: &[Dim], columns: &Dim) -> Option<Vec<Dim>> {
        let up = |d: &Dim, by: u64| d.ceil_div(&Dim::from(i64::try_from(by).unwrap_or(i64::MAX)));
        self.shape(rows, columns, Dim::from(1), up)
    }
}

impl fmt::Display for ScalePer {
    /// `tensor`, `row`, `block1x128`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Row => f.write_str("row"),
            Self::Block(r, c) => write!(f, "block{r}x{c}"),
        }
    }
}

/// A product of codes and their scales. Operands: a, b, scale of a, scale of b, optional bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScaledMatMul {
    /// What of `a` shares a scale.
    pub a: ScalePer,
    /// What of `b` shares a scale.
    pub b: ScalePer,
    /// Dtype of the result.
    pub to: DType,
}

impl ScaledMatMul {
    /// Columns that meet the same two scales; `None` if whole rows do.
    pub const fn group(&self) -> Option<u64> {
        match (self.a, self.b) {
            (ScalePer::Block(_, c), _) | (_, ScalePer::Block(_, c)) => Some(c),
            _ => None,
        }
    }

    /// True for the types that codes may have.
    pub const fn takes(codes: DType) -> bool {
        matches!(codes, DType::F8E4M3FN | DType::F8E5M2)
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field, what was expected and what was found.
    pub fn check(&self) -> Result<(), String> {
        for (name, per) in [("a", self.a), ("b", self.b)] {
            if let ScalePer::Block(r, c) = per {
                if r == 0 || c == 0 {
                    return Err(format!("{name}: expected blocks of at least 1 by 1, found {r} by {c}"));
                }
                if name == "a" && r != 1 {
                    return Err(format!("a: expected blocks of 1 row, which tokens are, found {r}"));
                }
            }
        }
        match (self.a, self.b) {
            (ScalePer::Block(_, x), ScalePer::Block(_, y)) if x != y => {
                Err(format!("b: expected blocks of {x} columns, as a has, found {y}"))
            }
            _ if !matches!(self.to, DType::F32 | DType::F16 | DType::BF16) => {
                Err(format!("to: expected f32, f16 or bf16, found {}", self.to))
            }
            _ => Ok(()),
        }
    }
}
