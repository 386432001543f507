//! From what saturation recognised to one fused op of the graph: which value stands for which operand and port, which
//! nodes it replaces, and the first precondition that stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    FusedNorm, Granularity, Graph, NodeId, Op, Shape, ValueId,
    fused::{InPort, OutPort, Prologue, Sibling, Source, Weight},
    op::ReduceOp,
    scheme::F32,
};

use crate::{
    Options,
    region::{Region, last_axis_width, typed},
    solve::{NormMatch, QuantMatch, Solution},
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
    /// Ports in order: every value of the graph that each stands for, and the port's shape.
    pub ports: Vec<(OutPort, Vec<ValueId>, Shape)>,
    /// Source nodes that nobody needs afterwards.
    pub replaced: Vec<NodeId>,
    /// Last casts of the quantisers that the op takes in.
    pub quantisers: Vec<NodeId>,
    /// Quantisers of the norm that stay outside, and why.
    pub left_out: Vec<(NodeId, Refusal)>,
}

impl Candidate {
    /// The shape in which the op wants a weight: a vector, whatever axes of size 1 the graph's has around it.
    pub fn weight_shape(&self, port: InPort) -> Option<Shape> {
        match port {
            InPort::Weight(k) => Some(Shape(vec![normfuse_ir::Dim::from(self.descriptor.siblings[k].width as i64)])),
            _ => None,
        }
    }
}

/// A port while the candidate is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Sum,
    Normed,
    Q(usize),
    Scale(usize),
}

struct Builder<'a> {
    graph: &'a Graph,
    region: &'a Region,
    norm: &'a NormMatch,
    h: ValueId,
    add: Option<(ValueId, ValueId)>,
    weight: Option<ValueId>,
    /// Which result is the normed value.
    result: usize,
    quants: Vec<&'a QuantMatch>,
    in_region: BTreeSet<NodeId>,
    /// Nodes of the region that depend on the anchor.
    downstream: BTreeSet<NodeId>,
}

/// Builds the candidate of a norm.
///
/// # Errors
/// The first precondition that fails.
pub fn build(
    graph: &Graph,
    region: &Region,
    solution: &Solution,
    norm: &NormMatch,
    options: &Options,
) -> Result<Candidate, Refusal> {
    let mut b = Builder::new(graph, region, norm)?;
    let mut left_out = Vec::new();
    b.choose_result(&solution.quants, &mut left_out, options);
    loop {
        let ports = b.ports();
        let (live, _) = b.liveness(&ports);
        let Some((node, quant)) = b.escape(&ports, &live) else { break };
        let hint = format!("`{}` {}", value_name(graph, graph.node(node).outputs[0]), b.outside_reader(node, &live));
        let refusal = |rule| Refusal { rule, precondition: "no_escape", node: Some(node), hint: hint.clone() };
        match quant {
            Some(i) => {
                let q = b.quants.remove(i);
                left_out.push((b.cast_of(q), refusal(rule_of(q, norm.width))));
            }
            None => return Err(refusal("rms_norm")),
        }
    }
    for v in b.weight.iter().chain(b.quants.iter().filter_map(|q| q.given.map(|g| &region.locals[g]))) {
        if !b.independent(*v) {
            return Err(Refusal {
                rule: "rms_norm",
                precondition: "no_escape",
                node: graph.producer(*v).map(|(n, _)| n),
                hint: format!("operand `{}` cannot be shown to be independent of the norm", value_name(graph, *v)),
            });
        }
    }
    let mut candidate = b.finish();
    candidate.left_out = left_out;
    let supported = candidate.descriptor.check().and_then(|()| (options.supports)(&candidate.descriptor));
    supported.map_err(|hint| Refusal {
        rule: "rms_norm",
        precondition: "supported",
        node: Some(region.anchor),
        hint,
    })?;
    Ok(candidate)
}

/// The rule that a quantiser belongs to.
pub fn rule_of(q: &QuantMatch, width: u64) -> &'static str {
    match q.width {
        None => "quant_static",
        Some(w) if w == width => "quant_token",
        Some(_) => "quant_group",
    }
}

/// A constant tensor by which a weightless norm's result is multiplied: a weight of a shape that the rule does not know.
fn foreign_weight<'g>(graph: &'g Graph, region: &Region, norm: &NormMatch) -> Option<(NodeId, &'g str)> {
    let results = norm.results.iter().flat_map(|(_, locals)| locals).map(|i| region.locals[*i]);
    results.flat_map(|v| graph.users(v)).find_map(|(user, _)| {
        let node = graph.node(user);
        let tensor = |v: ValueId| graph.value(v).as_const().is_some_and(|t| t.len() > 1);
        let weight = node.operands().map(|(_, v)| v).find(|v| tensor(*v))?;
        matches!(node.op, Op::Binary(normfuse_ir::op::BinaryOp::Mul)).then(|| (user, value_name(graph, weight)))
    })
}

