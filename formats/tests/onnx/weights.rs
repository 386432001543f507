//! External weights: mapped, referred to, copied only on demand.

use std::fs;

use normfuse_formats::onnx::{
    self, WriteOptions,
    proto::{ModelProto, TensorProto, tensor_proto::DataType},
};
use normfuse_ir::Data;
use prost::Message;

use crate::build::*;

/// `y = x + w` with these initializers.
fn with_weights(tensors: Vec<TensorProto>) -> ModelProto {
    let mut nodes = Vec::new();
    let mut last = "x".to_owned();
    for (i, t) in tensors.iter().enumerate() {
        let out = if i + 1 == tensors.len() { "y".to_owned() } else { format!("t{i}") };
        nodes.push(node("Add", &[&last, t.name()], &[&out]));
        last = out;
    }
    let mut m = chain(20, nodes);
    m.graph.as_mut().unwrap().initializer = tensors;
    m
}

fn w(entries: &[(&str, &str)]) -> TensorProto {
    external("w", DataType::Float, &[4], entries)
}

fn location(t: &TensorProto) -> Vec<(&str, &str)> {
    t.external_data.iter().map(|e| (e.key(), e.value())).collect()
}

const COPY: WriteOptions = WriteOptions { copy_weights: true };

#[test]
fn bad_references_are_refused() {
    let disk = Disk::new();
    disk.put("m/w.data", &[7; 32]);
    let long = "9".repeat(30);
    for (entries, message) in [
        (&[("location", "gone.data")][..], "gone.data"),
        (&[("location", "/etc/passwd")], "absolute path"),
        (&[("location", "../w.data")], "inside the model's folder"),
        (&[("location", "a/../../w.data")], "inside the model's folder"),
        (&[("location", ".")], "inside the model's folder"),
        (&[("offset", "0")], "a `location`"),
        (&[("location", "w.data"), ("offset", "17")], "a file of 32 bytes"),
        (&[("location", "w.data"), ("offset", "18446744073709551615")], "a file of 32 bytes"),
        (&[("location", "w.data"), ("offset", "-1")], "a number of bytes as `offset`"),
        (&[("location", "w.data"), ("offset", &long)], "a number of bytes as `offset`"),
        (&[("location", "w.data"), ("length", "8")], "16 bytes of external data"),
    ] {
        let path = disk.put("m/m.onnx", &with_weights(vec![w(entries)]).encode_to_vec());
        let e = onnx::read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(message) && e.contains("initializer `w`"), "{entries:?}: {e}");
    }
}

#[test]
fn beside_the_source_the_reference_stays() {
    let disk = Disk::new();
    disk.put("sub/w.data", &(0..32).collect::<Vec<u8>>());
    let entries = [("location", "sub/w.data"), ("offset", "16"), ("length", "16")];
    let g = disk.read(&with_weights(vec![w(&entries)])).unwrap();
    let (_, value) = g.values().find(|(_, v)| v.name == "w").unwrap();
    let tensor = value.as_const().unwrap();
    assert!(matches!(tensor.data(), Data::External(r) if (&*r.file, r.offset, r.len) == ("sub/w.data", 16, 16)));
    assert_eq!(tensor.bytes(), (16..32).collect::<Vec<u8>>());
    let m = disk.write(&g).unwrap();
    assert_eq!(location(&m.graph.unwrap().initializer[0]), entries);
    // From the data's own folder it has another name.
    onnx::write(&g, &disk.path("sub/out.onnx"), &WriteOptions::default()).unwrap();
    assert_eq!(location(&disk.load("sub/out.onnx").graph.unwrap().initializer[0])[0], ("location", "w.data"));
}

