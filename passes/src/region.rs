//! Cutting a region around a norm's anchor and writing it down as terms.
//!
//! A region is small: from the anchor (the mean of squares) back over the square, casts and one add, and forward over
//! the ops that norms are made of, casts and views. Quantisers are read apart (see [`crate::quant`]). What enters from
//! outside is a leaf. Forward growth takes an op only if its other operands are already known to the region or
//! parameters (a weight, a scale), so it stops at the model's own arithmetic (residuals, rotary embeddings, gates).

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    DType, Graph, NodeId, Op, Shape, ValueId,
    fused::Root,
    op::{BinaryOp, CastBack, ReduceOp, UnaryOp},
};

use crate::{
    consts,
    reach::Order,
    term::{LeafFacts, Num, Tag, Ty},
};

/// Most nodes in a region. A norm with three quantisers takes about 60.
const MAX_NODES: usize = 96;
/// Longest chain of ops that makes a parameter (a weight, a scale).
const PARAMETER_DEPTH: usize = 6;

/// A value of the region, in terms of earlier values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// From outside.
    Leaf(LeafFacts),
    /// A one-element constant.
    Const(Num),
    /// The flat array of an earlier value.
    Local(usize),
    /// An op by the name that the term language gives it (or an uninterpreted one).
    Op(String, Vec<Expr>),
    /// An integer argument.
    Int(i64),
    /// A type argument.
    Ty(Ty),
    /// A tag argument.
    Tag(Tag),
}

/// A region: its nodes in topological order, and its values with their expressions, operands first.
#[derive(Debug, Clone)]
pub struct Region {
    /// The node that it was cut around.
    pub anchor: NodeId,
    /// Nodes, producers first.
    pub nodes: Vec<NodeId>,
    /// Values, leaves included.
    pub locals: Vec<ValueId>,
    /// What each value is.
    pub exprs: Vec<Expr>,
    index: BTreeMap<ValueId, usize>,
    /// Width of the anchor's rows.
    width: Option<i64>,
}

/// The op at the other end of a value, if a node makes it.
pub fn producer_op(graph: &Graph, value: ValueId) -> Option<(NodeId, &Op)> {
    graph.producer(value).map(|(n, _)| (n, &graph.node(n).op))
}

/// Dtype and shape of a value, if both are known.
pub fn typed(graph: &Graph, value: ValueId) -> Option<(DType, &Shape)> {
    let ty = &graph.value(value).ty;
    Some((ty.dtype?, ty.shape.as_ref()?))
}

/// True for ops that keep the row-major order of the elements of their first operand.
pub fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. }
            | Op::Squeeze { .. }
            | Op::Unsqueeze { .. }
            | Op::Flatten { .. }
            | Op::Unary(UnaryOp::Identity)
    )
}

/// The width of a reduction over the last axis alone, if that is what the node is and the width is known.
pub fn last_axis_width(graph: &Graph, node: NodeId) -> Option<i64> {
    let n = graph.node(node);
    let (_, shape) = typed(graph, n.input(0)?)?;
    let axes = match &n.op {
        Op::Reduce { axes: Some(axes), .. } => axes.as_slice(),
        Op::Reduce { axes: None, .. } if shape.rank() == 1 => &[0],
        Op::RmsNorm { axis, .. } => std::slice::from_ref(axis),
        Op::SkipRmsNorm { .. } => &[-1],
        _ => return None,
    };
    let rank = shape.rank() as i64;
    match axes {
        [a] if rank > 0 && (*a == -1 || *a == rank - 1) => shape.last()?.as_const().filter(|w| *w > 0),
        _ => None,
    }
}

/// True for what scales or shifts rows without being rows: constants, values of rank 0 or 1, single elements, and what
/// light ops make of those (casts of weights, one plus a weight, reciprocals of scales).
fn is_parameter(graph: &Graph, value: ValueId, depth: usize) -> bool {
    let Some((_, shape)) = typed(graph, value) else { return false };
    if graph.value(value).as_const().is_some() || shape.rank() <= 1 || shape.is_single() {
        return true;
    }
    depth > 0
        && graph.producer(value).is_some_and(|(id, _)| {
            is_light(graph, id) && data_operands(graph, id).all(|v| is_parameter(graph, v, depth - 1))
        })
}

