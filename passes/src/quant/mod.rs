//! Quantisers: read off the graph backwards, from the node that makes the codes to the value that is quantised.
//!
//! ```text
//! codes <- encode <- post steps <- v / factor or v * factor
//!                                        factor <- steps <- amax of v, or a given scale
//! ```
//! Nothing is matched by name or as a whole: every scalar op between is a [`normfuse_ir::scheme::Step`] of the scheme, in
//! the order in which the graph has it, so quantisers that give other bits get other schemes.

mod amax;
mod chain;
mod codes;
mod e2m1;
mod why;

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Granularity, Graph, NodeId, Op, Scheme, Shape, ValueId,
    op::ReduceOp,
    scheme::{Origin, ScaleLayout, ScaleOutput, ZeroPoint},
};

pub use chain::Use;
use chain::{Base, Chain, strip};
use codes::Codes;
pub use codes::{Reach, application, is_zero};

use crate::{
    candidate::Refusal,
    reach::Order,
    region::{last_axis_width, typed},
    views::is_view,
};

/// A quantiser of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quant {
    /// The node that makes the codes.
    pub anchor: NodeId,
    /// All that decides its bits, with the granularity that the last axis of [`Self::v`] suggests.
    pub scheme: Scheme,
    /// How many consecutive values share a computed scale; `None` for a given scale or the whole tensor.
    pub width: Option<u64>,
    /// What is quantised, before views and lossless casts.
    pub v: ValueId,
    /// The given scale, inverse scale or global scale.
    pub given: Option<ValueId>,
    /// The given zero point.
    pub zero: Option<ValueId>,
    /// Where both are read.
    pub given_at: Vec<Use>,
    /// Codes.
    pub q: ValueId,
    /// Computed scales.
    pub scale: Option<ValueId>,
    /// Computed zero point.
    pub zero_out: Option<ValueId>,
    /// Nodes between [`Self::v`] and the results.
    pub nodes: BTreeSet<NodeId>,
}

/// Why an anchor is no quantiser that fuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// It is none, and nobody would take it for one.
    None,
    /// It looks like one: what is missing.
    Nearest(Refusal),
    /// It is one, but stands in its own way.
    Refused(Refusal),
}

/// True for nodes that may be the last one of a quantiser.
pub fn is_anchor(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    match &node.op {
        Op::Cast { to, .. } => {
            to.is_quantised()
                && node.input(0).is_some_and(|v| {
                    // Casts of constants are weights on their way; casts between narrow types quantise nothing.
                    graph.producer(v).is_some()
                        && (typed(graph, v).is_none_or(|(d, _)| d.is_arithmetic_float())
                            || codes::whole(graph, v).is_some())
                })
        }
        Op::QuantizeLinear { .. } => node.input(0).is_some_and(|v| graph.value(v).as_const().is_none()),
        Op::DynamicQuantizeLinear => true,
        _ => e2m1::packed(graph, id).is_some(),
    }
}

