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
//!
//! A host takes the rewritten graph ([`run`]) or a list of edits to its own IR ([`edits()`]), hears of progress
//! ([`Observer`]), and says in the [`Options`] what it has kernels for, which nodes are not ours to touch, and which
//! spellings of its own the recogniser should know.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod body;
pub mod candidate;
mod consts;
pub mod diagnose;
pub mod edits;
mod observe;
mod opaque;
pub mod region;
pub mod report;
pub mod rewrite;
pub mod rules;
pub mod solve;
pub mod term;
mod views;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    rc::Rc,
    sync::Arc,
};

/// The rewriting library whose patterns rules are made of, for hosts that bring [rules](Options::extra_rules).
pub use egg;
use normfuse_ir::{Error, ErrorKind, FusedNorm, Graph, Node, NodeId, infer};

pub use edits::{Edits, edits, edits_with};
pub use observe::Observer;
pub use report::{Fused, Kind, Outcome, Report, Site, Summary};
pub use rules::Rule;

use crate::{
    anchor::Anchor,
    candidate::{Candidate, Refusal},
    opaque::Hidden,
    region::{Expr, Region},
    rules::Rewrites,
    solve::{NormMatch, Solution},
    views::Names,
};

/// Says what there are kernels for: the reason if there is none.
pub type Supports = Arc<dyn Fn(&FusedNorm) -> Result<(), String> + Send + Sync>;

/// Marks nodes.
pub type Marks = Arc<dyn Fn(&Node) -> bool + Send + Sync>;

/// What the caller may choose.
#[derive(Clone)]
pub struct Options {
    /// Names of rules that are switched off.
    pub disabled: BTreeSet<String>,
    /// What the runtime that will execute the graph has kernels for.
    pub supports: Supports,
    /// Compare each distinct fused op with its body on hostile data, bit for bit.
    pub verify: bool,
    /// Nodes that the pass neither looks into nor replaces. Their operands are taken to be all that they depend on.
    pub opaque: Option<Marks>,
    /// Rules of the host, beside [`rules::ALL`]: spellings that it knows to have the same bits. A rewrite that is wrong
    /// makes fused ops wrong; [`Options::verify`] finds out.
    pub extra_rules: Vec<Rule>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            disabled: BTreeSet::new(),
            supports: Arc::new(|_| Ok(())),
            verify: false,
            opaque: None,
            extra_rules: Vec::new(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<&str> = self.extra_rules.iter().map(|r| r.name).collect();
        f.debug_struct("Options")
            .field("disabled", &self.disabled)
            .field("verify", &self.verify)
            .field("extra_rules", &rules)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// True if a rule is on.
    pub fn enabled(&self, rule: &str) -> bool {
        !self.disabled.contains(rule)
    }

    /// Every rule, ours and the host's, on or off.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        rules::ALL.into_iter().chain(&self.extra_rules)
    }

