//! `.safetensors`: a JSON header and the bytes.

use std::{io::Write, path::Path, sync::Arc};

use ::safetensors::{Dtype, SafeTensorError, serialize, tensor::TensorView};
use normfuse_ir::{Data, Tensor};

use super::{at_tensor, check_bools};
use crate::{
    atomic,
    error::{FormatError, Result},
    map::MappedFile,
    safetensors,
};

/// Reads all tensors; their bytes stay in the mapped file.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = MappedFile::open(path)?;
    let mut out = Vec::new();
    for entry in safetensors::entries(&file)? {
        let at = |e| at_tensor(e, &entry.name);
        let dtype = entry
            .dtype
            .ok_or_else(|| at(FormatError::mismatch("an element type that the IR knows", entry.type_name.clone())))?;
        let region = file.region(entry.offset, entry.len)?;
        let data = Data::Inline(Arc::new(region));
        let tensor = Tensor::new(dtype, entry.shape.clone(), data).map_err(|e| at(e.into()))?;
        check_bools(&tensor).map_err(at)?;
        out.push((entry.name, tensor));
    }
    Ok(out)
}

pub(super) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut views = Vec::new();
    for (name, t) in tensors {
        let dtype = safetensors::DTYPES.iter().find(|(d, _)| *d == t.dtype()).map_or(Dtype::U8, |(_, d)| *d);
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
    let bytes = serialize(views, None).map_err(safetensors::damaged)?;
    atomic::write(path, |out| Ok(out.write_all(&bytes)?))
}
