//! How long the pass takes on the exports in `tests/models`, reading and writing left out.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, criterion_group, criterion_main};
use normfuse::{cpu, passes};

fn pass(c: &mut Criterion) {
    let options = passes::Options { supports: std::sync::Arc::new(cpu::supports), ..passes::Options::default() };
    for name in ["deepseek_v3_fp8", "llama_ts", "llama_native"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/models/{name}.onnx"));
        let source = normfuse::open(&path).expect("a model of tests/models");
        c.bench_function(&format!("pass/{name}"), |b| {
            b.iter_batched(
                || source.clone(),
                |mut graph| {
                    passes::run(&mut graph, &options).expect("it is legal");
                    black_box(graph)
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
}

criterion_group!(benches, pass);
criterion_main!(benches);
