//! A graph whose inputs have sizes: what every value is, what the host knows of it, and which nodes are left for the GPU.
//!
//! What depends on no input's data is computed here, on the CPU: sizes, axes, masks that are made of ranges. Weights are not: what
//! is made of them is computed on the GPU, once if it is no larger than they are.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    DType, Def, Dim, Error, ErrorKind, Graph, NodeId, Op, Result, Shape, Tensor, Type, ValueId,
    infer::{self, Inferred, MAX_KNOWN},
    tensor::byte_len,
};

use super::{super::ops::Typed, columns::writes_columns};
use crate::{
    cpu,
    signature::{Signature, dangling, needed_nodes},
};

/// Bytes of a constant from which on nothing is made of it on the host: it is a weight.
const WEIGHT: usize = 4 << 10;
/// Most bytes that the host makes of a node's result.
const MOST_FOLDED: usize = 64 << 20;
/// Bytes that may be kept on the GPU of what is made of weights, even if those are smaller.
const SMALL: usize = 64 << 10;

/// Foreign ops that an error names beside the first.
const MOST_NAMED: usize = 20;

/// What a caller says of an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Given {
    /// Dtype and sizes.
    pub typed: (DType, Vec<usize>),
    /// Contents, if the host reads them: row-major bytes.
    pub contents: Option<Vec<u8>>,
}

/// What is known of a value.
#[derive(Debug, Clone, Default)]
struct Fact {
    typed: Option<Typed>,
    /// Its contents, where the host has them; of weights, that they are stored.
    host: Option<Tensor>,
    /// The contents as inference follows them.
    known: Option<Box<[Dim]>>,
    /// Bytes of weights that it is made of; `None` if it is made of inputs, too.
    weights: Option<usize>,
}

/// A graph for inputs of certain sizes.
#[derive(Debug)]
pub struct Concrete {
    facts: Vec<Fact>,
    /// Nodes that the GPU runs, producers first.
    nodes: Vec<NodeId>,
    once: BTreeSet<NodeId>,
}

/// Operands whose contents decide sizes or places: they are the host's to read.
pub fn host_ports(op: &Op) -> &'static [usize] {
    match op {
        Op::Reshape { .. }
        | Op::Expand
        | Op::Tile
        | Op::Split { .. }
        | Op::TopK { .. }
        | Op::CumSum { .. }
        | Op::Trilu { .. }
        | Op::OneHot { .. } => &[1],
        Op::Slice => &[1, 2, 3, 4],
        Op::Pad => &[1, 3],
        Op::Range => &[0, 1, 2],
        Op::ConstantOfShape { .. } => &[0],
        _ => &[],
    }
}

/// Inputs of integers, by number, whose contents some node reads as sizes or places.
///
/// # Errors
/// `Structure` for a graph that is no graph.
pub fn host_inputs(graph: &Graph) -> Result<BTreeSet<usize>> {
    let needed = needed_nodes(graph)?;
    let mut stack: Vec<ValueId> = Vec::new();
    for (_, node) in graph.nodes().filter(|(id, _)| needed.get(id.index()).is_some_and(|n| *n)) {
        stack.extend(host_ports(&node.op).iter().filter_map(|p| node.input(*p)));
    }
    let mut seen = vec![false; graph.value_bound()];
    let mut found = BTreeSet::new();
    while let Some(value) = stack.pop() {
        if std::mem::replace(seen.get_mut(value.index()).ok_or_else(dangling)?, true) {
            continue;
        }
        if let Some((node, _)) = graph.producer(value) {
            let node = graph.node(node);
            // Sizes are known whatever the data are.
            if !matches!(node.op, Op::Shape { .. } | Op::Size) {
                stack.extend(node.inputs.iter().flatten());
            }
        } else if let Some(input) = graph.inputs().iter().position(|v| *v == value)
            && graph.value(value).ty.dtype.is_some_and(|d| d.is_int() || d == DType::Bool)
        {
            found.insert(input);
        }
    }
    Ok(found)
}

