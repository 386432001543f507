//! Dynamic quantisation with linear f32 scales: one scale a row (token) or a group of the row, from its largest
//! magnitude.

use egg::{Rewrite, rewrite};
use normfuse_ir::DType;

use super::{Rewrites, Rule, any_const, both, casts_up, has_dtype, is_type};
use crate::term::{Analyse, Term};

const PRECONDITIONS: &[&str] = &[
    "f32: amax is exact, scales and quotients are computed in f32",
    "constants: the divisor and the floors are constants",
    "fed_by_norm: the quantised value is the norm's result, through views only",
    "no_escape: nobody outside reads a value inside the quantiser",
];

/// One scale a row.
pub const TOKEN: Rule = Rule {
    name: "quant_token",
    summary: "A per-token quantiser becomes an epilogue of the norm that feeds it.",
    picture: "
y -> |.| -> max of row -> [max floor] -> / 448 -> [max floor] -> s (one a row)
y -> [cast f32] -> / s or * 1/s -> [clip] -> cast f8 -> q",
    preconditions: PRECONDITIONS,
    rewrites,
};

/// One scale a group.
pub const GROUP: Rule = Rule {
    name: "quant_group",
    summary: "A group quantiser (1x128 and its like) becomes an epilogue of the norm that feeds it.",
    picture: "
y -> view [.., G, 128] -> |.| -> max of group -> [max floor] -> / 448 -> [max floor] -> s (G a row)
                      '-> [cast f32] -> / s or * 1/s -> [clip] -> cast f8 -> view -> q",
    preconditions: PRECONDITIONS,
    rewrites,
};

/// The two ways in which a scale meets an f32 or a narrower value.
fn apply(
    name: &str,
    operand: &str,
    cond: impl Fn(&mut crate::term::Eg, egg::Id, &egg::Subst) -> bool + Clone + Send + Sync + 'static,
) -> [Rewrite<Term, Analyse>; 2] {
    let scale = "(scl ?g (lin ?k ?f ?by ?c ?v))";
    let pattern = |s: String| s.parse::<egg::Pattern<Term>>().unwrap_or_else(|e| unreachable!("{s}: {e}"));
    let rule = |name: String, left: String, how: &str| {
        let right =
            egg::ConditionalApplier { condition: cond.clone(), applier: pattern(format!("(app {how} {scale} ?v)")) };
        Rewrite::new(name.clone(), pattern(left), right).unwrap_or_else(|e| unreachable!("{name}: {e}"))
    };
    [
        rule(format!("over-scale{name}"), format!("(div {operand} (rep ?k {scale}))"), "by_div"),
        rule(
            format!("times-reciprocal-of-scale{name}"),
            format!("(mul {operand} (rep ?k (recip {scale})))"),
            "by_recip",
        ),
    ]
}

fn rewrites() -> Rewrites {
    let mut rules = vec![
        rewrite!("amax"; "(rowmax ?k (abs ?v))" => "(amax ?k ?v)" if has_dtype("?v", DType::F32)),
        rewrite!("amax-cast"; "(cast ?t (rowmax ?k (abs ?v)))" => "(amax ?k ?v)"
            if both(is_type("?t", DType::F32), casts_up("?v", "?t"))),
        rewrite!("scale-by-division"; "(div (amax ?k ?v) ?c)" => "(lin ?k none by_div ?c ?v)" if any_const("?c")),
        rewrite!("scale-by-product"; "(mul (amax ?k ?v) ?c)" => "(lin ?k none by_mul ?c ?v)" if any_const("?c")),
        rewrite!("scale-of-floored-amax-by-division"; "(div (max (amax ?k ?v) ?f) ?c)" => "(lin ?k ?f by_div ?c ?v)"
            if both(any_const("?c"), any_const("?f"))),
        rewrite!("scale-of-floored-amax-by-product"; "(mul (max (amax ?k ?v) ?f) ?c)" => "(lin ?k ?f by_mul ?c ?v)"
            if both(any_const("?c"), any_const("?f"))),
        rewrite!("scale"; "(lin ?k ?f ?by ?c ?v)" => "(scl none (lin ?k ?f ?by ?c ?v))"),
        rewrite!("floored-scale"; "(max (lin ?k ?f ?by ?c ?v) ?g)" => "(scl ?g (lin ?k ?f ?by ?c ?v))"
            if any_const("?g")),
    ];
    rules.extend(apply("", "?v", value_is_f32()));
    rules.extend(apply("-cast", "(cast ?t ?v)", upcast_to_f32()));
    rules
}

/// The up-cast of the value is to f32 and loses nothing.
fn upcast_to_f32() -> impl Fn(&mut crate::term::Eg, egg::Id, &egg::Subst) -> bool + Clone + Send + Sync + 'static {
    let (v, t) = (super::var("?v"), super::var("?t"));
    move |eg, _, s| {
        let (v, t) = (super::facts(eg, s, v), super::facts(eg, s, t));
        t.ty.is_some_and(|t| t.dtype == DType::F32 && v.dtype.is_some_and(|d| d.embeds_in(DType::F32)))
    }
}

/// The value is f32 as it stands.
fn value_is_f32() -> impl Fn(&mut crate::term::Eg, egg::Id, &egg::Subst) -> bool + Clone + Send + Sync + 'static {
    let v = super::var("?v");
    move |eg, _, s| super::facts(eg, s, v).dtype == Some(DType::F32)
}
