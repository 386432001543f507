//! From recognised norms and quantisers to one fused op of the graph: which value stands for which operand and port,
//! which nodes it replaces, and the first precondition that stands in the way.

use std::collections::BTreeSet;

use normfuse_ir::{
    Descriptor, Dim, Granularity, Graph, NodeId, Op, Shape, ValueId,
    fused::{InPort, OutPort},
};

mod alone;
mod builder;
mod finish;
mod inside;
mod layout;
mod member;

pub use alone::{Gone, One, alone, ones};
use builder::{Builder, Port};

use crate::{
    Options,
    norms::Norm,
    quant::{Quant, Use},
    reach::Order,
    region::typed,
    rules,
};

/// A precondition that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The rule that it belongs to.
    pub rule: &'static str,
    /// Its name, as in the rule's list.
    pub precondition: &'static str,
    /// The node at which it failed.
    pub node: Option<NodeId>,
    /// What was found, or what would help.
    pub hint: String,
}

/// A fused op, ready to be put into the graph.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The descriptor, with exactly the ports that somebody reads.
    pub descriptor: Descriptor,
    /// Operands in port order.
    pub operands: Vec<(InPort, ValueId)>,
    /// The shape in which the rows are passed, if the value that has them has another: a view of the source said it.
    pub passed: Option<Shape>,
    /// Where the source reads scales and zero points that are operands; a constant elsewhere is a number that the
    /// descriptor has.
    pub given_at: BTreeSet<Use>,
    /// Ports in order: every value of the graph that each stands for, and the port's shape.
    pub ports: Vec<(OutPort, Vec<ValueId>, Shape)>,
    /// Source nodes that nobody needs afterwards, producers first.
    pub replaced: Vec<NodeId>,
    /// The nodes between the rows and the ports: what the op makes. Constants and what is made of parameters alone belong to
    /// whoever reads them.
    pub core: BTreeSet<NodeId>,
    /// The norms that the op takes in; of a quantiser that is in no norm's op, each place where the source repeats it.
    pub parts: Vec<Part>,
    /// Quantisers of the norms that stay outside, and why.
    pub left_out: Vec<(NodeId, Refusal)>,
    /// Dequantisers of codes that the op makes and pads of its results that stay ops, by part, and why.
    pub kept: Vec<(usize, Refusal)>,
}

/// What one norm brings into an op.
#[derive(Debug, Clone)]
pub struct Part {
    /// The norm's anchor, or the quantiser's.
    pub anchor: NodeId,
    /// Anchors of its quantisers.
    pub quantisers: Vec<NodeId>,
    /// What makes numbers of their codes again.
    pub dequantisers: Vec<NodeId>,
    /// What pads its result.
    pub pads: Vec<NodeId>,
    /// Its nodes, and those of its quantisers and pads.
    pub nodes: BTreeSet<NodeId>,
}

impl Candidate {
    /// The shape in which the op wants an operand, where that may differ from the value's: a vector for a weight,
    /// whatever axes of size 1 the graph's has around it.
    pub fn operand_shape(&self, port: InPort) -> Option<Shape> {
        let row = |k: usize| match self.descriptor.width(k) {
            Some(width) => Some(Dim::from(width as i64)),
            None => self.ports.first().and_then(|(_, _, rows)| rows.last().cloned()),
        };
        let vector = |k: usize| Some(Shape(vec![row(k)?]));
        match port {
            InPort::X | InPort::Up => self.passed.clone(),
            InPort::Weight(k) => vector(k),
            InPort::Scale(k, e) | InPort::ZeroPoint(k, e) => {
                let scheme = self.descriptor.scheme(k, e)?;
                (scheme.granularity == Granularity::Channel).then(|| vector(k)).flatten()
            }
            InPort::Residual | InPort::Rows(_) => None,
        }
    }

    /// The rule that answers for the op where it cannot be made.
    pub fn rule(&self) -> &'static str {
        match &self.descriptor {
            Descriptor::Norm(norm) if norm.norms() == 0 => rules::gated_act::RULE.name,
            Descriptor::Norm(_) => "rms_norm",
            Descriptor::Quantize(scheme) => rules::scheme_rule(scheme),
        }
    }

    /// The values that are rows, but for the second one of an add or a product: its shape is that of the first.
    pub fn all_rows(&self) -> impl Iterator<Item = ValueId> + '_ {
        let rows = |p: &InPort| matches!(p, InPort::X | InPort::Rows(_));
        self.operands.iter().filter(move |(p, _)| rows(p)).map(|(_, v)| *v)
    }

    /// The rows of a sibling.
    pub fn rows(&self, k: usize) -> Option<ValueId> {
        self.operands.iter().find(|(p, _)| matches!(p, InPort::X) || *p == InPort::Rows(k)).map(|(_, v)| *v)
    }
}

/// What an op takes in; everything that it can, by default.
#[derive(Debug, Clone)]
pub struct Take {
    /// Anchors of quantisers that stay outside.
    pub without: BTreeSet<NodeId>,
    /// The add before the norm.
    pub residual: bool,
    /// What makes numbers of codes again.
    pub dequantised: bool,
    /// Zeros behind the rows of a result.
    pub padded: bool,
    /// Why less than everything.
    pub why: Option<Refusal>,
}

