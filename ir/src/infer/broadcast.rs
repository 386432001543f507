//! Multidirectional (numpy) broadcasting.

use super::args::{Args, show};
use crate::{Dim, Result};

impl Args<'_> {
    /// The shape to which operands broadcast together; `None` if one is unknown. `result` is the result's port.
    pub(super) fn broadcast(&self, ports: &[usize], result: usize) -> Result<Option<Vec<Dim>>> {
        let mut shape: Option<Vec<Dim>> = None;
        for &port in ports {
            let Some(s) = self.shape(port) else { return Ok(None) };
            shape = Some(match shape {
                None => s.to_vec(),
                Some(acc) if acc.as_slice() == s => acc,
                Some(acc) => self.broadcast_two(&acc, s, port, result)?,
            });
        }
        Ok(shape)
    }

    /// Both shapes, aligned at their last axes.
    pub(super) fn broadcast_two(&self, a: &[Dim], b: &[Dim], port: usize, result: usize) -> Result<Vec<Dim>> {
        let rank = a.len().max(b.len());
        (0..rank)
            .map(|i| {
                let at = |s: &[Dim]| (i + s.len()).checked_sub(rank).and_then(|j| s.get(j).cloned());
                match (at(a), at(b)) {
                    (Some(x), Some(y)) => self.broadcast_dim(&x, &y, result, i).ok_or_else(|| {
                        self.shape_error(
                            port,
                            format!(
                                "shapes {} and {} do not broadcast: expected {x} or 1, found {y}",
                                show(a),
                                show(b)
                            ),
                        )
                    }),
                    (x, y) => Ok(x.or(y).unwrap_or_else(|| Dim::from(1))),
                }
            })
            .collect()
    }

    /// `None` if the sizes contradict each other.
    fn broadcast_dim(&self, a: &Dim, b: &Dim, result: usize, axis: usize) -> Option<Dim> {
        if a == b {
            return Some(a.clone());
        }
        let (x, y) = (a.as_const(), b.as_const());
        if x == Some(1) || y == Some(1) {
            return Some(if x == Some(1) { b.clone() } else { a.clone() });
        }
        match (x, y) {
            (Some(_), Some(_)) => None,
            // The other one is equal or 1: in either case the result is the number.
            (Some(_), None) => Some(a.clone()),
            (None, Some(_)) => Some(b.clone()),
            // Equal, or one of them is 1 and not larger than the other. A size of 0 against 1 would give 0.
            (None, None) if a.min_value() >= Some(1) && b.min_value() >= Some(1) => Some(a.maximum(b)),
            (None, None) => Some(self.fresh(result, axis)),
        }
    }
}
