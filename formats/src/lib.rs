//! Readers and writers: model files in, model files out, tensors beside them. Weights stay in mapped files.

pub mod atomic;
pub mod checkpoint;
mod document;
pub mod dot;
pub mod error;
pub mod json;
pub mod map;
pub mod nf;
pub mod onnx;
pub mod parameters;
pub mod quant_config;
pub mod ranges;
mod reject;
mod safetensors;
pub mod tensors;
pub mod torch;
mod zipped;

pub use error::{Cause, FormatError, Result};
