//! Anchors: the nodes around which the pass looks.

use normfuse_ir::{
    Error, ErrorKind, Graph, NodeId, Op, Result,
    op::{BinaryOp, ReduceOp},
};

use crate::{
    diagnose::squared,
    quant,
    region::{producer_op, typed},
};

/// An anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The node.
    pub node: NodeId,
    /// Its name in the source.
    pub name: String,
}

/// Longest row that a norm may have. The longest in use have 2^15 elements; a width past 32 bits is a mistake of whoever
/// wrote the model.
const MAX_WIDTH: i64 = 1 << 32;

/// Reductions of squares (and of other powers) and native norms, in topological order.
///
/// # Errors
/// The graph has a cycle, or an absurd width.
pub fn norms(graph: &Graph) -> Result<Vec<Anchor>> {
    let found = pick(graph, |id| {
        let node = graph.node(id);
        match &node.op {
            Op::RmsNorm { .. } | Op::SkipRmsNorm { .. } | Op::Reduce { op: ReduceOp::SumSquare, .. } => true,
            Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum, .. } => {
                // A mean of other powers looks like a norm's and deserves an answer.
                node.input(0).is_some_and(|v| {
                    squared(graph, v).is_some() || matches!(producer_op(graph, v), Some((_, Op::Binary(BinaryOp::Pow))))
                })
            }
            _ => false,
        }
    })?;
    for anchor in &found {
        let rows = graph.node(anchor.node).input(0).and_then(|v| typed(graph, v));
        if let Some(width) = rows.and_then(|(_, s)| s.last()?.as_const()).filter(|w| *w > MAX_WIDTH) {
            let message = format!("expected rows of at most {MAX_WIDTH} elements, found {width}");
            return Err(Error::new(ErrorKind::Shape, message).at_node(&anchor.name));
        }
    }
    Ok(found)
}

/// Nodes that may end a quantiser, in topological order.
///
/// # Errors
/// The graph has a cycle.
pub fn quantisers(graph: &Graph) -> Result<Vec<Anchor>> {
    pick(graph, |id| quant::is_anchor(graph, id))
}

fn pick(graph: &Graph, fits: impl Fn(NodeId) -> bool) -> Result<Vec<Anchor>> {
    Ok(graph
        .topo_order()?
        .into_iter()
        .filter(|id| fits(*id))
        .map(|node| Anchor { node, name: graph.node(node).name.clone() })
        .collect())
}
