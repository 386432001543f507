//! Elements of constants as text, exact to the bit.

use half::{bf16, f16};

use crate::{DType, Tensor, num, tensor::byte_len};

/// Constants of up to this many elements are written out, in text and in JSON.
pub(crate) const MAX_LISTED: usize = 64;

/// One element as text; `bits` in the low bits.
pub(crate) fn element(dtype: DType, bits: u64) -> String {
    let digits = dtype.bits().div_ceil(4);
    let float = |v: f32| {
        if v.is_nan() {
            None
        } else if v.is_infinite() {
            Some(if v > 0.0 { "inf".to_owned() } else { "-inf".to_owned() })
        } else {
            Some(format!("{v:?}"))
        }
    };
    let text = match dtype {
        DType::F32 => float(f32::from_bits(bits as u32)),
        DType::F16 => float(f16::from_bits(bits as u16).to_f32()),
        DType::BF16 => float(bf16::from_bits(bits as u16).to_f32()),
        DType::F64 => {
            let v = f64::from_bits(bits);
            if v.is_finite() { Some(format!("{v:?}")) } else { float(v as f32) }
        }
        DType::I8 => Some((bits as i8).to_string()),
        DType::I16 => Some((bits as i16).to_string()),
        DType::I32 => Some((bits as i32).to_string()),
        DType::I64 => Some((bits as i64).to_string()),
        DType::U8 | DType::U16 | DType::U32 | DType::U64 => Some(bits.to_string()),
        DType::Bool => [Some("false".to_owned()), Some("true".to_owned())].get(bits as usize).cloned().flatten(),
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 | DType::F4E2M1 => {
            float(num::decode(dtype, bits as u8))
        }
    };
    match text {
        Some(text) => text,
        None if canonical_nan(dtype) == Some(bits) => "nan".to_owned(),
        None => format!("0x{bits:0digits$x}"),
    }
}

/// The bits that `nan` stands for; other NaNs are written in hex.
fn canonical_nan(dtype: DType) -> Option<u64> {
    match dtype {
        DType::F32 => Some(0x7fc0_0000),
        DType::F16 => Some(0x7e00),
        DType::BF16 => Some(0x7fc0),
        DType::F64 => Some(0x7ff8_0000_0000_0000),
        _ => None,
    }
}

/// The bits of one element.
pub(crate) fn parse_element(dtype: DType, text: &str) -> Result<u64, String> {
    let wrong = || format!("expected an element of {dtype}, found `{text}`");
    if let Some(hex) = text.strip_prefix("0x") {
        let bits = u64::from_str_radix(hex, 16).map_err(|_| wrong())?;
        return if dtype.bits() == 64 || bits >> dtype.bits() == 0 { Ok(bits) } else { Err(wrong()) };
    }
    if text == "nan"
        && let Some(bits) = canonical_nan(dtype)
    {
        return Ok(bits);
    }
    // A word such as `infinity` is a float to Rust, and `1e999` is infinite: what is infinite says so.
    let finite = |v: f64| v.is_finite() || matches!(text, "inf" | "-inf");
    let f32_value = || text.parse::<f32>().ok().filter(|v| finite(f64::from(*v)) && !v.is_nan()).ok_or_else(wrong);
    let small = |bits: u16, infinite: bool| {
        if infinite && !matches!(text, "inf" | "-inf") { Err(wrong()) } else { Ok(u64::from(bits)) }
    };
    match dtype {
        DType::F32 => Ok(u64::from(f32_value()?.to_bits())),
        DType::F16 => {
            let v = f16::from_f32(f32_value()?);
            small(v.to_bits(), v.is_infinite())
        }
        DType::BF16 => {
            let v = bf16::from_f32(f32_value()?);
            small(v.to_bits(), v.is_infinite())
        }
        DType::F64 => {
            text.parse::<f64>().ok().filter(|v| finite(*v) && !v.is_nan()).map(f64::to_bits).ok_or_else(wrong)
        }
        DType::I8 => int(text, |v: i8| u64::from(v as u8)).ok_or_else(wrong),
        DType::I16 => int(text, |v: i16| u64::from(v as u16)).ok_or_else(wrong),
        DType::I32 => int(text, |v: i32| u64::from(v as u32)).ok_or_else(wrong),
        DType::I64 => int(text, |v: i64| v as u64).ok_or_else(wrong),
        DType::U8 => int(text, |v: u8| v.into()).ok_or_else(wrong),
        DType::U16 => int(text, |v: u16| v.into()).ok_or_else(wrong),
        DType::U32 => int(text, |v: u32| v.into()).ok_or_else(wrong),
        DType::U64 => int(text, |v: u64| v).ok_or_else(wrong),
        DType::Bool => text.parse::<bool>().map(u64::from).map_err(|_| wrong()),
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 | DType::F4E2M1 => {
            // Few codes, and only their exact values are accepted: rounding here would need a rule to round by.
            let v = f32_value()?;
            let exact = |code: &u8| num::decode(dtype, *code).to_bits() == v.to_bits();
            let code = (0..=u8::MAX).take(1 << dtype.bits()).find(exact);
            code.map(u64::from).ok_or_else(|| {
                let near = num::decode(dtype, num::cast_f32_to(dtype, v, true));
                format!("{} (the nearest is {near:?})", wrong())
            })
        }
    }
}

