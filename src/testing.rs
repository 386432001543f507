//! Snapshots: what a graph compiles to, as text that stays the same until that changes.
//!
//! A snapshot says what became of every anchor, what was saved, and the rewritten graph. It depends on what the source
//! computes and on nothing else: nodes come in an order of their own and are named after what they do (`mul_7` is a
//! product and the seventh node), so neither an exporter's counters nor the order of its file are seen. Inputs, outputs
//! and weights keep their names, since users know them by those. Contents of weights, metadata and paths are left out.
//!
//! ```
//! use normfuse::{ir, passes::Options, testing};
//!
//! let text = include_str!("../tests/in/fuse/add_rms.nf");
//! let source = ir::text::parse(text, &mut |w| panic!("{} is in another file", w.name))?;
//! let snapshot = testing::snapshot(&source, &Options::default())?;
//! assert!(snapshot.starts_with("fused norm at reduce_mean_4 by residual_add: fused_norm/reduce_mean_4\n"));
//! assert_eq!(testing::diff("add_rms", &snapshot, &snapshot), None);
//! # Ok::<(), ir::Error>(())
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use normfuse_ir::{Def, Graph, NodeId, Result, ValueId, infer, text};
use normfuse_passes::{self as passes, Options, Outcome, Report};

/// What a graph compiles to.
///
/// # Errors
/// As [`passes::run`].
pub fn snapshot(source: &Graph, options: &Options) -> Result<String> {
    // First under its own names, so that an error speaks of those.
    let mut typed = source.clone();
    infer::infer(&mut typed)?;
    typed.verify()?;
    let mut graph = canonical(source, true);
    let report = passes::run(&mut graph, options)?;
    Ok(sites(&report) + "\n" + &text::print_outline(&canonical(&graph, false)))
}

/// The difference between two snapshots as a unified diff, or `None` if they are equal up to line ends.
pub fn diff(name: &str, pinned: &str, found: &str) -> Option<String> {
    let lines = |s: &str| s.replace("\r\n", "\n");
    let (pinned, found) = (lines(pinned), lines(found));
    if pinned == found {
        return None;
    }
    // Most lines of a snapshot are there once: patience follows those, and stays fast where much has changed.
    let diff = similar::TextDiff::configure().algorithm(similar::Algorithm::Patience).diff_lines(&pinned, &found);
    Some(diff.unified_diff().header(&format!("{name} (pinned)"), &format!("{name} (now)")).to_string())
}

/// What became of every anchor, and the totals.
fn sites(report: &Report) -> String {
    let mut text = String::new();
    for site in &report.sites {
        let outcome = match site.outcome {
            Outcome::Fused => "fused",
            Outcome::Rejected => "rejected",
            Outcome::Nearest => "nearest",
        };
        let _ = write!(text, "{outcome} {} at {} by {}", site.kind.name(), site.anchor, site.rule);
        if let Some(op) = &site.op {
            let _ = write!(text, ": {op}");
        }
        if let Some(precondition) = &site.precondition {
            let _ = write!(text, ": {precondition} fails");
        }
        if let Some(node) = &site.node {
            let _ = write!(text, " at {node}");
        }
        if let Some(hint) = &site.hint {
            let _ = write!(text, ": {hint}");
        }
        text.push('\n');
        for (what, list) in [("replaces", &site.replaced), ("quantises to", &site.schemes)] {
            if !list.is_empty() {
                let _ = writeln!(text, "  {what} {}", list.join(", "));
            }
        }
        for pad in &site.pads {
            if let (Some(precondition), Some(hint)) = (&pad.precondition, &pad.hint) {
                let _ = writeln!(text, "  {} stays: {precondition} fails: {hint}", pad.node);
            }
        }
        for relaxed in &site.relaxed {
            let differ: Vec<String> = relaxed.deviation.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "  relaxed by {}: differs at {}", relaxed.relaxation, differ.join("; "));
        }
    }
    let s = &report.summary;
    let _ = writeln!(text, "nodes: {} before, {} after", s.nodes_before, s.nodes_after);
    let _ = writeln!(text, "saves: {} launches, {} bytes a token", s.launches_saved, s.bytes_saved_per_token);
    text
}

