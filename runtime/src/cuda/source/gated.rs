//! The text of a gated activation.

use normfuse_ir::{
    DType, FusedNorm,
    fused::{Activation, Gated, Prologue},
    scheme::F32,
};

use super::traits::{number, type_name};

/// The file of pieces that a kernel needs.
pub(super) fn header(norm: &FusedNorm) -> &'static str {
    let gated = matches!(norm.prologue, Prologue::Gated(_));
    if gated || norm.siblings.iter().any(|s| s.root.is_none()) { "gate.cuh" } else { "quant.cuh" }
}

/// What tells a gate from another one: `Gate` of the rows that the function takes, and `Bounds` of what is read before those, where that
/// is not the same.
pub(super) fn traits(gated: Gated) -> String {
    let function = match gated.activation {
        Activation::Silu => "SILU",
        Activation::SigmoidProduct => "SIGMOID_PRODUCT",
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU_TANH",
    };
    let (rows, up) = if gated.is_bounded() { (gated.compute(), factor(gated)) } else { (gated.dtype, gated.up()) };
    format!(
        "struct Gate {{\n    typedef {} Rows;\n    typedef {} Up;\n    typedef {} Compute;\n    typedef {} Activated;\n    \
         typedef {} Product;\n    static constexpr Function FUNCTION = {function};\n    static constexpr bool SCALED = {};\n{}}};\n{}",
        type_name(rows),
        type_name(up),
        type_name(gated.compute()),
        type_name(gated.activated()),
        type_name(gated.product()),
        gated.alpha.is_some(),
        gated.alpha.map_or_else(String::new, |alpha| constant("alpha", alpha)),
        if gated.is_bounded() { bounds(gated) } else { String::new() },
    )
}

fn constant(name: &str, value: F32) -> String {
    format!("    static __device__ __forceinline__ float {name}() {{ return {}; }}\n", number(value))
}

fn bounds(gated: Gated) -> String {
    let Gated { gate_max, up_limit, shifted, .. } = gated;
    let one = F32::new(1.0);
    format!(
        "struct Bounds {{\n    typedef {} From;\n    typedef {} Compute;\n    typedef {} Up;\n    typedef {} Factor;\n    \
         static constexpr bool HAS_MOST = {}, HAS_LIMIT = {}, SHIFTED = {};\n{}{}}};\n",
        type_name(gated.dtype),
        type_name(gated.compute()),
        type_name(gated.up()),
        type_name(factor(gated)),
        gate_max.is_some(),
        up_limit.is_some(),
        shifted.is_some(),
        constant("most", gate_max.unwrap_or(one)),
        constant("limit", up_limit.unwrap_or(one)),
    )
}

/// Dtype of what the activation is multiplied with.
fn factor(gated: Gated) -> DType {
    gated.shifted.unwrap_or(gated.up())
}

/// From the rows that were read as `x` and `up` to their product `h`.
pub(super) fn product(gated: Gated) -> String {
    let product = type_name(gated.product());
    if !gated.is_bounded() {
        return format!("    Vector<{product}> h[R::USED];\n    gate_rows<Gate, R>(h, x, up);\n");
    }
    format!(
        "    Vector<{}> gate[R::USED];\n    bounded_gates<Bounds, R>(gate, x);\n    Vector<{}> factor[R::USED];\n    \
         bounded_factors<Bounds, R>(factor, up);\n    Vector<{product}> h[R::USED];\n    gate_rows<Gate, R>(h, gate, factor);\n",
        type_name(gated.compute()),
        type_name(factor(gated)),
    )
}
