//! `scaled-matmul`: a product of two dequantised values becomes one product of codes and their scales.
//!
//! The source makes numbers of the codes of both sides, which rounds each, and multiplies those; [`ScaledMatMul`] multiplies the
//! codes and then the scales, as cuBLASLt does. What the source rounds on the way (a cast of the numbers to 16 bits, a product in
//! f32 that is cast behind) is not rounded then. A `Gemm` is such a product, too, if all else that it does is to add to columns. What
//! would be another number stays and says why: codes with zero points, a quotient by scales.

mod dequantiser;

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Dim, Graph, NodeId, Op, Result, Shape, Type, ValueId,
    op::BinaryOp,
    scaled::{ScalePer, ScaledMatMul},
    scheme::F32,
};

use self::dequantiser::{Found, dequantiser};
use super::{
    deviation::{Compared, Source},
    spread::Block,
};
use crate::{
    Options,
    region::typed,
    report::ScaledProduct,
    views::{Names, is_view, restate},
};

/// Columns that share a scale, at least: fewer are no scales of groups, but factors of elements.
const LEAST_GROUP: u64 = 16;

/// Rewrites every product of two dequantised values that the host has. Returns what became of each, and why others stay as they are.
pub fn relax(graph: &mut Graph, options: &Options) -> Result<(Vec<ScaledProduct>, Vec<String>)> {
    let (mut made, mut left) = (Vec::new(), Vec::new());
    // What nothing reads is not ours to remove.
    let idle = graph.unused_consts();
    let unread: BTreeSet<NodeId> = graph.nodes().map(|(id, _)| id).filter(|id| !is_read(graph, *id)).collect();
    let mut names = Names::of(graph);
    // Equal products are as far from the source.
    let mut measured: Vec<(Compared, f32)> = Vec::new();
    for id in graph.topo_order()? {
        if !matches!(graph.node(id).op, Op::MatMul | Op::Gemm { .. }) {
            continue;
        }
        let name = graph.node(id).name.clone();
        match Product::of(graph, id) {
            None => {}
            Some(Err(why)) => left.push(format!("{name}: {why}")),
            Some(Ok(product)) => {
                let codes = [&product.sides[0], &product.sides[1]].map(|s| s.dtype);
                if let Err(why) = (options.supports_scaled)(&product.op(), codes, product.sizes()) {
                    left.push(format!("{name}: {why}"));
                    continue;
                }
                let compared = product.compared(graph);
                let met = measured.iter().find(|(c, _)| *c == compared).map(|(_, d)| *d);
                let deviation = met.map_or_else(|| compared.deviation(), Ok)?;
                measured.push((compared, deviation));
                if let Some(told) = product.write(graph, &mut names, deviation) {
                    made.push(told);
                } else {
                    left.push(format!("{name}: a shape cannot be said in terms of the codes' own"));
                }
            }
        }
    }
    let dead: Vec<NodeId> = graph.nodes().map(|(id, _)| id).filter(|id| !unread.contains(id)).collect();
    graph.remove_dead(dead);
    graph.remove_unused_consts(&idle);
    Ok((made, left))
}

/// True if something reads what a node makes.
fn is_read(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).outputs.iter().any(|v| graph.is_output(*v) || graph.uses(*v).next().is_some())
}

/// One operand of a product, in terms of codes.
#[derive(Debug)]
struct Side {
    codes: ValueId,
    dtype: DType,
    scale: ValueId,
    /// What shares a scale.
    per: ScalePer,
    /// The matrix is `[K, N]`.
    turned: bool,
    /// What the source's numbers are rounded to on the way to the product.
    rounded: Vec<DType>,
}

/// A product of two dequantised values.
struct Product {
    node: NodeId,
    sides: [Side; 2],
    /// The shape of the left operand, `[.., M, K]`, and of the right one, `[N, K]`.
    shapes: [Shape; 2],
    /// The value that it makes: the product, or what that is cast to.
    value: ValueId,
    to: DType,
    /// What is added to its columns.
    bias: Option<ValueId>,
}

