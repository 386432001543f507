//! The finished candidate: its descriptor, operands, ports, and the nodes that it replaces.

use std::collections::BTreeSet;

use normfuse_ir::{
    Dim, FusedNorm, NodeId, Scheme, Shape, ValueId,
    fused::{InPort, OutPort, Prologue, ResidualAdd, Sibling, Source, Weight},
    scheme::F32,
};

use super::{
    Candidate,
    builder::{Builder, Port},
    member::Member,
};
use crate::region::typed;

impl Builder<'_> {
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

    pub(super) fn finish(&self) -> Candidate {
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
