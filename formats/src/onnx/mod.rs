//! ONNX: a whole `ModelProto` to a graph and back.

#[allow(dead_code)]
mod dtype;
#[allow(dead_code)]
mod fields;
mod names;
mod ops;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto;
mod read;

use std::ops::RangeInclusive;

pub use read::read;

/// The domain of our own ops: nodes with a descriptor and a local function that spells them.
pub const DOMAIN: &str = "normfuse";

/// Opsets of the default domain that are read and written.
pub const OPSETS: RangeInclusive<i64> = 11..=28;
