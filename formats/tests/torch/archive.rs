//! Weights stay where they are, in whatever layout, and keep their names.

use normfuse_formats::parameters::{self, Parameter};
use normfuse_ir::{Data, Op};
use serde_json::json;

use crate::build::*;

fn with_layout(sizes: &str, strides: &[i64], offset: i64, bytes: &[u8]) -> Program {
    let mut p = Program::new(&[]).weight("layer.w", F32, sizes, bytes).output("p_layer_w");
    let meta = &mut p.weights["layer.w"]["tensor_meta"];
    meta["strides"] = strides.iter().map(|s| json!({"as_int": s})).collect();
    meta["storage_offset"] = json!({"as_int": offset});
    p
}

#[test]
fn a_weight_is_a_region_of_the_archive_under_its_own_name() {
    let graph = with_layout("2;3", &[3, 1], 0, &le(&[1., 2., 3., 4., 5., 6.])).read();
    let (_, w) = graph.values().find(|(_, v)| v.name == "layer.w").unwrap();
    let Data::External(region) = w.as_const().unwrap().data() else { panic!("it was copied") };
    assert_eq!((&*region.file, region.len), ("m.pt2", 24));
    assert_eq!(floats(w.as_const().unwrap()), [1., 2., 3., 4., 5., 6.]);
}

#[test]
fn strides_and_offsets_say_which_element_is_where() {
    let bytes = le(&[0., 1., 2., 3., 4., 5., 6., 7.]);
    for (sizes, strides, offset, want) in [
        ("2;3", &[3, 1][..], 1, &[1., 2., 3., 4., 5., 6.][..]),
        ("3;2", &[1, 3], 1, &[1., 4., 2., 5., 3., 6.]),
        ("2;2", &[4, 1], 2, &[2., 3., 6., 7.]),
        ("2;2", &[1, 4], 0, &[0., 4., 1., 5.]),
        ("2;3", &[0, 1], 5, &[5., 6., 7., 5., 6., 7.]),
        ("2;1;2", &[2, 77, 1], 0, &[0., 1., 2., 3.]),
        ("", &[], 7, &[7.]),
    ] {
        let out = with_layout(sizes, strides, offset, &bytes).run(&[]);
        assert_eq!(floats(&out[0]), want, "{sizes} {strides:?} {offset}");
    }
}

#[test]
fn two_weights_may_share_a_record() {
    let mut p = Program::new(&[]).weight("a", F32, "2", &le(&[1., 2.])).weight("b", F32, "2", &[]);
    p.weights["b"]["path_name"] = json!("weight_0");
    let graph = p.output("p_a").output("p_b").read();
    let places: Vec<u64> = graph
        .values()
        .filter_map(|(_, v)| match v.as_const()?.data() {
            Data::External(r) => Some(r.offset),
            Data::Inline(_) => None,
        })
        .collect();
    assert_eq!(places.len(), 2);
    assert_eq!(places[0], places[1]);
}

#[test]
fn parameters_without_data_are_inputs() {
    let mut p = Program::new(&[("x", F32, "s0;2")]).weight("w", F32, "2", &[]);
    p.weights["w"]["tensor_meta"] = meta(F32, "2", "meta");
    let p = p.then("aten.mul.Tensor", &[("self", t("x")), ("other", t("p_w"))], "y", F32, "s0;2").output("y");
    let graph = p.read();
    let names: Vec<&str> = graph.inputs().iter().map(|v| graph.value(*v).name.as_str()).collect();
    assert_eq!(names, ["x", "w"]);
    assert_eq!(parameters::recorded(&graph).unwrap().unwrap(), [Parameter::named("w")]);
    assert_eq!(parameters::without_data(&graph).unwrap(), graph.inputs()[1..]);
    assert!(graph.info.notes.iter().any(|n| n.contains("1 parameters have no data")), "{:?}", graph.info.notes);
}

#[test]
fn a_part_of_a_pickled_tensor_is_a_parameter_without_data() {
    let mut p = Program::new(&[("x", I8, "2;2")]).weight("w", BF16, "2;2", b"code");
    p.weights["w"]["use_pickle"] = json!(true);
    let inner = [("src_subclass_tensor", t("p_w")), ("attr", json!({"as_string": "qdata"}))];
    let graph = p
        .then("export.access_subclass_inner_tensor.default", &inner, "q", I8, "2;2")
        .then("aten._int_mm.default", &[("self", t("x")), ("mat2", t("q"))], "y", 4, "2;2")
        .output("y")
        .read();
    assert_eq!(graph.value(graph.inputs()[1]).name, "w.qdata");
    assert!(graph.nodes().any(|(_, n)| n.op == Op::MatMulInteger));
}

/// The end of an archive as torch writes it: also in its 64-bit form, between the directory and the end.
fn with_wide_end(zip: &[u8]) -> Vec<u8> {
    let end = zip.len() - 22;
    let number =
        |at: usize, size: usize| -> u64 { zip[end + at..][..size].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)) };
    let (count, size, start) = (number(10, 2), number(12, 4), number(16, 4));
    let mut wide = b"PK\x06\x06".to_vec();
    wide.extend(44u64.to_le_bytes());
    wide.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    wide.extend([count, count, size, start].iter().flat_map(|n| n.to_le_bytes()));
    wide.extend(b"PK\x06\x07\0\0\0\0");
    wide.extend((end as u64).to_le_bytes());
    wide.extend(1u32.to_le_bytes());
    [&zip[..end], &wide, &zip[end..]].concat()
}

#[test]
fn the_directory_is_where_the_archive_says_whatever_its_names_are_long() {
    // 76 bytes are between directory and end: whoever counts back from the end finds a record that is as long.
    for length in 1..40 {
        let folder = "a".repeat(length);
        let mut records = Program::new(&[("x", F32, "2")])
            .weight("w", F32, "2", &le(&[1., 2.]))
            .then("aten.mul.Tensor", &[("self", t("x")), ("other", t("p_w"))], "y", F32, "2")
            .output("y")
            .all_records();
        for (name, _) in &mut records {
            *name = name.replacen('m', &folder, 1);
        }
        let archive = with_wide_end(&zip(&records, zip::CompressionMethod::Stored));
        let graph = Disk::new().read(&archive).unwrap_or_else(|e| panic!("{length}: {e}"));
        assert_eq!(graph.node_count(), 1);
    }
}
