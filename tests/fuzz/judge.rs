//! What must hold of every compilation.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use normfuse_ir::{
    DType, Descriptor, Graph, NodeId, Op, Tensor, ValueId,
    body::{
        bits_equal,
        hostile::{Rng, Row, rows},
    },
    eval, infer, text,
};
use normfuse_passes::{Kind, Options, Outcome, Report, Site, anchor};

use crate::{graphs::size, shuffle};

/// Kinds of rows that run together: all are seen, and a NaN does not hide what an amax of the others would show.
const MIXES: [&[Row]; 4] = [
    &[Row::Bell, Row::Ties, Row::Outlier, Row::Blocks, Row::PowerOfTwo],
    &[Row::Wide, Row::Zeros, Row::Equal, Row::SignedZeros, Row::Ties, Row::Denormals],
    &[Row::Huge, Row::Nan, Row::Infinity, Row::Bell, Row::Zeros],
    &[Row::Ties],
];

/// What came of a case.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    /// Cases.
    pub graphs: usize,
    /// Those that inference or the verifier refuses.
    pub refused: usize,
    /// Those that do not run, before or after.
    pub dumb: usize,
    /// Norms with quantisers in their op.
    pub norm_quant: usize,
    /// Norms alone.
    pub norm: usize,
    /// Ops with several norms.
    pub siblings: usize,
    /// Quantisers that are ops of their own.
    pub quant: usize,
    /// Those with a gated activation in their op.
    pub gated: usize,
    /// Sites that did not fuse.
    pub rejected: usize,
    /// Dequantisers of the codes of fused ops, in those ops and not.
    pub dequantised: [usize; 2],
}

impl Tally {
    fn count(&mut self, report: &Report) {
        let s = &report.summary;
        self.norm += s.fused.norm;
        self.norm_quant += s.fused.norm_quant;
        self.siblings += s.fused.sibling_norm;
        self.quant += s.fused.quant;
        self.gated += s.fused.gated_act;
        self.rejected += s.rejected;
        for d in report.sites.iter().flat_map(|s| &s.dequantisers) {
            self.dequantised[usize::from(d.precondition.is_some())] += 1;
        }
    }
}

/// Compiles a graph and the same one in another order: neither report nor result tells them apart.
pub fn same_in_any_order(source: &Graph, seed: u64, tally: &mut Tally) -> Result<(), String> {
    tally.graphs += 1;
    let compiled = |mut graph: Graph| {
        let options = Options { explain: seed.is_multiple_of(4), ..Options::default() };
        let report = normfuse_passes::run(&mut graph, &options);
        report.map(|report| (report, shuffle::lines(&graph)))
    };
    let other = shuffle::shuffled(source, &mut Rng::new(seed));
    match (compiled(source.clone()), compiled(other)) {
        (Err(_), Err(_)) => tally.refused += 1,
        (Ok(a), Ok(b)) if a == b => tally.count(&a.0),
        (Ok(a), Ok(b)) => {
            let only = |of: &[String], not: &[String]| -> String {
                of.iter().filter(|l| !not.contains(l)).flat_map(|l| [l, "\n"]).collect()
            };
            let lines = format!("{}against\n{}", only(&a.1, &b.1), only(&b.1, &a.1));
            let sites = format!("{}against\n{}", sites(&a.0), sites(&b.0));
            return Err(format!("the order decides\n\n{}\n{lines}\n{sites}", text::print(source)));
        }
        (a, b) => return Err(format!("one order is refused: {:?} {:?}\n{}", a.err(), b.err(), text::print(source))),
    }
    Ok(())
}

/// Compiles a graph and judges the result; the message says what is wrong and holds the graph.
pub fn judge(source: &Graph, seed: u64, tally: &mut Tally) -> Result<(), String> {
    tally.graphs += 1;
    let told = |what: String| format!("{what}\n\n{}", text::print(source));
    let mut typed = source.clone();
    let legal = infer::infer(&mut typed).map(|_| ()).and_then(|()| typed.verify());
    let mut after = source.clone();
    // The descriptors' own check costs more than the rest, so a few cases have it.
    let options = Options { verify: seed.is_multiple_of(16), ..Options::default() };
    let run = catch_unwind(AssertUnwindSafe(|| normfuse_passes::run(&mut after, &options)));
    let run = run.map_err(|_| told("the pass panics".into()))?;
    let report = match (legal, run) {
        (Err(_), Err(_)) => {
            tally.refused += 1;
            return Ok(());
        }
        (Err(e), Ok(_)) => return Err(told(format!("the pass takes what the verifier refuses: {e}"))),
        (Ok(()), Err(e)) => return Err(told(format!("the pass fails: {e}"))),
        (Ok(()), Ok(report)) => report,
    };
    after.verify().map_err(|e| told(format!("the result does not verify: {e}")))?;
    let mut again = after.clone();
    normfuse_passes::run(&mut again, &Options::default()).map_err(|e| told(format!("the result is refused: {e}")))?;
    consistent(&typed, &after, &report).map_err(|e| told(format!("{e}\n{}", sites(&report))))?;
    tally.count(&report);
    same_bits(source, &after, seed, tally)
        .map_err(|e| told(format!("{e}\n{}\nafter:\n{}", sites(&report), text::print_outline(&after))))
}

