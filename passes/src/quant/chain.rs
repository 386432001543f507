//! From a factor back to where it comes from: one scalar step after another, through views.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Graph, NodeId, Op, ValueId,
    op::{BinaryOp, UnaryOp},
    scheme::{F32, Step},
};

use super::amax::amax;
use crate::{
    consts::{known, num, scalar},
    region::{producer_op, typed},
    term::Num,
    views::is_view,
};

/// Longest chain. The longest in use (MXFP8's) has about a dozen nodes.
const MAX_LENGTH: usize = 48;

/// A step as the graph has it, with the dtype in which it is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// Arithmetic in a dtype.
    Step(Step, DType),
    /// A cast; to a narrow type in its saturating form or not.
    Cast(DType, bool),
}

/// Steps with the casts that matter, for arithmetic that begins in `compute` on a magnitude of data of type `held`, which
/// `compute` holds.
pub fn forward(raws: &[Raw], compute: DType, held: DType) -> Vec<Step> {
    let mut at = compute;
    let mut steps = Vec::new();
    // Before the first step the value is one of the data, exact in every type that holds those.
    let mut exact = true;
    for raw in raws {
        match *raw {
            Raw::Cast(to, saturate) if !to.is_arithmetic_float() => {
                steps.push(Step::Cast { to, saturate });
                exact = false;
            }
            Raw::Cast(to, saturate) => {
                exact &= held.embeds_in(to);
                if to != at && !exact {
                    steps.push(Step::Cast { to, saturate });
                    at = to;
                }
            }
            Raw::Step(step, dtype) => {
                if dtype != at {
                    steps.push(Step::Cast { to: dtype, saturate: true });
                    at = dtype;
                }
                steps.push(step);
                exact = false;
            }
        }
    }
    steps
}

/// Where a chain begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// A given operand.
    Given,
    /// The largest magnitude of so many consecutive values, or of all.
    Amax(Option<u64>),
}

/// Where a node reads an operand.
pub type Use = (NodeId, usize);

/// A given operand: the value, and every place where it is read as that. A constant may be read elsewhere, too, as the
/// number that a step has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The value.
    pub value: ValueId,
    /// Where it is read.
    pub at: Vec<Use>,
}

/// A value of the chain, and how many raw steps lead to it.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The value.
    pub value: ValueId,
    /// Steps before it.
    pub steps: usize,
}

/// A chain, from its base to the factor.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Where it begins.
    pub base: Base,
    /// Its values; the last one is the factor.
    pub points: Vec<Point>,
    /// Its steps.
    pub raws: Vec<Raw>,
    /// The operand that it begins with, or that one of its steps reads.
    pub given: Option<Given>,
    /// Its nodes, those between the base and the quantised value included.
    pub nodes: BTreeSet<NodeId>,
}

/// A value before views and casts that lose nothing.
#[derive(Debug, Clone)]
pub struct Stripped {
    /// The value.
    pub value: ValueId,
    /// The views and casts.
    pub nodes: BTreeSet<NodeId>,
}

/// Goes back through views, and through casts that lose nothing.
pub fn strip(graph: &Graph, value: ValueId) -> Stripped {
    let mut s = Stripped { value, nodes: BTreeSet::new() };
    for _ in 0..MAX_LENGTH {
        let Some((id, op)) = producer_op(graph, s.value) else { break };
        let Some(x) = graph.node(id).input(0) else { break };
        let passes = match op {
            Op::Cast { to, .. } => typed(graph, x).is_some_and(|(d, _)| d.is_arithmetic_float() && d.embeds_in(*to)),
            _ => is_view(graph, id),
        };
        if !passes || typed(graph, x).is_none() {
            break;
        }
        s.nodes.insert(id);
        s.value = x;
    }
    s
}

