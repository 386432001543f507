//! The largest magnitude of a value: of a row, of groups of it, or of everything, in the ways in which graphs take it.

use std::collections::BTreeSet;

use normfuse_ir::{
    Graph, NodeId, Op, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use crate::{
    consts::zero,
    region::{last_axis_width, producer_op, typed},
    views::is_view,
};

/// Most nodes between a value and its magnitudes.
const MAX_LENGTH: usize = 48;

/// The nodes from `v` to a node that takes the largest magnitude of each `width` consecutive values of it (of all, if
/// `None`).
pub fn amax(graph: &Graph, id: NodeId, v: ValueId, width: Option<u64>) -> Option<BTreeSet<NodeId>> {
    let node = graph.node(id);
    match &node.op {
        Op::Reduce { op: ReduceOp::Max, .. } => {
            reduces(graph, id, width).then_some(())?;
            let mut nodes = magnitude(graph, node.input(0)?, v, true)?;
            nodes.insert(id);
            Some(nodes)
        }
        // max(max(v), max(-v))
        Op::Binary(BinaryOp::Max) if let Some(mut nodes) = both_signs(graph, id, v, width) => {
            nodes.insert(id);
            Some(nodes)
        }
        // max(max(v), -min(v)), also of max(max(v), 0) and of min(min(v), 0)
        Op::Binary(BinaryOp::Max) => {
            let side = |value: ValueId| {
                let (n, op) = producer_op(graph, value)?;
                Some((n, matches!(op, Op::Unary(UnaryOp::Neg))))
            };
            let ((a, na), (b, nb)) = (side(node.input(0)?)?, side(node.input(1)?)?);
            let (high, neg) = if nb && !na { (a, b) } else { (b, a) };
            let (low, _) = producer_op(graph, graph.node(neg).input(0)?)?;
            let mut bounded = BTreeSet::new();
            let high = beside_zero(graph, high, BinaryOp::Max, &mut bounded);
            let low = beside_zero(graph, low, BinaryOp::Min, &mut bounded);
            let op = &graph.node(low).op;
            let is_high = matches!(graph.node(high).op, Op::Reduce { op: ReduceOp::Max, .. });
            let is_low = matches!(op, Op::Reduce { op: ReduceOp::Min, .. }) && (na != nb);
            if !is_high || !is_low || !reduces(graph, high, width) || !reduces(graph, low, width) {
                return None;
            }
            let mut nodes = magnitude(graph, graph.node(high).input(0)?, v, false)?;
            nodes.extend(magnitude(graph, graph.node(low).input(0)?, v, false)?);
            nodes.extend(bounded);
            nodes.extend([id, high, neg, low]);
            Some(nodes)
        }
        _ => None,
    }
}

/// The node behind one that takes the larger or smaller of it and zero, or the node itself.
fn beside_zero(graph: &Graph, id: NodeId, by: BinaryOp, nodes: &mut BTreeSet<NodeId>) -> NodeId {
    let node = graph.node(id);
    let operand = |port: usize| node.input(port).and_then(|v| Some((v, typed(graph, v)?.1.numel())));
    let (Op::Binary(op), Some(a), Some(b)) = (&node.op, operand(0), operand(1)) else { return id };
    let of = match (zero(graph, a.0), zero(graph, b.0)) {
        (false, true) => a,
        (true, false) => b,
        _ => return id,
    };
    // As many as there were.
    let all = typed(graph, node.outputs[0]).map(|(_, s)| s.numel());
    match producer_op(graph, of.0).filter(|_| *op == by && all == Some(of.1)) {
        Some((inner, _)) => {
            nodes.insert(id);
            inner
        }
        None => id,
    }
}

/// The nodes of two maxima, one of `v` and one of its negative.
fn both_signs(graph: &Graph, id: NodeId, v: ValueId, width: Option<u64>) -> Option<BTreeSet<NodeId>> {
    let largest = |port: usize| {
        let (n, op) = producer_op(graph, graph.node(id).input(port)?)?;
        let is = matches!(op, Op::Reduce { op: ReduceOp::Max, .. }) && reduces(graph, n, width);
        is.then(|| graph.node(n).input(0).map(|of| (n, of))).flatten()
    };
    let negated = |value: ValueId| {
        let (n, op) = producer_op(graph, value)?;
        matches!(op, Op::Unary(UnaryOp::Neg)).then(|| graph.node(n).input(0).map(|of| (n, of))).flatten()
    };
    let (a, b) = (largest(0)?, largest(1)?);
    let ((high, of), (low, (neg, minus))) = match (negated(a.1), negated(b.1)) {
        (None, Some(of)) => (a, (b.0, of)),
        (Some(of), None) => (b, (a.0, of)),
        _ => return None,
    };
    let mut nodes = magnitude(graph, of, v, false)?;
    nodes.extend(magnitude(graph, minus, v, false)?);
    nodes.extend([high, low, neg]);
    Some(nodes)
}

/// The operand and the inner node, if a node takes the larger of a value and its negative.
fn larger_of_signs(graph: &Graph, id: NodeId) -> Option<(ValueId, NodeId)> {
    let (a, b) = (graph.node(id).input(0)?, graph.node(id).input(1)?);
    [(a, b), (b, a)].into_iter().find_map(|(of, other)| {
        let (neg, op) = producer_op(graph, other)?;
        (matches!(op, Op::Unary(UnaryOp::Neg)) && graph.node(neg).input(0) == Some(of)).then_some((of, neg))
    })
}

/// True for a reduction of runs of `width` along the last axis, or of everything.
pub fn reduces(graph: &Graph, id: NodeId, width: Option<u64>) -> bool {
    let node = graph.node(id);
    let Some((_, shape)) = node.input(0).and_then(|v| typed(graph, v)) else { return false };
    let Op::Reduce { axes, .. } = &node.op else { return false };
    let all = axes.as_ref().is_none_or(|a| a.len() == shape.rank());
    match width {
        None => all,
        Some(w) => last_axis_width(graph, id) == i64::try_from(w).ok(),
    }
}

/// The nodes between `v` and its magnitudes (or itself, where `abs` is not asked for): views, casts that hold every
/// value of `v`, and a magnitude.
fn magnitude(graph: &Graph, value: ValueId, v: ValueId, abs: bool) -> Option<BTreeSet<NodeId>> {
    let (held, _) = typed(graph, v)?;
    let mut nodes = BTreeSet::new();
    let mut at = value;
    let mut seen = false;
    for _ in 0..MAX_LENGTH {
        if at == v {
            return (seen == abs).then_some(nodes);
        }
        let (id, op) = producer_op(graph, at)?;
        match op {
            Op::Unary(UnaryOp::Abs) if abs => seen = true,
            Op::Binary(BinaryOp::Max) if abs => {
                let (of, neg) = larger_of_signs(graph, id)?;
                nodes.extend([id, neg]);
                seen = true;
                at = of;
                continue;
            }
            Op::Cast { to, .. } if held.embeds_in(*to) => {}
            _ if is_view(graph, id) => {}
            _ => return None,
        }
        nodes.insert(id);
        at = graph.node(id).input(0)?;
    }
    None
}
