//! Rounding to and from the narrow float types.
//!
//! One routine rounds an f64 (which holds every f32 exactly) to any format with round-to-nearest-even, denormals
//! included; formats differ only in the numbers of a `Format`.

use crate::DType;

/// What tells one narrow float from another. Codes are magnitudes: the sign bit is apart.
struct Format {
    exp_bits: u32,
    man_bits: u32,
    bias: i32,
    /// Largest finite code.
    max: u32,
    /// Code of infinity, where the format has one.
    inf: Option<u32>,
    /// Code of NaN, where the format has one; with the sign bit included.
    nan: Option<u32>,
    /// False if the code of -0 means something else.
    negative_zero: bool,
}

const F16: Format = Format {
    exp_bits: 5,
    man_bits: 10,
    bias: 15,
    max: 0x7bff,
    inf: Some(0x7c00),
    nan: Some(0x7e00),
    negative_zero: true,
};
const BF16: Format = Format {
    exp_bits: 8,
    man_bits: 7,
    bias: 127,
    max: 0x7f7f,
    inf: Some(0x7f80),
    nan: Some(0x7fc0),
    negative_zero: true,
};
const E4M3FN: Format =
    Format { exp_bits: 4, man_bits: 3, bias: 7, max: 0x7e, inf: None, nan: Some(0x7f), negative_zero: true };
const E4M3FNUZ: Format =
    Format { exp_bits: 4, man_bits: 3, bias: 8, max: 0x7f, inf: None, nan: Some(0x80), negative_zero: false };
const E5M2: Format =
    Format { exp_bits: 5, man_bits: 2, bias: 15, max: 0x7b, inf: Some(0x7c), nan: Some(0x7e), negative_zero: true };
const E5M2FNUZ: Format =
    Format { exp_bits: 5, man_bits: 2, bias: 16, max: 0x7f, inf: None, nan: Some(0x80), negative_zero: false };
const E2M1: Format = Format { exp_bits: 2, man_bits: 1, bias: 1, max: 7, inf: None, nan: None, negative_zero: true };

