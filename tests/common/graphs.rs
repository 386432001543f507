//! The graphs of this repository, before and after fusion, and sizes for their inputs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use normfuse::{
    formats::ranges,
    ir::{Graph, infer},
    passes::{self, Options, Supports},
};

/// Where the repository is: as it is now, else as it was when this was compiled.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// All graphs in a folder of the repository and in those below it.
pub fn graphs(folder: &str) -> Vec<PathBuf> {
    files_in(&root().join(folder))
}

/// All graphs in a folder and in those below it.
pub fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let ends = |e: &str| path.extension().is_some_and(|x| x == e);
            if path.is_dir() {
                folders.push(path);
            } else if ends("onnx") || ends("pt2") || ends("nf") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// A graph with its types.
pub fn open(path: &Path) -> Graph {
    let mut graph = normfuse::open(path).unwrap();
    infer::infer(&mut graph).unwrap();
    graph
}

/// The graph after the pass, for a runtime that supports these norms.
pub fn fused(graph: &Graph, supports: Supports) -> Graph {
    let mut graph = graph.clone();
    passes::run(&mut graph, &Options { supports, ..Options::default() }).unwrap();
    graph
}

/// Sizes of the inputs, each symbol as near to `size` as its range allows.
pub fn input_shapes(graph: &Graph, size: i64) -> Vec<Vec<usize>> {
    let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
    for range in ranges::of(graph) {
        let least = range.min.unwrap_or(1).max(size);
        sizes.insert(range.symbol.clone(), range.max.map_or(least, |max| least.min(max)));
    }
    let of = |s: &str| Some(sizes.get(s).copied().unwrap_or(size));
    let shape = |id: &_| -> Vec<usize> {
        let dims = graph.value(*id).ty.shape.iter().flat_map(|s| &s.0);
        dims.map(|d| d.eval(&of).unwrap() as usize).collect()
    };
    graph.inputs().iter().map(shape).collect()
}
