//! Dynamic quantisation with linear scales: one scale for the tensor, a row (token) or a group of the row, from its
//! largest magnitude.

use normfuse_ir::{Granularity, Scheme, scheme::Origin};

use super::{Rule, none, quant_mx};

const PRECONDITIONS: &[&str] = &[
    "scheme: every step from the largest magnitude to the scale, and from the value to the code, is one that a scheme has",
    "groups: the values that share a scale are a row, or a group that divides it",
    "fed_by_norm: to join a norm's op, the quantised value is that norm's result, through views and exact casts only",
    "no_escape: nobody outside reads a value inside the quantiser other than its scale",
    "float: what is quantised is f32, f16 or bf16",
    "saves_something: as an op of its own, it replaces more than one op",
    "supported: the runtime has a kernel for it",
];

fn linear(s: &Scheme) -> bool {
    s.origin != Origin::Given && !quant_mx::power_of_two(s) && !quant_mx::scaled_scales(s)
}

/// One scale for the tensor.
pub const TENSOR: Rule = Rule {
    name: "quant_tensor",
    summary: "A dynamic per-tensor quantiser becomes an epilogue of the norm that feeds it, or an op of its own.",
    picture: "
y -> |.| -> max of all -> [steps] -> s
y -> [cast] -> / s or * 1/s -> [clip] -> cast -> q
y -> DynamicQuantizeLinear -> q, s, zero point",
    preconditions: PRECONDITIONS,
    rewrites: none,
    schemes: |s| linear(s) && s.granularity == Granularity::Tensor,
};

/// One scale a row.
pub const TOKEN: Rule = Rule {
    name: "quant_token",
    summary: "A per-token quantiser becomes an epilogue of the norm that feeds it, or an op of its own.",
    picture: "
y -> |.| -> max of row -> [max floor] -> / 448 -> [max floor] -> s (one a row)
y -> [cast f32] -> / s or * 1/s -> [round] -> [clip] -> cast -> q",
    preconditions: PRECONDITIONS,
    rewrites: none,
    schemes: |s| linear(s) && s.granularity == Granularity::Token,
};

/// One scale a group.
pub const GROUP: Rule = Rule {
    name: "quant_group",
    summary: "A group quantiser (1x128 and its like) becomes an epilogue of the norm that feeds it, or an op of its own.",
    picture: "
y -> view [.., G, 128] -> |.| -> max of group -> [max floor] -> / 448 -> [max floor] -> s (G a row)
                      '-> [cast f32] -> / s or * 1/s -> [round] -> [clip] -> cast -> view -> q",
    preconditions: PRECONDITIONS,
    rewrites: none,
    schemes: |s| linear(s) && matches!(s.granularity, Granularity::Group(_) | Granularity::Channel),
};
