//! Roundings to f4e2m1 that a graph spells with comparisons, and two codes packed into a byte.
//!
//! A rounding takes 20 to 110 nodes and no two authors spell it alike, so it is recognised by *meaning*: if all that
//! happens to the value is a magnitude and comparisons with constants, the code is constant between those constants.
//! Evaluating it at each constant, just below, just above and half-way between is then a proof.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    DType, Graph, NodeId, Op, Tensor, ValueId,
    eval::eval_node,
    num,
    op::{BinaryOp, UnaryOp},
    scheme::{Encode, Step},
};

use crate::{
    consts::scalar,
    region::{producer_op, typed},
    views::is_view,
};

/// Most nodes of a rounding.
const MAX_NODES: usize = 160;

/// Where rounding to nearest, ties to even, changes its result.
const THRESHOLDS: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];

/// Two codes in a byte.
pub struct Packed {
    /// The codes, one a byte.
    pub codes: ValueId,
    /// True if the even index is in the low nibble.
    pub low_first: bool,
    /// The nodes that pack them.
    pub nodes: BTreeSet<NodeId>,
}

/// Reads `even | (odd << 4)`, in any order and with a sum or a product in place of either.
pub fn packed(graph: &Graph, id: NodeId) -> Option<Packed> {
    let node = graph.node(id);
    if !matches!(node.op, Op::Binary(BinaryOp::BitwiseOr | BinaryOp::Add)) {
        return None;
    }
    if typed(graph, *node.outputs.first()?)?.0 != DType::U8 {
        return None;
    }
    let (a, b) = (node.input(0)?, node.input(1)?);
    let (low, (high, shift)) = match (high_nibble(graph, a), high_nibble(graph, b)) {
        (None, Some(high)) => (a, high),
        (Some(high), None) => (b, high),
        _ => return None,
    };
    let mut nodes = BTreeSet::from([id, shift]);
    let (first, of_low) = every_other(graph, low, &mut nodes)?;
    let (second, of_high) = every_other(graph, high, &mut nodes)?;
    let codes = through_views(graph, of_low, &mut nodes);
    let one = codes == through_views(graph, of_high, &mut nodes) && first != second;
    one.then_some(Packed { codes, low_first: first < second, nodes })
}

/// `x << 4` or `x * 16`.
fn high_nibble(graph: &Graph, value: ValueId) -> Option<(ValueId, NodeId)> {
    let (id, op) = producer_op(graph, value)?;
    let Op::Binary(op) = op else { return None };
    let (x, y) = (graph.node(id).input(0)?, graph.node(id).input(1)?);
    let is = |v: ValueId, n: f64| integer(graph, v) == Some(n);
    match op {
        BinaryOp::ShiftLeft if is(y, 4.0) => Some((x, id)),
        BinaryOp::Mul if is(y, 16.0) => Some((x, id)),
        BinaryOp::Mul if is(x, 16.0) => Some((y, id)),
        _ => None,
    }
}

/// An integer constant of one element.
fn integer(graph: &Graph, value: ValueId) -> Option<f64> {
    if let Some(n) = scalar(graph, value) {
        return Some(n.value());
    }
    let t = graph.value(value).as_const()?;
    match (t.dtype(), t.bytes()) {
        (DType::U8, [b]) => Some(f64::from(*b)),
        (DType::I8, [b]) => Some(f64::from(*b as i8)),
        _ => None,
    }
}

