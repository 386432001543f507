//! RMSNorm in its meanings: the row over its root mean square, perhaps cast, times a weight, times one plus a weight,
//! or as it is.
//!
//! The statistics come first, whatever the spelling: `mean_square` is the mean of squares with what is added to it, and
//! the root of that is `sqrt`, `rsqrt` or their reciprocal. Powers by a half are roots only of what is no -0, so those
//! rewrites ask for a mean of squares.

use std::sync::LazyLock;

use egg::{Id, Subst, rewrite};
use normfuse_ir::DType;

use super::{Rewrites, Rule, any_const, both, facts, find, is_const, no_schemes, var};
use crate::term::{Eg, Term};

/// The rule.
pub const RULE: Rule = Rule {
    name: "rms_norm",
    summary: "A row divided by its root mean square and scaled by a weight becomes one fused norm.",
    picture: "
x -> [cast] -> square -> mean -> [+ eps] -> sqrt -> 1/, or rsqrt, or ^-1/2 ---.
       '---------------------------------------------------------------------- * -> [cast] -> [* w] -> [cast] -> y
       '------------------------------- or / sqrt ----------------------------'",
    preconditions: &[
        "float: the row is f32, f16 or bf16",
        "last_axis: the mean runs over the last axis alone, whose size is known",
        "square: what is averaged is the square of one value, as x*x or x^2, each square rounded on its own",
        "not_centred: the row is not already minus its mean (that is a LayerNorm)",
        "mean: the squares are averaged, by a mean or by an f32 sum over exactly their number",
        "one_dtype: from the mean to the factor of the row nothing is cast",
        "eps_constant: what is added to the mean, if anything is, is one number, not negative, that f32 holds",
        "root: what scales the row is 1/sqrt, rsqrt or the power -1/2 of the mean plus eps, or the row is divided by sqrt",
        "same_row: the row that is scaled is the row that was squared",
        "weight_vector: the weight is a vector as long as the row",
        "saves_something: a native norm that feeds no quantiser is one op already",
        "no_escape: nobody outside reads a value between the row and the result",
        "supported: the runtime has a kernel for it",
    ],
    rewrites,
    schemes: no_schemes,
};

/// A normalised row behind at most two casts: the children of its term, and the dtype that it was rounded to first.
pub(crate) struct Normalised {
    /// Root, width, eps, squares, row.
    pub term: [Id; 5],
    /// Dtype of the first cast, or of the row where there is none.
    pub dtype: Option<DType>,
}

/// The normalised row that a class is, or is a cast of.
pub(crate) fn normed(eg: &Eg, class: Id) -> Option<Normalised> {
    let term = |class: Id| {
        find(eg, class, |t| match t {
            Term::Normed(c) => Some(*c),
            _ => None,
        })
    };
    let once = |class: Id| {
        find(eg, class, |t| match t {
            Term::Cast([_, x]) => term(*x),
            _ => None,
        })
        .map(|term| Normalised { term, dtype: eg[class].data.dtype })
    };
    term(class).map(|term| Normalised { term, dtype: eg[class].data.dtype }).or_else(|| once(class)).or_else(|| {
        find(eg, class, |t| match t {
            Term::Cast([_, x]) => once(*x),
            _ => None,
        })
    })
}

/// Condition: `p` is a normalised row of `n`, perhaps cast.
fn is_normed(p: &str, n: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let (p, n) = (var(p), var(n));
    move |eg, _, s| normed(eg, s[p]).is_some_and(|c| eg.find(c.term[1]) == eg.find(s[n]))
}

/// Condition: `p` is a normalised row, and the only one: `w` has as many elements as it has.
fn is_one_row(p: &str, w: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let (p, w) = (var(p), var(w));
    move |eg, _, s| {
        let width = normed(eg, s[p]).and_then(|c| eg[c.term[1]].data.int);
        width.is_some_and(|n| n > 1 && facts(eg, s, w).len == Some(n))
    }
}

