//! Static quantisation: one scale for the tensor (or one a channel), given.

use normfuse_ir::{Scheme, scheme::Origin};

use super::{Rule, none};

/// The rule.
pub const RULE: Rule = Rule {
    name: "quant_static",
    summary: "A quantiser with a given scale becomes an epilogue of the norm that feeds it, or an op of its own.",
    picture: "
y -> [cast] -> * m, / s or * 1/s -> [clip] -> cast f8, or round -> [clip] -> cast i8 -> q
y -> QuantizeLinear(s, zero point) -> q",
    preconditions: &[
        "scheme: the cast value met a scale, and every step between is one that a scheme has",
        "independent: the scale does not depend on what the op makes",
        "fed_by_norm: to join a norm's op, the quantised value is that norm's result, through views and exact casts only",
        "no_escape: nobody outside reads a value inside the quantiser",
        "float: what is quantised is f32, f16 or bf16",
        "saves_something: as an op of its own, it replaces more than one op",
        "supported: the runtime has a kernel for it",
    ],
    rewrites: none,
    schemes: |s: &Scheme| s.origin == Origin::Given,
};
