//! Inputs with rows that no model makes on a good day: NaN and infinities, whose results are defined like all others.

use std::path::PathBuf;

use normfuse::ir::{DType, Graph, Op, Tensor, eval};

use crate::files::{graphs, open};

/// What rows have in place of some of their numbers, by turns: at the first place, in the middle, and last; `None` leaves it.
const ROWS: [[Option<f32>; 3]; 7] = [
    [None; 3],
    [None, Some(f32::NAN), None],
    [Some(f32::INFINITY), None, None],
    [None, None, Some(f32::NEG_INFINITY)],
    [Some(f32::NEG_INFINITY), None, Some(f32::INFINITY)],
    [Some(f32::INFINITY), Some(f32::NAN), Some(f32::NEG_INFINITY)],
    [Some(f32::MAX), Some(f32::MAX), Some(f32::MIN)],
];

/// Small graphs that have norms, quantisers or gates and no products, whose sums would be in an order of their own on each device.
pub fn without_products() -> Vec<(PathBuf, Graph)> {
    let folders = ["tests/in/fuse", "tests/in/alone", "tests/in/gated", "tests/in/padded"];
    let all = folders.into_iter().flat_map(graphs).map(|path| (path.clone(), open(&path)));
    let other =
        |op: &Op| matches!(op, Op::MatMul | Op::Gemm { .. } | Op::ScaledMatMul(_) | Op::Attention(_) | Op::Foreign(_));
    all.filter(|(_, graph)| !graph.nodes().any(|(_, n)| other(&n.op))).collect()
}

/// The same inputs, with such numbers in the rows of all that have several.
pub fn hostile(given: &[Tensor]) -> Vec<Tensor> {
    let one = |tensor: &Tensor| {
        let width = tensor.shape().last().copied().unwrap_or(0);
        if !tensor.dtype().is_arithmetic_float() || tensor.shape().len() < 2 || width == 0 {
            return tensor.clone();
        }
        let wide = eval::cast(tensor, DType::F32, true).unwrap();
        let bytes = wide.bytes().chunks_exact(4);
        let mut numbers: Vec<f32> = bytes.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        for (row, places) in numbers.chunks_exact_mut(width).zip(ROWS.iter().cycle()) {
            for (place, number) in [0, width / 2, width - 1].into_iter().zip(places) {
                row[place] = number.unwrap_or(row[place]);
            }
        }
        eval::cast(&Tensor::from_f32(tensor.shape(), &numbers), tensor.dtype(), true).unwrap()
    };
    given.iter().map(one).collect()
}
