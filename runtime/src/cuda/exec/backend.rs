//! Who makes launches of nodes: kernels of single ops and chains, and a library for products.

use std::{fmt::Debug, sync::Arc};

use cudarc::driver::sys::CUstream;
use normfuse_ir::{DType, Error, ErrorKind, Op, Result};

use super::super::{
    ops::{self, AttentionSoftmax, Call, Chain, Lowered},
    product::{Plain, Scaled, Strided},
};

/// A matrix product of certain sizes, ready to be launched.
pub trait Product: Debug + Send + Sync {
    /// Bytes of scratch that a launch needs, at a multiple of 256; contents undefined before.
    fn scratch(&self) -> u64;

    /// Puts it on a stream.
    ///
    /// # Errors
    /// `Unsupported` with what the library says.
    ///
    /// # Safety
    /// The stream is one of the product's GPU. Operands, results and scratch, by port, are memory of that GPU that is as large as
    /// the sizes say until the launch is done, and nothing else writes what it reads or touches what it writes meanwhile.
    unsafe fn launch(&self, stream: CUstream, inputs: &[u64], outputs: &[u64], scratch: u64) -> Result<()>;
}

/// What a plan is made with.
pub trait Backend: Send + Sync {
    /// The launches that compute a node.
    ///
    /// # Errors
    /// `Unsupported` with the op's name and why.
    fn node(&self, call: &Call<'_>) -> Result<Lowered> {
        ops::lower(call)
    }

    /// The launches that compute a chain.
    ///
    /// # Errors
    /// As [`Backend::node`].
    fn chain(&self, chain: &Chain) -> Result<Lowered> {
        ops::lower_chain(chain)
    }

    /// The launches that write out row by row what lies in another way.
    ///
    /// # Errors
    /// As [`Backend::node`].
    fn written_out(&self, dtype: DType, lies: &Strided) -> Result<Lowered> {
        ops::written_out(dtype, lies)
    }

    /// The launch between the two products of attention.
    ///
    /// # Errors
    /// As [`Backend::node`].
    fn softmax(&self, softmax: &AttentionSoftmax) -> Result<Lowered> {
        ops::attention_softmax(softmax)
    }

    /// Most bytes of attention's scores that are there at a time, unless those of one head of keys are more.
    fn most_scores(&self) -> usize {
        256 << 20
    }

    /// A matrix product.
    ///
    /// # Errors
    /// `Unsupported` with the dtypes or sizes that there is no product for.
    fn product(&self, product: &Plain) -> Result<Arc<dyn Product>>;

    /// A product of codes and scales.
    ///
    /// # Errors
    /// As [`Backend::product`].
    fn scaled(&self, product: &Scaled) -> Result<Arc<dyn Product>>;
}

/// True for the ops that [`Backend::product`] computes, whatever their sizes are.
pub fn is_product(op: &Op) -> bool {
    matches!(op, Op::MatMul | Op::Gemm { .. })
}

/// Plans without a GPU: what products there are is not asked, and scratch of theirs is not counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct OnPaper;

#[derive(Debug)]
struct NoProduct;

impl Product for NoProduct {
    fn scratch(&self) -> u64 {
        0
    }

    unsafe fn launch(&self, _: CUstream, _: &[u64], _: &[u64], _: u64) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "a plan on paper is not run"))
    }
}

impl Backend for OnPaper {
    fn product(&self, _: &Plain) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(NoProduct))
    }

    fn scaled(&self, _: &Scaled) -> Result<Arc<dyn Product>> {
        Ok(Arc::new(NoProduct))
    }
}