/// True if a region may contain the node: every operand and the result are typed, and the term language or an
/// uninterpreted elementwise head can say what it does.
fn is_light(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let typed_all = node.operands().all(|(_, v)| typed(graph, v).is_some())
        && node.outputs.iter().all(|v| typed(graph, *v).is_some());
    typed_all
        && match &node.op {
            Op::Unary(UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal)
            | Op::Binary(BinaryOp::Add | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow)
            // A target shape that is asked of a value of the region.
            | Op::Shape { .. }
            | Op::Expand => true,
            // What is done to one number a row is part of a norm, or a rule of the host's may know it.
            Op::Unary(_) | Op::Binary(_) | Op::Clip => {
                typed(graph, node.outputs[0]).is_some_and(|(_, s)| s.last().is_none_or(|d| d.as_const() == Some(1)))
            }
            // Casts to other types are a quantiser's business.
            Op::Cast { to, .. } => to.is_arithmetic_float(),
            Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum | ReduceOp::SumSquare, .. }
            | Op::RmsNorm { .. }
            | Op::SkipRmsNorm { .. } => last_axis_width(graph, id).is_some(),
            op => is_view(op),
        }
}

/// True for ops that a region does not grow forward over: who asks for a shape, and what a norm has once, at its anchor.
/// A norm that reads another one directly has a region of its own.
fn ends(op: &Op) -> bool {
    matches!(op, Op::Shape { .. } | Op::Reduce { .. } | Op::RmsNorm { .. } | Op::SkipRmsNorm { .. })
}

/// Operands that carry data (a reshape's target shape does not).
fn data_operands(graph: &Graph, id: NodeId) -> impl Iterator<Item = ValueId> + '_ {
    let node = graph.node(id);
    let n = if is_view(&node.op) || matches!(node.op, Op::Expand) { 1 } else { usize::MAX };
    node.operands().take(n).map(|(_, v)| v)
}

/// Further axes of size 1 in front do not change the flat array.
fn without_leading_ones(shape: &Shape) -> &[normfuse_ir::Dim] {
    let ones = shape.0.iter().take_while(|d| d.as_const() == Some(1)).count();
    &shape.0[ones..]
}

fn cast(dtype: DType, e: Expr) -> Expr {
    Expr::Op("cast".into(), vec![Expr::Ty(Ty { dtype, saturate: true }), e])
}

fn normed(root: Tag, width: Expr, eps: Expr, row: Expr) -> Expr {
    Expr::Op("normed".into(), vec![Expr::Tag(root), width, eps, Expr::Tag(Tag::AsRow), row])
}

/// A broadcast operand in another dtype: what is repeated is cast, as rules expect a weight.
fn widened(dtype: DType, e: Expr) -> Expr {
    match e {
        Expr::Op(head, mut args) if head == "tile" || head == "rep" => {
            let inner = args.pop();
            args.extend(inner.map(|e| cast(dtype, e)));
            Expr::Op(head, args)
        }
        e => cast(dtype, e),
    }
}

struct Cut<'g> {
    graph: &'g Graph,
    nodes: BTreeSet<NodeId>,
    /// Values that the region makes or reads.
    known: BTreeSet<ValueId>,
}

