//! Models in a few words.

use std::{fs, path::PathBuf};

use normfuse_formats::{
    Result,
    onnx::{
        self, WriteOptions,
        proto::{
            AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
            StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
            attribute_proto::AttributeType,
            tensor_proto::{DataLocation, DataType},
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
};
use normfuse_ir::{Graph, Node, Op};
use prost::Message;
use tempfile::TempDir;

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        name: Some(format!("the {op}")),
        input: inputs.iter().map(|s| (*s).into()).collect(),
        output: outputs.iter().map(|s| (*s).into()).collect(),
        ..NodeProto::default()
    }
}

pub fn with(mut node: NodeProto, attributes: impl IntoIterator<Item = AttributeProto>) -> NodeProto {
    node.attribute.extend(attributes);
    node
}

pub fn in_domain(domain: &str, node: NodeProto) -> NodeProto {
    NodeProto { domain: Some(domain.into()), ..node }
}

fn attr(name: &str, ty: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(ty as i32), ..AttributeProto::default() }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attr(name, AttributeType::Int) }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), ..attr(name, AttributeType::Float) }
}

pub fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { ints: v.to_vec(), ..attr(name, AttributeType::Ints) }
}

pub fn floats(name: &str, v: &[f32]) -> AttributeProto {
    AttributeProto { floats: v.to_vec(), ..attr(name, AttributeType::Floats) }
}

pub fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(s.as_bytes().to_vec()), ..attr(name, AttributeType::String) }
}

pub fn tensor_attr(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(t), ..attr(name, AttributeType::Tensor) }
}

pub fn graph_attr(name: &str, g: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(g), ..attr(name, AttributeType::Graph) }
}

pub fn reference(name: &str, ty: AttributeType, to: &str) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(to.into()), ..attr(name, ty) }
}

pub fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

/// `f32[2, 3]` as `("x", 1, "2 3")`; a name is a symbol, `?` is unknown.
pub fn value(name: &str, ty: DataType, dims: &str) -> ValueInfoProto {
    let dim = dims
        .split_whitespace()
        .map(|d| Dimension {
            value: match (d, d.parse()) {
                ("?", _) => None,
                (_, Ok(n)) => Some(dimension::Value::DimValue(n)),
                _ => Some(dimension::Value::DimParam(d.into())),
            },
            denotation: None,
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: Some(ty as i32), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }),
        ..ValueInfoProto::default()
    }
}

pub fn f32s(name: &str, dims: &[i64], v: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Float as i32),
        dims: dims.to_vec(),
        float_data: v.to_vec(),
        ..TensorProto::default()
    }
}

pub fn i64s(name: &str, v: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(DataType::Int64 as i32),
        dims: vec![v.len() as i64],
        int64_data: v.to_vec(),
        ..TensorProto::default()
    }
}

pub fn external(name: &str, ty: DataType, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(ty as i32),
        dims: dims.to_vec(),
        data_location: Some(DataLocation::External as i32),
        external_data: entries.iter().map(|(k, v)| entry(k, v)).collect(),
        ..TensorProto::default()
    }
}

pub fn graph(inputs: Vec<ValueInfoProto>, nodes: Vec<NodeProto>, outputs: Vec<ValueInfoProto>) -> GraphProto {
    GraphProto { name: Some("g".into()), input: inputs, node: nodes, output: outputs, ..GraphProto::default() }
}

pub fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

pub fn model(version: i64, graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(10),
        opset_import: vec![opset("", version)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A model `x: f32[2, 4] -> y: f32[2, 4]` of these nodes.
pub fn chain(version: i64, nodes: Vec<NodeProto>) -> ModelProto {
    model(version, graph(vec![f32_value("x")], nodes, vec![f32_value("y")]))
}

pub fn f32_value(name: &str) -> ValueInfoProto {
    value(name, DataType::Float, "2 4")
}

pub fn function(domain: &str, name: &str, ins: &[&str], outs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        domain: Some(domain.into()),
        name: Some(name.into()),
        input: ins.iter().map(|s| (*s).into()).collect(),
        output: outs.iter().map(|s| (*s).into()).collect(),
        node: nodes,
        opset_import: vec![opset("", 20)],
        ..FunctionProto::default()
    }
}

/// A folder with a model in it.
pub struct Disk {
    pub dir: TempDir,
}

impl Disk {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, m: &ModelProto) -> Result<Graph> {
        onnx::read(&self.put("m.onnx", &m.encode_to_vec()))
    }

    /// Reads `m.onnx` and writes the graph to `out.onnx`.
    pub fn write(&self, g: &Graph) -> Result<ModelProto> {
        onnx::write(g, &self.path("out.onnx"), &WriteOptions::default())?;
        Ok(self.load("out.onnx"))
    }

    pub fn load(&self, name: &str) -> ModelProto {
        ModelProto::decode(&*fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Reads a model.
pub fn read(m: &ModelProto) -> Result<Graph> {
    Disk::new().read(m)
}

/// Reads a model that must not be readable; gives the message.
pub fn refused(m: &ModelProto) -> String {
    read(m).map(|_| ()).unwrap_err().to_string()
}

/// Reads and writes; the result must be the same when that is done once more.
pub fn rewrite(m: &ModelProto) -> (Graph, ModelProto) {
    let disk = Disk::new();
    let graph = disk.read(m).unwrap();
    let out = disk.write(&graph).unwrap();
    let again = disk.read(&out).unwrap();
    // As bytes: a NaN is not equal to itself.
    let second = disk.write(&again).unwrap();
    assert!(second.encode_to_vec() == out.encode_to_vec(), "written again {second:?}\ninstead of {out:?}");
    (graph, out)
}

pub fn only_node(g: &Graph) -> &Node {
    assert_eq!(g.node_count(), 1, "{:?}", g.nodes().map(|(_, n)| n.op.name()).collect::<Vec<_>>());
    g.nodes().next().unwrap().1
}

pub fn ops(g: &Graph) -> Vec<String> {
    g.topo_order().unwrap().into_iter().map(|id| g.node(id).op.name()).collect()
}

/// Why the only node stayed foreign.
pub fn reason(g: &Graph) -> &str {
    match &only_node(g).op {
        Op::Foreign(f) => &f.reason,
        op => panic!("{} is not foreign", op.name()),
    }
}
