//! Element types.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The element type of a tensor.
///
/// The serialised and printed names are those of the text form: `f32`, `bf16`, `f8e4m3fn`, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of binary32.
    BF16,
    /// IEEE binary64.
    F64,
    /// OCP FP8 E4M3: no infinities, largest finite value 448.
    F8E4M3FN,
    /// AMD FP8 E4M3 with bias 8: no infinities, no negative zero, largest finite value 240.
    F8E4M3FNUZ,
    /// OCP FP8 E5M2: IEEE-like, largest finite value 57344.
    F8E5M2,
    /// AMD FP8 E5M2 with bias 16: no infinities, no negative zero, largest finite value 57344.
    F8E5M2FNUZ,
    /// OCP E8M0: a power of two, byte = exponent + 127, 255 is NaN.
    F8E8M0,
    /// OCP FP4 E2M1: largest value 6, two to a byte, the even index in the low nibble.
    F4E2M1,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [Self; 19] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F64,
        Self::F8E4M3FN,
        Self::F8E4M3FNUZ,
        Self::F8E5M2,
        Self::F8E5M2FNUZ,
        Self::F8E8M0,
        Self::F4E2M1,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::Bool,
    ];

    /// The name in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F64 => "f64",
            Self::F8E4M3FN => "f8e4m3fn",
            Self::F8E4M3FNUZ => "f8e4m3fnuz",
            Self::F8E5M2 => "f8e5m2",
            Self::F8E5M2FNUZ => "f8e5m2fnuz",
            Self::F8E8M0 => "f8e8m0",
            Self::F4E2M1 => "f4e2m1",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::Bool => "bool",
        }
    }

    /// Size of one element in bits (4 for E2M1, else a multiple of 8).
    pub const fn bits(self) -> usize {
        match self {
            Self::F4E2M1 => 4,
            Self::F8E4M3FN
            | Self::F8E4M3FNUZ
            | Self::F8E5M2
            | Self::F8E5M2FNUZ
            | Self::F8E8M0
            | Self::I8
            | Self::U8
            | Self::Bool => 8,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 16,
            Self::F32 | Self::I32 | Self::U32 => 32,
            Self::F64 | Self::I64 | Self::U64 => 64,
        }
    }

    /// Bytes that `n` elements take, rounded up to whole bytes; `None` on overflow.
    pub const fn size_of(self, n: usize) -> Option<usize> {
        match self.bits() {
            4 => Some(n.div_ceil(2)),
            b => n.checked_mul(b / 8),
        }
    }

    /// True for every floating-point type, the 8-bit and 4-bit ones included.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Self::F32
                | Self::F16
                | Self::BF16
                | Self::F64
                | Self::F8E4M3FN
                | Self::F8E4M3FNUZ
                | Self::F8E5M2
                | Self::F8E5M2FNUZ
                | Self::F8E8M0
                | Self::F4E2M1
        )
    }

    /// True for the types that arithmetic ops work in: f32, f16, bf16, f64.
    pub const fn is_arithmetic_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64)
    }

    /// True for the 8-bit and 4-bit floats.
    pub const fn is_narrow_float(self) -> bool {
        self.is_float() && self.bits() <= 8
    }

    /// True for the element types that a quantiser produces as values.
    pub const fn is_quantised(self) -> bool {
        matches!(
            self,
            Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ | Self::F4E2M1 | Self::I8 | Self::U8
        )
    }

    /// True for signed and unsigned integers, bool excluded.
    pub const fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// True for i8 to i64.
    pub const fn is_signed_int(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32 | Self::I64)
    }

    /// True for u8 to u64.
    pub const fn is_unsigned_int(self) -> bool {
        matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }

    /// The largest finite value of a quantised element type (numerics.md's FMAX).
    pub const fn max_finite(self) -> Option<f32> {
        match self {
            Self::F8E4M3FN => Some(448.0),
            Self::F8E4M3FNUZ => Some(240.0),
            Self::F8E5M2 | Self::F8E5M2FNUZ => Some(57344.0),
            Self::F4E2M1 => Some(6.0),
            Self::I8 => Some(127.0),
            Self::U8 => Some(255.0),
            _ => None,
        }
    }

    /// True if every value of `self` is a value of `wider`, so that a cast there and back is the identity.
    pub const fn embeds_in(self, wider: Self) -> bool {
        if self as u8 == wider as u8 {
            return true;
        }
        match (self, wider) {
            (Self::F16 | Self::BF16, Self::F32 | Self::F64)
            | (Self::F32, Self::F64)
            | (
                Self::F8E4M3FN | Self::F8E4M3FNUZ | Self::F8E5M2 | Self::F8E5M2FNUZ | Self::F4E2M1,
                Self::F16 | Self::BF16 | Self::F32 | Self::F64,
            )
            | (Self::F8E8M0, Self::F32 | Self::BF16 | Self::F64) => true,
            (a, b) if a.is_signed_int() && b.is_signed_int() => a.bits() <= b.bits(),
            (a, b) if a.is_unsigned_int() && b.is_unsigned_int() => a.bits() <= b.bits(),
            (a, b) if a.is_unsigned_int() && b.is_signed_int() => a.bits() < b.bits(),
            (Self::Bool, b) => b.is_int() || b.is_arithmetic_float(),
            _ => false,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| format!("`{s}` is not an element type"))
    }
}
