//! Views under other names, and those that have the shape of another tensor: [`super::view`] has what they come down to.

use std::sync::Arc;

use normfuse_ir::ValueId;

use super::{
    super::{args::Call, build::axis_of, expr::Expr, memory::Part},
    Outcome,
    view::{part_of_fresh, slice, split, transposed},
};
use crate::reject::{Reject, foreign};

pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let (base, overload) = name.split_once('.').unwrap_or((name, ""));
    let known = match base {
        "narrow" | "view_as" | "reshape_as" | "expand_as" | "broadcast_to" | "ravel" | "mT" | "mH" | "adjoint"
        | "matrix_H" | "swapaxes" | "swapdims" | "conj" | "resolve_conj" | "resolve_neg" | "real" | "positive" => {
            overload == "default"
        }
        "movedim" | "moveaxis" => matches!(overload, "int" | "intlist"),
        "hsplit" | "vsplit" | "dsplit" => matches!(overload, "int" | "array"),
        "tensor_split" => matches!(overload, "sections" | "indices"),
        _ => false,
    };
    if !known {
        return Ok(None);
    }
    let of = c.name("self")?;
    if base == "narrow" && c.b.memory.is_fresh(of) {
        return part_of_fresh(c, of, base).map(Some);
    }
    let x = c.tensor("self")?;
    let rank = c.b.shape(x)?.len();
    let mut part = Part::Other;
    let value = match base {
        "narrow" => {
            let (value, found) = slice(c, x)?;
            part = found;
            value
        }
        "view_as" | "reshape_as" | "ravel" => {
            // Those of a view never copy.
            if base == "view_as" {
                part = Part::Reshaped;
            }
            let to = shape_of_result(c)?;
            c.b.reshape(x, &to)?
        }
        "expand_as" | "broadcast_to" => {
            let to = shape_of_result(c)?;
            c.b.expand(x, &to)?
        }
        "mT" | "mH" | "adjoint" | "matrix_H" => {
            if rank < 2 {
                return foreign(format!("it is of a tensor of rank {rank}"));
            }
            swapped(c, x, rank - 2, rank - 1)?
        }
        "swapaxes" | "swapdims" => {
            let (from, to) = if base == "swapaxes" { ("axis0", "axis1") } else { ("dim0", "dim1") };
            let (a, b) = (c.required(from)?, c.required(to)?);
            if rank == 0 { x } else { swapped(c, x, axis_of(a, rank)?, axis_of(b, rank)?)? }
        }
        "movedim" | "moveaxis" => {
            let (from, to) = (c.ints("source")?, c.ints("destination")?);
            moved(c, x, rank, &from, &to)?
        }
        "hsplit" | "vsplit" | "dsplit" | "tensor_split" => return pieces(c, of, base, rank).map(Some),
        // Of real numbers they are the tensor.
        _ => {
            part = Part::Whole;
            x
        }
    };
    Ok(Some(Outcome::View { of, part, value }))
}

/// The sizes of the result as the file types it; inference compares the numbers of elements.
fn shape_of_result(c: &mut Call<'_, '_>) -> Result<Vec<Arc<Expr>>, Reject> {
    c.skip(&["other", "size"]);
    let result = c.result()?;
    Ok(c.b.meta_sizes(result)?)
}

fn swapped(c: &mut Call<'_, '_>, x: ValueId, a: usize, b: usize) -> Result<ValueId, Reject> {
    let mut perm: Vec<i64> = (0..c.b.shape(x)?.len() as i64).collect();
    perm.swap(a, b);
    transposed(c, x, &perm)
}

/// Axes to other places; the rest keep their order.
fn moved(c: &mut Call<'_, '_>, x: ValueId, rank: usize, from: &[i64], to: &[i64]) -> Result<ValueId, Reject> {
    if rank == 0 {
        return Ok(x);
    }
    let places = |all: &[i64]| all.iter().map(|a| axis_of(*a, rank)).collect::<Result<Vec<_>, _>>();
    let (from, to) = (places(from)?, places(to)?);
    let mut rest = (0..rank).filter(|a| !from.contains(a));
    let axis = |place| to.iter().position(|t| *t == place).map_or_else(|| rest.next(), |i| from.get(i).copied());
    let perm: Vec<i64> = (0..rank).filter_map(axis).map(|a| a as i64).collect();
    if perm.len() != rank || from.len() != to.len() {
        return foreign("it does not say where each axis goes");
    }
    transposed(c, x, &perm)
}

/// Parts along an axis, as the file types them.
fn pieces<'p>(c: &mut Call<'_, 'p>, of: &'p str, base: &str, rank: usize) -> Result<Outcome<'p>, Reject> {
    let x = c.tensor("self")?;
    let axis = match base {
        "tensor_split" => c.int("dim", 0)?,
        "hsplit" => i64::from(rank > 1),
        "vsplit" => 0,
        _ => 2,
    };
    let axis = axis_of(axis, rank)?;
    c.skip(&["sections", "indices"]);
    let mut sum = Some(0);
    for name in c.results() {
        let size = c.b.meta_sizes(name)?.get(axis).and_then(|e| e.dim().as_const());
        sum = sum.zip(size).map(|(a, b)| a + b);
    }
    if sum.is_none() || sum != c.b.shape(x)?[axis].as_const() {
        return foreign("its parts are not known to be the tensor, one after another");
    }
    split(c, of, x, axis)
}
