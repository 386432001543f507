//! Which values of a graph are parameters: what a checkpoint gives, or random numbers in its place.
//!
//! A program of `torch.export` has a signature that says so. It is kept in the graph's metadata, which every format
//! carries, so that a graph which was compiled and written still knows.
//!
//! A graph without a signature has names. A parameter there is
//! - a constant or an input that is called as exporters call a module's own tensors: module after module and then the
//!   tensor, with dots between them (`model.layers.0.input_layernorm.weight`), of a fixed shape and of a type that
//!   weights have: floats, and the 8-bit integers that quantised weights are. What exporters compute or make up has
//!   other names (`val_109`, `onnx::MatMul_702`, `/model/norm/Constant_output_0`);
//! - a constant or input of any other name and type that a tensor of the checkpoint has, too.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{DType, Def, Graph, Value, ValueId};
use serde::{Deserialize, Serialize};

use crate::error::{FormatError, Result};

/// Key of [`normfuse_ir::ModelInfo::metadata`]: the program's parameters and buffers, as a JSON list.
pub const RECORD: &str = "torch.parameters";

/// How the note about parameters without data ends.
const THEY_ARE_INPUTS: &str = ": they are inputs, until --weights gives them";

/// A parameter or buffer of a program, as its signature lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name in the model.
    pub name: String,
    /// The graph's name of its value, where that is another. A tensor that lies otherwise in its file than its shape
    /// says is the value in that shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Other names of the same tensor in the model: tied weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tied: Vec<String>,
    /// A buffer that is no part of the model's state, such as a table that the model computes when it is made:
    /// checkpoints do not have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transient: bool,
    /// No result of the program depends on it: the graph has no such value.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
}

impl Parameter {
    /// A parameter that the graph has under its own name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), value: None, tied: Vec::new(), transient: false, unread: false }
    }

    /// The name of its value in the graph.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or(&self.name)
    }
}

/// The record of the program's signature, if the graph has one.
///
/// # Errors
/// A record that is none of ours.
pub fn recorded(graph: &Graph) -> Result<Option<Vec<Parameter>>> {
    let Some((_, json)) = graph.info.metadata.iter().find(|(key, _)| key == RECORD) else { return Ok(None) };
    serde_json::from_str(json).map(Some).map_err(|e| {
        FormatError::mismatch("a list of parameters, as normfuse writes it", e).at_port(format!("metadata `{RECORD}`"))
    })
}

/// Puts the record into the graph, in place of the one that is there.
pub fn record(graph: &mut Graph, parameters: &[Parameter]) {
    graph.info.metadata.retain(|(key, _)| key != RECORD);
    // Names and flags: there is nothing that JSON cannot say.
    let json = serde_json::to_string(parameters).unwrap_or_default();
    graph.info.metadata.push((RECORD.into(), json));
}

/// Notes in the record, if the graph has one, which parameters are in the place of others: by the old name the new ones. One
/// that keeps its name keeps what the record says of it.
///
/// # Errors
/// As [`recorded`].
pub fn replace(graph: &mut Graph, changes: &[(String, Vec<String>)]) -> Result<()> {
    if let Some(old) = recorded(graph)? {
        let changes: BTreeMap<&str, &[String]> =
            changes.iter().map(|(old, new)| (old.as_str(), new.as_slice())).collect();
        let mut new = Vec::with_capacity(old.len());
        for parameter in old {
            match changes.get(parameter.name.as_str()) {
                None => new.push(parameter),
                Some(names) => {
                    let (kept, added): (Vec<_>, Vec<_>) = names.iter().partition(|n| **n == parameter.name);
                    new.extend(kept.into_iter().map(|_| parameter.clone()));
                    new.extend(added.into_iter().map(Parameter::named));
                }
            }
        }
        record(graph, &new);
        note_without_data(graph);
    }
    Ok(())
}

/// The names of the graph's parameters in the model.
///
/// # Errors
/// As [`recorded`].
pub fn names(graph: &Graph) -> Result<Vec<String>> {
    Ok(match recorded(graph)? {
        Some(all) => all.into_iter().map(|p| p.name).collect(),
        None => graph.values().filter(|(_, v)| is_called_like_one(v)).map(|(_, v)| v.name.clone()).collect(),
    })
}

