//! `normfuse verify --bisect`: which fused sites make two graphs differ.
//!
//! A site is switched off by putting back the nodes of the original that compute what its ports stand for, constants
//! included; values that both graphs have under one name join the two. Its body would not do: that reads the same
//! operands, so a site that was wired to the wrong value would stay wrong.
//!
//! With every site off the outputs must be equal; then sets of sites are switched on again, halved as long as they still
//! make a difference, until each set that is left is minimal.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use normfuse::{
    cpu::Plan,
    ir::{Error, ErrorKind, Graph, NodeId, Op, Result, Tensor, ValueId},
};

use super::{Pair, Run};
use crate::cli::bits;

/// A fused node of the rewritten graph.
struct Site {
    node: NodeId,
    /// Its results that somebody reads, and the values of the original that they stand for.
    ports: Vec<(ValueId, ValueId)>,
}

struct Bisection<'p> {
    pair: &'p Pair<'p>,
    run: &'p Run,
    sites: Vec<Site>,
    /// Position of each node of the original in topological order.
    position: BTreeMap<NodeId, usize>,
    /// Values of the rewritten graph by name.
    names: BTreeMap<&'p str, ValueId>,
    /// Shapes of the sites' results in this run.
    shapes: BTreeMap<ValueId, Vec<usize>>,
    /// Graphs that were run.
    tried: usize,
}

/// Names the sites that make the outputs of a run differ, and the source nodes that they replaced.
pub fn text(pair: &Pair, run: &Run) -> Result<String> {
    let mut unknown = Vec::new();
    let mut bisection = Bisection::new(pair, run, &mut unknown)?;
    let total = bisection.sites.len();
    let mut text = String::from("bisect\n");
    for name in &unknown {
        let _ = writeln!(text, "  {name} stays on: the original has no value of the name of one of its results");
    }
    if let Some(why) = bisection.differs(&BTreeSet::new()) {
        let _ = writeln!(text, "  with all {total} fused sites off there is still a difference, elsewhere: {why}");
        return Ok(text);
    }
    let causes = causes(total, &mut |on| bisection.differs(on).is_some());
    let guilty: usize = causes.iter().map(Vec::len).sum();
    let verb = if guilty == 1 { "makes" } else { "make" };
    let tried = bisection.tried;
    let _ = writeln!(text, "  {guilty} of {total} fused sites {verb} the difference, found in {tried} runs");
    for cause in &causes {
        for site in cause {
            let node = |s: &usize| pair.rewritten.node(bisection.sites[*s].node);
            let others: Vec<&str> = cause.iter().filter(|s| *s != site).map(|s| node(s).name.as_str()).collect();
            let node = node(site);
            let _ = write!(text, "  {}", node.name);
            if !others.is_empty() {
                let _ = write!(text, " (only together with {})", others.join(", "));
            }
            let _ = writeln!(text, ": replaced {}", node.provenance.replaced.join(", "));
        }
    }
    Ok(text)
}

impl<'p> Bisection<'p> {
    fn new(pair: &'p Pair, run: &'p Run, unknown: &mut Vec<String>) -> Result<Self> {
        let in_original: BTreeMap<&str, ValueId> =
            pair.original.values().map(|(id, v)| (v.name.as_str(), id)).collect();
        let mut sites = Vec::new();
        for (node, n) in pair.rewritten.nodes().filter(|(_, n)| n.body.is_some()) {
            let read = |v: &&ValueId| pair.rewritten.is_output(**v) || !pair.rewritten.users(**v).is_empty();
            let source = |v: &ValueId| in_original.get(pair.rewritten.value(*v).name.as_str()).map(|o| (*v, *o));
            match n.outputs.iter().filter(read).map(source).collect() {
                Some(ports) => sites.push(Site { node, ports }),
                None => unknown.push(n.name.clone()),
            }
        }
        let mut shapes = BTreeMap::new();
        pair.rewritten_plan.run_observed(&pair.for_rewritten(&run.given), &mut |done| {
            let node = pair.rewritten.node(done.node);
            if node.body.is_some() {
                shapes.extend(node.outputs.iter().copied().zip(done.outputs.iter().map(|t| t.shape().to_vec())));
            }
            Ok(())
        })?;
        Ok(Self {
            pair,
            run,
            sites,
            position: pair.original.topo_order()?.into_iter().enumerate().map(|(i, n)| (n, i)).collect(),
            names: pair.rewritten.values().map(|(id, v)| (v.name.as_str(), id)).collect(),
            shapes,
            tried: 0,
        })
    }

