//! From recognised norms and quantisers to one fused op of the graph: which value stands for which operand and port,
//! which nodes it replaces, and the first precondition that stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    Dim, FusedNorm, Granularity, Graph, NodeId, Op, Scheme, Shape, ValueId,
    fused::{InPort, OutPort, Prologue, ResidualAdd, Sibling, Source, Weight},
    op::BinaryOp,
    scheme::F32,
};

use crate::{
    Options, diagnose,
    norms::Norm,
    quant::{Quant, Use},
    reach::Order,
    region::{is_view, typed},
    rules,
};

/// A precondition that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that it belongs to.
    pub rule: &'static str,
    /// Its name, as in the rule's list.
    pub precondition: &'static str,
    /// The node at which it failed.
    pub node: Option<NodeId>,
    /// What was found, or what would help.
    pub hint: String,
}

/// A fused op, ready to be put into the graph.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The descriptor, with exactly the ports that somebody reads.
    pub descriptor: FusedNorm,
    /// Operands in port order.
    pub operands: Vec<(InPort, ValueId)>,
    /// Where the source reads scales and zero points that are operands; a constant elsewhere is a number that the
    /// descriptor has.
    pub given_at: BTreeSet<Use>,
    /// Ports in order: every value of the graph that each stands for, and the port's shape.
    pub ports: Vec<(OutPort, Vec<ValueId>, Shape)>,
    /// Source nodes that nobody needs afterwards, producers first.
    pub replaced: Vec<NodeId>,
    /// The nodes between the rows and the ports: what the op makes. Constants and what is made of parameters alone belong to
    /// whoever reads them.
    pub core: BTreeSet<NodeId>,
    /// The norms that the op takes in.
    pub parts: Vec<Part>,
    /// Quantisers of the norms that stay outside, and why.
    pub left_out: Vec<(NodeId, Refusal)>,
}

/// What one norm brings into an op.
#[derive(Debug, Clone)]
pub struct Part {
    /// The norm's anchor.
    pub anchor: NodeId,
    /// Anchors of its quantisers.
    pub quantisers: Vec<NodeId>,
    /// Its nodes and those of its quantisers.
    pub nodes: BTreeSet<NodeId>,
}

impl Candidate {
    /// The shape in which the op wants an operand, where that may differ from the value's: a vector for a weight,
    /// whatever axes of size 1 the graph's has around it.
    pub fn operand_shape(&self, port: InPort) -> Option<Shape> {
        let vector = |width: u64| Some(Shape(vec![Dim::from(width as i64)]));
        match port {
            InPort::Weight(k) => vector(self.descriptor.siblings[k].width),
            InPort::Scale(k, e) | InPort::ZeroPoint(k, e) => {
                let s = &self.descriptor.siblings[k];
                (s.epilogues[e].granularity == Granularity::Channel).then(|| vector(s.width)).flatten()
            }
            _ => None,
        }
    }

    /// The rows of a sibling.
    pub fn rows(&self, k: usize) -> Option<ValueId> {
        self.operands.iter().find(|(p, _)| matches!(p, InPort::X) || *p == InPort::Rows(k)).map(|(_, v)| *v)
    }
}

/// A port while the candidate is being built: of a sibling, and for quantisers of an epilogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Sum,
    Normed(usize),
    Q(usize, usize),
    Scale(usize, usize),
    ZeroPoint(usize, usize),
}

/// Quantisers that are one: equal schemes of one value, repeated for each consumer.
struct Epilogue<'a> {
    scheme: Scheme,
    quants: Vec<&'a Quant>,
}

/// One norm on its way into an op.
struct Member<'a> {
    norm: &'a Norm,
    /// The rows; of a sum that is no value, its first operand.
    h: ValueId,
    add: Option<(ValueId, ValueId)>,
    weight: Option<ValueId>,
    /// Which result is the normed value.
    result: usize,
    /// Which form of the sum is handed out.
    sum: usize,
    epilogues: Vec<Epilogue<'a>>,
}

struct Builder<'a> {
    graph: &'a Graph,
    order: &'a Order,
    members: Vec<Member<'a>>,
    /// Nodes of all regions and quantisers, producers first.
    nodes: Vec<NodeId>,
    inside: BTreeSet<NodeId>,
    /// Nodes of these that depend on an anchor.
    downstream: BTreeSet<NodeId>,
}

/// What an op takes in; everything that it can, by default.
#[derive(Debug, Clone)]
pub struct Take {
    /// Anchors of quantisers that stay outside.
    pub without: BTreeSet<NodeId>,
    /// The add before the norm.
    pub residual: bool,
    /// Why less than everything.
    pub why: Option<Refusal>,
}

