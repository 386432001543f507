//! No op panics, hangs or allocates without bound, whatever its operands and attributes.

use super::attention_op;
use crate::{
    DType, Op, Tensor,
    body::hostile::{Rng, Row, rows},
    eval::eval_node,
    fused::Root,
    op::{BinaryOp, CastBack, Dialect, ReduceOp, ScatterReduction, UnaryOp},
    scaled::{ScalePer, ScaledMatMul},
    scheme::F32,
};

/// Shapes that ops trip over: scalars, empty ones, sizes beside a zero that no memory holds.
const SHAPES: [&[usize]; 14] = [
    &[],
    &[1],
    &[2],
    &[3],
    &[0],
    &[4],
    &[2, 2],
    &[2, 3],
    &[1, 4],
    &[0, 3],
    &[0, 1 << 40],
    &[2, 1, 2],
    &[1, 2, 2, 2],
    &[0, 1 << 33, 1 << 33],
];

fn operand(rng: &mut Rng) -> Tensor {
    let shape = SHAPES[rng.below(SHAPES.len())];
    if rng.below(2) == 0 {
        // Indices, sizes, axes: small numbers of both signs and the extremes.
        let pick = [-1, 0, 1, 2, 3, -2, 4, i64::MAX, i64::MIN, 1 << 40];
        let n: usize = shape.iter().fold(1, |n, &d| n.saturating_mul(d));
        let range = if rng.below(4) == 0 { 10 } else { 6 };
        let values: Vec<i64> = (0..n).map(|_| pick[rng.below(range)]).collect();
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        return Tensor::from_bytes(DType::I64, shape.to_vec(), bytes).unwrap();
    }
    // Wider integers would take turns as sizes of some 65535, which are slow and no error.
    let all: Vec<DType> = DType::ALL.into_iter().filter(|d| !d.is_int() || d.bits() == 8).collect();
    let dtype = all[rng.below(all.len())];
    let kind = Row::ALL[rng.below(Row::ALL.len())];
    rows(dtype, shape, &[kind], rng).unwrap_or_else(|| Tensor::from_f32(&[], &[0.0]))
}

fn ops(rng: &mut Rng) -> Vec<Op> {
    let axis = [0, 1, -1, 2, -2, 7, i64::MIN, i64::MAX][rng.below(8)];
    let flag = rng.below(2) == 0;
    let dtype = DType::ALL[rng.below(DType::ALL.len())];
    let axes = [None, Some(vec![]), Some(vec![axis]), Some(vec![0, -1])][rng.below(4)].clone();
    let unary = [UnaryOp::Abs, UnaryOp::Not, UnaryOp::Exp, UnaryOp::BitwiseNot, UnaryOp::Sign, UnaryOp::IsNan];
    let binary = [
        BinaryOp::Add,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Pow,
        BinaryOp::Mod,
        BinaryOp::Fmod,
        BinaryOp::ShiftLeft,
        BinaryOp::ShiftRight,
        BinaryOp::Max,
        BinaryOp::And,
        BinaryOp::Equal,
    ];
    let reduce = [
        ReduceOp::Mean,
        ReduceOp::Sum,
        ReduceOp::SumSquare,
        ReduceOp::L2,
        ReduceOp::Prod,
        ReduceOp::Max,
        ReduceOp::Min,
    ];
    let scatter = [ScatterReduction::None, ScatterReduction::Add, ScatterReduction::Max][rng.below(3)];
    let mut attention = attention_op();
    attention.is_causal = flag;
    attention.q_num_heads = [None, Some(0), Some(2), Some(u64::MAX)][rng.below(4)];
    attention.kv_num_heads = [None, Some(1)][rng.below(2)];
    attention.outputs = 1 + rng.below(4);
    vec![
        Op::Unary(unary[rng.below(unary.len())]),
        Op::Binary(binary[rng.below(binary.len())]),
        Op::Cast { to: dtype, saturate: flag },
        Op::BitCast { to: dtype },
        Op::Clip,
        Op::Where,
        Op::Reduce { op: reduce[rng.below(reduce.len())], axes: axes.clone(), keepdims: flag },
        Op::ArgReduce { max: flag, axis, keepdims: flag, select_last: flag },
        Op::TopK { axis, largest: flag, sorted: true },
        Op::CumSum { exclusive: flag, reverse: !flag },
        Op::Softmax { axis, log: flag },
        Op::LayerNorm { axis, eps: F32::new(1e-5), stash: dtype },
        Op::RmsNorm {
            axis,
            eps: F32::new(1e-5),
            stash: dtype,
            root: if flag { Root::Rsqrt } else { Root::ReciprocalSqrt },
            cast: if flag { CastBack::AfterScale } else { CastBack::BeforeScale },
        },
        Op::SkipRmsNorm { eps: F32::new(1e-5) },
        Op::MatMul,
        Op::Gemm { alpha: F32::new(1.0), beta: F32::new(1.0), trans_a: flag, trans_b: !flag },
        Op::MatMulInteger,
        Op::Attention(attention),
        Op::Reshape { allow_zero: flag },
        Op::Squeeze { axes: axes.clone() },
        Op::Unsqueeze { axes: axes.clone().unwrap_or_default() },
        Op::Flatten { axis },
        Op::Transpose { perm: axes },
        Op::Expand,
        Op::Tile,
        Op::Concat { axis },
        Op::Split { axis, outputs: rng.below(4) },
        Op::Slice,
        Op::Pad,
        Op::Shape { start: axis, end: flag.then_some(axis) },
        Op::Size,
        Op::Range,
        Op::ConstantOfShape { dtype, value: vec![1; rng.below(9)] },
        Op::Gather { axis },
        Op::GatherElements { axis },
        Op::GatherNd { batch_dims: axis },
        Op::ScatterElements { axis, reduction: scatter },
        Op::ScatterNd { reduction: scatter },
        Op::OneHot { axis },
        Op::NonZero,
        Op::Trilu { upper: flag },
        Op::QuantizeLinear {
            axis,
            block_size: rng.below(3) as u64,
            to: dtype,
            saturate: flag,
            precision: flag.then_some(DType::F16),
            dialect: Dialect::Onnx,
        },
        Op::DequantizeLinear {
            axis,
            block_size: rng.below(3) as u64,
            to: flag.then_some(dtype),
            dialect: Dialect::Onnx,
        },
        Op::DynamicQuantizeLinear,
    ]
}