    /// # Errors
    /// A name that no rule has, or that two have.
    fn check(&self) -> normfuse_ir::Result<()> {
        let bad = |message: String| Error::new(ErrorKind::Value, message);
        if let Some(unknown) = self.disabled.iter().find(|d| self.rules().all(|r| r.name != **d)) {
            let known: Vec<&str> = self.rules().map(|r| r.name).collect();
            return Err(bad(format!("there is no rule `{unknown}`")).hint(format!("rules: {}", known.join(", "))));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.rules().find(|r| !names.insert(r.name)) {
            return Err(bad(format!("two rules have the name `{}`", twice.name)));
        }
        // Ours may share rewrites; the name of a host's must be its own, or it would be taken for one of those.
        let ours = rules::ALL.iter().flat_map(|r| (r.rewrites)()).chain(rules::always());
        let mut names: BTreeSet<_> = ours.map(|r| r.name).collect();
        for rule in &self.extra_rules {
            if let Some(twice) = (rule.rewrites)().into_iter().find(|r| !names.insert(r.name)) {
                return Err(bad(format!("rule `{}`: another rewrite has the name `{}`", rule.name, twice.name)));
            }
        }
        Ok(())
    }
}

/// Runs the pass: types are inferred, every anchor is tried, the result is verified.
///
/// # Errors
/// The graph is not legal (as inference or the verifier says), the options name a rule that does not exist or two by one
/// name, or with [`Options::verify`] a fused op differs from its body.
pub fn run(graph: &mut Graph, options: &Options) -> normfuse_ir::Result<Report> {
    run_with(graph, options, &mut ())
}

/// As [`run`], and the observer hears of it.
///
/// # Errors
/// As [`run`].
pub fn run_with(graph: &mut Graph, options: &Options, observer: &mut dyn Observer) -> normfuse_ir::Result<Report> {
    fuse(graph, options, observer).map(|(report, _)| report)
}

fn fuse(
    graph: &mut Graph,
    options: &Options,
    observer: &mut dyn Observer,
) -> normfuse_ir::Result<(Report, Vec<Patch>)> {
    options.check()?;
    infer::infer(graph)?;
    graph.verify()?;
    let hidden = Hidden::hide(graph, options);
    let mut pass = Pass::new(graph, options, observer);
    let tried = pass.all(graph);
    hidden.restore(graph);
    tried?;
    graph.remove_unused_consts();
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
}

/// One fused op: what was to be done, and what was done.
struct Patch {
    candidate: Candidate,
    applied: rewrite::Applied,
}

struct Pass<'o> {
    options: &'o Options,
    observer: &'o mut dyn Observer,
    rewrites: Rewrites,
    memo: HashMap<Vec<Expr>, Rc<Solution>>,
    names: Names,
    report: Report,
    patches: Vec<Patch>,
    /// Casts of quantisers that a norm's site has spoken of.
    quantisers_done: BTreeSet<NodeId>,
}

impl<'o> Pass<'o> {
    fn new(graph: &Graph, options: &'o Options, observer: &'o mut dyn Observer) -> Self {
        let mut rewrites = rules::always();
        let mut names = BTreeSet::new();
        for rule in options.rules().filter(|r| options.enabled(r.name)) {
            // Rules may share rewrites; each is applied once.
            rewrites.extend((rule.rewrites)().into_iter().filter(|r| names.insert(r.name.to_string())));
        }
        Self {
            options,
            observer,
            rewrites,
            memo: HashMap::new(),
            names: Names::of(graph),
            report: Report::default(),
            patches: Vec::new(),
            quantisers_done: BTreeSet::new(),
        }
    }

    /// Tries every anchor.
    fn all(&mut self, graph: &mut Graph) -> normfuse_ir::Result<()> {
        self.report.notes.clone_from(&graph.info.notes);
        self.report.summary.nodes_before = graph.node_count();
        let norms = anchor::norms(graph)?;
        self.observer.anchors(Kind::Norm, norms.len());
        for anchor in norms {
            self.observer.trying(&anchor.name);
            self.norm(graph, &anchor);
        }
        let mut quantisers = anchor::quantisers(graph)?;
        quantisers.retain(|a| !self.quantisers_done.contains(&a.node));
        self.observer.anchors(Kind::Quant, quantisers.len());
        for anchor in quantisers {
            self.observer.trying(&anchor.name);
            self.quantiser(graph, &anchor);
        }
        Ok(())
    }

    fn site(&mut self, site: Site) {
        self.observer.decided(&site);
        self.report.sites.push(site);
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
            Ok((candidate, applied)) => {
                self.fused(graph, anchor, &candidate, &applied, &solution);
                self.patches.push(Patch { candidate, applied });
            }
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
        let op = name.clone();
        provenance.rules = solution.fired.iter().filter(|r| !r.starts_with("commute")).cloned().collect();
        self.site(Site {
            anchor: anchor.name.clone(),
            kind,
            outcome: Outcome::Fused,
            rule: rule.into(),
            op: Some(op),
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
        self.site(Site {
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

    fn finish(mut self, graph: &Graph) -> (Report, Vec<Patch>) {
        self.report.summary.nodes_after = graph.node_count();
        (self.report, self.patches)
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
