//! Programs in a few words, as torch.export.save would write them.

use std::{
    fs,
    io::{Cursor, Write},
    path::PathBuf,
};

use normfuse_formats::{FormatError, torch};
use normfuse_ir::{DType, Graph, Tensor, eval};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Element types by torch's number.
pub const I8: i64 = 2;
pub const I64: i64 = 5;
pub const F32: i64 = 7;
pub const BOOL: i64 = 12;
pub const BF16: i64 = 13;

/// A tensor argument.
pub fn t(name: &str) -> Value {
    json!({"as_tensor": {"name": name}})
}

/// A list of tensors.
pub fn ts(names: &[&str]) -> Value {
    json!({"as_tensors": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()})
}

pub fn int(v: i64) -> Value {
    json!({"as_int": v})
}

pub fn ints(v: &[i64]) -> Value {
    json!({"as_ints": v})
}

pub fn float(v: f64) -> Value {
    json!({"as_float": v})
}

/// A call of `torch.ops.TARGET`; its first result names it.
pub fn call(target: &str, inputs: &[(&str, Value)], results: &[&str]) -> Value {
    let inputs: Vec<Value> = inputs.iter().map(|(name, arg)| json!({"name": name, "arg": arg, "kind": 1})).collect();
    let outputs: Vec<Value> = results.iter().map(|r| t(r)).collect();
    json!({
        "target": format!("torch.ops.{target}"),
        "inputs": inputs,
        "outputs": outputs,
        "metadata": {},
        "is_hop_single_tensor_return": null,
        "name": results.first(),
    })
}

fn size(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!({"as_expr": {"expr_str": text, "hint": null}}), |n| json!({"as_int": n}))
}

/// A tensor's type; sizes are separated by `;`.
pub fn meta(dtype: i64, sizes: &str, device: &str) -> Value {
    let sizes: Vec<&str> = sizes.split(';').map(str::trim).filter(|s| !s.is_empty()).collect();
    let mut strides = vec![json!({"as_int": 1}); sizes.len()];
    let mut span = Some(1);
    for (i, s) in sizes.iter().enumerate().rev() {
        strides[i] = json!({"as_int": span.unwrap_or(1)});
        span = span.and_then(|n: i64| Some(n * s.parse::<i64>().ok()?));
    }
    json!({
        "dtype": dtype,
        "sizes": sizes.iter().map(|s| size(s)).collect::<Vec<_>>(),
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "requires_grad": false,
        "device": {"type": device, "index": null},
        "layout": 7,
    })
}

/// A program under construction.
#[derive(Clone)]
pub struct Program {
    pub json: Value,
    pub weights: Map<String, Value>,
    pub records: Vec<(String, Vec<u8>)>,
}

impl Program {
    /// A program with these inputs: name, element type, sizes.
    pub fn new(inputs: &[(&str, i64, &str)]) -> Self {
        let mut p = Self {
            json: json!({
                "graph_module": {
                    "graph": {
                        "inputs": [], "outputs": [], "nodes": [], "tensor_values": {}, "sym_int_values": {},
                        "sym_bool_values": {}, "is_single_tensor_return": false,
                    },
                    "signature": {"input_specs": [], "output_specs": []},
                    "module_call_graph": [],
                },
                "opset_version": {"aten": 10},
                "range_constraints": {},
                "schema_version": {"major": 8, "minor": 99},
                "a_field_of_later": [1],
            }),
            weights: Map::new(),
            records: Vec::new(),
        };
        for (name, dtype, sizes) in inputs {
            p.specs("input_specs").push(json!({"user_input": {"arg": t(name)}}));
            p.value(name, *dtype, sizes);
        }
        p
    }

    pub fn graph(&mut self) -> &mut Value {
        &mut self.json["graph_module"]["graph"]
    }

    fn specs(&mut self, which: &str) -> &mut Vec<Value> {
        self.json["graph_module"]["signature"][which].as_array_mut().unwrap()
    }

    pub fn value(&mut self, name: &str, dtype: i64, sizes: &str) {
        self.graph()["tensor_values"][name] = meta(dtype, sizes, "cpu");
    }

