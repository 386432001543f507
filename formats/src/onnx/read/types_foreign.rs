//! Types of results of foreign ops whose names say them: quantisers, and products with packed weights. ONNX's shape
//! inference stops at them, and so do the declarations in the files; with a shape, what lies behind is read as usual.

use normfuse_ir::{DType, Dim, Shape, Type, ValueId};

use super::{build::Builder, functions::domain};
use crate::onnx::{
    MICROSOFT, TENSOR_RT, dtype,
    proto::{AttributeProto, NodeProto},
};

/// What the node's name says of its results, first ones first; nothing for most.
pub fn results(b: &Builder<'_>, node: &NodeProto, inputs: &[Option<ValueId>]) -> Vec<Type> {
    let operand = |i: usize| inputs.get(i).copied().flatten().map(|v| b.ty(v)).unwrap_or_default();
    let int = |name: &str| node.attribute.iter().find(|a| a.name() == name).map(AttributeProto::i);
    let named = |attribute: &str| int(attribute).and_then(|n| dtype::from_onnx(n).ok());
    let (x, scale) = (operand(0), operand(1));
    let like_x = |dtype: Option<DType>| Type { dtype, shape: x.shape.clone(), ..Type::default() };
    match (domain(node.domain()), node.op_type()) {
        (TENSOR_RT, "TRT_FP4DynamicQuantize") => {
            let scales = blocks(x.shape.as_ref(), int("axis").unwrap_or(-1), int("block_size").unwrap_or(16));
            let scale_type = named("scale_type").or(Some(DType::F8E4M3FN));
            vec![like_x(Some(DType::F4E2M1)), Type { dtype: scale_type, shape: scales, ..Type::default() }]
        }
        // A product with a weight in 2 to 8 bits, `N` columns of `K`.
        (MICROSOFT, "MatMulNBits") => {
            let columns = int("N").filter(|n| *n > 0).map(Dim::from);
            let shape = x.shape.clone().zip(columns).and_then(|(mut shape, n)| {
                *shape.0.last_mut()? = n;
                Some(shape)
            });
            vec![Type { shape, ..like_x(x.dtype) }]
        }
        // Exporters differ in the shape of the first one's scales: one pads it.
        (TENSOR_RT, "TRT_MXFP8DynamicQuantize" | "TRT_MXFP8DequantizeLinear") => vec![like_x(named("output_dtype"))],
        (TENSOR_RT, "TRT_FP4QDQ") => vec![like_x(x.dtype)],
        (TENSOR_RT, "TRT_FP8DequantizeLinear" | "TRT_INT4DequantizeLinear") => vec![like_x(scale.dtype)],
        // Whatever keeps these foreign is something about their types.
        (
            "" | MICROSOFT | TENSOR_RT,
            "QuantizeLinear" | "DequantizeLinear" | "TRT_FP8QuantizeLinear" | "TRT_INT4QuantizeLinear",
        ) => vec![like_x(None)],
        _ => vec![],
    }
}

/// The shape of one scale for every `block` values along an axis.
fn blocks(x: Option<&Shape>, axis: i64, block: i64) -> Option<Shape> {
    let mut shape = x?.clone();
    let rank = i64::try_from(shape.rank()).ok()?;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
    let size = shape.0.get_mut(axis).filter(|_| block > 0)?;
    *size = (&*size + &Dim::from(block - 1)).floor_div(&Dim::from(block));
    Some(shape)
}