/// True if the host may read an input of these sizes.
pub fn is_small(shape: &[usize]) -> bool {
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_some_and(|n| n <= MAX_KNOWN)
}

impl Concrete {
    /// Binds the inputs, in the graph's order.
    ///
    /// # Errors
    /// Inputs that the graph does not take; `Unsupported` for foreign ops, all of them named, before anything is said of nodes that
    /// read what they make; what an op refuses; `Unsupported` for sizes or contents that depend on data; with the node.
    pub fn new(graph: &Graph, given: &[Given]) -> Result<Self> {
        let types: Vec<_> = given.iter().map(|g| (g.typed.0, &g.typed.1[..])).collect();
        let symbols = Signature::of(graph)?.check(&types)?;
        refuse_foreign(graph)?;
        let mut all =
            Self { facts: vec![Fact::default(); graph.value_bound()], nodes: Vec::new(), once: BTreeSet::new() };
        for (id, value) in graph.values() {
            if let Def::Const(tensor) = &value.def {
                all.facts[id.index()] = constant(tensor);
            }
        }
        for (id, given) in graph.inputs().iter().zip(given) {
            all.facts[id.index()] = input(given)?;
        }
        let needed = needed_nodes(graph)?;
        let order = graph.order_from_outputs()?.into_iter().filter(|id| needed.get(id.index()).is_some_and(|n| *n));
        let mut left = Vec::new();
        for id in order {
            if all.visit(graph, id, &symbols).map_err(|e| e.at_node(graph.node(id).name.clone()))? {
                left.push(id);
            }
        }
        all.nodes = all.needed(graph, left);
        for id in &all.nodes {
            all.check_host_ports(graph, *id).map_err(|e| e.at_node(graph.node(*id).name.clone()))?;
        }
        Ok(all)
    }

    /// Nodes that the GPU runs, producers first.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// True if a node's results are made of weights alone and kept.
    pub fn is_once(&self, node: NodeId) -> bool {
        self.once.contains(&node)
    }

    /// Dtype and sizes of a value.
    ///
    /// # Errors
    /// `Structure` if nothing is known of it.
    pub fn typed(&self, value: ValueId) -> Result<&Typed> {
        self.facts.get(value.index()).and_then(|f| f.typed.as_ref()).ok_or_else(dangling)
    }

    /// The contents of a value that the host has and that is no weight.
    pub fn host(&self, value: ValueId) -> Option<&Tensor> {
        self.facts.get(value.index()).and_then(|f| f.host.as_ref())
    }

    /// Infers or computes a node's results; true if the GPU must.
    fn visit(&mut self, graph: &Graph, id: NodeId, symbols: &BTreeMap<String, i64>) -> Result<bool> {
        let node = graph.node(id);
        let facts: Vec<Option<&Fact>> = node.inputs.iter().map(|v| v.and_then(|v| self.facts.get(v.index()))).collect();
        let types: Vec<Option<Type>> = facts.iter().map(|f| f.map(as_type)).collect();
        let operands: Vec<Option<infer::Operand<'_>>> = types
            .iter()
            .zip(&facts)
            .map(|(ty, fact)| Some(infer::Operand { ty: ty.as_ref()?, known: fact.as_ref()?.known.as_deref() }))
            .collect();
        let inferred = infer::infer_node(&node.op, &operands, &id.index())?;
        let mut results = Vec::with_capacity(inferred.len());
        for (value, found) in node.outputs.iter().zip(inferred) {
            results.push(concrete(found, &graph.value(*value).ty, symbols)?);
        }
        let weights = facts.iter().flatten().try_fold(0usize, |n, f| Some(n + f.weights?));
        let hosts: Vec<Option<&Tensor>> = facts.iter().map(|f| f.and_then(|f| f.host.as_ref())).collect();
        let complete = facts.iter().zip(&hosts).all(|(f, h)| f.is_some() == h.is_some());
        let size = |r: &Fact| r.typed.as_ref().map(bytes_of);
        let small = results.iter().all(|r| size(r).is_none_or(|n| n <= MOST_FOLDED));
        let by_type = results.iter().all(|r| r.host.is_some());
        if !by_type && complete && small && !node.op.is_fused() {
            let made = cpu::execute(&node.op, &hosts)?;
            results = made.iter().map(constant_of).collect();
        } else if !by_type {
            for (r, value) in results.iter_mut().zip(&node.outputs) {
                r.weights = weights;
                if r.typed.is_none() {
                    self.check_host_ports(graph, id)?;
                    let name = &graph.value(*value).name;
                    let message = format!("`{}`: the sizes of `{name}` depend on data", node.op.name());
                    return Err(Error::new(ErrorKind::Unsupported, message)
                        .hint("a GPU runs what has sizes that follow from those of the inputs"));
                }
            }
            let total: usize = results.iter().filter_map(size).sum();
            if let Some(from) = weights.filter(|from| *from > 0 && !writes_columns(&node.op))
                && total <= from.max(SMALL)
            {
                self.once.insert(id);
                for r in &mut results {
                    r.weights = r.typed.as_ref().map(bytes_of);
                }
            } else {
                // Made anew in every run, like what is made of inputs.
                for r in &mut results {
                    r.weights = None;
                }
            }
        }
        let on_host = results.iter().all(|r| r.host.is_some());
        for (value, fact) in node.outputs.iter().zip(results) {
            *self.facts.get_mut(value.index()).ok_or_else(dangling)? = fact;
        }
        Ok(!on_host)
    }