impl Default for Take {
    fn default() -> Self {
        Self { without: BTreeSet::new(), residual: true, dequantised: true, padded: true, why: None }
    }
}

/// Builds the candidate of norms that share one op; `quants` are those that read one of their results.
///
/// # Errors
/// The first precondition that fails.
pub fn build(
    graph: &Graph,
    order: &Order,
    norms: &[&Norm],
    quants: &[&Quant],
    take: &Take,
    options: &Options,
) -> Result<Candidate, Refusal> {
    let mut b = Builder::new(graph, order, norms)?;
    if !take.residual {
        if let Some(m) = b.members.iter().find(|m| m.norm.h.is_empty()) {
            let hint = "its own node makes the sum that it normalises".into();
            let node = Some(m.norm.anchor);
            return Err(Refusal { rule: "residual_add", precondition: "supported", node, hint });
        }
        b.members.iter_mut().for_each(|m| m.add = None);
    }
    // Siblings with rows of their own read them as they are: an add before one of them stays an op.
    if !b.shared() {
        if let Some(k) = b.members.iter().position(|m| m.norm.h.is_empty()) {
            let hint = "its rows are a sum that its own node makes, and no other norm reads those".into();
            let node = Some(b.members[k].norm.anchor);
            return Err(Refusal { rule: "sibling_norm", precondition: "same_tokens", node, hint });
        }
        b.members.iter_mut().for_each(|m| m.add = None);
    }
    let mut left_out = Vec::new();
    for k in 0..b.members.len() {
        b.choose_result(k, quants, take, &mut left_out, options);
        b.choose_dequantisers(k, take, options);
    }
    b.collect();
    (0..b.members.len()).for_each(|k| b.choose_pads(k, take, options));
    b.choose_sum();
    loop {
        let ports = b.ports();
        let (live, _) = b.liveness(&ports);
        let Some((node, k, quant)) = b.escape(&ports, &live) else { break };
        let hint =
            format!("`{}` {}", value_name(graph, graph.node(node).outputs[0]), b.inside.outside_reader(node, &live));
        let refusal = |rule| Refusal { rule, precondition: "no_escape", node: Some(node), hint: hint.clone() };
        match quant {
            Some(e) => {
                let gone = b.members[k].epilogues.remove(e);
                for q in gone.quants {
                    left_out.push((q.anchor, refusal(rules::scheme_rule(&gone.scheme))));
                }
                b.collect();
            }
            None => return Err(refusal("rms_norm")),
        }
    }
    let (_, read) = b.liveness(&b.ports());
    if read.iter().all(|p| *p == Port::Sum) {
        let hint = "nobody reads the norm's result, at most its shape".into();
        let node = Some(norms[0].anchor);
        return Err(Refusal { rule: "rms_norm", precondition: "saves_something", node, hint });
    }
    let mut candidate = b.finish();
    // A given scale that is made of what the norm gives is none: that quantiser stays outside.
    while let Some((k, e, v)) = candidate.operands.iter().find_map(|(port, v)| match *port {
        InPort::Scale(k, e) | InPort::ZeroPoint(k, e) if order.depend(graph, &[*v], &candidate.core) => {
            Some((k, e, *v))
        }
        _ => None,
    }) {
        let gone = b.members[k].epilogues.remove(e);
        for q in gone.quants {
            left_out.push((
                q.anchor,
                Refusal {
                    rule: rules::scheme_rule(&gone.scheme),
                    precondition: "independent",
                    node: graph.producer(v).map(|(n, _)| n),
                    hint: format!("its scale `{}` depends on the norm", value_name(graph, v)),
                },
            ));
        }
        b.collect();
        candidate = b.finish();
    }
    candidate.left_out = left_out;
    let operands: Vec<ValueId> = candidate.operands.iter().map(|(_, v)| *v).collect();
    if order.depend(graph, &operands, &candidate.core) {
        let dependent = operands.iter().find(|v| order.depend(graph, &[**v], &candidate.core));
        let hint = dependent
            .map_or_else(String::new, |v| format!("operand `{}` depends on what the op makes", value_name(graph, *v)));
        let node = dependent.and_then(|v| graph.producer(*v)).map(|(n, _)| n);
        let rule = if norms.len() > 1 { "sibling_norm" } else { "rms_norm" };
        let precondition = if norms.len() > 1 { "no_path" } else { "no_escape" };
        return Err(Refusal { rule, precondition, node, hint });
    }
    layout::settle(graph, &mut candidate, options).map_err(|hint| {
        let node = Some(norms[0].anchor);
        Refusal { rule: "rms_norm", precondition: "supported", node, hint }
    })?;
    Ok(candidate)
}

/// True for a node that only asks for the shape of a value that has the shape of the rows: the rows can answer that.
pub fn asks_for_row_sizes(graph: &Graph, user: NodeId, rows: ValueId) -> bool {
    let node = graph.node(user);
    let shape = |v: ValueId| typed(graph, v).map(|(_, s)| s);
    matches!(node.op, Op::Shape { .. } | Op::Size) && node.input(0).is_some_and(|v| shape(v) == shape(rows))
}

/// The hint of a rule that is off.
pub fn switched_off(why: &str) -> String {
    format!("the rule is switched off by {why}")
}

fn value_name(graph: &Graph, v: ValueId) -> &str {
    &graph.value(v).name
}