/// What became of each anchor, a line each.
fn sites(report: &Report) -> String {
    let line = |s: &Site| {
        let why = [&s.precondition, &s.node, &s.hint].map(|w| w.as_deref().unwrap_or("-"));
        let (op, gone) = (s.op.as_deref().unwrap_or("-"), s.replaced.join(" "));
        format!("{:?} {} {} {} {op} {} [{gone}]\n", s.outcome, s.kind.name(), s.anchor, s.rule, why.join(" | "))
    };
    report.sites.iter().map(line).collect()
}

/// One hostile tensor an input.
fn inputs(graph: &Graph, mix: &[Row], rng: &mut Rng) -> Option<Vec<Tensor>> {
    let one = |ty: &normfuse_ir::Type, rng: &mut Rng| {
        let dims = ty.shape.as_ref()?.0.iter().map(|d| Some(d.eval(&|s| Some(size(s)))? as usize));
        let shape: Vec<usize> = dims.collect::<Option<_>>()?;
        let turn = rng.below(mix.len());
        rows(ty.dtype?, &shape, &[&mix[turn..], &mix[..turn]].concat(), rng)
    };
    graph.inputs().iter().map(|v| one(&graph.value(*v).ty, rng)).collect()
}

/// Source and rewrite give the same bits on hostile data.
fn same_bits(before: &Graph, after: &Graph, seed: u64, tally: &mut Tally) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    for mix in MIXES {
        let inputs = inputs(before, mix, &mut rng).ok_or("inputs of no known shape")?;
        let (source, rewritten) = match (eval::run(before, &inputs), eval::run(after, &inputs)) {
            (Err(_), Err(_)) => {
                tally.dumb += 1;
                return Ok(());
            }
            // A graph may compute what nobody asks for, and fail at that.
            (Err(_), Ok(_)) => continue,
            (Ok(_), Err(e)) => return Err(format!("the source runs and the result does not: {e}")),
            (Ok(a), Ok(b)) => (a, b),
        };
        for ((a, b), out) in source.iter().zip(&rewritten).zip(before.outputs()) {
            if let Some(difference) = bits_equal(a, b) {
                return Err(format!("output {} differs on {mix:?}: {difference}", out.name));
            }
        }
    }
    Ok(())
}

