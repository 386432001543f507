//! What a layer reads, quantised: spelled in plain ops, as exporters spell it.

use normfuse_ir::{
    DType, Error, ErrorKind, Op, Result, ValueId,
    linear::{Activation, ActivationPer, NVFP4_GROUP, ScaleRule},
    op::{BinaryOp, Dialect, ReduceOp, UnaryOp},
};

use super::{find::Product, write::Writer};

/// Exponents of f8e8m0.
const POWERS: [f32; 2] = [-127.0, 127.0];
/// The largest value of f8e4m3fn, in which NVFP4 keeps its scales.
const SCALE_MAX: f32 = 448.0;

/// Codes and scales of a value, and the numbers that they mean, in f32. `given` is the scale that the model has.
pub fn dequantised(
    w: &mut Writer<'_>,
    product: &Product,
    columns: usize,
    activation: &Activation,
    given: Option<ValueId>,
) -> Result<ValueId> {
    let given = || given.ok_or_else(|| Error::new(ErrorKind::Scheme, "expected a given scale, found none"));
    match activation {
        Activation::Static { element, divide, .. } => fixed(w, product, *element, given()?, *divide),
        Activation::Dynamic { element, per, rule } => dynamic(w, product, columns, *element, *per, *rule),
        Activation::TwoLevel { .. } => two_level(w, product, columns, given()?),
    }
}

fn fixed(w: &mut Writer<'_>, product: &Product, element: DType, scale: ValueId, divide: bool) -> Result<ValueId> {
    let v = w.cast("input", product.x, product.dtype, DType::F32)?;
    let v = if divide {
        w.node("scaled", Op::Binary(BinaryOp::Div), &[v, scale])?
    } else {
        let inverse = w.node("inverse", Op::Unary(UnaryOp::Reciprocal), &[scale])?;
        w.node("scaled", Op::Binary(BinaryOp::Mul), &[v, inverse])?
    };
    let q = encode(w, v, element)?;
    dequantise(w, q, scale, 0)
}

fn dynamic(
    w: &mut Writer<'_>,
    product: &Product,
    columns: usize,
    element: DType,
    per: ActivationPer,
    rule: ScaleRule,
) -> Result<ValueId> {
    let max =
        element.max_finite().ok_or_else(|| Error::new(ErrorKind::Scheme, format!("{element} is no type of codes")))?;
    let rows = Rows::cut(w, product, columns, per)?;
    let amax = rows.amax(w)?;
    let scale = scale(w, amax, max, rule)?;
    let v = w.node("scaled", Op::Binary(BinaryOp::Div), &[rows.values, scale])?;
    let q = encode(w, v, element)?;
    let power = matches!(rule, ScaleRule::Microscaling);
    // What is handed on of a power of two is its byte.
    let scale = if power { w.cast("scale.byte", scale, DType::F32, DType::F8E8M0)? } else { scale };
    let (q, scale) = (rows.whole(w, q)?, rows.one_each(w, scale)?);
    let scale = if power { w.cast("scale.number", scale, DType::F8E8M0, DType::F32)? } else { scale };
    dequantise(w, q, scale, rows.block)
}

fn scale(w: &mut Writer<'_>, amax: ValueId, max: f32, rule: ScaleRule) -> Result<ValueId> {
    let at_least = |w: &mut Writer<'_>, v: ValueId, floor: f32| {
        let floor = w.number(floor);
        w.node("floor", Op::Clip, &[v, floor])
    };
    match rule {
        ScaleRule::FloorOnAmax(floor) => {
            let v = at_least(w, amax, floor.get())?;
            w.with("scale", BinaryOp::Div, v, max)
        }
        ScaleRule::FloorOnScale(floor) => {
            let v = w.with("quotient", BinaryOp::Div, amax, max)?;
            at_least(w, v, floor.get())
        }
        ScaleRule::PowerAbove(floor) => {
            let v = at_least(w, amax, floor.get())?;
            let v = w.with("quotient", BinaryOp::Div, v, max)?;
            let v = w.node("exponent", Op::Unary(UnaryOp::Log2), &[v])?;
            let v = w.node("above", Op::Unary(UnaryOp::Ceil), &[v])?;
            w.node("scale", Op::Unary(UnaryOp::Exp2), &[v])
        }
        ScaleRule::Microscaling => {
            // A logarithm of 0 has no integer below it.
            let v = at_least(w, amax, f32::MIN_POSITIVE)?;
            let v = w.node("exponent", Op::Unary(UnaryOp::Log2), &[v])?;
            let v = w.node("below", Op::Unary(UnaryOp::Floor), &[v])?;
            let v = w.with("less", BinaryOp::Sub, v, max.log2().floor())?;
            let v = clip(w, "range", v, POWERS)?;
            w.node("scale", Op::Unary(UnaryOp::Exp2), &[v])
        }
    }
}

