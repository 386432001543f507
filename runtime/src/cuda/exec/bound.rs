//! A graph on a GPU for inputs of certain sizes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, sys::CUstream};
use normfuse_ir::{Error, ErrorKind, Result, Tensor};

use super::{
    super::{
        device::{Buffer, Device, failed},
        graph::Graph,
        measure::{Time, Timer},
        ops::Fault,
    },
    concrete::bytes_of,
    kernels::{Addresses, Ready},
    plan::{Listed, Plan},
    step::{Place, Root, Step},
};

/// Recordings that are kept, for as many sets of a caller's memory: a cache that goes back and forth between two has two.
const MOST_RECORDINGS: usize = 8;
/// Launches of one step of which a time is taken: as many as take so many microseconds, but not more than this many.
const REPEATS: (f64, usize) = (500.0, 20);

/// A graph on a GPU for inputs of certain sizes: one run at a time.
#[derive(Debug)]
pub struct Bound {
    // Before what it uses, so that it is gone before that is.
    recorded: Mutex<Recorded>,
    plan: Plan,
    ready: Vec<Ready>,
    device: Device,
    arena: Buffer,
    faults: Buffer,
    meeting: Buffer,
    /// Where each root of the plan begins; 0 of the caller's.
    roots: Vec<u64>,
    /// Weights, and what was made on the host for these sizes.
    _kept: Vec<Arc<Buffer>>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// By the addresses of inputs and results; the one that was used last comes last. Nothing is recorded where nothing is launched.
    graphs: Vec<(Vec<u64>, Option<Graph>)>,
    /// True once everything was launched.
    launched: bool,
    /// Inputs and results of [`Bound::run`].
    own: Option<(Vec<Buffer>, Vec<Buffer>)>,
}

/// The time of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// What it is.
    pub step: Listed,
    /// One launch of it, among launches of nothing else; `None` where it launches nothing.
    pub time: Option<Time>,
}

/// What a graph for certain sizes is made of.
pub(super) struct Parts {
    pub plan: Plan,
    pub ready: Vec<Ready>,
    pub device: Device,
    pub roots: Vec<u64>,
    pub kept: Vec<Arc<Buffer>>,
}

impl Bound {
    pub(super) fn new(parts: Parts) -> Result<Self> {
        let Parts { plan, ready, device, roots, kept } = parts;
        let arena = device.alloc(plan.arena.bytes as usize)?;
        let faults = device.upload(&vec![0; 4 * plan.faults])?;
        let meeting = device.upload(&vec![0; plan.meeting as usize])?;
        let recorded = Mutex::default();
        Ok(Self { recorded, plan, ready, device, arena, faults, meeting, roots, _kept: kept })
    }

