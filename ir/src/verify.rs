//! The verifier: everything that must hold of a graph, whoever built or rewrote it.

use std::collections::{BTreeSet, HashSet};

use crate::{
    Def, Error, ErrorKind, Graph, Node, NodeId, Result, Type, Value, ValueId,
    infer::{self, Facts, Inferred},
    tensor::byte_len,
};

/// How deep bodies may nest: a body spells a fused op in plain ops, and no more than that.
const MAX_BODY_DEPTH: usize = 4;

impl Graph {
    /// Checks the whole graph:
    /// - structure: operands, results and edges agree, no cycle, unique names of values, inputs and results, as many
    ///   operands and results as each op has, constants as long as their types say;
    /// - every op's attributes, fused descriptors included;
    /// - types: what each op gives for its operands' types does not contradict the types of its results, nor do the
    ///   schemes and strides of quantised values;
    /// - bodies: their inputs and results are the op's ports, and they are graphs that verify.
    ///
    /// Linear in the graph. It runs no numbers: whether a body computes what its descriptor says is
    /// [`body::check`](crate::body::check)'s to find.
    ///
    /// # Errors
    /// The first thing that is wrong, with its node and port.
    pub fn verify(&self) -> Result<()> {
        verify(self, 0, &mut HashSet::new())
    }

    /// As [`Graph::verify`], of a graph that verified with these facts and was changed since: nodes from `first_new` on were
    /// added, and `touched` read other values than before. What neither reads nor is one of those infers as it did, so
    /// its types are not checked again; all else is.
    ///
    /// # Errors
    /// As [`Graph::verify`].
    pub fn verify_changed(&self, facts: Facts, first_new: usize, touched: BTreeSet<NodeId>) -> Result<()> {
        verify_structure(self, 0, &mut HashSet::new())?;
        let (acyclic, types) =
            both(self, || self.order_from_outputs(), || check_changed_types(self, facts, first_new, touched));
        acyclic.and(types)
    }

    /// As [`Graph::verify`], of a graph whose types [`infer`](infer::infer) has just stored: they are what inferring once
    /// more would find, so all but that is checked.
    ///
    /// # Errors
    /// As [`Graph::verify`].
    pub fn verify_inferred(&self) -> Result<()> {
        verify_structure(self, 0, &mut HashSet::new())
    }
}

/// Names that were met: a graph has one a value, and the standard hasher would take as long as all other checks.
type Names<'g> = HashSet<&'g str, foldhash::fast::RandomState>;

/// Fewer nodes are checked faster than another thread wakes up.
const WORTH_A_THREAD: usize = 10_000;

/// Two checks of one graph, side by side where it is large.
fn both<A: Send, B: Send>(graph: &Graph, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    if graph.node_count() < WORTH_A_THREAD { (a(), b()) } else { rayon::join(a, b) }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Structure, message)
}

/// `done` are the bodies that were verified already: repeated layers share theirs.
fn verify(graph: &Graph, depth: usize, done: &mut HashSet<*const Graph>) -> Result<()> {
    verify_structure(graph, depth, done)?;
    check_types(graph)
}

/// All but the types of results.
fn verify_structure(graph: &Graph, depth: usize, done: &mut HashSet<*const Graph>) -> Result<()> {
    let (links, values) = both(graph, || graph.check_links(), || check_values(graph));
    links.and(values)?;
    check_ports(graph)?;
    for (_, node) in graph.nodes() {
        check_arity(node)?;
        if let Some(body) = &node.body {
            check_body(graph, node, body, depth, done).map_err(|e| e.at_node(node.name.clone()))?;
        }
    }
    Ok(())
}

