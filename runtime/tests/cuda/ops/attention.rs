//! The softmax of attention against the stages of the evaluator's.

use normfuse_ir::{DType, Op, Tensor, body::bits_equal, eval, op::AttentionOp, scheme::F32};
use normfuse_runtime::cuda::ops::{AttentionSoftmax, attention_softmax};

use super::{
    Case, Gpu,
    cases::{data, noise},
    compile, typed,
};

/// Scores of a head of one element are the products of single numbers, which the evaluator hands out as they are.
struct Given {
    softmax: AttentionSoftmax,
    inputs: Vec<Option<Tensor>>,
    expected: Tensor,
}

/// Keys that no vectors are, and vectors of them.
const SIZES: [[usize; 4]; 2] = [[2, 3, 15, 37], [2, 3, 15, 48]];

/// As many rows as share the GPU otherwise; of one warp, and of several.
const LARGE: [[usize; 4]; 3] = [[1, 2, 2100, 904], [1, 2, 2100, 1100], [2, 1, 2100, 4100]];
/// Few rows of many keys; the last ones are more than registers hold.
const WIDE: [[usize; 4]; 4] = [[1, 2, 3, 4096], [2, 2, 1, 16000], [1, 2, 2, 20000], [1, 1, 5, 30001]];

/// What the evaluator has after `mode`, for scores that are `q * k` with one column of ones.
fn given(sizes: [usize; 4], mask: Option<Tensor>, (is_causal, softcap, mode): (bool, f32, u8)) -> Given {
    let [batch, heads, queries, keys] = sizes;
    let q = data(DType::F32, &[batch, heads, queries, 1], 3);
    let k = data(DType::F32, &[batch, heads, keys, 1], 5);
    let v = data(DType::F32, &[batch, heads, keys, 1], 6);
    let scale = 0.75;
    let attention = |mode: u8, cap: f32, causal: bool, mask: Option<Tensor>, scale: f32| {
        let op = AttentionOp {
            is_causal: causal,
            scale: Some(F32::new(scale)),
            softcap: F32::new(cap),
            q_num_heads: None,
            kv_num_heads: None,
            qk_matmul_output_mode: mode,
            softmax_dtype: None,
            outputs: 4,
        };
        let inputs = vec![Some(q.clone()), Some(k.clone()), Some(v.clone()), mask];
        Case { op: Op::Attention(op), inputs, known: vec![] }.expected().unwrap().remove(3)
    };
    // Unscaled and raw: what a product gives.
    let scores = attention(0, 0.0, false, None, 1.0);
    let expected = attention(mode, softcap, is_causal, mask.clone(), scale);
    let softmax = AttentionSoftmax {
        scores: DType::F32,
        probabilities: DType::F32,
        sizes,
        scale,
        softcap,
        mask: mask.as_ref().map(typed),
        causal: is_causal.then_some(0),
        kept: Some((mode, DType::F32)),
    };
    Given { softmax, inputs: vec![Some(scores), mask], expected }
}

fn all() -> Vec<Given> {
    let mut all = Vec::new();
    for sizes in SIZES {
        let [batch, heads, queries, keys] = sizes;
        let masks = [
            None,
            Some(noise(DType::Bool, &[queries, keys], 1)),
            Some(data(DType::BF16, &[batch, 1, queries, keys], 2)),
            Some(data(DType::F32, &[heads, 1, 20], 3)),
            Some(noise(DType::Bool, &[queries, 24], 3)),
            Some(noise(DType::Bool, &[queries, 1], 4)),
        ];
        for mask in masks {
            for (i, mode) in (0..4).enumerate() {
                all.push(given(sizes, mask.clone(), (i % 2 == 0, 0.0, mode)));
                all.push(given(sizes, mask.clone(), (i % 2 == 1, 5.0, mode)));
            }
            all.push(narrow(given(sizes, mask, (true, 0.0, 3))));
        }
    }
    for sizes in LARGE.into_iter().chain(WIDE) {
        let mask = noise(DType::Bool, &[sizes[2], sizes[3]], 5);
        all.extend([true, false].map(|causal| given(sizes, None, (causal, 0.0, 3))));
        all.push(narrow(given(sizes, Some(mask), (false, 0.0, 3))));
    }
    all
}

/// Probabilities alone, in bf16.
fn narrow(mut given: Given) -> Given {
    given.softmax.kept = None;
    given.softmax.probabilities = DType::BF16;
    given.expected = eval::cast(&given.expected, DType::BF16, true).unwrap();
    given
}

#[test]
fn the_softmax_of_attention_has_the_bits_of_the_evaluator() {
    let all = all();
    let lowered: Vec<_> = all.iter().map(|g| attention_softmax(&g.softmax).unwrap()).collect();
    compile(lowered.iter().flat_map(|l| &l.launches), "sm_90");
    let Some(gpu) = Gpu::with(lowered.iter().flat_map(|l| &l.launches)) else { return };
    for (given, lowered) in all.iter().zip(&lowered) {
        let outputs = vec![typed(&given.expected); 1 + usize::from(given.softmax.kept.is_some())];
        let found = gpu.run(lowered, &given.inputs, &outputs).unwrap();
        assert_eq!(bits_equal(found.last().unwrap(), &given.expected), None, "{:?}", given.softmax);
        if given.softmax.kept.is_some_and(|k| k.0 == 3) {
            assert_eq!(bits_equal(&found[0], &found[1]), None, "{:?}", given.softmax);
        }
    }
}