/// Reads the quantiser that ends in a node.
///
/// # Errors
/// Why it is none.
pub fn find(graph: &Graph, order: &Order, anchor: NodeId) -> Result<Quant, Miss> {
    if matches!(graph.node(anchor).op, Op::DynamicQuantizeLinear) {
        return dynamic_linear(graph, anchor).ok_or(Miss::None);
    }
    let codes = Codes::read(graph, anchor)?;
    let base = strip(graph, codes.v);
    let read = |f, width| Chain::read(graph, f, base.value, width);
    // With one row, the one scale may be that of the row.
    let row = codes.factor.zip(codes.only_row).and_then(|(f, width)| read(f, Some(width)).ok().flatten());
    let mut chain = match codes.factor {
        None => None,
        Some(_) if row.is_some() => row,
        Some(f) => read(f, codes.factor_width).map_err(|at| {
            let hint = why::no_step(graph, at, base.value, codes.factor_width);
            codes::scheme_miss(graph, codes.v, codes.factor_width, (at, hint))
        })?,
    };
    let mut q = Quant {
        anchor,
        scheme: codes.scheme,
        width: None,
        v: base.value,
        given: None,
        zero: codes.zero,
        given_at: codes.zero.iter().map(|_| (anchor, 2)).collect(),
        q: codes.q,
        scale: None,
        zero_out: None,
        nodes: codes.nodes,
    };
    q.nodes.extend(base.nodes);
    if let Some(c) = &mut chain {
        q.nodes.append(&mut c.nodes);
        q.given = c.given.as_ref().map(|g| g.value);
        q.given_at.extend(c.given.iter().flat_map(|g| &g.at));
        q.scheme.given = q.given.and_then(|g| typed(graph, g)).map(|(d, _)| d);
        let (held, _) = typed(graph, q.v).ok_or(Miss::None)?;
        let compute = q.scheme.compute;
        q.scheme.factor = c.steps(c.points.len() - 1, compute, held);
        // QuantizeLinear may divide in another type than its scale has, and round both on the way. A chain of steps begins
        // in the type of the division, so it can only say that of a scale without steps.
        let scale = codes.factor.and_then(|(f, _)| typed(graph, f)).map_or(compute, |(d, _)| d);
        let rounded = scale != compute && !c.raws.is_empty();
        if rounded || (c.base != Base::Given && !held.embeds_in(compute)) {
            let hint = format!("values are divided in {compute}, and the scale is computed in {scale} from {held}");
            let rule = crate::rules::quantiser_rule(&q);
            return Err(Miss::Nearest(Refusal { rule, precondition: "scheme", node: Some(anchor), hint }));
        }
        match c.base {
            Base::Given => {
                q.scheme.origin = Origin::Given;
                if q.scheme.granularity != Granularity::Channel {
                    q.scheme.granularity = Granularity::Tensor;
                    let found = q.given.and_then(|g| typed(graph, g)).map(|(_, s)| s);
                    if found.is_none_or(|s| !s.is_single()) {
                        let found = found.map_or_else(|| "an open shape".to_owned(), ToString::to_string);
                        let hint =
                            format!("a given scale is one number, or one a channel of QuantizeLinear; found {found}");
                        let rule = crate::rules::quantiser_rule(&q);
                        return Err(Miss::Nearest(Refusal { rule, precondition: "scheme", node: Some(anchor), hint }));
                    }
                }
            }
            Base::Amax(width) => {
                q.scheme.origin = Origin::Amax;
                q.width = width;
                let row = typed(graph, q.v).and_then(|(_, s)| s.last()?.as_const());
                q.scheme.granularity = match width {
                    None => Granularity::Tensor,
                    Some(w) if row == i64::try_from(w).ok() && !seen_as_group(graph, &q, w) => Granularity::Token,
                    Some(w) => Granularity::Group(u32::try_from(w).map_err(|_| Miss::None)?),
                };
                tap(graph, order, &mut q, c, held)?;
            }
        }
    }
    let results = [Some(q.q), q.scale];
    views_behind(graph, results.into_iter().flatten(), &mut q.nodes);
    q.scheme.check().map_err(|hint| {
        Miss::Nearest(Refusal { rule: "quant_static", precondition: "scheme", node: Some(anchor), hint })
    })?;
    Ok(q)
}

/// One scale a row: the one group of it, if the quantiser looked at the rows through a group axis of size 1.
pub fn seen_as_group(graph: &Graph, q: &Quant, width: u64) -> bool {
    let second_last = |s: &Shape| s.rank().checked_sub(2).and_then(|i| s.0[i].as_const());
    let own = typed(graph, q.v).and_then(|(_, s)| second_last(s));
    let reduces = |n: &NodeId| {
        let node = graph.node(*n);
        matches!(node.op, Op::Reduce { op: ReduceOp::Max, .. })
            && last_axis_width(graph, *n) == i64::try_from(width).ok()
            && node.input(0).and_then(|v| typed(graph, v)).is_some_and(|(_, s)| second_last(s) == Some(1))
    };
    own != Some(1) && q.nodes.iter().any(reduces)
}

