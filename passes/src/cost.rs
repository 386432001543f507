//! What an op costs: launches and bytes on a described device, for a range of tokens.
//!
//! Fusions are chosen by the cost of all that remains of a region: every node that is still needed, views excepted, is a
//! launch that reads its operands and writes its results, and so is every fused op. With a [`Device`] that is exact and
//! simple: taking a quantiser, an add or a sibling into an op removes a launch and never adds a byte, so the largest legal
//! fusion is the cheapest at every number of tokens. A host's own [`CostTable`] may say otherwise, and so may its kernels;
//! then every legal choice is priced (see [`crate::select`]).

use std::{cell::OnceCell, collections::BTreeSet, sync::Arc};

use normfuse_ir::{DType, Dim, Graph, NodeId, Op, Shape};
use serde::{Deserialize, Serialize};

use crate::{
    candidate::Candidate,
    region::typed,
    rewrite::{port_type, tokens},
    views::is_view,
};

/// A device, as a file describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// What it is called.
    pub name: String,
    /// Nanoseconds that a launch takes beside moving bytes.
    pub launch_ns: f64,
    /// Bytes that memory moves in a nanosecond, reads and writes together.
    pub bytes_per_ns: f64,
    /// The fewest and the most tokens that fusions are chosen for.
    pub tokens: [u64; 2],
}

impl Default for Device {
    /// An H200: 4281 GB/s of a device-to-device copy, and about a microsecond a launch of a captured graph.
    fn default() -> Self {
        Self { name: "NVIDIA H200".into(), launch_ns: 1100.0, bytes_per_ns: 4281.0, tokens: [1, 16384] }
    }
}

impl Device {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        let [low, high] = self.tokens;
        if !self.launch_ns.is_finite() || self.launch_ns < 0.0 {
            return Err(format!("launch_ns: expected 0 or more, found {}", self.launch_ns));
        }
        if !self.bytes_per_ns.is_finite() || self.bytes_per_ns <= 0.0 {
            return Err(format!("bytes_per_ns: expected more than 0, found {}", self.bytes_per_ns));
        }
        if low == 0 || low > high {
            return Err(format!("tokens: expected 1 or more, the fewest first, found [{low}, {high}]"));
        }
        Ok(())
    }

    /// Nanoseconds for a launch.
    pub fn ns(&self, work: &Work<'_>, tokens: u64) -> f64 {
        self.launch_ns + (work.fixed as f64 + work.per_token as f64 * tokens as f64) / self.bytes_per_ns
    }

    /// Numbers of tokens at which choices are priced: the range, fourfold apart.
    pub(crate) fn samples(&self) -> Vec<u64> {
        let [low, high] = self.tokens;
        let mut samples: Vec<u64> =
            std::iter::successors(Some(low.max(1)), |m| m.checked_mul(4)).take_while(|m| *m < high).collect();
        samples.push(high.max(1));
        samples
    }
}

/// One launch: what runs, and the bytes that it reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// The op, a fused one or one of the source's.
    pub op: &'a Op,
    /// Bytes whatever the number of tokens (weights, scales of a tensor).
    pub fixed: u64,
    /// Bytes a token.
    pub per_token: u64,
}

/// Nanoseconds for a launch at a number of tokens, as a host measured them.
pub type CostTable = Arc<dyn Fn(&Work<'_>, u64) -> f64 + Send + Sync>;

/// Bytes of a tensor: fixed, or a token.
fn bytes(dtype: DType, shape: &Shape, tokens: &Dim) -> (u64, u64) {
    let numel = shape.numel();
    let size = |n: i64| (n.unsigned_abs().saturating_mul(dtype.bits() as u64)).div_ceil(8);
    match (numel.as_const(), numel.div_exact(tokens).and_then(|d| d.as_const())) {
        (Some(n), _) if tokens.as_const().is_none() => (size(n), 0),
        (_, Some(n)) => (0, size(n)),
        (Some(n), None) => (size(n), 0),
        (None, None) => (0, 0),
    }
}

/// Tensors as the bytes of one launch.
fn work<'a>(op: &'a Op, tensors: impl Iterator<Item = (DType, Shape)>, tokens: &Dim) -> Work<'a> {
    let mut work = Work { op, fixed: 0, per_token: 0 };
    for (dtype, shape) in tensors {
        let (fixed, per_token) = bytes(dtype, &shape, tokens);
        work.fixed = work.fixed.saturating_add(fixed);
        work.per_token = work.per_token.saturating_add(per_token);
    }
    work
}

/// Prices by a device or by a host's table.
pub(crate) struct Price<'a> {
    graph: &'a Graph,
    device: &'a Device,
    table: Option<&'a CostTable>,
    samples: Vec<u64>,
    /// What the whole group costs as it is, at each sample; filled when first asked for.
    whole: OnceCell<Vec<f64>>,
    group: BTreeSet<NodeId>,
}

