//! Choosing among fusions: what a host has no kernels for, what its own prices say, and the device's description.

mod common;

use std::{fs, path::Path, sync::Arc};

use common::normfuse;

use normfuse::{
    ir::{FusedNorm, Graph, Op, Scheme, fused::Prologue, text},
    passes::{self, Options, Outcome, Report, cost::Device},
};

fn parse(name: &str) -> Graph {
    parse_in("fuse", name)
}

fn parse_in(folder: &str, name: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in").join(folder).join(name);
    text::parse(&fs::read_to_string(path).unwrap(), &mut |w| panic!("{} is in another file", w.name)).unwrap()
}

/// The fused ops and the report; what is chosen must verify.
fn fuse(name: &str, options: Options) -> (Vec<FusedNorm>, Report) {
    let mut graph = parse(name);
    let report = passes::run(&mut graph, &Options { verify: true, ..options }).unwrap();
    let fused = graph.nodes().filter_map(|(_, n)| match &n.op {
        Op::FusedNorm(f) => Some((**f).clone()),
        _ => None,
    });
    (fused.collect(), report)
}

fn without(what: &'static str, unsupported: fn(&FusedNorm) -> bool) -> Options {
    let supports = move |f: &FusedNorm| if unsupported(f) { Err(format!("no kernel for {what}")) } else { Ok(()) };
    Options { supports: Arc::new(supports), ..Options::default() }
}

/// A host that switched a rule off.
fn off(rule: &str) -> Options {
    Options { disabled: [(rule.to_owned(), "me".to_owned())].into(), ..Options::default() }
}

