//! The reader: `ModelProto` to `Graph`.

mod attrs;
mod build;
mod functions;
mod hoist;
mod ops;
mod ops_data;
mod ops_nn;
mod ops_quant;
mod ours;
mod tensor;
mod types;
mod types_foreign;
mod unfold;
mod unread;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use normfuse_ir::{Graph, Type};
use prost::Message;

use self::{
    build::{Bodies, Builder},
    functions::{Flat, Inliner, domain},
};
use super::{
    DOMAIN, OPSETS, fields,
    names::Names,
    ops as table,
    proto::{FunctionProto, GraphProto, ModelProto, TensorProto},
};
use crate::{
    FormatError, Result,
    map::{DataFolder, MappedFile},
};

/// Keeps the mapping alive as long as some tensor's bytes lie in it.
struct Whole(Arc<MappedFile>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Reads a model. Weights stay where they are: inline ones in the mapped model file, external ones in their own.
///
/// Local functions are inlined, all but those of the domain `normfuse`, whose calls become fused ops with the function as
/// their body. What the IR cannot say stays as a foreign op. An initializer that is also an input is that input's default;
/// before version 4 of the format, which had no others, it is a constant.
///
/// # Errors
/// A file that is not a model, or one that breaks ONNX's rules or uses types that the IR lacks: the error names the file
/// and the node.
pub fn read(path: &Path) -> Result<Graph> {
    read_inner(path).map_err(|e| e.in_file(path))
}

fn read_inner(path: &Path) -> Result<Graph> {
    let file = MappedFile::open(path)?;
    let model = ModelProto::decode(Bytes::from_owner(Whole(file)))
        .map_err(|e| FormatError::mismatch("an ONNX model", format!("bytes that do not decode: {e}")))?;
    let mut folder = DataFolder::of_model(path)?;
    import(model, &mut folder)
}

fn import(mut model: ModelProto, folder: &mut DataFolder) -> Result<Graph> {
    if !model.training_info.is_empty() {
        return Err(FormatError::mismatch("a model for inference", "training_info"));
    }
    if !model.configuration.is_empty() {
        return Err(FormatError::mismatch("a model for one device", "device configurations"));
    }
    let opsets = functions::opsets(&model.opset_import)?;
    let opset = match opsets.get("") {
        Some(v) => *v,
        // A file of other bytes can decode to an empty model.
        None if model.graph.is_none() => {
            return Err(FormatError::mismatch("an ONNX model", "neither a graph nor opsets"));
        }
        None => return Err(FormatError::mismatch("an opset of the default domain", "none")),
    };
    check_opset(opset, "the model")?;
    let proto = model.graph.take().ok_or_else(|| FormatError::mismatch("a graph", "none"))?;
    let mut names = Names::default();
    names.claim_graph(&proto);
    let functions = std::mem::take(&mut model.functions);
    for f in &functions {
        if let Some(v) = functions::opsets(&f.opset_import)?.get("") {
            check_opset(*v, &format!("the local function `{}`", f.name()))?;
        }
    }
    let mut inliner = Inliner::new(&functions, opsets, names)?;
    let (graph_nodes, mut proto) = take_nodes(proto);
    let mut flat = inliner.flatten(graph_nodes, opset)?;
    let mut fused = Vec::new();
    let own = |f: &&FunctionProto| {
        f.name().starts_with(table::SCALED) || table::OWN.iter().any(|(name, _)| *name == f.name())
    };
    for f in functions.iter().filter(|f| domain(f.domain()) == DOMAIN && !own(f)) {
        let inner = functions::opsets(&f.opset_import)?.get("").copied().unwrap_or(opset);
        fused.push((f, inner, inliner.flatten(f.node.clone(), inner).map_err(|e| e.at_node(f.name()))?));
    }
    let (mut names, opsets) = inliner.finish();
    if let Some(v) = opsets.get(DOMAIN).filter(|v| **v != 1) {
        return Err(FormatError::mismatch(format!("version 1 of the operator set `{DOMAIN}`"), v)
            .hint("a newer normfuse wrote the file"));
    }
    let mut bodies = Bodies::new();
    for (f, inner, nodes) in fused {
        let body = import_body(f, inner, &nodes, folder).map_err(|e| e.at_node(f.name()))?;
        bodies.insert((f.name().to_owned(), f.overload().to_owned()), Arc::new(body));
    }
    proto.initializer.extend(hoist::hoist(&mut flat, &proto, &mut names)?);
    // A file that does not say its version follows no version's rules; the newer one loses nothing.
    let defaults = model.ir_version.is_none_or(|v| v >= 4);
    let b = Builder::new(proto.name(), opset, &mut names, folder, &bodies);
    let mut graph = import_graph(&proto, &flat, defaults, b)?;
    fields::read(&model, &proto, &mut graph);
    // Our own domain is imported by the writer where it is needed.
    graph.info.opsets = opsets.into_iter().filter(|(d, _)| d != DOMAIN).collect();
    Ok(graph)
}

fn check_opset(version: i64, who: &str) -> Result<()> {
    if OPSETS.contains(&version) {
        return Ok(());
    }
    Err(FormatError::mismatch(format!("{who} to import an opset from {} to {}", OPSETS.start(), OPSETS.end()), version)
        .hint("convert it with onnx.version_converter"))
}

fn take_nodes(mut graph: GraphProto) -> (Vec<super::proto::NodeProto>, GraphProto) {
    (std::mem::take(&mut graph.node), graph)
}

fn import_graph<'m>(proto: &'m GraphProto, nodes: &[Flat], defaults: bool, mut b: Builder<'m>) -> Result<Graph> {
    proto.input.iter().chain(&proto.output).chain(&proto.value_info).try_for_each(types::check_sizes)?;
    b.declare(&proto.value_info);
    b.declare(&proto.output);
    let initialized: HashSet<&str> = proto.initializer.iter().map(TensorProto::name).collect();
    let mut with_default = HashMap::new();
    for v in &proto.input {
        if defaults || !initialized.contains(v.name()) {
            let id = b.input(v.name(), types::interface(v)?)?;
            with_default.extend(initialized.contains(v.name()).then_some((v.name(), id)));
        }
    }
    for t in &proto.initializer {
        let at = |e: FormatError| e.at_port(format!("initializer `{}`", t.name()));
        let input = with_default.remove(t.name());
        if !tensor::is_known(t) {
            if input.is_some() {
                let found = "one of a type that normfuse does not know";
                return Err(at(FormatError::mismatch("a default of a type that normfuse knows", found)));
            }
            let (bytes, rest) = tensor::opaque(t, b.folder()).map_err(at)?;
            b.opaque(t.name(), bytes, rest).map_err(at)?;
            continue;
        }
        let tensor = tensor::read(t, b.folder()).map_err(at)?;
        match input {
            Some(input) => b.graph.set_default(input, tensor),
            None => drop(b.constant(t.name(), tensor).map_err(at)?),
        }
    }
    for t in &proto.sparse_initializer {
        let name = t.values.as_ref().map(TensorProto::name).unwrap_or_default();
        let at = |e: FormatError| e.at_port(format!("initializer `{name}`"));
        let (bytes, rest) = tensor::sparse(t).map_err(at)?;
        b.opaque(name, bytes, rest).map_err(at)?;
    }
    b.nodes(nodes, proto.output.iter().map(super::proto::ValueInfoProto::name))?;
    let mut declared = Vec::with_capacity(proto.output.len());
    for v in &proto.output {
        let ty = types::interface(v)?;
        b.output(v.name())?;
        declared.push(ty);
    }
    let Builder { mut graph, used, .. } = b;
    for (out, ty) in graph.declared_mut().zip(declared) {
        *out = ty;
    }
    // Constants that became attributes go. What the file itself does not read stays, as it is.
    let (attributes, idle): (BTreeSet<_>, BTreeSet<_>) =
        graph.unused_consts().into_iter().partition(|v| used.contains(&graph.value(*v).name));
    fields::remember_integers(&mut graph, &attributes);
    graph.remove_unused_consts(&idle);
    Ok(graph)
}

/// The body of a fused op: a graph of its own, in a scope of its own.
fn import_body(f: &FunctionProto, opset: i64, nodes: &[Flat], folder: &mut DataFolder) -> Result<Graph> {
    let mut names = Names::default();
    for name in f.input.iter().chain(&f.output) {
        names.claim(name);
    }
    for f in nodes {
        names.claim_node(&f.node);
    }
    // A body of a body would be a fused op inside a fused op, which the writer never makes.
    let bodies = Bodies::new();
    let mut b = Builder::new(f.name(), opset, &mut names, folder, &bodies);
    b.declare(&f.value_info);
    for name in &f.input {
        b.input(name, Type::default())?;
    }
    b.nodes(nodes, f.output.iter().map(String::as_str))?;
    for name in &f.output {
        b.output(name)?;
    }
    let mut graph = b.graph;
    graph.remove_unused_consts(&BTreeSet::new());
    graph.info.opsets = BTreeMap::from([(String::new(), opset)]);
    Ok(graph)
}
