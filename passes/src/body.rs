//! The body of a fused op: the source subgraph that it replaces, cut out as a graph of its own.
//!
//! Inputs are the op's operands and outputs its ports, in port order. Values are numbered, not named, and symbolic
//! sizes are renamed, so that equal fusions in different layers have equal bodies.

use std::collections::BTreeMap;

use normfuse_ir::{Dim, Graph, Op, Shape, Type, ValueId, fused::InPort, infer};

use crate::{
    region::typed,
    views::{self, Names},
};

/// Most nodes that a body may take: a region's worth.
const MAX_NODES: usize = 256;

/// One port of the op: the source value that stands for it, and the shape in which the op gives it.
#[derive(Debug, Clone)]
pub struct PortValue {
    /// A value of the source graph with the port's elements in order.
    pub value: ValueId,
    /// The port's shape in the source graph's symbols.
    pub shape: Shape,
    /// The port's name.
    pub name: String,
}

struct Slice<'g> {
    source: &'g Graph,
    body: Graph,
    names: Names,
    map: BTreeMap<ValueId, ValueId>,
    symbols: BTreeMap<Dim, Dim>,
    rows: ValueId,
}

/// Cuts the body. `None` if the ports cannot be computed from the operands alone, or a shape cannot be said in terms of
/// the rows.
///
/// An operand may be passed in another shape than the source's value has; the body then starts by restoring that.
pub fn slice(source: &Graph, operands: &[(InPort, ValueId, Option<Shape>)], ports: &[PortValue]) -> Option<Graph> {
    let mut s = Slice {
        source,
        body: Graph::new("body"),
        names: Names::default(),
        map: BTreeMap::new(),
        symbols: BTreeMap::new(),
        rows: operands.first()?.1,
    };
    let mut inputs = Vec::with_capacity(operands.len());
    for (port, value, passed) in operands {
        let (dtype, shape) = typed(source, *value)?;
        let own = s.rename(shape);
        let input =
            s.body.add_input(port.to_string(), Type::tensor(dtype, passed.clone().unwrap_or_else(|| own.clone())));
        inputs.push((*value, input, own));
    }
    for (value, input, own) in inputs {
        let restored = views::restate(&mut s.body, &mut s.names, input, &own)?;
        s.map.insert(value, restored);
    }
    for port in ports {
        let value = s.copy(port.value)?;
        let target = s.rename(&port.shape);
        // Types are needed to restate a shape; bodies are small, so inferring anew costs little.
        infer::infer(&mut s.body).ok()?;
        let value = s.restate(value, &target)?;
        s.body.add_output(port.name.clone(), value);
    }
    infer::infer(&mut s.body).ok()?;
    s.body.info.opsets.clone_from(&source.info.opsets);
    Some(s.body)
}

impl Slice<'_> {
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

    /// The value in another shape, by way of the rows where its own shape does not say the sizes.
    fn restate(&mut self, value: ValueId, target: &Shape) -> Option<ValueId> {
        if let Some(v) = views::restate(&mut self.body, &mut self.names, value, target) {
            return Some(v);
        }
        let rows = *self.map.get(&self.rows)?;
        let rows_shape = self.body.value(rows).ty.shape.clone()?;
        let shape = views::sizes_from(&mut self.body, &mut self.names, rows, &rows_shape, target)?;
        views::reshape(&mut self.body, &mut self.names, value, shape, target)
    }

    fn copy(&mut self, value: ValueId) -> Option<ValueId> {
        if let Some(v) = self.map.get(&value) {
            return Some(*v);
        }
        if self.body.node_count() > MAX_NODES {
            return None;
        }
        if let Some(t) = self.source.value(value).as_const() {
            // Only what rules looked at may be a constant of the body: weights are operands.
            let name = self.names.fresh("const");
            let id = self.body.add_const(name, t.clone());
            self.map.insert(value, id);
            return Some(id);
        }
        let (id, port) = self.source.producer(value)?;
        let node = self.source.node(id);
        if matches!(node.op, Op::Foreign(_) | Op::FusedNorm(_)) {
            return None;
        }
        if matches!(node.op, Op::Reshape { .. }) && self.source.value(node.input(1)?).as_const().is_none() {
            let x = self.copy(node.input(0)?)?;
            let (_, shape) = typed(self.source, value)?;
            let target = self.rename(shape);
            infer::infer(&mut self.body).ok()?;
            let out = self.restate(x, &target)?;
            self.map.insert(value, out);
            return Some(out);
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for v in &node.inputs {
            inputs.push(match v {
                Some(v) => Some(self.copy(*v)?),
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