    /// Of the nodes that are left, those that some result depends on through data.
    fn needed(&self, graph: &Graph, left: Vec<NodeId>) -> Vec<NodeId> {
        let mut needed = vec![false; graph.node_bound()];
        let mut stack: Vec<ValueId> = graph.outputs().iter().map(|o| o.value).collect();
        while let Some(value) = stack.pop() {
            if self.host(value).is_some() {
                continue;
            }
            if let Some((node, _)) = graph.producer(value)
                && !std::mem::replace(&mut needed[node.index()], true)
            {
                stack.extend(graph.node(node).inputs.iter().flatten());
            }
        }
        left.into_iter().filter(|id| needed[id.index()]).collect()
    }

    fn check_host_ports(&self, graph: &Graph, id: NodeId) -> Result<()> {
        let node = graph.node(id);
        for port in host_ports(&node.op) {
            if let Some(value) = node.input(*port)
                && self.host(value).is_none()
            {
                let name = &graph.value(value).name;
                let message =
                    format!("`{}`: operand {port} (`{name}`) decides sizes and depends on data", node.op.name());
                return Err(Error::new(ErrorKind::Unsupported, message)
                    .hint("a GPU runs what has sizes that follow from those of the inputs"));
            }
        }
        Ok(())
    }
}

/// Refuses foreign ops whose data some result depends on: what else is wrong of such a graph, they are most often to blame for.
fn refuse_foreign(graph: &Graph) -> Result<()> {
    let mut seen = vec![false; graph.node_bound()];
    let mut stack: Vec<ValueId> = graph.outputs().iter().map(|o| o.value).collect();
    while let Some(value) = stack.pop() {
        let Def::Node { node: id, .. } = graph.try_value(value).ok_or_else(dangling)?.def else { continue };
        let node = graph.try_node(id).ok_or_else(dangling)?;
        // Sizes are known whatever the data are, if the graph says them.
        let by_sizes = matches!(node.op, Op::Shape { .. } | Op::Size)
            && node.input(0).and_then(|v| graph.try_value(v)).is_some_and(|v| v.ty.shape.is_some());
        if !std::mem::replace(&mut seen[id.index()], true) && !by_sizes {
            stack.extend(node.inputs.iter().flatten());
        }
    }
    let order = graph.order_from_outputs()?.into_iter().filter(|id| seen.get(id.index()).is_some_and(|n| *n));
    let foreign: Vec<_> = order
        .map(|id| graph.node(id))
        .filter_map(|node| if let Op::Foreign(f) = &node.op { Some((node, f)) } else { None })
        .collect();
    let Some(((first, why), others)) = foreign.split_first() else { return Ok(()) };
    let reason = if why.reason.is_empty() { "unknown op" } else { &why.reason };
    let mut message = format!("`{}` is a foreign op and has no form on the GPU: {reason}", first.op.name());
    if !others.is_empty() {
        let named = others.iter().take(MOST_NAMED).map(|(n, _)| format!("`{}` (`{}`)", n.name, n.op.name()));
        let left = others.len().saturating_sub(MOST_NAMED);
        let left = if left > 0 { format!(" and {left} more") } else { String::new() };
        message = format!("{message}; so it is with {}{left}", named.collect::<Vec<_>>().join(", "));
    }
    Err(Error::new(ErrorKind::Unsupported, message)
        .at_node(first.name.clone())
        .hint("only the engine that defines a foreign op can run it; `compile` leaves it as it is"))
}

