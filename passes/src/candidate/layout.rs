//! In what order an op writes its scales: that in which whoever reads them wants them.

use std::sync::Arc;

use normfuse_ir::{Descriptor, Granularity, Graph, NodeId, Op, Scheme, ValueId, fused::OutPort, scheme::ScaleLayout};

use super::Candidate;
use crate::{Options, region::typed, views::moved};

/// Settles the layouts of a candidate's scales: column-major where all that the graph does with them is to transpose
/// them, so that the transposition moves nothing, and row-major elsewhere or if the host has no such op.
///
/// # Errors
/// Why there is no such op, or why the host refuses it.
pub(super) fn settle(graph: &Graph, candidate: &mut Candidate, options: &Options) -> Result<(), String> {
    candidate.descriptor.check()?;
    let columns: Vec<(usize, usize)> = candidate
        .ports
        .iter()
        .filter_map(|(port, values, _)| match *port {
            OutPort::Scale(k, e) => {
                let grouped = matches!(candidate.descriptor.scheme(k, e)?.granularity, Granularity::Group(_));
                (grouped && only_transposed(graph, candidate, values)).then_some((k, e))
            }
            _ => None,
        })
        .collect();
    if !columns.is_empty() {
        let by_columns = with_columns(&candidate.descriptor, &columns);
        if options.supported(&by_columns).is_ok() {
            candidate.descriptor = by_columns;
            return Ok(());
        }
    }
    options.supported(&candidate.descriptor)
}

/// The descriptor with column-major scales at some epilogues.
fn with_columns(descriptor: &Descriptor, at: &[(usize, usize)]) -> Descriptor {
    let mut descriptor = descriptor.clone();
    for (k, e) in at {
        let scheme: Option<&mut Scheme> = match &mut descriptor {
            Descriptor::Norm(norm) => {
                Arc::make_mut(norm).siblings.get_mut(*k).and_then(|sibling| sibling.epilogues.get_mut(*e))
            }
            Descriptor::Quantize(scheme) => Some(Arc::make_mut(scheme)),
        };
        if let Some(scheme) = scheme {
            scheme.layout = ScaleLayout::ColumnMajor;
        }
    }
    descriptor
}

/// True if outside of the op the scales are read by nothing but transpositions that bring the groups before the tokens.
fn only_transposed(graph: &Graph, candidate: &Candidate, scales: &[ValueId]) -> bool {
    let inside = |user: &NodeId| candidate.core.contains(user) || candidate.replaced.contains(user);
    let mut readers =
        scales.iter().flat_map(|v| graph.uses(*v)).map(|(user, _)| user).filter(|u| !inside(u)).peekable();
    readers.peek().is_some()
        && readers.all(|user| groups_first(graph, user))
        && !scales.iter().any(|v| graph.is_output(*v))
}

/// True for a transposition of `[tokens.., groups]` to `[groups, tokens..]`, axes of size 1 anywhere.
fn groups_first(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let Op::Transpose { perm } = &node.op else { return false };
    let Some((_, shape)) = node.input(0).and_then(|v| typed(graph, v)) else { return false };
    let moved = moved(shape, perm.as_deref());
    let groups = shape.rank().checked_sub(1);
    moved.len() > 1 && moved.first().copied() == groups && moved[1..].is_sorted()
}
