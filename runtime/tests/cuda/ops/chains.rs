//! Chains: several ops in one kernel round where each alone does.

use normfuse_ir::{
    DType, Op, Tensor,
    body::bits_equal,
    eval::eval_node,
    op::{BinaryOp, UnaryOp},
};
use normfuse_runtime::cuda::ops::{Chain, Leaf, Source, Step, Strided, lower_chain};

use super::{
    Gpu, Typed,
    cases::{data, noise},
    compile, typed,
};

/// A chain with its operands.
pub struct Given {
    pub chain: Chain,
    pub inputs: Vec<Tensor>,
}

/// An operand as it lies, row by row.
fn gathered(x: &Tensor, leaf: &Leaf) -> Tensor {
    let (own, dense) = (&leaf.lies, Strided::dense(&leaf.lies.shape));
    let at = |i: usize| {
        let indices = dense.shape.iter().zip(&dense.strides).map(|(n, step)| i / step % n);
        own.offset + indices.zip(&own.strides).map(|(index, step)| index * step).sum::<usize>()
    };
    let count: usize = own.shape.iter().product();
    if leaf.dtype.bits() == 4 {
        let nibble = |i: usize| x.bytes()[at(i) / 2] >> (at(i) % 2 * 4) & 15;
        let pair = |i: usize| nibble(i) | if i + 1 < count { nibble(i + 1) << 4 } else { 0 };
        return Tensor::from_bytes(leaf.dtype, own.shape.clone(), (0..count).step_by(2).map(pair).collect()).unwrap();
    }
    let size = leaf.dtype.bits() / 8;
    let bytes = (0..count).flat_map(|i| x.bytes()[at(i) * size..][..size].to_vec()).collect();
    Tensor::from_bytes(leaf.dtype, own.shape.clone(), bytes).unwrap()
}

/// Pieces, broadcast to what they are all of but for the axis along which they are joined.
fn alike(pieces: &[Option<&Tensor>], axis: usize) -> Vec<Tensor> {
    let longest = |at: usize| pieces.iter().flatten().map(|p| p.shape()[at]).find(|n| *n != 1).unwrap_or(1);
    let whole = |own: &Tensor| {
        let sizes = own.shape().iter().enumerate();
        let shape: Vec<usize> = sizes.map(|(at, n)| if at == axis { *n } else { longest(at) }).collect();
        normfuse_ir::eval::movement::broadcast_to(own, &shape).unwrap()
    };
    pieces.iter().flatten().map(|p| whole(p)).collect()
}

/// Each step by the evaluator.
pub fn expected(given: &Given) -> Vec<Tensor> {
    let inputs: Vec<Tensor> = given.inputs.iter().zip(&given.chain.inputs).map(|(x, leaf)| gathered(x, leaf)).collect();
    let mut values: Vec<Tensor> = Vec::new();
    for step in &given.chain.steps {
        let operands: Vec<Option<&Tensor>> = step
            .operands
            .iter()
            .map(|o| {
                o.map(|o| match o {
                    Source::Input(i) => &inputs[i],
                    Source::Step(k) => &values[k],
                })
            })
            .collect();
        let alike = if step.ends.is_empty() { Vec::new() } else { alike(&operands, given.chain.axis) };
        let operands = if step.ends.is_empty() { operands } else { alike.iter().map(Some).collect() };
        let value = eval_node(&step.op, &operands).unwrap().remove(0);
        values.push(value);
    }
    // A step that is smaller than the chain is broadcast.
    let whole = |k: &usize| normfuse_ir::eval::movement::broadcast_to(&values[*k], &given.chain.shape).unwrap();
    given.chain.outputs.iter().map(whole).collect()
}

pub fn step(op: Op, operands: &[Source], dtype: DType) -> Step {
    Step { op, operands: operands.iter().copied().map(Some).collect(), dtype, ends: Vec::new() }
}

/// Operands as they are.
fn leaves(inputs: &[Tensor]) -> Vec<Leaf> {
    inputs.iter().map(|x| Leaf::from(&typed(x))).collect()
}

