//! A graph as plain data: what the text form and the JSON form both carry, and the way there and back.
//!
//! Values are numbered within their graph in order of definition: inputs and constants one each, nodes one a result.
//! Nodes come in topological order, the oldest first among those that are ready, so that a graph whose ids are already
//! in such an order keeps them, and writing what was read gives the same document again.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    DType, Data, Error, ErrorKind, Graph, ModelInfo, Op, Opaque, Provenance, Result, Scheme, Tensor, Type, ValueId,
    tensor::byte_len,
};

pub(crate) mod json;
mod write;

pub(crate) use json::base64_bytes;
use json::{ConstRepr, checked_op};

/// Bodies inside bodies: one level is usual, and a chain of thousands would overflow the stack when it is dropped.
const MAX_BODY_DEPTH: usize = 16;

/// What tells one data file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileId {
    /// Size in bytes.
    pub size: u64,
    /// Hash as the owner of the files computes it; opaque here.
    pub hash: String,
}

/// A weight that a document refers to: what a reader turns into bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightRef {
    /// Name of the weight.
    pub name: String,
    /// The data file, relative to the model's folder.
    pub file: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes, as its type asks for.
    pub len: u64,
    /// What the file was when the document was written, where the document says so.
    pub id: Option<FileId>,
}

/// Turns a reference into bytes.
pub type Resolve<'a> = &'a mut dyn FnMut(&WeightRef) -> Result<Data>;

/// Tells the identity of a data file by its name.
pub type Identify<'a> = &'a mut dyn FnMut(&str) -> Option<FileId>;

/// A graph with everything that it refers to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Version of the schema: 1.
    pub normfuse: u32,
    /// Data files by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, FileId>,
    /// Bodies of fused nodes, each once; a body uses only bodies before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bodies: Vec<GraphDoc>,
    /// The graph.
    pub graph: GraphDoc,
}

/// One graph.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphDoc {
    /// Its name.
    pub name: String,
    /// Model-level facts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub info: ModelInfo,
    /// Definitions in order.
    pub lines: Vec<Line>,
    /// Results.
    pub outputs: Vec<OutputDoc>,
}

/// One definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A graph input.
    Input(InputDoc),
    /// A constant or weight.
    Const(ConstDoc),
    /// A node.
    Node(Box<NodeDoc>),
}

/// A named value.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueDoc {
    /// Its name.
    pub name: String,
    /// What is known of it.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub ty: Type,
}

/// A graph input.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputDoc {
    /// Its name.
    pub name: String,
    /// What is known of it.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub ty: Type,
    /// Its default, under the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ConstDoc>,
}

/// A constant or weight. In JSON its contents are `"values"` (the literal of the text form), `"base64"` (the bytes) or
/// `"region"` (file, offset; the length follows from the type).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "ConstRepr", into = "ConstRepr")]
pub struct ConstDoc {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<usize>,
    /// The scheme it belongs to, if it is quantised.
    pub scheme: Option<Arc<Scheme>>,
    /// The type that its source format has for it, if the IR has none.
    pub opaque: Option<Opaque>,
    /// Its contents.
    pub payload: Payload,
}

/// Contents of a constant.
#[derive(Debug, Clone)]
pub enum Payload {
    /// The tensor itself.
    Inline(Tensor),
    /// A region of a data file.
    Region {
        /// The file.
        file: String,
        /// Byte offset.
        offset: u64,
    },
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeDoc {
    /// Its name.
    pub name: String,
    /// What it computes.
    #[serde(deserialize_with = "checked_op")]
    pub op: Op,
    /// Operands: numbers of values, `null` for an optional operand left out.
    pub inputs: Vec<Option<usize>>,
    /// Results.
    pub results: Vec<ValueDoc>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub provenance: Arc<Provenance>,
    /// Number of its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<usize>,
    /// Where the text has it, for error messages.
    #[serde(skip)]
    pub at: Option<(usize, usize)>,
}

/// A result of a graph.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputDoc {
    /// The name under which callers ask for it.
    pub name: String,
    /// Number of the value.
    pub value: usize,
    /// Type as the source declared it.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    pub declared: Type,
}

fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}

fn parse_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Parse, message)
}

impl Document {
    /// Leaves out what says where a graph came from: names and metadata of graphs and nodes, and provenance.
    #[must_use]
    pub fn outline(mut self) -> Self {
        self.files.clear();
        self.graph.name.clear();
        for body in &mut self.bodies {
            body.name = "body".into();
        }
        for graph in self.bodies.iter_mut().chain([&mut self.graph]) {
            graph.info = ModelInfo { opsets: std::mem::take(&mut graph.info.opsets), ..ModelInfo::default() };
            for line in &mut graph.lines {
                if let Line::Node(node) = line {
                    node.provenance = Arc::default();
                }
            }
        }
        self
    }
}