/// Bytes of a tensor; of one that is too large for memory, more than there can be.
pub fn bytes_of(typed: &Typed) -> usize {
    byte_len(typed.dtype, &typed.shape).unwrap_or(usize::MAX / 2)
}

fn typed_of(tensor: &Tensor) -> Typed {
    Typed { dtype: tensor.dtype(), shape: tensor.shape().to_vec() }
}

/// A constant of the graph: of the host, unless it is a weight.
fn constant(tensor: &Tensor) -> Fact {
    let weight = tensor.bytes().len() > WEIGHT || (tensor.dtype().is_quantised() && tensor.len() > MAX_KNOWN);
    if weight {
        Fact { typed: Some(typed_of(tensor)), weights: Some(tensor.bytes().len()), ..Fact::default() }
    } else {
        constant_of(tensor)
    }
}

/// What the host has.
fn constant_of(tensor: &Tensor) -> Fact {
    Fact { typed: Some(typed_of(tensor)), host: Some(tensor.clone()), known: infer::constant(tensor), weights: Some(0) }
}

fn input(given: &Given) -> Result<Fact> {
    let (dtype, shape) = given.typed.clone();
    match &given.contents {
        Some(bytes) => Ok(constant_of(&Tensor::from_bytes(dtype, shape, bytes.clone())?)),
        None => Ok(Fact { typed: Some(Typed { dtype, shape }), ..Fact::default() }),
    }
}

fn as_type(fact: &Fact) -> Type {
    match &fact.typed {
        Some(t) => Type::tensor(t.dtype, Shape::from_concrete(&t.shape)),
        None => Type::default(),
    }
}

/// What inference says of a result as numbers, completed by what the graph declares.
fn concrete(found: Inferred, declared: &Type, symbols: &BTreeMap<String, i64>) -> Result<Fact> {
    let dtype = found.ty.dtype.or(declared.dtype);
    let size = |d: &Dim| d.eval(&|s| symbols.get(s).copied()).and_then(|n| usize::try_from(n).ok());
    let sizes = |s: &Shape| s.0.iter().map(size).collect::<Option<Vec<usize>>>();
    let own = found.ty.shape.as_ref().and_then(sizes);
    let said = declared.shape.as_ref().and_then(sizes);
    if let (Some(shape), Some(own)) = (&declared.shape, &own) {
        shape.check(own)?;
    }
    let Some((dtype, shape)) = dtype.zip(own.or(said)) else { return Ok(Fact::default()) };
    let numbers: Option<Vec<i64>> = found.known.as_ref().and_then(|k| k.iter().map(Dim::as_const).collect());
    let host = numbers.and_then(|numbers| {
        let bytes = dtype.bits() / 8;
        let packed = numbers.iter().flat_map(|n| n.to_le_bytes()[..bytes.min(8)].to_vec()).collect();
        Tensor::from_bytes(dtype, shape.clone(), packed).ok()
    });
    Ok(Fact { typed: Some(Typed { dtype, shape }), weights: host.as_ref().map(|_| 0), host, known: found.known })
}
