//! The rules, one file each. A rule is a set of directed rewrites over terms (see [`crate::term`]) with a picture, its
//! preconditions and a switch.
//!
//! How to write one:
//! - the left side is what graphs spell or what another rule recognised, the right side says more with fewer terms;
//! - never rewrite one function into another: operands are rounded where the term says, `down(up(x)) = x` holds and
//!   `up(down(x)) = x` does not;
//! - no general associativity, and nothing that can be applied without end;
//! - patterns are parsed once a process (`LazyLock`): that takes as long as the pass over a small graph;
//! - preconditions are conditions on facts (dtype, constant, one element), written with the helpers below.

pub mod algebra;
pub mod dequantise;
pub mod gated_act;
pub mod pad;
pub mod quant_dynamic;
pub mod quant_mx;
pub mod quant_static;
pub mod residual_add;
pub mod rms_norm;
pub mod sibling_norm;

use egg::{Id, Rewrite, Subst, Var};
use normfuse_ir::Scheme;

use crate::{
    quant::Quant,
    term::{Analyse, Eg, Facts, Tag, Term},
};

/// What a rule contributes to saturation.
pub type Rewrites = Vec<Rewrite<Term, Analyse>>;

/// A rule that can be switched off by name.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Name: in reports and for `--disable`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// What it looks for, drawn.
    pub picture: &'static str,
    /// What must hold, each in a few words; rejections name one of them.
    pub preconditions: &'static [&'static str],
    /// Its rewrites; none for a quantiser's rule, since quantisers are read backwards (see [`crate::quant`]).
    pub rewrites: fn() -> Rewrites,
    /// The quantisers that it governs: of each scheme exactly one rule says yes.
    pub schemes: fn(&Scheme) -> bool,
}

/// Governs no quantisers: a rule that only rewrites.
pub fn no_schemes(_: &Scheme) -> bool {
    false
}

/// No rewrites.
fn none() -> Rewrites {
    Vec::new()
}

/// Every switchable rule, in the order of this list in reports. The order has no influence on what is found.
pub const ALL: [&Rule; 12] = [
    &rms_norm::RULE,
    &residual_add::RULE,
    &sibling_norm::RULE,
    &gated_act::RULE,
    &quant_static::RULE,
    &quant_dynamic::TENSOR,
    &quant_dynamic::TOKEN,
    &quant_dynamic::GROUP,
    &quant_mx::RULE,
    &quant_mx::NVFP4,
    &dequantise::RULE,
    &pad::RULE,
];

/// The rule that governs a quantiser.
pub fn quantiser_rule(q: &Quant) -> &'static str {
    scheme_rule(&q.scheme)
}

/// The rule that governs a scheme.
pub fn scheme_rule(scheme: &Scheme) -> &'static str {
    // Each scheme has one: a test goes through all kinds.
    ALL.iter().find(|r| (r.schemes)(scheme)).map_or(quant_static::RULE.name, |r| r.name)
}

/// Rewrites that no switch governs.
pub fn always() -> Rewrites {
    algebra::rewrites()
}

/// Facts of the class that a pattern variable is bound to.
fn facts(eg: &Eg, subst: &Subst, var: Var) -> Facts {
    eg[subst[var]].data
}

fn var(name: &str) -> Var {
    // Names are literals in this crate's rules; `every_rule_parses` builds them all.
    name.parse().unwrap_or_else(|_| unreachable!("`{name}` is a pattern variable"))
}

/// Condition: the variable is a one-element constant with this value.
fn is_const(name: &str, value: f64) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let v = var(name);
    move |eg, _, s| facts(eg, s, v).konst == Some(value)
}

/// Condition: the variable is a finite one-element constant.
fn any_const(name: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let v = var(name);
    move |eg, _, s| facts(eg, s, v).konst.is_some_and(f64::is_finite)
}

/// Condition: `x` can be cast to the type term `t` without loss.
fn casts_up(x: &str, t: &str) -> impl Fn(&mut Eg, Id, &Subst) -> bool + use<> {
    let (x, t) = (var(x), var(t));
    move |eg, _, s| match (facts(eg, s, x).dtype, facts(eg, s, t).ty) {
        (Some(from), Some(to)) => from.embeds_in(to.dtype),
        _ => false,
    }
}

/// Condition: all of the given ones.
fn both(
    a: impl Fn(&mut Eg, Id, &Subst) -> bool,
    b: impl Fn(&mut Eg, Id, &Subst) -> bool,
) -> impl Fn(&mut Eg, Id, &Subst) -> bool {
    move |eg, id, s| a(eg, id, s) && b(eg, id, s)
}

/// The child classes of the first node of `class` that `pick` accepts.
pub(crate) fn find<'a, T>(eg: &'a Eg, class: Id, pick: impl Fn(&'a Term) -> Option<T>) -> Option<T> {
    eg[class].nodes.iter().find_map(pick)
}

/// The word of a tag class.
pub(crate) fn tag(eg: &Eg, class: Id) -> Option<Tag> {
    eg[class].data.tag
}

#[cfg(test)]
mod tests {
    use egg::Language;

    use super::*;

    #[test]
    fn every_rule_parses_and_has_a_name_of_its_own() {
        let mut names: Vec<&str> = ALL.iter().map(|r| r.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for rewrite in ALL.iter().flat_map(|r| (r.rewrites)()).chain(always()) {
            // A misspelt head would parse as an uninterpreted op and never match anything.
            for ast in [rewrite.searcher.get_pattern_ast(), rewrite.applier.get_pattern_ast()].into_iter().flatten() {
                for node in ast.as_ref() {
                    if let egg::ENodeOrVar::ENode(Term::Other(name, _)) = node {
                        panic!("rule {} uses the unknown head `{name}`", rewrite.name);
                    }
                    assert!(node.len() < 8);
                }
            }
        }
    }
}
