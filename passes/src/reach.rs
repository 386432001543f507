//! Which value depends on which, also after fusions that are decided but not yet made.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Graph, NodeId, Result, ValueId};

/// A topological order that follows from the graph's outputs alone, and the fusions that have been decided.
///
/// A fused op reads all its operands before it gives any result. So once it is decided, whatever one of its results
/// reaches depends on all of its operands, and a second fusion must be checked against that, not against the source.
#[derive(Debug)]
pub struct Order {
    /// All nodes, in order.
    nodes: Vec<NodeId>,
    /// By node.
    position: Vec<usize>,
    /// By node: the fusion that it vanishes into.
    owner: Vec<Option<u32>>,
    /// Operands of each fusion.
    fusions: Vec<Vec<ValueId>>,
    /// First and last positions of fusions; those that share a position are one.
    spans: BTreeMap<usize, usize>,
}

impl Order {
    /// The order of a graph, with nothing decided.
    ///
    /// # Errors
    /// The graph has a cycle.
    pub fn new(graph: &Graph) -> Result<Self> {
        let all = graph.topo_order()?;
        // Producers first, from the outputs in their order: no matter in which order nodes were added.
        let mut position = vec![usize::MAX; graph.node_bound()];
        let mut nodes = Vec::with_capacity(all.len());
        let mut place = |n: NodeId, position: &mut Vec<usize>| {
            position[n.index()] = nodes.len();
            nodes.push(n);
        };
        let mut stack: Vec<(NodeId, bool)> = Vec::new();
        let push = |stack: &mut Vec<(NodeId, bool)>, v: ValueId| {
            stack.extend(graph.producer(v).map(|(n, _)| (n, false)));
        };
        for output in graph.outputs().iter().rev() {
            push(&mut stack, output.value);
        }
        while let Some((id, ready)) = stack.pop() {
            if position[id.index()] != usize::MAX {
                continue;
            }
            if ready {
                place(id, &mut position);
                continue;
            }
            stack.push((id, true));
            for v in graph.node(id).inputs.iter().rev().flatten() {
                push(&mut stack, *v);
            }
        }
        // What no output needs comes last.
        for id in all {
            if position[id.index()] == usize::MAX {
                place(id, &mut position);
            }
        }
        let owner = vec![None; graph.node_bound()];
        Ok(Self { nodes, position, owner, fusions: Vec::new(), spans: BTreeMap::new() })
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Where a node stands.
    pub fn position(&self, id: NodeId) -> usize {
        self.position.get(id.index()).copied().unwrap_or(usize::MAX)
    }

    /// Nodes in order.
    pub fn sorted(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
        nodes.sort_unstable_by_key(|n| self.position(*n));
        nodes.dedup();
        nodes
    }

    /// Decides that nodes vanish into one op with these operands.
    pub fn fuse(&mut self, nodes: &BTreeSet<NodeId>, operands: Vec<ValueId>) {
        let positions = || nodes.iter().map(|n| self.position(*n));
        let (Some(mut first), Some(mut last)) = (positions().min(), positions().max()) else { return };
        for n in nodes {
            if let Some(owner) = self.owner.get_mut(n.index()) {
                *owner = Some(self.fusions.len() as u32);
            }
        }
        self.fusions.push(operands);
        while let Some((from, to)) = self.spans.range(..=last).next_back().map(|(f, t)| (*f, *t))
            && to >= first
        {
            self.spans.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.spans.insert(first, last);
    }

    /// True if one of the values depends on one of the nodes.
    pub fn depend(&self, graph: &Graph, values: &[ValueId], nodes: &BTreeSet<NodeId>) -> bool {
        let Some(mut first) = nodes.iter().map(|n| self.position(*n)).min() else { return false };
        // What stands before all of them cannot depend on them, unless a fusion leads back past it.
        if let Some((from, _)) = self.spans.range(..first).next_back().filter(|(_, to)| first <= **to) {
            first = *from;
        }
        let mut queue = values.to_vec();
        let mut seen = BTreeSet::new();
        let mut entered = BTreeSet::new();
        while let Some(v) = queue.pop() {
            let Some((id, _)) = graph.producer(v) else { continue };
            if nodes.contains(&id) {
                return true;
            }
            if self.position(id) < first || !seen.insert(id) {
                continue;
            }
            queue.extend(graph.node(id).operands().map(|(_, v)| v));
            if let Some(f) = self.owner.get(id.index()).copied().flatten()
                && entered.insert(f)
            {
                queue.extend(&self.fusions[f as usize]);
            }
        }
        false
    }
}
