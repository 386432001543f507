//! The bodies of one run: sites that are equal but for their place are cut once, and share one body.
//!
//! Looking up what a site would be cut from costs a walk over the replaced nodes; cutting, inferring and comparing a body
//! costs several times that, and a model repeats its layers.

use std::{collections::BTreeSet, sync::Arc};

use normfuse_ir::{
    DType, Graph, Op, Shape, Tensor, Value, ValueId,
    fused::{InPort, OutPort},
};

use crate::{
    body::{Operand, PortValue},
    pass::Memo,
    quant::Use,
    region::typed,
};

/// Most nodes, and most bytes of one constant, of what is worth a key.
const MAX_NODES: usize = 256;
const MAX_BYTES: usize = 4096;

/// Bodies by what they were cut from, and by what is in them: what differs at the source (the name of a symbol, a cast in
/// another place) may be equal as a body, which is verified and written once, and takes no more memory however often a
/// layer repeats it.
#[derive(Debug, Default)]
pub struct Bodies {
    cuts: Memo<Cut, Arc<Graph>>,
    shared: Memo<Key, Arc<Graph>>,
}

/// All that is in a body. Values are numbered in the order in which the body was built, so equal bodies have equal keys.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    inputs: Vec<(Option<DType>, Option<Shape>)>,
    constants: Vec<(ValueId, DType, Vec<usize>, Vec<u8>)>,
    nodes: Vec<(Op, Vec<Option<ValueId>>)>,
    results: Vec<ValueId>,
}

impl Bodies {
    /// The body of an equal site.
    pub(crate) fn of(&self, cut: Option<&Cut>) -> Option<Arc<Graph>> {
        self.cuts.get(cut?).cloned()
    }

    /// The body, or an equal one that was shared before.
    pub(crate) fn share(&mut self, cut: Option<Cut>, body: Graph) -> Arc<Graph> {
        let input = |v: &ValueId| (body.value(*v).ty.dtype, body.value(*v).ty.shape.clone());
        let constant =
            |(id, v): (ValueId, &Value)| v.as_const().map(|t| (id, t.dtype(), t.shape().to_vec(), t.bytes().to_vec()));
        let key = Key {
            inputs: body.inputs().iter().map(input).collect(),
            constants: body.values().filter_map(constant).collect(),
            nodes: body.nodes().map(|(_, n)| (n.op.clone(), n.inputs.clone())).collect(),
            results: body.outputs().iter().map(|o| o.value).collect(),
        };
        let body = Arc::clone(self.shared.entry(key).or_insert_with(|| Arc::new(body)));
        if let Some(cut) = cut {
            self.cuts.insert(cut, Arc::clone(&body));
        }
        body
    }
}

/// A value by its place in the key, and whether a quantiser reads it there as given.
type Read = Option<(u32, bool)>;

/// All that the body, and whether it can be checked, follow from.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cut {
    op: Op,
    operands: Vec<(InPort, Data, Option<Shape>)>,
    steps: Vec<Step>,
    ports: Vec<(OutPort, Shape, u32, u32)>,
}

/// An element type, a shape, and a small constant's bytes.
type Data = (DType, Shape, Option<Vec<u8>>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Step {
    Constant(Data),
    Node(Op, Vec<Read>, Vec<(DType, Shape)>),
}

struct Walk<'g> {
    graph: &'g Graph,
    given_at: &'g BTreeSet<Use>,
    places: Memo<ValueId, u32>,
    steps: Vec<Step>,
}

impl Cut {
    /// The key; `None` for what is too large, or not all known.
    pub fn of(
        graph: &Graph,
        op: &Op,
        operands: &[Operand],
        given_at: &BTreeSet<Use>,
        ports: &[PortValue],
    ) -> Option<Self> {
        let mut walk = Walk { graph, given_at, places: Memo::default(), steps: Vec::new() };
        let mut key = Self { op: op.clone(), operands: Vec::new(), steps: Vec::new(), ports: Vec::new() };
        for (i, (port, value, passed)) in operands.iter().enumerate() {
            let ty = &graph.value(*value).ty;
            // One value in two operands is read in two roles, which places do not tell apart.
            let twice = walk.places.insert(*value, i as u32).is_some();
            if twice || ty.scheme.is_some() || ty.strides.is_some() {
                return None;
            }
            let (dtype, shape) = typed(graph, *value)?;
            let given = matches!(port, InPort::Scale(..) | InPort::ZeroPoint(..));
            let bytes = graph.value(*value).as_const().filter(|_| given).map(Tensor::bytes);
            if bytes.is_some_and(|b| b.len() > MAX_BYTES) {
                return None;
            }
            key.operands.push((*port, (dtype, shape.clone(), bytes.map(<[u8]>::to_vec)), passed.clone()));
        }
        for port in ports {
            let (value, rows) = (walk.place(port.value)?, walk.place(port.rows)?);
            key.ports.push((port.port, port.shape.clone(), value, rows));
        }
        key.steps = walk.steps;
        Some(key)
    }
}

impl Walk<'_> {
    /// The place of a value: all that it is made of, back to the operands, comes before.
    fn place(&mut self, value: ValueId) -> Option<u32> {
        if let Some(place) = self.places.get(&value) {
            return Some(*place);
        }
        let (dtype, shape) = typed(self.graph, value)?;
        let step = if let Some(t) = self.graph.value(value).as_const() {
            let bytes = Some(t.bytes()).filter(|b| b.len() <= MAX_BYTES)?;
            Step::Constant((dtype, shape.clone(), Some(bytes.to_vec())))
        } else {
            let (id, port) = self.graph.producer(value)?;
            let node = self.graph.node(id);
            if matches!(node.op, Op::Foreign(_)) || node.op.is_fused() || self.steps.len() > MAX_NODES {
                return None;
            }
            let mut reads = Vec::with_capacity(node.inputs.len());
            for (port, v) in node.inputs.iter().enumerate() {
                reads.push(match v {
                    Some(v) => Some((self.place(*v)?, self.given_at.contains(&(id, port)))),
                    None => None,
                });
            }
            let own = |v: &ValueId| typed(self.graph, *v).map(|(d, s)| (d, s.clone()));
            let results = node.outputs.iter().map(own).collect::<Option<_>>()?;
            // Other results of the node are placed with it.
            let first = self.next();
            for (i, v) in node.outputs.iter().enumerate() {
                self.places.insert(*v, first + i as u32);
            }
            self.steps.push(Step::Node(node.op.clone(), reads, results));
            return Some(first + port as u32);
        };
        let place = self.next();
        self.places.insert(value, place);
        self.steps.push(step);
        Some(place)
    }

    /// A place that nothing has yet: places only grow.
    fn next(&self) -> u32 {
        self.places.len() as u32
    }
}
