//! A step of a plan, and where what it reads and writes lies.

use std::sync::Arc;

use normfuse_ir::{FusedNorm, Tensor, ValueId, fused::InPort};

use super::{
    super::{
        ops::{Launch, Lowered, Typed, Word},
        source::scratch_bytes,
    },
    backend::Product,
    concrete::bytes_of,
};

/// A tensor in memory of a root.
#[derive(Debug, Clone)]
pub struct Value {
    pub typed: Typed,
    /// Whose memory it lies in.
    pub root: usize,
    /// Bytes from where that begins.
    pub offset: u64,
}

impl Value {
    pub fn bytes(&self) -> u64 {
        bytes_of(&self.typed) as u64
    }
}

/// A piece of memory.
#[derive(Debug, Clone)]
pub struct Root {
    pub place: Place,
    pub bytes: u64,
}

/// Where a piece of memory is.
#[derive(Debug, Clone)]
pub enum Place {
    /// The caller's, of an input.
    Input(usize),
    /// The caller's, of a result.
    Output(usize),
    /// A constant of the graph, on the GPU for good.
    Weight(ValueId),
    /// A constant of the graph that only what runs once reads.
    PassingWeight(ValueId),
    /// Made on the host for these sizes.
    Host(Tensor),
    /// Made once, on the GPU for good.
    Kept(ValueId),
    /// Made once, and read only by what runs once.
    Passing,
    /// This byte of the arena.
    Arena(u64),
}

/// A fused norm, or a quantiser as one.
#[derive(Debug, Clone)]
pub struct Norm {
    pub norm: Arc<FusedNorm>,
    /// Of each job.
    pub rows: Vec<u64>,
}

impl Norm {
    /// Rows of each operand that has rows of its own: all sizes but the last.
    pub fn rows_of(norm: &FusedNorm, inputs: &[Option<Typed>]) -> Vec<u64> {
        let ports = norm.in_ports().into_iter().zip(inputs);
        let rows = ports.filter(|(port, _)| matches!(port, InPort::X | InPort::Rows(_)));
        rows.map(|(_, typed)| {
            let shape = typed.as_ref().map_or(&[][..], |t| &t.shape);
            shape.iter().rev().skip(1).map(|n| *n as u64).product()
        })
        .collect()
    }
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Work {
    Kernels(Lowered),
    Norm(Norm),
    Product(Arc<dyn Product>),
    /// So many bytes, from operand to result.
    Copy(u64),
}

impl Work {
    /// Launches of kernels that are texts.
    pub fn kernels(&self) -> &[Launch] {
        if let Self::Kernels(lowered) = self { &lowered.launches } else { &[] }
    }

    /// Kernels that it launches, as far as that is known before the GPU is.
    pub fn launches(&self) -> usize {
        match self {
            Self::Kernels(lowered) => lowered.launches.len(),
            Self::Norm(_) | Self::Product(_) => 1,
            Self::Copy(bytes) => usize::from(*bytes > 0),
        }
    }

    /// True if a kernel may say that its data are none that the op is defined for.
    pub fn may_fail(&self) -> bool {
        matches!(self, Self::Kernels(l) if l.launches.iter().any(|l| l.words.contains(&Word::Fault)))
    }

    /// Bytes in which blocks meet.
    pub fn meeting(&self) -> u64 {
        if let Self::Norm(n) = self { scratch_bytes(&n.norm) } else { 0 }
    }
}

/// A node, or a chain of nodes, ready to be launched.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: String,
    pub op: String,
    /// Names of the nodes of the graph that it computes, or computes a part of.
    pub nodes: Vec<String>,
    /// Values, by port.
    pub inputs: Vec<Option<usize>>,
    pub outputs: Vec<usize>,
    pub work: Work,
    /// Bytes.
    pub scratch: u64,
    /// Where in the arena.
    pub scratch_at: u64,
    /// Its word among those in which kernels say what is wrong.
    pub fault: Option<usize>,
    pub once: bool,
}

impl Step {
    /// A step of every run, from one value to another.
    pub fn of(name: &str, op: &str, from: usize, to: usize, work: Work) -> Self {
        Self {
            name: name.to_owned(),
            op: op.to_owned(),
            nodes: vec![name.to_owned()],
            inputs: vec![Some(from)],
            outputs: vec![to],
            work,
            scratch: 0,
            scratch_at: 0,
            fault: None,
            once: false,
        }
    }

    /// Values that it reads and writes.
    pub fn operands(&self) -> impl Iterator<Item = usize> + '_ {
        self.inputs.iter().flatten().chain(&self.outputs).copied()
    }
}
