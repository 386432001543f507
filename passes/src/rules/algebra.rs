//! Identities that hold bit for bit in every rounding: always on, part of no switch.

use std::sync::LazyLock;

use egg::{Id, Subst, rewrite};

use normfuse_ir::DType;

use super::{Rewrites, any_const, casts_up, facts, is_const, var};
use crate::term::Eg;

static PARSED: LazyLock<Rewrites> = LazyLock::new(parse);

/// The rewrites.
pub fn rewrites() -> Rewrites {
    PARSED.clone()
}

fn parse() -> Rewrites {
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
        // The inverse of a power of two is exact, and so is what a product with it is: the same number, rounded once.
        rewrite!("sum-times-inverse-count-is-mean"; "(mul (sum ?k ?x) ?c)" => "(mean ?k ?x)"
        if move |eg: &mut _, _, s: &_| match (facts(eg, s, k).int, facts(eg, s, c).konst) {
            (Some(k), Some(c)) => {
                k > 0
                    && k & (k - 1) == 0
                    && 1.0 / k as f64 == c
                    && matches!(facts(eg, s, x).dtype, Some(DType::F32 | DType::F64))
            }
            _ => false,
        }),
        // 16-bit arithmetic is f32 arithmetic, rounded: so the cast of a wide op on widened operands is the narrow op.
        rewrite!("narrow-add"; "(cast ?t (add (cast ?u ?a) (cast ?u ?b)))" => "(add ?a ?b)" if narrowed),
        rewrite!("narrow-mul"; "(cast ?t (mul (cast ?u ?a) (cast ?u ?b)))" => "(mul ?a ?b)" if narrowed),
        // What is done to each number before it is repeated may be done after.
        rewrite!("sqrt-of-repeated"; "(sqrt (rep ?k ?x))" => "(rep ?k (sqrt ?x))"),
        rewrite!("rsqrt-of-repeated"; "(rsqrt (rep ?k ?x))" => "(rep ?k (rsqrt ?x))"),
        rewrite!("recip-of-repeated"; "(recip (rep ?k ?x))" => "(rep ?k (recip ?x))"),
        rewrite!("add-to-repeated"; "(add (rep ?k ?x) ?c)" => "(rep ?k (add ?x ?c))" if any_const("?c")),
        rewrite!("tile-of-tile"; "(tile ?k (tile ?k ?x))" => "(tile ?k ?x)"),
        rewrite!("cast-of-tile"; "(cast ?t (tile ?k ?x))" => "(tile ?k (cast ?t ?x))"),
        rewrite!("cast-to-own-type"; "(cast ?t ?x)" => "?x"
            if move |eg: &mut _, _, s: &_| facts(eg, s, t).ty.map(|t| t.dtype) == facts(eg, s, x).dtype),
        rewrite!("cast-of-lossless-cast"; "(cast ?t (cast ?u ?x))" => "(cast ?t ?x)" if casts_up("?x", "?u")),
    ]
}

/// Condition: `a` and `b` are both of the 16-bit dtype that `t` casts to, and `u` is f32.
fn narrowed(eg: &mut Eg, _: Id, s: &Subst) -> bool {
    let dtype = |name| facts(eg, s, var(name)).dtype;
    let target = |name| facts(eg, s, var(name)).ty.map(|t| t.dtype);
    matches!(dtype("?a"), Some(DType::F16 | DType::BF16))
        && dtype("?a") == dtype("?b")
        && dtype("?a") == target("?t")
        && target("?u") == Some(DType::F32)
}
