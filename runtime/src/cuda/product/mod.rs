//! Matrix products of floats, by cuBLASLt.
//!
//! The same product of the same sizes has the same bits in every run: the algorithm is chosen once, by sizes alone, and addresses
//! are taken to be aligned to no more than they are in every plan. Sums are in f32 (of f64 in f64) and rounded once; their order is
//! the library's. There is no TF32.

mod lt;
mod scaled;
mod sizes;

use std::sync::{Arc, OnceLock};

use cudarc::driver::{result, sys::CUstream};
use normfuse_ir::{DType, Error, ErrorKind, Op, Result};

pub use lt::{Scales, VARIABLE};
pub use scaled::Scaled;
pub use sizes::{Run, Sizes};

use self::lt::{Addend, At, Handle, Matmul, Problem};
use super::{
    device::{Device, failed},
    exec::{Backend, Product},
    ops::Call,
};

/// What plans products for one GPU, and kernels as [`super::ops`] has them. cuBLASLt is loaded when the first product is planned: a
/// graph without any runs where it is missing.
#[derive(Debug, Clone)]
pub struct Products {
    device: Device,
    handle: OnceLock<Arc<Handle>>,
}

impl Products {
    /// For a GPU.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), handle: OnceLock::new() }
    }

    fn handle(&self) -> Result<&Arc<Handle>> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle);
        }
        let made = Arc::new(Handle::new()?);
        // Of two that are made at the same time, one stays.
        Ok(self.handle.get_or_init(|| made))
    }

    /// Plans a `MatMul` or a `Gemm`.
    ///
    /// # Errors
    /// `Unsupported` with the dtypes or sizes that there is no product for, or every place where cuBLASLt was looked for; `Shape` for
    /// operands that do not fit one another.
    pub fn plan(&self, call: &Call<'_>) -> Result<Planned> {
        let task = Task::of(call)?;
        self.device.bind()?;
        let mut launches: Vec<(Run, Arc<Matmul>)> = Vec::new();
        if task.sizes.k > 0 {
            for run in &task.sizes.runs {
                let problem = task.problem(run);
                let same = launches.iter().find(|(r, _)| task.problem(r) == problem).map(|(_, made)| made.clone());
                let new = || Matmul::new(self.handle()?, problem).map(Arc::new);
                let made = same.map_or_else(new, Ok)?;
                launches.push((*run, made));
            }
        }
        Ok(Planned { device: self.device.clone(), task, launches })
    }
}

impl Backend for Products {
    fn product(&self, call: &Call<'_>) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(self.plan(call)?))
    }

    fn scaled(&self, product: &Scaled) -> Result<Arc<dyn Product>> {
        self.device.bind()?;
        Ok(Arc::new(scaled::Planned::new(&self.device, self.handle()?, product)?))
    }
}

/// What a node asks for.
#[derive(Debug, Clone)]
struct Task {
    dtype: DType,
    result: DType,
    sizes: Sizes,
    trans: (bool, bool),
    alpha: f32,
    beta: f32,
    addend: Addend,
    /// Bytes of the result.
    bytes: usize,
}

