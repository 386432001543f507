//! `normfuse compile`: read, fuse, check, report, write.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use normfuse::{
    Format,
    formats::{onnx::WriteOptions, parameters},
    ir::{Data, Graph},
    passes::{self, Kind, Outcome, Relaxation, Report, Site, cost::Device},
};

use super::{
    args,
    failure::{Failure, Result},
    inputs, output,
    progress::Progress,
    report::{self, Document, Verification},
    switches,
    verify::{self, ALL_NAN, Pair, Until},
    weights::{self, Of},
};

/// `--verify` runs whole graphs up to this many bytes of weights; larger models are compared op by op only.
const WHOLE_GRAPH_BYTES: u64 = 1 << 30;
/// And up to this many bytes of inputs, which models with fixed sizes may exceed by far.
const WHOLE_GRAPH_INPUTS: usize = 64 << 20;

pub fn main(args: &args::Compile) -> Result<()> {
    let relax = relaxations(&args.relax)?;
    let switches = switches::read(&args.switches)?;
    let mut progress = Progress::new();
    progress.step("reading");
    let weights::Opened { graph: source, bound, quantised } = weights::open(&args.model, &args.weights, Of::Model)?;
    inputs::bindings(&source, &args.dims)?;
    let target = args.output.as_deref().map(|out| target(args, out, &source)).transpose()?;
    progress.step("fusing");
    let mut graph = source.clone();
    let options = passes::Options {
        device: device(args.target.as_deref())?,
        whole_products: args.whole_products,
        relax: relax.clone(),
        ..switches::options(&switches, args.host.runs_on)
    };
    let mut report = passes::run_with(&mut graph, &options, &mut progress).map_err(Failure::of_graph(&args.model))?;
    weights::check(&source, &report.sites, bound.as_ref(), &args.weights)?;
    let mut failed = unmet(&args.require, &report);
    let mut verification = None;
    if args.verify {
        progress.step("verifying");
        let exact = exact(args, &source, &options, &report)?;
        match verify(args, &source, exact.as_ref(), (&graph, &report), &progress) {
            Ok(found) => {
                report.summary.verified = Some(found.bodies);
                verification = Some(found);
            }
            Err(Failure::Check(difference)) => failed = Some(difference),
            Err(other) => return Err(other),
        }
    }
    // A file is written only if everything that was asked for holds, and the report speaks of a file that is there.
    if let (Some((out, format)), None) = (&target, &failed) {
        progress.step("writing");
        normfuse::save(&graph, out, *format, &WriteOptions { copy_weights: args.copy_weights })?;
    }
    drop(progress);
    let from = report::Origin { quantised: quantised.as_ref(), weights: bound.as_ref(), relax: &relax };
    let document = Document::new(&args.model, &report, &switches.settings, from, verification.as_ref());
    match args.report {
        args::ReportForm::Text => output::print(&document.text())?,
        args::ReportForm::Json => output::print(&document.json())?,
    }
    failed.map_or(Ok(()), |why| Err(Failure::Check(why)))
}

