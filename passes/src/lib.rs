//! The normfuse pass: finds RMSNorms and the quantisers they feed, replaces each place with one fused op, and says why
//! where it does not. No IO, no environment, no `unsafe`: another compiler can embed this crate alone.
//!
//! ```text
//! anchors -> region -> terms -> saturation (egg) -> candidate -> patch
//! ```
//! - [`anchor`]: every reduction of squares, native norm, and cast to a quantised type;
//! - [`region`]: the small subgraph around it, written down as [`term`]s in which views have vanished;
//! - [`rules`]: one file a rule; [`solve`] saturates and reads off norms and quantisers;
//! - [`candidate`]: which values are operands and ports, what is replaced, what stands in the way;
//! - [`rewrite`]: the patch, applied at once or not at all; [`body`] keeps the replaced subgraph;
//! - [`diagnose`]: the first failing precondition of what was not recognised; [`report`] is what users read.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod body;
pub mod candidate;
mod consts;
pub mod diagnose;
pub mod region;
pub mod report;
pub mod rewrite;
pub mod rules;
pub mod solve;
pub mod term;
mod views;

use std::{
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

use normfuse_ir::{FusedNorm, Graph, NodeId, infer};
pub use report::{Fused, Kind, Outcome, Report, Site, Summary};

use crate::{
    anchor::Anchor,
    candidate::{Candidate, Refusal},
    region::{Expr, Region},
    rules::Rewrites,
    solve::{NormMatch, Solution},
    views::Names,
};

/// What the caller may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of rules that are switched off.
    pub disabled: BTreeSet<String>,
    /// What the runtime that will execute the graph has kernels for; the reason if it has none.
    pub supports: fn(&FusedNorm) -> Result<(), String>,
    /// Compare each distinct fused op with its body on hostile data, bit for bit.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { disabled: BTreeSet::new(), supports: |_| Ok(()), verify: false }
    }
}

impl Options {
    /// True if a rule is on.
    pub fn enabled(&self, rule: &str) -> bool {
        !self.disabled.contains(rule)
    }
}

/// Runs the pass: types are inferred, every anchor is tried, the result is verified.
///
/// # Errors
/// The graph is not legal (as inference or the verifier says), an unknown rule is switched off, or with
/// [`Options::verify`] a fused op differs from its body.
pub fn run(graph: &mut Graph, options: &Options) -> normfuse_ir::Result<Report> {
    if let Some(unknown) = options.disabled.iter().find(|d| rules::ALL.iter().all(|r| r.name != **d)) {
        let known: Vec<&str> = rules::ALL.iter().map(|r| r.name).collect();
        let message = format!("there is no rule `{unknown}`");
        return Err(normfuse_ir::Error::new(normfuse_ir::ErrorKind::Value, message)
            .hint(format!("rules: {}", known.join(", "))));
    }
    infer::infer(graph)?;
    graph.verify()?;
    // What the source has without reading it is not ours to remove.
    let idle = graph.unused_consts();
    let mut pass = Pass::new(graph, options);
    pass.report.notes.clone_from(&graph.info.notes);
    pass.report.summary.nodes_before = graph.node_count();
    for anchor in anchor::norms(graph)? {
        pass.norm(graph, &anchor);
    }
    for anchor in anchor::quantisers(graph)? {
        pass.quantiser(graph, &anchor);
    }
    graph.remove_unused_consts(&idle);
    graph.verify()?;
    if options.verify {
        pass.report.summary.verified = Some(verify_bodies(graph)?);
    }
    Ok(pass.finish(graph))
}

/// Compares each distinct fused op with the source subgraph that it stands for, on hostile data, bit for bit; returns
/// how many distinct ones there were.
///
/// # Errors
/// The first difference, with node, port and element.
pub fn verify_bodies(graph: &Graph) -> normfuse_ir::Result<usize> {
    normfuse_ir::body::check_all(graph)
        .map_err(|e| e.hint("this is a fault of normfuse and not of the model: please report it"))
}

struct Pass<'o> {
    options: &'o Options,
    rewrites: Rewrites,
    memo: HashMap<Vec<Expr>, Rc<Solution>>,
    names: Names,
    report: Report,
    /// Casts of quantisers that a norm's site has spoken of.
    quantisers_done: BTreeSet<NodeId>,
}

