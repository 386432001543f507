//! Single ops and chains of elementwise ops as kernels: which launches compute a node, for sizes that are known.
//!
//! A kernel is a text out of the pieces in `kernels/`, and depends on the op, dtypes and ranks; sizes and strides are words of its one
//! parameter, so that it is compiled once. Results have the bits of `normfuse_ir::eval`. What no kernel exists for is an error
//! before anything runs; data that the evaluator refuses (an index out of range, an integer divided by zero) is reported through
//! [`Word::Fault`].

mod attention;
mod chain;
mod copy;
mod groups;
mod integer;
mod norm;
mod pick;
mod place;
mod quantise;
mod reduce;
mod scatter;
mod step;
mod text;

pub use attention::{AttentionSoftmax, attention_softmax};

use std::{ops::Range, sync::Arc};

use normfuse_ir::{DType, Error, ErrorKind, Op, Result, Tensor, eval::numbers::ints};

pub use super::product::Strided;

/// Dtype and sizes of a tensor on the GPU, row-major and whole; 4-bit codes are packed as [`Tensor`] packs them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Typed {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

/// One node, with everything that is known of its operands once sizes are bound.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What it computes.
    pub op: &'a Op,
    /// Operands by port; `None` where an optional one is left out.
    pub inputs: &'a [Option<Typed>],
    /// Results by port, as inference has them.
    pub outputs: &'a [Typed],
    /// Contents of operands that the host knows (shapes, axes, k, scalars that decide shapes), by port.
    pub known: &'a [Option<Tensor>],
}

/// A word of a kernel's one parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// Address of an operand, by port: a multiple of 16.
    Input(usize),
    /// Address of a result, by port: a multiple of 16.
    Output(usize),
    /// Address of this byte of the scratch.
    Scratch(u64),
    /// The number itself.
    Number(u64),
    /// Address of a u32 of the node's own, 0 before it runs. A kernel that meets data that the op is not defined for puts a
    /// [`Fault`] there; results are then undefined, and nothing outside them was read or written.
    Fault,
}

/// What a kernel says of data that the op is not defined for: the number in the word that [`Word::Fault`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Fault {
    /// An index is out of range.
    Index = 1,
    /// An integer is divided by zero.
    Division = 2,
    /// A float target has a zero point that is not 0.
    ZeroPoint = 3,
}

impl Fault {
    /// The fault of a number; `None` for 0 and what no kernel writes.
    pub fn of(word: u32) -> Option<Self> {
        [Self::Index, Self::Division, Self::ZeroPoint].into_iter().find(|&f| f as u32 == word)
    }

    /// The error that the evaluator has for it.
    pub fn error(self) -> Error {
        let message = match self {
            Self::Index => "an index is out of range",
            Self::Division => "an integer is divided by zero",
            Self::ZeroPoint => "a float target takes a zero point of 0 only",
        };
        Error::new(ErrorKind::Value, message)
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// CUDA C++, complete but for the files that the compiler knows.
    pub text: Arc<str>,
    /// Name of the kernel in the text.
    pub entry: &'static str,
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// The kernel's parameter.
    pub words: Vec<Word>,
    /// All blocks at the same time.
    pub together: bool,
}

/// What computes a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Lowered {
    /// One after another, each after the one before has ended; none where there is nothing to compute.
    pub launches: Vec<Launch>,
    /// Bytes of scratch that they share, at a multiple of 256; contents undefined before.
    pub scratch: u64,
}

/// Elementwise ops that one kernel computes, and pieces that it joins: leaves are operands, broadcast to `shape`, or to a piece of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Sizes of every result.
    pub shape: Vec<usize>,
    /// The axis along which pieces are joined; 0 if none are.
    pub axis: usize,
    /// Operands; each broadcasts to `shape`, or to its piece of it.
    pub inputs: Vec<Leaf>,
    /// In an order in which each reads earlier ones only.
    pub steps: Vec<Step>,
    /// Steps whose values are handed out, by port.
    pub outputs: Vec<usize>,
}

/// An operand of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Element type.
    pub dtype: DType,
    /// Its sizes, and where its elements are.
    pub lies: Strided,
    /// Elements that are there where it lies, those of others among them.
    pub held: usize,
    /// If it belongs to a piece of the chain's shape: the indices of that, along the chain's axis.
    pub piece: Option<Range<usize>>,
}

/// One op of a chain, rounded to its dtype as the op alone is.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// An op of which [`is_elementwise`] is true, or a concat along the chain's axis.
    pub op: Op,
    /// By port.
    pub operands: Vec<Option<Source>>,
    /// Dtype of the result.
    pub dtype: DType,
    /// Of a concat, by port: the index of the chain's axis before which the operand ends. Each begins where the one before ends.
    pub ends: Vec<usize>,
}

impl From<&Typed> for Leaf {
    /// Row by row, for the whole shape.
    fn from(typed: &Typed) -> Self {
        let held = typed.shape.iter().product();
        Self { dtype: typed.dtype, lies: Strided::dense(&typed.shape), held, piece: None }
    }
}

