//! How a plan is made: nodes in order become steps, views and operands that are read as they lie; then results and places.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use normfuse_ir::{
    Error, ErrorKind, FusedNorm, Graph, Node, NodeId, Op, Result, Scheme, Tensor, ValueId, fused::Sibling,
};

use super::{
    super::{
        ops::{Call, Typed, Word},
        supports::supports,
    },
    arena::{Arena, Block},
    backend::{Backend, is_product},
    chains::{self, Group},
    columns::columns,
    concrete::{Concrete, Given, bytes_of},
    lying::Lying,
    plan::Plan,
    step::{Norm, Place, Root, Step, Value, Work},
    views,
};

pub(super) struct Builder<'a> {
    pub(super) graph: &'a Graph,
    pub(super) concrete: &'a Concrete,
    pub(super) backend: &'a dyn Backend,
    pub(super) values: Vec<Value>,
    pub(super) roots: Vec<Root>,
    of: Vec<Option<usize>>,
    /// Results that lie by columns, as they lie.
    pub(super) columns: BTreeMap<ValueId, usize>,
    /// Results that are other values in another order, and are only written out for who cannot read them so.
    pub(super) lying: BTreeMap<ValueId, Lying>,
    steps: Vec<Step>,
    outputs: Vec<usize>,
    refused: Vec<Error>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph, concrete: &'a Concrete, given: &[Given], backend: &'a dyn Backend) -> Self {
        let mut builder = Self {
            graph,
            concrete,
            backend,
            values: Vec::new(),
            roots: Vec::new(),
            of: vec![None; graph.value_bound()],
            columns: BTreeMap::new(),
            lying: BTreeMap::new(),
            steps: Vec::new(),
            outputs: Vec::new(),
            refused: Vec::new(),
        };
        for (i, (id, given)) in graph.inputs().iter().zip(given).enumerate() {
            let typed = Typed { dtype: given.typed.0, shape: given.typed.1.clone() };
            let value = builder.rooted(typed, Place::Input(i));
            builder.of[id.index()] = Some(value);
        }
        builder
    }

    /// A value with memory of its own.
    pub(super) fn rooted(&mut self, typed: Typed, place: Place) -> usize {
        self.roots.push(Root { place, bytes: bytes_of(&typed) as u64 });
        self.values.push(Value { typed, root: self.roots.len() - 1, offset: 0 });
        self.values.len() - 1
    }

    /// The value of the graph's, as an operand.
    pub(super) fn operand(&mut self, id: ValueId) -> Result<usize> {
        if let Some(value) = self.of[id.index()] {
            return Ok(value);
        }
        if let Some(lying) = self.lying.get(&id).cloned()
            && let Some((producer, _)) = self.graph.producer(id)
        {
            return self.written_out(id, &lying, producer);
        }
        let typed = self.concrete.typed(id)?.clone();
        if let Some(columns) = self.columns.get(&id).copied()
            && let Some((producer, _)) = self.graph.producer(id)
        {
            let value = self.by_rows(self.graph.node(producer), columns, typed)?;
            self.of[id.index()] = Some(value);
            return Ok(value);
        }
        let place = match (self.graph.value(id).as_const(), self.concrete.host(id)) {
            (Some(_), _) => Place::Weight(id),
            (None, Some(tensor)) => Place::Host(tensor.clone()),
            (None, None) => return Err(crate::signature::dangling()),
        };
        let value = self.rooted(typed, place);
        self.of[id.index()] = Some(value);
        Ok(value)
    }

    /// Results of a node as values of their own.
    pub(super) fn results(&mut self, outputs: &[ValueId], once: bool) -> Result<Vec<usize>> {
        let mut made = Vec::with_capacity(outputs.len());
        for id in outputs {
            let place = if once { Place::Kept(*id) } else { Place::Arena(0) };
            let value = self.rooted(self.concrete.typed(*id)?.clone(), place);
            self.of[id.index()] = Some(value);
            made.push(value);
        }
        Ok(made)
    }

    /// Results of a fused op, those that lie by columns among them.
    fn results_of(&mut self, norm: &Norm, outputs: &[ValueId], once: bool) -> Result<Vec<usize>> {
        let mut made = Vec::with_capacity(outputs.len());
        for (port, id) in norm.norm.out_ports().into_iter().zip(outputs) {
            if let Some(typed) = columns(&norm.norm, port, self.concrete.typed(*id)?)? {
                let value = self.temporary(typed);
                self.columns.insert(*id, value);
                made.push(value);
            } else {
                made.extend(self.results(&[*id], once)?);
            }
        }
        Ok(made)
    }

    /// A value that only steps of one node hand to one another.
    pub(super) fn temporary(&mut self, typed: Typed) -> usize {
        self.rooted(typed, Place::Arena(0))
    }

    /// A part of a value's memory, from a byte of it on.
    pub(super) fn part(&mut self, value: usize, typed: Typed, offset: u64) -> usize {
        let Value { root, offset: base, .. } = self.values[value];
        self.values.push(Value { typed, root, offset: base + offset });
        self.values.len() - 1
    }

    /// Lets a value of the graph's be one that is there.
    pub(super) fn name(&mut self, id: ValueId, value: usize) {
        self.of[id.index()] = Some(value);
    }

    /// Sizes of a value of the graph's.
    pub(super) fn shape_of(&self, id: ValueId) -> &[usize] {
        self.concrete.typed(id).map_or(&[], |t| &t.shape)
    }

    /// What lies in another way, row by row.
    fn written_out(&mut self, id: ValueId, lying: &Lying, producer: NodeId) -> Result<usize> {
        let lowered = self.backend.written_out(self.concrete.typed(id)?.dtype, &lying.strided)?;
        let inputs = if lowered.launches.is_empty() { Vec::new() } else { vec![Some(self.operand(lying.base)?)] };
        let once = self.concrete.is_once(producer);
        let (node, outputs) = (self.graph.node(producer), self.results(&[id], once)?);
        let (name, nodes, op) = (node.name.clone(), vec![node.name.clone()], node.op.name());
        let (value, scratch, work) = (outputs[0], lowered.scratch, Work::Kernels(lowered));
        let (scratch_at, fault) = (0, None);
        self.steps.push(Step { name, op, nodes, inputs, outputs, work, scratch, scratch_at, fault, once });
        Ok(value)
    }

    /// A step of a node that takes several.
    pub(super) fn step(
        &mut self,
        node: &Node,
        op: String,
        inputs: &[usize],
        outputs: Vec<usize>,
        work: Work,
        scratch: u64,
    ) {
        let inputs = inputs.iter().map(|v| Some(*v)).collect();
        self.steps.push(Step {
            name: node.name.clone(),
            op,
            nodes: vec![node.name.clone()],
            inputs,
            outputs,
            work,
            scratch,
            scratch_at: 0,
            fault: None,
            once: false,
        });
    }

    pub(super) fn steps(&mut self, groups: &BTreeMap<NodeId, Group>) -> Result<()> {
        let inside: BTreeSet<NodeId> = groups.values().flat_map(Group::nodes).collect();
        for &id in self.concrete.nodes() {
            let node = self.graph.node(id);
            let done = match groups.get(&id) {
                Some(group) => self.chain(id, group),
                None if inside.contains(&id) => Ok(()),
                None => self.node(id),
            };
            match done.map_err(|e| e.at_node(node.name.clone())) {
                // Readers of what is refused are planned all the same, so that everything that is missing is said at once.
                Err(e) if e.kind == ErrorKind::Unsupported => {
                    self.refused.push(e);
                    self.results(&node.outputs, false)?;
                }
                other => other?,
            }
        }
        refusal(&self.refused).map_or(Ok(()), Err)
    }

    fn chain(&mut self, id: NodeId, group: &Group) -> Result<()> {
        let (mut chain, mut operands) = chains::chain(self.graph, self.concrete, group)?;
        for (leaf, operand) in chain.inputs.iter_mut().zip(&mut operands) {
            if self.of[operand.index()].is_none()
                && let Some(lying) = self.lying.get(operand).filter(|l| l.is_near(leaf.dtype))
            {
                leaf.lies = lying.strided.clone();
                leaf.held = self.concrete.typed(lying.base)?.shape.iter().product();
                *operand = lying.base;
            }
        }
        let lowered = self.backend.chain(&chain)?;
        let (names, ops): (Vec<String>, Vec<String>) =
            group.nodes().map(|id| self.graph.node(id)).map(|n| (n.name.clone(), n.op.name())).unzip();
        let inputs: Vec<Option<ValueId>> = operands.into_iter().map(Some).collect();
        let scratch = lowered.scratch;
        self.push(id, ops.join(" "), names, &inputs, Work::Kernels(lowered), scratch)
    }

    fn node(&mut self, id: NodeId) -> Result<()> {
        if self.is_laid(id)? { Ok(()) } else { self.launched(id) }
    }

    /// A node that has to have its results in their order.
    fn launched(&mut self, id: NodeId) -> Result<()> {
        let node = self.graph.node(id);
        let typed = |v: &ValueId| self.concrete.typed(*v).cloned();
        let inputs: Vec<Option<Typed>> =
            node.inputs.iter().map(|v| v.as_ref().map(typed).transpose()).collect::<Result<_>>()?;
        let outputs: Vec<Typed> = node.outputs.iter().map(typed).collect::<Result<_>>()?;
        let known: Vec<Option<Tensor>> =
            node.inputs.iter().map(|v| v.and_then(|v| self.concrete.host(v).cloned())).collect();
        if let Some((x, typed)) = node.input(0).zip(inputs.first().and_then(Option::as_ref))
            && let Some(offsets) = views::offsets(&node.op, typed, &outputs, &known)
        {
            if let Some(y) = self.same_rows(id)
                && let Some(columns) = self.columns.get(&x).copied()
            {
                self.columns.insert(y, columns);
                return Ok(());
            }
            return self.view(x, node, outputs, &offsets);
        }
        match &node.op {
            Op::Attention(op) => return self.attention(node, op),
            Op::ScaledMatMul(product) => return self.scaled(id, node, product),
            _ => {}
        }
        let call = Call { op: &node.op, inputs: &inputs, outputs: &outputs, known: &known };
        if is_product(&node.op) {
            return self.product(id, node, &call);
        }
        if matches!(node.op, Op::MatMulInteger) && self.integers(id, node, &call)? {
            return Ok(());
        }
        let (work, scratch) = match &node.op {
            Op::FusedNorm(norm) => (fused(&self.laid_out(norm, node), &inputs)?, 0),
            Op::Quantize(scheme) => {
                let by_columns = self.for_products(scheme, node.outputs.get(1).copied());
                (quantiser(by_columns.as_ref().unwrap_or(scheme), &inputs)?, 0)
            }
            _ => {
                let lowered = self.backend.node(&call)?;
                let scratch = lowered.scratch;
                (Work::Kernels(lowered), scratch)
            }
        };
        self.push(id, node.op.name(), vec![node.name.clone()], &node.inputs, work, scratch)
    }

    /// Results that are parts of an operand's memory.
    fn view(&mut self, x: ValueId, node: &Node, outputs: Vec<Typed>, offsets: &[u64]) -> Result<()> {
        let (root, base) = {
            let x = self.operand(x)?;
            (self.values[x].root, self.values[x].offset)
        };
        for ((id, typed), offset) in node.outputs.iter().zip(outputs).zip(offsets) {
            self.values.push(Value { typed, root, offset: base + offset });
            self.of[id.index()] = Some(self.values.len() - 1);
        }
        Ok(())
    }

    /// A step behind those that are there; of kernels, operands that no launch reads are left out.
    pub(super) fn push(
        &mut self,
        id: NodeId,
        op: String,
        nodes: Vec<String>,
        inputs: &[Option<ValueId>],
        work: Work,
        scratch: u64,
    ) -> Result<()> {
        let reads = |port: usize| match &work {
            Work::Kernels(lowered) => lowered.launches.iter().any(|l| l.words.contains(&Word::Input(port))),
            _ => true,
        };
        let mut operands = Vec::with_capacity(inputs.len());
        for (port, value) in inputs.iter().enumerate() {
            operands.push(value.filter(|_| reads(port)).map(|v| self.operand(v)).transpose()?);
        }
        let node = self.graph.node(id);
        let once = self.concrete.is_once(id);
        let outputs = match &work {
            Work::Norm(norm) => self.results_of(norm, &node.outputs, once)?,
            _ => self.results(&node.outputs, once)?,
        };
        let name = node.name.clone();
        self.steps.push(Step {
            name,
            op,
            nodes,
            inputs: operands,
            outputs,
            work,
            scratch,
            scratch_at: 0,
            fault: None,
            once,
        });
        Ok(())
    }

    /// Gives results memory of the caller's: their own where they have one, else a copy.
    pub(super) fn outputs(&mut self) -> Result<()> {
        let made: BTreeSet<usize> =
            self.steps.iter().filter(|s| !s.once).flat_map(|s| &s.outputs).map(|v| self.values[*v].root).collect();
        let mut given = BTreeSet::new();
        for (i, output) in self.graph.outputs().iter().enumerate() {
            let value = self.operand(output.value)?;
            let Value { typed, root, offset } = self.values[value].clone();
            let whole = offset == 0 && self.roots[root].bytes == bytes_of(&typed) as u64;
            if whole && made.contains(&root) && given.insert(root) {
                self.roots[root].place = Place::Output(i);
                self.outputs.push(value);
                continue;
            }
            let bytes = bytes_of(&typed) as u64;
            let copy = self.rooted(typed, Place::Output(i));
            self.outputs.push(copy);
            let work = Work::Copy(bytes);
            let step = Step::of(&output.name, "copy", value, copy, work);
            self.steps.push(step);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Plan {
        let (once, mut steps): (Vec<Step>, Vec<Step>) =
            std::mem::take(&mut self.steps).into_iter().partition(|s| s.once);
        let read: BTreeSet<usize> =
            steps.iter().flat_map(|s| s.inputs.iter().flatten()).map(|v| self.values[*v].root).collect();
        for (i, root) in self.roots.iter_mut().enumerate() {
            root.place = match root.place {
                Place::Weight(id) if !read.contains(&i) => Place::PassingWeight(id),
                Place::Kept(_) if !read.contains(&i) => Place::Passing,
                _ => continue,
            };
        }
        let (mut blocks, mut owners) = self.blocks(&steps);
        for (i, step) in steps.iter().enumerate().filter(|(_, s)| s.scratch > 0) {
            owners.push(Owner::Scratch(i));
            blocks.push(Block { bytes: step.scratch, first: i, last: i });
        }
        let arena = Arena::of(&blocks);
        for (owner, offset) in owners.iter().zip(&arena.offsets) {
            match owner {
                Owner::Root(root) => self.roots[*root].place = Place::Arena(*offset),
                Owner::Scratch(step) => steps[*step].scratch_at = *offset,
            }
        }
        let mut faults = 0;
        let mut once = once;
        for step in once.iter_mut().chain(&mut steps).filter(|s| s.work.may_fail()) {
            step.fault = Some(faults);
            faults += 1;
        }
        let meeting = once.iter().chain(&steps).map(|s| s.work.meeting()).max().unwrap_or(0);
        let Self { values, roots, outputs, .. } = self;
        Plan { values, roots, once, steps, outputs, arena, faults, meeting }
    }

    /// Memory of the arena that steps need, from the step that writes it to the last one that reads it.
    fn blocks(&self, steps: &[Step]) -> (Vec<Block>, Vec<Owner>) {
        let mut of: BTreeMap<usize, Block> = BTreeMap::new();
        for (i, step) in steps.iter().enumerate() {
            for value in step.operands() {
                let root = self.values[value].root;
                if matches!(self.roots[root].place, Place::Arena(_)) {
                    let block = of.entry(root).or_insert(Block { bytes: self.roots[root].bytes, first: i, last: i });
                    block.last = i;
                }
            }
        }
        of.into_iter().map(|(root, block)| (block, Owner::Root(root))).unzip()
    }
}

/// Whose a block of the arena is.
enum Owner {
    Root(usize),
    Scratch(usize),
}

/// All that cannot run, as one error.
fn refusal(all: &[Error]) -> Option<Error> {
    let (first, rest) = all.split_first()?;
    if rest.is_empty() {
        return Some(first.clone());
    }
    let more: Vec<String> = all.iter().take(20).map(ToString::to_string).collect();
    let left = if all.len() > 20 { format!("\n  and {} more", all.len() - 20) } else { String::new() };
    let message = format!("{} nodes have no form on the GPU:\n  {}{left}", all.len(), more.join("\n  "));
    Some(Error::new(ErrorKind::Unsupported, message))
}

/// A fused norm, with the rows of each of its jobs.
fn fused(norm: &Arc<FusedNorm>, inputs: &[Option<Typed>]) -> Result<Work> {
    let refused = |why| Error::new(ErrorKind::Unsupported, format!("`fused_norm` cannot run on a GPU: {why}"));
    supports(norm).map_err(refused)?;
    let rows = Norm::rows_of(norm, inputs);
    Ok(Work::Norm(Norm { norm: norm.clone(), rows }))
}

/// A quantiser alone is a fused norm that divides by nothing.
fn quantiser(scheme: &Scheme, inputs: &[Option<Typed>]) -> Result<Work> {
    let missing = || Error::new(ErrorKind::Structure, "`quantize` needs operand 0");
    let x = inputs.first().and_then(Option::as_ref).ok_or_else(missing)?;
    let width = x.shape.last().copied().unwrap_or(1) as u64;
    let rows = Sibling::undivided(width, x.dtype, vec![scheme.clone()]);
    let norm = Arc::new(FusedNorm::of(vec![rows]));
    let refused = |why| Error::new(ErrorKind::Unsupported, format!("`quantize` cannot run on a GPU: {why}"));
    supports(&norm).map_err(refused)?;
    let rows = Norm::rows_of(&norm, inputs);
    Ok(Work::Norm(Norm { norm, rows }))
}
