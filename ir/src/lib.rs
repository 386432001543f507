//! The normfuse IR: a graph of tensor ops with symbolic shapes, quantisation schemes as types, and weights as mapped
//! file regions. No IO and no `unsafe` here, so another compiler can embed it.
#![forbid(unsafe_code)]

pub mod body;
mod descriptor;
pub mod dim;
pub mod document;
mod dtype;
mod error;
pub mod eval;
pub mod fused;
pub mod graph;
pub mod infer;
pub mod json;
pub mod linear;
pub mod num;
pub mod op;
pub mod scaled;
pub mod scheme;
pub mod tensor;
pub mod text;
mod verify;

pub use descriptor::Descriptor;
pub use dim::{Dim, Shape};
pub use dtype::DType;
pub use error::{Error, ErrorKind, Result};
pub use fused::FusedNorm;
pub use graph::{Def, Graph, GraphOutput, ModelInfo, Node, NodeId, Opaque, Provenance, Type, Value, ValueId};
pub use op::Op;
pub use scheme::{Granularity, Scheme};
pub use tensor::{Data, Region, RegionBytes, Tensor};
