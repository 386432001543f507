//! RMSNorms in every spelling.

use normfuse_ir::{
    DType, Op, ValueId,
    fused::Root,
    op::{BinaryOp, CastBack, ReduceOp, UnaryOp},
    scheme::F32,
};

use crate::maker::{Maker, number};

const EPS: [f64; 6] = [1e-6, 1e-5, 1e-12, 1e-8, 0.0, 9.999_999_974_752_427e-7];

/// Norms of the rows; one result a weight.
pub fn norm(m: &mut Maker, x: ValueId) -> Vec<ValueId> {
    match m.tape.below(8) {
        6 => vec![native(m, x)],
        7 => match skip(m, x) {
            Some(y) => vec![y],
            None => spelled(m, x),
        },
        _ => spelled(m, x),
    }
}

fn native(m: &mut Maker, x: ValueId) -> ValueId {
    let (dtype, width) = (m.dtype(x), m.width(x) as usize);
    let axis = m.tape.pick(&[-1, m.rank(x) as i64 - 1]);
    let eps = F32::new(m.tape.pick(&EPS) as f32);
    let root = m.tape.pick(&[Root::DivideBySqrt, Root::ReciprocalSqrt, Root::Rsqrt]);
    let cast = m.tape.pick(&[CastBack::BeforeScale, CastBack::AfterScale]);
    let scale = if cast == CastBack::AfterScale && m.tape.one_in(3) { DType::F32 } else { dtype };
    let w = m.weight(scale, &[width], false);
    m.op(Op::RmsNorm { axis, eps, stash: DType::F32, root, cast }, &[x, w])
}

fn skip(m: &mut Maker, x: ValueId) -> Option<ValueId> {
    let (dtype, width) = (m.dtype(x), m.width(x) as usize);
    let other = m.unary(UnaryOp::Neg, x);
    let w = m.weight(dtype, &[width], false);
    let mut operands = vec![x, other, w];
    if m.tape.one_in(4) {
        operands.push(m.weight(dtype, &[width], false));
    }
    (m.rank(x) >= 2).then(|| m.op(Op::SkipRmsNorm { eps: F32::new(1e-5) }, &operands))
}

fn spelled(m: &mut Maker, x: ValueId) -> Vec<ValueId> {
    let dtype = m.dtype(x);
    let compute = if m.tape.one_in(6) { dtype } else { DType::F32 };
    let row = m.cast_to(x, compute);
    let row = m.copied(row);
    let root = root(m, row);
    // The row that is scaled may be cast once more.
    let scaled = if m.tape.one_in(6) { m.cast_to(x, compute) } else { row };
    let n = match root {
        Factor::Reciprocal(r) => m.either(BinaryOp::Mul, scaled, r),
        Factor::Root(r) => m.binary(BinaryOp::Div, scaled, r),
    };
    let n = m.copied(n);
    let weights = [1, 1, 1, 1, 2, 0][m.tape.below(6)];
    if weights == 0 {
        return vec![m.cast_to(n, dtype)];
    }
    let early = !m.tape.one_in(3);
    let n = if early { m.cast_to(n, dtype) } else { n };
    (0..weights).map(|_| weighted(m, n, dtype)).collect()
}

enum Factor {
    Reciprocal(ValueId),
    Root(ValueId),
}

