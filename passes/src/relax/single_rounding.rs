//! `single-rounding`: the last rounding of a normed value, to 16 bits, is left out where its quantisers compute in f32.
//!
//! ```text
//! h -> norm -> * w -> bf16 -> f32 -> amax, v/s, codes        exact
//! h -> norm -> * w ----------------> amax, v/s, codes        relaxed
//! ```
//! Models round the normed value to bf16 and quantisers widen it again, so that a value is rounded twice on its way to 8 bits or
//! fewer. In the body, what reads the rounded value in f32 reads the one before it instead: the operand of a cast, or a product of two
//! 16-bit values in f32, or a native norm that ends in one of these. Steps that round nothing (views, magnitudes, extremes) are repeated in f32. A rounded value that anybody
//! needs for something else stays: then the two would not be one value any more.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{
    DType, Dim, FusedNorm, Graph, NodeId, Op, Shape, Tensor, Type, ValueId,
    fused::{OutPort, Prologue, Sibling},
    op::{BinaryOp, CastBack, ReduceOp, UnaryOp},
};

/// The descriptor without the roundings that may go, and its body; `None` if none may.
///
/// # Errors
/// Why the body cannot say what a descriptor may.
pub fn relax(norm: &FusedNorm, body: &Graph) -> Result<Option<(FusedNorm, Graph)>, String> {
    if matches!(norm.prologue, Prologue::Gated(_)) {
        return Ok(None);
    }
    let (mut norm, mut body) = (norm.clone(), body.clone());
    let (mut changed, mut left) = (false, Ok(None));
    for k in 0..norm.siblings.len() {
        let Some(sibling) = widened(&norm.siblings[k]) else { continue };
        let ports = norm.out_ports();
        let own = ports.iter().zip(body.outputs()).filter(|(p, _)| **p != OutPort::Sum && p.sibling() == k);
        let results: Vec<ValueId> = own.map(|(_, o)| o.value).collect();
        let inputs = norm.in_ports().into_iter().zip(body.inputs());
        let rows: Vec<ValueId> = inputs.filter(|(p, _)| p.is_rows()).map(|(_, v)| *v).collect();
        let Some(wide) = without_rounding(&body, norm.siblings[k].output, &rows, &results) else {
            left = Err("its body has no one rounding that all of its quantisers read".to_owned());
            continue;
        };
        (norm.siblings[k], body, changed) = (sibling, wide, true);
    }
    if !changed {
        return left;
    }
    norm.check().map(|()| Some((norm, body)))
}

/// A sibling whose normed value, in f32, is not rounded before its quantisers read it.
fn widened(sibling: &Sibling) -> Option<Sibling> {
    let narrow = matches!(sibling.output, DType::BF16 | DType::F16);
    let read_by_quantisers_alone = !sibling.emit_normed && !sibling.epilogues.is_empty();
    let in_f32 = sibling.epilogues.iter().all(|s| s.compute == DType::F32);
    if sibling.root.is_none() || !narrow || !read_by_quantisers_alone || !in_f32 {
        return None;
    }
    let mut wide = Sibling { output: DType::F32, ..sibling.clone() };
    match &mut wide.weight {
        // The value is a product that was in f32 already.
        Some(_) if sibling.product() == DType::F32 => {}
        // A product of two 16-bit numbers, which it rounds. Where a factor is rounded for it first, more than one rounding would go.
        Some(weight)
            if [weight.dtype, sibling.normed, sibling.product()] == [sibling.output; 3] && !weight.plus_one =>
        {
            weight.product = Some(DType::F32);
        }
        None if sibling.normed == DType::F32 => {}
        None if sibling.normed == sibling.output && sibling.compute == DType::F32 => wide.normed = DType::F32,
        _ => return None,
    }
    Some(wide)
}

