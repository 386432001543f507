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
    position: Vec<u32>,
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
        let nodes = graph.order_from_outputs()?;
        let mut position = vec![u32::MAX; graph.node_bound()];
        for (at, n) in nodes.iter().enumerate() {
            position[n.index()] = at as u32;
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
        self.position.get(id.index()).filter(|p| **p != u32::MAX).map_or(usize::MAX, |p| *p as usize)
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
