//! Random numbers from a seed, the same everywhere.

use normfuse::ir::{self, DType, Tensor};
use rayon::prelude::*;

use super::bits;

/// What a state is from the one before.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// Numbers that one thread makes at a time; even, so that those of 4 bits end with a byte.
const CHUNK: usize = 1 << 16;

/// SplitMix64: small and seeded.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// The numbers of one seed; streams do not resemble one another.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Self(seed ^ stream.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.next();
        dice
    }

    /// The stream of a name (FNV-1a).
    pub fn named(seed: u64, name: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        Self::new(seed, name.bytes().fold(0xCBF2_9CE4_8422_2325, step))
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A tensor of floats, one draw each: the same as one behind the other, on all cores.
    pub fn floats(&self, dtype: DType, shape: &[usize], draw: impl Fn(&mut Self) -> f32 + Sync) -> ir::Result<Tensor> {
        let count: usize = shape.iter().product();
        let chunk = |begin: usize| {
            let mut dice = Self(self.0.wrapping_add(STEP.wrapping_mul(begin as u64)));
            let values: Vec<f32> = (begin..count.min(begin + CHUNK)).map(|_| draw(&mut dice)).collect();
            Ok(bits::cast(&Tensor::from_f32(&[values.len()], &values), dtype)?.bytes().to_vec())
        };
        let begins: Vec<usize> = (0..count).step_by(CHUNK).collect();
        let chunks = begins.into_par_iter().map(chunk).collect::<ir::Result<Vec<_>>>()?;
        Tensor::from_bytes(dtype, shape.to_vec(), chunks.concat())
    }

    /// Triangular on (-2, 2).
    pub fn triangular(&mut self) -> f32 {
        triangular(self.next())
    }

    /// The same; one in 64 is 16 times as large, as activations have them.
    pub fn activation(&mut self) -> f32 {
        let bits = self.next();
        let value = triangular(bits);
        if bits >> 58 == 0 { value * 16.0 } else { value }
    }
}

fn triangular(bits: u64) -> f32 {
    let unit = |b: u64| (b & 0xFF_FFFF) as f32 / 8_388_608.0 - 1.0;
    unit(bits) + unit(bits >> 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_depend_on_who_makes_them() {
        let dice = Dice::new(3, 1);
        let mut one_by_one = dice.clone();
        let count = CHUNK + 3;
        let want: Vec<f32> = (0..count).map(|_| one_by_one.activation()).collect();
        let made = dice.floats(DType::F32, &[count], Dice::activation).unwrap();
        assert_eq!(made.bytes(), Tensor::from_f32(&[count], &want).bytes());
        let codes = dice.floats(DType::F4E2M1, &[count], Dice::activation).unwrap();
        assert_eq!(codes.bytes(), bits::cast(&made, DType::F4E2M1).unwrap().bytes());
    }
}