impl Format {
    fn encode(&self, x: f64, saturate: bool) -> u32 {
        let bits = x.to_bits();
        let sign = ((bits >> 63) as u32) << (self.exp_bits + self.man_bits);
        if x.is_nan() {
            // A format without NaN (E2M1) takes its largest value, as ONNX and CUDA do.
            return self.nan.unwrap_or(self.max);
        }
        let biased = ((bits >> 52) & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        // An f64 denormal is far below half of the smallest value of any format; without its implicit bit it still
        // rounds to zero.
        let (significand, exponent) = if biased == 0 { (fraction, -1022) } else { (fraction | 1 << 52, biased - 1023) };
        let min_exponent = 1 - self.bias;
        let scale = exponent.max(min_exponent);
        // Drop all but man_bits below the unit of `scale`. Past 54 bits nothing can round up, so the shift stops there.
        let shift = (scale - exponent + 52 - self.man_bits as i32).min(55) as u32;
        let kept = significand >> shift;
        let rest = significand & ((1 << shift) - 1);
        let half = 1u64 << (shift - 1);
        let rounded = kept + u64::from(rest > half || (rest == half && kept & 1 == 1));
        // The implicit bit of a normal adds one to the exponent field, and so does a carry out of the mantissa.
        let code = rounded + (((scale - min_exponent) as u64) << self.man_bits);
        if code > u64::from(self.max) || x.is_infinite() {
            let over = if saturate { None } else { self.inf.or(self.nan) };
            return match over {
                // FNUZ: NaN is the code of -0 and takes no sign.
                Some(c) if self.negative_zero || self.inf.is_some() => c | sign,
                Some(c) => c,
                None => self.max | sign,
            };
        }
        if code == 0 && !self.negative_zero { 0 } else { code as u32 | sign }
    }

    fn decode(&self, code: u32) -> f64 {
        let width = self.exp_bits + self.man_bits;
        let magnitude = code & ((1 << width) - 1);
        let negative = code >> width & 1 == 1;
        let is_nan = match self.nan {
            Some(nan) if !self.negative_zero => code == nan,
            Some(nan) => magnitude > self.inf.unwrap_or(nan - 1),
            None => false,
        };
        if is_nan {
            return f64::NAN;
        }
        let value = if self.inf == Some(magnitude) {
            f64::INFINITY
        } else {
            let exponent = (magnitude >> self.man_bits) as i32;
            let fraction = magnitude & ((1 << self.man_bits) - 1);
            let significand = if exponent == 0 { fraction } else { fraction | 1 << self.man_bits };
            // Exact: a few bits times a power of two in the normal range of f64.
            let unit = exponent.max(1) - self.bias - self.man_bits as i32;
            f64::from(significand) * f64::from_bits(((unit + 1023) as u64) << 52)
        };
        if negative { -value } else { value }
    }
}

/// f32 to the bits of an f16, to nearest even.
pub fn f32_to_f16(v: f32) -> u16 {
    F16.encode(f64::from(v), false) as u16
}

/// f64 to the bits of an f16 in one rounding, to nearest even.
pub fn f64_to_f16(v: f64) -> u16 {
    F16.encode(v, false) as u16
}

/// f32 to the bits of a bf16, to nearest even.
#[inline]
pub fn f32_to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() {
        return ((bits >> 16) as u16) | 0x0040;
    }
    // Adding just under half a unit, plus one more if the kept part is odd, rounds ties to even; carries run into the
    // exponent and from the largest value to infinity.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// f64 to the bits of a bf16 in one rounding, to nearest even.
pub fn f64_to_bf16(v: f64) -> u16 {
    BF16.encode(v, false) as u16
}

/// Rounds to a float dtype and back: f32 is returned as it is, f16 and bf16 round to nearest even. Any other dtype has
/// no arithmetic of its own and leaves the value alone.
#[inline]
pub fn round_to(dtype: DType, v: f32) -> f32 {
    match dtype {
        DType::F16 => half::f16::from_bits(f32_to_f16(v)).to_f32(),
        DType::BF16 => f32::from_bits(u32::from(f32_to_bf16(v)) << 16),
        _ => v,
    }
}

/// Casts to an 8-bit or 4-bit float, to nearest even; the result is the element's code (a nibble for E2M1).
///
/// - `saturate`: out of range and infinite values become the largest finite one (ONNX `saturate=1`). Otherwise they
///   become infinity where the format has one, else NaN (torch).
/// - E2M1 has neither, so it always saturates, and NaN becomes 6.
/// - E8M0 takes the magnitude. Saturating rounds up to the next power of two within `[2^-127, 2^127]` (ONNX's default
///   and CUDA's conversion); otherwise it rounds to the nearest by torch's bit rule, and overflow is NaN.
/// - For a dtype that is none of these the result is 0.
pub fn cast_f64_to(dtype: DType, v: f64, saturate: bool) -> u8 {
    match dtype {
        DType::F8E4M3FN => E4M3FN.encode(v, saturate) as u8,
        DType::F8E4M3FNUZ => E4M3FNUZ.encode(v, saturate) as u8,
        DType::F8E5M2 => E5M2.encode(v, saturate) as u8,
        DType::F8E5M2FNUZ => E5M2FNUZ.encode(v, saturate) as u8,
        DType::F4E2M1 => E2M1.encode(v, true) as u8,
        DType::F8E8M0 if saturate => e8m0_up(v),
        DType::F8E8M0 => e8m0_nearest(v as f32),
        _ => 0,
    }
}

/// [`cast_f64_to`] of an f32, which is the same thing because every f32 is an f64.
pub fn cast_f32_to(dtype: DType, v: f32, saturate: bool) -> u8 {
    cast_f64_to(dtype, f64::from(v), saturate)
}

fn e8m0_up(v: f64) -> u8 {
    if v.is_nan() {
        return 255;
    }
    let bits = v.abs().to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let up = exponent + i64::from(bits & ((1 << 52) - 1) != 0);
    (up + 127).clamp(0, 254) as u8
}

fn e8m0_nearest(v: f32) -> u8 {
    let bits = v.to_bits();
    let exponent = bits >> 23 & 0xff;
    if exponent == 0xff {
        return 255;
    }
    // Half of a power of two rounds up. For f32 denormals the guard bit is the leading digit and this is a bit rule
    // rather than a rounding; it is what torch and ONNX compute.
    let guard = bits & 0x0040_0000 != 0;
    let below = bits & 0x003f_ffff != 0;
    (exponent + u32::from(guard && (below || exponent > 0))) as u8
}

/// The value of an 8-bit or 4-bit float's code, exactly; NaN for a dtype that is none of these.
pub fn decode(dtype: DType, code: u8) -> f32 {
    let code = u32::from(code);
    match dtype {
        DType::F8E4M3FN => E4M3FN.decode(code) as f32,
        DType::F8E4M3FNUZ => E4M3FNUZ.decode(code) as f32,
        DType::F8E5M2 => E5M2.decode(code) as f32,
        DType::F8E5M2FNUZ => E5M2FNUZ.decode(code) as f32,
        DType::F4E2M1 => E2M1.decode(code & 15) as f32,
        DType::F8E8M0 => match code {
            255 => f32::NAN,
            0 => f32::from_bits(0x0040_0000),
            e => f32::from_bits(e << 23),
        },
        _ => f32::NAN,
    }
}

/// Packs 4-bit codes two to a byte, the even index in the low nibble; an odd tail leaves the high nibble 0.
pub fn pack_nibbles(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|c| (c[0] & 15) | c.get(1).map_or(0, |high| high << 4)).collect()
}

/// The 4-bit code at an index of packed bytes.
///
/// # Panics
/// If the index is past the end.
pub fn nibble(bytes: &[u8], index: usize) -> u8 {
    (bytes[index / 2] >> (index % 2 * 4)) & 15
}

/// The first `n` 4-bit codes of packed bytes, a byte each.
///
/// # Panics
/// If there are fewer.
pub fn unpack_nibbles(bytes: &[u8], n: usize) -> Vec<u8> {
    (0..n).map(|i| nibble(bytes, i)).collect()
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
