//! Quantisers: ONNX's three ops, and `Quantize` as its [`Scheme`] says.

use super::{
    cast::{cast, truncate},
    numbers::{Numbers, floats, from_codes, from_floats, from_ints, unsupported},
    reduce::int_limits,
    shape::{axis_index, offsets, product, shape_error, strides, value_error},
};
use crate::{
    DType, Error, ErrorKind, Granularity, Result, Scheme, Tensor, num,
    scheme::{self, Apply, Encode, Origin, Packing, ScaleLayout, Step, ZeroPoint},
};

/// For each element of `x`, the index of its scale.
fn scale_index(x: &[usize], scale: &Tensor, axis: i64, block: u64) -> Result<Vec<usize>> {
    let s = scale.shape();
    if product(s) == 1 && (block == 0 || s.is_empty()) {
        return Ok(vec![0; product(x)]);
    }
    let axis = axis_index(axis, x.len())?;
    if block == 0 {
        if s != [x[axis]] {
            return Err(shape_error(format!(
                "expected a scalar or {} scales for axis {axis} of {x:?}, found shape {s:?}",
                x[axis]
            )));
        }
        let mut steps = vec![0; x.len()];
        steps[axis] = 1;
        return Ok(offsets(x, &steps));
    }
    let block = usize::try_from(block).map_err(|_| shape_error("block size is too large"))?;
    let mut want = x.to_vec();
    want[axis] = x[axis].div_ceil(block);
    if s != want {
        return Err(shape_error(format!(
            "blocks of {block} along axis {axis} of {x:?} take scales {want:?}, found {s:?}"
        )));
    }
    let (own, steps) = (strides(x), strides(s));
    Ok((0..product(x))
        .map(|at| {
            (0..x.len())
                .map(|a| {
                    let i = at / own[a] % x[a];
                    steps[a] * if a == axis { i / block } else { i }
                })
                .sum()
        })
        .collect())
}

fn same_shape(zero: &Tensor, scale: &Tensor) -> Result<()> {
    if zero.shape() == scale.shape() || zero.len() == 1 && scale.len() == 1 {
        Ok(())
    } else {
        Err(shape_error(format!("zero point of shape {:?}, expected {:?} as the scale", zero.shape(), scale.shape())))
    }
}

fn int_zeros(zero: &Tensor, dtype: DType) -> Result<Vec<i128>> {
    match Numbers::of(zero) {
        Numbers::Int(v) if zero.dtype() == dtype => Ok(v),
        _ => Err(Error::new(ErrorKind::DType, format!("zero point is {}, expected {dtype}", zero.dtype()))),
    }
}

fn check_float_zero(zero: Option<&Tensor>) -> Result<()> {
    match zero.map(Numbers::of) {
        Some(Numbers::F32(v)) if v.iter().any(|&v| v != 0.0) => {
            Err(value_error("a float target takes a zero point of 0 only"))
        }
        _ => Ok(()),
    }
}

/// Rounds to nearest even and saturates to an integer dtype; NaN is the zero point.
fn to_int(v: f32, zero: i128, dtype: DType) -> i128 {
    let (lo, hi) = int_limits(dtype);
    (truncate(DType::I64, f64::from(v.round_ties_even())) + zero).clamp(lo, hi)
}

/// The dtype of QuantizeLinear's quotient: as given, else the scale's; powers of two (f8e8m0) divide in x's, as they
/// only move its exponent, and integers in f32.
pub fn quotient_dtype(x: DType, scale: DType, given: Option<DType>) -> DType {
    match given {
        Some(d) => d,
        None if scale.is_arithmetic_float() => scale,
        None if x.is_arithmetic_float() => x,
        None => DType::F32,
    }
}

