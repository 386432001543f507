//! Why something that looks like a norm is none: the first precondition that fails, walked from the anchor in the order
//! in which the rule lists them. Only runs where recognition failed, so it may take its time.

use normfuse_ir::{
    DType, Graph, NodeId, Op, ValueId,
    op::{BinaryOp, UnaryOp},
};

use crate::{
    candidate::Refusal,
    consts::scalar,
    region::{is_view, last_axis_width, producer_op, typed},
    report::Outcome,
};

/// The first failing precondition of the `rms_norm` rule at an anchor, and whether all the earlier ones make it a near
/// miss.
pub fn norm(graph: &Graph, anchor: NodeId) -> (Outcome, Refusal) {
    let refuse = |outcome, precondition, node: NodeId, hint: String| {
        (outcome, Refusal { rule: "rms_norm", precondition, node: Some(node), hint })
    };
    let node = graph.node(anchor);
    let squares = node.input(0);
    if squares.is_none_or(|v| typed(graph, v).is_none()) {
        return refuse(
            Outcome::Rejected,
            "last_axis",
            anchor,
            "the operand's dtype or shape is unknown: it comes from an op that the IR does not know".into(),
        );
    }
    if last_axis_width(graph, anchor).is_none() {
        return refuse(
            Outcome::Rejected,
            "last_axis",
            anchor,
            "the reduction runs over other axes than the last one, or the last size is not a known number".into(),
        );
    }
    let row = squares.and_then(|v| squared(graph, v));
    if let Some(row) = row
        && let Some(sub) = centred(graph, row)
    {
        return refuse(
            Outcome::Rejected,
            "not_centred",
            sub,
            "the row's own mean is subtracted first, so this is a LayerNorm's variance".into(),
        );
    }
    if matches!(node.op, Op::SkipRmsNorm { .. })
        && let Some((precondition, hint)) = skip_norm(graph, anchor)
    {
        let refusal = Refusal { rule: "residual_add", precondition, node: Some(anchor), hint };
        return (Outcome::Nearest, refusal);
    }
    if matches!(node.op, Op::RmsNorm { .. } | Op::SkipRmsNorm { .. }) {
        return refuse(
            Outcome::Nearest,
            "weight_vector",
            anchor,
            "the scale is not a vector as long as the row".into(),
        );
    }
    let Some(row) = row else {
        return refuse(Outcome::Rejected, "square", anchor, "what is averaged is not the square of a row".into());
    };
    let mean = node.outputs[0];
    let Some((add, sum)) = user(graph, mean, |op| matches!(op, Op::Binary(BinaryOp::Add))) else {
        return refuse(Outcome::Rejected, "eps_constant", anchor, "nothing is added to the mean of squares".into());
    };
    let other = graph.node(add).operands().map(|(_, v)| v).find(|v| !same_through_views(graph, *v, mean));
    if other.is_none_or(|v| scalar(graph, v).is_none()) {
        return refuse(
            Outcome::Nearest,
            "eps_constant",
            add,
            "what is added to the mean of squares is not one constant number".into(),
        );
    }
    if let Some(eps) = other.and_then(|v| scalar(graph, v))
        && f64::from(eps.value() as f32) != eps.value()
    {
        let hint = format!("{} is added to the mean of squares, which is no finite number that f32 holds", eps.value());
        return refuse(Outcome::Nearest, "eps_constant", add, hint);
    }
    let root = user(graph, sum, |op| matches!(op, Op::Unary(UnaryOp::Sqrt | UnaryOp::Rsqrt)));
    let Some((root_node, mut r)) = root else {
        return refuse(Outcome::Nearest, "root", add, "no sqrt or rsqrt reads the sum".into());
    };
    if let Some((_, inverse)) = user(graph, r, |op| matches!(op, Op::Unary(UnaryOp::Reciprocal))) {
        r = inverse;
    } else if let Some((n, inverse)) = user(graph, r, |op| matches!(op, Op::Binary(BinaryOp::Div)))
        && let Some(numerator) = graph.node(n).input(0).and_then(|v| scalar(graph, v))
    {
        if numerator.value() != 1.0 {
            let hint = format!("{} over the root is not the reciprocal of the root", numerator.value());
            return refuse(Outcome::Nearest, "root", n, hint);
        }
        r = inverse;
    }
    let Some((product, normed)) = user(graph, r, |op| matches!(op, Op::Binary(BinaryOp::Mul | BinaryOp::Div))) else {
        return refuse(Outcome::Nearest, "root", root_node, "the root is not turned into a factor of the row".into());
    };
    let scaled = graph.node(product).operands().any(|(_, v)| same_through_views(graph, v, row));
    if !scaled {
        return refuse(
            Outcome::Nearest,
            "same_row",
            product,
            format!("`{}` was squared, but another value is scaled", graph.value(row).name),
        );
    }
    let weighted = user(graph, normed, |op| matches!(op, Op::Binary(BinaryOp::Mul))).or_else(|| {
        user(graph, normed, |op| matches!(op, Op::Cast { .. }))
            .and_then(|(_, v)| user(graph, v, |op| matches!(op, Op::Binary(BinaryOp::Mul))))
    });
    let at = weighted.map_or(product, |(n, _)| n);
    refuse(
        Outcome::Nearest,
        "weight_vector",
        at,
        "the normalised row is not scaled by one vector as long as the row, in one of the known orders of casts".into(),
    )
}

