//! The text of a gated activation.

use normfuse_ir::{
    FusedNorm,
    fused::{Activation, Gated, Prologue},
};

use super::traits::type_name;

/// The file of pieces that a kernel needs.
pub(super) fn header(norm: &FusedNorm) -> &'static str {
    let gated = matches!(norm.prologue, Prologue::Gated(_));
    if gated || norm.siblings.iter().any(|s| s.root.is_none()) { "gate.cuh" } else { "quant.cuh" }
}

/// What tells a gate from another one.
pub(super) fn traits(gated: Gated) -> String {
    let function = match gated.activation {
        Activation::Silu => "SILU",
        Activation::SigmoidProduct => "SIGMOID_PRODUCT",
        Activation::Gelu => "GELU",
        Activation::GeluTanh => "GELU_TANH",
    };
    format!(
        "struct Gate {{\n    typedef {} Rows;\n    typedef {} Up;\n    typedef {} Compute;\n    typedef {} Activated;\n    \
         typedef {} Product;\n    static constexpr Function FUNCTION = {function};\n}};\n",
        type_name(gated.dtype),
        type_name(gated.up()),
        type_name(gated.compute()),
        type_name(gated.activated()),
        type_name(gated.product()),
    )
}
