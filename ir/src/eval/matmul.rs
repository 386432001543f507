//! Matrix products: plain loops, terms added in order of k, in f32 (f64, or wrapping integers), one rounding.

use super::{
    numbers::{Numbers, from_ints, from_numbers, unsupported},
    shape::{broadcast, broadcast_strides, checked_len, offsets, shape_error},
};
use crate::{DType, Error, ErrorKind, Result, Tensor};

/// `out[i, j] += a[i, k] * b[k, j]` for k in order; `out` starts as zeros.
fn product<T: Copy>(a: &[T], b: &[T], (m, k, n): (usize, usize, usize), out: &mut [T], fma: impl Fn(T, T, T) -> T) {
    for i in 0..m {
        let row = &mut out[i * n..(i + 1) * n];
        for p in 0..k {
            let x = a[i * k + p];
            // The inner loop runs along j, so each sum still takes its terms in order of k.
            for (o, &y) in row.iter_mut().zip(&b[p * n..(p + 1) * n]) {
                *o = fma(*o, x, y);
            }
        }
    }
}

/// The shapes of a numpy matmul.
struct Plan {
    out: Vec<usize>,
    dims: (usize, usize, usize),
    /// Element offsets of each batch in a and b.
    batches: Vec<(usize, usize)>,
}

fn plan(a: &[usize], b: &[usize]) -> Result<Plan> {
    let bad = || shape_error(format!("shapes {a:?} and {b:?} do not multiply"));
    let (lead_a, m, ka) = match a {
        [] => return Err(bad()),
        [k] => (&[][..], None, *k),
        [lead @ .., m, k] => (lead, Some(*m), *k),
    };
    let (lead_b, kb, n) = match b {
        [] => return Err(bad()),
        [k] => (&[][..], *k, None),
        [lead @ .., k, n] => (lead, *k, Some(*n)),
    };
    if ka != kb {
        return Err(bad());
    }
    let lead = broadcast(&[lead_a, lead_b]).map_err(|_| bad())?;
    let scaled = |lead_x: &[usize], block: usize| -> Result<Vec<usize>> {
        let steps: Vec<usize> = broadcast_strides(lead_x, &lead)?.iter().map(|s| s.wrapping_mul(block)).collect();
        Ok(offsets(&lead, &steps))
    };
    let dims = (m.unwrap_or(1), ka, n.unwrap_or(1));
    let out: Vec<usize> = lead.iter().copied().chain(m).chain(n).collect();
    checked_len(DType::F64, &out)?;
    let batches = if out.contains(&0) {
        Vec::new()
    } else {
        scaled(lead_a, dims.0 * dims.1)?.into_iter().zip(scaled(lead_b, dims.1 * dims.2)?).collect()
    };
    Ok(Plan { out, dims, batches })
}

fn run<T: Copy + Default>(p: &Plan, a: &[T], b: &[T], fma: impl Fn(T, T, T) -> T + Copy) -> Vec<T> {
    let (m, k, n) = p.dims;
    let mut out = vec![T::default(); p.batches.len() * m * n];
    if m * n > 0 {
        for (&(at, bt), o) in p.batches.iter().zip(out.chunks_exact_mut(m * n)) {
            product(&a[at..at + m * k], &b[bt..bt + k * n], p.dims, o, fma);
        }
    }
    out
}

fn same_dtype(a: &Tensor, b: &Tensor) -> Result<DType> {
    if a.dtype() == b.dtype() && a.dtype() != DType::Bool {
        Ok(a.dtype())
    } else {
        Err(Error::new(
            ErrorKind::DType,
            format!("operands must have one number type, found {} and {}", a.dtype(), b.dtype()),
        ))
    }
}

fn multiply(a: &Tensor, b: &Tensor) -> Result<(Vec<usize>, Numbers)> {
    let dtype = same_dtype(a, b)?;
    let p = plan(a.shape(), b.shape())?;
    let numbers = match (Numbers::of(a), Numbers::of(b)) {
        (Numbers::F32(x), Numbers::F32(y)) if dtype.is_arithmetic_float() => {
            Numbers::F32(run(&p, &x, &y, |o, x, y| o + x * y))
        }
        (Numbers::F64(x), Numbers::F64(y)) => Numbers::F64(run(&p, &x, &y, |o, x, y| o + x * y)),
        (Numbers::Int(x), Numbers::Int(y)) => {
            Numbers::Int(run(&p, &x, &y, |o, x, y| o.wrapping_add(x.wrapping_mul(y))))
        }
        _ => return Err(unsupported(dtype)),
    };
    Ok((p.out, numbers))
}

