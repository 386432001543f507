//! Identities that hold bit for bit in every rounding: always on, part of no switch.

use egg::rewrite;

use normfuse_ir::DType;

use super::{Rewrites, casts_up, facts, is_const, var};

/// The rewrites.
pub fn rewrites() -> Rewrites {
    let (x, t, k) = (var("?x"), var("?t"), var("?k"));
    let c = var("?c");
    vec![
        rewrite!("commute-add"; "(add ?a ?b)" => "(add ?b ?a)"),
        rewrite!("commute-mul"; "(mul ?a ?b)" => "(mul ?b ?a)"),
        rewrite!("pow-two-is-square"; "(pow ?x ?c)" => "(mul ?x ?x)" if is_const("?c", 2.0)),
        rewrite!("one-over-is-reciprocal"; "(div ?c ?x)" => "(recip ?x)" if is_const("?c", 1.0)),
        // A 16-bit sum is rounded before the division; a mean is not.
        rewrite!("sum-over-count-is-mean"; "(div (sum ?k ?x) ?c)" => "(mean ?k ?x)"
        if move |eg: &mut _, _, s: &_| match (facts(eg, s, k).int, facts(eg, s, c).konst) {
            (Some(k), Some(c)) => k as f64 == c && matches!(facts(eg, s, x).dtype, Some(DType::F32 | DType::F64)),
            _ => false,
        }),
        rewrite!("cast-to-own-type"; "(cast ?t ?x)" => "?x"
            if move |eg: &mut _, _, s: &_| facts(eg, s, t).ty.map(|t| t.dtype) == facts(eg, s, x).dtype),
        rewrite!("cast-of-lossless-cast"; "(cast ?t (cast ?u ?x))" => "(cast ?t ?x)" if casts_up("?x", "?u")),
    ]
}