fn two_level(w: &mut Writer<'_>, product: &Product, columns: usize, global: ValueId) -> Result<ValueId> {
    let rows = Rows::cut(w, product, columns, ActivationPer::Group(NVFP4_GROUP))?;
    let amax = rows.amax(w)?;
    let v = w.with("sixth", BinaryOp::Mul, amax, 1.0 / 6.0)?;
    let v = w.node("wide", Op::Binary(BinaryOp::Mul), &[global, v])?;
    let v = clip(w, "range", v, [-SCALE_MAX, SCALE_MAX])?;
    let byte = w.cast("scale", v, DType::F32, DType::F8E4M3FN)?;
    let rounded = w.cast("rounded", byte, DType::F8E4M3FN, DType::F32)?;
    let zero = w.number(0.0);
    let is_zero = w.node("is_zero", Op::Binary(BinaryOp::Equal), &[rounded, zero])?;
    let over = w.node("over", Op::Binary(BinaryOp::Div), &[global, rounded])?;
    let factor = w.node("factor", Op::Where, &[is_zero, zero, over])?;
    let v = w.node("scaled", Op::Binary(BinaryOp::Mul), &[rows.values, factor])?;
    let q = encode(w, v, DType::F4E2M1)?;
    let (q, byte) = (rows.whole(w, q)?, rows.one_each(w, byte)?);
    let scale = w.cast("scale.number", byte, DType::F8E4M3FN, DType::F32)?;
    let scale = w.node("scale.true", Op::Binary(BinaryOp::Div), &[scale, global])?;
    dequantise(w, q, scale, rows.block)
}

/// A value in f32, cut along its rows so that the last axis is what shares a scale.
struct Rows {
    values: ValueId,
    rank: usize,
    columns: usize,
    per: ActivationPer,
    /// Values a scale along a row; 0 for one scale.
    block: usize,
}

impl Rows {
    fn cut(w: &mut Writer<'_>, product: &Product, columns: usize, per: ActivationPer) -> Result<Self> {
        let Some(rank) = product.rank.filter(|r| *r > 0) else {
            return Err(Error::new(
                ErrorKind::Shape,
                "expected what it reads to have a shape that is known, found none",
            ));
        };
        let mut values = product.x;
        let block = match per {
            ActivationPer::Tensor => 0,
            ActivationPer::Token => columns,
            ActivationPer::Group(n) => {
                let mut sizes = vec![0; rank - 1];
                sizes.extend([(columns / n) as i64, n as i64]);
                values = w.reshape("groups", values, &sizes)?;
                n
            }
        };
        let values = w.cast("input", values, product.dtype, DType::F32)?;
        Ok(Self { values, rank, columns, per, block })
    }

    fn amax(&self, w: &mut Writer<'_>) -> Result<ValueId> {
        let magnitude = w.node("magnitude", Op::Unary(UnaryOp::Abs), &[self.values])?;
        let all = self.per == ActivationPer::Tensor;
        let axes = if all { (0..self.rank as i64).collect() } else { vec![-1] };
        w.node("amax", Op::Reduce { op: ReduceOp::Max, axes: Some(axes), keepdims: !all }, &[magnitude])
    }

    /// Codes in the shape that the value had.
    fn whole(&self, w: &mut Writer<'_>, q: ValueId) -> Result<ValueId> {
        let ActivationPer::Group(_) = self.per else { return Ok(q) };
        let mut sizes = vec![0; self.rank - 1];
        sizes.push(self.columns as i64);
        w.reshape("q", q, &sizes)
    }

    /// Scales along the row instead of one a cut.
    fn one_each(&self, w: &mut Writer<'_>, scale: ValueId) -> Result<ValueId> {
        let ActivationPer::Group(_) = self.per else { return Ok(scale) };
        w.node("s", Op::Squeeze { axes: Some(vec![-1]) }, &[scale])
    }
}

fn clip(w: &mut Writer<'_>, what: &str, v: ValueId, [low, high]: [f32; 2]) -> Result<ValueId> {
    let bounds = [w.number(low), w.number(high)];
    w.node(what, Op::Clip, &[v, bounds[0], bounds[1]])
}

/// Codes: to the nearest, and no further than the largest.
fn encode(w: &mut Writer<'_>, v: ValueId, element: DType) -> Result<ValueId> {
    let v = if element.is_int() { w.node("nearest", Op::Unary(UnaryOp::Round), &[v])? } else { v };
    let low = if element == DType::I8 { -128.0 } else { -element.max_finite().unwrap_or(f32::MAX) };
    let v = clip(w, "clamped", v, [low, -low - if element == DType::I8 { 1.0 } else { 0.0 }])?;
    w.node("codes", Op::Cast { to: element, saturate: true }, &[v])
}

fn dequantise(w: &mut Writer<'_>, q: ValueId, scale: ValueId, block: usize) -> Result<ValueId> {
    let axis = if block == 0 { 0 } else { -1 };
    w.node("x", Op::DequantizeLinear { axis, block_size: block as u64, to: None, dialect: Dialect::Onnx }, &[q, scale])
}
