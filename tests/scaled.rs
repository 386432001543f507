//! `--relax scaled-matmul`: every graph under `tests/in/scaled` has products of two dequantised values, which become products of codes
//! and scales; what looks alike under `tests/in/unscaled` stays as it is.

mod common;

use std::{collections::BTreeSet, sync::Arc};

use normfuse_ir::{
    DType, Graph, Op, Tensor,
    body::{
        bits_equal,
        hostile::{Rng, Row, rows},
    },
    eval::{self, numbers::floats},
    text,
};
use normfuse_passes::{Options, Relaxation, Report};

use common::bits::{parse, texts};

fn relaxed(source: &Graph) -> (Graph, Report) {
    let mut graph = source.clone();
    let options = Options { verify: true, relax: BTreeSet::from([Relaxation::ScaledMatmul]), ..Options::default() };
    let report = normfuse_passes::run(&mut graph, &options).unwrap();
    (graph, report)
}

/// What the pass makes of a graph without relaxations.
fn exact(source: &Graph) -> Graph {
    let mut graph = source.clone();
    normfuse_passes::run(&mut graph, &Options::default()).unwrap();
    graph
}

fn products(graph: &Graph) -> usize {
    graph.nodes().filter(|(_, n)| matches!(n.op, Op::ScaledMatMul(_))).count()
}

/// Codes of bell-shaped rows, scales between 1/64 and 1/32.
fn inputs(graph: &Graph) -> Vec<Tensor> {
    let mut rng = Rng::new(7);
    let size = |s: &str| Some(if s == "batch" { 3 } else { 2 });
    let mut made = |id: &normfuse_ir::ValueId| {
        let ty = &graph.value(*id).ty;
        let shape: Vec<usize> = ty.shape.as_ref().unwrap().0.iter().map(|d| d.eval(&size).unwrap() as usize).collect();
        let wide = if ty.dtype == Some(DType::F32) || shape.len() < 2 {
            let count = shape.iter().product();
            let all: Vec<f32> = (0..count).map(|_| (1.0 + rng.below(1000) as f32 / 1000.0) / 64.0).collect();
            Tensor::from_f32(&shape, &all)
        } else {
            rows(DType::F32, &shape, &[Row::Bell], &mut rng).unwrap()
        };
        eval::cast(&wide, ty.dtype.unwrap(), true).unwrap()
    };
    graph.inputs().iter().map(&mut made).collect()
}

#[test]
fn products_of_dequantised_values_multiply_codes() {
    for (name, text_in) in texts("in/scaled") {
        let source = parse(&text_in);
        let (graph, report) = relaxed(&source);
        let all = source.nodes().filter(|(_, n)| matches!(n.op, Op::MatMul | Op::Gemm { .. })).count();
        assert_eq!((products(&graph), report.products.len()), (all, all), "{name}: {:#?}", report.notes);
        assert!(
            graph.nodes().all(|(_, n)| !matches!(n.op, Op::MatMul | Op::Gemm { .. } | Op::DequantizeLinear { .. })),
            "{name}"
        );
        insta::with_settings!({ snapshot_path => "snapshots/scaled", prepend_module_to_snapshot => false, omit_expression => true }, {
            let told = serde_json::to_string_pretty(&report.products).unwrap();
            insta::assert_snapshot!(name.as_str(), format!("{}\n{told}", text::print(&graph)));
        });
        // What was written down is read as itself.
        let written = text::print(&graph);
        assert_eq!(text::print(&parse(&written)), written, "{name}");
        let given = inputs(&source);
        let (want, found) = (eval::run(&source, &given).unwrap(), eval::run(&graph, &given).unwrap());
        for (want, found) in want.iter().zip(&found) {
            assert_eq!((want.dtype(), want.shape()), (found.dtype(), found.shape()), "{name}");
            let (x, y) = (floats(want).unwrap(), floats(found).unwrap());
            let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let apart = x.iter().zip(&y).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            // A rounding of each factor to 8 bits, and one of the result.
            let most = if text_in.contains("f16") { 1.0 / 128.0 } else { 1e-5 };
            assert!(largest > 0.0 && apart <= most * largest, "{name}: {apart} of {largest}");
        }
    }
}