impl Product {
    /// `None` if one side does not come from codes; else why there is no product of these codes and scales.
    fn of(graph: &Graph, id: NodeId) -> Option<std::result::Result<Self, String>> {
        let node = graph.node(id);
        let (a, b) = (node.input(0)?, node.input(1)?);
        let (a_shape, b_shape) = (typed(graph, a)?.1, typed(graph, b)?.1);
        let (left, right) = (dequantiser(graph, a)?, dequantiser(graph, b)?);
        let found = left.map_err(|why| format!("its left side {why}")).and_then(|left| {
            let right = right.map_err(|why| format!("its right side {why}"))?;
            Ok([left, right])
        });
        Some(found.and_then(|found| Self::from(graph, id, (a_shape, b_shape), found)))
    }

    fn from(
        graph: &Graph,
        id: NodeId,
        (a, b): (&Shape, &Shape),
        [left, right]: [Found; 2],
    ) -> std::result::Result<Self, String> {
        let constant =
            |d: Option<&Dim>| d.and_then(Dim::as_const).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        let (stored_by_rows, bias) = plain(graph, id)?;
        let [kb, nb] = &b.0[..] else { return Err(format!("its right side is of {b}, which is no matrix")) };
        let (kb, nb) = if stored_by_rows { (nb, kb) } else { (kb, nb) };
        let (Some(k), Some(n)) = (constant(Some(kb)), constant(Some(nb))) else {
            return Err("the sizes of its right side are not known".into());
        };
        if left.turned || a.rank() < 2 || constant(a.last()) != Some(k) {
            return Err(format!("its left side is of {a}, which are no rows of {k}"));
        }
        let of_columns = |s: &Shape| constant(s.0.last()) == Some(n) && s.numel() == Dim::from(n as i64);
        if bias.is_some_and(|bias| typed(graph, bias).is_none_or(|(_, s)| !of_columns(s))) {
            return Err("what it adds is no element for each of its columns".into());
        }
        // What is added to it is of the type of the result.
        let value = if bias.is_some() { graph.node(id).outputs[0] } else { behind(graph, id) };
        let to = typed(graph, value).map(|(d, _)| d);
        let to = to
            .filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))
            .ok_or("it is of another type than f32, f16 and bf16")?;
        let turned = right.turned == stored_by_rows;
        let blocks = |found: &Found, columns: u64| {
            let no = || "codes do not meet their scales by blocks of rows and columns".to_owned();
            found.blocks(columns).ok_or_else(no)
        };
        let (rows, columns) = blocks(&left, k)?;
        let per_a = match (rows, columns) {
            (Block::All, Block::All) => ScalePer::Tensor,
            (Block::Of(1), Block::All) => ScalePer::Row,
            (Block::Of(1), Block::Of(c)) => ScalePer::Block(1, c),
            _ => return Err("tokens of its left side share scales".into()),
        };
        let (outer, inner) = blocks(&right, if turned { n } else { k })?;
        let (rows, columns) = if turned { (inner, outer) } else { (outer, inner) };
        let whole = |b: Block, all: u64| if let Block::Of(size) = b { size } else { all };
        let per_b = match (rows, columns) {
            (Block::All, Block::All) => ScalePer::Tensor,
            (Block::Of(1), Block::All) => ScalePer::Row,
            _ => ScalePer::Block(whole(rows, n), whole(columns, k)),
        };
        let group = [per_a, per_b]
            .into_iter()
            .filter_map(|per| if let ScalePer::Block(_, c) = per { Some(c) } else { None })
            .min();
        if let Some(c) = group.filter(|c| *c < LEAST_GROUP.min(k)) {
            return Err(format!("{c} of its {k} columns share a scale, expected at least {LEAST_GROUP}"));
        }
        for found in [&left, &right] {
            if !ScaledMatMul::takes(found.dtype) {
                return Err(format!("there is no scaled product of codes of {}", found.dtype));
            }
        }
        let op = ScaledMatMul { a: per_a, b: per_b, to };
        op.check()?;
        let dims = |n: u64, k: u64| Shape(vec![Dim::from(n as i64), Dim::from(k as i64)]);
        let side = |f: Found, per, turned| {
            let Found { codes, dtype, scale, rounded, .. } = f;
            Side { codes, dtype, scale, per, turned, rounded }
        };
        Ok(Self {
            node: id,
            sides: [side(left, per_a, false), side(right, per_b, turned)],
            shapes: [a.clone(), dims(n, k)],
            value,
            to,
            bias,
        })
    }

    /// The op. What is added to its columns goes into one with scales of tensors or rows and a result of 16 bits, as devices have it; to
    /// others it is added behind, in f32, which is the same number.
    fn op(&self) -> ScaledMatMul {
        let [a, b] = [&self.sides[0], &self.sides[1]].map(|s| s.per);
        let op = ScaledMatMul { a, b, to: self.to };
        if self.bias.is_some() && op.group().is_some() { ScaledMatMul { to: DType::F32, ..op } } else { op }
    }

    /// `[N, K]`, which are known.
    fn sizes(&self) -> [usize; 2] {
        let size = |axis: usize| self.shapes[1].0[axis].as_const().and_then(|n| usize::try_from(n).ok());
        [size(0), size(1)].map(Option::unwrap_or_default)
    }

    fn compared(&self, graph: &Graph) -> Compared {
        let [n, k] = self.sizes().map(|n| n as u64);
        let made = graph.node(self.node).outputs[0];
        let side = |s: &Side| Source {
            codes: s.dtype,
            scale: typed(graph, s.scale).map_or(DType::F32, |(d, _)| d),
            rounded: s.rounded.clone(),
        };
        Compared {
            op: self.op(),
            sides: [side(&self.sides[0]), side(&self.sides[1])],
            product: typed(graph, made).map_or(self.to, |(d, _)| d),
            sizes: (k, n),
        }
    }

    /// Puts the op in the place of the product; `None` if some shape cannot be said.
    fn write(&self, graph: &mut Graph, names: &mut Names, deviation: f32) -> Option<ScaledProduct> {
        let mut operands = vec![None; 4];
        for (i, (side, shape)) in self.sides.iter().zip(&self.shapes).enumerate() {
            operands[i] = Some(matrix(graph, names, side.codes, shape, side.turned)?);
            let scale = matrix(graph, names, side.scale, &scale_shape(graph, side, shape)?, side.turned)?;
            operands[i + 2] = Some(wide(graph, names, scale)?);
        }
        let op = self.op();
        let columns = Shape(self.shapes[1].0[..1].to_vec());
        let mut bias = self.bias.map(|bias| restate(graph, names, bias, &columns).ok_or(())).transpose().ok()?;
        if op.to != DType::F32 {
            operands.extend(bias.take().map(Some));
        }
        let name = names.fresh("scaled");
        let id = graph.add_node(name.clone(), Op::ScaledMatMul(op), &operands, [name.clone()]).ok()?;
        let provenance = graph.node(self.node).provenance.clone();
        let provenance_place = provenance.place();
        *graph.node_meta_mut(id).1 = provenance;
        let mut made = graph.node(id).outputs[0];
        let ty = graph.value(self.value).ty.clone();
        *graph.type_mut(made) = Type { dtype: Some(op.to), ..ty.clone() };
        if let Some(bias) = bias {
            let bias = wide(graph, names, bias)?;
            let in_f32 = Type { dtype: Some(DType::F32), ..ty.clone() };
            made = node(graph, names, "biased", Op::Binary(BinaryOp::Add), &[made, bias], in_f32)?;
            if self.to != DType::F32 {
                made = node(graph, names, "narrow", Op::Cast { to: self.to, saturate: true }, &[made], ty)?;
            }
        }
        let source = graph.node(self.node);
        let told = ScaledProduct {
            node: source.name.clone(),
            op: name,
            place: provenance_place,
            a: format!("{}/{}", self.sides[0].dtype, op.a),
            b: format!("{}/{}", self.sides[1].dtype, op.b),
            to: self.to,
            deviation: F32::new(deviation),
        };
        graph.replace_uses(self.value, made);
        Some(told)
    }
}

