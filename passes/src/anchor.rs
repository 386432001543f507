//! Anchors: the nodes around which the pass looks.

use normfuse_ir::{
    Graph, NodeId, Op, Result,
    op::{BinaryOp, ReduceOp},
};

use crate::{diagnose::squared, quant, region::producer_op};

/// An anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The node.
    pub node: NodeId,
    /// Its name in the source.
    pub name: String,
}

/// Reductions of squares (and of other powers) and native norms, in topological order.
///
/// # Errors
/// The graph has a cycle.
pub fn norms(graph: &Graph) -> Result<Vec<Anchor>> {
    pick(graph, |id| {
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
    })
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
