//! Products of 8-bit floats and their scales.

use std::sync::Arc;

use cudarc::driver::sys::CUstream;
use normfuse_ir::{DType, Error, ErrorKind, Result};

use super::{
    lt::{Addend, At, Handle, Matmul, Problem, Scales},
    sizes::Side,
};
use crate::cuda::{device::Device, exec::Product};

/// A product of codes `[m, k]` and `[n, k]`, row-major, with scales that lie as the library reads them: what
/// [`normfuse_ir::scaled`] defines, up to the order of the sums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaled {
    /// Rows of the result, a multiple of 4 if there are scales of groups.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Length of the sums, at least 1.
    pub k: usize,
    /// Types of the codes.
    pub codes: [DType; 2],
    /// Scales of both sides.
    pub scales: [Scales; 2],
    /// Dtype of the result.
    pub to: DType,
    /// A row of the result's dtype is added, after the scales.
    pub bias: bool,
}

/// A product with its algorithm. Operands: a, b, scales of a, scales of b, bias if there is one.
#[derive(Debug)]
pub struct Planned {
    device: Device,
    product: Matmul,
    bias: bool,
}

impl Planned {
    /// Asks the library for an algorithm.
    ///
    /// # Errors
    /// `Unsupported` with what the library says.
    pub fn new(device: &Device, handle: &Arc<Handle>, scaled: &Scaled) -> Result<Self> {
        let Scaled { m, n, k, codes, scales, to, bias } = scaled.clone();
        let problem = Problem {
            dtypes: codes,
            scales: Some(scales),
            result: to,
            m,
            k,
            n,
            a: Side { trans: false, lead: k },
            b: Side { trans: true, lead: k },
            count: 1,
            a_step: 0,
            b_step: 0,
            alpha: 1.0,
            beta: 0.0,
            addend: if bias { Addend::Row } else { Addend::None },
            alignment: 16,
        };
        let product = Matmul::new(handle, problem).map_err(|e| {
            e.hint("a GPU multiplies 8-bit floats from Hopper on, rows of a multiple of 16 codes, into rows of a multiple of 16 bytes")
        })?;
        Ok(Self { device: device.clone(), product, bias })
    }
}

impl Product for Planned {
    fn scratch(&self) -> u64 {
        self.product.scratch()
    }

    unsafe fn launch(&self, stream: CUstream, inputs: &[u64], outputs: &[u64], scratch: u64) -> Result<()> {
        let (&[a, b, of_a, of_b, ..], &[d, ..]) = (inputs, outputs) else {
            return Err(Error::new(ErrorKind::Structure, "a scaled product lacks an operand"));
        };
        let c = inputs.get(4).copied().filter(|_| self.bias).unwrap_or(0);
        self.device.bind()?;
        // SAFETY: as the caller says.
        unsafe { self.product.launch(stream, At { a, b, c, d, scratch, scales: [of_a, of_b] }) }
    }
}
