//! What an op of some norms takes in, and who reads which port of it.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Granularity, Graph, NodeId, Op, Scheme, ValueId};

use super::{
    Refusal, Take, asks_for_row_sizes,
    inside::{Inside, Ports},
    member::{Epilogue, Member},
    switched_off, value_name,
};
use crate::{
    Options, consts,
    norms::Norm,
    quant::{Quant, seen_as_group},
    reach::Order,
    region::typed,
    rules::{
        self,
        dequantise::{self, Dequantiser},
        pad::{self, Pad},
    },
    views::is_view,
};

/// A port while the candidate is being built: of a sibling, and for quantisers of an epilogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    Sum,
    Normed(usize),
    Q(usize, usize),
    Scale(usize, usize),
    ZeroPoint(usize, usize),
    Dequantised(usize, usize),
}

impl Port {
    fn epilogue(self) -> Option<(usize, usize)> {
        match self {
            Self::Sum | Self::Normed(_) => None,
            Self::Q(k, e) | Self::Scale(k, e) | Self::ZeroPoint(k, e) | Self::Dequantised(k, e) => Some((k, e)),
        }
    }
}

pub(super) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) order: &'a Order,
    pub(super) members: Vec<Member<'a>>,
    /// Nodes of all regions and quantisers.
    pub(super) inside: Inside<'a>,
    /// Nodes of these that depend on an anchor.
    downstream: BTreeSet<NodeId>,
    /// Dequantisers of codes and pads that stay ops, by member, and why.
    pub(super) kept: Vec<(usize, Refusal)>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, order: &'a Order, norms: &[&'a Norm]) -> Result<Self, Refusal> {
        let mut members = Vec::with_capacity(norms.len());
        for norm in norms {
            members.push(Member::new(graph, order, norm)?);
        }
        let inside = Inside::new(graph, order, BTreeSet::new());
        Ok(Self { graph, members, inside, order, downstream: BTreeSet::new(), kept: Vec::new() })
    }

    /// True if all read the same rows.
    pub(super) fn shared(&self) -> bool {
        let first = &self.members[0];
        let sum = |m: &Member| m.norm.h.is_empty().then_some(m.add);
        self.members.iter().all(|m| m.h == first.h && sum(m) == sum(first))
    }

    /// In which form the sum is handed out: as the norms read it, or cast, where only the cast is read.
    pub(super) fn choose_sum(&mut self) {
        if self.members[0].add.is_none() {
            return;
        }
        let sums = &self.members[0].norm.sums;
        let narrower = |f: &usize| sums[*f].0.bits() < sums[0].0.bits();
        let forms: Vec<usize> = (1..sums.len()).filter(narrower).collect();
        for form in forms {
            self.set_sum(form);
            let (live, read) = self.liveness(&self.ports());
            let needed = |v: &ValueId| self.graph.producer(*v).is_some_and(|(n, _)| live.contains(&n));
            if read.contains(&Port::Sum) && !sums[0].1.iter().any(needed) {
                return;
            }
        }
        self.set_sum(0);
    }

    fn set_sum(&mut self, form: usize) {
        self.members.iter_mut().for_each(|m| m.sum = form);
    }

    /// The nodes that the op may replace.
    pub(super) fn collect(&mut self) {
        let mut inside: BTreeSet<NodeId> = BTreeSet::new();
        for m in &self.members {
            inside.extend(m.nodes());
        }
        self.inside = Inside::new(self.graph, self.order, inside);
        let anchors = self.members.iter().map(|m| m.norm.anchor).collect();
        self.downstream = self.inside.downstream(&BTreeSet::new(), anchors);
    }

    /// Which result is the normed value, and which quantisers read that one.
    pub(super) fn choose_result(
        &mut self,
        k: usize,
        quants: &[&'a Quant],
        take: &Take,
        left_out: &mut Vec<(NodeId, Refusal)>,
        options: &Options,
    ) {
        let norm = self.members[k].norm;
        let reads = |q: &Quant, r: usize| norm.results[r].1.contains(&q.v);
        let count = norm.results.len();
        let quantised = (0..count).find(|r| quants.iter().any(|q| reads(q, *r)));
        // Without a quantiser: a narrower cast, if it is all that is read of the product.
        let product = &norm.results[0].1;
        let narrowed = (1..count).find(|r| {
            let cast = &norm.results[*r].1;
            let only = product.iter().flat_map(|v| self.graph.uses(*v)).all(|(n, _)| {
                let out = self.graph.node(n).outputs[0];
                cast.contains(&out) || product.contains(&out)
            });
            norm.results[*r].0.bits() < norm.results[0].0.bits()
                && only
                && !product.iter().any(|v| self.graph.is_output(*v))
        });
        let result = quantised.or(narrowed).unwrap_or(0);
        let mut epilogues: Vec<Epilogue<'a>> = Vec::new();
        for q in quants.iter().filter(|q| (0..count).any(|r| reads(q, r))) {
            let on_rows = scheme_on_rows(self.graph, q, Some(norm.width));
            let rule = rules::scheme_rule(on_rows.as_ref().unwrap_or(&q.scheme));
            let refuse =
                |precondition, hint: &str| Refusal { rule, precondition, node: Some(q.anchor), hint: hint.to_owned() };
            if !reads(q, result) {
                let hint = "another quantiser reads the normed value in another dtype";
                left_out.push((q.anchor, refuse("fed_by_norm", hint)));
                continue;
            }
            if let Some(why) = options.why_off(rule) {
                left_out.push((q.anchor, refuse("switched_on", &switched_off(why))));
                continue;
            }
            if take.without.contains(&q.anchor) {
                let refusal = match &take.why {
                    Some(why) => Refusal { rule, ..why.clone() },
                    None => refuse("cheaper", "by the table of costs it is cheaper outside"),
                };
                left_out.push((q.anchor, refusal));
                continue;
            }
            let Some(scheme) = on_rows else {
                left_out.push((q.anchor, refuse("groups", "the groups do not divide the norm's row")));
                continue;
            };
            match epilogues.iter_mut().find(|e| one_quantiser(self.graph, (&e.scheme, e.quants[0]), (&scheme, q))) {
                Some(same) => {
                    same.scheme.scale = same.scheme.scale.take().or(scheme.scale);
                    same.quants.push(q);
                }
                None => epilogues.push(Epilogue { scheme, quants: vec![q], dequantisers: Vec::new() }),
            }
        }
        self.members[k].result = result;
        self.members[k].epilogues = epilogues;
    }

    /// Which dequantisers of the codes of a norm's quantisers go into the op.
    pub(super) fn choose_dequantisers(&mut self, k: usize, take: &Take, options: &Options) {
        let width = self.members[k].norm.width;
        for epilogue in &mut self.members[k].epilogues {
            let source = (self.graph, self.order);
            let (taken, kept) = dequantisers(source, &epilogue.quants, (&epilogue.scheme, width), take, options);
            epilogue.dequantisers = taken;
            self.kept.extend(kept.into_iter().map(|r| (k, r)));
        }
    }

    /// Which pads of a norm's result go into the op: all that read it, or none.
    pub(super) fn choose_pads(&mut self, k: usize, take: &Take, options: &Options) {
        let m = &self.members[k];
        let (norm, own) = (m.norm, m.result);
        let add = m.add.into_iter().flat_map(|(a, b)| [a, b]);
        let operands = m.weight.into_iter().chain(add).chain(m.add.is_none().then_some(m.h)).collect();
        let others = (0..norm.results.len()).filter(|r| *r != own);
        for result in std::iter::once(own).chain(others) {
            let (pads, refused) = pad::find((self.graph, self.order), norm, result, &operands);
            self.kept.extend(refused.into_iter().map(|r| (k, r)));
            let nodes: Vec<NodeId> = pads.iter().map(|p| p.node).collect();
            if let Err((precondition, hint)) = self.pad(k, result, pads, take, options) {
                let refusal = |n| Refusal { rule: pad::RULE.name, precondition, node: Some(n), hint: hint.clone() };
                self.kept.extend(nodes.into_iter().map(|n| (k, refusal(n))));
            }
        }
    }

    /// Takes in pads of a result, or says which precondition fails.
    fn pad(
        &mut self,
        k: usize,
        result: usize,
        pads: Vec<Pad>,
        take: &Take,
        options: &Options,
    ) -> Result<(), (&'static str, String)> {
        let Some(first) = pads.first() else { return Ok(()) };
        match (options.why_off(pad::RULE.name), take.padded, &take.why) {
            (None, true, _) => {}
            (Some(why), ..) => return Err(("switched_on", switched_off(why))),
            (None, false, Some(why)) => return Err((why.precondition, why.hint.clone())),
            (None, false, None) => return Err(("cheaper", "by the table of costs it is cheaper outside".into())),
        }
        if let Some(other) = pads.iter().find(|p| p.width != first.width) {
            return Err(("one_amount", format!("rows of {} and of {} are made", first.width, other.width)));
        }
        if !self.members[k].pads.is_empty() {
            return Err(("one_amount", "the result is padded in another dtype, too".into()));
        }
        if !self.members[k].epilogues.is_empty() {
            return Err(("unquantised", "a quantiser reads the row without them".into()));
        }
        let before = std::mem::replace(&mut self.members[k].result, result);
        self.members[k].pads = pads;
        self.collect();
        let ports = self.ports();
        let (live, _) = self.liveness(&ports);
        let Some((node, _)) = self.escape_of(k, &ports, &live) else { return Ok(()) };
        let name = value_name(self.graph, self.graph.node(node).outputs[0]);
        let hint = format!("`{name}` {}", self.inside.outside_reader(node, &live));
        self.members[k].result = before;
        self.members[k].pads.clear();
        self.collect();
        Err(("padded_only", hint))
    }

    /// Every value that a port stands for.
    pub(super) fn ports(&self) -> Ports {
        let mut ports = BTreeMap::new();
        let mut put = |values: &mut dyn Iterator<Item = ValueId>, port| {
            for v in values {
                ports.entry(v).or_insert(port);
            }
        };
        for (k, m) in self.members.iter().enumerate() {
            if m.add.is_some() {
                put(&mut m.norm.sums[m.sum].1.iter().copied(), Port::Sum);
            }
            if m.pads.is_empty() {
                put(&mut m.norm.results[m.result].1.iter().copied(), Port::Normed(k));
            }
            put(&mut m.pads.iter().flat_map(|p| self.inside.with_views(p.value)), Port::Normed(k));
            for (e, epilogue) in m.epilogues.iter().enumerate() {
                let of = |pick: fn(&Quant) -> Option<ValueId>| epilogue.quants.iter().filter_map(move |q| pick(q));
                put(&mut of(|q| Some(q.q)).flat_map(|v| self.inside.with_views(v)), Port::Q(k, e));
                put(&mut of(|q| q.scale).flat_map(|v| self.inside.with_views(v)), Port::Scale(k, e));
                put(&mut of(|q| q.zero_out), Port::ZeroPoint(k, e));
                let numbers = epilogue.dequantisers.iter().map(|d| d.value);
                put(&mut numbers.flat_map(|v| self.inside.with_views(v)), Port::Dequantised(k, e));
            }
        }
        ports
    }

    /// Nodes inside that somebody still needs when the ports are there, and the ports that somebody reads.
    pub(super) fn liveness(&self, ports: &Ports) -> (BTreeSet<NodeId>, BTreeSet<Port>) {
        self.inside.liveness(ports, |_| false, |u| self.members.iter().any(|m| asks_for_row_sizes(self.graph, u, m.h)))
    }

    /// Nodes between the operands and some values.
    pub(super) fn core(&self, of: impl IntoIterator<Item = ValueId>) -> BTreeSet<NodeId> {
        let mut stops: BTreeSet<ValueId> = BTreeSet::new();
        for m in &self.members {
            stops.extend(m.weight);
            match m.add {
                Some((a, b)) => stops.extend([a, b]),
                None => {
                    stops.insert(m.h);
                }
            }
            let quants = m.epilogues.iter().flat_map(|e| &e.quants);
            stops.extend(quants.flat_map(|q| [q.given, q.zero]).flatten());
        }
        self.inside.core(&stops, of)
    }

    /// A value that the op would hide and that somebody outside reads: its node, the norm it belongs to, and the
    /// quantiser.
    pub(super) fn escape(&self, ports: &Ports, live: &BTreeSet<NodeId>) -> Option<(NodeId, usize, Option<usize>)> {
        (0..self.members.len()).find_map(|k| self.escape_of(k, ports, live).map(|(n, e)| (n, k, e)))
    }

    /// [`Self::escape`] of one norm.
    fn escape_of(&self, k: usize, ports: &Ports, live: &BTreeSet<NodeId>) -> Option<(NodeId, Option<usize>)> {
        let of = |want: &dyn Fn(Port) -> bool| -> Vec<ValueId> {
            ports.iter().filter(|(_, p)| want(**p)).map(|(v, _)| *v).collect()
        };
        // Who reads the normed value through a view or an exact cast reads the op's own result.
        let harmless = |n: &NodeId| {
            let node = self.graph.node(*n);
            let moves = is_view(self.graph, *n) || matches!(node.op, Op::Cast { .. });
            moves && node.input(0).is_some_and(|v| matches!(ports.get(&v), Some(Port::Normed(_) | Port::Sum)))
        };
        let hidden = |core: &BTreeSet<NodeId>, spare: bool| {
            self.inside.hidden(core, |n| live.contains(&n) && self.downstream.contains(&n) && !(spare && harmless(&n)))
        };
        let norm = self.core(of(&|p| p == Port::Normed(k)));
        if let Some(n) = hidden(&norm, false) {
            return Some((n, None));
        }
        (0..self.members[k].epilogues.len()).find_map(|e| {
            let own =
                |p| matches!(p, Port::Q(..) | Port::Scale(..) | Port::Dequantised(..)) && p.epilogue() == Some((k, e));
            hidden(&self.core(of(&own)), true).map(|n| (n, Some(e)))
        })
    }
}

