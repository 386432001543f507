//! Single ops and chains as kernels: every text compiles without a GPU, and with one every result is the evaluator's, bit for bit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use normfuse_ir::{DType, Error, ErrorKind, Op, Result, Tensor, body::bits_equal, eval::eval_node};
use normfuse_runtime::cuda::{
    Buffer, Device, Kernel, Start,
    ops::{Call, Fault, Launch, Lowered, Typed, Word, lower},
};
use rayon::prelude::*;

use crate::{compiler, or_skip};

mod attention;
mod cases;
mod chains;
mod every;
mod pieces;
mod refused;

/// A node with data.
#[derive(Debug, Clone)]
pub struct Case {
    pub op: Op,
    pub inputs: Vec<Option<Tensor>>,
    /// Ports whose contents the host knows.
    pub known: Vec<usize>,
}

impl Case {
    pub fn new(op: Op, inputs: impl IntoIterator<Item = Tensor>) -> Self {
        Self { op, inputs: inputs.into_iter().map(Some).collect(), known: Vec::new() }
    }

    pub fn knowing(self, ports: &[usize]) -> Self {
        Self { known: ports.to_vec(), ..self }
    }

    pub fn name(&self) -> String {
        let operands: Vec<String> = self
            .inputs
            .iter()
            .map(|x| x.as_ref().map_or_else(|| "-".into(), |x| format!("{}{:?}", x.dtype(), x.shape())))
            .collect();
        format!("{} {:?} of {}", self.op.name(), self.op, operands.join(", "))
    }

    /// What the evaluator has.
    pub fn expected(&self) -> Result<Vec<Tensor>> {
        let inputs: Vec<Option<&Tensor>> = self.inputs.iter().map(Option::as_ref).collect();
        eval_node(&self.op, &inputs)
    }

    /// The launches for results of these types.
    pub fn lowered(&self, outputs: &[Typed]) -> Result<Lowered> {
        let inputs: Vec<Option<Typed>> = self.inputs.iter().map(|x| x.as_ref().map(typed)).collect();
        let known: Vec<Option<Tensor>> =
            (0..self.inputs.len()).map(|i| self.inputs[i].clone().filter(|_| self.known.contains(&i))).collect();
        lower(&Call { op: &self.op, inputs: &inputs, outputs, known: &known })
    }
}

pub fn typed(x: &Tensor) -> Typed {
    Typed { dtype: x.dtype(), shape: x.shape().to_vec() }
}

/// Where kernels run.
pub struct Gpu {
    pub device: Device,
    kernels: HashMap<Arc<str>, Kernel>,
    /// Texts of which registers went to memory.
    spilling: Vec<String>,
}

impl Gpu {
    /// With all texts of these launches compiled, at the same time.
    pub fn with<'a>(launches: impl Iterator<Item = &'a Launch>) -> Option<Self> {
        let device = or_skip(Device::open(0))?;
        let compiler = compiler()?;
        let texts: BTreeMap<Arc<str>, &'static str> = launches.map(|l| (l.text.clone(), l.entry)).collect();
        let compiled: Vec<_> =
            texts.par_iter().map(|(text, entry)| (text, entry, compiler.compile(text, device.arch()))).collect();
        let mut spilling = Vec::new();
        let kernels = compiled
            .into_iter()
            .map(|(text, entry, made)| {
                let made = made.unwrap_or_else(|e| panic!("{e}\n{text}"));
                // A log may be missing.
                if made.spills().is_some_and(|n| n > 0) {
                    spilling.push(format!("{text}\n{}", made.log));
                }
                (text.clone(), Kernel::named(&device, &made.cubin, entry).unwrap())
            })
            .collect();
        Some(Self { device, kernels, spilling })
    }

    /// Runs launches on uploaded operands. Results begin as ones, and so does what lies behind them, which has to stay.
    pub fn run(&self, lowered: &Lowered, inputs: &[Option<Tensor>], outputs: &[Typed]) -> Result<Vec<Tensor>> {
        const BEHIND: usize = 64;
        let upload = |x: &Option<Tensor>| x.as_ref().map(|x| self.device.upload(x.bytes())).transpose();
        let operands: Vec<Option<Buffer>> = inputs.iter().map(upload).collect::<Result<_>>()?;
        let sizes: Vec<usize> =
            outputs.iter().map(|y| normfuse_ir::tensor::byte_len(y.dtype, &y.shape)).collect::<Result<_>>()?;
        let results: Vec<Buffer> =
            sizes.iter().map(|n| self.device.upload(&vec![0xff; n + BEHIND])).collect::<Result<_>>()?;
        let scratch = self.device.upload(&vec![0xff; lowered.scratch as usize])?;
        let fault = self.device.upload(&[0; 4])?;
        for launch in &lowered.launches {
            let words: Vec<u64> = launch
                .words
                .iter()
                .map(|word| match *word {
                    Word::Input(i) => operands[i].as_ref().map_or(0, Buffer::address),
                    Word::Output(i) => results[i].address(),
                    Word::Scratch(at) => scratch.address() + at,
                    Word::Number(n) => n,
                    Word::Fault => fault.address(),
                })
                .collect();
            let start = if launch.together { Start::Together } else { Start::InOrder };
            let stream = self.device.stream().cu_stream();
            // SAFETY: the words are addresses of buffers that live until the device is waited for, as large as the launch says.
            unsafe { self.kernels[&launch.text].launch(stream, launch.blocks, launch.threads, &words, start) }?;
        }
        self.device.wait()?;
        let fault = u32::from_le_bytes(fault.download()?.try_into().unwrap_or_default());
        if let Some(fault) = Fault::of(fault) {
            return Err(fault.error());
        }
        let mut tensors = Vec::new();
        for ((buffer, n), y) in results.iter().zip(sizes).zip(outputs) {
            let mut bytes = buffer.download()?;
            if bytes[n..].iter().any(|&b| b != 0xff) {
                return Err(Error::new(ErrorKind::Value, "something was written behind a result"));
            }
            bytes.truncate(n);
            tensors.push(Tensor::from_bytes(y.dtype, y.shape.clone(), bytes)?);
        }
        Ok(tensors)
    }
}