impl Chain {
    /// Reads the chain that makes `factor`, which meets values in runs of `width` (`None`: one factor for all) at `at`.
    ///
    /// # Errors
    /// The node at which reading stopped.
    pub fn read(
        graph: &Graph,
        (factor, at): (ValueId, Use),
        v: ValueId,
        width: Option<u64>,
    ) -> Result<Option<Self>, NodeId> {
        let mut c =
            Self { base: Base::Given, points: Vec::new(), raws: Vec::new(), given: None, nodes: BTreeSet::new() };
        match c.walk(graph, factor, v, width) {
            Walked::Amax => return Ok(Some(c)),
            Walked::Stopped(at) if width.is_some() => return Err(at),
            Walked::Stopped(_) | Walked::Open => {}
        }
        // One factor for all values that is no function of their magnitudes: it is given, or its reciprocal is.
        let mut given = Self {
            base: Base::Given,
            points: vec![Point { value: factor, steps: 0 }],
            raws: Vec::new(),
            given: Some(Given { value: factor, at: vec![at] }),
            nodes: BTreeSet::new(),
        };
        if let Some((id, Raw::Step(Step::Over(c), d), x)) = Self::first_step(graph, factor)
            && c.get() == 1.0
            && graph.value(x).as_const().is_none_or(|t| t.len() == 1)
        {
            let port = graph.node(id).inputs.iter().position(|v| *v == Some(x)).unwrap_or(0);
            given.given = Some(Given { value: x, at: vec![(id, port)] });
            given.raws = vec![Raw::Step(Step::Over(c), d)];
            given.points = vec![Point { value: x, steps: 0 }, Point { value: factor, steps: 1 }];
            given.nodes.insert(id);
        }
        Ok(Some(given))
    }

    fn first_step(graph: &Graph, value: ValueId) -> Option<(NodeId, Raw, ValueId)> {
        let mut given = None;
        let (id, raws, x) = step(graph, value, &mut given)?;
        match raws[..] {
            [raw] => Some((id, raw, x)),
            _ => None,
        }
    }

    fn walk(&mut self, graph: &Graph, factor: ValueId, v: ValueId, width: Option<u64>) -> Walked {
        // From the factor to the base, so in reverse; turned round at the end.
        let mut value = factor;
        let mut reversed: Vec<(ValueId, usize)> = Vec::new();
        let mut raws: Vec<Raw> = Vec::new();
        for _ in 0..MAX_LENGTH {
            reversed.push((value, raws.len()));
            let Some((id, _)) = producer_op(graph, value) else { return Walked::Open };
            if let Some(nodes) = amax(graph, id, v, width) {
                self.nodes.extend(nodes);
                self.base = Base::Amax(width);
                let total = raws.len();
                self.points =
                    reversed.iter().rev().map(|(value, n)| Point { value: *value, steps: total - n }).collect();
                raws.reverse();
                self.raws = raws;
                return Walked::Amax;
            }
            if is_view(graph, id) {
                self.nodes.insert(id);
                let Some(x) = graph.node(id).input(0) else { return Walked::Stopped(id) };
                value = x;
                continue;
            }
            let mut given = None;
            let Some((_, found, x)) = step(graph, value, &mut given) else { return Walked::Stopped(id) };
            match (&mut self.given, given) {
                (Some(own), Some(new)) if own.value == new.value => own.at.extend(new.at),
                (Some(_), Some(_)) => return Walked::Stopped(id),
                (own, new) => *own = own.take().or(new),
            }
            self.nodes.insert(id);
            if let Some(inner) = inner_node(graph, id) {
                self.nodes.extend(inner);
            }
            raws.extend(found.iter().rev());
            value = x;
        }
        Walked::Open
    }

    /// The steps to a point.
    pub fn steps(&self, point: usize, compute: DType, held: DType) -> Vec<Step> {
        forward(&self.raws[..self.points[point].steps], compute, held)
    }

    /// A storage form of a point that a user of it begins: further steps that end in a cast to u8, f8e8m0 or f8e4m3fn.
    /// A scheme's cast to its scale's dtype saturates; one that does not is a step before it, which leaves it nothing to do.
    pub fn stored(&self, graph: &Graph, point: usize, user: NodeId) -> Option<(ValueId, Vec<Raw>, BTreeSet<NodeId>)> {
        let mut raws = self.raws[..self.points[point].steps].to_vec();
        let mut nodes = BTreeSet::new();
        let mut id = user;
        for _ in 0..8 {
            let node = graph.node(id);
            let out = *node.outputs.first()?;
            if let Op::Cast { to, saturate } = node.op
                && matches!(to, DType::U8 | DType::F8E8M0 | DType::F8E4M3FN)
                && typed(graph, node.input(0)?)?.0.is_arithmetic_float()
            {
                if !saturate && to.is_narrow_float() {
                    raws.push(Raw::Cast(to, saturate));
                }
                nodes.insert(id);
                return Some((out, raws, nodes));
            }
            if !is_view(graph, id) {
                let mut given = None;
                let (_, found, _) = step(graph, out, &mut given)?;
                if given.is_some() {
                    return None;
                }
                raws.extend(found);
            }
            nodes.insert(id);
            // What others read on the way stays what it is.
            let [(next, 0)] = graph.users(out)[..] else { return None };
            if graph.is_output(out) {
                return None;
            }
            id = next;
        }
        None
    }
}

