//! What serde alone does not say of the leaves: constants, ops without stray attributes, shared bytes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ConstDoc, Payload};
use crate::{DType, Op, Opaque, Scheme, Tensor, text::literal};

/// A value from its JSON, refusing attributes that it does not have (serde alone would skip a misspelt one).
///
/// # Errors
/// A sentence that names the attribute.
pub(crate) fn strict<T: Serialize + serde::de::DeserializeOwned>(value: &serde_json::Value) -> Result<T, String> {
    let parsed = T::deserialize(value).map_err(|e| e.to_string())?;
    let again = serde_json::to_value(&parsed).map_err(|e| e.to_string())?;
    match stray_key(value, &again) {
        Some(key) => Err(format!("there is no attribute `{key}`")),
        None => Ok(parsed),
    }
}

fn stray_key(given: &serde_json::Value, known: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, v)| match known.get(key) {
            Some(k) => stray_key(v, k),
            // Fields that are left out when they are empty may be given as empty.
            None if v.is_null() || v.as_str() == Some("") => None,
            None => Some(key.clone()),
        }),
        (Value::Array(given), Value::Array(known)) => given.iter().zip(known).find_map(|(g, k)| stray_key(g, k)),
        _ => None,
    }
}

pub(super) fn checked_op<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Op, D::Error> {
    strict(&serde_json::Value::deserialize(d)?).map_err(serde::de::Error::custom)
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConstRepr {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scheme: Option<Arc<Scheme>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opaque: Option<Opaque>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<RegionRepr>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionRepr {
    file: String,
    offset: u64,
}

impl From<ConstDoc> for ConstRepr {
    fn from(c: ConstDoc) -> Self {
        let (mut values, mut base64, mut region) = (None, None, None);
        match c.payload {
            Payload::Inline(t) if t.len() <= literal::MAX_LISTED => values = Some(literal::print(&t)),
            Payload::Inline(t) => base64 = Some(encode_base64(t.bytes())),
            Payload::Region { file, offset } => region = Some(RegionRepr { file, offset }),
        }
        Self {
            name: c.name,
            dtype: c.dtype,
            shape: c.shape,
            scheme: c.scheme,
            opaque: c.opaque,
            values,
            base64,
            region,
        }
    }
}

impl TryFrom<ConstRepr> for ConstDoc {
    type Error = String;

    fn try_from(c: ConstRepr) -> Result<Self, String> {
        let inline = |bytes: Result<Vec<u8>, String>| {
            bytes
                .and_then(|b| Tensor::from_bytes(c.dtype, c.shape.clone(), b).map_err(|e| e.to_string()))
                .map_err(|e| format!("constant `{}`: {e}", c.name))
        };
        let payload = match (c.values, c.base64, c.region) {
            (Some(s), None, None) => Payload::Inline(inline(literal::parse(c.dtype, &c.shape, &s))?),
            (None, Some(s), None) => Payload::Inline(inline(decode_base64(&s))?),
            (None, None, Some(RegionRepr { file, offset })) => Payload::Region { file, offset },
            _ => return Err(format!("constant `{}`: expected one of `values`, `base64` and `region`", c.name)),
        };
        Ok(Self { name: c.name, dtype: c.dtype, shape: c.shape, scheme: c.scheme, opaque: c.opaque, payload })
    }
}

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text).map_err(|e| format!("this is not base64: {e}"))
}

/// Serde of shared bytes as base64.
pub(crate) mod base64_bytes {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &Arc<[u8]>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::encode_base64(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<[u8]>, D::Error> {
        let text = String::deserialize(d)?;
        super::decode_base64(&text).map(Into::into).map_err(D::Error::custom)
    }
}
