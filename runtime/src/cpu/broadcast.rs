//! Multidirectional broadcasting: operands of different shapes walked in runs, in parallel.
//!
//! Axes that all operands step through in the same way are merged first, so that the common cases (equal shapes, a
//! scalar, a row against a column) become one or two axes. What is left is a list of runs; in each run an operand
//! either moves with the result or stands still.

use normfuse_ir::{Error, ErrorKind, Result};
use rayon::prelude::*;

use super::buf::{numel, zeros};

/// Elements that one thread takes at a time.
pub(super) const CHUNK: usize = 1 << 14;

/// The numpy shape of operands taken together.
pub(super) fn broadcast_shape(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1usize; rank];
    for shape in shapes {
        for (slot, &size) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            if *slot == 1 {
                *slot = size;
            } else if size != 1 && size != *slot {
                return Err(Error::new(ErrorKind::Shape, format!("shapes {shapes:?} do not broadcast together")));
            }
        }
    }
    numel(&out)?;
    Ok(out)
}

/// How `N` operands are read to make a result.
pub(super) struct Walk<const N: usize> {
    /// Shape of the result.
    pub shape: Vec<usize>,
    /// Elements of the result.
    len: usize,
    /// Merged axes, outermost first: size, and how far each operand steps.
    axes: Vec<(usize, [usize; N])>,
}

/// A stretch of the result: where it starts in the chunk, how long it is, where each operand starts.
pub(super) struct Run<const N: usize> {
    pub out: std::ops::Range<usize>,
    pub from: [usize; N],
}

impl<const N: usize> Walk<N> {
    /// Broadcasts row-major operands of these shapes.
    pub(super) fn new(shapes: [&[usize]; N]) -> Result<Self> {
        let shape = broadcast_shape(&shapes)?;
        let len = numel(&shape)?;
        let mut axes: Vec<(usize, [usize; N])> = Vec::with_capacity(shape.len());
        let mut below = [1usize; N];
        // From the innermost axis out, so that an operand's stride is the product of its own sizes so far.
        for back in 0..shape.len() {
            let size = shape[shape.len() - 1 - back];
            let mut strides = [0; N];
            for (i, operand) in shapes.iter().enumerate() {
                let own = operand.len().checked_sub(back + 1).map_or(1, |axis| operand[axis]);
                if own != 1 {
                    strides[i] = below[i];
                    below[i] *= own;
                }
            }
            if size == 1 {
                continue;
            }
            match axes.last_mut() {
                Some((inner, inner_strides)) if (0..N).all(|i| strides[i] == inner_strides[i] * *inner) => {
                    *inner *= size;
                }
                _ => axes.push((size, strides)),
            }
        }
        if axes.is_empty() {
            axes.push((1, [0; N]));
        }
        axes.reverse();
        Ok(Self { shape, len, axes })
    }

    /// Which operands move along a run (the others stand still).
    fn moves(&self) -> [bool; N] {
        self.axes[self.axes.len() - 1].1.map(|stride| stride != 0)
    }

    /// Calls `visit` for the runs of `[start, end)` of the result, with ranges relative to `start`.
    fn runs(&self, start: usize, end: usize, mut visit: impl FnMut(Run<N>)) {
        let (inner, inner_strides) = self.axes[self.axes.len() - 1];
        let mut at = start;
        while at < end {
            let mut rest = at / inner;
            let within = at % inner;
            let mut from = inner_strides.map(|stride| stride * within);
            for (size, strides) in self.axes[..self.axes.len() - 1].iter().rev() {
                let index = rest % size;
                rest /= size;
                for (offset, stride) in from.iter_mut().zip(strides) {
                    *offset += index * stride;
                }
            }
            let stop = end.min(at - within + inner);
            visit(Run { out: at - start..stop - start, from });
            at = stop;
        }
    }

    /// Fills a result, a chunk a thread. `write` is called through a pointer, once a run, so that the threading is
    /// compiled once for a type and not once for each op.
    fn fill<O: bytemuck::Pod + Send>(&self, write: &(dyn Fn(Run<N>, &mut [O]) + Sync)) -> Result<Vec<O>> {
        let mut out = zeros(self.len)?;
        by_chunks(&mut out, &|start, chunk| {
            self.runs(start, start + chunk.len(), |run| {
                let range = run.out.clone();
                write(run, &mut chunk[range]);
            });
        });
        Ok(out)
    }
}

/// Calls `work` for chunks of `out` with the index of their first element: in parallel, if there are several.
fn by_chunks<O: Send>(out: &mut [O], work: &(dyn Fn(usize, &mut [O]) + Sync)) {
    if out.len() <= CHUNK {
        work(0, out);
    } else {
        out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| work(i * CHUNK, chunk));
    }
}

