//! Programs get their parameters from a checkpoint, as their signature lists them.

use normfuse_formats::{
    checkpoint::{Bound, Checkpoint, Rules, bind},
    nf,
    parameters::{self, Parameter},
    tensors,
};
use normfuse_ir::{Data, Graph, Tensor, eval};
use serde_json::json;

use crate::build::*;

/// Binds a graph to a checkpoint of these tensors.
fn bound(graph: &mut Graph, named: &[(&str, Tensor)], rules: &Rules) -> Result<Bound, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let named: Vec<_> = named.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    tensors::write(&path, &named).unwrap();
    bind(graph, &Checkpoint::open(&path).unwrap(), rules).map_err(|e| e.to_string())
}

fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<f32> {
    floats(&eval::run(graph, inputs).unwrap_or_else(|e| panic!("{e}"))[0])
}

/// `x * w`, with `w` as the archive has it.
fn scaled(w: Program, sizes: &str) -> Program {
    w.then("aten.mul.Tensor", &[("self", t("x")), ("other", t("p_m_w"))], "y", F32, sizes).output("y")
}

/// A weight of which the archive has only the type.
fn without_data(mut p: Program, name: &str, sizes: &str) -> Program {
    p = p.weight(name, F32, sizes, &[]);
    p.weights[name]["tensor_meta"] = meta(F32, sizes, "meta");
    p
}

/// The last weight of a program becomes a buffer that no checkpoint has.
fn transient(mut p: Program) -> Program {
    let specs = p.json["graph_module"]["signature"]["input_specs"].as_array_mut().unwrap();
    let spec = specs.last_mut().unwrap();
    let (arg, name) = (spec["parameter"]["arg"].clone(), spec["parameter"]["parameter_name"].clone());
    *spec = json!({"buffer": {"arg": arg, "buffer_name": name, "persistent": false}});
    p
}

#[test]
fn parameters_without_data_become_constants_and_the_note_goes() {
    let mut g = scaled(without_data(Program::new(&[("x", F32, "2")]), "m.w", "2"), "2").read();
    assert!(g.info.notes.iter().any(|n| n.contains("have no data")));
    let b = bound(&mut g, &[("m.w", f32s(&[2], &[3., 4.]))], &Rules::default()).unwrap();
    assert_eq!((b.bound, g.inputs().len(), g.info.notes.len()), (1, 1, 0));
    assert_eq!(run(&g, &[f32s(&[2], &[1., 10.])]), [3., 40.]);
    assert!(parameters::without_data(&g).unwrap().is_empty());
}

#[test]
fn data_of_the_archive_is_replaced() {
    let mut g = scaled(Program::new(&[("x", F32, "2")]).weight("m.w", F32, "2", &le(&[1., 1.])), "2").read();
    let missing = bound(&mut g, &[("m.w1", f32s(&[2], &[3., 4.]))], &Rules::default()).unwrap_err();
    assert!(missing.contains("1 missing, 1 extra") && missing.contains("missing: m.w, f32[2]"), "{missing}");
    bound(&mut g, &[("m.w", f32s(&[2], &[3., 4.]))], &Rules::default()).unwrap();
    assert_eq!(run(&g, &[f32s(&[2], &[1., 1.])]), [3., 4.]);
}

#[test]
fn a_parameter_is_what_its_shape_says_however_it_lies_in_the_archive() {
    // Column-major, repeated along an axis, and with gaps.
    for (strides, bytes) in [(&[1, 2][..], 6), (&[0, 1], 3), (&[4, 1], 7)] {
        let mut w = Program::new(&[("x", F32, "2;3")]).weight("m.w", F32, "2;3", &le(&vec![1.; bytes]));
        w.weights["m.w"]["tensor_meta"]["strides"] = strides.iter().map(|s| json!({"as_int": s})).collect();
        let mut g = scaled(w, "2;3").read();
        let ones = f32s(&[2, 3], &[1.; 6]);
        assert_eq!(run(&g, std::slice::from_ref(&ones)), [1.; 6]);
        let stored = bound(&mut g, &[("m.w", f32s(&[3, 2], &[0.; 6]))], &Rules::default()).unwrap_err();
        assert!(stored.contains("of another shape: m.w, expected [2, 3], found f32[3, 2]"), "{stored}");
        let values = [1., 2., 3., 4., 5., 6.];
        bound(&mut g, &[("m.w", f32s(&[2, 3], &values))], &Rules::default()).unwrap();
        assert_eq!(run(&g, &[ones]), values);
        let w: Vec<_> = g.values().filter(|(_, v)| v.as_const().is_some()).collect();
        assert_eq!((w.len(), w[0].1.name.as_str(), g.node_count()), (1, "m.w", 1), "{strides:?}");
        assert!(matches!(w[0].1.as_const().unwrap().data(), Data::External(_)));
        assert_eq!(parameters::recorded(&g).unwrap().unwrap(), [Parameter::named("m.w")]);
    }
}

