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
pub mod norms;
pub mod quant;
pub mod reach;
pub mod region;
pub mod report;
pub mod rewrite;
pub mod rules;
pub mod siblings;
pub mod solve;
pub mod term;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use normfuse_ir::{FusedNorm, Graph, NodeId, Scheme, ValueId, fused::Prologue, infer};
pub use report::{Fused, Kind, Outcome, Report, Site, Summary};

use crate::{
    candidate::{Candidate, Refusal},
    norms::Norm,
    quant::{Miss, Quant},
    reach::Order,
    region::{Expr, Region},
    rules::Rewrites,
    solve::Solution,
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
    let mut pass = Pass::new(graph, options)?;
    pass.report.notes.clone_from(&graph.info.notes);
    pass.report.summary.nodes_before = graph.node_count();
    let found = pass.recognise(graph)?;
    let decided = pass.decide(graph, &found);
    pass.apply(graph, &found, decided);
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

/// What a graph holds.
struct Found {
    norms: Vec<Norm>,
    quants: Vec<Quant>,
    /// Quantisers by the value that they quantise.
    readers: BTreeMap<ValueId, Vec<usize>>,
}

/// A candidate and the norms that it takes in.
struct Decided {
    candidate: Candidate,
    norms: Vec<usize>,
}

struct Pass<'o> {
    options: &'o Options,
    rewrites: Rewrites,
    memo: HashMap<Vec<Expr>, Rc<Solution>>,
    names: Names,
    order: Order,
    /// Sites by kind (norms first) and place in the source.
    sites: BTreeMap<(bool, usize), Site>,
    report: Report,
    /// Names of anchors, which the rewrite removes.
    anchor_names: BTreeMap<NodeId, String>,
}

impl<'o> Pass<'o> {
    fn new(graph: &Graph, options: &'o Options) -> normfuse_ir::Result<Self> {
        let mut rewrites = rules::always();
        let mut names = BTreeSet::new();
        for rule in rules::ALL.iter().filter(|r| options.enabled(r.name)) {
            // Rules may share rewrites; each is applied once.
            rewrites.extend((rule.rewrites)().into_iter().filter(|r| names.insert(r.name.to_string())));
        }
        Ok(Self {
            options,
            rewrites,
            memo: HashMap::new(),
            names: Names::of(graph),
            order: Order::new(graph)?,
            sites: BTreeMap::new(),
            report: Report::default(),
            anchor_names: BTreeMap::new(),
        })
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

    /// Every norm and quantiser of the source graph; what only looks like one gets its site.
    fn recognise(&mut self, graph: &Graph) -> normfuse_ir::Result<Found> {
        let mut norms = Vec::new();
        for anchor in anchor::norms(graph)? {
            self.anchor_names.insert(anchor.node, anchor.name);
            norms.extend(self.norms_at(graph, anchor.node));
        }
        let mut quants = Vec::new();
        let mut misses = Vec::new();
        for anchor in anchor::quantisers(graph)? {
            match quant::find(graph, anchor.node) {
                Ok(q) => quants.push(q),
                Err(miss) => misses.push((anchor.node, miss)),
            }
            self.anchor_names.insert(anchor.node, anchor.name);
        }
        // What casts the scale of a quantiser, or packs its codes, is part of that one.
        let parts = |q: &Quant| q.nodes.iter().copied().filter(|n| *n != q.anchor).collect::<Vec<_>>();
        let parts: BTreeSet<NodeId> = quants.iter().flat_map(parts).collect();
        misses.retain(|(id, _)| !parts.contains(id));
        quants.retain(|q| !parts.contains(&q.anchor));
        for (id, miss) in misses {
            match miss {
                Miss::None => {}
                Miss::Nearest(r) => self.reject(graph, id, Kind::Quant, Outcome::Nearest, &r),
                Miss::Refused(r) => {
                    self.report.summary.quants += 1;
                    self.reject(graph, id, Kind::Quant, Outcome::Rejected, &r);
                }
            }
        }
        self.report.summary.norms = norms.iter().map(|n: &Norm| n.anchor).collect::<BTreeSet<_>>().len();
        self.report.summary.quants += quants.len();
        let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        for (i, q) in quants.iter().enumerate() {
            readers.entry(q.v).or_default().push(i);
        }
        Ok(Found { norms, quants, readers })
    }

    /// The norms of an anchor: several where several weights scale one normalised row.
    fn norms_at(&mut self, graph: &Graph, anchor: NodeId) -> Vec<Norm> {
        let region = region::around_norm(graph, anchor);
        let solution = self.solve(&region);
        let own = solution.norms.iter().filter(|m| norms::is_of(graph, &region, m));
        let own: Vec<Norm> = own.map(|m| Norm::new(&region, m, &solution.fired)).collect();
        if !own.is_empty() && diagnose::centred_row(graph, anchor).is_none() {
            return own;
        }
        let (outcome, refusal) = if self.options.enabled("rms_norm") {
            diagnose::norm(graph, anchor)
        } else {
            (Outcome::Rejected, off("rms_norm", anchor))
        };
        self.reject(graph, anchor, Kind::Norm, outcome, &refusal);
        Vec::new()
    }

    /// Which norms share an op, and what each op takes in.
    fn decide(&mut self, graph: &Graph, found: &Found) -> Vec<Decided> {
        let mut decided = Vec::new();
        for group in siblings::groups(graph, &found.norms) {
            self.decide_group(graph, found, &group, &mut decided);
        }
        // In the order of the source, so that names and reports do not depend on how groups were found.
        decided.sort_by_key(|d| self.order.position(d.candidate.anchors[0].0));
        decided
    }

    fn decide_group(&mut self, graph: &Graph, found: &Found, group: &[usize], decided: &mut Vec<Decided>) {
        // Norms join the first op that can take them.
        let mut ops: Vec<(Vec<usize>, Candidate)> = Vec::new();
        let merge = self.options.enabled("sibling_norms");
        // Several weights on one normalised row are inseparable.
        'rows: for unit in group.chunk_by(|a, b| found.norms[*a].anchor == found.norms[*b].anchor) {
            for (members, candidate) in ops.iter_mut().filter(|_| merge) {
                let with: Vec<usize> = members.iter().chain(unit).copied().collect();
                if let Ok(c) = self.candidate(graph, found, &with) {
                    *members = with;
                    *candidate = c;
                    continue 'rows;
                }
            }
            match self.candidate(graph, found, unit) {
                Ok(c) => ops.push((unit.to_vec(), c)),
                Err((_, refusal)) => {
                    self.reject(graph, found.norms[unit[0]].anchor, Kind::Norm, Outcome::Rejected, &refusal);
                }
            }
        }
        for (norms, candidate) in ops {
            match worth_it(graph, &candidate) {
                Ok(()) => {
                    let operands = candidate.operands.iter().map(|(_, v)| *v).collect();
                    self.order.fuse(&candidate.core, operands);
                    decided.push(Decided { candidate, norms });
                }
                Err(refusal) => {
                    self.reject(graph, candidate.anchors[0].0, Kind::Norm, Outcome::Rejected, &refusal);
                }
            }
        }
    }

