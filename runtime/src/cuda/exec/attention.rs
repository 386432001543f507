//! Attention as two products with a softmax between them, in parts that keep the scores small.
//!
//! Scores are f32, as the product has them; probabilities have the operands' dtype. Query heads that share a head of keys are rows
//! of one product, since they lie one behind the other.

use normfuse_ir::{DType, Error, ErrorKind, Node, Op, Result, op::AttentionOp, scheme::F32};

use super::{
    super::{
        ops::{AttentionSoftmax, Call, Typed},
        product::{Plain, Strided},
    },
    builder::Builder,
    step::Work,
    views::VIEW_ALIGNMENT,
};

/// A value and what it is, as `[batch, heads, sequence, size]`.
struct Heads {
    value: usize,
    sizes: [usize; 4],
}

struct Attention<'n> {
    op: &'n AttentionOp,
    node: &'n Node,
    dtype: DType,
    q: Heads,
    k: Heads,
    v: Heads,
    mask: Option<(usize, Typed)>,
    past: usize,
}

/// Some heads of keys, or all of all batches.
struct Part {
    /// The first of all pairs of a batch and a head of keys.
    first: usize,
    batches: usize,
    /// Heads of keys of each.
    heads: usize,
}

impl Builder<'_> {
    /// Plans the steps of a node.
    pub(super) fn attention(&mut self, node: &Node, op: &AttentionOp) -> Result<()> {
        let missing = |i: usize| Error::new(ErrorKind::Structure, format!("`attention` needs operand {i}"));
        let mut heads = Vec::new();
        for (port, count) in [(0, op.q_num_heads), (1, op.kv_num_heads), (2, op.kv_num_heads)] {
            let value = self.operand(node.input(port).ok_or_else(|| missing(port))?)?;
            heads.push(self.split_heads(node, value, count)?);
        }
        let side_by_side = node.input(0).is_some_and(|q| self.shape_of(q).len() == 3);
        let [q, mut k, mut v] = <[Heads; 3]>::try_from(heads).map_err(|_| missing(0))?;
        let mut past = 0;
        match (node.input(4), node.input(5)) {
            (Some(past_key), Some(past_value)) => {
                let (past_key, past_value) = (self.operand(past_key)?, self.operand(past_value)?);
                past = self.values[past_key].typed.shape.get(2).copied().unwrap_or(0);
                k = self.behind(node, past_key, &k)?;
                v = self.behind(node, past_value, &v)?;
            }
            (None, None) => {}
            _ => {
                let message = "past_key and past_value go together, found one of them";
                return Err(Error::new(ErrorKind::Structure, message));
            }
        }
        let dtype = self.values[q.value].typed.dtype;
        let mask = node.input(3).map(|m| self.operand(m)).transpose()?;
        let mask = mask.map(|m| (m, self.values[m].typed.clone()));
        let attention = Attention { op, node, dtype, q, k, v, mask, past };
        attention.check()?;
        self.attend(&attention, side_by_side)
    }

    /// An operand that is 4-D, or 3-D with its heads side by side.
    fn split_heads(&mut self, node: &Node, value: usize, heads: Option<u64>) -> Result<Heads> {
        let Typed { dtype, shape } = self.values[value].typed.clone();
        match *shape {
            [batch, heads, sequence, size] => Ok(Heads { value, sizes: [batch, heads, sequence, size] }),
            [batch, sequence, hidden] => {
                let heads = heads.and_then(|h| usize::try_from(h).ok()).filter(|&h| h > 0 && hidden.is_multiple_of(h));
                let none =
                    || Error::new(ErrorKind::Shape, "`attention` needs a number of heads that divides the last axis");
                let heads = heads.ok_or_else(none)?;
                let typed = Typed { dtype, shape: vec![batch, sequence, heads, hidden / heads] };
                let apart = self.part(value, typed, 0);
                let value = self.transposed(node, apart, &[0, 2, 1, 3])?;
                Ok(Heads { value, sizes: [batch, heads, sequence, hidden / heads] })
            }
            _ => Err(Error::new(ErrorKind::Shape, format!("`attention` takes 3 or 4 axes, found {shape:?}"))),
        }
    }

    /// Keys or values with the past in front of them.
    fn behind(&mut self, node: &Node, past: usize, new: &Heads) -> Result<Heads> {
        let inputs = [past, new.value];
        let types = inputs.map(|v| Some(self.values[v].typed.clone()));
        let mut sizes = new.sizes;
        sizes[2] += self.values[past].typed.shape.get(2).copied().unwrap_or(0);
        let result = Typed { dtype: self.values[new.value].typed.dtype, shape: sizes.to_vec() };
        let value = self.lowered(node, &Op::Concat { axis: 2 }, &inputs, &types, result)?;
        Ok(Heads { value, sizes })
    }

    /// A product of matrices, one a part; of the right ones, that they lie across.
    fn of_parts(&mut self, node: &Node, inputs: [usize; 2], across: bool, output: usize) -> Result<()> {
        let right = Strided::dense(&self.values[inputs[1]].typed.shape);
        let right = if across { right.permuted(&[0, 2, 1]) } else { right };
        let mut types = inputs.map(|v| Some(self.values[v].typed.clone()));
        if let Some(typed) = &mut types[1] {
            typed.shape.clone_from(&right.shape);
        }
        let outputs = [self.values[output].typed.clone()];
        let call = Call { op: &Op::MatMul, inputs: &types, outputs: &outputs, known: &[None, None] };
        let product = self.backend.product(&Plain::of(&call, [None, Some(&right)])?)?;
        let scratch = product.scratch();
        self.step(node, "attention mat_mul".into(), &inputs, vec![output], Work::Product(product), scratch);
        Ok(())
    }

    fn attend(&mut self, a: &Attention<'_>, side_by_side: bool) -> Result<()> {
        let [batch, heads, queries, _] = a.q.sizes;
        let [_, kv_heads, keys, _] = a.k.sizes;
        let v_size = a.v.sizes[3];
        let rows = Typed { dtype: a.dtype, shape: vec![batch, heads, queries, v_size] };
        // The last product writes the result itself, unless heads go side by side again.
        let own = self.results(&a.node.outputs[..1], false)?[0];
        let y = if side_by_side { self.temporary(rows) } else { own };
        let kept = match a.node.outputs.get(3) {
            Some(id) => Some(self.results(&[*id], false)?[0]),
            None => None,
        };
        for part in parts(batch, kv_heads, heads / kv_heads * queries * keys * 4, self.backend.most_scores()) {
            self.part_of_heads(a, &part, y, kept)?;
        }
        if side_by_side {
            let op = Op::Transpose { perm: Some(vec![0, 2, 1, 3]) };
            let types = [Some(self.values[y].typed.clone())];
            let apart = Typed { dtype: a.dtype, shape: vec![batch, queries, heads, v_size] };
            let result = self.part(own, apart.clone(), 0);
            let outputs = [apart];
            let call = Call { op: &op, inputs: &types, outputs: &outputs, known: &[None] };
            let lowered = self.backend.node(&call)?;
            let scratch = lowered.scratch;
            self.step(a.node, op.name(), &[y], vec![result], Work::Kernels(lowered), scratch);
        }
        for (id, value) in a.node.outputs.iter().skip(1).take(2).zip([a.k.value, a.v.value]) {
            self.name(*id, value);
        }
        debug_assert_eq!(keys, a.v.sizes[2]);
        Ok(())
    }

    /// The products and the softmax of some heads.
    fn part_of_heads(&mut self, a: &Attention<'_>, part: &Part, y: usize, kept: Option<usize>) -> Result<()> {
        let [_, heads, queries, size] = a.q.sizes;
        let [_, kv_heads, keys, _] = a.k.sizes;
        let (shared, v_size) = (heads / kv_heads, a.v.sizes[3]);
        let pairs = part.batches * part.heads;
        let mut of = |value: usize, dtype: DType, [rows, columns]: [usize; 2]| -> Result<usize> {
            let elements = (part.first * rows * columns) as u64;
            let offset = elements * dtype.bits() as u64 / 8;
            if !offset.is_multiple_of(VIEW_ALIGNMENT) {
                let message =
                    "`attention` of that many keys is planned head by head, whose sizes are no multiples of 16 bytes";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            Ok(self.part(value, Typed { dtype, shape: vec![pairs, rows, columns] }, offset))
        };
        let q = of(a.q.value, a.dtype, [shared * queries, size])?;
        let k = of(a.k.value, a.dtype, [keys, size])?;
        let v = of(a.v.value, a.dtype, [keys, v_size])?;
        let y = of(y, a.dtype, [shared * queries, v_size])?;
        let kept = kept.map(|kept| of(kept, a.dtype, [shared * queries, keys])).transpose()?;
        let scores = self.temporary(Typed { dtype: DType::F32, shape: vec![pairs, shared * queries, keys] });
        self.of_parts(a.node, [q, k], true, scores)?;
        let mask = a.mask.as_ref().map(|(value, typed)| self.mask_of(a, part, *value, typed)).transpose()?;
        let softmax = AttentionSoftmax {
            scores: DType::F32,
            probabilities: a.dtype,
            sizes: [part.batches, part.heads * shared, queries, keys],
            scale: a.op.scale.map_or_else(|| (1.0 / (size as f64).sqrt()) as f32, F32::get),
            softcap: a.op.softcap.get(),
            mask: mask.map(|m| self.values[m].typed.clone()),
            causal: a.op.is_causal.then_some(a.past),
            kept: kept.map(|_| (a.op.qk_matmul_output_mode, a.dtype)),
        };
        let lowered = self.backend.softmax(&softmax)?;
        let shape = vec![pairs, shared * queries, keys];
        let probabilities = self.temporary(Typed { dtype: a.dtype, shape });
        let inputs: Vec<usize> = std::iter::once(scores).chain(mask).collect();
        let outputs = std::iter::once(probabilities).chain(kept).collect();
        let scratch = lowered.scratch;
        self.step(a.node, "attention softmax".into(), &inputs, outputs, Work::Kernels(lowered), scratch);
        self.of_parts(a.node, [probabilities, v], false, y)
    }

    /// What of the mask is for some heads.
    fn mask_of(&mut self, a: &Attention<'_>, part: &Part, value: usize, typed: &Typed) -> Result<usize> {
        let kv_heads = a.k.sizes[1];
        let shared = a.q.sizes[1] / kv_heads;
        let mut shape = typed.shape.clone();
        let rank = shape.len();
        let mut first = 0usize;
        let whole = part.batches == a.q.sizes[0] && part.heads == kv_heads;
        // Axes of batches and heads, from the last: what does not broadcast is cut.
        for (back, begin, count) in
            [(4, part.first / kv_heads, part.batches), (3, part.first % kv_heads * shared, part.heads * shared)]
        {
            if let Some(axis) = rank.checked_sub(back)
                && shape[axis] != 1
                && !whole
            {
                first += begin * typed.shape[axis + 1..].iter().product::<usize>();
                shape[axis] = count;
            }
        }
        let offset = (first * typed.dtype.bits() / 8) as u64;
        if !offset.is_multiple_of(VIEW_ALIGNMENT) {
            let message = "`attention` of that many keys is planned head by head, and the mask's rows are no multiples of 16 bytes";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(self.part(value, Typed { dtype: typed.dtype, shape }, offset))
    }
}

impl Attention<'_> {
    fn check(&self) -> Result<()> {
        let Self { q, k, v, .. } = self;
        let ([b, heads, _, size], [bk, kv_heads, keys, dk], [bv, hv, sv, _]) = (q.sizes, k.sizes, v.sizes);
        let fits = (b, size) == (bk, dk) && (bk, kv_heads, keys) == (bv, hv, sv) && kv_heads > 0;
        if !fits || !heads.is_multiple_of(kv_heads) {
            let message = format!("query {:?}, key {:?} and value {:?} do not fit", q.sizes, k.sizes, v.sizes);
            return Err(Error::new(ErrorKind::Shape, message));
        }
        let narrow = matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16);
        if !narrow || self.op.softmax_dtype == Some(DType::F64) {
            let message = format!("`attention` has no form on the GPU for {} with such a softmax", self.dtype);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(())
    }
}

