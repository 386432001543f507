//! A weight that the graph has, quantised: codes and scales as a checkpoint would have them.

use normfuse_ir::{
    DType, Op, Result, Tensor, eval,
    linear::{ScaleKind, WeightPer, WeightScheme},
    num,
    op::UnaryOp,
};

use super::weight::{code_shape, scale_shapes};

/// The parameters of a quantised weight.
pub struct Made {
    pub codes: Tensor,
    pub scale: Tensor,
    pub global: Option<Tensor>,
}

/// Quantises a weight `[N, K]`, or `[K, N]` if it is turned: the largest magnitude of what shares a scale becomes the largest code; powers of two are
/// OCP's.
///
/// # Errors
/// A weight that is no matrix of floats.
pub fn quantise(weight: &Tensor, turned: bool, scheme: &WeightScheme) -> Result<Made> {
    let upright = if turned { one(&Op::Transpose { perm: None }, weight)? } else { weight.clone() };
    let wide = cast(&upright, DType::F32)?;
    let values: Vec<f32> = wide.bytes().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let [n, k] = *upright.shape() else {
        return Err(normfuse_ir::Error::new(normfuse_ir::ErrorKind::Shape, "a weight is a matrix"));
    };
    let max = scheme.element.max_finite().unwrap_or(1.0);
    let shape = scale_shapes(scheme.per, n, k).swap_remove(0);
    let at = |i: usize| place(scheme.per, i / k, i % k, k);
    let mut amax = vec![0.0f32; shape.iter().product()];
    for (i, v) in values.iter().enumerate() {
        amax[at(i)] = num::max(amax[at(i)], v.abs());
    }
    let whole = amax.iter().copied().fold(0.0, num::max);
    // A weight of zeros has any scale.
    let or_one = |s: f32| if s == 0.0 { 1.0 } else { s };
    let (scale, factors, global) = match scheme.kind {
        ScaleKind::Float => {
            let s: Vec<f32> = amax.iter().map(|a| or_one(a / max)).collect();
            (Tensor::from_f32(&shape, &s), s, None)
        }
        ScaleKind::Power => {
            let s: Vec<f32> = amax.iter().map(|a| power(*a, max)).collect();
            (cast(&Tensor::from_f32(&shape, &s), DType::F8E8M0)?, s, None)
        }
        ScaleKind::TwoLevel { .. } => {
            let global = or_one(DType::F8E4M3FN.max_finite().unwrap_or(1.0) * max / or_one(whole));
            let wide: Vec<f32> = amax.iter().map(|a| global * (a / max)).collect();
            let bytes = cast(&Tensor::from_f32(&shape, &wide), DType::F8E4M3FN)?;
            let rounded = cast(&bytes, DType::F32)?;
            let words = rounded.bytes().chunks_exact(4);
            let s = words.map(|b| or_one(f32::from_le_bytes([b[0], b[1], b[2], b[3]])) / global).collect();
            (bytes, s, Some(Tensor::from_f32(&[1], &[global])))
        }
    };
    let scaled: Vec<f32> = values.iter().enumerate().map(|(i, v)| (v / factors[at(i)]).clamp(-max, max)).collect();
    let mut scaled = Tensor::from_f32(&code_shape(scheme, n, k), &scaled);
    if scheme.element.is_int() {
        scaled = one(&Op::Unary(UnaryOp::Round), &scaled)?;
    }
    Ok(Made { codes: cast(&scaled, scheme.element)?, scale, global })
}

/// OCP's power of two for a largest magnitude, from the exponents of both.
fn power(amax: f32, max: f32) -> f32 {
    let exponent = |v: f32| ((v.to_bits() >> 23) & 0xFF) as i32 - 127;
    let e = (exponent(amax.max(f32::MIN_POSITIVE)) - exponent(max)).clamp(-127, 127);
    f32::from_bits(if e == -127 { 1 << 22 } else { ((e + 127) as u32) << 23 })
}

/// Which scale an element has.
fn place(per: WeightPer, row: usize, column: usize, k: usize) -> usize {
    match per {
        WeightPer::Tensor => 0,
        WeightPer::Channel => row,
        WeightPer::Group(g) => row * (k / g) + column / g,
        WeightPer::Block(r, c) => row / r * k.div_ceil(c) + column / c,
    }
}

fn cast(tensor: &Tensor, to: DType) -> Result<Tensor> {
    one(&Op::Cast { to, saturate: true }, tensor)
}

fn one(op: &Op, tensor: &Tensor) -> Result<Tensor> {
    eval::eval_node(op, &[Some(tensor)]).map(|mut all| all.swap_remove(0))
}
