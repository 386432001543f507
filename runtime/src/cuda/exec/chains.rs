//! Which elementwise nodes one kernel computes, with the pieces that it joins.
//!
//! A chain grows from its last node backwards: a producer goes in if everybody who reads it is in already, so that its value is
//! never written. All paths out of a chain lead through its last node, so chains make no cycles. A producer of fewer elements,
//! which its readers broadcast, is computed again for each of them; so it goes in only if that is cheap.
//!
//! A concat is a choice by the index along its axis. What it joins may go in, and is then computed for every index, of zeros where
//! its piece is not; so that, too, has to be cheap, and no small part of the whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use normfuse_ir::{
    Error, ErrorKind, Graph, Node, NodeId, Op, Result, ValueId,
    op::{BinaryOp, UnaryOp},
};

use super::{
    super::ops::{Chain, Leaf, Source, Step, is_elementwise},
    concrete::Concrete,
    views,
};

/// Most nodes of a chain.
const MOST_NODES: usize = 64;
/// Most operands of a chain.
const MOST_OPERANDS: usize = 16;
/// A piece whose nodes go in is no less than the whole by this.
const SMALLEST_PIECE: usize = 8;

/// The indices along the chain's axis that a node is of, or an operand; of all of them if nothing is said.
type Piece = Option<Range<usize>>;

/// Elementwise nodes that one kernel computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Producers first, each with its piece; the last one's value is handed out.
    nodes: Vec<(NodeId, Piece)>,
    /// The axis along which it joins pieces.
    axis: Option<usize>,
}

impl Group {
    /// The nodes, producers first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().map(|(id, _)| *id)
    }
}

/// A chain while it grows.
struct Growth<'a> {
    graph: &'a Graph,
    concrete: &'a Concrete,
    /// Places of nodes among those that run.
    order: &'a BTreeMap<NodeId, usize>,
    members: BTreeMap<NodeId, Piece>,
    /// Sizes of the results.
    shape: &'a [usize],
    axis: Option<usize>,
    once: bool,
}

/// The chains of a graph by their last node. Every elementwise node that is no view is in exactly one.
///
/// # Errors
/// `Structure` for values of which nothing is known.
pub fn find(graph: &Graph, concrete: &Concrete) -> Result<BTreeMap<NodeId, Group>> {
    let order: BTreeMap<NodeId, usize> = concrete.nodes().iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    let mut groups = BTreeMap::new();
    for &last in concrete.nodes().iter().rev() {
        // An expand alone is read as it lies.
        if taken.contains(&last) || graph.node(last).op == Op::Expand || !is_step(graph, concrete, last)? {
            continue;
        }
        let shape = &concrete.typed(graph.node(last).outputs[0])?.shape;
        let (axis, members) = (joined(&graph.node(last).op, shape.len()), BTreeMap::from([(last, None)]));
        let once = concrete.is_once(last);
        let mut growth = Growth { graph, concrete, order: &order, members, shape, axis, once };
        growth.grow()?;
        let Growth { members, axis, .. } = growth;
        taken.extend(members.keys());
        let mut nodes: Vec<(NodeId, Piece)> = members.into_iter().collect();
        nodes.sort_by_key(|(id, _)| order.get(id));
        groups.insert(last, Group { nodes, axis });
    }
    Ok(groups)
}

/// The axis along which a node joins pieces.
fn joined(op: &Op, rank: usize) -> Option<usize> {
    if let Op::Concat { axis } = op { views::axis_of(*axis, rank) } else { None }
}

/// True for a node of one result that something must compute, elementwise or by joining pieces; an expand is one that changes nothing.
fn is_step(graph: &Graph, concrete: &Concrete, id: NodeId) -> Result<bool> {
    let node = graph.node(id);
    let joins = matches!(node.op, Op::Concat { .. }) && node.inputs.len() <= MOST_OPERANDS;
    if !is_elementwise(&node.op) && !joins && node.op != Op::Expand {
        return Ok(false);
    }
    let Some((x, y)) = node.input(0).zip(node.outputs.first().copied()) else { return Ok(false) };
    let typed = [concrete.typed(y)?.clone()];
    Ok(views::offsets(&node.op, concrete.typed(x)?, &typed, &vec![None; node.inputs.len()]).is_none())
}

