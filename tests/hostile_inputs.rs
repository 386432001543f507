//! NaN and infinities in the inputs of whole graphs: the CPU has the numbers that the reference evaluator defines, before and after
//! fusion. `tests/gpu` asks the same of a GPU.

#[path = "gpu/data.rs"]
#[allow(dead_code, reason = "models are those of tests/gpu")]
mod data;
#[path = "common/graphs.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod files;
#[path = "common/hostile.rs"]
mod hostile;

use std::sync::Arc;

use normfuse::{
    cpu,
    ir::{DType, body::bits_equal, eval},
};

#[test]
fn rows_without_numbers_have_the_defined_results() {
    let (mut ran, mut nans) = (0, 0);
    for (path, source) in hostile::without_products() {
        let given = hostile::hostile(&data::made_up(&source, 7));
        let Ok(want) = eval::run(&source, &given) else { continue };
        let fused = files::fused(&source, Arc::new(cpu::supports));
        for (form, graph) in [("source", &source), ("fused", &fused)] {
            let found = cpu::Plan::new(graph).and_then(|plan| plan.run(&given)).unwrap();
            for (want, found) in want.iter().zip(&found) {
                if let Some(differs) = bits_equal(want, found) {
                    panic!("{} ({form}): {differs}", path.display());
                }
            }
        }
        let floats = want.iter().filter(|t| t.dtype().is_arithmetic_float());
        let wide = floats.map(|t| eval::cast(t, DType::F32, true).unwrap());
        let is_nan = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_nan();
        nans += usize::from(wide.into_iter().any(|t| t.bytes().chunks_exact(4).any(is_nan)));
        ran += 1;
    }
    assert!(ran > 60 && nans > 30, "{ran} graphs, {nans} with NaN in a result");
}
