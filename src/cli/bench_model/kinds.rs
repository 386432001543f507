//! What kind of work a step is: what fusion is about, and what it is not.

use std::collections::{BTreeMap, BTreeSet};

use normfuse::ir::{Def, Descriptor, Graph, Node, Op, ValueId};

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Fused ops, and the nodes that fused ops take the place of.
    Fusible,
    /// Matrix products.
    Product,
    /// Attention, and what puts new keys and values behind those of the cache.
    Attention,
    /// All else.
    Rest,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Fusible, Self::Product, Self::Attention, Self::Rest];

    /// What it is called in a table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Fusible => "norms, quantisers, gates",
            Self::Product => "products",
            Self::Attention => "attention and its cache",
            Self::Rest => "rest",
        }
    }

    /// What it is called in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fusible => "fusible",
            Self::Product => "products",
            Self::Attention => "attention",
            Self::Rest => "rest",
        }
    }
}

/// The kinds of a graph's nodes, by name; those that are not there are the rest.
pub struct Kinds(BTreeMap<String, Kind>);

impl Kinds {
    /// Of a graph, where fused ops take the place of these nodes.
    pub fn of(graph: &Graph, replaced: &BTreeSet<&str>) -> Self {
        let mut kinds = BTreeMap::new();
        for (_, node) in graph.nodes() {
            let kind = match &node.op {
                op if Descriptor::of(op).is_some() || replaced.contains(node.name.as_str()) => Kind::Fusible,
                Op::MatMul | Op::Gemm { .. } | Op::MatMulInteger | Op::ScaledMatMul(_) => Kind::Product,
                Op::Attention(_) => {
                    for value in node.inputs.iter().flatten() {
                        kinds.extend(cache(graph, *value).into_iter().map(|n| (n.name.clone(), Kind::Attention)));
                    }
                    Kind::Attention
                }
                _ => continue,
            };
            kinds.insert(node.name.clone(), kind);
        }
        Self(kinds)
    }

    /// The kind of a step of these nodes: the first that one of them has.
    pub fn step<'n>(&self, nodes: impl Iterator<Item = &'n String>) -> Kind {
        nodes.filter_map(|name| self.0.get(name).copied()).min().unwrap_or(Kind::Rest)
    }
}

/// What joins a cache, an input of the graph, to new rows, and hands both to an attention by this value; empty if none does.
fn cache(graph: &Graph, mut value: ValueId) -> Vec<&Node> {
    let given = |v: &ValueId| matches!(graph.value(*v).def, Def::Input { .. });
    let mut nodes = Vec::new();
    while let Some((id, _)) = graph.producer(value) {
        let node = graph.node(id);
        nodes.push(node);
        match &node.op {
            Op::Concat { .. } if node.inputs.iter().flatten().any(given) => return nodes,
            // Heads that share keys have copies of them in some graphs.
            Op::Expand | Op::Reshape { .. } | Op::Unsqueeze { .. } | Op::Transpose { .. } => {}
            _ => break,
        }
        let Some(from) = node.input(0) else { break };
        value = from;
    }
    Vec::new()
}
