//! Sizes of a product: one matrix, or many that lie at regular distances.

use normfuse_ir::{Error, ErrorKind, Result};

/// Products of one size, by numpy's rules: 1-D operands are a row on the left, a column on the right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the result.
    pub m: usize,
    /// Length of the sums.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// Products at regular distances, in the order of the result; none if it has no elements.
    pub runs: Vec<Run>,
}

/// Products whose operands follow one another at regular distances. Everything is counted in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many.
    pub count: usize,
    /// Where the first left operand begins.
    pub a: usize,
    /// Where the first right operand begins.
    pub b: usize,
    /// Where the first result begins.
    pub d: usize,
    /// From one left operand to the next.
    pub a_step: usize,
    /// From one right operand to the next.
    pub b_step: usize,
}

impl Sizes {
    /// Of `a * b`, with leading sizes that broadcast.
    ///
    /// # Errors
    /// `Shape` for scalars, other inner sizes, and leading sizes that do not broadcast.
    pub fn of_matmul(a: &[usize], b: &[usize]) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorKind::Shape, format!("{a:?} times {b:?}: {why}"));
        let (a_batch, m, k) = match *a {
            [] => return Err(bad("a scalar is no matrix")),
            [k] => (&a[..0], 1, k),
            [.., m, k] => (&a[..a.len() - 2], m, k),
        };
        let (b_batch, k2, n) = match *b {
            [] => return Err(bad("a scalar is no matrix")),
            [k] => (&b[..0], k, 1),
            [.., k, n] => (&b[..b.len() - 2], k, n),
        };
        if k != k2 {
            return Err(bad(&format!("the inner sizes are {k} and {k2}")));
        }
        let starts = starts(a_batch, b_batch).ok_or_else(|| bad("the leading sizes do not broadcast"))?;
        if starts.is_empty() || m == 0 || n == 0 {
            return Ok(Self { m, k, n, runs: Vec::new() });
        }
        if b_batch.iter().all(|d| *d == 1) {
            // One right operand: the batch is more rows of the left one.
            return Ok(Self { m: starts.len() * m, k, n, runs: vec![Run::one()] });
        }
        Ok(Self { m, k, n, runs: runs(&starts, (m * k, k * n, m * n)) })
    }

    /// Of one product of matrices, each of which may be stored transposed.
    ///
    /// # Errors
    /// `Shape` for what is no matrix, and other inner sizes.
    pub fn of_gemm(a: &[usize], b: &[usize], (trans_a, trans_b): (bool, bool)) -> Result<Self> {
        let (&[a0, a1], &[b0, b1]) = (a, b) else {
            return Err(Error::new(ErrorKind::Shape, format!("expected matrices, found {a:?} and {b:?}")));
        };
        let (m, k) = if trans_a { (a1, a0) } else { (a0, a1) };
        let (k2, n) = if trans_b { (b1, b0) } else { (b0, b1) };
        if k != k2 {
            return Err(Error::new(ErrorKind::Shape, format!("the inner sizes are {k} and {k2}")));
        }
        Ok(Self { m, k, n, runs: if m == 0 || n == 0 { Vec::new() } else { vec![Run::one()] } })
    }
}

impl Run {
    const fn one() -> Self {
        Self { count: 1, a: 0, b: 0, d: 0, a_step: 0, b_step: 0 }
    }
}

/// Which operands each result is of, by their numbers in their own batches; `None` if the sizes do not broadcast.
fn starts(a: &[usize], b: &[usize]) -> Option<Vec<(usize, usize)>> {
    let rank = a.len().max(b.len());
    let size = |of: &[usize], axis: usize| (axis + of.len()).checked_sub(rank).map_or(1, |at| of[at]);
    let mut all = vec![(0, 0)];
    for axis in 0..rank {
        let (x, y) = (size(a, axis), size(b, axis));
        if x != y && x != 1 && y != 1 {
            return None;
        }
        let count = if x == 1 { y } else { x };
        let next = |&(i, j): &(usize, usize)| {
            (0..count).map(move |n| (i * x + if x == 1 { 0 } else { n }, j * y + if y == 1 { 0 } else { n }))
        };
        all = all.iter().flat_map(next).collect();
    }
    Some(all)
}