/// What a node that is of a piece reads, each with its own piece.
fn reads(concrete: &Concrete, node: &Node, axis: Option<usize>, piece: &Piece) -> Result<Vec<(ValueId, Piece)>> {
    let mut begin = piece.as_ref().map_or(0, |p| p.start);
    let mut all = Vec::with_capacity(node.inputs.len());
    // The sizes of an expand are the chain's.
    let ports = if node.op == Op::Expand { 1 } else { usize::MAX };
    for (_, value) in node.operands().take(ports) {
        let own = match (&node.op, axis) {
            (Op::Concat { .. }, Some(axis)) => {
                let start = begin;
                begin += concrete.typed(value)?.shape.get(axis).copied().unwrap_or(0);
                Some(start..begin)
            }
            _ => piece.clone(),
        };
        all.push((value, own));
    }
    Ok(all)
}

impl Growth<'_> {
    fn grow(&mut self) -> Result<()> {
        loop {
            let mut grown = None;
            for (member, piece) in &self.members {
                for (value, own) in reads(self.concrete, self.graph.node(*member), self.axis, piece)? {
                    let Some((producer, _)) = self.graph.producer(value) else { continue };
                    if !self.members.contains_key(&producer) && self.joins(producer, value, &own)? {
                        grown = Some((producer, own));
                    }
                }
            }
            let Some((producer, own)) = grown else { return Ok(()) };
            let axis = self.axis;
            self.axis = axis.or(joined(&self.graph.node(producer).op, self.shape.len()));
            self.members.insert(producer, own);
            if self.members.len() > MOST_NODES || self.operands()?.len() > MOST_OPERANDS {
                self.members.remove(&producer);
                self.axis = axis;
                return Ok(());
            }
        }
    }

    /// True if a producer's value need not be written: all its readers are members, and read it for one piece.
    fn joins(&self, producer: NodeId, value: ValueId, piece: &Piece) -> Result<bool> {
        let (graph, concrete) = (self.graph, self.concrete);
        if !self.order.contains_key(&producer) || concrete.host(value).is_some() || graph.is_output(value) {
            return Ok(false);
        }
        // What is kept is not computed again in every run.
        if concrete.is_once(producer) != self.once || !is_step(graph, concrete, producer)? {
            return Ok(false);
        }
        // Readers that only ask for its sizes have been answered.
        for (user, _) in graph.uses(value).filter(|(user, _)| self.order.contains_key(user)) {
            let Some(of_user) = self.members.get(&user) else { return Ok(false) };
            let all = reads(concrete, graph.node(user), self.axis, of_user)?;
            if all.iter().any(|(v, own)| *v == value && own != piece) {
                return Ok(false);
            }
        }
        let op = &graph.node(producer).op;
        let own = &concrete.typed(value)?.shape;
        if matches!(op, Op::Concat { .. }) && !self.is_whole(joined(op, own.len()), own, piece) {
            return Ok(false);
        }
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let small = piece.as_ref().zip(self.axis).is_some_and(|(p, axis)| p.len() * SMALLEST_PIECE < self.shape[axis]);
        Ok(!small && (count(own) == count(self.shape) || is_cheap(op)))
    }

    /// True if pieces that are joined along an axis to these sizes are pieces of the chain's, whatever is broadcast along other axes.
    fn is_whole(&self, along: Option<usize>, own: &[usize], piece: &Piece) -> bool {
        let Some(along) = along.filter(|a| self.axis.is_none_or(|axis| *a == axis)) else { return false };
        let len = piece.as_ref().map_or(self.shape.get(along).copied(), |p| Some(p.len()));
        let fits = |(axis, (own, whole)): (usize, (&usize, &usize))| own == whole || axis == along || *own == 1;
        own.len() == self.shape.len()
            && own.get(along).copied() == len
            && own.iter().zip(self.shape).enumerate().all(fits)
    }

    /// What the members read of others, each once for a piece, in order of appearance.
    fn operands(&self) -> Result<Vec<(ValueId, Piece)>> {
        let nodes: Vec<_> = self.members.iter().map(|(id, piece)| (*id, piece.clone())).collect();
        operands(self.graph, self.concrete, &nodes, self.axis)
    }
}