/// The same graph with its nodes in an order that follows from what it computes, named after that if `rename` says so.
fn canonical(graph: &Graph, rename: bool) -> Graph {
    let kept = graph.values().map(|(_, v)| v).filter(|v| match &v.def {
        Def::Input { .. } => true,
        Def::Const(tensor) => text::is_weight(tensor),
        Def::Node { .. } => false,
    });
    let taken = kept.map(|v| v.name.clone()).collect();
    let mut c = Canonical { graph, rename, made: Graph::new(""), map: BTreeMap::new(), taken, consts: 0 };
    c.made.info.clone_from(&graph.info);
    for v in graph.inputs() {
        let value = graph.value(*v);
        let new = c.made.add_input(value.name.clone(), value.ty.clone());
        c.map.insert(*v, new);
    }
    for id in order(graph) {
        c.node(id);
    }
    for out in graph.outputs() {
        let value = c.value(out.value);
        c.made.add_output(out.name.clone(), value);
        if let Some(new) = c.made.declared_mut().next_back() {
            new.clone_from(&out.declared);
        }
    }
    c.made
}

/// Nodes, producers first: depth-first from the results in order, each node's operands in port order; then those that no
/// result depends on.
fn order(graph: &Graph) -> Vec<NodeId> {
    let mut order = Vec::with_capacity(graph.node_count());
    let mut seen = BTreeSet::new();
    let roots = graph.outputs().iter().filter_map(|o| graph.producer(o.value)).map(|(n, _)| n);
    let sinks = graph.nodes().filter(|(_, n)| n.outputs.iter().all(|v| graph.users(*v).is_empty())).map(|(id, _)| id);
    let all = graph.nodes().map(|(id, _)| id);
    for root in roots.chain(sinks).chain(all) {
        let mut stack = vec![(root, false)];
        while let Some((id, ready)) = stack.pop() {
            if ready {
                order.push(id);
            } else if seen.insert(id) {
                stack.push((id, true));
                let operands: Vec<ValueId> = graph.node(id).operands().map(|(_, v)| v).collect();
                stack.extend(operands.iter().rev().filter_map(|v| graph.producer(*v)).map(|(n, _)| (n, false)));
            }
        }
    }
    order
}

struct Canonical<'g> {
    graph: &'g Graph,
    rename: bool,
    made: Graph,
    map: BTreeMap<ValueId, ValueId>,
    /// Names that are in use.
    taken: BTreeSet<String>,
    consts: usize,
}

impl Canonical<'_> {
    /// A new name: the one that is wanted, unless something that keeps its name has that.
    fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.taken.insert(name.clone()) {
            name.push('\'');
        }
        name
    }

    fn node(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let inputs: Vec<Option<ValueId>> = node.inputs.iter().map(|v| v.map(|v| self.value(v))).collect();
        let mut names = vec![node.name.clone()];
        if self.rename {
            names[0] = self.name(&format!("{}_{}", node.op.name(), self.made.node_count() + 1));
        }
        for (port, v) in node.outputs.iter().enumerate() {
            let name = match (self.rename, port) {
                (false, _) => self.graph.value(*v).name.clone(),
                (true, 0) => names[0].clone(),
                (true, _) => self.name(&format!("{}.{port}", names[0])),
            };
            names.push(name);
        }
        let name = names.remove(0);
        // It fitted its op before, and all that has changed is names.
        let Ok(new) = self.made.add_node(name, node.op.clone(), &inputs, names) else { return };
        for (old, new) in node.outputs.iter().zip(self.made.node(new).outputs.clone()) {
            *self.made.type_mut(new) = self.graph.value(*old).ty.clone();
            self.map.insert(*old, new);
        }
        self.made.node_meta_mut(new).2.clone_from(&node.body);
    }

    /// The value in the new graph; constants are put in where they are first read.
    fn value(&mut self, old: ValueId) -> ValueId {
        if let Some(new) = self.map.get(&old) {
            return *new;
        }
        let value = self.graph.value(old);
        let new = match &value.def {
            Def::Const(tensor) => {
                let name = if !self.rename || text::is_weight(tensor) {
                    value.name.clone()
                } else {
                    self.consts += 1;
                    self.name(&format!("const_{}", self.consts))
                };
                let new = self.made.add_const(name, tensor.clone());
                *self.made.type_mut(new) = value.ty.clone();
                new
            }
            // Inputs are there from the start, and producers before their users.
            Def::Input { .. } | Def::Node { .. } => old,
        };
        self.map.insert(old, new);
        new
    }
}
