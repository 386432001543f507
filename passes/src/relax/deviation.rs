//! How far a product of codes and scales is from the product of the numbers that they stand for, on ordinary data.

use normfuse_ir::{
    DType, Op, Result, Tensor,
    body::hostile::{Rng, Row, rows},
    eval::{self, numbers::floats},
    scaled::{ScalePer, ScaledMatMul},
};

/// Rows of the left side.
const TOKENS: usize = 3;
/// Most columns of a row, and most rows of the right side: enough for several blocks.
const MOST: (usize, usize) = (4096, 160);

/// What the source makes numbers of, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Type of the codes.
    pub codes: DType,
    /// Type of the scales.
    pub scale: DType,
    /// What the products of both are rounded to, one after another, before they are multiplied.
    pub rounded: Vec<DType>,
}

/// A product, and the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// What took the source's place.
    pub op: ScaledMatMul,
    /// Both sides of it.
    pub sides: [Source; 2],
    /// Dtype of the source's product.
    pub product: DType,
    /// `K` and `N`.
    pub sizes: (u64, u64),
}

impl Compared {
    /// The largest difference over the largest magnitude of the source's product, with the roundings that it has between codes and result.
    /// Codes are bell-shaped, scales between 2^-7 and
    /// 2^-6; of large matrices a part is compared.
    ///
    /// # Errors
    /// What keeps one of the two from running.
    pub fn deviation(&self) -> Result<f32> {
        let mut rng = Rng::new(0x5ca1_ed00);
        let size = |n: u64, most: usize| usize::try_from(n).unwrap_or(most).min(most);
        let (k, n) = (size(self.sizes.0, MOST.0), size(self.sizes.1, MOST.1));
        let sides = [(TOKENS, self.op.a, &self.sides[0]), (n, self.op.b, &self.sides[1])];
        let [a, b] = sides.map(|(rows, per, source)| Side::new((rows, k), per, source, &mut rng));
        let (a, b) = (a?, b?);
        let operands = [&a.codes, &b.codes, &a.scale, &b.scale].map(Some);
        let scaled = eval::eval_node(&Op::ScaledMatMul(self.op), &operands)?.remove(0);
        let turned = eval::movement::transpose(&b.numbers, None)?;
        let source = eval::cast(&eval::matmul(&a.numbers, &turned)?, self.product, true)?;
        let source = eval::cast(&source, self.op.to, true)?;
        let (found, want) = (floats(&scaled)?, floats(&source)?);
        let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let differ = found.iter().zip(&want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        Ok(if largest > 0.0 { differ / largest } else { differ })
    }
}

/// Codes and scales, and the numbers that the source makes of them.
struct Side {
    codes: Tensor,
    scale: Tensor,
    numbers: Tensor,
}

impl Side {
    fn new((m, k): (usize, usize), per: ScalePer, source: &Source, rng: &mut Rng) -> Result<Self> {
        let block = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
        let (r, c) = match per {
            ScalePer::Tensor => (m, k),
            ScalePer::Row => (1, k),
            ScalePer::Block(r, c) => (block(r), block(c)),
        };
        let (down, across) = (m.div_ceil(r.max(1)), k.div_ceil(c.max(1)));
        let scales: Vec<f32> =
            (0..down * across).map(|_| (1.0 + rng.below(1 << 20) as f32 / (1 << 20) as f32) / 128.0).collect();
        // Scales that the source has in fewer bits are such numbers for both.
        let scale = Tensor::from_f32(&[down, across], &scales);
        let scale = if source.scale.is_float() { eval::cast(&scale, source.scale, true)? } else { scale };
        let scale = eval::cast(&scale, DType::F32, true)?;
        let scales = floats(&scale)?;
        let bell = rows(DType::F32, &[m, k], &[Row::Bell], rng)
            .unwrap_or_else(|| Tensor::from_f32(&[m, k], &vec![1.0; m * k]));
        let codes = eval::cast(&bell, source.codes, true)?;
        let values = floats(&eval::cast(&codes, DType::F32, true)?)?;
        let of = |i: usize| scales[i / k / r.max(1) * across + i % k / c.max(1)];
        let numbers: Vec<f32> = values.iter().enumerate().map(|(i, v)| v * of(i)).collect();
        let numbers = Tensor::from_f32(&[m, k], &numbers);
        let numbers = source.rounded.iter().try_fold(numbers, |x, to| eval::cast(&x, *to, true))?;
        Ok(Self { codes, scale, numbers })
    }
}
