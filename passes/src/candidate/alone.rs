//! A quantiser that is in no norm's op, as an op of its own, with the gated activation before it.

use std::collections::{BTreeSet, HashMap, HashSet};

use normfuse_ir::{
    DType, Descriptor, Dim, FusedNorm, Graph, NodeId, Op, Scheme, Shape, ValueId,
    fused::{InPort, OutPort},
    scheme::Packing,
};

use super::{
    Candidate, Part, Refusal, Take, asks_for_row_sizes,
    builder::{Port, dequantisers, one_quantiser, scheme_on_rows},
    finish::quantised_shape,
    inside::{Inside, Ports},
    layout,
    member::Epilogue,
    value_name,
};
use crate::{
    Options,
    quant::Quant,
    reach::Order,
    region::typed,
    rules::{self, gated_act, gated_act::Gate},
    views::is_view,
};

/// Nodes that go with ops that are decided already, and values that those read.
pub struct Gone {
    nodes: Vec<bool>,
    operands: HashSet<ValueId>,
}

impl Gone {
    /// None of a graph's, as yet.
    pub fn none(graph: &Graph) -> Self {
        Self { nodes: vec![false; graph.node_bound()], operands: HashSet::new() }
    }

    /// Adds those of an op.
    pub fn add(&mut self, decided: &Candidate) {
        for n in &decided.replaced {
            if let Some(gone) = self.nodes.get_mut(n.index()) {
                *gone = true;
            }
        }
        self.operands.extend(decided.operands.iter().map(|(_, v)| *v));
    }

    /// True for a node that goes.
    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.get(node.index()).is_some_and(|gone| *gone)
    }
}

/// Quantisers that are one: equal schemes of one value, repeated for each reader.
pub struct One<'a> {
    /// In terms of the rows.
    scheme: Scheme,
    /// The value's elements as rows.
    rows: Shape,
    /// Each place where the source has it.
    pub quants: Vec<&'a Quant>,
}

impl One<'_> {
    /// Size of a row, if it is fixed.
    fn width(&self) -> Option<u64> {
        self.rows.last()?.as_const().and_then(|n| u64::try_from(n).ok())
    }

    /// The rule that governs it.
    pub fn rule(&self) -> &'static str {
        rules::scheme_rule(&self.scheme)
    }
}

/// Puts together what is one quantiser, in the order of the first of each. Those whose values are no rows that an op takes
/// come with the reason.
pub fn ones<'a>(graph: &Graph, quants: impl Iterator<Item = &'a Quant>) -> (Vec<One<'a>>, Vec<(NodeId, Refusal)>) {
    let mut ones: Vec<One<'a>> = Vec::new();
    let mut of_value: HashMap<ValueId, Vec<usize>> = HashMap::new();
    let mut refused = Vec::new();
    for q in quants {
        let (rows, scheme) = match rows(graph, q) {
            Ok(found) => found,
            Err((precondition, hint)) => {
                let rule = rules::quantiser_rule(q);
                refused.push((q.anchor, Refusal { rule, precondition, node: Some(q.anchor), hint }));
                continue;
            }
        };
        let known = of_value.entry(q.v).or_default();
        let same = |i: &&usize| {
            let one = &ones[**i];
            one.rows == rows && one_quantiser(graph, (&one.scheme, one.quants[0]), (&scheme, q))
        };
        if let Some(i) = known.iter().find(same).copied() {
            let one = &mut ones[i];
            one.scheme.scale = one.scheme.scale.take().or(scheme.scale);
            one.quants.push(q);
        } else {
            known.push(ones.len());
            ones.push(One { scheme, rows, quants: vec![q] });
        }
    }
    (ones, refused)
}

/// What is quantised as rows that the groups divide: the value as it is, or with its last axes as one.
fn rows(graph: &Graph, q: &Quant) -> Result<(Shape, Scheme), (&'static str, String)> {
    let no_groups = || ("groups", "no row of the quantised value is one that the groups divide".to_owned());
    let (dtype, own) = typed(graph, q.v).ok_or_else(no_groups)?;
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(("float", format!("expected f32, f16 or bf16, found {dtype}")));
    }
    let fits = |width: Option<u64>| {
        let even = || width.is_some_and(|n| n.is_multiple_of(2));
        (width != Some(0)).then(|| scheme_on_rows(graph, q, width))?.filter(|s| s.packing != Packing::Nibbles || even())
    };
    let wanted = row_of_readers(graph, q);
    let has_wanted = |axis: &usize| wanted.is_none() || Shape(own.0[*axis..].to_vec()).numel().as_const() == wanted;
    // As the readers see it, if the value has such rows.
    let first = (0..own.rank()).rev().find(has_wanted).unwrap_or(own.rank().saturating_sub(1));
    for axis in (0..own.rank().min(first + 1)).rev() {
        let (lead, last) = own.0.split_at(axis);
        let last = Shape(last.to_vec()).numel();
        let width = last.as_const().and_then(|n| u64::try_from(n).ok());
        if let Some(scheme) = fits(width) {
            return Ok((Shape([lead, &[last]].concat()), scheme));
        }
        // A size of 0 cannot be said in another shape.
        if width.is_none_or(|n| n == 0) || lead.iter().any(|d| d.as_const() == Some(0)) {
            break;
        }
    }
    Err(no_groups())
}