/// ONNX QuantizeLinear: x and the scale rounded to `precision` (see [`quotient_dtype`]), and so is their quotient; then
/// to nearest even, plus the zero point, saturated.
///
/// # Errors
/// `Shape` or `DType` if the operands do not fit.
pub fn quantize_linear(
    x: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    (axis, block): (i64, u64),
    to: DType,
    saturate: bool,
    precision: Option<DType>,
) -> Result<Tensor> {
    if !x.dtype().is_arithmetic_float() && !x.dtype().is_int() {
        return Err(unsupported(x.dtype()));
    }
    let precision = quotient_dtype(x.dtype(), scale.dtype(), precision);
    let s = floats(&cast(scale, precision, true)?).map_err(|e| e.at_port("scale"))?;
    let v = floats(&cast(x, precision, true)?)?;
    let at = scale_index(x.shape(), scale, axis, block)?;
    if let Some(zero) = zero {
        same_shape(zero, scale)?;
    }
    let quotients = v.iter().zip(&at).map(|(v, &i)| num::round_to(precision, v / s[i]));
    if to.is_int() {
        let zeros = zero.map_or_else(|| Ok(vec![0; s.len()]), |z| int_zeros(z, to))?;
        let q: Vec<i128> = quotients.zip(&at).map(|(v, &i)| to_int(v, zeros[i], to)).collect();
        return from_ints(to, x.shape(), &q);
    }
    if !to.is_quantised() {
        return Err(unsupported(to));
    }
    check_float_zero(zero)?;
    from_codes(to, x.shape(), quotients.map(|v| num::cast_f32_to(to, v, saturate)).collect())
}

/// ONNX DequantizeLinear: `(q - zero) * scale`, in f32 with an exact difference, rounded once to `to`, else to the
/// scale's dtype.
///
/// # Errors
/// `Shape` or `DType` if the operands do not fit.
pub fn dequantize_linear(
    q: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
    (axis, block): (i64, u64),
    to: Option<DType>,
) -> Result<Tensor> {
    let to = to.unwrap_or_else(|| scale.dtype());
    if !to.is_arithmetic_float() {
        return Err(unsupported(to));
    }
    // A power of two is an f32 as it is.
    let wide = if scale.dtype() == DType::F8E8M0 { cast(scale, DType::F32, true)? } else { scale.clone() };
    let s = floats(&wide).map_err(|e| e.at_port("scale"))?;
    let at = scale_index(q.shape(), scale, axis, block)?;
    if let Some(zero) = zero {
        same_shape(zero, scale)?;
    }
    let values: Vec<f32> = match Numbers::of(q) {
        Numbers::Int(v) if q.dtype().is_int() => {
            let zeros = zero.map_or_else(|| Ok(vec![0; s.len()]), |z| int_zeros(z, q.dtype()))?;
            v.iter().zip(&at).map(|(v, &i)| (v - zeros[i]) as f32 * s[i]).collect()
        }
        Numbers::F32(v) if q.dtype().is_quantised() => {
            check_float_zero(zero)?;
            v.iter().zip(&at).map(|(v, &i)| v * s[i]).collect()
        }
        _ => return Err(unsupported(q.dtype())),
    };
    from_floats(to, q.shape(), &values)
}

/// ONNX DynamicQuantizeLinear to u8; a constant range of 0 has scale 1/255.
///
/// # Errors
/// `DType` if x is not f32.
pub fn dynamic_quantize_linear(x: &Tensor) -> Result<[Tensor; 3]> {
    if x.dtype() != DType::F32 {
        return Err(unsupported(x.dtype()));
    }
    let v = floats(x)?;
    let hi = v.iter().copied().fold(0.0, num::max);
    let lo = v.iter().copied().fold(0.0, num::min);
    let range = if hi == lo { 1.0 } else { hi - lo };
    let scale = range / 255.0;
    let zero = to_int((0.0 - lo / scale).clamp(0.0, 255.0), 0, DType::U8);
    let q: Vec<i128> = v.iter().map(|v| to_int(v / scale, zero, DType::U8)).collect();
    Ok([from_ints(DType::U8, x.shape(), &q)?, Tensor::from_f32(&[], &[scale]), from_ints(DType::U8, &[], &[zero])?])
}

/// The extremes of a group: the largest magnitude, and the smallest and largest of its values and 0.
fn extremes(group: &[f32]) -> (f32, f32, f32) {
    let amax = group.iter().fold(0.0, |m, v| num::max(m, v.abs()));
    (amax, group.iter().copied().fold(0.0, num::min), group.iter().copied().fold(0.0, num::max))
}

/// What one group shares: its factor, the scale that is handed out, the zero point, and the scale as codes meet it.
struct Shared {
    factor: f32,
    scale: f32,
    zero: i128,
    unit: f32,
}

/// A scale in its dtype, as a number.
fn unit(dtype: DType, scale: f32) -> f32 {
    match dtype {
        d if d.is_arithmetic_float() => num::round_to(d, scale),
        d => num::decode(d, num::cast_f32_to(d, scale, true)),
    }
}

