//! What looks like an RMSNorm and is none, or may not be fused, and the precondition that the report names.

use normfuse_ir::{DType, Op};
use normfuse_passes::{Kind, Options, Outcome};

use super::{Row, common::bits::parse, each, table};

fn check(row: &Row, dtype: DType) {
    let name = format!("{} in {dtype}", row.name);
    let before = parse(&row.graph(dtype));
    let mut after = before.clone();
    let report = normfuse_passes::run(&mut after, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let fused = after.nodes().find(|(_, n)| matches!(n.op, Op::FusedNorm(_))).map(|(_, n)| &n.op);
    assert!(fused.is_none(), "{name}: {fused:?}");
    // All of it stays but what a quantiser's own op replaced.
    let quantisers = report.sites.iter().filter(|s| s.kind == Kind::Quant).flat_map(|s| &s.replaced);
    let gone: Vec<&String> = quantisers.collect();
    for (_, node) in before.nodes().filter(|(_, n)| !gone.contains(&&n.name)) {
        assert!(after.nodes().any(|(_, n)| n.name == node.name), "{name}: `{}` is gone", node.name);
    }
    let [precondition, says] = *row.says.as_slice() else { panic!("{name}: a precondition and words of the hint") };
    let norms: Vec<_> = report.sites.iter().filter(|s| s.kind != Kind::Quant).collect();
    let named = |s: &&&normfuse_passes::Site| {
        s.outcome != Outcome::Fused
            && s.precondition.as_deref() == Some(precondition)
            && s.hint.as_deref().is_some_and(|h| h.contains(says))
    };
    assert!(norms.iter().any(|s| named(&s)), "{name}: {precondition} {says:?}: {norms:#?}");
}

#[test]
fn no_lookalike_is_taken_for_a_norm_and_the_report_says_why() {
    let rows = table(include_str!("lookalike.txt"));
    assert!(rows.len() >= 40);
    each(rows.iter().flat_map(Row::cases), |(row, dtype)| check(row, dtype));
}