impl Task {
    fn of(call: &Call<'_>) -> Result<Self> {
        let operand = |i: usize| call.inputs.get(i).and_then(Option::as_ref);
        let missing = || Error::new(ErrorKind::Structure, format!("`{}` lacks an operand", call.op.name()));
        let (a, b) = operand(0).zip(operand(1)).ok_or_else(missing)?;
        let out = call.outputs.first().ok_or_else(missing)?;
        // A result may keep the f32 of its sums.
        let kept = out.dtype == DType::F32 && matches!(a.dtype, DType::F16 | DType::BF16);
        let fits =
            b.dtype == a.dtype && (out.dtype == a.dtype || kept) && operand(2).is_none_or(|c| c.dtype == out.dtype);
        if !fits {
            let message = format!("a product of {} and {} to {} has no form on the GPU", a.dtype, b.dtype, out.dtype);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let bytes = normfuse_ir::tensor::byte_len(out.dtype, &out.shape)?;
        let plain = |sizes| Self {
            dtype: a.dtype,
            result: out.dtype,
            sizes,
            trans: (false, false),
            alpha: 1.0,
            beta: 0.0,
            addend: Addend::None,
            bytes,
        };
        match call.op {
            Op::MatMul => Ok(plain(Sizes::of_matmul(&a.shape, &b.shape)?)),
            Op::Gemm { alpha, beta, trans_a, trans_b } => {
                let trans = (*trans_a, *trans_b);
                let sizes = Sizes::of_gemm(&a.shape, &b.shape, trans)?;
                let addend = match operand(2) {
                    None => Addend::None,
                    Some(c) if c.shape == [sizes.m, sizes.n] => Addend::Matrix,
                    Some(c) if beta.get() == 1.0 && (c.shape == [sizes.n] || c.shape == [1, sizes.n]) => Addend::Row,
                    Some(c) => {
                        let message = format!(
                            "`gemm` has no form on the GPU that adds c of {:?} times {} to a result of [{}, {}]",
                            c.shape,
                            beta.get(),
                            sizes.m,
                            sizes.n
                        );
                        let hint = "a row times 1 is added, or a matrix like the result";
                        return Err(Error::new(ErrorKind::Unsupported, message).hint(hint));
                    }
                };
                if sizes.k == 0 && addend != Addend::None {
                    let message = "`gemm` of sums of nothing, plus c, has no form on the GPU";
                    return Err(Error::new(ErrorKind::Unsupported, message));
                }
                Ok(Self { trans, alpha: alpha.get(), beta: beta.get(), addend, ..plain(sizes) })
            }
            other => {
                let message = format!("`{}` is no product of floats", other.name());
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    fn problem(&self, run: &Run) -> Problem {
        let (size, made) = (self.dtype.bits() / 8, self.result.bits() / 8);
        // Operands begin at multiples of 16; products after the first lie where they lie.
        let several = usize::from(run.count > 1);
        let steps = [run.a_step, run.b_step].map(|n| n * size * several);
        let results = [run.d, self.sizes.m * self.sizes.n * several].map(|n| n * made);
        let offsets = [run.a, run.b].map(|n| n * size).into_iter().chain(steps).chain(results);
        let alignment = offsets.filter(|n| *n > 0).map(|n| 1 << n.trailing_zeros().min(4)).min().unwrap_or(16);
        Problem {
            dtypes: [self.dtype; 2],
            scales: None,
            result: self.result,
            m: self.sizes.m,
            k: self.sizes.k,
            n: self.sizes.n,
            trans_a: self.trans.0,
            trans_b: self.trans.1,
            count: run.count,
            a_step: run.a_step,
            b_step: run.b_step,
            alpha: self.alpha,
            beta: self.beta,
            addend: self.addend,
            alignment,
        }
    }
}

/// A product of certain sizes.
#[derive(Debug)]
pub struct Planned {
    device: Device,
    task: Task,
    launches: Vec<(Run, Arc<Matmul>)>,
}

impl Product for Planned {
    fn scratch(&self) -> u64 {
        self.launches.iter().map(|(_, product)| product.scratch()).max().unwrap_or(0)
    }

    unsafe fn launch(&self, stream: CUstream, inputs: &[u64], outputs: &[u64], scratch: u64) -> Result<()> {
        let missing = || Error::new(ErrorKind::Structure, "a product lacks an operand");
        let (&[a, b, ..], &[d, ..]) = (inputs, outputs) else { return Err(missing()) };
        let c = inputs.get(2).copied().unwrap_or(0);
        self.device.bind()?;
        if self.task.sizes.k == 0 && self.task.bytes > 0 {
            // SAFETY: the result has as many bytes, as the caller says.
            let done = unsafe { result::memset_d8_async(d, 0, self.task.bytes, stream) };
            return done.map_err(|e| failed("cuMemsetD8Async", e));
        }
        let [size, made] = [self.task.dtype, self.task.result].map(|d| (d.bits() / 8) as u64);
        for (run, product) in &self.launches {
            let [a, b] = [(a, run.a), (b, run.b)].map(|(at, n)| at + n as u64 * size);
            let d = d + run.d as u64 * made;
            // SAFETY: as the caller says; each run lies in its operands.
            unsafe { product.launch(stream, At { a, b, c, d, scratch, scales: [0; 2] }) }?;
        }
        Ok(())
    }
}
