//! Softmax, LayerNormalization, RMSNormalization.

use super::{
    numbers::{Numbers, from_doubles, from_floats, from_numbers, unsupported},
    reduce::Groups,
    shape::{axis_index, broadcast_strides, product, shape_error, walk},
};
use crate::{DType, Error, ErrorKind, Result, Tensor, num, num::wide};

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

fn normalise_f32(row: &[f32], stage: &Stage, eps: f32, centre: bool) -> Vec<f32> {
    let r = |v| stage.round(v);
    let mut row: Vec<f32> = row.iter().map(|&v| r(v)).collect();
    let n = row.len() as f32;
    if centre {
        let mean = r(num::row_sum(&row) / n);
        for v in &mut row {
            *v = r(*v - mean);
        }
    }
    let squares: Vec<f32> = row.iter().map(|&v| r(v * v)).collect();
    let root = r(r(r(num::row_sum(&squares) / n) + r(eps)).sqrt());
    if centre {
        // LayerNormalization multiplies by the reciprocal, RMSNormalization divides: as ONNX spells them.
        let inverse = r(1.0 / root);
        row.iter().map(|&v| r(v * inverse)).collect()
    } else {
        row.iter().map(|&v| r(v / root)).collect()
    }
}

fn normalise_f64(row: &[f64], eps: f64, centre: bool) -> Vec<f64> {
    let mut row = row.to_vec();
    let n = row.len() as f64;
    if centre {
        let mean = num::row_sum_f64(&row) / n;
        for v in &mut row {
            *v -= mean;
        }
    }
    let root = (num::row_sum_squares_f64(&row) / n + eps).sqrt();
    if centre {
        let inverse = 1.0 / root;
        row.iter().map(|&v| v * inverse).collect()
    } else {
        row.iter().map(|&v| v / root).collect()
    }
}

/// Stage one: rows normalised in the stash type and cast back to x's.
fn stage_one(x: &Tensor, axis: i64, eps: f32, stash: DType, centre: bool) -> Result<Tensor> {
    let stage = Stage::new(stash)?;
    if !x.dtype().is_arithmetic_float() {
        return Err(unsupported(x.dtype()));
    }
    let n = row_len(x, axis)?;
    if n == 0 || x.is_empty() {
        return Ok(x.clone());
    }
    let source = super::cast::cast(x, if stage.is_f64() { DType::F64 } else { DType::F32 }, true)?;
    match Numbers::of(&source) {
        Numbers::F64(v) => {
            let rows: Vec<f64> = v.chunks(n).flat_map(|row| normalise_f64(row, f64::from(eps), centre)).collect();
            super::cast::cast(&from_doubles(x.shape(), &rows)?, x.dtype(), true)
        }
        Numbers::F32(v) => {
            let rows: Vec<f32> = v.chunks(n).flat_map(|row| normalise_f32(row, &stage, eps, centre)).collect();
            super::cast::cast(&from_floats(DType::F32, x.shape(), &rows)?, x.dtype(), true)
        }
        Numbers::Int(_) => Err(unsupported(x.dtype())),
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
    let scaled = stage_two(&stage_one(x, axis, eps, stash, true)?, scale, false)?;
    bias.map_or(Ok(scaled.clone()), |b| stage_two(&scaled, b, true))
}

/// ONNX RMSNormalization: the result has the scale's dtype.
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(x: &Tensor, scale: &Tensor, axis: i64, eps: f32, stash: DType) -> Result<Tensor> {
    stage_two(&stage_one(x, axis, eps, stash, false)?, scale, false)
}