/// True for ops that take no longer than reading their value would.
fn is_cheap(op: &Op) -> bool {
    match op {
        Op::Unary(u) => matches!(
            u,
            UnaryOp::Abs
                | UnaryOp::Neg
                | UnaryOp::Sign
                | UnaryOp::Relu
                | UnaryOp::Not
                | UnaryOp::BitwiseNot
                | UnaryOp::Floor
                | UnaryOp::Ceil
                | UnaryOp::Round
                | UnaryOp::IsNan
                | UnaryOp::IsInf
        ),
        Op::Binary(b) => !matches!(b, BinaryOp::Pow | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Fmod),
        _ => true,
    }
}

/// What nodes read of others, each once for a piece, in order of appearance.
fn operands(
    graph: &Graph,
    concrete: &Concrete,
    nodes: &[(NodeId, Piece)],
    axis: Option<usize>,
) -> Result<Vec<(ValueId, Piece)>> {
    let mut found: Vec<(ValueId, Piece)> = Vec::new();
    for (member, piece) in nodes {
        for read in reads(concrete, graph.node(*member), axis, piece)? {
            let inside = graph.producer(read.0).is_some_and(|(p, _)| nodes.iter().any(|(id, _)| *id == p));
            if !inside && !found.contains(&read) {
                found.push(read);
            }
        }
    }
    Ok(found)
}

/// A group as a chain, with the values that are its operands.
///
/// # Errors
/// `Structure` for values of which nothing is known.
pub fn chain(graph: &Graph, concrete: &Concrete, group: &Group) -> Result<(Chain, Vec<ValueId>)> {
    let Group { nodes, axis } = group;
    let found = operands(graph, concrete, nodes, *axis)?;
    let place: BTreeMap<NodeId, usize> = group.nodes().enumerate().map(|(i, id)| (id, i)).collect();
    let mut steps = Vec::with_capacity(nodes.len());
    for (id, piece) in nodes {
        let node = graph.node(*id);
        let dtype = concrete.typed(node.outputs[0])?.dtype;
        let read = reads(concrete, node, *axis, piece)?;
        let joins = matches!(node.op, Op::Concat { .. });
        let ends = read.iter().filter(|_| joins).map(|(_, own)| own.as_ref().map_or(0, |p| p.end)).collect();
        let mut next = read.iter();
        let mut source = |_: ValueId| {
            let read = next.next()?;
            match graph.producer(read.0).and_then(|(p, _)| place.get(&p)) {
                Some(step) => Some(Source::Step(*step)),
                None => found.iter().position(|own| own == read).map(Source::Input),
            }
        };
        let ports = if node.op == Op::Expand { 1 } else { node.inputs.len() };
        let operands = node.inputs.iter().take(ports).map(|v| v.and_then(&mut source)).collect();
        let op = if node.op == Op::Expand { Op::Unary(UnaryOp::Identity) } else { node.op.clone() };
        steps.push(Step { op, operands, dtype, ends });
    }
    let mut inputs = Vec::with_capacity(found.len());
    for (value, piece) in &found {
        inputs.push(Leaf { piece: piece.clone(), ..Leaf::from(concrete.typed(*value)?) });
    }
    let last = nodes.last().map(|(id, _)| graph.node(*id).outputs[0]);
    let last = last.ok_or_else(|| Error::new(ErrorKind::Structure, "a chain without nodes"))?;
    let shape = concrete.typed(last)?.shape.clone();
    let outputs = vec![steps.len().saturating_sub(1)];
    Ok((Chain { shape, axis: axis.unwrap_or(0), inputs, steps, outputs }, found.into_iter().map(|(v, _)| v).collect()))
}
