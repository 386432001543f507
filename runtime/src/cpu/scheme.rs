//! One row under a `Scheme`: what the fused norm's epilogues and the `Quantize` op share.

use normfuse_ir::{
    DType, Granularity, Scheme, num,
    scheme::{Apply, DynamicScale, ScaleBy, ScaleLayout, ScaleRule, ScaleSource},
};

/// Says whether the CPU runs a scheme on its own rows; `at` names the field in a refusal.
pub(super) fn supports(scheme: &Scheme, at: &str) -> Result<(), String> {
    if scheme.layout != ScaleLayout::RowMajor {
        return Err(format!("{at}layout: the CPU writes scales row-major only, found {:?}", scheme.layout));
    }
    if scheme.has_scale_output() && scheme.apply == Apply::Multiply {
        return Err(format!("{at}apply: `multiply` takes a given inverse scale, and this one is dynamic"));
    }
    if !scheme.has_scale_output() && scheme.granularity != Granularity::Tensor {
        return Err(format!("{at}scale: a given scale is one per tensor, found {:?}", scheme.granularity));
    }
    Ok(())
}

/// Values under one scale in a row of `width`.
pub(super) fn group_size(scheme: &Scheme, width: usize) -> usize {
    match scheme.granularity {
        Granularity::Group(g) => g as usize,
        Granularity::Token | Granularity::Tensor => width,
    }
}

/// Quantises a row: a code a value into `codes` (a byte each, the 4-bit type too), and a scale a group into `scales`
/// where they are computed.
pub(super) fn quantise_row(scheme: &Scheme, given: f32, row: &[f32], codes: &mut [u8], scales: Option<&mut [f32]>) {
    let group = group_size(scheme, row.len()).max(1);
    match (&scheme.scale, scales) {
        (ScaleSource::Dynamic(rule), Some(scales)) => {
            for ((values, codes), scale) in row.chunks(group).zip(codes.chunks_mut(group)).zip(scales) {
                *scale = scale_of(rule, values);
                quantise_group(scheme, *scale, values, codes);
            }
        }
        _ => quantise_group(scheme, given, row, codes),
    }
}

/// The scale of the values that share it.
fn scale_of(rule: &DynamicScale, values: &[f32]) -> f32 {
    let mut amax = values.iter().fold(0.0, |amax, v| num::max(amax, v.abs()));
    if let Some(floor) = rule.amax_floor {
        amax = num::max(amax, floor.get());
    }
    let mut scale = match rule.by {
        ScaleBy::Divide(c) => amax / c.get(),
        ScaleBy::Multiply(c) => amax * c.get(),
    };
    if let Some(floor) = rule.scale_floor {
        scale = num::max(scale, floor.get());
    }
    match rule.rule {
        ScaleRule::Linear => scale,
    }
}

fn quantise_group(scheme: &Scheme, scale: f32, values: &[f32], codes: &mut [u8]) {
    let code = |v: f32| {
        let clamped = scheme.clamp.map_or(v, |[lo, hi]| num::min(num::max(v, lo.get()), hi.get()));
        encode(scheme.element, clamped, scheme.saturate)
    };
    let pairs = codes.iter_mut().zip(values);
    match scheme.apply {
        Apply::Divide => pairs.for_each(|(q, v)| *q = code(v / scale)),
        Apply::MultiplyReciprocal => {
            let inverse = 1.0 / scale;
            pairs.for_each(|(q, v)| *q = code(v * inverse));
        }
        Apply::Multiply => pairs.for_each(|(q, v)| *q = code(v * scale)),
    }
}

/// A value as the code of a quantised type; integers round to nearest even and saturate, and NaN is 0.
pub(super) fn encode(element: DType, v: f32, saturate: bool) -> u8 {
    match element {
        // `as` saturates.
        DType::I8 => v.round_ties_even() as i8 as u8,
        DType::U8 => v.round_ties_even() as u8,
        float => num::cast_f32_to(float, v, saturate),
    }
}
