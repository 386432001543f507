//! Static quantisation: one scale for the tensor (or one a channel), given.

use normfuse_ir::{Scheme, scheme::Origin};

use super::{Rule, none};

/// The rule.
pub const RULE: Rule = Rule {
    name: "quant_static",
    summary: "A quantiser with a given scale becomes an epilogue of the norm that feeds it.",
    picture: "
y -> [cast] -> * m, / s or * 1/s -> [clip] -> cast f8, or round -> [clip] -> cast i8 -> q
y -> QuantizeLinear(s, zero point) -> q",
    preconditions: &[
        "scheme: the cast value met a scale, and every step between is one that a scheme has",
        "independent: the scale does not depend on the norm",
        "fed_by_norm: the quantised value is the norm's result, through views and exact casts only",
        "no_escape: nobody outside reads a value inside the quantiser",
        "supported: the runtime has a kernel for it",
    ],
    rewrites: none,
    schemes: |s: &Scheme| s.origin == Origin::Given,
};
