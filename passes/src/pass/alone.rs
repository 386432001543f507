//! Quantisers that are in no norm's op: each becomes one of its own, with the gated activation before it if there is one, or
//! its site says why not.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Descriptor, Graph, NodeId, Op, ValueId};

use super::{Found, Pass, Patch};
use crate::{
    bodies::Bodies,
    candidate::{self, Candidate, Gone, Refusal, Take},
    cost::Price,
    quant::Quant,
    region::producer_op,
    report::{Behind, Kind, Outcome, Site},
    rewrite::{self, Moved},
    rules::{self, dequantise, gated_act},
    views::is_view,
};

/// What is to become of quantisers that are in no norm's op.
#[derive(Default)]
pub(super) struct Alone {
    /// Ops to make, in the order of the source.
    pub(super) candidates: Vec<Candidate>,
    /// What is told of the others, by anchor.
    refused: BTreeMap<NodeId, Site>,
}

/// What became of one of them.
pub(super) struct Made {
    /// True if a gated activation is in the op.
    gated: bool,
    op: String,
    replaced: Vec<String>,
    rule: &'static str,
    scheme: String,
    arithmetic: String,
    dequantisers: Vec<Behind>,
}

/// Most nodes between a norm and a quantiser of which people say that the one feeds the other.
const BETWEEN: usize = 4;

/// What stands between a quantiser and the norm that it might have joined, if there is one.
pub(super) fn behind(graph: &Graph, q: &Quant, results: &BTreeSet<ValueId>) -> Option<Refusal> {
    let nearest = producer_op(graph, q.v)?.0;
    let mut value = q.v;
    for _ in 0..BETWEEN {
        let (id, op) = producer_op(graph, value)?;
        let moves = match op {
            Op::Pad
            | Op::Concat { .. }
            | Op::Transpose { .. }
            | Op::Slice
            | Op::Split { .. }
            | Op::Gather { .. }
            | Op::Cast { .. }
            | Op::Clip => true,
            Op::Binary(_) => graph.node(id).input(1).is_some_and(|v| graph.value(v).as_const().is_some()),
            Op::Foreign(f) => f.op_type == "Pad",
            _ => is_view(graph, id),
        };
        value = graph.node(id).input(0).filter(|_| moves)?;
        if results.contains(&value) {
            let (between, result) = (graph.node(nearest).op.name(), &graph.value(value).name);
            let hint = format!("`{between}` comes between the norm's result `{result}` and it");
            let rule = rules::quantiser_rule(q);
            return Some(Refusal { rule, precondition: "fed_by_norm", node: Some(nearest), hint });
        }
    }
    None
}

