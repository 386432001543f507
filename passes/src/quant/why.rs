//! Why what leads to a factor is no chain from the largest magnitude of what is quantised.

use normfuse_ir::{
    Graph, NodeId, Op, ValueId,
    op::{ReduceOp, UnaryOp},
};

use super::amax;
use crate::{
    region::{producer_op, typed},
    views::is_view,
};

/// What the node does at which reading back from the factor ended: the values of `v` meet the factor in runs of `width`.
pub fn no_step(graph: &Graph, at: NodeId, v: ValueId, width: Option<u64>) -> String {
    let node = graph.node(at);
    match &node.op {
        Op::Reduce { op: ReduceOp::Max, .. } => largest(graph, at, v, width),
        Op::Where => "a choice is a step if it asks whether a value is 0, and gives one number for that".to_owned(),
        Op::Binary(_) if node.inputs.len() == 2 => {
            format!(
                "`{}` with anything but one number is no step from the largest magnitude to a scale",
                node.op.name()
            )
        }
        op => format!("`{}` is no step from the largest magnitude to a scale", op.name()),
    }
}

/// What is wrong with what a maximum is taken of.
fn largest(graph: &Graph, at: NodeId, v: ValueId, width: Option<u64>) -> String {
    let node = graph.node(at);
    if !amax::reduces(graph, at, width) {
        let shape = node.input(0).and_then(|x| typed(graph, x)).map_or_else(String::new, |(_, s)| s.to_string());
        let axes = match &node.op {
            Op::Reduce { axes: Some(axes), .. } => format!("axes {axes:?} of {shape}"),
            _ => format!("all of {shape}"),
        };
        let run = width.map_or_else(|| "everything".to_owned(), |w| format!("each run of {w} values"));
        return format!("the largest value is taken over {axes}, and the factor is that of {run}");
    }
    let mut magnitude = false;
    let mut of = node.input(0);
    while let Some(value) = of.filter(|x| *x != v) {
        let Some((id, op)) = producer_op(graph, value) else { break };
        match op {
            Op::Unary(UnaryOp::Abs) => magnitude = true,
            Op::Cast { .. } => {}
            _ if is_view(graph, id) => {}
            _ => break,
        }
        of = graph.node(id).input(0);
    }
    let name = |value: ValueId| &graph.value(value).name;
    match of {
        Some(x) if x != v => format!("the largest value is taken of `{}`, and `{}` is quantised", name(x), name(v)),
        _ if !magnitude => "the largest value is taken, not the largest magnitude".to_owned(),
        _ => "the magnitudes are cast to a type that does not hold them before the largest is taken".to_owned(),
    }
}
