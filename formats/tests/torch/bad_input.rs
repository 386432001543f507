//! Every class of broken file ends in one error that names file and node.

use serde_json::{Value, json};
use zip::CompressionMethod;

use crate::build::*;

fn good() -> Program {
    Program::new(&[("x", F32, "s0;2")])
        .weight("w", F32, "2", &le(&[1., 2.]))
        .then("aten.mul.Tensor", &[("self", t("x")), ("other", t("p_w"))], "y", F32, "s0;2")
        .then("aten.abs.default", &[("self", t("y"))], "z", F32, "s0;2")
        .output("z")
}

fn says(e: &str, parts: &[&str]) {
    for part in parts {
        assert!(e.contains(part), "`{part}` is not in: {e}");
    }
}

#[test]
fn truncation_and_noise_never_panic() {
    let whole = good().zip();
    assert!(Disk::new().read(&whole).is_ok());
    let disk = Disk::new();
    for n in (0..whole.len()).step_by(7) {
        assert!(disk.read(&whole[..n]).is_err(), "{n}");
    }
    says(&refused(&whole[..whole.len() - 30]), &["no zip archive that can be read", "cut off"]);
    says(&refused(b"hello"), &["no zip archive"]);
    for at in (0..whole.len()).step_by(3) {
        let mut broken = whole.clone();
        broken[at] ^= 1 << (at % 8);
        let _ = disk.read(&broken);
    }
}

#[test]
fn records_that_are_missing_compressed_or_outside() {
    let records = good().all_records();
    let without = |name: &str| {
        let left: Vec<_> = records.iter().filter(|(n, _)| !n.ends_with(name)).cloned().collect();
        refused(&zip(&left, CompressionMethod::Stored))
    };
    says(&without("weight_0"), &["parameter `w`", "a record `data/weights/weight_0`"]);
    says(&without("model.json"), &["a record models/NAME.json", "torch 2.8"]);
    says(&without("archive_format"), &["a record `archive_format`"]);
    says(&without("weights_config.json"), &["parameter `w`", "data for the tensor"]);
    let e = refused(&zip(&records, CompressionMethod::Deflated));
    says(&e, &["record `m/data/weights/weight_0`", "stored as it is", "Deflated"]);
    for name in ["/etc/passwd", "m/../../x", "C:\\x", "..\\x"] {
        let mut records = records.clone();
        records.push((name.into(), b"x".to_vec()));
        says(&refused(&zip(&records, CompressionMethod::Stored)), &["one that leaves it"]);
    }
    let order = |of: &[u8]| {
        let mut records = records.clone();
        records.push(("m/byteorder".into(), of.to_vec()));
        zip(&records, CompressionMethod::Stored)
    };
    assert!(Disk::new().read(&order(b"little")).is_ok());
    says(&refused(&order(b"big")), &["record `byteorder`", "`little`", "found `big`"]);
    let mut records = records;
    records.push(("m/models/other.json".into(), b"{}".to_vec()));
    says(&refused(&zip(&records, CompressionMethod::Stored)), &["one model in the archive", "models/other.json"]);
}

#[test]
fn weights_that_are_not_as_they_are_said_to_be() {
    let with = |f: &dyn Fn(&mut Value)| {
        let mut p = good();
        f(&mut p.weights["w"]);
        p.refused()
    };
    let sizes = |n: i64| move |w: &mut Value| w["tensor_meta"]["sizes"] = json!([{"as_int": n}]);
    says(&with(&sizes(3)), &["parameter `w`", "12 bytes at offset 0", "a record of 8 bytes"]);
    says(&with(&sizes(1)), &["parameter `w`", "f32[2]", "f32[1]"]);
    says(&with(&sizes(-1)), &["parameter `w`", "sizes of at least 0"]);
    says(&with(&sizes(i64::MAX)), &["parameter `w`", "too large"]);
    says(&with(&|w| w["tensor_meta"]["storage_offset"] = json!({"as_int": 1})), &["offset 4", "a record of 8 bytes"]);
    says(&with(&|w| w["tensor_meta"]["storage_offset"] = json!({"as_int": i64::MAX})), &["parameter `w`"]);
    says(&with(&|w| w["tensor_meta"]["strides"] = json!([])), &["parameter `w`", "1 strides"]);
    says(&with(&|w| w["tensor_meta"]["dtype"] = json!(10)), &["parameter `w`", "16 bytes", "a record of 8 bytes"]);
    says(&with(&|w| w["tensor_meta"]["dtype"] = json!(99)), &["parameter `w`", "number 99"]);
    says(&with(&|w| w["path_name"] = json!("../../x")), &["parameter `w`", "a record inside the archive"]);
    says(&with(&|w| w["use_pickle"] = json!(true)), &["node `y`", "operand `p_w`", "tensor `w`", "pickled"]);
    let overlap = |w: &mut Value| {
        w["tensor_meta"]["sizes"] = json!([{"as_int": 2}, {"as_int": 2}]);
        w["tensor_meta"]["strides"] = json!([{"as_int": 1}, {"as_int": 1}]);
    };
    says(&with(&overlap), &["parameter `w`", "do not overlap"]);
}