/// Parameters that are inputs of the graph, in its order: whoever runs it gives them.
///
/// # Errors
/// As [`recorded`].
pub fn without_data(graph: &Graph) -> Result<Vec<ValueId>> {
    let record = recorded(graph)?;
    let names = record.as_ref().map(|all| all.iter().map(Parameter::value).collect::<BTreeSet<_>>());
    let is = |value: &Value| match &names {
        Some(names) => names.contains(value.name.as_str()),
        None => is_called_like_one(value),
    };
    let open = |id: &ValueId| graph.value(*id).stored().is_none() && is(graph.value(*id));
    Ok(graph.inputs().iter().copied().filter(open).collect())
}

/// Says in the graph's notes how many parameters have no data, in place of what was said before.
pub(crate) fn note_without_data(graph: &mut Graph) {
    graph.info.notes.retain(|n| !n.ends_with(THEY_ARE_INPUTS));
    let open = without_data(graph).unwrap_or_default();
    if let Some(first) = open.first().map(|v| &graph.value(*v).name) {
        let (n, first) = (open.len(), first.clone());
        graph.info.notes.push(format!("{n} parameters have no data in the file, `{first}` the first{THEY_ARE_INPUTS}"));
    }
}

/// True for a value that is a parameter of a graph without a record, by its name and type.
pub(crate) fn is_called_like_one(value: &Value) -> bool {
    let fixed = || value.ty.shape.as_ref().is_some_and(|s| s.0.iter().all(|d| d.as_const().is_some()));
    let of_weights = |d: DType| d.is_float() || matches!(d, DType::I8 | DType::U8);
    !matches!(value.def, Def::Node { .. }) && is_path(&value.name) && value.ty.dtype.is_some_and(of_weights) && fixed()
}

/// `model.norm.weight`: at least one module, then the tensor, each an identifier or a number.
fn is_path(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    name.contains('.') && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_dots_make_a_name_of_a_parameter() {
        for yes in ["model.norm.weight", "layers.0.mlp.gate.e_score_correction_bias", "w.qdata"] {
            assert!(is_path(yes), "{yes}");
        }
        for no in ["weight", "val_109", "onnx::MatMul_702", "/model/norm/Constant_output_0", "a..b", ".a", "a. b", ""] {
            assert!(!is_path(no), "{no}");
        }
    }

    #[test]
    fn parameters_in_the_place_of_others_are_in_the_record() {
        let mut g = Graph::new("g");
        let tied = Parameter { tied: vec!["b.w".into()], ..Parameter::named("a.w") };
        record(&mut g, &[tied.clone(), Parameter::named("c.w"), Parameter::named("d.w")]);
        let changes = [("a.w", ["a.w", "a.s"]), ("c.w", ["c.packed", "c.s"])];
        let changes = changes.map(|(old, new)| (old.to_owned(), new.map(String::from).to_vec()));
        replace(&mut g, &changes).unwrap();
        let names = ["a.s", "c.packed", "c.s", "d.w"].map(Parameter::named);
        assert_eq!(recorded(&g).unwrap().unwrap(), [vec![tied], names.to_vec()].concat());
    }

    #[test]
    fn a_record_survives_and_one_of_others_is_refused() {
        let mut g = Graph::new("g");
        assert_eq!(recorded(&g).unwrap(), None);
        let mut p = vec![Parameter::named("a.w"), Parameter { transient: true, ..Parameter::named("b") }];
        record(&mut g, &p);
        assert_eq!(g.info.metadata[0].1, r#"[{"name":"a.w"},{"name":"b","transient":true}]"#);
        p[0].value = Some("a.w.transpose".into());
        record(&mut g, &p);
        assert_eq!((recorded(&g).unwrap().unwrap(), g.info.metadata.len()), (p, 1));
        g.info.metadata[0].1 = "[{}]".into();
        assert!(recorded(&g).unwrap_err().to_string().contains("metadata `torch.parameters`"));
    }
}