/// The width of the rows that all readers of the codes see, where those are several groups wide: heads that are laid side by
/// side for a projection are groups of its rows, and no rows.
fn row_of_readers(graph: &Graph, q: &Quant) -> Option<i64> {
    // Of two codes in a byte, the last axis is no number of values.
    let group = q.width.filter(|_| q.scheme.packing != Packing::Nibbles).and_then(|w| i64::try_from(w).ok())?;
    let mut widths = BTreeSet::new();
    let mut queue = vec![q.q];
    while let Some(v) = queue.pop() {
        let is_seen_through =
            |(user, port): &(NodeId, usize)| *port == 0 && q.nodes.contains(user) && is_view(graph, *user);
        let (views, readers): (Vec<_>, Vec<_>) = graph.users(v).into_iter().partition(is_seen_through);
        queue.extend(views.iter().flat_map(|(user, _)| &graph.node(*user).outputs));
        if !readers.is_empty() || graph.is_output(v) {
            widths.insert(typed(graph, v)?.1.last()?.as_const()?);
        }
    }
    let width = widths.pop_first().filter(|w| *w > group && w % group == 0)?;
    widths.is_empty().then_some(width)
}

/// The descriptor of a quantiser, alone or behind a gated activation, whose value is a result where that is read.
fn descriptor(one: &One<'_>, scheme: Scheme, gate: Option<&Gate>, read: &BTreeSet<Port>) -> Option<Descriptor> {
    let Some(gate) = gate else { return Some(Descriptor::Quantize(scheme.into())) };
    let width = one.width()?;
    let mut norm = FusedNorm::gated(gate.gated, width, vec![scheme]);
    norm.siblings[0].emit_normed = read.contains(&Port::Normed(0));
    Some(Descriptor::Norm(norm.into()))
}

