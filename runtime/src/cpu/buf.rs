//! Typed views of tensors, and tensors made from typed vectors.
//!
//! A view borrows where the bytes are aligned (a tensor that we computed, nearly every mapped weight) and copies where
//! they are not.

use std::borrow::Cow;

use bytemuck::Pod;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use normfuse_ir::{DType, Data, Error, ErrorKind, RegionBytes, Result, Tensor};

use super::math::Wide;

/// A vector that serves as the bytes of a tensor, so that views of our own results are always aligned.
struct Owned<T>(Vec<T>);

impl<T: Pod + Send + Sync> RegionBytes for Owned<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The elements of a tensor as `T`s; `T` has the size of the tensor's element (the callers dispatch on its dtype).
pub(crate) fn view<T: Pod>(tensor: &Tensor) -> Result<Cow<'_, [T]>> {
    let bytes = tensor.bytes();
    let elements = match bytemuck::try_cast_slice(bytes) {
        Ok(slice) => Cow::Borrowed(slice),
        // Misaligned; bytes that are no whole number of elements are caught below.
        Err(_) => Cow::Owned(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
    };
    if elements.len() == tensor.len() {
        Ok(elements)
    } else {
        Err(Error::new(
            ErrorKind::Structure,
            format!(
                "a tensor {}{:?} is backed by {} bytes: its data changed under it",
                tensor.dtype(),
                tensor.shape(),
                bytes.len()
            ),
        ))
    }
}

/// A tensor that owns `values`; `T` has the size of an element of `dtype`.
pub(crate) fn tensor<T: Pod + Send + Sync>(dtype: DType, shape: &[usize], values: Vec<T>) -> Result<Tensor> {
    Tensor::new(dtype, shape.to_vec(), Data::Inline(std::sync::Arc::new(Owned(values))))
}

/// No single result may be larger than this many bytes (16 GiB): a shape that data computes can ask for anything.
const MAX_BYTES: usize = 1 << 34;

/// `n` zeros, or an error where that is unreasonable or more than the machine has.
pub(crate) fn zeros<T: Pod>(n: usize) -> Result<Vec<T>> {
    let mut v = Vec::new();
    if n.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > MAX_BYTES) || v.try_reserve_exact(n).is_err() {
        let message = format!("no memory for a result of {n} elements of {} bytes", size_of::<T>());
        return Err(Error::new(ErrorKind::Shape, message));
    }
    v.resize(n, T::zeroed());
    Ok(v)
}

/// Number of elements of a shape.
pub(crate) fn numel(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(|| Error::new(ErrorKind::Shape, format!("{shape:?} is too large to address")))
}

/// A type that arithmetic ops work in: computed in `Wide`, rounded once an op.
pub(crate) trait Float: Pod + Send + Sync {
    /// f64 for f64, f32 for the rest.
    type Wide: Wide;
    /// The element type.
    const DTYPE: DType;
    /// To the arithmetic's type, exactly.
    fn up(self) -> Self::Wide;
    /// Back, to nearest even.
    fn down(wide: Self::Wide) -> Self;
    /// [`Float::up`] of a slice; borrows where that changes nothing.
    fn widen(values: &[Self]) -> Cow<'_, [Self::Wide]>;
}

macro_rules! wide {
    ($t:ty, $dtype:expr) => {
        impl Float for $t {
            type Wide = Self;
            const DTYPE: DType = $dtype;
            #[inline]
            fn up(self) -> Self {
                self
            }
            #[inline]
            fn down(wide: Self) -> Self {
                wide
            }
            fn widen(values: &[Self]) -> Cow<'_, [Self]> {
                Cow::Borrowed(values)
            }
        }
    };
}
wide!(f32, DType::F32);
wide!(f64, DType::F64);

impl Float for f16 {
    type Wide = f32;
    const DTYPE: DType = DType::F16;
    #[inline]
    fn up(self) -> f32 {
        self.to_f32()
    }
    #[inline]
    fn down(wide: f32) -> Self {
        Self::from_f32(wide)
    }
    fn widen(values: &[Self]) -> Cow<'_, [f32]> {
        let mut wide = vec![0.0; values.len()];
        // In vectors where the processor can.
        values.convert_to_f32_slice(&mut wide);
        Cow::Owned(wide)
    }
}

impl Float for bf16 {
    type Wide = f32;
    const DTYPE: DType = DType::BF16;
    #[inline]
    fn up(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline]
    fn down(wide: f32) -> Self {
        Self::from_f32(wide)
    }
    fn widen(values: &[Self]) -> Cow<'_, [f32]> {
        Cow::Owned(values.iter().map(|v| v.up()).collect())
    }
}
