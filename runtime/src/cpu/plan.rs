//! The plan: a graph flattened into steps over numbered slots.
//!
//! Steps run in topological order. A slot is emptied after the last step that reads it, so that memory peaks at what is
//! live and not at the sum of all values. Constants are shared with the graph, bytes and all: nothing is copied.

use normfuse_ir::{Def, Error, ErrorKind, Graph, NodeId, Op, Result, Shape, Tensor, ValueId};

use super::{fused_norm, ops, scheme};
use crate::signature::{Signature, check_bytes, dangling, needed_nodes};

/// One node, ready to run.
#[derive(Debug, Clone)]
struct Step {
    node: NodeId,
    name: String,
    op: Op,
    inputs: Vec<Option<usize>>,
    outputs: Vec<usize>,
    /// The results' shapes, where the graph says numbers.
    shapes: Vec<Option<Shape>>,
    /// Slots that nobody reads after this step.
    frees: Vec<usize>,
}

/// What an observer is told after each node.
#[derive(Debug)]
pub struct Executed<'a> {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: &'a str,
    /// How many nodes ran before it.
    pub index: usize,
    /// How many nodes the plan runs.
    pub total: usize,
    /// What it computed, in port order.
    pub outputs: &'a [Tensor],
}

/// A graph made ready to run on the CPU, any number of times and from any number of threads.
#[derive(Debug, Clone)]
pub struct Plan {
    signature: Signature,
    /// Where each input goes; `None` for one that nobody reads.
    inputs: Vec<Option<usize>>,
    consts: Vec<(usize, Tensor)>,
    steps: Vec<Step>,
    outputs: Vec<usize>,
    slots: usize,
}

impl Plan {
    /// Schedules the nodes that the graph's results depend on.
    ///
    /// # Errors
    /// `Unsupported` for a node that cannot run here (a foreign op, a descriptor that [`super::supports`] refuses),
    /// `Structure` for a graph that is no graph; each names the node and the op.
    pub fn new(graph: &Graph) -> Result<Self> {
        let signature = Signature::of(graph)?;
        let needed = needed_nodes(graph)?;
        let mut slot_of: Vec<Option<usize>> = vec![None; graph.value_bound()];
        let mut slots = 0;
        let mut consts = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        // The last step that reads a slot; `None` until one does.
        let mut last_read: Vec<Option<usize>> = Vec::new();

        let mut slot = |value: ValueId, last_read: &mut Vec<Option<usize>>| -> Result<usize> {
            let entry = slot_of.get_mut(value.index()).ok_or_else(dangling)?;
            if let Some(slot) = *entry {
                return Ok(slot);
            }
            let known = graph.try_value(value).ok_or_else(dangling)?;
            if let Def::Const(tensor) = &known.def {
                check_bytes(tensor).map_err(|e| e.at_port(known.name.clone()))?;
                consts.push((slots, tensor.clone()));
            }
            *entry = Some(slots);
            last_read.push(None);
            slots += 1;
            Ok(slots - 1)
        };

        for id in graph.topo_order()?.into_iter().filter(|id| needed.get(id.index()).is_some_and(|n| *n)) {
            let node = graph.node(id);
            let at = |e: Error| e.at_node(node.name.clone());
            runnable(&node.op).map_err(at)?;
            let index = steps.len();
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for value in &node.inputs {
                inputs.push(value.map(|v| slot(v, &mut last_read)).transpose().map_err(at)?);
            }
            for &read in inputs.iter().flatten() {
                last_read[read] = Some(index);
            }
            let outputs =
                node.outputs.iter().map(|v| slot(*v, &mut last_read)).collect::<Result<Vec<_>>>().map_err(at)?;
            for &made in &outputs {
                // A result that nobody reads goes at once; a reader further on moves this.
                last_read[made] = Some(index);
            }
            let numbers = |s: &Shape| s.0.iter().any(|d| d.as_const().is_some());
            let shape = |v: &ValueId| graph.value(*v).ty.shape.clone().filter(numbers);
            let shapes = node.outputs.iter().map(shape).collect();
            let (name, op, frees) = (node.name.clone(), node.op.clone(), Vec::new());
            steps.push(Step { node: id, name, op, inputs, outputs, shapes, frees });
        }

        let outputs = graph.outputs().iter().map(|o| slot(o.value, &mut last_read)).collect::<Result<Vec<usize>>>()?;
        for &kept in &outputs {
            last_read[kept] = None;
        }
        for (slot, last) in last_read.iter().enumerate() {
            if let Some(step) = last {
                steps[*step].frees.push(slot);
            }
        }
        let inputs = graph.inputs().iter().map(|v| slot_of[v.index()]).collect();
        Ok(Self { signature, inputs, consts, steps, outputs, slots })
    }

