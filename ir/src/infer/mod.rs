//! Inference: element types, symbolic shapes, strides, schemes, and the contents of the small integer tensors that
//! exporters compute shapes with.
//!
//! What it concludes holds in every run that does not fail:
//! - sizes that an op requires to be equal are: the more informative one is kept (a number, else an expression, else an
//!   unknown); two different numbers are an error;
//! - a broadcast of a number other than 1 with an expression has that number; of two different expressions it is their
//!   maximum where both are at least 1 (they are equal, or one of them is 1), else unknown;
//! - a size that cannot be told is a fresh unknown named after the node's first result, so that it equals nothing else;
//! - contents are integers that do not wrap: a number is kept only if the dtype holds it, an expression is taken to fit.
//!
//! Nothing is concluded from an operand of which nothing is known (behind a foreign op): its users stay unknown, too.

use std::{collections::HashMap, fmt};

use crate::{DType, Def, Dim, Error, ErrorKind, Graph, NodeId, Op, Result, Shape, Tensor, Type, ValueId};

mod args;
mod attributes;
mod broadcast;
mod contents;
mod index;
mod math;
mod movement;
mod ports;
mod quant;
mod scaled;
mod slice;

pub use args::Operand;
pub(crate) use ports::{operand as operand_name, result as result_name};

use args::Args;
use attributes::check_attributes;

/// Most elements that a tensor may have for its contents to be followed.
pub const MAX_KNOWN: usize = 64;

/// Most elements that a tensor may have. The largest that models have are logits of long prompts, some 2^35; a size far
/// beyond is a mistake of whoever wrote the model, and nothing could ever run it.
pub const MAX_ELEMENTS: i64 = 1 << 40;

/// What inference says of one result of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inferred {
    /// Its type, as far as it is known.
    pub ty: Type,
    /// Its contents in row-major order, for an integer or bool tensor of at most [`MAX_KNOWN`] elements.
    pub known: Option<Box<[Dim]>>,
}

/// What inference knows beyond types.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    known: Vec<Option<Box<[Dim]>>>,
}

impl Facts {
    /// The contents of a small integer tensor in row-major order (one element for a scalar), if they are known; elements
    /// that are not are [unknown](Dim::unknown_data) integers of their own.
    pub fn known(&self, value: ValueId) -> Option<&[Dim]> {
        self.known.get(value.index()).and_then(Option::as_deref)
    }

    /// Whether two values have one shape: `None` if that cannot be told.
    pub fn same_shape(&self, graph: &Graph, a: ValueId, b: ValueId) -> Option<bool> {
        graph.try_value(a)?.ty.shape.as_ref()?.equals(graph.try_value(b)?.ty.shape.as_ref()?)
    }

    /// The facts of a graph, without storing types in it.
    ///
    /// # Errors
    /// As [`infer`].
    pub fn of(graph: &Graph) -> Result<Self> {
        Self::visit(graph, &mut |_, _| Ok(()))
    }

    /// Infers without storing: `check` sees every node, in topological order, with what was inferred of its results.
    /// Stored types are what users go by, where they are complete.
    ///
    /// # Errors
    /// As [`infer`], and what `check` returns.
    pub(crate) fn visit(graph: &Graph, check: &mut dyn FnMut(NodeId, &[Inferred]) -> Result<()>) -> Result<Self> {
        let mut facts = Self::of_leaves(graph)?;
        let mut missing = HashMap::new();
        for id in graph.topo_order()? {
            let results = facts.infer_in(graph, id, &missing)?;
            check(id, &results)?;
            for (r, v) in results.into_iter().zip(&graph.node(id).outputs) {
                facts.set(*v, r.known);
                if !complete(&graph.value(*v).ty) {
                    missing.insert(*v, r.ty);
                }
            }
        }
        Ok(facts)
    }

    /// Infers a node that was added after [`infer`] ran, and stores the types of its results.
    ///
    /// # Errors
    /// As [`infer`].
    pub fn infer_new(&mut self, graph: &mut Graph, node: NodeId) -> Result<()> {
        self.learn_constants(graph, node);
        self.infer_and_store(graph, node)
    }

    /// Infers a node from what its operands are now, lets `check` see it, and says whether its contents are others than
    /// before.
    ///
    /// # Errors
    /// As [`infer`], and what `check` returns.
    pub(crate) fn infer_again(
        &mut self,
        graph: &Graph,
        node: NodeId,
        check: &mut dyn FnMut(&[Inferred]) -> Result<()>,
    ) -> Result<bool> {
        self.learn_constants(graph, node);
        let results = self.infer_in(graph, node, &HashMap::new())?;
        check(&results)?;
        let mut changed = false;
        for (r, v) in results.into_iter().zip(&graph.node(node).outputs) {
            changed |= self.known(*v) != r.known.as_deref();
            self.set(*v, r.known);
        }
        Ok(changed)
    }