impl<'a> Price<'a> {
    /// Prices for choices about the nodes of a group.
    pub(crate) fn new(
        graph: &'a Graph,
        group: BTreeSet<NodeId>,
        device: &'a Device,
        table: Option<&'a CostTable>,
    ) -> Self {
        Self { graph, device, table, samples: device.samples(), whole: OnceCell::new(), group }
    }

    fn at(&self, work: &Work<'_>) -> Vec<f64> {
        let ns = |m: &u64| self.table.map_or_else(|| self.device.ns(work, *m), |table| table(work, *m));
        self.samples.iter().map(ns).collect()
    }

    fn node(&self, id: NodeId, tokens: &Dim) -> Vec<f64> {
        let node = self.graph.node(id);
        if is_view(self.graph, id) {
            return vec![0.0; self.samples.len()];
        }
        let values = node.operands().map(|(_, v)| v).chain(node.outputs.iter().copied());
        let tensors = values.filter_map(|v| typed(self.graph, v).map(|(d, s)| (d, s.clone())));
        self.at(&work(&node.op, tensors, tokens))
    }

    /// True if a fusion is fewer launches than what it replaces; it never moves more bytes.
    pub(crate) fn saves_launches(&self, c: &Candidate) -> bool {
        c.replaced.iter().filter(|n| !is_view(self.graph, **n)).nth(1).is_some()
    }

    /// What a fusion saves, as a share of what its group costs as it is, summed over the range of tokens: small and large
    /// batches count alike. Positive where it pays.
    pub(crate) fn saving(&self, c: &Candidate) -> f64 {
        let Some(tokens) = c.rows(0).and_then(|v| typed(self.graph, v)).map(|(_, s)| tokens(s)) else { return 0.0 };
        let sum = |nodes: &mut dyn Iterator<Item = NodeId>| {
            let mut total = vec![0.0; self.samples.len()];
            for id in nodes {
                total.iter_mut().zip(self.node(id, &tokens)).for_each(|(sum, ns)| *sum += ns);
            }
            total
        };
        let before = sum(&mut c.replaced.iter().copied());
        let whole = self.whole.get_or_init(|| sum(&mut self.group.iter().copied()));
        let read = c.operands.iter().filter_map(|(_, v)| typed(self.graph, *v).map(|(d, s)| (d, s.clone())));
        let written = c.ports.iter().filter_map(|(port, _, shape)| {
            let ty = port_type(&c.descriptor, *port, shape);
            Some((ty.dtype?, ty.shape?))
        });
        let op = c.descriptor.op();
        let after = self.at(&work(&op, read.chain(written), &tokens));
        let shares = before.iter().zip(&after).zip(whole);
        shares.map(|((b, a), whole)| if *whole > 0.0 { (b - a) / whole } else { b - a }).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_costs_its_bytes_and_itself() {
        let device = Device { name: "a".into(), launch_ns: 1000.0, bytes_per_ns: 2.0, tokens: [1, 100] };
        let op = Op::Clip;
        assert_eq!(device.ns(&Work { op: &op, fixed: 10, per_token: 4 }, 3), 1000.0 + 11.0);
        assert_eq!(device.samples(), [1, 4, 16, 64, 100]);
        let one = Device { tokens: [7, 7], ..device.clone() };
        assert_eq!(one.samples(), [7]);
        for bad in [
            Device { tokens: [0, 1], ..device.clone() },
            Device { tokens: [2, 1], ..device.clone() },
            Device { bytes_per_ns: 0.0, ..device.clone() },
            Device { launch_ns: f64::NAN, ..device },
        ] {
            bad.check().unwrap_err();
        }
    }

    #[test]
    fn bytes_are_fixed_or_of_a_token() {
        let (batch, seq) = (Dim::sym("batch"), Dim::sym("seq"));
        let tokens = &batch * &seq;
        let shape = |dims: &[Dim]| Shape(dims.to_vec());
        assert_eq!(bytes(DType::BF16, &shape(&[batch.clone(), seq.clone(), Dim::from(64)]), &tokens), (0, 128));
        assert_eq!(bytes(DType::F4E2M1, &shape(&[&batch * &seq, Dim::from(64)]), &tokens), (0, 32));
        assert_eq!(bytes(DType::F32, &shape(&[Dim::from(64)]), &tokens), (256, 0));
        assert_eq!(bytes(DType::F32, &shape(&[]), &tokens), (4, 0));
        // Where everything is fixed, leading sizes are tokens too.
        assert_eq!(bytes(DType::F32, &shape(&[Dim::from(6), Dim::from(8)]), &Dim::from(6)), (0, 32));
    }
}