    /// Nodes that a run executes.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// True if the results are inputs and constants only.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Runs the graph; inputs and results in the graph's order.
    ///
    /// # Errors
    /// `Structure`, `DType` or `Shape` for inputs that the graph does not take; else what a node refuses, with its name.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.run_observed(inputs, &mut |_| Ok(()))
    }

    /// As [`Plan::run`], and tells `observer` of every node as soon as it ran. An error of the observer ends the run.
    ///
    /// # Errors
    /// As [`Plan::run`], and the observer's.
    pub fn run_observed(
        &self,
        inputs: &[Tensor],
        observer: &mut dyn FnMut(&Executed<'_>) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let mut slots: Vec<Option<Tensor>> = vec![None; self.slots];
        self.signature.check_tensors(inputs)?;
        for (slot, tensor) in self.inputs.iter().zip(inputs) {
            if let Some(slot) = slot {
                slots[*slot] = Some(tensor.clone());
            }
        }
        for (slot, tensor) in &self.consts {
            slots[*slot] = Some(tensor.clone());
        }
        for (index, step) in self.steps.iter().enumerate() {
            let operands: Vec<Option<&Tensor>> =
                step.inputs.iter().map(|s| s.and_then(|s| slots[s].as_ref())).collect();
            let results = ops::execute(&step.op, &operands).map_err(|e| e.at_node(step.name.clone()))?;
            if results.len() != step.outputs.len() {
                let message = format!("`{}` made {} of {} results", step.op.name(), results.len(), step.outputs.len());
                return Err(Error::new(ErrorKind::Structure, message).at_node(step.name.clone()));
            }
            for (shape, result) in step.shapes.iter().zip(&results) {
                let same = shape.as_ref().map_or(Ok(()), |s| s.check(result.shape()));
                same.map_err(|e| e.at_node(step.name.clone()))?;
            }
            observer(&Executed {
                node: step.node,
                name: &step.name,
                index,
                total: self.steps.len(),
                outputs: &results,
            })?;
            for (slot, tensor) in step.outputs.iter().zip(results) {
                slots[*slot] = Some(tensor);
            }
            for slot in &step.frees {
                slots[*slot] = None;
            }
        }
        self.outputs.iter().map(|s| slots[*s].clone().ok_or_else(dangling)).collect()
    }
}

/// Refuses at once what no data can make run.
fn runnable(op: &Op) -> Result<()> {
    match op {
        Op::Foreign(f) => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "`{}` cannot be executed: {}",
                op.name(),
                if f.reason.is_empty() { "unknown op" } else { &f.reason }
            ),
        )
        .hint("foreign ops pass through compile untouched, but only the engine that defines them can run them")),
        Op::FusedNorm(f) => fused_norm::supports(f).map_err(|why| refused(op, &why)),
        Op::Quantize(s) => scheme::supports_quantize(s).map_err(|why| refused(op, &why)),
        _ => Ok(()),
    }
}

fn refused(op: &Op, why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("`{}` cannot be executed: {why}", op.name()))
}