    /// Contents of the constants that a node reads.
    fn learn_constants(&mut self, graph: &Graph, node: NodeId) {
        for (_, v) in graph.node(node).operands() {
            if self.known(v).is_none()
                && let Some(t) = graph.value(v).as_const()
            {
                self.set(v, constant(t));
            }
        }
    }

    fn infer_and_store(&mut self, graph: &mut Graph, node: NodeId) -> Result<()> {
        let results = self.infer_in(graph, node, &HashMap::new())?;
        for (port, r) in refine_all(graph, node, results)?.into_iter().enumerate() {
            let v = graph.node(node).outputs[port];
            *graph.type_mut(v) = r.ty;
            self.set(v, r.known);
        }
        Ok(())
    }

    /// Contents of the constants.
    fn of_leaves(graph: &Graph) -> Result<Self> {
        let mut facts = Self { known: vec![None; graph.value_bound()] };
        for (id, value) in graph.values() {
            match &value.def {
                Def::Const(t) => facts.set(id, constant(t)),
                Def::Input { .. } => check_size(&value.ty).map_err(|e| e.at_node(value.name.clone()))?,
                Def::Node { .. } => {}
            }
        }
        Ok(facts)
    }

    fn set(&mut self, value: ValueId, known: Option<Box<[Dim]>>) {
        if known.is_some() || value.index() < self.known.len() {
            if self.known.len() <= value.index() {
                self.known.resize(value.index() + 1, None);
            }
            self.known[value.index()] = known;
        }
    }

    /// Results of one node of the graph, from the types of its operands; `missing` are those that are not stored.
    fn infer_in(&self, graph: &Graph, id: NodeId, missing: &HashMap<ValueId, Type>) -> Result<Vec<Inferred>> {
        let node = graph.node(id);
        let operand = |v: &ValueId| {
            let value = graph.try_value(*v).ok_or_else(|| {
                Error::new(ErrorKind::Structure, format!("operand value #{} does not exist", v.index()))
            })?;
            let ty = if complete(&value.ty) { &value.ty } else { missing.get(v).unwrap_or(&value.ty) };
            Ok(Operand { ty, known: self.known(*v) })
        };
        let tag = node.outputs.first().map_or(0, |v| v.index());
        let run = || {
            // Nearly all nodes have few operands, and there are many nodes.
            let mut few = [None; 4];
            let mut many;
            let operands = if let Some(few) = few.get_mut(..node.inputs.len()) {
                few
            } else {
                many = vec![None; node.inputs.len()];
                many.as_mut_slice()
            };
            for (slot, v) in operands.iter_mut().zip(&node.inputs) {
                *slot = v.as_ref().map(operand).transpose()?;
            }
            infer_node(&node.op, operands, &tag)
        };
        run().map_err(|e| e.at_node(node.name.clone()))
    }
}

/// Infers the types of all values, and stores them in the graph. Types that are there already (declared by the format
/// that the graph was read from) complete what cannot be inferred; where a declared number or element type contradicts
/// the inferred one, that is an error. Declared symbols are only names: an inferred size is kept over them.
///
/// # Errors
/// `DType`, `Shape`, `Value` or `Structure` with the node, the port, what was expected and what was found.
pub fn infer(graph: &mut Graph) -> Result<Facts> {
    let mut facts = Facts::of_leaves(graph)?;
    for id in graph.topo_order()? {
        facts.infer_and_store(graph, id)?;
    }
    Ok(facts)
}

