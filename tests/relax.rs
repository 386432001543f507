//! Relaxations: text graph in, relaxed graph out as a snapshot, and the numbers. What is relaxed is what the source would be with
//! that departure spelled out; what only looks like it stays exact; and nothing is relaxed that nobody asked for.
//!
//! `tests/relax/NAME/`: everything in it is relaxed by that relaxation. `exact/`: looks alike, and no relaxation may change it.

mod common;

use std::{fs, path::Path, sync::Arc};

use common::bits::{parse, same_bits, texts};
use normfuse::testing;
use normfuse_ir::{DType, Descriptor, FusedNorm, Graph, body, text};
use normfuse_passes::{self as passes, Kind, Options, Outcome, Relaxation, Report};

fn graph(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relax").join(name).with_extension("nf"))
        .unwrap()
}

fn relaxing() -> Options {
    Options { relax: Relaxation::ALL.into(), verify: true, ..Options::default() }
}

fn compiled(source: &str, options: &Options) -> (Graph, Report) {
    let mut graph = parse(source);
    let report = passes::run(&mut graph, options).unwrap_or_else(|e| panic!("{e}\n{source}"));
    (graph, report)
}

fn snapshot(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("snapshots/{folder}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// What each site says of its relaxations: `single-rounding: q0_0 in 3 of 8`.
fn told(report: &Report) -> Vec<String> {
    let all = report.sites.iter().flat_map(|s| &s.relaxed);
    let shown = |d: &body::Deviation| d.to_string();
    all.map(|r| format!("{}: {}", r.relaxation, r.deviation.iter().map(shown).collect::<Vec<_>>().join("; "))).collect()
}

#[test]
fn what_may_round_once_does() {
    for (name, source) in texts("relax/single_rounding") {
        let before = parse(&source);
        let (exact, _) = compiled(&source, &Options::default());
        same_bits(&name, &before, &exact);
        let (relaxed, report) = compiled(&source, &relaxing());
        assert!(report.notes.is_empty(), "{name}: {:?}", report.notes);
        let sites: Vec<_> = report.sites.iter().filter(|s| !s.relaxed.is_empty()).collect();
        assert!(!sites.is_empty(), "{name}: nothing is relaxed");
        for site in sites {
            assert_eq!(site.relaxed.len(), 1, "{name}");
            let relaxed = &site.relaxed[0];
            assert_eq!(relaxed.relaxation, Relaxation::SingleRounding, "{name}");
            let names: Vec<&str> = relaxed.deviation.iter().map(|d| d.output.as_str()).collect();
            let op = exact.nodes().find(|(_, n)| Some(&n.name) == site.op.as_ref()).unwrap().1;
            assert_eq!(names, op.op.output_names(), "{name}");
            assert!(relaxed.deviation.iter().all(|d| d.differ <= d.of && d.of > 0), "{name}");
            assert!(relaxed.deviation.iter().any(|d| d.differ > 0), "{name}: nothing differs, so nothing was measured");
        }
        let pinned = testing::snapshot(&before, &relaxing()).unwrap();
        snapshot("relax_single_rounding", &name, &pinned);
        // A relaxed graph that was written down is read as itself, and nothing in it is relaxed again.
        let written = text::print(&relaxed);
        let (again, second) = compiled(&written, &relaxing());
        assert_eq!((text::print(&again), told(&second)), (written, Vec::new()), "{name}");
    }
}

#[test]
fn what_only_looks_like_it_stays_exact() {
    for (name, source) in texts("relax/exact") {
        let (exact, reported) = compiled(&source, &Options { verify: true, ..Options::default() });
        let (relaxed, report) = compiled(&source, &relaxing());
        assert_eq!(text::print(&relaxed), text::print(&exact), "{name}");
        // The same report, to the last site.
        assert_eq!(report, reported, "{name}");
        assert!(report.sites.iter().any(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
        let quantises = report.sites.iter().any(|s| s.kind == Kind::NormQuant || s.kind == Kind::Quant);
        assert_eq!(quantises, name != "no_quantiser", "{name}: {:#?}", report.sites);
        same_bits(&name, &parse(&source), &relaxed);
        snapshot("relax_exact", &name, &testing::snapshot(&parse(&source), &relaxing()).unwrap());
    }
}

/// The oracle: the source, rewritten by hand so that the rounding is not there, and compiled exactly.
#[test]
fn a_relaxed_graph_has_the_bits_of_a_source_without_the_rounding() {
    let edits = [
        (
            "product_of_16_bits",
            vec![
                ("%y = mul(%w, %y_nc)", "%w_f = cast(%w) {to=f32}\n%n_f = cast(%y_nc) {to=f32}\n%y = mul(%w_f, %n_f)"),
                ("%absc = cast(%abs) {to=bf16}", "%absc = cast(%abs) {to=f32}"),
            ],
        ),
        (
            "dequantised",
            vec![(
                "%y = mul(%w, %y_nc)",
                "%w_f = cast(%w) {to=f32}\n%n_f = cast(%y_nc) {to=f32}\n%y = mul(%w_f, %n_f)",
            )],
        ),
        ("no_weight", vec![("%y = cast(%n) {to=f16}", "%y = identity(%n)")]),
        (
            "native_in_f32",
            vec![(
                "%y = rms_norm(%h, %w)",
                "%h_f = cast(%h) {to=f32}\n%w_f = cast(%w) {to=f32}\n%y = rms_norm(%h_f, %w_f)",
            )],
        ),
        ("product_in_f32", vec![("%y = cast(%p) {to=bf16}", "%y = identity(%p)")]),
        (
            "one_of_siblings",
            vec![(
                "%b = mul(%wb, %b_nc)",
                "%w_f = cast(%wb) {to=f32}\n%n_f = cast(%b_nc) {to=f32}\n%b = mul(%w_f, %n_f)",
            )],
        ),
    ];
    for (name, edits) in edits {
        let source = graph(&format!("single_rounding/{name}"));
        let mut by_hand = source.clone();
        for (old, new) in edits {
            assert_eq!(by_hand.matches(old).count(), 1, "{name}: {old}");
            by_hand = by_hand.replace(old, new);
        }
        let (relaxed, _) = compiled(&source, &relaxing());
        same_bits(name, &parse(&by_hand), &relaxed);
        // The descriptor is the one that the source without it has, and not the source's own.
        let ops = |g: &Graph| -> Vec<_> { g.nodes().filter_map(|(_, n)| Descriptor::of(&n.op)).collect() };
        assert_eq!(ops(&relaxed), ops(&compiled(&by_hand, &Options::default()).0), "{name}");
        assert_ne!(ops(&relaxed), ops(&compiled(&source, &Options::default()).0), "{name}");
    }
}

/// Every graph that there is, with all relaxations on: each relaxed op agrees with its body (or the graph would say that it stays
/// exact), and without being asked nothing is relaxed.
#[test]
fn all_graphs_relax_soundly_and_only_when_asked() {
    let mut table = String::new();
    for folder in ["fuse", "partial", "apart", "alone", "gated", "ungated", "reject"] {
        for (name, source) in texts(&format!("in/{folder}")) {
            let (exact, reported) = compiled(&source, &Options::default());
            assert!(told(&reported).is_empty(), "{name}");
            let (relaxed, report) = compiled(&source, &Options { verify: false, ..relaxing() });
            let left: Vec<&String> = report.notes.iter().filter(|n| n.contains(" exact: ")).collect();
            assert!(left.iter().all(|n| !n.contains("differ")), "{name}: {left:?}");
            table.extend(left.iter().map(|n| format!("{folder}/{name} {n}\n")));
            let told = told(&report);
            assert_eq!(told.is_empty(), text::print(&relaxed) == text::print(&exact), "{name}");
            table.extend(told.iter().map(|t| format!("{folder}/{name} {t}\n")));
        }
    }
    snapshot("relax", "all_graphs", &table);
}

#[test]
fn what_the_host_has_no_kernel_for_stays_exact_and_says_so() {
    let source = graph("single_rounding/no_weight");
    let supports = |norm: &FusedNorm| match norm.siblings[0].output {
        DType::F32 => Err("no kernel for values in f32".to_owned()),
        _ => Ok(()),
    };
    let (exact, _) = compiled(&source, &Options::default());
    let (kept, report) = compiled(&source, &Options { supports: Arc::new(supports), ..relaxing() });
    assert_eq!(text::print(&kept), text::print(&exact));
    assert!(told(&report).is_empty());
    assert_eq!(report.notes.len(), 1);
    assert!(report.notes[0].starts_with("single-rounding leaves fused_norm/"), "{:?}", report.notes);
    assert!(report.notes[0].ends_with(" exact: no kernel for values in f32"), "{:?}", report.notes);
}

#[test]
fn edits_are_of_the_relaxed_op() {
    let source = parse(&graph("single_rounding/no_weight"));
    let edits = passes::edits(&source, &relaxing()).unwrap();
    let Descriptor::Norm(norm) = &edits.edits[0].descriptor else { panic!("{:?}", edits.edits[0].descriptor) };
    assert_eq!((norm.siblings[0].normed, norm.siblings[0].output), (DType::F32, DType::F32));
    assert_eq!(told(&edits.report).len(), 1);
}

#[test]
fn a_deviation_is_what_differs_on_the_same_data() {
    let (exact, _) = compiled(&graph("single_rounding/no_weight"), &Options::default());
    let (relaxed, report) = compiled(&graph("single_rounding/no_weight"), &relaxing());
    let node = |g: &Graph| g.nodes().find(|(_, n)| n.op.is_fused()).unwrap().1.op.clone();
    let types: Vec<_> = {
        let (_, n) = exact.nodes().find(|(_, n)| n.op.is_fused()).unwrap();
        n.operands().map(|(_, v)| exact.value(v).ty.clone()).collect()
    };
    // An op is no distance from itself, and as far from another one as that one from it.
    let same = body::deviation(&node(&exact), &node(&exact), &types).unwrap();
    assert!(same.iter().all(|d| d.differ == 0 && d.most.is_none_or(|m| m.get() == 0.0)));
    let (there, back) = (
        body::deviation(&node(&exact), &node(&relaxed), &types),
        body::deviation(&node(&relaxed), &node(&exact), &types),
    );
    assert_eq!(there.unwrap(), report.sites[0].relaxed[0].deviation);
    assert_eq!(back.unwrap(), report.sites[0].relaxed[0].deviation);
}