fn shared(scheme: &Scheme, group: &[f32], given: f32, zero: i128) -> Shared {
    let (amax, low, high) = extremes(group);
    let origin = match scheme.origin {
        Origin::Given => given,
        Origin::Amax => amax,
        Origin::Range if high == low => 1.0,
        Origin::Range => high - low,
    };
    let of = |steps: &[Step]| scheme::run(steps, origin, scheme.compute, given);
    let factor = of(&scheme.factor);
    let zero = match scheme.zero_point {
        ZeroPoint::None => 0,
        ZeroPoint::Given => zero,
        ZeroPoint::Range => to_int((0.0 - low / factor).clamp(0.0, 255.0), 0, DType::U8),
    };
    let scale = scheme.scale.as_ref().map_or(factor, |s| of(&s.steps));
    let unit = scheme.scale.as_ref().map_or(given, |s| unit(s.dtype, scale));
    Shared { factor, scale, zero, unit }
}

/// One value as the element's code.
fn quantise_value(scheme: &Scheme, v: f32, by: &Shared) -> u8 {
    let r = |v| num::round_to(scheme.compute, v);
    let v = r(v);
    let v = match scheme.apply {
        Apply::Divide => r(v / by.factor),
        Apply::Multiply => r(v * by.factor),
    };
    let v = scheme::run(&scheme.post, v, scheme.compute, 0.0);
    match (scheme.element, scheme.encode) {
        (int, _) if int.is_int() => {
            let (lo, hi) = int_limits(int);
            (truncate(DType::I64, f64::from(v)) + by.zero).clamp(lo, hi) as u8
        }
        (float, Encode::Cast) => num::cast_f32_to(float, v, false),
        (float, Encode::Saturate) => num::cast_f32_to(float, v, true),
        (float, Encode::Compare) => {
            let magnitude = if v.is_nan() { 0.0 } else { v.abs() };
            num::cast_f32_to(float, magnitude, true) | if v < 0.0 { 8 } else { 0 }
        }
    }
}

/// A code as the number that it stands for.
fn dequantise_code(scheme: &Scheme, code: u8, by: &Shared) -> f32 {
    let v = match scheme.element {
        DType::I8 => (i128::from(code as i8) - by.zero) as f32,
        DType::U8 => (i128::from(code) - by.zero) as f32,
        float => num::decode(float, code),
    };
    v * by.unit
}

/// Scales of rows of `per_row` as the tensor of a tiled layout.
fn tiled(scheme: &Scheme, scales: &Tensor) -> Result<Tensor> {
    let too_large = || shape_error(format!("tiles of scales {:?} are too large", scales.shape()));
    let (&groups, lead) = scales.shape().split_last().ok_or_else(too_large)?;
    let rows = product(lead);
    let bytes = scheme.layout.tiled(scales.bytes(), rows as u64, groups as u64).ok_or_else(too_large)?;
    let size = |d: u64| usize::try_from(d).map_err(|_| too_large());
    let (held, across) = scheme.layout.extents(rows as u64, groups as u64).ok_or_else(too_large)?;
    let shape = match scheme.layout {
        ScaleLayout::PackedUe8m0 => [lead, &[size(across / 4)?]].concat(),
        _ => vec![size(held)?, size(across)?],
    };
    Tensor::from_bytes(scheme.layout.dtype(scales.dtype()), shape, bytes)
}

/// A scale as the code or number of its dtype.
fn scales_tensor(dtype: DType, shape: &[usize], scales: &[f32]) -> Result<Tensor> {
    match dtype {
        d if d.is_arithmetic_float() => from_floats(d, shape, scales),
        DType::U8 => {
            let codes: Vec<i128> = scales.iter().map(|&s| truncate(DType::U8, f64::from(s))).collect();
            from_ints(DType::U8, shape, &codes)
        }
        d => from_codes(d, shape, scales.iter().map(|&s| num::cast_f32_to(d, s, true)).collect()),
    }
}

/// The quantised tensor from a code a value.
fn q_tensor(scheme: &Scheme, shape: &[usize], codes: Vec<u8>) -> Result<Tensor> {
    match scheme.packing {
        Packing::None if scheme.element.is_int() => Tensor::from_bytes(scheme.element, shape.to_vec(), codes),
        Packing::None => from_codes(scheme.element, shape, codes),
        Packing::Codes => Tensor::from_bytes(DType::U8, shape.to_vec(), codes),
        Packing::Nibbles => {
            let mut shape = shape.to_vec();
            let last = shape.last_mut().filter(|n| n.is_multiple_of(2));
            let last = last.ok_or_else(|| shape_error("two codes in a byte need rows of an even size"))?;
            *last /= 2;
            Tensor::from_bytes(DType::U8, shape, num::pack_nibbles(&codes))
        }
    }
}

