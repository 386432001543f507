//! Weights stay in their files. Alone in its program: the peak is the whole process's.
#![cfg(target_os = "linux")]

use std::{fs, io::Write as _};

use normfuse_formats::onnx::{
    self, WriteOptions,
    proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TypeProto,
        ValueInfoProto,
        tensor_proto::{DataLocation, DataType},
        type_proto,
    },
};
use prost::Message;

/// Peak resident memory of this process in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn value(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(DataType::Bfloat16 as i32), shape: None };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..ValueInfoProto::default() }
}

#[test]
fn a_hundred_gigabytes_of_weights_cost_no_memory() {
    const LAYER: u64 = 1 << 30;
    let dir = tempfile::tempdir().unwrap();
    let mut data = fs::File::create(dir.path().join("w.data")).unwrap();
    data.write_all(&[1]).unwrap();
    data.set_len(100 * LAYER).unwrap();
    let entry = |k: &str, v: String| StringStringEntryProto { key: Some(k.into()), value: Some(v) };
    let mut graph = GraphProto { input: vec![value("t0")], output: vec![value("t100")], ..GraphProto::default() };
    for i in 0..100 {
        graph.initializer.push(TensorProto {
            name: Some(format!("w{i}")),
            data_type: Some(DataType::Bfloat16 as i32),
            dims: vec![1 << 10, 1 << 19],
            data_location: Some(DataLocation::External as i32),
            external_data: vec![entry("location", "w.data".into()), entry("offset", (i * LAYER).to_string())],
            ..TensorProto::default()
        });
        graph.node.push(NodeProto {
            op_type: Some("MatMul".into()),
            input: vec![format!("t{i}"), format!("w{i}")],
            output: vec![format!("t{}", i + 1)],
            ..NodeProto::default()
        });
    }
    let model = ModelProto {
        ir_version: Some(10),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(20) }],
        graph: Some(graph),
        ..ModelProto::default()
    };
    let (source, out) = (dir.path().join("m.onnx"), dir.path().join("out.onnx"));
    fs::write(&source, model.encode_to_vec()).unwrap();
    let graph = onnx::read(&source).unwrap();
    onnx::write(&graph, &out, &WriteOptions::default()).unwrap();
    let written = ModelProto::decode(&*fs::read(&out).unwrap()).unwrap();
    assert_eq!(written.graph.unwrap().initializer.len(), 100);
    assert!(fs::metadata(&out).unwrap().len() < 1 << 20);
    assert!(peak() < 200 << 20, "{} MB", peak() >> 20);
}
