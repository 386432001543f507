//! ONNX Attention (opset 23 and 24): in f32 inside (f64 for f64), one rounding at each output.

use super::{
    movement::{concat, reshape, transpose},
    normalise::{softmax_row, softmax_row_f64},
    numbers::{Numbers, bools, from_floats, from_numbers},
    shape::{broadcast_strides, checked_len, offsets, shape_error},
};
use crate::{DType, Error, ErrorKind, Result, Tensor, num, op::AttentionOp};

/// `[batch, heads, sequence, size]` of an operand that is 4-D, or 3-D with its heads side by side.
fn four_d(name: &str, x: &Tensor, heads: Option<u64>) -> Result<Tensor> {
    match *x.shape() {
        [_, _, _, _] => Ok(x.clone()),
        [batch, sequence, hidden] => {
            let heads = heads
                .and_then(|h| usize::try_from(h).ok())
                .filter(|&h| h > 0 && hidden.is_multiple_of(h))
                .ok_or_else(|| {
                    shape_error(format!("{name} has shape {:?} and needs a number of heads that divides it", x.shape()))
                })?;
            let dims = [batch, sequence, heads, hidden / heads].map(|d| d as i64);
            transpose(&reshape(x, &dims, true)?, Some(&[0, 2, 1, 3]))
        }
        _ => Err(shape_error(format!("{name} must have rank 3 or 4, found shape {:?}", x.shape()))),
    }
}

fn doubles(x: &Tensor) -> Result<Vec<f64>> {
    match Numbers::of(x) {
        Numbers::F32(v) if x.dtype().is_arithmetic_float() => Ok(v.into_iter().map(f64::from).collect()),
        Numbers::F64(v) => Ok(v),
        _ => Err(Error::new(ErrorKind::DType, format!("expected a float, found {}", x.dtype()))),
    }
}

/// What each score gets added, minus infinity where it is masked: one value for each of `scores` (4-D).
fn bias(op: &AttentionOp, mask: Option<&Tensor>, past: usize, scores: [usize; 4]) -> Result<Vec<f64>> {
    let [batch, heads, queries, keys] = scores;
    let mut bias = vec![0.0f64; batch * heads * queries * keys];
    if let Some(mask) = mask {
        let values: Vec<f64> = if mask.dtype() == DType::Bool {
            bools(mask)?.into_iter().map(|b| if b { 0.0 } else { f64::NEG_INFINITY }).collect()
        } else {
            doubles(mask)?
        };
        // A mask shorter than the keys hides the rest.
        let width = mask.shape().last().copied().unwrap_or(1);
        let seen = if width == 1 || width > keys { keys } else { width };
        let at =
            offsets(&[batch, heads, queries, seen], &broadcast_strides(mask.shape(), &[batch, heads, queries, seen])?);
        for (row, row_at) in bias.chunks_mut(keys.max(1)).zip(at.chunks(seen.max(1))) {
            row.fill(f64::NEG_INFINITY);
            for (b, &i) in row.iter_mut().zip(row_at) {
                *b = values[i];
            }
        }
    }
    if op.is_causal && keys > 0 {
        for (r, row) in bias.chunks_mut(keys).enumerate() {
            // A query sees the past and the keys up to its own place.
            let visible = r % queries + past + 1;
            for b in row.iter_mut().skip(visible) {
                *b = f64::NEG_INFINITY;
            }
        }
    }
    Ok(bias)
}

struct Heads {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past: usize,
}

fn operands(op: &AttentionOp, inputs: &[Option<&Tensor>]) -> Result<Heads> {
    let get = |i: usize| inputs.get(i).copied().flatten();
    let need = |i: usize| get(i).ok_or_else(|| Error::new(ErrorKind::Structure, format!("operand {i} is missing")));
    let q = four_d("query", need(0)?, op.q_num_heads)?;
    let mut k = four_d("key", need(1)?, op.kv_num_heads)?;
    let mut v = four_d("value", need(2)?, op.kv_num_heads)?;
    let mut past = 0;
    match (get(4), get(5)) {
        (Some(pk), Some(pv)) => {
            past = pk.shape().get(2).copied().unwrap_or(0);
            k = concat(&[pk, &k], 2)?;
            v = concat(&[pv, &v], 2)?;
        }
        (None, None) => {}
        _ => return Err(Error::new(ErrorKind::Structure, "past_key and past_value go together, found one of them")),
    }
    for t in [&k, &v] {
        if t.dtype() != q.dtype() {
            return Err(Error::new(
                ErrorKind::DType,
                format!("expected {} as the query is, found {}", q.dtype(), t.dtype()),
            ));
        }
    }
    let fits = match (q.shape(), k.shape(), v.shape()) {
        (&[bq, hq, _, dq], &[bk, hk, sk, dk], &[bv, hv, sv, _]) => {
            bq == bk && bk == bv && dq == dk && hk == hv && sk == sv && hk > 0 && hq.is_multiple_of(hk)
        }
        _ => false,
    };
    if !fits {
        return Err(shape_error(format!(
            "query {:?}, key {:?} and value {:?} do not fit",
            q.shape(),
            k.shape(),
            v.shape()
        )));
    }
    Ok(Heads { q, k, v, past })
}