fn check_values(graph: &Graph) -> Result<()> {
    let mut names = Names::with_capacity_and_hasher(graph.value_bound(), foldhash::fast::RandomState::default());
    let mut inputs = 0usize;
    for (id, value) in graph.values() {
        if value.name.is_empty() {
            return Err(bad(format!("value #{} has no name", id.index())));
        }
        if !names.insert(value.name.as_str()) {
            return Err(bad(format!("two values have the name `{}`", value.name)));
        }
        let at = |e: Error| e.at_port(format!("value `{}`", value.name));
        infer::check_size(&value.ty).map_err(at)?;
        check_own_scheme(value).map_err(at)?;
        if let Some(t) = value.stored() {
            let want = byte_len(t.dtype(), t.shape()).map_err(at)?;
            let found = t.bytes().len();
            if want != found {
                let what = format!("{}{:?} takes {want} bytes, found {found}", t.dtype(), t.shape());
                return Err(at(Error::new(ErrorKind::Shape, what)));
            }
            let ty = Type::tensor(t.dtype(), crate::Shape::from_concrete(t.shape()));
            infer::compare(&ty, &value.ty).map_err(at)?;
        }
        match &value.def {
            Def::Input { .. } => inputs += 1,
            Def::Const(_) => {}
            Def::Node { node, port } => {
                let result = graph.try_node(*node).and_then(|n| n.outputs.get(*port));
                if result != Some(&id) {
                    return Err(at(bad("no node has this result")));
                }
            }
        }
    }
    let mut listed = HashSet::new();
    for v in graph.inputs() {
        match graph.try_value(*v) {
            Some(Value { def: Def::Input { .. }, .. }) if listed.insert(*v) => {}
            Some(value) => return Err(bad(format!("`{}` is not an input, or is listed twice as one", value.name))),
            None => return Err(bad(format!("input value #{} does not exist", v.index()))),
        }
    }
    if listed.len() != inputs {
        return Err(bad(format!("expected {inputs} inputs in the graph's list, found {}", listed.len())));
    }
    Ok(())
}

/// A value that carries a scheme is a q or a scale of it.
fn check_own_scheme(value: &Value) -> Result<()> {
    match (&value.ty.scheme, value.ty.dtype) {
        (Some(s), Some(d)) if d != s.q_dtype() && s.scale_dtype().is_none_or(|scale| d != scale) => {
            let scales = s.scale_dtype().map_or_else(String::new, |d| format!(" and scales of {d}"));
            let what = format!("its scheme {s} has values of {}{scales}, found {d}", s.q_dtype());
            Err(Error::new(ErrorKind::Scheme, what))
        }
        _ => Ok(()),
    }
}

fn check_ports(graph: &Graph) -> Result<()> {
    let mut names = Names::default();
    for output in graph.outputs() {
        let Some(value) = graph.try_value(output.value) else {
            return Err(bad(format!("result `{}` of the graph: its value does not exist", output.name)));
        };
        if !names.insert(output.name.as_str()) {
            return Err(bad(format!("two results of the graph have the name `{}`", output.name)));
        }
        let at = |e: Error| e.at_port(format!("result `{}` of the graph", output.name));
        infer::compare(&value.ty, &output.declared).map_err(at)?;
        check_schemes(&value.ty, &output.declared).map_err(at)?;
    }
    Ok(())
}

fn check_arity(node: &Node) -> Result<()> {
    let (min, max) = node.op.arity();
    let n = node.inputs.len();
    let at = |e: Error| e.at_node(node.name.clone());
    if n < min || max.is_some_and(|m| n > m) {
        return Err(at(bad(format!("`{}` cannot have {n} operands", node.op.name()))));
    }
    if node.outputs.len() != node.op.num_outputs() {
        let (want, found) = (node.op.num_outputs(), node.outputs.len());
        return Err(at(bad(format!("`{}` has {want} results, found {found}", node.op.name()))));
    }
    Ok(())
}

