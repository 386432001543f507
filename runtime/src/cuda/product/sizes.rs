//! Sizes of a product, and how its matrices lie: one product, or many at regular distances.

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
    /// How each left matrix lies, of `m` rows and `k` columns.
    pub a: Side,
    /// How each right matrix lies, of `k` rows and `n` columns.
    pub b: Side,
    /// Products at regular distances, in the order of the result; none if it has no elements.
    pub runs: Vec<Run>,
}

/// How a matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Its columns lie one behind the other, not its rows.
    pub trans: bool,
    /// Elements from one of those to the next.
    pub lead: usize,
}

/// An operand: sizes of its axes, and elements from one index of each to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strided {
    /// Outermost first.
    pub shape: Vec<usize>,
    /// As many; 0 where every index has the same elements.
    pub strides: Vec<usize>,
    /// The element of the first index.
    pub offset: usize,
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

impl Strided {
    /// Row-major and whole.
    pub fn dense(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1);
        }
        Self { shape: shape.to_vec(), strides, offset: 0 }
    }

    /// True if it lies as [`Strided::dense`] says, from its first element on: where an axis of one index would go on does not matter.
    pub fn is_dense(&self) -> bool {
        let dense = Self::dense(&self.shape).strides;
        self.offset == 0
            && self.shape.iter().zip(self.strides.iter().zip(dense)).all(|(n, (own, dense))| *n <= 1 || *own == dense)
    }

    /// With its axes in another order.
    #[must_use]
    pub fn permuted(&self, axes: &[usize]) -> Self {
        let pick = |of: &[usize]| axes.iter().map(|a| of[*a]).collect();
        Self { shape: pick(&self.shape), strides: pick(&self.strides), offset: self.offset }
    }

    /// So many indices of an axis, from one on, each `step` behind the one before.
    #[must_use]
    pub fn cut(mut self, axis: usize, first: usize, step: usize, len: usize) -> Self {
        // Of no indices there is no first one.
        self.offset += if len > 0 { first * self.strides[axis] } else { 0 };
        self.strides[axis] *= step;
        self.shape[axis] = len;
        self
    }

    /// Broadcast, if it can be.
    pub fn broadcast(&self, shape: &[usize]) -> Option<Self> {
        let more = shape.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; shape.len()];
        for (axis, (&own, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            let whole = shape[more + axis];
            (own == whole || own == 1).then_some(())?;
            strides[more + axis] = if own == whole { stride } else { 0 };
        }
        Some(Self { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// In other sizes of as many elements, if the order of the elements can be said so.
    pub fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        // Without axes of one index, and with those made one that lie as one.
        let mut axes: Vec<(usize, usize)> = Vec::new();
        for (&size, &stride) in self.shape.iter().zip(&self.strides).filter(|(n, _)| **n != 1) {
            match axes.last_mut() {
                Some((outer, step)) if *step == size * stride => (*outer, *step) = (*outer * size, stride),
                _ => axes.push((size, stride)),
            }
        }
        // Each of these is cut into axes of the new shape, from the last one on.
        let mut strides = vec![0; shape.len()];
        let mut left = axes.pop().unwrap_or((1, 1));
        for (&size, stride) in shape.iter().zip(&mut strides).rev() {
            if left.0 == 1 && size != 1 {
                left = axes.pop()?;
            }
            if size == 0 || !left.0.is_multiple_of(size) {
                return None;
            }
            *stride = left.1;
            left = (left.0 / size, left.1 * size);
        }
        (left.0 == 1 && axes.is_empty()).then(|| Self { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// The sizes of its matrices, from one row and one column to the next, and the axes of the batch.
    fn matrices(&self, is_left: bool) -> Option<(Matrix, Self)> {
        let lead = self.shape.len().saturating_sub(2);
        let (sizes, steps) = match (&self.shape[lead..], &self.strides[lead..]) {
            (&[rows, columns], &[down, across]) => ([rows, columns], [down, across]),
            (&[k], &[step]) if is_left => ([1, k], [k * step, step]),
            (&[k], &[step]) => ([k, 1], [step, 1]),
            _ => return None,
        };
        let (shape, strides) = (self.shape[..lead].to_vec(), self.strides[..lead].to_vec());
        let batch = Self { shape, strides, offset: self.offset };
        Some((Matrix { sizes, steps }, batch))
    }
}

/// A matrix of any strides.
#[derive(Debug, Clone, Copy)]
struct Matrix {
    /// Rows and columns.
    sizes: [usize; 2],
    /// From one to the next.
    steps: [usize; 2],
}

impl Matrix {
    /// In the library's words, which has rows or columns without gaps between their elements.
    fn side(self) -> Option<Side> {
        let ([rows, columns], [down, across]) = (self.sizes, self.steps);
        let of = |trans, (lines, line): (usize, usize), (next, step): (usize, usize)| {
            let lead = if lines <= 1 { line.max(1) } else { next };
            ((step == 1 || line <= 1) && lead >= line.max(1)).then_some(Side { trans, lead })
        };
        let by_rows = of(false, (rows, columns), (down, across));
        by_rows.or_else(|| of(true, (columns, rows), (across, down)))
    }
}

impl Sizes {
    /// Of `a * b`, with leading sizes that broadcast.
    ///
    /// # Errors
    /// `Shape` for scalars, other inner sizes, and leading sizes that do not broadcast; `Unsupported` for matrices neither the rows
    /// nor the columns of which are without gaps.
    pub fn of_matmul(a: &Strided, b: &Strided) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorKind::Shape, format!("{:?} times {:?}: {why}", a.shape, b.shape));
        let (mut left, a_batch) = a.matrices(true).ok_or_else(|| bad("a scalar is no matrix"))?;
        let (right, b_batch) = b.matrices(false).ok_or_else(|| bad("a scalar is no matrix"))?;
        let ([mut m, k], [k2, n]) = (left.sizes, right.sizes);
        if k != k2 {
            return Err(bad(&format!("the inner sizes are {k} and {k2}")));
        }
        let starts = starts(&a_batch, &b_batch).ok_or_else(|| bad("the leading sizes do not broadcast"))?;
        let gaps = || Error::new(ErrorKind::Unsupported, "a product of matrices whose rows and columns have gaps");
        let sides = |left: Matrix| left.side().zip(right.side()).ok_or_else(gaps);
        if starts.is_empty() || m == 0 || n == 0 {
            let (a, b) = sides(left)?;
            return Ok(Self { m, k, n, a, b, runs: Vec::new() });
        }
        // One right operand: the batch is more rows of the left one, if those go on as they are.
        let (rows, first) = (starts.len() * m, starts[0]);
        let step = if m > 1 { left.steps[0] } else { starts.get(1).map_or(left.steps[0], |(at, _)| *at - first.0) };
        let goes_on = starts.iter().enumerate().all(|(i, (at, _))| *at == first.0 + i * m * step);
        if b_batch.shape.iter().all(|d| *d == 1) && goes_on && (step > 0 || rows == 1) {
            (left.sizes[0], left.steps[0]) = (rows, step);
            m = rows;
            let (a, b) = sides(left)?;
            return Ok(Self { m, k, n, a, b, runs: vec![Run::one(first)] });
        }
        let (a, b) = sides(left)?;
        Ok(Self { m, k, n, a, b, runs: runs(&starts, m * n) })
    }

    /// Of one product of matrices, each of which may be stored transposed.
    ///
    /// # Errors
    /// As [`Sizes::of_matmul`]; `Shape` for what is no matrix.
    pub fn of_gemm(a: &Strided, b: &Strided, (trans_a, trans_b): (bool, bool)) -> Result<Self> {
        if a.shape.len() != 2 || b.shape.len() != 2 {
            let message = format!("expected matrices, found {:?} and {:?}", a.shape, b.shape);
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let turned = |of: &Strided, trans: bool| if trans { of.permuted(&[1, 0]) } else { of.clone() };
        Self::of_matmul(&turned(a, trans_a), &turned(b, trans_b))
    }
}

impl Run {
    const fn one((a, b): (usize, usize)) -> Self {
        Self { count: 1, a, b, d: 0, a_step: 0, b_step: 0 }
    }
}

/// Where the operands of each result begin; `None` if the sizes do not broadcast.
fn starts(a: &Strided, b: &Strided) -> Option<Vec<(usize, usize)>> {
    let rank = a.shape.len().max(b.shape.len());
    let axis_of = |of: &Strided, axis: usize| {
        (axis + of.shape.len()).checked_sub(rank).map_or((1, 0), |at| (of.shape[at], of.strides[at]))
    };
    let mut all = vec![(a.offset, b.offset)];
    for axis in 0..rank {
        let ((x, a_step), (y, b_step)) = (axis_of(a, axis), axis_of(b, axis));
        if x != y && x != 1 && y != 1 {
            return None;
        }
        let count = if x == 1 { y } else { x };
        let next = |&(i, j): &(usize, usize)| {
            let at = move |n: usize, size: usize, step: usize| if size == 1 { 0 } else { n * step };
            (0..count).map(move |n| (i + at(n, x, a_step), j + at(n, y, b_step)))
        };
        all = all.iter().flat_map(next).collect();
    }
    Some(all)
}

/// As few runs as the order of the results allows.
fn runs(starts: &[(usize, usize)], size: usize) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    let mut next = 0;
    while let Some(&(a, b)) = starts.get(next) {
        let step = starts.get(next + 1).and_then(|&(i, j)| Some((i.checked_sub(a)?, j.checked_sub(b)?)));
        let mut count = 1;
        if let Some((i, j)) = step {
            while starts.get(next + count) == Some(&(a + count * i, b + count * j)) {
                count += 1;
            }
        }
        let (a_step, b_step) = step.filter(|_| count > 1).unwrap_or((0, 0));
        all.push(Run { count, a, b, d: next * size, a_step, b_step });
        next += count;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &[usize], b: &[usize]) -> Result<Sizes> {
        Sizes::of_matmul(&Strided::dense(a), &Strided::dense(b))
    }

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
        let sizes = of(&[2, 3, 5, 7], &[1, 7, 4]).unwrap();
        let [a, b] = [7, 4].map(|lead| Side { trans: false, lead });
        assert_eq!(sizes, Sizes { m: 30, k: 7, n: 4, a, b, runs: vec![Run::one((0, 0))] });
        assert_eq!(of(&[7], &[7]).unwrap().m, 1);
        // Rows that do not go on are products of their own.
        let turned = Strided::dense(&[5, 3, 7]).permuted(&[1, 0, 2]);
        let sizes = Sizes::of_matmul(&turned, &Strided::dense(&[7, 4])).unwrap();
        assert_eq!(sizes.runs, [Run { count: 3, a: 0, b: 0, d: 0, a_step: 7, b_step: 0 }]);
        assert_eq!((sizes.m, sizes.a.lead), (5, 21));
    }

    #[test]
    fn leading_sizes_broadcast_by_runs() {
        // Queries of 4 groups of 2 heads over keys of 4 heads.
        let sizes = of(&[4, 2, 3, 5], &[4, 1, 5, 6]).unwrap();
        let expected: Vec<_> = (0..8).map(|i| (i * 15, i / 2 * 30, i * 18)).collect();
        assert_eq!(spread(&sizes), expected);
        assert_eq!(sizes.runs.len(), 4);
        let sizes = of(&[3, 5], &[2, 4, 5, 6]).unwrap();
        assert_eq!(sizes.runs, [Run { count: 8, a: 0, b: 0, d: 0, a_step: 0, b_step: 30 }]);
        let sizes = of(&[2, 1, 3, 5], &[1, 4, 5, 6]).unwrap();
        let expected: Vec<_> = (0..8).map(|i| (i / 4 * 15, i % 4 * 30, i * 18)).collect();
        assert_eq!(spread(&sizes), expected);
    }

    #[test]
    fn what_has_no_elements_has_no_runs() {
        for (a, b) in [(vec![0, 3, 5], vec![0, 5, 6]), (vec![2, 0, 5], vec![2, 5, 6]), (vec![2, 3, 5], vec![2, 5, 0])] {
            assert_eq!(of(&a, &b).unwrap().runs, []);
        }
        // Sums of nothing are zeros, which there are.
        assert_eq!(of(&[2, 3, 0], &[2, 0, 6]).unwrap().runs.len(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (a, b) in [(vec![], vec![5]), (vec![3, 5], vec![4, 6]), (vec![2, 3, 5], vec![3, 5, 6])] {
            assert!(of(&a, &b).is_err());
        }
        let gemm = |a: &[usize], b: &[usize], trans| Sizes::of_gemm(&Strided::dense(a), &Strided::dense(b), trans);
        assert!(gemm(&[3, 5], &[6, 5], (false, false)).is_err());
        let sizes = gemm(&[5, 3], &[6, 5], (true, true)).unwrap();
        assert_eq!((sizes.n, sizes.a, sizes.b), (6, Side { trans: true, lead: 3 }, Side { trans: true, lead: 5 }));
    }

    #[test]
    fn matrices_lie_by_rows_or_by_columns() {
        // Heads side by side, and the keys of each across.
        let heads = Strided::dense(&[1, 7, 4, 8]).permuted(&[0, 2, 1, 3]);
        let across = heads.permuted(&[0, 1, 3, 2]);
        let sizes = Sizes::of_matmul(&heads, &across).unwrap();
        assert_eq!((sizes.a, sizes.b), (Side { trans: false, lead: 32 }, Side { trans: true, lead: 32 }));
        assert_eq!(sizes.runs, [Run { count: 4, a: 0, b: 0, d: 0, a_step: 8, b_step: 8 }]);
        // One row or one column lies either way.
        let one = Sizes::of_matmul(&Strided::dense(&[9, 1]), &Strided::dense(&[1, 6])).unwrap();
        assert_eq!((one.a, one.b), (Side { trans: false, lead: 1 }, Side { trans: false, lead: 6 }));
        let gaps = Strided::dense(&[4, 5, 6]).permuted(&[2, 0, 1]);
        let wide = Strided { shape: vec![5, 6], strides: vec![24, 4], offset: 0 };
        assert!(Sizes::of_matmul(&Strided::dense(&[3, 5]), &wide).is_err());
        assert!(Sizes::of_matmul(&Strided::dense(&[6, 3, 4]), &gaps).is_err());
    }

    #[test]
    fn strides_go_through_other_sizes_where_they_can() {
        let turned = Strided::dense(&[2, 3, 4, 5]).permuted(&[0, 2, 1, 3]);
        assert!(!turned.is_dense());
        let flat = Strided::dense(&[1, 3, 4, 5]).permuted(&[0, 2, 1, 3]).reshaped(&[4, 3, 5]).unwrap();
        assert_eq!(flat.strides, [5, 20, 1]);
        // Batches and heads do not lie as one axis, and rows of two heads neither.
        assert_eq!(turned.reshaped(&[8, 3, 5]), None);
        assert_eq!(turned.reshaped(&[2, 12, 5]), None);
        let apart = turned.reshaped(&[2, 2, 2, 3, 1, 5]).unwrap();
        assert_eq!(apart.strides, [60, 10, 5, 20, 5, 1]);
        let back = turned.permuted(&[0, 2, 1, 3]);
        assert!(back.is_dense());
        assert_eq!(back.reshaped(&[24, 5]).unwrap().strides, [5, 1]);
    }

    #[test]
    fn parts_begin_behind_the_first_element() {
        // Columns 3 to 7 of rows of 12, every other row from the second one on.
        let part = Strided::dense(&[6, 12]).cut(1, 3, 1, 5).cut(0, 1, 2, 3);
        assert_eq!(part, Strided { shape: vec![3, 5], strides: vec![24, 1], offset: 15 });
        assert!(!part.is_dense() && !Strided::dense(&[9]).cut(0, 1, 1, 4).is_dense());
        assert_eq!(part.permuted(&[1, 0]).offset, 15);
        assert_eq!(part.reshaped(&[3, 1, 5]).unwrap().offset, 15);
        assert_eq!(part.reshaped(&[15]), None);
        let wide = part.reshaped(&[3, 1, 5]).unwrap().broadcast(&[2, 3, 4, 5]).unwrap();
        assert_eq!((wide.strides.as_slice(), wide.offset), (&[0, 24, 0, 1][..], 15));
        assert_eq!(part.broadcast(&[4, 5]), None);
        assert_eq!(Strided::dense(&[4]).cut(0, 4, 1, 0).offset, 0);
        let sizes = Sizes::of_matmul(&part, &Strided::dense(&[2, 5, 4]).cut(0, 1, 1, 1)).unwrap();
        assert_eq!(sizes.runs, [Run { count: 1, a: 15, b: 20, d: 0, a_step: 0, b_step: 0 }]);
        assert_eq!(sizes.a, Side { trans: false, lead: 24 });
        // Batches of parts are more rows of one product, from where the first one begins.
        let rows = Strided::dense(&[3, 2, 8]).cut(2, 4, 1, 4);
        let sizes = Sizes::of_matmul(&rows, &Strided::dense(&[4, 6])).unwrap();
        assert_eq!((sizes.m, sizes.runs[0].a, sizes.runs.len()), (6, 4, 1));
        let one = Strided::dense(&[3, 2, 8]).cut(1, 1, 1, 1);
        let sizes = Sizes::of_matmul(&one, &Strided::dense(&[8, 6])).unwrap();
        assert_eq!((sizes.m, sizes.a.lead, sizes.runs[0].a), (3, 16, 8));
    }
}