impl Pass<'_> {
    /// Decides about quantisers that are in no norm's op; nodes that are `gone` go with an op that is decided already.
    pub(super) fn decide_alone<'q>(
        &mut self,
        graph: &Graph,
        quants: impl Iterator<Item = &'q Quant>,
        gone: &mut Gone,
        alone: &mut Alone,
    ) {
        let (ones, refused) = candidate::ones(graph, quants);
        alone.refused.extend(refused.iter().map(|(anchor, r)| (*anchor, self.refuse(graph, *anchor, r))));
        for one in &ones {
            let (rule, anchor) = (one.rule(), one.quants[0].anchor);
            let found = match self.options.why_off(rule) {
                Some(_) => Err(self.switched_off(rule, anchor)),
                None => self.widest(graph, one, gone, alone),
            };
            match found.and_then(|c| self.pays(graph, c)) {
                Ok(candidate) => {
                    let operands = candidate.operands.iter().map(|(_, v)| *v).collect();
                    self.order.fuse(&candidate.core, operands);
                    gone.add(&candidate);
                    alone.candidates.push(candidate);
                }
                Err(refusal) => {
                    alone.refused.extend(one.quants.iter().map(|q| (q.anchor, self.refuse(graph, q.anchor, &refusal))));
                }
            }
        }
    }

    /// The candidate of a quantiser with the gated activation before it, or of the quantiser alone: then its sites say why.
    fn widest(
        &self,
        graph: &Graph,
        one: &candidate::One<'_>,
        gone: &Gone,
        alone: &mut Alone,
    ) -> Result<Candidate, Refusal> {
        let (rule, first) = (gated_act::RULE.name, one.quants[0]);
        let read = |bounds| match gated_act::find(graph, first.v, bounds) {
            Ok(None) => None,
            // Another quantiser's op has it, and gives the product.
            Ok(Some(gate)) if gate.nodes.iter().any(|n| gone.has(*n)) => None,
            Ok(Some(_)) if self.options.why_off(rule).is_some() => Some(Err(self.switched_off(rule, first.anchor))),
            Ok(Some(gate)) => Some(self.gated(graph, (one, &gate), gone).and_then(|c| self.pays(graph, c))),
            Err(refusal) => Some(Err(refusal)),
        };
        let gated = match read(true) {
            // Bounds that the host's gates have not, or that others read, may stay ops before one.
            Some(Err(why)) => Some(read(false).and_then(Result::ok).ok_or(why)),
            found => found,
        };
        if let Some(Err(refusal)) = &gated {
            let sites = one.quants.iter().map(|q| (q.anchor, self.refuse(graph, q.anchor, refusal)));
            alone.refused.extend(sites);
        }
        match gated {
            Some(Ok(candidate)) => Ok(candidate),
            _ => candidate::alone(graph, &self.order, (one, None), &Take::default(), gone, self.options),
        }
    }

    /// The candidate of a quantiser with the gated activation before it, and with what makes numbers of the codes where there is
    /// a kernel for that and it pays.
    fn gated(
        &self,
        graph: &Graph,
        (one, gate): (&candidate::One<'_>, &gated_act::Gate),
        gone: &Gone,
    ) -> Result<Candidate, Refusal> {
        let build = |take: &Take| candidate::alone(graph, &self.order, (one, Some(gate)), take, gone, self.options);
        let without = |why| build(&Take { dequantised: false, why, ..Take::default() });
        let cost = self.options.cost.as_ref();
        match build(&Take::default()) {
            Ok(whole) if cost.is_some() && whole.parts.iter().any(|p| !p.dequantisers.is_empty()) => {
                let price = Price::new(graph, whole.replaced.iter().copied().collect(), &self.options.device, cost);
                let cheaper = without(None).ok().filter(|less| price.saving(less) > price.saving(&whole) + 1e-9);
                Ok(cheaper.unwrap_or(whole))
            }
            Err(why) if why.precondition == "supported" && one.quants.iter().any(|q| dequantise::is_read(graph, q)) => {
                without(Some(why))
            }
            other => other,
        }
    }

    fn refuse(&self, graph: &Graph, anchor: NodeId, refusal: &Refusal) -> Site {
        self.refused(graph, anchor, Kind::Quant, Outcome::Rejected, refusal)
    }

    /// The candidate, if it is cheaper than what it replaces.
    fn pays(&self, graph: &Graph, candidate: Candidate) -> Result<Candidate, Refusal> {
        let cost = self.options.cost.as_ref();
        let group = if cost.is_some() { candidate.replaced.iter().copied().collect() } else { BTreeSet::new() };
        let price = Price::new(graph, group, &self.options.device, cost);
        let pays = if cost.is_some() { price.saving(&candidate) > 0.0 } else { price.saves_launches(&candidate) };
        if pays {
            return Ok(candidate);
        }
        let anchor = candidate.parts[0].anchor;
        let hint = if cost.is_some() {
            "by the table of costs a fused op takes longer than what it would replace".to_owned()
        } else {
            format!("`{}` is one op already, and no norm's op takes it in", graph.node(anchor).op.name())
        };
        Err(Refusal { rule: candidate.rule(), precondition: "saves_something", node: Some(anchor), hint })
    }

    /// Makes the ops that are decided.
    pub(super) fn make_alone(
        &mut self,
        graph: &mut Graph,
        (bodies, moved): (&mut Bodies, &mut Moved),
        alone: &mut Alone,
        made: &mut BTreeMap<NodeId, Made>,
    ) {
        for candidate in std::mem::take(&mut alone.candidates) {
            match rewrite::apply(graph, &mut self.names, bodies, moved, &candidate) {
                Ok(applied) => {
                    self.saved(&applied);
                    self.report.matched(candidate.rule());
                    let op = graph.node(applied.node).name.clone();
                    let Some(scheme) = candidate.descriptor.scheme(0, 0) else { continue };
                    let gated = matches!(candidate.descriptor, Descriptor::Norm(_));
                    if gated {
                        self.report.matched(rules::scheme_rule(scheme));
                    }
                    if scheme.dequantised.is_some() {
                        self.report.matched(dequantise::RULE.name);
                    }
                    let mut told = BTreeSet::new();
                    for part in &candidate.parts {
                        let own = applied.replaced.iter().filter(|(id, _)| part.nodes.contains(id) && told.insert(*id));
                        let made_of = Made {
                            gated,
                            op: op.clone(),
                            replaced: own.map(|(_, name)| name.clone()).collect(),
                            rule: candidate.rule(),
                            scheme: scheme.to_string(),
                            arithmetic: scheme.arithmetic(),
                            dequantisers: super::dequantisers(graph, &candidate, part.anchor, &applied),
                        };
                        made.insert(part.anchor, made_of);
                    }
                    self.tell(Patch { candidate, applied });
                }
                Err(refusal) => {
                    let sites = candidate.parts.iter().map(|p| (p.anchor, self.refuse(graph, p.anchor, &refusal)));
                    alone.refused.extend(sites);
                }
            }
        }
    }

    /// Tells of every quantiser that is in no norm's op: of those that a norm could not take in, `left_out` says why.
    pub(super) fn tell_alone(
        &mut self,
        graph: &Graph,
        found: &Found,
        mut made: BTreeMap<NodeId, Made>,
        mut alone: Alone,
        mut left_out: BTreeMap<NodeId, Site>,
    ) {
        for q in &found.quants {
            let refused = left_out.remove(&q.anchor).or_else(|| alone.refused.remove(&q.anchor));
            let site = match (made.remove(&q.anchor), refused) {
                (None, None) => continue,
                (None, Some(refused)) => refused,
                (Some(made), refused) => {
                    let fused = &mut self.report.summary.fused;
                    *(if made.gated { &mut fused.gated_act } else { &mut fused.quant }) +=
                        usize::from(refused.is_none());
                    let fused =
                        || Site { rule: made.rule.into(), ..self.blank(graph, q.anchor, Kind::Quant, Outcome::Fused) };
                    Site {
                        op: Some(made.op),
                        replaced: made.replaced,
                        schemes: vec![made.scheme],
                        arithmetic: vec![made.arithmetic],
                        relaxed: Vec::new(),
                        dequantisers: made.dequantisers,
                        ..refused.unwrap_or_else(fused)
                    }
                }
            };
            self.site(q.anchor, site);
        }
    }
}