/// The dequantisers of the codes of quantisers that are one, on rows of a width: those that an op of them takes in, and those
/// that stay, each with the reason.
pub(super) fn dequantisers(
    (graph, order): (&Graph, &Order),
    quants: &[&Quant],
    of: (&Scheme, u64),
    take: &Take,
    options: &Options,
) -> (Vec<Dequantiser>, Vec<Refusal>) {
    let (found, mut kept) = dequantise::find((graph, order), quants, of, options.whole_products);
    let rule = dequantise::RULE.name;
    let (precondition, hint) = match (options.why_off(rule), take.dequantised, &take.why) {
        (None, true, _) => return (found, kept),
        (Some(why), ..) => ("switched_on", switched_off(why)),
        (None, false, Some(why)) => (why.precondition, why.hint.clone()),
        (None, false, None) => ("cheaper", "by the table of costs it is cheaper outside".to_owned()),
    };
    kept.extend(found.iter().map(|d| Refusal { rule, precondition, node: Some(d.node), hint: hint.clone() }));
    (Vec::new(), kept)
}

/// A quantiser's scheme in terms of rows of a width; `None` if its groups do not divide them. Rows of no fixed width have
/// no groups.
pub(super) fn scheme_on_rows(graph: &Graph, q: &Quant, width: Option<u64>) -> Option<Scheme> {
    let mut scheme = q.scheme.clone();
    let last = |v: ValueId| typed(graph, v).and_then(|(_, s)| u64::try_from(s.last()?.as_const()?).ok());
    match (q.width, scheme.granularity) {
        // One a channel of what was quantised, which must be the row itself.
        (_, Granularity::Channel) if width.is_none() || last(q.q) != width => return None,
        (None, _) => {}
        (Some(w), _) => {
            let width = width?;
            match w {
                // Rows of the same width: a token or the one group of a row, as the quantiser saw it.
                w if w == width && last(q.v) == Some(width) => {}
                w if w == width && seen_as_group(graph, q, w) => scheme.granularity = Granularity::Group(w as u32),
                w if w == width => scheme.granularity = Granularity::Token,
                w if w > 0 && width.is_multiple_of(w) => scheme.granularity = Granularity::Group(w as u32),
                _ => return None,
            }
        }
    }
    Some(scheme)
}

/// True if two quantisers of one value are one function of it; a scale that one of them does not hand out does not matter,
/// and given scales and zero points may be several constants with the same bytes.
pub(super) fn one_quantiser(graph: &Graph, (a, of_a): (&Scheme, &Quant), (b, of_b): (&Scheme, &Quant)) -> bool {
    let scales = a.scale.is_none() || b.scale.is_none() || a.scale == b.scale;
    let given = |a: Option<ValueId>, b: Option<ValueId>| match (a, b) {
        (Some(a), Some(b)) => consts::same(graph, a, b),
        (a, b) => a == b,
    };
    scales
        && Scheme { scale: b.scale.clone(), ..a.clone() } == *b
        && given(of_a.given, of_b.given)
        && given(of_a.zero, of_b.zero)
}
