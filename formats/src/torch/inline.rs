//! Parts of a program that run under another mode of autograd, as values they are like the rest: their calls take the
//! place of the one that wraps them.

use std::collections::HashSet;

use super::{
    args::tensors_of,
    place::Place,
    schema::{Argument, Graph, NamedArgument, Node},
};

/// The op that wraps them. Its operands: whether there are gradients, the graph, the graph's operands.
const WRAPS: &str = "torch.ops.higher_order.wrap_with_set_grad_enabled";

/// Takes wrapped parts in. One that makes values of names that the program around it has already stays as it is, and is a
/// call that is not known.
pub fn grad_modes(graph: &mut Graph) {
    if !graph.nodes.iter().any(|n| n.target == WRAPS) {
        return;
    }
    let mut taken: HashSet<String> = graph.tensor_values.keys().cloned().collect();
    for mut node in std::mem::take(&mut graph.nodes) {
        let Some(part) = part_of(&mut node, &taken) else {
            graph.nodes.push(node);
            continue;
        };
        taken.extend(part.tensor_values.keys().cloned());
        graph.nodes.extend(part.nodes);
        graph.tensor_values.extend(part.tensor_values);
        graph.sym_int_values.extend(part.sym_int_values);
    }
}

/// The part that a node wraps, with its operands and results under the names that they have outside.
fn part_of(node: &mut Node, taken: &HashSet<String>) -> Option<Graph> {
    if node.target != WRAPS {
        return None;
    }
    let (mode, operands) = node.inputs.split_at_mut_checked(2)?;
    let Argument::Graph(part) = &mut mode.last_mut()?.arg else { return None };
    let given = names(operands.iter().map(|a| &a.arg))?;
    let outside = names(node.outputs.iter())?;
    let (inputs, inside) = (names(part.inputs.iter())?, names(part.outputs.iter())?);
    let counts = given.len() == inputs.len() && outside.len() == inside.len();
    let known = |name: &String| given.contains(name) || outside.contains(name);
    let own = part.tensor_values.keys().all(|name| known(name) || !taken.contains(name));
    if !counts || !own || part.nodes.iter().any(|n| n.target == WRAPS) {
        return None;
    }
    let renamed = |pairs: Vec<(&String, &String)>| -> Vec<Node> {
        pairs.into_iter().filter(|(from, to)| from != to).map(|(from, to)| alias(from, to, &node.metadata)).collect()
    };
    let before = renamed(given.iter().zip(&inputs).collect());
    let after = renamed(inside.iter().zip(&outside).collect());
    let mut part = std::mem::take(&mut **part);
    part.nodes = [before, part.nodes, after].concat();
    // Of what has one name outside and inside, the type outside is the program's.
    part.tensor_values.retain(|name, _| !taken.contains(name));
    Some(part)
}

/// The tensors that these arguments are, if each is one.
fn names<'a>(all: impl Iterator<Item = &'a Argument>) -> Option<Vec<String>> {
    let one = |a: &Argument| match tensors_of(a)[..] {
        [name] => Some(name.to_owned()),
        _ => None,
    };
    all.map(one).collect()
}

/// A tensor under another name.
fn alias(from: &str, to: &str, place: &Place) -> Node {
    Node {
        target: "torch.ops.aten.alias.default".into(),
        inputs: vec![NamedArgument { name: "self".into(), arg: Argument::Tensor(from.into()) }],
        outputs: vec![Argument::Tensor(to.into())],
        metadata: place.clone(),
        name: Some(to.into()),
    }
}