/// As few runs as the order of the results allows.
fn runs(starts: &[(usize, usize)], (a_size, b_size, d_size): (usize, usize, usize)) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    let mut next = 0;
    while let Some(&(a, b)) = starts.get(next) {
        let first = (a * a_size, b * b_size);
        let step = starts.get(next + 1).and_then(|&(i, j)| Some((i.checked_sub(a)?, j.checked_sub(b)?)));
        let mut count = 1;
        if let Some((i, j)) = step {
            while starts.get(next + count) == Some(&(a + count * i, b + count * j)) {
                count += 1;
            }
        }
        let (a_step, b_step) = step.filter(|_| count > 1).map_or((0, 0), |(i, j)| (i * a_size, j * b_size));
        all.push(Run { count, a: first.0, b: first.1, d: next * d_size, a_step, b_step });
        next += count;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each product of the runs, in the order of the results.
    fn spread(sizes: &Sizes) -> Vec<(usize, usize, usize)> {
        let of = |r: &Run| {
            let r = *r;
            (0..r.count).map(move |i| (r.a + i * r.a_step, r.b + i * r.b_step, r.d + i * sizes.m * sizes.n))
        };
        sizes.runs.iter().flat_map(of).collect()
    }

    #[test]
    fn one_right_operand_makes_more_rows() {
        let sizes = Sizes::of_matmul(&[2, 3, 5, 7], &[1, 7, 4]).unwrap();
        assert_eq!(sizes, Sizes { m: 30, k: 7, n: 4, runs: vec![Run::one()] });
        assert_eq!(Sizes::of_matmul(&[7], &[7]).unwrap().m, 1);
    }

    #[test]
    fn leading_sizes_broadcast_by_runs() {
        // Queries of 4 groups of 2 heads over keys of 4 heads.
        let sizes = Sizes::of_matmul(&[4, 2, 3, 5], &[4, 1, 5, 6]).unwrap();
        let expected: Vec<_> = (0..8).map(|i| (i * 15, i / 2 * 30, i * 18)).collect();
        assert_eq!(spread(&sizes), expected);
        assert_eq!(sizes.runs.len(), 4);
        let sizes = Sizes::of_matmul(&[3, 5], &[2, 4, 5, 6]).unwrap();
        assert_eq!(sizes.runs, [Run { count: 8, a: 0, b: 0, d: 0, a_step: 0, b_step: 30 }]);
        let sizes = Sizes::of_matmul(&[2, 1, 3, 5], &[1, 4, 5, 6]).unwrap();
        let expected: Vec<_> = (0..8).map(|i| (i / 4 * 15, i % 4 * 30, i * 18)).collect();
        assert_eq!(spread(&sizes), expected);
    }

    #[test]
    fn what_has_no_elements_has_no_runs() {
        for (a, b) in [(vec![0, 3, 5], vec![0, 5, 6]), (vec![2, 0, 5], vec![2, 5, 6]), (vec![2, 3, 5], vec![2, 5, 0])] {
            assert_eq!(Sizes::of_matmul(&a, &b).unwrap().runs, []);
        }
        // Sums of nothing are zeros, which there are.
        assert_eq!(Sizes::of_matmul(&[2, 3, 0], &[2, 0, 6]).unwrap().runs.len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (a, b) in [(vec![], vec![5]), (vec![3, 5], vec![4, 6]), (vec![2, 3, 5], vec![3, 5, 6])] {
            assert!(Sizes::of_matmul(&a, &b).is_err());
        }
        assert!(Sizes::of_gemm(&[3, 5], &[6, 5], (false, false)).is_err());
        assert_eq!(Sizes::of_gemm(&[5, 3], &[6, 5], (true, true)).unwrap().n, 6);
    }
}