/// `f` of every element.
pub(super) fn map<A: Copy + Sync, O: bytemuck::Pod + Send>(a: &[A], f: impl Fn(A) -> O + Sync) -> Result<Vec<O>> {
    let mut out = zeros(a.len())?;
    by_chunks(&mut out, &|start, chunk| {
        for (o, a) in chunk.iter_mut().zip(&a[start..]) {
            *o = f(*a);
        }
    });
    Ok(out)
}

/// `f` of every pair.
pub(super) fn map2<A, B, O>(walk: &Walk<2>, a: &[A], b: &[B], f: impl Fn(A, B) -> O + Sync) -> Result<Vec<O>>
where
    A: Copy + Sync,
    B: Copy + Sync,
    O: bytemuck::Pod + Send,
{
    let moves = walk.moves();
    walk.fill(&|run, out| {
        let n = out.len();
        let [i, j] = run.from;
        match moves {
            [true, true] => {
                out.iter_mut().zip(&a[i..i + n]).zip(&b[j..j + n]).for_each(|((o, a), b)| *o = f(*a, *b));
            }
            [true, false] => {
                let b = b[j];
                out.iter_mut().zip(&a[i..i + n]).for_each(|(o, a)| *o = f(*a, b));
            }
            [false, true] => {
                let a = a[i];
                out.iter_mut().zip(&b[j..j + n]).for_each(|(o, b)| *o = f(a, *b));
            }
            [false, false] => out.fill(f(a[i], b[j])),
        }
    })
}

/// `f` of every triple.
pub(super) fn map3<A, B, C, O>(
    walk: &Walk<3>,
    (a, b, c): (&[A], &[B], &[C]),
    f: impl Fn(A, B, C) -> O + Sync,
) -> Result<Vec<O>>
where
    A: Copy + Sync,
    B: Copy + Sync,
    C: Copy + Sync,
    O: bytemuck::Pod + Send,
{
    let step = walk.moves().map(usize::from);
    walk.fill(&|run, out| {
        let [i, j, k] = run.from;
        for (x, o) in out.iter_mut().enumerate() {
            *o = f(a[i + x * step[0]], b[j + x * step[1]], c[k + x * step[2]]);
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Broadcasting told by indices.
    fn slow(shape: &[usize], operand: &[usize]) -> Vec<usize> {
        let len = shape.iter().product();
        (0..len)
            .map(|flat| {
                let mut rest = flat;
                let (mut at, mut below) = (0, 1);
                for back in 0..shape.len() {
                    let index = rest % shape[shape.len() - 1 - back];
                    rest /= shape[shape.len() - 1 - back];
                    if let Some(axis) = operand.len().checked_sub(back + 1) {
                        at += if operand[axis] == 1 { 0 } else { index * below };
                        below *= operand[axis];
                    }
                }
                at
            })
            .collect()
    }

    proptest! {
        #[test]
        fn walks_like_indices(
            shape in prop::collection::vec(0usize..5, 0..5),
            masks in prop::collection::vec(prop::collection::vec(any::<bool>(), 5), 3),
            drops in prop::collection::vec(0usize..5, 3),
            long in prop_oneof![Just(1usize), Just(1), Just(CHUNK / 2 + 3)],
        ) {
            let mut shape = shape;
            if let Some(first) = shape.first_mut() {
                *first *= long;
            }
            let operands: Vec<Vec<usize>> = masks
                .iter()
                .zip(&drops)
                .map(|(mask, drop)| {
                    let kept: Vec<usize> = shape.iter().zip(mask).map(|(d, m)| if *m { 1 } else { *d }).collect();
                    kept[(*drop).min(shape.len())..].to_vec()
                })
                .collect();
            let walk = Walk::new([&operands[0], &operands[1], &operands[2]]).unwrap();
            let index: Vec<usize> = (0..operands.iter().map(|o| o.iter().product()).max().unwrap_or(1)).collect();
            let got = map3(&walk, (&index, &index, &index), |a, b, c| a * 1_000_003 + b * 1009 + c).unwrap();
            let [a, b, c] = [0, 1, 2].map(|i| slow(&walk.shape, &operands[i]));
            let want: Vec<usize> = (0..a.len()).map(|i| a[i] * 1_000_003 + b[i] * 1009 + c[i]).collect();
            prop_assert_eq!(got, want);
            let pair = Walk::new([&operands[0], &operands[1]]).unwrap();
            let got = map2(&pair, &index, &index, |a, b| a * 1_000_003 + b).unwrap();
            let [a, b] = [0, 1].map(|i| slow(&pair.shape, &operands[i]));
            let want: Vec<usize> = (0..a.len()).map(|i| a[i] * 1_000_003 + b[i]).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn refuses_what_does_not_broadcast() {
        assert!(broadcast_shape(&[&[2, 3], &[2]]).is_err());
        assert!(broadcast_shape(&[&[usize::MAX, 1], &[1, 3]]).is_err());
        assert_eq!(broadcast_shape(&[&[0, 1], &[1, 3]]).unwrap(), [0, 3]);
        assert!(broadcast_shape(&[&[0], &[3]]).is_err());
    }
}