/// Infers the results of a single node from its operands. Sizes that cannot be told are unknowns that carry `tag`.
///
/// # Errors
/// As [`infer`], without the node's name.
pub fn infer_node(op: &Op, operands: &[Option<Operand<'_>>], tag: &dyn fmt::Display) -> Result<Vec<Inferred>> {
    check_attributes(op)?;
    let args = Args::new(op, operands, tag)?;
    let types = match op {
        Op::Foreign(f) => vec![Type::default(); f.outputs],
        _ => types(&args)?,
    };
    let mut results = Vec::with_capacity(types.len());
    for (port, mut ty) in types.into_iter().enumerate() {
        if let Some(shape) = &mut ty.shape {
            for (axis, d) in shape.0.iter_mut().enumerate() {
                if d.is_overflow() {
                    return Err(too_large(&format!("axis {axis}")).at_port(ports::result(op, port)));
                }
                if d.is_collapsed() {
                    *d = args.fresh(port, axis);
                }
            }
        }
        check_size(&ty).map_err(|e| e.at_port(ports::result(op, port)))?;
        let known = contents::of(&args, port, &ty);
        results.push(Inferred { ty, known });
    }
    Ok(results)
}

fn types(args: &Args<'_>) -> Result<Vec<Type>> {
    let one = |t: Result<Type>| t.map(|t| vec![t]);
    match args.op {
        Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } | Op::BitCast { .. } | Op::Clip | Op::Where => {
            one(math::elementwise(args))
        }
        Op::Reduce { .. } | Op::ArgReduce { .. } => one(math::reduce(args)),
        Op::TopK { axis, .. } => math::top_k(args, *axis),
        Op::CumSum { .. } | Op::Softmax { .. } => one(math::along_axis(args)),
        Op::LayerNorm { axis, stash, .. } | Op::RmsNorm { axis, stash, .. } => one(math::norm(args, *axis, *stash)),
        Op::SkipRmsNorm { .. } => math::skip_rms_norm(args),
        Op::MatMul => one(math::mat_mul(args)),
        Op::MatMulInteger => one(math::mat_mul_integer(args)),
        Op::ScaledMatMul(product) => one(scaled::product(args, product)),
        Op::Gemm { trans_a, trans_b, .. } => one(math::gemm(args, *trans_a, *trans_b)),
        Op::Attention(a) => math::attention(args, a),
        Op::Reshape { allow_zero } => one(movement::reshape(args, *allow_zero)),
        Op::Squeeze { axes } => one(movement::squeeze(args, axes.as_deref())),
        Op::Unsqueeze { axes } => one(movement::unsqueeze(args, axes)),
        Op::Flatten { axis } => one(movement::flatten(args, *axis)),
        Op::Transpose { perm } => one(movement::transpose(args, perm.as_deref())),
        Op::Expand => one(movement::expand(args)),
        Op::Tile => one(movement::tile(args)),
        Op::Concat { axis } => one(movement::concat(args, *axis)),
        Op::Split { axis, outputs } => movement::split(args, *axis, *outputs),
        Op::Slice => one(slice::slice(args)),
        Op::Pad => one(movement::pad(args)),
        Op::Shape { start, end } => one(Ok(index::shape(args, *start, *end))),
        Op::Size => Ok(vec![Type::tensor(DType::I64, Vec::new())]),
        Op::Range => one(index::range(args)),
        Op::ConstantOfShape { dtype, .. } => one(index::constant_of_shape(args, *dtype)),
        Op::Gather { axis } => one(index::gather(args, *axis)),
        Op::GatherElements { axis } => one(index::gather_elements(args, *axis)),
        Op::GatherNd { batch_dims } => one(index::gather_nd(args, *batch_dims)),
        Op::ScatterElements { axis, .. } => one(index::scatter_elements(args, *axis)),
        Op::ScatterNd { .. } => one(index::scatter_nd(args)),
        Op::OneHot { axis } => one(index::one_hot(args, *axis)),
        Op::NonZero => one(Ok(index::non_zero(args))),
        Op::Trilu { .. } => one(index::trilu(args)),
        Op::QuantizeLinear { axis, block_size, to, .. } => one(quant::quantize_linear(args, *axis, *block_size, *to)),
        Op::DequantizeLinear { axis, block_size, to, .. } => {
            one(quant::dequantize_linear(args, *axis, *block_size, *to))
        }
        Op::DynamicQuantizeLinear => quant::dynamic_quantize_linear(args),
        Op::Quantize(scheme) => quant::quantize(args, scheme),
        Op::FusedNorm(f) => quant::fused_norm(args, f),
        Op::Foreign(f) => Ok(vec![Type::default(); f.outputs]),
    }
}

fn complete(ty: &Type) -> bool {
    ty.dtype.is_some() && ty.shape.is_some()
}

fn too_large(what: &str) -> Error {
    Error::new(ErrorKind::Shape, format!("{what} is too large: more than {MAX_ELEMENTS} elements"))
}

