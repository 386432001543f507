//! Cutting a region around a norm's anchor and writing it down as terms.
//!
//! A region is small: from the anchor (the mean of squares) back over the square, casts and one add, and forward over
//! the ops that norms are made of, casts and views. Quantisers are read apart (see [`crate::quant`]). What enters from
//! outside is a leaf. Forward growth takes an op only if its other operands are already known to the region or
//! parameters (a weight, a scale), so it stops at the model's own arithmetic (residuals, rotary embeddings, gates).

use std::collections::BTreeMap;

use normfuse_ir::{
    DType, Graph, NodeId, Op, Shape, ValueId,
    op::{BinaryOp, ReduceOp},
};

mod cut;
mod describe;

use cut::Cut;

use crate::{
    consts,
    reach::Order,
    term::{LeafFacts, Num, Tag, Ty},
    views::is_view,
};

/// A value of the region, in terms of earlier values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// From outside.
    Leaf(LeafFacts),
    /// A one-element constant.
    Const(Num),
    /// The flat array of an earlier value.
    Local(usize),
    /// An op by the name that the term language gives it (or an uninterpreted one).
    Op(String, Vec<Expr>),
    /// An integer argument.
    Int(i64),
    /// A type argument.
    Ty(Ty),
    /// A tag argument.
    Tag(Tag),
}

/// A region: its nodes in topological order, and its values with their expressions, operands first.
#[derive(Debug, Clone)]
pub struct Region {
    /// The node that it was cut around.
    pub anchor: NodeId,
    /// Nodes, producers first.
    pub nodes: Vec<NodeId>,
    /// Values, leaves included.
    pub locals: Vec<ValueId>,
    /// What each value is.
    pub exprs: Vec<Expr>,
    index: BTreeMap<ValueId, usize>,
    /// Width of the anchor's rows.
    width: Option<i64>,
}

/// The op at the other end of a value, if a node makes it.
pub fn producer_op(graph: &Graph, value: ValueId) -> Option<(NodeId, &Op)> {
    graph.producer(value).map(|(n, _)| (n, &graph.node(n).op))
}

/// Dtype and shape of a value, if both are known.
pub fn typed(graph: &Graph, value: ValueId) -> Option<(DType, &Shape)> {
    let ty = &graph.value(value).ty;
    Some((ty.dtype?, ty.shape.as_ref()?))
}

/// The width of a reduction over the last axis alone, if that is what the node is and the width is known.
pub fn last_axis_width(graph: &Graph, node: NodeId) -> Option<i64> {
    let n = graph.node(node);
    let (_, shape) = typed(graph, n.input(0)?)?;
    let axes = match &n.op {
        Op::Reduce { axes: Some(axes), .. } => axes.as_slice(),
        Op::Reduce { axes: None, .. } if shape.rank() == 1 => &[0],
        Op::RmsNorm { axis, .. } => std::slice::from_ref(axis),
        Op::SkipRmsNorm { .. } => &[-1],
        _ => return None,
    };
    let rank = shape.rank() as i64;
    match axes {
        [a] if rank > 0 && (*a == -1 || *a == rank - 1) => shape.last()?.as_const().filter(|w| *w > 0),
        _ => None,
    }
}

/// What a value is the square of, through casts and views: the node that squares, and its operand.
pub fn squared(graph: &Graph, value: ValueId) -> Option<(NodeId, ValueId)> {
    let mut value = value;
    for _ in 0..4 {
        let (id, op) = producer_op(graph, value)?;
        let node = graph.node(id);
        let (a, b) = (node.input(0)?, node.input(1));
        match op {
            Op::Binary(BinaryOp::Mul) if b == Some(a) => return Some((id, a)),
            Op::Binary(BinaryOp::Pow) if consts::known(graph, b?).is_some_and(|c| c.value() == 2.0) => {
                return Some((id, a));
            }
            Op::Cast { to, .. } if to.is_arithmetic_float() => value = a,
            _ if is_view(graph, id) => value = a,
            _ => return None,
        }
    }
    None
}

/// The region of a norm's anchor: a reduction of squares over the last axis, or a native norm.
pub fn around_norm(graph: &Graph, order: &Order, anchor: NodeId) -> Region {
    let mut cut = Cut::new(graph);
    cut.take(anchor);
    if let Some(operand) = graph.node(anchor).input(0) {
        match graph.node(anchor).op {
            Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum, .. } => cut.back_from_mean(operand),
            // Its operands are cast inside, if at all.
            Op::SkipRmsNorm { .. } => {}
            _ => cut.back_to_rows(operand),
        }
    }
    cut.forward();
    cut.parameters();
    Region::describe(graph, order, anchor, &cut.nodes)
}

impl Region {
    /// Position of a value in the region.
    pub fn local(&self, value: ValueId) -> Option<usize> {
        self.index.get(&value).copied()
    }
}
