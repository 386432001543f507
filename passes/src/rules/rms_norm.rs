//! RMSNorm in its meanings: the row over its root mean square, perhaps cast, times a weight, times one plus a weight,
//! or as it is.

use egg::{Id, Subst, rewrite};

use super::{Rewrites, Rule, any_const, both, facts, find, is_const, no_schemes, var};
use crate::term::{Eg, Term};

/// The rule.
pub const RULE: Rule = Rule {
    name: "rms_norm",
    summary: "A row divided by its root mean square and scaled by a weight becomes one fused norm.",
    picture: "
x -> [cast] -> square -> mean -> + eps -> sqrt -> 1/ ---.
       '------------------------------------------------ * -> [cast] -> * w -> [cast] -> y",
    preconditions: &[
        "last_axis: the mean runs over the last axis, whose size is known",
        "square: what is averaged is the square of the row, as x*x or x^2",
        "not_centred: the row is not already minus its mean (that is a LayerNorm)",
        "eps_constant: what is added to the mean is one constant",
        "root: the sum is turned into 1/sqrt, rsqrt or a division by sqrt",
        "same_row: the row that is scaled is the row that was squared",
        "weight_vector: the weight is a vector as long as the row",
        "saves_something: a native norm that feeds no quantiser is one op already",
        "no_escape: nobody outside reads a value between the row and the result",
        "supported: the runtime has a kernel for it",
    ],
    rewrites,
    schemes: no_schemes,
};

/// Condition: `p` is a normalised row of `n`, or a cast of one.
fn is_normed(p: &str, n: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let (p, n) = (var(p), var(n));
    move |eg, _, s| normed(eg, s[p]).is_some_and(|c| eg.find(c[1]) == eg.find(s[n]))
}

/// The children of the `normed` term that a class is, or is a cast of.
pub(crate) fn normed(eg: &Eg, class: Id) -> Option<[Id; 4]> {
    let direct = |class: Id| {
        find(eg, class, |t| match t {
            Term::Normed(c) => Some(*c),
            _ => None,
        })
    };
    direct(class).or_else(|| {
        find(eg, class, |t| match t {
            Term::Cast([_, x]) => direct(*x),
            _ => None,
        })
    })
}

fn rewrites() -> Rewrites {
    let (one, w) = (var("?one"), var("?w"));
    let same = move |eg: &mut Eg, _: Id, s: &Subst| facts(eg, s, one).dtype == facts(eg, s, w).dtype;
    vec![
        rewrite!("norm-by-reciprocal-of-root";
            "(mul ?x (rep ?n (recip (sqrt (add (mean ?n (mul ?x ?x)) ?eps)))))" => "(normed recip_sqrt ?n ?eps ?x)"
            if any_const("?eps")),
        rewrite!("norm-by-rsqrt";
            "(mul ?x (rep ?n (rsqrt (add (mean ?n (mul ?x ?x)) ?eps))))" => "(normed by_rsqrt ?n ?eps ?x)"
            if any_const("?eps")),
        rewrite!("norm-by-division";
            "(div ?x (rep ?n (sqrt (add (mean ?n (mul ?x ?x)) ?eps))))" => "(normed div_sqrt ?n ?eps ?x)"
            if any_const("?eps")),
        rewrite!("weight"; "(mul ?p (tile ?n ?w))" => "(rms plain ?w ?p)" if is_normed("?p", "?n")),
        rewrite!("one-plus-weight"; "(mul ?p (tile ?n (add ?one ?w)))" => "(rms plus_one ?w ?p)"
            if both(both(is_normed("?p", "?n"), is_const("?one", 1.0)), same)),
    ]
}