/// What a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// An operand of the chain.
    Input(usize),
    /// The value of an earlier step.
    Step(usize),
}

/// True for ops that may be steps of a [`Chain`].
pub fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Cast { .. } | Op::BitCast { .. } | Op::Clip | Op::Where)
}

/// Whether a kernel computes an op, before sizes are known; else why not.
///
/// # Errors
/// The reason, in words that follow the op's name.
pub fn supports(op: &Op) -> std::result::Result<(), String> {
    match op {
        Op::NonZero => Err("has as many results as its operand's data say, which no kernel can be planned for".into()),
        Op::MatMul | Op::Gemm { .. } => Err("is a product, which no kernel of single ops computes".into()),
        Op::Attention(_) => Err("is products and a softmax, which are planned one by one".into()),
        Op::Quantize(_) | Op::FusedNorm(_) => Err("is a fused op, which has kernels of its own".into()),
        Op::Shape { .. } | Op::Size => Err("depends on no data, and is known once sizes are".into()),
        Op::Foreign(f) => Err(format!("is a foreign op and cannot be executed: {}", f.reason)),
        _ => Ok(()),
    }
}

/// The launches that compute a node.
///
/// # Errors
/// `Unsupported` with the op's name and why; `Structure`, `DType` and `Shape` for operands that do not fit.
pub fn lower(call: &Call<'_>) -> Result<Lowered> {
    supports(call.op).map_err(|why| refused(call.op, why))?;
    let (min, max) = call.op.arity();
    if call.inputs.len() < min
        || max.is_some_and(|m| call.inputs.len() > m)
        || call.outputs.len() != call.op.num_outputs()
    {
        let message =
            format!("`{}`: {} operands and {} results", call.op.name(), call.inputs.len(), call.outputs.len());
        return Err(Error::new(ErrorKind::Structure, message));
    }
    if is_elementwise(call.op) {
        return lower_elementwise(call);
    }
    for family in
        [reduce::lower, norm::lower, quantise::lower, integer::lower, copy::lower, pick::lower, scatter::lower]
    {
        if let Some(lowered) = family(call)? {
            return Ok(lowered);
        }
    }
    Err(refused(call.op, "has no kernel on the GPU"))
}

/// A node that is a chain of its own; the words of the chain's operands become those of the node's.
fn lower_elementwise(call: &Call<'_>) -> Result<Lowered> {
    let mut lowered = lower_chain(&chain::of_node(call.op, call.inputs, call.output(0)?))?;
    let ports: Vec<usize> = (0..call.inputs.len()).filter(|&i| call.inputs[i].is_some()).collect();
    for word in lowered.launches.iter_mut().flat_map(|l| &mut l.words) {
        if let Word::Input(i) = word {
            *i = ports.get(*i).copied().unwrap_or(*i);
        }
    }
    Ok(lowered)
}

/// The launches that write out, row by row, elements that lie in another way.
///
/// # Errors
/// `Unsupported` for more elements than a launch can have.
pub fn written_out(dtype: DType, lies: &Strided) -> Result<Lowered> {
    copy::written_out(dtype, lies)
}

/// The launches that compute a chain.
///
/// # Errors
/// `Structure`, `DType` and `Shape` for operands that do not fit, `Unsupported` for steps that are not elementwise.
pub fn lower_chain(chain: &Chain) -> Result<Lowered> {
    chain::lower(chain)
}

impl<'a> Call<'a> {
    /// An operand that has to be there.
    fn input(&self, i: usize) -> Result<&'a Typed> {
        let missing = || Error::new(ErrorKind::Structure, format!("`{}`: operand {i} is missing", self.op.name()));
        self.optional(i).ok_or_else(missing)
    }

    fn optional(&self, i: usize) -> Option<&'a Typed> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    fn output(&self, i: usize) -> Result<&'a Typed> {
        let missing = || Error::new(ErrorKind::Structure, format!("`{}`: result {i} is missing", self.op.name()));
        self.outputs.get(i).ok_or_else(missing)
    }

    /// The integers of an operand that the host has to know.
    fn ints(&self, i: usize) -> Result<Vec<i64>> {
        let unknown = || refused(self.op, format!("needs operand {i} before anything runs, and it depends on data"));
        ints(self.known.get(i).and_then(Option::as_ref).ok_or_else(unknown)?)
    }

    /// The same of an operand that may be left out.
    fn optional_ints(&self, i: usize) -> Result<Option<Vec<i64>>> {
        self.optional(i).map(|_| self.ints(i)).transpose()
    }
}

/// The error of an op that no kernel computes.
fn refused(op: &Op, why: impl AsRef<str>) -> Error {
    Error::new(ErrorKind::Unsupported, format!("`{}` {}", op.name(), why.as_ref()))
}

/// The error of an op that no kernel computes for these dtypes.
fn undefined(op: &Op, dtype: DType) -> Error {
    Error::new(ErrorKind::DType, format!("`{}` has no definition for {dtype}", op.name()))
}
