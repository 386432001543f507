//! The plan of a graph for inputs of certain sizes: steps in order, and where every value lies.

use std::{collections::BTreeSet, sync::Arc};

use normfuse_ir::{Graph, Result};

use super::{
    super::ops::Typed,
    arena::Arena,
    backend::Backend,
    builder::Builder,
    chains,
    concrete::{Concrete, Given},
    step::{Place, Root, Step, Value},
};

/// A graph for inputs of certain sizes, planned.
#[derive(Debug)]
pub struct Plan {
    pub(super) values: Vec<Value>,
    pub(super) roots: Vec<Root>,
    /// What is computed once, from weights alone, before the first run.
    pub(super) once: Vec<Step>,
    pub(super) steps: Vec<Step>,
    /// The graph's results, by their order.
    pub(super) outputs: Vec<usize>,
    pub(super) arena: Arena,
    /// Words in which kernels say that data are none that their op is defined for.
    pub(super) faults: usize,
    /// Bytes in which the blocks of a fused norm meet: zeros between launches.
    pub(super) meeting: u64,
}

/// What a plan says of a step, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The node; of a chain the last one.
    pub name: String,
    /// The op, or the ops of a chain.
    pub op: String,
    /// Names of the nodes of the graph that it computes, or computes a part of.
    pub nodes: Vec<String>,
    /// Kernels that it launches; one of a product.
    pub launches: usize,
    /// Bytes that it reads and writes: of a part that is read as it lies, those of the whole, once.
    pub bytes: u64,
    /// Bytes of scratch.
    pub scratch: u64,
    /// True if it runs once, before the first run.
    pub once: bool,
    /// Dtype and sizes of the results.
    pub results: Vec<Typed>,
}

impl Plan {
    /// Plans a graph.
    ///
    /// # Errors
    /// What [`Concrete::new`] says; `Unsupported` for nodes that the GPU cannot run, all of them named.
    pub fn new(graph: &Graph, given: &[Given], backend: &dyn Backend) -> Result<Self> {
        let concrete = Concrete::new(graph, given)?;
        let groups = chains::find(graph, &concrete)?;
        let mut builder = Builder::new(graph, &concrete, given, backend);
        builder.steps(&groups)?;
        builder.outputs()?;
        Ok(builder.finish())
    }

    /// What runs, in order; first what runs once.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |step: &Step, once: bool| Listed {
            name: step.name.clone(),
            op: step.op.clone(),
            nodes: step.nodes.clone(),
            launches: step.work.launches(),
            bytes: step.operands().collect::<BTreeSet<_>>().into_iter().map(|v| self.values[v].bytes()).sum(),
            scratch: step.scratch,
            once,
            results: step.outputs.iter().map(|v| self.values[*v].typed.clone()).collect(),
        };
        let once = self.once.iter().map(|s| listed(s, true));
        once.chain(self.steps.iter().map(|s| listed(s, false))).collect()
    }

    /// The one piece of memory for what steps hand to one another.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Bytes of weights that are on the GPU while it runs.
    pub fn weight_bytes(&self) -> u64 {
        let resident = |r: &&Root| matches!(r.place, Place::Weight(_) | Place::Kept(_));
        self.roots.iter().filter(resident).map(|r| r.bytes).sum()
    }

    /// Kernels and products that one run launches.
    pub fn launches(&self) -> usize {
        self.steps.iter().map(|s| s.work.launches()).sum()
    }

    /// The texts of its kernels, each once: what is compiled before anything runs, but for fused norms, whose texts depend on the GPU.
    pub fn texts(&self) -> BTreeSet<Arc<str>> {
        let launches = self.once.iter().chain(&self.steps).flat_map(|s| s.work.kernels());
        launches.map(|l| l.text.clone()).collect()
    }

    /// Dtypes and sizes of the graph's results.
    pub fn results(&self) -> impl Iterator<Item = &Typed> {
        self.outputs.iter().map(|v| &self.values[*v].typed)
    }
}
