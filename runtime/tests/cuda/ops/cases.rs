//! Nodes with data that find differences, by family.

use normfuse_ir::{
    DType, Op, Tensor,
    body::hostile::{Rng, Row, rows},
    eval::cast,
    fused::Root,
    op::{BinaryOp, CastBack, ReduceOp, ScatterReduction, UnaryOp},
    scheme::F32,
};

use super::Case;

pub const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
pub const INTS: [DType; 8] =
    [DType::I8, DType::I16, DType::I32, DType::I64, DType::U8, DType::U16, DType::U32, DType::U64];
const NARROW: [DType; 6] =
    [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F8E8M0, DType::F4E2M1];

/// Rows of every kind in turn.
pub fn data(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    rows(dtype, shape, &Row::ALL, &mut rng).unwrap()
}

/// Rows without what overflows.
fn tame(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    rows(dtype, shape, &[Row::Bell, Row::Wide, Row::SignedZeros, Row::Outlier, Row::Ties], &mut rng).unwrap()
}

pub fn i64s(values: &[i64]) -> Tensor {
    Tensor::from_i64(&[values.len()], values)
}

/// Bytes at random, which are every code of narrow floats and integers of every size.
pub fn noise(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed);
    let n: usize = shape.iter().product();
    let mut bytes: Vec<u8> = (0..dtype.size_of(n).unwrap()).map(|_| rng.bits() as u8).collect();
    if dtype == DType::Bool {
        for b in &mut bytes {
            *b &= 1;
        }
    }
    if dtype.bits() == 4 && n % 2 == 1 {
        *bytes.last_mut().unwrap() &= 15;
    }
    Tensor::from_bytes(dtype, shape.to_vec(), bytes).unwrap()
}

/// Numbers of a dtype that have none of its zeros where they are divided by.
fn divisors(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    let x = noise(dtype, shape, seed);
    let bytes: Vec<u8> =
        x.bytes().iter().enumerate().map(|(i, b)| if i % (dtype.bits() / 8) == 0 { b | 1 } else { *b }).collect();
    Tensor::from_bytes(dtype, shape.to_vec(), bytes).unwrap()
}

/// What numbers of a dtype are hostile: rows of floats, bits of all else.
fn either(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    if dtype.is_arithmetic_float() { data(dtype, shape, seed) } else { noise(dtype, shape, seed) }
}

/// Every op of one operand on every dtype that it is defined for.
pub fn unary() -> Vec<Case> {
    let mut all = Vec::new();
    for op in UnaryOp::ALL {
        for (i, dtype) in DType::ALL.into_iter().enumerate() {
            all.push(Case::new(Op::Unary(op), [either(dtype, &[15, 67], i as u64)]));
        }
        for dtype in [DType::F16, DType::BF16] {
            let bits: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let every = Tensor::from_bytes(dtype, vec![1 << 16], bits).unwrap();
            all.push(Case::new(Op::Unary(op), [every]));
        }
        all.push(Case::new(Op::Unary(op), [noise(DType::F32, &[1 << 15], 3)]));
        all.push(Case::new(Op::Unary(op), [noise(DType::F64, &[1 << 12], 4)]));
    }
    all.push(Case::new(Op::Unary(UnaryOp::Neg), [data(DType::F32, &[0, 4], 1)]));
    all
}

