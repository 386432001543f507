//! Changing a graph: operands, ops, and what nobody reads any more.

use std::collections::BTreeSet;

use super::{Graph, NodeId, ValueId, ix};
use crate::{Error, ErrorKind, Op, Result};

impl Graph {
    /// Makes one operand read another value.
    ///
    /// # Panics
    /// If the node, port or value does not exist.
    pub fn set_input(&mut self, user: NodeId, port: usize, value: Option<ValueId>) {
        if let Some(old) = self.node(user).inputs[port] {
            self.unlink(old, user, port);
        }
        self.node_mut(user).inputs[port] = value;
        if let Some(new) = value {
            self.link(new, user, port);
        }
    }

    /// Makes every user and graph result that reads `old` read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for (user, port) in self.users(old) {
            self.set_input(user, port, Some(new));
        }
        for out in &mut self.outputs {
            if out.value == old {
                out.value = new;
            }
        }
    }

    /// Replaces a node's op by one with as many operands and results.
    ///
    /// # Errors
    /// `Structure` if the numbers differ.
    pub fn set_op(&mut self, id: NodeId, op: Op) -> Result<()> {
        let node = self.node(id);
        let (min, max) = op.arity();
        let n = node.inputs.len();
        if n < min || max.is_some_and(|m| n > m) || op.num_outputs() != node.outputs.len() {
            return Err(Error::new(
                ErrorKind::Structure,
                format!("`{}` does not fit the ports of this node", op.name()),
            )
            .at_node(node.name.clone()));
        }
        self.node_mut(id).op = op;
        Ok(())
    }

    /// Removes a node whose results nobody reads.
    ///
    /// # Errors
    /// `Structure` if a result is still read.
    pub fn remove_node(&mut self, id: NodeId) -> Result<()> {
        let node = self.node(id).clone();
        for v in &node.outputs {
            if self.is_output(*v) || !self.users(*v).is_empty() {
                return Err(Error::new(
                    ErrorKind::Structure,
                    format!("`{}` is still read and cannot be removed", self.value(*v).name),
                )
                .at_node(node.name));
            }
        }
        for (port, v) in node.operands() {
            self.unlink(v, id, port);
        }
        for v in node.outputs {
            self.values[v.index()] = None;
        }
        self.nodes[ix(id)] = None;
        self.live -= 1;
        Ok(())
    }

    /// Removes every node that no graph result depends on, walking back from `roots`; returns how many went.
    /// Foreign ops fall away like others: a graph without side effects is what both formats describe.
    pub fn remove_dead(&mut self, roots: impl IntoIterator<Item = NodeId>) -> usize {
        let mut queue: Vec<NodeId> = roots.into_iter().collect();
        let mut removed = 0;
        while let Some(id) = queue.pop() {
            let Some(node) = self.try_node(id) else { continue };
            let producers: Vec<NodeId> =
                node.operands().filter_map(|(_, v)| self.producer(v).map(|(n, _)| n)).collect();
            if self.remove_node(id).is_ok() {
                removed += 1;
                queue.extend(producers);
            }
        }
        removed
    }

    /// Constants that nobody reads.
    pub fn unused_consts(&self) -> BTreeSet<ValueId> {
        let unread = |id: &ValueId| self.leaf_uses.get(id).is_none_or(BTreeSet::is_empty) && !self.is_output(*id);
        self.values().filter(|(_, v)| v.as_const().is_some()).map(|(id, _)| id).filter(unread).collect()
    }

    /// Removes constants that nobody reads, but for those to keep.
    pub fn remove_unused_consts(&mut self, keep: &BTreeSet<ValueId>) {
        for id in self.unused_consts().difference(keep) {
            self.values[id.index()] = None;
            self.leaf_uses.remove(id);
        }
    }
}
