//! A region written down as terms.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    DType, Graph, NodeId, Op, Shape, ValueId,
    fused::Root,
    op::{BinaryOp, CastBack, ReduceOp, UnaryOp},
};

use super::{Expr, Region, last_axis_width, typed};
use crate::{
    consts,
    reach::Order,
    term::{LeafFacts, Num, Tag, Ty},
    views::{is_view, without_leading_ones},
};

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

impl Region {
    pub(super) fn describe(graph: &Graph, order: &Order, anchor: NodeId, nodes: &BTreeSet<NodeId>) -> Self {
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
            _ if is_view(graph, id) => Some(Expr::Local(self.operand(graph, x))),
            Op::Expand => self.broadcast(graph, x, out_shape),
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
                let (x, y) = (self.broadcast(graph, x, out_shape)?, node.input(1)?);
                // A weight of ones is a weight, but an exponent is a number however often it is said.
                let exponent = if *op == BinaryOp::Pow { consts::known(graph, y) } else { None };
                let y = match exponent {
                    Some(num) => Expr::Const(num),
                    None => self.broadcast(graph, y, out_shape)?,
                };
                Some(Expr::Op(head, vec![x, y]))
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
