//! One run: recognise everything in the source graph, decide what becomes one op, then rewrite.

mod alone;
mod solver;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    slice,
    sync::Arc,
};

use normfuse_ir::{Descriptor, FusedNorm, Graph, NodeId, Op, Scheme, ValueId, fused::Prologue};
use rayon::prelude::*;

use crate::{
    Observer, Options, anchor,
    bodies::Bodies,
    candidate::{self, Candidate, Gone, Refusal},
    diagnose, foreign,
    norms::{self, Norm},
    quant::{self, Miss, Quant},
    reach::Order,
    region::{self, Region},
    report::{self, Kind, Outcome, Report, RuleUse, Site},
    rewrite::{self, Moved},
    rules::{self, Rule, dequantise, pad},
    select::{self, Choice, Unit},
    siblings,
    solve::Solution,
    views::Names,
    weights,
};

use self::{alone::Alone, solver::Solver};

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

/// One fused op: what was to be done, and what was done.
pub(crate) struct Patch {
    pub(crate) candidate: Candidate,
    pub(crate) applied: rewrite::Applied,
}

/// By something large, of which the standard hasher would take as long as all the rest of a site.
pub(crate) type Memo<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Most regions that there are at a time.
const REGIONS: usize = 4096;

/// What `f` says of each, in their order. Few are done faster than another thread wakes up.
fn side_by_side<T: Sync, R: Send>(all: &[T], f: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    const WORTH_A_THREAD: usize = 100;
    if all.len() < WORTH_A_THREAD { all.iter().map(f).collect() } else { all.par_iter().map(f).collect() }
}

/// What a group of norms brings, by position of the norms. Several weights on one normalised row are inseparable.
fn units<'f>(found: &'f Found, group: &[usize]) -> Vec<Unit<'f>> {
    let rows = group.chunk_by(|a, b| found.norms[*a].anchor == found.norms[*b].anchor);
    rows.map(|norms| {
        let members: Vec<&Norm> = norms.iter().map(|n| &found.norms[*n]).collect();
        let results = members.iter().flat_map(|n| &n.results).flat_map(|(_, values)| values);
        let readers: BTreeSet<usize> = results.filter_map(|v| found.readers.get(v)).flatten().copied().collect();
        let quants = readers.into_iter().map(|i| &found.quants[i]).collect();
        Unit { norms: norms.to_vec(), members, quants }
    })
    .collect()
}

/// What became of the nodes behind the results of an op for an anchor that a rule may take in: those of the parts that went
/// with it, and those that stay.
fn behind(
    graph: &Graph,
    (c, applied): (&Candidate, &rewrite::Applied),
    anchor: NodeId,
    (rule, taken): (&Rule, fn(&candidate::Part) -> &[NodeId]),
) -> Vec<report::Behind> {
    let own = |k: usize| c.parts.get(k).is_some_and(|p| p.anchor == anchor);
    let taken = c.parts.iter().filter(|p| p.anchor == anchor).flat_map(taken);
    let name = |id: &NodeId| applied.replaced.iter().find(|(n, _)| n == id).map(|(_, name)| name.clone());
    let taken = taken.filter_map(name).map(|node| report::Behind { node, precondition: None, hint: None });
    let kept = c.kept.iter().filter(|(k, r)| own(*k) && r.rule == rule.name).filter_map(|(_, refusal)| {
        let node = graph.try_node(refusal.node?)?.name.clone();
        let (precondition, hint) = (Some(refusal.precondition.to_owned()), Some(refusal.hint.clone()));
        Some(report::Behind { node, precondition, hint })
    });
    taken.chain(kept).collect()
}

/// What dequantises the codes that an op makes for an anchor.
fn dequantisers(graph: &Graph, c: &Candidate, anchor: NodeId, applied: &rewrite::Applied) -> Vec<report::Behind> {
    behind(graph, (c, applied), anchor, (&dequantise::RULE, |p| &p.dequantisers))
}

