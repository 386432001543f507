//! A trained model answers the same before and after fusion, and what is wrong on purpose is told from what is right. The
//! whole table is `tests/accuracy/accuracy.py` (docs/accuracy.md); here a part of the questions.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Done, normfuse, s};
use normfuse::{
    formats::tensors,
    ir::{DType, Op, Tensor, eval},
};
use tempfile::TempDir;

const WEIGHTS: &str = "weights.safetensors";
/// Questions asked, of 2000.
const ASKED: usize = 16;
/// Eight tokens a question, three digits an answer.
const TOKENS: usize = 8;
const DIGITS: usize = 3;

/// A folder with a program, its weights and some questions.
struct Exam {
    folder: TempDir,
    program: String,
    answers: Vec<i64>,
}

fn integers(t: &Tensor) -> Vec<i64> {
    t.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
}

impl Exam {
    fn new(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/accuracy");
        let program = format!("{program}.pt2");
        for file in [WEIGHTS, &program] {
            fs::copy(stored.join(file), folder.path().join(file)).unwrap();
        }
        let questions = tensors::read(&stored.join("questions.npz")).unwrap();
        let find = |name: &str| integers(&questions.iter().find(|(n, _)| n == name).expect(name).1);
        let tokens = Tensor::from_i64(&[ASKED, TOKENS], &find("in.tokens")[..ASKED * TOKENS]);
        tensors::write(&folder.path().join("questions.npz"), &[("tokens".into(), tokens)]).unwrap();
        Self { folder, program, answers: find("out.answers")[..ASKED * DIGITS].to_vec() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Compiles the program to `fused.nf`, which must fuse this much.
    fn compile(&self, require: &[&str]) -> Done {
        let (program, weights, out) = (self.path(&self.program), self.path(WEIGHTS), self.path("fused.nf"));
        let mut args = vec!["compile", s(&program), "--weights", s(&weights), "-o", s(&out)];
        args.extend(require.iter().flat_map(|r| ["--require", *r]));
        normfuse(args).code(0)
    }

    /// Verifies a graph on the questions, with the program as what is right.
    fn verify(&self, graph: &str) -> Done {
        let (program, weights, questions) = (self.path(&self.program), self.path(WEIGHTS), self.path("questions.npz"));
        normfuse(["verify", s(&program), s(&self.path(graph)), "--weights", s(&weights), "--inputs", s(&questions)])
    }

    /// The logits of a graph, bit for bit, and the digits that they say.
    fn answer(&self, graph: &str, more: &[&str]) -> (Vec<u8>, Vec<i64>) {
        let (graph, questions, out) = (self.path(graph), self.path("questions.npz"), self.path("out.safetensors"));
        let usual = ["run", s(&graph), "--inputs", s(&questions), "--outputs", s(&out)];
        normfuse([&usual, more].concat()).code(0);
        let logits = tensors::read(&out).unwrap().remove(0).1;
        let wide = eval::eval_node(&Op::Cast { to: DType::F32, saturate: false }, &[Some(&logits)]).unwrap().remove(0);
        let wide: Vec<f32> = wide.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let best = |of: &[f32]| (0..of.len()).reduce(|best, i| if of[i] > of[best] { i } else { best }).unwrap() as i64;
        (logits.bytes().to_vec(), wide.chunks_exact(wide.len() / (ASKED * DIGITS)).map(best).collect())
    }

    /// The share of questions with every digit right.
    fn share(&self, digits: &[i64]) -> f64 {
        let pairs = digits.chunks(DIGITS).zip(self.answers.chunks(DIGITS));
        pairs.filter(|(said, right)| said == right).count() as f64 / ASKED as f64
    }
}

/// Compiles a program, and compares answers and bits of source and fused graph; returns the bits as well.
fn same_answers(program: &str, require: &[&str]) -> (Exam, Vec<u8>) {
    let exam = Exam::new(program);
    exam.compile(require);
    let (bits, digits) = exam.answer(&exam.program, &["--weights", s(&exam.path(WEIGHTS))]);
    let (fused_bits, fused_digits) = exam.answer("fused.nf", &[]);
    assert_eq!(digits, fused_digits, "{program}: other answers");
    assert!(bits == fused_bits, "{program}: other bits");
    assert!(exam.share(&digits) >= 0.9, "{program}: {} right", exam.share(&digits));
    (exam, bits)
}

/// Each norm but the last, which the head reads, is fused with its quantiser, and so is each gate; no quantiser is left.
const ALL: [&str; 3] = ["norm_quant=8", "quant=12", "gated_act=2"];

#[test]
fn without_quantisers() {
    same_answers("plain", &["norm=9"]);
}

#[test]
fn fp8_with_a_scale_a_row() {
    same_answers("fp8_token", &ALL);
}

#[test]
fn fp8_with_a_scale_for_128_values() {
    let (exam, right) = same_answers("fp8_group", &ALL);
    // As ops do that make a weight of their own, which no checkpoint fills.
    let mut faulty = fs::read_to_string(exam.path("fused.nf")).unwrap();
    for layer in 0..2 {
        let read = format!("%layers.{layer}.self_attn.kv_a_layernorm.weight) {{prologue");
        assert_eq!(faulty.matches(&read).count(), 1);
        faulty = faulty.replace(&read, "%weight1) {prologue");
    }
    let ones = format!("const %weight1: bf16[128] = [{}]\nweight %", vec!["1.0"; 128].join(", "));
    fs::write(exam.path("faulty.nf"), faulty.replacen("weight %", &ones, 1)).unwrap();
    exam.verify("faulty.nf").code(1).says("first site that differs: `fused_norm/mean_1`");
    assert!(exam.answer("faulty.nf", &[]).0 != right, "the numbers do not show the fault");
}

#[test]
fn mxfp4() {
    same_answers("mxfp4", &ALL);
}