/// What the row is multiplied with or divided by, one number a row.
fn root(m: &mut Maker, row: ValueId) -> Factor {
    let (dtype, width) = (m.dtype(row), m.width(row));
    let keepdims = !m.tape.one_in(4);
    // Where a lost axis comes back.
    let mut lost = (!keepdims).then(|| m.tape.below(3));
    let place = |m: &mut Maker, v: ValueId, at: usize, lost: &mut Option<usize>| {
        if *lost == Some(at) {
            *lost = None;
            m.unsqueeze_last(v)
        } else {
            v
        }
    };
    let mean = match m.tape.below(5) {
        3 => {
            let sum = m.reduce(ReduceOp::SumSquare, row, keepdims);
            over_count(m, sum, width)
        }
        form => {
            let square = if form % 2 == 0 {
                let exponent = m.tape.pick(&[dtype, dtype, DType::F32, DType::I64]);
                let two = m.number(exponent, 2.0, m.rank(row));
                m.binary(BinaryOp::Pow, row, two)
            } else {
                m.binary(BinaryOp::Mul, row, row)
            };
            if form == 4 {
                let sum = m.reduce(ReduceOp::Sum, square, keepdims);
                over_count(m, sum, width)
            } else {
                m.reduce(ReduceOp::Mean, square, keepdims)
            }
        }
    };
    let mean = place(m, mean, 0, &mut lost);
    let eps = m.tape.pick(&EPS);
    let ve = if m.tape.one_in(16) {
        m.with(BinaryOp::Sub, mean, -eps)
    } else {
        let c = m.number(dtype, eps, m.rank(mean));
        m.either(BinaryOp::Add, mean, c)
    };
    let ve = place(m, ve, 1, &mut lost);
    let factor = match m.tape.below(8) {
        0 | 1 => {
            let root = m.unary(UnaryOp::Sqrt, ve);
            Factor::Reciprocal(m.unary(UnaryOp::Reciprocal, root))
        }
        2 => {
            let root = m.unary(UnaryOp::Sqrt, ve);
            let one = m.number(dtype, 1.0, m.rank(root));
            Factor::Reciprocal(m.binary(BinaryOp::Div, one, root))
        }
        3 | 4 => Factor::Reciprocal(m.unary(UnaryOp::Rsqrt, ve)),
        5 => Factor::Reciprocal(m.with(BinaryOp::Pow, ve, -0.5)),
        6 => Factor::Root(m.with(BinaryOp::Pow, ve, 0.5)),
        _ => Factor::Root(m.unary(UnaryOp::Sqrt, ve)),
    };
    match (lost.is_some(), factor) {
        (true, Factor::Reciprocal(r)) => Factor::Reciprocal(m.unsqueeze_last(r)),
        (true, Factor::Root(r)) => Factor::Root(m.unsqueeze_last(r)),
        (false, factor) => factor,
    }
}

fn over_count(m: &mut Maker, sum: ValueId, width: i64) -> ValueId {
    if m.tape.one_in(4) {
        m.with(BinaryOp::Mul, sum, 1.0 / width as f64)
    } else {
        m.with(BinaryOp::Div, sum, width as f64)
    }
}

/// The normalised row times a weight, in `dtype` at last.
fn weighted(m: &mut Maker, n: ValueId, dtype: DType) -> ValueId {
    let (at, width) = (m.dtype(n), m.width(n) as usize);
    // The product in the row's dtype, or wider.
    let product = if m.tape.one_in(6) { DType::F32 } else { at };
    let n = m.cast_to(n, product);
    let plus_one = m.tape.one_in(4);
    let stored = m.tape.pick(&[product, product, dtype]);
    let w = parameter(m, stored, width, plus_one);
    let w = m.cast_to(w, product);
    let w = if plus_one {
        let one = m.number(product, 1.0, 1);
        m.either(BinaryOp::Add, w, one)
    } else {
        w
    };
    let w = shaped(m, w, m.rank(n));
    let y = m.either(BinaryOp::Mul, w, n);
    m.cast_to(y, dtype)
}

/// A weight: a constant, or an input.
fn parameter(m: &mut Maker, dtype: DType, width: usize, plus_one: bool) -> ValueId {
    match m.tape.below(12) {
        10 => m.input(dtype, normfuse_ir::Shape::from_concrete(&[width])),
        11 => {
            // One number for all: no weight at all, or one of a row of one.
            let shape = if m.tape.one_in(2) { vec![1] } else { vec![] };
            let t = number(dtype, 1.5, shape.len());
            m.constant(t)
        }
        _ => m.weight(dtype, &[width], plus_one),
    }
}

/// A vector with axes of size 1 before it.
fn shaped(m: &mut Maker, w: ValueId, rank: usize) -> ValueId {
    if m.rank(w) != 1 || rank < 2 {
        return w;
    }
    match m.tape.below(8) {
        6 => m.op(Op::Unsqueeze { axes: vec![0] }, &[w]),
        7 => {
            let width = m.width(w);
            let mut sizes = vec![1; rank];
            sizes[rank - 1] = width;
            m.reshape(w, &sizes)
        }
        _ => w,
    }
}

/// A LayerNorm: its tail is that of an RMSNorm, its rows are not.
pub fn layer_norm(m: &mut Maker, x: ValueId) -> ValueId {
    let mean = m.reduce(ReduceOp::Mean, x, true);
    let centred = m.binary(BinaryOp::Sub, x, mean);
    norm_of_centred(m, centred)
}

fn norm_of_centred(m: &mut Maker, x: ValueId) -> ValueId {
    let dtype = m.dtype(x);
    let row = m.cast_to(x, DType::F32);
    let n = match root(m, row) {
        Factor::Reciprocal(r) => m.either(BinaryOp::Mul, row, r),
        Factor::Root(r) => m.binary(BinaryOp::Div, row, r),
    };
    weighted(m, n, dtype)
}
