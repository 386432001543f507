//! `scaled-matmul`: a product of two dequantised values becomes one product of codes and their scales.
//!
//! The source makes numbers of the codes of both sides, which rounds each, and multiplies those; [`ScaledMatMul`] multiplies the
//! codes and then the scales, as cuBLASLt does. What the source rounds on the way (a cast of the numbers to 16 bits, a product in
//! f32 that is cast behind) is not rounded then.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Dim, Graph, NodeId, Op, Result, Shape, Type, ValueId,
    op::BinaryOp,
    scaled::{ScalePer, ScaledMatMul},
    scheme::F32,
};

use super::{
    deviation::Compared,
    spread::{Block, Spread},
};
use crate::{
    Options, quant,
    region::{producer_op, typed},
    report::ScaledProduct,
    views::{Names, is_view, restate},
};

/// Most nodes between a product and what dequantises its operand.
const BETWEEN: usize = 8;
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
        if !matches!(graph.node(id).op, Op::MatMul) {
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
}

impl Product {
    /// `None` if one side does not come from codes; else why there is no product of these codes and scales.
    fn of(graph: &Graph, id: NodeId) -> Option<std::result::Result<Self, String>> {
        let node = graph.node(id);
        let (a, b) = (node.input(0)?, node.input(1)?);
        let (a_shape, b_shape) = (typed(graph, a)?.1, typed(graph, b)?.1);
        let found = [dequantiser(graph, a)?, dequantiser(graph, b)?];
        Some(Self::from(graph, id, (a_shape, b_shape), found))
    }

    fn from(
        graph: &Graph,
        id: NodeId,
        (a, b): (&Shape, &Shape),
        [left, right]: [Found; 2],
    ) -> std::result::Result<Self, String> {
        let constant =
            |d: Option<&Dim>| d.and_then(Dim::as_const).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        let [kb, nb] = &b.0[..] else { return Err(format!("its right side is of {b}, which is no matrix")) };
        let (Some(k), Some(n)) = (constant(Some(kb)), constant(Some(nb))) else {
            return Err("the sizes of its right side are not known".into());
        };
        if left.turned || a.rank() < 2 || constant(a.last()) != Some(k) {
            return Err(format!("its left side is of {a}, which are no rows of {k}"));
        }
        let value = behind(graph, id);
        let to = typed(graph, value).map(|(d, _)| d);
        let to = to
            .filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))
            .ok_or("it is of another type than f32, f16 and bf16")?;
        let turned = !right.turned;
        let blocks = |found: &Found, columns: u64| {
            let no = || "codes do not meet their scales by blocks of rows and columns".to_owned();
            found.spread.blocks(columns).ok_or_else(no)
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
        let side = |f: Found, per, turned| Side { codes: f.codes, dtype: f.dtype, scale: f.scale, per, turned };
        Ok(Self {
            node: id,
            sides: [side(left, per_a, false), side(right, per_b, turned)],
            shapes: [a.clone(), dims(n, k)],
            value,
            to,
        })
    }

    fn op(&self) -> ScaledMatMul {
        let [a, b] = [&self.sides[0], &self.sides[1]].map(|s| s.per);
        ScaledMatMul { a, b, to: self.to }
    }

    /// `[N, K]`, which are known.
    fn sizes(&self) -> [usize; 2] {
        let size = |axis: usize| self.shapes[1].0[axis].as_const().and_then(|n| usize::try_from(n).ok());
        [size(0), size(1)].map(Option::unwrap_or_default)
    }

    fn compared(&self, graph: &Graph) -> Compared {
        let [n, k] = self.sizes().map(|n| n as u64);
        let made = graph.node(self.node).outputs[0];
        Compared {
            op: self.op(),
            codes: [&self.sides[0], &self.sides[1]].map(|s| s.dtype),
            product: typed(graph, made).map_or(self.to, |(d, _)| d),
            sizes: (k, n),
        }
    }

    /// Puts the op in the place of the product; `None` if some shape cannot be said.
    fn write(&self, graph: &mut Graph, names: &mut Names, deviation: f32) -> Option<ScaledProduct> {
        let mut operands = [None; 4];
        for (i, (side, shape)) in self.sides.iter().zip(&self.shapes).enumerate() {
            operands[i] = Some(matrix(graph, names, side.codes, shape, side.turned)?);
            let scale = matrix(graph, names, side.scale, &scale_shape(graph, side, shape)?, side.turned)?;
            operands[i + 2] = Some(wide(graph, names, scale)?);
        }
        let op = self.op();
        let name = names.fresh("scaled");
        let id = graph.add_node(name.clone(), Op::ScaledMatMul(op), &operands, [name.clone()]).ok()?;
        let provenance = graph.node(self.node).provenance.clone();
        let provenance_place = provenance.place();
        *graph.node_meta_mut(id).1 = provenance;
        let made = graph.node(id).outputs[0];
        *graph.type_mut(made) = graph.value(self.value).ty.clone();
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
        value,
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
    node(graph, names, "wide", Op::Cast { to: DType::F32, saturate: true }, value, ty)
}

