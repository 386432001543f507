//! Whether the three places that say who reads what agree: operand lists, petgraph edges, uses of leaves.

use petgraph::{Direction, visit::EdgeRef};

use super::{Def, Graph, NodeId, ix};
use crate::{Error, ErrorKind, Result};

impl Graph {
    /// Checks that operands, results, edges, leaf uses and counts tell one story, both ways.
    ///
    /// # Errors
    /// `Structure` with the node and operand.
    pub(crate) fn check_links(&self) -> Result<()> {
        let mut leaf_operands = 0usize;
        let mut reads = vec![0; self.values.len()];
        for (id, node) in self.nodes() {
            let bad = |port: usize, message: String| {
                Error::new(ErrorKind::Structure, message)
                    .at_node(node.name.clone())
                    .at_port(crate::infer::operand_name(&node.op, port))
            };
            let mut made = 0usize;
            for (port, v) in node.operands() {
                let Some(value) = self.try_value(v) else {
                    return Err(bad(port, format!("value #{} does not exist", v.index())));
                };
                reads[v.index()] += 1;
                if let Def::Node { node: from, port: from_port } = value.def {
                    let result = self.try_node(from).and_then(|n| n.outputs.get(from_port));
                    if result != Some(&v) {
                        return Err(bad(port, format!("no node has the result `{}`", value.name)));
                    }
                    made += 1;
                } else {
                    leaf_operands += 1;
                    if !self.leaf_uses[v.index()].contains(&(id, port as u32)) {
                        return Err(bad(port, format!("`{}` does not list this use", value.name)));
                    }
                }
            }
            // Distinct edges name distinct ports, so that as many edges as operands are a one-to-one match.
            let mut linked = vec![false; node.inputs.len()];
            for e in self.nodes.edges_directed(ix(id), Direction::Incoming) {
                let (from, to) = (e.weight().from_port as usize, e.weight().to_port as usize);
                let source = NodeId(e.source().index() as u32);
                let read = node.input(to).and_then(|v| self.try_value(v)).map(|v| &v.def);
                let agrees = matches!(read, Some(Def::Node { node, port }) if *node == source && *port == from);
                if !agrees || linked.get_mut(to).is_none_or(|l| std::mem::replace(l, true)) {
                    return Err(bad(to, "an edge says that another node's result is read here".into()));
                }
            }
            if let Some(port) = (0..node.inputs.len()).find(|p| {
                let from_node = node.input(*p).is_some_and(|v| matches!(self.value(v).def, Def::Node { .. }));
                from_node != linked[*p]
            }) {
                return Err(bad(port, format!("no edge leads here, though {made} operands are other nodes' results")));
            }
            for (port, v) in node.outputs.iter().enumerate() {
                let def = self.try_value(*v).map(|v| &v.def);
                if !matches!(def, Some(Def::Node { node, port: p }) if *node == id && *p == port) {
                    return Err(Error::new(ErrorKind::Structure, "the value of this result is another's")
                        .at_node(node.name.clone())
                        .at_port(crate::infer::result_name(&node.op, port)));
                }
            }
        }
        let uses: usize = self.leaf_uses.iter().map(std::collections::BTreeSet::len).sum();
        if uses != leaf_operands {
            let message = format!("{leaf_operands} operands read inputs and constants, but {uses} uses are listed");
            return Err(Error::new(ErrorKind::Structure, message));
        }
        if let Some(v) = self.values().map(|(v, _)| v).find(|v| reads[v.index()] != self.reads[v.index()]) {
            let (name, found) = (&self.value(v).name, self.reads[v.index()]);
            let message = format!("{} operands read `{name}`, but {found} are counted", reads[v.index()]);
            return Err(Error::new(ErrorKind::Structure, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType, Op, Type, ValueId,
        graph::Use,
        op::{BinaryOp, UnaryOp},
    };

    /// `z = x + abs(x)`, with the ids of x, of abs and of the sum.
    fn graph() -> (Graph, ValueId, NodeId, NodeId) {
        let mut g = Graph::new("g");
        let x = g.add_input("x", Type::tensor(DType::F32, vec![4.into()]));
        let abs = g.add_node("abs", Op::Unary(UnaryOp::Abs), &[Some(x)], ["y"]).unwrap();
        let y = g.node(abs).outputs[0];
        let add = g.add_node("add", Op::Binary(BinaryOp::Add), &[Some(x), Some(y)], ["z"]).unwrap();
        g.add_output("z", g.node(add).outputs[0]);
        (g, x, abs, add)
    }

    fn breaks(f: impl FnOnce(&mut Graph, ValueId, NodeId, NodeId)) -> String {
        let (mut g, x, abs, add) = graph();
        g.check_links().unwrap();
        f(&mut g, x, abs, add);
        let found = g.check_links().unwrap_err();
        assert!(g.verify().is_err());
        found.to_string()
    }

    #[test]
    fn edges_that_are_not_operands() {
        let link = |from_port, to_port| Use { from_port, to_port };
        let first = |g: &Graph| g.nodes.edge_indices().next().unwrap();
        let gone = breaks(|g, _, _, _| _ = g.nodes.remove_edge(first(g)));
        assert!(gone.contains("node `add`, operand 1 (b): no edge leads here"), "{gone}");
        let says = [
            breaks(|g, _, abs, add| _ = g.nodes.add_edge(ix(abs), ix(add), link(0, 1))),
            breaks(|g, _, abs, add| _ = g.nodes.add_edge(ix(abs), ix(add), link(0, 9))),
            breaks(|g, _, _, _| {
                let edge = first(g);
                g.nodes[edge].from_port = 3;
            }),
            breaks(|g, _, _, add| g.node_mut(add).inputs[1] = None),
        ];
        assert!(says.iter().all(|s| s.contains("an edge says")), "{says:?}");
    }

    #[test]
    fn values_and_uses_that_do_not_fit() {
        let unlisted = breaks(|g, x, _, _| g.leaf_uses[x.index()].clear());
        assert!(unlisted.contains("`x` does not list this use"), "{unlisted}");
        let extra = breaks(|g, x, abs, _| _ = g.leaf_uses[x.index()].insert((abs, 7)));
        assert!(extra.contains("3 uses are listed"), "{extra}");
        let counted = breaks(|g, x, _, _| g.reads[x.index()] = 1);
        assert!(counted.contains("2 operands read `x`, but 1 are counted"), "{counted}");
        let stolen = breaks(|g, x, abs, _| g.node_mut(abs).outputs[0] = x);
        assert!(stolen.contains("another's"), "{stolen}");
        let missing = breaks(|g, _, _, _| g.values[1] = None);
        assert!(missing.contains("does not exist") || missing.contains("another's"), "{missing}");
        assert!(breaks(|g, _, _, _| g.values[2] = None).contains("another's"));
    }

    #[test]
    fn a_cycle_is_refused() {
        let (mut g, _, abs, add) = graph();
        let z = g.node(add).outputs[0];
        g.set_input(abs, 0, Some(z));
        g.check_links().unwrap();
        assert!(g.verify().unwrap_err().to_string().contains("cycle"));
    }
}
