//! Which value depends on which, also after fusions that are decided but not yet made.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Graph, NodeId, Result, ValueId};

/// A topological order that follows from the graph's outputs alone, and the fusions that have been decided.
///
/// A fused op reads all its operands before it gives any result. So once it is decided, whatever one of its results
/// reaches depends on all of its operands, and a second fusion must be checked against that, not against the source.
#[derive(Debug)]
pub struct Order {
    position: BTreeMap<NodeId, usize>,
    /// The fusion that a node vanishes into.
    owner: BTreeMap<NodeId, usize>,
    fusions: Vec<Fusion>,
}

#[derive(Debug)]
struct Fusion {
    operands: Vec<ValueId>,
    first: usize,
    last: usize,
}

impl Order {
    /// The order of a graph, with nothing decided.
    ///
    /// # Errors
    /// The graph has a cycle.
    pub fn new(graph: &Graph) -> Result<Self> {
        let all = graph.topo_order()?;
        // Producers first, from the outputs in their order: no matter in which order nodes were added.
        let mut position = BTreeMap::new();
        let mut stack: Vec<(NodeId, bool)> = Vec::new();
        let push = |stack: &mut Vec<(NodeId, bool)>, v: ValueId| {
            stack.extend(graph.producer(v).map(|(n, _)| (n, false)));
        };
        for output in graph.outputs().iter().rev() {
            push(&mut stack, output.value);
        }
        while let Some((id, ready)) = stack.pop() {
            if position.contains_key(&id) {
                continue;
            }
            if ready {
                position.insert(id, position.len());
                continue;
            }
            stack.push((id, true));
            let operands: Vec<ValueId> = graph.node(id).operands().map(|(_, v)| v).collect();
            for v in operands.into_iter().rev() {
                push(&mut stack, v);
            }
        }
        // What no output needs comes last.
        for id in all {
            let next = position.len();
            position.entry(id).or_insert(next);
        }
        Ok(Self { position, owner: BTreeMap::new(), fusions: Vec::new() })
    }

    /// Where a node stands.
    pub fn position(&self, id: NodeId) -> usize {
        self.position.get(&id).copied().unwrap_or(usize::MAX)
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
        let (Some(first), Some(last)) = (positions().min(), positions().max()) else { return };
        for n in nodes {
            self.owner.insert(*n, self.fusions.len());
        }
        self.fusions.push(Fusion { operands, first, last });
    }

    /// True if one of the values depends on one of the nodes.
    pub fn depend(&self, graph: &Graph, values: &[ValueId], nodes: &BTreeSet<NodeId>) -> bool {
        let Some(mut first) = nodes.iter().map(|n| self.position(*n)).min() else { return false };
        // What stands before all of them cannot depend on them, unless a fusion leads back past it.
        while let Some(f) = self.fusions.iter().find(|f| f.first < first && first <= f.last) {
            first = f.first;
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
            if let Some(f) = self.owner.get(&id)
                && entered.insert(*f)
            {
                queue.extend(&self.fusions[*f].operands);
            }
        }
        false
    }
}
