//! Linear layers quantised as a model's config says: with a checkpoint in DeepSeek-V3's layout against what torch computed,
//! and each scheme on a small graph.

#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
mod experts;
mod schemes;

use std::path::{Path, PathBuf};

/// A file of one of the checkpoints' folders.
fn file(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints").join(folder).join(name)
}

/// The cosine of two vectors.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// A tensor's elements.
fn numbers(t: &normfuse::ir::Tensor) -> Vec<f64> {
    use normfuse::ir::{DType, Op, eval};
    let wide = eval::eval_node(&Op::Cast { to: DType::F64, saturate: false }, &[Some(t)]).unwrap();
    wide[0].bytes().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
}