fn softmax(row: &mut [f64], dtype: DType) {
    if row.iter().all(|v| *v == f64::NEG_INFINITY) {
        // Nothing to attend to: zeros, not NaN.
        row.fill(0.0);
    } else if dtype == DType::F64 {
        softmax_row_f64(row, false);
    } else {
        let mut narrow: Vec<f32> = row.iter().map(|&v| v as f32).collect();
        softmax_row(&mut narrow, false);
        for (v, n) in row.iter_mut().zip(narrow) {
            *v = f64::from(n);
        }
    }
}

/// Scaled dot-product attention.
///
/// # Errors
/// `Shape` or `DType` if the operands do not fit, `Structure` if one is missing.
pub fn attention(op: &AttentionOp, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    let Heads { q, k, v, past } = operands(op, inputs)?;
    let (&[batch, heads, queries, size], &[_, kv_heads, keys, _], &[.., v_size]) = (q.shape(), k.shape(), v.shape())
    else {
        return Err(shape_error("expected rank 4"));
    };
    let (qs, ks, vs) = (doubles(&q)?, doubles(&k)?, doubles(&v)?);
    let wide = q.dtype() == DType::F64;
    // Every step is a value of f32 unless the operands are f64.
    let r = |v: f64| if wide { v } else { f64::from(v as f32) };
    let scale = op.scale.map_or_else(|| r(1.0 / (size as f64).sqrt()), |s| f64::from(s.get()));
    let cap = f64::from(op.softcap.get());
    let score_shape = [batch, heads, queries, keys];
    checked_len(DType::F64, &score_shape)?;
    checked_len(DType::F64, &[batch, heads, queries, v_size])?;
    let bias = bias(op, inputs.get(3).copied().flatten(), past, score_shape)?;
    let softmax_dtype = op.softmax_dtype.unwrap_or(q.dtype());
    let mut scores = vec![0.0; bias.len()];
    let mut stages = vec![0.0; bias.len()];
    let mut y = vec![0.0; batch * heads * queries * v_size];
    for row in 0..batch * heads * queries {
        let (bh, _) = (row / queries, row % queries);
        let kv = (bh / heads) * kv_heads + bh % heads / (heads / kv_heads);
        let line = &mut scores[row * keys..(row + 1) * keys];
        let stage = &mut stages[row * keys..(row + 1) * keys];
        for (j, s) in line.iter_mut().enumerate() {
            let a = &qs[row * size..(row + 1) * size];
            let b = &ks[(kv * keys + j) * size..(kv * keys + j + 1) * size];
            let dot = a.iter().zip(b).fold(0.0, |sum, (x, y)| r(sum + r(x * y)));
            *s = r(dot * scale);
        }
        let mut keep = |mode: u8, line: &[f64]| {
            if op.qk_matmul_output_mode == mode {
                stage.copy_from_slice(line);
            }
        };
        keep(0, line);
        if cap != 0.0 {
            for s in line.iter_mut() {
                *s = r(cap * if wide { num::wide::tanh(*s / cap) } else { r(num::wide::tanh(r(*s / cap))) });
            }
        }
        keep(1, line);
        for (s, b) in line.iter_mut().zip(&bias[row * keys..]) {
            *s = r(*s + b);
        }
        keep(2, line);
        softmax(line, softmax_dtype);
        keep(3, line);
        let out = &mut y[row * v_size..(row + 1) * v_size];
        for (j, p) in line.iter().enumerate() {
            for (o, x) in out.iter_mut().zip(&vs[(kv * keys + j) * v_size..]) {
                *o = r(*o + r(p * x));
            }
        }
    }
    let store = |values: &[f64], shape: &[usize]| -> Result<Tensor> {
        if wide {
            from_numbers(DType::F64, shape, &Numbers::F64(values.to_vec()))
        } else {
            from_floats(q.dtype(), shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>())
        }
    };
    let mut result = store(&y, &[batch, heads, queries, v_size])?;
    if inputs.first().copied().flatten().is_some_and(|q| q.shape().len() == 3) {
        result = transpose(&result, Some(&[0, 2, 1, 3]))?.reshaped(vec![batch, queries, heads * v_size])?;
    }
    let mut outputs = vec![result, k, v];
    if op.outputs > 3 {
        outputs.push(store(&stages, &score_shape)?);
    }
    outputs.truncate(op.outputs);
    Ok(outputs)
}
