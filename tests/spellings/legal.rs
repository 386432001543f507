//! What is an RMSNorm, and what it means.

use std::{collections::BTreeMap, path::Path};

use normfuse::{Format, formats::onnx::WriteOptions};
use normfuse_ir::{
    DType, FusedNorm, Graph, Op,
    fused::{Prologue, Source},
};
use normfuse_passes::{Options, Outcome};

use super::{
    Row,
    common::bits::{parse, same_bits},
    each, table,
};

/// A descriptor in words: everything that decides bits.
pub fn meaning(f: &FusedNorm) -> BTreeMap<&'static str, String> {
    let s = &f.siblings[0];
    for other in &f.siblings[1..] {
        assert_eq!((other.root, other.eps, other.normed), (s.root, s.eps, s.normed), "siblings of one row");
    }
    let root = serde_json::to_value(s.root).unwrap();
    let add = match f.prologue {
        Prologue::None => "none".to_owned(),
        Prologue::Gated(g) => format!("{g:?}"),
        Prologue::ResidualAdd(a) if [a.residual(), a.sum(), a.emitted()] == [a.dtype; 3] => a.dtype.to_string(),
        Prologue::ResidualAdd(a) => {
            let emitted = if a.emitted() == a.sum() { String::new() } else { format!(">{}", a.emitted()) };
            format!("{},{}:{}{emitted}", a.dtype, a.residual(), a.sum())
        }
    };
    BTreeMap::from([
        ("norms", f.siblings.len().to_string()),
        ("add", add),
        ("width", s.width.to_string()),
        ("input", s.input.to_string()),
        ("compute", s.compute.to_string()),
        ("squares", s.squares().to_string()),
        ("eps", format!("{:?}", s.eps.get())),
        ("root", root.as_str().unwrap().to_owned()),
        ("normed", s.normed.to_string()),
        ("weight", s.weight.map_or("none".into(), |w| w.dtype.to_string())),
        ("plus_one", if s.weight.is_some_and(|w| w.plus_one) { "yes" } else { "no" }.into()),
        ("product", s.product().to_string()),
        ("output", s.output.to_string()),
    ])
}

/// What a row says the descriptor is.
pub fn expected(means: &str, dtype: DType) -> BTreeMap<&str, String> {
    let mut fields = BTreeMap::from([
        ("norms", "1"),
        ("add", "none"),
        ("width", "24"),
        ("input", "T"),
        ("compute", "f32"),
        ("squares", "f32"),
        ("eps", "1e-6"),
        ("root", "reciprocal_sqrt"),
        ("normed", "T"),
        ("weight", "T"),
        ("plus_one", "no"),
        ("output", "T"),
    ]);
    for (field, value) in means.split_whitespace().map(|f| f.split_once('=').unwrap()) {
        fields.insert(field, value);
    }
    let normed = fields["normed"];
    fields.entry("product").or_insert(normed);
    let typed = |v: &str| {
        let v = v.replace('T', &dtype.to_string());
        // In f32 a sum that is f32 through and through is the usual one.
        match v.as_str() {
            "f32,f32:f32>f32" | "f32,f32:f32" => "f32".into(),
            _ => v.replace("f32>f32", "f32"),
        }
    };
    fields.into_iter().map(|(f, v)| (f, typed(v))).collect()
}

pub fn fused(graph: &Graph) -> Vec<&FusedNorm> {
    let ops = graph.nodes().filter_map(|(_, n)| match &n.op {
        Op::FusedNorm(f) => Some(&**f),
        _ => None,
    });
    ops.collect()
}

fn check(row: &Row, dtype: DType) {
    let name = format!("{} in {dtype}", row.name);
    let before = parse(&row.graph(dtype));
    let mut after = before.clone();
    let options = Options { verify: true, ..Options::default() };
    let report = normfuse_passes::run(&mut after, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let ops = fused(&after);
    assert_eq!(ops.len(), 1, "{name}: {:#?}", report.sites);
    assert!(report.sites.iter().all(|s| s.outcome == Outcome::Fused), "{name}: {:#?}", report.sites);
    assert_eq!(meaning(ops[0]), expected(row.says.first().map_or("", |m| m), dtype), "{name}");
    assert_eq!(ops[0].source, Source::Shared, "{name}");
    same_bits(&name, &before, &after);
    through_files(row, &name, &after);
}

/// Spellings that hold an op which ONNX has no name for.
const NOT_IN_ONNX: &[&str] = &["pt2", "native_f32_scale"];

/// The op survives a file: its descriptor, and a body that agrees with it, or the file would be refused.
fn through_files(row: &Row, name: &str, after: &Graph) {
    for (format, extension) in [(Format::Nf, "nf"), (Format::Onnx, "onnx")] {
        if format == Format::Onnx && NOT_IN_ONNX.contains(&row.name) {
            continue;
        }
        let file = format!("{}.{extension}", name.replace(' ', "_"));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
        normfuse::save(after, &path, format, &WriteOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let read = normfuse::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(fused(&read), fused(after), "{name}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn every_spelling_is_recognised_with_its_meaning() {
    let rows = table(include_str!("legal.txt"));
    assert!(rows.len() >= 40);
    each(rows.iter().flat_map(Row::cases), |(row, dtype)| check(row, dtype));
}
