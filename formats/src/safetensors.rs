//! The header of a `.safetensors` file: which tensors it holds and where. Nothing is believed because a header says it:
//! every tensor is as long as its type asks for, and they fill the file without gaps or overlaps.

use std::{fmt, sync::Arc};

use normfuse_ir::DType;
use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    error::{FormatError, Result},
    map::MappedFile,
    tensors::at_tensor,
};

/// Element types with their names in the format. E4M3 without a suffix is OCP's, `f8e4m3fn` here.
pub const DTYPES: [(DType, Dtype); 19] = [
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

/// Longer headers are refused, as the format says.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes that say how long the header is.
const PREFIX: u64 = 8;
/// Key of the header that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor of the file.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its element type, if the IR has it.
    pub dtype: Option<DType>,
    /// As the format calls that type.
    pub type_name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many there are, as its type asks for.
    pub len: u64,
}

/// The tensors of a file in the order of their bytes, by name among those without any.
///
/// # Errors
/// A file that is cut off or damaged, and a header that contradicts the file or itself; the tensor is named where it is
/// about one.
pub fn entries(file: &Arc<MappedFile>) -> Result<Vec<Entry>> {
    let prefix = file.bytes().get(..PREFIX as usize).and_then(|b| b.try_into().ok());
    let length = u64::from_le_bytes(prefix.ok_or_else(|| damaged("it has no header"))?);
    if length > LONGEST_HEADER {
        return Err(damaged(format!("it claims a header of {length} bytes")));
    }
    let base = PREFIX + length;
    let header =
        file.bytes().get(PREFIX as usize..base as usize).ok_or_else(|| damaged("it ends inside its header"))?;
    let text = std::str::from_utf8(header).map_err(|e| damaged(format!("the header is no UTF-8: {e}")))?;
    let Header(mut tensors) = serde_json::from_str(text).map_err(|e| damaged(format!("the header: {e}")))?;
    tensors.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    let mut end = 0;
    for (name, info) in &tensors {
        let long = info.data_offsets.1.checked_sub(info.data_offsets.0);
        match length_of(info) {
            Some(bits) if !bits.is_multiple_of(8) => {
                return Err(at_tensor(damaged("its elements do not fill whole bytes"), name));
            }
            Some(bits) if long == Some(bits / 8) => end = info.data_offsets.1,
            _ => {
                let what = format!("{:?}{:?} at {:?}", info.dtype, info.shape, info.data_offsets);
                return Err(at_tensor(damaged(format!("a tensor as long as its type asks for, not {what}")), name));
            }
        }
    }
    if base.checked_add(end as u64) != Some(file.len()) {
        return Err(damaged(format!("its tensors end at byte {end} of {}", file.len().saturating_sub(base))));
    }
    // The library has the last word: no overlaps, no gaps.
    Metadata::new(None, tensors.clone()).map_err(|e| match &e {
        SafeTensorError::InvalidOffset(name) => at_tensor(damaged("it overlaps another one, or leaves a gap"), name),
        e => damaged(e),
    })?;
    let entry = |(name, info): (String, TensorInfo)| Entry {
        name,
        dtype: DTYPES.iter().find(|(_, d)| *d == info.dtype).map(|(d, _)| *d),
        type_name: info.dtype.to_string(),
        shape: info.shape,
        offset: base + info.data_offsets.0 as u64,
        len: (info.data_offsets.1 - info.data_offsets.0) as u64,
    };
    Ok(tensors.into_iter().map(entry).collect())
}

/// In bits; `None` if that number overflows.
fn length_of(info: &TensorInfo) -> Option<usize> {
    info.shape.iter().try_fold(info.dtype.bitsize(), |n, d| n.checked_mul(*d))
}

/// The file is not one of the format.
pub fn damaged(why: impl fmt::Display) -> FormatError {
    FormatError::invalid(format!("this is no whole .safetensors file: {why}")).hint("the file is damaged or truncated")
}

/// The tensors of a header, each name once.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Tensors;

        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut found = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info =
                        map.next_value::<TensorInfo>().map_err(|e| A::Error::custom(format!("`{name}`: {e}")))?;
                    found.push((name, info));
                }
                let mut names: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
                names.sort_unstable();
                match names.windows(2).find(|w| w[0] == w[1]) {
                    Some(w) => Err(A::Error::custom(format!("two tensors are named `{}`", w[0]))),
                    None => Ok(Header(found)),
                }
            }
        }

        d.deserialize_map(Tensors)
    }
}
