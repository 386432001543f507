//! How far codes and scales may move when the value that is quantised changes by a rounding to 16 bits.

use normfuse::ir::DType;

use super::{ROUNDING, near};

/// How far the scales of a quantiser have moved.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moved {
    /// Relative to themselves, those that are no powers of two.
    pub by: f64,
    /// Some power of two has become its neighbour.
    pub doubled: bool,
}

impl Moved {
    /// Of each scale of a type, or, where they do not lie as the codes do, of all.
    pub fn each(in_order: bool, dtype: DType, want: &[f64], found: &[f64]) -> Vec<Self> {
        if in_order {
            want.iter().zip(found).map(|(a, b)| Self::of(dtype, &[*a], &[*b])).collect()
        } else {
            vec![Self::of(dtype, want, found)]
        }
    }

    /// Of scales of a type, together.
    pub fn of(dtype: DType, want: &[f64], found: &[f64]) -> Self {
        let mut moved = Self::default();
        for (a, b) in want.iter().zip(found).filter(|(a, b)| a != b) {
            if dtype.is_int() || is_power(*a) && is_power(*b) {
                moved.doubled = true;
            } else {
                moved.by = moved.by.max((a - b).abs() / a.abs().max(b.abs()));
            }
        }
        moved
    }
}

/// True of a scale that may have become another one.
pub fn scale(dtype: DType, want: f64, found: f64) -> bool {
    if dtype.is_int() {
        // An exponent.
        return near(want, found, 1.0);
    }
    if is_power(want) && is_power(found) {
        return (0.5..=2.0).contains(&(found / want));
    }
    let size = want.abs().max(found.abs());
    near(want, found, 2.0 * ROUNDING * size + step(dtype, size))
}

/// True of a code that may have become another one.
pub fn code(dtype: DType, want: f64, found: f64, moved: Moved, zero_point: bool) -> bool {
    let (most, shift) = match dtype {
        DType::I8 => (127.0, 0.0),
        DType::U8 => (255.0, if zero_point { zero_points(moved) } else { 0.0 }),
        DType::F8E4M3FN => (448.0, 0.0),
        DType::F8E4M3FNUZ => (240.0, 0.0),
        DType::F4E2M1 => (6.0, 0.0),
        _ => (57344.0, 0.0),
    };
    let by: &[f64] = if moved.doubled { &[0.5, 1.0, 2.0] } else { &[1.0] };
    by.iter().any(|by| {
        let want = (want * by).clamp(-most, most);
        // What a zero point is added to is as large as all codes together.
        let size = if zero_point { most } else { want.abs().max(found.abs()) };
        near(want, found, (moved.by + 4.0 * ROUNDING) * size + step(dtype, size) + shift)
    })
}

/// How far a computed zero point may move.
pub fn zero_points(moved: Moved) -> f64 {
    256.0 * (moved.by + 4.0 * ROUNDING) + 1.0
}

/// How far a dequantised value may move, over the largest one: to a neighbour, or into what a scale that has halved cuts off.
pub fn dequantised(dtype: DType) -> f64 {
    match dtype {
        DType::I8 | DType::U8 => 1.0 / 32.0,
        DType::F4E2M1 => 0.6,
        _ => 0.3,
    }
}

/// From a number to its neighbour toward zero.
fn step(dtype: DType, from: f64) -> f64 {
    // Digits behind the first one, and the smallest number.
    let (digits, least) = match dtype {
        DType::F4E2M1 => (1, -1),
        DType::F8E4M3FN => (3, -9),
        DType::F8E4M3FNUZ => (3, -10),
        DType::F8E5M2 => (2, -16),
        DType::F8E5M2FNUZ => (2, -17),
        DType::F16 => (10, -24),
        DType::BF16 => (7, -133),
        DType::F32 | DType::F64 => (20, -149),
        _ => return 1.0,
    };
    let first = if from.is_normal() { (from.abs().to_bits() >> 52) as i32 - 1023 } else { least };
    2f64.powi((first - digits).max(least))
}

/// The number that a 4-bit code is.
pub fn of_nibble(code: u8) -> f64 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

fn is_power(v: f64) -> bool {
    v.is_normal() && v.to_bits() << 12 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_move_by_a_rounding_and_powers_of_two_to_their_neighbours() {
        assert!(scale(DType::F32, 1.0e-3, 1.003e-3) && !scale(DType::F32, 1.0e-3, 1.02e-3));
        assert!(scale(DType::F32, 0.25, 0.5) && scale(DType::F8E8M0, 0.5, 0.25));
        assert!(!scale(DType::F32, 0.25, 1.0) && !scale(DType::F32, 0.25, 0.4));
        assert!(scale(DType::U8, 120.0, 121.0) && !scale(DType::U8, 120.0, 122.0));
        assert!(scale(DType::F8E4M3FN, 1.125, 1.25) && !scale(DType::F8E4M3FN, 1.125, 1.5));
        assert!(!scale(DType::F32, 1.0, f64::NAN));
    }

    #[test]
    fn codes_move_to_their_neighbours_and_with_their_scales() {
        let still = Moved::default();
        let f8 = |want, found, moved| code(DType::F8E4M3FN, want, found, moved, false);
        assert!(f8(1.0, 1.125, still) && !f8(1.0, 1.25, still) && !f8(1.0, -1.0, still));
        let doubled = Moved::of(DType::F32, &[0.25, 0.5], &[0.25, 1.0]);
        assert_eq!(doubled, Moved { by: 0.0, doubled: true });
        assert!(f8(448.0, 224.0, doubled) && f8(300.0, 448.0, doubled) && !f8(448.0, 0.0, doubled));
        let i8 = |want, found| code(DType::I8, want, found, still, false);
        assert!(i8(3.0, 4.0) && !i8(3.0, 5.0) && i8(100.0, 102.0) && !i8(100.0, 104.0));
        assert!(code(DType::U8, 3.0, 5.0, still, true) && !code(DType::U8, 3.0, 30.0, still, true));
        assert!(code(DType::F4E2M1, 4.0, 6.0, still, false) && !code(DType::F4E2M1, 1.0, 4.0, still, false));
        assert_eq!([0, 7, 8, 15].map(of_nibble), [0.0, 6.0, -0.0, -6.0]);
    }
}