impl Default for Take {
    fn default() -> Self {
        Self { without: BTreeSet::new(), residual: true, why: None }
    }
}

/// Builds the candidate of norms that share one op; `quants` are those that read one of their results.
///
/// # Errors
/// The first precondition that fails.
pub fn build(
    graph: &Graph,
    order: &Order,
    norms: &[&Norm],
    quants: &[&Quant],
    take: &Take,
    options: &Options,
) -> Result<Candidate, Refusal> {
    let mut b = Builder::new(graph, order, norms)?;
    if !take.residual {
        if let Some(m) = b.members.iter().find(|m| m.norm.h.is_empty()) {
            let hint = "its own node makes the sum that it normalises".into();
            let node = Some(m.norm.anchor);
            return Err(Refusal { rule: "residual_add", precondition: "supported", node, hint });
        }
        b.members.iter_mut().for_each(|m| m.add = None);
    }
    // Siblings with rows of their own read them as they are: an add before one of them stays an op.
    if !b.shared() {
        if let Some(k) = b.members.iter().position(|m| m.norm.h.is_empty()) {
            let hint = "its rows are a sum that its own node makes, and no other norm reads those".into();
            let node = Some(b.members[k].norm.anchor);
            return Err(Refusal { rule: "sibling_norm", precondition: "same_tokens", node, hint });
        }
        b.members.iter_mut().for_each(|m| m.add = None);
    }
    let mut left_out = Vec::new();
    for k in 0..b.members.len() {
        b.choose_result(k, quants, take, &mut left_out, options);
    }
    b.collect();
    b.choose_sum();
    loop {
        let ports = b.ports();
        let (live, _) = b.liveness(&ports);
        let Some((node, k, quant)) = b.escape(&ports, &live) else { break };
        let hint = format!("`{}` {}", value_name(graph, graph.node(node).outputs[0]), b.outside_reader(node, &live));
        let refusal = |rule| Refusal { rule, precondition: "no_escape", node: Some(node), hint: hint.clone() };
        match quant {
            Some(e) => {
                let gone = b.members[k].epilogues.remove(e);
                for q in gone.quants {
                    left_out.push((q.anchor, refusal(rules::scheme_rule(&gone.scheme))));
                }
                b.collect();
            }
            None => return Err(refusal("rms_norm")),
        }
    }
    let (_, read) = b.liveness(&b.ports());
    if read.iter().all(|p| *p == Port::Sum) {
        let hint = "nobody reads the norm's result, at most its shape".into();
        let node = Some(norms[0].anchor);
        return Err(Refusal { rule: "rms_norm", precondition: "saves_something", node, hint });
    }
    let mut candidate = b.finish();
    // A given scale that is made of what the norm gives is none: that quantiser stays outside.
    while let Some((k, e, v)) = candidate.operands.iter().find_map(|(port, v)| match *port {
        InPort::Scale(k, e) | InPort::ZeroPoint(k, e) if order.depend(graph, &[*v], &candidate.core) => {
            Some((k, e, *v))
        }
        _ => None,
    }) {
        let gone = b.members[k].epilogues.remove(e);
        for q in gone.quants {
            left_out.push((
                q.anchor,
                Refusal {
                    rule: rules::scheme_rule(&gone.scheme),
                    precondition: "independent",
                    node: graph.producer(v).map(|(n, _)| n),
                    hint: format!("its scale `{}` depends on the norm", value_name(graph, v)),
                },
            ));
        }
        b.collect();
        candidate = b.finish();
    }
    candidate.left_out = left_out;
    let operands: Vec<ValueId> = candidate.operands.iter().map(|(_, v)| *v).collect();
    if order.depend(graph, &operands, &candidate.core) {
        let dependent = operands.iter().find(|v| order.depend(graph, &[**v], &candidate.core));
        let hint = dependent
            .map_or_else(String::new, |v| format!("operand `{}` depends on what the op makes", value_name(graph, *v)));
        let node = dependent.and_then(|v| graph.producer(*v)).map(|(n, _)| n);
        let rule = if norms.len() > 1 { "sibling_norm" } else { "rms_norm" };
        let precondition = if norms.len() > 1 { "no_path" } else { "no_escape" };
        return Err(Refusal { rule, precondition, node, hint });
    }
    let supported = candidate.descriptor.check().and_then(|()| (options.supports)(&candidate.descriptor));
    supported.map_err(|hint| {
        let node = Some(norms[0].anchor);
        Refusal { rule: "rms_norm", precondition: "supported", node, hint }
    })?;
    Ok(candidate)
}