/// The small i64 constants of a slice's operand.
fn integers(graph: &Graph, value: ValueId) -> Option<Vec<i64>> {
    let t = graph.value(value).as_const().filter(|t| t.len() <= 8)?;
    match t.dtype() {
        DType::I64 => Some(t.bytes().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        DType::I32 => Some(t.bytes().as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect()),
        _ => None,
    }
}

/// What a value is every second element of, and from which on (0 or 1): a slice with a step of 2, or one of a pair.
fn every_other(graph: &Graph, value: ValueId, nodes: &mut BTreeSet<NodeId>) -> Option<(i64, ValueId)> {
    let value = through_views(graph, value, nodes);
    let (id, op) = producer_op(graph, value)?;
    let node = graph.node(id);
    let x = node.input(0)?;
    let shape = typed(graph, x)?.1;
    let (rank, last) = (shape.rank() as i64, shape.last()?.as_const()?);
    let is_last = |axis: i64| axis == -1 || axis == rank - 1;
    let first = match op {
        Op::Slice => {
            let of = |port: usize| node.input(port).and_then(|v| integers(graph, v));
            let (starts, ends, axes) = (of(1)?, of(2)?, of(3)?);
            let steps = of(4).unwrap_or_else(|| vec![1]);
            match (&starts[..], &ends[..], &axes[..], &steps[..]) {
                ([start], [end], [axis], [2]) if is_last(*axis) && last % 2 == 0 && *end >= last => *start,
                ([start], [end], [axis], [1]) if is_last(*axis) && last == 2 && *end == *start + 1 => *start,
                _ => return None,
            }
        }
        Op::Gather { axis } if is_last(*axis) && last == 2 => integer(graph, node.input(1)?)? as i64,
        Op::Split { axis, outputs: 2 } if is_last(*axis) && last == 2 => {
            node.outputs.iter().position(|v| *v == value)? as i64
        }
        _ => return None,
    };
    nodes.insert(id);
    matches!(first, 0 | 1).then_some((first, x))
}

fn through_views(graph: &Graph, value: ValueId, nodes: &mut BTreeSet<NodeId>) -> ValueId {
    let mut value = value;
    for _ in 0..8 {
        match producer_op(graph, value) {
            Some((id, _)) if is_view(graph, id) => {
                let Some(x) = graph.node(id).input(0) else { break };
                nodes.insert(id);
                value = x;
            }
            _ => break,
        }
    }
    value
}

/// The one float value that codes depend on.
fn one_leaf(leaf: &mut Option<ValueId>, value: ValueId) -> Result<(), Unreadable> {
    match leaf {
        Some(seen) if *seen != value => Err((None, "the codes depend on two float values".to_owned())),
        _ => {
            *leaf = Some(value);
            Ok(())
        }
    }
}

/// The elementwise nodes between a float value and its codes.
pub struct Cluster {
    /// The value.
    pub y: ValueId,
    /// The nodes, producers first.
    order: Vec<NodeId>,
    codes: ValueId,
    /// Every constant that a float is compared with.
    constants: Vec<f32>,
    /// As a set.
    pub nodes: BTreeSet<NodeId>,
}

type Unreadable = (Option<NodeId>, String);

impl Cluster {
    /// Reads back from codes to the one float value that they are a function of.
    pub fn read(graph: &Graph, codes: ValueId) -> Result<Self, Unreadable> {
        let mut c = Self { y: codes, order: Vec::new(), codes, constants: Vec::new(), nodes: BTreeSet::new() };
        let mut leaf = None;
        let mut stack = vec![(codes, false)];
        while let Some((value, ready)) = stack.pop() {
            let Some((id, op)) = producer_op(graph, value) else {
                if graph.value(value).as_const().is_some() {
                    c.constant(graph, value);
                    continue;
                }
                one_leaf(&mut leaf, value)?;
                continue;
            };
            if ready {
                if c.nodes.insert(id) {
                    c.order.push(id);
                }
                continue;
            }
            if c.nodes.contains(&id) {
                continue;
            }
            if c.order.len() + stack.len() > 4 * MAX_NODES || c.order.len() > MAX_NODES {
                return Err((Some(id), format!("more than {MAX_NODES} nodes lead to the codes")));
            }
            let is_float = typed(graph, value).is_some_and(|(d, _)| d.is_float());
            let inside = match op {
                Op::Unary(UnaryOp::Abs | UnaryOp::Neg) => true,
                _ if is_view(graph, id) => true,
                _ if is_float => false,
                Op::Cast { .. } => {
                    // A float that is cast to an integer is rounded by more than comparisons.
                    graph.node(id).input(0).and_then(|x| typed(graph, x)).is_some_and(|(d, _)| !d.is_float())
                }
                Op::Unary(_) | Op::Binary(_) | Op::Where => true,
                _ => return Err((Some(id), format!("`{}` is no elementwise op", op.name()))),
            };
            if !inside {
                if is_float {
                    one_leaf(&mut leaf, value)?;
                    continue;
                }
                return Err((Some(id), format!("`{}` of a float is more than a comparison", op.name())));
            }
            stack.push((value, true));
            let operands = graph.node(id).operands().take(if is_view(graph, id) { 1 } else { usize::MAX });
            stack.extend(operands.map(|(_, v)| (v, false)));
        }
        c.y = leaf.ok_or_else(|| (None, "the codes are a function of no float value".to_owned()))?;
        Ok(c)
    }

    fn constant(&mut self, graph: &Graph, value: ValueId) {
        if let Some(n) = scalar(graph, value).filter(|n| n.dtype.is_float()) {
            self.constants.push(n.value() as f32);
        }
    }

    /// The rounding that the cluster is, for values that the steps before it let through.
    pub fn encode(&self, graph: &Graph, before: &[Step]) -> Option<Encode> {
        let points = self.points(before);
        let found = self.run(graph, &points)?;
        [Encode::Compare, Encode::Saturate].into_iter().find(|encode| {
            points.iter().zip(&found).all(|(y, code)| {
                let want = match encode {
                    Encode::Compare => {
                        let magnitude = if y.is_nan() { 0.0 } else { y.abs() };
                        num::cast_f32_to(DType::F4E2M1, magnitude, true) | if *y < 0.0 { 8 } else { 0 }
                    }
                    _ => num::cast_f32_to(DType::F4E2M1, *y, true),
                };
                want == *code
            })
        })
    }

    /// Values at, around and between all thresholds, within the last clamp, and its bounds: it may let so little through that
    /// no threshold is in it.
    fn points(&self, before: &[Step]) -> Vec<f32> {
        let (mut low, mut high) = (f32::NEG_INFINITY, f32::INFINITY);
        for step in before {
            match step {
                Step::Max(c) => (low, high) = (num::max(low, c.get()), num::max(high, c.get())),
                Step::Min(c) => (low, high) = (num::min(low, c.get()), num::min(high, c.get())),
                _ => (low, high) = (f32::NEG_INFINITY, f32::INFINITY),
            }
        }
        let mut edges: Vec<f32> = self.constants.iter().chain(&THRESHOLDS).flat_map(|c| [*c, -c]).collect();
        edges.extend([0.0, -0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::MAX, f32::MIN, low, high]);
        edges.retain(|e| e.is_finite());
        edges.sort_by(f32::total_cmp);
        edges.dedup_by_key(|e| e.to_bits());
        let mut points: Vec<f32> = edges.iter().flat_map(|e| [e.next_down(), *e, e.next_up()]).collect();
        points.extend(edges.windows(2).map(|w| w[0] / 2.0 + w[1] / 2.0));
        points.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
        points.retain(|p| p.is_nan() || (low <= *p && *p <= high));
        points
    }

    /// The codes of values, by the reference evaluator.
    fn run(&self, graph: &Graph, points: &[f32]) -> Option<Vec<u8>> {
        let (dtype, _) = typed(graph, self.y)?;
        if dtype != DType::F32 {
            return None;
        }
        let mut values: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        values.insert(self.y, Tensor::from_f32(&[points.len()], points));
        for id in &self.order {
            let node = graph.node(*id);
            if is_view(graph, *id) {
                let x = values.get(&node.input(0)?)?.clone();
                values.insert(*node.outputs.first()?, x);
                continue;
            }
            let operand = |v: ValueId| -> Option<Tensor> {
                if let Some(t) = values.get(&v) {
                    return Some(t.clone());
                }
                let t = graph.value(v).as_const().filter(|t| t.len() == 1)?;
                t.reshaped(Vec::new()).ok()
            };
            let inputs: Vec<Option<Tensor>> = node
                .inputs
                .iter()
                .map(|v| v.map(|v| operand(v).ok_or(())).transpose())
                .collect::<Result<_, ()>>()
                .ok()?;
            let refs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
            let out = eval_node(&node.op, &refs).ok()?;
            values.insert(*node.outputs.first()?, out.into_iter().next()?);
        }
        let codes = values.get(&self.codes)?;
        let narrow = codes.dtype() == DType::U8 && codes.len() == points.len();
        narrow.then(|| codes.bytes().to_vec())
    }
}
