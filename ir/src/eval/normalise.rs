//! Softmax, LayerNormalization, RMSNormalization.

use super::{
    numbers::{Numbers, from_doubles, from_floats, from_numbers, unsupported},
    reduce::Groups,
    shape::{axis_index, broadcast_strides, product, shape_error, walk},
};
use crate::{DType, Error, ErrorKind, Result, Tensor, fused::Root, num, num::wide, op::CastBack};

/// Softmax of one row in f32: `exp(x - max) / sum`, or `(x - max) - log(sum)`.
pub(crate) fn softmax_row(row: &mut [f32], log: bool) {
    let Some(max) = row.iter().copied().reduce(num::max) else { return };
    for v in row.iter_mut() {
        *v -= max;
    }
    if log {
        let exps: Vec<f32> = row.iter().map(|&v| num::exp(v)).collect();
        let sum = num::log(num::row_sum(&exps));
        for v in row.iter_mut() {
            *v -= sum;
        }
    } else {
        for v in row.iter_mut() {
            *v = num::exp(*v);
        }
        let sum = num::row_sum(row);
        for v in row.iter_mut() {
            *v /= sum;
        }
    }
}

/// [`softmax_row`] in f64.
pub(crate) fn softmax_row_f64(row: &mut [f64], log: bool) {
    let Some(max) = row.iter().copied().reduce(num::max_f64) else { return };
    for v in row.iter_mut() {
        *v -= max;
    }
    if log {
        let exps: Vec<f64> = row.iter().map(|&v| wide::exp(v)).collect();
        let sum = wide::log(num::row_sum_f64(&exps));
        for v in row.iter_mut() {
            *v -= sum;
        }
    } else {
        for v in row.iter_mut() {
            *v = wide::exp(*v);
        }
        let sum = num::row_sum_f64(row);
        for v in row.iter_mut() {
            *v /= sum;
        }
    }
}

/// Softmax or its logarithm along an axis: in f32 (f64 for f64), one rounding.
///
/// # Errors
/// `Shape` if the axis is out of range, `DType` if x is not a float.
pub fn softmax(x: &Tensor, axis: i64, log: bool) -> Result<Tensor> {
    let axis = axis_index(axis, x.shape().len())?;
    let groups = Groups::along(x.shape(), &[axis])?;
    let mut values = Numbers::of(x);
    match &mut values {
        Numbers::F32(v) => groups.rewrite(v, |row| softmax_row(row, log)),
        Numbers::F64(v) => groups.rewrite(v, |row| softmax_row_f64(row, log)),
        Numbers::Int(_) => return Err(unsupported(x.dtype())),
    }
    from_numbers(x.dtype(), x.shape(), &values)
}

/// Row length of a normalisation over the axes from `axis` on.
fn row_len(x: &Tensor, axis: i64) -> Result<usize> {
    let axis = axis_index(axis, x.shape().len())?;
    Ok(product(&x.shape()[axis..]))
}

/// Arithmetic in a float dtype: f32 operations rounded to it, or f64.
struct Stage(DType);

impl Stage {
    fn new(dtype: DType) -> Result<Self> {
        if dtype.is_arithmetic_float() {
            Ok(Self(dtype))
        } else {
            Err(Error::new(ErrorKind::DType, format!("the stash type must be a float, found {dtype}")))
        }
    }

    fn is_f64(&self) -> bool {
        self.0 == DType::F64
    }

    fn round(&self, v: f32) -> f32 {
        num::round_to(self.0, v)
    }
}

/// What stage one does to a row.
#[derive(Clone, Copy)]
struct Normalise {
    eps: f32,
    /// Subtract the row's mean first.
    centre: bool,
    root: Root,
}

impl Normalise {
    fn f32(self, row: &[f32], stage: &Stage) -> Vec<f32> {
        let r = |v| stage.round(v);
        let mut row: Vec<f32> = row.iter().map(|&v| r(v)).collect();
        let n = row.len() as f32;
        if self.centre {
            let mean = r(num::row_sum(&row) / n);
            for v in &mut row {
                *v = r(*v - mean);
            }
        }
        let squares: Vec<f32> = row.iter().map(|&v| r(v * v)).collect();
        let v = r(r(num::row_sum(&squares) / n) + r(self.eps));
        let root = r(v.sqrt());
        match self.root {
            Root::DivideBySqrt => row.iter().map(|&v| r(v / root)).collect(),
            Root::ReciprocalSqrt | Root::Rsqrt => {
                let factor = r(if self.root == Root::Rsqrt { num::rsqrt(v) } else { 1.0 / root });
                row.iter().map(|&v| r(v * factor)).collect()
            }
        }
    }

    fn f64(self, row: &[f64]) -> Vec<f64> {
        let mut row = row.to_vec();
        let n = row.len() as f64;
        if self.centre {
            let mean = num::row_sum_f64(&row) / n;
            for v in &mut row {
                *v -= mean;
            }
        }
        let root = (num::row_sum_squares_f64(&row) / n + f64::from(self.eps)).sqrt();
        // There is no correctly rounded reciprocal root of f64 here; two roundings are what `rsqrt` of f64 has, too.
        match self.root {
            Root::DivideBySqrt => row.iter().map(|&v| v / root).collect(),
            Root::ReciprocalSqrt | Root::Rsqrt => row.iter().map(|&v| v * (1.0 / root)).collect(),
        }
    }

