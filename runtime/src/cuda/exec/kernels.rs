//! Kernels of steps: compiled side by side, each text once, and kept for all sizes of inputs.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use cudarc::driver::{result, sys::CUstream};
use normfuse_ir::{Error, ErrorKind, FusedNorm, Result};
use rayon::prelude::*;

use super::{
    super::{
        arguments::{Arguments, Operand, Region},
        device::{Device, failed},
        fused_norm::FusedNormKernel,
        kernel::{Kernel, Start},
        nvrtc::Compiler,
        ops::{Launch, Word},
        shape::LaunchShape,
    },
    backend::Product,
    step::{Norm, Step, Value, Work},
};

/// Kernels that are loaded on a GPU.
#[derive(Debug)]
pub struct Kernels {
    device: Device,
    compiler: Compiler,
    texts: Mutex<HashMap<Arc<str>, Kernel>>,
    norms: Mutex<HashMap<(FusedNorm, LaunchShape), FusedNormKernel>>,
}

/// A step with its kernels.
#[derive(Debug, Clone)]
pub enum Ready {
    Kernels(Vec<(Kernel, Launch)>),
    Norm(Box<FusedNormKernel>, Norm),
    Product(Arc<dyn Product>),
    Copy(u64),
}

/// Where everything is that a step may ask for.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Of each root of the plan.
    pub roots: Vec<u64>,
    pub arena: u64,
    /// Words of faults, a u32 a step.
    pub faults: u64,
    /// Where blocks of fused norms meet.
    pub meeting: Region,
}

impl Addresses {
    /// The memory of a value.
    pub fn region(&self, value: &Value) -> Region {
        Region::new(self.roots[value.root] + value.offset, value.bytes())
    }
}

impl Kernels {
    pub fn new(device: &Device, compiler: Compiler) -> Self {
        Self { device: device.clone(), compiler, texts: Mutex::default(), norms: Mutex::default() }
    }

    /// Steps with their kernels. What is not loaded yet is compiled first, on all threads.
    ///
    /// # Errors
    /// `Unsupported` with the compiler's messages, and the first step that needs what does not compile.
    pub fn ready(&self, steps: &[Step]) -> Result<Vec<Ready>> {
        self.compile_texts(steps)?;
        self.compile_norms(steps)?;
        steps.iter().map(|step| self.one(step).map_err(|e| e.at_node(step.name.clone()))).collect()
    }

    fn compile_texts(&self, steps: &[Step]) -> Result<()> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let missing: Vec<(&Step, &Launch)> = steps
            .iter()
            .flat_map(|step| step.work.kernels().iter().map(move |launch| (step, launch)))
            .filter(|(_, launch)| !texts.contains_key(&launch.text) && seen.insert(&launch.text))
            .collect();
        let compiled: Vec<_> = missing
            .par_iter()
            .map(|(step, launch)| {
                let compiled = self.device.compile(self.compiler, &launch.text);
                compiled.map_err(|e| e.at_node(step.name.clone()))
            })
            .collect::<Result<_>>()?;
        for ((_, launch), compiled) in missing.iter().zip(compiled) {
            let kernel = Kernel::named(&self.device, &compiled.cubin, launch.entry)?;
            texts.insert(launch.text.clone(), kernel);
        }
        Ok(())
    }

    fn compile_norms(&self, steps: &[Step]) -> Result<()> {
        let mut norms = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing: HashMap<(FusedNorm, LaunchShape), &Step> = HashMap::new();
        for step in steps {
            if let Work::Norm(norm) = &step.work {
                let key = self.key(norm);
                if !norms.contains_key(&key) {
                    missing.entry(key).or_insert(step);
                }
            }
        }
        let built: Vec<_> = missing
            .into_par_iter()
            .map(|(key, step)| {
                let kernel = FusedNormKernel::new(&self.device, self.compiler, &key.0, key.1.clone());
                kernel.map(|k| (key, k)).map_err(|e| e.at_node(step.name.clone()))
            })
            .collect::<Result<_>>()?;
        norms.extend(built);
        Ok(())
    }

    /// A norm's kernel: the launch shape is that for the most rows of its jobs.
    fn key(&self, norm: &Norm) -> (FusedNorm, LaunchShape) {
        let rows = norm.rows.iter().copied().max().unwrap_or(0);
        ((*norm.norm).clone(), self.device.shape(&norm.norm, rows, true))
    }

    fn one(&self, step: &Step) -> Result<Ready> {
        let missing = || Error::new(ErrorKind::Structure, "a kernel was not compiled");
        Ok(match &step.work {
            Work::Kernels(lowered) => {
                let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
                let kernel = |launch: &Launch| {
                    let kernel = texts.get(&launch.text).ok_or_else(missing)?.beside(launch.entry)?;
                    Ok((kernel, launch.clone()))
                };
                Ready::Kernels(lowered.launches.iter().map(kernel).collect::<Result<_>>()?)
            }
            Work::Norm(norm) => {
                let norms = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
                Ready::Norm(Box::new(norms.get(&self.key(norm)).ok_or_else(missing)?.clone()), norm.clone())
            }
            Work::Product(product) => Ready::Product(product.clone()),
            Work::Copy(bytes) => Ready::Copy(*bytes),
        })
    }
}