/// Every op of two operands on every dtype, of one shape, and broadcast.
pub fn binary() -> Vec<Case> {
    let mut all = Vec::new();
    for op in BinaryOp::ALL {
        for (i, dtype) in DType::ALL.into_iter().enumerate() {
            let seed = i as u64;
            let second = |shape: &[usize]| {
                let divided = matches!(op, BinaryOp::Div | BinaryOp::Mod | BinaryOp::Fmod) && dtype.is_int();
                if divided { divisors(dtype, shape, seed + 40) } else { either(dtype, shape, seed + 40) }
            };
            all.push(Case::new(Op::Binary(op), [either(dtype, &[15, 65], seed), second(&[15, 65])]));
            if [BinaryOp::Sub, BinaryOp::Less, BinaryOp::Xor].contains(&op) {
                for (a, b) in [
                    (&[3, 1, 64][..], &[5, 64][..]),
                    (&[3, 5, 7], &[5, 1]),
                    (&[2, 3, 1, 16], &[2, 1, 5, 1]),
                    (&[33], &[1]),
                    (&[], &[]),
                    (&[0, 3], &[3]),
                ] {
                    all.push(Case::new(Op::Binary(op), [either(dtype, a, seed), second(b)]));
                }
            }
        }
    }
    let numbers = || FLOATS.into_iter().chain(INTS);
    for (i, base) in numbers().enumerate() {
        for (j, exponent) in numbers().enumerate() {
            let small = |dtype: DType, seed: u64| cast(&tame(DType::F32, &[5, 61], seed), dtype, true).unwrap();
            all.push(Case::new(Op::Binary(BinaryOp::Pow), [small(base, i as u64), small(exponent, 50 + j as u64)]));
        }
    }
    all
}

/// Casts between all pairs, both ways to saturate; bits as another dtype; clips and choices.
pub fn casts() -> Vec<Case> {
    let mut all = Vec::new();
    for (i, from) in DType::ALL.into_iter().enumerate() {
        for to in DType::ALL {
            let saturates = if to.is_narrow_float() { &[true, false][..] } else { &[true] };
            for &saturate in saturates {
                let op = || Op::Cast { to, saturate };
                all.push(Case::new(op(), [noise(from, &[1 << 11], i as u64)]));
                if from.is_arithmetic_float() {
                    all.push(Case::new(op(), [data(from, &[30, 67], i as u64)]));
                }
            }
            all.push(Case::new(Op::BitCast { to }, [noise(from, &[33], i as u64)]));
        }
        let c = || noise(DType::Bool, &[3, 1], 1);
        all.push(Case::new(Op::Where, [c(), noise(from, &[3, 16], 2), noise(from, &[16], 3)]));
        all.push(Case::new(Op::Where, [c(), noise(from, &[3, 5], 2), noise(from, &[], 3)]));
        let bounds = [-1.0f32, 1.5].map(|v| cast(&Tensor::from_f32(&[1], &[v]), from, true).unwrap());
        let [low, high] = bounds;
        let x = either(from, &[15, 33], 9);
        all.push(Case {
            op: Op::Clip,
            inputs: vec![Some(x.clone()), Some(low.clone()), Some(high.clone())],
            known: vec![],
        });
        all.push(Case { op: Op::Clip, inputs: vec![Some(x), None, Some(high)], known: vec![] });
    }
    all
}

