//! Readers and writers: model files in, model files out, tensors beside them. Weights stay in mapped files.

pub mod atomic;
pub mod error;
pub mod map;
pub mod onnx;

pub use error::{Cause, FormatError, Result};
