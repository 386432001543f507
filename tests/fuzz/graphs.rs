//! Whole graphs: rows from inputs, projections and slices, norms on some, quantisers on some of those, and what else
//! models do in between.

use normfuse_ir::{
    DType, Dim, Graph, Op, Shape, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

use crate::{
    maker::Maker,
    norm::{layer_norm, norm},
    quant::quantise,
    tape::Tape,
};

/// Sizes that the symbols stand for when a graph is run.
pub fn size(symbol: &str) -> i64 {
    if symbol == "batch" { 2 } else { 3 }
}

/// The graph that a tape decides on.
pub fn graph(choices: &[u16]) -> Graph {
    let mut m = Maker::new(Tape::new(choices));
    let dtype = m.tape.pick(&[DType::BF16, DType::F32, DType::F16]);
    let width = m.tape.pick(&[32, 64, 16, 48, 8, 1]);
    let lead = lead(&mut m);
    let mut shape = lead.clone();
    shape.push(Dim::from(width));
    let x = m.input(dtype, Shape(shape.clone()));
    let mut rows = vec![x];
    for _ in 0..m.tape.below(2) {
        rows.push(m.input(dtype, Shape(shape.clone())));
    }
    site(&mut m, &mut rows);
    for _ in 0..[0, 0, 1, 1, 2, 3, 5][m.tape.below(7)] {
        step(&mut m, &mut rows);
    }
    m.finish()
}

/// Sizes before the row.
fn lead(m: &mut Maker) -> Vec<Dim> {
    let (b, s) = (|| Dim::sym("batch"), || Dim::sym("seq"));
    let n = |n: i64| Dim::from(n);
    match m.tape.below(10) {
        0..=3 => vec![b(), s()],
        4 => vec![b()],
        5 => vec![n(2), n(3)],
        6 => vec![n(1), n(1)],
        7 => vec![n(1)],
        8 => vec![b(), n(1)],
        _ => vec![],
    }
}

/// Rows to go on with: mostly the newest.
fn some(m: &mut Maker, rows: &[ValueId]) -> ValueId {
    let (newest, back) = (rows.len() - 1, m.tape.below(2 * rows.len()));
    rows[newest - if back > newest { 0 } else { back }]
}

/// A norm with quantisers and other readers.
fn site(m: &mut Maker, rows: &mut Vec<ValueId>) {
    let mut x = some(m, rows);
    if m.tape.one_in(3)
        && let Some(sum) = residual(m, x, rows)
    {
        x = sum;
        rows.push(sum);
    }
    for y in norm(m, x) {
        if m.shape(y).rank() == 0 {
            continue;
        }
        let y = if m.tape.one_in(10) { viewed(m, y) } else { y };
        for _ in 0..[1, 1, 1, 2, 0, 3][m.tape.below(6)] {
            quantise(m, y);
        }
        if m.tape.one_in(4) {
            m.output(y);
        }
        rows.push(y);
    }
}

fn residual(m: &mut Maker, x: ValueId, rows: &[ValueId]) -> Option<ValueId> {
    let alike: Vec<ValueId> =
        rows.iter().copied().filter(|v| m.shape(*v) == m.shape(x) && m.dtype(*v) == m.dtype(x)).collect();
    (!alike.is_empty()).then(|| {
        let other = m.tape.pick(&alike);
        m.either(BinaryOp::Add, x, other)
    })
}

/// The same values as heads, or with an axis more.
fn viewed(m: &mut Maker, y: ValueId) -> ValueId {
    let mut shape = m.shape(y).clone();
    let width = m.width(y);
    let at = shape.rank() - 1;
    if width % 16 == 0 && m.tape.one_in(2) {
        shape.0[at] = Dim::from(width / 16);
        shape.0.push(Dim::from(16));
    } else {
        shape.0.insert(at, Dim::from(1));
    }
    m.like(y, &shape).unwrap_or(y)
}

/// A gated activation with casts between its steps, or what looks like one, and quantisers of the product.
fn gate(m: &mut Maker, rows: &mut Vec<ValueId>) {
    const NARROW: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
    let x = some(m, rows);
    let alike: Vec<ValueId> = rows.iter().copied().filter(|v| m.shape(*v) == m.shape(x)).collect();
    let up = if m.tape.one_in(2) {
        let (dtype, shape) = (m.tape.pick(&NARROW), m.shape(x).clone());
        m.input(dtype, shape)
    } else {
        m.tape.pick(&alike)
    };
    let cast = |m: &mut Maker, v: ValueId| {
        let to = if m.tape.one_in(2) { m.dtype(v) } else { m.tape.pick(&NARROW) };
        m.cast_to(v, to)
    };
    let wide = cast(m, x);
    let activated = match m.tape.below(6) {
        0 | 1 => m.unary(UnaryOp::Silu, wide),
        2 => m.unary(UnaryOp::Gelu, wide),
        3 => m.unary(UnaryOp::GeluTanh, wide),
        _ => {
            let s = m.unary(UnaryOp::Sigmoid, wide);
            if m.tape.one_in(8) { s } else { m.either(BinaryOp::Mul, wide, s) }
        }
    };
    let a = cast(m, activated);
    let up = m.cast_to(up, m.dtype(a));
    let product = m.either(BinaryOp::Mul, a, up);
    let product = cast(m, product);
    for _ in 0..[1, 1, 2][m.tape.below(3)] {
        quantise(m, product);
    }
    for v in [activated, product] {
        if m.tape.one_in(6) {
            m.output(v);
        }
    }
    rows.push(product);
}

fn step(m: &mut Maker, rows: &mut Vec<ValueId>) {
    match m.tape.below(14) {
        0..=2 => site(m, rows),
        3 | 4 => siblings(m, rows),
        5 => {
            let (x, width) = (some(m, rows), m.tape.pick(&[32, 64, 16]));
            let p = project(m, x, width);
            rows.extend(p);
        }
        6 => {
            let x = some(m, rows);
            if let Some(sum) = residual(m, x, rows) {
                rows.push(sum);
            }
        }
        7 => {
            let x = some(m, rows);
            rows.push(layer_norm(m, x));
        }
        8 => {
            let x = some(m, rows);
            quantise(m, x);
        }
        9 => dead_code(m, rows),
        10 => shape_reader(m, rows),
        11 | 12 => gate(m, rows),
        _ => {
            let x = some(m, rows);
            rows.push(elementwise(m, x));
        }
    }
}

fn elementwise(m: &mut Maker, x: ValueId) -> ValueId {
    match m.tape.below(5) {
        0 => m.unary(UnaryOp::Silu, x),
        1 => m.with(BinaryOp::Mul, x, 0.5),
        2 => {
            let (dtype, width) = (m.dtype(x), m.width(x) as usize);
            let bias = m.weight(dtype, &[width], false);
            m.either(BinaryOp::Add, x, bias)
        }
        3 => m.op(Op::Softmax { axis: -1, log: false }, &[x]),
        _ => m.cast_to(x, DType::F32),
    }
}

/// A product with a weight.
fn project(m: &mut Maker, x: ValueId, width: i64) -> Option<ValueId> {
    if m.rank(x) < 2 {
        return None;
    }
    let (dtype, own) = (m.dtype(x), m.width(x));
    let shape = [own as usize, width as usize];
    let w =
        if m.tape.one_in(3) { m.input(dtype, Shape::from_concrete(&shape)) } else { m.weight(dtype, &shape, false) };
    Some(m.op(Op::MatMul, &[x, w]))
}

/// Norms that may share an op: of projections, of slices of one, of heads; perhaps one of them depends on another.
fn siblings(m: &mut Maker, rows: &mut Vec<ValueId>) {
    let x = some(m, rows);
    let mut parts = Vec::new();
    match m.tape.below(4) {
        0 => {
            for _ in 0..2 + m.tape.below(2) {
                let width = m.tape.pick(&[32, 64, 16]);
                parts.extend(project(m, x, width));
            }
        }
        1 => {
            if let Some(p) = project(m, x, 48) {
                let sizes = m.ints(&[32, 16]);
                parts.extend(m.ops(Op::Split { axis: -1, outputs: 2 }, &[p, sizes]));
            }
        }
        2 => {
            if let Some(p) = project(m, x, 64) {
                parts.extend([slice(m, p, 0, 32), slice(m, p, 32, 64)]);
            }
        }
        _ => {
            for heads in [2, 4] {
                let Some(p) = project(m, x, heads * 16) else { continue };
                let mut shape = m.shape(p).clone();
                let at = shape.rank() - 1;
                shape.0[at] = Dim::from(heads);
                shape.0.push(Dim::from(16));
                let Some(h) = m.like(p, &shape) else { continue };
                let transposed = shape.rank() == 4 && m.tape.one_in(3);
                parts.push(if transposed { m.op(Op::Transpose { perm: Some(vec![0, 2, 1, 3]) }, &[h]) } else { h });
            }
        }
    }
    let again = m.tape.one_in(2).then(|| m.tape.mark());
    let mut done: Vec<ValueId> = Vec::new();
    for part in parts {
        let mut part = part;
        // One that depends on what was normed before.
        if m.tape.one_in(6)
            && let Some(other) = done.last()
            && m.shape(*other) == m.shape(part)
            && m.dtype(*other) == m.dtype(part)
        {
            part = m.either(BinaryOp::Add, part, *other);
        }
        // Often spelled as the one before.
        let after = again.map(|mark| m.tape.wind(mark));
        for y in norm(m, part) {
            if m.tape.one_in(2) {
                quantise(m, y);
            }
            done.push(y);
        }
        if let Some(after) = after {
            let here = m.tape.mark();
            m.tape.wind(after.max(here));
        }
    }
    rows.extend(done);
}

fn slice(m: &mut Maker, x: ValueId, from: i64, to: i64) -> ValueId {
    let (from, to, axis) = (m.ints(&[from]), m.ints(&[to]), m.ints(&[-1]));
    m.op(Op::Slice, &[x, from, to, axis])
}

/// Something that looks like the beginning of a norm and leads nowhere.
fn dead_code(m: &mut Maker, rows: &[ValueId]) {
    let x = some(m, rows);
    let square = m.binary(BinaryOp::Mul, x, x);
    let mean = m.reduce(ReduceOp::Mean, square, true);
    m.unary(UnaryOp::Sqrt, mean);
}

/// Sizes of a value, which rows can tell as well.
fn shape_reader(m: &mut Maker, rows: &[ValueId]) {
    let x = some(m, rows);
    let sizes = m.op(Op::Shape { start: 0, end: None }, &[x]);
    m.output(sizes);
    if m.tape.one_in(2) {
        let axis = m.ints(&[0]);
        let first = m.op(Op::Gather { axis: 0 }, &[sizes, axis]);
        m.output(first);
    }
}
