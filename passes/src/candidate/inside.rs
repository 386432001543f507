//! The nodes that an op may replace: which of them it makes, which somebody outside still needs, and which value is
//! read from outside though the op would hide it.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Graph, NodeId, ValueId};

use super::builder::Port;
use crate::{reach::Order, views::is_view};

/// Values, and the ports that they stand for.
pub(super) type Ports = BTreeMap<ValueId, Port>;

pub(super) struct Inside<'a> {
    graph: &'a Graph,
    order: &'a Order,
    /// Producers first.
    pub(super) nodes: Vec<NodeId>,
    set: BTreeSet<NodeId>,
}

impl<'a> Inside<'a> {
    pub(super) fn new(graph: &'a Graph, order: &'a Order, set: BTreeSet<NodeId>) -> Self {
        Self { graph, order, nodes: order.sorted(set.iter().copied()), set }
    }

    /// A value and what views make of it: those are said anew, in terms of the port.
    pub(super) fn with_views(&self, value: ValueId) -> Vec<ValueId> {
        let mut all = vec![value];
        let mut i = 0;
        while i < all.len() && all.len() < 16 {
            for (user, port) in self.graph.users(all[i]) {
                if port == 0 && is_view(self.graph, user) && self.set.contains(&user) {
                    all.extend(&self.graph.node(user).outputs);
                }
            }
            i += 1;
        }
        all
    }

    /// Nodes that somebody still needs when the ports are there, and the ports that somebody reads. Values that are `held`
    /// are needed, and readers that are `idle` need nothing.
    pub(super) fn liveness(
        &self,
        ports: &Ports,
        held: impl Fn(ValueId) -> bool,
        idle: impl Fn(NodeId) -> bool,
    ) -> (BTreeSet<NodeId>, BTreeSet<Port>) {
        let mut live = BTreeSet::new();
        let mut read = BTreeSet::new();
        for id in self.nodes.iter().rev() {
            for v in &self.graph.node(*id).outputs {
                let needed = self.graph.is_output(*v)
                    || held(*v)
                    || self.graph.uses(*v).any(|(u, _)| (!self.set.contains(&u) || live.contains(&u)) && !idle(u));
                if !needed {
                    continue;
                }
                match ports.get(v) {
                    Some(port) => {
                        read.insert(*port);
                    }
                    None => {
                        live.insert(*id);
                    }
                }
            }
        }
        (live, read)
    }

    /// Nodes between the operands, at which it stops, and some values.
    pub(super) fn core(&self, stops: &BTreeSet<ValueId>, of: impl IntoIterator<Item = ValueId>) -> BTreeSet<NodeId> {
        let mut core = BTreeSet::new();
        let mut queue: Vec<ValueId> = of.into_iter().collect();
        while let Some(v) = queue.pop() {
            if stops.contains(&v) {
                continue;
            }
            if let Some((id, _)) = self.graph.producer(v)
                && self.set.contains(&id)
                && core.insert(id)
            {
                queue.extend(self.graph.node(id).operands().map(|(_, v)| v));
            }
        }
        core
    }

    /// Those of the nodes that depend on one of the values or on one of the nodes.
    pub(super) fn downstream(&self, values: &BTreeSet<ValueId>, nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut downstream = nodes;
        for id in &self.nodes {
            let depends = |v: ValueId| {
                values.contains(&v) || self.graph.producer(v).is_some_and(|(p, _)| downstream.contains(&p))
            };
            if self.graph.node(*id).operands().any(|(_, v)| depends(v)) {
                downstream.insert(*id);
            }
        }
        downstream
    }

    /// The node to name among those of a core that must not be seen from outside, and are.
    pub(super) fn hidden(&self, core: &BTreeSet<NodeId>, escapes: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let escaping = || self.nodes.iter().copied().filter(|n| core.contains(n) && escapes(*n));
        // The one that is read from outside keeps those before it alive; that is the one to name.
        let direct = |n: &NodeId| {
            let outside =
                |v: &ValueId| self.graph.is_output(*v) || self.graph.uses(*v).any(|(u, _)| !core.contains(&u));
            self.graph.node(*n).outputs.iter().any(outside)
        };
        escaping().find(direct).or_else(|| escaping().next())
    }

    pub(super) fn outside_reader(&self, node: NodeId, live: &BTreeSet<NodeId>) -> String {
        let out = self.graph.node(node).outputs[0];
        let readers = self.graph.uses(out).map(|(u, _)| u).filter(|u| !self.set.contains(u) || live.contains(u));
        readers.min_by_key(|u| self.order.position(*u)).map_or_else(
            || "is a graph output".to_owned(),
            |u| format!("is read by `{}` outside", self.graph.node(u).name),
        )
    }

    /// The values that stand for a port, in the graph's order, so that the first one is the one the others are views of.
    pub(super) fn values_of(&self, ports: &Ports, port: Port) -> Vec<ValueId> {
        let made = self.nodes.iter().flat_map(|n| self.graph.node(*n).outputs.iter().copied());
        made.filter(|v| ports.get(v) == Some(&port)).collect()
    }

    /// What an op that makes the core and keeps what is live replaces, and what of that is made of its rows: the op's own
    /// core.
    pub(super) fn replaced(
        &self,
        core: BTreeSet<NodeId>,
        live: &BTreeSet<NodeId>,
        ports: &Ports,
        rows: &BTreeSet<ValueId>,
    ) -> (Vec<NodeId>, BTreeSet<NodeId>) {
        // Behind the results, too: a value of which only the shape is asked, which the rows can tell.
        let mut within = core;
        for id in &self.nodes {
            let made = |v: ValueId| self.graph.producer(v).is_some_and(|(p, _)| within.contains(&p));
            if self.graph.node(*id).operands().any(|(_, v)| made(v)) {
                within.insert(*id);
            }
        }
        let replaced: Vec<NodeId> =
            self.nodes.iter().copied().filter(|n| within.contains(n) && !live.contains(n)).collect();
        // Those that depend on the rows, be it by way of one that stays.
        let mut made = BTreeSet::new();
        for id in self.nodes.iter().filter(|n| within.contains(n)) {
            let depends =
                |v: ValueId| rows.contains(&v) || self.graph.producer(v).is_some_and(|(p, _)| made.contains(&p));
            if self.graph.node(*id).operands().any(|(_, v)| depends(v)) {
                made.insert(*id);
            }
        }
        // What stays for others is not made by the op, unless the op gives another result of it.
        let gives_port = |n: &NodeId| self.graph.node(*n).outputs.iter().any(|v| ports.contains_key(v));
        (replaced, made.into_iter().filter(|n| !live.contains(n) || gives_port(n)).collect())
    }
}
