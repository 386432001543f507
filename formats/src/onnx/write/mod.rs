//! The writer: `Graph` to `ModelProto`.

mod functions;
mod nodes;
mod ops;
mod ops_quant;
mod scope;
mod types;
mod weights;

use std::{collections::BTreeSet, io::Write, path::Path};

use normfuse_ir::{DType, Graph};
use prost::Message;

pub(super) use self::functions::Functions;
use self::{nodes::Writer, weights::Weights};
use super::{
    DOMAIN, OPSETS, dtype, fields,
    proto::{GraphProto, OperatorSetIdProto, ValueInfoProto, type_proto},
};
use crate::{FormatError, Result, atomic::AtomicFile};

/// How a model is written.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Copy the external weights that the graph uses into `OUT.data` beside the new file. Without it the new file points
    /// at the data files of the source, which must lie beside it or below its folder.
    pub copy_weights: bool,
}

/// What a protobuf message may hold at most.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// Writes a graph as a legal ONNX model, at the opset that it was read with (the newest, where it has none).
///
/// Fused ops become nodes of the domain `normfuse`, each with a local function that spells it. The file appears whole or
/// not at all, and the same graph gives the same bytes.
///
/// # Errors
/// If the graph has an op that the opset cannot say, weights lie outside of the output's folder and may not be copied,
/// the inline weights exceed what protobuf can hold, or the disk refuses.
pub fn write(graph: &Graph, path: &Path, options: &WriteOptions) -> Result<()> {
    write_inner(graph, path, options).map_err(|e| e.in_file(path))
}

fn write_inner(graph: &Graph, path: &Path, options: &WriteOptions) -> Result<()> {
    let mut weights = Weights::new(path, options.copy_weights)?;
    let opset = graph.info.opsets.get("").copied().unwrap_or(*OPSETS.end());
    if !OPSETS.contains(&opset) {
        return Err(FormatError::mismatch(format!("an opset from {} to {}", OPSETS.start(), OPSETS.end()), opset));
    }
    let mut functions = Functions::new(opset, graph.info.opsets.clone());
    let mut writer = Writer::new(graph, opset)?;
    writer.all_nodes(&mut functions)?;
    let notes = fields::value_notes(graph);
    let annotated = |mut info: ValueInfoProto| {
        fields::annotate(&mut info, &notes);
        info
    };
    let mut proto = GraphProto { name: Some(graph_name(graph)), ..GraphProto::default() };
    for &v in graph.inputs() {
        let value = graph.value(v);
        proto.input.push(annotated(types::required(&value.name, &value.ty, None)?));
    }
    for out in graph.outputs() {
        proto.output.push(annotated(types::required(&out.name, &out.declared, Some(&graph.value(out.value).ty))?));
    }
    proto.value_info = writer.value_info().map(annotated).collect();
    for (name, tensor, opaque) in writer.constants() {
        let at = |e: FormatError| e.at_port(format!("weight `{name}`"));
        match opaque {
            Some(rest) => weights.opaque(name, tensor, rest, &mut proto).map_err(at)?,
            None => proto.initializer.push(weights.initializer(name, tensor).map_err(at)?),
        }
    }
    for t in &mut proto.initializer {
        fields::annotate_tensor(t, &notes);
    }
    let types = element_types(&proto);
    let domains = writer.domains().clone();
    proto.node = writer.into_nodes();
    let written: BTreeSet<String> = written_names(&proto);
    let mut model = fields::write(graph, &mut proto, &written);
    model.graph = Some(proto);
    model.functions = functions.into_protos();
    // Initializers that are no inputs came with version 4, local functions with 8, element types with their opsets.
    let least = if model.functions.is_empty() { 4 } else { 8 };
    let least = types.into_iter().filter_map(dtype::since).map(ir_version_of).fold(least, i64::max);
    model.ir_version = Some(model.ir_version.unwrap_or_else(|| ir_version_of(opset)).max(least));
    let mut imports = graph.info.opsets.clone();
    imports.insert(String::new(), opset);
    for d in domains {
        imports.entry(d).or_insert(1);
    }
    if !model.functions.is_empty() {
        imports.insert(DOMAIN.into(), 1);
    }
    model.opset_import = imports
        .into_iter()
        .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain), version: Some(version) })
        .collect();
    let size = model.encoded_len();
    if size > MAX_MESSAGE {
        return Err(FormatError::mismatch(
            "a model of at most 2 GiB without its external weights",
            format!("{size} bytes"),
        )
        .hint("keep large weights in an external data file"));
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(&model.encode_to_vec())?;
    let data = weights.finish()?;
    if let Some(data) = data {
        data.commit()?;
    }
    file.commit()
}

/// Types of a graph's inputs, results, declared values and initializers.
fn element_types(proto: &GraphProto) -> BTreeSet<DType> {
    let values = proto.input.iter().chain(&proto.output).chain(&proto.value_info);
    let declared = values.filter_map(|v| match v.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(t) => t.elem_type,
        _ => None,
    });
    let stored = proto.initializer.iter().filter_map(|t| t.data_type);
    declared.chain(stored).filter_map(|n| dtype::from_onnx(i64::from(n)).ok()).collect()
}

fn graph_name(graph: &Graph) -> String {
    if graph.name.is_empty() { "main".into() } else { graph.name.clone() }
}

fn written_names(proto: &GraphProto) -> BTreeSet<String> {
    let values = proto.node.iter().flat_map(|n| n.output.iter().cloned());
    let inputs = proto.input.iter().map(|v| v.name().to_owned());
    values.chain(inputs).chain(proto.initializer.iter().map(|t| t.name().to_owned())).collect()
}

/// The IR version that ONNX released together with an opset.
fn ir_version_of(opset: i64) -> i64 {
    match opset {
        ..=11 => 6,
        12..=14 => 7,
        15..=18 => 8,
        19..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        _ => 14,
    }
}
