//! Codes as numbers again, by their scale or by another one.

use normfuse_ir::{
    DType, Dim, Op, Shape, ValueId,
    op::{BinaryOp, Dialect},
};

use crate::maker::Maker;

const NARROW: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Another scale in place of the right one, now and then.
fn perhaps_another(m: &mut Maker, scale: ValueId) -> ValueId {
    if m.tape.one_in(6) { m.with(BinaryOp::Mul, scale, 2.0) } else { scale }
}

/// How many codes along the last axis meet one scale; 0 where there is one for all. `None` where the shapes do not say.
fn block(codes: &Shape, scales: &Shape) -> Option<u64> {
    if scales.is_single() {
        return Some(0);
    }
    let lead = codes.rank().checked_sub(1)?;
    let (n, groups) = (codes.last().and_then(Dim::as_const)?, scales.last().and_then(Dim::as_const)?);
    let fits = codes.rank() == scales.rank() && codes.0[..lead] == scales.0[..lead] && groups > 0 && n % groups == 0;
    fits.then(|| (n / groups).unsigned_abs()).filter(|n| *n > 0)
}

/// Codes of a computed or a given scale, as an op or as a product, once or twice.
pub fn numbers(m: &mut Maker, codes: ValueId, element: DType, scale: ValueId) {
    for _ in 0..[0, 0, 0, 1, 1, 2][m.tape.below(6)] {
        if m.dtype(codes) != element || !NARROW.contains(&m.dtype(scale)) {
            return;
        }
        let mut scale = perhaps_another(m, scale);
        let one = m.shape(scale).last().is_some_and(|d| d.as_const() == Some(1));
        if block(m.shape(codes), m.shape(scale)).is_none() && one {
            scale = m.squeeze_last(scale);
        }
        let Some(block) = block(m.shape(codes), m.shape(scale)) else { return };
        let dtype = m.dtype(scale);
        let repeats = block == 0 || m.shape(scale).last().is_some_and(|d| d.as_const() == Some(1));
        if repeats && m.tape.one_in(2) && m.rank(scale) <= m.rank(codes) {
            let wide = m.cast(codes, dtype);
            let product = m.either(BinaryOp::Mul, wide, scale);
            let to = m.tape.pick(&NARROW);
            let narrow = m.cast_to(product, to);
            m.output(narrow);
            continue;
        }
        let axis = m.tape.pick(&[-1, m.rank(codes) as i64 - 1]);
        if m.rank(codes) > 0 && (block > 0 || m.rank(scale) < 2) {
            linear(m, codes, (axis, block), &[scale]);
        }
    }
}

/// `DequantizeLinear`, to its scale's type or to another.
pub fn linear(m: &mut Maker, codes: ValueId, (axis, block_size): (i64, u64), operands: &[ValueId]) {
    for _ in 0..[0, 0, 1, 1, 1, 2][m.tape.below(6)] {
        let mut all = vec![codes, perhaps_another(m, operands[0])];
        if !m.tape.one_in(6) {
            all.extend(&operands[1..]);
        }
        let to = m.tape.pick(&[None, None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)]);
        let value = m.op(Op::DequantizeLinear { axis, block_size, to, dialect: Dialect::Onnx }, &all);
        m.output(value);
    }
}
