//! MatMul, Gemm and MatMulInteger.

use normfuse_ir::{DType, Error, ErrorKind, Result, Tensor, scheme::F32};
use rayon::prelude::*;

use super::{
    broadcast::{Walk, broadcast_shape, map, map2},
    buf::{Float, numel, tensor, view, zeros},
    math::{Wide, with_float},
    product::Product,
};

/// The shapes of a product with numpy's rules: 1-D operands are a row on the left, a column on the right.
struct Shapes {
    m: usize,
    k: usize,
    n: usize,
    /// Where each product's operands start, in elements; empty if there is nothing to add up.
    batches: Vec<(usize, usize)>,
    /// Shape of the result.
    out: Vec<usize>,
    /// Elements of the result.
    len: usize,
}

fn shapes(a: &[usize], b: &[usize]) -> Result<Shapes> {
    let bad = |why: &str| Error::new(ErrorKind::Shape, format!("{a:?} times {b:?}: {why}"));
    let (a_batch, m, k) = match *a {
        [] => return Err(bad("a scalar is no matrix")),
        [k] => (&a[..0], None, k),
        [.., m, k] => (&a[..a.len() - 2], Some(m), k),
    };
    let (b_batch, k2, n) = match *b {
        [] => return Err(bad("a scalar is no matrix")),
        [k] => (&b[..0], k, None),
        [.., k, n] => (&b[..b.len() - 2], k, Some(n)),
    };
    if k != k2 {
        return Err(bad(&format!("the inner sizes are {k} and {k2}")));
    }
    let mut out = broadcast_shape(&[a_batch, b_batch])?;
    let count = numel(&out)?;
    let (rows, cols) = (m.unwrap_or(1), n.unwrap_or(1));
    out.extend(m);
    out.extend(n);
    let len = numel(&out)?;
    let (m_folded, batches) = if len == 0 || k == 0 {
        (rows, Vec::new())
    } else if b_batch.iter().all(|&d| d == 1) {
        // One right operand: the batch is more rows of the left one.
        (count * rows, vec![(0, 0)])
    } else {
        let walk = Walk::new([a_batch, b_batch])?;
        let index = |n: usize| (0..n).collect::<Vec<usize>>();
        let starts =
            map2(&walk, &index(numel(a_batch)?), &index(numel(b_batch)?), |i, j| [i * rows * k, j * k * cols])?;
        (rows, starts.into_iter().map(|[i, j]| (i, j)).collect())
    };
    Ok(Shapes { m: m_folded, k, n: cols, batches, out, len })
}

/// `a * b`; `None` for dtypes without a product here.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Option<Tensor>> {
    if a.dtype() != b.dtype() {
        return Ok(None);
    }
    with_float!(a.dtype(), T => {
        let s = shapes(a.shape(), b.shape())?;
        let wide = Product {
            a: &view::<T>(a)?,
            b: &view::<T>(b)?,
            m: s.m,
            k: s.k,
            n: s.n,
            a_transposed: false,
            b_transposed: false,
            batches: &s.batches,
        }
        .run(s.len)?;
        round::<T>(&s.out, wide).map(Some)
    }, _ => Ok(None))
}

/// A product's one rounding.
fn round<T: Float>(shape: &[usize], wide: Vec<T::Wide>) -> Result<Tensor> {
    if T::DTYPE == T::Wide::DTYPE {
        return tensor(T::DTYPE, shape, wide);
    }
    tensor(T::DTYPE, shape, map(&wide, T::down)?)
}