    fn candidate(&self, graph: &Graph, found: &Found, norms: &[usize]) -> Result<Candidate, (usize, Refusal)> {
        let members: Vec<&Norm> = norms.iter().map(|n| &found.norms[*n]).collect();
        let results = members.iter().flat_map(|n| &n.results).flat_map(|(_, values)| values);
        let readers: BTreeSet<usize> = results.filter_map(|v| found.readers.get(v)).flatten().copied().collect();
        let quants: Vec<&Quant> = readers.into_iter().map(|i| &found.quants[i]).collect();
        candidate::build(graph, &self.order, &members, &quants, self.options)
    }

    fn apply(&mut self, graph: &mut Graph, found: &Found, decided: Vec<Decided>) {
        let mut moved = BTreeMap::new();
        let mut spoken_of = BTreeSet::new();
        for d in decided {
            match rewrite::apply(graph, &mut self.names, &mut moved, &d.candidate) {
                Ok(applied) => {
                    self.fused(graph, found, &d, &applied);
                    spoken_of.extend(d.candidate.anchors.iter().flat_map(|(_, quants)| quants.iter().copied()));
                }
                Err(refusal) => {
                    for (anchor, _) in &d.candidate.anchors {
                        self.reject(graph, *anchor, Kind::Norm, Outcome::Rejected, &refusal);
                    }
                }
            }
            for (anchor, refusal) in &d.candidate.left_out {
                if spoken_of.insert(*anchor) {
                    self.reject(graph, *anchor, Kind::Quant, Outcome::Rejected, refusal);
                }
            }
        }
        for q in found.quants.iter().filter(|q| !spoken_of.contains(&q.anchor)) {
            let source = graph.try_value(q.v).and_then(|_| graph.producer(q.v)).map(|(n, _)| n);
            let refusal = Refusal {
                rule: rules::quantiser_rule(q),
                precondition: "fed_by_norm",
                node: source.or(Some(q.anchor)),
                hint: format!(
                    "the quantised value comes from {}, not from a fused norm",
                    source.map_or("outside the graph".into(), |n| format!("`{}`", graph.node(n).op.name()))
                ),
            };
            self.reject(graph, q.anchor, Kind::Quant, Outcome::Rejected, &refusal);
        }
    }

