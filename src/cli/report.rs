//! The report of a compilation, as text for people and as one JSON object for programs.

use std::{collections::BTreeSet, fmt::Write, path::Path};

use normfuse::{
    Format,
    formats::checkpoint::Bound,
    passes::{
        Behind, Kind, Outcome, Relaxation, Report, RuleUse, ScaledProduct, Site, Summary, linears::Quantised,
        switches::Setting,
    },
};
use serde::Serialize;

use super::{table, verify::Distance};

/// More names than this are counted.
const LISTED: usize = 3;

/// What `--verify` compared.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// Distinct fused ops compared with the subgraph that they replaced, on hostile data.
    pub bodies: usize,
    /// Runs of the whole graph before and after, on random inputs.
    pub runs: usize,
    /// Why the whole graph was not compared, if it was not.
    pub skipped: Option<String>,
    /// Where something was relaxed, those runs are of the graph without that; and how far it is from the source with it, where each
    /// relaxed op is within its bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relaxed: Option<Vec<Distance>>,
}

/// What the compiled graph was made of beside the model: where its weights came from and how they are quantised.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// With `--quant-config`.
    pub quantised: Option<&'a Quantised>,
    /// With `--weights`.
    pub weights: Option<&'a Bound>,
    /// With `--relax`.
    pub relax: &'a BTreeSet<Relaxation>,
}

/// The report; field order is the order of the JSON object's keys.
#[derive(Serialize)]
pub struct Document<'a> {
    model: String,
    format: &'static str,
    relax: &'a BTreeSet<Relaxation>,
    summary: &'a Summary,
    sites: &'a [Site],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    products: &'a [ScaledProduct],
    rules: &'a [RuleUse],
    switches: &'a [Setting],
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    quantised: Option<&'a Quantised>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<&'a Bound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<&'a Verification>,
}

impl<'a> Document<'a> {
    /// The report of one model.
    pub fn new(
        model: &Path,
        report: &'a Report,
        switches: &'a [Setting],
        from: Origin<'a>,
        verify: Option<&'a Verification>,
    ) -> Self {
        Self {
            model: model.file_name().unwrap_or(model.as_os_str()).to_string_lossy().into_owned(),
            format: Format::of(model).map_or("", Format::name),
            relax: from.relax,
            summary: &report.summary,
            sites: &report.sites,
            products: &report.products,
            rules: &report.rules,
            switches,
            notes: &report.notes,
            quantised: from.quantised,
            weights: from.weights,
            verify,
        }
    }

    /// One object on one line.
    pub fn json(&self) -> String {
        // Every field is a string, a number or a list of them: there is nothing that JSON cannot say.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Tables.
    pub fn text(&self) -> String {
        let s = self.summary;
        let mut text = format!("{}: {} nodes, {} after\n", self.model, s.nodes_before, s.nodes_after);
        let mut rows = vec![
            row(
                "norms",
                format!(
                    "{} recognised, {} fused with quantisers, {} without",
                    s.norms, s.fused.norm_quant, s.fused.norm
                ),
            ),
            row("quantisers", self.quantisers()),
            row("saved", format!("{} launches, {} bytes per token", s.launches_saved, s.bytes_saved_per_token)),
        ];
        if s.fused.sibling_norm > 0 {
            let n = s.fused.sibling_norm;
            rows.insert(1, row("siblings", format!("{n} fused op{} of several norms", if n == 1 { "" } else { "s" })));
        }
        if s.fused.gated_act > 0 {
            rows.push(row("gates", format!("{} fused with the quantisers that read them", s.fused.gated_act)));
        }
        rows.extend(self.relaxed());
        rows.extend(self.behind("dequantisers", |s| &s.dequantisers));
        rows.extend(self.behind("pads", |s| &s.pads));
        rows.extend(self.quantised.map(linear_row));
        rows.extend(self.weight_rows());
        rows.extend(self.verify.map(verified_row));
        rows.extend(rule_rows(self.rules));
        text.push_str(&table::columns(&rows));
        let (fused, rest): (Vec<&Site>, Vec<&Site>) = self.sites.iter().partition(|s| s.outcome == Outcome::Fused);
        if !fused.is_empty() {
            let _ = writeln!(text, "\nfused");
            let header =
                ["anchor", "kind", "rule", "op", "replaces", "weights", "quantises to"].map(String::from).to_vec();
            let rows = fused.iter().map(|s| {
                vec![
                    s.title(),
                    s.kind.name().into(),
                    s.rule.clone(),
                    s.op.clone().unwrap_or_default(),
                    format!("{} nodes", s.replaced.len()),
                    bound(s),
                    s.schemes.join(", "),
                ]
            });
            text.push_str(&table::columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>()));
        }
        text.push_str(&self.relaxed_sites());
        text.push_str(&self.scaled_products());
        if !rest.is_empty() {
            let _ = writeln!(text, "\nnot fused");
            for site in rest {
                let _ = writeln!(text, "  {}", line(site));
            }
        }
        for note in self.notes {
            let _ = writeln!(text, "\nnote: {note}");
        }
        text
    }