#[test]
fn tied_weights_of_the_archive_need_one_name_in_the_checkpoint() {
    let mut p =
        Program::new(&[("x", F32, "2")]).weight("m.w", F32, "2", &le(&[1., 2.])).weight("head.w", F32, "2", &[]);
    p.weights["head.w"]["path_name"] = json!("weight_0");
    let p = p
        .then("aten.mul.Tensor", &[("self", t("x")), ("other", t("p_m_w"))], "y", F32, "2")
        .then("aten.add.Tensor", &[("self", t("y")), ("other", t("p_head_w"))], "z", F32, "2")
        .output("z");
    let w = || f32s(&[2], &[3., 4.]);
    for names in [&["m.w"][..], &["head.w"], &["m.w", "head.w"]] {
        let mut g = p.read();
        let named: Vec<_> = names.iter().map(|n| (*n, w())).collect();
        assert_eq!(bound(&mut g, &named, &Rules::default()).unwrap().bound, 2, "{names:?}");
        assert_eq!(run(&g, &[f32s(&[2], &[1., 1.])]), [6., 8.]);
    }
    let e = bound(&mut p.read(), &[("m.w", w()), ("head.w", f32s(&[2], &[3., 5.]))], &Rules::default()).unwrap_err();
    assert!(e.contains("tied otherwise: m.w") && e.contains("head.w"), "{e}");
    // Records of parameters without data are placeholders, which prove nothing.
    let p = without_data(without_data(Program::new(&[("x", F32, "2")]), "m.w", "2"), "head.w", "2");
    let p = p.output("p_m_w").output("p_head_w");
    let e = bound(&mut p.read(), &[("m.w", w())], &Rules::default()).unwrap_err();
    assert!(e.contains("missing: head.w") && e.contains("--tied"), "{e}");
    let rules = Rules { tied: vec![("head.w".into(), "m.w".into())], ..Rules::default() };
    assert_eq!(bound(&mut p.read(), &[("m.w", w())], &rules).unwrap().bound, 2);
}

#[test]
fn a_buffer_that_is_no_state_keeps_its_data() {
    let with = transient(Program::new(&[("x", F32, "2")]).weight("m.w", F32, "2", &le(&[7., 8.])));
    let mut g = scaled(with, "2").read();
    let b = bound(&mut g, &[], &Rules::default()).unwrap();
    assert_eq!((b.bound, b.kept), (0, vec!["m.w".to_owned()]));
    assert_eq!(run(&g, &[f32s(&[2], &[1., 1.])]), [7., 8.]);
    let e = bound(&mut g, &[("m.w", f32s(&[2], &[0., 0.]))], &Rules::default()).unwrap_err();
    assert!(e.contains("1 extra"), "{e}");
    // Without data it is the caller's, unless a checkpoint has it after all.
    let p = scaled(transient(without_data(Program::new(&[("x", F32, "2")]), "m.w", "2")), "2");
    let mut g = p.read();
    let b = bound(&mut g, &[], &Rules::default()).unwrap();
    assert_eq!((b.open, g.inputs().len()), (vec!["m.w".to_owned()], 2));
    let mut g = p.read();
    assert_eq!(bound(&mut g, &[("m.w", f32s(&[2], &[1., 2.]))], &Rules::default()).unwrap().bound, 1);
    assert_eq!(g.inputs().len(), 1);
}

#[test]
fn a_parameter_that_nothing_reads_may_be_there_or_not() {
    let p = scaled(Program::new(&[("x", F32, "2")]).weight("m.w", F32, "2", &le(&[1., 1.])), "2");
    let p = without_data(p.weight("m.idle", F32, "1", &le(&[0.])), "m.open", "1");
    let w = ("m.w", f32s(&[2], &[3., 4.]));
    let idle = |name| (name, f32s(&[1], &[9.]));
    let mut g = p.read();
    let b = bound(&mut g, &[w.clone(), idle("m.idle"), idle("m.open")], &Rules::default()).unwrap();
    assert_eq!((b.bound, b.unread, g.inputs().len()), (2, vec!["m.idle".to_owned()], 1));
    let e = bound(&mut p.read(), &[w, idle("m.other")], &Rules::default()).unwrap_err();
    assert!(e.contains("extra: m.other") && e.contains("missing: m.open"), "{e}");
}

#[test]
fn a_graph_in_text_still_knows_its_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.nf");
    let p = scaled(without_data(Program::new(&[("x", F32, "2")]), "m.w", "2"), "2");
    let read = p.read();
    nf::write(&read, &path).unwrap();
    let mut g = nf::read(&path).unwrap();
    assert_eq!(parameters::without_data(&g).unwrap(), parameters::without_data(&read).unwrap());
    bound(&mut g, &[("m.w", f32s(&[2], &[3., 4.]))], &Rules::default()).unwrap();
    assert_eq!(run(&g, &[f32s(&[2], &[1., 1.])]), [3., 4.]);
    // A parameter that is in no value any more cannot follow a checkpoint.
    let mut record = parameters::recorded(&g).unwrap().unwrap();
    record.push(Parameter::named("m.scale"));
    parameters::record(&mut g, &record);
    let all = [("m.w", f32s(&[2], &[3., 4.])), ("m.scale", f32s(&[1], &[3.]))];
    let e = bound(&mut g, &all, &Rules::default()).unwrap_err();
    assert!(e.contains("gone from the graph: m.scale"), "{e}");
    // What was compiled keeps the data that it has.
    let other = [("m.w", f32s(&[2], &[5., 6.]))];
    let b = bound(&mut g, &other, &Rules { compiled: true, ..Rules::default() }).unwrap();
    assert_eq!((b.bound, b.kept), (0, vec!["m.w".to_owned()]));
    assert_eq!(run(&g, &[f32s(&[2], &[1., 1.])]), [3., 4.]);
    let b = bound(&mut g, &all, &Rules { compiled: true, ..Rules::default() }).unwrap();
    assert_eq!((b.bound, b.kept.len()), (0, 1));
}
