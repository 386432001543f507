//! ONNX models built by hand, legal and not.

use std::path::Path;

pub use normfuse::formats::onnx::proto::*;
use prost::Message;

/// ONNX's number of float32.
pub const FLOAT: i32 = 1;
/// ONNX's number of int64.
pub const INT64: i32 = 7;

/// A node.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    NodeProto {
        name: Some(format!("make_{}", outputs.first().unwrap_or(&"nothing"))),
        op_type: Some(op.into()),
        input: owned(inputs),
        output: owned(outputs),
        ..NodeProto::default()
    }
}

/// An attribute that is a list of integers.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(attribute_proto::AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

/// An inline initializer.
pub fn tensor(name: &str, data_type: i32, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

/// An inline f32 initializer.
pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    tensor(name, FLOAT, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// An f32 initializer whose bytes are in another file.
pub fn external(name: &str, dims: &[i64], location: &str, offset: u64, length: u64) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    TensorProto {
        name: Some(name.into()),
        data_type: Some(FLOAT),
        dims: dims.to_vec(),
        data_location: Some(tensor_proto::DataLocation::External as i32),
        external_data: vec![
            entry("location", location.into()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ],
        ..TensorProto::default()
    }
}

/// The type of an input or output; a size of 0 is the symbol `rows`.
pub fn value(name: &str, data_type: i32, dims: &[i64]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |d: &i64| Dimension {
        value: Some(if *d == 0 { Value::DimParam("rows".into()) } else { Value::DimValue(*d) }),
        ..Dimension::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: Some(data_type),
        shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// A model at opset 17.
pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(GraphProto { name: Some("g".into()), ..graph }),
        ..ModelProto::default()
    }
}

/// The nodes of an RMSNorm of f32 rows: reads `x`, `w`, `eps` and `two`; names begin with `prefix`.
pub fn rms_norm(prefix: &str, x: &str, w: &str, y: &str) -> Vec<NodeProto> {
    let p = |name: &str| format!("{prefix}{name}");
    let mut mean = node("ReduceMean", &[&p("sq")], &[&p("ms")]);
    mean.attribute.push(ints("axes", &[-1]));
    vec![
        node("Pow", &[x, "two"], &[&p("sq")]),
        mean,
        node("Add", &[&p("ms"), "eps"], &[&p("ve")]),
        node("Sqrt", &[&p("ve")], &[&p("root")]),
        node("Reciprocal", &[&p("root")], &[&p("r")]),
        node("Mul", &[x, &p("r")], &[&p("n")]),
        node("Mul", &[&p("n"), w], &[y]),
    ]
}

/// A model that is one norm of rows of 8 values, with the weight that is given.
pub fn one_norm(weight: TensorProto) -> ModelProto {
    let name = weight.name.clone().unwrap_or_default();
    model(GraphProto {
        node: rms_norm("", "x", &name, "y"),
        input: vec![value("x", FLOAT, &[0, 8])],
        output: vec![value("y", FLOAT, &[0, 8])],
        initializer: vec![weight, floats("two", &[], &[2.0]), floats("eps", &[], &[1e-6])],
        ..GraphProto::default()
    })
}

/// Writes a model.
pub fn save(model: &ModelProto, path: &Path) {
    std::fs::write(path, model.encode_to_vec()).expect("the disk takes it");
}

/// Reads a model.
pub fn load(path: &Path) -> ModelProto {
    ModelProto::decode(std::fs::read(path).expect("a file").as_slice()).expect("a model")
}
