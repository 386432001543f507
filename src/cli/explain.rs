//! `normfuse explain`: what became of every anchor, and why.

use std::fmt::Write;

use normfuse::{
    ir::Graph,
    passes::{self, Site, switches::near},
};

use super::{
    args,
    failure::{Failure, Result},
    output,
    progress::Progress,
    report, switches,
    weights::{self, Of},
};

/// How many near names an error lists.
const NEAR: usize = 5;

pub fn main(args: &args::Explain) -> Result<()> {
    let switches = switches::read(&args.switches)?;
    let options = passes::Options { explain: true, ..switches::options(&switches, args.host.runs_on) };
    let mut progress = Progress::new();
    progress.step("reading");
    let weights::Opened { graph: source, bound, .. } = weights::open(&args.model, &args.weights, Of::Model)?;
    if let Some(name) = &args.node {
        check_name(&source, name)?;
    }
    progress.step("fusing");
    let mut graph = source.clone();
    let report = passes::run_with(&mut graph, &options, &mut progress).map_err(Failure::of_graph(&args.model))?;
    weights::check(&source, &report.sites, bound.as_ref(), &args.weights)?;
    drop(progress);
    let mut text = String::new();
    for site in report.sites.iter().filter(|s| args.node.as_ref().is_none_or(|n| concerns(s, n))) {
        text.push_str(&explain(site));
    }
    if text.is_empty() {
        text = match &args.node {
            Some(name) => format!("{name}: no anchor, and part of no fused op: it stays as it is\n"),
            None => "no anchors: the graph has no reduction of squares, no native norm and no quantiser\n".into(),
        };
    }
    output::print(&text)
}

fn check_name(graph: &Graph, name: &str) -> Result<()> {
    if graph.nodes().any(|(_, n)| n.name == name || n.provenance.module() == Some(name)) {
        return Ok(());
    }
    let near = near::nearest(name, graph.nodes().map(|(_, n)| n.name.as_str()), NEAR);
    Err(Failure::Usage(format!("--node {name}: no such node; near: {}", near.join(", "))))
}

fn concerns(site: &Site, node: &str) -> bool {
    let module = |place: &str| place.strip_prefix(node).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("));
    site.place.as_deref().is_some_and(module)
        || site.anchor == node
        || site.node.as_deref() == Some(node)
        || site.replaced.iter().any(|r| r == node)
}

fn explain(site: &Site) -> String {
    let mut text = report::line(site) + "\n";
    if site.op.is_none() {
        return text;
    }
    for (scheme, arithmetic) in site.schemes.iter().zip(&site.arithmetic) {
        let _ = writeln!(text, "  quantises to {scheme}: {arithmetic}");
    }
    let dequantisers = site.dequantisers.iter().map(|d| ("dequantises", d));
    for (does, b) in dequantisers.chain(site.pads.iter().map(|p| ("pads", p))) {
        let _ = match (&b.precondition, &b.hint) {
            (Some(precondition), Some(hint)) => {
                writeln!(text, "  {} {does} and stays an op: {precondition} fails: {hint}", b.node)
            }
            _ => writeln!(text, "  {} {does}, in the op", b.node),
        };
    }
    if !site.rewrites.is_empty() {
        let _ = writeln!(text, "  recognised by {}:", site.rewrites.join(", "));
    }
    for line in &site.path {
        let _ = writeln!(text, "    {line}");
    }
    let _ = writeln!(text, "  replaces {}", site.replaced.join(", "));
    if !site.weights.is_empty() {
        let _ = writeln!(text, "  reads {}: {}", site.weights.join(", "), report::bound(site));
    }
    text
}
