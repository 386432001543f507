//! What a host hears while the pass runs.

use crate::report::{Kind, Site};

/// Told of progress and outcomes, in the order of the report. Every method does nothing unless it is written.
pub trait Observer {
    /// So many anchors of a kind are tried next: norms (`Kind::Norm`), then quantisers (`Kind::Quant`).
    fn anchors(&mut self, _kind: Kind, _count: usize) {}

    /// One of them is about to be tried.
    fn trying(&mut self, _anchor: &str) {}

    /// So many regions were cut around norms, and so many of them are distinct: each of those was saturated once.
    fn solved(&mut self, _distinct: usize, _regions: usize) {}

    /// What became of an anchor, before anything is relaxed. A quantiser that is in a norm's op has no site of its own.
    fn decided(&mut self, _site: &Site) {}
}

/// Hears nothing.
impl Observer for () {}
