//! Which name each value has in the file.
//!
//! Three kinds of names are promises: those of the graph's inputs, those under which callers ask for its results, and
//! those by which subgraphs of foreign ops capture values. A value that must answer to several names has one of them,
//! and the others are copies of it (`Identity`).

use std::collections::{BTreeMap, HashMap};

use normfuse_ir::{Def, Graph, Op, ValueId};
use prost::Message;

use crate::{
    FormatError, Result,
    onnx::{
        names::{Names, OMITTED, captured},
        proto::{AttributeProto, NodeProto},
    },
};

/// The names of one graph's values.
pub struct Scope {
    /// By value; empty for a result that is left out.
    names: HashMap<ValueId, String>,
    /// Further names of a value, each to be made by an `Identity`.
    pub copies: BTreeMap<ValueId, Vec<String>>,
    /// For names that the graph does not have.
    pub fresh: Names,
}

impl Scope {
    /// Names for every value of a model's graph.
    ///
    /// # Errors
    /// If one name was promised for two values.
    pub fn of_model(graph: &Graph) -> Result<Self> {
        let mut promised: HashMap<String, ValueId> = HashMap::new();
        let mut demands: BTreeMap<ValueId, Vec<String>> = BTreeMap::new();
        let mut promise = |name: String, value: ValueId| {
            let before = *promised.entry(name.clone()).or_insert(value);
            if before != value {
                return Err(FormatError::mismatch(
                    format!("one value of the name `{name}`"),
                    "two, of which outputs or subgraphs ask for both",
                ));
            }
            let names = demands.entry(value).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
            Ok(())
        };
        for &v in graph.inputs() {
            promise(graph.value(v).name.clone(), v)?;
        }
        for out in graph.outputs() {
            promise(out.name.clone(), out.value)?;
        }
        for (_, node) in graph.nodes() {
            for (name, value) in captures(node)? {
                promise(name, value).map_err(|e| e.at_node(&node.name))?;
            }
        }
        let mut scope = Self { names: HashMap::new(), copies: BTreeMap::new(), fresh: Names::default() };
        for name in promised.keys() {
            scope.fresh.claim(name);
        }
        for (value, names) in demands {
            let own = &graph.value(value).name;
            // A weight keeps its name in the checkpoint whatever else it is asked for as.
            let keeps = names.contains(own) || matches!(graph.value(value).def, Def::Const(_));
            let name = match names.first() {
                Some(first) if !keeps => first.clone(),
                _ if names.contains(own) => own.clone(),
                _ => scope.fresh.fresh(own),
            };
            let copies: Vec<String> = names.into_iter().filter(|n| *n != name).collect();
            if !copies.is_empty() {
                scope.copies.insert(value, copies);
            }
            scope.names.insert(value, name);
        }
        for (id, value) in graph.values() {
            if scope.names.contains_key(&id) {
                continue;
            }
            let unread = graph.users(id).is_empty();
            let name = match value.def {
                Def::Node { node, port } if unread && optional(&graph.node(node).op, port, &value.name) => {
                    String::new()
                }
                _ => scope.fresh.fresh(if value.name.is_empty() { "value" } else { &value.name }),
            };
            scope.names.insert(id, name);
        }
        Ok(scope)
    }

    /// Names for the body of a function: its ports by the given names, the rest counted, so that equal bodies of different
    /// layers are equal as text.
    pub fn of_body(graph: &Graph, ins: &[String], outs: &[String]) -> Result<Self> {
        let mut scope = Self { names: HashMap::new(), copies: BTreeMap::new(), fresh: Names::default() };
        for name in ins.iter().chain(outs) {
            scope.fresh.claim(name);
        }
        for (&v, name) in graph.inputs().iter().zip(ins) {
            scope.names.insert(v, name.clone());
        }
        for (out, name) in graph.outputs().iter().zip(outs) {
            if scope.names.contains_key(&out.value) || graph.producer(out.value).is_none() {
                scope.copies.entry(out.value).or_default().push(name.clone());
            } else {
                scope.names.insert(out.value, name.clone());
            }
        }
        let mut counter = 0..;
        for id in graph.topo_order()? {
            let node = graph.node(id);
            for v in node.operands().map(|(_, v)| v).chain(node.outputs.iter().copied()) {
                if !scope.names.contains_key(&v) {
                    let base = if graph.producer(v).is_some() { "t" } else { "c" };
                    let n: u32 = counter.next().unwrap_or(0);
                    let name = scope.fresh.fresh(&format!("{base}{n}"));
                    scope.names.insert(v, name);
                }
            }
        }
        for out in graph.outputs() {
            // A constant that is a result and that no node reads.
            if !scope.names.contains_key(&out.value) {
                let name = scope.fresh.fresh("c");
                scope.names.insert(out.value, name);
            }
        }
        Ok(scope)
    }

    /// The name of a value; empty for a result that is left out.
    pub fn name(&self, value: ValueId) -> &str {
        self.names.get(&value).map_or("", String::as_str)
    }
}

/// True if a result that nobody reads is written as left out.
fn optional(op: &Op, port: usize, name: &str) -> bool {
    name.starts_with(OMITTED) || (matches!(op, Op::Attention(_) | Op::SkipRmsNorm { .. }) && port > 0)
}

/// The names by which a foreign node's subgraphs read outer values, and the values.
fn captures(node: &normfuse_ir::Node) -> Result<Vec<(String, ValueId)>> {
    let Op::Foreign(f) = &node.op else { return Ok(Vec::new()) };
    if f.captures == 0 {
        return Ok(Vec::new());
    }
    let names = captured(&NodeProto { attribute: attributes(node)?, ..NodeProto::default() });
    let listed = node.inputs.len().saturating_sub(f.captures);
    let values: Vec<ValueId> = node.inputs.iter().skip(listed).copied().flatten().collect();
    if names.len() != f.captures || values.len() != f.captures {
        return Err(FormatError::mismatch(
            format!("{} values that the subgraphs capture", names.len()),
            format!("{} operands for them", values.len()),
        )
        .at_node(&node.name));
    }
    Ok(names.into_iter().zip(values).collect())
}

/// A foreign node's attributes, decoded.
pub fn attributes(node: &normfuse_ir::Node) -> Result<Vec<AttributeProto>> {
    let Op::Foreign(f) = &node.op else { return Ok(Vec::new()) };
    if f.encoding != "onnx" {
        let hint = "write .nf or .json instead, or export the model anew with `run_decompositions()` before it is saved, \
                    which leaves fewer ops";
        return Err(FormatError::mismatch("an op that came from ONNX", format!("`{}` from {}", f.op_type, f.encoding))
            .at_node(&node.name)
            .hint(hint));
    }
    f.attributes
        .iter()
        .map(|a| {
            AttributeProto::decode(&*a.payload).map_err(|e| {
                FormatError::mismatch("an encoded attribute", e)
                    .at_port(format!("attribute `{}`", a.name))
                    .at_node(&node.name)
            })
        })
        .collect()
}
