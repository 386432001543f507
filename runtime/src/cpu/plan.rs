//! The plan: a graph flattened into steps over numbered slots.
//!
//! Steps run in topological order. A slot is emptied after the last step that reads it, so that memory peaks at what is
//! live and not at the sum of all values. Constants are shared with the graph, bytes and all: nothing is copied.

use std::collections::BTreeMap;

use normfuse_ir::{DType, Def, Dim, Error, ErrorKind, Graph, NodeId, Op, Result, Shape, Tensor, ValueId};

use super::{fused_norm, ops, scheme};

/// An input that callers pass.
#[derive(Debug, Clone)]
struct Input {
    name: String,
    dtype: Option<DType>,
    shape: Option<Shape>,
    slot: Option<usize>,
}

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
    inputs: Vec<Input>,
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
        let inputs = graph
            .inputs()
            .iter()
            .map(|v| {
                let value = graph.try_value(*v).ok_or_else(dangling)?;
                Ok(Input {
                    name: value.name.clone(),
                    dtype: value.ty.dtype,
                    shape: value.ty.shape.clone(),
                    slot: slot_of[v.index()],
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { inputs, consts, steps, outputs, slots })
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
        self.bind_inputs(inputs, &mut slots)?;
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

    /// Checks the inputs against what the graph declares and binds its symbols.
    fn bind_inputs(&self, inputs: &[Tensor], slots: &mut [Option<Tensor>]) -> Result<()> {
        if inputs.len() != self.inputs.len() {
            let names: Vec<&str> = self.inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(Error::new(
                ErrorKind::Structure,
                format!("the graph takes {} inputs ({}), found {}", names.len(), names.join(", "), inputs.len()),
            ));
        }
        let mut bound: BTreeMap<String, (i64, &str)> = BTreeMap::new();
        for (spec, tensor) in self.inputs.iter().zip(inputs) {
            let at = |kind, message: String| Error::new(kind, message).at_port(format!("input `{}`", spec.name));
            if let Some(dtype) = spec.dtype
                && dtype != tensor.dtype()
            {
                return Err(at(ErrorKind::DType, format!("expected {dtype}, found {}", tensor.dtype())));
            }
            check_bytes(tensor).map_err(|e| e.at_port(format!("input `{}`", spec.name)))?;
            if let Some(shape) = &spec.shape {
                if shape.rank() != tensor.shape().len() {
                    let message = format!("expected {} axes, found {:?}", shape.rank(), tensor.shape());
                    return Err(at(ErrorKind::Shape, message));
                }
                for (axis, (dim, &size)) in shape.0.iter().zip(tensor.shape()).enumerate() {
                    let size = size as i64;
                    if let Some(symbol) = as_symbol(dim) {
                        let (first, by) = *bound.entry(symbol.clone()).or_insert((size, &spec.name));
                        if first != size {
                            let message = format!("axis {axis}: `{symbol}` is {first} in input `{by}`, found {size}");
                            return Err(at(ErrorKind::Shape, message));
                        }
                    } else if let Some(expected) = dim.eval(&|s| bound.get(s).map(|b| b.0))
                        && expected != size
                    {
                        return Err(at(ErrorKind::Shape, format!("axis {axis}: expected {expected}, found {size}")));
                    }
                }
            }
            if let Some(slot) = spec.slot {
                slots[slot] = Some(tensor.clone());
            }
        }
        Ok(())
    }
}

/// The name, if the size is one symbol with a name.
fn as_symbol(dim: &Dim) -> Option<String> {
    let mut symbols = Vec::new();
    dim.visit_symbols(&mut |s| symbols.push(s.to_owned()));
    match symbols.as_slice() {
        [s] if !s.starts_with('?') && *dim == Dim::sym(s.as_str()) => symbols.pop(),
        _ => None,
    }
}

/// Marks the nodes that some result depends on.
fn needed_nodes(graph: &Graph) -> Result<Vec<bool>> {
    let mut needed = vec![false; graph.node_bound()];
    let mut stack: Vec<ValueId> = graph.outputs().iter().map(|o| o.value).collect();
    while let Some(value) = stack.pop() {
        if let Def::Node { node, .. } = graph.try_value(value).ok_or_else(dangling)?.def {
            let known = graph.try_node(node).ok_or_else(dangling)?;
            if !std::mem::replace(&mut needed[node.index()], true) {
                stack.extend(known.inputs.iter().flatten());
            }
        }
    }
    Ok(needed)
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

/// A region may lie about its length; views rely on it.
fn check_bytes(tensor: &Tensor) -> Result<()> {
    let want = normfuse_ir::tensor::byte_len(tensor.dtype(), tensor.shape())?;
    if tensor.bytes().len() == want {
        return Ok(());
    }
    let found = tensor.bytes().len();
    let what = format!("{}{:?} takes {want} bytes, found {found}", tensor.dtype(), tensor.shape());
    Err(Error::new(ErrorKind::Structure, what))
}

fn dangling() -> Error {
    Error::new(ErrorKind::Structure, "a value that something reads does not exist")
}