#[test]
fn other_schemas_are_refused_with_both_versions() {
    let mut p = good();
    p.json["schema_version"] = json!({"major": 9, "minor": 1});
    says(&p.refused(), &["record `models/model.json`", "major version 8", "version 9.1"]);
    // Another major version need not parse as this one.
    p.json = json!({"schema_version": {"major": 7, "minor": 3}, "program": []});
    says(&p.refused(), &["major version 8", "version 7.3"]);
    p.json = json!({"hello": 1});
    says(&p.refused(), &["a program of torch's schema"]);
}

#[test]
fn unknown_kinds_name_node_and_op() {
    let arg = |kind: &str| json!({kind: {"name": "x"}});
    let p = good().then("aten.exp.default", &[("self", arg("as_hologram"))], "e", F32, "s0;2");
    says(&p.refused(), &["node `e`", "torch.ops.aten.exp.default", "`as_hologram`"]);
    let sizes = json!({"as_sym_ints": [{"as_dream": "s0"}]});
    let p = good().then("aten.view.default", &[("self", t("x")), ("size", sizes)], "v", F32, "s0;2");
    says(&p.refused(), &["node `v`", "`as_dream`"]);
    let mut p = good();
    p.graph()["tensor_values"]["z"]["sizes"][0] = json!({"as_dream": 1});
    says(&p.refused(), &["node `z`", "`as_dream`"]);
    let mut p = good();
    p.json["graph_module"]["signature"]["input_specs"][0] = json!({"wish": {}});
    says(&p.refused(), &["`wish`"]);
    let mut p = good();
    p.json["graph_module"]["signature"]["output_specs"][0] = json!({"loss_output": {}});
    says(&p.refused(), &["a program for inference", "`loss_output`"]);
}

#[test]
fn sizes_that_do_not_parse() {
    for text in ["s0 +", "Where(s0, 1)", "s0/2", "Symbol('s0'"] {
        let mut p = good();
        p.graph()["tensor_values"]["z"]["sizes"][0] = json!({"as_expr": {"expr_str": text}});
        says(&p.refused(), &["node `z`", "a size expression", text]);
    }
}

#[test]
fn values_that_nothing_makes_cycles_and_doubles() {
    let p = good().then("aten.exp.default", &[("self", t("ghost"))], "e", F32, "s0;2");
    says(&p.refused(), &["node `e`", "found `ghost`"]);
    let p = Program::new(&[("x", F32, "2")])
        .then("aten.exp.default", &[("self", t("b"))], "a", F32, "2")
        .then("aten.exp.default", &[("self", t("a"))], "b", F32, "2")
        .output("b");
    says(&p.refused(), &["node `a`", "found `b`", "cycle"]);
    let p = good().then("aten.exp.default", &[("self", t("x"))], "y", F32, "s0;2");
    says(&p.refused(), &["node `y`", "two that are called `y`"]);
    says(&good().output("ghost").refused(), &["graph output `ghost`"]);
    let mut p = good();
    p.graph()["tensor_values"].as_object_mut().unwrap().remove("z");
    says(&p.refused(), &["node `z`", "a type of the tensor"]);
}

#[test]
fn types_that_contradict_the_ops() {
    let mut p = good();
    p.value("z", BF16, "s0;2");
    says(&p.refused(), &["node `z`", "a result of f32", "bf16"]);
    let mut p = good();
    p.value("z", F32, "s0;3");
    says(&p.refused(), &["node `z`", "a result of shape [s0, 2]", "[s0, 3]"]);
    let view = [("self", t("x")), ("size", ints(&[2, -1]))];
    let p = good().then("aten.view.default", &view, "v", F32, "s0;2");
    says(&p.refused(), &["node `v`", "the shape that is asked for", "[2, -1]"]);
    let p = Program::new(&[("a", F32, "2"), ("b", F32, "3")])
        .then("aten.add.Tensor", &[("self", t("a")), ("other", t("b"))], "y", F32, "2")
        .output("y");
    says(&p.refused(), &["node `y`", "do not broadcast"]);
}

#[test]
fn complex_inputs_and_results_are_refused_by_name() {
    let p = Program::new(&[("x", 10, "2")]).then("aten.neg.default", &[("self", t("x"))], "y", 10, "2").output("y");
    says(&p.refused(), &["input `x`", "complex numbers", "torch.view_as_real"]);
    let p = Program::new(&[("x", F32, "2;2")])
        .then("aten.view_as_complex.default", &[("self", t("x"))], "y", 10, "2")
        .output("y");
    says(&p.refused(), &["graph output `y`", "complex numbers", "torch.view_as_real"]);
}
