//! Which elementwise nodes one kernel computes.
//!
//! A chain grows from its last node backwards: a producer goes in if everybody who reads it is in already, so that its value is
//! never written. All paths out of a chain lead through its last node, so chains make no cycles. A producer of fewer elements,
//! which its readers broadcast, is computed again for each of them; so it goes in only if that is cheap.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    Graph, NodeId, Op, Result, ValueId,
    op::{BinaryOp, UnaryOp},
};

use super::{
    super::ops::{Chain, Source, Step, Typed, is_elementwise},
    concrete::Concrete,
    views,
};

/// Most nodes of a chain.
const MOST_NODES: usize = 64;
/// Most operands of a chain.
const MOST_OPERANDS: usize = 16;

/// Elementwise nodes that one kernel computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Producers first; the last one's value is handed out.
    pub nodes: Vec<NodeId>,
}

impl Group {
    /// The node whose value is handed out.
    pub fn last(&self) -> Option<NodeId> {
        self.nodes.last().copied()
    }
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
        if taken.contains(&last) || !is_step(graph, concrete, last)? {
            continue;
        }
        let mut members = BTreeSet::from([last]);
        loop {
            let mut grown = None;
            for &member in &members {
                for (_, value) in graph.node(member).operands() {
                    let Some((producer, _)) = graph.producer(value) else { continue };
                    if !members.contains(&producer) && joins(graph, concrete, producer, value, last, &members, &order)?
                    {
                        grown = Some(producer);
                    }
                }
            }
            let Some(producer) = grown else { break };
            members.insert(producer);
            if members.len() > MOST_NODES || operands(graph, &members).len() > MOST_OPERANDS {
                members.remove(&producer);
                break;
            }
        }
        taken.extend(&members);
        let mut nodes: Vec<NodeId> = members.into_iter().collect();
        nodes.sort_by_key(|id| order.get(id));
        groups.insert(last, Group { nodes });
    }
    Ok(groups)
}

/// True for an elementwise node of one result that something must compute.
fn is_step(graph: &Graph, concrete: &Concrete, id: NodeId) -> Result<bool> {
    let node = graph.node(id);
    if !is_elementwise(&node.op) {
        return Ok(false);
    }
    let Some((x, y)) = node.input(0).zip(node.outputs.first().copied()) else { return Ok(false) };
    let typed = [concrete.typed(y)?.clone()];
    Ok(views::offsets(&node.op, concrete.typed(x)?, &typed, &[None]).is_none())
}

/// True if a producer's value need not be written: all its readers are members.
fn joins(
    graph: &Graph,
    concrete: &Concrete,
    producer: NodeId,
    value: ValueId,
    last: NodeId,
    members: &BTreeSet<NodeId>,
    order: &BTreeMap<NodeId, usize>,
) -> Result<bool> {
    if !order.contains_key(&producer) || concrete.host(value).is_some() || graph.is_output(value) {
        return Ok(false);
    }
    // What is kept is not computed again in every run.
    if concrete.is_once(producer) != concrete.is_once(last) || !is_step(graph, concrete, producer)? {
        return Ok(false);
    }
    // Readers that only ask for its sizes have been answered.
    if graph.uses(value).any(|(user, _)| order.contains_key(&user) && !members.contains(&user)) {
        return Ok(false);
    }
    let own = &concrete.typed(value)?.shape;
    let whole = &concrete.typed(graph.node(last).outputs[0])?.shape;
    let count = |shape: &[usize]| shape.iter().product::<usize>();
    Ok(count(own) == count(whole) || is_cheap(&graph.node(producer).op))
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

/// What the members read of others, each once, in order of appearance.
fn operands(graph: &Graph, members: &BTreeSet<NodeId>) -> Vec<ValueId> {
    let mut found: Vec<ValueId> = Vec::new();
    for &member in members {
        for (_, value) in graph.node(member).operands() {
            let inside = graph.producer(value).is_some_and(|(p, _)| members.contains(&p));
            if !inside && !found.contains(&value) {
                found.push(value);
            }
        }
    }
    found
}

/// A group as a chain, with the values that are its operands.
///
/// # Errors
/// `Structure` for values of which nothing is known.
pub fn chain(graph: &Graph, concrete: &Concrete, group: &Group) -> Result<(Chain, Vec<ValueId>)> {
    let members: BTreeSet<NodeId> = group.nodes.iter().copied().collect();
    let operands = operands(graph, &members);
    let place: BTreeMap<NodeId, usize> = group.nodes.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let source = |value: ValueId| match graph.producer(value).and_then(|(p, _)| place.get(&p)) {
        Some(step) => Some(Source::Step(*step)),
        None => operands.iter().position(|v| *v == value).map(Source::Input),
    };
    let mut steps = Vec::with_capacity(group.nodes.len());
    for id in &group.nodes {
        let node = graph.node(*id);
        let dtype = concrete.typed(node.outputs[0])?.dtype;
        let operands = node.inputs.iter().map(|v| v.and_then(source)).collect();
        steps.push(Step { op: node.op.clone(), operands, dtype });
    }
    let inputs: Result<Vec<Typed>> = operands.iter().map(|v| concrete.typed(*v).cloned()).collect();
    let last = group.last().map(|id| graph.node(id).outputs[0]);
    let shape = last.map(|v| concrete.typed(v).map(|t| t.shape.clone())).transpose()?.unwrap_or_default();
    Ok((Chain { shape, inputs: inputs?, outputs: vec![steps.len().saturating_sub(1)], steps }, operands))
}
