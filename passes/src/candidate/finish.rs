//! The finished candidate: its descriptor, operands, ports, and the nodes that it replaces.

use std::{collections::BTreeSet, sync::Arc};

use normfuse_ir::{
    Descriptor, Dim, FusedNorm, Scheme, Shape, ValueId,
    fused::{InPort, OutPort, Prologue, ResidualAdd, Sibling, Source, Weight},
    scheme::F32,
};

use super::{
    Candidate,
    builder::{Builder, Port},
    member::{Epilogue, Member},
};
use crate::region::typed;

impl Builder<'_> {
    fn sibling(&self, k: usize, read: &BTreeSet<Port>) -> Sibling {
        let m = &self.members[k];
        let dtype = |v: ValueId| typed(self.graph, v).map_or(m.norm.compute, |(d, _)| d);
        let epilogues: Vec<Scheme> = m.epilogues.iter().enumerate().map(|(e, own)| own.scheme((k, e), read)).collect();
        Sibling {
            width: m.norm.width,
            input: m.norm.input,
            compute: m.norm.compute,
            squares: m.norm.squares,
            eps: F32::new(m.norm.eps),
            root: Some(m.norm.root),
            normed: m.norm.normed,
            weight: m.weight.map(|w| Weight {
                dtype: dtype(w),
                plus_one: m.norm.weight.as_ref().is_some_and(|w| w.1),
                product: m.norm.product,
            }),
            output: m.norm.results[m.result].0,
            padded: m.pads.first().map(|p| p.width),
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
            InPort::Up => None,
            InPort::Rows(k) => Some(self.members[k].h),
            InPort::Weight(k) => self.members[k].weight,
            InPort::Scale(k, e) => self.members[k].epilogues[e].quants[0].given,
            InPort::ZeroPoint(k, e) => self.members[k].epilogues[e].quants[0].zero,
        };
        let operands: Vec<(InPort, ValueId)> =
            descriptor.in_ports().into_iter().filter_map(|p| Some((p, operand(p)?))).collect();
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
                    OutPort::Dequantised(k, e) => (Port::Dequantised(k, e), k),
                };
                (p, self.inside.values_of(&ports, port), self.port_shape(&descriptor, p, k))
            })
            .collect();
        let rows = operands.iter().filter(|(p, _)| p.is_rows()).map(|(_, v)| *v).collect();
        let (replaced, core) = self.inside.replaced(self.core(ports.keys().copied()), &live, &ports, &rows);
        Candidate {
            descriptor: Descriptor::Norm(Arc::new(descriptor)),
            passed: None,
            operands,
            given_at: self.members.iter().flat_map(|m| &m.epilogues).flat_map(Epilogue::given_at).collect(),
            ports: out,
            replaced,
            core,
            parts: self.members.iter().map(Member::part).collect(),
            left_out: Vec::new(),
            kept: self.kept.clone(),
        }
    }

    fn port_shape(&self, descriptor: &FusedNorm, port: OutPort, k: usize) -> Shape {
        let shape = typed(self.graph, self.members[k].h).map(|(_, s)| s.clone()).unwrap_or_default();
        let sibling = &descriptor.siblings[k];
        let width = Dim::from(sibling.width as i64);
        match port {
            OutPort::Sum => rows_of(&shape, width),
            OutPort::Normed(_) => rows_of(&shape, Dim::from(sibling.handed_out() as i64)),
            OutPort::Q(_, e) | OutPort::Scale(_, e) | OutPort::ZeroPoint(_, e) | OutPort::Dequantised(_, e) => {
                quantised_shape(&sibling.epilogues[e], &shape, &width, port)
            }
        }
    }
}

/// Rows as they are, of another width.
fn rows_of(rows: &Shape, width: Dim) -> Shape {
    let lead = &rows.0[..rows.rank().saturating_sub(1)];
    Shape(lead.iter().cloned().chain([width]).collect())
}

/// The shape of a quantiser's port, for rows of a width.
pub(super) fn quantised_shape(scheme: &Scheme, rows: &Shape, width: &Dim, port: OutPort) -> Shape {
    let fixed = width.as_const().and_then(|n| u64::try_from(n).ok());
    match port {
        OutPort::Q(..) => match fixed.map(|n| scheme.q_width(n)) {
            Some(n) => rows_of(rows, Dim::from(n as i64)),
            None => rows.clone(),
        },
        OutPort::Dequantised(..) => rows_of(rows, width.clone()),
        OutPort::Scale(..) => fixed
            .and_then(|n| scheme.scales_per_row(n))
            .map_or_else(Shape::default, |n| rows_of(rows, Dim::from(n as i64))),
        OutPort::ZeroPoint(..) | OutPort::Sum | OutPort::Normed(_) => Shape::default(),
    }
}
