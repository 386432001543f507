//! `.safetensors`: a JSON header and the bytes.

use std::{io::Write, path::Path, sync::Arc};

use normfuse_ir::{DType, Data, Tensor};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use super::{at_tensor, check_bools};
use crate::{
    atomic,
    error::{FormatError, Result},
    map::MappedFile,
};

/// Element types with their names in the format. E4M3 without a suffix is OCP's, `f8e4m3fn` here.
const DTYPES: [(DType, Dtype); 19] = [
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::F64, Dtype::F64),
    (DType::F8E4M3FN, Dtype::F8_E4M3),
    (DType::F8E4M3FNUZ, Dtype::F8_E4M3FNUZ),
    (DType::F8E5M2, Dtype::F8_E5M2),
    (DType::F8E5M2FNUZ, Dtype::F8_E5M2FNUZ),
    (DType::F8E8M0, Dtype::F8_E8M0),
    (DType::F4E2M1, Dtype::F4),
    (DType::I8, Dtype::I8),
    (DType::I16, Dtype::I16),
    (DType::I32, Dtype::I32),
    (DType::I64, Dtype::I64),
    (DType::U8, Dtype::U8),
    (DType::U16, Dtype::U16),
    (DType::U32, Dtype::U32),
    (DType::U64, Dtype::U64),
    (DType::Bool, Dtype::BOOL),
];

/// Reads all tensors; their bytes stay in the mapped file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = MappedFile::open(path)?;
    let (header, metadata) = SafeTensors::read_metadata(file.bytes()).map_err(|e| damaged(&e))?;
    let tensors = metadata.tensors();
    let mut order: Vec<_> = tensors.iter().collect();
    // Tensors without elements share offsets: the name decides.
    order.sort_by_key(|(name, info)| (info.data_offsets, name.as_str()));
    let mut out = Vec::new();
    for (name, info) in order {
        let dtype = DTYPES.iter().find(|(_, d)| *d == info.dtype).map(|(d, _)| *d).ok_or_else(|| {
            at_tensor(FormatError::mismatch("an element type that the IR knows", format!("{:?}", info.dtype)), name)
        })?;
        let (start, end) = info.data_offsets;
        // The crate has checked that the offsets are in order and end at the end of the file.
        let region = file.region((8 + header + start) as u64, (end - start) as u64)?;
        let tensor =
            Tensor::new(dtype, info.shape.clone(), Data::Inline(Arc::new(region))).map_err(|e| at_tensor(e, name))?;
        check_bools(&tensor).map_err(|e| at_tensor(e, name))?;
        out.push((name.clone(), tensor));
    }
    Ok(out)
}

pub(super) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut views = Vec::new();
    for (name, t) in tensors {
        let dtype = DTYPES.iter().find(|(d, _)| *d == t.dtype()).map_or(Dtype::U8, |(_, d)| *d);
        let view = TensorView::new(dtype, t.shape().to_vec(), t.bytes()).map_err(|e| {
            let e = match e {
                SafeTensorError::MisalignedSlice => {
                    FormatError::mismatch("an even number of 4-bit elements", t.len()).hint("pad the last axis")
                }
                e => FormatError::invalid(e.to_string()),
            };
            at_tensor(e, name)
        })?;
        views.push((name.as_str(), view));
    }
    let bytes = safetensors::serialize(views, None).map_err(|e| damaged(&e))?;
    atomic::write(path, |out| Ok(out.write_all(&bytes)?))
}

fn damaged(e: &SafeTensorError) -> FormatError {
    FormatError::invalid(format!("this is no whole .safetensors file: {e}")).hint("the file is damaged or truncated")
}
