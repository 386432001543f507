//! Putting a candidate into the graph: one fused node, every reader of a port moved over, dead code gone.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use normfuse_ir::{
    DType, Descriptor, Dim, Graph, NodeId, Op, Shape, Type, ValueId,
    fused::{InPort, OutPort},
};

use crate::{
    bodies::{Bodies, Cut},
    body::{self, PortValue},
    candidate::{Candidate, Refusal, asks_for_row_sizes},
    pass::Memo,
    region::typed,
    views::{self, Names, is_view},
};

/// What a patch did.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The fused node.
    pub node: NodeId,
    /// The nodes that went with this patch, and their names, in topological order. Casts that change nothing are between
    /// two norms of a chain, inside of both; they go with the first.
    pub replaced: Vec<(NodeId, String)>,
    /// See [`crate::Summary::bytes_saved_per_token`].
    pub bytes_saved: u64,
    /// Values that were read, and what their readers read now.
    pub moved: Vec<(ValueId, ValueId)>,
    /// Nodes that ask for a shape, the operand, and the rows that they ask now.
    pub shape_readers: Vec<(NodeId, usize, ValueId)>,
}

/// What patches do to the values of the source.
#[derive(Debug, Default)]
pub struct Moved {
    /// What readers of a value read now.
    pub now: Memo<ValueId, ValueId>,
    /// Operands of all candidates: a patch keeps those of a later one, though all that reads them in the source may be
    /// inside of both (a cast that changes nothing, between two norms).
    pub operands: HashSet<ValueId, foldhash::fast::RandomState>,
}

/// The type of a port in a shape.
pub(crate) fn port_type(descriptor: &Descriptor, port: OutPort, shape: &Shape) -> Type {
    let dtype = match descriptor {
        Descriptor::Norm(norm) => norm.result_dtype(port),
        Descriptor::Quantize(scheme) => match port {
            OutPort::Q(..) => Some(scheme.q_dtype()),
            OutPort::Scale(..) => scheme.scale.as_ref().map(|s| s.dtype),
            OutPort::ZeroPoint(..) => Some(DType::U8),
            OutPort::Dequantised(..) => scheme.dequantised.map(|d| d.dtype),
            OutPort::Sum | OutPort::Normed(_) => None,
        },
    };
    let scheme = match port {
        OutPort::Q(k, e) | OutPort::Scale(k, e) => descriptor.scheme(k, e).map(|s| Arc::new(s.of_codes())),
        _ => None,
    };
    let strides =
        scheme.as_ref().filter(|_| matches!(port, OutPort::Scale(..))).and_then(|s| s.layout.strides(&shape.0));
    Type { dtype, scheme, strides, ..Type::tensor(DType::F32, shape.clone()) }
}

