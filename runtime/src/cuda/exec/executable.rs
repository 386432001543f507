//! A graph on a GPU, for inputs of any sizes.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use normfuse_ir::{Error, ErrorKind, Graph, Result, Tensor, ValueId};

use super::{
    super::{
        device::{Buffer, Device},
        nvrtc::Compiler,
    },
    backend::Backend,
    bound::{Bound, Parts, check_faults},
    concrete::{Given, host_inputs, is_small},
    kernels::{Addresses, Kernels},
    plan::Plan,
    recent::Recent,
    room::{Held, Need, at_most},
    step::{Place, Step},
    weights::{self, Progress, Weights},
};
use crate::signature::Signature;

/// Sets of sizes that an [`Executable`] keeps, unless it is told otherwise.
pub const SHAPES_KEPT: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// A graph on a GPU. Its weights are there once; what depends on the sizes of inputs (a plan, an arena, recordings) is made when
/// exactly such sizes first come, and kept until [`SHAPES_KEPT`] other sets of sizes have been used since, or until memory is short:
/// no size stands for a range of them, so pad inputs to few sizes where they vary. Any number of executables may be there at a time,
/// and each may be used from any thread.
pub struct Executable {
    graph: Arc<Graph>,
    signature: Signature,
    /// Inputs whose contents decide sizes.
    host: BTreeSet<usize>,
    device: Device,
    backend: Box<dyn Backend>,
    kernels: Kernels,
    // Runs are gone before the weights that they read are.
    shapes: Mutex<Recent<Vec<Given>, Arc<Bound>>>,
    weights: Mutex<Weights>,
    progress: Box<Progress>,
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executable").field("graph", &self.graph.name).finish_non_exhaustive()
    }
}

impl Executable {
    /// Prepares a graph. Weights are uploaded when the first sizes are bound.
    ///
    /// # Errors
    /// `Structure` for a graph that is no graph.
    pub fn load(graph: Arc<Graph>, device: &Device, compiler: Compiler, backend: Box<dyn Backend>) -> Result<Self> {
        Ok(Self {
            signature: Signature::of(&graph)?,
            host: host_inputs(&graph)?,
            device: device.clone(),
            kernels: Kernels::new(device, compiler),
            backend,
            weights: Mutex::default(),
            shapes: Mutex::new(Recent::new(SHAPES_KEPT)),
            progress: Box::new(|_, _| ()),
            graph,
        })
    }

    /// The same, telling of each part of the weights that is on the GPU: its bytes and those of all.
    #[must_use]
    pub fn with_progress(self, progress: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self { progress: Box::new(progress), ..self }
    }

    /// The same, keeping so many sets of sizes at most: each has an arena of its own.
    #[must_use]
    pub fn with_shapes_kept(self, most: NonZeroUsize) -> Self {
        Self { shapes: Mutex::new(Recent::new(most)), ..self }
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What inputs are, for [`Executable::bind`]: their dtypes and sizes, and the contents of those that decide sizes.
    pub fn given(&self, inputs: &[Tensor]) -> Vec<Given> {
        given(&self.host, inputs)
    }

    /// The graph for inputs of exactly these sizes: planned, compiled and placed when they first come, or come again after they had
    /// to go. Who has one keeps it, whatever goes. Its memory is counted without inputs and results, for callers that bring theirs
    /// ([`Bound::run_on`]). Threads that bind the same new sizes at the same time may each plan them, and all get the first one.
    ///
    /// # Errors
    /// Inputs that the graph does not take, by name; nodes that the GPU cannot run; `Unsupported` for too little memory, with what
    /// there is, what is needed and what would fit, or with what the compiler or the driver says.
    pub fn bind(&self, given: &[Given]) -> Result<Arc<Bound>> {
        self.bound(given, true)
    }

    /// Uploads inputs, runs, and gives the results back, in the graph's order.
    ///
    /// # Errors
    /// As [`Executable::bind`] and [`Bound::run`].
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.signature.check_tensors(inputs)?;
        self.bound(&self.given(inputs), false)?.run(inputs)
    }