/// A case with its launches and what is expected of it.
pub struct Ready {
    pub case: Case,
    pub lowered: Lowered,
    pub expected: Vec<Tensor>,
}

/// True for the cases of this process' part: all, or with `OPS_PART=2/16` those of the third of 16 parts, since one process compiles
/// one text at a time.
fn is_of_part(case: &Case) -> bool {
    let part = std::env::var("OPS_PART").unwrap_or_default();
    let Some((Ok(k), Ok(n))) = part.split_once('/').map(|(k, n)| (k.parse::<u64>(), n.parse::<u64>())) else {
        return true;
    };
    let mut hasher = DefaultHasher::new();
    format!("{:?}", case.op).hash(&mut hasher);
    case.inputs.iter().flatten().for_each(|x| x.dtype().hash(&mut hasher));
    hasher.finish() % n.max(1) == k
}

/// Launches of the cases that the evaluator has a value for; the others have to be refused here, too, unless it is their data that
/// it refuses.
pub fn ready(cases: Vec<Case>) -> Vec<Ready> {
    let mut wrong = String::new();
    let mut all = Vec::new();
    for case in cases.into_iter().filter(is_of_part) {
        let expected = match case.expected() {
            Ok(expected) => expected,
            Err(e) => {
                let x = case.inputs.iter().flatten().next().map(typed);
                let outputs = vec![x.unwrap_or(Typed { dtype: DType::F32, shape: vec![] }); case.op.num_outputs()];
                if e.kind == ErrorKind::DType && case.lowered(&outputs).is_ok() {
                    let _ = writeln!(wrong, "{}: lowered, and the evaluator says {e}", case.name());
                }
                continue;
            }
        };
        let outputs: Vec<Typed> = expected.iter().map(typed).collect();
        match case.lowered(&outputs) {
            Ok(lowered) => all.push(Ready { case, lowered, expected }),
            Err(e) => {
                let _ = writeln!(wrong, "{}: {e}", case.name());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    all
}

/// Runs every case on the GPU, if there is one.
pub fn compare(all: &[Ready]) {
    let Some(gpu) = Gpu::with(all.iter().flat_map(|r| &r.lowered.launches)) else { return };
    let mut wrong = String::new();
    let mut bad = 0;
    for Ready { case, lowered, expected } in all {
        let outputs: Vec<Typed> = expected.iter().map(typed).collect();
        let found = match gpu.run(lowered, &case.inputs, &outputs) {
            Ok(found) => found,
            Err(e) => {
                bad += 1;
                let _ = writeln!(wrong, "{}: {e}", case.name());
                continue;
            }
        };
        for (port, (found, expected)) in found.iter().zip(expected).enumerate() {
            if let Some(differs) = bits_equal(found, expected) {
                bad += 1;
                let _ = writeln!(wrong, "{}: result {port} {differs}", case.name());
            }
        }
    }
    let short: Vec<&str> = wrong.lines().take(200).map(|l| l.get(..600).unwrap_or(l)).collect();
    assert!(wrong.is_empty(), "{bad} of {}\n{}", all.len(), short.join("\n"));
    assert!(gpu.spilling.is_empty(), "{} texts spill:\n{}", gpu.spilling.len(), gpu.spilling[0]);
    eprintln!("{} cases have the evaluator's bits on {}", all.len(), gpu.device.name());
}

/// Compiles every text of some launches, and says which spill.
pub fn compile<'a>(launches: impl Iterator<Item = &'a Launch>, arch: &str) {
    let Some(compiler) = compiler() else { return };
    let texts: BTreeSet<&str> = launches.map(|l| &*l.text).collect();
    let bad: Vec<String> = texts
        .par_iter()
        .filter_map(|text| {
            let mut compiled = compiler.compile(text, arch);
            // NVRTC 13.0 now and then gives no log to one of two that compile at the same time.
            for _ in 0..100 {
                match &compiled {
                    Ok(c) if c.log.is_empty() => compiled = compiler.compile(text, arch),
                    _ => break,
                }
            }
            match compiled {
                Ok(c) if c.spills() == Some(0) => None,
                Ok(c) => Some(format!("{text}\n{}", c.log)),
                Err(e) => Some(format!("{text}\n{e}")),
            }
        })
        .collect();
    eprintln!("compiled {} texts for {arch}", texts.len());
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), texts.len(), bad[..bad.len().min(3)].join("\n"));
}