pub(crate) struct Pass<'o> {
    options: &'o Options,
    observer: &'o mut dyn Observer,
    solver: Solver,
    /// Every rule, to tell what is recognised by none from what a switch keeps from being; `None` if all are on.
    all_on: Option<Solver>,
    names: Names,
    order: Order,
    /// Sites by kind (norms first) and place in the source.
    sites: BTreeMap<(bool, usize), Site>,
    report: Report,
    /// Who is told of each fused op, once it is made.
    made: &'o mut dyn FnMut(Patch),
    /// Nodes that read other values than before.
    touched: Vec<NodeId>,
    /// Names of anchors, which the rewrite removes.
    anchor_names: BTreeMap<NodeId, String>,
    /// Where in the model's source they are.
    places: BTreeMap<NodeId, String>,
}

impl<'o> Pass<'o> {
    pub(crate) fn new(
        graph: &Graph,
        options: &'o Options,
        observer: &'o mut dyn Observer,
        made: &'o mut dyn FnMut(Patch),
        nodes_before: usize,
    ) -> normfuse_ir::Result<Self> {
        let used = |r: &Rule| {
            let why_off = options.why_off(r.name).map(str::to_owned);
            RuleUse { name: r.name.into(), on: why_off.is_none(), why_off, matched: 0 }
        };
        let mut report = Report { rules: options.rules().map(used).collect(), ..Report::default() };
        report.summary.nodes_before = nodes_before;
        Ok(Self {
            options,
            observer,
            solver: Solver::new(options, |r| options.why_off(r.name).is_none()),
            all_on: (!options.disabled.is_empty()).then(|| Solver::new(options, |_| true)),
            names: Names::of(graph),
            order: Order::new(graph)?,
            sites: BTreeMap::new(),
            report,
            made,
            touched: Vec::new(),
            anchor_names: BTreeMap::new(),
            places: BTreeMap::new(),
        })
    }

    /// Recognises, decides, rewrites.
    pub(crate) fn all(&mut self, graph: &mut Graph) -> normfuse_ir::Result<()> {
        self.report.notes.clone_from(&graph.info.notes);
        let found = self.recognise(graph)?;
        let decided = self.decide(graph, &found);
        let mut gone = Gone::none(graph);
        for d in &decided {
            gone.add(&d.candidate);
        }
        let taken: BTreeSet<NodeId> =
            decided.iter().flat_map(|d| &d.candidate.parts).flat_map(|p| &p.quantisers).copied().collect();
        let mut alone = Alone::default();
        let others = found.quants.iter().filter(|q| !taken.contains(&q.anchor));
        self.decide_alone(graph, others, &mut gone, &mut alone);
        self.apply(graph, &found, decided, alone)
    }

    /// The refusal of something that is recognised only with every rule on: by `rule`, or with the help of another.
    fn switched_off(&self, rule: &'static str, node: NodeId) -> Refusal {
        let off = |name| self.options.why_off(name).map(|why| (name, why));
        let (rule, why) =
            off(rule).or_else(|| rules::ALL.iter().find_map(|r| off(r.name))).unwrap_or((rule, "the caller"));
        Refusal { rule, precondition: "switched_on", node: Some(node), hint: candidate::switched_off(why) }
    }

