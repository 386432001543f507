//! Nodes that the host has marked: while the pass runs they are foreign ops, which nothing in it looks into or replaces.

use std::sync::Arc;

use normfuse_ir::{Graph, NodeId, Op, op::ForeignOp};

use crate::Options;

/// The ops of hidden nodes.
pub(crate) struct Hidden(Vec<(NodeId, Op)>);

impl Hidden {
    /// Hides what the options call opaque. Types stay: they were inferred before.
    pub(crate) fn hide(graph: &mut Graph, options: &Options) -> Self {
        let Some(opaque) = &options.opaque else { return Self(Vec::new()) };
        let marked: Vec<(NodeId, Op)> =
            graph.nodes().filter(|(_, n)| opaque(n)).map(|(id, n)| (id, n.op.clone())).collect();
        for (id, op) in &marked {
            let stand_in = ForeignOp {
                domain: "opaque".into(),
                op_type: op.name(),
                overload: String::new(),
                encoding: String::new(),
                attributes: Vec::new(),
                captures: 0,
                outputs: op.num_outputs(),
                reason: "the host calls it opaque".into(),
            };
            // As many results as before, and a foreign op takes any operands: this does not fail.
            let _ = graph.set_op(*id, Op::Foreign(Arc::new(stand_in)));
        }
        Self(marked)
    }

    /// Gives every node that is still there its op back, and tells which those are.
    pub(crate) fn restore(self, graph: &mut Graph) -> Vec<NodeId> {
        let mut there = Vec::with_capacity(self.0.len());
        for (id, op) in self.0 {
            if graph.try_node(id).is_some() {
                let _ = graph.set_op(id, op);
                there.push(id);
            }
        }
        there
    }
}
