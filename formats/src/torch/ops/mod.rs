//! One call to nodes of the IR: the dispatch.
//!
//! The rule for all: an argument, operand or spelling that is not known keeps the call foreign. It is never dropped.

mod alike;
mod complex;
mod compute;
mod create;
mod einsum;
mod index;
mod mutate;
mod norm;
mod pointwise;
mod quant;
mod scaled;
mod view;

use normfuse_ir::ValueId;

use super::{args::Call, build::Builder, memory::Part, schema::Node};
use crate::reject::{Reject, foreign};

/// What the call's results are, in order.
pub enum Outcome<'p> {
    /// Values of their own; `None` for a result that nobody reads and nobody computes.
    Values(Vec<Option<ValueId>>),
    /// A view of a tensor, or perhaps a copy.
    View { of: &'p str, part: Part, value: ValueId },
    /// Several of them.
    Views { of: &'p str, values: Vec<ValueId> },
    /// The results are entered in the memory already.
    Done,
}

impl Outcome<'_> {
    fn one(value: ValueId) -> Self {
        Self::Values(vec![Some(value)])
    }
}

/// Maps a call.
pub fn map<'p>(c: &mut Call<'_, 'p>) -> Result<Outcome<'p>, Reject> {
    let Some(target) = c.node.target.strip_prefix("torch.ops.") else { return foreign("unknown op") };
    let (space, name) = target.split_once('.').unwrap_or(("", target));
    let outcome = match space {
        "aten" | "prims" => aten(c, name)?,
        "torchao" => quant::torchao(c, name)?,
        _ => None,
    };
    let Some(outcome) = outcome else { return foreign("unknown op") };
    match c.unknown() {
        Some(name) => foreign(format!("argument `{name}` is not known")),
        None => Ok(outcome),
    }
}

fn aten<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let families = [
        complex::op,
        mutate::op,
        view::op,
        alike::op,
        pointwise::op,
        norm::op,
        compute::op,
        einsum::op,
        index::op,
        create::op,
        quant::aten,
        scaled::op,
    ];
    for family in families {
        if let Some(outcome) = family(c, name)? {
            return Ok(Some(outcome));
        }
    }
    Ok(None)
}

/// In-place ops that are called as Python calls their operators.
const OPERATORS: [&str; 5] = ["__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"];

/// Ops of torch's that change an operand and whose names do not say so.
const QUIET: [&str; 9] = [
    "aten._batch_norm_with_update.default",
    "aten._fused_moving_avg_obs_fq_helper.default",
    "aten._native_batch_norm_legit.default",
    "aten.fused_moving_avg_obs_fake_quant.default",
    "aten.rrelu_with_noise.default",
    "aten._cummax_helper.default",
    "aten._cummin_helper.default",
    "prims.copy_to.default",
    "prims.resize.default",
];

/// True for an op that changes an operand, by the rules of torch's names.
pub fn mutates(target: &str) -> bool {
    let Some(name) = target.strip_prefix("torch.ops.") else { return false };
    let Some((_, op)) = name.split_once('.') else { return false };
    let (base, overload) = op.split_once('.').unwrap_or((op, ""));
    let in_place = (base.ends_with('_') && !base.ends_with("__")) || OPERATORS.contains(&base);
    in_place || overload == "out" || overload.ends_with("_out") || QUIET.contains(&name)
}

/// True for an op of torch's own, whose name says whether it changes an operand.
pub fn is_torch_s(target: &str) -> bool {
    target.strip_prefix("torch.ops.").is_none_or(|t| {
        let space = t.split('.').next().unwrap_or_default();
        matches!(space, "aten" | "prims" | "prim" | "higher_order" | "quantized_decomposed" | "torchao")
    })
}

/// Ops whose results are always memory of their own.
const NEW: [&str; 6] = [
    "_grouped_mm",
    "_scaled_grouped_mm",
    "_scaled_mm",
    "_scaled_mm_v2",
    "_scaled_grouped_mm_v2",
    "_weight_int4pack_mm",
];

/// True if a result of a call that is not known may be memory of this operand: in torch, all but a few views have the
/// element type of what they are views of.
pub fn may_share(b: &Builder<'_>, node: &Node, operand: &str, result: &str) -> bool {
    let reads_bits = |op: &str| ["view", "real", "imag"].iter().any(|begin| op.starts_with(begin));
    match node.target.strip_prefix("torch.ops.aten.") {
        Some(op) if NEW.contains(&op.split('.').next().unwrap_or_default()) => false,
        Some(op) if !reads_bits(op) => match (b.meta(operand), b.meta(result)) {
            (Ok(from), Ok(to)) => from.dtype == to.dtype,
            _ => true,
        },
        _ => true,
    }
}
