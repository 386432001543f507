//! What looks like the dequantiser of a norm's codes and is none, or must not be taken in: the norm's op quantises without it,
//! and the report says why.

use normfuse_ir::{DType, Descriptor};
use normfuse_passes::{Options, Outcome};

use super::{
    Row,
    common::bits::{parse, same_bits},
    each, table,
};

fn check(row: &Row, dtype: DType) {
    let name = format!("{} in {dtype}", row.name);
    let before = parse(&row.graph(dtype));
    let mut after = before.clone();
    let report = normfuse_passes::run(&mut after, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let norm = report.sites.iter().find(|s| s.outcome == Outcome::Fused && !s.schemes.is_empty());
    let norm = norm.unwrap_or_else(|| panic!("{name}: {:#?}", report.sites));
    let schemes = after.nodes().filter_map(|(_, n)| Descriptor::of(&n.op));
    assert!(
        schemes.flat_map(|d| d.schemes().into_iter().cloned().collect::<Vec<_>>()).all(|s| s.dequantised.is_none()),
        "{name}"
    );
    match *row.says.as_slice() {
        // What nobody would take for one is not told of.
        ["none"] => assert!(norm.dequantisers.is_empty(), "{name}: {:#?}", norm.dequantisers),
        [precondition, says] => {
            let [d] = norm.dequantisers.as_slice() else { panic!("{name}: {:#?}", norm.dequantisers) };
            assert_eq!(d.precondition.as_deref(), Some(precondition), "{name}: {d:?}");
            assert!(d.hint.as_deref().is_some_and(|h| h.contains(says)), "{name}: {d:?}");
            assert!(after.nodes().any(|(_, n)| n.name == d.node), "{name}: {d:?} is gone");
        }
        _ => panic!("{name}: a precondition and words of the hint"),
    }
    same_bits(&name, &before, &after);
}

#[test]
fn what_only_looks_like_a_dequantiser_stays_and_the_report_says_why() {
    let rows = table(include_str!("dequantise.txt"));
    assert!(rows.len() >= 20);
    each(rows.iter().flat_map(Row::cases), |(row, dtype)| check(row, dtype));
}
