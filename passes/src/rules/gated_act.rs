//! The gated activation before a quantiser: `activation(gate) * up` becomes the prologue of the op that quantises it.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Graph, NodeId, Op, ValueId,
    fused::{Activation, Gated},
    num,
    op::{BinaryOp, UnaryOp},
    scheme::F32,
};

use super::{Rule, no_schemes, none};
use crate::{
    candidate::Refusal,
    consts,
    region::{producer_op, typed},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "gated_act",
    summary: "A gated activation that a quantiser reads moves into one op with it.",
    picture: "
gate -> [min] -> [cast] -> silu, gelu or x * sigmoid([alpha *] x) -> [cast] --* --> [cast] -> y -> quantiser
up   -> [clamp] -> [+ 1] -> [cast] -------------------------------------------'               '--> (y, where somebody reads it)",
    preconditions: &[
        "activation: silu, gelu, its tanh form, or a sigmoid times what it is of, in f32, f16 or bf16",
        "bounds: the gate has a largest value, the other factor a largest magnitude; other bounds stay ops before it",
        "two_operands: gate and up are two values of one shape, that of the product",
        "no_escape: nobody outside reads what is between them and the product",
        "independent: neither depends on what the op makes",
        "width: the size of the quantised row is fixed in the model",
        "supported: the runtime has a kernel for it",
    ],
    rewrites: none,
    schemes: no_schemes,
};

/// A gated activation of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// Everything that decides its bits.
    pub gated: Gated,
    /// What is activated.
    pub gate: ValueId,
    /// What that is multiplied with.
    pub up: ValueId,
    /// From both to the product.
    pub nodes: BTreeSet<NodeId>,
}

/// Read backwards from the product.
struct Reader<'g> {
    graph: &'g Graph,
    /// Whether bounds, and what is added to the other factor, are read, too.
    bounds: bool,
    nodes: BTreeSet<NodeId>,
}

/// The gated activation that makes a value, if one does; with bounds on its operands, and a one that is added to the second, or
/// with those as ops before it.
///
/// # Errors
/// The first precondition that fails, for what has an activation as a factor.
pub fn find(graph: &Graph, product: ValueId, bounds: bool) -> Result<Option<Gate>, Refusal> {
    let Some((dtype, shape)) = typed(graph, product) else { return Ok(None) };
    let mut reader = Reader { graph, bounds, nodes: BTreeSet::new() };
    // A product in a wider dtype, rounded once more; one that is only widened is quantised before that.
    let made = reader.cast(product, |from, to| to.embeds_in(from)).unwrap_or(product);
    let Some((multiply, [a, b])) = multiplied(graph, made) else { return Ok(None) };
    reader.nodes.insert(multiply);
    let sides = [(a, b), (b, a)].into_iter().find_map(|(a, up)| {
        let mut own = Reader { graph, bounds, nodes: reader.nodes.clone() };
        Some((own.activation(a)?, up, own))
    });
    let Some((found, up, mut reader)) = sides else { return Ok(None) };
    let refuse =
        |precondition, hint: String| Err(Refusal { rule: RULE.name, precondition, node: Some(multiply), hint });
    let Factor { up, up_limit, shifted } = reader.factor(up);
    let (Some((gate_dtype, gate_shape)), Some((up_dtype, up_shape))) = (typed(graph, found.gate), typed(graph, up))
    else {
        return Ok(None);
    };
    for d in [gate_dtype, up_dtype, found.compute, found.rounded, dtype] {
        if !matches!(d, DType::F32 | DType::F16 | DType::BF16) {
            return refuse("activation", format!("expected f32, f16 or bf16, found {d}"));
        }
    }
    if gate_shape != shape || up_shape != shape {
        return refuse(
            "two_operands",
            format!("the product is {shape}, its gate {gate_shape} and the other factor {up_shape}"),
        );
    }
    if found.gate == up {
        return refuse("two_operands", format!("gate and factor are both `{}`", graph.value(up).name));
    }
    let gated = Gated {
        alpha: found.alpha,
        gate_max: found.gate_max,
        up_limit,
        shifted,
        ..Gated::new(found.activation, [gate_dtype, up_dtype], found.compute, found.rounded, dtype)
    };
    Ok(Some(Gate { gated, gate: found.gate, up, nodes: reader.nodes }))
}

