//! What lies between the two products of attention: scores are scaled, capped, masked and normalised row by row.

use std::fmt::Write as _;

use normfuse_ir::{DType, Error, ErrorKind, Result};

use super::{
    Lowered, Typed, Word,
    groups::Groups,
    place::broadcast,
    text::{Params, tag},
};

/// Rows from which on a GPU is full without many threads for each of them; what a thread does beside its keys is then worth sparing.
const MANY_ROWS: u64 = 1 << 12;
/// Threads of a row, where there are many rows.
const FEW_THREADS: u64 = 128;
/// Most bytes of a block in which powers are kept.
const MOST_KEPT: u64 = 48 << 10;

/// The softmax of `[batch, heads, queries, keys]` scores. Operands: the scores, then the mask if there is one. Results: the
/// probabilities, then the scores after one stage if they are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSoftmax {
    /// Dtype of the scores as the product has them: f32, f16 or bf16.
    pub scores: DType,
    /// Dtype of the probabilities: f32, f16 or bf16. They are computed in f32 and rounded once.
    pub probabilities: DType,
    /// Batch, heads, queries, keys.
    pub sizes: [usize; 4],
    /// Factor of the scores.
    pub scale: f32,
    /// Tanh soft cap; 0 is none.
    pub softcap: f32,
    /// What is added, or where it is bool, which keys are seen. It broadcasts to the scores; one that is shorter than the keys
    /// hides the rest.
    pub mask: Option<Typed>,
    /// Keys of the past in front of a causal mask's diagonal; none if it is not causal.
    pub causal: Option<usize>,
    /// Which stage is handed out, and in which dtype: 0 scaled, 1 capped, 2 masked, 3 the probabilities.
    pub kept: Option<(u8, DType)>,
}

/// The text that adds the mask to `v`, the score of key i.
fn masked(mask: Option<&Typed>, causal: bool) -> String {
    let mut text = String::from("        float bias = 0.0f;\n");
    if let Some(mask) = mask {
        let t = tag(mask.dtype);
        let value = if mask.dtype == DType::Bool {
            format!("get<{t}>(read_at<{t}>(p.mask, mask + i * p.along)) ? 0.0f : lowest<F32>()")
        } else {
            format!("get<{t}>(read_at<{t}>(p.mask, mask + i * p.along))")
        };
        let _ = writeln!(text, "        bias = i < p.seen ? {value} : lowest<F32>();");
    }
    if causal {
        text += "        if (i > query + p.past) bias = lowest<F32>();\n";
    }
    text + "        v = v + bias;\n"
}

fn check(a: &AttentionSoftmax) -> Result<()> {
    let narrow = |d| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    let dtypes = [a.scores, a.probabilities].into_iter().chain(a.kept.map(|k| k.1));
    let mask = a.mask.as_ref().map(|m| m.dtype).filter(|&d| d != DType::Bool);
    if let Some(d) = dtypes.chain(mask).find(|&d| !narrow(d)) {
        return Err(Error::new(ErrorKind::Unsupported, format!("`attention` has no kernel for {d}")));
    }
    if a.kept.is_some_and(|(mode, _)| mode > 3) {
        return Err(Error::new(ErrorKind::Value, "attention has the stages 0 to 3"));
    }
    Ok(())
}

/// The launch that computes it.
///
/// # Errors
/// `Unsupported` for dtypes that no kernel has, `Shape` for a mask that does not broadcast.
pub fn attention_softmax(a: &AttentionSoftmax) -> Result<Lowered> {
    check(a)?;
    let [batch, heads, queries, keys] = a.sizes;
    let rows = (batch * heads * queries) as u64;
    let groups = Groups::rows(rows, keys as u64).of_at_most(if rows < MANY_ROWS { u64::MAX } else { FEW_THREADS });
    // A word of each thread, and behind those the powers of its keys, if there is room.
    let bytes = [1 + groups.numbers_of_thread(), 1].map(|words| 4 * words);
    let kept = groups.block() * bytes[0] <= MOST_KEPT;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    if let Some(mask) = &a.mask {
        let width = mask.shape.last().copied().unwrap_or(1);
        let seen = if width == 1 || width > keys { keys } else { width };
        let steps = broadcast(&mask.shape, &[batch, heads, queries, seen])?;
        p.input("mask", Word::Input(1));
        p.number("seen", seen as u64);
        p.signed("mask_step", &steps[..3]);
        p.number("along", steps[3] as u64);
    }
    p.output("y", Word::Output(0));
    if a.kept.is_some() {
        p.output("kept", Word::Output(1));
    }
    p.numbers("bits", [a.scale, a.softcap].map(|v| u64::from(v.to_bits())));
    p.number("heads", heads as u64);
    p.number("queries", queries as u64);
    p.number("past", a.causal.unwrap_or(0) as u64);
    groups.words(&mut p);
    if rows * keys as u64 == 0 {
        return Ok(Lowered::default());
    }
    let (x, y) = (tag(a.scores), tag(a.probabilities));
    // Divisions of 64 bits take ten times as long.
    let mut body = format!("    typedef {} I;\n", if rows < 1 << 32 { "u32" } else { "u64" });
    body.push_str(
        "    const float scale = __uint_as_float((u32)p.bits[0]), cap = __uint_as_float((u32)p.bits[1]);\n    \
         const I row = group, queries = p.queries, heads = p.heads;\n    \
         const u64 query = row % queries, head = row / queries % heads, batch = row / queries / heads;\n",
    );
    if a.mask.is_some() {
        body += "    const u64 mask = batch * p.mask_step[0] + head * p.mask_step[1] + query * p.mask_step[2];\n";
    }
    let keep = |stage: u8, value: &str| match a.kept {
        Some((mode, dtype)) if mode == stage => {
            let t = tag(dtype);
            format!("        if (here) ((Raw<{t}>*)p.kept)[group * p.n + i] = put<{t}>({value});\n")
        }
        _ => String::new(),
    };
    let _ = write!(
        body,
        "    auto score = computed<float>([&](u64 i) {{\n        float v = get<{x}>(read_at<{x}>(p.x, group * p.n + i)) * scale;\n{}        \
         if (cap != 0.0f) v = cap * op_tanh(v / cap);\n{}{}{}        return v;\n    }});\n",
        keep(0, "v"),
        keep(1, "v"),
        masked(a.mask.as_ref(), a.causal.is_some()),
        keep(2, "v")
    );
    let _ = write!(
        body,
        "    const u64 seen = {};\n    softmax_of_scores<{}>(team, p.n, seen, depth, (float*)shared, score, [&](u64 i, float v) {{\n{}        \
         if (here) ((Raw<{y}>*)p.y)[group * p.n + i] = put<{y}>(v);\n    }});\n",
        if a.causal.is_some() { "query + p.past < p.n ? query + p.past + 1 : p.n" } else { "p.n" },
        kept,
        keep(3, "v")
    );
    let bytes = bytes[usize::from(!kept)];
    Ok(Lowered { launches: vec![groups.launch(p, "linear.cuh", "", &body, bytes)?], scratch: 0 })
}