    /// `operands`: inputs and results lie in the caller's memory.
    fn bound(&self, given: &[Given], operands: bool) -> Result<Arc<Bound>> {
        let known = self.shapes().get(given);
        if let Some(bound) = known {
            return Ok(bound);
        }
        // Nobody who asks for other sizes waits for this.
        let bound = Arc::new(self.place(given, operands)?);
        let (bound, gone) = self.shapes().insert(given.to_vec(), bound);
        drop(gone);
        Ok(bound)
    }

    fn shapes(&self) -> MutexGuard<'_, Recent<Vec<Given>, Arc<Bound>>> {
        self.shapes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, given: &[Given], operands: bool) -> Result<Bound> {
        let plan = Plan::new(&self.graph, given, &*self.backend)?;
        // Everything compiles before anything is uploaded.
        let ready = self.kernels.ready(&plan.steps)?;
        let once = self.kernels.ready(&plan.once)?;
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = self.missing(&plan, &weights);
        self.has_room(&plan, given, &weights, operands)?;
        if !missing.is_empty() {
            weights.upload(&self.device, &missing, &*self.progress)?;
        }
        if !is_made(&plan, &weights) {
            self.run_once(&plan, &once, &mut weights)?;
        }
        let hosts: Vec<(usize, &Tensor)> = plan
            .roots
            .iter()
            .enumerate()
            .filter_map(|(i, r)| if let Place::Host(t) = &r.place { Some((i, t)) } else { None })
            .collect();
        let (buffer, offsets) = weights::upload(&self.device, hosts.iter().map(|(_, t)| *t), &|_, _| ())?;
        let mut roots = vec![0; plan.roots.len()];
        for ((root, _), offset) in hosts.iter().zip(offsets) {
            roots[*root] = buffer.address() + offset;
        }
        let mut buffers = vec![Arc::new(buffer)];
        for (at, root) in roots.iter_mut().zip(&plan.roots) {
            if let Place::Weight(id) | Place::Kept(id) = root.place {
                let none = || Error::new(ErrorKind::Structure, "a weight is not on the GPU");
                *at = weights.address(id).ok_or_else(none)?;
                buffers.extend(weights.buffer(id).filter(|b| !buffers.iter().any(|known| Arc::ptr_eq(known, b))));
            }
        }
        Bound::new(Parts { plan, ready, device: self.device.clone(), roots, kept: buffers })
    }

    /// Weights of a plan that are not on the GPU yet.
    fn missing(&self, plan: &Plan, weights: &Weights) -> Vec<(ValueId, Tensor)> {
        let ids: BTreeSet<ValueId> = plan
            .roots
            .iter()
            .filter_map(|r| if let Place::Weight(id) = r.place { Some(id) } else { None })
            .filter(|id| weights.address(*id).is_none())
            .collect();
        ids.into_iter().filter_map(|id| Some((id, self.graph.value(id).as_const()?.clone()))).collect()
    }

    /// What a plan is about to take.
    fn need(&self, plan: &Plan, weights: &Weights, operands: bool) -> Need {
        let missing = weights::packed(self.missing(plan, weights).iter().map(|(_, t)| t));
        Need::of(plan, Held { missing, made: is_made(plan, weights), operands })
    }

    /// Says what is short before anything is taken, if all that is kept of other sizes is not enough.
    fn has_room(&self, plan: &Plan, given: &[Given], weights: &Weights, operands: bool) -> Result<()> {
        let need = self.need(plan, weights, operands);
        loop {
            let (free, total) = self.device.memory()?;
            let oldest = if need.peak() > free { self.shapes().remove_oldest() } else { None };
            if let Some(oldest) = oldest {
                // Its memory is free now, unless somebody else has it.
                drop(oldest);
                continue;
            }
            let fits = |given: &[Given]| {
                let plan = Plan::new(&self.graph, given, &*self.backend);
                plan.is_ok_and(|plan| self.need(&plan, weights, operands).peak() <= free)
            };
            return need.fits(free, total, || at_most(&self.graph, given, fits));
        }
    }

    /// Computes what is made of weights alone. What only that reads is uploaded for it, and goes again.
    fn run_once(&self, plan: &Plan, ready: &[super::kernels::Ready], weights: &mut Weights) -> Result<()> {
        let faults = self.device.upload(&vec![0; 4 * plan.faults])?;
        let meeting = self.device.upload(&vec![0; plan.meeting as usize])?;
        let stream = self.device.stream().cu_stream();
        let mut temporary: HashMap<usize, Arc<Buffer>> = HashMap::new();
        let mut at = Addresses {
            roots: vec![0; plan.roots.len()],
            arena: 0,
            faults: faults.address(),
            meeting: meeting.region(),
        };
        for (i, (step, ready)) in plan.once.iter().zip(ready).enumerate() {
            for value in step.operands() {
                let root = plan.values[value].root;
                at.roots[root] = self.once_address(plan, root, &mut temporary, weights)?;
            }
            let scratch = self.device.alloc(step.scratch as usize)?;
            at.arena = scratch.address();
            // SAFETY: all memory is held here or by the weights, as large as the plan says, and nobody else has it.
            let done = unsafe { ready.launch(step, &plan.values, &at, stream, false) };
            done.map_err(|e| e.at_node(step.name.clone()))?;
            self.device.wait()?;
            let later =
                |root: usize| plan.once[i + 1..].iter().flat_map(Step::operands).any(|v| plan.values[v].root == root);
            temporary.retain(|root, _| later(*root) || matches!(plan.roots[*root].place, Place::Kept(_)));
        }
        check_faults(&faults, plan.once.iter())?;
        for (root, buffer) in temporary {
            if let Place::Kept(id) = plan.roots[root].place {
                weights.keep(id, buffer);
            }
        }
        Ok(())
    }

    /// Where a root of a step that runs once is, uploaded or allocated if it is nowhere yet.
    fn once_address(
        &self,
        plan: &Plan,
        root: usize,
        temporary: &mut HashMap<usize, Arc<Buffer>>,
        weights: &Weights,
    ) -> Result<u64> {
        if let Some(buffer) = temporary.get(&root) {
            return Ok(buffer.address());
        }
        let place = &plan.roots[root].place;
        if let Place::Weight(id) = place
            && let Some(address) = weights.address(*id)
        {
            return Ok(address);
        }
        let buffer = match place {
            Place::Weight(id) | Place::PassingWeight(id) => {
                let tensor = self.graph.value(*id).as_const();
                self.device.upload(tensor.map_or(&[][..], Tensor::bytes))?
            }
            Place::Host(tensor) => self.device.upload(tensor.bytes())?,
            _ => self.device.alloc(plan.roots[root].bytes as usize)?,
        };
        let buffer = Arc::new(buffer);
        temporary.insert(root, buffer.clone());
        Ok(buffer.address())
    }
}

/// True if all that a plan keeps of what is made once is there.
fn is_made(plan: &Plan, weights: &Weights) -> bool {
    let kept = plan.roots.iter().filter_map(|r| if let Place::Kept(id) = r.place { Some(id) } else { None });
    kept.into_iter().all(|id| weights.address(id).is_some())
}

/// What inputs are, for a plan: their dtypes and sizes, and the contents of those that decide sizes.
pub fn given(host: &BTreeSet<usize>, inputs: &[Tensor]) -> Vec<Given> {
    let one = |(i, t): (usize, &Tensor)| Given {
        typed: (t.dtype(), t.shape().to_vec()),
        contents: (host.contains(&i) && is_small(t.shape())).then(|| t.bytes().to_vec()),
    };
    inputs.iter().enumerate().map(one).collect()
}