/// The factors of a product.
fn multiplied(graph: &Graph, value: ValueId) -> Option<(NodeId, [ValueId; 2])> {
    let (id, op) = producer_op(graph, value)?;
    let node = graph.node(id);
    matches!(op, Op::Binary(BinaryOp::Mul)).then_some((id, [node.input(0)?, node.input(1)?]))
}

/// The factor of the product that is an activation.
struct Activated {
    activation: Activation,
    alpha: Option<F32>,
    gate: ValueId,
    gate_max: Option<F32>,
    compute: DType,
    rounded: DType,
}

/// The other one.
struct Factor {
    up: ValueId,
    up_limit: Option<F32>,
    shifted: Option<DType>,
}

/// A value and the numbers between which another one is.
struct Bounds {
    of: ValueId,
    least: Option<F32>,
    most: Option<F32>,
    nodes: BTreeSet<NodeId>,
}

impl Reader<'_> {
    /// What a cast makes the value of, if one does that goes as asked.
    fn cast(&mut self, value: ValueId, goes: impl Fn(DType, DType) -> bool) -> Option<ValueId> {
        let (id, op) = producer_op(self.graph, value)?;
        let Op::Cast { to, .. } = op else { return None };
        let from = self.graph.node(id).input(0)?;
        let (dtype, _) = typed(self.graph, from)?;
        goes(dtype, *to).then(|| {
            self.nodes.insert(id);
            from
        })
    }

    /// A factor that is an activation, in whatever dtype it is rounded to.
    fn activation(&mut self, factor: ValueId) -> Option<Activated> {
        let a = self.cast(factor, DType::embeds_in).unwrap_or(factor);
        let (rounded, _) = typed(self.graph, a)?;
        let a = self.cast(a, |from, to| to.embeds_in(from)).unwrap_or(a);
        let (compute, _) = typed(self.graph, a)?;
        let (activation, alpha, x) = self.function(a)?;
        let x = self.cast(x, DType::embeds_in).unwrap_or(x);
        let (mut gate, mut gate_max) = (x, None);
        if let Some(Bounds { of, least: None, most: Some(most), nodes }) = self.bounds(x) {
            self.nodes.extend(nodes);
            gate = self.cast(of, DType::embeds_in).unwrap_or(of);
            gate_max = Some(most);
        }
        Some(Activated { activation, alpha, gate, gate_max, compute, rounded })
    }

    /// The function that makes a value, the factor of a sigmoid's operand, and what it is of.
    fn function(&mut self, value: ValueId) -> Option<(Activation, Option<F32>, ValueId)> {
        let (id, op) = producer_op(self.graph, value)?;
        let x = self.graph.node(id).input(0)?;
        let found = match op {
            Op::Unary(UnaryOp::Silu) => (Activation::Silu, None, x),
            Op::Unary(UnaryOp::Gelu) => (Activation::Gelu, None, x),
            Op::Unary(UnaryOp::GeluTanh) => (Activation::GeluTanh, None, x),
            Op::Binary(BinaryOp::Mul) => {
                let (_, [a, b]) = multiplied(self.graph, value)?;
                let (alpha, x) = self.sigmoid(a, b).or_else(|| self.sigmoid(b, a))?;
                (Activation::SigmoidProduct, alpha, x)
            }
            _ => return None,
        };
        self.nodes.insert(id);
        Some(found)
    }

    /// What `s` has for a factor of its operand, if it is a sigmoid of `x` or of its product with a number.
    fn sigmoid(&mut self, s: ValueId, x: ValueId) -> Option<(Option<F32>, ValueId)> {
        let (id, op) = producer_op(self.graph, s)?;
        let of = self.graph.node(id).input(0).filter(|_| matches!(op, Op::Unary(UnaryOp::Sigmoid)))?;
        if of == x {
            self.nodes.insert(id);
            return Some((None, x));
        }
        if !self.bounds {
            return None;
        }
        // In the dtype of x, or in f32 and rounded to that.
        let mut own = Reader { graph: self.graph, bounds: true, nodes: BTreeSet::from([id]) };
        let product = own.cast(of, |from, _| from == DType::F32).unwrap_or(of);
        let (multiply, [a, b]) = multiplied(self.graph, product)?;
        let (scaled, alpha) = own.number(b).map(|n| (a, n)).or_else(|| Some((b, own.number(a)?)))?;
        let same = scaled == x || own.cast(scaled, DType::embeds_in) == Some(x);
        let dtype = |v| typed(self.graph, v).map(|(d, _)| d);
        if !same
            || !self.same_shape(scaled, product)
            || dtype(of) != dtype(x)
            || !alpha.get().is_finite()
            || alpha.get() == 1.0
        {
            return None;
        }
        self.nodes.extend(own.nodes);
        self.nodes.insert(multiply);
        Some((Some(alpha), x))
    }

    /// The other factor, of what it is made.
    fn factor(&mut self, up: ValueId) -> Factor {
        let up = self.cast(up, DType::embeds_in).unwrap_or(up);
        let mut factor = Factor { up, up_limit: None, shifted: None };
        if !self.bounds {
            return factor;
        }
        // The one in the dtype of the sum, or added in f32 and rounded to that.
        let mut own = Reader { graph: self.graph, bounds: true, nodes: BTreeSet::new() };
        let sum = own.cast(up, |from, to| from == DType::F32 && to.embeds_in(from)).unwrap_or(up);
        if let (Some((add, of)), Some((dtype, _))) = (own.plus_one(sum), typed(self.graph, up)) {
            self.nodes.extend(own.nodes);
            self.nodes.insert(add);
            factor.shifted = Some(dtype);
            factor.up = self.cast(of, DType::embeds_in).unwrap_or(of);
        }
        if let Some(Bounds { of, least: Some(least), most: Some(most), nodes }) = self.bounds(factor.up)
            && least.get() == -most.get()
        {
            self.nodes.extend(nodes);
            let holds = |d: DType| num::round_to(d, most.get()) == most.get();
            factor.up = self.cast(of, |from, to| from.embeds_in(to) && holds(from)).unwrap_or(of);
            factor.up_limit = Some(most);
        }
        factor
    }

    /// What a value is bounded by, in one op or two.
    fn bounds(&self, value: ValueId) -> Option<Bounds> {
        if !self.bounds {
            return None;
        }
        let mut found = Bounds { of: value, least: None, most: None, nodes: BTreeSet::new() };
        while let Some((id, op)) = producer_op(self.graph, found.of) {
            let node = self.graph.node(id);
            let bound = |port: usize| node.input(port).map(|v| self.number(v));
            // The number is either operand of two.
            let (value_at, number) = if bound(0).flatten().is_some() { (1, bound(0)) } else { (0, bound(1)) };
            let (value_at, least, most) = match op {
                Op::Clip => (0, bound(1), bound(2)),
                Op::Binary(BinaryOp::Max) => (value_at, number, None),
                Op::Binary(BinaryOp::Min) => (value_at, None, number),
                _ => break,
            };
            // One that is no positive magnitude, or that is computed, stays an op, and so does a second one of a kind.
            let known = |b: Option<Option<F32>>, taken: Option<F32>, sign: f32| match b {
                None => Some(taken),
                Some(b) => b.filter(|b| taken.is_none() && b.get().is_finite() && b.get() * sign > 0.0).map(Some),
            };
            let (Some(least), Some(most)) = (known(least, found.least, -1.0), known(most, found.most, 1.0)) else {
                break;
            };
            let Some(of) = node.input(value_at).filter(|of| self.same_shape(*of, value)) else { break };
            found.nodes.insert(id);
            (found.of, found.least, found.most) = (of, least, most);
        }
        (found.of != value).then_some(found)
    }

    fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        let shape = |v| typed(self.graph, v).map(|(_, shape)| shape);
        shape(a).is_some() && shape(a) == shape(b)
    }

    /// The add that makes a value of another one and 1.
    fn plus_one(&self, value: ValueId) -> Option<(NodeId, ValueId)> {
        let (id, op) = producer_op(self.graph, value)?;
        let node = self.graph.node(id);
        let [a, b] = [node.input(0)?, node.input(1)?];
        let one = |v| self.number(v).is_some_and(|n| n.get() == 1.0);
        let of = if one(b) { a } else { Some(b).filter(|_| one(a))? };
        (matches!(op, Op::Binary(BinaryOp::Add)) && self.same_shape(of, value)).then_some((id, of))
    }

    /// A constant number that f32 holds.
    fn number(&self, value: ValueId) -> Option<F32> {
        let number = consts::known(self.graph, value)?.value();
        (f64::from(number as f32) == number).then(|| F32::new(number as f32))
    }
}