/// Condition: the variable is a constant that may be added to a mean of squares.
fn is_eps(name: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let (v, number) = (var(name), any_const(name));
    move |eg, id, s| number(eg, id, s) && facts(eg, s, v).konst.is_some_and(|e| e >= 0.0)
}

/// Condition: the type term is wider than the dtype of `y`.
fn is_wider(t: &str, y: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let (t, y) = (var(t), var(y));
    move |eg, _, s| match (facts(eg, s, y).dtype, facts(eg, s, t).ty) {
        (Some(from), Some(to)) => from != to.dtype && from.embeds_in(to.dtype),
        _ => false,
    }
}

static PARSED: LazyLock<Rewrites> = LazyLock::new(parse);

fn rewrites() -> Rewrites {
    PARSED.clone()
}

fn parse() -> Rewrites {
    let (one, w) = (var("?one"), var("?w"));
    let same = move |eg: &mut Eg, _: Id, s: &Subst| facts(eg, s, one).dtype == facts(eg, s, w).dtype;
    vec![
        rewrite!("mean-of-squares"; "(mean ?n (mul ?x ?x))" => "(mean_square ?n no_eps as_row ?x)"),
        rewrite!("mean-of-narrow-squares";
            "(mean ?n (cast ?t (mul ?y ?y)))" => "(mean_square ?n no_eps ?y (cast ?t ?y))" if is_wider("?t", "?y")),
        rewrite!("plus-eps"; "(add (mean_square ?n no_eps ?q ?x) ?eps)" => "(mean_square ?n ?eps ?q ?x)"
            if is_eps("?eps")),
        rewrite!("power-of-minus-a-half-is-rsqrt";
            "(pow (mean_square ?n ?eps ?q ?x) ?c)" => "(rsqrt (mean_square ?n ?eps ?q ?x))" if is_const("?c", -0.5)),
        rewrite!("power-of-a-half-is-sqrt";
            "(pow (mean_square ?n ?eps ?q ?x) ?c)" => "(sqrt (mean_square ?n ?eps ?q ?x))" if is_const("?c", 0.5)),
        rewrite!("power-of-minus-one-is-reciprocal";
            "(pow (sqrt (mean_square ?n ?eps ?q ?x)) ?c)" => "(recip (sqrt (mean_square ?n ?eps ?q ?x)))"
            if is_const("?c", -1.0)),
        rewrite!("norm-by-reciprocal-of-root";
            "(mul ?x (rep ?n (recip (sqrt (mean_square ?n ?eps ?q ?x)))))" => "(normed recip_sqrt ?n ?eps ?q ?x)"),
        rewrite!("norm-by-rsqrt";
            "(mul ?x (rep ?n (rsqrt (mean_square ?n ?eps ?q ?x))))" => "(normed by_rsqrt ?n ?eps ?q ?x)"),
        rewrite!("norm-by-division";
            "(div ?x (rep ?n (sqrt (mean_square ?n ?eps ?q ?x))))" => "(normed div_sqrt ?n ?eps ?q ?x)"),
        rewrite!("weight"; "(mul ?p (tile ?n ?w))" => "(rms plain ?w ?p)" if is_normed("?p", "?n")),
        rewrite!("one-plus-weight"; "(mul ?p (tile ?n (add ?one ?w)))" => "(rms plus_one ?w ?p)"
            if both(both(is_normed("?p", "?n"), is_const("?one", 1.0)), same)),
        rewrite!("weight-of-one-row"; "(mul ?p ?w)" => "(rms plain ?w ?p)" if is_one_row("?p", "?w")),
        rewrite!("one-plus-weight-of-one-row"; "(mul ?p (add ?one ?w))" => "(rms plus_one ?w ?p)"
            if both(both(is_one_row("?p", "?w"), is_const("?one", 1.0)), same)),
    ]
}