fn int<T: std::str::FromStr>(text: &str, bits: impl Fn(T) -> u64) -> Option<u64> {
    text.parse().ok().map(bits)
}

/// The bits of element `i`; 0 past the end, which a tensor's own length rules out.
fn bits_at(dtype: DType, bytes: &[u8], i: usize) -> u64 {
    if dtype.bits() == 4 {
        return bytes.get(i / 2).map_or(0, |b| u64::from(b >> (4 * (i % 2)) & 15));
    }
    let n = dtype.bits() / 8;
    let mut buf = [0u8; 8];
    if let Some(src) = bytes.get(i * n..(i + 1) * n) {
        buf[..n].copy_from_slice(src);
    }
    u64::from_le_bytes(buf)
}

/// Element bits to bytes; 4-bit elements are packed two to a byte, the even one low.
fn pack(dtype: DType, elements: &[u64]) -> Vec<u8> {
    if dtype.bits() == 4 {
        let high = |pair: &[u64]| pair.get(1).copied().unwrap_or(0) << 4;
        return elements.chunks(2).map(|pair| (pair[0] | high(pair)) as u8).collect();
    }
    elements.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(dtype.bits() / 8)).collect()
}

/// One element's bytes as text, for a value that is not a tensor.
pub(crate) fn print_bytes(dtype: DType, bytes: &[u8]) -> String {
    element(dtype, bits_at(dtype, bytes, 0))
}

/// One element's bytes.
pub(crate) fn parse_bytes(dtype: DType, text: &str) -> Result<Vec<u8>, String> {
    Ok(pack(dtype, &[parse_element(dtype, text)?]))
}

/// All elements: `1.5` for a scalar, else `[1.5, 2.0]` in row-major order.
pub(crate) fn print(t: &Tensor) -> String {
    let list: Vec<String> = (0..t.len()).map(|i| element(t.dtype(), bits_at(t.dtype(), t.bytes(), i))).collect();
    if t.shape().is_empty() { list.concat() } else { format!("[{}]", list.join(", ")) }
}

/// The one element that a tensor repeats, if it does.
pub(crate) fn uniform(t: &Tensor) -> Option<String> {
    let first = bits_at(t.dtype(), t.bytes(), 0);
    // An odd number of 4-bit elements leaves a nibble over, whose bits must survive too.
    let padded = t.dtype().bits() == 4 && t.len() % 2 == 1;
    let same = !t.is_empty() && !padded && (1..t.len()).all(|i| bits_at(t.dtype(), t.bytes(), i) == first);
    same.then(|| element(t.dtype(), first))
}

/// Bytes of a tensor that repeats one element. The caller bounds the size.
pub(crate) fn repeat(dtype: DType, n: usize, text: &str) -> Result<Vec<u8>, String> {
    let bits = parse_element(dtype, text)?;
    if dtype.bits() == 4 {
        let mut bytes = vec![(bits | bits << 4) as u8; n.div_ceil(2)];
        if n % 2 == 1
            && let Some(last) = bytes.last_mut()
        {
            *last &= 15;
        }
        return Ok(bytes);
    }
    Ok(pack(dtype, &[bits]).repeat(n))
}

