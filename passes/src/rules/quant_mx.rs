//! Quantisers whose scales are powers of two, or are themselves scaled: UE8M0, the MX formats, NVFP4.

use normfuse_ir::{
    DType, Scheme,
    scheme::{Origin, Step},
};

use super::{Rule, none};

const PRECONDITIONS: &[&str] = &[
    "scheme: every step from the largest magnitude to the scale, and from the value to the code, is one that a scheme has",
    "rounding: comparisons that make f4e2m1 codes have the thresholds of rounding to nearest, ties to even",
    "packing: two codes share a byte with the even index in the low nibble",
    "groups: the groups divide the norm's row, or the last axes of another value",
    "fed_by_norm: to join a norm's op, the quantised value is that norm's result, through views and exact casts only",
    "no_escape: nobody outside reads a value inside the quantiser other than its scale",
    "independent: a given scale does not depend on what the op makes",
    "float: what is quantised is f32, f16 or bf16",
    "saves_something: as an op of its own, it replaces more than one op",
    "supported: the runtime has a kernel for it",
];

/// True if the factor is a power of two by construction.
pub(super) fn power_of_two(s: &Scheme) -> bool {
    s.factor.iter().any(|s| matches!(s, Step::Exp2 | Step::Power(_)))
}

/// True for codes of four bits whose scales are rounded to FP8: only a scale of the scales, given or a constant, makes those wide
/// enough.
pub(super) fn scaled_scales(s: &Scheme) -> bool {
    let narrow = |step: &Step| matches!(step, Step::Cast { to: DType::F8E4M3FN, .. });
    let stored = s.scale.as_ref().is_some_and(|scale| scale.dtype == DType::F8E4M3FN);
    s.element == DType::F4E2M1 && (stored || s.factor.iter().any(narrow))
}

/// Powers of two.
pub const RULE: Rule = Rule {
    name: "quant_mx",
    summary: "A quantiser with power-of-two scales (UE8M0, MXFP8, MXFP4) becomes an epilogue of the norm that feeds it, or an op of its own.",
    picture: "
y -> view [.., G, 32] -> |.| -> max of group -> log2 -> floor or ceil -> [- emax] -> 2^ -> s
                     |                                             '-> + 127 -> cast u8 -> scale
                     '-> / s -> [clip] -> cast f8, or f4e2m1 by comparisons and two in a byte -> q",
    preconditions: PRECONDITIONS,
    rewrites: none,
    schemes: |s| s.origin != Origin::Given && power_of_two(s) && !scaled_scales(s),
};

/// A scale of scales.
pub const NVFP4: Rule = Rule {
    name: "quant_nvfp4",
    summary: "A quantiser whose scales are themselves scaled by a given number (NVFP4) becomes an epilogue of its norm, or an op of its own.",
    picture: "
y -> view [.., G, 16] -> |.| -> max of group -> * 1/6 -> * global -> [clip] -> cast f8 -> scale
                     '-> * (global / scale, 0 where it is 0) -> [clip] -> f4e2m1, two in a byte -> q",
    preconditions: PRECONDITIONS,
    rewrites: none,
    schemes: |s| s.origin != Origin::Given && scaled_scales(s),
};
