//! `TypeProto` to `Type`.

use normfuse_ir::{Dim, Opaque, Shape, Type};
use prost::Message;

use crate::{
    FormatError, Result,
    onnx::{
        dtype,
        proto::{TypeProto, ValueInfoProto, tensor_shape_proto::dimension, type_proto},
    },
};

/// The type of a graph's input or result.
///
/// # Errors
/// If there is none.
pub fn interface(info: &ValueInfoProto) -> Result<Type> {
    let refuse = |found: &str| {
        Err(FormatError::mismatch("a type", found).at_port(format!("graph input or output `{}`", info.name())))
    };
    match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        None => refuse("none"),
        Some(type_proto::Value::TensorType(t)) if !dtype::is_of_onnx(t.elem_type()) => {
            refuse(&format!("a tensor of element type {}", t.elem_type()))
        }
        Some(_) => Ok(declared(info.name(), info.r#type.as_ref())),
    }
}

/// Refuses negative sizes in a declaration, all but the -1 that exporters other than PyTorch's write for an unknown one.
///
/// # Errors
/// Names the value and the axis.
pub fn check_sizes(info: &ValueInfoProto) -> Result<()> {
    let Some(type_proto::Value::TensorType(t)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Ok(());
    };
    for (axis, d) in t.shape.iter().flat_map(|s| &s.dim).enumerate() {
        if let Some(dimension::Value::DimValue(n)) = d.value
            && n < -1
        {
            return Err(FormatError::mismatch(format!("a size of at least 0 for axis {axis}"), n)
                .at_port(format!("value `{}`", info.name())));
        }
    }
    Ok(())
}

/// What a value's declaration says; a type that the IR has no words for stays as it is encoded.
pub fn declared(name: &str, ty: Option<&TypeProto>) -> Type {
    let Some((ty, value)) = ty.and_then(|t| Some((t, t.value.as_ref()?))) else { return Type::default() };
    let known = match value {
        type_proto::Value::TensorType(t) if t.elem_type() == 0 => return Type::default(),
        type_proto::Value::TensorType(t) => dtype::from_onnx(i64::from(t.elem_type())).ok().map(|d| (t, d)),
        _ => None,
    };
    let Some((t, dtype)) = known else {
        return Type { opaque: Some(Opaque(ty.encode_to_vec().into())), ..Type::default() };
    };
    let shape = t.shape.as_ref().map(|s| {
        let dims = s.dim.iter().enumerate().map(|(axis, d)| {
            let unknown = || Dim::unknown(format_args!("{name}.{axis}"));
            match &d.value {
                Some(dimension::Value::DimValue(n)) if *n >= 0 => Dim::from(*n),
                Some(dimension::Value::DimParam(p)) if !p.is_empty() && !p.starts_with('?') => size(p),
                _ => unknown(),
            }
        });
        Shape(dims.collect())
    });
    Type { dtype: Some(dtype), shape, ..Type::default() }
}

/// Exporters write expressions (`s70*s72`, `seq + 1`) where ONNX asks for a name. What does not parse is a name, and so is
/// what no exporter would write: a hyphen without spaces (`batch-size`), and a product of sums so long that it could
/// have more terms than memory.
fn size(param: &str) -> Dim {
    let word = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_');
    let bytes = param.as_bytes();
    let hyphenated = bytes
        .iter()
        .enumerate()
        .any(|(i, c)| *c == b'-' && word(i.checked_sub(1).and_then(|i| bytes.get(i))) && word(bytes.get(i + 1)));
    if hyphenated || param.len() > 128 { Dim::sym(param) } else { param.parse().unwrap_or_else(|_| Dim::sym(param)) }
}