/// Whether a product has its right side as `[N, K]`, and what it adds to its columns.
fn plain(graph: &Graph, id: NodeId) -> std::result::Result<(bool, Option<ValueId>), String> {
    let node = graph.node(id);
    let Op::Gemm { alpha, beta, trans_a, trans_b } = node.op else { return Ok((false, None)) };
    let bias = node.input(2);
    if trans_a {
        return Err("its left side is turned around".into());
    }
    if alpha.get() != 1.0 || bias.is_some() && beta.get() != 1.0 {
        return Err("it has a factor of its own".into());
    }
    Ok((trans_b, bias))
}

/// The value that a product makes: what it is cast to, if nothing else reads it.
fn behind(graph: &Graph, id: NodeId) -> ValueId {
    let made = graph.node(id).outputs[0];
    let users = graph.users(made);
    match users[..] {
        [(user, 0)] if !graph.is_output(made) => match graph.node(user).op {
            Op::Cast { to: DType::F16 | DType::BF16, .. }
                if typed(graph, made).is_some_and(|(d, _)| d == DType::F32) =>
            {
                graph.node(user).outputs[0]
            }
            _ => made,
        },
        _ => made,
    }
}

/// The shape of a side's scales, in the order in which the side has its matrix.
fn scale_shape(graph: &Graph, side: &Side, shape: &Shape) -> Option<Shape> {
    let (k, rows) = shape.0.split_last()?;
    side.per.shape_of_dims(rows, k).map(Shape).or_else(|| typed(graph, side.scale).map(|(_, s)| s.clone()))
}

