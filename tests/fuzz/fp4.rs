//! f4e2m1 codes by comparisons, two in a byte.

use normfuse_ir::{
    DType, Op, Tensor, ValueId,
    op::{BinaryOp, UnaryOp},
};

use crate::maker::Maker;

/// Half-way points, and whether the upper value wins at each (ties go to even).
const THRESHOLDS: [(f64, bool); 7] =
    [(0.25, false), (0.75, true), (1.25, false), (1.75, true), (2.5, false), (3.5, true), (5.0, false)];

fn byte(m: &mut Maker, b: u8) -> ValueId {
    m.constant(Tensor::from_bytes(DType::U8, vec![], vec![b]).unwrap())
}

/// Packed codes of a value whose last axis is even; codes alone of an odd one.
pub fn encode(m: &mut Maker, v: ValueId) -> ValueId {
    let v = m.cast_to(v, DType::F32);
    let clipped = if m.tape.one_in(4) {
        v
    } else {
        let (low, high) = (m.number_of_rank(DType::F32, -6.0, 0), m.number_of_rank(DType::F32, 6.0, 0));
        m.op(Op::Clip, &[v, low, high])
    };
    let magnitude = m.unary(UnaryOp::Abs, clipped);
    let mut code: Option<ValueId> = None;
    for (threshold, upper) in THRESHOLDS {
        let t = m.number_of_rank(DType::F32, threshold, 0);
        let above = match (upper, m.tape.one_in(3)) {
            (false, false) => m.binary(BinaryOp::Greater, magnitude, t),
            (false, true) => m.binary(BinaryOp::Less, t, magnitude),
            (true, false) => m.binary(BinaryOp::GreaterOrEqual, magnitude, t),
            (true, true) => m.binary(BinaryOp::LessOrEqual, t, magnitude),
        };
        let above = m.cast(above, DType::U8);
        code = Some(match code {
            None => above,
            Some(c) => m.either(BinaryOp::Add, c, above),
        });
    }
    let zero = m.number_of_rank(DType::F32, 0.0, 0);
    let negative = m.binary(BinaryOp::Less, clipped, zero);
    let sign = if m.tape.one_in(2) {
        let (eight, none) = (byte(m, 8), byte(m, 0));
        m.op(Op::Where, &[negative, eight, none])
    } else {
        let bit = m.cast(negative, DType::U8);
        let three = byte(m, 3);
        m.binary(BinaryOp::ShiftLeft, bit, three)
    };
    let codes = m.either(BinaryOp::BitwiseOr, code.unwrap(), sign);
    pack(m, codes)
}

fn pack(m: &mut Maker, codes: ValueId) -> ValueId {
    if m.width(codes) % 2 != 0 {
        return codes;
    }
    let (low, high) = if m.tape.one_in(2) {
        let halves = m.width(codes) / 2;
        let mut shape = m.shape(codes).clone();
        *shape.0.last_mut().unwrap() = halves.into();
        shape.0.push(2.into());
        match m.like(codes, &shape) {
            Some(pairs) => {
                let first = m.constant(Tensor::from_bytes(DType::I64, vec![], 0i64.to_le_bytes().to_vec()).unwrap());
                let second = m.constant(Tensor::from_bytes(DType::I64, vec![], 1i64.to_le_bytes().to_vec()).unwrap());
                let axis = m.tape.pick(&[-1, shape.rank() as i64 - 1]);
                (m.op(Op::Gather { axis }, &[pairs, first]), m.op(Op::Gather { axis }, &[pairs, second]))
            }
            None => (every_other(m, codes, 0), every_other(m, codes, 1)),
        }
    } else {
        (every_other(m, codes, 0), every_other(m, codes, 1))
    };
    let high = if m.tape.one_in(3) {
        let sixteen = byte(m, 16);
        m.either(BinaryOp::Mul, high, sixteen)
    } else {
        let four = byte(m, 4);
        m.binary(BinaryOp::ShiftLeft, high, four)
    };
    let op = m.tape.pick(&[BinaryOp::BitwiseOr, BinaryOp::Add]);
    m.either(op, low, high)
}

fn every_other(m: &mut Maker, x: ValueId, first: i64) -> ValueId {
    let (start, end) = (m.ints(&[first]), m.ints(&[i64::MAX]));
    let (axis, step) = (m.ints(&[-1]), m.ints(&[2]));
    m.op(Op::Slice, &[x, start, end, axis, step])
}
