//! ONNX `Attention`: two products with a softmax between them, in f32, one rounding at each output.
//!
//! Scores are scaled, capped, masked and normalised row by row exactly as the reference evaluator does it; only the sums
//! inside the two products have another order.

use normfuse_ir::{DType, Error, ErrorKind, Result, Tensor, eval::movement, num, op::AttentionOp, scheme::F32};
use rayon::prelude::*;

use super::{
    broadcast::{Walk, broadcast_shape, map, map2},
    buf::{Float, numel, tensor, view, zeros},
    convert::to_f32,
    math::with_narrow,
    product::Product,
    rows::softmax_row,
};

/// The operands as `[batch, heads, sequence, size]`, with the past in front of keys and values.
struct Heads {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: usize,
}

/// Sizes that the operands agree on.
struct Sizes {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    v_size: usize,
}

fn shape_error(message: String) -> Error {
    Error::new(ErrorKind::Shape, message)
}

/// An operand that is 4-D, or 3-D with its heads side by side.
fn split_heads(name: &str, x: &Tensor, heads: Option<u64>) -> Result<Tensor> {
    match *x.shape() {
        [_, _, _, _] => Ok(x.clone()),
        [batch, sequence, hidden] => {
            let heads = heads.and_then(|h| usize::try_from(h).ok()).filter(|&h| h > 0 && hidden.is_multiple_of(h));
            let heads = heads.ok_or_else(|| {
                shape_error(format!("{name} {:?} needs a number of heads that divides its last axis", x.shape()))
            })?;
            movement::transpose(&x.reshaped(vec![batch, sequence, heads, hidden / heads])?, Some(&[0, 2, 1, 3]))
        }
        _ => Err(shape_error(format!("{name}: expected 3 or 4 axes, found {:?}", x.shape()))),
    }
}

impl Heads {
    fn bind(op: &AttentionOp, inputs: &[Option<&Tensor>]) -> Result<Self> {
        let optional = |i: usize| inputs.get(i).copied().flatten();
        let need = |i: usize, name: &str| {
            optional(i).ok_or_else(|| Error::new(ErrorKind::Structure, format!("{name} is missing")))
        };
        let q = split_heads("query", need(0, "query")?, op.q_num_heads)?;
        let mut k = split_heads("key", need(1, "key")?, op.kv_num_heads)?;
        let mut v = split_heads("value", need(2, "value")?, op.kv_num_heads)?;
        let mut past = 0;
        match (optional(4), optional(5)) {
            (Some(past_key), Some(past_value)) => {
                past = past_key.shape().get(2).copied().unwrap_or(0);
                k = movement::concat(&[past_key, &k], 2)?;
                v = movement::concat(&[past_value, &v], 2)?;
            }
            (None, None) => {}
            _ => {
                return Err(Error::new(ErrorKind::Structure, "past_key and past_value go together, found one of them"));
            }
        }
        Ok(Self { q, k, v, past })
    }

    fn sizes(&self) -> Result<Sizes> {
        let sizes = match (self.q.shape(), self.k.shape(), self.v.shape()) {
            (&[batch, heads, queries, size], &[bk, kv_heads, keys, dk], &[bv, hv, sv, v_size])
                if (batch, size) == (bk, dk)
                    && (bk, kv_heads, keys) == (bv, hv, sv)
                    && kv_heads > 0
                    && heads.is_multiple_of(kv_heads) =>
            {
                Some(Sizes { batch, heads, kv_heads, queries, keys, size, v_size })
            }
            _ => None,
        };
        sizes.ok_or_else(|| {
            let [q, k, v] = [&self.q, &self.k, &self.v].map(Tensor::shape);
            shape_error(format!("query {q:?}, key {k:?} and value {v:?} do not fit"))
        })
    }
}

/// What each score gets added, `[batch, heads, queries, keys]` after broadcasting: the mask, and minus infinity past
/// its end and past the causal diagonal.
fn bias(op: &AttentionOp, mask: Option<&Tensor>, past: usize, s: &Sizes) -> Result<Tensor> {
    const HIDDEN: f32 = f32::NEG_INFINITY;
    let mut bias = match mask {
        // Nothing hidden is a zero added all the same: it turns -0 into +0.
        None => tensor(DType::F32, &[], vec![0.0f32])?,
        Some(mask) if mask.dtype() == DType::Bool => {
            tensor(DType::F32, mask.shape(), map(&view::<u8>(mask)?, |m| if m == 0 { HIDDEN } else { 0.0 })?)?
        }
        Some(mask) => tensor(DType::F32, mask.shape(), to_f32(mask)?.into_owned())?,
    };
    if let Some((&width, lead)) = bias.shape().split_last()
        && width != 1
        && width < s.keys
    {
        // A mask shorter than the keys hides the rest.
        let shape = [lead, &[s.keys - width]].concat();
        let mut rest = zeros(numel(&shape)?)?;
        rest.fill(HIDDEN);
        let rest = tensor(DType::F32, &shape, rest)?;
        bias = movement::concat(&[&bias, &rest], -1)?;
    }
    if op.is_causal {
        // A query sees the past and the keys up to its own place; what it does not see is hidden whatever the mask says.
        let seen: Vec<u8> =
            (0..s.queries).flat_map(|q| (0..s.keys).map(move |k| u8::from(k <= q.saturating_add(past)))).collect();
        let shape = [s.queries, s.keys];
        let walk = Walk::new([bias.shape(), &shape])?;
        let both = map2(&walk, &view::<f32>(&bias)?, &seen, |b, seen| if seen == 0 { HIDDEN } else { b })?;
        bias = tensor(DType::F32, &walk.shape, both)?;
    }
    Ok(bias)
}