impl Cut<'_> {
    fn take(&mut self, id: NodeId) {
        if self.nodes.insert(id) {
            self.known.extend(data_operands(self.graph, id));
            self.known.extend(self.graph.node(id).outputs.iter().copied());
        }
    }

    /// From what is averaged, back over casts and views to the square and on to the rows.
    fn back_from_mean(&mut self, value: ValueId) {
        let Some((square, row)) = squared(self.graph, value) else { return self.back_to_rows(value) };
        let mut value = value;
        while let Some((id, _)) = producer_op(self.graph, value).filter(|(id, _)| is_light(self.graph, *id)) {
            self.take(id);
            if id == square {
                return self.back_to_rows(row);
            }
            let Some(v) = self.graph.node(id).input(0) else { return };
            value = v;
        }
    }

    /// From the row that is normalised, back over casts to one add, and the casts of its operands.
    fn back_to_rows(&mut self, value: ValueId) {
        let mut value = value;
        for _ in 0..4 {
            let Some((id, op)) = producer_op(self.graph, value) else { return };
            if !is_light(self.graph, id) {
                return;
            }
            match op {
                Op::Cast { .. } | Op::Unary(UnaryOp::Identity) => {
                    self.take(id);
                    let Some(v) = self.graph.node(id).input(0) else { return };
                    value = v;
                }
                Op::Binary(BinaryOp::Add) => {
                    self.take(id);
                    for (_, v) in self.graph.node(id).operands() {
                        match producer_op(self.graph, v) {
                            Some((cast, Op::Cast { .. })) if is_light(self.graph, cast) => self.take(cast),
                            _ => {}
                        }
                    }
                    return;
                }
                _ => return,
            }
        }
    }

    /// The node, if a value is a cast of one that the region reads: the row may be squared before it is cast.
    fn cast_of_known(&self, value: ValueId) -> Option<NodeId> {
        let (id, op) = producer_op(self.graph, value)?;
        let known = || self.graph.node(id).input(0).is_some_and(|x| self.known.contains(&x));
        (matches!(op, Op::Cast { .. }) && !self.nodes.contains(&id) && is_light(self.graph, id) && known())
            .then_some(id)
    }

    /// Forward until nothing more fits, nearest first.
    fn forward(&mut self) {
        let mut last: Vec<NodeId> = self.nodes.iter().copied().collect();
        // What fitted but for an operand that the region does not know yet.
        let mut waiting = BTreeSet::new();
        loop {
            for id in last.drain(..).filter(|id| !matches!(self.graph.node(*id).op, Op::Shape { .. })) {
                let users = self.graph.node(id).outputs.iter().flat_map(|v| self.graph.uses(*v)).map(|(n, _)| n);
                let may = |n: &NodeId| !ends(&self.graph.node(*n).op) && is_light(self.graph, *n);
                waiting.extend(users.filter(|n| !self.nodes.contains(n)).filter(may));
            }
            let fits = |user: &NodeId| {
                data_operands(self.graph, *user).all(|v| {
                    self.known.contains(&v)
                        || self.cast_of_known(v).is_some()
                        || is_parameter(self.graph, v, PARAMETER_DEPTH)
                })
            };
            let found: Vec<NodeId> = waiting.iter().copied().filter(fits).collect();
            if found.is_empty() || self.nodes.len() >= MAX_NODES {
                return;
            }
            let casts = found.iter().flat_map(|user| data_operands(self.graph, *user));
            let casts: Vec<NodeId> = casts.filter_map(|v| self.cast_of_known(v)).collect();
            for id in casts.into_iter().chain(found) {
                waiting.remove(&id);
                if !self.nodes.contains(&id) {
                    self.take(id);
                    last.push(id);
                }
            }
        }
    }

    /// Parameters that are computed, and who asks a value of the region for its shape to expand them to.
    fn parameters(&mut self) {
        for _ in 0..PARAMETER_DEPTH {
            let data = self.nodes.iter().flat_map(|id| data_operands(self.graph, *id));
            let parameters = data.filter(|v| is_parameter(self.graph, *v, PARAMETER_DEPTH));
            let targets = self.nodes.iter().filter_map(|id| match self.graph.node(*id) {
                n if matches!(n.op, Op::Expand) => n.input(1),
                _ => None,
            });
            let asks = |v: &ValueId| {
                producer_op(self.graph, *v).is_some_and(|(n, op)| {
                    matches!(op, Op::Shape { .. })
                        && self.graph.node(n).input(0).is_some_and(|x| self.known.contains(&x))
                })
            };
            let found: Vec<NodeId> = parameters
                .chain(targets.filter(asks))
                .filter_map(|v| self.graph.producer(v).map(|(n, _)| n))
                .filter(|n| !self.nodes.contains(n) && is_light(self.graph, *n))
                .collect();
            if found.is_empty() || self.nodes.len() >= MAX_NODES {
                return;
            }
            for id in found {
                self.take(id);
            }
        }
    }
}

