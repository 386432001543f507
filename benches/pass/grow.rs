//! Graphs of any size: the layer of a real export, repeated, and norms that share one constant.

use std::collections::{BTreeMap, BTreeSet};

use normfuse::ir::{
    DType, Graph, NodeId, Op, Tensor, Type, ValueId,
    op::{BinaryOp, ReduceOp, UnaryOp},
};

/// The graph with the layer between two values of the residual stream repeated until it has about `nodes` nodes. Each
/// repetition has weights of its own; one-element constants (an eps, an exponent), sizes, the mask and the rotary tables
/// stay shared, as exporters share them.
pub fn layers(source: &Graph, from: &str, to: &str, nodes: usize) -> Graph {
    let named = |name: &str| source.values().find(|(_, v)| v.name == name).expect("a value of the model").0;
    let (from, to) = (named(from), named(to));
    let layer = between(source, from, to);
    let readers: Vec<_> = source.users(to).into_iter().filter(|(n, _)| !layer.contains(n)).collect();
    let mut graph = source.clone();
    let mut last = to;
    for copy in 1..=nodes.saturating_sub(source.node_count()).div_ceil(layer.len()) {
        let mut map = BTreeMap::from([(from, last)]);
        for id in &layer {
            let node = source.node(*id);
            let inputs: Vec<_> =
                node.inputs.iter().map(|v| v.map(|v| operand(&mut graph, &mut map, v, copy))).collect();
            let names: Vec<String> = node.outputs.iter().map(|v| format!("{}@{copy}", source.value(*v).name)).collect();
            let made = graph.add_node(format!("{}@{copy}", node.name), node.op.clone(), &inputs, names);
            let made = made.expect("it was a node before");
            graph.node_meta_mut(made).1.clone_from(&node.provenance);
            for (old, new) in node.outputs.iter().zip(graph.node(made).outputs.clone()) {
                *graph.type_mut(new) = source.value(*old).ty.clone();
                map.insert(*old, new);
            }
        }
        last = map[&to];
    }
    for (user, port) in readers {
        graph.set_input(user, port, Some(last));
    }
    graph
}

/// Nodes that depend on `from` and on which `to` depends, producers first. Who only asks for a shape does not depend: the
/// mask and what is made of it belong to no layer.
fn between(graph: &Graph, from: ValueId, to: ValueId) -> Vec<NodeId> {
    let order = graph.topo_order().expect("no cycle");
    let mut after = BTreeSet::from([from]);
    let mut down = Vec::new();
    for id in order {
        let node = graph.node(id);
        if !matches!(node.op, Op::Shape { .. }) && node.operands().any(|(_, v)| after.contains(&v)) {
            after.extend(&node.outputs);
            down.push(id);
        }
    }
    let mut before = BTreeSet::from([to]);
    let mut layer = Vec::new();
    for id in down.into_iter().rev() {
        if graph.node(id).outputs.iter().any(|v| before.contains(v)) {
            before.extend(graph.node(id).operands().map(|(_, v)| v));
            layer.push(id);
        }
    }
    layer.reverse();
    layer
}

/// What a value of the source is in this repetition: weights are renamed, the rest is shared.
fn operand(graph: &mut Graph, map: &mut BTreeMap<ValueId, ValueId>, value: ValueId, copy: usize) -> ValueId {
    if let Some(v) = map.get(&value) {
        return *v;
    }
    let own = match graph.value(value).as_const().filter(|t| t.len() > 1 && t.dtype().is_float()).cloned() {
        Some(weight) => {
            let name = format!("{}@{copy}", graph.value(value).name);
            graph.add_const(name, weight)
        }
        None => value,
    };
    map.insert(value, own);
    own
}

/// So many norms, one behind the other, that all read one eps, one exponent, and one weight that is computed from another
/// dtype: a constant and a value with that many readers each.
pub fn one_eps(norms: usize) -> Graph {
    let mut g = Graph::new("one_eps");
    let rows = Type::tensor(DType::F32, vec!["tokens".into(), 64.into()]);
    let mut x = g.add_input("x", rows.clone());
    let scalar = |g: &mut Graph, name: &str, v: f32| g.add_const(name, Tensor::from_f32(&[], &[v]));
    let (eps, two) = (scalar(&mut g, "eps", 1e-6), scalar(&mut g, "two", 2.0));
    let narrow = Tensor::from_bytes(DType::BF16, vec![64], [0x80, 0x3f].repeat(64)).expect("64 times 1.0");
    let narrow = g.add_const("weight", narrow);
    let cast = Op::Cast { to: DType::F32, saturate: true };
    let weight = node(&mut g, "wide", cast, &[narrow]);
    for i in 0..norms {
        let square = node(&mut g, &format!("square{i}"), Op::Binary(BinaryOp::Pow), &[x, two]);
        let mean = Op::Reduce { op: ReduceOp::Mean, axes: Some(vec![-1]), keepdims: true };
        let mean = node(&mut g, &format!("mean{i}"), mean, &[square]);
        let sum = node(&mut g, &format!("sum{i}"), Op::Binary(BinaryOp::Add), &[mean, eps]);
        let root = node(&mut g, &format!("root{i}"), Op::Unary(UnaryOp::Rsqrt), &[sum]);
        let normed = node(&mut g, &format!("normed{i}"), Op::Binary(BinaryOp::Mul), &[x, root]);
        x = node(&mut g, &format!("y{i}"), Op::Binary(BinaryOp::Mul), &[normed, weight]);
    }
    g.add_output("y", x);
    g
}

fn node(g: &mut Graph, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    let id = g.add_node(name, op, &inputs, [name]).expect("a legal node");
    g.node(id).outputs[0]
}