fn node(graph: &mut Graph, names: &mut Names, what: &str, op: Op, input: ValueId, ty: Type) -> Option<ValueId> {
    let name = names.fresh(what);
    let id = graph.add_node(name.clone(), op, &[Some(input)], [name]).ok()?;
    let made = graph.node(id).outputs[0];
    *graph.type_mut(made) = ty;
    Some(made)
}

/// A dequantised value.
struct Found {
    codes: ValueId,
    dtype: DType,
    scale: ValueId,
    /// How the scales are spread over the codes.
    spread: Spread,
    /// The value is the matrix, turned around.
    turned: bool,
}

/// What dequantises a value, moved and cast between floats; `None` if nothing does that is known.
fn dequantiser(graph: &Graph, value: ValueId) -> Option<Found> {
    let (mut at, mut turned) = (value, false);
    for _ in 0..BETWEEN {
        let (id, op) = producer_op(graph, at)?;
        let node = graph.node(id);
        match op {
            Op::DequantizeLinear { .. } => return linear(graph, id).map(|f| Found { turned, ..f }),
            Op::Binary(BinaryOp::Mul) => return spelled(graph, id).map(|f| Found { turned, ..f }),
            Op::Transpose { perm } if !is_view(graph, id) => {
                let matrix = typed(graph, at)?.1.rank() == 2 && perm.as_deref().is_none_or(|p| p == [1, 0]);
                // What is moved on must be the whole matrix still.
                let whole = graph.value(at).ty.shape == graph.value(value).ty.shape;
                (matrix && whole && !turned).then_some(())?;
                turned = true;
            }
            Op::Cast { to, .. } => {
                let from = typed(graph, node.input(0)?)?.0;
                (to.is_arithmetic_float() && from.is_arithmetic_float()).then_some(())?;
            }
            _ if is_view(graph, id) => {}
            _ => return None,
        }
        at = node.input(0)?;
    }
    None
}

/// `DequantizeLinear` without a zero point.
fn linear(graph: &Graph, id: NodeId) -> Option<Found> {
    let node = graph.node(id);
    let Op::DequantizeLinear { axis, block_size, .. } = node.op else { return None };
    node.input(2).is_none_or(|z| quant::is_zero(graph, z)).then_some(())?;
    let (codes, scale) = (node.input(0)?, node.input(1)?);
    let (dtype, shape) = typed(graph, codes)?;
    let scales = typed(graph, scale)?.1;
    let axis = usize::try_from(if axis < 0 { axis + shape.rank() as i64 } else { axis }).ok()?;
    let size = shape.0.get(axis)?;
    // As a broadcast: the axis of blocks is two, which of them and where in it.
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for (i, d) in shape.0.iter().enumerate() {
        match block_size {
            0 => {
                from.push(if i == axis && !scales.is_single() { d.clone() } else { Dim::from(1) });
                to.push(d.clone());
            }
            block if i == axis => {
                let block = size.as_const().map_or(block as i64, |n| n.min(block as i64));
                let count = size.floor_div(&Dim::from(block));
                (&count * &Dim::from(block) == *size).then_some(())?;
                from.extend([count.clone(), Dim::from(1)]);
                to.extend([count, Dim::from(block)]);
            }
            _ => {
                from.push(d.clone());
                to.push(d.clone());
            }
        }
    }
    let met = Met::of(graph, scale)?;
    let (scale, spread) = met.spread(Shape(from), Shape(to))?;
    Some(Found { codes, dtype, scale, spread, turned: false })
}

