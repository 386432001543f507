//! normfuse-runtime: executes whole graphs, fused and unfused.
//!
//! [`cpu`] is plain Rust and runs everywhere. Everything outside matrix products has the bits of the reference
//! evaluator, `normfuse_ir::eval`.

// Tensors are little-endian bytes and the kernels view them in place.
#[cfg(not(target_endian = "little"))]
compile_error!("normfuse-runtime views tensors in place and so needs a little-endian target");

pub mod cpu;
pub mod cuda;
mod signature;

pub use cpu::Plan;
