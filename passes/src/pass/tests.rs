//! Nothing depends on the order of nodes or rules: every graph of `tests/in`, with its nodes, constants and ids in another
//! order and the rewrites in another, compiles to the same report and the same graph.

#[path = "../../../tests/common/shuffle.rs"]
mod shuffle;

use std::{fs, path::Path};

use normfuse_ir::{Graph, body::hostile::Rng, infer, text};

use super::Pass;
use crate::{Options, report::Report};

/// How many shuffles are tried in all, if `SHUFFLES` does not say.
const SHUFFLES: usize = 1000;

/// The pass, with its rewrites in another order; the report, and the lines of the graph, sorted.
fn compiled(mut graph: Graph, random: Option<&mut Rng>) -> (Report, Vec<String>) {
    let options = Options::default();
    infer::infer(&mut graph).unwrap();
    crate::remove_dead_code(&mut graph);
    let mut observer = ();
    let nodes = graph.node_count();
    let mut made = drop::<crate::pass::Patch>;
    let mut pass = Pass::new(&graph, &options, &mut observer, &mut made, nodes).unwrap();
    if let Some(random) = random {
        shuffle::shuffle(&mut pass.solver.rewrites, random);
    }
    pass.all(&mut graph).unwrap();
    graph.remove_unused_consts(&std::collections::BTreeSet::new());
    graph.verify().unwrap();
    let report = pass.finish(&graph);
    (report, shuffle::lines(&graph))
}

fn graphs() -> Vec<(String, Graph)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/in");
    let mut found = Vec::new();
    for folder in ["fuse", "apart", "partial", "reject", "alone"] {
        for file in fs::read_dir(root.join(folder)).unwrap() {
            let path = file.unwrap().path();
            let source = fs::read_to_string(&path).unwrap();
            let name = format!("{folder}/{}", path.file_stem().unwrap().to_string_lossy());
            found.push((name, text::parse(&source, &mut |w| panic!("{} is in another file", w.name)).unwrap()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn no_order_of_nodes_or_rules_changes_the_result() {
    let shuffles = std::env::var("SHUFFLES").map_or(SHUFFLES, |n| n.parse().expect("a number"));
    let graphs = graphs();
    let wanted: Vec<_> = graphs.iter().map(|(_, g)| compiled(g.clone(), None)).collect();
    let mut failed = std::collections::BTreeMap::new();
    for seed in 0..shuffles {
        let i = seed % graphs.len();
        let mut random = Rng::new(seed as u64);
        let found = compiled(shuffle::shuffled(&graphs[i].1, &mut random), Some(&mut random));
        if found != wanted[i] {
            failed.entry(i).or_insert((seed, found));
        }
    }
    for (i, (seed, found)) in &failed {
        let (report, lines) = &wanted[*i];
        println!("{} differs, shuffle {seed}", graphs[*i].0);
        if found.0 != *report {
            println!("report: {report:#?}\nagainst: {:#?}", found.0);
        }
        lines.iter().filter(|l| !found.1.contains(l)).for_each(|l| println!("- {l}"));
        found.1.iter().filter(|l| !lines.contains(l)).for_each(|l| println!("+ {l}"));
    }
    assert!(failed.is_empty(), "{} of {} graphs depend on an order", failed.len(), graphs.len());
}