/// Quantises `v` under a scheme: the results of [`Scheme::out_ports`].
///
/// Scales are a row-major tensor of the rows' leading sizes and the scales of a row (a scalar for the whole tensor),
/// whatever the scheme's layout: layout is where the bytes go in a device's memory, not what they are. A tiled layout has
/// bytes of its own, and words that are row-major here.
///
/// # Errors
/// `Scheme` if the scheme does not fit the values, `DType` or `Shape` if an operand does not.
pub fn quantize(scheme: &Scheme, v: &Tensor, given: Option<&Tensor>, zero: Option<&Tensor>) -> Result<Vec<Tensor>> {
    let bad = |m: String| Error::new(ErrorKind::Scheme, m);
    scheme.check().map_err(bad)?;
    let shape = v.shape();
    let values = floats(v).map_err(|e| e.at_port("v"))?;
    let row = || shape.split_last().ok_or_else(|| shape_error("a scalar has no rows to quantise"));
    let (group, scale_shape) = match scheme.granularity {
        Granularity::Tensor => (values.len(), Vec::new()),
        // A group for each value; groups take the channels in turn.
        Granularity::Channel => (1, vec![*row()?.0]),
        g => {
            let (&n, lead) = row()?;
            let per_row = scheme
                .scales_per_row(n as u64)
                .and_then(|p| usize::try_from(p).ok())
                .ok_or_else(|| bad(format!("{g:?} does not divide a row of {n}")))?;
            (n.checked_div(per_row).unwrap_or(0), [lead, &[per_row]].concat())
        }
    };
    let channels = if scheme.granularity == Granularity::Channel { product(&scale_shape) } else { 1 };
    let operand = |name: &str, t: Option<&Tensor>| match t {
        Some(t) if t.len() == channels || t.len() == 1 => Ok(()),
        Some(t) => Err(shape_error(format!("expected {channels} elements, found shape {:?}", t.shape())).at_port(name)),
        None => Err(Error::new(ErrorKind::Structure, "the operand is missing").at_port(name)),
    };
    let given = if let Some(dtype) = scheme.given {
        operand("scale", given)?;
        let t = given.filter(|t| t.dtype() == dtype);
        let t = t.ok_or_else(|| Error::new(ErrorKind::DType, format!("expected {dtype}")).at_port("scale"))?;
        floats(t)?
    } else {
        vec![0.0]
    };
    let zeros = if scheme.zero_point == ZeroPoint::Given {
        operand("zero_point", zero)?;
        zero.map_or_else(|| Ok(vec![0]), |z| int_zeros(z, scheme.element))?
    } else {
        vec![0]
    };
    let of = |i: usize| (given[i % given.len()], zeros[i % zeros.len()]);

    let mut codes = Vec::with_capacity(values.len());
    let mut numbers = Vec::new();
    let mut all = Vec::new();
    for (i, group) in values.chunks(group.max(1)).enumerate() {
        let (given, zero) = of(i);
        let by = shared(scheme, group, given, zero);
        let from = codes.len();
        codes.extend(group.iter().map(|&v| quantise_value(scheme, v, &by)));
        if scheme.dequantised.is_some() {
            numbers.extend(codes[from..].iter().map(|&code| dequantise_code(scheme, code, &by)));
        }
        all.push(by);
    }
    if !matches!(scheme.granularity, Granularity::Channel) {
        // Rows of no values, or a whole tensor of none, still have their scales.
        let (given, zero) = of(0);
        all.resize_with(product(&scale_shape), || shared(scheme, &[], given, zero));
    }
    let mut results = Vec::new();
    if scheme.has_codes_output() {
        results.push(q_tensor(scheme, shape, codes)?);
    }
    if let Some(s) = scheme.scale.as_ref().filter(|_| scheme.has_scale_output()) {
        let scales: Vec<f32> = all.iter().map(|s| s.scale).collect();
        let scales = scales_tensor(s.dtype, &scale_shape, &scales)?;
        results.push(if scheme.layout.is_tiled() { tiled(scheme, &scales)? } else { scales });
    }
    if scheme.zero_point == ZeroPoint::Range {
        let zeros: Vec<i128> = all.iter().map(|s| s.zero).collect();
        results.push(from_ints(DType::U8, &scale_shape, &zeros)?);
    }
    if let Some(d) = scheme.dequantised {
        results.push(from_floats(d.dtype, shape, &numbers)?);
    }
    Ok(results)
}
