//! Which nodes belong to a region.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use normfuse_ir::{
    Graph, NodeId, Op, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use super::{last_axis_width, producer_op, squared, typed};
use crate::views::is_view;

/// Most nodes in a region. A norm with three quantisers takes about 60.
const MAX_NODES: usize = 96;
/// Longest chain of ops that makes a parameter (a weight, a scale).
const PARAMETER_DEPTH: usize = 6;

/// True for what scales or shifts rows without being rows: constants, values of rank 0 or 1, single elements, and what
/// light ops make of those (casts of weights, one plus a weight, reciprocals of scales).
fn is_parameter(graph: &Graph, value: ValueId, depth: usize) -> bool {
    let Some((_, shape)) = typed(graph, value) else { return false };
    if graph.value(value).as_const().is_some() || shape.rank() <= 1 || shape.is_single() {
        return true;
    }
    depth > 0
        && graph.producer(value).is_some_and(|(id, _)| {
            is_light(graph, id) && data_operands(graph, id).all(|v| is_parameter(graph, v, depth - 1))
        })
}

/// True if a region may contain the node: every operand and the result are typed, and the term language or an
/// uninterpreted elementwise head can say what it does.
fn is_light(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let typed_all = node.operands().all(|(_, v)| typed(graph, v).is_some())
        && node.outputs.iter().all(|v| typed(graph, *v).is_some());
    typed_all
        && match &node.op {
            Op::Unary(UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal | UnaryOp::Identity)
            | Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow)
            // A target shape that is asked of a value of the region.
            | Op::Shape { .. }
            | Op::Expand => true,
            // What is done to one number a row is part of a norm, or a rule of the host's may know it.
            Op::Unary(_) | Op::Binary(_) | Op::Clip => {
                typed(graph, node.outputs[0]).is_some_and(|(_, s)| s.last().is_none_or(|d| d.as_const() == Some(1)))
            }
            // Casts to other types are a quantiser's business.
            Op::Cast { to, .. } => to.is_arithmetic_float(),
            Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum | ReduceOp::SumSquare, .. }
            | Op::RmsNorm { .. }
            | Op::SkipRmsNorm { .. } => last_axis_width(graph, id).is_some(),
            _ => is_view(graph, id),
        }
}

/// True for ops that a region does not grow forward over: who asks for a shape, and what a norm has once, at its anchor.
/// A norm that reads another one directly has a region of its own.
fn ends(op: &Op) -> bool {
    matches!(op, Op::Shape { .. } | Op::Reduce { .. } | Op::RmsNorm { .. } | Op::SkipRmsNorm { .. })
}

/// Operands that carry data (a reshape's target shape does not).
fn data_operands(graph: &Graph, id: NodeId) -> impl Iterator<Item = ValueId> + '_ {
    let node = graph.node(id);
    let n = if is_view(graph, id) || matches!(node.op, Op::Expand) { 1 } else { usize::MAX };
    node.operands().take(n).map(|(_, v)| v)
}

pub(super) struct Cut<'g> {
    pub(super) graph: &'g Graph,
    /// Which values are parameters, of those that were asked for.
    asked: RefCell<BTreeMap<ValueId, bool>>,
    pub(super) nodes: BTreeSet<NodeId>,
    /// Values that the region makes or reads.
    pub(super) known: BTreeSet<ValueId>,
}

impl<'g> Cut<'g> {
    pub(super) fn new(graph: &'g Graph) -> Self {
        Self { graph, asked: RefCell::default(), nodes: BTreeSet::new(), known: BTreeSet::new() }
    }

    fn is_parameter(&self, value: ValueId) -> bool {
        if let Some(known) = self.asked.borrow().get(&value) {
            return *known;
        }
        let is = is_parameter(self.graph, value, PARAMETER_DEPTH);
        self.asked.borrow_mut().insert(value, is);
        is
    }

    pub(super) fn take(&mut self, id: NodeId) {
        if self.nodes.insert(id) {
            self.known.extend(data_operands(self.graph, id));
            self.known.extend(self.graph.node(id).outputs.iter().copied());
        }
    }

    /// From what is averaged, back over casts and views to the square and on to the rows.
    pub(super) fn back_from_mean(&mut self, value: ValueId) {
        let Some((square, row)) = squared(self.graph, value) else { return self.back_to_rows(value) };
        let mut value = value;
        while let Some((id, _)) = producer_op(self.graph, value).filter(|(id, _)| is_light(self.graph, *id)) {
            self.take(id);
            if id == square {
                return self.back_to_rows(row);
            }
            let Some(v) = self.graph.node(id).input(0) else { return };
            value = v;
        }
    }