fn ensure(holds: bool, what: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// The nodes that results depend on.
fn needed(graph: &Graph) -> BTreeSet<NodeId> {
    let mut needed = BTreeSet::new();
    let mut queue: Vec<ValueId> = graph.outputs().iter().map(|o| o.value).collect();
    while let Some(v) = queue.pop() {
        if let Some((id, _)) = graph.producer(v)
            && needed.insert(id)
        {
            queue.extend(graph.node(id).operands().map(|(_, v)| v));
        }
    }
    needed
}

/// The report says of the two graphs what can be seen of them.
fn consistent(before: &Graph, after: &Graph, report: &Report) -> Result<(), String> {
    let names = |g: &Graph| -> BTreeSet<String> { g.nodes().map(|(_, n)| n.name.clone()).collect() };
    let (old, new) = (names(before), names(after));
    let needed = needed(before);
    let of = |a: Vec<anchor::Anchor>| -> BTreeSet<String> {
        a.into_iter().filter(|a| needed.contains(&a.node)).map(|a| a.name).collect()
    };
    // A dead reader makes nothing an anchor.
    let mut live = before.clone();
    let dead: Vec<NodeId> = before.nodes().map(|(id, _)| id).filter(|id| !needed.contains(id)).collect();
    live.remove_dead(dead);
    let nodes = live.topo_order().unwrap();
    let (norms, quants) = (of(anchor::norms(&live, &nodes).unwrap()), of(anchor::quantisers(&live, &nodes)));

    let mut seen = BTreeSet::new();
    let mut replaced = BTreeSet::new();
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    for site in &report.sites {
        let anchor = &site.anchor;
        let is_quant = site.kind == Kind::Quant;
        ensure(seen.insert((is_quant, anchor)), || format!("`{anchor}` has two sites"))?;
        ensure(if is_quant { &quants } else { &norms }.contains(anchor), || format!("`{anchor}` is no such anchor"))?;
        ensure(site.kind != Kind::SiblingNorm, || format!("`{anchor}` has the kind of no site"))?;
        if site.outcome != Outcome::Fused {
            // A quantiser that a norm could not take in may be an op of its own.
            let may = is_quant && site.outcome == Outcome::Rejected;
            let has_none = site.op.is_none() && site.replaced.is_empty();
            ensure(may || has_none, || format!("`{anchor}` did not fuse"))?;
            ensure(site.precondition.is_some() && site.hint.is_some(), || format!("`{anchor}` does not say why"))?;
            if let Some(node) = &site.node {
                // It may have gone into an op since.
                ensure(old.contains(node) || new.contains(node), || format!("there is no node `{node}`"))?;
            }
            if has_none {
                continue;
            }
        }
        let op = site.op.as_deref().ok_or_else(|| format!("`{anchor}` fused into nothing"))?;
        let node = after.nodes().map(|(_, n)| n).find(|n| n.name == op);
        let Some(descriptor) = node.and_then(|n| Descriptor::of(&n.op)) else {
            return Err(format!("`{anchor}` names `{op}`, which is no fused op"));
        };
        let siblings = if let Descriptor::Norm(norm) = &descriptor { norm.norms() } else { 0 };
        ensure((siblings == 0) == is_quant, || format!("`{op}` is another op than `{anchor}` says"))?;
        ensure(site.siblings == siblings, || format!("`{op}` has other siblings"))?;
        ensure(descriptor.check().is_ok(), || format!("`{op}` has a bad descriptor"))?;
        let quantised = site.kind != Kind::Norm;
        ensure(quantised != site.schemes.is_empty(), || format!("`{anchor}`: kind and schemes disagree"))?;
        // Places where a quantiser is repeated have one op.
        let told = ops.entry(op).or_default();
        *told = if is_quant { 1 } else { *told + site.schemes.len() };
        for gone in &site.replaced {
            ensure(old.contains(gone) && !new.contains(gone), || format!("`{gone}` was not replaced"))?;
            ensure(replaced.insert(gone), || format!("`{gone}` was replaced twice"))?;
        }
    }
    for norm in &norms {
        ensure(seen.contains(&(false, norm)), || format!("norm `{norm}` has no site"))?;
    }
    let fused: Vec<_> = after.nodes().map(|(_, n)| n).filter(|n| n.op.is_fused()).collect();
    for node in &fused {
        let schemes = Descriptor::of(&node.op).map_or(0, |d| d.schemes().len());
        ensure(ops.get(node.name.as_str()) == Some(&schemes), || format!("`{}`: its sites tell less", node.name))?;
        ensure(node.body.is_some(), || format!("`{}` has no body", node.name))?;
    }
    let count = |kind: Kind| report.sites.iter().filter(|s| s.outcome == Outcome::Fused && s.kind == kind).count();
    let gated = |s: &Site| s.outcome == Outcome::Fused && s.rule == "gated_act";
    let s = &report.summary;
    let several = fused.iter().filter(|n| matches!(&n.op, Op::FusedNorm(d) if d.siblings.len() > 1)).count();
    let rejected = report.sites.iter().filter(|s| s.outcome != Outcome::Fused).count();
    for (what, told, found) in [
        ("fused.norm", s.fused.norm, count(Kind::Norm)),
        ("fused.norm_quant", s.fused.norm_quant, count(Kind::NormQuant)),
        ("fused.sibling_norm", s.fused.sibling_norm, several),
        ("fused.quant + fused.gated_act", s.fused.quant + s.fused.gated_act, count(Kind::Quant)),
        ("fused.gated_act", s.fused.gated_act, report.sites.iter().filter(|s| gated(s)).count()),
        ("rejected", s.rejected, rejected),
        ("nodes_before", s.nodes_before, before.node_count()),
        ("nodes_after", s.nodes_after, after.node_count()),
    ] {
        ensure(told == found, || format!("summary.{what}: {told} told, {found} found"))?;
    }
    ensure(s.norms >= s.fused.norm + s.fused.norm_quant, || "more norms fused than recognised".into())?;
    let types = after.values().all(|(_, v)| v.ty.dtype.is_none_or(|d| DType::ALL.contains(&d)));
    ensure(types, || "a value of no dtype".into())
}
