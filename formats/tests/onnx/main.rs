//! The ONNX reader and writer on small models that the tests build message by message.

mod bad_input;
mod build;
mod dialects;
mod functions;
mod fused;
mod round_trip;
mod scaled;
mod spellings;
mod weights;
