//! Values under a `Scheme`: what the fused norm's epilogues and the `Quantize` op share.

use normfuse_ir::{
    DType, Error, ErrorKind, Granularity, Result, Scheme, Tensor, num,
    scheme::{self, Apply, Encode, Origin, ScaleLayout, Step, ZeroPoint},
};

use super::{
    buf::numel,
    convert::{self, round_row},
};

/// Says whether the CPU runs a quantiser that is an op of its own, and if not, what stands in the way.
///
/// # Errors
/// A sentence that names the field.
pub fn supports_quantize(scheme: &Scheme) -> std::result::Result<(), String> {
    supports(scheme, "")
}

/// Says whether the CPU runs a scheme on its own rows. A layout says how scales lie in a device's memory; tensors here are
/// row-major under any that is not tiled.
/// `at` names the field in a refusal.
pub(super) fn supports(scheme: &Scheme, at: &str) -> std::result::Result<(), String> {
    scheme.check().map_err(|why| format!("{at}{why}"))
}

/// True if a scale needs to have seen the whole tensor.
pub(super) fn of_whole_tensor(scheme: &Scheme) -> bool {
    scheme.granularity == Granularity::Tensor && scheme.origin != Origin::Given
}

/// Values under one scale in a row of `width`.
pub(super) fn group_size(scheme: &Scheme, width: usize) -> usize {
    match scheme.granularity {
        Granularity::Group(g) => g as usize,
        Granularity::Token | Granularity::Tensor => width,
        Granularity::Channel => 1,
    }
}

/// The operands of a scheme: one element, or one a channel. Empty where the scheme has none.
#[derive(Debug, Clone, Default)]
pub(super) struct Given {
    pub(super) scales: Vec<f32>,
    pub(super) zeros: Vec<i32>,
}

impl Given {
    fn of(&self, group: usize) -> (f32, i32) {
        let pick = |n: usize| if n > 1 { group } else { 0 };
        (
            self.scales.get(pick(self.scales.len())).copied().unwrap_or(0.0),
            self.zeros.get(pick(self.zeros.len())).copied().unwrap_or(0),
        )
    }
}

/// What the scale of a group depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extremes {
    amax: f32,
    low: f32,
    high: f32,
}

impl Extremes {
    /// Of no values.
    pub(super) const NONE: Self = Self { amax: 0.0, low: 0.0, high: 0.0 };

    pub(super) fn of(scheme: &Scheme, values: &[f32]) -> Self {
        let mut found = Self::NONE;
        match scheme.origin {
            Origin::Given => {}
            Origin::Amax => found.amax = values.iter().fold(0.0, |amax, v| num::max(amax, v.abs())),
            Origin::Range => {
                found.low = values.iter().copied().fold(0.0, num::min);
                found.high = values.iter().copied().fold(0.0, num::max);
            }
        }
        found
    }

    /// Extremes are associative, NaN and signed zeros included, so parts may be joined in any order.
    pub(super) fn join(self, other: Self) -> Self {
        Self {
            amax: num::max(self.amax, other.amax),
            low: num::min(self.low, other.low),
            high: num::max(self.high, other.high),
        }
    }
}

/// What the values of one group share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    factor: f32,
    /// The scale that is handed out, before it is cast to its dtype.
    pub(super) scale: f32,
    /// The zero point.
    pub(super) zero: i32,
    /// The scale as codes meet it: as a number of its dtype, or as it was given.
    unit: f32,
}

impl Shared {
    pub(super) fn new(scheme: &Scheme, of: Extremes, (given, zero): (f32, i32)) -> Self {
        let origin = match scheme.origin {
            Origin::Given => given,
            Origin::Amax => of.amax,
            Origin::Range if of.high == of.low => 1.0,
            Origin::Range => of.high - of.low,
        };
        let run = |steps: &[Step]| scheme::run(steps, origin, scheme.compute, given);
        let factor = run(&scheme.factor);
        let scale = match &scheme.scale {
            Some(s) if s.steps == scheme.factor => factor,
            Some(s) => run(&s.steps),
            None => factor,
        };
        let zero = match scheme.zero_point {
            ZeroPoint::None => 0,
            ZeroPoint::Given => zero,
            ZeroPoint::Range => (0.0 - of.low / factor).clamp(0.0, 255.0).round_ties_even() as i32,
        };
        let unit = match scheme.scale.as_ref().map(|s| s.dtype) {
            None => given,
            Some(DType::F8E8M0) => num::decode(DType::F8E8M0, num::cast_f32_to(DType::F8E8M0, scale, true)),
            Some(dtype) => num::round_to(dtype, scale),
        };
        Self { factor, scale, zero, unit }
    }
}