enum Walked {
    /// Reached the magnitudes.
    Amax,
    /// A node that is no step.
    Stopped(NodeId),
    /// The edge of the graph, or too long.
    Open,
}

/// Further nodes that a step consists of: the comparison and the quotient of a guarded division, and what makes zeros as
/// large as the quotient.
fn inner_node(graph: &Graph, id: NodeId) -> Option<Vec<NodeId>> {
    let node = graph.node(id);
    if !matches!(node.op, Op::Where) {
        return None;
    }
    let of = |port: usize| node.input(port).and_then(|v| graph.producer(v)).map(|(n, _)| n);
    let zeros = of(1).filter(|n| matches!(graph.node(*n).op, Op::ConstantOfShape { .. }));
    let shape = zeros.and_then(|n| producer_op(graph, graph.node(n).input(0)?));
    let asks = shape.filter(|(_, op)| matches!(op, Op::Shape { .. })).map(|(n, _)| n);
    Some([of(0), of(2), zeros, asks].into_iter().flatten().filter(|n| !is_view(graph, *n)).collect())
}

/// A constant of one element as an f32, exact in every dtype that quantisers compute in.
fn constant(graph: &Graph, value: ValueId) -> Option<F32> {
    scalar(graph, value).and_then(single)
}

fn single(number: Num) -> Option<F32> {
    let v = number.value();
    (f64::from(v as f32) == v || v.is_nan()).then(|| F32::new(v as f32))
}

/// The op that makes a value as scalar steps on one operand; a second operand of one element that is no constant
/// becomes `given`.
pub fn step(graph: &Graph, value: ValueId, given: &mut Option<Given>) -> Option<(NodeId, Vec<Raw>, ValueId)> {
    let (id, op) = producer_op(graph, value)?;
    let node = graph.node(id);
    let (dtype, _) = typed(graph, value)?;
    let x = node.input(0)?;
    let one = |v: ValueId| typed(graph, v).is_some_and(|(_, s)| s.is_single());
    let numel = |v: ValueId| typed(graph, v).map(|(_, s)| s.numel());
    // The other operand must not blow the value up.
    let same_size = |v: ValueId| numel(v) == numel(value);
    let done = |steps: Vec<Step>, x: ValueId| {
        Some((id, steps.into_iter().map(|s| Raw::Step(s, dtype)).collect::<Vec<_>>(), x))
    };
    match op {
        Op::Cast { to, saturate } => {
            let (from, _) = typed(graph, x)?;
            let widens = from.is_narrow_float() && from.embeds_in(*to) && to.is_arithmetic_float();
            if widens {
                // The value of a code; the arithmetic's dtype shows in the next step.
                return Some((id, Vec::new(), x));
            }
            let known = from.is_arithmetic_float()
                && (to.is_narrow_float() || matches!(to, DType::F32 | DType::F16 | DType::BF16));
            known.then(|| (id, vec![Raw::Cast(*to, *saturate)], x))
        }
        Op::Unary(op) => {
            let s = match op {
                UnaryOp::Reciprocal => Step::Over(F32::new(1.0)),
                UnaryOp::Log => Step::Log,
                UnaryOp::Log2 => Step::Log2,
                UnaryOp::Exp2 => Step::Exp2,
                UnaryOp::Floor => Step::Floor,
                UnaryOp::Ceil => Step::Ceil,
                UnaryOp::Round => Step::Round,
                // Of the bits the same function.
                UnaryOp::Neg => Step::Mul(F32::new(-1.0)),
                _ => return None,
            };
            done(vec![s], x)
        }
        Op::Clip => {
            let mut steps = Vec::new();
            for (port, by, by_given) in
                [(1, Step::Max as fn(F32) -> Step, Step::MaxGiven), (2, Step::Min, Step::MinGiven)]
            {
                let Some(bound) = node.input(port) else { continue };
                steps.push(match constant(graph, bound) {
                    Some(c) => by(c),
                    None if given.is_none() => {
                        *given = Some(Given { value: bound, at: vec![(id, port)] });
                        by_given
                    }
                    None => return None,
                });
            }
            done(steps, x)
        }
        Op::Binary(op) => {
            let y = node.input(1)?;
            let (a, b) = (constant(graph, x), constant(graph, y));
            match (op, a, b) {
                (BinaryOp::Max, _, Some(c)) if same_size(x) => done(vec![Step::Max(c)], x),
                (BinaryOp::Max, Some(c), _) if same_size(y) => done(vec![Step::Max(c)], y),
                (BinaryOp::Min, _, Some(c)) if same_size(x) => done(vec![Step::Min(c)], x),
                (BinaryOp::Min, Some(c), _) if same_size(y) => done(vec![Step::Min(c)], y),
                (BinaryOp::Add, _, Some(c)) if same_size(x) => done(vec![Step::Add(c)], x),
                (BinaryOp::Add, Some(c), _) if same_size(y) => done(vec![Step::Add(c)], y),
                // x - c and x + (-c) are one function of the bits.
                (BinaryOp::Sub, _, Some(c)) if same_size(x) => done(vec![Step::Add(F32::new(-c.get()))], x),
                (BinaryOp::Sub, Some(c), _) if same_size(y) => done(vec![Step::Mul(F32::new(-1.0)), Step::Add(c)], y),
                (BinaryOp::Mul, _, Some(c)) if same_size(x) => done(vec![Step::Mul(c)], x),
                (BinaryOp::Mul, Some(c), _) if same_size(y) => done(vec![Step::Mul(c)], y),
                (BinaryOp::Div, _, Some(c)) if same_size(x) => done(vec![Step::Div(c)], x),
                (BinaryOp::Div, Some(c), _) if same_size(y) => done(vec![Step::Over(c)], y),
                (BinaryOp::Pow, Some(c), None) if same_size(y) && typed(graph, y)?.0 == dtype => {
                    done(vec![Step::Power(c)], y)
                }
                (op, None, None) => {
                    // On the right, and on the left.
                    let steps = match op {
                        BinaryOp::Mul => [Step::MulGiven; 2],
                        BinaryOp::Div => [Step::DivGiven, Step::GivenOver],
                        BinaryOp::Max => [Step::MaxGiven; 2],
                        BinaryOp::Min => [Step::MinGiven; 2],
                        _ => return None,
                    };
                    let right = one(y) && same_size(x);
                    if !(right || (one(x) && same_size(y))) {
                        return None;
                    }
                    let (by, port, x, step) = if right { (y, 1, x, steps[0]) } else { (x, 0, y, steps[1]) };
                    *given = Some(Given { value: by, at: vec![(id, port)] });
                    done(vec![step], x)
                }
                _ => None,
            }
        }
        Op::Where => guarded(graph, id, given).and_then(|(s, x)| done(s, x)),
        _ => None,
    }
}

