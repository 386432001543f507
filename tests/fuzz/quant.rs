//! Quantisers in every spelling.

use normfuse_ir::{
    DType, Dim, Op, Shape, Tensor, ValueId,
    op::{BinaryOp, Dialect, ReduceOp, UnaryOp},
};

use crate::{dequantise, fp4, maker::Maker};

const F8: [DType; 4] = [DType::F8E4M3FN, DType::F8E4M3FN, DType::F8E5M2, DType::F8E4M3FNUZ];
/// The smallest normal f32, which logarithms are kept away from 0 with.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// A quantiser of a value; what it hands out becomes results of the graph. Perhaps the same one again, as for another
/// reader, or with its scale handed out in another way.
pub fn quantise(m: &mut Maker, y: ValueId) {
    let before = m.tape.mark();
    once(m, y);
    if m.tape.one_in(6) {
        let after = m.tape.wind(before);
        once(m, y);
        m.tape.wind(after);
    }
}

fn once(m: &mut Maker, y: ValueId) {
    match m.tape.below(10) {
        0 | 1 => given(m, y),
        2..=5 => linear(m, y),
        6 => power_of_two(m, y),
        7 => nvfp4(m, y),
        8 => quantize_linear(m, y),
        _ => dynamic_linear(m, y),
    }
}

/// The value in the quantiser's own dtype.
fn widened(m: &mut Maker, v: ValueId) -> ValueId {
    if m.tape.one_in(8) { v } else { m.cast_to(v, DType::F32) }
}

/// One scale: a number, an input, or what something else computes.
fn one_scale(m: &mut Maker, dtype: DType) -> ValueId {
    match m.tape.below(6) {
        3 => m.input(dtype, Shape::from_concrete(&[])),
        4 => m.input(dtype, Shape::from_concrete(&[1])),
        5 => {
            // Of any value that is there: perhaps of one that depends on the norm.
            let of: Vec<ValueId> =
                m.graph.values().filter(|(_, v)| v.ty.dtype == Some(DType::F32)).map(|(id, _)| id).collect();
            let all = Op::Reduce { op: ReduceOp::Max, axes: None, keepdims: false };
            if of.is_empty() {
                return m.number(dtype, 0.03125, 1);
            }
            let of = m.tape.pick(&of);
            let s = m.op(all, &[of]);
            m.cast_to(s, dtype)
        }
        _ => {
            let s = m.tape.pick(&[0.03125, 103.1367, 0.009_695_844, 1.0]);
            m.number(dtype, s, 1)
        }
    }
}

/// A given scale.
fn given(m: &mut Maker, y: ValueId) {
    let y = m.copied(y);
    let v = widened(m, y);
    let s = one_scale(m, m.dtype(v));
    let scaled = apply(m, v, s);
    let element = element(m);
    let q = encode(m, scaled, element);
    dequantise::numbers(m, q, element, s);
    m.output(q);
}

fn element(m: &mut Maker) -> DType {
    if m.tape.one_in(4) { DType::I8 } else { m.tape.pick(&F8) }
}

/// The value and its scale: divided, or times a reciprocal.
fn apply(m: &mut Maker, v: ValueId, s: ValueId) -> ValueId {
    match m.tape.below(4) {
        0 | 1 => m.binary(BinaryOp::Div, v, s),
        2 => {
            let r = m.unary(UnaryOp::Reciprocal, s);
            m.either(BinaryOp::Mul, v, r)
        }
        _ => {
            let one = m.number(m.dtype(s), 1.0, m.rank(s));
            let r = m.binary(BinaryOp::Div, one, s);
            m.either(BinaryOp::Mul, v, r)
        }
    }
}

/// Largest finite value of an element type.
fn top(element: DType) -> f64 {
    if element == DType::I8 { 127.0 } else { f64::from(element.max_finite().unwrap()) }
}

/// From the scaled value to codes.
fn encode(m: &mut Maker, v: ValueId, element: DType) -> ValueId {
    let v = m.copied(v);
    if element == DType::F4E2M1 {
        return fp4::encode(m, v);
    }
    let top = top(element);
    let low = if element == DType::I8 && m.tape.one_in(2) { -128.0 } else { -top };
    let integer = element == DType::I8;
    let late = m.tape.one_in(2);
    let v = if integer && !late { m.unary(UnaryOp::Round, v) } else { v };
    let v = clamped(m, v, low, top);
    let v = if integer && late { m.unary(UnaryOp::Round, v) } else { v };
    let v = if m.tape.one_in(16) { m.cast_to(v, DType::BF16) } else { v };
    let saturate = !m.tape.one_in(3);
    m.op(Op::Cast { to: element, saturate }, &[v])
}