/// A value as a matrix of a shape, turned around if it is stored the other way.
fn matrix(graph: &mut Graph, names: &mut Names, value: ValueId, shape: &Shape, turned: bool) -> Option<ValueId> {
    let value = nearest(graph, value, shape);
    if !turned || graph.value(value).ty.shape.as_ref()?.is_single() {
        return restate(graph, names, value, shape);
    }
    let stored = Shape(shape.0.iter().rev().cloned().collect());
    let value = nearest(graph, value, &stored);
    let value = restate(graph, names, value, &stored)?;
    let ty = graph.value(value).ty.clone();
    node(
        graph,
        names,
        "turned",
        Op::Transpose { perm: Some(vec![1, 0]) },
        &[value],
        Type::tensor(ty.dtype?, shape.clone()),
    )
}

/// The value before views of it that has this shape, if one has; else the value itself.
fn nearest(graph: &Graph, value: ValueId, shape: &Shape) -> ValueId {
    let mut at = value;
    loop {
        if graph.value(at).ty.shape.as_ref() == Some(shape) {
            return at;
        }
        match graph.producer(at).filter(|(id, _)| is_view(graph, *id)).and_then(|(id, _)| graph.node(id).input(0)) {
            Some(before) => at = before,
            None => return value,
        }
    }
}

/// A value in f32.
fn wide(graph: &mut Graph, names: &mut Names, value: ValueId) -> Option<ValueId> {
    let ty = graph.value(value).ty.clone();
    if ty.dtype == Some(DType::F32) {
        return Some(value);
    }
    let ty = Type::tensor(DType::F32, ty.shape?);
    node(graph, names, "wide", Op::Cast { to: DType::F32, saturate: true }, &[value], ty)
}

fn node(graph: &mut Graph, names: &mut Names, what: &str, op: Op, inputs: &[ValueId], ty: Type) -> Option<ValueId> {
    let name = names.fresh(what);
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let id = graph.add_node(name.clone(), op, &inputs, [name]).ok()?;
    let made = graph.node(id).outputs[0];
    *graph.type_mut(made) = ty;
    Some(made)
}