impl Ready {
    /// True if what it puts on a stream ends in a kernel, which the next one may begin beside.
    pub fn ends_in_kernel(&self) -> bool {
        !matches!(self, Self::Copy(_))
    }

    /// Puts the step on a stream; how many launches that were. With `early` its first kernel may begin while the one before it ends
    /// (programmatic dependent launch), and waits for that one's results itself.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    ///
    /// # Safety
    /// The stream is one of the GPU that the kernels are loaded on. Every address is of that GPU's memory, as large as the plan
    /// says, until the launches are done, and nothing else uses that memory meanwhile.
    pub unsafe fn launch(
        &self,
        step: &Step,
        values: &[Value],
        at: &Addresses,
        stream: CUstream,
        early: bool,
    ) -> Result<usize> {
        let address = |v: &usize| at.region(&values[*v]).address;
        let scratch = at.arena + step.scratch_at;
        match self {
            Self::Kernels(launches) => {
                for (i, (kernel, launch)) in launches.iter().enumerate() {
                    let words = launch.words.iter().map(|word| match word {
                        Word::Input(port) => step.inputs.get(*port).copied().flatten().as_ref().map(address),
                        Word::Output(port) => step.outputs.get(*port).map(address),
                        Word::Scratch(byte) => Some(scratch + byte),
                        Word::Number(number) => Some(*number),
                        Word::Fault => step.fault.map(|word| at.faults + 4 * word as u64),
                    });
                    let none = || Error::new(ErrorKind::Structure, "a kernel reads an operand that its op has not");
                    let words = words.collect::<Option<Vec<u64>>>().ok_or_else(none)?;
                    let start = if launch.together { Start::Together } else { (early || i > 0).into() };
                    // SAFETY: the words are in the order of the text's parameter; the caller answers for what they point to.
                    unsafe { kernel.launch(stream, launch.blocks, launch.threads, &words, start) }?;
                }
                Ok(launches.len())
            }
            Self::Norm(kernel, norm) => {
                let region = |v: &usize| at.region(&values[*v]);
                let arguments = Arguments {
                    inputs: step.inputs.iter().flatten().map(|v| Operand::from(region(v))).collect(),
                    outputs: step.outputs.iter().map(region).collect(),
                    rows: norm.rows.clone(),
                    scratch: Some(at.meeting),
                };
                let params = kernel.check(&arguments)?;
                // SAFETY: the caller answers for the memory, which was found to be large enough; what blocks meet in holds zeros
                // between launches, which are in order.
                unsafe { kernel.launch(stream, &params, early) }?;
                Ok(kernel.launches(&norm.rows))
            }
            Self::Product(product) => {
                let inputs: Vec<u64> = step.inputs.iter().map(|v| v.as_ref().map_or(0, address)).collect();
                let outputs: Vec<u64> = step.outputs.iter().map(address).collect();
                // SAFETY: as the caller says.
                unsafe { product.launch(stream, &inputs, &outputs, scratch) }?;
                Ok(1)
            }
            Self::Copy(bytes) => {
                let operands = step.inputs.first().copied().flatten().zip(step.outputs.first());
                let Some((from, to)) = operands.filter(|_| *bytes > 0) else { return Ok(0) };
                // SAFETY: as the caller says; both are as long.
                let done = unsafe { result::memcpy_dtod_async(address(to), address(&from), *bytes as usize, stream) };
                done.map_err(|e| failed("cuMemcpyDtoDAsync", e))?;
                Ok(1)
            }
        }
    }
}
