//! The body of a fused op: the source subgraph that it replaces, cut out as a graph of its own.
//!
//! Inputs are the op's operands and outputs its ports, in port order. Values are numbered, not named, and symbolic
//! sizes are renamed, so that equal fusions in different layers have equal bodies.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    Dim, Graph, NodeId, Op, Shape, Tensor, Type, ValueId,
    fused::{InPort, OutPort},
    infer::Facts,
    op::BinaryOp,
};

use crate::{
    consts,
    quant::Use,
    region::typed,
    views::{self, Names},
};

/// Most nodes that a body may take: a region's worth.
const MAX_NODES: usize = 1024;

/// One port of the op: the source value that stands for it, and the shape in which the op gives it.
#[derive(Debug, Clone)]
pub struct PortValue {
    /// A value of the source graph with the port's elements in order.
    pub value: ValueId,
    /// The port's shape in the source graph's symbols.
    pub shape: Shape,
    /// The port.
    pub port: OutPort,
    /// The rows in terms of which the shape can be said.
    pub rows: ValueId,
}

/// An operand of the op, the source's value, and the shape in which it is passed if that is another.
pub type Operand = (InPort, ValueId, Option<Shape>);

/// True for an operand of the sibling, and if it is one of a quantiser, of the quantiser that a port belongs to.
fn belongs(operand: InPort, port: OutPort) -> bool {
    let k = port.sibling();
    let e = port.epilogue();
    match operand {
        InPort::X | InPort::Residual | InPort::Up => true,
        InPort::Rows(own) | InPort::Weight(own) => own == k,
        InPort::Scale(own, of) | InPort::ZeroPoint(own, of) => own == k && e == Some(of),
    }
}

struct Slice<'g> {
    source: &'g Graph,
    body: Graph,
    names: Names,
    map: BTreeMap<ValueId, ValueId>,
    symbols: BTreeMap<Dim, Dim>,
    /// Constants that are given scales or zero points, and where they are read as such.
    given: BTreeSet<ValueId>,
    given_at: &'g BTreeSet<Use>,
    /// Given operands of the port's own quantiser.
    given_here: Vec<ValueId>,
    /// Constants of the body.
    numbers: BTreeMap<ValueId, ValueId>,
    /// What is known of the nodes before `inferred`.
    facts: Facts,
    inferred: usize,
}

/// Cuts the body. `None` if the ports cannot be computed from the operands alone, or a shape cannot be said in terms of
/// the rows.
///
/// An operand may be passed in another shape than the source's value has; the body then starts by restoring that. A
/// constant that is a given scale or zero point is one only where `given_at` says so: elsewhere it is a number.
pub fn slice(source: &Graph, operands: &[Operand], given_at: &BTreeSet<Use>, ports: &[PortValue]) -> Option<Graph> {
    let is_given = |p: &InPort| matches!(p, InPort::Scale(..) | InPort::ZeroPoint(..));
    let given = operands.iter().filter(|(p, v, _)| is_given(p) && source.value(*v).as_const().is_some());
    let mut s = Slice {
        source,
        body: Graph::new("body"),
        names: Names::default(),
        map: BTreeMap::new(),
        symbols: BTreeMap::new(),
        given: given.map(|(_, v, _)| *v).collect(),
        given_at,
        given_here: Vec::new(),
        numbers: BTreeMap::new(),
        facts: Facts::default(),
        inferred: 0,
    };
    let mut inputs = Vec::with_capacity(operands.len());
    for (port, value, passed) in operands {
        let (dtype, shape) = typed(source, *value)?;
        let own = s.rename(shape);
        let passed = passed.as_ref().map_or_else(|| own.clone(), |passed| s.rename(passed));
        let input = s.body.add_input(port.to_string(), Type::tensor(dtype, passed));
        inputs.push((*value, input, own));
    }
    let mut restored = Vec::with_capacity(inputs.len());
    for ((value, input, own), (port, ..)) in inputs.into_iter().zip(operands) {
        restored.push((*port, value, views::restate(&mut s.body, &mut s.names, input, &own)?));
    }
    // One value in two operands: each sibling and quantiser then reads its own, and shares no work with the others.
    let distinct: BTreeSet<ValueId> = restored.iter().map(|(_, v, _)| *v).collect();
    let apart = distinct.len() < restored.len();
    s.map = restored.iter().map(|(_, value, input)| (*value, *input)).collect();
    for port in ports {
        let here = operands.iter().filter(|(p, ..)| is_given(p) && belongs(*p, port.port));
        s.given_here = here.map(|(_, v, _)| *v).collect();
        if apart {
            let own = restored.iter().filter(|(p, ..)| belongs(*p, port.port));
            s.map = restored.iter().chain(own).map(|(_, value, input)| (*value, *input)).collect();
        }
        let value = s.copy(port.value, port.rows)?;
        let target = s.rename(&port.shape);
        s.infer()?;
        let value = s.restate(value, &target, port.rows)?;
        s.body.add_output(port.port.to_string(), value);
    }
    s.infer()?;
    s.body.info.opsets.clone_from(&source.info.opsets);
    Some(s.body)
}