/// The body in which some results read rows in f32, before their last rounding to a dtype.
fn without_rounding(body: &Graph, dtype: DType, rows: &[ValueId], results: &[ValueId]) -> Option<Graph> {
    let order = body.topo_order().ok()?;
    let numel = |v: ValueId| body.value(v).ty.shape.as_ref().map(Shape::numel);
    let is_rows = |v: ValueId| numel(v).is_some() && rows.iter().any(|r| numel(*r) == numel(v));
    // The last one first: what is rounded before it is rounded again.
    order.iter().rev().find_map(|id| {
        let rounded = body.node(*id).outputs.first().copied()?;
        if body.value(rounded).ty.dtype != Some(dtype) || !is_rows(rounded) || !is_between(body, rounded, rows, results)
        {
            return None;
        }
        let mut widening = Widening { graph: body.clone(), dtype, wide: BTreeMap::new() };
        widening.skip(*id, &order)?;
        Some(widening.graph)
    })
}

/// True if all that results are made of rows is made of a value.
fn is_between(graph: &Graph, value: ValueId, rows: &[ValueId], results: &[ValueId]) -> bool {
    let mut seen = BTreeSet::from([value]);
    let mut stack = results.to_vec();
    while let Some(value) = stack.pop() {
        if !seen.insert(value) {
            continue;
        }
        if rows.contains(&value) {
            return false;
        }
        // A shape is none of its elements.
        let made = graph.producer(value).map(|(id, _)| graph.node(id)).filter(|n| !matches!(n.op, Op::Shape { .. }));
        stack.extend(made.iter().flat_map(|n| n.operands()).map(|(_, v)| v));
    }
    true
}

struct Widening {
    graph: Graph,
    /// The rounding that goes.
    dtype: DType,
    /// What the rounded value and all that is made of it without a rounding would be in f32.
    wide: BTreeMap<ValueId, ValueId>,
}

impl Widening {
    /// Leaves out the rounding that a node does; `None` if it does none, or if its result is needed.
    fn skip(&mut self, rounding: NodeId, order: &[NodeId]) -> Option<()> {
        let rounded = *self.graph.node(rounding).outputs.first()?;
        let before = self.before(rounding)?;
        self.wide.insert(rounded, before);
        for id in order {
            self.widen(*id)?;
        }
        let in_f32 = self.wide.iter().filter(|(old, _)| self.dtype_of(**old) == Some(DType::F32));
        for (old, new) in in_f32.map(|(old, new)| (*old, *new)).collect::<Vec<_>>() {
            self.graph.replace_uses(old, new);
        }
        let all: Vec<NodeId> = self.graph.nodes().map(|(id, _)| id).collect();
        self.graph.remove_dead(all);
        self.graph.remove_unused_consts(&BTreeSet::new());
        self.graph.try_value(rounded).is_none().then_some(())
    }

    /// The value before a node's rounding, in f32.
    fn before(&mut self, rounding: NodeId) -> Option<ValueId> {
        let node = self.graph.node(rounding).clone();
        let (value, operand) = (*node.outputs.first()?, node.input(0)?);
        match node.op {
            Op::Cast { .. } => (self.dtype_of(operand) == Some(DType::F32)).then_some(operand),
            // What is rounded once, at its end.
            Op::Binary(BinaryOp::Mul) | Op::RmsNorm { cast: CastBack::AfterScale, .. } => {
                let operands = [Some(self.in_f32(operand)?), Some(self.in_f32(node.input(1)?)?)];
                self.node(node.op, &operands, value)
            }
            // A product of two 16-bit numbers again, one of which is the norm without a weight.
            Op::RmsNorm { cast: CastBack::BeforeScale, .. } => {
                let weight = node.input(1)?;
                let ones = self.ones(weight)?;
                let normed = self.node(node.op, &[Some(operand), Some(ones)], value)?;
                *self.graph.type_mut(normed) = self.graph.value(value).ty.clone();
                let factors = [Some(self.in_f32(normed)?), Some(self.in_f32(weight)?)];
                self.node(Op::Binary(BinaryOp::Mul), &factors, value)
            }
            _ => None,
        }
    }