    /// The weights of fused ops, and what a checkpoint gave.
    fn weight_rows(&self) -> Vec<Vec<String>> {
        let fused = || self.sites.iter().filter(|s| s.outcome == Outcome::Fused);
        let (all, bound) = fused().fold((0, 0), |(n, b), s| (n + s.weights.len(), b + s.bound));
        let mut rows = Vec::new();
        if all > 0 {
            let data = if bound == all { "all bound".into() } else { format!("{bound} bound, {} not", all - bound) };
            rows.push(row("weights", format!("{all} read by fused ops, {data}")));
        }
        let Some(b) = self.weights else { return rows };
        let mut text = format!("{} parameters bound to {}", b.bound, b.checkpoint);
        for (what, names) in
            [("from the model", &b.kept), ("inputs", &b.open), ("read by nothing", &b.unread), ("extra", &b.extra)]
        {
            list(&mut text, what, names);
        }
        rows.push(row("checkpoint", text));
        rows
    }

    /// What was allowed to differ from the source, and at how many sites it does.
    fn relaxed(&self) -> Option<Vec<String>> {
        let said = self.relax.iter().map(|relaxation| {
            let (count, of) = if *relaxation == Relaxation::ScaledMatmul {
                (self.products.len(), "product")
            } else {
                let here = |s: &&Site| s.relaxed.iter().any(|r| r.relaxation == *relaxation);
                (self.sites.iter().filter(here).count(), "site")
            };
            match count {
                0 => format!("{relaxation} changes nothing"),
                1 => format!("{relaxation} at 1 {of}"),
                n => format!("{relaxation} at {n} {of}s"),
            }
        });
        (!self.relax.is_empty()).then(|| row("relaxed", said.collect::<Vec<_>>().join("; ")))
    }

    /// Site by site, what was relaxed and how much of the op's results differs from the exact ones on ordinary data.
    fn relaxed_sites(&self) -> String {
        let mut rows = vec![["anchor", "op", "by", "differs on ordinary data"].map(String::from).to_vec()];
        for site in self.sites {
            for relaxed in &site.relaxed {
                let differ = relaxed.deviation.iter().filter(|d| d.differ > 0);
                let differ: Vec<String> = differ.map(ToString::to_string).collect();
                rows.push(vec![
                    site.title(),
                    site.op.clone().unwrap_or_default(),
                    relaxed.relaxation.to_string(),
                    if differ.is_empty() { "nothing".into() } else { differ.join("; ") },
                ]);
            }
        }
        if rows.len() == 1 { String::new() } else { format!("\nrelaxed\n{}", table::columns(&rows)) }
    }

