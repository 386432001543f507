//! One norm on its way into an op.

use std::collections::BTreeSet;

use normfuse_ir::{Dim, Graph, NodeId, Op, Scheme, Shape, ValueId, op::BinaryOp, scheme::Dequantised};

use super::{Part, Refusal, builder::Port, value_name};
use crate::{
    diagnose,
    norms::Norm,
    quant::{Quant, Use},
    reach::Order,
    region::typed,
    rules::{dequantise::Dequantiser, pad::Pad},
};

/// Quantisers that are one: equal schemes of one value, repeated for each consumer.
pub(super) struct Epilogue<'a> {
    pub(super) scheme: Scheme,
    pub(super) quants: Vec<&'a Quant>,
    /// What makes numbers of the codes again, all of one type.
    pub(super) dequantisers: Vec<Dequantiser>,
}

impl Epilogue<'_> {
    /// From the quantised value to codes, scales and numbers.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.quants.iter().flat_map(|q| &q.nodes).chain(self.dequantisers.iter().flat_map(|d| &d.nodes))
    }

    /// Where scales and zero points are read that are given.
    pub(super) fn given_at(&self) -> impl Iterator<Item = Use> {
        let quants = self.quants.iter().flat_map(|q| &q.given_at);
        quants.chain(self.dequantisers.iter().flat_map(|d| &d.given_at)).copied()
    }

    /// The scheme, with the results that somebody reads.
    pub(super) fn scheme(&self, (k, e): (usize, usize), read: &BTreeSet<Port>) -> Scheme {
        let mut scheme = self.scheme.clone();
        let numbers = self.dequantisers.first().filter(|_| read.contains(&Port::Dequantised(k, e)));
        let scales = read.contains(&Port::Scale(k, e));
        scheme.dequantised =
            numbers.map(|d| Dequantised { dtype: d.dtype, codes: read.contains(&Port::Q(k, e)), scales });
        if !scales && numbers.is_none() {
            scheme.scale = None;
        }
        scheme
    }
}

/// One norm on its way into an op.
pub(super) struct Member<'a> {
    pub(super) norm: &'a Norm,
    /// The rows; of a sum that is no value, its first operand.
    pub(super) h: ValueId,
    pub(super) add: Option<(ValueId, ValueId)>,
    pub(super) weight: Option<ValueId>,
    /// Which result is the normed value.
    pub(super) result: usize,
    /// Which form of the sum is handed out.
    pub(super) sum: usize,
    pub(super) epilogues: Vec<Epilogue<'a>>,
    /// What pads the normed value, all to one size; then that is what the op hands out.
    pub(super) pads: Vec<Pad>,
}

impl<'a> Member<'a> {
    pub(super) fn new(graph: &'a Graph, order: &Order, norm: &'a Norm) -> Result<Self, Refusal> {
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
        Ok(Self { norm, h, add, weight, result: 0, sum: 0, epilogues: Vec::new(), pads: Vec::new() })
    }

    /// Everything of it, of its quantisers and of what pads it.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        let behind = self.epilogues.iter().flat_map(Epilogue::nodes);
        self.norm.nodes.iter().chain(behind).chain(self.pads.iter().flat_map(|p| &p.nodes))
    }

    pub(super) fn part(&self) -> Part {
        let quants = || self.epilogues.iter().flat_map(|e| &e.quants);
        Part {
            anchor: self.norm.anchor,
            quantisers: quants().map(|q| q.anchor).collect(),
            dequantisers: self.epilogues.iter().flat_map(|e| &e.dequantisers).map(|d| d.node).collect(),
            pads: self.pads.iter().map(|p| p.node).collect(),
            nodes: self.nodes().copied().collect(),
        }
    }
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
