//! Data that finds differences: zeros of both signs, equal rows, one outlier, ties of the rounding, denormals,
//! overflow, infinities, NaN. Made from a seed alone.

use crate::{
    DType, Tensor,
    eval::{
        numbers::{from_bools, from_codes, from_doubles, from_floats, from_ints},
        shape::product,
    },
    num,
};

/// splitmix64: small, seeded, and good enough to scatter bits.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that a seed determines.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (0 if `n` is 0).
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 11) as usize % n.max(1)
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// Bell-shaped around 0 with a spread of about 1.
    pub fn bell(&mut self) -> f32 {
        (self.unit() + self.unit() + self.unit()) * 1.0
    }

    fn sign(&mut self) -> f32 {
        if self.bits() & 1 == 0 { 1.0 } else { -1.0 }
    }
}

/// What one row of data is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Bell-shaped around 0.
    Bell,
    /// Magnitudes over many powers of two.
    Wide,
    /// All +0.
    Zeros,
    /// Zeros of both signs.
    SignedZeros,
    /// One power of two with random signs: its norm is exactly plus or minus 1, so that a weight comes through as it is.
    PowerOfTwo,
    /// One value that no format holds exactly.
    Equal,
    /// Small values and a very large one.
    Outlier,
    /// Blocks of zeros and of tiny values among ordinary ones.
    Blocks,
    /// Half-way points of the narrow formats.
    Ties,
    /// Values that come out near a half-way point of the dtype after a division by the root mean square, where the ways
    /// to divide (by the root, by its reciprocal, by a reciprocal root) part.
    RootTies,
    /// The smallest values of the dtype.
    Denormals,
    /// The largest values of the dtype: squares overflow.
    Huge,
    /// Squares that the dtype holds, with a sum that it does not: a sum that is divided and a mean part here, and at
    /// widths that are powers of two nowhere else.
    LargeSum,
    /// One infinity.
    Infinity,
    /// One NaN.
    Nan,
}

impl Row {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Bell,
        Self::Wide,
        Self::Zeros,
        Self::SignedZeros,
        Self::PowerOfTwo,
        Self::Equal,
        Self::Outlier,
        Self::Blocks,
        Self::Ties,
        Self::RootTies,
        Self::Denormals,
        Self::Huge,
        Self::LargeSum,
        Self::Infinity,
        Self::Nan,
    ];

    /// A row of `n` values for a float dtype (to be rounded to it).
    pub fn values(self, dtype: DType, n: usize, rng: &mut Rng) -> Vec<f32> {
        let (smallest, largest) = limits(dtype);
        match self {
            Self::Ties => {
                let unit = unit(dtype, rng);
                return ties(n, unit, rng);
            }
            Self::RootTies => return root_ties(dtype, n, rng),
            _ => {}
        }
        // Squares add up to about three times what the dtype holds, and each is below it.
        let large_sum = (largest.sqrt() * (4.0 / n.max(1) as f32).sqrt()).min(largest.sqrt() * 0.9);
        let mut row: Vec<f32> = (0..n)
            .map(|i| match self {
                Self::Bell | Self::Infinity | Self::Nan | Self::Ties | Self::RootTies => rng.bell(),
                Self::Wide => rng.bell() * 2f32.powi(rng.below(28) as i32 - 14),
                Self::Zeros => 0.0,
                Self::SignedZeros => 0.0 * rng.sign(),
                Self::PowerOfTwo => 1024.0 * rng.sign(),
                Self::Equal => 0.1,
                Self::Outlier => rng.bell() * 0.01,
                // Blocks of 32, so that groups of every usual size see all three kinds or one alone.
                Self::Blocks => match i / 32 / 4 % 3 {
                    0 => 0.0,
                    1 => rng.bell() * 1e-4,
                    _ => rng.bell(),
                },
                Self::Denormals => smallest * rng.below(100) as f32 * rng.sign(),
                Self::LargeSum => large_sum * (1.0 - rng.below(64) as f32 / 512.0) * rng.sign(),
                Self::Huge => largest * (1.0 - rng.below(3) as f32 / 4.0) * rng.sign(),
            })
            .collect();
        let special = match self {
            Self::Outlier => Some(largest.min(6e4) * rng.sign()),
            Self::Infinity => Some(f32::INFINITY * rng.sign()),
            Self::Nan => Some(f32::NAN),
            _ => None,
        };
        if let (Some(v), true) = (special, n > 0) {
            row[rng.below(n)] = v;
        }
        row
    }
}

