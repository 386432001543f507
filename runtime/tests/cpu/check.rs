//! Hostile data, and one op run in every way that there is.

use std::sync::OnceLock;

use normfuse_ir::{DType, Graph, Op, Result, Tensor, Type, eval, num};
use normfuse_runtime::Plan;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Values where roundings, ties, limits and signs change: also what is too large or too small for the narrow types.
const SPECIAL: [f32; 34] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    0.25,
    0.75,
    -0.75,
    448.0,
    464.0,
    465.0,
    -480.0,
    57344.0,
    61440.0,
    65504.0,
    65520.0,
    1e-45,
    -1e-40,
    6e-8,
    f32::MIN_POSITIVE,
    1.0 / 512.0,
    1.0 / 1024.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.0 + 1.0 / 128.0,
    1.0 + 1.0 / 256.0,
    127.5,
    -128.5,
];

/// A sequence of numbers that is the same in every run.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 20) as usize % n
    }

    /// In about [-4, 4].
    pub fn tame(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 21) as f32 - 4.0
    }
}

/// What the values of a float tensor are like.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    /// Ordinary activations.
    Tame,
    /// Ordinary, with rows of zeros, single outliers and ties.
    Outliers,
    /// Every second value is special.
    Hostile,
    /// Any bits at all.
    Bits,
}

pub const KINDS: [Kind; 4] = [Kind::Tame, Kind::Outliers, Kind::Hostile, Kind::Bits];

/// A tensor of any dtype.
pub fn tensor(dtype: DType, shape: &[usize], kind: Kind, seed: u64) -> Tensor {
    let mut noise = Noise::new(seed);
    let n: usize = shape.iter().product();
    if dtype == DType::Bool {
        let bytes = (0..n).map(|_| (noise.next() >> 30) as u8 & 1).collect();
        return Tensor::from_bytes(dtype, shape.to_vec(), bytes).unwrap();
    }
    let arithmetic = dtype.is_arithmetic_float();
    if !arithmetic || kind == Kind::Bits {
        let len = dtype.size_of(n).unwrap();
        let mut bytes: Vec<u8> = (0..len).map(|_| (noise.next() >> 30) as u8).collect();
        if dtype.bits() == 4 && n % 2 == 1 {
            *bytes.last_mut().unwrap() &= 15;
        }
        return Tensor::from_bytes(dtype, shape.to_vec(), bytes).unwrap();
    }
    let width = shape.last().copied().unwrap_or(1).max(1);
    let values: Vec<f32> = (0..n)
        .map(|i| match kind {
            Kind::Hostile if i % 2 == 1 => SPECIAL[noise.below(SPECIAL.len())],
            Kind::Outliers => match i / width % 4 {
                0 => 0.0,
                1 if i % width == width / 3 => 3.0e4,
                2 => (noise.tame() * 8.0).round() / 8.0,
                _ => noise.tame(),
            },
            _ => noise.tame(),
        })
        .collect();
    let f32s = Tensor::from_f32(shape, &values);
    cast(&f32s, dtype)
}

/// The same values in another dtype.
pub fn cast(x: &Tensor, to: DType) -> Tensor {
    eval::eval_node(&Op::Cast { to, saturate: true }, &[Some(x)]).unwrap().remove(0)
}

/// A graph of one node whose operands are inputs.
pub fn one_node(op: &Op, operands: &[Option<&Tensor>]) -> Result<(Graph, Vec<Tensor>)> {
    let mut graph = Graph::new("one");
    let mut inputs = Vec::new();
    let mut values = Vec::new();
    for (i, operand) in operands.iter().enumerate() {
        inputs.push(operand.map(|_| graph.add_input(format!("x{i}"), Type::default())));
        values.extend(operand.cloned());
    }
    let names: Vec<String> = (0..op.num_outputs()).map(|i| format!("y{i}")).collect();
    let node = graph.add_node("node", op.clone(), &inputs, names.clone())?;
    for (name, value) in names.into_iter().zip(graph.node(node).outputs.clone()) {
        graph.add_output(name, value);
    }
    Ok((graph, values))
}

/// Runs a graph on a pool of so many threads.
pub fn run_on(threads: usize, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    static POOLS: OnceLock<[ThreadPool; 3]> = OnceLock::new();
    let pools = POOLS.get_or_init(|| [1, 2, 4].map(|n| ThreadPoolBuilder::new().num_threads(n).build().unwrap()));
    let pool = pools.iter().find(|p| p.current_num_threads() == threads).expect("1, 2 or 4 threads");
    let plan = Plan::new(graph)?;
    pool.install(|| plan.run(inputs))
}

/// True if two elements have the same bits, or are both NaN.
fn same(dtype: DType, a: &[u8], b: &[u8]) -> bool {
    let nan = |v: &[u8]| match dtype {
        DType::F32 => f32::from_le_bytes(v.try_into().unwrap()).is_nan(),
        DType::F64 => f64::from_le_bytes(v.try_into().unwrap()).is_nan(),
        DType::F16 => half::f16::from_le_bytes(v.try_into().unwrap()).is_nan(),
        DType::BF16 => half::bf16::from_le_bytes(v.try_into().unwrap()).is_nan(),
        DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0 => {
            num::decode(dtype, v[0]).is_nan()
        }
        _ => false,
    };
    a == b || (nan(a) && nan(b))
}

/// Panics at the first element that differs.
pub fn assert_same(what: &str, got: &[Tensor], want: &[Tensor]) {
    assert_eq!(got.len(), want.len(), "{what}: number of results");
    for (port, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{what}: result {port}");
        let size = got.dtype().bits().div_ceil(8);
        for (i, (a, b)) in got.bytes().chunks(size).zip(want.bytes().chunks(size)).enumerate() {
            assert!(
                same(got.dtype(), a, b),
                "{what}: result {port} {}{:?}, element {i}: found {a:02x?}, expected {b:02x?}",
                got.dtype(),
                got.shape()
            );
        }
    }
}

/// Runs an op on one thread and on four and on the reference evaluator: all agree, in their refusals too.
pub fn check(op: &Op, operands: &[Option<&Tensor>]) {
    let shapes: Vec<String> =
        operands.iter().map(|o| o.map_or("-".into(), |t| format!("{}{:?}", t.dtype(), t.shape()))).collect();
    let what = format!("{op:?} of {}", shapes.join(", "));
    let (graph, inputs) = one_node(op, operands).unwrap_or_else(|e| panic!("{what}: {e}"));
    let want = eval::eval_node(op, operands);
    for threads in [1, 4] {
        match (run_on(threads, &graph, &inputs), &want) {
            (Ok(got), Ok(want)) => assert_same(&format!("{what}, {threads} threads"), &got, want),
            (Err(got), Err(_)) => assert_eq!(got.node.as_deref(), Some("node"), "{what}: {got}"),
            (Ok(_), Err(want)) => panic!("{what}: runs, but the reference says: {want}"),
            (Err(got), Ok(_)) => panic!("{what}: {got}"),
        }
    }
}