impl<'o> Pass<'o> {
    fn new(graph: &Graph, options: &'o Options) -> Self {
        let mut rewrites = rules::always();
        let mut names = BTreeSet::new();
        for rule in rules::ALL.iter().filter(|r| options.enabled(r.name)) {
            // Rules may share rewrites; each is applied once.
            rewrites.extend((rule.rewrites)().into_iter().filter(|r| names.insert(r.name.to_string())));
        }
        Self {
            options,
            rewrites,
            memo: HashMap::new(),
            names: Names::of(graph),
            report: Report::default(),
            quantisers_done: BTreeSet::new(),
        }
    }

    /// Solves a region, or remembers: a region that repeats in every layer is solved once.
    fn solve(&mut self, region: &Region) -> Rc<Solution> {
        if let Some(s) = self.memo.get(&region.exprs) {
            return Rc::clone(s);
        }
        let s = Rc::new(solve::solve(&region.exprs, &self.rewrites));
        self.memo.insert(region.exprs.clone(), Rc::clone(&s));
        s
    }

    fn norm(&mut self, graph: &mut Graph, anchor: &Anchor) {
        // An earlier patch may have taken the anchor in.
        if graph.try_node(anchor.node).is_none() {
            return;
        }
        let region = region::around_norm(graph, anchor.node);
        let solution = self.solve(&region);
        let own: Vec<&NormMatch> = solution.norms.iter().filter(|m| is_of(graph, &region, m, anchor.node)).collect();
        let refused = diagnose::centred_row(graph, anchor.node);
        let norm = match (own.as_slice(), refused) {
            ([norm], None) => *norm,
            ([], _) | (_, Some(_)) => {
                let (outcome, refusal) = if self.options.enabled("rms_norm") {
                    diagnose::norm(graph, anchor.node)
                } else {
                    (Outcome::Rejected, off("rms_norm", anchor.node))
                };
                return self.reject(graph, anchor.node, Kind::Norm, outcome, &refusal);
            }
            (several, None) => {
                self.report.summary.norms += 1;
                let refusal = Refusal {
                    rule: "rms_norm",
                    precondition: "no_escape",
                    node: Some(anchor.node),
                    hint: format!("{} weights scale one normalised row", several.len()),
                };
                return self.reject(graph, anchor.node, Kind::Norm, Outcome::Rejected, &refusal);
            }
        };
        self.report.summary.norms += 1;
        let built = candidate::build(graph, &region, &solution, norm, self.options).and_then(|c| {
            worth_it(graph, anchor.node, &c)?;
            let applied = rewrite::apply(graph, &mut self.names, anchor.node, &c)?;
            Ok((c, applied))
        });
        match built {
            Ok((c, applied)) => self.fused(graph, anchor, &c, &applied, &solution),
            Err(refusal) => self.reject(graph, anchor.node, Kind::Norm, Outcome::Rejected, &refusal),
        }
    }

    fn fused(
        &mut self,
        graph: &mut Graph,
        anchor: &Anchor,
        c: &Candidate,
        applied: &rewrite::Applied,
        solution: &Solution,
    ) {
        let schemes: Vec<String> =
            c.descriptor.siblings.iter().flat_map(|s| &s.epilogues).map(ToString::to_string).collect();
        let kind = if schemes.is_empty() { Kind::Norm } else { Kind::NormQuant };
        let summary = &mut self.report.summary;
        summary.quants += schemes.len();
        match kind {
            Kind::NormQuant => summary.fused.norm_quant += 1,
            _ => summary.fused.norm += 1,
        }
        summary.launches_saved += applied.replaced.len().saturating_sub(1);
        summary.bytes_saved_per_token += applied.bytes_saved;
        let rule = c.descriptor.siblings.iter().flat_map(|s| &s.epilogues).next().map_or(
            if c.descriptor.prologue == normfuse_ir::fused::Prologue::None { "rms_norm" } else { "residual_add" },
            |s| match s.granularity {
                normfuse_ir::Granularity::Tensor => "quant_static",
                normfuse_ir::Granularity::Token => "quant_token",
                normfuse_ir::Granularity::Group(_) => "quant_group",
            },
        );
        let (name, provenance, _) = graph.node_meta_mut(applied.node);
        // Commuted operands are bookkeeping; the others are the steps of the argument.
        provenance.rules = solution.fired.iter().filter(|r| !r.starts_with("commute")).cloned().collect();
        self.report.sites.push(Site {
            anchor: anchor.name.clone(),
            kind,
            outcome: Outcome::Fused,
            rule: rule.into(),
            op: Some(name.clone()),
            replaced: applied.replaced.clone(),
            schemes,
            precondition: None,
            node: None,
            hint: None,
        });
        for (node, refusal) in &c.left_out {
            if self.quantisers_done.insert(*node) {
                self.report.summary.quants += 1;
                self.reject(graph, *node, Kind::Quant, Outcome::Rejected, refusal);
            }
        }
    }

