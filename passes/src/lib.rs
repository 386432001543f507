//! The normfuse pass: finds RMSNorms and the quantisers they feed, replaces each place with one fused op, and says why
//! where it does not. No IO, no environment, no `unsafe`: another compiler can embed this crate alone.
//!
//! ```text
//! anchors -> region -> terms -> saturation (egg) -> norms ---.
//!         '-> read backwards ----------------------> quantisers -> siblings -> candidate -> patch
//! ```
//! - [`anchor`]: every reduction of squares, native norm, and node that makes quantised codes;
//! - [`region`]: the small subgraph around a norm's, written down as [`term`]s in which views have vanished;
//! - [`rules`]: one file a rule; [`solve`] saturates and reads off [`norms`];
//! - `proof`: egg's chain of rewrites, where somebody asks why;
//! - [`quant`]: quantisers, one scalar step after another from the codes back to the value;
//! - [`siblings`]: which norms may share an op; [`reach`]: which must not, since one depends on another;
//! - [`select`]: the cheapest legal choice among fusions, by the [`cost`] on a device;
//! - [`candidate`]: which values are operands and ports, what is replaced, what stands in the way;
//! - [`rewrite`]: the patch, applied at once or not at all; [`body`] keeps the replaced subgraph;
//! - [`linears`]: before all that, on request: linear layers become quantised ones;
//! - [`diagnose`]: the first failing precondition of what was not recognised; [`report`] is what users read.
//!
//! A host takes the rewritten graph ([`run`]) or a list of edits to its own IR ([`edits()`]), hears of progress
//! ([`Observer`]), and says in the [`Options`] what it has kernels for, which nodes are not ours to touch, and which
//! spellings of its own the recogniser should know.
#![forbid(unsafe_code)]

pub mod anchor;
mod bodies;
pub mod body;
pub mod candidate;
mod consts;
pub mod cost;
pub mod diagnose;
pub mod edits;
mod foreign;
pub mod linears;
pub mod norms;
mod observe;
mod opaque;
mod options;
mod pass;
mod proof;
pub mod quant;
pub mod reach;
pub mod region;
pub mod relax;
pub mod report;
pub mod rewrite;
pub mod rules;
pub mod select;
pub mod siblings;
pub mod solve;
pub mod switches;
pub mod term;
mod views;
mod weights;

/// The rewriting library whose patterns rules are made of, for hosts that bring [rules](Options::extra_rules).
pub use egg;
use normfuse_ir::{Graph, NodeId, Op, infer};

pub use edits::{Edits, edits, edits_with};
pub use observe::Observer;
pub use options::{Marks, Options, Supports, SupportsQuantize, SupportsScaled};
pub use relax::{Relaxation, Relaxed};
pub use report::{Behind, Fused, Kind, Outcome, Report, RuleUse, ScaledProduct, Site, Summary};
pub use rules::Rule;

use crate::{
    opaque::Hidden,
    pass::{Pass, Patch},
};

/// Runs the pass: types are inferred, every anchor is tried, the result is verified.
///
/// # Errors
/// The graph is not legal (as inference or the verifier says), the options name a rule that does not exist or two by one
/// name, or with [`Options::verify`] a fused op differs from its body.
pub fn run(graph: &mut Graph, options: &Options) -> normfuse_ir::Result<Report> {
    run_with(graph, options, &mut ())
}

/// As [`run`], and the observer hears of it.
///
/// # Errors
/// As [`run`].
pub fn run_with(graph: &mut Graph, options: &Options, observer: &mut dyn Observer) -> normfuse_ir::Result<Report> {
    fuse(graph, options, observer, &mut drop)
}

/// As [`run_with`]; `made` is given each fused op, once it is in the graph.
fn fuse(
    graph: &mut Graph,
    options: &Options,
    observer: &mut dyn Observer,
    made: &mut dyn FnMut(Patch),
) -> normfuse_ir::Result<Report> {
    options.check()?;
    let facts = infer::infer(graph)?;
    graph.verify_inferred()?;
    let first_new = graph.node_bound();
    // What the source has without reading it is not ours to remove.
    let idle = graph.unused_consts();
    let hidden = Hidden::hide(graph, options);
    let nodes_before = graph.node_count();
    remove_dead_code(graph);
    let mut pass = Pass::new(graph, options, observer, made, nodes_before)?;
    let tried = pass.all(graph);
    let touched = hidden
        .restore(graph)
        .into_iter()
        .chain(pass.touched().iter().copied())
        .filter(|n| graph.try_node(*n).is_some());
    let touched = touched.collect();
    tried?;
    graph.remove_unused_consts(&idle);
    graph.verify_changed(facts, first_new, touched)?;
    debug_assert_eq!(graph.verify(), Ok(()), "what was not touched stays as it verified");
    let mut report = pass.finish(graph);
    relax::all(graph, options, &mut report)?;
    if options.verify {
        report.summary.verified = Some(verify_bodies(graph)?);
    }
    Ok(report)
}

/// Removes what no result of the graph depends on: a dead reader of a norm's inside would keep that alive. What another
/// tool knows and we do not may do more than give results, so it stays with all that it reads.
fn remove_dead_code(graph: &mut Graph) {
    let mut queue: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    while let Some(id) = queue.pop() {
        let Some(node) = graph.try_node(id).filter(|n| !matches!(n.op, Op::Foreign(_))) else { continue };
        if node.outputs.iter().any(|v| graph.is_read(*v)) {
            continue;
        }
        queue.extend(node.operands().filter_map(|(_, v)| graph.producer(v)).map(|(n, _)| n));
        // Nobody reads it, so this does not fail.
        let _ = graph.remove_node(id);
    }
}

/// Compares each distinct fused op with the source subgraph that it stands for, on hostile data, bit for bit; returns
/// how many distinct ones there were.
///
/// # Errors
/// The first difference, with node, port and element.
pub fn verify_bodies(graph: &Graph) -> normfuse_ir::Result<usize> {
    normfuse_ir::body::check_all(graph)
        .map_err(|e| e.hint("this is a fault of normfuse and not of the model: please report it"))
}