/// Reductions, extremes and running sums along every kind of axes.
pub fn reductions() -> Vec<Case> {
    use ReduceOp as R;
    let shapes: [(&[usize], &[&[i64]]); 7] = [
        (&[15, 133], &[&[1], &[0], &[0, 1]]),
        (&[2, 3, 4, 40], &[&[2], &[1, 3], &[0, 2], &[1, 2]]),
        (&[3, 8], &[&[1]]),
        (&[15, 4104], &[&[-1]]),
        (&[2, 300, 64], &[&[1]]),
        (&[1, 70_001], &[&[1]]),
        (&[3, 0], &[&[1]]),
    ];
    let mut all = Vec::new();
    for (n, dtype) in DType::ALL.into_iter().enumerate() {
        for (shape, axes) in &shapes {
            for axes in *axes {
                for (i, op) in [R::Mean, R::Sum, R::SumSquare, R::L2, R::Prod, R::Max, R::Min].into_iter().enumerate() {
                    let often = [DType::F32, DType::BF16, DType::F64, DType::I64].contains(&dtype);
                    if shape[1] > 4000 && !(dtype == DType::F32 || dtype == DType::BF16 && i % 2 == 1)
                        || !often && (n + i + axes.len() + shape.len()) % 4 != 0
                    {
                        continue;
                    }
                    let x = either(dtype, shape, (n + 31 * i) as u64);
                    all.push(Case::new(Op::Reduce { op, axes: Some(axes.to_vec()), keepdims: i % 2 == 0 }, [x]));
                }
            }
        }
        let x = || either(dtype, &[15, 37, 3], 5);
        for (max, select_last) in [(true, false), (true, true), (false, false), (false, true)] {
            for axis in 0..3 {
                all.push(Case::new(Op::ArgReduce { max, axis, keepdims: max, select_last }, [x()]));
            }
        }
        for (axis, exclusive, reverse) in [(0, false, false), (1, true, false), (2, false, true), (1, true, true)] {
            all.push(Case::new(Op::CumSum { exclusive, reverse }, [x(), i64s(&[axis])]).knowing(&[1]));
        }
        for (axis, largest, k) in [(1, true, 8), (0, false, 3), (-1, true, 3), (1, false, 37), (1, true, 0)] {
            let op = Op::TopK { axis, largest, sorted: true };
            let small = cast(&tame(DType::F32, &[15, 37, 3], 2), dtype, true).unwrap();
            for x in [x(), small] {
                all.push(Case::new(op.clone(), [x, i64s(&[k])]).knowing(&[1]));
            }
        }
    }
    all.retain(|c| !(matches!(c.op, Op::TopK { .. }) && c.inputs[0].as_ref().unwrap().dtype().bits() == 4));
    all
}

/// Softmax and norms.
pub fn rows_of_floats() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in FLOATS {
        for (shape, axes) in
            [(&[30, 77][..], &[0, 1][..]), (&[4, 5, 64], &[1, 2]), (&[15, 4100], &[1]), (&[2, 1], &[1])]
        {
            for (&axis, log) in axes.iter().flat_map(|a| [(a, false), (a, true)]) {
                all.push(Case::new(Op::Softmax { axis, log }, [data(dtype, shape, 7)]));
            }
        }
        for stash in FLOATS {
            for (shape, axis, tail) in
                [(&[30, 77][..], -1, &[77][..]), (&[15, 4, 64], 1, &[4, 64]), (&[2, 4104], 1, &[1, 4104])]
            {
                let scales = [dtype, if dtype == DType::BF16 { DType::F32 } else { DType::F64 }];
                for scale in scales {
                    let x = || data(dtype, shape, 11);
                    let w = |seed: u64| tame(scale, tail, seed);
                    let eps = F32::new(1e-5);
                    all.push(Case::new(Op::LayerNorm { axis, eps, stash }, [x(), w(1), w(2)]));
                    all.push(Case::new(Op::LayerNorm { axis, eps, stash }, [x(), w(3)]));
                    for root in [Root::DivideBySqrt, Root::ReciprocalSqrt, Root::Rsqrt] {
                        for cast in [CastBack::BeforeScale, CastBack::AfterScale] {
                            all.push(Case::new(Op::RmsNorm { axis, eps, stash, root, cast }, [x(), w(4)]));
                        }
                    }
                }
            }
        }
        let eps = F32::new(1e-6);
        let tail = |seed: u64| tame(dtype, &[130], seed);
        let x = |seed: u64| data(dtype, &[15, 2, 130], seed);
        all.push(Case::new(Op::SkipRmsNorm { eps }, [x(1), x(2), tail(3)]));
        all.push(Case::new(Op::SkipRmsNorm { eps }, [x(1), tail(2), tail(3), tail(4)]));
        all.push(Case::new(Op::SkipRmsNorm { eps }, [x(1), tame(dtype, &[2, 130], 5), tail(3), tail(4)]));
    }
    all.into_iter().enumerate().filter(|(i, _)| i % 5 % 2 == 0).map(|(_, c)| c).collect()
}

