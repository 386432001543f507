//! The gated activation before a quantiser: `activation(gate) * up` becomes the prologue of the op that quantises it.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Graph, NodeId, Op, ValueId,
    fused::{Activation, Gated},
    op::{BinaryOp, UnaryOp},
};

use super::{Rule, no_schemes, none};
use crate::{
    candidate::Refusal,
    region::{producer_op, typed},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "gated_act",
    summary: "A gated activation that a quantiser reads moves into one op with it.",
    picture: "
gate -> [cast] -> silu, gelu or x * sigmoid(x) -> [cast] --* --> [cast] -> y -> quantiser
up   -> [cast] ---------------------------------------------'             '--> (y, where somebody reads it)",
    preconditions: &[
        "activation: silu, gelu, its tanh form, or a sigmoid times what it is of, in f32, f16 or bf16",
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
    nodes: BTreeSet<NodeId>,
}

/// The gated activation that makes a value, if one does.
///
/// # Errors
/// The first precondition that fails, for what has an activation as a factor.
pub fn find(graph: &Graph, product: ValueId) -> Result<Option<Gate>, Refusal> {
    let Some((dtype, shape)) = typed(graph, product) else { return Ok(None) };
    let mut reader = Reader { graph, nodes: BTreeSet::new() };
    // A product in a wider dtype, rounded once more; one that is only widened is quantised before that.
    let made = reader.cast(product, |from, to| to.embeds_in(from)).unwrap_or(product);
    let Some((multiply, [a, b])) = multiplied(graph, made) else { return Ok(None) };
    reader.nodes.insert(multiply);
    let sides = [(a, b), (b, a)].into_iter().find_map(|(a, up)| {
        let mut own = Reader { graph, nodes: reader.nodes.clone() };
        Some((own.activation(a)?, up, own))
    });
    let Some((found, up, mut reader)) = sides else { return Ok(None) };
    let refuse =
        |precondition, hint: String| Err(Refusal { rule: RULE.name, precondition, node: Some(multiply), hint });
    let up = reader.cast(up, DType::embeds_in).unwrap_or(up);
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
    let gated = Gated::new(found.activation, [gate_dtype, up_dtype], found.compute, found.rounded, dtype);
    Ok(Some(Gate { gated, gate: found.gate, up, nodes: reader.nodes }))
}

/// The factors of a product.
fn multiplied(graph: &Graph, value: ValueId) -> Option<(NodeId, [ValueId; 2])> {
    let (id, op) = producer_op(graph, value)?;
    let node = graph.node(id);
    matches!(op, Op::Binary(BinaryOp::Mul)).then_some((id, [node.input(0)?, node.input(1)?]))
}

/// One factor of the product.
struct Factor {
    activation: Activation,
    gate: ValueId,
    compute: DType,
    rounded: DType,
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
    fn activation(&mut self, factor: ValueId) -> Option<Factor> {
        let a = self.cast(factor, DType::embeds_in).unwrap_or(factor);
        let (rounded, _) = typed(self.graph, a)?;
        let a = self.cast(a, |from, to| to.embeds_in(from)).unwrap_or(a);
        let (compute, _) = typed(self.graph, a)?;
        let (activation, x) = self.function(a)?;
        let gate = self.cast(x, DType::embeds_in).unwrap_or(x);
        Some(Factor { activation, gate, compute, rounded })
    }

    /// The function that makes a value, and what it is of.
    fn function(&mut self, value: ValueId) -> Option<(Activation, ValueId)> {
        let (id, op) = producer_op(self.graph, value)?;
        let x = self.graph.node(id).input(0)?;
        let found = match op {
            Op::Unary(UnaryOp::Silu) => (Activation::Silu, x),
            Op::Unary(UnaryOp::Gelu) => (Activation::Gelu, x),
            Op::Unary(UnaryOp::GeluTanh) => (Activation::GeluTanh, x),
            Op::Binary(BinaryOp::Mul) => {
                let (_, [a, b]) = multiplied(self.graph, value)?;
                let of = |s: ValueId, x: ValueId| {
                    let (id, op) = producer_op(self.graph, s)?;
                    let own = matches!(op, Op::Unary(UnaryOp::Sigmoid)) && self.graph.node(id).input(0) == Some(x);
                    own.then_some((id, x))
                };
                let (sigmoid, x) = of(a, b).or_else(|| of(b, a))?;
                self.nodes.insert(sigmoid);
                (Activation::SigmoidProduct, x)
            }
            _ => return None,
        };
        self.nodes.insert(id);
        Some(found)
    }
}
