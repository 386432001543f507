//! Values in another shape: what is one, and the least that has to be added to the graph to make one.

use normfuse_ir::{DType, Dim, Graph, NodeId, Op, Shape, Tensor, Type, ValueId, op::UnaryOp};

use crate::{consts, region::typed};

/// True for nodes that keep the elements of their first operand in row-major order: those that only say another shape, and
/// those that move data in general but move none here, as the shapes prove.
pub fn is_view(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let shapes = || {
        let shape = |v: ValueId| typed(graph, v).map(|(_, s)| s);
        Some((shape(node.input(0)?)?, shape(*node.outputs.first()?)?))
    };
    match &node.op {
        // One to sizes that are all said may be possible under some sizes of the rows only: the model promises those, the
        // operands of an op do not.
        Op::Reshape { .. } => {
            let remains = |t: &Tensor| t.bytes().chunks_exact(8).any(|b| b == (-1i64).to_le_bytes());
            let all_said = |v: ValueId| graph.value(v).as_const().is_some_and(|t| !remains(t));
            !node.input(1).is_some_and(all_said) || shapes().is_some_and(|(a, b)| a.numel() == b.numel())
        }
        // Nor do they promise that a size is 1.
        Op::Squeeze { .. } => shapes().is_some_and(|(a, b)| a.numel() == b.numel()),
        Op::Unsqueeze { .. } | Op::Flatten { .. } | Op::Unary(UnaryOp::Identity) => true,
        // As many elements as there are, and none backwards.
        Op::Slice => {
            let forwards = |steps| consts::numbers(graph, steps).is_some_and(|all| all.iter().all(|n| *n > 0.0));
            node.input(4).is_none_or(forwards) && shapes().is_some_and(|(a, b)| a == b)
        }
        // Axes of size 1 may go anywhere.
        Op::Transpose { perm } => shapes().is_some_and(|(shape, _)| moved(shape, perm.as_deref()).is_sorted()),
        Op::Expand => shapes().is_some_and(|(a, b)| {
            let fixed = a.numel().as_const();
            without_leading_ones(a) == without_leading_ones(b) || (fixed.is_some() && fixed == b.numel().as_const())
        }),
        Op::Tile => shapes().is_some_and(|(a, b)| a == b),
        Op::Concat { .. } => node.inputs.len() == 1,
        Op::Split { outputs, .. } => *outputs == 1,
        _ => false,
    }
}

/// The axes in the order in which a transposition has them, but for those of size 1, which may go anywhere.
pub fn moved(shape: &Shape, perm: Option<&[i64]>) -> Vec<usize> {
    let axes: Vec<usize> = match perm {
        Some(perm) => perm.iter().filter_map(|a| usize::try_from(*a).ok()).collect(),
        None => (0..shape.rank()).rev().collect(),
    };
    axes.into_iter().filter(|a| shape.0.get(*a).is_none_or(|d| d.as_const() != Some(1))).collect()
}

/// The sizes from the first on that is not 1: further axes of size 1 in front do not change the flat array.
pub fn without_leading_ones(shape: &Shape) -> &[Dim] {
    let ones = shape.0.iter().take_while(|d| d.as_const() == Some(1)).count();
    &shape.0[ones..]
}

/// Hands out names that no value of the graph has.
#[derive(Debug, Default)]
pub struct Names {
    next: usize,
}

impl Names {
    /// Names that are fresh in a graph that may already have been through the pass.
    pub fn of(graph: &Graph) -> Self {
        let taken =
            graph.values().filter_map(|(_, v)| v.name.strip_prefix("normfuse/")?.rsplit_once('_')?.1.parse().ok());
        Self { next: taken.max().unwrap_or(0) }
    }

    /// A fresh name that says what the value is for.
    pub fn fresh(&mut self, what: &str) -> String {
        self.next += 1;
        format!("normfuse/{what}_{}", self.next)
    }
}

/// The value in the shape `target`, of as many elements; `None` if the shape cannot be said in terms of the value's own.
pub fn restate(graph: &mut Graph, names: &mut Names, value: ValueId, target: &Shape) -> Option<ValueId> {
    restate_by(graph, names, value, target, value)
}

