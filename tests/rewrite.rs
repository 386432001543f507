//! Text graph in, snapshot out, and the numbers: every graph under `tests/in` goes through the pass, what comes out is
//! pinned, and source and rewrite are run on the reference evaluator on hostile data and compared bit for bit.
//!
//! `fuse/`: everything in it must fuse. `reject/`: looks alike and must not. `partial/`: the norm fuses, its quantiser
//! must not. `apart/`: all norms fuse, but no two of them into one op.

use std::{fs, path::Path};

use normfuse::testing;
use normfuse_ir::{
    DType, Graph, Tensor,
    body::{bits_equal, hostile},
    eval, text,
};
use normfuse_passes::{Kind, Options, Outcome, Report};

fn graphs(folder: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in").join(folder);
    let mut found: Vec<(String, String)> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&p).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} is empty", dir.display());
    found
}

fn parse(source: &str) -> Graph {
    text::parse(source, &mut |r| panic!("no weight files here: {r:?}")).unwrap()
}

fn check(folder: &str, judge: impl Fn(&str, &Report)) {
    for (name, source) in graphs(folder) {
        let before = parse(&source);
        let mut after = before.clone();
        let options = Options { verify: true, ..Options::default() };
        let report = normfuse_passes::run(&mut after, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        judge(&name, &report);
        for gone in report.sites.iter().flat_map(|s| &s.replaced) {
            assert!(after.nodes().all(|(_, n)| n.name != *gone), "{name}: `{gone}` was replaced and is still there");
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(format!("snapshots/{folder}"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name.as_str(), testing::snapshot(&before, &options).unwrap()));
        same_bits(&name, &before, &after);
    }
}

/// Runs both graphs on every kind of hostile data.
fn same_bits(name: &str, before: &Graph, after: &Graph) {
    let sizes = |s: &str| if s == "batch" { 2 } else { 3 };
    let shapes: Vec<(DType, Vec<usize>)> = before
        .inputs()
        .iter()
        .map(|v| {
            let ty = &before.value(*v).ty;
            let dims = ty.shape.as_ref().unwrap().0.iter().map(|d| d.eval(&|s| Some(sizes(s))).unwrap() as usize);
            (ty.dtype.unwrap(), dims.collect())
        })
        .collect();
    let cases: Vec<Vec<Tensor>> =
        shapes.iter().enumerate().map(|(i, (d, s))| hostile::cases(*d, s, 7 + i as u64)).collect();
    assert!(cases[0].len() > 5);
    for case in 0..cases[0].len() {
        let inputs: Vec<Tensor> = cases.iter().map(|c| c[case % c.len()].clone()).collect();
        let source = eval::run(before, &inputs).unwrap();
        let rewritten = eval::run(after, &inputs).unwrap();
        for ((a, b), out) in source.iter().zip(&rewritten).zip(before.outputs()) {
            let difference = bits_equal(a, b);
            assert!(difference.is_none(), "{name}, case {case}, output {}: {}", out.name, difference.unwrap());
        }
    }
}

#[test]
fn what_must_fuse_fuses() {
    check("fuse", |name, report| {
        assert!(report.summary.norms > 0, "{name}: no norm recognised");
        assert!(report.sites.iter().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
    });
}

#[test]
fn what_looks_alike_does_not_fuse() {
    check("reject", |name, report| {
        assert!(!report.sites.is_empty(), "{name}: the report must say why");
        assert!(report.sites.iter().all(|s| s.outcome != Outcome::Fused), "{name}: {:#?}", report.sites);
    });
}

#[test]
fn a_norm_fuses_without_the_quantiser_that_must_not() {
    check("partial", |name, report| {
        assert_eq!(report.summary.fused.norm, 1, "{name}: {:#?}", report.sites);
        assert_eq!(report.summary.fused.norm_quant, 0, "{name}");
        assert!(report.summary.rejected > 0, "{name}");
    });
}

#[test]
fn norms_that_must_not_meet_stay_apart() {
    check("apart", |name, report| {
        let fused = report.sites.iter().filter(|s| s.kind != Kind::Quant);
        assert!(fused.clone().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
        let ops: std::collections::BTreeSet<&str> = fused.filter_map(|s| s.op.as_deref()).collect();
        // Of two pairs that close a cycle together, one may still merge.
        let least = if name == "siblings_cycle" { report.summary.norms - 1 } else { report.summary.norms };
        assert!(ops.len() >= least, "{name}: {ops:?}");
    });
}
