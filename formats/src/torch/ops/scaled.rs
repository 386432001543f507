//! Products of codes and their scales. How they are scaled is said by the shapes of the scales (`_scaled_mm`) or by numbers
//! (`_scaled_mm_v2`); what is fast and what is said of memory is no matter of the result.

use normfuse_ir::{
    DType, Dim, Op, ValueId,
    op::BinaryOp,
    scaled::{ScalePer, ScaledMatMul},
};

use super::{super::args::Call, Outcome};
use crate::reject::{Reject, foreign};

/// The one size of blocks that torch scales in f32.
const BLOCK: u64 = 128;

/// Maps both.
pub fn op<'p>(c: &mut Call<'_, 'p>, name: &str) -> Result<Option<Outcome<'p>>, Reject> {
    let value = match name {
        "_scaled_mm.default" => by_shapes(c)?,
        "_scaled_mm_v2.default" => by_recipes(c)?,
        _ => return Ok(None),
    };
    Ok(Some(Outcome::one(value)))
}

/// What both have: `a` is `[M, K]`, `b` is `[K, N]`.
struct Product {
    a: ValueId,
    b: ValueId,
    m: Dim,
    k: Dim,
    n: Dim,
    bias: Option<ValueId>,
    to: DType,
}

impl Product {
    fn of(c: &mut Call<'_, '_>) -> Result<Self, Reject> {
        let (a, b) = (c.tensor("self")?, c.tensor("mat2")?);
        let (bias, to) = (c.opt_tensor("bias")?, c.dtype("out_dtype")?);
        c.skip(&["use_fast_accum"]);
        let Some(to) = to.filter(|d| d.is_arithmetic_float()) else { return foreign("its result is quantised, too") };
        let ([m, k], [_, n]) = (&c.b.shape(a)?[..], &c.b.shape(b)?[..]) else {
            return foreign("its operands are no matrices");
        };
        Ok(Self { a, b, m: m.clone(), k: k.clone(), n: n.clone(), bias, to })
    }

    /// True if the op of the IR can say it.
    fn is_known(&self, c: &Call<'_, '_>, op: &ScaledMatMul) -> Result<bool, Reject> {
        let codes = ScaledMatMul::takes(c.b.dtype(self.a)?) && ScaledMatMul::takes(c.b.dtype(self.b)?);
        let bias = match self.bias {
            None => true,
            Some(bias) => {
                matches!(c.b.dtype(bias)?, DType::F32 | DType::F16 | DType::BF16) && c.b.shape(bias)?.len() == 1
            }
        };
        Ok(codes && bias && op.check().is_ok())
    }

    /// The op, with scales as it has them.
    fn write(&self, c: &mut Call<'_, '_>, op: ScaledMatMul, scales: [ValueId; 2]) -> Result<ValueId, Reject> {
        let b = turned(c, self.b)?;
        let operands: Vec<ValueId> = [self.a, b].into_iter().chain(scales).chain(self.bias).collect();
        Ok(c.b.one(Op::ScaledMatMul(op), &operands)?)
    }

    /// `a * b * scale_a * scale_b + bias` in f32, rounded once: of types that the op does not take.
    fn spell(&self, c: &mut Call<'_, '_>, scales: [ValueId; 2]) -> Result<ValueId, Reject> {
        let (a, b) = (c.b.cast(self.a, DType::F32)?, c.b.cast(self.b, DType::F32)?);
        let mut y = c.b.one(Op::MatMul, &[a, b])?;
        for s in scales {
            y = c.b.binary(BinaryOp::Mul, y, s)?;
        }
        if let Some(bias) = self.bias {
            let bias = c.b.cast(bias, DType::F32)?;
            y = c.b.binary(BinaryOp::Add, y, bias)?;
        }
        Ok(c.b.cast(y, self.to)?)
    }
}

/// So many blocks have a size.
fn blocks(size: &Dim) -> Dim {
    size.ceil_div(&Dim::from(BLOCK as i64))
}

fn is_one(d: &Dim) -> bool {
    d.as_const() == Some(1)
}

/// A matrix turned around; one that was turned to get here is what it was.
fn turned(c: &mut Call<'_, '_>, x: ValueId) -> Result<ValueId, Reject> {
    if let Some((id, _)) = c.b.graph.producer(x)
        && let node = c.b.graph.node(id)
        && let (Op::Transpose { perm }, Some(before)) = (&node.op, node.input(0))
        && perm.as_deref().is_none_or(|p| p == [1, 0])
    {
        return Ok(before);
    }
    Ok(c.b.one(Op::Transpose { perm: Some(vec![1, 0]) }, &[x])?)
}

/// What shares a scale of a matrix with so many rows and columns, by the shape of the scales.
fn shared(shape: &[Dim], rows: &Dim, columns: &Dim) -> Option<ScalePer> {
    match shape {
        all if all.iter().all(is_one) => Some(ScalePer::Tensor),
        [r, c] if r == rows && is_one(c) => Some(ScalePer::Row),
        [r, c] if r == rows && *c == blocks(columns) => Some(ScalePer::Block(1, BLOCK)),
        [r, c] if *r == blocks(rows) && *c == blocks(columns) => Some(ScalePer::Block(BLOCK, BLOCK)),
        _ => None,
    }
}