/// `where(x == 0, c, x)`, `where(x == 0, 0, given / x)` and `where(x == 0, c, x / d)`.
fn guarded(graph: &Graph, id: NodeId, given: &mut Option<Given>) -> Option<(Vec<Step>, ValueId)> {
    let node = graph.node(id);
    let (condition, then, other) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let (eq, Op::Binary(BinaryOp::Equal)) = producer_op(graph, condition)? else { return None };
    let (a, b) = (graph.node(eq).input(0)?, graph.node(eq).input(1)?);
    let x = match (constant(graph, a), constant(graph, b)) {
        (None, Some(z)) if z.get() == 0.0 => a,
        (Some(z), None) if z.get() == 0.0 => b,
        _ => return None,
    };
    // One number, or as many of it as there are values.
    let numel = |v: ValueId| typed(graph, v).map(|(_, s)| s.numel());
    let fills = numel(then)?.as_const() == Some(1) || numel(then) == numel(x);
    let then = known(graph, then).filter(|_| fills).and_then(single)?;
    if other == x {
        return Some((vec![Step::IfZero(then)], x));
    }
    let (div, Op::Binary(BinaryOp::Div)) = producer_op(graph, other)? else { return None };
    let (numerator, denominator) = (graph.node(div).input(0)?, graph.node(div).input(1)?);
    if numerator == x {
        let by = constant(graph, denominator)?;
        return Some((vec![Step::IfZero(times(then, by, typed(graph, other)?.0)?), Step::Div(by)], x));
    }
    let one = typed(graph, numerator)?.1.is_single();
    (one && denominator == x && then.get().to_bits() == 0).then(|| {
        *given = Some(Given { value: numerator, at: vec![(div, 0)] });
        (vec![Step::GivenOverOrZero], x)
    })
}

/// The product of two numbers, if `dtype` holds it: divided by the second, it is the first again, to the bit.
fn times(a: F32, b: F32, dtype: DType) -> Option<F32> {
    let product = f64::from(a.get()) * f64::from(b.get());
    let held = num(dtype, product).and_then(single).filter(|p| f64::from(p.get()) == product);
    held.filter(|p| p.get().is_finite() && b.get() != 0.0)
}