fn check_body(graph: &Graph, node: &Node, body: &Graph, depth: usize, done: &mut HashSet<*const Graph>) -> Result<()> {
    if depth >= MAX_BODY_DEPTH {
        return Err(bad(format!("bodies nest more than {MAX_BODY_DEPTH} deep")));
    }
    let expect = |what: &str, want: usize, found: usize| {
        if want == found { Ok(()) } else { Err(bad(format!("its body: expected {want} {what}, found {found}"))) }
    };
    expect("inputs", node.inputs.len(), body.inputs().len())?;
    expect("results", node.outputs.len(), body.outputs().len())?;
    let pair = |outer: Option<ValueId>, inner: Option<ValueId>| {
        let outer = outer.and_then(|v| graph.try_value(v));
        let inner = inner.and_then(|v| body.try_value(v));
        let (Some(outer), Some(inner)) = (outer, inner) else { return Ok(()) };
        infer::compare(&inner.ty, &outer.ty)
            .map_err(|e| Error::new(e.kind, format!("its body disagrees with the node: {}", e.message)))
    };
    for (port, v) in node.inputs.iter().enumerate() {
        pair(*v, body.inputs().get(port).copied()).map_err(|e| e.at_port(infer::operand_name(&node.op, port)))?;
    }
    for (port, v) in node.outputs.iter().enumerate() {
        let inner = body.outputs().get(port).map(|o| o.value);
        pair(Some(*v), inner).map_err(|e| e.at_port(infer::result_name(&node.op, port)))?;
    }
    if !done.insert(std::ptr::from_ref(body)) {
        return Ok(());
    }
    verify(body, depth + 1, done).map_err(|e| {
        let inner = e.to_string();
        Error::new(e.kind, format!("its body: {inner}"))
    })
}

/// Infers the nodes from `first_new` on and those of `changed`, and what reads contents that then are others.
fn check_changed_types(graph: &Graph, mut facts: Facts, first_new: usize, mut changed: BTreeSet<NodeId>) -> Result<()> {
    let readers = |id: NodeId| graph.node(id).outputs.iter().flat_map(|v| graph.uses(*v)).map(|(user, _)| user);
    for (id, _) in graph.nodes_from(first_new) {
        facts.infer_again(graph, id, &mut |results| compare_results(graph, id, results))?;
        changed.extend(readers(id).filter(|user| user.index() < first_new));
    }
    while let Some(id) = changed.pop_first() {
        if facts.infer_again(graph, id, &mut |results| compare_results(graph, id, results))? {
            changed.extend(readers(id));
        }
    }
    Ok(())
}

/// Infers every node again from the types of its operands, and compares with the types of its results.
fn check_types(graph: &Graph) -> Result<()> {
    Facts::visit(graph, &mut |id, results| compare_results(graph, id, results)).map(drop)
}

/// Compares what was inferred of a node's results with their types.
fn compare_results(graph: &Graph, id: NodeId, results: &[Inferred]) -> Result<()> {
    let node = graph.node(id);
    for (port, (Inferred { ty, .. }, v)) in results.iter().zip(&node.outputs).enumerate() {
        let found = &graph.value(*v).ty;
        infer::compare(ty, found)
            .and_then(|()| check_schemes(ty, found))
            .map_err(|e| e.at_port(infer::result_name(&node.op, port)).at_node(node.name.clone()))?;
    }
    Ok(())
}

/// The two ends of an edge agree on the scheme and the strides, where both know them.
fn check_schemes(made: &Type, read: &Type) -> Result<()> {
    if let (Some(m), Some(r)) = (&made.scheme, &read.scheme)
        && m != r
    {
        let message = if m.to_string() == r.to_string() {
            format!("one end says {m:?}, the other {r:?}")
        } else {
            format!("one end says {m}, the other {r}")
        };
        return Err(Error::new(ErrorKind::Scheme, message).hint("a change of scheme or layout is an op of its own"));
    }
    if let (Some(m), Some(r)) = (&made.strides, &read.strides)
        && (m.len() != r.len() || m.iter().zip(r).any(|(m, r)| m.equals(r) == Some(false)))
    {
        let show = |s: &[crate::Dim]| crate::Shape(s.to_vec()).to_string();
        let message = format!("one end says strides {}, the other {}", show(m), show(r));
        return Err(Error::new(ErrorKind::Scheme, message).hint("a change of layout is an op of its own"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
