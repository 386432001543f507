//! Graphs as text, and whether two of them have the same bits.

use std::{fs, path::Path};

use normfuse_ir::{
    DType, Graph, Tensor,
    body::{bits_equal, hostile},
    eval, text,
};

/// A graph without weight files.
pub fn parse(source: &str) -> Graph {
    text::parse(source, &mut |r| panic!("no weight files here: {r:?}")).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

/// Runs both graphs on every kind of hostile data.
pub fn same_bits(name: &str, before: &Graph, after: &Graph) {
    let sizes = |s: &str| match s {
        "one" => 1,
        "batch" => 2,
        _ => 3,
    };
    let shapes: Vec<(DType, Vec<usize>)> = before
        .inputs()
        .iter()
        .map(|v| {
            let ty = &before.value(*v).ty;
            let dims = ty.shape.as_ref().unwrap().0.iter().map(|d| d.eval(&|s| Some(sizes(s))).unwrap() as usize);
            (ty.dtype.unwrap(), dims.collect())
        })
        .collect();
    let cases: Vec<Vec<Tensor>> =
        shapes.iter().enumerate().map(|(i, (d, s))| hostile::cases(*d, s, 7 + i as u64)).collect();
    assert!(cases[0].len() > 5);
    for case in 0..cases[0].len() {
        let inputs: Vec<Tensor> = cases.iter().map(|c| c[case % c.len()].clone()).collect();
        let source = eval::run(before, &inputs).unwrap_or_else(|e| panic!("{name}: the source: {e}"));
        let rewritten = eval::run(after, &inputs).unwrap_or_else(|e| panic!("{name}: the rewrite: {e}"));
        for ((a, b), out) in source.iter().zip(&rewritten).zip(before.outputs()) {
            let difference = bits_equal(a, b);
            assert!(difference.is_none(), "{name}, case {case}, output {}: {}", out.name, difference.unwrap());
        }
    }
}

/// Names and texts of the graphs in a folder of `tests`, sorted.
pub fn texts(folder: &str) -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut found: Vec<(String, String)> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&p).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} is empty", dir.display());
    found
}
