//! Zeros behind each row of a norm's result, up to a size that whoever reads it wants: they become part of the norm's op.

use std::collections::BTreeSet;

use normfuse_ir::{Graph, NodeId, Op, ValueId};

use super::{Rule, no_schemes, none};
use crate::{candidate::Refusal, consts, norms::Norm, quant, reach::Order, region::typed, views::is_view};

/// The rule.
pub const RULE: Rule = Rule {
    name: "padded_norm",
    summary: "Zeros that are put behind each row of a norm's result are written by the norm's op.",
    picture: "
h -> norm -> [cast] -> Pad(0, .., n) -----------> v
h -> norm -> [cast] -> Concat(.., zeros of n) --> v",
    preconditions: &[
        "constant_amount: how much is put where is fixed in the model",
        "last_axis: it is the axis of the norm's row, and no other",
        "at_the_end: behind the row, nothing before it and nothing cut off",
        "zeros: what is put there is +0",
        "own_sizes: what it reads beside the row is made of constants and of the op's operands (their sizes)",
        "one_amount: all that pads the result pads it to one size",
        "unquantised: no quantiser in the op reads the result as it is",
        "padded_only: nor does anybody else",
        "supported: the runtime has a kernel for it",
    ],
    rewrites: none,
    schemes: no_schemes,
};

/// What pads a norm's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pad {
    /// `Pad` or `Concat`.
    pub node: NodeId,
    /// What it makes.
    pub value: ValueId,
    /// Elements in a row of that.
    pub width: u64,
    /// From the norm's result to the value, and views of that.
    pub nodes: BTreeSet<NodeId>,
}

