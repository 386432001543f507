//! Anchors: the nodes around which the pass looks.

use normfuse_ir::{
    Error, ErrorKind, Graph, NodeId, Op, Result, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use crate::{
    consts::known,
    quant,
    region::{producer_op, squared, typed},
    views::is_view,
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

/// Reductions of squares (and of other powers), what is averaged and then rooted, and native norms, among nodes in
/// their order.
///
/// # Errors
/// An absurd width.
pub fn norms(graph: &Graph, nodes: &[NodeId]) -> Result<Vec<Anchor>> {
    let found = pick(graph, nodes, |id| {
        let node = graph.node(id);
        match &node.op {
            Op::RmsNorm { .. } | Op::SkipRmsNorm { .. } => true,
            Op::Reduce { op: ReduceOp::SumSquare | ReduceOp::L2, .. } => is_float(graph, id),
            // A mean of something else looks like a norm's, and deserves an answer.
            Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum, .. } => {
                is_float(graph, id)
                    && node.input(0).is_some_and(|v| {
                        squared(graph, v).is_some()
                            || matches!(producer_op(graph, v), Some((_, Op::Binary(BinaryOp::Pow))))
                            || is_rooted(graph, node.outputs[0], 4)
                    })
            }
            _ => false,
        }
    });
    for anchor in &found {
        let rows = graph.node(anchor.node).input(0).and_then(|v| typed(graph, v));
        if let Some(width) = rows.and_then(|(_, s)| s.last()?.as_const()).filter(|w| *w > MAX_WIDTH) {
            let message = format!("expected rows of at most {MAX_WIDTH} elements, found {width}");
            return Err(Error::new(ErrorKind::Shape, message).at_node(&anchor.name));
        }
    }
    Ok(found)
}

/// False for integers: those are counted, not normalised.
fn is_float(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).input(0).and_then(|v| graph.value(v).ty.dtype).is_none_or(|d| !d.is_int())
}

/// True if a root is taken of a value, after views and arithmetic with constants.
fn is_rooted(graph: &Graph, value: ValueId, steps: usize) -> bool {
    steps > 0
        && graph.uses(value).any(|(user, port)| {
            let node = graph.node(user);
            let with_constant = || node.input(1 - port.min(1)).is_some_and(|v| known(graph, v).is_some());
            match &node.op {
                Op::Unary(UnaryOp::Sqrt | UnaryOp::Rsqrt) => true,
                Op::Binary(BinaryOp::Pow) => port == 0,
                Op::Binary(BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div) if with_constant() => {
                    is_rooted(graph, node.outputs[0], steps - 1)
                }
                op if port == 0 && (matches!(op, Op::Cast { .. }) || is_view(graph, user)) => {
                    is_rooted(graph, node.outputs[0], steps - 1)
                }
                _ => false,
            }
        })
}

/// Those of the nodes that may end a quantiser, in their order.
pub fn quantisers(graph: &Graph, nodes: &[NodeId]) -> Vec<Anchor> {
    pick(graph, nodes, |id| quant::is_anchor(graph, id))
}

fn pick(graph: &Graph, nodes: &[NodeId], fits: impl Fn(NodeId) -> bool) -> Vec<Anchor> {
    let anchor = |node: NodeId| Anchor { node, name: graph.node(node).name.clone() };
    nodes.iter().copied().filter(|id| fits(*id)).map(anchor).collect()
}
