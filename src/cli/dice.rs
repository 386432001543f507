//! Random numbers from a seed, the same everywhere.

/// SplitMix64: small and seeded.
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
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
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
