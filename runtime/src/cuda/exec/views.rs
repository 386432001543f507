//! Ops that move nothing: their results are parts of an operand's memory.

use normfuse_ir::{
    Op, Tensor,
    eval::{movement::slice_range, numbers::ints},
    op::UnaryOp,
};

use super::super::{ops::Typed, product::Strided};

/// Where a part of an operand may begin, in bytes: kernels read vectors.
pub const VIEW_ALIGNMENT: u64 = 16;

/// For an op that moves nothing: the byte of operand 0 at which each result begins.
pub fn offsets(op: &Op, x: &Typed, outputs: &[Typed], known: &[Option<Tensor>]) -> Option<Vec<u64>> {
    let whole = || Some(vec![0; outputs.len()]);
    match op {
        Op::Unary(UnaryOp::Identity)
        | Op::Reshape { .. }
        | Op::Squeeze { .. }
        | Op::Unsqueeze { .. }
        | Op::Flatten { .. }
        // Bits of as many: the same bytes.
        | Op::BitCast { .. } => whole(),
        Op::Cast { to, .. } if *to == x.dtype => whole(),
        Op::Expand | Op::Tile | Op::Pad if outputs.first() == Some(x) => whole(),
        Op::Concat { .. } if known.len() == 1 => whole(),
        Op::Transpose { perm } => keeps_order(&x.shape, perm.as_deref()).then(whole)?,
        Op::Split { axis, .. } => {
            let axis = axis_of(*axis, x.shape.len())?;
            is_leading(&x.shape, axis).then_some(())?;
            let mut at = 0usize;
            let mut all = Vec::with_capacity(outputs.len());
            for part in outputs {
                all.push(byte(x, at)?);
                at = at.checked_add(part.shape.iter().product())?;
            }
            Some(all)
        }
        Op::Slice => slice(x, outputs.first()?, known).map(|at| vec![at]),
        _ => None,
    }
}

/// The axis of a number that may count from the last one.
pub fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|a| *a < rank)
}

/// True if parts along an axis lie one behind the other.
fn is_leading(shape: &[usize], axis: usize) -> bool {
    shape.iter().take(axis).all(|d| *d == 1)
}

/// The byte of an element, if views may begin there.
fn byte(x: &Typed, element: usize) -> Option<u64> {
    let bits = (element as u64).checked_mul(x.dtype.bits() as u64)?;
    (bits.is_multiple_of(8) && (bits / 8).is_multiple_of(VIEW_ALIGNMENT)).then_some(bits / 8)
}

/// True if only axes of size 1 change places.
fn keeps_order(shape: &[usize], perm: Option<&[i64]>) -> bool {
    let rank = shape.len();
    let axes: Option<Vec<usize>> = match perm {
        Some(perm) => perm.iter().map(|a| axis_of(*a, rank)).collect(),
        None => Some((0..rank).rev().collect()),
    };
    let Some(axes) = axes else { return false };
    let long: Vec<usize> = axes.into_iter().filter(|a| shape[*a] != 1).collect();
    long.is_sorted()
}

/// The integers of an operand, or others where it is left out.
fn ints_or(known: &[Option<Tensor>], port: usize, others: Option<Vec<i64>>) -> Option<Vec<i64>> {
    match known.get(port) {
        Some(Some(t)) => ints(t).ok(),
        _ => others,
    }
}

/// Where the elements of a slice are of what lies so, if it goes forward.
pub fn cut(x: &Typed, y: &Typed, known: &[Option<Tensor>], mut lies: Strided) -> Option<Strided> {
    let (starts, ends) = (ints_or(known, 1, None)?, ints_or(known, 2, None)?);
    let axes = ints_or(known, 3, Some((0..starts.len() as i64).collect()))?;
    let steps = ints_or(known, 4, Some(vec![1; starts.len()]))?;
    for (i, start) in starts.iter().enumerate() {
        let (end, axis, step) = (*ends.get(i)?, axis_of(*axes.get(i)?, x.shape.len())?, *steps.get(i)?);
        let (first, len) = slice_range(x.shape[axis] as i64, *start, end, step).ok()?;
        lies = lies.cut(axis, first, usize::try_from(step).ok()?, len);
    }
    (lies.shape == y.shape).then_some(lies)
}