impl Slice<'_> {
    /// Infers what was added since the last time: types are needed to restate a shape.
    fn infer(&mut self) -> Option<()> {
        let nodes: Vec<NodeId> = self.body.nodes().map(|(id, _)| id).skip(self.inferred).collect();
        self.inferred += nodes.len();
        nodes.into_iter().try_for_each(|id| self.facts.infer_new(&mut self.body, id)).ok()
    }

    /// The shape with each symbolic size replaced by a symbol of the body.
    fn rename(&mut self, shape: &Shape) -> Shape {
        let mut dims = Vec::with_capacity(shape.rank());
        for d in &shape.0 {
            dims.push(if d.as_const().is_some() {
                d.clone()
            } else {
                let next = self.symbols.len();
                self.symbols.entry(d.clone()).or_insert_with(|| Dim::sym(format!("d{next}"))).clone()
            });
        }
        Shape(dims)
    }

    /// The number that nodes compute from constants and sizes without any operand: the values whose sizes it asks for
    /// may be out of reach.
    fn number(&self, value: ValueId) -> Option<Tensor> {
        let (_, shape) = typed(self.source, value)?;
        if !shape.is_single() || self.needs_operand(value) {
            return None;
        }
        self.uniform(value)
    }

    /// The one number that all elements of a value are, as one element in as many axes.
    fn uniform(&self, value: ValueId) -> Option<Tensor> {
        let rank = typed(self.source, value)?.1.rank();
        consts::tensor(consts::known(self.source, value)?)?.reshaped(vec![1; rank]).ok()
    }

    /// True if a value is made of an operand, or of too much to tell.
    fn needs_operand(&self, value: ValueId) -> bool {
        let mut queue = vec![value];
        for _ in 0..64 {
            let Some(v) = queue.pop() else { return false };
            if self.is_made(v) {
                return true;
            }
            if let Some((id, _)) = self.source.producer(v) {
                queue.extend(self.source.node(id).operands().map(|(_, v)| v));
            }
        }
        true
    }

    /// True for a value that the body has, other than as a constant.
    fn is_made(&self, value: ValueId) -> bool {
        self.map.get(&value).is_some_and(|v| self.body.value(*v).as_const().is_none())
    }

    /// The value in another shape, by way of the rows where its own shape does not say the sizes.
    fn restate(&mut self, value: ValueId, target: &Shape, rows: ValueId) -> Option<ValueId> {
        let rows = *self.map.get(&rows)?;
        views::restate_by(&mut self.body, &mut self.names, value, target, rows)
    }

    /// A constant of the body. Only what rules looked at may be one: weights are operands.
    fn constant(&mut self, value: ValueId) -> Option<ValueId> {
        if let Some(v) = self.numbers.get(&value) {
            return Some(*v);
        }
        let tensor = self.source.value(value).as_const().cloned().or_else(|| self.number(value))?;
        let name = self.names.fresh("const");
        let id = self.body.add_const(name, tensor);
        self.numbers.insert(value, id);
        Some(id)
    }

    /// The number that all elements of a value are, where its sizes may be out of reach.
    fn fill(&mut self, value: ValueId) -> Option<ValueId> {
        if typed(self.source, value)?.1.is_single() && self.source.value(value).as_const().is_some() {
            return None;
        }
        let tensor = self.uniform(value)?;
        Some(self.body.add_const(self.names.fresh("const"), tensor))
    }

    /// The operand that a value is, which a quantiser reads here as given: constants of the same bytes are one.
    fn own_given(&self, value: ValueId, at: Use) -> ValueId {
        if !self.given_at.contains(&at) || self.map.contains_key(&value) {
            return value;
        }
        self.given_here.iter().copied().find(|own| consts::same(self.source, *own, value)).unwrap_or(value)
    }

    /// True for an operand beside another one that has the result's shape, of several elements: it may be one number.
    fn is_filled(&self, id: NodeId, port: usize) -> bool {
        let node = self.source.node(id);
        let shape = |v: Option<ValueId>| v.and_then(|v| typed(self.source, v)).map(|(_, s)| s);
        let (own, other) = (shape(node.input(port)), shape(node.input(1 - port.min(1))));
        matches!(node.op, Op::Binary(BinaryOp::Add | BinaryOp::Max | BinaryOp::Min))
            && own.is_some_and(|s| !s.is_single())
            && other.is_some()
            && other == shape(node.outputs.first().copied())
    }

    fn copy(&mut self, value: ValueId, rows: ValueId) -> Option<ValueId> {
        if let Some(v) = self.map.get(&value) {
            return Some(*v);
        }
        if self.body.node_count() > MAX_NODES {
            return None;
        }
        if let Some(constant) = self.constant(value) {
            return Some(constant);
        }
        let (id, port) = self.source.producer(value)?;
        let node = self.source.node(id);
        if matches!(node.op, Op::Foreign(_)) || node.op.is_fused() {
            return None;
        }
        if matches!(node.op, Op::Reshape { .. }) && self.source.value(node.input(1)?).as_const().is_none() {
            let x = self.copy(node.input(0)?, rows)?;
            let (_, shape) = typed(self.source, value)?;
            let target = self.rename(shape);
            self.infer()?;
            let out = self.restate(x, &target, rows)?;
            self.map.insert(value, out);
            return Some(out);
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (port, v) in node.inputs.iter().enumerate() {
            inputs.push(match v.map(|v| self.own_given(v, (id, port))).as_ref() {
                Some(v) if self.given.contains(v) && !self.given_at.contains(&(id, port)) => Some(self.constant(*v)?),
                // One number stands for as many of it: the condition has the shape.
                Some(v) if port == 1 && matches!(node.op, Op::Where) => {
                    Some(self.fill(*v).or_else(|| self.copy(*v, rows))?)
                }
                Some(v) if !self.map.contains_key(v) && self.is_filled(id, port) => {
                    Some(self.fill(*v).or_else(|| self.copy(*v, rows))?)
                }
                Some(v) => Some(self.copy(*v, rows)?),
                None => None,
            });
        }
        let names: Vec<String> = node.outputs.iter().map(|_| self.names.fresh("v")).collect();
        let copy = self.body.add_node(names.first()?.clone(), node.op.clone(), &inputs, names).ok()?;
        for (from, to) in node.outputs.iter().zip(self.body.node(copy).outputs.clone()) {
            self.map.insert(*from, to);
        }
        self.map.get(self.source.node(id).outputs.get(port)?).copied()
    }
}