/// Smallest positive and largest finite value of a float dtype.
fn limits(dtype: DType) -> (f32, f32) {
    match dtype {
        DType::F16 => (2f32.powi(-24), 65504.0),
        DType::BF16 => (f32::from_bits(1 << 16), f32::from_bits(0x7f7f_0000)),
        _ => (f32::from_bits(1), f32::MAX),
    }
}

/// The formats whose roundings are aimed at.
const TARGETS: [DType; 6] =
    [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1, DType::I8];

/// A half-way point between two values of a target format, of either sign.
fn tie(target: DType, rng: &mut Rng) -> f32 {
    let v = if target == DType::I8 {
        rng.below(127) as f32 + 0.5
    } else {
        // The formats' finite codes of one sign are 0 to `last`, in order of value.
        let last = num::cast_f32_to(target, f32::INFINITY, true);
        let code = rng.below(usize::from(last)) as u8;
        f32::midpoint(num::decode(target, code), num::decode(target, code + 1))
    };
    v * rng.sign()
}

/// Half-way points of one target, times `unit`, with the target's largest value times `unit` in every group of 16: so
/// the scale of any group is `unit`, and each quotient a tie exactly. A multiplication by the reciprocal of `unit`, or a
/// scale that is off by one bit, then falls to one side.
fn ties(n: usize, unit: f32, rng: &mut Rng) -> Vec<f32> {
    let target = TARGETS[rng.below(TARGETS.len())];
    ties_to(target, n, unit, rng)
}

fn ties_to(target: DType, n: usize, unit: f32, rng: &mut Rng) -> Vec<f32> {
    let top = target.max_finite().unwrap_or(1.0);
    (0..n).map(|i| unit * if i % 16 == 0 { top * rng.sign() } else { tie(target, rng) }).collect()
}

/// Two values that alone decide the root mean square, and a few far smaller ones for which the ways to divide by it
/// differ after a rounding to 16 bits. Among ordinary values that happens once in 2^17 times, so pairs are tried until
/// one has such neighbours; for most it takes a thousand.
fn root_ties(dtype: DType, n: usize, rng: &mut Rng) -> Vec<f32> {
    const PAIRS: usize = 1 << 13;
    let mut row = vec![0.0; n];
    if n < 8 {
        return row;
    }
    let narrow = if dtype == DType::F16 { DType::F16 } else { DType::BF16 };
    // Squares of the small ones must vanish beside those of the pair, and so must any epsilon.
    let large = if dtype == DType::F16 { 16384.0 } else { 16_777_216.0 };
    let small = large * 2f32.powi(-15);
    let round = |v: f32| num::round_to(narrow, v);
    for _ in 0..PAIRS {
        let mut draw = || round(large * (1.5 + rng.unit() * 0.49));
        let (a, b) = (draw(), draw());
        let v = (a * a + b * b) / n as f32;
        let (root, rsqrt) = (v.sqrt(), num::rsqrt(v));
        let inverse = 1.0 / root;
        let parts = |x: &f32| {
            let quotient = round(x / root);
            quotient != round(x * inverse) || quotient != round(x * rsqrt)
        };
        let found: Vec<f32> = (128u8..=255).map(|m| small * f32::from(m) / 128.0).filter(parts).take(4).collect();
        if found.is_empty() {
            continue;
        }
        let start = rng.below(n);
        for (i, x) in [a, b].into_iter().chain(found).enumerate() {
            row[(start + i) % n] = x * rng.sign();
        }
        break;
    }
    row
}

