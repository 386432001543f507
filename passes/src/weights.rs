//! Which weights a fused op reads, and whether they have data: a weight that nobody gave must be seen.

use normfuse_ir::{Graph, NodeId, ValueId, fused::InPort};

/// Longest chain of casts, views and scalar steps between a weight and the op that reads it.
const DEPTH: usize = 12;

/// Weights, scales and zero points of some siblings of a fused op: their names, and how many of them have data (the
/// others are inputs of the graph, which whoever runs it gives). One that is computed from several tensors, or from
/// longer chains than a weight has, is no weight of the model.
pub(crate) fn of(graph: &Graph, op: NodeId, ports: &[InPort], siblings: &[usize]) -> (Vec<String>, usize) {
    let own = |port: &InPort| match port {
        InPort::Weight(k) | InPort::Scale(k, _) | InPort::ZeroPoint(k, _) => siblings.contains(k),
        InPort::X | InPort::Residual | InPort::Up | InPort::Rows(_) => false,
    };
    let node = graph.node(op);
    let operands = ports.iter().enumerate().filter(|(_, port)| own(port)).filter_map(|(i, _)| node.input(i));
    let mut leaves: Vec<ValueId> = Vec::new();
    for leaf in operands.filter_map(|v| leaf(graph, v)) {
        // Two epilogues may share a scale.
        if !leaves.contains(&leaf) {
            leaves.push(leaf);
        }
    }
    let bound = leaves.iter().filter(|v| graph.value(**v).stored().is_some()).count();
    (leaves.iter().map(|v| graph.value(*v).name.clone()).collect(), bound)
}

/// The constant or input that a value is, apart from its type, its shape and single numbers.
fn leaf(graph: &Graph, mut value: ValueId) -> Option<ValueId> {
    for _ in 0..=DEPTH {
        let Some((node, _)) = graph.producer(value) else { return Some(value) };
        let number = |v: ValueId| graph.value(v).as_const().is_some_and(|t| t.len() == 1 || t.dtype().is_int());
        let mut operands = graph.node(node).operands().map(|(_, v)| v).filter(|v| !number(*v));
        match (operands.next(), operands.next()) {
            (Some(one), None) => value = one,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use normfuse_ir::text;

    use super::*;

    /// What a value is traced to.
    fn traced(lines: &str) -> Option<String> {
        let text = format!("graph \"g\"\ninput %w: f32[4]\ninput %v: f32[4]\nconst %one: f32[] = 1\n{lines}");
        let graph = text::parse(&text, &mut |_| unreachable!("no weights")).unwrap();
        let value = graph.outputs()[0].value;
        leaf(&graph, value).map(|v| graph.value(v).name.clone())
    }

    #[test]
    fn casts_views_and_numbers_are_looked_through() {
        let lines = "%a = add(%w, %one)\n%b = cast(%a) {to=bf16}\n%y = unsqueeze(%b) {axes=[0]}\n";
        assert_eq!(traced(&format!("{lines}output %y\n")).as_deref(), Some("w"));
        assert_eq!(traced("output %w\n").as_deref(), Some("w"));
        assert_eq!(traced("%y = mul(%w, %v)\noutput %y\n"), None);
    }

    #[test]
    fn long_chains_are_no_weights() {
        let chain = |n: usize| {
            let step = |i: usize| format!("%y{} = abs(%y{i})\n", i + 1);
            format!("%y0 = abs(%w)\n{}output %y{n}\n", (0..n).map(step).collect::<String>())
        };
        assert!(traced(&chain(DEPTH - 1)).is_some());
        assert_eq!(traced(&chain(DEPTH)), None);
    }
}
