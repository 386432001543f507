//! External weights inside subgraphs move to the main graph, where the branch or loop body captures them by name.
//!
//! A foreign op's subgraph travels as opaque bytes, and bytes cannot follow when the model is written elsewhere.

use std::collections::HashMap;

use super::functions::{Flat, label};
use crate::{
    FormatError, Result,
    onnx::{
        names::{Names, subgraphs, subgraphs_mut},
        proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataLocation},
    },
};

fn external(t: &TensorProto) -> bool {
    t.data_location() == DataLocation::External
}

/// Takes the external initializers out of every subgraph of `nodes`.
///
/// # Errors
/// External data in a place that cannot be moved: a default of a subgraph's input, an attribute inside a subgraph.
pub fn hoist(nodes: &mut [Flat], graph: &GraphProto, names: &mut Names) -> Result<Vec<TensorProto>> {
    let mut definitions: HashMap<String, usize> = HashMap::new();
    let any = nodes.iter().any(|f| subgraphs(&f.node).any(has_external));
    if any {
        count_leaves(graph, &mut definitions);
        for f in nodes.iter() {
            count_node(&f.node, &mut definitions);
        }
    }
    let mut out = Vec::new();
    for f in nodes {
        let title = label(&f.node);
        for g in subgraphs_mut(&mut f.node) {
            move_out(g, &definitions, names, &mut out).map_err(|e| e.at_node(&title))?;
        }
    }
    Ok(out)
}

fn has_external(g: &GraphProto) -> bool {
    g.initializer.iter().any(external) || g.node.iter().any(|n| subgraphs(n).any(has_external))
}

fn count_leaves(g: &GraphProto, definitions: &mut HashMap<String, usize>) {
    for v in &g.input {
        *definitions.entry(v.name().to_owned()).or_default() += 1;
    }
    for t in &g.initializer {
        *definitions.entry(t.name().to_owned()).or_default() += 1;
    }
}

fn count_node(node: &NodeProto, definitions: &mut HashMap<String, usize>) {
    for name in &node.output {
        *definitions.entry(name.clone()).or_default() += 1;
    }
    for g in subgraphs(node) {
        count_leaves(g, definitions);
        for inner in &g.node {
            count_node(inner, definitions);
        }
    }
}

fn move_out(
    g: &mut GraphProto,
    definitions: &HashMap<String, usize>,
    names: &mut Names,
    out: &mut Vec<TensorProto>,
) -> Result<()> {
    let (moved, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut g.initializer).into_iter().partition(external);
    g.initializer = kept;
    for mut t in moved {
        let name = t.name().to_owned();
        if g.input.iter().any(|v| v.name() == name) {
            return Err(FormatError::mismatch(
                "inline data",
                format!("external data of `{name}`, the default of a subgraph's input"),
            ));
        }
        let returned = g.output.iter().any(|v| v.name() == name);
        if returned || definitions.get(&name) != Some(&1) {
            let fresh = names.fresh(&name);
            rename_reads(g, &name, &fresh);
            if returned {
                // A subgraph must make what it returns.
                g.node.push(NodeProto {
                    op_type: Some("Identity".into()),
                    input: vec![fresh.clone()],
                    output: vec![name],
                    ..NodeProto::default()
                });
            }
            t.name = Some(fresh);
        }
        out.push(t);
    }
    for node in &mut g.node {
        for a in &node.attribute {
            if a.t.iter().chain(&a.tensors).any(external) {
                return Err(FormatError::mismatch("inline data in the attributes of a subgraph", "external data")
                    .at_port(super::attrs::port(a.name())));
            }
        }
        for inner in subgraphs_mut(node) {
            move_out(inner, definitions, names, out)?;
        }
    }
    Ok(())
}

fn rename_reads(g: &mut GraphProto, from: &str, to: &str) {
    for node in &mut g.node {
        for name in node.input.iter_mut().filter(|n| *n == from) {
            to.clone_into(name);
        }
        for inner in subgraphs_mut(node) {
            rename_reads(inner, from, to);
        }
    }
}
