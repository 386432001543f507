//! Unique names, and which names a subgraph takes from outside.

use std::collections::{HashMap, HashSet};

use super::proto::{GraphProto, NodeProto};

/// Starts the names of results that a node leaves out (an empty name in the file). While nobody reads such a value it
/// is written as left out again.
pub const OMITTED: &str = "_omitted_";

/// Names that are taken. Only asked by name, never iterated.
#[derive(Debug, Default, Clone)]
pub struct Names {
    used: HashSet<String>,
    next: HashMap<String, usize>,
}

impl Names {
    /// Takes a name; false if somebody has it.
    pub fn claim(&mut self, name: &str) -> bool {
        self.used.insert(name.to_owned())
    }

    /// `base`, or `base_1`, `base_2`, ... : the first that is free, taken.
    pub fn fresh(&mut self, base: &str) -> String {
        if self.claim(base) {
            return base.to_owned();
        }
        let mut next = self.next.get(base).copied().unwrap_or(1);
        loop {
            let name = format!("{base}_{next}");
            next += 1;
            if self.claim(&name) {
                self.next.insert(base.to_owned(), next);
                return name;
            }
        }
    }

    /// Takes every value name of a graph and of the graphs inside it.
    pub fn claim_graph(&mut self, graph: &GraphProto) {
        let infos = graph.input.iter().chain(&graph.output).map(super::proto::ValueInfoProto::name);
        for name in infos.chain(graph.initializer.iter().map(super::proto::TensorProto::name)) {
            self.claim(name);
        }
        for node in &graph.node {
            self.claim_node(node);
        }
    }

    /// Takes every value name of a node and of the graphs inside it.
    pub fn claim_node(&mut self, node: &NodeProto) {
        for name in node.input.iter().chain(&node.output) {
            self.claim(name);
        }
        subgraphs(node).for_each(|g| self.claim_graph(g));
    }
}

/// The graphs in a node's attributes, in file order.
pub fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs))
}

/// The graphs in a node's attributes, to change them.
pub fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs))
}

/// Names that the graphs of a node read and do not define: each once, in order of appearance.
pub fn captured(node: &NodeProto) -> Vec<String> {
    let mut found = Vec::new();
    for g in subgraphs(node) {
        free_names(g, &mut found);
    }
    let mut seen = HashSet::new();
    found.into_iter().filter(|n| seen.insert(*n)).map(str::to_owned).collect()
}

fn free_names<'a>(graph: &'a GraphProto, out: &mut Vec<&'a str>) {
    let mut inside: HashSet<&str> = graph.input.iter().map(super::proto::ValueInfoProto::name).collect();
    inside.extend(graph.initializer.iter().map(super::proto::TensorProto::name));
    inside
        .extend(graph.sparse_initializer.iter().filter_map(|t| t.values.as_ref()).map(super::proto::TensorProto::name));
    inside.extend(graph.node.iter().flat_map(|n| &n.output).map(String::as_str));
    let mut read = Vec::new();
    for node in &graph.node {
        read.extend(node.input.iter().map(String::as_str));
        for g in subgraphs(node) {
            free_names(g, &mut read);
        }
    }
    read.extend(graph.output.iter().map(super::proto::ValueInfoProto::name));
    out.extend(read.into_iter().filter(|n| !n.is_empty() && !inside.contains(n)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_names_do_not_repeat() {
        let mut n = Names::default();
        assert!(n.claim("x_1"));
        assert_eq!([n.fresh("x"), n.fresh("x"), n.fresh("x")], ["x", "x_2", "x_3"]);
    }
}
