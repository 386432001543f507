use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use normfuse::{
    ir::text,
    passes::{self, Options, Relaxation},
};

use super::*;
use crate::cli::{args, progress::Progress, verify::Until};

fn graphs(folder: &str) -> Vec<(PathBuf, Graph)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let files = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    let mut all: Vec<_> =
        files.filter(|f| f.extension().is_some_and(|e| e == "nf")).map(|f| (f.clone(), read(&f))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn read(file: &Path) -> Graph {
    parse(&fs::read_to_string(file).unwrap())
}

fn parse(source: &str) -> Graph {
    let mut graph = text::parse(source, &mut |_| unreachable!("no weights")).unwrap();
    infer::infer(&mut graph).unwrap();
    graph
}

/// The graph without relaxations and with all, and what is told of that one.
fn compiled(source: &Graph) -> (Graph, Graph, Report) {
    let (mut exact, mut made) = (source.clone(), source.clone());
    passes::run(&mut exact, &Options::default()).unwrap();
    let report = passes::run(&mut made, &Options { relax: Relaxation::ALL.into(), ..Options::default() }).unwrap();
    (exact, made, report)
}

/// Why a relaxed graph is too far from its source.
fn further(source: &Graph, exact: &Graph, made: &Graph, report: &Report) -> Option<String> {
    let pair = Pair::new(source, Path::new("m.nf"), made).unwrap();
    let random = args::Random::default();
    let outcome = pair.compare_random(&random, 64 << 20, Until::Enough, &Progress::new()).unwrap();
    assert_eq!(outcome.runs.len(), 3);
    pair.check_relaxed(&outcome.runs, exact, report).err().map(|e| {
        assert_eq!(e.exit_code(), 1, "{e}");
        e.to_string()
    })
}

#[test]
fn what_is_relaxed_is_within_its_bounds() {
    for folder in ["relax/single_rounding", "in/scaled"] {
        for (file, source) in graphs(folder) {
            let (exact, made, report) = compiled(&source);
            assert!(
                !report.products.is_empty() || report.sites.iter().any(|s| !s.relaxed.is_empty()),
                "{}",
                file.display()
            );
            assert_eq!(further(&source, &exact, &made, &report), None, "{}", file.display());
        }
    }
}

/// A relaxed graph whose products read something else than they should.
#[test]
fn a_product_of_other_scales_or_codes_is_too_far() {
    for (file, source) in graphs("in/scaled") {
        let (exact, made, report) = compiled(&source);
        for (port, which) in [(2, "left"), (3, "right")] {
            let mut wrong = made.clone();
            let id = named(&wrong, &report.products[0].op).unwrap();
            let scale = wrong.node(id).input(port).unwrap();
            let ty = wrong.value(scale).ty.clone();
            // One and a half of what it should be.
            let half = wrong.add_const("half", Tensor::from_f32(&[1], &[1.5]));
            let other =
                wrong.add_node("other", Op::Binary(BinaryOp::Mul), &[Some(scale), Some(half)], ["other"]).unwrap();
            let other = wrong.node(other).outputs[0];
            *wrong.type_mut(other) = ty;
            wrong.set_input(id, port, Some(other));
            let why = further(&source, &exact, &wrong, &report).unwrap_or_else(|| panic!("{}", file.display()));
            assert!(why.contains(&format!("of its {which} operand is")), "{}: {why}", file.display());
        }
    }
}

#[test]
fn a_norm_that_computes_something_else_is_too_far() {
    let mut wrong_ones = 0;
    for (file, source) in graphs("relax/single_rounding") {
        let (exact, made, report) = compiled(&source);
        let op = report.sites.iter().find(|s| !s.relaxed.is_empty()).and_then(|s| s.op.clone()).unwrap();
        let mut wrong = made.clone();
        let id = named(&wrong, &op).unwrap();
        let Op::FusedNorm(norm) = &wrong.node(id).op else { panic!() };
        let mut other = FusedNorm::clone(norm);
        let Some(weight) = other.siblings.iter_mut().find_map(|s| s.weight.as_mut()) else { continue };
        weight.plus_one = !weight.plus_one;
        if other.check().is_err() {
            continue;
        }
        wrong.set_op(id, Op::FusedNorm(Arc::new(other))).unwrap();
        let why = further(&source, &exact, &wrong, &report).unwrap_or_else(|| panic!("{}", file.display()));
        assert!(why.contains("is not what single-rounding makes of it: "), "{}: {why}", file.display());
        wrong_ones += 1;
    }
    assert!(wrong_ones > 2, "{wrong_ones}");
}
