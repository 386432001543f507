//! A rule of the host: its numerics library guards every square root, `sqrt(max(v, 0))`, and so no norm that it lowers is
//! one of the spellings that normfuse knows. The rule says when the guard does nothing. It must hold bit for bit:
//! a mean of squares is at least +0 or NaN, adding an eps that is not negative keeps that, and the maximum of such a value
//! with 0 is the value itself, NaN included.
//!
//! ```sh
//! cargo run --example custom_rule
//! ```

use std::error::Error;

use normfuse::{
    ir::{Graph, text},
    passes::{
        self, Options, Outcome, Report, Rule,
        egg::{Id, Subst, rewrite},
        rules::{self, Rewrites},
        term::Eg,
    },
};

const GUARDED: &str = r#"
graph "guarded"
opset "" 20
input %x: f32[rows, 256]
const %w: f32[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %zero: f32[] = 0.0
%sq = mul(%x, %x)
%ms = reduce_mean(%sq) {axes=[-1], keepdims=true}
%v = add(%ms, %eps)
%guarded = max(%v, %zero)
%root = sqrt(%guarded)
%r = reciprocal(%root)
%n = mul(%x, %r)
%y = mul(%n, %w)
output %y
"#;

const GUARDED_ROOT: Rule = Rule {
    name: "guarded_root",
    summary: "A maximum of a mean of squares with zero is the mean.",
    picture: "x -> square -> mean -> + eps -> max(., 0) -> sqrt -> ...",
    preconditions: &["guard: the guard is 0, and eps is not negative"],
    rewrites,
    schemes: rules::no_schemes,
};

fn rewrites() -> Rewrites {
    vec![
        rewrite!("guard-does-nothing"; "(max (add (mean ?n (mul ?x ?x)) ?eps) ?zero)" => "(add (mean ?n (mul ?x ?x)) ?eps)"
            if guard_does_nothing),
    ]
}

fn guard_does_nothing(eg: &mut Eg, _: Id, found: &Subst) -> bool {
    let constant = |name: &str| name.parse().ok().and_then(|var| eg[*found.get(var)?].data.konst);
    constant("?zero") == Some(0.0) && constant("?eps").is_some_and(|eps| eps >= 0.0)
}

fn compile(source: &str, options: &Options) -> Result<(Graph, Report), Box<dyn Error>> {
    let mut graph = text::parse(source, &mut |w| unreachable!("{} is in no file", w.name))?;
    let report = passes::run(&mut graph, options)?;
    for site in &report.sites {
        println!("{}: {:?} by {}, {}", site.anchor, site.outcome, site.rule, site.hint.as_deref().unwrap_or("fused"));
    }
    Ok((graph, report))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (_, without) = compile(GUARDED, &Options::default())?;
    assert_eq!(without.sites[0].outcome, Outcome::Nearest);

    // With `verify`, the fused op is run against the nodes that it replaced, guard and all, on hostile data.
    let with_rule = Options { extra_rules: vec![GUARDED_ROOT], verify: true, ..Options::default() };
    let (graph, with) = compile(GUARDED, &with_rule)?;
    assert_eq!((with.summary.fused.norm, with.summary.verified), (1, Some(1)));
    let fused = graph.nodes().find(|(_, n)| n.name.starts_with("fused_norm")).ok_or("a fused node")?;
    assert!(fused.1.provenance.rules.iter().any(|r| r == "guard-does-nothing"));

    // The precondition is part of the rule: with a negative eps the guard does something.
    let (_, negative) = compile(&GUARDED.replace("1e-6", "-1e-6"), &with_rule)?;
    assert_ne!(negative.sites[0].outcome, Outcome::Fused);

    // It has a switch like any other.
    let off = Options { disabled: [(GUARDED_ROOT.name.to_owned(), "this example".to_owned())].into(), ..with_rule };
    let (_, switched_off) = compile(GUARDED, &off)?;
    assert_eq!(switched_off.sites[0].outcome, Outcome::Rejected);
    assert_eq!(switched_off.sites[0].precondition.as_deref(), Some("switched_on"));
    Ok(())
}