fn clamped(m: &mut Maker, v: ValueId, low: f64, high: f64) -> ValueId {
    let dtype = m.dtype(v);
    match m.tape.below(5) {
        0 | 1 => {
            let (low, high) = (m.number_of_rank(dtype, low, 0), m.number_of_rank(dtype, high, 0));
            m.op(Op::Clip, &[v, low, high])
        }
        2 => {
            let v = m.with(BinaryOp::Max, v, low);
            m.with(BinaryOp::Min, v, high)
        }
        3 => {
            let v = m.with(BinaryOp::Min, v, high);
            m.with(BinaryOp::Max, v, low)
        }
        _ => v,
    }
}

/// How values share a scale.
#[derive(Clone, Copy, PartialEq)]
enum Share {
    Tensor,
    Token,
    Group(i64),
}

/// The value seen as runs that share a scale, and the shape to go back to.
fn seen(m: &mut Maker, y: ValueId, share: Share) -> ValueId {
    let y = m.copied(y);
    let Share::Group(g) = share else { return y };
    let (shape, groups) = (m.shape(y).clone(), m.width(y) / g);
    let lead = shape.rank() - 1;
    match m.tape.below(4) {
        2 => m.reshape(y, &[-1, groups, g]),
        3 => m.reshape(y, &[-1, g]),
        _ => {
            let mut to: Vec<Dim> = shape.0[..lead].to_vec();
            to.extend([Dim::from(groups), Dim::from(g)]);
            m.like(y, &Shape(to)).unwrap_or_else(|| m.reshape(y, &[-1, groups, g]))
        }
    }
}

fn share(m: &mut Maker, y: ValueId) -> Share {
    let width = m.width(y);
    match m.tape.below(6) {
        4 => Share::Tensor,
        5 | 0 => Share::Token,
        _ => {
            let g = m.tape.pick(&[32, 16, 8, 64]);
            if width % g == 0 { Share::Group(g) } else { Share::Token }
        }
    }
}

/// The largest magnitude of each run, with or without the axis that it was taken along.
fn amax(m: &mut Maker, v: ValueId, share: Share, keepdims: bool) -> ValueId {
    let reduce = |m: &mut Maker, op, v| {
        if share == Share::Tensor {
            let axes = (0..m.rank(v) as i64).collect();
            let axes = if m.tape.one_in(3) { Some(axes) } else { None };
            m.op(Op::Reduce { op, axes, keepdims }, &[v])
        } else {
            m.reduce(op, v, keepdims)
        }
    };
    match m.tape.below(6) {
        4 => {
            let (high, low) = (reduce(m, ReduceOp::Max, v), reduce(m, ReduceOp::Min, v));
            let low = m.unary(UnaryOp::Neg, low);
            m.either(BinaryOp::Max, high, low)
        }
        5 => {
            // The exporter's way to say the magnitude of a bf16.
            let own = m.dtype(v);
            let wide = m.cast(v, DType::F32);
            let a = m.unary(UnaryOp::Abs, wide);
            let a = m.cast_to(a, own);
            reduce(m, ReduceOp::Max, a)
        }
        _ => {
            let a = m.unary(UnaryOp::Abs, v);
            reduce(m, ReduceOp::Max, a)
        }
    }
}

/// A lower bound, in one of its spellings.
fn floored(m: &mut Maker, v: ValueId, floors: &[f64]) -> ValueId {
    let c = m.tape.pick(floors);
    match m.tape.below(3) {
        0 => m.with(BinaryOp::Max, v, c),
        1 => {
            let c = m.number_of_rank(m.dtype(v), c, 0);
            m.op(Op::Clip, &[v, c])
        }
        _ => v,
    }
}

/// The value in runs, the same in the arithmetic's dtype, and the runs' largest magnitudes, each with its axis.
fn measured(m: &mut Maker, y: ValueId, share: Share) -> (ValueId, ValueId, ValueId) {
    let runs = seen(m, y, share);
    let v = widened(m, runs);
    let compute = m.dtype(v);
    let measured = if m.tape.one_in(3) { runs } else { v };
    let keepdims = share == Share::Tensor || !m.tape.one_in(4);
    let mut a = amax(m, measured, share, keepdims);
    if !keepdims {
        a = m.unsqueeze_last(a);
    }
    let a = m.cast_to(a, compute);
    (runs, v, a)
}

