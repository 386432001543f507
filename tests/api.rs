//! What hosts build on: edits that may be applied in any order, observers, opaque nodes, kernels and rules of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use normfuse::{
    ir::{
        DType, Graph, Op, Shape, Tensor, ValueId,
        body::{bits_equal, hostile},
        eval, infer, text,
    },
    passes::{
        self, Edits, Kind, Observer, Options, Rule, Site,
        edits::{Edit, NodeRef},
        egg::rewrite,
        rules,
    },
};

fn parse(source: &str) -> Graph {
    text::parse(source, &mut |w| panic!("{} is in another file", w.name)).unwrap()
}

/// The graphs that fuse, norms and quantisers without one, with numbers for their symbolic sizes.
fn graphs() -> Vec<(String, Graph)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in");
    let folders = ["fuse", "partial", "alone"].map(|f| fs::read_dir(dir.join(f)).unwrap());
    let paths = folders.into_iter().flatten().map(|e| e.unwrap().path());
    let mut found: Vec<(String, Graph)> = paths
        .map(|p| {
            let source =
                fs::read_to_string(&p).unwrap().replace("batch", "2").replace("seq", "3").replace(", one,", ", 1,");
            (p.file_stem().unwrap().to_string_lossy().into_owned(), parse(&source))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() > 10);
    found
}

/// A value in another shape.
fn view(graph: &mut Graph, value: ValueId, shape: &Shape) -> ValueId {
    if graph.value(value).ty.shape.as_ref() == Some(shape) {
        return value;
    }
    let sizes: Vec<i64> = shape.0.iter().map(|d| d.as_const().unwrap()).collect();
    let name = format!("view_{}", graph.value_bound());
    let sizes = graph.add_const(format!("{name}_sizes"), Tensor::from_i64(&[sizes.len()], &sizes));
    let node = graph.add_node(&name, Op::Reshape { allow_zero: false }, &[Some(value), Some(sizes)], [&name]).unwrap();
    infer::infer(graph).unwrap();
    graph.node(node).outputs[0]
}

/// What the documentation of `edits` says, done by somebody who knows nothing else.
fn apply<'e>(source: &Graph, edits: impl Iterator<Item = &'e Edit>) -> Graph {
    let mut graph = source.clone();
    infer::infer(&mut graph).unwrap();
    let types: BTreeMap<ValueId, Shape> =
        graph.values().filter_map(|(id, v)| Some((id, v.ty.shape.clone()?))).collect();
    let mut now: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut replaced: Vec<&NodeRef> = Vec::new();
    for edit in edits {
        let mut operands = Vec::new();
        for (input, port) in edit.inputs.iter().zip(edit.descriptor.in_ports()) {
            assert_eq!(input.port, port);
            let value = now.get(&input.value.id).copied().unwrap_or(input.value.id);
            operands.push(Some(view(&mut graph, value, &input.shape)));
        }
        let names: Vec<String> = edit.outputs.iter().map(|o| format!("{}/{}", edit.name, o.port)).collect();
        let op = edit.descriptor.op();
        let node = graph.add_node(&edit.name, op, &operands, names).unwrap();
        for (output, made) in edit.outputs.iter().zip(graph.node(node).outputs.clone()) {
            *graph.type_mut(made) = output.ty.clone();
            for v in &output.values {
                let new = view(&mut graph, made, &types[&v.id]);
                graph.replace_uses(v.id, new);
                now.insert(v.id, new);
            }
        }
        for reader in &edit.shape_readers {
            let rows = now.get(&reader.value.id).copied().unwrap_or(reader.value.id);
            graph.set_input(reader.node.id, reader.port, Some(rows));
        }
        replaced.extend(&edit.replaces);
    }
    graph.remove_dead(replaced.iter().rev().map(|n| n.id));
    for gone in replaced {
        assert!(graph.try_node(gone.id).is_none(), "`{}` is still read", gone.name);
    }
    graph.verify().unwrap();
    graph
}

fn same_bits(name: &str, before: &Graph, after: &Graph) {
    let inputs: Vec<Vec<Tensor>> = before
        .inputs()
        .iter()
        .map(|v| {
            let ty = &before.value(*v).ty;
            let dims = ty.shape.as_ref().unwrap().0.iter().map(|d| d.as_const().unwrap() as usize).collect::<Vec<_>>();
            hostile::cases(ty.dtype.unwrap(), &dims, 11 + v.index() as u64)
        })
        .collect();
    for case in 0..3 {
        let inputs: Vec<Tensor> = inputs.iter().map(|c| c[case % c.len()].clone()).collect();
        let (a, b) = (eval::run(before, &inputs).unwrap(), eval::run(after, &inputs).unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!(bits_equal(a, b), None, "{name}, case {case}");
        }
    }
}