/// A constant tensor by which a weightless norm's result is multiplied: a weight of a shape that the rule does not know.
fn foreign_weight<'g>(graph: &'g Graph, order: &Order, norm: &Norm) -> Option<(NodeId, &'g str)> {
    let results = norm.results.iter().flat_map(|(_, values)| values);
    let scaled = results.flat_map(|v| graph.uses(*v)).filter_map(|(user, _)| {
        let node = graph.node(user);
        let tensor = |v: ValueId| graph.value(v).as_const().is_some_and(|t| t.len() > 1);
        let weight = node.operands().map(|(_, v)| v).find(|v| tensor(*v))?;
        matches!(node.op, Op::Binary(BinaryOp::Mul)).then(|| (user, value_name(graph, weight)))
    });
    scaled.min_by_key(|(user, _)| order.position(*user))
}

/// True for a node that only asks for the shape of a value that has the shape of the rows: the rows can answer that.
pub fn asks_for_row_sizes(graph: &Graph, user: NodeId, rows: ValueId) -> bool {
    let node = graph.node(user);
    let shape = |v: ValueId| typed(graph, v).map(|(_, s)| s);
    matches!(node.op, Op::Shape { .. } | Op::Size) && node.input(0).is_some_and(|v| shape(v) == shape(rows))
}

/// The hint of a rule that is off.
pub fn switched_off(why: &str) -> String {
    format!("the rule is switched off by {why}")
}

fn value_name(graph: &Graph, v: ValueId) -> &str {
    &graph.value(v).name
}

impl<'a> Member<'a> {
    fn new(graph: &'a Graph, order: &Order, norm: &'a Norm) -> Result<Self, Refusal> {
        let refuse =
            |precondition, hint: String| Refusal { rule: "rms_norm", precondition, node: Some(norm.anchor), hint };
        if let Some(hint) = diagnose::other_float(graph, norm.anchor) {
            return Err(refuse("float", hint));
        }
        let rows = |values: &[ValueId], like: Option<&Shape>| {
            values.iter().copied().find(|v| {
                typed(graph, *v).is_some_and(|(_, s)| {
                    s.last().and_then(Dim::as_const) == Some(norm.width as i64) && like.is_none_or(|l| l == s)
                })
            })
        };
        let hidden = || norm.add.as_ref().filter(|_| norm.h.is_empty()).and_then(|(a, _)| rows(a, None));
        let h = rows(&norm.h, None)
            .or_else(hidden)
            .ok_or_else(|| refuse("same_row", format!("no value holds the rows of {} elements", norm.width)))?;
        let (_, h_shape) = typed(graph, h).ok_or_else(|| refuse("last_axis", "the rows have no known shape".into()))?;
        // A row that is added to itself is no residual: the op would read it twice.
        let add = norm
            .add
            .as_ref()
            .and_then(|(a, b)| Some((rows(a, Some(h_shape))?, rows(b, Some(h_shape))?)))
            .filter(|(a, b)| a != b);
        if add.is_none() && (norm.h.is_empty() || graph.producer(h).is_some_and(|(n, _)| n == norm.anchor)) {
            let hint = "the norm's own node makes the sum, and the rule that takes it in is off or does not hold";
            return Err(Refusal { rule: "residual_add", ..refuse("same_shape", hint.into()) });
        }
        let weight = match &norm.weight {
            None => None,
            Some((values, _)) => {
                let vector = values.iter().copied().find(|v| {
                    typed(graph, *v).is_some_and(|(d, s)| {
                        d.is_arithmetic_float() && s.numel().as_const() == Some(norm.width as i64)
                    })
                });
                Some(vector.ok_or_else(|| {
                    refuse("weight_vector", format!("the weight is not a float vector of {} elements", norm.width))
                })?)
            }
        };
        if weight.is_none()
            && let Some((node, name)) = foreign_weight(graph, order, norm)
        {
            return Err(Refusal {
                rule: "rms_norm",
                precondition: "weight_vector",
                node: Some(node),
                hint: format!("`{name}` scales the normalised row, but it is not a vector as long as the row"),
            });
        }
        Ok(Self { norm, h, add, weight, result: 0, sum: 0, epilogues: Vec::new() })
    }