/// Replaces the candidate's subgraph. The graph is unchanged if this fails. Operands of the candidate that earlier
/// patches replaced are found in `moved`, which this patch adds to; it shares a body that an equal one has.
///
/// # Errors
/// A refusal, if a body or a shape cannot be spelled.
pub fn apply(
    graph: &mut Graph,
    names: &mut Names,
    bodies: &mut Bodies,
    moved: &mut Moved,
    c: &Candidate,
) -> Result<Applied, Refusal> {
    let anchor = c.parts[0].anchor;
    let rule = c.rule();
    let refuse = |precondition, hint: &str| Refusal { rule, precondition, node: Some(anchor), hint: hint.to_owned() };
    let c = &*as_it_is(graph, moved, c).map_err(|(precondition, hint)| refuse(precondition, hint))?;
    let body_ports: Vec<PortValue> = c
        .ports
        .iter()
        .map(|(port, values, shape)| {
            // The earliest value of that shape, else the earliest at all: later ones are views with shapes of their own.
            let same = values.iter().find(|v| typed(graph, **v).is_some_and(|(_, s)| s == shape));
            let plain = values.first();
            let best = if port_is_direct(graph, plain) { plain } else { same.or(plain) };
            let rows = c.rows(port.sibling())?;
            best.map(|v| PortValue { value: *v, shape: shape.clone(), port: *port, rows })
        })
        .collect::<Option<_>>()
        .ok_or_else(|| refuse("no_escape", "a port has no value in the source"))?;
    let body_operands: Vec<_> = c.operands.iter().map(|(p, v)| (*p, *v, c.operand_shape(*p))).collect();
    let op = c.descriptor.op();
    let cut = Cut::of(graph, &op, &body_operands, &c.given_at, &body_ports);
    let body = if let Some(body) = bodies.of(cut.as_ref()) {
        body
    } else {
        let body = body::slice(graph, &body_operands, &c.given_at, &body_ports)
            .ok_or_else(|| refuse("no_escape", "the replaced subgraph cannot be cut out on its own"))?;
        // A file with a fused op that cannot be compared with its body would be refused by whoever reads it.
        let passed = |(port, v): &(InPort, ValueId)| {
            let ty = graph.value(*v).ty.clone();
            Type { shape: c.operand_shape(*port).or(ty.shape), ..ty }
        };
        let types: Vec<Type> = c.operands.iter().map(passed).collect();
        normfuse_ir::body::checkable(&op, &body, &types).map_err(|e| refuse("checkable", &e.to_string()))?;
        bodies.share(cut, body)
    };
    // Everything that can fail is asked before the graph changes.
    if !shapes_can_be_said(graph, c, moved) {
        return Err(refuse("no_escape", "a view of a result has a shape that cannot be said in terms of the rows"));
    }
    let shape_readers = move_shape_readers(graph, c);
    let bytes_saved = bytes_saved(graph, c);
    let mut operands: Vec<Option<ValueId>> = c.operands.iter().map(|(_, v)| Some(*v)).collect();
    for ((port, value), slot) in c.operands.iter().zip(&mut operands) {
        if let Some(vector) = c.operand_shape(*port) {
            *slot = views::restate(graph, names, *value, &vector);
        }
    }
    let name = format!("{}/{}", c.descriptor.name(), graph.node(anchor).name);
    let out_names: Vec<String> = c.ports.iter().map(|(p, ..)| names.fresh(&p.to_string())).collect();
    let node = graph.add_node(name, op, &operands, out_names).map_err(|e| refuse("supported", &e.to_string()))?;

    let mut dead: Vec<NodeId> = Vec::new();
    let mut own_moves = Vec::new();
    let outputs = graph.node(node).outputs.clone();
    for ((port, values, shape), out) in c.ports.iter().zip(&outputs) {
        *graph.type_mut(*out) = port_type(&c.descriptor, *port, shape);
        // Values of one shape are one view: a later patch takes its operand from one, and what it replaces reads another.
        let mut views: Vec<(Shape, ValueId)> = Vec::new();
        for v in values {
            let Some((_, own)) = typed(graph, *v).map(|(d, s)| (d, s.clone())) else { continue };
            dead.extend(graph.producer(*v).map(|(n, _)| n));
            if !graph.is_read(*v) && !moved.operands.contains(v) {
                continue;
            }
            let new = if own == *shape {
                Some(*out)
            } else if !needs_reader(graph, c, *v, moved) {
                None
            } else if let Some((_, view)) = views.iter().find(|(s, _)| *s == own) {
                Some(*view)
            } else {
                view_of(graph, names, c, (*out, *port), *v, &own)
            };
            if let Some(new) = new {
                views.push((own, new));
                graph.replace_uses(*v, new);
                moved.now.insert(*v, new);
                own_moves.push((*v, new));
            }
        }
    }
    let replaced: Vec<(NodeId, String)> = c.replaced.iter().map(|n| (*n, graph.node(*n).name.clone())).collect();
    // A port takes over the name of the value it stands for, once that name is free.
    let first: Vec<Option<(ValueId, String)>> =
        c.ports.iter().map(|(_, values, _)| values.first().map(|v| (*v, graph.value(*v).name.clone()))).collect();
    let wanted = own_moves.iter().filter(|(old, _)| moved.operands.contains(old)).map(|(_, new)| *new).collect();
    graph.remove_dead_but(dead.into_iter().chain(c.replaced.iter().rev().copied()), &wanted);
    for (out, (old, name)) in outputs.iter().zip(first).filter_map(|(out, f)| Some((*out, f?))) {
        if graph.try_value(old).is_none() {
            graph.rename_value(out, name);
        }
    }
    let (_, provenance, slot) = graph.node_meta_mut(node);
    Arc::make_mut(provenance).replaced = replaced.iter().map(|(_, name)| name.clone()).collect();
    *slot = Some(body);
    Ok(Applied { node, replaced, bytes_saved, moved: own_moves, shape_readers })
}

