//! Element types: ONNX's numbers and ours.

use normfuse_ir::DType;

use super::proto::tensor_proto::DataType;

const TABLE: [(DataType, DType); 19] = [
    (DataType::Float, DType::F32),
    (DataType::Float16, DType::F16),
    (DataType::Bfloat16, DType::BF16),
    (DataType::Double, DType::F64),
    (DataType::Float8e4m3fn, DType::F8E4M3FN),
    (DataType::Float8e4m3fnuz, DType::F8E4M3FNUZ),
    (DataType::Float8e5m2, DType::F8E5M2),
    (DataType::Float8e5m2fnuz, DType::F8E5M2FNUZ),
    (DataType::Float8e8m0, DType::F8E8M0),
    (DataType::Float4e2m1, DType::F4E2M1),
    (DataType::Int8, DType::I8),
    (DataType::Int16, DType::I16),
    (DataType::Int32, DType::I32),
    (DataType::Int64, DType::I64),
    (DataType::Uint8, DType::U8),
    (DataType::Uint16, DType::U16),
    (DataType::Uint32, DType::U32),
    (DataType::Uint64, DType::U64),
    (DataType::Bool, DType::Bool),
];

/// ONNX's number of an element type.
pub fn to_onnx(dtype: DType) -> i32 {
    TABLE.iter().find(|(_, d)| *d == dtype).map_or(0, |(o, _)| *o as i32)
}

/// The first opset whose ops take tensors of a type, where not all that we know do.
pub const fn since(dtype: DType) -> Option<i64> {
    match dtype {
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ => Some(19),
        DType::F4E2M1 => Some(23),
        DType::F8E8M0 => Some(24),
        _ => None,
    }
}

/// The element type of ONNX's number; the error is ONNX's name of the type (or the number, where it has no name).
pub fn from_onnx(number: i64) -> Result<DType, String> {
    let Some(onnx) = i32::try_from(number).ok().and_then(|n| DataType::try_from(n).ok()) else {
        return Err(format!("type number {number}"));
    };
    TABLE.iter().find(|(o, _)| *o == onnx).map(|(_, d)| *d).ok_or_else(|| onnx.as_str_name().to_owned())
}

/// True for the number of some element type of ONNX, be it one that the IR lacks.
pub fn is_of_onnx(number: i32) -> bool {
    DataType::try_from(number).is_ok_and(|t| t != DataType::Undefined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_number() {
        for d in DType::ALL {
            assert_eq!(from_onnx(i64::from(to_onnx(d))), Ok(d));
        }
        assert_eq!((to_onnx(DType::F32), to_onnx(DType::F8E4M3FN), to_onnx(DType::F8E8M0)), (1, 17, 24));
        assert!(is_of_onnx(8) && !is_of_onnx(0) && !is_of_onnx(77));
        assert_eq!(from_onnx(8).unwrap_err(), "STRING");
        assert_eq!(from_onnx(1 << 40).unwrap_err(), "type number 1099511627776");
    }
}