/// Why a node that looks like one is none.
type Fails = (&'static str, String);

/// True if something that looks like a pad reads a result of the norm.
pub fn is_read(graph: &Graph, order: &Order, norm: &Norm) -> bool {
    (0..norm.results.len()).any(|r| !readers(graph, order, norm, r).is_empty())
}

/// What pads one of the norm's results, itself or through views that keep its rows; and what only looks like it, each with the
/// first precondition that fails. `operands` are those that the op has.
pub fn find(
    (graph, order): (&Graph, &Order),
    norm: &Norm,
    result: usize,
    operands: &BTreeSet<ValueId>,
) -> (Vec<Pad>, Vec<Refusal>) {
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    for (node, row, mut nodes) in readers(graph, order, norm, result) {
        match amount(graph, (norm, operands), node, row) {
            Ok(more) => {
                let value = graph.node(node).outputs[0];
                nodes.insert(node);
                quant::views_behind(graph, [value].into_iter(), &mut nodes);
                found.push(Pad { node, value, width: norm.width + more, nodes });
            }
            Err((precondition, hint)) => {
                refused.push(Refusal { rule: RULE.name, precondition, node: Some(node), hint });
            }
        }
    }
    (found, refused)
}

/// A node that may pad, what it reads, and the views before that.
type Reader = (NodeId, ValueId, BTreeSet<NodeId>);

/// Nodes that put something around rows of the norm's width, what they read, and the views before that.
fn readers(graph: &Graph, order: &Order, norm: &Norm, result: usize) -> Vec<Reader> {
    let rows = |v: ValueId| {
        typed(graph, v).and_then(|(_, s)| s.last()?.as_const()).and_then(|n| u64::try_from(n).ok()) == Some(norm.width)
    };
    let mut found: Vec<Reader> = Vec::new();
    let mut queue: Vec<(ValueId, BTreeSet<NodeId>)> =
        norm.results[result].1.iter().filter(|v| rows(**v)).map(|v| (*v, BTreeSet::new())).collect();
    let mut seen: BTreeSet<ValueId> = queue.iter().map(|(v, _)| *v).collect();
    while let Some((row, before)) = queue.pop() {
        for (user, port) in graph.users(row) {
            let node = graph.node(user);
            if is_view(graph, user) && port == 0 {
                for v in node.outputs.iter().filter(|v| rows(**v)) {
                    if seen.insert(*v) {
                        queue.push((*v, before.iter().copied().chain([user]).collect()));
                    }
                }
            } else if pads(graph, user, port) && found.iter().all(|(n, ..)| *n != user) {
                found.push((user, row, before.clone()));
            }
        }
    }
    found.sort_by_key(|(node, ..)| order.position(*node));
    found
}

/// True for a node that pads what it reads at a port, whatever with and wherever.
fn pads(graph: &Graph, id: NodeId, port: usize) -> bool {
    let node = graph.node(id);
    match &node.op {
        Op::Pad => port == 0,
        Op::Foreign(f) => port == 0 && (f.op_type == "Pad" || f.op_type.starts_with("pad.")),
        // Other constants along other axes are more rows.
        Op::Concat { axis } => {
            let rank = node.input(port).and_then(|v| typed(graph, v)).map_or(0, |(_, s)| s.rank());
            let constant = |v| graph.value(v).as_const().is_some() || consts::known(graph, v).is_some();
            let filler = |v| if last(*axis, rank) { constant(v) } else { is_zero(graph, v) };
            node.operands().all(|(p, v)| p == port || filler(v))
        }
        _ => false,
    }
}

/// How many zeros the node puts behind each row.
fn amount(
    graph: &Graph,
    (norm, operands): (&Norm, &BTreeSet<ValueId>),
    id: NodeId,
    row: ValueId,
) -> Result<u64, Fails> {
    let node = graph.node(id);
    let axes = typed(graph, row).map_or(0, |(_, s)| s.rank());
    let more = match &node.op {
        Op::Foreign(f) => return Err(("zeros", format!("`{}` is no op of this crate: {}", f.op_type, f.reason))),
        Op::Concat { axis } => joined(graph, id, row, last(*axis, axes))?,
        _ => padded(graph, id, axes)?,
    };
    let others = node.operands().map(|(_, v)| v).filter(|v| *v != row);
    if let Some(far) = others.into_iter().find_map(|v| out_of_reach(graph, operands, v)) {
        return Err(("own_sizes", format!("the node depends on `{}`, too", graph.value(far).name)));
    }
    let made = typed(graph, node.outputs[0]).and_then(|(_, s)| u64::try_from(s.last()?.as_const()?).ok());
    match more {
        0 => Err(("at_the_end", "it adds nothing".into())),
        more if made.is_some() && made == norm.width.checked_add(more) => Ok(more),
        _ => Err(("constant_amount", "the size of what it makes is not known".into())),
    }
}

/// True for the last of so many axes.
fn last(axis: i64, axes: usize) -> bool {
    axis == -1 || (axes > 0 && axis == axes as i64 - 1)
}

/// What a `Concat` with constants puts behind the row.
fn joined(graph: &Graph, id: NodeId, row: ValueId, last: bool) -> Result<u64, Fails> {
    let node = graph.node(id);
    if !last {
        return Err(("last_axis", "it joins along another axis".into()));
    }
    if node.input(0) != Some(row) {
        return Err(("at_the_end", "the row is not the first of what it joins".into()));
    }
    let mut more = 0u64;
    for (_, v) in node.operands().skip(1) {
        let name = &graph.value(v).name;
        if !is_zero(graph, v) {
            return Err(("zeros", format!("`{name}` is not +0 everywhere")));
        }
        let size = typed(graph, v).and_then(|(_, s)| u64::try_from(s.last()?.as_const()?).ok());
        more = size
            .and_then(|n| more.checked_add(n))
            .ok_or_else(|| ("constant_amount", format!("the last axis of `{name}` has no fixed size")))?;
    }
    Ok(more)
}

/// What a `Pad` puts behind the row.
fn padded(graph: &Graph, id: NodeId, rank: usize) -> Result<u64, Fails> {
    let node = graph.node(id);
    let numbers = |port: usize| -> Option<Vec<i64>> {
        consts::integers(graph, node.input(port)?)?.iter().map(normfuse_ir::Dim::as_const).collect()
    };
    let unknown = |what: &str| ("constant_amount", format!("its {what} are computed when it runs"));
    let by = numbers(1).ok_or_else(|| unknown("pads"))?;
    let axes = match node.input(3) {
        Some(_) => numbers(3).ok_or_else(|| unknown("axes"))?,
        None => (0..rank as i64).collect(),
    };
    let mut more = 0;
    for (i, axis) in axes.iter().enumerate() {
        let pair = by.get(i).zip(by.get(i + axes.len())).ok_or_else(|| unknown("pads"))?;
        match pair {
            (0, 0) => {}
            _ if !last(*axis, rank) => return Err(("last_axis", format!("it pads axis {axis} of {rank}"))),
            (0, n) if *n > 0 => more = n.unsigned_abs(),
            (before, after) => {
                return Err(("at_the_end", format!("it puts {before} before the row and {after} behind")));
            }
        }
    }
    match node.input(2) {
        Some(v) if !is_zero(graph, v) => Err(("zeros", format!("`{}` is not +0", graph.value(v).name))),
        _ => Ok(more),
    }
}

/// True if all elements are known to be +0.
fn is_zero(graph: &Graph, value: ValueId) -> bool {
    match graph.value(value).as_const() {
        Some(t) => t.bytes().iter().all(|b| *b == 0),
        None => consts::known(graph, value).is_some_and(|n| n.value().to_bits() == 0),
    }
}

/// Most values between the norm's operands and zeros.
const BETWEEN: usize = 64;

/// What a value is made of that is neither a constant nor an operand: the op could not make it.
fn out_of_reach(graph: &Graph, operands: &BTreeSet<ValueId>, value: ValueId) -> Option<ValueId> {
    let (mut queue, mut seen) = (vec![value], BTreeSet::new());
    while let Some(v) = queue.pop() {
        if operands.contains(&v) || graph.value(v).as_const().is_some() || !seen.insert(v) {
            continue;
        }
        match graph.producer(v) {
            Some((id, _)) if seen.len() < BETWEEN => queue.extend(graph.node(id).operands().map(|(_, v)| v)),
            _ => return Some(v),
        }
    }
    None
}