    /// What runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Uploads inputs, runs, and gives the results back, in the graph's order.
    ///
    /// # Errors
    /// `Structure` for inputs that are not those that it was planned for; `Value` for data that an op is not defined for;
    /// `Unsupported` with what the driver says, or what went wrong in a kernel.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut recorded = self.lock();
        let (given, made) = self.own(&mut recorded)?;
        if inputs.len() != given.len() {
            let message = format!("expected {} inputs, found {}", given.len(), inputs.len());
            return Err(Error::new(ErrorKind::Structure, message));
        }
        for (i, (buffer, tensor)) in given.iter_mut().zip(inputs).enumerate() {
            buffer.write(tensor.bytes()).map_err(|e| e.at_port(format!("input {i}")))?;
        }
        let addresses = |all: &[Buffer]| all.iter().map(Buffer::address).collect::<Vec<u64>>();
        let (given, made) = (addresses(given), addresses(made));
        // SAFETY: the buffers are as large as the plan says, are kept as long as what is recorded, and nobody else has them.
        unsafe { self.replay(&mut recorded, self.device.stream().cu_stream(), &given, &made) }?;
        let (_, made) = self.own(&mut recorded)?;
        let results = made
            .iter()
            .zip(self.plan.results())
            .map(|(buffer, typed)| Tensor::from_bytes(typed.dtype, typed.shape.clone(), buffer.download()?))
            .collect::<Result<Vec<_>>>()?;
        self.check()?;
        Ok(results)
    }

    /// Puts a run on a stream of the caller's, with inputs and results in the caller's memory, by the graph's order. The very first run
    /// is launched step by step; from then on it is recorded when it first sees these addresses, and replayed. What the data are not defined for is said by
    /// [`Bound::check`] once the run is done.
    ///
    /// # Errors
    /// `Structure` for another number of addresses; `Value` for one that is no multiple of 16; `Unsupported` with what the driver
    /// says.
    ///
    /// # Safety
    /// The stream is one of this GPU's, and lives. The memory is of this GPU, as large as the plan's inputs and results, and there
    /// until the run is done; no result lies over an input or another result. Until then nothing writes what is read or touches
    /// what is written, this is not dropped, and no other run of it begins on another stream.
    pub unsafe fn run_on(&self, stream: CUstream, inputs: &[u64], outputs: &[u64]) -> Result<()> {
        let expected = [self.inputs(), self.plan.outputs.len()];
        if expected != [inputs.len(), outputs.len()] {
            let [given, made] = expected;
            let found = (inputs.len(), outputs.len());
            let message = format!("expected addresses of {given} inputs and {made} results, found {found:?}");
            return Err(Error::new(ErrorKind::Structure, message));
        }
        if let Some(address) = inputs.iter().chain(outputs).find(|a| !a.is_multiple_of(16)) {
            let message = format!("expected an address at a multiple of 16 bytes, found {address:#x}");
            return Err(Error::new(ErrorKind::Value, message));
        }
        // SAFETY: as the caller says.
        unsafe { self.replay(&mut self.lock(), stream, inputs, outputs) }
    }

    /// Says whether the last run met data that an op is not defined for, once that run is done.
    ///
    /// # Errors
    /// `Value` with the node; `Unsupported` with what the driver says.
    pub fn check(&self) -> Result<()> {
        check_faults(&self.faults, self.plan.steps.iter())
    }

    /// The time of a whole run, as the recorded graph is replayed so many times.
    ///
    /// # Errors
    /// As [`Bound::run`], with the inputs that it had last.
    pub fn time(&self, replays: usize) -> Result<Time> {
        let mut recorded = self.lock();
        let at = self.own_addresses(&mut recorded)?;
        // SAFETY: as for `run`.
        unsafe { self.launch_first(&mut recorded, &at, self.device.stream().cu_stream()) }?;
        Timer::new(&self.device, replays).replay(1, |_, stream| {
            // SAFETY: as for `run`.
            unsafe { self.launch_all(&at, stream) }.map(drop)
        })
    }

    /// The time of a run without some of its steps, whose results are what a run left of them.
    ///
    /// # Errors
    /// As [`Bound::run`], with the inputs that it had last.
    pub fn time_without(&self, replays: usize, left_out: impl Fn(&Listed) -> bool) -> Result<Time> {
        let mut recorded = self.lock();
        let at = self.own_addresses(&mut recorded)?;
        // SAFETY: as for `run`.
        unsafe { self.launch_first(&mut recorded, &at, self.device.stream().cu_stream()) }?;
        let listed = self.plan.list().into_iter().filter(|l| !l.once);
        let steps = self.plan.steps.iter().zip(&self.ready).zip(listed);
        let steps: Vec<_> = steps.filter(|(_, listed)| !left_out(listed)).map(|(step, _)| step).collect();
        Timer::new(&self.device, replays).replay(1, |_, stream| {
            // SAFETY: as for `run`.
            unsafe { self.launch_steps(steps.iter().copied(), &at, stream) }.map(drop)
        })
    }

    /// The time of each step, with the operands that it has in a run.
    ///
    /// # Errors
    /// As [`Bound::run`], with the inputs that it had last.
    pub fn time_steps(&self, replays: usize) -> Result<Vec<Timed>> {
        let mut recorded = self.lock();
        let at = self.own_addresses(&mut recorded)?;
        // SAFETY: as for `run`.
        unsafe { self.launch_first(&mut recorded, &at, self.device.stream().cu_stream()) }?;
        let timer = Timer::new(&self.device, replays);
        let listed = self.plan.list().into_iter().filter(|l| !l.once);
        let steps = self.plan.steps.iter().zip(&self.ready).zip(listed);
        steps
            .map(|((step, ready), listed)| {
                if listed.launches == 0 {
                    return Ok(Timed { step: listed, time: None });
                }
                // In order, so that each finds what those before it have made; again and again, it makes the same of it.
                let launch = |_, stream| {
                    // SAFETY: as for `run`.
                    unsafe { ready.launch(step, &self.plan.values, &at, stream, false) }.map(drop)
                };
                let about = Timer::new(&self.device, 1).replay(1, launch).map_or(REPEATS.0, |t| t.us);
                let time = timer.replay(((REPEATS.0 / about) as usize).clamp(1, REPEATS.1), launch);
                time.map(|time| Timed { step: listed, time: Some(time) }).map_err(|e| e.at_node(step.name.clone()))
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inputs(&self) -> usize {
        self.plan.roots.iter().filter(|r| matches!(r.place, Place::Input(_))).count()
    }

    /// Inputs and results of its own.
    fn own<'r>(&self, recorded: &'r mut Recorded) -> Result<(&'r mut Vec<Buffer>, &'r Vec<Buffer>)> {
        if recorded.own.is_none() {
            self.has_room()?;
            let inputs = self.plan.roots.iter().filter(|r| matches!(r.place, Place::Input(_)));
            let inputs = inputs.map(|r| self.device.alloc(r.bytes as usize)).collect::<Result<Vec<_>>>()?;
            let outputs = self.plan.results().map(|typed| self.device.alloc(bytes_of(typed)));
            recorded.own = Some((inputs, outputs.collect::<Result<Vec<_>>>()?));
        }
        let none = || Error::new(ErrorKind::Structure, "a run has no memory");
        recorded.own.as_mut().map(|(inputs, outputs)| (inputs, &*outputs)).ok_or_else(none)
    }

    /// Says what is short of inputs and results before anything is taken.
    fn has_room(&self) -> Result<()> {
        let own = |r: &&Root| matches!(r.place, Place::Input(_) | Place::Output(_));
        let needed: u64 = self.plan.roots.iter().filter(own).map(|r| r.bytes).sum();
        let (free, _) = self.device.memory()?;
        if needed <= free {
            return Ok(());
        }
        let message = format!(
            "inputs and results: expected {} MiB of free memory on the GPU, found {} MiB",
            needed.div_ceil(1 << 20),
            free >> 20
        );
        Err(Error::new(ErrorKind::Unsupported, message).hint("bind smaller sizes, or free memory"))
    }

    fn own_addresses(&self, recorded: &mut Recorded) -> Result<Addresses> {
        let (inputs, outputs) = self.own(recorded)?;
        let addresses = |all: &[Buffer]| all.iter().map(Buffer::address).collect::<Vec<u64>>();
        let (inputs, outputs) = (addresses(inputs), addresses(outputs));
        Ok(self.addresses(&inputs, &outputs))
    }

    fn addresses(&self, inputs: &[u64], outputs: &[u64]) -> Addresses {
        let base = |(root, fixed): (&Root, &u64)| match root.place {
            Place::Input(i) => inputs[i],
            Place::Output(i) => outputs[i],
            Place::Arena(offset) => self.arena.address() + offset,
            _ => *fixed,
        };
        let roots = self.plan.roots.iter().zip(&self.roots).map(base).collect();
        Addresses { roots, arena: self.arena.address(), faults: self.faults.address(), meeting: self.meeting.region() }
    }

    /// Launches everything if nothing was yet, and says whether it did. Libraries load their code when a launch first needs it, which
    /// must not be while a stream records.
    ///
    /// # Safety
    /// As of [`Bound::run_on`].
    unsafe fn launch_first(&self, recorded: &mut Recorded, at: &Addresses, stream: CUstream) -> Result<bool> {
        if recorded.launched {
            return Ok(false);
        }
        self.device.bind()?;
        // SAFETY: as the caller says.
        unsafe { self.launch_all(at, stream) }?;
        recorded.launched = true;
        Ok(true)
    }

    /// Replays the recording for these addresses, or makes it; the first time, launches.
    ///
    /// # Safety
    /// As of [`Bound::run_on`].
    unsafe fn replay(&self, recorded: &mut Recorded, stream: CUstream, inputs: &[u64], outputs: &[u64]) -> Result<()> {
        // SAFETY: as the caller says.
        if unsafe { self.launch_first(recorded, &self.addresses(inputs, outputs), stream) }? {
            return Ok(());
        }
        let key = [inputs, outputs].concat();
        let found = if let Some(i) = recorded.graphs.iter().position(|(of, _)| *of == key) {
            recorded.graphs.remove(i)
        } else {
            let at = self.addresses(inputs, outputs);
            // SAFETY: the caller answers for the addresses, for every replay.
            let graph = unsafe { self.record(&at) }?;
            if recorded.graphs.len() >= MOST_RECORDINGS {
                recorded.graphs.remove(0);
            }
            (key, graph)
        };
        let done = match &found.1 {
            // SAFETY: as the caller says.
            Some(graph) => unsafe { graph.replay_on(stream) },
            None => Ok(()),
        };
        recorded.graphs.push(found);
        done
    }

    /// # Safety
    /// The addresses are of memory that is there whenever the graph is replayed.
    unsafe fn record(&self, at: &Addresses) -> Result<Option<Graph>> {
        if self.plan.launches() == 0 {
            return Ok(None);
        }
        let graph = self.device.record(Vec::new(), |recording| {
            let stream = recording.stream().cu_stream();
            // SAFETY: the caller answers for the addresses.
            let launches = unsafe { self.launch_all(at, stream) }?;
            recording.counted(launches);
            Ok(())
        });
        graph.map(Some)
    }

    /// # Safety
    /// As of [`Ready::launch`], for all steps.
    unsafe fn launch_all(&self, at: &Addresses, stream: CUstream) -> Result<usize> {
        if self.plan.faults > 0 {
            // SAFETY: there is a word for each.
            let done = unsafe { result::memset_d8_async(at.faults, 0, 4 * self.plan.faults, stream) };
            done.map_err(|e| failed("cuMemsetD8Async", e))?;
        }
        // SAFETY: as the caller says.
        unsafe { self.launch_steps(self.plan.steps.iter().zip(&self.ready), at, stream) }
    }

    /// Each kernel behind another one may begin early: it waits before it reads or writes, and that one has waited in the same way.
    ///
    /// # Safety
    /// As of [`Ready::launch`], for all steps.
    unsafe fn launch_steps<'a>(
        &self,
        steps: impl Iterator<Item = (&'a Step, &'a Ready)>,
        at: &Addresses,
        stream: CUstream,
    ) -> Result<usize> {
        let (mut launches, mut early) = (0, false);
        for (step, ready) in steps {
            // SAFETY: as the caller says; steps are in order on one stream, and the plan keeps what is in use at the same time apart.
            let done = unsafe { ready.launch(step, &self.plan.values, at, stream, early) };
            let done = done.map_err(|e| e.at_node(step.name.clone()))?;
            if done > 0 {
                early = ready.ends_in_kernel();
            }
            launches += done;
        }
        Ok(launches)
    }
}

/// The error of the first of some steps that met data that its op is not defined for.
pub(super) fn check_faults<'a>(words: &Buffer, steps: impl Iterator<Item = &'a Step>) -> Result<()> {
    if words.is_empty() {
        return Ok(());
    }
    let bytes = words.download()?;
    for step in steps {
        let word = step.fault.and_then(|i| bytes.get(4 * i..4 * i + 4));
        let fault = word.map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).and_then(Fault::of);
        if let Some(fault) = fault {
            return Err(fault.error().at_node(step.name.clone()));
        }
    }
    Ok(())
}