fn by_shapes(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let product = Product::of(c)?;
    let [a, b] = [c.tensor("scale_a")?, c.tensor("scale_b")?];
    if c.get("scale_result").is_some() {
        return foreign("its result is scaled, too");
    }
    let of_b: Vec<Dim> = c.b.shape(b)?.into_iter().rev().collect();
    let per = (shared(&c.b.shape(a)?, &product.m, &product.k), shared(&of_b, &product.n, &product.k));
    let (Some(per_a), Some(per_b)) = per else {
        return foreign("its scales are none of a tensor, rows or blocks of 128");
    };
    f32_scales(c, [a, b])?;
    let in_blocks = [per_a, per_b].map(|p| matches!(p, ScalePer::Block(..)));
    let one_block = product.k.as_const().is_some_and(|k| k <= BLOCK as i64);
    if in_blocks[0] != in_blocks[1] && !one_block {
        return foreign("its scales are of blocks on one side alone");
    }
    let op = ScaledMatMul { a: per_a, b: per_b, to: product.to };
    if product.is_known(c, &op)? {
        let b = if per_b == ScalePer::Tensor { b } else { turned(c, b)? };
        return product.write(c, op, [a, b]);
    }
    if in_blocks.contains(&true) {
        return foreign(op.check().err().unwrap_or_else(|| "there are no blocks of scales of such operands".into()));
    }
    product.spell(c, [a, b])
}

/// What shares a scale, by torch's number of a recipe.
fn recipe(c: &mut Call<'_, '_>, side: &str) -> Result<(ScalePer, ValueId), Reject> {
    let recipes = c.ints(&format!("recipe_{side}"))?;
    let per = match recipes.as_slice() {
        [0] => ScalePer::Tensor,
        [1] => ScalePer::Row,
        [4] => ScalePer::Block(1, BLOCK),
        [5] => ScalePer::Block(BLOCK, BLOCK),
        [2, ..] => return foreign("its scales are of blocks of 16 (NVFP4)"),
        [3, ..] => return foreign("its scales are of blocks of 32 (MX)"),
        other => return foreign(format!("its scales are of a recipe that normfuse does not know: {other:?}")),
    };
    if c.ints(&format!("swizzle_{side}"))?.iter().any(|s| *s != 0) {
        return foreign("its scales are swizzled");
    }
    match c.tensors(&format!("scale_{side}"))?.as_slice() {
        [one] => Ok((per, *one)),
        other => foreign(format!("it has {} tensors of scales a side", other.len())),
    }
}

fn by_recipes(c: &mut Call<'_, '_>) -> Result<ValueId, Reject> {
    let ((per_a, a), (per_b, b)) = (recipe(c, "a")?, recipe(c, "b")?);
    let product = Product::of(c)?;
    if !matches!(c.opt_ints("contraction_dim")?.as_deref(), None | Some([] | [1 | -1, 0 | -2])) {
        return foreign("it sums over other axes than the inner ones");
    }
    f32_scales(c, [a, b])?;
    let op = ScaledMatMul { a: per_a, b: per_b, to: product.to };
    if !product.is_known(c, &op)? {
        return foreign(op.check().err().unwrap_or_else(|| "there is no scaled product of such operands".into()));
    }
    let other = |side: &str| foreign(format!("the scales of its {side} side have another shape than their recipe"));
    let Product { m, k, n, .. } = &product;
    let fits = match (per_a, &c.b.shape(a)?[..]) {
        (ScalePer::Tensor, all) => all.iter().all(is_one),
        (ScalePer::Row, [rows, one]) => rows == m && is_one(one),
        (ScalePer::Block(..), [rows, count]) => rows == m && *count == blocks(k),
        _ => false,
    };
    if !fits {
        return other("left");
    }
    let shape = c.b.shape(b)?;
    let b = match (per_b, &shape[..]) {
        (ScalePer::Tensor, all) if all.iter().all(is_one) => b,
        (ScalePer::Row, [one, rows]) if is_one(one) && rows == n => turned(c, b)?,
        (ScalePer::Row, [rows, one]) if rows == n && is_one(one) => b,
        (ScalePer::Block(1, _), [rows, count]) if rows == n && *count == blocks(k) => b,
        // Turned around, and filled up to a multiple of four blocks.
        (ScalePer::Block(BLOCK, _), [count, rows]) if *rows == blocks(n) => {
            match (count.as_const(), blocks(k).as_const()) {
                (Some(found), Some(want)) if found == want => turned(c, b)?,
                (Some(found), Some(want)) if want > 0 && found == (want + 3) / 4 * 4 => {
                    let whole = turned(c, b)?;
                    let [from, to, axis] = [0, want, 1].map(|i| c.b.ints(&[i]));
                    c.b.one(Op::Slice, &[whole, from, to, axis])?
                }
                _ => return other("right"),
            }
        }
        _ => return other("right"),
    };
    product.write(c, op, [a, b])
}

fn f32_scales(c: &Call<'_, '_>, scales: [ValueId; 2]) -> Result<(), Reject> {
    for s in scales {
        let dtype = c.b.dtype(s)?;
        if dtype != DType::F32 {
            return foreign(format!("its scales are {dtype}, in a layout of their own"));
        }
    }
    Ok(())
}
