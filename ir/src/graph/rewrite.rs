//! Changing a graph: operands, ops, and what nobody reads any more.

use std::collections::BTreeSet;

use super::{Def, Graph, NOBODY, NodeId, ValueId, ix};
use crate::{Error, ErrorKind, Op, Result, Shape, Tensor};

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
        // The youngest first: that is where the list of a hub's edges begins.
        for (user, port) in self.users(old).into_iter().rev() {
            self.set_input(user, port, Some(new));
        }
        let moved = std::mem::take(&mut self.results[old.index()]);
        if moved > 0 {
            self.outputs.iter_mut().filter(|o| o.value == old).for_each(|o| o.value = new);
            self.results[new.index()] += moved;
        }
    }

    /// Makes a result of the graph another value; its name and declared type stay.
    ///
    /// # Panics
    /// If there is no such result or value.
    pub fn set_output(&mut self, index: usize, value: ValueId) {
        let old = std::mem::replace(&mut self.outputs[index].value, value);
        self.results[old.index()] -= 1;
        self.results[value.index()] += 1;
    }

    /// Gives constants other contents, and makes inputs constants: from then on no caller passes those.
    ///
    /// # Panics
    /// If a value does not exist or a node makes it.
    pub fn set_consts(&mut self, given: impl IntoIterator<Item = (ValueId, Tensor)>) {
        for (leaf, tensor) in given {
            let value = self.values[leaf.index()].as_mut().expect("value was removed");
            assert!(!matches!(value.def, Def::Node { .. }), "`{}` is made by a node", value.name);
            (value.ty.dtype, value.ty.shape) = (Some(tensor.dtype()), Some(Shape::from_concrete(tensor.shape())));
            value.def = Def::Const(tensor);
        }
        let values = &self.values;
        let is_input = |v: &ValueId| values[v.index()].as_ref().is_some_and(|v| matches!(v.def, Def::Input { .. }));
        self.inputs.retain(is_input);
    }

    /// Removes inputs that nobody reads, of those that are asked about.
    pub fn remove_unread_inputs(&mut self, asked: &BTreeSet<ValueId>) {
        let gone = |g: &Self, v: ValueId| asked.contains(&v) && !g.is_read(v);
        let (gone, kept): (Vec<_>, Vec<_>) = self.inputs.iter().partition(|v| gone(self, **v));
        self.inputs = kept;
        for id in gone {
            self.values[id.index()] = None;
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
        let node = self.node(id);
        if let Some(v) = node.outputs.iter().find(|v| self.is_read(**v)) {
            let message = format!("`{}` is still read and cannot be removed", self.value(*v).name);
            return Err(Error::new(ErrorKind::Structure, message).at_node(node.name.clone()));
        }
        let Some(node) = self.nodes[ix(id)].take() else { return Ok(()) };
        for (port, v) in node.operands() {
            self.reads[v.index()] -= 1;
            if self.producer(v).is_none() {
                self.leaf_uses[v.index()].remove(&(id, port as u32));
            }
        }
        for v in node.outputs {
            self.values[v.index()] = None;
            self.makers[v.index()] = NOBODY;
        }
        self.live -= 1;
        Ok(())
    }

    /// Removes every node that no graph result depends on, walking back from `roots`; returns how many went.
    /// Foreign ops fall away like others: a graph without side effects is what both formats describe.
    pub fn remove_dead(&mut self, roots: impl IntoIterator<Item = NodeId>) -> usize {
        self.remove_dead_but(roots, &BTreeSet::new())
    }

    /// As [`Graph::remove_dead`], and what makes a value of `keep` stays as if that were read.
    pub fn remove_dead_but(&mut self, roots: impl IntoIterator<Item = NodeId>, keep: &BTreeSet<ValueId>) -> usize {
        let mut queue: Vec<NodeId> = roots.into_iter().collect();
        let mut removed = 0;
        while let Some(id) = queue.pop() {
            let Some(node) = self.try_node(id) else { continue };
            // Asked before, since an error would be written out for each node that stays.
            if node.outputs.iter().any(|v| self.is_read(*v) || keep.contains(v)) {
                continue;
            }
            queue.extend(node.operands().filter_map(|(_, v)| self.producer(v).map(|(n, _)| n)));
            removed += usize::from(self.remove_node(id).is_ok());
        }
        removed
    }

    /// Constants that nobody reads.
    pub fn unused_consts(&self) -> BTreeSet<ValueId> {
        let consts = self.values().filter(|(_, v)| v.as_const().is_some()).map(|(id, _)| id);
        consts.filter(|id| !self.is_read(*id)).collect()
    }

    /// Removes constants that nobody reads, but for those to keep.
    pub fn remove_unused_consts(&mut self, keep: &BTreeSet<ValueId>) {
        for id in self.unused_consts().difference(keep) {
            self.values[id.index()] = None;
        }
    }
}