/// A small odd number times a power of two: ties times that still fit the significand of `dtype`.
pub(super) fn unit(dtype: DType, rng: &mut Rng) -> f32 {
    let odd = match dtype {
        DType::BF16 => [1, 3, 5, 7][rng.below(4)],
        DType::F16 => 2 * rng.below(32) + 1,
        _ => 2 * rng.below(1 << 14) + 1,
    };
    odd as f32 * 2f32.powi(-(rng.below(8) as i32) - 4)
}

/// A unit whose reciprocal is far from a float, so that a division by it and a product with the reciprocal part at most ties.
pub(super) fn coarse_unit(dtype: DType, rng: &mut Rng) -> f32 {
    let error = |unit: f32| (f64::from(unit) * f64::from(1.0 / unit) - 1.0).abs();
    let draws: Vec<f32> = (0..16).map(|_| unit(dtype, rng)).collect();
    draws.into_iter().max_by(|a, b| error(*a).total_cmp(&error(*b))).unwrap_or(1.0)
}

/// Rows of the kinds that `kinds` names in turn.
pub fn rows(dtype: DType, shape: &[usize], kinds: &[Row], rng: &mut Rng) -> Option<Tensor> {
    let n = shape.last().copied().unwrap_or(1);
    let count = product(shape).checked_div(n).unwrap_or(0);
    let values: Vec<f32> = (0..count)
        .flat_map(|r| kinds.get(r % kinds.len().max(1)).copied().unwrap_or(Row::Bell).values(dtype, n, rng))
        .collect();
    tensor(dtype, shape, &values, rng)
}

/// Rows of half-way points of a narrow format, times `unit`.
pub(super) fn ties_of(dtype: DType, shape: &[usize], (to, unit): (DType, f32), rng: &mut Rng) -> Option<Tensor> {
    let n = shape.last().copied().unwrap_or(1);
    let count = product(shape).checked_div(n).unwrap_or(0);
    // Integers have half-way points at the same places, as far as an i8 goes.
    let to = if to.is_int() { DType::I8 } else { to };
    let values: Vec<f32> = (0..count).flat_map(|_| ties_to(to, n, unit, rng)).collect();
    tensor(dtype, shape, &values, rng)
}

/// What a weight is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightKind {
    /// Near 1, as trained ones are.
    Ordinary,
    /// Half-way points of the narrow formats, which come through a row of [`Row::PowerOfTwo`] unchanged.
    Ties,
    /// With zeros of both signs, an infinity, a NaN and large values.
    Special,
}

impl WeightKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Ordinary, Self::Ties, Self::Special];
}

/// A weight of a float dtype. Ties are multiples of `unit`; with `plus_one` they are so after 1 is added.
pub fn weight(
    dtype: DType,
    shape: &[usize],
    kind: WeightKind,
    (unit, plus_one): (f32, bool),
    rng: &mut Rng,
) -> Option<Tensor> {
    let n = product(shape);
    let mut values: Vec<f32> = match kind {
        WeightKind::Ties => ties(n, unit, rng),
        WeightKind::Ordinary => (0..n).map(|_| 1.0 + rng.bell() * 0.2).collect(),
        WeightKind::Special => (0..n)
            .map(|_| match rng.below(64) {
                0 => f32::INFINITY,
                1 => f32::NAN,
                2..8 => 0.0 * rng.sign(),
                8..12 => limits(dtype).1 * rng.sign(),
                _ => rng.bell() * 3.0,
            })
            .collect(),
    };
    if plus_one {
        for v in &mut values {
            *v -= 1.0;
        }
    }
    tensor(dtype, shape, &values, rng)
}

