//! Matrix products, by cuBLASLt.
//!
//! The same product of the same sizes has the same bits in every run: the algorithm is chosen once, by sizes alone, and addresses
//! are taken to be aligned to no more than they are in every plan. Sums are in f32 (of f64 in f64) and rounded once; their order is
//! the library's. There is no TF32. Products of 8-bit integers are exact in i32. Operands are read as they lie, by rows or by columns.

mod lt;
mod plain;
mod scaled;
mod sizes;

use std::sync::{Arc, OnceLock};

use cudarc::driver::{result, sys::CUstream};
use normfuse_ir::{Error, ErrorKind, Result};

pub use lt::{Addend, Scales, VARIABLE};
pub use plain::Plain;
pub use scaled::Scaled;
pub use sizes::{Run, Side, Sizes, Strided};

use self::lt::{At, Handle, Matmul};
use super::{
    device::{Device, failed},
    exec::{Backend, Product},
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

    /// Plans a product.
    ///
    /// # Errors
    /// `Unsupported` with the dtypes and sizes that the library has no product for, or every place where it was looked for.
    pub fn plan(&self, plain: &Plain) -> Result<Planned> {
        self.device.bind()?;
        let mut launches: Vec<(Run, Arc<Matmul>)> = Vec::new();
        if plain.sizes.k > 0 {
            for run in &plain.sizes.runs {
                let problem = plain.problem(run);
                let same = launches.iter().find(|(r, _)| plain.problem(r) == problem).map(|(_, made)| made.clone());
                let new = || Matmul::new(self.handle()?, problem).map(Arc::new);
                let made = same.map_or_else(new, Ok)?;
                launches.push((*run, made));
            }
        }
        Ok(Planned { device: self.device.clone(), plain: plain.clone(), launches })
    }
}

impl Backend for Products {
    fn product(&self, product: &Plain) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(self.plan(product)?))
    }

    fn scaled(&self, product: &Scaled) -> Result<Arc<dyn Product>> {
        self.device.bind()?;
        Ok(Arc::new(scaled::Planned::new(&self.device, self.handle()?, product)?))
    }
}

/// A product of certain sizes.
#[derive(Debug)]
pub struct Planned {
    device: Device,
    plain: Plain,
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
        if self.plain.sizes.k == 0 && self.plain.bytes > 0 {
            // SAFETY: the result has as many bytes, as the caller says.
            let done = unsafe { result::memset_d8_async(d, 0, self.plain.bytes, stream) };
            return done.map_err(|e| failed("cuMemsetD8Async", e));
        }
        let [size, made] = [self.plain.dtype, self.plain.result].map(|d| (d.bits() / 8) as u64);
        for (run, product) in &self.launches {
            let [a, b] = [(a, run.a), (b, run.b)].map(|(at, n)| at + n as u64 * size);
            let d = d + run.d as u64 * made;
            // SAFETY: as the caller says; each run lies in its operands.
            unsafe { product.launch(stream, At { a, b, c, d, scratch, scales: [0; 2] }) }?;
        }
        Ok(())
    }
}