/// Why the sum of a `SkipRmsNorm` is none that a fused op makes.
fn skip_norm(graph: &Graph, anchor: NodeId) -> Option<(&'static str, String)> {
    let node = graph.node(anchor);
    let ty = |port: usize| node.input(port).and_then(|v| typed(graph, v));
    if node.input(3).is_some() {
        return Some(("two_operands", "a bias is added to the sum, too".into()));
    }
    let (dtype, shape) = ty(0)?;
    if ty(1).is_some_and(|(_, s)| s != shape) {
        return Some(("same_shape", "one operand of the add broadcasts to the other".into()));
    }
    let hint = format!("the norm reads the sum in f32, before it is rounded to {dtype}");
    (dtype != DType::F32).then_some(("rounded_sum", hint))
}

/// What a value is the square of.
pub fn squared(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let (id, op) = producer_op(graph, value)?;
    let node = graph.node(id);
    let (a, b) = (node.input(0)?, node.input(1));
    match op {
        Op::Binary(BinaryOp::Mul) if b == Some(a) => Some(a),
        Op::Binary(BinaryOp::Pow) if b.and_then(|b| scalar(graph, b)).is_some_and(|c| c.value() == 2.0) => Some(a),
        _ => None,
    }
}

/// The subtraction, if a value is some row minus the mean of that row.
pub fn centred(graph: &Graph, row: ValueId) -> Option<NodeId> {
    let row = through(graph, row, true);
    let (id, op) = producer_op(graph, row)?;
    if !matches!(op, Op::Binary(BinaryOp::Sub)) {
        return None;
    }
    let mean = through(graph, graph.node(id).input(1)?, true);
    let (_, op) = producer_op(graph, mean)?;
    matches!(op, Op::Reduce { op: normfuse_ir::op::ReduceOp::Mean, .. }).then_some(id)
}

/// Back through views, and casts if asked.
fn through(graph: &Graph, value: ValueId, casts: bool) -> ValueId {
    let mut value = value;
    for _ in 0..16 {
        match producer_op(graph, value) {
            Some((id, op)) if is_view(op) || (casts && matches!(op, Op::Cast { .. })) => {
                match graph.node(id).input(0) {
                    Some(v) => value = v,
                    None => break,
                }
            }
            _ => break,
        }
    }
    value
}

fn same_through_views(graph: &Graph, a: ValueId, b: ValueId) -> bool {
    through(graph, a, true) == through(graph, b, true)
}

/// A user of the value, through views, whose op fits; with its first result.
fn user(graph: &Graph, value: ValueId, fits: impl Fn(&Op) -> bool + Copy) -> Option<(NodeId, ValueId)> {
    let users = graph.users(value);
    let hit = users.iter().find(|(n, _)| fits(&graph.node(*n).op)).map(|(n, _)| (*n, graph.node(*n).outputs[0]));
    hit.or_else(|| {
        users
            .iter()
            .filter(|(n, p)| *p == 0 && is_view(&graph.node(*n).op))
            .find_map(|(n, _)| user(graph, graph.node(*n).outputs[0], fits))
    })
}

/// The subtraction, if what the anchor squares is a row minus its own mean.
pub fn centred_row(graph: &Graph, anchor: NodeId) -> Option<NodeId> {
    let operand = graph.node(anchor).input(0)?;
    squared(graph, operand).and_then(|row| centred(graph, row))
}
