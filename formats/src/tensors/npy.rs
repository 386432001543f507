//! One array in numpy's `.npy` format, versions 1 to 3.

use std::io::{Read, Write};

use normfuse_ir::{DType, Tensor, tensor::byte_len};

use crate::error::{FormatError, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// No plain array has a longer header; numpy itself stops at 10,000 bytes.
const MAX_HEADER: u64 = 1 << 16;

/// Reads an array to the end of `from`. Memory is taken as bytes arrive and never more than the header's shape asks for.
pub(super) fn read(from: &mut impl Read) -> Result<Tensor> {
    let mut start = [0u8; 8];
    from.read_exact(&mut start).map_err(|_| FormatError::mismatch("a .npy header", "the end of the data"))?;
    if start[..6] != *MAGIC {
        return Err(FormatError::mismatch("a .npy header", "other bytes"));
    }
    let header_len = match start[6] {
        1 => {
            let mut n = [0u8; 2];
            from.read_exact(&mut n)?;
            u64::from(u16::from_le_bytes(n))
        }
        2 | 3 => {
            let mut n = [0u8; 4];
            from.read_exact(&mut n)?;
            u64::from(u32::from_le_bytes(n))
        }
        v => return Err(FormatError::mismatch(".npy version 1, 2 or 3", v)),
    };
    if header_len > MAX_HEADER {
        return Err(FormatError::mismatch(
            format!("a .npy header of at most {MAX_HEADER} bytes"),
            format!("{header_len} bytes"),
        ));
    }
    let header = read_up_to(from, header_len)?;
    let header = std::str::from_utf8(&header).map_err(|_| FormatError::invalid("the .npy header is not UTF-8"))?;
    let Header { dtype, fortran, shape } = parse_header(header)?;
    let len = byte_len(dtype, &shape)?;
    let bytes = read_up_to(from, len as u64)?;
    // One byte more: either there is none, or the shape is not that of the data. The container checks its checksum at
    // the end of the data, so the end must be reached.
    if from.read(&mut [0u8])? != 0 {
        return Err(FormatError::mismatch(format!("{len} bytes of data, as {dtype}{shape:?} has"), "more"));
    }
    let bytes = if fortran { to_row_major(&bytes, dtype.bits() / 8, &shape) } else { bytes };
    Ok(Tensor::from_bytes(dtype, shape, bytes)?)
}

/// Exactly `n` bytes; grows with what arrives.
fn read_up_to(from: &mut impl Read, n: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(n).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == n {
        return Ok(bytes);
    }
    Err(FormatError::mismatch(format!("{n} bytes"), format!("{} bytes: the array is truncated", bytes.len())))
}

struct Header {
    dtype: DType,
    fortran: bool,
    shape: Vec<usize>,
}

/// Parses the Python dict `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn parse_header(text: &str) -> Result<Header> {
    let bad = |what: &str| FormatError::mismatch(format!("{what} in the .npy header"), format!("`{}`", text.trim()));
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{').ok_or_else(|| bad("`{`"))?;
    loop {
        rest = rest.trim_start();
        if let Some(end) = rest.strip_prefix('}') {
            if !end.is_empty() {
                return Err(bad("nothing after `}`"));
            }
            break;
        }
        let (key, after) = quoted(rest).ok_or_else(|| bad("a key"))?;
        rest = after.trim_start().strip_prefix(':').ok_or_else(|| bad("`:`"))?.trim_start();
        match key {
            "descr" => {
                let (value, after) = quoted(rest).ok_or_else(|| {
                    bad("one element type").hint("arrays of records are not supported: save each field on its own")
                })?;
                descr = Some(value);
                rest = after;
            }
            "fortran_order" => {
                let (value, after) = [("True", true), ("False", false)]
                    .iter()
                    .find_map(|(word, v)| Some((*v, rest.strip_prefix(word)?)))
                    .ok_or_else(|| bad("`True` or `False`"))?;
                fortran = Some(value);
                rest = after;
            }
            "shape" => {
                let (inside, after) = rest
                    .strip_prefix('(')
                    .and_then(|r| r.split_once(')'))
                    .ok_or_else(|| bad("a shape in `(` and `)`"))?;
                let sizes = inside.trim().trim_end_matches(',');
                let list = sizes.split(',').filter(|_| !sizes.is_empty()).map(|d| d.trim().parse::<usize>().ok());
                shape = Some(list.collect::<Option<Vec<_>>>().ok_or_else(|| bad("sizes"))?);
                rest = after;
            }
            _ => return Err(bad("only the keys descr, fortran_order and shape")),
        }
        rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return Err(bad("`,` or `}`")),
        }
    }
    match (descr, fortran, shape) {
        (Some(descr), Some(fortran), Some(shape)) => Ok(Header { dtype: dtype_of(descr)?, fortran, shape }),
        _ => Err(bad("the keys descr, fortran_order and shape")),
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn dtype_of(descr: &str) -> Result<DType> {
    if let Some(found) = DType::ALL.into_iter().find(|d| descr_of(*d).is_some_and(|known| known == descr)) {
        return Ok(found);
    }
    // The byte order of single bytes says nothing, and writers differ.
    if let Some(found) = match descr.trim_start_matches(['<', '>', '=']) {
        "i1" => Some(DType::I8),
        "u1" => Some(DType::U8),
        "b1" => Some(DType::Bool),
        _ => None,
    } {
        return Ok(found);
    }
    let error = FormatError::mismatch("a little-endian element type that the IR knows", format!("`{descr}`"));
    Err(if descr.contains('V') || descr.contains("float") {
        error.hint(
            "numpy stores bfloat16 and 8-bit floats as raw bytes without their type: use a .safetensors file for them",
        )
    } else if descr.starts_with('>') {
        error.hint("save it as array.astype(array.dtype.newbyteorder('<'))")
    } else {
        error.hint("convert the array before saving it")
    })
}

/// How numpy names an element type; `None` for those that it does not have.
fn descr_of(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
        _ => return None,
    })
}

/// Elements of `size` bytes from column-major to row-major order.
fn to_row_major(bytes: &[u8], size: usize, shape: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0usize; shape.len()];
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for d in shape {
        strides.push(stride);
        stride *= d;
    }
    let mut at = 0;
    while out.len() < bytes.len() {
        out.extend_from_slice(&bytes[at..at + size]);
        // Count up, the last axis fastest.
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * index[axis];
            index[axis] = 0;
        }
    }
    out
}

/// Writes an array as version 1, or 2 where the header is too long for that.
pub(super) fn write(to: &mut impl Write, t: &Tensor) -> Result<()> {
    let descr = descr_of(t.dtype()).ok_or_else(|| {
        FormatError::mismatch("an element type that numpy has", t.dtype())
            .hint("write a .safetensors file, or cast to f32 first")
    })?;
    let sizes: Vec<String> = t.shape().iter().map(|d| format!("{d},")).collect();
    let shape = match sizes.as_slice() {
        [one] => one.clone(),
        many => many.join(" ").trim_end_matches(',').to_owned(),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // The data starts at a multiple of 64, for those who map the file.
    let fixed = if header.len() + 10 + 64 > usize::from(u16::MAX) { 12 } else { 10 };
    let padding = 63 - (fixed + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    to.write_all(MAGIC)?;
    if fixed == 10 {
        to.write_all(&[1, 0])?;
        to.write_all(&(header.len() as u16).to_le_bytes())?;
    } else {
        to.write_all(&[2, 0])?;
        to.write_all(&(header.len() as u32).to_le_bytes())?;
    }
    to.write_all(header.as_bytes())?;
    to.write_all(t.bytes())?;
    Ok(())
}