    /// From the row that is normalised, back over casts to one add, and the casts of its operands.
    pub(super) fn back_to_rows(&mut self, value: ValueId) {
        let mut value = value;
        for _ in 0..4 {
            let Some((id, op)) = producer_op(self.graph, value) else { return };
            if !is_light(self.graph, id) {
                return;
            }
            match op {
                Op::Cast { .. } | Op::Unary(UnaryOp::Identity) => {
                    self.take(id);
                    let Some(v) = self.graph.node(id).input(0) else { return };
                    value = v;
                }
                Op::Binary(BinaryOp::Add) => {
                    self.take(id);
                    for (_, v) in self.graph.node(id).operands() {
                        match producer_op(self.graph, v) {
                            Some((cast, Op::Cast { .. })) if is_light(self.graph, cast) => self.take(cast),
                            _ => {}
                        }
                    }
                    return;
                }
                _ => return,
            }
        }
    }

    /// The node, if a value is a cast or a copy of one that the region reads: the row may be squared before it is cast.
    fn cast_of_known(&self, value: ValueId) -> Option<NodeId> {
        let (id, op) = producer_op(self.graph, value)?;
        let known = || self.graph.node(id).input(0).is_some_and(|x| self.known.contains(&x));
        let moves = matches!(op, Op::Cast { .. } | Op::Unary(UnaryOp::Identity));
        (moves && !self.nodes.contains(&id) && is_light(self.graph, id) && known()).then_some(id)
    }

    /// Forward until nothing more fits, nearest first.
    pub(super) fn forward(&mut self) {
        let mut last: Vec<NodeId> = self.nodes.iter().copied().collect();
        // What fitted but for an operand that the region does not know yet.
        let mut waiting = BTreeSet::new();
        loop {
            for id in last.drain(..).filter(|id| !matches!(self.graph.node(*id).op, Op::Shape { .. })) {
                let users = self.graph.node(id).outputs.iter().flat_map(|v| self.graph.uses(*v)).map(|(n, _)| n);
                let may = |n: &NodeId| !ends(&self.graph.node(*n).op) && is_light(self.graph, *n);
                waiting.extend(users.filter(|n| !self.nodes.contains(n)).filter(may));
            }
            let fits = |user: &NodeId| {
                data_operands(self.graph, *user)
                    .all(|v| self.known.contains(&v) || self.cast_of_known(v).is_some() || self.is_parameter(v))
            };
            let found: Vec<NodeId> = waiting.iter().copied().filter(fits).collect();
            if found.is_empty() || self.nodes.len() >= MAX_NODES {
                return;
            }
            let casts = found.iter().flat_map(|user| data_operands(self.graph, *user));
            let casts: Vec<NodeId> = casts.filter_map(|v| self.cast_of_known(v)).collect();
            for id in casts.into_iter().chain(found) {
                waiting.remove(&id);
                if !self.nodes.contains(&id) {
                    self.take(id);
                    last.push(id);
                }
            }
        }
    }

    /// Parameters that are computed, and who asks a value of the region for its shape to expand them to.
    pub(super) fn parameters(&mut self) {
        for _ in 0..PARAMETER_DEPTH {
            let data = self.nodes.iter().flat_map(|id| data_operands(self.graph, *id));
            let parameters = data.filter(|v| self.is_parameter(*v));
            let targets = self.nodes.iter().filter_map(|id| match self.graph.node(*id) {
                n if matches!(n.op, Op::Expand) => n.input(1),
                _ => None,
            });
            let asks = |v: &ValueId| {
                producer_op(self.graph, *v).is_some_and(|(n, op)| {
                    matches!(op, Op::Shape { .. })
                        && self.graph.node(n).input(0).is_some_and(|x| self.known.contains(&x))
                })
            };
            let found: Vec<NodeId> = parameters
                .chain(targets.filter(asks))
                .filter_map(|v| self.graph.producer(v).map(|(n, _)| n))
                .filter(|n| !self.nodes.contains(n) && is_light(self.graph, *n))
                .collect();
            if found.is_empty() || self.nodes.len() >= MAX_NODES {
                return;
            }
            for id in found {
                self.take(id);
            }
        }
    }
}