/// Heads in parts: all at once if their scores are small enough, else as many of one batch as are.
fn parts(batch: usize, kv_heads: usize, bytes: usize, most: usize) -> Vec<Part> {
    if batch.saturating_mul(kv_heads).saturating_mul(bytes) <= most {
        return vec![Part { first: 0, batches: batch, heads: kv_heads }];
    }
    let at_once = (most / bytes.max(1)).clamp(1, kv_heads.max(1));
    let mut all = Vec::new();
    for b in 0..batch {
        for head in (0..kv_heads).step_by(at_once) {
            all.push(Part { first: b * kv_heads + head, batches: 1, heads: at_once.min(kv_heads - head) });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_in_parts_that_keep_scores_small() {
        let of = |batch, heads, bytes| -> Vec<[usize; 3]> {
            parts(batch, heads, bytes, 256 << 20).iter().map(|p| [p.first, p.batches, p.heads]).collect()
        };
        assert_eq!(of(2, 8, 1 << 20), [[0, 2, 8]]);
        assert_eq!(of(2, 3, 128 << 20), [[0, 1, 2], [2, 1, 1], [3, 1, 2], [5, 1, 1]]);
        assert_eq!(of(1, 2, 512 << 20), [[0, 1, 1], [1, 1, 1]]);
    }
}
