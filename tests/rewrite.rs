//! Text graph in, snapshot out, and the numbers: every graph under `tests/in` goes through the pass, what comes out is
//! pinned, and source and rewrite are run on the reference evaluator on hostile data and compared bit for bit.
//!
//! `fuse/`: everything in it must fuse. `reject/`: looks alike and must not. `partial/`: the norm fuses, its quantiser
//! must not be in its op. `apart/`: all norms fuse, but no two of them into one op. `alone/`: no norm feeds the quantisers,
//! and each becomes an op of its own. `padded/`: zeros behind the norm's rows are written by its op; `unpadded/`: what looks
//! like that stays behind it.

mod common;

use normfuse::{Format, formats::onnx::WriteOptions, testing};
use normfuse_ir::{Graph, Op, text};
use normfuse_passes::{Behind, Kind, Options, Outcome, Report, Site};

use common::bits::{parse, same_bits, texts};

fn check(folder: &str, judge: impl Fn(&str, &Report)) {
    for (name, source) in texts(&format!("in/{folder}")) {
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
        // A fused graph that was written down is read as itself.
        let written = text::print(&after);
        assert_eq!(text::print(&parse(&written)), written, "{name}");
        same_bits(&name, &before, &after);
        let mut again = after.clone();
        let second = normfuse_passes::run(&mut again, &options).unwrap();
        assert_eq!(
            (text::print(&again), second.summary.launches_saved),
            (written, 0),
            "{name}: there was something left"
        );
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
        // Behind what is no norm a quantiser may stand that is one.
        let may = |s: &&Site| s.kind == Kind::Quant && !name.starts_with("quantiser");
        let fused = report.sites.iter().filter(|s| s.outcome == Outcome::Fused && !may(s));
        assert_eq!(fused.count(), 0, "{name}: {:#?}", report.sites);
    });
}

#[test]
fn a_norm_fuses_without_the_quantiser_that_must_not() {
    check("partial", |name, report| {
        assert_eq!(report.summary.fused.norm, 1, "{name}: {:#?}", report.sites);
        assert_eq!(report.summary.fused.norm_quant, 0, "{name}");
        assert!(report.sites.iter().any(|s| s.kind == Kind::Quant), "{name}");
    });
}

#[test]
fn a_quantiser_that_no_norm_feeds_is_an_op_of_its_own() {
    check("alone", |name, report| {
        let quants = report.sites.iter().filter(|s| s.kind == Kind::Quant);
        assert!(quants.clone().all(|s| s.outcome == Outcome::Fused && s.op.is_some()), "{name}: {:#?}", report.sites);
        assert_eq!(
            (report.summary.fused.quant + report.summary.fused.gated_act, report.summary.quants),
            (quants.clone().count(), quants.count()),
            "{name}"
        );
    });
}

#[test]
fn a_gated_activation_goes_into_the_op_of_its_quantiser() {
    check("gated", |name, report| {
        assert!(report.sites.iter().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
        assert!(report.summary.fused.gated_act > 0, "{name}");
    });
}

#[test]
fn what_looks_like_a_gated_activation_stays_before_the_quantiser() {
    check("ungated", |name, report| {
        assert_eq!((report.summary.fused.gated_act, report.summary.quants), (0, 1), "{name}: {:#?}", report.sites);
        assert!(report.sites.iter().all(|s| s.op.is_some()), "{name}");
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

/// What pads norms: taken in, and left.
fn pads(report: &Report) -> (Vec<&Behind>, Vec<&Behind>) {
    report.sites.iter().flat_map(|s| &s.pads).partition(|p| p.precondition.is_none())
}

#[test]
fn zeros_behind_a_norm_are_written_by_its_op() {
    check("padded", |name, report| {
        let (taken, left) = pads(report);
        assert!(!taken.is_empty() && left.is_empty(), "{name}: {:#?}", report.sites);
        assert!(report.sites.iter().all(|s| s.op.is_some()), "{name}: {:#?}", report.sites);
    });
}

#[test]
fn zeros_behind_a_norm_are_written_to_onnx_and_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, source) in texts("in/padded") {
        let before = parse(&source);
        let mut after = before.clone();
        normfuse_passes::run(&mut after, &Options::default()).unwrap();
        let path = folder.path().join(format!("{name}.onnx"));
        normfuse::save(&after, &path, Format::Onnx, &WriteOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let read = normfuse::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let fused = |g: &Graph| -> Vec<Op> { g.nodes().map(|(_, n)| n.op.clone()).filter(Op::is_fused).collect() };
        assert!(fused(&read) == fused(&after) && !fused(&read).is_empty(), "{name}: {}", text::print(&read));
        for (_, node) in read.nodes().filter(|(_, n)| n.op.is_fused()) {
            assert!(node.body.is_some(), "{name}: {}", node.name);
        }
        same_bits(&name, &before, &read);
    }
}

#[test]
fn what_looks_like_zeros_behind_a_norm_stays_behind_its_op() {
    check("unpadded", |name, report| {
        let (taken, left) = pads(report);
        // What is no row of the norm's is nothing to tell of.
        assert_eq!((taken.len(), left.is_empty()), (0, name.starts_with("of_")), "{name}: {:#?}", report.sites);
        assert!(report.sites.iter().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
    });
}

#[test]
fn a_pad_of_another_mode_is_told_of() {
    let (_, source) = texts("in/padded").into_iter().find(|(name, _)| name == "pad_after_add").unwrap();
    let mut graph = parse(&source.replace("pad(%y, %by)", "\"\".\"Pad\"(%y, %by) {reason=\"pad mode `reflect`\"}"));
    let report = normfuse_passes::run(&mut graph, &Options::default()).unwrap();
    let [pad] = report.sites[0].pads.as_slice() else { panic!("{:#?}", report.sites) };
    assert_eq!(pad.precondition.as_deref(), Some("zeros"));
    assert!(pad.hint.as_deref().unwrap().ends_with("pad mode `reflect`"), "{pad:?}");
}
