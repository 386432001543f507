//! Ops that the IR keeps as they came, and whose names say that they normalise or quantise: each is told of, with the reason
//! for which it was not read. Nothing is decided by a name here.

use normfuse_ir::{Graph, NodeId, Op, op::ForeignOp};

use crate::{candidate::Refusal, report::Kind};

/// What a foreign node's name says that it is, and why it is none that fuses; `None` for other nodes.
pub fn site(graph: &Graph, id: NodeId) -> Option<(Kind, Refusal)> {
    let node = graph.node(id);
    let Op::Foreign(op) = &node.op else { return None };
    // Weights are quantised once, before the model runs.
    let data = node.operands().next().is_some_and(|(_, v)| graph.value(v).as_const().is_none());
    let (kind, rule, precondition) = if !data {
        return None;
    } else if normalises(op) {
        (Kind::Norm, "rms_norm", "square")
    } else if quantises(op) {
        (Kind::Quant, quantiser(op), "scheme")
    } else {
        return None;
    };
    let hint = format!("`{}` stays as it is: {}", node.op.name(), op.reason);
    Some((kind, Refusal { rule, precondition, node: Some(id), hint }))
}

/// The name of an op in lower case, letters and digits alone.
fn plain(op: &ForeignOp) -> String {
    op.op_type.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn normalises(op: &ForeignOp) -> bool {
    let name = plain(op);
    ["rmsnorm", "simplifiedlayernorm", "t5layernorm", "lpnorm", "l2norm"].iter().any(|n| name.contains(n))
}

fn quantises(op: &ForeignOp) -> bool {
    // What is quantised already is read or undone, not quantised; and no cast is foreign but one to a type that the IR has not.
    let name =
        ["dequantize", "dequantization", "dequant", "quantized"].iter().fold(plain(op), |n, part| n.replace(part, ""));
    name.contains("quant") || name == "qdq" || (op.domain.is_empty() && name == "cast")
}

/// The rule that would govern a quantiser of this name.
fn quantiser(op: &ForeignOp) -> &'static str {
    let name = plain(op);
    let rules = [("mx", "quant_mx"), ("fp4", "quant_nvfp4"), ("dynamic", "quant_token")];
    rules.into_iter().find(|(part, _)| name.contains(part)).map_or("quant_static", |(_, rule)| rule)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use normfuse_ir::{DType, Shape, Type};

    use super::*;

    fn named(domain: &str, op_type: &str, weight: bool) -> Option<(Kind, &'static str, String)> {
        let mut graph = Graph::new("g");
        let ty = Type::tensor(DType::F32, Shape::from_concrete(&[2, 4]));
        let x = if weight {
            let zeros = normfuse_ir::Tensor::from_bytes(DType::F32, vec![8], vec![0; 32]).unwrap();
            graph.add_const("x", zeros)
        } else {
            graph.add_input("x", ty)
        };
        let op = ForeignOp {
            domain: domain.into(),
            op_type: op_type.into(),
            overload: String::new(),
            encoding: "onnx".into(),
            attributes: Vec::new(),
            captures: 0,
            outputs: 1,
            reason: "unknown op".into(),
        };
        let id = graph.add_node("n", Op::Foreign(Arc::new(op)), &[Some(x)], ["y"]).unwrap();
        site(&graph, id).map(|(kind, r)| (kind, r.rule, r.hint))
    }

    #[test]
    fn names_of_norms_and_quantisers_are_told_of() {
        let of = |domain, op| named(domain, op, false).map(|(kind, rule, _)| (kind, rule));
        assert_eq!(of("", "LpNormalization"), Some((Kind::Norm, "rms_norm")));
        assert_eq!(of("acme", "fused_rms_norm"), Some((Kind::Norm, "rms_norm")));
        assert_eq!(of("com.microsoft", "SimplifiedLayerNormalization"), Some((Kind::Norm, "rms_norm")));
        assert_eq!(of("trt", "TRT_FP4DynamicQuantize"), Some((Kind::Quant, "quant_nvfp4")));
        assert_eq!(of("trt", "TRT_MXFP8DynamicQuantize"), Some((Kind::Quant, "quant_mx")));
        assert_eq!(of("acme", "DynamicQuantizeLSTMInput"), Some((Kind::Quant, "quant_token")));
        assert_eq!(of("", "QuantizeLinear"), Some((Kind::Quant, "quant_static")));
        assert_eq!(of("brevitas", "Quant"), Some((Kind::Quant, "quant_static")));
        assert_eq!(of("com.amd.quark", "MXQuantizeDequantize"), Some((Kind::Quant, "quant_mx")));
        assert_eq!(of("", "Cast"), Some((Kind::Quant, "quant_static")));
        assert_eq!(of("", "DequantizeLinear"), None);
        assert_eq!(of("acme", "QuantizedMatMul"), None);
        assert_eq!(of("", "LayerNormalization"), None);
        assert_eq!(of("", "Conv"), None);
        assert_eq!(named("trt", "TRT_INT4QuantizeLinear", true), None);
        let hint = named("acme", "RMSNorm", false).unwrap().2;
        assert_eq!(hint, "`acme::RMSNorm` stays as it is: unknown op");
    }
}