/// ONNX DynamicQuantizeLinear.
fn dynamic_linear(graph: &Graph, anchor: NodeId) -> Option<Quant> {
    let node = graph.node(anchor);
    typed(graph, node.input(0)?)?;
    let [q, scale, zero] = node.outputs[..] else { return None };
    let base = strip(graph, node.input(0)?);
    let steps = vec![normfuse_ir::scheme::Step::Div(255.0.into())];
    let round = vec![normfuse_ir::scheme::Step::Round];
    let scheme = Scheme::dynamic(DType::U8, Granularity::Tensor, steps);
    let scheme = Scheme { origin: Origin::Range, post: round, zero_point: ZeroPoint::Range, ..scheme };
    let mut nodes = base.nodes;
    nodes.insert(anchor);
    views_behind(graph, [q, scale, zero].into_iter(), &mut nodes);
    Some(Quant {
        anchor,
        scheme,
        width: None,
        v: base.value,
        given: None,
        zero: None,
        given_at: Vec::new(),
        q,
        scale: Some(scale),
        zero_out: Some(zero),
        nodes,
    })
}

/// Which point of the chain is the scale that others read: the one, directly or cast to a storage type.
fn tap(graph: &Graph, order: &Order, q: &mut Quant, chain: &Chain, held: DType) -> Result<(), Miss> {
    let mut taps: Vec<(ValueId, ScaleOutput, BTreeSet<NodeId>)> = Vec::new();
    let compute = q.scheme.compute;
    // The first point is the origin itself: an amax that others read is a scale like any other.
    for i in 0..chain.points.len() {
        let value = chain.points[i].value;
        let mut direct = graph.is_output(value);
        let mut users: Vec<NodeId> = graph.uses(value).map(|(user, _)| user).collect();
        users.sort_by_key(|user| order.position(*user));
        for user in users {
            if q.nodes.contains(&user) {
                continue;
            }
            match chain.stored(graph, i, user) {
                Some((value, raws, nodes)) => {
                    let (dtype, _) = typed(graph, value).ok_or(Miss::None)?;
                    let steps = chain::forward(&raws, compute, held);
                    taps.push((value, ScaleOutput { steps, dtype }, nodes));
                }
                // Views of a point are points in another shape.
                None if is_view(graph, user)
                    && chain.points.iter().any(|p| graph.node(user).outputs.contains(&p.value)) => {}
                None => direct = true,
            }
        }
        if direct {
            let (dtype, _) = typed(graph, value).ok_or(Miss::None)?;
            taps.push((value, ScaleOutput { steps: chain.steps(i, compute, held), dtype }, BTreeSet::new()));
        }
    }
    // The same function of the origin in several shapes, or spelled once a reader, is one scale. Of several functions it is
    // the one nearest to the factor; who reads another may be a quantiser of the same op, or keeps this one out of it.
    let nearest = taps.last().map(|t| t.1.clone());
    taps.retain(|t| Some(&t.1) == nearest.as_ref());
    if let Some((value, output, nodes)) = taps.into_iter().next() {
        q.nodes.extend(nodes);
        q.scale = Some(value);
        q.scheme.scale = Some(output);
    } else {
        q.scheme.scale = None;
    }
    Ok(())
}

/// The views that results are seen through: they are said anew behind the fused op.
pub fn views_behind(graph: &Graph, of: impl Iterator<Item = ValueId>, nodes: &mut BTreeSet<NodeId>) {
    let mut queue: Vec<ValueId> = of.collect();
    while let Some(v) = queue.pop() {
        for (user, port) in graph.users(v) {
            // A view of no known shape cannot be said anew, so it stays.
            let known = graph.node(user).outputs.iter().all(|v| typed(graph, *v).is_some());
            if port == 0 && known && is_view(graph, user) && nodes.insert(user) {
                queue.extend(&graph.node(user).outputs);
            }
        }
    }
}

/// A scheme with nothing in it yet.
fn blank(element: DType, compute: DType) -> Scheme {
    Scheme {
        compute,
        given: None,
        layout: ScaleLayout::RowMajor,
        ..Scheme::fixed(element, normfuse_ir::scheme::Apply::Divide)
    }
}