/// Quantises a row: a code a value into `codes` (a byte each, the 4-bit type too), a scale a group into `scales` where they
/// are computed, and into `numbers` what the codes stand for, not yet rounded. Not for schemes [`of_whole_tensor`].
pub(super) fn quantise_row(
    scheme: &Scheme,
    given: &Given,
    row: &[f32],
    codes: &mut [u8],
    mut scales: Option<&mut [f32]>,
    mut numbers: Option<&mut [f32]>,
) {
    let group = group_size(scheme, row.len()).max(1);
    for (g, (values, codes)) in row.chunks(group).zip(codes.chunks_mut(group)).enumerate() {
        let shared = Shared::new(scheme, Extremes::of(scheme, values), given.of(g));
        if let Some(slot) = scales.as_deref_mut().and_then(|s| s.get_mut(g)) {
            *slot = shared.scale;
        }
        quantise_group(scheme, shared, values, codes);
        if let Some(numbers) = numbers.as_deref_mut() {
            dequantise_group(scheme, shared, codes, &mut numbers[g * group..][..codes.len()]);
        }
    }
}

/// What the codes that share a scale stand for, not yet rounded.
pub(super) fn dequantise_group(scheme: &Scheme, by: Shared, codes: &[u8], numbers: &mut [f32]) {
    let all = numbers.iter_mut().zip(codes);
    match scheme.element {
        DType::I8 => all.for_each(|(n, q)| *n = (i32::from(*q as i8) - by.zero) as f32 * by.unit),
        DType::U8 => all.for_each(|(n, q)| *n = (i32::from(*q) - by.zero) as f32 * by.unit),
        float => all.for_each(|(n, q)| *n = num::decode(float, *q) * by.unit),
    }
}

/// Values a pass over a group works on at a time.
const CHUNK: usize = 256;

/// Quantises the values that share a scale.
pub(super) fn quantise_group(scheme: &Scheme, by: Shared, values: &[f32], codes: &mut [u8]) {
    let mut scratch = [0.0; CHUNK];
    for (values, codes) in values.chunks(CHUNK).zip(codes.chunks_mut(CHUNK)) {
        let v = &mut scratch[..values.len()];
        v.copy_from_slice(values);
        round_row(scheme.compute, v);
        match scheme.apply {
            Apply::Divide => v.iter_mut().for_each(|v| *v /= by.factor),
            Apply::Multiply => v.iter_mut().for_each(|v| *v *= by.factor),
        }
        round_row(scheme.compute, v);
        let mut at = scheme.compute;
        for step in &scheme.post {
            match step {
                // What nearly every quantiser has; the loops vectorise.
                Step::Max(c) => v.iter_mut().for_each(|v| *v = num::max(*v, c.get())),
                Step::Min(c) => v.iter_mut().for_each(|v| *v = num::min(*v, c.get())),
                Step::Round => v.iter_mut().for_each(|v| *v = v.round_ties_even()),
                step => {
                    let before = at;
                    for v in &mut *v {
                        at = before;
                        *v = step.apply(*v, &mut at, 0.0);
                    }
                    continue;
                }
            }
            round_row(at, v);
        }
        codes.iter_mut().zip(&*v).for_each(|(q, v)| *q = encode(scheme, *v, by.zero));
    }
}

/// A value as a code: integers go toward zero and saturate, and NaN is 0.
fn encode(scheme: &Scheme, v: f32, zero: i32) -> u8 {
    match scheme.element {
        // `as` saturates, here to what leaves room for the zero point.
        DType::I8 => (v as i64).saturating_add(i64::from(zero)).clamp(-128, 127) as i8 as u8,
        DType::U8 => (v as i64).saturating_add(i64::from(zero)).clamp(0, 255) as u8,
        float => match scheme.encode {
            Encode::Cast => num::cast_f32_to(float, v, false),
            Encode::Saturate => num::cast_f32_to(float, v, true),
            Encode::Compare => {
                let sign = if v < 0.0 { 8 } else { 0 };
                num::cast_f32_to(float, if v.is_nan() { 0.0 } else { v.abs() }, true) | sign
            }
        },
    }
}

/// Row-major scales in a tiled layout: the tensor that it makes of them, or themselves.
pub(super) fn laid_out(scheme: &Scheme, scales: Tensor) -> Result<Tensor> {
    if !scheme.layout.is_tiled() {
        return Ok(scales);
    }
    let (groups, lead) = scales.shape().split_last().map_or((1, &[][..]), |(g, lead)| (*g, lead));
    let rows = numel(lead)?;
    let found = scheme.layout.tiled(scales.bytes(), rows as u64, groups as u64);
    let found = found.zip(scheme.layout.extents(rows as u64, groups as u64));
    let (bytes, (held, across)) = found
        .ok_or_else(|| Error::new(ErrorKind::Shape, format!("tiles of scales {:?} are too large", scales.shape())))?;
    let shape = match scheme.layout {
        ScaleLayout::PackedUe8m0 => [lead, &[across as usize / 4]].concat(),
        _ => vec![held as usize, across as usize],
    };
    Tensor::from_bytes(scheme.layout.dtype(scales.dtype()), shape, bytes)
}

/// Bytes of a scale.
pub(super) fn scale_bytes(dtype: DType) -> usize {
    dtype.bits() / 8
}

/// Stores scales in their dtype.
pub(super) fn store_scales(dtype: DType, scales: &[f32], bytes: &mut [u8]) {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => convert::store(dtype, scales, bytes),
        DType::U8 => bytes.iter_mut().zip(scales).for_each(|(b, s)| *b = *s as u8),
        narrow => bytes.iter_mut().zip(scales).for_each(|(b, s)| *b = num::cast_f32_to(narrow, *s, true)),
    }
}
