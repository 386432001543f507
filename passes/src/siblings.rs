//! Which norms may share one op: those that read the same rows, or rows that one value was projected to.

use std::collections::BTreeMap;

use normfuse_ir::{Graph, Op, ValueId, op::BinaryOp};

use crate::{
    norms::Norm,
    region::{producer_op, typed},
    views::is_view,
};

/// Ops between the common value and the rows: a product, a bias, a split, views, a transpose of heads, casts.
const MAX_STEPS: usize = 12;

/// Norms of one op, by position in the list of norms; each norm is in exactly one group, in the order of the first.
pub fn groups(graph: &Graph, norms: &[Norm]) -> Vec<Vec<usize>> {
    let mut by_origin: BTreeMap<(ValueId, bool), usize> = BTreeMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, norm) in norms.iter().enumerate() {
        let origin = norm.h.first().map(|h| origin(graph, *h));
        match origin {
            Some(origin) => {
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

/// The value whose tokens the rows are, and whether they are a projection of it: back over everything that works on one
/// token at a time and has one operand that is no parameter.
fn origin(graph: &Graph, rows: ValueId) -> (ValueId, bool) {
    let mut value = rows;
    let mut multiplied = false;
    for _ in 0..MAX_STEPS {
        let Some((id, op)) = producer_op(graph, value) else { break };
        let node = graph.node(id);
        let parameter = |port: usize| node.input(port).is_some_and(|v| is_parameter(graph, v));
        let next = match op {
            Op::MatMul | Op::Gemm { .. } if !multiplied && parameter(1) => {
                multiplied = true;
                node.input(0)
            }
            Op::Binary(BinaryOp::Add) if parameter(1) => node.input(0),
            Op::Binary(BinaryOp::Add) if parameter(0) => node.input(1),
            Op::Split { .. } | Op::Slice | Op::Transpose { .. } | Op::Cast { .. } => node.input(0),
            _ if is_view(graph, id) => node.input(0),
            _ => None,
        };
        match next.filter(|v| typed(graph, *v).is_some()) {
            Some(v) => value = v,
            None => break,
        }
    }
    (value, multiplied)
}

/// A constant, or what casts, transposes, dequantisation and arithmetic make of constants alone.
fn is_parameter(graph: &Graph, value: ValueId) -> bool {
    let mut queue = vec![value];
    for _ in 0..64 {
        let Some(v) = queue.pop() else { return true };
        if graph.value(v).as_const().is_some() {
            continue;
        }
        match graph.producer(v) {
            Some((id, _)) => queue.extend(graph.node(id).operands().map(|(_, v)| v)),
            // A graph input of two fixed axes at most is a weight that the host passes in.
            None if typed(graph, v).is_some_and(|(_, s)| s.rank() <= 2 && s.as_concrete().is_some()) => {}
            None => return false,
        }
    }
    false
}
