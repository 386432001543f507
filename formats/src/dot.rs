//! Graphviz: a picture of the graph. Fused ops stand out, constants are left out.

use std::{fmt::Write as _, io::Write as _, path::Path};

use normfuse_ir::{Def, Descriptor, Graph, Value, ValueId};

use crate::{atomic::AtomicFile, error::Result};

/// Writes the picture.
///
/// # Errors
/// If the disk refuses; what was at `path` is then as it was.
pub fn write(graph: &Graph, path: &Path) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(print(graph).as_bytes())?;
    file.commit()
}

/// The picture as text: nodes by op, edges by type, fused ops filled.
pub fn print(graph: &Graph) -> String {
    let mut text = format!("digraph {} {{\n  node [shape=box, fontname=\"sans-serif\"];\n", quoted(&graph.name));
    for (i, input) in graph.inputs().iter().enumerate() {
        let _ = writeln!(text, "  in{i} [shape=ellipse, label={}];", quoted(&graph.value(*input).name));
    }
    for (id, node) in graph.nodes() {
        let mut label = node.op.name();
        let mut style = "";
        if let Some(fused) = Descriptor::of(&node.op) {
            style = ", style=filled, fillcolor=\"#ffd27f\"";
            for scheme in fused.schemes() {
                let _ = write!(label, "\n{scheme}");
            }
            let _ = write!(label, "\nreplaces {}", node.provenance.replaced.len());
        }
        let tip = quoted(&node.name);
        let _ = writeln!(text, "  n{} [label={}, tooltip={tip}{style}];", id.index(), quoted(&label));
    }
    for (id, node) in graph.nodes() {
        for (_, operand) in node.operands() {
            if let Some(from) = source(graph, operand) {
                let label = quoted(&type_of(graph.value(operand)));
                let _ = writeln!(text, "  {from} -> n{} [label={label}];", id.index());
            }
        }
    }
    for (i, out) in graph.outputs().iter().enumerate() {
        let _ = writeln!(text, "  out{i} [shape=ellipse, label={}];", quoted(&out.name));
        if let Some(from) = source(graph, out.value) {
            let _ = writeln!(text, "  {from} -> out{i} [label={}];", quoted(&type_of(graph.value(out.value))));
        }
    }
    text.push_str("}\n");
    text
}

/// What an edge of this value starts from; constants start none.
fn source(graph: &Graph, value: ValueId) -> Option<String> {
    match graph.value(value).def {
        Def::Node { node, .. } => Some(format!("n{}", node.index())),
        Def::Input { .. } => graph.inputs().iter().position(|v| *v == value).map(|i| format!("in{i}")),
        Def::Const(_) => None,
    }
}

fn type_of(value: &Value) -> String {
    let dtype = value.ty.dtype.map(|d| d.to_string()).unwrap_or_default();
    let shape = value.ty.shape.as_ref().map(ToString::to_string).unwrap_or_default();
    dtype + &shape
}

/// A string of the DOT language.
fn quoted(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use normfuse_ir::{DType, Dim, Op, Tensor, Type, op::BinaryOp};

    use super::*;

    #[test]
    fn edges_go_from_inputs_through_nodes_to_outputs() {
        let mut g = Graph::new("a \"g\"");
        let x = g.add_input("x", Type::tensor(DType::F32, vec![Dim::from("n")]));
        let c = g.add_const("c", Tensor::from_f32(&[], &[2.0]));
        let n = g.add_node("double", Op::Binary(BinaryOp::Mul), &[Some(x), Some(c)], ["y"]).unwrap();
        g.add_output("y", g.node(n).outputs[0]);
        assert_eq!(
            print(&g),
            "digraph \"a \\\"g\\\"\" {\n  node [shape=box, fontname=\"sans-serif\"];\n  in0 [shape=ellipse, label=\"x\"];\n  \
             n0 [label=\"mul\", tooltip=\"double\"];\n  in0 -> n0 [label=\"f32[n]\"];\n  out0 [shape=ellipse, \
             label=\"y\"];\n  n0 -> out0 [label=\"\"];\n}\n"
        );
    }
}