    /// What differs with these sites on and the others off. A graph that does not run is no better than a wrong one.
    fn differs(&mut self, on: &BTreeSet<usize>) -> Option<String> {
        self.tried += 1;
        let found = self
            .hybrid(on)
            .and_then(|graph| Plan::new(&graph))
            .and_then(|plan| plan.run(&self.pair.for_rewritten(&self.run.given)));
        let found = match found {
            Ok(found) => found,
            Err(e) => return Some(e.to_string()),
        };
        self.run.outputs.iter().zip(&self.pair.output_order).find_map(|((name, want, _), at)| {
            match bits::compare(want, &found[*at]) {
                Ok(c) if c.differing == 0 => None,
                Ok(c) => Some(format!("`{name}`: {}", super::describe(&c))),
                Err(e) => Some(format!("`{name}`: {e}")),
            }
        })
    }

    /// The rewritten graph with these sites on and the others off.
    fn hybrid(&self, on: &BTreeSet<usize>) -> Result<Graph> {
        let mut graph = self.pair.rewritten.clone();
        let mut moved = Vec::new();
        for (_, site) in self.sites.iter().enumerate().filter(|(i, _)| !on.contains(i)) {
            self.restore(&mut graph, site, &mut moved)?;
        }
        // Only now, so that what is put back for one site reads what is put back for another.
        for (port, value) in moved {
            graph.replace_uses(port, value);
        }
        Ok(graph)
    }

    /// Puts the original's nodes back for one site; `moved` gets its ports and what stands in for each.
    fn restore(&self, graph: &mut Graph, site: &Site, moved: &mut Vec<(ValueId, ValueId)>) -> Result<()> {
        let original = self.pair.original;
        let mut map: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut nodes = BTreeSet::new();
        let mut queue: Vec<ValueId> = site.ports.iter().map(|(_, source)| *source).collect();
        while let Some(value) = queue.pop() {
            if map.contains_key(&value) {
                continue;
            }
            let known = original.value(value);
            if let Some(tensor) = known.as_const() {
                map.insert(value, graph.add_const(known.name.clone(), tensor.clone()));
                continue;
            }
            let shared = self.names.get(known.name.as_str());
            let other = shared.filter(|v| self.pair.rewritten.producer(**v).is_none_or(|(n, _)| n != site.node));
            match (other, original.producer(value)) {
                (Some(shared), _) => drop(map.insert(value, *shared)),
                (None, Some((node, _))) => {
                    if nodes.insert((self.position.get(&node), node)) {
                        queue.extend(original.node(node).operands().map(|(_, v)| v));
                    }
                }
                (None, None) => {
                    let message = format!("the rewritten graph has no input `{}`", known.name);
                    return Err(Error::new(ErrorKind::Structure, message));
                }
            }
        }
        for (_, id) in nodes {
            let node = original.node(id);
            let inputs: Vec<Option<ValueId>> =
                node.inputs.iter().map(|v| v.and_then(|v| map.get(&v).copied())).collect();
            let names: Vec<String> = node.outputs.iter().map(|v| original.value(*v).name.clone()).collect();
            let copy = graph.add_node(node.name.clone(), node.op.clone(), &inputs, names)?;
            for (from, to) in node.outputs.iter().zip(graph.node(copy).outputs.clone()) {
                map.entry(*from).or_insert(to);
            }
        }
        for (port, source) in &site.ports {
            let (Some(value), Some(shape)) = (map.get(source), self.shapes.get(port)) else { continue };
            // The port may have the same elements in another shape.
            let sizes: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
            let sizes = graph.add_const("", Tensor::from_i64(&[sizes.len()], &sizes));
            let view =
                graph.add_node("", Op::Reshape { allow_zero: true }, &[Some(*value), Some(sizes)], [String::new()])?;
            moved.push((*port, graph.node(view).outputs[0]));
        }
        Ok(())
    }
}

/// Minimal sets of `0..count` that fail, disjoint, such that what is in none of them does not fail; `fails` does not
/// hold of the empty set.
fn causes(count: usize, fails: &mut dyn FnMut(&BTreeSet<usize>) -> bool) -> Vec<Vec<usize>> {
    let mut left: BTreeSet<usize> = (0..count).collect();
    let mut causes = Vec::new();
    while !left.is_empty() && fails(&left) {
        let suspects: Vec<usize> = left.iter().copied().collect();
        let cause = minimal(&suspects, &BTreeSet::new(), fails);
        for site in &cause {
            left.remove(site);
        }
        causes.push(cause);
    }
    causes.sort();
    causes
}