/// `alpha * a' * b' + beta * c`.
pub(super) fn gemm(
    (alpha, beta): (F32, F32),
    (a_transposed, b_transposed): (bool, bool),
    a: &Tensor,
    b: &Tensor,
    c: Option<&Tensor>,
) -> Result<Option<Tensor>> {
    let (&[a0, a1], &[b0, b1]) = (a.shape(), b.shape()) else {
        return Err(Error::new(
            ErrorKind::Shape,
            format!("expected matrices, found {:?} and {:?}", a.shape(), b.shape()),
        ));
    };
    let (m, k) = if a_transposed { (a1, a0) } else { (a0, a1) };
    let (k2, n) = if b_transposed { (b1, b0) } else { (b0, b1) };
    if k != k2 {
        return Err(Error::new(ErrorKind::Shape, format!("the inner sizes are {k} and {k2}")));
    }
    if a.dtype() != b.dtype() || c.is_some_and(|c| c.dtype() != a.dtype()) {
        return Ok(None);
    }
    with_float!(a.dtype(), T => {
        let (x, y) = (view::<T>(a)?, view::<T>(b)?);
        let product = Product { a: &x, b: &y, m, k, n, a_transposed, b_transposed, batches: &[(0, 0)] };
        let mut wide = product.run(numel(&[m, n])?)?;
        let unscaled = alpha.get() == 1.0;
        let [alpha, beta] = [alpha, beta].map(|f| <T as Float>::Wide::from_f32(f.get()));
        if !unscaled {
            wide = map(&wide, |v| alpha * v)?;
        }
        if let Some(c) = c {
            let walk = Walk::new([&[m, n], c.shape()])?;
            if walk.shape != [m, n] {
                return Err(Error::new(ErrorKind::Shape, format!("c {:?} does not broadcast to [{m}, {n}]", c.shape())));
            }
            wide = map2(&walk, &wide, &view::<T>(c)?, |v, c: T| v + beta * c.up())?;
        }
        round::<T>(&[m, n], wide).map(Some)
    }, _ => Ok(None))
}

/// An 8-bit matrix less its zero points, which exact sums need more bits for.
fn centred(x: &Tensor, zero: Option<&Tensor>, by_column: bool) -> Result<Vec<i32>> {
    let widen = |t: &Tensor| -> Result<Vec<i32>> {
        match t.dtype() {
            DType::I8 => Ok(view::<i8>(t)?.iter().map(|&v| i32::from(v)).collect()),
            DType::U8 => Ok(view::<u8>(t)?.iter().map(|&v| i32::from(v)).collect()),
            other => Err(Error::new(ErrorKind::DType, format!("expected i8 or u8, found {other}"))),
        }
    };
    let mut values = widen(x)?;
    let Some(zero) = zero else { return Ok(values) };
    if zero.dtype() != x.dtype() {
        let message = format!("the zero point is {}, its matrix {}", zero.dtype(), x.dtype());
        return Err(Error::new(ErrorKind::DType, message));
    }
    let zeros = widen(zero)?;
    let (rows, cols) = match *x.shape() {
        [.., rows, cols] => (rows, cols),
        [n] if by_column => (n, 1),
        [n] => (1, n),
        [] => return Ok(values),
    };
    let lines = if by_column { cols } else { rows };
    match zeros.as_slice() {
        [zero] => values.iter_mut().for_each(|v| *v -= zero),
        many if many.len() == lines && zero.shape().len() == 1 => {
            for (i, v) in values.iter_mut().enumerate() {
                *v -= many[if by_column { i % cols } else { i / cols % rows }];
            }
        }
        _ => {
            let message = format!("expected 1 or {lines} zero points, found {:?}", zero.shape());
            return Err(Error::new(ErrorKind::Shape, message));
        }
    }
    Ok(values)
}

/// The exact product of 8-bit integers in i32.
pub(super) fn matmul_integer(
    a: &Tensor,
    b: &Tensor,
    a_zero: Option<&Tensor>,
    b_zero: Option<&Tensor>,
) -> Result<Tensor> {
    let s = shapes(a.shape(), b.shape())?;
    let left = centred(a, a_zero, false)?;
    let right = centred(b, b_zero, true)?;
    let mut out: Vec<i32> = zeros(s.len)?;
    if !s.batches.is_empty() {
        out.par_chunks_mut(s.n).enumerate().for_each(|(row, out)| {
            let (a_start, b_start) = s.batches[row / s.m];
            let a = &left[a_start + row % s.m * s.k..][..s.k];
            for (a, b) in a.iter().zip(right[b_start..].chunks_exact(s.n)) {
                out.iter_mut().zip(b).for_each(|(o, b)| *o = o.wrapping_add(a.wrapping_mul(*b)));
            }
        });
    }
    tensor(DType::I32, &s.out, out)
}
