//! What lies between the two products of attention: scores are scaled, capped, masked and normalised row by row.

use std::fmt::Write as _;

use normfuse_ir::{DType, Error, ErrorKind, Result};

use super::{
    Lowered, Typed, Word,
    groups::{Groups, VECTOR},
    place::broadcast,
    text::{Params, tag},
};

/// Rows from which on a GPU is full without many threads for each of them; what a thread does beside its keys is then worth sparing.
const MANY_ROWS: u64 = 1 << 12;
/// Threads of a row at least, where there are many rows: those of a warp need not wait for one another.
const FEW_THREADS: u64 = 32;
/// Vectors of a thread that its registers hold, as a power of two.
const MOST_HELD: u64 = 2;

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

/// A mask as the kernel reads it.
struct Mask {
    dtype: DType,
    /// Elements from a batch, a head, a query and a key to the next one.
    steps: Vec<i64>,
    /// Keys that it has.
    seen: u64,
}

impl Mask {
    fn of(a: &AttentionSoftmax) -> Result<Option<Self>> {
        let [batch, heads, queries, keys] = a.sizes;
        let Some(mask) = &a.mask else { return Ok(None) };
        let width = mask.shape.last().copied().unwrap_or(1);
        let seen = if width == 1 || width > keys { keys } else { width };
        let steps = broadcast(&mask.shape, &[batch, heads, queries, seen])?;
        Ok(Some(Self { dtype: mask.dtype, steps, seen: seen as u64 }))
    }

    /// The statement that adds it.
    fn text(&self) -> String {
        let along = self.steps[3] != 0;
        let rows = self.steps[..3].iter().map(|step| step.unsigned_abs());
        let whole = along && rows.chain([self.seen]).all(|n| n.is_multiple_of(VECTOR));
        let t = tag(self.dtype);
        format!("        add_mask<{t}, {along}, {whole}>(p.mask, mask, first, min(seen, (u32)p.seen), v);\n")
    }
}

/// A statement for each element of a vector.
fn each(statement: &str) -> String {
    format!("#pragma unroll\n        for (int i = 0; i < VECTOR; ++i) {statement}\n")
}

/// The text of `scores` and `give`, by vectors; `whole` if all are.
fn rows(a: &AttentionSoftmax, mask: Option<&Mask>, whole: bool) -> String {
    let (x, y) = (tag(a.scores), tag(a.probabilities));
    let write = |t: &str, to: &str| {
        format!("        if (here) write_floats<{t}, {whole}>(p.{to}, base + first, n - first, v);\n")
    };
    let keep = |stage: u8| match a.kept {
        Some((mode, dtype)) if mode == stage => write(tag(dtype), "kept"),
        _ => String::new(),
    };
    let mut text = format!(
        "    auto scores = [&](u32 first, float (&v)[VECTOR]) {{\n        \
         floats_at<{x}, {whole}>(p.x, base + first, n - first, v);\n"
    );
    text += &each("v[i] = v[i] * scale;");
    text += &keep(0);
    if a.softcap != 0.0 {
        text += &each("v[i] = cap * op_tanh(v[i] / cap);");
    }
    text += &keep(1);
    if let Some(mask) = mask {
        text += &mask.text();
    } else {
        // What is added to a key that is seen is 0, which has a sign.
        if a.kept.is_some_and(|(mode, _)| mode == 2) {
            text += &each("v[i] = v[i] + 0.0f;");
        }
        if a.causal.is_some() {
            text += "        hide_from(first < seen ? seen - first : 0, v);\n";
        }
    }
    text += &keep(2);
    if !whole {
        text += &each("v[i] = first + i < n ? v[i] : lowest<F32>();");
    }
    let (kept, given) = (keep(3), write(y, "y"));
    let _ =
        write!(text, "    }};\n    auto give = [&](u32 first, const float (&v)[VECTOR]) {{\n{kept}{given}    }};\n");
    text
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
    let count = (batch * heads * queries) as u64;
    let groups = Groups::rows(count, keys as u64);
    let vectors = (keys as u64).div_ceil(VECTOR).next_power_of_two();
    let few = (vectors >> MOST_HELD).max(FEW_THREADS);
    let groups = groups.of_at_most(if count < MANY_ROWS { u64::MAX } else { few });
    let mask = Mask::of(a)?;
    let mut p = Params::default();
    p.input("x", Word::Input(0));
    if let Some(mask) = &mask {
        p.input("mask", Word::Input(1));
        p.number("seen", mask.seen);
        p.signed("mask_step", &mask.steps[..3]);
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
    if count * keys as u64 == 0 {
        return Ok(Lowered::default());
    }
    // Divisions of 64 bits take ten times as long.
    let mut body = format!("    typedef {} I;\n", if count < 1 << 32 { "u32" } else { "u64" });
    body.push_str(
        "    const float scale = __uint_as_float((u32)p.bits[0]);\n    \
         [[maybe_unused]] const float cap = __uint_as_float((u32)p.bits[1]);\n    \
         const u32 n = (u32)p.n;\n    const I row = group, queries = p.queries, heads = p.heads;\n    \
         const u64 query = row % queries, head = row / queries % heads, batch = row / queries / heads;\n",
    );
    if mask.is_some() {
        body += "    const u64 mask = batch * p.mask_step[0] + head * p.mask_step[1] + query * p.mask_step[2];\n";
    }
    let seen = if a.causal.is_some() { "(u32)min(query + p.past + 1, p.n)" } else { "n" };
    let _ = writeln!(body, "    const u32 seen = {seen};");
    body += &rows(a, mask.as_ref(), (keys as u64).is_multiple_of(VECTOR));
    let (threads, depth) = (groups.threads(), groups.depth());
    let _ = if depth <= MOST_HELD {
        writeln!(body, "    softmax_of_scores<{threads}, {depth}>(team, n, seen, (float*)shared, scores, give);")
    } else {
        writeln!(body, "    softmax_of_many(team, n, seen, depth, (float*)shared, scores, give);")
    };
    Ok(Lowered { launches: vec![groups.launch(p, "linear.cuh", "", &body, 8)?], scratch: 0 })
}