/// Scales that are linear in the largest magnitude.
fn linear(m: &mut Maker, y: ValueId) {
    let share = share(m, y);
    let (_, v, a) = measured(m, y, share);
    let element = element(m);
    let top = top(element);
    let a = if m.tape.one_in(2) { floored(m, a, &[1e-4, 1e-10, 1e-12]) } else { a };
    let a = if m.tape.one_in(8) { m.with(BinaryOp::Min, a, 1200.0) } else { a };
    let s = if m.tape.one_in(3) { m.with(BinaryOp::Mul, a, 1.0 / top) } else { m.with(BinaryOp::Div, a, top) };
    let s = if m.tape.one_in(3) { floored(m, s, &[4.359_654_2e-6, 1e-5]) } else { s };
    let s = match m.tape.below(10) {
        8 => {
            let narrow = m.cast_to(s, DType::BF16);
            m.cast_to(narrow, m.dtype(v))
        }
        9 => guarded(m, s),
        _ => s,
    };
    let scaled = if m.tape.one_in(5) {
        // The value times 448 over the largest magnitude.
        let c = m.number(m.dtype(a), top, m.rank(a));
        let inverse = m.binary(BinaryOp::Div, c, a);
        m.either(BinaryOp::Mul, v, inverse)
    } else {
        apply(m, v, s)
    };
    let q = finish(m, y, scaled, element);
    dequantise::numbers(m, q, element, s);
    hand_out(m, s, None);
}

/// The scale, or another number where it is 0.
fn guarded(m: &mut Maker, s: ValueId) -> ValueId {
    let dtype = m.dtype(s);
    let (zero, one) = (m.number(dtype, 0.0, 0), m.number(dtype, 1.0, 0));
    let is_zero = m.binary(BinaryOp::Equal, s, zero);
    m.op(Op::Where, &[is_zero, one, s])
}

/// Codes, seen again in the shape of the value.
fn finish(m: &mut Maker, y: ValueId, scaled: ValueId, element: DType) -> ValueId {
    let back = m.tape.below(3);
    let mut shape = m.shape(y).clone();
    let early = back == 1 && element != DType::F4E2M1;
    let scaled = if early && m.shape(scaled) != &shape { m.like(scaled, &shape).unwrap_or(scaled) } else { scaled };
    let q = encode(m, scaled, element);
    if element == DType::F4E2M1 && m.shape(q).rank() == shape.rank() {
        shape = m.shape(q).clone();
    }
    let q =
        if back == 0 && m.shape(q) != &shape && element != DType::F4E2M1 { m.like(q, &shape).unwrap_or(q) } else { q };
    if !m.tape.one_in(8) {
        m.output(q);
    }
    q
}

/// A scale as a float of 8 bits, rounded and bounded as ONNX does or as torch does.
fn byte(m: &mut Maker, s: ValueId, to: DType) -> ValueId {
    let saturate = m.tape.one_in(2);
    m.op(Op::Cast { to, saturate }, &[s])
}

/// The scale for others: as it is, without its axis, in another shape, as a byte, or not at all.
fn hand_out(m: &mut Maker, s: ValueId, exponent: Option<ValueId>) {
    for _ in 0..[1, 1, 1, 0, 2][m.tape.below(5)] {
        let s = match (m.tape.below(6), exponent) {
            (0, Some(e)) => {
                let e = m.with(BinaryOp::Add, e, 127.0);
                m.cast(e, DType::U8)
            }
            (1, Some(_)) => byte(m, s, DType::F8E8M0),
            (3, _) => {
                let to = m.tape.pick(&[DType::F8E8M0, DType::F8E4M3FN]);
                byte(m, s, to)
            }
            (2, None) => m.cast_to(s, DType::BF16),
            _ => s,
        };
        let one = m.shape(s).last().is_some_and(|d| d.as_const() == Some(1));
        let s = match m.tape.below(4) {
            0 | 1 if one => m.squeeze_last(s),
            2 => m.reshape(s, &[-1]),
            _ => s,
        };
        m.output(s);
    }
}

/// Scales that are powers of two.
fn power_of_two(m: &mut Maker, y: ValueId) {
    let share = share(m, y);
    let (_, v, a) = measured(m, y, share);
    let element = m.tape.pick(&[DType::F8E4M3FN, DType::F4E2M1, DType::F8E5M2]);
    let up = m.tape.one_in(2);
    let x = if up { m.with(BinaryOp::Div, a, top(element)) } else { a };
    let x = floored(m, x, &[TINY, 1e-10]);
    let log = if m.tape.one_in(2) {
        let l = m.unary(UnaryOp::Log, x);
        m.with(BinaryOp::Div, l, std::f64::consts::LN_2)
    } else {
        m.unary(UnaryOp::Log2, x)
    };
    let e = if up {
        m.unary(UnaryOp::Ceil, log)
    } else {
        let e = m.unary(UnaryOp::Floor, log);
        let emax = top(element).log2().floor();
        let op = m.tape.pick(&[(BinaryOp::Sub, emax), (BinaryOp::Add, -emax)]);
        m.with(op.0, e, op.1)
    };
    let kept = if m.tape.one_in(2) { clamped(m, e, -127.0, 127.0) } else { e };
    let s = if m.tape.one_in(2) {
        let base = m.number(m.dtype(kept), 2.0, m.rank(kept));
        m.binary(BinaryOp::Pow, base, kept)
    } else {
        m.unary(UnaryOp::Exp2, kept)
    };
    let scaled = apply(m, v, s);
    let q = finish(m, y, scaled, element);
    dequantise::numbers(m, q, element, s);
    let e = m.tape.pick(&[e, kept]);
    hand_out(m, s, Some(e));
}

