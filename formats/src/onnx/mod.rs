//! ONNX: a whole `ModelProto` to a graph and back.

mod dtype;
mod fields;
mod names;
mod ops;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto;
mod read;
mod scaled;
mod write;

use std::ops::RangeInclusive;

pub use read::read;
pub use write::{WriteOptions, write};

/// The domain of our own ops: nodes with a descriptor and a local function that spells them.
pub const DOMAIN: &str = "normfuse";

/// onnxruntime's own domain.
const MICROSOFT: &str = "com.microsoft";

/// The domain in which ModelOpt writes quantisers for `TensorRT`.
const TENSOR_RT: &str = "trt";

/// Opsets of the default domain that are read and written.
pub const OPSETS: RangeInclusive<i64> = 11..=28;