    fn fused(&mut self, graph: &mut Graph, found: &Found, d: &Decided, applied: &rewrite::Applied) {
        let descriptor = &d.candidate.descriptor;
        let several = descriptor.siblings.len() > 1;
        let summary = &mut self.report.summary;
        summary.fused.sibling_norm += usize::from(several);
        summary.launches_saved += applied.replaced.len().saturating_sub(1);
        summary.bytes_saved_per_token += applied.bytes_saved;
        let (op, provenance, _) = graph.node_meta_mut(applied.node);
        let op = op.clone();
        let rules: BTreeSet<&String> = d.norms.iter().flat_map(|n| &found.norms[*n].rules).collect();
        provenance.rules = rules.into_iter().cloned().collect();
        let mut seen = BTreeSet::new();
        for (k, (anchor, _)) in d.candidate.anchors.iter().enumerate() {
            // Several weights on one row have one anchor and one site.
            if !seen.insert(*anchor) {
                continue;
            }
            let own = descriptor.siblings.iter().zip(&d.candidate.anchors).filter(|(_, (a, _))| a == anchor);
            let schemes: Vec<&Scheme> = own.flat_map(|(s, _)| &s.epilogues).collect();
            let prologue = k == 0 && descriptor.prologue != Prologue::None;
            let rule = match schemes.first() {
                Some(s) => rules::scheme_rule(s),
                None if several => "sibling_norms",
                None if prologue => "residual_add",
                None => "rms_norm",
            };
            if schemes.is_empty() {
                self.report.summary.fused.norm += 1;
            } else {
                self.report.summary.fused.norm_quant += 1;
            }
            let site = Site {
                anchor: self.anchor_names.get(anchor).cloned().unwrap_or_default(),
                kind: match (several, schemes.is_empty()) {
                    (true, _) => Kind::SiblingNorm,
                    (false, false) => Kind::NormQuant,
                    (false, true) => Kind::Norm,
                },
                outcome: Outcome::Fused,
                rule: rule.into(),
                op: Some(op.clone()),
                replaced: applied.replaced.clone(),
                schemes: schemes.iter().map(ToString::to_string).collect(),
                precondition: None,
                node: None,
                hint: None,
            };
            self.sites.insert((false, self.order.position(*anchor)), site);
        }
    }

    fn reject(&mut self, graph: &Graph, anchor: NodeId, kind: Kind, outcome: Outcome, refusal: &Refusal) {
        let name = |n: NodeId| graph.try_node(n).map(|n| n.name.clone());
        let site = Site {
            anchor: self.anchor_names.get(&anchor).cloned().or_else(|| name(anchor)).unwrap_or_default(),
            kind,
            outcome,
            rule: refusal.rule.into(),
            op: None,
            replaced: Vec::new(),
            schemes: Vec::new(),
            precondition: Some(refusal.precondition.into()),
            node: refusal.node.and_then(name),
            hint: Some(refusal.hint.clone()),
        };
        if self.sites.insert((kind == Kind::Quant, self.order.position(anchor)), site).is_none() {
            self.report.summary.rejected += 1;
        }
    }

    fn finish(mut self, graph: &Graph) -> Report {
        self.report.summary.nodes_after = graph.node_count();
        self.report.sites = self.sites.into_values().collect();
        self.report
    }
}

fn off(rule: &'static str, node: NodeId) -> Refusal {
    Refusal { rule, precondition: "switched_on", node: Some(node), hint: "the rule is switched off".into() }
}

/// A native norm that stands alone is one launch already.
fn worth_it(graph: &Graph, c: &Candidate) -> Result<(), Refusal> {
    if c.replaced.len() > 1 {
        return Ok(());
    }
    let anchor = c.anchors[0].0;
    Err(Refusal {
        rule: "rms_norm",
        precondition: "saves_something",
        node: Some(anchor),
        hint: format!("`{}` is one op already and feeds no quantiser", graph.node(anchor).op.name()),
    })
}
