//! Relaxations: named departures from the source's bits, none of which is on unless it is asked for.
//!
//! A relaxation is a function over the graph that the pass has rewritten and verified. It leaves a graph that is as sound as the exact
//! one. A fused op that becomes another is compared with what it says of itself, bit for bit on hostile data, and stays as it was where
//! that fails; how far it is from the exact one is measured on ordinary data, and told at its site. A product of codes is its own
//! definition: what is told of it is how far that definition is from a product of dequantised values.

mod deviation;
mod scaled_matmul;
mod single_rounding;
mod spread;

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use normfuse_ir::{
    FusedNorm, Graph, NodeId, Op, Result, Type,
    body::{self, Deviation},
    infer,
};
use serde::{Deserialize, Serialize};

use crate::{Options, Report};

/// A named departure from the source's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relaxation {
    /// The normed value goes to its quantisers as it is, in f32, where the source rounds it to 16 bits before.
    SingleRounding,
    /// A product of two dequantised values multiplies codes, and scales what comes of it.
    ScaledMatmul,
}

impl Relaxation {
    /// All that there are, in the order in which they are applied.
    pub const ALL: [Self; 2] = [Self::SingleRounding, Self::ScaledMatmul];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleRounding => "single-rounding",
            Self::ScaledMatmul => "scaled-matmul",
        }
    }

    /// Rewrites all places of a graph that it may, and tells of them.
    fn apply(self, graph: &mut Graph, options: &Options, report: &mut Report) -> Result<()> {
        match self {
            Self::SingleRounding => fused_norms(self, single_rounding::relax, graph, options, report)?,
            Self::ScaledMatmul => {
                let (made, left) = scaled_matmul::relax(graph, options)?;
                report.products.extend(made);
                report.notes.extend(left.iter().map(|why| format!("{self} leaves {why}")));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Relaxation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Relaxation {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|r| r.name() == s);
        known.ok_or_else(|| format!("no such relaxation; relaxations: {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// A relaxation at one site, and what it changes there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relaxed {
    /// Which one.
    pub relaxation: Relaxation,
    /// By result of the site's op, elements that differ from those of the exact op on ordinary data. Sites that share an op have the
    /// same.
    pub deviation: Vec<Deviation>,
}

/// Applies the relaxations that the options allow.
pub(crate) fn all(graph: &mut Graph, options: &Options, report: &mut Report) -> Result<()> {
    if options.relax.is_empty() {
        return Ok(());
    }
    for relaxation in &options.relax {
        relaxation.apply(graph, options, report)?;
    }
    infer::infer(graph)?;
    graph.verify_inferred()?;
    report.summary.nodes_after = graph.node_count();
    Ok(())
}

/// Another descriptor of a fused norm, with a body that spells it out; `None` if there is nothing to relax, or why there is and it
/// cannot be.
type Change = fn(&FusedNorm, &Graph) -> std::result::Result<Option<(FusedNorm, Graph)>, String>;

/// A relaxation of single ops: every fused norm that the pass made, where the change has another descriptor for it, the host supports
/// that, and it agrees with its body.
fn fused_norms(
    relaxation: Relaxation,
    change: Change,
    graph: &mut Graph,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    let made: BTreeSet<&String> = report.sites.iter().filter_map(|s| s.op.as_ref()).collect();
    let of_pass = graph.nodes().filter(|(_, n)| matches!(n.op, Op::FusedNorm(_)) && made.contains(&n.name));
    let norms: Vec<NodeId> = of_pass.map(|(id, _)| id).collect();
    // Equal ops are relaxed alike.
    let mut known: Vec<Known> = Vec::new();
    for id in norms {
        let node = graph.node(id);
        let (Op::FusedNorm(norm), Some(body)) = (&node.op, &node.body) else { continue };
        let types: Vec<Type> = node.operands().map(|(_, v)| graph.value(v).ty.clone()).collect();
        let met = known.iter().find(|k| k.op == node.op && Arc::ptr_eq(&k.body, body) && k.types == types);
        let becomes = if let Some(met) = met {
            met.becomes.clone()
        } else {
            let tried = change(norm, body).and_then(|changed| {
                changed.map(|(norm, body)| relaxed(&node.op, norm, body, &types, options)).transpose()
            });
            let becomes = tried.unwrap_or_else(|why| {
                report.notes.push(format!("{relaxation} leaves {} exact: {why}", node.name));
                None
            });
            known.push(Known { op: node.op.clone(), body: body.clone(), types, becomes: becomes.clone() });
            becomes
        };
        let Some(Becomes { op, body, deviation }) = becomes else { continue };
        graph.set_op(id, op)?;
        let (name, _, slot) = graph.node_meta_mut(id);
        *slot = Some(body);
        for site in report.sites.iter_mut().filter(|s| s.op.as_ref() == Some(name)) {
            site.relaxed.push(Relaxed { relaxation, deviation: deviation.clone() });
        }
    }
    Ok(())
}

/// A fused op that was met, and what it becomes.
struct Known {
    op: Op,
    body: Arc<Graph>,
    types: Vec<Type>,
    becomes: Option<Becomes>,
}

/// What a fused op becomes.
#[derive(Clone)]
struct Becomes {
    op: Op,
    body: Arc<Graph>,
    deviation: Vec<Deviation>,
}

/// The relaxed op, if the host has it and it agrees with its body; else why it does not become one.
fn relaxed(
    exact: &Op,
    norm: FusedNorm,
    body: Graph,
    types: &[Type],
    options: &Options,
) -> std::result::Result<Becomes, String> {
    (options.supports)(&norm)?;
    let (op, body) = (Op::FusedNorm(Arc::new(norm)), Arc::new(body));
    body::agree(&op, &body, types).map_err(|e| e.to_string())?;
    let deviation = body::deviation(exact, &op, types).map_err(|e| e.to_string())?;
    Ok(Becomes { op, body, deviation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for relaxation in Relaxation::ALL {
            assert_eq!(relaxation.to_string().parse(), Ok(relaxation));
            assert_eq!(serde_json::to_value(relaxation).unwrap(), relaxation.name());
        }
        let unknown = "exact".parse::<Relaxation>().unwrap_err();
        assert!(unknown.starts_with("no such relaxation; relaxations: single-rounding"), "{unknown}");
        assert!(Options::default().relax.is_empty());
    }
}