/// `silu(x) * up + residual`, cast, compared, with two results.
fn given(dtype: DType, [x, up, residual]: [&[usize]; 3], shape: &[usize]) -> Given {
    use Source::{Input, Step};
    let inputs = vec![data(dtype, x, 1), data(dtype, up, 2), data(dtype, residual, 3)];
    let steps = vec![
        step(Op::Unary(UnaryOp::Silu), &[Input(0)], dtype),
        step(Op::Binary(BinaryOp::Mul), &[Step(0), Input(1)], dtype),
        step(Op::Binary(BinaryOp::Add), &[Step(1), Input(2)], dtype),
        step(Op::Cast { to: DType::F8E4M3FN, saturate: true }, &[Step(2)], DType::F8E4M3FN),
        step(Op::Cast { to: DType::F4E2M1, saturate: true }, &[Step(2)], DType::F4E2M1),
        step(Op::Binary(BinaryOp::Less), &[Step(1), Step(2)], DType::Bool),
        step(Op::Where, &[Step(5), Step(0), Step(2)], dtype),
    ];
    let outputs = vec![3, 6, 4];
    let chain = Chain { shape: shape.to_vec(), axis: 0, inputs: leaves(&inputs), steps, outputs };
    Given { chain, inputs }
}

fn all() -> Vec<Given> {
    let mut all = Vec::new();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let same: &[usize] = &[30, 64];
        all.push(given(dtype, [same; 3], same));
        all.push(given(dtype, [&[15, 7]; 3], &[15, 7]));
        all.push(given(dtype, [&[15, 1, 64], &[3, 64], &[64]], &[15, 3, 64]));
        all.push(given(dtype, [&[15, 1, 7], &[3, 1], &[1]], &[15, 3, 7]));
    }
    // Light ones have more elements a thread.
    let inputs = vec![data(DType::BF16, &[30, 72], 4), noise(DType::Bool, &[30, 1], 5)];
    let chain = Chain {
        shape: vec![30, 72],
        axis: 0,
        inputs: leaves(&inputs),
        steps: vec![
            step(Op::Unary(UnaryOp::Neg), &[Source::Input(0)], DType::BF16),
            step(Op::Where, &[Source::Input(1), Source::Step(0), Source::Input(0)], DType::BF16),
        ],
        outputs: vec![1],
    };
    all.push(Given { chain, inputs });
    all
}

#[test]
fn chains_compile_without_spills() {
    let lowered: Vec<_> = all().iter().map(|g| lower_chain(&g.chain).unwrap()).collect();
    for arch in ["sm_90", "sm_100a"] {
        compile(lowered.iter().flat_map(|l| &l.launches), arch);
    }
}

#[test]
fn a_chain_has_the_bits_of_its_ops() {
    compare(&all());
}

/// Runs every chain on the GPU, if there is one.
pub fn compare(all: &[Given]) {
    let lowered: Vec<_> = all.iter().map(|g| lower_chain(&g.chain).unwrap()).collect();
    let Some(gpu) = Gpu::with(lowered.iter().flat_map(|l| &l.launches)) else { return };
    for (given, lowered) in all.iter().zip(&lowered) {
        let expected = expected(given);
        let outputs: Vec<Typed> = expected.iter().map(typed).collect();
        let inputs: Vec<Option<Tensor>> = given.inputs.iter().cloned().map(Some).collect();
        let found = gpu.run(lowered, &inputs, &outputs).unwrap();
        for (port, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(bits_equal(found, expected), None, "result {port} of {:?}", given.chain);
        }
    }
}

#[test]
fn sizes_are_words_and_not_text() {
    let of = |rows: usize| lower_chain(&given(DType::BF16, [&[rows, 64]; 3], &[rows, 64]).chain).unwrap();
    assert_eq!(of(15).launches[0].text, of(30).launches[0].text);
    assert_ne!(of(15).launches[0].words, of(30).launches[0].words);
    let none = Chain { shape: vec![0, 4], ..given(DType::F32, [&[0, 4]; 3], &[0, 4]).chain };
    assert!(lower_chain(&none).unwrap().launches.is_empty());
}
