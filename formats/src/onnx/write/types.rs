//! `Type` to `TypeProto`.

use normfuse_ir::{Dim, Opaque, Type};
use prost::Message;

use crate::{
    FormatError, Result,
    onnx::{
        dtype,
        proto::{
            TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
    },
};

/// The declaration of a graph input or output, which must have an element type. What `ty` does not know comes from
/// `fallback`.
pub fn required(name: &str, ty: &Type, fallback: Option<&Type>) -> Result<ValueInfoProto> {
    let merged = Type {
        dtype: ty.dtype.or(fallback.and_then(|f| f.dtype)),
        shape: ty.shape.clone().or_else(|| fallback.and_then(|f| f.shape.clone())),
        opaque: ty.opaque.clone().or_else(|| fallback.and_then(|f| f.opaque.clone())),
        ..Type::default()
    };
    declaration(name, &merged).ok_or_else(|| {
        FormatError::mismatch("the element type of every graph input and output", "none")
            .at_port(format!("graph input or output `{name}`"))
            .hint("run shape inference first")
    })
}

/// The declaration of a value, if its element type is known.
pub fn declaration(name: &str, ty: &Type) -> Option<ValueInfoProto> {
    if let Some(Opaque(encoded)) = &ty.opaque {
        let ty = TypeProto::decode(&**encoded).ok()?;
        return Some(ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() });
    }
    let shape = ty.shape.as_ref().map(|s| TensorShapeProto { dim: s.0.iter().map(dimension).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(dtype::to_onnx(ty.dtype?)), shape };
    Some(ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }),
        ..ValueInfoProto::default()
    })
}

fn dimension(dim: &Dim) -> Dimension {
    let value = match dim.as_const() {
        Some(n) if n >= 0 => Some(dimension::Value::DimValue(n)),
        Some(_) => None,
        None if dim.has_unknown() => None,
        None => Some(dimension::Value::DimParam(parameter(dim))),
    };
    Dimension { value, denotation: None }
}

/// A lone symbol is written as it is, without the quotes that the text form may put around it.
fn parameter(dim: &Dim) -> String {
    let mut first = None;
    dim.visit_symbols(&mut |s| {
        first.get_or_insert_with(|| s.to_owned());
    });
    match first {
        Some(name) if *dim == Dim::sym(name.as_str()) => name,
        _ => dim.to_string(),
    }
}