/// A tensor of any dtype: floats are rounded, integers take random bits with the limits among them.
fn tensor(dtype: DType, shape: &[usize], values: &[f32], rng: &mut Rng) -> Option<Tensor> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => from_floats(dtype, shape, values).ok(),
        DType::F64 => from_doubles(shape, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()).ok(),
        DType::Bool => from_bools(shape, &values.iter().map(|_| rng.bits() & 1 == 1).collect::<Vec<_>>()).ok(),
        d if d.is_int() => {
            let (lo, hi) = crate::eval::int_limits(d);
            let one = |v: &f32| match rng.below(8) {
                0 => lo,
                1 => hi,
                2 => i128::from(rng.bits()),
                _ => *v as i128,
            };
            from_ints(d, shape, &values.iter().map(one).collect::<Vec<_>>()).ok()
        }
        d => {
            let codes = values.iter().map(|&v| num::cast_f32_to(d, v, rng.bits() & 1 == 0)).collect();
            from_codes(d, shape, codes).ok()
        }
    }
}

/// One tensor of each kind of row, and a last one with all kinds in turn.
///
/// Empty if the shape is too large to make.
pub fn cases(dtype: DType, shape: &[usize], seed: u64) -> Vec<Tensor> {
    let mut rng = Rng::new(seed);
    let mut all: Vec<Tensor> = Row::ALL.iter().filter_map(|&k| rows(dtype, shape, &[k], &mut rng)).collect();
    all.extend(rows(dtype, shape, &Row::ALL, &mut rng));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::numbers::floats;

    #[test]
    fn a_seed_determines_the_data() {
        for dtype in DType::ALL {
            let (a, b) = (cases(dtype, &[3, 8], 7), cases(dtype, &[3, 8], 7));
            assert_eq!(a.len(), Row::ALL.len() + 1, "{dtype}");
            assert!(a.iter().zip(&b).all(|(a, b)| a.dtype() == dtype && a.bytes() == b.bytes()));
        }
        assert_ne!(cases(DType::F32, &[64], 1)[0].bytes(), cases(DType::F32, &[64], 2)[0].bytes());
    }

    #[test]
    fn each_kind_is_what_it_says() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let all = cases(dtype, &[2, 512], 1);
            let of = |k: Row| floats(&all[Row::ALL.iter().position(|&r| r == k).unwrap()]).unwrap();
            assert!(of(Row::Zeros).iter().all(|v| v.to_bits() == 0));
            assert!(of(Row::SignedZeros).iter().any(|v| v.to_bits() != 0));
            assert_eq!(of(Row::Infinity).iter().filter(|v| v.is_infinite()).count(), 2, "one in each row");
            assert_eq!(of(Row::Nan).iter().filter(|v| v.is_nan()).count(), 2);
            assert!(of(Row::Huge).iter().all(|v| v.is_finite() && v.abs() > 1e4));
            let (large, top) = (of(Row::LargeSum), f64::from(limits(dtype).1));
            let squares = || large[..512].iter().map(|v| f64::from(*v).powi(2));
            assert!(squares().all(|s| s < top) && squares().sum::<f64>() > top, "{dtype}");
            let near = of(Row::RootTies)[..512].iter().filter(|v| **v != 0.0).count();
            assert!((3..=6).contains(&near), "{dtype}: a pair and what it separates, found {near}");
            assert!(of(Row::Denormals).iter().all(|v| v.abs() < 1e-5) && of(Row::Denormals).iter().any(|&v| v != 0.0));
            let ties = of(Row::Ties);
            let top = ties.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert_eq!(ties[16].abs(), ties[0].abs(), "{dtype}: one scale for all groups of a row");
            assert!(top > 0.0 && ties[..512].iter().all(|v| v.abs() <= ties[0].abs()));
            assert!(of(Row::Blocks)[..128].iter().all(|&v| v == 0.0) && of(Row::Blocks)[300] != 0.0);
        }
    }
}