/// A minimal part of `suspects` that fails together with `on` (QuickXplain): all of them do, none of them does not.
fn minimal(suspects: &[usize], on: &BTreeSet<usize>, fails: &mut dyn FnMut(&BTreeSet<usize>) -> bool) -> Vec<usize> {
    if suspects.len() <= 1 {
        return suspects.to_vec();
    }
    let with = |some: &[usize]| -> BTreeSet<usize> { on.iter().chain(some).copied().collect() };
    let (a, b) = suspects.split_at(suspects.len() / 2);
    for half in [a, b] {
        if fails(&with(half)) {
            return minimal(half, on, fails);
        }
    }
    // Neither half alone: some of each are needed.
    let of_b = minimal(b, &with(a), fails);
    let mut both = minimal(a, &with(&of_b), fails);
    both.extend(of_b);
    both
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::{args, progress::Progress, verify::Until, weights::Of};

    /// Finds the causes where a set fails that holds all of one of these; and in how many trials.
    fn find(count: usize, wrong: &[&[usize]]) -> (Vec<Vec<usize>>, usize) {
        let mut trials = 0;
        let found = causes(count, &mut |on| {
            trials += 1;
            wrong.iter().any(|w| w.iter().all(|i| on.contains(i)))
        });
        (found, trials)
    }

    /// In every graph of the tests, each site that fuses can be switched off: afterwards nobody reads it, and the
    /// outputs are the same.
    #[test]
    fn every_site_can_be_switched_off() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let folders = ["in/fuse", "in/partial", "in/alone", "models"].map(|f| std::fs::read_dir(root.join(f)).unwrap());
        let models = folders.into_iter().flatten().map(|e| e.unwrap().path());
        let models = models.filter(|p| p.extension().is_some_and(|e| e == "nf" || e == "onnx"));
        let mut sites = 0;
        for path in models {
            let original = crate::cli::run::open(&path, &args::Checkpoint::default(), Of::Model).unwrap();
            let mut rewritten = original.clone();
            normfuse::passes::run(&mut rewritten, &normfuse::passes::Options::default()).unwrap();
            let pair = Pair::new(&original, &path, &rewritten).unwrap();
            let outcome =
                pair.compare_random(&args::Random::default(), 1 << 30, Until::Differs, &Progress::new()).unwrap();
            let mut unknown = Vec::new();
            let mut bisection = Bisection::new(&pair, &outcome.runs[0], &mut unknown).unwrap();
            assert_eq!(unknown, [""; 0], "{}", path.display());
            let hybrid = bisection.hybrid(&BTreeSet::new()).unwrap();
            for site in &bisection.sites {
                assert!(site.ports.iter().all(|(p, _)| hybrid.users(*p).is_empty() && !hybrid.is_output(*p)));
            }
            assert_eq!(bisection.differs(&BTreeSet::new()), None, "{}", path.display());
            sites += bisection.sites.len();
        }
        assert!(sites > 30, "{sites}");
    }

    #[test]
    fn each_site_that_fails_alone_is_found_whichever_it_is() {
        for count in [1, 2, 3, 7, 64] {
            for i in 0..count {
                assert_eq!(find(count, &[&[i]]).0, [[i]]);
            }
        }
        assert_eq!(find(9, &[&[0], &[4], &[8]]).0, [[0], [4], [8]]);
        assert_eq!(find(5, &[&[0], &[1], &[2], &[3], &[4]]).0.len(), 5);
    }

    #[test]
    fn sites_that_fail_only_together_are_found_together() {
        assert_eq!(find(8, &[&[1, 6]]).0, [[1, 6]]);
        assert_eq!(find(8, &[&[0, 1, 2, 3, 4, 5, 6, 7]]).0, [[0, 1, 2, 3, 4, 5, 6, 7]]);
        assert_eq!(find(8, &[&[3], &[2, 7]]).0, [vec![2, 7], vec![3]]);
    }

    #[test]
    fn where_nothing_fails_nothing_is_found() {
        assert_eq!(find(8, &[]), (vec![], 1));
        assert_eq!(find(0, &[]), (vec![], 0));
    }

    #[test]
    fn one_of_a_thousand_takes_some_twenty_trials() {
        for i in [0, 511, 512, 999] {
            let (_, trials) = find(1000, &[&[i]]);
            assert!(trials <= 23, "{trials}");
        }
    }
}