/// True for a node that only asks for the shape of a value that has the shape of the rows: the rows can answer that.
pub fn asks_for_row_sizes(graph: &Graph, user: NodeId, rows: ValueId) -> bool {
    let node = graph.node(user);
    let shape = |v: ValueId| typed(graph, v).map(|(_, s)| s);
    matches!(node.op, Op::Shape { .. } | Op::Size) && node.input(0).is_some_and(|v| shape(v) == shape(rows))
}

fn value_name(graph: &Graph, v: ValueId) -> &str {
    &graph.value(v).name
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, region: &'a Region, norm: &'a NormMatch) -> Result<Self, Refusal> {
        let refuse =
            |precondition, hint: String| Refusal { rule: "rms_norm", precondition, node: Some(region.anchor), hint };
        let rows = |locals: &[usize], like: Option<&Shape>| {
            locals.iter().map(|i| region.locals[*i]).find(|v| {
                typed(graph, *v).is_some_and(|(_, s)| {
                    s.last().and_then(normfuse_ir::Dim::as_const) == Some(norm.width as i64)
                        && like.is_none_or(|l| l == s)
                })
            })
        };
        let h = rows(&norm.h, None)
            .ok_or_else(|| refuse("same_row", format!("no value holds the rows of {} elements", norm.width)))?;
        let (_, h_shape) = typed(graph, h).ok_or_else(|| refuse("last_axis", "the rows have no known shape".into()))?;
        let add = norm.add.as_ref().and_then(|(a, b)| Some((rows(a, Some(h_shape))?, rows(b, Some(h_shape))?)));
        if add.is_none() && graph.producer(h).is_some_and(|(n, _)| n == region.anchor) {
            let hint = "the norm's own node makes the sum, and the rule that takes it in is off or does not hold";
            return Err(Refusal { rule: "residual_add", ..refuse("same_shape", hint.into()) });
        }
        let weight = match &norm.weight {
            None => None,
            Some((locals, _)) => {
                let vector = locals.iter().map(|i| region.locals[*i]).find(|v| {
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
            && let Some((node, name)) = foreign_weight(graph, region, norm)
        {
            return Err(Refusal {
                rule: "rms_norm",
                precondition: "weight_vector",
                node: Some(node),
                hint: format!("`{name}` scales the normalised row, but it is not a vector as long as the row"),
            });
        }
        let in_region: BTreeSet<NodeId> = region.nodes.iter().copied().collect();
        let mut downstream = BTreeSet::from([region.anchor]);
        for id in &region.nodes {
            if graph.node(*id).operands().any(|(_, v)| graph.producer(v).is_some_and(|(p, _)| downstream.contains(&p)))
            {
                downstream.insert(*id);
            }
        }
        Ok(Self { graph, region, norm, h, add, weight, result: 0, quants: Vec::new(), in_region, downstream })
    }

    fn values(&self, locals: &[usize]) -> Vec<ValueId> {
        locals.iter().map(|i| self.region.locals[*i]).collect()
    }

    /// The node whose result the quantised value first is.
    fn cast_of(&self, q: &QuantMatch) -> NodeId {
        q.q.first().and_then(|i| self.graph.producer(self.region.locals[*i])).map_or(self.region.anchor, |(n, _)| n)
    }

    /// Which result is the normed value, and which quantisers read that one.
    fn choose_result(&mut self, quants: &'a [QuantMatch], left_out: &mut Vec<(NodeId, Refusal)>, options: &Options) {
        let reads = |q: &QuantMatch, r: usize| q.of.iter().any(|i| self.norm.results[r].1.contains(i));
        let count = self.norm.results.len();
        let quantised = (0..count).find(|r| quants.iter().any(|q| reads(q, *r)));
        // Without a quantiser: a narrower cast, if it is all that is read of the product.
        let product = self.values(&self.norm.results[0].1);
        let narrowed = (1..count).find(|r| {
            let cast = self.values(&self.norm.results[*r].1);
            let only = product.iter().flat_map(|v| self.graph.users(*v)).all(|(n, _)| {
                let out = self.graph.node(n).outputs[0];
                cast.contains(&out) || product.contains(&out)
            });
            self.norm.results[*r].0.bits() < self.norm.results[0].0.bits()
                && only
                && !product.iter().any(|v| self.graph.is_output(*v))
        });
        self.result = quantised.or(narrowed).unwrap_or(0);
        let mut chosen = Vec::new();
        for q in quants {
            let fed = (0..count).any(|r| reads(q, r));
            let rule = rule_of(q, self.norm.width);
            if !fed {
                continue;
            }
            let refuse = |precondition, hint: &str| Refusal {
                rule,
                precondition,
                node: Some(self.cast_of(q)),
                hint: hint.to_owned(),
            };
            if !reads(q, self.result) {
                left_out.push((
                    self.cast_of(q),
                    refuse("fed_by_norm", "another quantiser reads the normed value in another dtype"),
                ));
            } else if !options.enabled(rule) {
                left_out.push((self.cast_of(q), refuse("switched_on", "the rule is switched off")));
            } else if q.width.is_some_and(|w| w == 0 || !self.norm.width.is_multiple_of(w)) {
                left_out.push((self.cast_of(q), refuse("groups", "the groups do not divide the norm's row")));
            } else {
                chosen.push(q);
            }
        }
        self.quants = chosen;
    }

    /// Every value that a port stands for.
    fn ports(&self) -> BTreeMap<ValueId, Port> {
        let mut ports = BTreeMap::new();
        let mut put = |locals: &[usize], port| {
            for v in self.values(locals) {
                ports.entry(v).or_insert(port);
            }
        };
        if self.add.is_some() {
            put(&self.norm.h, Port::Sum);
        }
        put(&self.norm.results[self.result].1, Port::Normed);
        for (i, q) in self.quants.iter().enumerate() {
            put(&q.q, Port::Q(i));
            put(&q.scale, Port::Scale(i));
        }
        ports
    }

    /// Nodes of the region that somebody still needs when the ports are there, and the ports that somebody reads.
    fn liveness(&self, ports: &BTreeMap<ValueId, Port>) -> (BTreeSet<NodeId>, BTreeSet<Port>) {
        let mut live = BTreeSet::new();
        let mut read = BTreeSet::new();
        for id in self.region.nodes.iter().rev() {
            for v in &self.graph.node(*id).outputs {
                let needed = self.graph.is_output(*v)
                    || self.graph.users(*v).iter().any(|(u, _)| {
                        (!self.in_region.contains(u) || live.contains(u)) && !asks_for_row_sizes(self.graph, *u, self.h)
                    });
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

    /// Nodes between the operands and the values of some ports.
    fn core(&self, of: &[ValueId]) -> BTreeSet<NodeId> {
        let mut stops: BTreeSet<ValueId> = [Some(self.h), self.weight].into_iter().flatten().collect();
        if let Some((a, b)) = self.add {
            stops.remove(&self.h);
            stops.extend([a, b]);
        }
        stops.extend(self.quants.iter().filter_map(|q| q.given.map(|g| self.region.locals[g])));
        let mut core = BTreeSet::new();
        let mut queue = of.to_vec();
        while let Some(v) = queue.pop() {
            if stops.contains(&v) {
                continue;
            }
            if let Some((id, _)) = self.graph.producer(v)
                && self.in_region.contains(&id)
                && core.insert(id)
            {
                queue.extend(self.graph.node(id).operands().map(|(_, v)| v));
            }
        }
        core
    }

    /// A value that the op would hide and that somebody outside reads: its node, and the quantiser it belongs to.
    fn escape(&self, ports: &BTreeMap<ValueId, Port>, live: &BTreeSet<NodeId>) -> Option<(NodeId, Option<usize>)> {
        let of = |want: &dyn Fn(Port) -> bool| -> Vec<ValueId> {
            ports.iter().filter(|(_, p)| want(**p)).map(|(v, _)| *v).collect()
        };
        let hidden = |core: &BTreeSet<NodeId>| {
            let escaping = || core.iter().copied().filter(|n| live.contains(n) && self.downstream.contains(n));
            // The one that is read from outside keeps those before it alive; that is the one to name.
            let direct =
                |n: &NodeId| {
                    self.graph.node(*n).outputs.iter().any(|v| {
                        self.graph.is_output(*v) || self.graph.users(*v).iter().any(|(u, _)| !core.contains(u))
                    })
                };
            escaping().find(direct).or_else(|| escaping().next())
        };
        let norm = self.core(&of(&|p| matches!(p, Port::Normed)));
        if let Some(n) = hidden(&norm) {
            return Some((n, None));
        }
        (0..self.quants.len()).find_map(|i| {
            let core = self.core(&of(&|p| p == Port::Q(i) || p == Port::Scale(i)));
            hidden(&core).map(|n| (n, Some(i)))
        })
    }

    fn outside_reader(&self, node: NodeId, live: &BTreeSet<NodeId>) -> String {
        let out = self.graph.node(node).outputs[0];
        self.graph.users(out).into_iter().find(|(u, _)| !self.in_region.contains(u) || live.contains(u)).map_or_else(
            || "is a graph output".to_owned(),
            |(u, _)| format!("is read by `{}` outside", self.graph.node(u).name),
        )
    }

    /// True if a value does not depend on anything that the fused op makes.
    fn independent(&self, value: ValueId) -> bool {
        let mut queue = vec![value];
        let mut seen = BTreeSet::new();
        while let Some(v) = queue.pop() {
            let Some((id, _)) = self.graph.producer(v) else { continue };
            if self.downstream.contains(&id) || v == self.h || seen.len() > 256 {
                return false;
            }
            if seen.insert(id) {
                queue.extend(self.graph.node(id).operands().map(|(_, v)| v));
            }
        }
        true
    }

    /// One scale a row: a group if the quantiser looked at it through a group axis of size 1, else a token.
    fn granularity(&self, q: &QuantMatch) -> Granularity {
        match q.width {
            None => Granularity::Tensor,
            Some(w) if w < self.norm.width => Granularity::Group(w as u32),
            Some(w) => {
                let own = typed(self.graph, self.h).map(|(_, s)| s.clone()).unwrap_or_default();
                let second_last = |s: &Shape| s.rank().checked_sub(2).and_then(|i| s.0[i].as_const());
                let grouped = second_last(&own) != Some(1)
                    && self.core(&self.values(&q.scale)).iter().any(|n| {
                        let node = self.graph.node(*n);
                        matches!(node.op, Op::Reduce { op: ReduceOp::Max, .. })
                            && last_axis_width(self.graph, *n) == Some(w as i64)
                            && node
                                .input(0)
                                .and_then(|v| typed(self.graph, v))
                                .is_some_and(|(_, s)| second_last(s) == Some(1))
                    });
                if grouped { Granularity::Group(w as u32) } else { Granularity::Token }
            }
        }
    }

    fn finish(&self) -> Candidate {
        let ports = self.ports();
        let (live, read) = self.liveness(&ports);
        let dtype = |v: ValueId| typed(self.graph, v).map_or(self.norm.compute, |(d, _)| d);
        let shape = typed(self.graph, self.h).map(|(_, s)| s.clone()).unwrap_or_default();
        let mut operands = match self.add {
            Some((a, b)) => vec![(InPort::X, a), (InPort::Residual, b)],
            None => vec![(InPort::X, self.h)],
        };
        operands.extend(self.weight.map(|w| (InPort::Weight(0), w)));
        let mut epilogues = Vec::new();
        for (e, q) in self.quants.iter().enumerate() {
            let mut scheme = q.scheme.clone();
            scheme.granularity = self.granularity(q);
            epilogues.push(scheme);
            operands.extend(q.given.map(|g| (InPort::Scale(0, e), self.region.locals[g])));
        }
        let descriptor = FusedNorm {
            prologue: match self.add {
                Some((a, _)) => Prologue::ResidualAdd { dtype: dtype(a) },
                None => Prologue::None,
            },
            source: Source::Shared,
            emit_sum: read.contains(&Port::Sum),
            siblings: vec![Sibling {
                width: self.norm.width,
                input: dtype(self.h),
                compute: self.norm.compute,
                eps: F32::new(self.norm.eps),
                root: self.norm.root,
                normed: self.norm.normed,
                weight: self
                    .weight
                    .map(|w| Weight { dtype: dtype(w), plus_one: self.norm.weight.as_ref().is_some_and(|w| w.1) }),
                output: self.norm.results[self.result].0,
                emit_normed: read.contains(&Port::Normed) || self.quants.is_empty(),
                epilogues,
            }],
        };
        let of = |port: Port| -> Vec<ValueId> {
            // In the region's order, so that the first one is the one the others are views of.
            self.region.locals.iter().copied().filter(|v| ports.get(v) == Some(&port)).collect()
        };
        let width = normfuse_ir::Dim::from(self.norm.width as i64);
        let lead = &shape.0[..shape.rank().saturating_sub(1)];
        let rows = |last: normfuse_ir::Dim| Shape(lead.iter().cloned().chain([last]).collect());
        let out = descriptor
            .out_ports()
            .into_iter()
            .map(|p| match p {
                OutPort::Sum => (p, of(Port::Sum), rows(width.clone())),
                OutPort::Normed(_) => (p, of(Port::Normed), rows(width.clone())),
                OutPort::Q(_, e) => (p, of(Port::Q(e)), rows(width.clone())),
                OutPort::Scale(_, e) => {
                    let n = descriptor.siblings[0].epilogues[e].scales_per_row(self.norm.width).unwrap_or(1);
                    (p, of(Port::Scale(e)), rows(normfuse_ir::Dim::from(n as i64)))
                }
            })
            .collect();
        let all: Vec<ValueId> = ports.keys().copied().collect();
        let core = self.core(&all);
        let replaced = self.region.nodes.iter().copied().filter(|n| core.contains(n) && !live.contains(n)).collect();
        Candidate {
            descriptor,
            operands,
            ports: out,
            replaced,
            quantisers: self.quants.iter().map(|q| self.cast_of(q)).collect(),
            left_out: Vec::new(),
        }
    }
}
