//! Facts about the whole model that only ONNX has, kept in `ModelInfo` between reading and writing.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{DType, Descriptor, Graph, Op, Provenance, ValueId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::proto::{
    GraphProto, ModelProto, StringStringEntryProto, TensorAnnotation, TensorProto, TensorShapeProto, ValueInfoProto,
    type_proto,
};

/// Metadata key under which the names of the source nodes that a fused op replaced travel, as a JSON list.
pub const REPLACED: &str = "normfuse.replaced";
/// As above: the chain of rules that made the op.
pub const RULES: &str = "normfuse.rules";

/// The attribute that holds a fused op's descriptor, as JSON; its name says of which kind the op is.
pub const fn descriptor(of: &Descriptor) -> &'static str {
    match of {
        Descriptor::Norm(_) => DESCRIPTOR,
        Descriptor::Quantize(_) => SCHEME,
    }
}

/// That of a fused norm.
pub const DESCRIPTOR: &str = "descriptor";
/// That of a quantiser.
pub const SCHEME: &str = "scheme";

type Pairs = Vec<(String, String)>;

/// What a file says of a value beyond its type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValueNote {
    #[serde(skip_serializing_if = "String::is_empty")]
    doc: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metadata: Pairs,
    /// What the value means ("IMAGE").
    #[serde(skip_serializing_if = "String::is_empty")]
    denotation: String,
    /// What its axes mean ("DATA_BATCH"), an entry an axis, or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    axes: Vec<String>,
}

/// By the value's name.
pub type ValueNotes = BTreeMap<String, ValueNote>;

/// Values that nodes make and whose types the source declared.
pub enum Declared {
    /// All that are known: the graph comes from another format, or declared everything.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl Declared {
    /// True if the file declares this value.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }
}

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
    let mut note = |name: &str, note: ValueNote| {
        if note != ValueNote::default() {
            notes.insert(name.to_owned(), note);
        }
    };
    for v in proto.value_info.iter().chain(&proto.input).chain(&proto.output) {
        note(v.name(), value_note(v));
    }
    for t in &proto.initializer {
        let (doc, metadata) = (t.doc_string().to_owned(), pairs(&t.metadata_props));
        note(t.name(), ValueNote { doc, metadata, ..ValueNote::default() });
    }
    list("values", json!(notes));
    let declared: BTreeSet<&str> = proto.value_info.iter().map(ValueInfoProto::name).collect();
    let outputs: BTreeSet<&str> = proto.output.iter().map(ValueInfoProto::name).collect();
    let made = graph.nodes().flat_map(|(_, n)| &n.outputs).map(|v| graph.value(*v).name.as_str());
    let made: BTreeSet<&str> = made.filter(|n| !outputs.contains(n)).collect();
    // Exporters declare all values or none, so that the list is mostly one word.
    if !declared.is_superset(&made) {
        let some: Vec<&&str> = declared.intersection(&made).collect();
        graph.info.fields.insert("onnx.value_info".into(), json!(some).to_string());
    }
}

fn value_note(v: &ValueInfoProto) -> ValueNote {
    let ty = v.r#type.as_ref();
    let dims = ty.and_then(shape).map(|s| s.dim.iter().map(|d| d.denotation().to_owned()).collect::<Vec<_>>());
    ValueNote {
        doc: v.doc_string().to_owned(),
        metadata: pairs(&v.metadata_props),
        denotation: ty.map(|t| t.denotation().to_owned()).unwrap_or_default(),
        axes: dims.filter(|d| d.iter().any(|d| !d.is_empty())).unwrap_or_default(),
    }
}

fn shape(ty: &super::proto::TypeProto) -> Option<&TensorShapeProto> {
    match &ty.value {
        Some(type_proto::Value::TensorType(t)) => t.shape.as_ref(),
        _ => None,
    }
}

/// Keeps the names of lists of integers that became attributes, for the writer makes them operands again.
pub fn remember_integers(graph: &mut Graph, values: &BTreeSet<ValueId>) {
    let mut names: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for value in values.iter().map(|v| graph.value(*v)) {
        if let Some(t) = value.as_const().filter(|t| t.dtype() == DType::I64 && t.shape().len() == 1) {
            let ints = t.bytes().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
            names.insert(value.name.clone(), ints);
        }
    }
    if !names.is_empty() {
        graph.info.fields.insert("onnx.integers".into(), json!(names).to_string());
    }
}

/// Names of lists of integers; of several for one list, the first.
pub fn integers(graph: &Graph) -> BTreeMap<Vec<i64>, String> {
    let names: BTreeMap<String, Vec<i64>> =
        field(graph, "integers").and_then(|v| serde_json::from_str(v).ok()).unwrap_or_default();
    names.into_iter().rev().map(|(name, list)| (list, name)).collect()
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

/// Puts back what was said about a value.
pub fn annotate(info: &mut ValueInfoProto, notes: &ValueNotes) {
    let Some(note) = notes.get(info.name()) else { return };
    let text = |s: &String| Some(s.clone()).filter(|s| !s.is_empty());
    info.doc_string = text(&note.doc);
    info.metadata_props = entries(&note.metadata);
    let Some(ty) = &mut info.r#type else { return };
    ty.denotation = text(&note.denotation);
    if let Some(type_proto::Value::TensorType(type_proto::Tensor { shape: Some(s), .. })) = &mut ty.value
        && s.dim.len() == note.axes.len()
    {
        for (d, axis) in s.dim.iter_mut().zip(&note.axes) {
            d.denotation = text(axis);
        }
    }
}

/// The same for an initializer.
pub fn annotate_tensor(t: &mut TensorProto, notes: &ValueNotes) {
    if let Some(note) = notes.get(t.name()) {
        t.doc_string = Some(note.doc.clone()).filter(|d| !d.is_empty());
        t.metadata_props = entries(&note.metadata);
    }
}

/// Which values the written file declares: those that the source declared, and the results of fused ops, which nobody
/// else can infer.
pub fn declared(graph: &Graph) -> Declared {
    let Some(listed) = field(graph, "value_info").and_then(|v| serde_json::from_str::<BTreeSet<String>>(v).ok()) else {
        return Declared::All;
    };
    let fused = graph.nodes().filter(|(_, n)| n.op.is_fused() || matches!(n.op, Op::ScaledMatMul(_)));
    let results = fused.flat_map(|(_, n)| &n.outputs).map(|v| graph.value(*v).name.clone());
    Declared::Only(listed.into_iter().chain(results).collect())
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