/// The candidate of one quantiser, and of the gated activation that it reads, if one is given: that may take in what makes
/// numbers of the codes. Nodes that are `gone` go with an op that is decided already.
///
/// # Errors
/// The first precondition that fails.
pub fn alone(
    graph: &Graph,
    order: &Order,
    (one, gate): (&One<'_>, Option<&Gate>),
    take: &Take,
    gone: &Gone,
    options: &Options,
) -> Result<Candidate, Refusal> {
    let first = one.quants[0];
    let rule = if gate.is_some() { gated_act::RULE.name } else { one.rule() };
    let refuse = |precondition, node: Option<NodeId>, hint: String| {
        Err(Refusal { rule, precondition, node: node.or(Some(first.anchor)), hint })
    };
    let width = one.width().filter(|_| gate.is_some());
    let numbers = width.map(|w| dequantisers((graph, order), &one.quants, (&one.scheme, w), take, options));
    let (dequantisers, kept) = numbers.unwrap_or_default();
    let epilogue = Epilogue { scheme: one.scheme.clone(), quants: one.quants.clone(), dequantisers };
    let own = epilogue.nodes().chain(gate.iter().flat_map(|g| &g.nodes));
    let inside = Inside::new(graph, order, own.copied().collect());
    let mut ports: Ports = gate.iter().map(|_| (first.v, Port::Normed(0))).collect();
    for q in &one.quants {
        for (value, port) in
            [(Some(q.q), Port::Q(0, 0)), (q.scale, Port::Scale(0, 0)), (q.zero_out, Port::ZeroPoint(0, 0))]
        {
            for v in value.into_iter().flat_map(|v| inside.with_views(v)) {
                ports.entry(v).or_insert(port);
            }
        }
    }
    for v in epilogue.dequantisers.iter().flat_map(|d| inside.with_views(d.value)) {
        ports.entry(v).or_insert(Port::Dequantised(0, 0));
    }
    let idle = |u: NodeId| gone.has(u) || asks_for_row_sizes(graph, u, first.v);
    let (live, read) = inside.liveness(&ports, |v| gone.operands.contains(&v), idle);
    let rows = gate.map_or_else(|| BTreeSet::from([first.v]), |g| BTreeSet::from([g.gate, g.up]));
    let stops = rows.iter().copied().chain(first.given).chain(first.zero).collect();
    let core = inside.core(&stops, ports.keys().copied());
    let downstream = inside.downstream(&rows, BTreeSet::new());
    let spared = seen_through(graph, &inside, rows.iter().copied().chain([first.v]).collect());
    let escapes = |n: NodeId| live.contains(&n) && downstream.contains(&n) && !spared.contains(&n);
    if let Some(node) = inside.hidden(&core, escapes) {
        let name = value_name(graph, graph.node(node).outputs[0]);
        return refuse("no_escape", Some(node), format!("`{name}` {}", inside.outside_reader(node, &live)));
    }
    let Some(descriptor) = descriptor(one, epilogue.scheme((0, 0), &read), gate, &read) else {
        return refuse("width", None, format!("rows of {} have no fixed size", one.rows));
    };
    let operand = |port: &InPort| match port {
        InPort::Scale(..) => first.given,
        InPort::ZeroPoint(..) => first.zero,
        InPort::Up => gate.map(|g| g.up),
        _ => Some(gate.map_or(first.v, |g| g.gate)),
    };
    let operands: Vec<(InPort, ValueId)> =
        descriptor.in_ports().into_iter().filter_map(|p| Some((p, operand(&p)?))).collect();
    let (mut replaced, mut core) = inside.replaced(core, &live, &ports, &rows);
    // Views behind a norm's result are that norm's, and views of the value are nothing that the op makes.
    replaced.retain(|n| !gone.has(*n));
    core.retain(|n| !gone.has(*n) && !spared.contains(n));
    if let Some((_, v)) = operands.iter().find(|(_, v)| order.depend(graph, &[*v], &core)) {
        let node = graph.producer(*v).map(|(n, _)| n);
        let name = value_name(graph, *v);
        return refuse("independent", node, format!("operand `{name}` depends on what the op makes"));
    }
    let width = one.rows.last().cloned().unwrap_or_else(|| Dim::from(1));
    let shape = |port| match port {
        _ if one.rows.rank() == 0 => Shape::default(),
        OutPort::Normed(_) => one.rows.clone(),
        _ => quantised_shape(&one.scheme, &one.rows, &width, port),
    };
    let stands_for = |port| match port {
        OutPort::Scale(..) => Port::Scale(0, 0),
        OutPort::ZeroPoint(..) => Port::ZeroPoint(0, 0),
        OutPort::Dequantised(..) => Port::Dequantised(0, 0),
        OutPort::Normed(_) => Port::Normed(0),
        _ => Port::Q(0, 0),
    };
    let out = descriptor.out_ports().into_iter().map(|p| (p, inside.values_of(&ports, stands_for(p)), shape(p)));
    let mut candidate = Candidate {
        ports: out.collect(),
        operands,
        passed: typed(graph, first.v).is_none_or(|(_, own)| *own != one.rows).then(|| one.rows.clone()),
        given_at: epilogue.given_at().collect(),
        replaced,
        core,
        parts: one
            .quants
            .iter()
            .enumerate()
            .map(|(i, q)| {
                // What the places share is told of with the first.
                let gate = gate.iter().filter(|_| i == 0).flat_map(|g| &g.nodes);
                let numbers = epilogue.dequantisers.iter().filter(|_| i == 0).flat_map(|d| &d.nodes);
                let nodes = q.nodes.iter().chain(gate).chain(numbers).copied().collect();
                let dequantisers = epilogue.dequantisers.iter().filter(|_| i == 0).map(|d| d.node).collect();
                Part { anchor: q.anchor, quantisers: vec![q.anchor], dequantisers, pads: Vec::new(), nodes }
            })
            .collect(),
        left_out: Vec::new(),
        kept: kept.into_iter().map(|r| (0, r)).collect(),
        descriptor,
    };
    match layout::settle(graph, &mut candidate, options) {
        Ok(()) => Ok(candidate),
        Err(hint) => refuse("supported", None, hint),
    }
}

/// Views and casts of values that nothing comes between: whoever else reads one of them reads what stays.
fn seen_through(graph: &Graph, inside: &Inside<'_>, mut values: BTreeSet<ValueId>) -> BTreeSet<NodeId> {
    let mut nodes = BTreeSet::new();
    for id in &inside.nodes {
        let node = graph.node(*id);
        let moves = is_view(graph, *id) || matches!(node.op, Op::Cast { .. });
        if moves && node.input(0).is_some_and(|v| values.contains(&v)) {
            values.extend(&node.outputs);
            nodes.insert(*id);
        }
    }
    nodes
}
