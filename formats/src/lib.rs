//! Readers and writers: model files in, model files out, tensors beside them. Weights stay in mapped files.

pub mod atomic;
mod document;
pub mod dot;
pub mod error;
pub mod json;
pub mod map;
pub mod nf;
pub mod onnx;
mod reject;
pub mod tensors;
pub mod torch;

pub use error::{Cause, FormatError, Result};
