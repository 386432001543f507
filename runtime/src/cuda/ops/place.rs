//! Where elements lie: axes merged, strides of operands that are broadcast, and how large a piece moves at once.

use normfuse_ir::{Error, ErrorKind, Result, eval::shape};

/// Axes that several operands are walked along, with the step of each operand along each axis, in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Sizes, outermost first; one of 1 where there is but one element.
    pub sizes: Vec<u64>,
    /// By operand, then by axis.
    pub steps: Vec<Vec<i64>>,
}

impl Walk {
    /// Axes of size 1 are dropped, and neighbours along which every operand goes on as it does within are made one.
    pub fn merged(sizes: &[usize], steps: &[Vec<i64>]) -> Self {
        let mut walk = Self { sizes: Vec::new(), steps: vec![Vec::new(); steps.len()] };
        for (axis, &size) in sizes.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let size = size as u64;
            let goes_on = |own: &Vec<i64>, all: &Vec<i64>| {
                own.last().is_some_and(|last| *last == all[axis].wrapping_mul(size as i64))
            };
            if !walk.sizes.is_empty() && walk.steps.iter().zip(steps).all(|(own, all)| goes_on(own, all)) {
                if let Some(last) = walk.sizes.last_mut() {
                    *last *= size;
                }
                for (own, all) in walk.steps.iter_mut().zip(steps) {
                    own.pop();
                    own.push(all[axis]);
                }
            } else {
                walk.sizes.push(size);
                for (own, all) in walk.steps.iter_mut().zip(steps) {
                    own.push(all[axis]);
                }
            }
        }
        if walk.sizes.is_empty() {
            walk.sizes.push(1);
            walk.steps.iter_mut().for_each(|own| own.push(0));
        }
        walk
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.sizes.len()
    }

    /// Size of the innermost axis.
    pub fn inner(&self) -> u64 {
        self.sizes.last().copied().unwrap_or(1)
    }

    /// Elements.
    pub fn count(&self) -> u64 {
        self.sizes.iter().product()
    }
}

/// Steps of a row-major tensor of `own` sizes along the axes of `out`: 0 where it is broadcast.
///
/// # Errors
/// `Shape` if it does not broadcast.
pub fn broadcast(own: &[usize], out: &[usize]) -> Result<Vec<i64>> {
    Ok(shape::broadcast_strides(own, out)?.into_iter().map(|s| s as i64).collect())
}

/// Steps of a row-major tensor.
pub fn strides(sizes: &[usize]) -> Vec<i64> {
    shape::strides(sizes).into_iter().map(|s| s as i64).collect()
}

/// Elements of a tensor.
pub fn count(sizes: &[usize]) -> u64 {
    shape::product(sizes) as u64
}

/// For each element of a walk along `out` axes an operand of `own` sizes is read at (index % its length): true for one that
/// is as the last axes of `out`, or one element.
pub fn is_suffix(own: &[usize], out: &[usize]) -> bool {
    let own = &own[own.iter().take_while(|&&d| d == 1).count()..];
    out.ends_with(own)
}

/// Blocks of `threads` for so many threads.
///
/// # Errors
/// `Unsupported` if a grid has fewer.
pub fn blocks(count: u64, threads: u64) -> Result<u32> {
    let blocks = count.div_ceil(threads);
    u32::try_from(blocks)
        .ok()
        .filter(|&b| b < 1 << 31)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("{count} threads are more than one launch can have")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of every element in order, as a kernel finds them.
    fn visited(walk: &Walk, operand: usize) -> Vec<i64> {
        (0..walk.count())
            .map(|flat| {
                let (mut rest, mut at) = (flat, 0);
                for (size, step) in walk.sizes.iter().zip(&walk.steps[operand]).rev() {
                    at += (rest % size) as i64 * step;
                    rest /= size;
                }
                at
            })
            .collect()
    }

    #[test]
    fn merged_axes_visit_what_all_of_them_do() {
        let shapes: [(&[usize], &[&[usize]]); 5] = [
            (&[2, 3, 4], &[&[2, 3, 4], &[4], &[3, 1]]),
            (&[2, 1, 5], &[&[2, 1, 5], &[]]),
            (&[1, 1], &[&[1]]),
            (&[4, 2, 3, 5], &[&[4, 1, 3, 1], &[2, 1, 1]]),
            (&[], &[&[]]),
        ];
        for (out, operands) in shapes {
            let steps: Vec<Vec<i64>> = operands.iter().map(|o| broadcast(o, out).unwrap()).collect();
            let walk = Walk::merged(out, &steps);
            for (k, own) in operands.iter().enumerate() {
                let want: Vec<i64> = shape::offsets(out, &shape::broadcast_strides(own, out).unwrap())
                    .into_iter()
                    .map(|o| o as i64)
                    .collect();
                assert_eq!(visited(&walk, k), want, "{own:?} in {out:?}");
            }
        }
        let whole = Walk::merged(&[2, 3, 4], &[strides(&[2, 3, 4]), vec![0; 3]]);
        assert_eq!((whole.sizes, whole.steps), (vec![24], vec![vec![1], vec![0]]));
    }

    #[test]
    fn suffixes_are_read_by_their_length() {
        assert!(is_suffix(&[1, 4], &[2, 3, 4]) && is_suffix(&[], &[2]) && is_suffix(&[1, 1], &[2, 3]));
        assert!(is_suffix(&[2, 3], &[2, 3]) && !is_suffix(&[3, 1], &[3, 4]) && !is_suffix(&[3], &[2, 4]));
    }

    #[test]
    fn a_grid_has_an_end() {
        assert_eq!(blocks(257, 256).unwrap(), 2);
        assert!(blocks(1 << 40, 256).is_err());
    }
}