    /// Every norm and quantiser of the source graph; what only looks like one gets its site.
    fn recognise(&mut self, graph: &Graph) -> normfuse_ir::Result<Found> {
        let mut norms = Vec::new();
        let anchors = anchor::norms(graph, self.order.nodes())?;
        self.observer.anchors(Kind::Norm, anchors.len());
        // Regions are large, and are done with once they are solved.
        for anchors in anchors.chunks(REGIONS) {
            let regions = side_by_side(anchors, |a| region::around_norm(graph, &self.order, a.node));
            for (anchor, region) in anchors.iter().zip(regions) {
                self.observer.trying(&anchor.name);
                self.places.extend(graph.node(anchor.node).provenance.place().map(|p| (anchor.node, p)));
                self.anchor_names.insert(anchor.node, anchor.name.clone());
                norms.extend(self.norms_at(graph, anchor.node, &region));
            }
        }
        self.observer.solved(self.solver.memo.len(), self.anchor_names.len());
        let mut quants = Vec::new();
        let mut misses = Vec::new();
        let anchors = anchor::quantisers(graph, self.order.nodes());
        self.observer.anchors(Kind::Quant, anchors.len());
        let tried = side_by_side(&anchors, |a| quant::find(graph, &self.order, a.node));
        for (anchor, tried) in anchors.into_iter().zip(tried) {
            self.observer.trying(&anchor.name);
            match tried {
                Ok(q) => quants.push(q),
                Err(miss) => misses.push((anchor.node, miss)),
            }
            self.places.extend(graph.node(anchor.node).provenance.place().map(|p| (anchor.node, p)));
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
        for id in self.order.nodes().to_vec() {
            if let Some((kind, refusal)) = foreign::site(graph, id) {
                self.reject(graph, id, kind, Outcome::Nearest, &refusal);
            }
        }
        // Several weights on one normalised row have one anchor: those go by what they make.
        let made = |n: &Norm| {
            let results = n.results.iter().flat_map(|(_, values)| values);
            results.filter_map(|v| graph.producer(*v)).map(|(id, _)| self.order.position(id)).min()
        };
        norms.sort_by_cached_key(|n| (self.order.position(n.anchor), made(n)));
        quants.sort_by_key(|q| self.order.position(q.anchor));
        self.report.summary.norms += norms.iter().map(|n: &Norm| n.anchor).collect::<BTreeSet<_>>().len();
        self.report.summary.quants += quants.len();
        let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        for (i, q) in quants.iter().enumerate() {
            readers.entry(q.v).or_default().push(i);
        }
        Ok(Found { norms, quants, readers })
    }

    /// The norms of an anchor: several where several weights scale one normalised row.
    fn norms_at(&mut self, graph: &Graph, anchor: NodeId, region: &Region) -> Vec<Norm> {
        let order = &self.order;
        let own = |s: &Solution| norms::of(graph, order, region, s);
        let centred = diagnose::centred_row(graph, anchor).is_some();
        let mut found = own(&self.solver.solve(region));
        if !found.is_empty() && !centred {
            if self.options.explain {
                for norm in &mut found {
                    norm.path = self.solver.prove(graph, region, norm);
                }
            }
            return found;
        }
        let known = self.all_on.as_mut().is_some_and(|s| !own(&s.solve(region)).is_empty());
        let (outcome, refusal) = if known && !centred {
            self.report.summary.norms += 1;
            (Outcome::Rejected, self.switched_off("rms_norm", anchor))
        } else {
            diagnose::norm(graph, &self.order, anchor)
        };
        self.reject(graph, anchor, Kind::Norm, outcome, &refusal);
        Vec::new()
    }

    /// Which norms share an op, and what each op takes in.
    fn decide(&mut self, graph: &Graph, found: &Found) -> Vec<Decided> {
        let mut decided = Vec::new();
        let groups = siblings::groups(graph, &self.order, &found.norms);
        let groups: Vec<Vec<Unit<'_>>> = groups.iter().map(|group| units(found, group)).collect();
        let (order, options) = (&self.order, self.options);
        let choices = side_by_side(&groups, |units| select::choose(graph, order, units, options));
        for (units, choices) in groups.iter().zip(choices) {
            self.decide_group(graph, units, choices, &mut decided);
        }
        // In the order of the source, so that names and reports do not depend on how groups were found.
        decided.sort_by_key(|d| self.order.position(d.candidate.parts[0].anchor));
        decided
    }

    /// Takes what was chosen for a group while nothing was decided, or, where decisions since then stand in its way, chooses
    /// again.
    fn decide_group(&mut self, graph: &Graph, units: &[Unit<'_>], choices: Vec<Choice>, decided: &mut Vec<Decided>) {
        let operands = |c: &Candidate| c.operands.iter().map(|(_, v)| *v).collect::<Vec<_>>();
        let stale = |choice: &Choice| match choice {
            Choice::Fuse(c, _) => self.order.depend(graph, &operands(c), &c.core),
            Choice::Leave(..) => false,
        };
        let again = choices.iter().any(stale);
        let choices = if again { select::choose(graph, &self.order, units, self.options) } else { choices };
        let mut choices = VecDeque::from(choices);
        while let Some(choice) = choices.pop_front() {
            match choice {
                Choice::Fuse(candidate, norms) => {
                    let operands = operands(&candidate);
                    // The ops of a group are chosen side by side: one of them may lead from this one back into it.
                    let apart: Vec<_> = units.iter().filter(|u| u.norms.iter().all(|n| norms.contains(n))).collect();
                    if apart.len() > 1 && self.order.depend(graph, &operands, &candidate.core) {
                        for unit in apart.into_iter().rev() {
                            let one = select::choose(graph, &self.order, slice::from_ref(unit), self.options);
                            one.into_iter().rev().for_each(|c| choices.push_front(c));
                        }
                        continue;
                    }
                    self.order.fuse(&candidate.core, operands);
                    decided.push(Decided { candidate, norms });
                }
                Choice::Leave(anchor, refusal) => {
                    self.reject(graph, anchor, Kind::Norm, Outcome::Rejected, &refusal);
                }
            }
        }
    }

    fn apply(
        &mut self,
        graph: &mut Graph,
        found: &Found,
        decided: Vec<Decided>,
        mut alone: Alone,
    ) -> normfuse_ir::Result<()> {
        let candidates = decided.iter().map(|d| &d.candidate).chain(&alone.candidates);
        let operands = candidates.flat_map(|c| &c.operands).map(|(_, v)| *v);
        let mut moved = Moved { now: Memo::default(), operands: operands.collect() };
        // Said while the nodes that they name are there.
        let mut left_out: BTreeMap<NodeId, Site> = BTreeMap::new();
        for (anchor, refusal) in decided.iter().flat_map(|d| &d.candidate.left_out) {
            let site = || self.refused(graph, *anchor, Kind::Quant, Outcome::Rejected, refusal);
            left_out.entry(*anchor).or_insert_with(site);
        }
        let results: BTreeSet<ValueId> =
            found.norms.iter().flat_map(|n| &n.results).flat_map(|(_, v)| v).copied().collect();
        let parts: BTreeSet<NodeId> = alone.candidates.iter().flat_map(|c| &c.parts).map(|part| part.anchor).collect();
        for q in found.quants.iter().filter(|q| parts.contains(&q.anchor)) {
            if let Some(refusal) = alone::behind(graph, q, &results) {
                let site = self.refused(graph, q.anchor, Kind::Quant, Outcome::Rejected, &refusal);
                left_out.entry(q.anchor).or_insert(site);
            }
        }
        let mut freed: BTreeSet<NodeId> = BTreeSet::new();
        let mut bodies = Bodies::default();
        for d in decided {
            let applied = rewrite::apply(graph, &mut self.names, &mut bodies, &mut moved, &d.candidate);
            match &applied {
                Ok(applied) => {
                    self.fused(graph, found, &d, applied);
                    for q in d.candidate.parts.iter().flat_map(|p| &p.quantisers) {
                        left_out.remove(q);
                    }
                }
                Err(refusal) => {
                    for part in &d.candidate.parts {
                        self.reject(graph, part.anchor, Kind::Norm, Outcome::Rejected, refusal);
                        freed.extend(&part.quantisers);
                    }
                }
            }
            if let Ok(applied) = applied {
                self.tell(Patch { candidate: d.candidate, applied });
            }
        }
        // Those of a norm that then was refused are as they were, but for what other ops took in.
        let there = |graph: &Graph, q: &Quant| {
            let values = [Some(q.v), q.given, q.zero, q.scale, q.zero_out].into_iter().flatten();
            values.into_iter().all(|v| graph.try_value(v).is_some())
                && q.nodes.iter().all(|n| graph.try_node(*n).is_some())
        };
        let mut made = BTreeMap::new();
        self.make_alone(graph, (&mut bodies, &mut moved), &mut alone, &mut made);
        if !freed.is_empty() {
            // What is decided so far is done: what depends on what is to be asked of the graph as it is now.
            let there = found.quants.iter().filter(|q| freed.contains(&q.anchor) && there(graph, q));
            let there: Vec<&Quant> = there.collect();
            let source = std::mem::replace(&mut self.order, Order::new(graph)?);
            self.decide_alone(graph, there.into_iter(), &mut Gone::none(graph), &mut alone);
            self.order = source;
            self.make_alone(graph, (&mut bodies, &mut moved), &mut alone, &mut made);
        }
        self.tell_alone(graph, found, made, alone, left_out);
        // What was kept for a patch that then was refused.
        let there = moved.now.values().filter(|v| graph.try_value(**v).is_some());
        let views = there.filter_map(|v| graph.producer(*v)).map(|(n, _)| n);
        let views: BTreeSet<NodeId> = views.filter(|n| matches!(graph.node(*n).op, Op::Reshape { .. })).collect();
        graph.remove_dead(views);
        Ok(())
    }

    /// Counts what an op saves.
    fn saved(&mut self, applied: &rewrite::Applied) {
        let summary = &mut self.report.summary;
        summary.launches_saved += applied.replaced.len().saturating_sub(1);
        summary.bytes_saved_per_token += applied.bytes_saved;
    }

    fn fused(&mut self, graph: &mut Graph, found: &Found, d: &Decided, applied: &rewrite::Applied) {
        let Descriptor::Norm(descriptor) = &d.candidate.descriptor else { return };
        let descriptor: &FusedNorm = descriptor;
        let several = descriptor.siblings.len() > 1;
        self.report.summary.fused.sibling_norm += usize::from(several);
        let taken: BTreeSet<&NodeId> = d.candidate.parts.iter().flat_map(|p| &p.quantisers).collect();
        let schemes = descriptor.siblings.iter().map(|s| s.epilogues.len()).sum();
        self.report.summary.merged_quants += taken.len().saturating_sub(schemes);
        self.saved(applied);
        if matches!(descriptor.prologue, Prologue::ResidualAdd(_)) {
            self.report.matched("residual_add");
        }
        if several {
            self.report.matched("sibling_norm");
        }
        if descriptor.siblings.iter().flat_map(|s| &s.epilogues).any(|s| s.dequantised.is_some()) {
            self.report.matched(dequantise::RULE.name);
        }
        if descriptor.siblings.iter().any(|s| s.padded.is_some()) {
            self.report.matched(pad::RULE.name);
        }
        let (op, provenance, _) = graph.node_meta_mut(applied.node);
        let op = op.clone();
        let rules: BTreeSet<&String> = d.norms.iter().flat_map(|n| &found.norms[*n].rules).collect();
        Arc::make_mut(provenance).rules = rules.into_iter().cloned().collect();
        let mut seen = BTreeSet::new();
        let mut told: BTreeSet<NodeId> = BTreeSet::new();
        for (k, part) in d.candidate.parts.iter().enumerate() {
            // Several weights on one row have one anchor and one site.
            if !seen.insert(part.anchor) {
                continue;
            }
            let of_anchor = |p: &candidate::Part| p.anchor == part.anchor;
            let own = descriptor.siblings.iter().zip(&d.candidate.parts).filter(|(_, p)| of_anchor(p));
            let schemes: Vec<&Scheme> = own.flat_map(|(s, _)| &s.epilogues).collect();
            let prologue = k == 0 && matches!(descriptor.prologue, Prologue::ResidualAdd(_));
            let rule = match schemes.first() {
                Some(s) => rules::scheme_rule(s),
                None if several => "sibling_norm",
                None if descriptor.siblings[k].padded.is_some() => pad::RULE.name,
                None if prologue => "residual_add",
                None => "rms_norm",
            };
            self.report.matched("rms_norm");
            for rule in schemes.iter().map(|s| rules::scheme_rule(s)).collect::<BTreeSet<_>>() {
                self.report.matched(rule);
            }
            if schemes.is_empty() {
                self.report.summary.fused.norm += 1;
            } else {
                self.report.summary.fused.norm_quant += 1;
            }
            // A node that two norms of the op share is told of once.
            let nodes: BTreeSet<NodeId> =
                d.candidate.parts.iter().filter(|p| of_anchor(p)).flat_map(|p| &p.nodes).copied().collect();
            let replaced = applied.replaced.iter().filter(|(id, _)| nodes.contains(id) && told.insert(*id));
            let siblings = d.candidate.parts.iter().enumerate().filter(|(_, p)| of_anchor(p)).map(|(k, _)| k);
            let (weights, bound) =
                weights::of(graph, applied.node, &descriptor.in_ports(), &siblings.collect::<Vec<_>>());
            let of_part = || d.norms.iter().map(|n| &found.norms[*n]).filter(|n| n.anchor == part.anchor);
            let kind = if schemes.is_empty() { Kind::Norm } else { Kind::NormQuant };
            let site = Site {
                rule: rule.into(),
                op: Some(op.clone()),
                siblings: descriptor.siblings.len(),
                replaced: replaced.map(|(_, name)| name.clone()).collect(),
                weights,
                bound,
                schemes: schemes.iter().map(ToString::to_string).collect(),
                arithmetic: schemes.iter().map(|s| s.arithmetic()).collect(),
                relaxed: Vec::new(),
                dequantisers: dequantisers(graph, &d.candidate, part.anchor, applied),
                pads: behind(graph, (&d.candidate, applied), part.anchor, (&pad::RULE, |p| &p.pads)),
                rewrites: of_part().flat_map(|n| &n.rules).cloned().collect(),
                path: of_part().flat_map(|n| &n.path).cloned().collect(),
                ..self.blank(graph, part.anchor, kind, Outcome::Fused)
            };
            self.site(part.anchor, site);
        }
    }

    fn reject(&mut self, graph: &Graph, anchor: NodeId, kind: Kind, outcome: Outcome, refusal: &Refusal) {
        let site = self.refused(graph, anchor, kind, outcome, refusal);
        self.site(anchor, site);
    }

    /// The site of what did not fuse.
    fn refused(&self, graph: &Graph, anchor: NodeId, kind: Kind, outcome: Outcome, refusal: &Refusal) -> Site {
        Site {
            rule: refusal.rule.into(),
            precondition: Some(refusal.precondition.into()),
            node: refusal.node.and_then(|n| graph.try_node(n)).map(|n| n.name.clone()),
            hint: Some(refusal.hint.clone()),
            ..self.blank(graph, anchor, kind, outcome)
        }
    }

    /// A site of which nothing is told yet but what it is.
    fn blank(&self, graph: &Graph, anchor: NodeId, kind: Kind, outcome: Outcome) -> Site {
        let name = || graph.try_node(anchor).map(|n| n.name.clone());
        Site {
            anchor: self.anchor_names.get(&anchor).cloned().or_else(name).unwrap_or_default(),
            place: None,
            kind,
            outcome,
            rule: String::new(),
            op: None,
            siblings: 0,
            replaced: Vec::new(),
            weights: Vec::new(),
            bound: 0,
            schemes: Vec::new(),
            arithmetic: Vec::new(),
            relaxed: Vec::new(),
            dequantisers: Vec::new(),
            pads: Vec::new(),
            rewrites: Vec::new(),
            path: Vec::new(),
            precondition: None,
            node: None,
            hint: None,
        }
    }

    fn site(&mut self, anchor: NodeId, mut site: Site) {
        site.place = self.places.get(&anchor).cloned();
        let rejected = site.outcome != Outcome::Fused;
        let key = (site.kind == Kind::Quant, self.order.position(anchor));
        self.observer.decided(&site);
        if self.sites.insert(key, site).is_none() && rejected {
            self.report.summary.rejected += 1;
        }
    }

    fn tell(&mut self, patch: Patch) {
        self.touched.extend(patch.applied.shape_readers.iter().map(|(node, ..)| *node));
        (self.made)(patch);
    }

    /// Nodes that read other values than before.
    pub(crate) fn touched(&self) -> &[NodeId] {
        &self.touched
    }

    pub(crate) fn finish(mut self, graph: &Graph) -> Report {
        self.report.summary.nodes_after = graph.node_count();
        self.report.sites = self.sites.into_values().collect();
        self.report
    }
}

#[cfg(test)]
mod tests;