/// The scores after one stage, kept if the node asks for them.
struct Kept {
    mode: Option<u8>,
    values: Vec<f32>,
}

impl Kept {
    fn offer(&mut self, mode: u8, scores: &[f32]) {
        if self.mode == Some(mode) {
            self.values = scores.to_vec();
        }
    }
}

/// Runs the op; `None` for f64 and for dtypes that the reference evaluator refuses.
pub(super) fn attention(op: &AttentionOp, inputs: &[Option<&Tensor>]) -> Result<Option<Vec<Tensor>>> {
    let narrow = |d| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    let mask = inputs.get(3).copied().flatten();
    let dtypes = || inputs.iter().enumerate().filter(|(i, _)| *i != 3).filter_map(|(_, t)| t.map(Tensor::dtype));
    let Some(dtype) = dtypes().next() else { return Ok(None) };
    if !narrow(dtype)
        || dtypes().any(|d| d != dtype)
        || mask.is_some_and(|m| m.dtype() != DType::Bool && !narrow(m.dtype()))
        || op.softmax_dtype == Some(DType::F64)
        || op.qk_matmul_output_mode > 3
    {
        return Ok(None);
    }
    let heads = Heads::bind(op, inputs)?;
    let s = heads.sizes()?;
    let (q, k, v) = (to_f32(&heads.q)?, to_f32(&heads.k)?, to_f32(&heads.v)?);
    let score_shape = [s.batch, s.heads, s.queries, s.keys];
    let y_shape = [s.batch, s.heads, s.queries, s.v_size];
    let count = numel(&score_shape)?;
    let pairs = |left: usize, right: usize| -> Vec<(usize, usize)> {
        let kv = |i: usize| i / s.heads * s.kv_heads + i % s.heads / (s.heads / s.kv_heads);
        // Where there are no scores there is nothing to multiply, and the other sizes may be anything.
        let products = if count == 0 { 0 } else { s.batch * s.heads };
        (0..products).map(|i| (i * left, kv(i) * right)).collect()
    };

    let mut scores = Product {
        a: &q[..],
        b: &k[..],
        m: s.queries,
        k: s.size,
        n: s.keys,
        a_transposed: false,
        b_transposed: true,
        batches: &pairs(s.queries * s.size, s.keys * s.size),
    }
    .run(count)?;
    let scale = op.scale.map_or_else(|| (1.0 / (s.size as f64).sqrt()) as f32, F32::get);
    scores = map(&scores, |v| v * scale)?;
    let mut kept = Kept { mode: (op.outputs > 3).then_some(op.qk_matmul_output_mode), values: Vec::new() };
    kept.offer(0, &scores);
    let cap = op.softcap.get();
    if cap != 0.0 {
        scores = map(&scores, |v| cap * num::tanh(v / cap))?;
    }
    kept.offer(1, &scores);
    if count > 0 {
        let bias = bias(op, mask, heads.past, &s)?;
        if broadcast_shape(&[&score_shape, bias.shape()])? != score_shape {
            return Err(shape_error(format!("the mask {:?} does not broadcast to {score_shape:?}", bias.shape())));
        }
        scores = map2(&Walk::new([&score_shape, bias.shape()])?, &scores, &view::<f32>(&bias)?, |v, b| v + b)?;
    }
    kept.offer(2, &scores);
    if s.keys > 0 {
        scores.par_chunks_mut(s.keys).for_each(|row| {
            if row.iter().all(|v| *v == f32::NEG_INFINITY) {
                // Nothing to attend to: zeros, not NaN.
                row.fill(0.0);
            } else {
                softmax_row(row, false);
            }
        });
    }
    kept.offer(3, &scores);

    let y = Product {
        a: &scores[..],
        b: &v[..],
        m: s.queries,
        k: s.keys,
        n: s.v_size,
        a_transposed: false,
        b_transposed: false,
        batches: &pairs(s.queries * s.keys, s.keys * s.v_size),
    }
    .run(numel(&y_shape)?)?;

    let round = |shape: &[usize], values: &[f32]| -> Result<Tensor> {
        with_narrow!(dtype, T => tensor(T::DTYPE, shape, map(values, T::down)?), _ => {
            Err(Error::new(ErrorKind::DType, format!("attention of {dtype}")))
        })
    };
    let mut y = round(&y_shape, &y)?;
    if inputs.first().copied().flatten().is_some_and(|q| q.shape().len() == 3) {
        y = movement::transpose(&y, Some(&[0, 2, 1, 3]))?.reshaped(vec![s.batch, s.queries, s.heads * s.v_size])?;
    }
    let mut outputs = vec![y, heads.k, heads.v];
    if op.outputs > 3 {
        outputs.push(round(&score_shape, &kept.values)?);
    }
    outputs.truncate(op.outputs);
    Ok(Some(outputs))
}
