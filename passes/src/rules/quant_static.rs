//! Static quantisation: one scale for the tensor, given.

use egg::{Id, Subst, rewrite};
use normfuse_ir::DType;

use super::{Rewrites, Rule, both, facts, has_dtype, is_type, var};
use crate::term::Eg;

/// The rule.
pub const RULE: Rule = Rule {
    name: "quant_static",
    summary: "A per-tensor quantiser with a given scale becomes an epilogue of the norm that feeds it.",
    picture: "
y -> [cast f32] -> * m, / s or * 1/s -> [clip] -> cast f8 -> q",
    preconditions: &[
        "f32: the quantiser computes in f32",
        "one_scale: the scale has one element and does not depend on the norm",
        "fed_by_norm: the quantised value is the norm's result, through views only",
        "no_escape: nobody outside reads a value inside the quantiser",
    ],
    rewrites,
};

/// Condition: the variable is one element that is not the literal 1 (multiplying by that is no scale).
fn scale(s: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let s = var(s);
    move |eg, _, subst| {
        let f = facts(eg, subst, s);
        f.one && f.dtype == Some(DType::F32)
    }
}

fn rewrites() -> Rewrites {
    // The value arrives in f32, or in a narrower type and is cast up.
    vec![
        rewrite!("times-given"; "(mul ?v ?s)" => "(app by_mul ?s ?v)" if both(has_dtype("?v", DType::F32), scale("?s"))),
        rewrite!("times-given-cast"; "(mul (cast ?t ?v) ?s)" => "(app by_mul ?s ?v)"
            if both(is_type("?t", DType::F32), scale("?s"))),
        rewrite!("over-given"; "(div ?v ?s)" => "(app by_div ?s ?v)" if both(has_dtype("?v", DType::F32), scale("?s"))),
        rewrite!("over-given-cast"; "(div (cast ?t ?v) ?s)" => "(app by_div ?s ?v)"
            if both(is_type("?t", DType::F32), scale("?s"))),
        rewrite!("times-reciprocal-of-given"; "(mul ?v (recip ?s))" => "(app by_recip ?s ?v)"
            if both(has_dtype("?v", DType::F32), scale("?s"))),
        rewrite!("times-reciprocal-of-given-cast"; "(mul (cast ?t ?v) (recip ?s))" => "(app by_recip ?s ?v)"
            if both(is_type("?t", DType::F32), scale("?s"))),
    ]
}
