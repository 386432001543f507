//! Every class of broken file ends in one error that names file and node.

use normfuse_formats::onnx::{
    self,
    proto::{
        AttributeProto, GraphProto, ModelProto, TensorProto, TrainingInfoProto, attribute_proto::AttributeType,
        tensor_proto::DataType,
    },
};
use prost::Message;

use crate::build::*;

#[test]
fn garbage_and_truncation_never_panic() {
    let disk = Disk::new();
    for garbage in [&b""[..], b"hello, I am a text file\n", &[0xff; 100], b"{\"a\": 1}", &[0; 64]] {
        let path = disk.put("m.onnx", garbage);
        let e = onnx::read(&path).map(|_| ()).unwrap_err();
        assert_eq!(e.file(), Some(path.as_path()));
        assert!(e.to_string().contains("expected an ONNX model"), "{e}");
    }
    let whole = chain(20, vec![with(node("Concat", &["x", "x"], &["y"]), [int("axis", 0)])]).encode_to_vec();
    for n in 0..whole.len() {
        // Cut between two fields a prefix can be a model of its own; it must only not be a crash.
        let _ = onnx::read(&disk.put("m.onnx", &whole[..n]));
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut broken = whole.clone();
            broken[at] ^= 1 << bit;
            let _ = onnx::read(&disk.put("m.onnx", &broken));
        }
    }
}

#[test]
fn a_missing_file_and_a_folder_are_named() {
    let disk = Disk::new();
    for path in [disk.path("none.onnx"), disk.path("")] {
        let e = onnx::read(&path).map(|_| ()).unwrap_err();
        assert!(e.file().is_some(), "{e}");
    }
}

#[test]
fn claims_larger_than_the_file_allocate_nothing() {
    // Field 7 (graph) of 2 GiB, in a file of a few bytes.
    let disk = Disk::new();
    let e = onnx::read(&disk.put("m.onnx", &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x07, 1])).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("do not decode"), "{e}");
    let mut g = chain(20, vec![node("Neg", &["x"], &["y"])]).graph.unwrap();
    for (dims, message) in [
        (vec![1 << 40], "expected 1099511627776 values"),
        (vec![1 << 40, 1 << 40], "too large to address"),
        (vec![i64::MAX], "too large to address"),
        (vec![-1], "expected sizes of at least 0"),
    ] {
        g.initializer = vec![TensorProto { dims, ..f32s("w", &[], &[1.0]) }];
        let e = refused(&model(20, g.clone()));
        assert!(e.contains(message) && e.contains("initializer `w`"), "{e}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let mut g = GraphProto::default();
    for _ in 0..2000 {
        g = graph(vec![], vec![with(node("If", &["c"], &["o"]), [graph_attr("then_branch", g)])], vec![]);
    }
    let encoded = std::thread::Builder::new()
        .stack_size(256 << 20)
        .spawn(move || {
            let m = model(20, g);
            let bytes = m.encode_to_vec();
            // Dropping it recurses as deep as encoding it.
            drop(m);
            bytes
        })
        .unwrap()
        .join()
        .unwrap();
    let disk = Disk::new();
    let e = onnx::read(&disk.put("m.onnx", &encoded)).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("recursion limit"), "{e}");
}

#[test]
fn opsets_outside_of_the_range_are_refused() {
    for v in [10, 29, -1, i64::MAX] {
        let e = refused(&chain(v, vec![node("Neg", &["x"], &["y"])]));
        assert!(e.contains("opset from 11 to 28") && e.contains(&format!("found {v}")), "{e}");
    }
    let mut m = chain(20, vec![node("Neg", &["x"], &["y"])]);
    m.opset_import.push(opset("ai.onnx", 19));
    assert!(refused(&m).contains("found 20 and 19"));
    m.opset_import = vec![opset("trt", 1)];
    assert!(refused(&m).contains("an opset of the default domain"));
}

#[test]
fn the_order_of_nodes_is_checked() {
    let e = refused(&chain(20, vec![node("Neg", &["t"], &["y"]), node("Abs", &["x"], &["t"])]));
    assert!(e.contains("node `the Neg`") && e.contains("later node `the Abs`") && e.contains("cycle"), "{e}");
    let e = refused(&chain(20, vec![node("Add", &["x", "y"], &["y"])]));
    assert!(e.contains("which it makes itself"), "{e}");
    let e = refused(&chain(20, vec![node("Add", &["x", "ghost"], &["y"])]));
    assert!(e.contains("node `the Add`") && e.contains("`ghost`, which nothing makes"), "{e}");
    let e = refused(&chain(20, vec![node("Neg", &["x"], &["z"])]));
    assert!(e.contains("graph output `y`"), "{e}");
}

#[test]
fn names_are_made_once() {
    let twice = vec![node("Neg", &["x"], &["y"]), node("Abs", &["x"], &["y"])];
    assert!(refused(&chain(20, twice)).contains("two that are called `y`"));
    let mut m = chain(20, vec![node("Neg", &["x"], &["y"])]);
    let g = m.graph.as_mut().unwrap();
    g.initializer = vec![f32s("w", &[], &[1.0]), f32s("w", &[], &[2.0])];
    assert!(refused(&m).contains("two that are called `w`"));
    let mut m = chain(20, vec![node("Neg", &["x"], &["y"])]);
    m.graph.as_mut().unwrap().output.push(f32_value("y"));
    assert!(refused(&m).contains("one graph output of that name"));
}