/// The device that fusions are chosen for.
fn device(file: Option<&Path>) -> Result<Device> {
    let Some(file) = file else { return Ok(Device::default()) };
    let bad = |why: String| Failure::Usage(format!("--target {}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|e| bad(e.to_string()))?;
    let device: Device = serde_json::from_str(&text).map_err(|e| bad(format!("expected a device description: {e}")))?;
    device.check().map_err(bad)?;
    Ok(device)
}

/// The relaxations by these names.
pub fn relaxations(names: &[String]) -> Result<BTreeSet<Relaxation>> {
    let by_name = |name: &String| {
        name.parse().map_err(|why| {
            let why = if args::NO_RULE.contains(&name.as_str()) {
                format!("relaxation {name} has no rule yet, so it would change nothing")
            } else {
                why
            };
            Failure::Usage(format!("--relax {name}: {why}"))
        })
    };
    names.iter().map(by_name).collect()
}

/// The graph as it would be had nothing been relaxed, if something was.
fn exact(args: &args::Compile, source: &Graph, options: &passes::Options, report: &Report) -> Result<Option<Graph>> {
    if report.products.is_empty() && report.sites.iter().all(|s| s.relaxed.is_empty()) {
        return Ok(None);
    }
    let mut graph = source.clone();
    let options = passes::Options { relax: BTreeSet::new(), ..options.clone() };
    passes::run(&mut graph, &options).map_err(Failure::of_graph(&args.model))?;
    Ok(Some(graph))
}

/// Where and how to write; never over a file that the graph is read from.
fn target<'a>(args: &args::Compile, out: &'a Path, source: &Graph) -> Result<(&'a Path, Format)> {
    let format = args.emit.map_or_else(|| Format::of(out), |e| Ok(e.into()))?;
    if args.copy_weights && format != Format::Onnx {
        return Err(Failure::Usage(format!(
            "--copy-weights is for ONNX, and {} is written as {}",
            out.display(),
            format.name()
        )));
    }
    let Ok(there) = out.canonicalize() else { return Ok((out, format)) };
    if args.model.canonicalize().is_ok_and(|model| model == there) {
        return Err(Failure::Usage(format!("{} is the model itself: write to another file", out.display())));
    }
    weights::check_output(out, &there, &args.weights)?;
    let is_data = source.values().filter_map(|(_, v)| v.stored()).any(|t| match t.data() {
        Data::External(r) => r.data.origin() == Some(there.as_path()),
        Data::Inline(_) => false,
    });
    if is_data {
        return Err(Failure::Usage(format!("{} holds the model's weights: write to another file", out.display())));
    }
    Ok((out, format))
}

/// What `--require` asked for and did not get: for each, the sites that did not fuse so, or the ones too many.
fn unmet(required: &[args::Requirement], report: &Report) -> Option<String> {
    let mut text = String::new();
    for r in required {
        let found = report.count(r.kind);
        if r.holds(found) {
            continue;
        }
        let too_few = found < r.count;
        let which = if too_few { "sites that did not" } else { "sites that did" };
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{separator}--require {r}: found {found}; {which}:");
        let before = text.len();
        for site in report.sites.iter().filter(|s| may_be(s, r.kind) && is(s, r.kind) != too_few) {
            let _ = write!(text, "\n  {}", report::line(site));
            if too_few && site.outcome == Outcome::Fused {
                text.push_str(match (r.kind, site.kind) {
                    (Kind::GatedAct, _) => ": no gated activation feeds it",
                    (Kind::SiblingNorm, _) => ": no other norm of the same row joined it",
                    (_, Kind::Quant) => ": no norm feeds it",
                    _ => ": no quantiser reads it with nothing between",
                });
            }
        }
        if text.len() == before {
            text.push_str(" none");
        }
    }
    (!text.is_empty()).then_some(text)
}

/// True if a site is one of those that [`Report::count`] counts for this kind.
fn is(site: &Site, kind: Kind) -> bool {
    match kind {
        Kind::Quant => site.kind == Kind::NormQuant || site.kind == Kind::Quant && site.outcome != Outcome::Nearest,
        Kind::SiblingNorm => site.siblings > 1,
        Kind::GatedAct => site.rule == "gated_act" && site.outcome == Outcome::Fused,
        _ => site.kind == kind && site.outcome == Outcome::Fused,
    }
}

/// True if a site could be one of this kind: a quantiser is no norm, and only what quantises is a quantiser.
fn may_be(site: &Site, kind: Kind) -> bool {
    match kind {
        Kind::Norm | Kind::SiblingNorm => site.kind != Kind::Quant,
        Kind::NormQuant => true,
        Kind::GatedAct => site.kind == Kind::Quant,
        Kind::Quant => matches!(site.kind, Kind::NormQuant | Kind::Quant),
    }
}

/// Compares each distinct fused op with what it replaced, and the whole graphs where they run here: the exact one bit for bit, and
/// where that is another than the one that was made, how far that is from the source.
fn verify(
    args: &args::Compile,
    source: &Graph,
    exact: Option<&Graph>,
    (made, report): (&Graph, &Report),
    progress: &Progress,
) -> Result<Verification> {
    let bodies = passes::verify_bodies(made).map_err(|e| Failure::Check(e.to_string()))?;
    let mut found = Verification { bodies, runs: 0, skipped: None, relaxed: None };
    let stored = made.values().filter_map(|(_, v)| v.stored()).filter_map(|t| t.dtype().size_of(t.len()));
    let open = parameters::without_data(source)?.into_iter().filter_map(|v| {
        let ty = &source.value(v).ty;
        let count = ty.shape.as_ref()?.numel().as_const()?;
        ty.dtype?.size_of(usize::try_from(count).ok()?)
    });
    let weights = stored.chain(open).fold(0, |sum: u64, n| sum.saturating_add(n as u64));
    if weights > WHOLE_GRAPH_BYTES {
        found.skipped = Some(format!("{weights} bytes of weights; run `normfuse verify` for the whole graph"));
        return Ok(found);
    }
    let exactly = pair(args, source, exact.unwrap_or(made));
    let outcome = match exactly.and_then(|pair| compare(args, &pair, Until::Differs, progress)) {
        Ok(outcome) => outcome,
        Err(Failure::Check(why)) => return Err(Failure::Check(why)),
        Err(other) => return Ok(Verification { skipped: Some(other.to_string()), ..found }),
    };
    outcome.check()?;
    if outcome.is_all_nan() {
        found.skipped = Some(ALL_NAN.into());
        return Ok(found);
    }
    found.runs = outcome.runs.len();
    if let Some(exact) = exact {
        // What the exact graph runs with, the relaxed one has to run with too.
        let relaxed = pair(args, source, made).and_then(|pair| {
            let outcome = compare(args, &pair, Until::Enough, progress)?;
            pair.check_relaxed(&outcome.runs, exact, report)?;
            Ok(outcome.distances())
        });
        found.relaxed = Some(relaxed.map_err(|e| match e {
            Failure::Check(_) => e,
            other => Failure::Check(format!("the relaxed graph does not run: {other}")),
        })?);
    }
    Ok(found)
}

/// Two graphs that run on the same inputs. Types of the inputs are known from here on, and what cannot run says so.
fn pair<'g>(args: &'g args::Compile, source: &'g Graph, rewritten: &'g Graph) -> Result<Pair<'g>> {
    Pair::new(source, &args.model, rewritten)
}

/// Runs two graphs on random inputs.
fn compare(args: &args::Compile, pair: &Pair<'_>, until: Until, progress: &Progress) -> Result<verify::Outcome> {
    let random = args::Random { weights_seed: args.random_weights, dims: args.dims.clone(), seed: 0 };
    pair.compare_random(&random, WHOLE_GRAPH_INPUTS, until, progress)
}