/// Refuses sizes that are negative numbers, and tensors of more than [`MAX_ELEMENTS`] elements.
///
/// # Errors
/// `Shape`.
pub(crate) fn check_size(ty: &Type) -> Result<()> {
    let Some(shape) = &ty.shape else { return Ok(()) };
    let mut numel = 1i64;
    for (axis, d) in shape.0.iter().enumerate() {
        match d.as_const() {
            Some(c) if c < 0 => {
                return Err(Error::new(
                    ErrorKind::Shape,
                    format!("axis {axis} of {shape}: expected a size, found {c}"),
                ));
            }
            // A 0 elsewhere does not make a size of 2^60 sensible.
            Some(c) => match numel.checked_mul(c.max(1)).filter(|n| *n <= MAX_ELEMENTS) {
                Some(n) => numel = n,
                None => return Err(too_large(&format!("shape {shape}"))),
            },
            None => {}
        }
    }
    Ok(())
}

/// The contents of a constant, if it has at most [`MAX_KNOWN`] elements and is of integers or bools that i64 holds.
pub fn constant(t: &Tensor) -> Option<Box<[Dim]>> {
    if t.len() > MAX_KNOWN || !(t.dtype().is_int() || t.dtype() == DType::Bool) {
        return None;
    }
    t.bytes().chunks_exact(t.dtype().bits() / 8).map(|b| element(t.dtype(), b).map(Dim::from)).collect()
}

/// The value of one little-endian integer or bool; `None` if it is not one that i64 holds.
fn element(dtype: DType, bytes: &[u8]) -> Option<i64> {
    let mut wide = [if dtype.is_signed_int() && bytes.last()? & 0x80 != 0 { 0xff } else { 0 }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let v = i64::from_le_bytes(wide);
    ((dtype.is_int() || dtype == DType::Bool) && (dtype != DType::U64 || v >= 0)).then_some(v)
}

/// Completes what was inferred by what the values already have as their types.
fn refine_all(graph: &Graph, id: NodeId, mut results: Vec<Inferred>) -> Result<Vec<Inferred>> {
    let node = graph.node(id);
    if results.len() != node.outputs.len() {
        let message = format!("`{}` has {} results, found {}", node.op.name(), results.len(), node.outputs.len());
        return Err(Error::new(ErrorKind::Structure, message).at_node(node.name.clone()));
    }
    for (port, (r, v)) in results.iter_mut().zip(&node.outputs).enumerate() {
        let declared = &graph.value(*v).ty;
        let foreign = matches!(node.op, Op::Foreign(_));
        refine(&mut r.ty, declared, foreign)
            .map_err(|e| e.at_port(ports::result(&node.op, port)).at_node(node.name.clone()))?;
    }
    Ok(results)
}

fn refine(ty: &mut Type, declared: &Type, foreign: bool) -> Result<()> {
    compare(ty, declared)?;
    ty.dtype = ty.dtype.or(declared.dtype);
    match (&mut ty.shape, &declared.shape) {
        (None, Some(d)) => {
            check_size(declared)?;
            ty.shape = Some(d.clone());
        }
        (Some(s), Some(d)) => {
            for (i, d) in s.0.iter_mut().zip(&d.0) {
                if i.has_unknown() && !d.has_unknown() {
                    *i = d.clone();
                }
            }
        }
        (_, None) => {}
    }
    if foreign {
        ty.strides.clone_from(&declared.strides);
        ty.scheme.clone_from(&declared.scheme);
        ty.opaque.clone_from(&declared.opaque);
    }
    Ok(())
}

/// Refuses a contradiction between an inferred and a declared type: other element types, ranks or numbers.
pub(crate) fn compare(inferred: &Type, declared: &Type) -> Result<()> {
    if let (Some(i), Some(d)) = (inferred.dtype, declared.dtype)
        && i != d
    {
        return Err(Error::new(ErrorKind::DType, format!("the op gives {i}, but {d} is declared")));
    }
    if let (Some(i), Some(d)) = (&inferred.shape, &declared.shape) {
        let number = |d: &Dim| d.as_const();
        let differ = |(i, d): (&Dim, &Dim)| matches!((number(i), number(d)), (Some(i), Some(d)) if i != d);
        if i.rank() != d.rank() || i.0.iter().zip(&d.0).any(differ) {
            return Err(Error::new(ErrorKind::Shape, format!("the op gives shape {i}, but {d} is declared")));
        }
    }
    Ok(())
}

impl Shape {
    /// Whether two shapes are equal: `None` if that depends on their symbols, or cannot be told.
    pub fn equals(&self, other: &Self) -> Option<bool> {
        if self.rank() != other.rank() {
            return Some(false);
        }
        let mut all = Some(true);
        for (a, b) in self.0.iter().zip(&other.0) {
            match a.equals(b) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