    /// The rows from `axis` on, in the stash type, then in `to`.
    fn rows(self, x: &Tensor, axis: i64, stash: DType, to: DType) -> Result<Tensor> {
        let stage = Stage::new(stash)?;
        if !x.dtype().is_arithmetic_float() {
            return Err(unsupported(x.dtype()));
        }
        let n = row_len(x, axis)?;
        if n == 0 || x.is_empty() {
            return super::cast::cast(x, to, true);
        }
        let source = super::cast::cast(x, if stage.is_f64() { DType::F64 } else { DType::F32 }, true)?;
        match Numbers::of(&source) {
            Numbers::F64(v) => {
                let rows: Vec<f64> = v.chunks(n).flat_map(|row| self.f64(row)).collect();
                super::cast::cast(&from_doubles(x.shape(), &rows)?, to, true)
            }
            Numbers::F32(v) => {
                let rows: Vec<f32> = v.chunks(n).flat_map(|row| self.f32(row, &stage)).collect();
                super::cast::cast(&from_floats(DType::F32, x.shape(), &rows)?, to, true)
            }
            Numbers::Int(_) => Err(unsupported(x.dtype())),
        }
    }
}

/// Stage two: `normal * scale`, or `normal + bias`, rounded to the dtype of the right operand. The right operand
/// broadcasts to the left one's shape and never widens it.
fn stage_two(normal: &Tensor, right: &Tensor, add: bool) -> Result<Tensor> {
    let (dtype, shape) = (right.dtype(), normal.shape());
    broadcast_strides(right.shape(), shape).map_err(|_| {
        shape_error(format!("expected a shape that broadcasts to {shape:?}, found {:?}", right.shape()))
    })?;
    let steps = broadcast_strides(right.shape(), shape)?;
    let own = super::shape::strides(shape);
    let wide = dtype == DType::F64 || normal.dtype() == DType::F64;
    if wide {
        let cast = |t: &Tensor| super::cast::cast(t, DType::F64, true).map(|t| Numbers::of(&t));
        let (Numbers::F64(a), Numbers::F64(b)) = (cast(normal)?, cast(right)?) else { return Err(unsupported(dtype)) };
        let mut out = Vec::with_capacity(a.len());
        walk(shape, [&own, &steps], |[i, j]| out.push(if add { a[i] + b[j] } else { a[i] * b[j] }));
        return super::cast::cast(&from_doubles(shape, &out)?, dtype, true);
    }
    match (Numbers::of(normal), Numbers::of(right)) {
        (Numbers::F32(a), Numbers::F32(b)) => {
            let mut out = Vec::with_capacity(a.len());
            walk(shape, [&own, &steps], |[i, j]| out.push(if add { a[i] + b[j] } else { a[i] * b[j] }));
            from_floats(dtype, shape, &out)
        }
        _ => Err(unsupported(dtype)),
    }
}

/// ONNX LayerNormalization.
///
/// # Errors
/// `Shape` if the operands do not fit, `DType` if one is not a float.
pub fn layer_norm(
    x: &Tensor,
    scale: &Tensor,
    bias: Option<&Tensor>,
    axis: i64,
    eps: f32,
    stash: DType,
) -> Result<Tensor> {
    // ONNX spells LayerNormalization with a product, and RMSNormalization with a division.
    let stage_one = Normalise { eps, centre: true, root: Root::ReciprocalSqrt };
    let scaled = stage_two(&stage_one.rows(x, axis, stash, x.dtype())?, scale, false)?;
    bias.map_or(Ok(scaled.clone()), |b| stage_two(&scaled, b, true))
}

/// The RMSNorm of [`crate::Op::RmsNorm`]: the result has the scale's dtype.
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(
    x: &Tensor,
    scale: &Tensor,
    axis: i64,
    eps: f32,
    stash: DType,
    (root, cast): (Root, CastBack),
) -> Result<Tensor> {
    let stage_one = Normalise { eps, centre: false, root };
    match cast {
        CastBack::BeforeScale => stage_two(&stage_one.rows(x, axis, stash, x.dtype())?, scale, false),
        CastBack::AfterScale => {
            let factor = super::cast::cast(scale, stash, true)?;
            let product = stage_two(&stage_one.rows(x, axis, stash, stash)?, &factor, false)?;
            super::cast::cast(&product, scale.dtype(), true)
        }
    }
}

/// `[y, sum]` of [`crate::Op::SkipRmsNorm`].
///
/// # Errors
/// As [`layer_norm`]; `DType` if the operands are not of one dtype.
pub fn skip_rms_norm(
    x: &Tensor,
    skip: &Tensor,
    scale: &Tensor,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<[Tensor; 2]> {
    let dtype = x.dtype();
    for t in [Some(x), Some(skip), Some(scale), bias].into_iter().flatten() {
        if t.dtype() != dtype || !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(unsupported(t.dtype()));
        }
    }
    let wide = |t: &Tensor| super::cast::cast(t, DType::F32, true);
    let mut h = stage_two(&wide(x)?, &wide(skip)?, true)?;
    if let Some(bias) = bias {
        h = stage_two(&h, &wide(bias)?, true)?;
    }
    let y = rms_norm(&h, &wide(scale)?, -1, eps, DType::F32, (Root::DivideBySqrt, CastBack::AfterScale))?;
    Ok([super::cast::cast(&y, dtype, true)?, super::cast::cast(&h, dtype, true)?])
}