#[test]
fn siblings_part_where_there_is_no_kernel_for_two() {
    let (together, _) = fuse("siblings_mla.nf", Options::default());
    assert_eq!(together.len(), 1);
    assert_eq!(together[0].siblings.len(), 2);
    let (apart, report) = fuse("siblings_mla.nf", without("several norms", |f| f.siblings.len() > 1));
    assert_eq!(apart.iter().map(|f| f.siblings.len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(report.summary.fused.norm_quant, 2);
    assert_eq!(report.summary.fused.sibling_norm, 0);
}

#[test]
fn one_quantiser_of_two_is_taken_and_the_other_says_why_not() {
    let epilogues = |f: &FusedNorm| f.siblings.iter().map(|s| s.epilogues.len()).sum::<usize>();
    let (both, _) = fuse("quant_repeated.nf", Options::default());
    assert_eq!(epilogues(&both[0]), 2);
    let (one, report) =
        fuse("quant_repeated.nf", without("two schemes", |f| f.siblings.iter().any(|s| s.epilogues.len() > 1)));
    assert_eq!(one.iter().map(epilogues).collect::<Vec<_>>(), [1]);
    // Three static quantisers are nine launches, one per token is five.
    assert_eq!(one[0].siblings[0].epilogues[0].to_string(), "f8e4m3fn/tensor(static)");
    let left = report.sites.iter().find(|s| s.outcome == Outcome::Rejected).unwrap();
    assert_eq!(left.anchor, "q3");
    assert_eq!(left.precondition.as_deref(), Some("supported"));
    assert_eq!(left.hint.as_deref(), Some("no kernel for two schemes"));
    // It is an op nevertheless.
    assert_eq!((left.op.as_deref(), left.replaced.len()), (Some("quantize/q3"), 6), "{left:?}");
    assert_eq!((report.summary.fused.quant, report.summary.rejected, report.summary.quants), (0, 1, 4));
}

/// Runs the pass on a graph without norms, and tells its only site and whether the graph has changed.
fn alone(name: &str, options: Options) -> (passes::Site, bool) {
    let source = parse_in("alone", name);
    let mut graph = source.clone();
    let mut report = passes::run(&mut graph, &Options { verify: true, ..options }).unwrap();
    let changed = graph.nodes().any(|(_, n)| n.op.is_fused());
    assert_eq!(changed, graph.node_count() < source.node_count());
    (report.sites.remove(0), changed)
}

#[test]
fn a_host_may_decline_quantisers_that_no_norm_feeds() {
    let (site, changed) = alone("input_token.nf", Options::default());
    assert_eq!((site.outcome, changed), (Outcome::Fused, true));
    let asked = |s: &Scheme| if s.element.is_int() { Ok(()) } else { Err("no kernel for floats".to_owned()) };
    let options = || Options { supports_quantize: Arc::new(asked), ..Options::default() };
    let (site, changed) = alone("input_token.nf", options());
    assert_eq!((site.outcome, site.precondition.as_deref(), changed), (Outcome::Rejected, Some("supported"), false));
    assert_eq!(site.hint.as_deref(), Some("no kernel for floats"));
    assert!(alone("input_int8_token.nf", options()).1);
    // Kernels for norms are another question.
    assert!(alone("input_token.nf", without("any norm", |_| true)).1);
}

#[test]
fn a_quantiser_of_a_norm_that_is_refused_as_it_is_made_is_an_op_of_its_own() {
    // A row with its residual is too long for the check of bodies, and the row alone is not.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/fuse/quant_static.nf");
    let text = fs::read_to_string(path).unwrap().replace("256", "1048576");
    let text = text.replace("input %x:", "input %z: bf16[batch, seq, 1048576]\ninput %x:");
    let text = text.replace("%y_x32 = cast(%x)", "%h = add(%x, %z)\n%y_x32 = cast(%h)");
    let mut graph = text::parse(&text, &mut |w| panic!("{} is in another file", w.name)).unwrap();
    let report = passes::run(&mut graph, &Options::default()).unwrap();
    let site =
        |i: usize| (report.sites[i].outcome, report.sites[i].precondition.as_deref(), report.sites[i].op.as_deref());
    assert_eq!(site(0), (Outcome::Rejected, Some("checkable"), None));
    assert_eq!(site(1), (Outcome::Fused, None, Some("quantize/q")));
}

#[test]
fn a_quantiser_that_no_norm_feeds_has_its_rule_s_switch_and_its_price() {
    let (site, changed) = alone("input_token.nf", off("quant_token"));
    assert_eq!((site.precondition.as_deref(), changed), (Some("switched_on"), false));
    assert!(site.hint.unwrap().contains("by me"));
    // The rule is that of the op's rows, not of the view through which the source saw them.
    let (site, changed) = alone("heads_as_one_row.nf", off("quant_token"));
    assert_eq!(
        (site.rule.as_str(), site.precondition.as_deref(), changed),
        ("quant_token", Some("switched_on"), false)
    );
    assert!(alone("input_token.nf", off("quant_group")).1);
    let table = |ns: f64| Options {
        cost: Some(Arc::new(move |work, _| if matches!(work.op, Op::Quantize(_)) { ns } else { 1.0 })),
        ..Options::default()
    };
    assert!(alone("input_token.nf", table(5.0)).1);
    let (site, changed) = alone("input_token.nf", table(50.0));
    assert_eq!((site.precondition.as_deref(), changed), (Some("saves_something"), false));
}

#[test]
fn the_add_stays_outside_where_no_kernel_has_one() {
    let (with, _) = fuse("quant_group.nf", Options::default());
    assert_ne!(with[0].prologue, Prologue::None);
    let (apart, report) = fuse("quant_group.nf", without("an add", |f| f.prologue != Prologue::None));
    assert_eq!(apart[0].prologue, Prologue::None);
    assert_eq!(report.summary.fused.norm_quant, 1);
    assert!(!report.sites[0].replaced.contains(&"h".to_owned()), "{:?}", report.sites[0].replaced);
}

#[test]
fn what_has_no_kernel_at_all_says_so() {
    let (none, report) = fuse("quant_group.nf", without("any norm", |_| true));
    assert_eq!(none.len(), 0);
    assert_eq!(report.sites[0].precondition.as_deref(), Some("supported"));
    assert_eq!(report.sites[0].hint.as_deref(), Some("no kernel for any norm"));
}

#[test]
fn a_hosts_own_prices_decide() {
    let priced = |price: fn(&FusedNorm) -> f64| Options {
        cost: Some(Arc::new(move |work, tokens| {
            let fused = if let Op::FusedNorm(f) = work.op { price(f) } else { 0.0 };
            Device::default().ns(work, tokens) + fused
        })),
        ..Options::default()
    };
    let (same, _) = fuse("siblings_mla.nf", priced(|_| 0.0));
    assert_eq!(same.len(), 1);
    let (slow, report) = fuse("siblings_mla.nf", priced(|_| 1e12));
    assert_eq!(slow.len(), 0);
    assert_eq!(report.sites[0].precondition.as_deref(), Some("saves_something"));
    assert!(report.sites[0].hint.as_deref().unwrap().contains("table of costs"));
    let (apart, _) = fuse("siblings_mla.nf", priced(|f| if f.siblings.len() > 1 { 1e6 } else { 0.0 }));
    assert_eq!(apart.len(), 2);
    let quantises = |f: &FusedNorm| f.siblings.iter().any(|s| !s.epilogues.is_empty());
    let (plain, report) =
        fuse("quant_token.nf", priced(|f| if f.siblings[0].epilogues.is_empty() { 0.0 } else { 1e6 }));
    assert!(plain.len() == 1 && !quantises(&plain[0]));
    assert_eq!(report.sites.last().unwrap().precondition.as_deref(), Some("cheaper"));
}

#[test]
fn dequantised_values_stay_outside_where_the_host_says_so() {
    let numbers = |f: &FusedNorm| f.siblings.iter().flat_map(|s| &s.epilogues).any(|s| s.dequantised.is_some());
    let priced = Options {
        cost: Some(Arc::new(|work, tokens| match work.op {
            Op::DequantizeLinear { .. } | Op::MatMul => 0.0,
            Op::FusedNorm(f) if f.siblings[0].epilogues.iter().any(|s| s.dequantised.is_some()) => 1e9,
            _ => Device::default().ns(work, tokens),
        })),
        ..Options::default()
    };
    for graph in ["../fuse/dequantised_static.nf", "../fuse/dequantised_codes_read.nf", "../gated/dequantised.nf"] {
        let (taken, report) = fuse(graph, Options::default());
        assert!(taken.len() == 1 && numbers(&taken[0]), "{graph}");
        assert!(report.sites[0].dequantisers.iter().all(|d| d.precondition.is_none()), "{graph}");
        for (options, precondition, hint) in [
            (without("dequantised values", numbers), "supported", "no kernel for dequantised values"),
            (priced.clone(), "cheaper", "by the table of costs"),
            (off("dequantise"), "switched_on", "by me"),
        ] {
            let (left, report) = fuse(graph, options);
            assert!(left.len() == 1 && !numbers(&left[0]) && left[0].siblings[0].epilogues.len() == 1, "{graph}");
            let [d] = report.sites[0].dequantisers.as_slice() else { panic!("{:?}", report.sites) };
            assert_eq!(d.precondition.as_deref(), Some(precondition), "{graph}");
            assert!(d.hint.as_deref().is_some_and(|h| h.contains(hint)), "{graph}: {d:?}");
            let rule = report.rules.iter().find(|r| r.name == "dequantise").unwrap();
            assert_eq!(rule.matched, 0);
        }
    }
}

#[test]
fn zeros_behind_rows_stay_outside_where_the_host_says_so() {
    let padded = |f: &FusedNorm| f.siblings.iter().any(|s| s.padded.is_some());
    let priced = Options {
        cost: Some(Arc::new(|work, tokens| match work.op {
            Op::Pad => 0.0,
            Op::FusedNorm(f) if f.siblings[0].padded.is_some() => 1e9,
            _ => Device::default().ns(work, tokens),
        })),
        ..Options::default()
    };
    for graph in ["../padded/pad.nf", "../padded/pad_after_add.nf", "../padded/repeated.nf"] {
        let (taken, _) = fuse(graph, Options::default());
        assert!(taken.len() == 1 && padded(&taken[0]), "{graph}");
        for (options, precondition, hint) in [
            (without("rows with zeros behind", padded), "supported", "no kernel for rows with zeros behind"),
            (priced.clone(), "cheaper", "by the table of costs"),
            (off("padded_norm"), "switched_on", "by me"),
        ] {
            let (left, report) = fuse(graph, options);
            assert!(left.len() == 1 && !padded(&left[0]), "{graph}");
            assert_eq!(left[0].prologue == Prologue::None, taken[0].prologue == Prologue::None, "{graph}");
            for pad in &report.sites[0].pads {
                assert_eq!(pad.precondition.as_deref(), Some(precondition), "{graph}");
                assert!(pad.hint.as_deref().is_some_and(|h| h.contains(hint)), "{graph}: {pad:?}");
            }
            assert!(!report.sites[0].pads.is_empty(), "{graph}");
            assert_eq!(report.rules.iter().find(|r| r.name == "padded_norm").unwrap().matched, 0);
        }
    }
}

#[test]
fn products_of_two_dequantised_values_are_for_the_host_to_decide() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/fuse/dequantised_static.nf");
    let text = fs::read_to_string(path).unwrap().replace(
        "input %p: f32[256, 32]",
        "input %codes: i8[256, 32]\nconst %ps: f32[32] = fill(0.5)\n%p = dequantize_linear(%codes, %ps) {axis=1, block_size=0}",
    );
    let compiled = |options: Options| {
        let mut graph = text::parse(&text, &mut |w| panic!("{} is in another file", w.name)).unwrap();
        let report = passes::run(&mut graph, &Options { verify: true, ..options }).unwrap();
        (graph.node_count(), report.sites[0].dequantisers[0].precondition.clone())
    };
    // The norm's op, two dequantisers and the product; or one dequantiser less.
    assert_eq!(compiled(Options::default()), (4, Some("no_scaled_product".to_owned())));
    assert_eq!(compiled(Options { whole_products: true, ..Options::default() }), (3, None));
    let model = common::model("deepseek_v3_fp8.onnx");
    let report = |flags: &[&str]| normfuse([&["compile", model.to_str().unwrap()], flags].concat()).code(0).stdout;
    assert!(report(&[]).contains("2 in fused ops, 2 as they were (no_scaled_product)"));
    let whole = report(&["--whole-products", "--verify", "--require", "norm_quant=4"]);
    assert!(whole.contains("dequantisers  4 in fused ops\n"), "{whole}");
}

#[test]
fn a_device_that_is_none_is_refused() {
    let device = Device { bytes_per_ns: 0.0, ..Device::default() };
    let error = passes::run(&mut parse("add_rms.nf"), &Options { device, ..Options::default() }).unwrap_err();
    assert!(error.message.contains("device `NVIDIA H200`: bytes_per_ns"), "{error}");
}

#[test]
fn the_program_takes_a_description_of_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let graph = root.join("tests/in/fuse/add_rms.nf");
    let run = |file: &Path| normfuse(["compile", graph.to_str().unwrap(), "--target", file.to_str().unwrap()]);
    run(&root.join("devices/nvidia_h200.json")).code(0);
    let bad = folder.path().join("bad.json");
    fs::write(&bad, r#"{"name":"x","launch_ns":1,"bytes_per_ns":0,"tokens":[1,2]}"#).unwrap();
    run(&bad).code(2).says("bytes_per_ns: expected more than 0, found 0");
    fs::write(&bad, r#"{"name":"x"}"#).unwrap();
    run(&bad).code(2).says("expected a device description: missing field `launch_ns`");
    run(&folder.path().join("none.json")).code(2).says("--target");
}

#[test]
fn the_default_device_is_the_one_in_the_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("devices/nvidia_h200.json");
    let file: Device = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(file, Device::default());
}

#[test]
fn a_gate_that_stays_outside_says_why_and_its_quantiser_is_an_op_of_its_own() {
    let gates = |f: &FusedNorm| matches!(f.prologue, Prologue::Gated(_));
    let table = Options {
        cost: Some(Arc::new(move |work, _| if matches!(work.op, Op::FusedNorm(_)) { 50.0 } else { 1.0 })),
        ..Options::default()
    };
    for (options, precondition) in
        [(without("a gate", gates), "supported"), (off("gated_act"), "switched_on"), (table, "saves_something")]
    {
        let (site, changed) = alone("silu_token.nf", options);
        assert_eq!((site.outcome, site.rule.as_str(), changed), (Outcome::Rejected, "gated_act", true), "{site:?}");
        assert_eq!(site.precondition.as_deref(), Some(precondition), "{site:?}");
        assert_eq!(site.op.as_deref(), Some("quantize/q0"), "{site:?}");
    }
    let (site, _) = alone("silu_token.nf", Options::default());
    assert_eq!(
        (site.outcome, site.rule.as_str(), site.op.as_deref()),
        (Outcome::Fused, "gated_act", Some("gated_act/q0"))
    );
    // The quantiser's own switch decides over both.
    let (site, changed) = alone("silu_token.nf", off("quant_token"));
    assert_eq!(
        (site.rule.as_str(), site.precondition.as_deref(), changed),
        ("quant_token", Some("switched_on"), false)
    );
}