/// What a value is the square of, through casts and views: the node that squares, and its operand.
pub fn squared(graph: &Graph, value: ValueId) -> Option<(NodeId, ValueId)> {
    let mut value = value;
    for _ in 0..4 {
        let (id, op) = producer_op(graph, value)?;
        let node = graph.node(id);
        let (a, b) = (node.input(0)?, node.input(1));
        match op {
            Op::Binary(BinaryOp::Mul) if b == Some(a) => return Some((id, a)),
            Op::Binary(BinaryOp::Pow) if consts::known(graph, b?).is_some_and(|c| c.value() == 2.0) => {
                return Some((id, a));
            }
            Op::Cast { to, .. } if to.is_arithmetic_float() => value = a,
            op if is_view(op) => value = a,
            _ => return None,
        }
    }
    None
}

/// The region of a norm's anchor: a reduction of squares over the last axis, or a native norm.
pub fn around_norm(graph: &Graph, order: &Order, anchor: NodeId) -> Region {
    let mut cut = Cut { graph, nodes: BTreeSet::new(), known: BTreeSet::new() };
    cut.take(anchor);
    if let Some(operand) = graph.node(anchor).input(0) {
        match graph.node(anchor).op {
            Op::Reduce { op: ReduceOp::Mean | ReduceOp::Sum, .. } => cut.back_from_mean(operand),
            // Its operands are cast inside, if at all.
            Op::SkipRmsNorm { .. } => {}
            _ => cut.back_to_rows(operand),
        }
    }
    cut.forward();
    cut.parameters();
    Region::describe(graph, order, anchor, &cut.nodes)
}

impl Region {
    /// Position of a value in the region.
    pub fn local(&self, value: ValueId) -> Option<usize> {
        self.index.get(&value).copied()
    }

    fn describe(graph: &Graph, order: &Order, anchor: NodeId, nodes: &BTreeSet<NodeId>) -> Self {
        let mut region = Self {
            anchor,
            nodes: Vec::new(),
            locals: Vec::new(),
            exprs: Vec::new(),
            index: BTreeMap::new(),
            width: last_axis_width(graph, anchor),
        };
        // Producers first, in an order that ids have no part in.
        region.nodes = order.sorted(nodes.iter().copied());
        for id in region.nodes.clone() {
            region.describe_node(graph, id);
        }
        region
    }

    fn push(&mut self, value: ValueId, expr: Expr) -> usize {
        let i = self.locals.len();
        self.locals.push(value);
        self.exprs.push(expr);
        self.index.insert(value, i);
        i
    }

    fn operand(&mut self, graph: &Graph, value: ValueId) -> usize {
        if let Some(i) = self.local(value) {
            return i;
        }
        let expr = match (self.constant(graph, value), typed(graph, value)) {
            (Some(num), _) => Expr::Const(num),
            (None, Some((dtype, shape))) => {
                let len = shape.numel().as_const();
                let rows = len != Some(1) && graph.value(value).as_const().is_none();
                Expr::Leaf(LeafFacts { dtype, one: len == Some(1), rows, len })
            }
            // Nodes with untyped operands are not light, so regions have none.
            (None, None) => Expr::Op("untyped".into(), vec![]),
        };
        self.push(value, expr)
    }

    /// The number that a value is, or that all its elements are where it is no vector as long as the row: a weight of
    /// ones is a weight.
    fn constant(&self, graph: &Graph, value: ValueId) -> Option<Num> {
        let (_, shape) = typed(graph, value)?;
        let as_wide = shape.last().is_some_and(|d| d.as_const().is_some() && d.as_const() == self.width);
        if as_wide && !shape.is_single() { None } else { consts::known(graph, value) }
    }

