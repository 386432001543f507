//! The text form, `.nf`: one line an op.
//!
//! ```text
//! # comments run to the end of the line
//! file "model.data" size 4096 hash "5e0b..."          # data files; a reader refuses one that has changed
//! scheme !token = {element=f8e4m3fn, granularity=token, ...}      # a name for a value that attributes repeat
//! body &norm0                                          # what a fused node stands for, once each
//!   input %x: bf16[rows, 256]
//!   ...
//!   output %y
//! end
//! graph "decoder"
//! opset "" 20
//! field "producer" "torch"                             # also: metadata "key" "value", note "text"
//! input %x: bf16[batch, seq, 256]
//! input %bias: f32[n] default f32[2] = [0.0, 1.0]      # for callers who pass none
//! const %eps: f32[] = 1e-6
//! const %axes: i64[1] = [-1]
//! const %ones: bf16[256] = fill(1.0)                   # and base64 "..." for what is long
//! weight %"layers.0.norm.weight": bf16[256] = "model.data"[1024..+512]
//! %x32: f32[batch, seq, 256] = cast(%x) {to=f32, saturate=true}
//! %ms = reduce_mean(%x32) {axes=[-1], keepdims=true}
//! %q, %s = quantize(%v) !token
//! %z = clip(%x, _, %hi) @"node name" from {replaced=[a, b], rules=[norm]}
//! %f = "com.acme"."Magic"(%z)                          # a foreign op: domain and name
//! output %q as "result": f8e4m3fn[batch, seq, 256]
//! ```
//!
//! Types of results are optional, and so are attributes that have an obvious default. A name that is not made of
//! letters, digits and `_ . $ / -` is quoted. `%x~2` is the second value of the name `x`. A node's name is written
//! where it is not that of its first result. Elements of constants are decimals that read back to the same bits, `inf`,
//! `-inf`, `nan`, `true`, `false`, or the bits in hex (`0x7fc00001`). Types: `f32[a, 2*b]`, `f32` without a shape,
//! `?[a]` without an element type, then `strides [..]`, `scheme ..`, and `opaque ".."` for a type that only the source
//! format can say.

mod attr;
mod lex;
pub(crate) mod literal;
mod ops;
mod parse;
mod print;
#[cfg(test)]
pub(crate) mod tests;

use crate::{
    Data, Graph, Result, Tensor,
    document::{Document, Identify, Resolve},
};

pub use crate::document::{FileId, WeightRef};

/// The text of a graph, without identities of data files.
pub fn print(graph: &Graph) -> String {
    print_with(graph, &mut |_| None)
}

/// The text of a graph; `identify` tells size and hash of each data file, for staleness checks when it is read.
pub fn print_with(graph: &Graph, identify: Identify) -> String {
    print::document(&Document::of(graph, identify))
}

/// The text of what a graph computes and nothing else, for people and for snapshots: no provenance, no metadata, no name of
/// the graph, and weights by name and type alone. It does not parse where it leaves contents out.
pub fn print_outline(graph: &Graph) -> String {
    print::outline(&Document::of(graph, &mut |_| None).outline())
}

/// True for a constant that is data of the model and no parameter of an op, so that its name and type say enough: kept in
/// another file, of several floats, or long.
pub fn is_weight(tensor: &Tensor) -> bool {
    let many = if tensor.dtype().is_float() { 1 } else { literal::MAX_LISTED };
    matches!(tensor.data(), Data::External(_)) || tensor.len() > many
}

/// Parses a graph; `resolve` turns weight references into bytes.
///
/// # Errors
/// `Parse` with line, column, what was expected and what was found; `Structure` where operands do not fit an op; and
/// what `resolve` returns.
pub fn parse(text: &str, resolve: Resolve) -> Result<Graph> {
    parse::document(text)?.into_graph(resolve)
}