/// As [`restate`], with sizes that a constant cannot say read from `like`, a value of an ordinary dtype.
pub fn restate_by(
    graph: &mut Graph,
    names: &mut Names,
    value: ValueId,
    target: &Shape,
    like: ValueId,
) -> Option<ValueId> {
    let own = graph.value(value).ty.shape.clone()?;
    if own == *target {
        return Some(value);
    }
    let shape = if let Some(sizes) = constant_shape(&own, target) {
        graph.add_const(names.fresh("shape"), Tensor::from_i64(&[sizes.len()], &sizes))
    } else {
        let sizes = graph.value(like).ty.shape.clone()?;
        sizes_from(graph, names, like, &sizes, target)?
    };
    reshape(graph, names, value, shape, target)
}

/// A reshape's constant operand from one shape to another: 0 copies the size at the same place, one -1 is what remains.
pub fn constant_shape(own: &Shape, target: &Shape) -> Option<Vec<i64>> {
    let mut remaining = 1;
    let size = |(i, d): (usize, &Dim)| match d.as_const() {
        // A constant 0 would be read as a copy.
        Some(n) => (n > 0).then_some(n),
        None if own.0.get(i) == Some(d) => Some(0),
        None if remaining > 0 => {
            remaining -= 1;
            Some(-1)
        }
        None => None,
    };
    target.0.iter().enumerate().map(size).collect()
}

/// A reshape of `value` by the given shape operand.
pub fn reshape(
    graph: &mut Graph,
    names: &mut Names,
    value: ValueId,
    shape: ValueId,
    target: &Shape,
) -> Option<ValueId> {
    let ty = graph.value(value).ty.clone();
    let name = names.fresh("view");
    let node =
        graph.add_node(name.clone(), Op::Reshape { allow_zero: false }, &[Some(value), Some(shape)], [name]).ok()?;
    let out = graph.node(node).outputs[0];
    // The rows that a scheme speaks of are those of the shape before.
    *graph.type_mut(out) = Type { shape: Some(target.clone()), strides: None, scheme: None, ..ty };
    Some(out)
}

/// A shape operand for `target`, gathered from the sizes of `value`, whose shape is `own`.
fn sizes_from(graph: &mut Graph, names: &mut Names, value: ValueId, own: &Shape, target: &Shape) -> Option<ValueId> {
    // Each symbolic size is one of the value's own; one that is not is what remains.
    let mut remaining = 1;
    let mut parts = Vec::with_capacity(target.rank());
    for d in &target.0 {
        match (d.as_const(), own.0.iter().position(|o| o == d)) {
            (Some(c), _) if c > 0 => parts.push(Part::Number(c)),
            (None, Some(axis)) => parts.push(Part::Axis(axis as i64)),
            (None, None) if remaining > 0 => {
                remaining -= 1;
                parts.push(Part::Number(-1));
            }
            _ => return None,
        }
    }
    let rank = Dim::from(own.rank() as i64);
    let sizes = node(graph, names, Op::Shape { start: 0, end: None }, &[value], "sizes", Shape(vec![rank]))?;
    let mut operands = Vec::with_capacity(parts.len());
    for part in parts {
        operands.push(match part {
            Part::Number(n) => graph.add_const(names.fresh("size"), Tensor::from_i64(&[1], &[n])),
            Part::Axis(axis) => {
                let index = graph.add_const(names.fresh("axis"), Tensor::from_i64(&[1], &[axis]));
                let one = Shape(vec![Dim::from(1)]);
                node(graph, names, Op::Gather { axis: 0 }, &[sizes, index], "size", one)?
            }
        });
    }
    let len = Shape(vec![Dim::from(target.rank() as i64)]);
    node(graph, names, Op::Concat { axis: 0 }, &operands, "shape", len)
}

enum Part {
    Number(i64),
    Axis(i64),
}

fn node(graph: &mut Graph, names: &mut Names, op: Op, inputs: &[ValueId], what: &str, shape: Shape) -> Option<ValueId> {
    let name = names.fresh(what);
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let id = graph.add_node(name.clone(), op, &inputs, [name]).ok()?;
    let out = graph.node(id).outputs[0];
    *graph.type_mut(out) = Type::tensor(DType::I64, shape);
    Some(out)
}