    fn part(&self) -> Part {
        let quants = || self.epilogues.iter().flat_map(|e| &e.quants);
        Part {
            anchor: self.norm.anchor,
            quantisers: quants().map(|q| q.anchor).collect(),
            nodes: self.norm.nodes.iter().chain(quants().flat_map(|q| &q.nodes)).copied().collect(),
        }
    }
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, order: &'a Order, norms: &[&'a Norm]) -> Result<Self, Refusal> {
        let mut members = Vec::with_capacity(norms.len());
        for norm in norms {
            members.push(Member::new(graph, order, norm)?);
        }
        Ok(Self { graph, order, members, nodes: Vec::new(), inside: BTreeSet::new(), downstream: BTreeSet::new() })
    }

    /// True if all read the same rows.
    fn shared(&self) -> bool {
        let first = &self.members[0];
        let sum = |m: &Member| m.norm.h.is_empty().then_some(m.add);
        self.members.iter().all(|m| m.h == first.h && sum(m) == sum(first))
    }

    /// In which form the sum is handed out: as the norms read it, or cast, where only the cast is read.
    fn choose_sum(&mut self) {
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
    fn collect(&mut self) {
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
    fn choose_result(
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
    fn ports(&self) -> BTreeMap<ValueId, Port> {
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
    fn with_views(&self, value: ValueId) -> Vec<ValueId> {
        let mut all = vec![value];
        let mut i = 0;
        while i < all.len() && all.len() < 16 {
            for (user, port) in self.graph.users(all[i]) {
                if port == 0 && is_view(&self.graph.node(user).op) && self.inside.contains(&user) {
                    all.extend(&self.graph.node(user).outputs);
                }
            }
            i += 1;
        }
        all
    }

    /// Nodes inside that somebody still needs when the ports are there, and the ports that somebody reads.
    fn liveness(&self, ports: &BTreeMap<ValueId, Port>) -> (BTreeSet<NodeId>, BTreeSet<Port>) {
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
    fn core(&self, of: impl IntoIterator<Item = ValueId>) -> BTreeSet<NodeId> {
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
    fn escape(
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
            let moves = is_view(&node.op) || matches!(node.op, Op::Cast { .. });
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

    fn outside_reader(&self, node: NodeId, live: &BTreeSet<NodeId>) -> String {
        let out = self.graph.node(node).outputs[0];
        let readers = self.graph.uses(out).map(|(u, _)| u).filter(|u| !self.inside.contains(u) || live.contains(u));
        readers.min_by_key(|u| self.order.position(*u)).map_or_else(
            || "is a graph output".to_owned(),
            |u| format!("is read by `{}` outside", self.graph.node(u).name),
        )
    }

    fn sibling(&self, k: usize, read: &BTreeSet<Port>) -> Sibling {
        let m = &self.members[k];
        let dtype = |v: ValueId| typed(self.graph, v).map_or(m.norm.compute, |(d, _)| d);
        let epilogues: Vec<Scheme> = m
            .epilogues
            .iter()
            .enumerate()
            .map(|(e, epilogue)| {
                let mut scheme = epilogue.scheme.clone();
                if !read.contains(&Port::Scale(k, e)) {
                    scheme.scale = None;
                }
                scheme
            })
            .collect();
        Sibling {
            width: m.norm.width,
            input: m.norm.input,
            compute: m.norm.compute,
            squares: m.norm.squares,
            eps: F32::new(m.norm.eps),
            root: m.norm.root,
            normed: m.norm.normed,
            weight: m.weight.map(|w| Weight {
                dtype: dtype(w),
                plus_one: m.norm.weight.as_ref().is_some_and(|w| w.1),
                product: m.norm.product,
            }),
            output: m.norm.results[m.result].0,
            emit_normed: read.contains(&Port::Normed(k)) || epilogues.is_empty(),
            epilogues,
        }
    }

    fn finish(&self) -> Candidate {
        let ports = self.ports();
        let (live, read) = self.liveness(&ports);
        let first = &self.members[0];
        let shared = self.shared();
        let dtype = |v: ValueId| typed(self.graph, v).map_or(first.norm.input, |(d, _)| d);
        let emit_sum = read.contains(&Port::Sum);
        let sum = first.norm.input;
        let emitted = if emit_sum { first.norm.sums[first.sum].0 } else { sum };
        let descriptor = FusedNorm {
            prologue: match first.add {
                Some((a, b)) if shared => Prologue::ResidualAdd(ResidualAdd::new([dtype(a), dtype(b)], sum, emitted)),
                _ => Prologue::None,
            },
            source: if shared { Source::Shared } else { Source::Separate },
            emit_sum,
            siblings: (0..self.members.len()).map(|k| self.sibling(k, &read)).collect(),
        };
        let operand = |port: InPort| match port {
            InPort::X => Some(first.add.map_or(first.h, |(a, _)| a)),
            InPort::Residual => first.add.map(|(_, b)| b),
            InPort::Rows(k) => Some(self.members[k].h),
            InPort::Weight(k) => self.members[k].weight,
            InPort::Scale(k, e) => self.members[k].epilogues[e].quants[0].given,
            InPort::ZeroPoint(k, e) => self.members[k].epilogues[e].quants[0].zero,
        };
        let operands: Vec<(InPort, ValueId)> =
            descriptor.in_ports().into_iter().filter_map(|p| Some((p, operand(p)?))).collect();
        let of = |port: Port| -> Vec<ValueId> {
            // In the graph's order, so that the first one is the one the others are views of.
            let made = self.nodes.iter().flat_map(|n| self.graph.node(*n).outputs.iter().copied());
            made.filter(|v| ports.get(v) == Some(&port)).collect()
        };
        let out = descriptor
            .out_ports()
            .into_iter()
            .map(|p| {
                let (port, k) = match p {
                    OutPort::Sum => (Port::Sum, 0),
                    OutPort::Normed(k) => (Port::Normed(k), k),
                    OutPort::Q(k, e) => (Port::Q(k, e), k),
                    OutPort::Scale(k, e) => (Port::Scale(k, e), k),
                    OutPort::ZeroPoint(k, e) => (Port::ZeroPoint(k, e), k),
                };
                (p, of(port), self.port_shape(&descriptor, p, k))
            })
            .collect();
        let core = self.core(ports.keys().copied());
        // Behind the results, too: a value of which only the shape is asked, which the rows can tell.
        let mut within = core;
        for id in &self.nodes {
            let made = |v: ValueId| self.graph.producer(v).is_some_and(|(p, _)| within.contains(&p));
            if self.graph.node(*id).operands().any(|(_, v)| made(v)) {
                within.insert(*id);
            }
        }
        let replaced: Vec<NodeId> =
            self.nodes.iter().copied().filter(|n| within.contains(n) && !live.contains(n)).collect();
        let made = self.made_of_rows(&operands, &within);
        // What stays for others is not made by the op, unless the op gives another result of it.
        let gives_port = |n: &NodeId| self.graph.node(*n).outputs.iter().any(|v| ports.contains_key(v));
        let core = made.into_iter().filter(|n| !live.contains(n) || gives_port(n)).collect();
        let quants = self.members.iter().flat_map(|m| &m.epilogues).flat_map(|e| &e.quants);
        Candidate {
            descriptor,
            operands,
            given_at: quants.flat_map(|q| &q.given_at).copied().collect(),
            ports: out,
            replaced,
            core,
            parts: self.members.iter().map(Member::part).collect(),
            left_out: Vec::new(),
        }
    }

    /// Those of the nodes between operands and ports that depend on the rows, be it by way of one that stays.
    fn made_of_rows(&self, operands: &[(InPort, ValueId)], core: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let is_rows = |port: &InPort| matches!(port, InPort::X | InPort::Residual | InPort::Rows(_));
        let rows: BTreeSet<ValueId> = operands.iter().filter(|(p, _)| is_rows(p)).map(|(_, v)| *v).collect();
        let mut made = BTreeSet::new();
        for id in self.nodes.iter().filter(|n| core.contains(n)) {
            let depends =
                |v: ValueId| rows.contains(&v) || self.graph.producer(v).is_some_and(|(p, _)| made.contains(&p));
            if self.graph.node(*id).operands().any(|(_, v)| depends(v)) {
                made.insert(*id);
            }
        }
        made
    }

    fn port_shape(&self, descriptor: &FusedNorm, port: OutPort, k: usize) -> Shape {
        let shape = typed(self.graph, self.members[k].h).map(|(_, s)| s.clone()).unwrap_or_default();
        let width = descriptor.siblings[k].width;
        let lead = &shape.0[..shape.rank().saturating_sub(1)];
        let rows = |last: u64| Shape(lead.iter().cloned().chain([Dim::from(last as i64)]).collect());
        match port {
            OutPort::Sum | OutPort::Normed(_) => rows(width),
            OutPort::Q(_, e) => rows(descriptor.siblings[k].epilogues[e].q_width(width)),
            OutPort::Scale(_, e) => {
                descriptor.siblings[k].epilogues[e].scales_per_row(width).map_or_else(Shape::default, rows)
            }
            OutPort::ZeroPoint(..) => Shape::default(),
        }
    }
}

/// True if two quantisers of one value are one function of it; a scale that one of them does not hand out does not matter.
fn one_quantiser(a: &Scheme, of_a: &Quant, b: &Scheme, of_b: &Quant) -> bool {
    let scales = a.scale.is_none() || b.scale.is_none() || a.scale == b.scale;
    scales && of_a.given == of_b.given && of_a.zero == of_b.zero && Scheme { scale: b.scale.clone(), ..a.clone() } == *b
}