    /// An operand as it meets a result of shape `out`: as it is, repeated, tiled, or not sayable.
    fn broadcast(&mut self, graph: &Graph, value: ValueId, out: &Shape) -> Option<Expr> {
        let (_, shape) = typed(graph, value)?;
        let shape = shape.clone();
        let local = Expr::Local(self.operand(graph, value));
        let width = out.last().and_then(normfuse_ir::Dim::as_const);
        if shape.is_single() {
            // With one row, one computed element is one a row.
            let one_row = width.is_some_and(|w| w > 1) && out.numel().as_const() == width;
            let computed = one_row && graph.producer(value).is_some() && self.constant(graph, value).is_none();
            return Some(match width {
                Some(w) if computed => Expr::Op("rep".into(), vec![Expr::Int(w), local]),
                _ => local,
            });
        }
        if without_leading_ones(&shape) == without_leading_ones(out)
            || matches!(self.exprs.get(self.local(value)?), Some(Expr::Const(_)))
        {
            return Some(local);
        }
        let width = width?;
        let pad = out.rank().checked_sub(shape.rank())?;
        let lead = &out.0[..out.rank() - 1];
        let is_one = |d: &normfuse_ir::Dim| d.as_const() == Some(1);
        let leads_equal = shape.rank() > 0
            && lead[..pad.min(lead.len())].iter().all(is_one)
            && shape.0[..shape.rank() - 1] == lead[pad.min(lead.len())..];
        match shape.last()?.as_const() {
            Some(1) if leads_equal => Some(Expr::Op("rep".into(), vec![Expr::Int(width), local])),
            Some(w) if w == width && shape.0[..shape.rank() - 1].iter().all(is_one) => {
                Some(Expr::Op("tile".into(), vec![Expr::Int(width), local]))
            }
            _ => None,
        }
    }

    fn describe_node(&mut self, graph: &Graph, id: NodeId) {
        let node = graph.node(id);
        // Typed, but not in the language: a value of its own that equals nothing else.
        let opaque = |out: ValueId| {
            let (dtype, len) = typed(graph, out).map_or((DType::F32, None), |(d, s)| (d, s.numel().as_const()));
            Expr::Leaf(LeafFacts { dtype, one: len == Some(1), rows: false, len })
        };
        if let (Op::SkipRmsNorm { .. }, [y, sum]) = (&node.op, node.outputs.as_slice()) {
            let exprs = self.skip_norm(graph, id);
            let (y_expr, sum_expr) = exprs.unwrap_or_else(|| (opaque(*y), opaque(*sum)));
            self.push(*sum, sum_expr);
            self.push(*y, y_expr);
            return;
        }
        let Some(out) = node.outputs.first().copied() else { return };
        let expr = match self.constant(graph, out) {
            Some(num) => Expr::Const(num),
            None => self.expr(graph, id).unwrap_or_else(|| opaque(out)),
        };
        self.push(out, expr);
    }

    /// The norm and the sum of a `SkipRmsNorm`: all in f32, and cast on the way out.
    fn skip_norm(&mut self, graph: &Graph, id: NodeId) -> Option<(Expr, Expr)> {
        let node = graph.node(id);
        let Op::SkipRmsNorm { eps } = node.op else { return None };
        let [Some(x), Some(skip), Some(scale)] = *node.inputs.as_slice() else { return None };
        let (dtype, shape) = typed(graph, x)?;
        if typed(graph, skip)?.1 != shape {
            return None;
        }
        let width = Expr::Int(last_axis_width(graph, id)?);
        let eps = Expr::Const(consts::num(DType::F32, f64::from(eps.get()))?);
        let wide = |e| cast(DType::F32, e);
        let (a, b) = (self.operand(graph, x), self.operand(graph, skip));
        let sum = Expr::Op("add".into(), vec![wide(Expr::Local(a)), wide(Expr::Local(b))]);
        let normed = normed(Tag::DivSqrt, width, eps, sum.clone());
        let factor = widened(DType::F32, self.broadcast(graph, scale, shape)?);
        Some((cast(dtype, Expr::Op("mul".into(), vec![normed, factor])), cast(dtype, sum)))
    }