/// numpy's matmul.
///
/// # Errors
/// `Shape` if the shapes do not multiply, `DType` if the dtypes differ or are no numbers.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (out, numbers) = multiply(a, b)?;
    from_numbers(a.dtype(), &out, &numbers)
}

/// `alpha * a' * b' + beta * c`: the factors and the sum are applied in the accumulator's type before the one rounding.
///
/// # Errors
/// As [`matmul`]; `Unsupported` for integers with factors other than 1.
pub fn gemm(
    a: &Tensor,
    b: &Tensor,
    c: Option<&Tensor>,
    (alpha, beta): (f32, f32),
    (trans_a, trans_b): (bool, bool),
) -> Result<Tensor> {
    if a.shape().len() != 2 || b.shape().len() != 2 {
        return Err(shape_error(format!("expected matrices, found shapes {:?} and {:?}", a.shape(), b.shape())));
    }
    let turn = |t: &Tensor, yes| if yes { super::movement::transpose(t, None) } else { Ok(t.clone()) };
    let (out, mut numbers) = multiply(&turn(a, trans_a)?, &turn(b, trans_b)?)?;
    let c = match c {
        Some(c) => {
            same_dtype(a, c)?;
            let steps = broadcast_strides(c.shape(), &out)?;
            Some((Numbers::of(c), offsets(&out, &steps)))
        }
        None => None,
    };
    match (&mut numbers, &c) {
        (Numbers::F32(v), c) => {
            for v in v.iter_mut() {
                *v *= alpha;
            }
            if let Some((Numbers::F32(c), at)) = c {
                v.iter_mut().zip(at).for_each(|(v, &i)| *v += beta * c[i]);
            }
        }
        (Numbers::F64(v), c) => {
            for v in v.iter_mut() {
                *v *= f64::from(alpha);
            }
            if let Some((Numbers::F64(c), at)) = c {
                v.iter_mut().zip(at).for_each(|(v, &i)| *v += f64::from(beta) * c[i]);
            }
        }
        (Numbers::Int(v), c) => {
            if alpha != 1.0 || (c.is_some() && beta != 1.0) {
                return Err(Error::new(ErrorKind::Unsupported, "integer Gemm takes alpha and beta of 1 only"));
            }
            if let Some((Numbers::Int(c), at)) = c {
                v.iter_mut().zip(at).for_each(|(v, &i)| *v = v.wrapping_add(c[i]));
            }
        }
    }
    from_numbers(a.dtype(), &out, &numbers)
}

/// An 8-bit matrix less its zero point: a scalar, one for each row of a or column of b, or any shape that broadcasts.
fn centred(x: &Tensor, zero: Option<&Tensor>, rows: bool) -> Result<Vec<i32>> {
    let read = |t: &Tensor| -> Result<Vec<i32>> {
        match t.dtype() {
            DType::I8 => Ok(t.bytes().iter().map(|&b| i32::from(b as i8)).collect()),
            DType::U8 => Ok(t.bytes().iter().map(|&b| i32::from(b)).collect()),
            d => Err(Error::new(ErrorKind::DType, format!("expected i8 or u8, found {d}"))),
        }
    };
    let values = read(x)?;
    let Some(zero) = zero else { return Ok(values) };
    if zero.dtype() != x.dtype() {
        return Err(Error::new(ErrorKind::DType, format!("zero point is {}, expected {}", zero.dtype(), x.dtype())));
    }
    let zeros = read(zero)?;
    let shape = match zero.shape() {
        [n] if rows && *n > 1 => vec![*n, 1],
        s => s.to_vec(),
    };
    let at = offsets(x.shape(), &broadcast_strides(&shape, x.shape())?);
    Ok(values.iter().zip(at).map(|(v, i)| v - zeros[i]).collect())
}

/// ONNX MatMulInteger: exact in i32 (wraps past it).
///
/// # Errors
/// `Shape` if the shapes do not fit, `DType` if an operand is not i8 or u8.
pub fn matmul_integer(a: &Tensor, b: &Tensor, zero_a: Option<&Tensor>, zero_b: Option<&Tensor>) -> Result<Tensor> {
    let p = plan(a.shape(), b.shape())?;
    let (x, y) = (centred(a, zero_a, true)?, centred(b, zero_b, false)?);
    let values = run(&p, &x, &y, |o, x, y| o.wrapping_add(x.wrapping_mul(y)));
    from_ints(DType::I32, &p.out, &values.into_iter().map(i128::from).collect::<Vec<_>>())
}
