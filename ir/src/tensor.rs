//! Tensors with concrete shapes: constants of a graph, and the values that an evaluator computes.

use std::{fmt, ops::Deref, path::Path, sync::Arc};

use crate::{DType, Error, ErrorKind, Result};

/// Bytes that live outside this crate, such as a mapped file. Implementations return the same slice every time.
pub trait RegionBytes: Send + Sync {
    /// The region's bytes.
    fn bytes(&self) -> &[u8];

    /// The canonical path of the file that the bytes are mapped from, if they are: so that a writer can tell whether
    /// the file beside its output is that file.
    fn origin(&self) -> Option<&Path> {
        None
    }
}

impl RegionBytes for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A named region of a data file. The bytes are read through `data`, and nothing is copied until somebody asks.
#[derive(Clone)]
pub struct Region {
    /// The file as the model names it, relative to the model's folder, with `/` between components.
    pub file: Arc<str>,
    /// Byte offset of the region in the file.
    pub offset: u64,
    /// Length of the region in bytes.
    pub len: u64,
    /// Where the bytes come from.
    pub data: Arc<dyn RegionBytes>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..+{}]", self.file, self.offset, self.len)
    }
}

/// Where a tensor's bytes are.
#[derive(Clone)]
pub enum Data {
    /// Bytes held in memory (or in a mapping of the model file itself).
    Inline(Arc<dyn RegionBytes>),
    /// A region of an external data file.
    External(Region),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline(b) => b.bytes(),
            Self::External(r) => r.data.bytes(),
        }
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(b) => write!(f, "inline {} bytes", b.bytes().len()),
            Self::External(r) => r.fmt(f),
        }
    }
}

/// A row-major tensor with a concrete shape; little-endian bytes, 4-bit elements packed low nibble first.
///
/// Invariant: the data are exactly as long as dtype and shape say (checked by the constructors).
///
/// A pointer and no more: a graph has a value for each of its nodes, and few are constants.
#[derive(Clone)]
pub struct Tensor(Arc<Parts>);

struct Parts {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { dtype, shape, data } = &*self.0;
        f.debug_struct("Tensor").field("dtype", dtype).field("shape", shape).field("data", data).finish()
    }
}

impl Tensor {
    /// A tensor over `data`.
    ///
    /// # Errors
    /// `Shape` if the length of `data` is not what `dtype` and `shape` ask for, or that number overflows.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Data) -> Result<Self> {
        let want = byte_len(dtype, &shape)?;
        let found = match &data {
            Data::Inline(b) => b.bytes().len() as u64,
            Data::External(r) => r.len,
        };
        if want as u64 != found {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("a tensor {dtype}{shape:?} takes {want} bytes, found {found}"),
            ));
        }
        Ok(Self(Arc::new(Parts { dtype, shape, data })))
    }

    /// A tensor that owns its bytes.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self> {
        Self::new(dtype, shape, Data::Inline(Arc::new(bytes)))
    }

    /// An f32 tensor.
    ///
    /// # Panics
    /// If `shape` and `values` disagree, which is a bug of the caller.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape and values disagree");
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self(Arc::new(Parts { dtype: DType::F32, shape: shape.to_vec(), data: Data::Inline(Arc::new(bytes)) }))
    }

    /// An i64 tensor.
    ///
    /// # Panics
    /// If `shape` and `values` disagree, which is a bug of the caller.
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape and values disagree");
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self(Arc::new(Parts { dtype: DType::I64, shape: shape.to_vec(), data: Data::Inline(Arc::new(bytes)) }))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// Sizes, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.0.shape.iter().product()
    }

    /// True if some dimension is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the bytes are.
    pub fn data(&self) -> &Data {
        &self.0.data
    }

    /// The bytes; for an external region this is where the file's pages are touched.
    pub fn bytes(&self) -> &[u8] {
        &self.0.data
    }

    /// The same bytes under another shape of as many elements.
    ///
    /// # Errors
    /// `Shape` if the numbers of bytes differ.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self> {
        Self::new(self.0.dtype, shape, self.0.data.clone())
    }
}

/// Bytes of a tensor.
///
/// # Errors
/// `Shape` if the product overflows.
pub fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .and_then(|n| dtype.size_of(n))
        .filter(|&n| isize::try_from(n).is_ok())
        .ok_or_else(|| Error::new(ErrorKind::Shape, format!("{dtype}{shape:?} is too large to address")))
}
