//! Bit-for-bit comparison of tensors.

use crate::{
    Tensor,
    eval::{self, numbers::Numbers},
};

/// The first difference between two tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Their dtypes or shapes differ.
    Type {
        /// Of the left one.
        left: String,
        /// Of the right one.
        right: String,
    },
    /// An element differs.
    Element {
        /// Its index, an entry an axis.
        index: Vec<usize>,
        /// Bits of the left one (one byte per two digits; a nibble is one digit).
        left: String,
        /// Bits of the right one.
        right: String,
    },
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type { left, right } => write!(f, "{left} against {right}"),
            Self::Element { index, left, right } => write!(f, "at {index:?}: {left} against {right}"),
        }
    }
}

fn is_nan(x: &Numbers, i: usize) -> bool {
    match x {
        Numbers::F32(v) => v[i].is_nan(),
        Numbers::F64(v) => v[i].is_nan(),
        Numbers::Int(_) => false,
    }
}

fn element_bits(t: &Tensor, i: usize) -> String {
    match t.dtype().bits() {
        4 => format!("0x{:x}", crate::num::nibble(t.bytes(), i)),
        bits => {
            let n = bits / 8;
            let value = t.bytes()[i * n..(i + 1) * n].iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            format!("0x{value:0width$x}", width = 2 * n)
        }
    }
}

/// The first element whose bits differ. NaN equals NaN whatever its payload; zeros of different signs differ.
pub fn bits_equal(a: &Tensor, b: &Tensor) -> Option<Mismatch> {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        let name = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Some(Mismatch::Type { left: name(a), right: name(b) });
    }
    if a.bytes() == b.bytes() {
        return None;
    }
    let (x, y) = (Numbers::of(a), Numbers::of(b));
    let strides = eval::shape::strides(a.shape());
    (0..a.len()).find_map(|i| {
        let (left, right) = (element_bits(a, i), element_bits(b, i));
        if left == right || (is_nan(&x, i) && is_nan(&y, i)) {
            return None;
        }
        let index = strides.iter().zip(a.shape()).map(|(&s, &d)| i / s % d).collect();
        Some(Mismatch::Element { index, left, right })
    })
}

/// How many elements of two tensors of one dtype and shape differ, as [`bits_equal`] has it, and by how much at most, where they are
/// floats: infinitely, where one of two is no finite number.
pub(super) fn differences(a: &Tensor, b: &Tensor) -> (usize, Option<f32>) {
    let (x, y) = (Numbers::of(a), Numbers::of(b));
    let bits = a.dtype().bits();
    let same = |i: usize| match bits {
        4 => crate::num::nibble(a.bytes(), i) == crate::num::nibble(b.bytes(), i),
        _ => a.bytes()[i * bits / 8..(i + 1) * bits / 8] == b.bytes()[i * bits / 8..(i + 1) * bits / 8],
    };
    let (mut count, mut most) = (0, (!matches!(x, Numbers::Int(_))).then_some(0.0_f32));
    for i in (0..a.len()).filter(|&i| !(same(i) || is_nan(&x, i) && is_nan(&y, i))) {
        count += 1;
        let by = match (&x, &y) {
            (Numbers::F32(x), Numbers::F32(y)) => (x[i] - y[i]).abs(),
            (Numbers::F64(x), Numbers::F64(y)) => (x[i] - y[i]).abs() as f32,
            _ => 0.0,
        };
        most = most.map(|most| if by.is_nan() { f32::INFINITY } else { most.max(by) });
    }
    (count, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn differences_are_counted_by_bits_and_measured_by_numbers() {
        let f = |v: &[f32]| Tensor::from_f32(&[v.len()], v);
        let (a, b) = (f(&[1.0, f32::NAN, 0.0, 2.0]), f(&[1.5, f32::NAN, -0.0, 2.0]));
        assert_eq!(differences(&a, &a), (0, Some(0.0)));
        assert_eq!(differences(&a, &b), (2, Some(0.5)));
        // What is no number in one of the two alone is infinitely far away.
        assert_eq!(differences(&f(&[1.0]), &f(&[f32::NAN])), (1, Some(f32::INFINITY)));
        assert_eq!(differences(&f(&[f32::INFINITY]), &f(&[f32::NEG_INFINITY])), (1, Some(f32::INFINITY)));
        // Codes of whole numbers have no such distance, and two codes in a byte are two.
        let whole = |v: &[i64]| Tensor::from_i64(&[v.len()], v);
        assert_eq!(differences(&whole(&[1, 2, 3]), &whole(&[1, 5, 4])), (2, None));
        let codes = |byte: u8| Tensor::from_bytes(DType::F4E2M1, vec![2], vec![byte]).unwrap();
        assert_eq!(differences(&codes(0x12), &codes(0x22)), (1, Some(0.5)));
    }
}