/// The first byte of a slice that is one piece.
fn slice(x: &Typed, y: &Typed, known: &[Option<Tensor>]) -> Option<u64> {
    if y.shape.contains(&0) {
        return Some(0);
    }
    let starts = ints_or(known, 1, None)?;
    let axes = ints_or(known, 3, Some((0..starts.len() as i64).collect()))?;
    let steps = ints_or(known, 4, Some(vec![1; starts.len()]))?;
    // The first axis that is longer than 1 in the result may be cut; all behind it must be whole.
    let cut = (0..x.shape.len()).find(|a| y.shape[*a] != 1).unwrap_or(x.shape.len());
    if (cut + 1..x.shape.len()).any(|a| x.shape[a] != y.shape[a]) {
        return None;
    }
    let mut element = 0usize;
    for ((start, axis), step) in starts.iter().zip(&axes).zip(&steps) {
        let axis = axis_of(*axis, x.shape.len())?;
        let size = x.shape[axis] as i64;
        if *step != 1 && y.shape[axis] != 1 {
            return None;
        }
        let first = if *start < 0 { start.saturating_add(size) } else { *start }.clamp(0, size);
        let first = if *step < 0 { first.min(size - 1) } else { first };
        element += first as usize * x.shape[axis + 1..].iter().product::<usize>();
    }
    byte(x, element)
}

#[cfg(test)]
mod tests {
    use normfuse_ir::DType;

    use super::*;

    fn f32s(shape: &[usize]) -> Typed {
        Typed { dtype: DType::F32, shape: shape.to_vec() }
    }

    fn ints(values: &[i64]) -> Tensor {
        Tensor::from_i64(&[values.len()], values)
    }

    #[test]
    fn slices_of_one_piece_are_views() {
        let x = f32s(&[1, 8, 4]);
        let of = |from: &[i64], to: &[i64], axes: &[i64], steps: &[i64], y: &[usize]| {
            offsets(
                &Op::Slice,
                &x,
                &[f32s(y)],
                &[None, Some(ints(from)), Some(ints(to)), Some(ints(axes)), Some(ints(steps))],
            )
        };
        assert_eq!(of(&[2], &[5], &[1], &[1], &[1, 3, 4]), Some(vec![32]));
        assert_eq!(of(&[-3], &[8], &[-2], &[1], &[1, 3, 4]), Some(vec![80]));
        // Every other row, a part of each row, and one element that is not aligned.
        assert_eq!(of(&[0], &[8], &[1], &[2], &[1, 4, 4]), None);
        assert_eq!(of(&[0], &[2], &[2], &[1], &[1, 8, 2]), None);
        assert_eq!(of(&[1, 1], &[2, 2], &[1, 2], &[1, 1], &[1, 1, 1]), None);
        // One row, whatever the step.
        assert_eq!(of(&[7], &[0], &[1], &[-8], &[1, 1, 4]), Some(vec![112]));
    }

    #[test]
    fn splits_along_the_first_long_axis_are_views() {
        let op = |axis| Op::Split { axis, outputs: 2 };
        let halves = [f32s(&[1, 4, 2]), f32s(&[1, 4, 2])];
        assert_eq!(offsets(&op(1), &f32s(&[1, 8, 2]), &halves, &[None]), Some(vec![0, 32]));
        assert_eq!(offsets(&op(2), &f32s(&[1, 4, 4]), &halves, &[None]), None);
        // Nine bytes are not at a multiple of 16.
        let odd = [f32s(&[3]), f32s(&[6])];
        assert_eq!(offsets(&op(0), &f32s(&[9]), &odd, &[None]), None);
    }

    #[test]
    fn transposes_of_single_axes_are_views() {
        let op = |perm: &[i64]| Op::Transpose { perm: Some(perm.to_vec()) };
        let y = [f32s(&[])];
        assert_eq!(offsets(&op(&[0, 2, 1, 3]), &f32s(&[2, 1, 3, 4]), &y, &[None]), Some(vec![0]));
        assert_eq!(offsets(&op(&[0, 2, 1, 3]), &f32s(&[2, 5, 3, 4]), &y, &[None]), None);
    }
}