#[test]
fn operands_and_attributes_of_known_ops_are_checked() {
    let e = refused(&chain(20, vec![node("Add", &["x"], &["y"])]));
    assert!(e.contains("`add` takes 2 operands, found 1"), "{e}");
    let e = refused(&chain(20, vec![node("Concat", &["x"], &["y"])]));
    assert!(e.contains("attribute `axis`") && e.contains("required"), "{e}");
    let e = refused(&chain(20, vec![with(node("Concat", &["x"], &["y"]), [float("axis", 1.0)])]));
    assert!(e.contains("type INT") && e.contains("type FLOAT"), "{e}");
    let e = refused(&chain(20, vec![with(node("Concat", &["x"], &["y"]), [int("axis", 1), int("axis", 0)])]));
    assert!(e.contains("one attribute of that name"), "{e}");
    let e = refused(&chain(
        20,
        vec![with(node("Concat", &["x"], &["y"]), [reference("axis", AttributeType::Int, "outer")])],
    ));
    assert!(e.contains("outside of a function"), "{e}");
    let e = refused(&chain(20, vec![with(node("TopK", &["x", "x"], &["y"]), [int("largest", 7)])]));
    assert!(e.contains("expected 0 or 1, found 7"), "{e}");
    let e = refused(&chain(20, vec![with(node("BitShift", &["x", "x"], &["y"]), [string("direction", "UP")])]));
    assert!(e.contains("LEFT or RIGHT"), "{e}");
    let e = refused(&chain(20, vec![with(node("Split", &["x"], &["y"]), [int("num_outputs", 2)])]));
    assert!(e.contains("expected 1, as many as the node has results"), "{e}");
}

#[test]
fn what_a_value_is_must_be_said() {
    let e = refused(&model(20, graph(vec![value("s", DataType::Undefined, "2")], vec![], vec![])));
    assert!(e.contains("graph input or output `s`") && e.contains("found a tensor of element type 0"), "{e}");
    let mut v = f32_value("s");
    v.r#type = None;
    assert!(refused(&model(20, graph(vec![v], vec![], vec![]))).contains("found none"));
    let with_w = |w| {
        let mut m = chain(20, vec![node("Neg", &["x"], &["y"])]);
        m.graph.as_mut().unwrap().initializer = vec![w];
        refused(&m)
    };
    let e = with_w(TensorProto { data_type: Some(0), ..f32s("w", &[], &[]) });
    assert!(e.contains("initializer `w`") && e.contains("type number 0"), "{e}");
    // Nobody knows how many bytes that is.
    let e = with_w(external("w", DataType::Int4, &[3], &[("location", "w.data")]));
    assert!(e.contains("initializer `w`") && e.contains("the `length`"), "{e}");
    let e = with_w(external("w", DataType::Int4, &[3], &[("location", "../w.data"), ("length", "2")]));
    assert!(e.contains("initializer `w`") && e.contains("inside the model's folder"), "{e}");
}

#[test]
fn what_would_be_lost_is_refused() {
    let fine = chain(20, vec![node("Neg", &["x"], &["y"])]);
    let mut m = fine.clone();
    m.training_info.push(TrainingInfoProto::default());
    assert!(refused(&m).contains("training_info"));
    let mut m = fine.clone();
    m.configuration.push(onnx::proto::DeviceConfigurationProto::default());
    assert!(refused(&m).contains("device configurations"));
    let mut m = fine;
    m.graph.as_mut().unwrap().node[0].device_configurations.push(onnx::proto::NodeDeviceConfigurationProto::default());
    assert!(refused(&m).contains("node `the Neg`"));
}

#[test]
fn tensor_bytes_must_fit_their_shape() {
    let with_w = |t: TensorProto| {
        let mut m = chain(20, vec![node("Add", &["x", "w"], &["y"])]);
        m.graph.as_mut().unwrap().initializer = vec![t];
        refused(&m)
    };
    assert!(with_w(f32s("w", &[2, 4], &[1.0])).contains("expected 8 values in `float_data`"));
    let raw = |ty: DataType, dims: &[i64], bytes: &'static [u8]| TensorProto {
        data_type: Some(ty as i32),
        raw_data: Some(bytes::Bytes::from_static(bytes)),
        ..f32s("w", dims, &[])
    };
    assert!(with_w(raw(DataType::Float, &[2], &[0; 7])).contains("takes 8 bytes, found 7"));
    assert!(with_w(raw(DataType::Float4e2m1, &[3], &[0; 1])).contains("takes 2 bytes, found 1"));
    assert!(with_w(raw(DataType::Bool, &[2], &[0, 2])).contains("bools of 0 or 1"));
    let wide = TensorProto { data_type: Some(DataType::Int8 as i32), int32_data: vec![300], ..f32s("w", &[1], &[]) };
    assert!(with_w(wide).contains("values of 8 bits, found 300"));
    let segment =
        TensorProto { segment: Some(onnx::proto::tensor_proto::Segment::default()), ..f32s("w", &[], &[1.0]) };
    assert!(with_w(segment).contains("a segment"));
    let constant = with(node("Constant", &[], &["c"]), [tensor_attr("value", f32s("", &[3], &[1.0]))]);
    let e = refused(&chain(20, vec![constant, node("Add", &["x", "c"], &["y"])]));
    assert!(e.contains("node `the Constant`, attribute `value`"), "{e}");
}

#[test]
fn an_attribute_without_its_value_is_an_error() {
    let empty = AttributeProto { t: None, ..tensor_attr("value", TensorProto::default()) };
    let e = refused(&chain(20, vec![with(node("ConstantOfShape", &["x"], &["y"]), [empty])]));
    assert!(e.contains("expected a tensor, found nothing"), "{e}");
    let m = ModelProto { graph: None, ..chain(20, vec![]) };
    assert!(refused(&m).contains("expected a graph"));
}
