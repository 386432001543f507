//! What an op of some norms takes in, and who reads which port of it.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Granularity, Graph, NodeId, Op, Scheme, ValueId};

use super::{
    Refusal, Take, asks_for_row_sizes,
    member::{Epilogue, Member},
    switched_off,
};
use crate::{Options, norms::Norm, quant::Quant, reach::Order, region::typed, rules, views::is_view};

/// A port while the candidate is being built: of a sibling, and for quantisers of an epilogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Port {
    Sum,
    Normed(usize),
    Q(usize, usize),
    Scale(usize, usize),
    ZeroPoint(usize, usize),
}

pub(super) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) order: &'a Order,
    pub(super) members: Vec<Member<'a>>,
    /// Nodes of all regions and quantisers, producers first.
    pub(super) nodes: Vec<NodeId>,
    inside: BTreeSet<NodeId>,
    /// Nodes of these that depend on an anchor.
    downstream: BTreeSet<NodeId>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, order: &'a Order, norms: &[&'a Norm]) -> Result<Self, Refusal> {
        let mut members = Vec::with_capacity(norms.len());
        for norm in norms {
            members.push(Member::new(graph, order, norm)?);
        }
        Ok(Self { graph, order, members, nodes: Vec::new(), inside: BTreeSet::new(), downstream: BTreeSet::new() })
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
            inside.extend(&m.norm.nodes);
            for q in m.epilogues.iter().flat_map(|e| &e.quants) {
                inside.extend(&q.nodes);
            }
        }
        self.nodes = self.order.sorted(inside.iter().copied());
        let mut downstream: BTreeSet<NodeId> = self.members.iter().map(|m| m.norm.anchor).collect();
        for id in &self.nodes {
            let depends = |v: ValueId| self.graph.producer(v).is_some_and(|(p, _)| downstream.contains(&p));
            if self.graph.node(*id).operands().any(|(_, v)| depends(v)) {
                downstream.insert(*id);
            }
        }
        self.inside = inside;
        self.downstream = downstream;
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
            let on_rows = self.scheme_on_rows(q, k);
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
            match epilogues.iter_mut().find(|e| one_quantiser(&e.scheme, e.quants[0], &scheme, q)) {
                Some(same) => {
                    same.scheme.scale = same.scheme.scale.take().or(scheme.scale);
                    same.quants.push(q);
                }
                None => epilogues.push(Epilogue { scheme, quants: vec![q] }),
            }
        }
        self.members[k].result = result;
        self.members[k].epilogues = epilogues;
    }

    /// A quantiser's scheme in terms of the norm's rows; `None` if its groups do not divide them.
    fn scheme_on_rows(&self, q: &Quant, k: usize) -> Option<Scheme> {
        let mut scheme = q.scheme.clone();
        let width = self.members[k].norm.width;
        let last = |v: ValueId| typed(self.graph, v).and_then(|(_, s)| s.last()?.as_const());
        match (q.width, scheme.granularity) {
            // One a channel of what was quantised, which must be the norm's own row.
            (_, Granularity::Channel) if last(q.q) != Some(width as i64) => return None,
            (None, _) => {}
            // Rows of the same width: a token or the one group of a row, as the quantiser saw it.
            (Some(w), _) if w == width && last(q.v) == Some(width as i64) => {}
            (Some(w), _) if w == width => scheme.granularity = Granularity::Token,
            (Some(w), _) if w > 0 && width.is_multiple_of(w) => scheme.granularity = Granularity::Group(w as u32),
            _ => return None,
        }
        Some(scheme)
    }

    /// Every value that a port stands for.
    pub(super) fn ports(&self) -> BTreeMap<ValueId, Port> {
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
            put(&mut m.norm.results[m.result].1.iter().copied(), Port::Normed(k));
            for (e, epilogue) in m.epilogues.iter().enumerate() {
                let of = |pick: fn(&Quant) -> Option<ValueId>| epilogue.quants.iter().filter_map(move |q| pick(q));
                put(&mut of(|q| Some(q.q)).flat_map(|v| self.with_views(v)), Port::Q(k, e));
                put(&mut of(|q| q.scale).flat_map(|v| self.with_views(v)), Port::Scale(k, e));
                put(&mut of(|q| q.zero_out), Port::ZeroPoint(k, e));
            }
        }
        ports
    }

    /// A value and what views make of it: those are said anew, in terms of the port.
    pub(super) fn with_views(&self, value: ValueId) -> Vec<ValueId> {
        let mut all = vec![value];
        let mut i = 0;
        while i < all.len() && all.len() < 16 {
            for (user, port) in self.graph.users(all[i]) {
                if port == 0 && is_view(self.graph, user) && self.inside.contains(&user) {
                    all.extend(&self.graph.node(user).outputs);
                }
            }
            i += 1;
        }
        all
    }

    /// Nodes inside that somebody still needs when the ports are there, and the ports that somebody reads.
    pub(super) fn liveness(&self, ports: &BTreeMap<ValueId, Port>) -> (BTreeSet<NodeId>, BTreeSet<Port>) {
        let mut live = BTreeSet::new();
        let mut read = BTreeSet::new();
        let answered = |u: NodeId| self.members.iter().any(|m| asks_for_row_sizes(self.graph, u, m.h));
        for id in self.nodes.iter().rev() {
            for v in &self.graph.node(*id).outputs {
                let needed = self.graph.is_output(*v)
                    || self
                        .graph
                        .uses(*v)
                        .any(|(u, _)| (!self.inside.contains(&u) || live.contains(&u)) && !answered(u));
                if !needed {
                    continue;
                }
                match ports.get(v) {
                    Some(port) => {
                        read.insert(*port);
                    }
                    None => {
                        live.insert(*id);
                    }
                }
            }
        }
        (live, read)
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
        let mut core = BTreeSet::new();
        let mut queue: Vec<ValueId> = of.into_iter().collect();
        while let Some(v) = queue.pop() {
            if stops.contains(&v) {
                continue;
            }
            if let Some((id, _)) = self.graph.producer(v)
                && self.inside.contains(&id)
                && core.insert(id)
            {
                queue.extend(self.graph.node(id).operands().map(|(_, v)| v));
            }
        }
        core
    }

    /// A value that the op would hide and that somebody outside reads: its node, the norm it belongs to, and the
    /// quantiser.
    pub(super) fn escape(
        &self,
        ports: &BTreeMap<ValueId, Port>,
        live: &BTreeSet<NodeId>,
    ) -> Option<(NodeId, usize, Option<usize>)> {
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
            let escaping = || {
                let escapes = |n: &NodeId| core.contains(n) && live.contains(n) && self.downstream.contains(n);
                self.nodes.iter().copied().filter(move |n| escapes(n) && !(spare && harmless(n)))
            };
            // The one that is read from outside keeps those before it alive; that is the one to name.
            let direct = |n: &NodeId| {
                self.graph
                    .node(*n)
                    .outputs
                    .iter()
                    .any(|v| self.graph.is_output(*v) || self.graph.uses(*v).any(|(u, _)| !core.contains(&u)))
            };
            escaping().find(direct).or_else(|| escaping().next())
        };
        for (k, m) in self.members.iter().enumerate() {
            let norm = self.core(of(&|p| p == Port::Normed(k)));
            if let Some(n) = hidden(&norm, false) {
                return Some((n, k, None));
            }
            for e in 0..m.epilogues.len() {
                let core = self.core(of(&|p| p == Port::Q(k, e) || p == Port::Scale(k, e)));
                if let Some(n) = hidden(&core, true) {
                    return Some((n, k, Some(e)));
                }
            }
        }
        None
    }

    pub(super) fn outside_reader(&self, node: NodeId, live: &BTreeSet<NodeId>) -> String {
        let out = self.graph.node(node).outputs[0];
        let readers = self.graph.uses(out).map(|(u, _)| u).filter(|u| !self.inside.contains(u) || live.contains(u));
        readers.min_by_key(|u| self.order.position(*u)).map_or_else(
            || "is a graph output".to_owned(),
            |u| format!("is read by `{}` outside", self.graph.node(u).name),
        )
    }
}

/// True if two quantisers of one value are one function of it; a scale that one of them does not hand out does not matter.
fn one_quantiser(a: &Scheme, of_a: &Quant, b: &Scheme, of_b: &Quant) -> bool {
    let scales = a.scale.is_none() || b.scale.is_none() || a.scale == b.scale;
    scales && of_a.given == of_b.given && of_a.zero == of_b.zero && Scheme { scale: b.scale.clone(), ..a.clone() } == *b
}
