//! `TensorProto` to `Tensor`: bytes in the file, in typed fields, or in a data file beside the model.

use std::sync::Arc;

use bytes::Bytes;
use normfuse_ir::{DType, Data, Opaque, RegionBytes, Tensor, tensor::byte_len};
use prost::Message;

use crate::{
    FormatError, Result,
    map::DataFolder,
    onnx::{
        dtype,
        proto::{GraphProto, SparseTensorProto, TensorProto, tensor_proto::DataLocation},
    },
};

/// Bytes that the decoder cut out of the mapped model file.
struct Slice(Bytes);

impl RegionBytes for Slice {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A tensor of the model.
///
/// # Errors
/// If its type is one that the IR lacks, its bytes are not as many as its shape needs, or its data file is missing,
/// too short or outside the model's folder.
pub fn read(t: &TensorProto, folder: &mut DataFolder) -> Result<Tensor> {
    let dtype = dtype::from_onnx(i64::from(t.data_type()))
        .map_err(|name| FormatError::mismatch("an element type that normfuse knows", name))?;
    if t.segment.is_some() {
        return Err(FormatError::mismatch("a whole tensor", "a segment of one"));
    }
    let shape = t
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| FormatError::mismatch("sizes of at least 0", format!("{:?}", t.dims))))
        .collect::<Result<Vec<_>>>()?;
    let len = byte_len(dtype, &shape)?;
    let data = if t.data_location() == DataLocation::External {
        Data::External(region(t, len as u64, folder)?)
    } else if let Some(raw) = &t.raw_data {
        Data::Inline(Arc::new(Slice(raw.clone())))
    } else {
        Data::Inline(Arc::new(typed(t, dtype, &shape)?))
    };
    let tensor = Tensor::new(dtype, shape, data)?;
    if dtype == DType::Bool
        && let Some(b) = tensor.bytes().iter().find(|b| **b > 1)
    {
        return Err(FormatError::mismatch("bools of 0 or 1", b));
    }
    Ok(tensor)
}

/// True for an element type that the IR has.
pub fn is_known(t: &TensorProto) -> bool {
    dtype::from_onnx(i64::from(t.data_type())).is_ok()
}

/// A tensor of an element type that the IR lacks, or a sparse one: its bytes, and the rest of it encoded as the only
/// initializer of a graph. What is spelled in typed fields (strings) stays among the rest.
///
/// # Errors
/// As [`read`], so far as bytes can be counted without knowing the type.
pub fn opaque(t: &TensorProto, folder: &mut DataFolder) -> Result<(Tensor, Opaque)> {
    if !dtype::is_of_onnx(t.data_type()) {
        return Err(FormatError::mismatch("one of ONNX's element types", format!("type number {}", t.data_type())));
    }
    if t.segment.is_some() {
        return Err(FormatError::mismatch("a whole tensor", "a segment of one"));
    }
    let mut rest = t.clone();
    let data = if t.data_location() == DataLocation::External {
        let given = t.external_data.iter().find(|e| e.key() == "length").map(|e| e.value().trim().parse::<u64>());
        let Some(Ok(len)) = given else {
            return Err(FormatError::mismatch("the `length` of external data of this element type", "none"));
        };
        (rest.data_location, rest.external_data) = (None, Vec::new());
        Data::External(region(t, len, folder)?)
    } else {
        Data::Inline(Arc::new(Slice(rest.raw_data.take().unwrap_or_default())))
    };
    rest.name = None;
    let len = match &data {
        Data::External(r) => usize::try_from(r.len).unwrap_or(usize::MAX),
        Data::Inline(b) => b.bytes().len(),
    };
    let shell = GraphProto { initializer: vec![rest], ..GraphProto::default() };
    Ok((Tensor::new(DType::U8, vec![len], data)?, Opaque(shell.encode_to_vec().into())))
}

/// A sparse initializer, all of it as what the IR has no words for.
///
/// # Errors
/// If its parts are in other files.
pub fn sparse(t: &SparseTensorProto) -> Result<(Tensor, Opaque)> {
    if t.values.iter().chain(&t.indices).any(|t| t.data_location() == DataLocation::External) {
        return Err(FormatError::mismatch("inline data of a sparse initializer", "external data"));
    }
    let shell = GraphProto { sparse_initializer: vec![t.clone()], ..GraphProto::default() };
    Ok((Tensor::from_bytes(DType::U8, vec![0], Vec::new())?, Opaque(shell.encode_to_vec().into())))
}

fn region(t: &TensorProto, len: u64, folder: &mut DataFolder) -> Result<normfuse_ir::Region> {
    let (mut location, mut offset, mut length) = (None, 0, None);
    for e in &t.external_data {
        let number = || {
            e.value().trim().parse::<u64>().map_err(|_| {
                FormatError::mismatch(format!("a number of bytes as `{}`", e.key()), format!("`{}`", e.value()))
            })
        };
        match e.key() {
            "location" => location = Some(e.value()),
            "offset" => offset = number()?,
            "length" => length = Some(number()?),
            // `checksum` covers the whole data file, which nobody reads in full.
            _ => {}
        }
    }
    let location = location.ok_or_else(|| FormatError::mismatch("a `location` of the external data", "none"))?;
    if let Some(length) = length
        && length != len
    {
        return Err(FormatError::mismatch(
            format!("{len} bytes of external data, as its type and shape say"),
            format!("a `length` of {length}"),
        ));
    }
    folder.region(location, offset, len)
}

/// The little-endian bytes of a tensor that is spelled in one of the typed fields.
fn typed(t: &TensorProto, dtype: DType, shape: &[usize]) -> Result<Vec<u8>> {
    fn narrow<A: Copy + std::fmt::Display, B: TryFrom<A>, const N: usize>(
        values: &[A],
        bytes: impl Fn(B) -> [u8; N],
    ) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(values.len() * N);
        for &v in values {
            let narrow = B::try_from(v).map_err(|_| FormatError::mismatch(format!("values of {} bits", N * 8), v))?;
            out.extend_from_slice(&bytes(narrow));
        }
        Ok(out)
    }
    // The number of elements fits: `byte_len` was asked before.
    let numel: usize = shape.iter().product();
    let (field, found, want) = match dtype {
        DType::F32 => ("float_data", t.float_data.len(), numel),
        DType::F64 => ("double_data", t.double_data.len(), numel),
        DType::I64 => ("int64_data", t.int64_data.len(), numel),
        DType::U32 | DType::U64 => ("uint64_data", t.uint64_data.len(), numel),
        DType::F4E2M1 => ("int32_data", t.int32_data.len(), numel.div_ceil(2)),
        _ => ("int32_data", t.int32_data.len(), numel),
    };
    // Before any copy: the shape is a claim, the field is what is there.
    if found != want {
        return Err(FormatError::mismatch(
            format!("{want} values in `{field}` (or `raw_data`) for {dtype}{shape:?}"),
            found,
        ));
    }
    match dtype {
        DType::F32 => Ok(t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::F64 => Ok(t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::I64 => Ok(t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::U64 => Ok(t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::U32 => narrow(&t.uint64_data, u32::to_le_bytes),
        DType::I32 => Ok(t.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::I16 => narrow(&t.int32_data, i16::to_le_bytes),
        DType::I8 => narrow(&t.int32_data, i8::to_le_bytes),
        DType::U16 | DType::F16 | DType::BF16 => narrow(&t.int32_data, u16::to_le_bytes),
        DType::U8
        | DType::Bool
        | DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::F4E2M1 => narrow(&t.int32_data, u8::to_le_bytes),
    }
}
