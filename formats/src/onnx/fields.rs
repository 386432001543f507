//! Facts about the whole model that only ONNX has, kept in `ModelInfo` between reading and writing.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Graph, Provenance};
use serde_json::{Value, json};

use super::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorAnnotation, ValueInfoProto};

/// Metadata key under which the names of the source nodes that a fused op replaced travel, as a JSON list.
pub const REPLACED: &str = "normfuse.replaced";
/// As above: the chain of rules that made the op.
pub const RULES: &str = "normfuse.rules";

type Pairs = Vec<(String, String)>;

/// Doc string and metadata of a value, by the value's name.
pub type ValueNotes = BTreeMap<String, (String, Pairs)>;

/// A node's provenance from its doc string and metadata.
pub fn provenance(doc: &str, metadata: &[StringStringEntryProto]) -> Provenance {
    let mut p = Provenance { doc: doc.to_owned(), ..Provenance::default() };
    for (key, value) in pairs(metadata) {
        // What is no list of strings was not written by us and stays what it is.
        match (key.as_str(), serde_json::from_str::<Vec<String>>(&value)) {
            (REPLACED, Ok(list)) => p.replaced = list,
            (RULES, Ok(list)) => p.rules = list,
            _ => p.metadata.push((key, value)),
        }
    }
    p
}

fn pairs(entries: &[StringStringEntryProto]) -> Pairs {
    entries.iter().map(|e| (e.key().to_owned(), e.value().to_owned())).collect()
}

/// Pairs as ONNX spells them.
pub fn entries<'a>(pairs: impl IntoIterator<Item = &'a (String, String)>) -> Vec<StringStringEntryProto> {
    pairs.into_iter().map(|(k, v)| StringStringEntryProto { key: Some(k.clone()), value: Some(v.clone()) }).collect()
}

/// Fills `graph.info` from a model (whose graph is given apart).
pub fn read(model: &ModelProto, proto: &GraphProto, graph: &mut Graph) {
    graph.info.metadata = pairs(&model.metadata_props);
    let fields = &mut graph.info.fields;
    let mut set = |key: &str, value: String| {
        if !value.is_empty() {
            fields.insert(format!("onnx.{key}"), value);
        }
    };
    let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    set("ir_version", number(model.ir_version));
    set("producer_name", model.producer_name().into());
    set("producer_version", model.producer_version().into());
    set("domain", model.domain().into());
    set("model_version", number(model.model_version));
    set("doc_string", model.doc_string().into());
    set("graph_doc_string", proto.doc_string().into());
    let mut list = |key: &str, value: Value| {
        if value.as_array().is_some_and(|a| !a.is_empty()) || value.as_object().is_some_and(|o| !o.is_empty()) {
            set(key, value.to_string());
        }
    };
    list("graph_metadata", json!(pairs(&proto.metadata_props)));
    let annotations: Vec<(String, Pairs)> = proto
        .quantization_annotation
        .iter()
        .map(|a| (a.tensor_name().to_owned(), pairs(&a.quant_parameter_tensor_names)))
        .collect();
    list("quantization_annotation", json!(annotations));
    let mut notes = ValueNotes::new();
    let mut note = |name: &str, doc: &str, metadata: &[StringStringEntryProto]| {
        if !doc.is_empty() || !metadata.is_empty() {
            notes.insert(name.to_owned(), (doc.to_owned(), pairs(metadata)));
        }
    };
    for v in proto.value_info.iter().chain(&proto.input).chain(&proto.output) {
        note(v.name(), v.doc_string(), &v.metadata_props);
    }
    for t in &proto.initializer {
        note(t.name(), t.doc_string(), &t.metadata_props);
    }
    list("values", json!(notes));
}

fn field<'g>(graph: &'g Graph, key: &str) -> Option<&'g str> {
    graph.info.fields.get(&format!("onnx.{key}")).map(String::as_str)
}

/// A number among the fields; what is not one (the fields pass through text files that people edit) counts as absent.
pub fn number(graph: &Graph, key: &str) -> Option<i64> {
    field(graph, key).and_then(|v| v.parse().ok())
}

/// What was said about the values of the graph.
pub fn value_notes(graph: &Graph) -> ValueNotes {
    field(graph, "values").and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default()
}

/// Puts doc string and metadata back.
pub fn annotate(info: &mut ValueInfoProto, notes: &ValueNotes) {
    if let Some((doc, metadata)) = notes.get(info.name()) {
        info.doc_string = Some(doc.clone()).filter(|d| !d.is_empty());
        info.metadata_props = entries(metadata);
    }
}

/// The model's own fields, its graph and opsets left empty. `written` are the names of values in the new graph.
pub fn write(graph: &Graph, proto: &mut GraphProto, written: &BTreeSet<String>) -> ModelProto {
    let text = |key: &str| field(graph, key).map(str::to_owned);
    proto.doc_string = text("graph_doc_string");
    let metadata: Pairs = field(graph, "graph_metadata").and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default();
    proto.metadata_props = entries(&metadata);
    let annotations: Vec<(String, Pairs)> =
        field(graph, "quantization_annotation").and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default();
    proto.quantization_annotation = annotations
        .into_iter()
        .filter(|(name, parameters)| written.contains(name) && parameters.iter().all(|(_, v)| written.contains(v)))
        .map(|(name, parameters)| TensorAnnotation {
            tensor_name: Some(name),
            quant_parameter_tensor_names: entries(&parameters),
        })
        .collect();
    ModelProto {
        ir_version: number(graph, "ir_version"),
        producer_name: text("producer_name").or_else(|| Some("normfuse".into())),
        producer_version: text("producer_version"),
        domain: text("domain"),
        model_version: number(graph, "model_version"),
        doc_string: text("doc_string"),
        metadata_props: entries(&graph.info.metadata),
        ..ModelProto::default()
    }
}
