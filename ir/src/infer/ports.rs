//! Names of operands and results in messages.

use crate::Op;

/// How messages call an operand: `operand 1 (scale)`.
pub(crate) fn operand(op: &Op, port: usize) -> String {
    let names: &[&str] = match op {
        Op::Concat { .. } | Op::Foreign(_) => &[],
        Op::Binary(_) | Op::MatMul => &["a", "b"],
        Op::Gemm { .. } => &["a", "b", "c"],
        Op::MatMulInteger => &["a", "b", "a_zero_point", "b_zero_point"],
        Op::ScaledMatMul(_) => &["a", "b", "scale_a", "scale_b", "bias"],
        Op::Where => &["condition", "a", "b"],
        Op::Clip => &["x", "min", "max"],
        Op::CumSum { .. } => &["x", "axis"],
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => &["x", "scale", "bias"],
        Op::SkipRmsNorm { .. } => &["x", "skip", "scale", "bias"],
        Op::Attention(_) => &["q", "k", "v", "attn_mask", "past_key", "past_value"],
        Op::Reshape { .. } | Op::Expand => &["x", "shape"],
        Op::ConstantOfShape { .. } => &["shape"],
        Op::Tile => &["x", "repeats"],
        Op::Split { .. } => &["x", "sizes"],
        Op::Slice => &["x", "starts", "ends", "axes", "steps"],
        Op::Pad => &["x", "pads", "value", "axes"],
        Op::Range => &["start", "limit", "delta"],
        Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => &["x", "indices"],
        Op::ScatterElements { .. } | Op::ScatterNd { .. } => &["x", "indices", "updates"],
        Op::OneHot { .. } => &["indices", "depth", "values"],
        Op::TopK { .. } | Op::Trilu { .. } => &["x", "k"],
        Op::QuantizeLinear { .. } => &["x", "scale", "zero_point"],
        Op::DequantizeLinear { .. } => &["q", "scale", "zero_point"],
        Op::Quantize(s) if s.given.is_none() => &["v", "zero_point"],
        Op::Quantize(_) => &["v", "scale", "zero_point"],
        Op::FusedNorm(f) => {
            return f
                .in_ports()
                .get(port)
                .map_or_else(|| format!("operand {port}"), |p| format!("operand {port} ({p})"));
        }
        _ => &["x"],
    };
    names.get(port).map_or_else(|| format!("operand {port}"), |n| format!("operand {port} ({n})"))
}

/// How messages call a result.
pub(crate) fn result(op: &Op, port: usize) -> String {
    op.output_names().get(port).map_or_else(|| format!("result {port}"), |n| format!("result {port} ({n})"))
}
