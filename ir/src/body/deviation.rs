//! How far two descriptors of the same ports are from one another, on ordinary data.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    SEED,
    bits::differences,
    hostile::{Rng, Row, WeightKind},
    operands::{data, operands},
    sizes::Extent,
};
use crate::{Error, ErrorKind, Op, Result, Tensor, Type, eval, scheme::F32};

/// Elements of a result, and how many of them differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// The result's name: `q0`, `scale0`.
    pub output: String,
    /// Elements that differ in their bits. NaN equals NaN.
    pub differ: usize,
    /// Elements.
    pub of: usize,
    /// The largest difference between two of them, where they are floats. It is that of numbers as the result has them: of codes
    /// before they meet a scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<F32>,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, differ, of, most } = self;
        write!(f, "{output} in {differ} of {of}")?;
        match most.map(F32::get) {
            Some(most) if *differ > 0 => write!(f, ", by {most:e} at most"),
            _ => Ok(()),
        }
    }
}

/// Runs two fused ops with the same operands and results on ordinary rows and weights (bell-shaped, as many as [`super::check`]
/// compares at once), and counts in each result what differs.
///
/// # Errors
/// `Structure` if the two have other ports; what keeps one of them from running.
pub fn deviation(from: &Op, to: &Op, types: &[Type]) -> Result<Vec<Deviation>> {
    if from.output_names() != to.output_names() || from.arity() != to.arity() {
        let message = format!("`{}` and `{}` have other ports", from.name(), to.name());
        return Err(Error::new(ErrorKind::Structure, message));
    }
    let extent = Extent::of(operands(from, types)?)?;
    let set = extent.bulk()?;
    let inputs = data(&extent.operands, &set.shapes, &[Row::Bell], WeightKind::Ordinary, &mut Rng::new(SEED))?;
    let refs: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
    let (before, after) = (eval::eval_node(from, &refs)?, eval::eval_node(to, &refs)?);
    let names = from.output_names();
    let counted = names.into_iter().zip(before.iter().zip(&after)).map(|(output, (a, b))| {
        let (differ, most) = differences(a, b);
        Deviation { output, differ, of: a.len(), most: most.map(F32::new) }
    });
    Ok(counted.collect())
}