    /// Says what a node's result is in f32, if it is made of the rounded value and rounds nothing.
    fn widen(&mut self, id: NodeId) -> Option<()> {
        let node = self.graph.node(id).clone();
        let (Some(made), Some(operand)) = (node.outputs.first().copied(), node.input(0)) else { return Some(()) };
        let to = self.dtype_of(made);
        if matches!(node.op, Op::Cast { .. }) {
            // In f32 or the same 16 bits again, it is the same number.
            if let Some(wide) = self.wide.get(&operand).copied()
                && (to == Some(DType::F32) || to == Some(self.dtype))
            {
                self.wide.insert(made, wide);
            }
            return Some(());
        }
        let values: Vec<ValueId> = match node.op {
            Op::Binary(_) => node.operands().map(|(_, v)| v).collect(),
            _ => vec![operand],
        };
        let of_it = |v: &ValueId| self.wide.contains_key(v);
        // What is in f32 and met a number that is not of the 16 bits may be none itself.
        let exact = if to == Some(self.dtype) { values.iter().any(of_it) } else { values.iter().all(of_it) };
        if !keeps(&node.op) || !exact {
            return Some(());
        }
        let mut operands = node.inputs.clone();
        for operand in operands.iter_mut().take(values.len()) {
            let value = (*operand)?;
            *operand = Some(if let Some(wide) = self.wide.get(&value) { *wide } else { self.in_f32(value)? });
        }
        let wide = self.node(node.op, &operands, made)?;
        self.wide.insert(made, wide);
        Some(())
    }

    /// Ones in the place of a weight.
    fn ones(&mut self, weight: ValueId) -> Option<ValueId> {
        let sizes: Option<Vec<i64>> = self.graph.value(weight).ty.shape.as_ref()?.0.iter().map(Dim::as_const).collect();
        let (sizes, dtype) = (sizes?, self.dtype_of(weight)?);
        let name = format!("wide{}", self.graph.value_bound());
        let shape = self.graph.add_const(name, Tensor::from_i64(&[sizes.len()], &sizes));
        let one = Op::ConstantOfShape { dtype: DType::F32, value: 1.0_f32.to_le_bytes().to_vec() };
        let ones = self.node(one, &[Some(shape)], weight)?;
        let ones = self.node(Op::Cast { to: dtype, saturate: true }, &[Some(ones)], weight)?;
        *self.graph.type_mut(ones) = self.graph.value(weight).ty.clone();
        Some(ones)
    }

    fn dtype_of(&self, value: ValueId) -> Option<DType> {
        self.graph.value(value).ty.dtype
    }

    fn in_f32(&mut self, value: ValueId) -> Option<ValueId> {
        if self.dtype_of(value) == Some(DType::F32) {
            return Some(value);
        }
        self.node(Op::Cast { to: DType::F32, saturate: true }, &[Some(value)], value)
    }

    /// A node with one f32 result of the shape that a value has.
    fn node(&mut self, op: Op, operands: &[Option<ValueId>], like: ValueId) -> Option<ValueId> {
        let name = format!("wide{}", self.graph.value_bound());
        let id = self.graph.add_node(name.clone(), op, operands, [name]).ok()?;
        let made = *self.graph.node(id).outputs.first()?;
        let ty = self.graph.value(like).ty.clone();
        *self.graph.type_mut(made) = Type { dtype: Some(DType::F32), ..ty };
        Some(made)
    }
}

/// True for ops whose result is a number that went in.
fn keeps(op: &Op) -> bool {
    match op {
        Op::Unary(u) => matches!(u, UnaryOp::Identity | UnaryOp::Abs | UnaryOp::Neg),
        Op::Binary(b) => matches!(b, BinaryOp::Max | BinaryOp::Min),
        Op::Reduce { op, .. } => matches!(op, ReduceOp::Max | ReduceOp::Min),
        Op::Reshape { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. }
        | Op::Expand
        | Op::Transpose { .. } => true,
        _ => false,
    }
}
