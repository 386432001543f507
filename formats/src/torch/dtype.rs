//! Element types as torch's schema numbers them.

use normfuse_ir::DType;

use crate::error::{FormatError, Result};

/// The element type of a number.
///
/// # Errors
/// One that the IR lacks (complex numbers), or that the schema does not have.
pub fn of(number: i64) -> Result<DType> {
    known(number).ok_or_else(|| {
        const WANTED: &str = "an element type that normfuse knows";
        match number {
            9..=11 => FormatError::mismatch(WANTED, "complex numbers")
                .hint("export the model with torch.view_as_real around its complex inputs and results"),
            n => FormatError::mismatch(WANTED, format!("number {n} of torch's schema")),
        }
    })
}

/// The element type of the parts of complex numbers.
pub fn of_parts(number: i64) -> Option<DType> {
    match number {
        9 => Some(DType::F16),
        10 => Some(DType::F32),
        11 => Some(DType::F64),
        _ => None,
    }
}

/// As [`of`], where no error is wanted.
pub fn known(number: i64) -> Option<DType> {
    Some(match number {
        1 => DType::U8,
        2 => DType::I8,
        3 => DType::I16,
        4 => DType::I32,
        5 => DType::I64,
        6 => DType::F16,
        7 => DType::F32,
        8 => DType::F64,
        12 => DType::Bool,
        13 => DType::BF16,
        28 => DType::U16,
        29 => DType::F8E4M3FN,
        30 => DType::F8E5M2,
        31 => DType::F8E4M3FNUZ,
        32 => DType::F8E5M2FNUZ,
        33 => DType::F8E8M0,
        34 => DType::U32,
        35 => DType::U64,
        _ => return None,
    })
}
