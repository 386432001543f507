//! The CPU backend.
//!
//! [`Plan`] runs a whole graph. What is hot has code of its own here: elementwise ops, conversions, row reductions,
//! softmax, norms, quantisers, products, attention and the fused norm. Data movement runs on the byte-generic functions
//! of `normfuse_ir::eval::movement`, which do no arithmetic. Index ops and small integer ops run on the reference
//! evaluator itself, and so do rare dtypes and forms of the hot ops. Either way the bits are the reference evaluator's,
//! except inside products, and they do not depend on the number of threads.

mod attention;
mod broadcast;
mod buf;
mod convert;
mod elementwise;
mod fused_norm;
mod math;
mod matmul;
mod ops;
mod plan;
mod product;
mod quantise;
mod rows;
mod scheme;

pub use fused_norm::{run as fused_norm, supports};
pub(crate) use ops::execute;
pub use plan::{Executed, Plan};
pub use scheme::supports_quantize;
