//! Symbolic shapes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Dim;
use crate::{Error, ErrorKind, Result};

/// A symbolic shape, outermost size first; empty for a scalar.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of numbers.
    pub fn from_concrete(sizes: &[usize]) -> Self {
        Self(sizes.iter().map(|&d| Dim::from(d as i64)).collect())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> Dim {
        Dim::product(&self.0)
    }

    /// True if the shape is known to have one element.
    pub fn is_single(&self) -> bool {
        self.0.iter().all(|d| d.as_const() == Some(1))
    }

    /// The numbers, if every size is one that is not negative.
    pub fn as_concrete(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.as_const().and_then(|c| usize::try_from(c).ok())).collect()
    }

    /// Compares a tensor's sizes with the numbers of this shape.
    ///
    /// # Errors
    /// `Shape`, if there are others or another number of them.
    pub fn check(&self, found: &[usize]) -> Result<()> {
        let same = |(want, found): (&Dim, &usize)| want.as_const().is_none_or(|want| want == *found as i64);
        if self.rank() == found.len() && self.0.iter().zip(found).all(same) {
            return Ok(());
        }
        let message = format!("expected a result of the shape {self} that the graph says, found {found:?}");
        Err(Error::new(ErrorKind::Shape, message)
            .hint("the model says another shape than its ops make: export it anew"))
    }

    /// The last size.
    pub fn last(&self) -> Option<&Dim> {
        self.0.last()
    }

    /// Row-major strides, in elements.
    pub fn row_major_strides(&self) -> Vec<Dim> {
        let mut strides = vec![Dim::from(1); self.rank()];
        for i in (0..self.rank().saturating_sub(1)).rev() {
            strides[i] = &strides[i + 1] * &self.0[i + 1];
        }
        strides
    }
}

impl<D: Into<Dim>> FromIterator<D> for Shape {
    fn from_iter<I: IntoIterator<Item = D>>(iter: I) -> Self {
        Self(iter.into_iter().map(Into::into).collect())
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(v: Vec<Dim>) -> Self {
        Self(v)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}