#[test]
fn another_folder_needs_a_copy() {
    let disk = Disk::new();
    let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    disk.put("src/w.data", &data);
    fs::create_dir(disk.path("dst")).unwrap();
    let at = |name: &str, dims: &[i64], offset: usize| {
        external(name, DataType::Float, dims, &[("location", "w.data"), ("offset", &offset.to_string())])
    };
    let tensors = vec![
        at("small", &[3], 4),
        at("tied", &[4], 32),
        at("again", &[4], 32),
        at("big", &[40_000], 1000),
        at("after", &[1], 0),
    ];
    let path = disk.put("src/m.onnx", &with_weights(tensors).encode_to_vec());
    let g = onnx::read(&path).unwrap();
    let out = disk.path("dst/out.onnx");
    let e = onnx::write(&g, &out, &WriteOptions::default()).unwrap_err();
    assert!(e.to_string().contains("--copy-weights") && e.to_string().contains("weight `small`"), "{e}");
    assert_eq!(fs::read_dir(disk.path("dst")).unwrap().count(), 0);
    onnx::write(&g, &out, &COPY).unwrap();
    let m = disk.load("dst/out.onnx");
    let copied = m.graph.unwrap().initializer;
    let offsets: Vec<&str> = copied.iter().map(|t| location(t)[1].1).collect();
    // Tied weights share their bytes; a large weight starts on a page.
    assert_eq!(offsets, ["0", "64", "64", "4096", "164096"]);
    assert!(copied.iter().all(|t| location(t)[0] == ("location", "out.onnx.data")));
    assert_eq!(fs::metadata(disk.path("dst/out.onnx.data")).unwrap().len(), 164_100);
    let moved = onnx::read(&out).unwrap();
    let bytes = |g: &normfuse_ir::Graph, name: &str| {
        g.values().find(|(_, v)| v.name == name).unwrap().1.as_const().unwrap().bytes().to_vec()
    };
    for name in ["small", "tied", "again", "big", "after"] {
        assert_eq!(bytes(&moved, name), bytes(&g, name), "{name}");
    }
    let mut left: Vec<_> =
        fs::read_dir(disk.path("dst")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["out.onnx", "out.onnx.data"]);
}

#[test]
fn a_copy_never_replaces_the_source_data() {
    let disk = Disk::new();
    disk.put("m.onnx.data", &[1; 16]);
    let g = disk.read(&with_weights(vec![w(&[("location", "m.onnx.data")])])).unwrap();
    let e = onnx::write(&g, &disk.path("m.onnx"), &COPY).unwrap_err().to_string();
    assert!(e.contains("choose another output name"), "{e}");
    assert_eq!(disk.files(), ["m.onnx", "m.onnx.data"]);
    // Over the source itself, with the data left where it is: fine.
    onnx::write(&g, &disk.path("m.onnx"), &WriteOptions::default()).unwrap();
    assert_eq!(fs::read(disk.path("m.onnx.data")).unwrap(), [1; 16]);
}

#[test]
fn a_source_that_shrank_is_noticed_and_nothing_is_left() {
    let disk = Disk::new();
    disk.put("src/w.data", &[1; 16]);
    fs::create_dir(disk.path("dst")).unwrap();
    let path = disk.put("src/m.onnx", &with_weights(vec![w(&[("location", "w.data")])]).encode_to_vec());
    let g = onnx::read(&path).unwrap();
    fs::File::options().write(true).open(disk.path("src/w.data")).unwrap().set_len(8).unwrap();
    let e = onnx::write(&g, &disk.path("dst/out.onnx"), &COPY).unwrap_err().to_string();
    assert!(e.contains("has changed since it was read"), "{e}");
    assert_eq!(fs::read_dir(disk.path("dst")).unwrap().count(), 0);
}

#[test]
fn weights_in_subgraphs_move_to_the_main_graph() {
    let disk = Disk::new();
    disk.put("w.data", &[3; 64]);
    let at = |offset: &str| external("w", DataType::Float, &[4], &[("location", "w.data"), ("offset", offset)]);
    let branch = |offset: &str, name: &str| {
        let mut g = graph(vec![], vec![node("Add", &["x", "w"], &[name])], vec![f32_value(name)]);
        g.initializer = vec![at(offset)];
        g
    };
    let mut m = chain(
        20,
        vec![with(
            node("If", &["c"], &["y"]),
            [graph_attr("then_branch", branch("0", "a")), graph_attr("else_branch", branch("16", "b"))],
        )],
    );
    m.graph.as_mut().unwrap().input.push(value("c", DataType::Bool, ""));
    let g = disk.read(&m).unwrap();
    let n = only_node(&g);
    // The condition, then x and both weights, of which each branch had one called `w`.
    assert_eq!(n.inputs.len(), 4);
    let out = disk.write(&g).unwrap();
    let proto = out.graph.as_ref().unwrap();
    assert_eq!(proto.initializer.len(), 2);
    for (i, a) in proto.node[0].attribute.iter().enumerate() {
        let g = a.g.as_ref().unwrap();
        assert!(g.initializer.is_empty());
        assert_eq!(g.node[0].input[1], proto.initializer[i].name());
        assert_eq!(location(&proto.initializer[i])[1].1, ["0", "16"][i]);
    }
    let again = disk.read(&out).unwrap();
    assert_eq!(disk.write(&again).unwrap(), out);
}