    fn quantiser(&mut self, graph: &Graph, anchor: &Anchor) {
        if self.quantisers_done.contains(&anchor.node) {
            return;
        }
        let region = region::before_quantiser(graph, anchor.node);
        let solution = self.solve(&region);
        let out = graph.node(anchor.node).outputs[0];
        let found = region.local(out).and_then(|i| solution.quants.iter().find(|q| q.q.contains(&i)));
        let (outcome, refusal) = match found {
            Some(q) => {
                self.report.summary.quants += 1;
                let of = q.of.first().map(|i| region.locals[*i]);
                let source = of.and_then(|v| graph.producer(v)).map(|(n, _)| n);
                let width = of.and_then(|v| region::typed(graph, v)).and_then(|(_, s)| s.last()?.as_const());
                let refusal = Refusal {
                    rule: candidate::rule_of(q, width.map_or(u64::MAX, i64::unsigned_abs)),
                    precondition: "fed_by_norm",
                    node: source.or(Some(anchor.node)),
                    hint: format!(
                        "the quantised value comes from {}, not from a fused norm",
                        source.map_or("outside the graph".into(), |n| format!("`{}`", graph.node(n).op.name()))
                    ),
                };
                (Outcome::Rejected, refusal)
            }
            None => (
                Outcome::Nearest,
                Refusal {
                    rule: "quant_static",
                    precondition: "scheme",
                    node: Some(anchor.node),
                    hint: "a cast to a quantised type whose scale is none of the known quantisers'".into(),
                },
            ),
        };
        self.reject(graph, anchor.node, Kind::Quant, outcome, &refusal);
    }

    fn reject(&mut self, graph: &Graph, anchor: NodeId, kind: Kind, outcome: Outcome, refusal: &Refusal) {
        let name = |n: NodeId| graph.try_node(n).map(|n| n.name.clone());
        self.report.summary.rejected += 1;
        self.report.sites.push(Site {
            anchor: name(anchor).unwrap_or_default(),
            kind,
            outcome,
            rule: refusal.rule.into(),
            op: None,
            replaced: Vec::new(),
            schemes: Vec::new(),
            precondition: Some(refusal.precondition.into()),
            node: refusal.node.and_then(name),
            hint: Some(refusal.hint.clone()),
        });
    }

    fn finish(mut self, graph: &Graph) -> Report {
        self.report.summary.nodes_after = graph.node_count();
        self.report
    }
}

fn off(rule: &'static str, node: NodeId) -> Refusal {
    Refusal { rule, precondition: "switched_on", node: Some(node), hint: "the rule is switched off".into() }
}

/// A native norm that stands alone is one launch already.
fn worth_it(graph: &Graph, anchor: NodeId, c: &Candidate) -> Result<(), Refusal> {
    if c.replaced.len() > 1 {
        return Ok(());
    }
    Err(Refusal {
        rule: "rms_norm",
        precondition: "saves_something",
        node: Some(anchor),
        hint: format!("`{}` is one op already and feeds no quantiser", graph.node(anchor).op.name()),
    })
}

/// True if a match is the norm of this anchor: its rows are what the anchor squares.
fn is_of(graph: &Graph, region: &Region, m: &NormMatch, anchor: NodeId) -> bool {
    let Some(operand) = graph.node(anchor).input(0) else { return false };
    let row = diagnose::squared(graph, operand).unwrap_or(operand);
    let mut row = Some(row);
    while let Some(v) = row {
        if region.local(v).is_some_and(|i| m.h.contains(&i)) {
            return true;
        }
        row = region::producer_op(graph, v)
            .filter(|(_, op)| matches!(op, normfuse_ir::Op::Cast { .. }) || region::is_view(op))
            .and_then(|(n, _)| graph.node(n).input(0));
    }
    false
}