#[test]
fn edits_applied_in_either_order_compute_the_same_bits() {
    for (name, source) in graphs() {
        let unchanged = text::print(&source);
        let found = passes::edits(&source, &Options::default()).unwrap();
        assert_eq!(text::print(&source), unchanged);
        // Sibling norms have a site each and one op.
        let ops: BTreeSet<_> = found.report.sites.iter().filter_map(|s| s.op.clone()).collect();
        assert!(!ops.is_empty(), "{name}");
        assert_eq!(found.edits.iter().map(|e| e.name.clone()).collect::<BTreeSet<_>>(), ops, "{name}");
        for edit in &found.edits {
            let own = found.report.sites.iter().filter(|s| s.op.as_ref() == Some(&edit.name));
            let told: BTreeSet<&String> = own.flat_map(|s| &s.replaced).collect();
            assert_eq!(edit.replaces.iter().map(|n| &n.name).collect::<BTreeSet<_>>(), told);
        }
        same_bits(&name, &source, &apply(&source, found.edits.iter()));
        same_bits(&name, &source, &apply(&source, found.edits.iter().rev()));
    }
}

#[test]
fn edits_of_a_whole_model_are_said_in_its_own_values() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/deepseek_v3_fp8.onnx");
    let source = normfuse::open(&path).unwrap();
    let found = passes::edits(&source, &Options::default()).unwrap();
    // Two of the five norms are siblings.
    assert_eq!(found.edits.len(), 4);
    let refs = |e: &Edit| -> Vec<(ValueId, String)> {
        let outputs = e.outputs.iter().flat_map(|o| &o.values);
        e.inputs.iter().map(|i| &i.value).chain(outputs).map(|v| (v.id, v.name.clone())).collect()
    };
    for (id, name) in found.edits.iter().flat_map(refs) {
        assert_eq!(source.value(id).name, name);
    }
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Edits>(&json).unwrap(), found);
    // As the rewritten graph has them.
    let mut rewritten = source.clone();
    assert_eq!(passes::run(&mut rewritten, &Options::default()).unwrap(), found.report);
}

/// Two norms in a row: the second one reads what the first one makes.
const CHAIN: &str = r#"graph "chain"
opset "" 20
input %x: f32[2, 8]
const %w: f32[8] = fill(1.5)
const %eps: f32[] = 1e-6
%a_sq = mul(%x, %x)
%a_ms = reduce_mean(%a_sq) {axes=[-1], keepdims=true}
%a_v = add(%a_ms, %eps)
%a_r = rsqrt(%a_v)
%a_n = mul(%x, %a_r)
%a = mul(%a_n, %w)
%b_sq = mul(%a, %a)
%b_ms = reduce_mean(%b_sq) {axes=[-1], keepdims=true}
%b_v = add(%b_ms, %eps)
%b_r = rsqrt(%b_v)
%b_n = mul(%a, %b_r)
%b = mul(%b_n, %w)
output %b
"#;

#[test]
fn an_operand_that_another_edit_makes_is_named_as_in_the_source() {
    let source = parse(CHAIN);
    let found = passes::edits(&source, &Options::default()).unwrap();
    assert_eq!(found.edits.len(), 2);
    assert_eq!(found.edits[1].inputs[0].value.name, "a");
    assert_eq!(found.edits[1].inputs[0].value.id, found.edits[0].outputs[0].values[0].id);
    same_bits("chain", &source, &apply(&source, found.edits.iter()));
    same_bits("chain", &source, &apply(&source, found.edits.iter().rev()));
}

#[derive(Default)]
struct Heard {
    anchors: Vec<(Kind, usize)>,
    tried: Vec<String>,
    sites: Vec<Site>,
}

impl Observer for Heard {
    fn anchors(&mut self, kind: Kind, count: usize) {
        self.anchors.push((kind, count));
    }

    fn trying(&mut self, anchor: &str) {
        self.tried.push(anchor.into());
    }

    fn decided(&mut self, site: &Site) {
        self.sites.push(site.clone());
    }
}

#[test]
fn observers_hear_the_report_as_it_is_made() {
    let mut heard = Heard::default();
    let mut graph = parse(CHAIN);
    let report = passes::run_with(&mut graph, &Options::default(), &mut heard).unwrap();
    assert_eq!(heard.anchors, [(Kind::Norm, 2), (Kind::Quant, 0)]);
    assert_eq!(heard.tried, ["a_ms", "b_ms"]);
    assert_eq!(heard.sites, report.sites);
}

#[test]
fn opaque_nodes_stay_as_they_are_and_are_not_looked_into() {
    let every: Vec<String> = parse(CHAIN).nodes().map(|(_, n)| n.name.clone()).collect();
    for name in every {
        let mut graph = parse(CHAIN);
        let before: BTreeMap<String, Op> = graph.nodes().map(|(_, n)| (n.name.clone(), n.op.clone())).collect();
        let marked = name.clone();
        let options = Options { opaque: Some(Arc::new(move |n| n.name == marked)), verify: true, ..Options::default() };
        let report = passes::run(&mut graph, &options).unwrap();
        let node = graph.nodes().find(|(_, n)| n.name == name).unwrap_or_else(|| panic!("`{name}` is gone")).1;
        assert_eq!(node.op, before[&name]);
        assert!(report.sites.iter().all(|s| !s.replaced.contains(&name)), "{name}");
        // Without its weight a norm is still a norm; the other norm is whole in any case.
        let expected = if name == "a" || name == "b" { 2 } else { 1 };
        assert_eq!(report.summary.fused.norm, expected, "{name}: {:?}", report.sites);
        same_bits(&name, &parse(CHAIN), &graph);
    }
}