/// Codes that are cast, times scales that broadcast to them.
fn spelled(graph: &Graph, id: NodeId) -> Option<Found> {
    let node = graph.node(id);
    let shape = typed(graph, node.outputs[0])?.1;
    for (port, other) in [(0, 1), (1, 0)] {
        let (value, factor) = (node.input(port)?, node.input(other)?);
        let Some((codes, dtype)) =
            cast_codes(graph, value).filter(|_| typed(graph, value).is_some_and(|(_, s)| s == shape))
        else {
            continue;
        };
        let met = Met::of(graph, factor)?;
        let (scale, spread) = met.spread(typed(graph, factor)?.1.clone(), shape.clone())?;
        return Some(Found { codes, dtype, scale, spread, turned: false });
    }
    None
}

/// Codes that a value is, as numbers: cast, and views of that.
fn cast_codes(graph: &Graph, value: ValueId) -> Option<(ValueId, DType)> {
    let mut at = value;
    for _ in 0..BETWEEN {
        let (id, op) = producer_op(graph, at)?;
        let from = graph.node(id).input(0)?;
        match op {
            Op::Cast { to, .. } => {
                let dtype = typed(graph, from)?.0;
                // Anything else than a float would round them.
                (to.is_arithmetic_float() && (dtype.is_arithmetic_float() || dtype.embeds_in(*to))).then_some(())?;
                if dtype.is_quantised() {
                    return Some((from, dtype));
                }
            }
            _ if is_view(graph, id) => {}
            _ => return None,
        }
        at = from;
    }
    None
}

/// Scales where codes meet them.
struct Met {
    scale: ValueId,
    spread: Spread,
    /// Rows that there would be if the last block of them were whole.
    rows: Option<Dim>,
}

impl Met {
    fn of(graph: &Graph, value: ValueId) -> Option<Self> {
        let plain = || Spread::back(graph, value).map(|(scale, spread)| Self { scale, spread, rows: None });
        Self::gathered(graph, value).or_else(plain)
    }

    /// Scales of blocks of rows, gathered so that each row has its own: row i has those of block i / r.
    fn gathered(graph: &Graph, value: ValueId) -> Option<Self> {
        let (id, Op::Gather { axis: 0 }) = producer_op(graph, value)? else { return None };
        let node = graph.node(id);
        let (scale, rows) = (node.input(0)?, graph.value(node.input(1)?).as_const()?);
        let rows = normfuse_ir::eval::numbers::ints(rows).ok()?;
        let block = rows.iter().take_while(|r| **r == 0).count();
        let shape = typed(graph, scale)?.1;
        let in_blocks = block > 0 && rows.iter().enumerate().all(|(i, r)| *r == (i / block) as i64);
        let [count, rest @ ..] = &shape.0[..] else { return None };
        (in_blocks && count.as_const() == Some(rows.len().div_ceil(block) as i64)).then_some(())?;
        let of = |n: i64| Shape([&[count.clone(), Dim::from(n)], rest].concat());
        let mut spread = Spread::of(shape);
        spread.expand(&of(1), &of(block as i64))?;
        let whole = rows.len().next_multiple_of(block);
        Some(Self { scale, spread, rows: (whole != rows.len()).then(|| Dim::from(whole as i64)) })
    }

    /// The scales, and how they are spread after a broadcast.
    fn spread(mut self, mut from: Shape, mut to: Shape) -> Option<(ValueId, Spread)> {
        if let Some(rows) = self.rows {
            for shape in [&mut from, &mut to] {
                *shape.0.first_mut()? = rows.clone();
            }
        }
        self.spread.expand(&from, &to)?;
        Some((self.scale, self.spread))
    }
}
