//! Matrix products: the one place where the order of additions is not the contract's.
//!
//! What is promised instead: the same product has the same bits, whatever the number of threads. A product is cut into
//! panels whose sizes depend on its shape alone; each panel is one call of `gemm` on one thread, and no panel adds to
//! another. 16-bit operands are widened to f32, accumulated in f32, and rounded once by the caller.

use std::{any::TypeId, borrow::Cow};

use normfuse_ir::Result;
use rayon::prelude::*;

use super::{
    buf::{Float, zeros},
    math::Wide,
};

/// Columns a panel: wide enough to keep the kernel busy, small enough to spread a single row over the cores.
const COLS: usize = 256;
/// Rows a panel.
const ROWS: usize = 512;

/// Batched `c[i] = a[i] * b[i]`, each of one shape; operands are row-major, or transposed as stored.
pub(super) struct Product<'a, T> {
    /// Elements of the left operands.
    pub a: &'a [T],
    /// Elements of the right operands.
    pub b: &'a [T],
    /// Rows of the result.
    pub m: usize,
    /// Length of the sums.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// `a` is stored `[k, m]`.
    pub a_transposed: bool,
    /// `b` is stored `[n, k]`.
    pub b_transposed: bool,
    /// Where each product's operands start, in elements.
    pub batches: &'a [(usize, usize)],
}

/// A part of one result.
struct Panel {
    batch: usize,
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

/// A matrix as `gemm` wants it.
struct Strided<'a, W: Clone> {
    data: Cow<'a, [W]>,
    row_stride: usize,
    col_stride: usize,
}

impl<T: Float> Product<'_, T> {
    /// The results, one after the other, row-major, not yet rounded to `T`: `len` elements, which are zeros where there
    /// is nothing to add up.
    pub(super) fn run(&self, len: usize) -> Result<Vec<T::Wide>> {
        let mut out: Vec<T::Wide> = zeros(len)?;
        if len == 0 || self.k == 0 {
            return Ok(out);
        }
        let size = self.m * self.n;
        let a = T::widen(self.a);
        let mut panels = Vec::new();
        for batch in 0..self.batches.len() {
            for row in (0..self.m).step_by(ROWS) {
                for col in (0..self.n).step_by(COLS) {
                    panels.push(Panel { batch, row, rows: ROWS.min(self.m - row), col, cols: COLS.min(self.n - col) });
                }
            }
        }
        let blocks: Vec<Vec<T::Wide>> = panels.par_iter().map(|p| self.panel(&a, p)).collect();
        for (p, block) in panels.iter().zip(&blocks) {
            for (r, values) in block.chunks_exact(p.cols).enumerate() {
                let at = p.batch * size + (p.row + r) * self.n + p.col;
                out[at..at + p.cols].copy_from_slice(values);
            }
        }
        Ok(out)
    }

    fn panel(&self, a: &[T::Wide], p: &Panel) -> Vec<T::Wide> {
        let (a_start, b_start) = self.batches[p.batch];
        let a = &a[a_start..a_start + self.m * self.k];
        let left = if self.a_transposed {
            Strided { data: Cow::Borrowed(&a[p.row..]), row_stride: 1, col_stride: self.m }
        } else {
            Strided { data: Cow::Borrowed(&a[p.row * self.k..]), row_stride: self.k, col_stride: 1 }
        };
        let b = &self.b[b_start..b_start + self.k * self.n];
        let right = if self.b_transposed {
            // A panel's columns are consecutive rows of the stored matrix.
            let columns = &b[p.col * self.k..(p.col + p.cols) * self.k];
            Strided { data: T::widen(columns), row_stride: 1, col_stride: self.k }
        } else if TypeId::of::<T>() == TypeId::of::<T::Wide>() {
            Strided { data: T::widen(&b[p.col..]), row_stride: self.n, col_stride: 1 }
        } else {
            let wide = b.chunks_exact(self.n).flat_map(|row| row[p.col..p.col + p.cols].iter().map(|v| v.up()));
            Strided { data: Cow::Owned(wide.collect()), row_stride: p.cols, col_stride: 1 }
        };
        let mut block = vec![T::Wide::ZERO; p.rows * p.cols];
        multiply(p.rows, self.k, p.cols, &left, &right, &mut block);
        block
    }
}

/// `out = a * b` on the calling thread; `out` is row-major `[m, n]`.
fn multiply<W: Wide>(m: usize, k: usize, n: usize, a: &Strided<'_, W>, b: &Strided<'_, W>, out: &mut [W]) {
    let last = |rows: usize, cols: usize, s: &Strided<'_, W>| (rows - 1) * s.row_stride + (cols - 1) * s.col_stride;
    assert!(m > 0 && k > 0 && n > 0, "an empty product has no panels");
    assert!(last(m, k, a) < a.data.len() && last(k, n, b) < b.data.len() && out.len() == m * n, "panel bounds");
    // SAFETY: the asserts above keep every element that the strides reach inside its slice; `out` is not aliased; the
    // types are f32 or f64, which `gemm` takes (it would panic on others, not misbehave).
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            W::ZERO,
            W::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