    fn expr(&mut self, graph: &Graph, id: NodeId) -> Option<Expr> {
        let node = graph.node(id);
        let x = node.input(0)?;
        let (_, out_shape) = typed(graph, *node.outputs.first()?)?;
        let unary =
            |region: &mut Self, head: &str| Some(Expr::Op(head.into(), vec![Expr::Local(region.operand(graph, x))]));
        match &node.op {
            op if is_view(op) => Some(Expr::Local(self.operand(graph, x))),
            Op::Expand => {
                // Axes of size 1 alone are a view.
                let same = |s: &Shape| s.numel().as_const().is_some() && s.numel() == out_shape.numel();
                match typed(graph, x) {
                    Some((_, s)) if same(s) => Some(Expr::Local(self.operand(graph, x))),
                    _ => self.broadcast(graph, x, out_shape),
                }
            }
            Op::Unary(op) => match op {
                UnaryOp::Sqrt => unary(self, "sqrt"),
                UnaryOp::Reciprocal => unary(self, "recip"),
                UnaryOp::Rsqrt => unary(self, "rsqrt"),
                other => unary(self, &format!("op:{other:?}")),
            },
            Op::Cast { to, saturate } => {
                let ty = Ty { dtype: *to, saturate: *saturate || !(to.is_quantised() && to.is_float()) };
                Some(Expr::Op("cast".into(), vec![Expr::Ty(ty), Expr::Local(self.operand(graph, x))]))
            }
            Op::Binary(op) => {
                let head = match op {
                    BinaryOp::Add => "add".to_owned(),
                    BinaryOp::Sub => "sub".into(),
                    BinaryOp::Mul => "mul".into(),
                    BinaryOp::Div => "div".into(),
                    BinaryOp::Pow => "pow".into(),
                    BinaryOp::Max => "max".into(),
                    BinaryOp::Min => "min".into(),
                    other => format!("op:{other:?}"),
                };
                let args =
                    vec![self.broadcast(graph, x, out_shape)?, self.broadcast(graph, node.input(1)?, out_shape)?];
                Some(Expr::Op(head, args))
            }
            Op::Clip => {
                // NaN passes and zeros order the same way, so a clip is a maximum and a minimum.
                let mut e = Expr::Local(self.operand(graph, x));
                for (port, head) in [(1, "max"), (2, "min")] {
                    if let Some(bound) = node.input(port) {
                        e = Expr::Op(head.into(), vec![e, Expr::Local(self.operand(graph, bound))]);
                    }
                }
                Some(e)
            }
            Op::Reduce { op, .. } => {
                let width = Expr::Int(last_axis_width(graph, id)?);
                let x = Expr::Local(self.operand(graph, x));
                match op {
                    ReduceOp::Mean => Some(Expr::Op("mean".into(), vec![width, x])),
                    ReduceOp::Sum => Some(Expr::Op("sum".into(), vec![width, x])),
                    // In 16 bits its squares are rounded with the sum, not one by one.
                    ReduceOp::SumSquare if typed(graph, node.input(0)?)?.0 == DType::F32 => {
                        Some(Expr::Op("sum".into(), vec![width, Expr::Op("mul".into(), vec![x.clone(), x])]))
                    }
                    _ => None,
                }
            }
            Op::RmsNorm { eps, stash, root, cast: back, .. } => {
                let width = last_axis_width(graph, id)?;
                let (dtype, _) = typed(graph, x)?;
                let scale = node.input(1)?;
                let row = cast(*stash, Expr::Local(self.operand(graph, x)));
                let eps = consts::num(*stash, f64::from(eps.get()))?;
                let root = match root {
                    Root::DivideBySqrt => Tag::DivSqrt,
                    Root::ReciprocalSqrt => Tag::RecipSqrt,
                    Root::Rsqrt => Tag::Rsqrt,
                };
                let normed = normed(root, Expr::Int(width), Expr::Const(eps), row);
                let factor = self.broadcast(graph, scale, out_shape)?;
                let mul = |a, b| Expr::Op("mul".into(), vec![a, b]);
                Some(match back {
                    CastBack::BeforeScale => mul(cast(dtype, normed), factor),
                    CastBack::AfterScale => cast(typed(graph, scale)?.0, mul(normed, widened(*stash, factor))),
                })
            }
            _ => None,
        }
    }
}
