//! Bodies of `If`, `Loop` and `Scan` stay as they came. What norms and quantisers begin with is counted in them, so that
//! nobody takes a report for one of the whole model.

use std::collections::BTreeMap;

use crate::onnx::{
    names::subgraphs,
    proto::{GraphProto, NodeProto},
};

/// Ops that norms and quantisers begin with, or are.
const SITES: &[&str] = &[
    "DynamicQuantizeLinear",
    "QuantizeLinear",
    "RMSNormalization",
    "ReduceL2",
    "ReduceMean",
    "ReduceSumSquare",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
];

/// What a node's bodies hide, if they hide anything.
pub fn note(node: &NodeProto) -> Option<String> {
    let mut found = BTreeMap::new();
    subgraphs(node).for_each(|g| count(g, &mut found));
    let list: Vec<String> = found.iter().map(|(op, n)| format!("{n} {op}")).collect();
    (!list.is_empty()).then(|| {
        let (name, op, list) = (node.name(), node.op_type(), list.join(", "));
        format!("node `{name}`: nothing is looked for in the bodies of `{op}`, in which there are {list}")
    })
}

fn count<'g>(graph: &'g GraphProto, found: &mut BTreeMap<&'g str, usize>) {
    for node in &graph.node {
        if SITES.contains(&node.op_type()) {
            *found.entry(node.op_type()).or_default() += 1;
        }
        subgraphs(node).for_each(|g| count(g, found));
    }
}
