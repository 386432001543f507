//! Orders in which producers come before users.

use std::{cmp::Reverse, collections::BinaryHeap};

use petgraph::{Direction, visit::EdgeRef};

use super::{Graph, NodeId, ValueId, ix};
use crate::{Error, ErrorKind, Result};

/// A node that the walk has not met, one that it is inside of, and one that it is done with.
#[derive(Clone, Copy, PartialEq)]
enum Met {
    Not,
    Open,
    Done,
}

fn cycle(node: &str) -> Error {
    Error::new(ErrorKind::Structure, "the graph has a cycle through this node").at_node(node)
}

impl Graph {
    /// Live nodes, producers before users, from the graph's results in their order: no matter in which order nodes were
    /// added. Those that no result needs come last, the oldest first.
    ///
    /// # Errors
    /// `Structure` with a node on a cycle.
    pub fn order_from_outputs(&self) -> Result<Vec<NodeId>> {
        let mut met = vec![Met::Not; self.node_bound()];
        let mut order = Vec::with_capacity(self.node_count());
        let mut stack: Vec<NodeId> = Vec::new();
        let roots = self.outputs().iter().filter_map(|o| self.producer(o.value)).map(|(n, _)| n);
        for root in roots.chain(self.nodes().map(|(id, _)| id)) {
            stack.push(root);
            while let Some(id) = stack.last().copied() {
                match met[id.index()] {
                    Met::Not => {
                        met[id.index()] = Met::Open;
                        let node = self.node(id);
                        for (from, _) in node.inputs.iter().rev().flatten().filter_map(|v| self.producer(*v)) {
                            match met[from.index()] {
                                Met::Not => stack.push(from),
                                Met::Open => return Err(cycle(&node.name)),
                                Met::Done => {}
                            }
                        }
                    }
                    // All that it reads is done.
                    Met::Open => {
                        met[id.index()] = Met::Done;
                        order.push(id);
                        stack.pop();
                    }
                    // It was waiting when another user needed it first.
                    Met::Done => _ = stack.pop(),
                }
            }
        }
        Ok(order)
    }

    /// Live nodes, producers before users; among nodes that are ready, the oldest first.
    ///
    /// # Errors
    /// `Structure` with a node on a cycle.
    pub fn topo_order(&self) -> Result<Vec<NodeId>> {
        // Most graphs are created in that order already.
        let after = |id: NodeId, v: ValueId| self.producer(v).is_none_or(|(from, _)| from < id);
        if self.nodes().all(|(id, node)| node.operands().all(|(_, v)| after(id, v))) {
            return Ok(self.nodes().map(|(id, _)| id).collect());
        }
        let mut missing = vec![0usize; self.node_bound()];
        let mut ready = BinaryHeap::new();
        for (id, node) in self.nodes() {
            missing[id.index()] = node.operands().filter(|(_, v)| self.producer(*v).is_some()).count();
            if missing[id.index()] == 0 {
                ready.push(Reverse(id));
            }
        }
        let mut order = Vec::with_capacity(self.node_count());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for e in self.nodes.edges_directed(ix(id), Direction::Outgoing) {
                let user = NodeId(e.target().index() as u32);
                if self.try_node(user).is_none() {
                    continue;
                }
                missing[user.index()] -= 1;
                if missing[user.index()] == 0 {
                    ready.push(Reverse(user));
                }
            }
        }
        if order.len() < self.node_count() {
            let stuck = self.nodes().find(|(id, _)| missing[id.index()] > 0).map(|(_, n)| n.name.as_str());
            return Err(cycle(stuck.unwrap_or_default()));
        }
        Ok(order)
    }
}