#[test]
fn what_unknown_products_project_has_sibling_norms() {
    let (_, graph) = graphs().into_iter().find(|(name, _)| name == "siblings_mla").unwrap();
    let mut after = graph.clone();
    let opaque = Some(Arc::new(|n: &normfuse_ir::Node| n.op == Op::MatMul) as _);
    let report = passes::run(&mut after, &Options { opaque, verify: true, ..Options::default() }).unwrap();
    assert_eq!(report.summary.fused.sibling_norm, 1, "each is an op of one value and a weight");
    same_bits("siblings of unknown products", &graph, &after);
}

#[test]
fn opaque_nodes_of_a_quantiser_stay_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/alone/silu_group.nf");
    let source = parse(&fs::read_to_string(path).unwrap().replace("batch", "2").replace("seq", "3"));
    let whole = passes::run(&mut source.clone(), &Options::default()).unwrap();
    assert_eq!((whole.summary.fused.gated_act, whole.summary.fused.quant), (1, 0));
    for name in whole.sites[0].replaced.clone() {
        let mut graph = source.clone();
        let marked = name.clone();
        let options = Options { opaque: Some(Arc::new(move |n| n.name == marked)), verify: true, ..Options::default() };
        let report = passes::run(&mut graph, &options).unwrap();
        assert!(graph.nodes().any(|(_, n)| n.name == name), "`{name}` is gone");
        assert!(report.sites.iter().all(|s| !s.replaced.contains(&name)), "{name}");
        same_bits(&name, &source, &graph);
    }
}

#[test]
fn a_host_says_with_its_own_state_what_it_has_kernels_for() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let widest = 4;
    let options = Options {
        supports: Arc::new(move |f| {
            seen.lock().unwrap().push(f.clone());
            if f.siblings[0].width > widest { Err(format!("rows of at most {widest}")) } else { Ok(()) }
        }),
        ..Options::default()
    };
    let report = passes::run(&mut parse(CHAIN), &options).unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2);
    assert_eq!(report.summary.fused.norm, 0);
    assert_eq!(report.sites[0].hint.as_deref(), Some("rows of at most 4"));
}

#[test]
fn rules_of_a_host_have_names_of_their_own() {
    fn own() -> rules::Rewrites {
        vec![rewrite!("own"; "(sqrt (abs ?x))" => "(sqrt (abs (abs ?x)))")]
    }
    fn stolen() -> rules::Rewrites {
        vec![rewrite!("weight"; "(sqrt (abs ?x))" => "(sqrt ?x)")]
    }
    let rule = |name, rewrites| Rule {
        name,
        summary: "",
        picture: "",
        preconditions: &[],
        rewrites,
        schemes: normfuse::passes::rules::no_schemes,
    };
    let run = |rules: Vec<Rule>, disabled: &[&str]| {
        let disabled = disabled.iter().map(|d| ((*d).to_owned(), "a test".to_owned())).collect();
        let options = Options { extra_rules: rules, disabled, ..Options::default() };
        passes::run(&mut parse(CHAIN), &options).map_err(|e| e.to_string())
    };
    assert_eq!(run(vec![rule("mine", own)], &["mine"]).unwrap().summary.fused.norm, 2);
    assert!(run(vec![], &["mine"]).unwrap_err().contains("there is no rule `mine`"));
    assert!(run(vec![rule("rms_norm", own)], &[]).unwrap_err().contains("two rules have the name `rms_norm`"));
    // Names that variables already mean something else by, with a rule or without one.
    for name in ["qk_norm_rope", "all_reduce", "rmsnorm_quant_fusion"] {
        let error = run(vec![rule(name, own)], &[]).unwrap_err();
        assert!(error.contains(&format!("the name `{name}` of a rule is reserved")), "{error}");
    }
    let error = run(vec![rule("sibling_norm", own)], &[]).unwrap_err();
    assert!(error.contains("two rules have the name `sibling_norm`, one of them of normfuse's own"), "{error}");
    assert!(run(vec![rule("mine", stolen)], &[]).unwrap_err().contains("another rewrite has the name `weight`"));
}

#[test]
fn an_error_gives_opaque_nodes_back() {
    let mut graph = parse(CHAIN);
    let options = Options {
        disabled: [("none".to_owned(), "a test".to_owned())].into(),
        opaque: Some(Arc::new(|_| true)),
        ..Options::default()
    };
    passes::run(&mut graph, &options).unwrap_err();
    assert!(graph.nodes().all(|(_, n)| !matches!(n.op, Op::Foreign(_))));
    let all = Options { opaque: Some(Arc::new(|_| true)), ..Options::default() };
    assert!(passes::run(&mut graph, &all).unwrap().sites.is_empty());
    assert!(graph.nodes().all(|(_, n)| !matches!(n.op, Op::Foreign(_))));
    assert_eq!(graph.value(graph.inputs()[0]).ty.dtype, Some(DType::F32));
}