/// What moves, on dtypes of every size.
pub fn movement() -> Vec<Case> {
    let mut all = Vec::new();
    for dtype in [DType::F4E2M1, DType::U8, DType::Bool, DType::BF16, DType::F32, DType::F64] {
        let x = |shape: &[usize]| noise(dtype, shape, 3);
        for (shape, perm) in [
            (&[5, 7][..], None),
            (&[2, 3, 4, 16], Some(vec![0, 2, 1, 3])),
            (&[3, 8, 6], Some(vec![2, 0, 1])),
            (&[4, 1, 5], Some(vec![1, 2, 0])),
            (&[], None),
        ] {
            all.push(Case::new(Op::Transpose { perm }, [x(shape)]));
        }
        all.push(Case::new(Op::Expand, [x(&[3, 1, 5]), i64s(&[2, 1, 4, 1])]).knowing(&[1]));
        all.push(Case::new(Op::Expand, [x(&[16]), i64s(&[3, 16])]).knowing(&[1]));
        all.push(Case::new(Op::Tile, [x(&[3, 5]), i64s(&[2, 3])]).knowing(&[1]));
        all.push(Case::new(Op::Tile, [x(&[3, 8]), i64s(&[1, 2])]).knowing(&[1]));
        for (a, b, axis) in [(&[3, 4][..], &[3, 8][..], 1), (&[2, 6], &[4, 6], 0), (&[2, 2, 16], &[2, 1, 16], -2)] {
            all.push(Case::new(Op::Concat { axis }, [x(a), noise(dtype, b, 4), x(a)]));
        }
        all.push(Case::new(Op::Split { axis: 1, outputs: 3 }, [x(&[3, 7])]));
        all.push(Case::new(Op::Split { axis: 0, outputs: 2 }, [x(&[5, 6]), i64s(&[2, 3])]).knowing(&[1]));
        for (starts, ends, axes, steps) in [
            (vec![1, -5], vec![4, i64::MAX], vec![0, 1], vec![2, 1]),
            (vec![-1], vec![i64::MIN], vec![1], vec![-2]),
            (vec![0], vec![8], vec![-1], vec![1]),
            (vec![3], vec![3], vec![0], vec![1]),
        ] {
            let lists = [starts, ends, axes, steps].map(|v| i64s(&v));
            let inputs = [vec![x(&[6, 16])], lists.to_vec()].concat();
            all.push(Case::new(Op::Slice, inputs).knowing(&[1, 2, 3, 4]));
        }
        all.push(Case::new(Op::Pad, [x(&[3, 5]), i64s(&[1, -1, 2, 2])]).knowing(&[1]));
        all.push(Case::new(Op::Pad, [x(&[3, 5]), i64s(&[0, 3, 1, -2]), noise(dtype, &[], 8)]).knowing(&[1]));
        for upper in [true, false] {
            all.push(Case::new(Op::Trilu { upper }, [x(&[2, 5, 7])]));
            all.push(Case::new(Op::Trilu { upper }, [x(&[4, 4]), i64s(&[-1])]).knowing(&[1]));
        }
        all.push(Case::new(Op::Reshape { allow_zero: false }, [x(&[4, 6]), i64s(&[3, -1])]).knowing(&[1]));
        let value = noise(dtype, &[], 5).bytes().to_vec();
        all.push(Case::new(Op::ConstantOfShape { dtype, value }, [i64s(&[3, 5])]).knowing(&[0]));
        let hot = Tensor::from_f32(&[5], &[0.0, -1.0, 3.0, 7.0, 2.9]);
        for axis in [0, -1] {
            let inputs = [i64s(&[1, -4, 9, 0]), i64s(&[4]), noise(dtype, &[2], 6)];
            all.push(Case::new(Op::OneHot { axis }, inputs).knowing(&[1]));
            all.push(Case::new(Op::OneHot { axis }, [hot.clone(), i64s(&[4]), noise(dtype, &[2], 6)]).knowing(&[1]));
        }
    }
    for dtype in FLOATS.into_iter().chain(INTS) {
        let number = |v: f32| cast(&Tensor::from_f32(&[], &[v]), dtype, true).unwrap();
        all.push(Case::new(Op::Range, [number(3.0), number(100.5), number(1.25)]).knowing(&[0, 1, 2]));
        all.push(Case::new(Op::Range, [number(9.0), number(-9.0), number(-2.0)]).knowing(&[0, 1, 2]));
    }
    all
}

