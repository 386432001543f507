//! A recognised norm in terms of the graph: what a region's solution says, as values and nodes.

use std::collections::BTreeSet;

use normfuse_ir::{DType, Graph, NodeId, Op, ValueId, fused::Root, op::ReduceOp};

use crate::{
    reach::Order,
    region::{self, Region},
    solve::{NormMatch, Solution},
    views::is_view,
};

/// A norm of the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// The mean of squares, or the native norm.
    pub anchor: NodeId,
    /// Values that are the rows; none where only the norm's own node has them.
    pub h: Vec<ValueId>,
    /// Dtype of the rows.
    pub input: DType,
    /// The rows, then casts of them: what may be handed out as the sum where the rows are one.
    pub sums: Vec<(DType, Vec<ValueId>)>,
    /// Values that are the operands of the residual add which makes the rows.
    pub add: Option<(Vec<ValueId>, Vec<ValueId>)>,
    /// How the row is divided.
    pub root: Root,
    /// Width of the row.
    pub width: u64,
    /// Added to the mean square.
    pub eps: f32,
    /// Dtype of the statistics.
    pub compute: DType,
    /// Dtype to which squares are rounded, if another.
    pub squares: Option<DType>,
    /// Dtype to which the normalised row is rounded.
    pub normed: DType,
    /// Dtype of the weight product, if another.
    pub product: Option<DType>,
    /// Values that are the weight, and whether one is added to it; without one the norm is weightless.
    pub weight: Option<(Vec<ValueId>, bool)>,
    /// Candidates for the normed value: the product, then casts of it.
    pub results: Vec<(DType, Vec<ValueId>)>,
    /// Nodes of its region.
    pub nodes: BTreeSet<NodeId>,
    /// Names of the rewrites that recognised it.
    pub rules: Vec<String>,
    /// Why it is one, step by step, if somebody asks.
    pub path: Vec<String>,
}

impl Norm {
    /// The match of an anchor's region as values.
    pub fn new(region: &Region, m: &NormMatch, fired: &[String]) -> Self {
        let values = |locals: &[usize]| -> Vec<ValueId> { locals.iter().map(|i| region.locals[*i]).collect() };
        Self {
            anchor: region.anchor,
            h: values(&m.h),
            input: m.input,
            sums: m.sums.iter().map(|(d, s)| (*d, values(s))).collect(),
            add: m.add.as_ref().map(|(a, b)| (values(a), values(b))),
            root: m.root,
            width: m.width,
            eps: m.eps,
            compute: m.compute,
            squares: m.squares,
            normed: m.normed,
            product: m.product,
            weight: m.weight.as_ref().map(|(w, one)| (values(w), *one)),
            results: m.results.iter().map(|(d, r)| (*d, values(r))).collect(),
            nodes: region.nodes.iter().copied().collect(),
            // Commuted operands are bookkeeping; the others are the steps of the argument.
            rules: fired.iter().filter(|r| !r.starts_with("commute")).cloned().collect(),
            path: Vec::new(),
        }
    }
}

/// The norms of a region's anchor: those whose rows are what the anchor squares, and whose result is made of that. A row
/// that a weight scales is a norm without one only where that weight is none.
pub fn of(graph: &Graph, order: &Order, region: &Region, solution: &Solution) -> Vec<Norm> {
    let matches = solution.norms.iter().filter(|m| made_by(graph, region, m) && squares(graph, region, m));
    let norms = matches.map(|m| Norm::new(region, m, &solution.fired));
    let (weighted, bare): (Vec<Norm>, Vec<Norm>) = norms.partition(|n| n.weight.is_some());
    // A gate: what is made of the norm's own result is no parameter of it.
    let anchor = BTreeSet::from([region.anchor]);
    let gate = |n: &Norm| n.weight.as_ref().is_some_and(|(w, _)| order.depend(graph, w, &anchor));
    let weighted: Vec<Norm> = weighted.into_iter().filter(|n| !gate(n)).collect();
    if weighted.is_empty() { bare } else { weighted }
}

/// True if the result depends on the anchor. Two norms of one row are one class of terms, and two anchors.
fn made_by(graph: &Graph, region: &Region, m: &NormMatch) -> bool {
    let inside: BTreeSet<NodeId> = region.nodes.iter().copied().collect();
    let mut queue: Vec<ValueId> = m.results.iter().flat_map(|(_, r)| r).map(|i| region.locals[*i]).collect();
    let mut seen = BTreeSet::new();
    while let Some(v) = queue.pop() {
        let Some((id, _)) = graph.producer(v) else { continue };
        if id == region.anchor {
            return true;
        }
        if inside.contains(&id) && seen.insert(id) {
            queue.extend(graph.node(id).operands().map(|(_, v)| v));
        }
    }
    false
}

fn squares(graph: &Graph, region: &Region, m: &NormMatch) -> bool {
    let node = graph.node(region.anchor);
    if let (Op::SkipRmsNorm { .. }, [_, sum]) = (&node.op, node.outputs.as_slice()) {
        return region.local(*sum).is_some_and(|i| m.sums.iter().any(|(_, s)| s.contains(&i)));
    }
    let Some(operand) = node.input(0) else { return false };
    let averages = matches!(node.op, Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum, .. });
    let square = averages.then(|| region::squared(graph, operand)).flatten();
    let mut row = Some(square.map_or(operand, |(_, row)| row));
    while let Some(v) = row {
        if region.local(v).is_some_and(|i| m.h.contains(&i)) {
            return true;
        }
        row = region::producer_op(graph, v)
            .filter(|(id, op)| matches!(op, Op::Cast { .. }) || is_view(graph, *id))
            .and_then(|(n, _)| graph.node(n).input(0));
    }
    false
}
