//! Which norms may share one op: those that read the same rows, rows that one value was projected to, or rows that the host
//! passes in as inputs of the same tokens.

use std::collections::{BTreeMap, HashMap};

use normfuse_ir::{Dim, Graph, NodeId, Op, ValueId};

use crate::{
    norms::Norm,
    reach::Order,
    region::{last_axis_width, typed},
    views::is_view,
};

/// Most nodes between the rows and the value that they come from: a product, a bias, a split, a transpose of heads, and
/// before the product a quantiser and its inverse, of which one to FP4 takes a hundred.
const MAX_NODES: usize = 256;

/// Norms of one op, by position in the list of norms; each norm is in exactly one group, in the order of the first.
pub fn groups(graph: &Graph, order: &Order, norms: &[Norm]) -> Vec<Vec<usize>> {
    let walk = Walk { graph, order, parameters: parameters(graph, order), results: results(norms) };
    let mut by_origin: HashMap<(Origin, bool), usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, norm) in norms.iter().enumerate() {
        match norm.h.first().map(|h| walk.origin(*h)) {
            Some((value, multiplied)) => {
                let origin = (if multiplied { Origin::Value(value) } else { Origin::of(graph, value) }, multiplied);
                let slot = *by_origin.entry(origin).or_insert_with(|| {
                    groups.push(Vec::new());
                    groups.len() - 1
                });
                groups[slot].push(i);
            }
            None => groups.push(vec![i]),
        }
    }
    groups
}

/// Whose tokens rows are.
#[derive(PartialEq, Eq, Hash)]
enum Origin {
    /// Those of a value.
    Value(ValueId),
    /// Those of the graph's inputs with this first axis: a host that passes the parts of a projection passes one call's tokens.
    /// Whether the rows are as many is for the op to check.
    Inputs(Dim),
}

impl Origin {
    fn of(graph: &Graph, value: ValueId) -> Self {
        let tokens = || typed(graph, value)?.1.0.first().cloned();
        let input = graph.producer(value).is_none() && graph.value(value).as_const().is_none();
        tokens().filter(|_| input).map_or(Self::Value(value), Self::Inputs)
    }
}

/// By value: constants, weights that the host passes in, sizes, and what any ops make of those alone.
fn parameters(graph: &Graph, order: &Order) -> Vec<bool> {
    let mut is = vec![false; graph.value_bound()];
    for (id, value) in graph.values() {
        // A graph input of two fixed axes at most is a weight that the host passes in.
        let weight = || typed(graph, id).is_some_and(|(_, s)| s.rank() <= 2 && s.as_concrete().is_some());
        is[id.index()] = value.as_const().is_some() || (graph.producer(id).is_none() && weight());
    }
    for node in order.nodes().iter().map(|id| graph.node(*id)) {
        // Sizes are no data, and no token's.
        if matches!(node.op, Op::Shape { .. } | Op::Size) || node.operands().all(|(_, v)| is[v.index()]) {
            node.outputs.iter().for_each(|v| is[v.index()] = true);
        }
    }
    is
}

/// Results of norms, each with the first of its norm: all are the same row.
fn results(norms: &[Norm]) -> BTreeMap<ValueId, ValueId> {
    let of = |n: &Norm| {
        let all: Vec<ValueId> = n.results.iter().flat_map(|(_, values)| values).copied().collect();
        let first = all.first().copied();
        all.into_iter().filter_map(move |v| Some((v, first?)))
    };
    norms.iter().flat_map(of).collect()
}

struct Walk<'g> {
    graph: &'g Graph,
    order: &'g Order,
    parameters: Vec<bool>,
    results: BTreeMap<ValueId, ValueId>,
}

impl Walk<'_> {
    /// The value whose tokens the rows are, and whether they are a projection of it: the farthest one, no farther than the
    /// norm before, that all of the rows comes from by way of what works on one token at a time, and through no two
    /// products.
    fn origin(&self, rows: ValueId) -> (ValueId, bool) {
        let mut found = (rows, false);
        // What is still to be followed, the latest first, and whether a product lies between it and the rows.
        let mut open = BTreeMap::from([((self.position(rows), rows), false)]);
        for _ in 0..MAX_NODES {
            let Some(((_, value), multiplied)) = open.pop_last() else { break };
            if open.is_empty() {
                found = (value, multiplied);
            }
            if let Some(first) = self.results.get(&value) {
                // Casts and views of one row are one.
                if open.keys().all(|(_, v)| self.results.get(v) == Some(first)) {
                    found = (*first, multiplied || open.values().any(|m| *m));
                }
                break;
            }
            let Some((id, _)) = self.graph.producer(value) else { break };
            let Some((operands, product)) = self.token_wise(id) else { break };
            if product && multiplied {
                break;
            }
            for v in operands.into_iter().filter(|v| !self.parameters[v.index()]) {
                *open.entry((self.position(v), v)).or_default() |= multiplied || product;
            }
        }
        found
    }

    fn position(&self, value: ValueId) -> usize {
        self.graph.producer(value).map_or(0, |(id, _)| self.order.position(id) + 1)
    }

    /// The operand of an unknown op that projects it, as a product with packed weights does: the only one that is no
    /// parameter, whose axes but the last are the result's.
    fn projection(&self, id: NodeId) -> Option<ValueId> {
        let node = self.graph.node(id);
        let mut data = node.inputs.iter().flatten().copied().filter(|v| !self.parameters[v.index()]);
        let x = data.next().filter(|_| data.next().is_none())?;
        let lead = |v: ValueId| typed(self.graph, v)?.1.0.split_last().map(|(_, lead)| lead.to_vec());
        let tokens = lead(x)?;
        (!tokens.is_empty() && node.outputs.iter().all(|v| lead(*v).as_ref() == Some(&tokens))).then_some(x)
    }

    /// The operands that a node makes each token of its results from, and whether it is a product with a parameter; `None`
    /// for what mixes tokens, or may.
    fn token_wise(&self, id: NodeId) -> Option<(Vec<ValueId>, bool)> {
        let node = self.graph.node(id);
        let some = |n: usize| node.inputs.iter().take(n).flatten().copied().collect::<Vec<_>>();
        let parameter = |port: usize| node.input(port).is_some_and(|v| self.parameters[v.index()]);
        let operands = match &node.op {
            Op::MatMul | Op::Gemm { .. } | Op::MatMulInteger | Op::ScaledMatMul(_) if parameter(1) => {
                return Some((some(usize::MAX), true));
            }
            Op::Foreign(f) if f.captures == 0 => return self.projection(id).map(|x| (vec![x], true)),
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Where
            | Op::Clip
            | Op::Concat { .. }
            | Op::QuantizeLinear { .. }
            | Op::DequantizeLinear { .. }
            | Op::Quantize(_) => some(usize::MAX),
            Op::Split { .. }
            | Op::Slice
            | Op::Transpose { .. }
            | Op::Cast { .. }
            | Op::Expand
            | Op::DynamicQuantizeLinear => some(1),
            // Of a row, or of everything: one number for all tokens says nothing of which is which.
            Op::Reduce { .. }
                if last_axis_width(self.graph, id).is_some() || typed(self.graph, node.outputs[0])?.1.is_single() =>
            {
                some(1)
            }
            // A table of what codes mean.
            Op::Gather { .. } if parameter(0) => some(2),
            _ if is_view(self.graph, id) => some(1),
            _ => return None,
        };
        operands.iter().all(|v| typed(self.graph, *v).is_some()).then_some((operands, false))
    }
}
