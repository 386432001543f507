//! The residual add before a norm: the sum becomes the fused op's prologue, and its output where it is still read.

use std::sync::LazyLock;

use egg::rewrite;

use super::{Rewrites, Rule, both, facts, no_schemes, var};
use crate::term::Eg;

/// The rule.
pub const RULE: Rule = Rule {
    name: "residual_add",
    summary: "The add of two row tensors that feeds a norm moves into the norm's fused op.",
    picture: "
a -> [cast] --+--> h -> norm
b -> [cast] --'    '--> [cast] -> (sum, where somebody reads it)",
    preconditions: &[
        "same_shape: both operands are row tensors of one shape, none is a constant",
        "two_operands: no bias is added as well",
    ],
    rewrites,
    schemes: no_schemes,
};

static PARSED: LazyLock<Rewrites> = LazyLock::new(parse);

fn rewrites() -> Rewrites {
    PARSED.clone()
}

fn parse() -> Rewrites {
    let (a, b) = (var("?a"), var("?b"));
    let rows = move |v| move |eg: &mut Eg, _: egg::Id, s: &egg::Subst| facts(eg, s, v).rows;
    vec![rewrite!("residual"; "(add ?a ?b)" => "(residual ?a ?b)" if both(rows(a), rows(b)))]
}