#[test]
fn no_operand_makes_an_op_panic() {
    let mut rng = Rng::new(1);
    let mut worked = vec![0; ops(&mut rng).len()];
    for _ in 0..4000 {
        for (i, op) in ops(&mut rng).iter().enumerate() {
            let (min, max) = op.arity();
            let n = min + rng.below(max.unwrap_or(min + 2) - min + 1);
            let pool: Vec<Tensor> = (0..2).map(|_| operand(&mut rng)).collect();
            // Often the same tensor twice, so that operands agree often enough to get past the checks.
            let inputs: Vec<Option<&Tensor>> =
                (0..n).map(|k| if k >= min && rng.below(3) == 0 { None } else { pool.get(rng.below(2)) }).collect();
            if let Ok(outputs) = eval_node(op, &inputs) {
                assert!(outputs.iter().all(|t| t.bytes().len() < 1 << 28), "{op:?} made much of {inputs:?}");
                worked[i] += 1;
            }
        }
    }
    let never: Vec<usize> = (0..worked.len()).filter(|&i| worked[i] == 0).collect();
    assert!(never.is_empty(), "ops that were never evaluated: {never:?}");
}

/// Apart, since they take operands of their own types: 8-bit floats that fit one another by chance.
#[test]
fn no_operand_makes_a_scaled_product_panic() {
    let mut rng = Rng::new(3);
    let mut worked = 0;
    for _ in 0..20_000 {
        let pers =
            [ScalePer::Tensor, ScalePer::Row, ScalePer::Block(1, 2), ScalePer::Block(2, 2), ScalePer::Block(0, 1)];
        let (a, b) = (pers[rng.below(5)], pers[rng.below(5)]);
        let op = Op::ScaledMatMul(ScaledMatMul { a, b, to: [DType::F32, DType::BF16, DType::I8][rng.below(3)] });
        let codes = [DType::F8E4M3FN, DType::F8E5M2, DType::F32][rng.below(3)];
        // Mostly shapes that fit, so that enough gets past the checks.
        let fits = |per: ScalePer| match per {
            ScalePer::Tensor => &[1usize][..],
            ScalePer::Row | ScalePer::Block(1, _) => &[2, 1],
            ScalePer::Block(..) => &[1, 1],
        };
        let shapes = [&[2, 2][..], &[2, 2], fits(a), fits(b), &[2]];
        let mut next = shapes.into_iter();
        let mut made = |dtype: DType| {
            let fitting = next.next().filter(|_| rng.below(8) > 0);
            let shape = fitting.unwrap_or_else(|| SHAPES[rng.below(SHAPES.len())]);
            let of_memory = shape.iter().fold(1usize, |n, d| n.saturating_mul(*d)) < 1 << 10;
            of_memory
                .then(|| crate::eval::cast(&rows(DType::F32, shape, &Row::ALL, &mut rng)?, dtype, true).ok())
                .flatten()
        };
        let operands = [made(codes), made(codes), made(DType::F32), made(DType::F32), made(DType::F32)];
        let inputs: Vec<Option<&Tensor>> = operands.iter().take(4 + usize::from(a == b)).map(Option::as_ref).collect();
        worked += usize::from(eval_node(&op, &inputs).is_ok());
    }
    assert!(worked > 10, "{worked}");
}
