//! The same graph in another order: of nodes, constants, ids and wires.

use normfuse_ir::{Def, Graph, NodeId, Tensor, ValueId, body::hostile::Rng, text};

/// Puts items in any order.
pub fn shuffle<T>(items: &mut [T], random: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i + 1));
    }
}

enum Thing {
    Node(NodeId),
    Const(ValueId),
}

/// The same graph, its nodes and constants added in any order (also readers before what they read) and wired in any.
pub fn shuffled(graph: &Graph, random: &mut Rng) -> Graph {
    let mut made = Graph::new(graph.name.clone());
    made.info.clone_from(&graph.info);
    let mut things: Vec<Thing> = graph.nodes().map(|(id, _)| Thing::Node(id)).collect();
    things.extend(graph.values().filter(|(_, v)| matches!(v.def, Def::Const(_))).map(|(id, _)| Thing::Const(id)));
    shuffle(&mut things, random);
    // Stands for what is not there yet.
    let hole = made.add_const("hole", Tensor::from_i64(&[], &[0]));
    let mut new = vec![hole; graph.value_bound()];
    for id in graph.inputs() {
        let value = graph.value(*id);
        new[id.index()] = made.add_input(value.name.clone(), value.ty.clone());
        if let Def::Input { default: Some(tensor) } = &value.def {
            made.set_default(new[id.index()], tensor.clone());
        }
    }
    let mut wires = Vec::new();
    for thing in things {
        match thing {
            Thing::Const(id) => {
                let value = graph.value(id);
                let Def::Const(tensor) = &value.def else { unreachable!() };
                new[id.index()] = made.add_const(value.name.clone(), tensor.clone());
                *made.type_mut(new[id.index()]) = value.ty.clone();
            }
            Thing::Node(old) => {
                let node = graph.node(old);
                let holes: Vec<Option<ValueId>> = node.inputs.iter().map(|v| v.map(|_| hole)).collect();
                let names = node.outputs.iter().map(|v| graph.value(*v).name.clone());
                let id = made.add_node(node.name.clone(), node.op.clone(), &holes, names).unwrap();
                let (_, provenance, body) = made.node_meta_mut(id);
                provenance.clone_from(&node.provenance);
                body.clone_from(&node.body);
                for (from, to) in node.outputs.iter().zip(made.node(id).outputs.clone()) {
                    *made.type_mut(to) = graph.value(*from).ty.clone();
                    new[from.index()] = to;
                }
                wires.extend(node.operands().map(|(port, v)| (id, port, v)));
            }
        }
    }
    shuffle(&mut wires, random);
    for (id, port, value) in wires {
        made.set_input(id, port, Some(new[value.index()]));
    }
    for out in graph.outputs() {
        made.add_output(out.name.clone(), new[out.value.index()]);
        made.declared_mut().next_back().unwrap().clone_from(&out.declared);
    }
    let keep = made.values().map(|(id, _)| id).filter(|id| *id != hole).collect();
    made.remove_unused_consts(&keep);
    made
}

/// The lines of a graph, sorted: equal for graphs that differ in the order of nodes alone. Sizes of which nothing is known
/// are numbered by where their values stand, and so have no numbers here.
pub fn lines(graph: &Graph) -> Vec<String> {
    let unnumbered = |line: &str| {
        let mut parts = line.split('?');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |all, part| all + "?" + part.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'))
    };
    let mut lines: Vec<String> = text::print(graph).lines().map(unnumbered).collect();
    lines.sort_unstable();
    lines
}