/// The candidate in terms of what earlier patches made of the graph.
fn as_it_is<'c>(
    graph: &Graph,
    moved: &Moved,
    c: &'c Candidate,
) -> Result<Cow<'c, Candidate>, (&'static str, &'static str)> {
    let untouched = |v: &ValueId| !moved.now.contains_key(v) && graph.try_value(*v).is_some();
    if c.operands.iter().all(|(_, v)| untouched(v))
        && c.replaced.iter().all(|n| graph.try_node(*n).is_some())
        && c.ports.iter().flat_map(|(_, values, _)| values).all(|v| graph.try_value(*v).is_some())
    {
        return Ok(Cow::Borrowed(c));
    }
    let mut now = c.clone();
    for (_, v) in &mut now.operands {
        while let Some(new) = moved.now.get(v) {
            *v = *new;
        }
        if graph.try_value(*v).is_none() {
            return Err(("no_escape", "an operand is inside of another fused op"));
        }
    }
    now.replaced.retain(|n| graph.try_node(*n).is_some());
    if now.replaced.len() < c.replaced.len() && now.replaced.iter().filter(|n| !is_view(graph, **n)).nth(1).is_none() {
        return Err(("saves_something", "other fused ops took in all of it but one op"));
    }
    for (_, values, _) in &mut now.ports {
        values.retain(|v| graph.try_value(*v).is_some());
    }
    Ok(Cow::Owned(now))
}

/// True if every value that stays and has another shape than its port can be made from it.
fn shapes_can_be_said(graph: &Graph, c: &Candidate, moved: &Moved) -> bool {
    c.ports.iter().all(|(_, values, shape)| {
        values.iter().all(|v| {
            typed(graph, *v).is_none_or(|(_, own)| {
                own == shape || !needs_reader(graph, c, *v, moved) || can_restate(graph, c, *v, shape, own)
            })
        })
    })
}

/// Who only asks a replaced value for its shape asks the rows: nothing must be kept or written for that.
fn move_shape_readers(graph: &mut Graph, c: &Candidate) -> Vec<(NodeId, usize, ValueId)> {
    let mut moved = Vec::new();
    let rows: Vec<ValueId> = c.all_rows().collect();
    let gone: Vec<ValueId> = c.replaced.iter().flat_map(|n| graph.node(*n).outputs.iter().copied()).collect();
    for v in gone {
        for (user, port) in graph.users(v) {
            if let Some(rows) = rows.iter().find(|r| asks_for_row_sizes(graph, user, **r)) {
                graph.set_input(user, port, Some(*rows));
                moved.push((user, port, *rows));
            }
        }
    }
    moved
}

/// True if a value is made by an op that computes, not by a view with a shape of its own.
fn port_is_direct(graph: &Graph, value: Option<&ValueId>) -> bool {
    value.and_then(|v| graph.producer(*v)).is_some_and(|(n, _)| !is_view(graph, n))
}

/// True if somebody who stays reads the value, or a later patch.
fn needs_reader(graph: &Graph, c: &Candidate, v: ValueId, moved: &Moved) -> bool {
    graph.is_output(v) || moved.operands.contains(&v) || graph.uses(v).any(|(u, _)| !c.replaced.contains(&u))
}