/// Indices of every dtype, and updates that meet.
pub fn indices() -> Vec<Case> {
    use ScatterReduction as S;
    let mut all = Vec::new();
    for dtype in [DType::F4E2M1, DType::I8, DType::U16, DType::F16, DType::BF16, DType::F32, DType::I64, DType::F64] {
        let x = |shape: &[usize]| either(dtype, shape, 3);
        let at = |values: &[i64], shape: &[usize], to: DType| cast(&Tensor::from_i64(shape, values), to, true).unwrap();
        for to in [DType::I64, DType::I32, DType::U8] {
            let picks = if to == DType::U8 { [2, 0, 1, 2] } else { [2, 0, -1, -3] };
            all.push(Case::new(Op::Gather { axis: 0 }, [x(&[3, 8]), at(&picks, &[2, 2], to)]));
            all.push(Case::new(Op::Gather { axis: 1 }, [x(&[5, 3, 4]), at(&picks, &[4], to)]));
            if dtype != DType::F4E2M1 {
                all.push(Case::new(Op::Gather { axis: -1 }, [x(&[5, 3]), at(&picks, &[4], to)]));
                all.push(Case::new(Op::Gather { axis: 0 }, [x(&[3]), at(&[1], &[], to)]));
            }
            all.push(Case::new(Op::GatherElements { axis: 0 }, [x(&[3, 5]), at(&picks, &[2, 2], to)]));
            all.push(Case::new(Op::GatherElements { axis: 1 }, [x(&[4, 3]), at(&picks, &[4, 1], to)]));
            all.push(Case::new(Op::GatherNd { batch_dims: 0 }, [x(&[3, 3, 8]), at(&picks, &[2, 2], to)]));
            all.push(Case::new(Op::GatherNd { batch_dims: 1 }, [x(&[2, 3, 8]), at(&picks, &[2, 2, 1], to)]));
        }
        let many: Vec<i64> = (0..24).map(|i| i * 7 % 5 % 3 - 1).collect();
        for reduction in [S::None, S::Add, S::Mul, S::Max, S::Min] {
            if dtype != DType::F4E2M1 {
                for axis in [0, 1, 2] {
                    let inputs = [x(&[3, 4, 5]), Tensor::from_i64(&[3, 4, 2], &many), either(dtype, &[3, 4, 2], 9)];
                    all.push(Case::new(Op::ScatterElements { axis, reduction }, inputs));
                }
                let inputs = [x(&[3, 4]), Tensor::from_i64(&[8, 1, 2], &many[..16]), either(dtype, &[8, 1], 5)];
                all.push(Case::new(Op::ScatterNd { reduction }, inputs));
            }
            if dtype != DType::F4E2M1 || reduction == S::None {
                let inputs = [x(&[3, 8]), Tensor::from_i64(&[6, 1], &many[..6]), either(dtype, &[6, 8], 5)];
                all.push(Case::new(Op::ScatterNd { reduction }, inputs));
            }
        }
    }
    all
}