impl Document {
    /// Builds the graph; `resolve` turns weight references into bytes.
    ///
    /// # Errors
    /// `Parse` for a document that no graph has (numbers of values that do not exist, another version), `Structure` for
    /// nodes whose operands do not fit, and what `resolve` returns.
    pub fn into_graph(self, resolve: Resolve) -> Result<Graph> {
        if self.normfuse != 1 {
            return Err(parse_error(format!("expected version 1 of the document, found {}", self.normfuse)));
        }
        let mut bodies: Vec<(Arc<Graph>, usize)> = Vec::new();
        for body in self.bodies {
            let built = build(body, &self.files, &bodies, resolve)?;
            bodies.push((Arc::new(built.0), built.1));
        }
        Ok(build(self.graph, &self.files, &bodies, resolve)?.0)
    }
}

/// Builds one graph; also returns how deep its bodies nest.
fn build(
    doc: GraphDoc,
    files: &BTreeMap<String, FileId>,
    bodies: &[(Arc<Graph>, usize)],
    resolve: Resolve,
) -> Result<(Graph, usize)> {
    let mut graph = Graph::new(doc.name);
    graph.info = doc.info;
    let mut ids: Vec<ValueId> = Vec::new();
    let mut depth = 1;
    for line in doc.lines {
        match line {
            Line::Input(v) => {
                let id = graph.add_input(v.name, v.ty);
                if let Some(default) = v.default {
                    graph.set_default(id, tensor(default, files, resolve)?);
                }
                ids.push(id);
            }
            Line::Const(c) => {
                let (name, scheme, opaque) = (c.name.clone(), c.scheme.clone(), c.opaque.clone());
                let tensor = tensor(c, files, resolve)?;
                let id = graph.add_const(name, tensor);
                let ty = graph.type_mut(id);
                (ty.scheme, ty.opaque) = (scheme, opaque);
                ids.push(id);
            }
            Line::Node(node) => {
                let at = node.at;
                let locate = |mut e: Error| {
                    if let Some((line, column)) = at {
                        e.message = format!("line {line}, column {column}: {}", e.message);
                    }
                    e
                };
                let (new, body_depth) = add_node(&mut graph, *node, &ids, bodies).map_err(locate)?;
                ids.extend(new);
                depth = depth.max(body_depth + 1);
            }
        }
    }
    for out in doc.outputs {
        let id = ids.get(out.value).ok_or_else(|| {
            parse_error(format!(
                "output `{}`: expected the number of a value below {}, found {}",
                out.name,
                ids.len(),
                out.value
            ))
        })?;
        graph.add_output(out.name, *id);
        if let Some(last) = graph.declared_mut().next_back() {
            *last = out.declared;
        }
    }
    Ok((graph, depth))
}

fn tensor(c: ConstDoc, files: &BTreeMap<String, FileId>, resolve: Resolve) -> Result<Tensor> {
    match c.payload {
        Payload::Inline(tensor) => Ok(tensor),
        Payload::Region { file, offset } => {
            let len = byte_len(c.dtype, &c.shape).map_err(|e| e.at_node(&c.name))? as u64;
            let id = files.get(&file).cloned();
            let data = resolve(&WeightRef { name: c.name.clone(), file, offset, len, id })?;
            Tensor::new(c.dtype, c.shape, data).map_err(|e| e.at_node(&c.name))
        }
    }
}

fn add_node(
    graph: &mut Graph,
    node: NodeDoc,
    ids: &[ValueId],
    bodies: &[(Arc<Graph>, usize)],
) -> Result<(Vec<ValueId>, usize)> {
    let inputs = node
        .inputs
        .iter()
        .map(|n| match n {
            None => Ok(None),
            Some(n) => ids.get(*n).copied().map(Some).ok_or_else(|| {
                parse_error(format!("expected an operand defined before the node, found value {n} of {}", ids.len()))
                    .at_node(&node.name)
            }),
        })
        .collect::<Result<Vec<_>>>()?;
    let body = match node.body {
        None => None,
        Some(n) => Some(bodies.get(n).ok_or_else(|| {
            parse_error(format!("expected a body defined before it is used, found body {n} of {}", bodies.len()))
                .at_node(&node.name)
        })?),
    };
    let depth = body.map_or(0, |(_, depth)| *depth);
    if depth > MAX_BODY_DEPTH {
        return Err(parse_error(format!("bodies are nested more than {MAX_BODY_DEPTH} deep")).at_node(&node.name));
    }
    let names = node.results.iter().map(|r| r.name.as_str());
    let id = graph.add_node(node.name, node.op, &inputs, names)?;
    let (_, provenance, slot) = graph.node_meta_mut(id);
    *provenance = node.provenance;
    *slot = body.map(|(b, _)| b.clone());
    let outputs = graph.node(id).outputs.clone();
    for (value, result) in outputs.iter().zip(node.results) {
        *graph.type_mut(*value) = result.ty;
    }
    Ok((outputs, depth))
}
