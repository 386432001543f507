//! [`crate::Op::ScaledMatMul`], as [`crate::scaled`] defines it.

use super::{
    numbers::{Numbers, floats, from_numbers},
    shape::{checked_len, shape_error},
};
use crate::{
    DType, Error, ErrorKind, Result, Tensor,
    scaled::{ScalePer, ScaledMatMul},
};

/// Scales, and which of them an element of a matrix has.
struct Scales {
    values: Vec<f32>,
    per: ScalePer,
    /// Scales a row of them.
    across: usize,
}

impl Scales {
    fn new(t: &Tensor, per: ScalePer, (rows, k): (&[usize], usize)) -> Result<Self> {
        if t.dtype() != DType::F32 {
            return Err(Error::new(ErrorKind::DType, format!("expected scales in f32, found {}", t.dtype())));
        }
        let up = |n: &usize, by: u64| n.div_ceil(usize::try_from(by).unwrap_or(usize::MAX).max(1));
        let want = per.shape(rows, &k, 1, up).unwrap_or_else(|| vec![1; t.shape().len()]);
        if t.shape() != want {
            return Err(shape_error(format!("expected scales of {want:?}, found {:?}", t.shape())));
        }
        Ok(Self { values: floats(t)?, per, across: want.last().copied().unwrap_or(1) })
    }

    fn of(&self, row: usize, group: usize) -> f32 {
        match self.per {
            ScalePer::Tensor => self.values[0],
            ScalePer::Row => self.values[row],
            ScalePer::Block(r, _) => self.values[row / r as usize * self.across + group],
        }
    }
}

/// A product of codes and their scales: a `[.., M, K]`, b `[N, K]`, the scales of both, and a bias `[N]`.
///
/// # Errors
/// `Shape` if shapes do not fit, `DType` if codes are no 8-bit floats or scales no f32, `Structure` for attributes that
/// [`ScaledMatMul::check`] refuses.
pub fn scaled_matmul(
    product: &ScaledMatMul,
    [a, b]: [&Tensor; 2],
    [scale_a, scale_b]: [&Tensor; 2],
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    product.check().map_err(|m| Error::new(ErrorKind::Structure, m))?;
    let ([rows @ .., k], &[n, columns]) = (a.shape(), b.shape()) else {
        return Err(shape_error(format!("expected matrices, found {:?} and {:?}", a.shape(), b.shape())));
    };
    if rows.is_empty() || *k != columns {
        return Err(shape_error(format!("shapes {:?} and {:?} do not multiply by rows", a.shape(), b.shape())));
    }
    for t in [a, b] {
        if !ScaledMatMul::takes(t.dtype()) {
            return Err(Error::new(ErrorKind::DType, format!("expected f8e4m3fn or f8e5m2, found {}", t.dtype())));
        }
    }
    let k = columns;
    let scales = [Scales::new(scale_a, product.a, (rows, k))?, Scales::new(scale_b, product.b, (&[n], k))?];
    let bias = bias.map(floats).transpose()?;
    if bias.as_ref().is_some_and(|v| v.len() != n) {
        return Err(shape_error(format!("expected a bias of {n}")));
    }
    let (Numbers::F32(x), Numbers::F32(w)) = (Numbers::of(a), Numbers::of(b)) else {
        return Err(Error::new(ErrorKind::DType, "codes are numbers of f32"));
    };
    let shape = [rows, &[n]].concat();
    let mut made = Vec::with_capacity(checked_len(DType::F32, &shape)?);
    let group = product.group().and_then(|g| usize::try_from(g).ok()).unwrap_or(k).clamp(1, k.max(1));
    let m: usize = rows.iter().product();
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0f32;
            let terms = x[i * k..(i + 1) * k].chunks(group).zip(w[j * k..(j + 1) * k].chunks(group));
            for (g, (x, w)) in terms.enumerate() {
                let part = x.iter().zip(w).fold(0.0f32, |sum, (x, w)| sum + x * w);
                let scaled = part * scales[0].of(i, g) * scales[1].of(j, g);
                // A sum of one part is that part, also where it is -0.
                sum = if g == 0 { scaled } else { sum + scaled };
            }
            made.push(bias.as_ref().map_or(sum, |b| sum + b[j]));
        }
    }
    from_numbers(product.to, &shape, &Numbers::F32(made))
}