/// ONNX's quantisers.
pub fn quantisers() -> Vec<Case> {
    let mut all = Vec::new();
    let dialect = normfuse_ir::op::Dialect::default();
    let targets = DType::ALL.into_iter().filter(|d| d.is_quantised() || d.is_int() && d.bits() <= 32);
    for to in targets {
        let zero = |shape: &[usize]| {
            if to.is_int() {
                noise(to, shape, 5)
            } else {
                cast(&Tensor::from_f32(shape, &vec![0.0; shape.iter().product()]), to, true).unwrap()
            }
        };
        for (x, scale) in [
            (DType::F32, DType::F32),
            (DType::F16, DType::F16),
            (DType::BF16, DType::BF16),
            (DType::BF16, DType::F32),
            (DType::BF16, DType::F8E8M0),
            (DType::I32, DType::F32),
        ] {
            for (of, axis, block_size) in [(&[][..], 1, 0), (&[6][..], 1, 0), (&[15, 6, 3], 2, 16), (&[3, 6, 40], 0, 5)]
            {
                for (saturate, zeroed) in [(true, true), (false, false)] {
                    let s = if scale == DType::F8E8M0 { noise(scale, of, 4) } else { tame(scale, of, 4) };
                    let x = either(x, &[15, 6, 40], 2);
                    let op = Op::QuantizeLinear { axis, block_size, to, saturate, precision: None, dialect };
                    let mut inputs = vec![x, s.clone()];
                    inputs.extend(zeroed.then(|| zero(of)));
                    all.push(Case::new(op, inputs));
                    for result in [None, Some(DType::BF16)] {
                        let op = Op::DequantizeLinear { axis, block_size, to: result, dialect };
                        let mut inputs = vec![noise(to, &[15, 6, 40], 2), s.clone()];
                        inputs.extend(zeroed.then(|| zero(of)));
                        all.push(Case::new(op, inputs));
                    }
                }
            }
        }
    }
    // Every second and third is enough of all pairs.
    let mut all: Vec<Case> = all.into_iter().enumerate().filter(|(i, _)| i % 7 % 3 == 0).map(|(_, c)| c).collect();
    for (shape, kind) in [
        (&[3, 1000][..], Row::Bell),
        (&[4097], Row::Wide),
        (&[7], Row::Zeros),
        (&[9], Row::Nan),
        (&[0], Row::Bell),
        (&[65], Row::Infinity),
        (&[33], Row::Ties),
    ] {
        all.push(Case::new(Op::DynamicQuantizeLinear, rows(DType::F32, shape, &[kind], &mut Rng::new(4))));
    }
    let ordinary: Vec<f32> = (0..700_000).map(|i| (i % 1013) as f32 * 0.01 - 3.0).collect();
    all.push(Case::new(Op::DynamicQuantizeLinear, [Tensor::from_f32(&[700_000], &ordinary)]));
    assert!(NARROW.iter().any(|d| all.iter().any(|c| c.inputs[0].as_ref().unwrap().dtype() == *d)));
    all
}

/// Products of 8-bit integers: tiles that are whole and that are not, batches, and zero points of every form.
pub fn integer_products() -> Vec<Case> {
    let mut all = Vec::new();
    let sizes: [(&[usize], &[usize]); 6] = [
        (&[64, 32], &[32, 64]),
        (&[3, 65, 17], &[17, 130]),
        (&[2, 1, 5, 7], &[3, 7, 4]),
        (&[9], &[9]),
        (&[2, 4, 0], &[0, 3]),
        (&[1, 300], &[300, 1]),
    ];
    for (a, b) in [(DType::I8, DType::I8), (DType::U8, DType::I8), (DType::I8, DType::U8), (DType::U8, DType::U8)] {
        for (left, right) in sizes {
            let (x, y) = (noise(a, left, 3), noise(b, right, 4));
            let lines = [left.iter().rev().nth(1).copied().unwrap_or(1), right.last().copied().unwrap_or(1)];
            let columns = if right.len() == 1 { 1 } else { lines[1] };
            let one = |dtype| noise(dtype, &[1], 8);
            all.push(Case::new(Op::MatMulInteger, [x.clone(), y.clone()]));
            all.push(Case::new(Op::MatMulInteger, [x.clone(), y.clone(), one(a), one(b)]));
            all.push(Case::new(Op::MatMulInteger, [x, y, noise(a, &[lines[0]], 5), noise(b, &[columns], 6)]));
        }
    }
    all
}
