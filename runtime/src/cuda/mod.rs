//! The CUDA backend: fused norms as kernels that are written for their descriptor, single ops and chains of elementwise ones
//! ([`ops`]), products ([`product`]), and whole graphs of these ([`exec`]).
//!
//! Everything builds and starts where there is no CUDA: its libraries are loaded when a [`Device`] is opened or a product is
//! planned, and what is missing is an error that says where it was looked for. A kernel is text, compiled by NVRTC
//! ([`Compiler`]), that of a fused norm for the exact widths, dtypes and launch shape ([`LaunchShape`]), and run with the bits of
//! `normfuse_ir::eval`, for every number of rows and every launch shape. What was compiled is kept on disk ([`Cache`]). What no
//! kernel exists for is refused by [`supports`] or when a graph is planned, never run in another way.

mod arguments;
mod build;
mod cache;
mod device;
mod driver;
pub mod exec;
mod fused_norm;
mod graph;
mod kernel;
mod library;
pub mod measure;
mod nvrtc;
pub mod ops;
pub mod product;
pub mod regimes;
mod shape;
mod source;
mod supports;

/// The driver's handle of a stream, as an engine has it.
pub use cudarc::driver::sys::CUstream as RawStream;

pub use arguments::{Arguments, Operand, Region};
pub use build::build;
pub use cache::{Cache, Key, VARIABLE as CACHE_VARIABLE};
pub use device::{Buffer, Device};
pub use fused_norm::FusedNormKernel;
pub use graph::{Graph, Recording};
pub use kernel::{Kernel, Start};
pub use nvrtc::{Compiled, Compiler, VARIABLE as NVRTC_VARIABLE};
pub use shape::{LaunchShape, Threads};
pub use source::{Params, scratch_bytes};
pub use supports::{supports, supports_quantize};

/// The environment variables that are read here.
pub const VARIABLES: [&str; 3] = [NVRTC_VARIABLE, CACHE_VARIABLE, product::VARIABLE];