    /// Product by product, what codes and scales it has now, and how far it is from the source's on ordinary data.
    fn scaled_products(&self) -> String {
        let header = ["product", "op", "codes and scales", "result", "largest difference"].map(String::from).to_vec();
        let rows = self.products.iter().map(|p| {
            vec![
                p.place.as_ref().map_or_else(|| p.node.clone(), |place| format!("{place} at {}", p.node)),
                p.op.clone(),
                format!("{} x {}", p.a, p.b),
                p.to.name().into(),
                format!("{:.1e} of the largest", p.deviation.get()),
            ]
        });
        if self.products.is_empty() {
            return String::new();
        }
        format!("\nscaled products\n{}", table::columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
    }

    /// What fused ops make of what is behind their results, and why some of it stays.
    fn behind(&self, name: &str, of: fn(&Site) -> &[Behind]) -> Option<Vec<String>> {
        let (taken, kept) = self.sites.iter().flat_map(of).partition::<Vec<&Behind>, _>(|d| d.precondition.is_none());
        let mut text = format!("{} in fused ops", taken.len());
        if !kept.is_empty() {
            let why: BTreeSet<&str> = kept.iter().filter_map(|d| d.precondition.as_deref()).collect();
            let why: Vec<&str> = why.into_iter().collect();
            let _ = write!(text, ", {} as they were ({})", kept.len(), why.join(", "));
        }
        (!taken.is_empty() || !kept.is_empty()).then(|| row(name, text))
    }

    /// How many there are and what became of them: the numbers add up.
    fn quantisers(&self) -> String {
        let (all, merged) = (self.summary.quants, self.summary.merged_quants);
        let fused: usize = self.sites.iter().filter(|s| s.kind == Kind::NormQuant).map(|s| s.schemes.len()).sum();
        let alone = self.sites.iter().filter(|s| s.kind == Kind::Quant && s.op.is_some()).count();
        let left = all.saturating_sub(fused + merged + alone);
        let mut text = format!("{all} recognised, {fused} fused with norms");
        if merged > 0 {
            let _ = write!(text, ", {merged} equal to one of those");
        }
        let _ = write!(text, ", {alone} alone");
        if left > 0 {
            let _ = write!(text, ", {left} as they were");
        }
        text
    }
}

/// What `--verify` compared, and what came of it.
fn verified_row(v: &Verification) -> Vec<String> {
    let whole = match (&v.skipped, &v.relaxed) {
        (Some(why), _) => format!("whole graph not compared: {why}"),
        (None, None) => format!("whole graph equal in {} runs", v.runs),
        (None, Some(distances)) => {
            let far: Vec<String> = distances.iter().map(ToString::to_string).collect();
            format!(
                "whole graph equal in {} runs before it was relaxed, relaxed ops within their bounds; relaxed, {}",
                v.runs,
                far.join(", ")
            )
        }
    };
    row("verified", format!("{} distinct fused ops, bit for bit; {whole}", v.bodies))
}

/// What the config made of the linear layers.
fn linear_row(q: &Quantised) -> Vec<String> {
    let schemes: Vec<String> = q.schemes.iter().map(|(scheme, n)| format!("{n} to {scheme}")).collect();
    let n: usize = q.schemes.values().sum();
    let mut text = format!("{n} quantised ({}), by {} quantisers", schemes.join("; "), q.quantisers);
    list(&mut text, "as they are", &q.left);
    row("linears", text)
}

/// Adds the names, or the first and how many more.
fn list(text: &mut String, what: &str, names: &[String]) {
    match names {
        [] => {}
        some if some.len() <= LISTED => _ = write!(text, "; {what}: {}", some.join(", ")),
        [first, rest @ ..] => _ = write!(text, "; {what}: {first} and {} more", rest.len()),
    }
}

/// `2 bound`, or `1 of 2 bound`.
pub fn bound(site: &Site) -> String {
    match (site.weights.len(), site.bound) {
        (0, _) => "none".into(),
        (all, bound) if all == bound => format!("{all} bound"),
        (all, bound) => format!("{bound} of {all} bound"),
    }
}

/// Rules that are on and fused nothing, and rules that are off and who says so.
fn rule_rows(rules: &[RuleUse]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let unmatched: Vec<&str> = rules.iter().filter(|r| r.on && r.matched == 0).map(|r| r.name.as_str()).collect();
    if !unmatched.is_empty() {
        rows.push(row("unmatched", format!("{} (on, and in no fused op)", unmatched.join(", "))));
    }
    let mut off: Vec<(&str, Vec<&str>)> = Vec::new();
    for rule in rules.iter().filter(|r| !r.on) {
        let why = rule.why_off.as_deref().unwrap_or_default();
        match off.iter_mut().find(|(w, _)| *w == why) {
            Some((_, names)) => names.push(&rule.name),
            None => off.push((why, vec![&rule.name])),
        }
    }
    rows.extend(off.iter().map(|(why, names)| row("off", format!("{} (by {why})", names.join(", ")))));
    rows
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.into(), value]
}

/// `X (norm): rejected by rms_norm: no_escape fails at Y: hint`, or `X (norm): fused by rms_norm into Z`. A quantiser that a
/// norm could not take in says what op it is nevertheless.
pub fn line(site: &Site) -> String {
    let outcome = match site.outcome {
        Outcome::Fused => "fused by",
        Outcome::Rejected => "rejected by",
        Outcome::Nearest => "nearest rule is",
    };
    let mut text = format!("{} ({}): {outcome} {}", site.title(), site.kind.name(), site.rule);
    let (fused, alone) =
        if site.outcome == Outcome::Fused { (site.op.as_ref(), None) } else { (None, site.op.as_ref()) };
    if let Some(op) = fused {
        let _ = write!(text, " into {op}");
    }
    if let Some(precondition) = &site.precondition {
        let _ = write!(text, ": {precondition} fails");
    }
    if let Some(node) = &site.node {
        let _ = write!(text, " at {node}");
    }
    if let Some(hint) = &site.hint {
        let _ = write!(text, ": {hint}");
    }
    if let Some(op) = alone {
        let _ = write!(text, "; it is an op of its own, {op}");
    }
    text
}