/// Bytes of a list of as many elements as the shape has;
pub(crate) fn from_elements<'a>(
    dtype: DType,
    shape: &[usize],
    elements: impl Iterator<Item = &'a str>,
) -> Result<Vec<u8>, String> {
    byte_len(dtype, shape).map_err(|e| e.message)?;
    let want: usize = shape.iter().product();
    let mut bits = Vec::new();
    for text in elements {
        bits.push(parse_element(dtype, text)?);
    }
    if bits.len() == want {
        Ok(pack(dtype, &bits))
    } else {
        Err(format!("expected {want} elements, found {}", bits.len()))
    }
}

/// What [`print`] printed.
pub(crate) fn parse(dtype: DType, shape: &[usize], text: &str) -> Result<Vec<u8>, String> {
    let text = text.trim();
    if shape.is_empty() {
        return from_elements(dtype, shape, std::iter::once(text));
    }
    let list = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .ok_or_else(|| format!("expected elements in `[` and `]`, found `{text}`"))?
        .trim();
    let elements = list.split(',').map(str::trim).filter(|e| !(list.is_empty() && e.is_empty()));
    from_elements(dtype, shape, elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_pattern_round_trips() {
        for dtype in [DType::F16, DType::BF16, DType::I16, DType::U16] {
            for bits in 0..=u64::from(u16::MAX) {
                let text = element(dtype, bits);
                assert_eq!(parse_element(dtype, &text), Ok(bits), "{dtype} {text}");
            }
        }
    }

    #[test]
    fn every_small_pattern_round_trips() {
        for dtype in DType::ALL.into_iter().filter(|d| d.bits() <= 8) {
            for bits in 0..1u64 << dtype.bits() {
                let text = element(dtype, bits);
                assert_eq!(parse_element(dtype, &text), Ok(bits), "{dtype} {text}");
            }
        }
    }

    #[test]
    fn wide_patterns_round_trip() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let edges = [0, 1, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0x7ff0 << 48, 0xfff8 << 48, u64::MAX];
        for i in 0..20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = edges.get(i).copied().unwrap_or(x);
            for dtype in [DType::F64, DType::I64, DType::U64, DType::F32, DType::I32, DType::U32] {
                let bits = if dtype.bits() == 32 { x & 0xffff_ffff } else { x };
                let text = element(dtype, bits);
                assert_eq!(parse_element(dtype, &text), Ok(bits), "{dtype} {text}");
            }
        }
    }

    #[test]
    fn readable_where_it_can_be() {
        assert_eq!(element(DType::F32, u64::from(1e-6f32.to_bits())), "1e-6");
        assert_eq!(element(DType::BF16, 0x3f80), "1.0");
        assert_eq!(element(DType::F32, 0x7fc0_0000), "nan");
        assert_eq!(element(DType::F32, 0x7fc0_0001), "0x7fc00001");
        assert_eq!(element(DType::F32, 0x8000_0000), "-0.0");
        assert_eq!(element(DType::Bool, 2), "0x02");
        assert_eq!(element(DType::F8E4M3FN, 0x7e), "448.0");
        assert_eq!(element(DType::F8E4M3FN, 0x7f), "0x7f");
        assert_eq!(element(DType::F8E8M0, 126), "0.5");
        assert_eq!(element(DType::F4E2M1, 15), "-6.0");
    }

    #[test]
    fn what_no_element_is_gets_refused() {
        let cases = [
            (DType::F32, "1e999"),
            (DType::F32, "infinity"),
            (DType::F32, "NaN"),
            (DType::F32, "0x1ffffffff"),
            (DType::F16, "65520"),
            (DType::I8, "128"),
            (DType::U8, "-1"),
            (DType::I64, "1.0"),
            (DType::Bool, "1"),
            (DType::F4E2M1, "0x10"),
            (DType::F4E2M1, "5"),
            (DType::F8E4M3FN, "inf"),
            (DType::F8E4M3FNUZ, "-0.0"),
            (DType::F8E8M0, "0.0"),
        ];
        for (dtype, text) in cases {
            assert!(parse_element(dtype, text).is_err(), "{dtype} {text}");
        }
        assert!(parse(DType::I64, &[2], "[1]").is_err());
        assert!(parse(DType::I64, &[2], "[1, 2, 3]").is_err());
        assert!(parse(DType::I64, &[usize::MAX, 2], "[1]").is_err());
        assert_eq!(parse(DType::I64, &[0], "[]"), Ok(vec![]));
    }
}