/// A computed shape operand by which the source reshapes to the shape of a value: its own, or that of a replaced view.
fn own_shape_operand(graph: &Graph, c: &Candidate, v: ValueId) -> Option<ValueId> {
    let target = typed(graph, v).map(|(_, s)| s)?;
    let own = graph.producer(v).map(|(n, _)| n);
    own.into_iter().chain(c.replaced.iter().copied()).find_map(|n| {
        let node = graph.try_node(n)?;
        let same = node.outputs.first().and_then(|o| typed(graph, *o)).is_some_and(|(_, s)| s == target);
        let shape = match node.op {
            Op::Reshape { .. } if same => node.input(1)?,
            _ => return None,
        };
        let gone = graph.producer(shape).is_some_and(|(p, _)| c.replaced.contains(&p));
        // A constant may hold zeros ("copy the size"); those are said anew instead.
        (graph.value(shape).as_const().is_none() && !gone).then_some(shape)
    })
}

fn can_restate(graph: &Graph, c: &Candidate, v: ValueId, from: &Shape, to: &Shape) -> bool {
    let numbers = to.0.iter().all(|d| d.as_const().is_none_or(|n| n > 0));
    let strange = to.0.iter().filter(|d| d.as_const().is_none() && !from.0.contains(d)).count();
    let constant = views::constant_shape(from, to).is_some();
    constant || own_shape_operand(graph, c, v).is_some() || (numbers && strange <= 1)
}

/// `out` in the shape of `v`: by a constant where it can say it, else by the shape operand that the source used, else by
/// the sizes of the rows.
fn view_of(
    graph: &mut Graph,
    names: &mut Names,
    c: &Candidate,
    (out, port): (ValueId, OutPort),
    v: ValueId,
    own: &Shape,
) -> Option<ValueId> {
    let from = graph.value(out).ty.shape.clone()?;
    if views::constant_shape(&from, own).is_none()
        && let Some(shape) = own_shape_operand(graph, c, v)
    {
        return views::reshape(graph, names, out, shape, own);
    }
    views::restate_by(graph, names, out, own, c.rows(port.sibling())?)
}

/// How many tokens rows are: the sizes that are not fixed in the model, so that heads count for the token that they are
/// of; every leading size where all are fixed.
pub(crate) fn tokens(rows: &Shape) -> Dim {
    let lead = &rows.0[..rows.rank().saturating_sub(1)];
    let open: Vec<Dim> = lead.iter().filter(|d| d.as_const().is_none()).cloned().collect();
    Shape(if open.is_empty() { lead.to_vec() } else { open }).numel()
}

/// Bytes a token of the intermediates that vanish: one write, and a read for each op that read it.
fn bytes_saved(graph: &Graph, c: &Candidate) -> u64 {
    let Some((_, rows)) = c.rows(0).and_then(|v| typed(graph, v)) else { return 0 };
    let tokens = tokens(rows);
    let lead = &rows.0[..rows.rank().saturating_sub(1)];
    let open = lead.iter().filter(|d| d.as_const().is_none()).count();
    // Most values have the axes of the rows, and need no division of polynomials.
    let a_token = |shape: &Shape| match shape.0.get(..lead.len()) {
        Some(own) if open == lead.len() && own == lead => Shape(shape.0[lead.len()..].to_vec()).numel().as_const(),
        _ => shape.numel().div_exact(&tokens)?.as_const(),
    };
    let mut total = 0u64;
    for id in c.replaced.iter().filter(|n| !is_view(graph, **n)) {
        for v in &graph.node(*id).outputs {
            let Some((dtype, shape)) = typed(graph, *v) else { continue };
            let Some(elements) = a_token(shape) else { continue };
            // A port is written either way.
            let written = !c.ports.iter().any(|(_, values, _)| values.contains(v));
            let moves = reads(graph, c, *v) + u64::from(written);
            let bytes = (elements.unsigned_abs() * dtype.bits() as u64).div_ceil(8);
            total = total.saturating_add(bytes.saturating_mul(moves));
        }
    }
    total
}

/// How many of the replaced ops read a value, themselves or through views.
fn reads(graph: &Graph, c: &Candidate, v: ValueId) -> u64 {
    let mut users: Vec<NodeId> = graph.uses(v).map(|(n, _)| n).filter(|n| c.replaced.contains(n)).collect();
    users.sort_unstable();
    users.dedup();
    users.into_iter().map(|n| if is_view(graph, n) { reads(graph, c, graph.node(n).outputs[0]) } else { 1 }).sum()
}
