//! Whole graphs on a GPU.
//!
//! A graph is planned for inputs of certain sizes ([`Plan`]): what depends on no data is computed on the host, elementwise nodes
//! are joined into chains, views move nothing, and everything that steps hand to one another lies in one arena. Planning needs no
//! GPU. An [`Executable`] keeps the weights of a graph on a GPU once, whatever sizes its inputs have, and a recorded CUDA graph
//! for each of those that were used last ([`Bound`]): what it is recorded for is exact sizes, not a range of them.

mod arena;
mod attention;
mod backend;
mod bound;
mod builder;
mod chains;
mod columns;
mod concrete;
mod executable;
mod gemm;
mod kernels;
mod lying;
mod plan;
mod recent;
mod room;
mod scaled;
mod step;
mod views;
mod weights;

pub use arena::{ALIGNMENT, Arena, Block};
pub use backend::{Backend, OnPaper, Product};
pub use bound::{Bound, Timed};
pub use concrete::{Given, host_inputs, is_small};
pub use executable::{Executable, SHAPES_KEPT, given};
pub use plan::{Listed, Plan};
pub use scaled::supports_scaled;

#[cfg(test)]
mod tests;