    /// A parameter of the model with these bytes.
    pub fn weight(mut self, name: &str, dtype: i64, sizes: &str, bytes: &[u8]) -> Self {
        let arg = format!("p_{}", name.replace('.', "_"));
        self.specs("input_specs").push(json!({"parameter": {"arg": {"name": arg}, "parameter_name": name}}));
        self.value(&arg, dtype, sizes);
        let path = format!("weight_{}", self.weights.len());
        let tensor_meta = meta(dtype, sizes, "cpu");
        let payload = json!({"path_name": path, "is_param": true, "use_pickle": false, "tensor_meta": tensor_meta});
        self.weights.insert(name.into(), payload);
        self.records.push((format!("data/weights/{path}"), bytes.to_vec()));
        self
    }

    /// A call with one result of that type.
    pub fn then(mut self, target: &str, inputs: &[(&str, Value)], name: &str, dtype: i64, sizes: &str) -> Self {
        self.value(name, dtype, sizes);
        self.node(call(target, inputs, &[name]))
    }

    pub fn node(mut self, node: Value) -> Self {
        self.graph()["nodes"].as_array_mut().unwrap().push(node);
        self
    }

    /// An integer that is a size of the input.
    pub fn sym(mut self, name: &str, of: &str, axis: i64, expr: &str) -> Self {
        self.graph()["sym_int_values"][name] = size(expr);
        let mut node = call("aten.sym_size.int", &[("self", t(of)), ("dim", int(axis))], &[name]);
        node["outputs"] = json!([{"as_sym_int": {"as_name": name}}]);
        self.node(node)
    }

    pub fn output(mut self, name: &str) -> Self {
        self.specs("output_specs").push(json!({"user_output": {"arg": t(name)}}));
        self
    }

    /// The records of the archive, as torch names them.
    pub fn all_records(&self) -> Vec<(String, Vec<u8>)> {
        let mut records = self.records.clone();
        let config = json!({"config": self.weights}).to_string();
        records.push(("data/weights/model_weights_config.json".into(), config.into_bytes()));
        records.push(("models/model.json".into(), self.json.to_string().into_bytes()));
        records.push(("archive_format".into(), b"pt2".to_vec()));
        records.into_iter().map(|(name, bytes)| (format!("m/{name}"), bytes)).collect()
    }

    pub fn zip(&self) -> Vec<u8> {
        zip(&self.all_records(), CompressionMethod::Stored)
    }

    pub fn read(&self) -> Graph {
        Disk::new().read(&self.zip()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The message with which the reader refuses the program.
    pub fn refused(&self) -> String {
        refused(&self.zip())
    }

    /// What the program computes.
    pub fn run(&self, inputs: &[Tensor]) -> Vec<Tensor> {
        let graph = self.read();
        eval::run(&graph, inputs).unwrap_or_else(|e| panic!("{e}"))
    }
}

pub fn zip(records: &[(String, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in records {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub struct Disk(TempDir);

impl Disk {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("m.pt2");
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, bytes: &[u8]) -> Result<Graph, FormatError> {
        torch::read(&self.put(bytes))
    }
}

/// The message with which the reader refuses a file; it names the file.
pub fn refused(bytes: &[u8]) -> String {
    let disk = Disk::new();
    let e = disk.read(bytes).map(|_| ()).expect_err("it is refused");
    assert_eq!(e.file(), Some(disk.put(bytes).as_path()));
    e.to_string()
}

pub fn f32s(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_f32(shape, v)
}

pub fn bf16_bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| normfuse_ir::num::f32_to_bf16(*v).to_le_bytes()).collect()
}

pub fn bf16s(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_bytes(DType::BF16, shape.to_vec(), bf16_bytes(v)).unwrap()
}

pub fn le(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn floats(t: &Tensor) -> Vec<f32> {
    match t.dtype() {
        DType::F32 => t.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        DType::BF16 => t
            .bytes()
            .chunks_exact(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect(),
        DType::I64 => t.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
        DType::I8 => t.bytes().iter().map(|b| f32::from(b.cast_signed())).collect(),
        _ => t.bytes().iter().map(|b| f32::from(*b)).collect(),
    }
}
