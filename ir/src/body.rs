//! The check that keeps a fused op honest: its body (the source subgraph) and its descriptor are run on hostile data
//! and must give the same bits.

mod bits;
mod deviation;
pub mod hostile;
mod operands;
mod sizes;

use std::collections::BTreeSet;

pub use bits::{Mismatch, bits_equal};
pub use deviation::{Deviation, deviation};
use hostile::{Rng, Row, WeightKind};
use operands::{data, operands};
use sizes::{DataSet, Extent};

use crate::{Error, ErrorKind, Graph, Node, NodeId, Op, Result, Tensor, Type, eval, text};

/// Runs a fused node's body and its descriptor on hostile data and compares the bits of every result. Symbolic sizes
/// are bound to small numbers, the same name to the same one, and so are numbers of rows that are too large to run.
///
/// # Errors
/// `Value` with the first difference, both bit patterns and the output's name; `Structure` if there is no body or its
/// ports are not the op's; `Unsupported` if even a single row is too large; whatever keeps one of the two from running.
pub fn check(node: &Node, types: &[Type]) -> Result<()> {
    check_body(node, types).map_err(|e| e.at_node(&node.name))
}

/// [`check`] of a node in a graph, with the types that its operands have there.
///
/// # Errors
/// As [`check`].
pub fn check_in(graph: &Graph, id: NodeId) -> Result<()> {
    let node = graph.try_node(id).ok_or_else(|| Error::new(ErrorKind::Structure, "the node does not exist"))?;
    let types: Vec<Type> = node
        .inputs
        .iter()
        .map(|v| v.and_then(|v| graph.try_value(v)).map(|v| v.ty.clone()).unwrap_or_default())
        .collect();
    check(node, &types)
}

/// [`check`] of every fused node of a graph whose types are known; nodes that differ in nothing that the check sees are
/// checked once. Returns how many distinct ones there were.
///
/// # Errors
/// As [`check`]: the first node that does not agree.
pub fn check_all(graph: &Graph) -> Result<usize> {
    let mut seen = BTreeSet::new();
    for (id, node) in graph.nodes().filter(|(_, n)| n.op.is_fused()) {
        let types: Vec<_> = node.operands().filter_map(|(_, v)| graph.try_value(v)).map(|v| &v.ty).collect();
        // The text has everything that decides what a body computes, the contents of its constants included.
        let body = node.body.as_ref().map(|b| text::print(b)).unwrap_or_default();
        if seen.insert(format!("{:?}\n{types:?}\n{body}", node.op)) {
            check_in(graph, id)?;
        }
    }
    Ok(seen.len())
}

/// Whether [`check`] can decide about an op with operands of these types: it cannot where a single row is too large, or
/// where the body holds a large number of rows in a way that smaller ones do not fit.
///
/// # Errors
/// Why not. Cheap where the sizes are small or symbolic: nothing is run then.
pub fn checkable(op: &Op, body: &Graph, types: &[Type]) -> Result<()> {
    let subject = Subject { op, body, extent: Extent::of(operands(op, types)?)? };
    if subject.extent.is_own() {
        return Ok(());
    }
    let mut rng = Rng::new(SEED);
    (1..=2).try_for_each(|n| subject.compare(&subject.extent.round(n)?, &Row::ALL, WeightKind::Ordinary, &mut rng))
}

const SEED: u64 = 0x6e6f_726d_6675_7365;

fn check_body(node: &Node, types: &[Type]) -> Result<()> {
    let Some(body) = &node.body else {
        return Err(Error::new(ErrorKind::Structure, "a fused op needs a body that spells it out, found none"));
    };
    agree(&node.op, body, types)
}

/// [`check`] of an op and a body that are in no graph yet.
///
/// # Errors
/// As [`check`], without a node.
pub fn agree(op: &Op, body: &Graph, types: &[Type]) -> Result<()> {
    let operands = operands(op, types)?;
    let (ins, outs) = (operands.len(), op.num_outputs());
    if body.inputs().len() != ins || body.outputs().len() != outs {
        return Err(Error::new(
            ErrorKind::Structure,
            format!(
                "the body has {} inputs and {} outputs, the descriptor {ins} and {outs}",
                body.inputs().len(),
                body.outputs().len()
            ),
        ));
    }
    Subject { op, body, extent: Extent::of(operands)? }.check()
}

/// An op and the body that it is compared with.
struct Subject<'a> {
    op: &'a Op,
    body: &'a Graph,
    extent: Extent,
}

impl Subject<'_> {
    fn check(&self) -> Result<()> {
        let mut rng = Rng::new(SEED);
        let mut elements = 0;
        for weight in WeightKind::ALL {
            // Rows take the kinds in turn, over as many runs as it takes to see all of them at every number of rows.
            let (mut seen, mut round) = (0, 0);
            while seen < Row::ALL.len() || (self.extent.has_symbols() && round < sizes::ROUNDS) {
                if elements > sizes::ALL_SETS {
                    break;
                }
                let set = self.extent.round(round)?;
                let mut kinds = Row::ALL;
                kinds.rotate_left(seen % Row::ALL.len());
                self.compare(&set, &kinds, weight, &mut rng)?;
                elements += set.elements();
                seen += set.rows();
                round += 1;
            }
        }
        self.compare(&self.extent.bulk()?, &[Row::Bell], WeightKind::Ordinary, &mut rng)
    }

    /// Compares the two on one data set.
    fn compare(&self, set: &DataSet, kinds: &[Row], weight: WeightKind, rng: &mut Rng) -> Result<()> {
        let inputs = data(&self.extent.operands, &set.shapes, kinds, weight, rng)?;
        let shown = || inputs.iter().map(|t| format!("{}{:?}", t.dtype(), t.shape())).collect::<Vec<_>>().join(", ");
        let spelled = (self.extent.body(self.body, set, &inputs))
            .and_then(|body| eval::run(&body, &inputs))
            .map_err(|e| Error::new(e.kind, format!("the body does not run on {}: {e}", shown())))?;
        let refs: Vec<Option<&Tensor>> = inputs.iter().map(Some).collect();
        let fused = eval::eval_node(self.op, &refs)?;
        for ((name, fused), spelled) in self.op.output_names().iter().zip(&fused).zip(&spelled) {
            if let Some(m) = bits_equal(fused, spelled) {
                return Err(Error::new(
                    ErrorKind::Value,
                    format!(
                        "the descriptor and the body of the fused op differ, {m} (descriptor against body, on {})",
                        shown()
                    ),
                )
                .at_port(format!("output `{name}`")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
