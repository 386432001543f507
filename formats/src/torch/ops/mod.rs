//! One call to nodes of the IR: the dispatch.
//!
//! The rule for all: an argument, operand or spelling that is not known keeps the call foreign. It is never dropped.

mod complex;
mod compute;
mod create;
mod einsum;
mod index;
mod mutate;
mod norm;
mod pointwise;
mod quant;
mod view;

use normfuse_ir::ValueId;

use super::{args::Call, memory::Part};
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
        pointwise::op,
        norm::op,
        compute::op,
        einsum::op,
        index::op,
        create::op,
        quant::aten,
    ];
    for family in families {
        if let Some(outcome) = family(c, name)? {
            return Ok(Some(outcome));
        }
    }
    Ok(None)
}

/// True for an op that changes an operand, by the rules of torch's names.
pub fn mutates(target: &str) -> bool {
    let Some((_, name)) = target.strip_prefix("torch.ops.").and_then(|t| t.split_once('.')) else { return false };
    let (base, overload) = name.split_once('.').unwrap_or((name, ""));
    (base.ends_with('_') && !base.ends_with("__")) || overload == "out" || overload.ends_with("_out")
}