#[test]
fn what_looks_alike_stays_as_it_is() {
    let mut reasons = String::new();
    for (name, text_in) in texts("in/unscaled") {
        let source = parse(&text_in);
        let (graph, report) = relaxed(&source);
        assert_eq!((products(&graph), report.products.len()), (0, 0), "{name}");
        let said = report.notes.iter().filter_map(|n| n.strip_prefix("scaled-matmul leaves y: "));
        let said: Vec<&str> = said.collect();
        // What is no dequantised value on one side has no reason.
        let silent = name == "one_side" || name.starts_with("cast_to");
        assert_eq!(said.is_empty(), silent, "{name}: {:?}", report.notes);
        reasons.extend(said.iter().map(|why| format!("{name}: {why}\n")));
        assert_eq!(text::print(&graph), text::print(&exact(&source)), "{name}");
        let given = inputs(&source);
        let (want, found) = (eval::run(&source, &given).unwrap(), eval::run(&graph, &given).unwrap());
        assert!(want.iter().zip(&found).all(|(a, b)| bits_equal(a, b).is_none()), "{name}");
    }
    insta::with_settings!({ snapshot_path => "snapshots/scaled", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("why_not", reasons);
    });
}

/// What no device has, and so is no graph of `tests/in`: as many elements as there are columns, and each is added to a row.
#[test]
fn what_is_added_to_rows_is_no_bias() {
    let text = "graph \"g\"\ninput %q: f8e4m3fn[6, 64]\ninput %s: f32[1]\ninput %w: f8e4m3fn[6, 64]\ninput %c: f32[6, 1]\n\
                %x = dequantize_linear(%q, %s) {axis=0}\n%wd = dequantize_linear(%w, %s) {axis=0}\n\
                %y = gemm(%x, %wd, %c) {alpha=1.0, beta=1.0, trans_a=false, trans_b=true}\noutput %y\n";
    let (graph, report) = relaxed(&parse(text));
    let notes = ["scaled-matmul leaves y: what it adds is no element for each of its columns"];
    assert_eq!((products(&graph), &report.notes[..]), (0, &notes.map(String::from)[..]));
    let (graph, report) = relaxed(&parse(&text.replace("f32[6, 1]", "f32[1, 6]")));
    assert_eq!((products(&graph), report.notes.len()), (1, 0));
}

#[test]
fn what_the_host_has_no_product_for_stays_and_so_does_what_nothing_reads() {
    for (name, text_in) in texts("in/scaled") {
        let mut source = parse(&text_in);
        source.add_const("idle", Tensor::from_f32(&[1], &[1.0]));
        let mut graph = source.clone();
        let relax = BTreeSet::from([Relaxation::ScaledMatmul]);
        let options = Options {
            relax: relax.clone(),
            supports_scaled: Arc::new(|_, _, _| Err("no".into())),
            ..Options::default()
        };
        let report = normfuse_passes::run(&mut graph, &options).unwrap();
        assert!(
            products(&graph) == 0 && report.notes.iter().any(|n| n.ends_with(": no")),
            "{name}: {:?}",
            report.notes
        );
        assert_eq!(text::print(&graph), text::print(&exact(&source)), "{name}");
        normfuse_passes::run(&mut source, &Options { relax, ..Options::default() }).unwrap();
        assert!(products(&source) > 0 && text::print(&source).contains("%idle"), "{name}");
    }
}

#[test]
fn nothing_is_scaled_that_nobody_asked_for() {
    for (name, text_in) in texts("in/scaled") {
        let mut graph = parse(&text_in);
        normfuse_passes::run(&mut graph, &Options::default()).unwrap();
        assert_eq!(products(&graph), 0, "{name}");
    }
}