/// Block scales in f8e4m3fn under a global scale.
fn nvfp4(m: &mut Maker, y: ValueId) {
    let share = if m.width(y) % 16 == 0 { Share::Group(16) } else { Share::Token };
    let (_, v, a) = measured(m, y, share);
    let g = one_scale(m, m.dtype(v));
    let a = m.with(BinaryOp::Mul, a, 1.0 / 6.0);
    let s = m.either(BinaryOp::Mul, g, a);
    let s = clamped(m, s, -448.0, 448.0);
    let s8 = m.cast(s, DType::F8E4M3FN);
    let s = m.cast(s8, m.dtype(v));
    let inverse = m.binary(BinaryOp::Div, g, s);
    let inverse = if m.tape.one_in(3) {
        inverse
    } else {
        let zero = m.number(m.dtype(v), 0.0, 0);
        let is_zero = m.binary(BinaryOp::Equal, s, zero);
        m.op(Op::Where, &[is_zero, zero, inverse])
    };
    let scaled = m.either(BinaryOp::Mul, v, inverse);
    let element = m.tape.pick(&[DType::F4E2M1, DType::F8E4M3FN]);
    finish(m, y, scaled, element);
    let handed = m.tape.pick(&[s8, s]);
    m.output(handed);
}

/// ONNX QuantizeLinear, with given and with computed scales.
fn quantize_linear(m: &mut Maker, y: ValueId) {
    let to = m.tape.pick(&[DType::F8E4M3FN, DType::I8, DType::U8]);
    let width = m.width(y);
    let last = m.tape.pick(&[-1, m.rank(y) as i64 - 1]);
    let v = widened(m, y);
    let dtype = m.dtype(v);
    let (mut axis, mut block, mut handed) = (last, 0, None);
    let scale = match m.tape.below(5) {
        0 | 1 => {
            axis = m.tape.pick(&[1, last]);
            let s = m.tape.pick(&[0.03125, 0.007]);
            m.number_of_rank(dtype, s, 0)
        }
        2 => m.weight(dtype, &[width as usize], false),
        3 if m.rank(y) == 2 => {
            axis = 0;
            let a = amax(m, v, Share::Token, false);
            m.with(BinaryOp::Div, a, 448.0)
        }
        _ => {
            block = m.tape.pick(&[32, 16, 8]);
            if width % block != 0 {
                block = width;
            }
            let runs = seen(m, y, Share::Group(block));
            let runs = m.cast_to(runs, dtype);
            let a = amax(m, runs, Share::Group(block), false);
            let mut to: Vec<Dim> = m.shape(y).0.clone();
            *to.last_mut().unwrap() = Dim::from(width / block);
            let Some(a) = m.like(a, &Shape(to)) else { return };
            let s = m.with(BinaryOp::Div, a, 448.0);
            handed = Some(s);
            s
        }
    };
    let mut operands = vec![v, scale];
    if to.is_int() && m.tape.one_in(3) {
        let len = m.shape(scale).as_concrete();
        if let Some(shape) = len {
            let zeros = m.tape.pick(&[128u8, 0, 3]);
            let bytes = vec![zeros; shape.iter().product()];
            operands.push(m.constant(Tensor::from_bytes(to, shape, bytes).unwrap()));
        }
    }
    let saturate = !m.tape.one_in(3);
    let precision = m.tape.pick(&[None, None, None, Some(DType::F16)]);
    let op = Op::QuantizeLinear { axis, block_size: block as u64, to, saturate, precision, dialect: Dialect::Onnx };
    let q = m.op(op, &operands);
    dequantise::linear(m, q, (axis, block as u64), &operands[1..]);
    if !m.tape.one_in(4) {
        m.output(q);
    }
    if let Some(s) = handed.filter(|_| m.tape.one_in(2)) {
        m.output(s);
    }
}

fn dynamic_linear(m: &mut Maker, y: ValueId) {
    let y = m.copied(y);
    let v = m.cast_to(y, DType::F32);
    let all = m.ops(Op::DynamicQuantizeLinear, &[v]);
    dequantise::linear(m, all[0], (1, 0), &all[1..]);
    for r in all {
        if !m.tape.one_in(4) {
            m.output(r);
        }
    }
}
