//! Matrix products as plain kernels: slow, with sums in f64 and one rounding.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use normfuse::{
    cuda::{
        Compiler, Device, Kernel, RawStream, Start,
        exec::{Backend, Product},
        ops::{Call, Typed},
    },
    ir::{DType, Error, ErrorKind, Op, Result},
};

/// One thread an element. Operands are read by strides, in elements; of a batch by up to four of them.
const TEXT: &str = r#"#include "num.cuh"
typedef signed char i8;
struct I8 {}; struct U8 {}; struct I32 {};
template <class T> struct At;
#define FLOAT(T, R) template <> struct At<T> { typedef R Raw; \
    static __device__ double get(R v) { return load<T>(v); } static __device__ R put(double v) { return store<T>((float)v); } };
#define INTEGER(T, R) template <> struct At<T> { typedef R Raw; \
    static __device__ double get(R v) { return v; } static __device__ R put(double v) { return (R)(i64)v; } };
FLOAT(F32, float) FLOAT(F16, u16) FLOAT(BF16, u16) INTEGER(I8, i8) INTEGER(U8, u8) INTEGER(I32, int)
struct Params {
    const void *a, *b, *c, *za, *zb;
    void* y;
    u64 m, n, k, sizes[4], batch_a[4], batch_b[4], row_a, col_a, row_b, col_b, row_c, col_c, step_za, step_zb, alpha, beta, count;
};
extern "C" __global__ void product(const __grid_constant__ Params p) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < p.count; i += (u64)gridDim.x * blockDim.x) {
        const u64 column = i % p.n, row = i / p.n % p.m;
        u64 rest = i / p.n / p.m, a = row * p.row_a, b = column * p.col_b;
        for (int d = 3; d >= 0; --d) {
            a += rest % p.sizes[d] * p.batch_a[d];
            b += rest % p.sizes[d] * p.batch_b[d];
            rest /= p.sizes[d];
        }
        const double za = p.za ? At<TA>::get(((const At<TA>::Raw*)p.za)[row * p.step_za]) : 0.0;
        const double zb = p.zb ? At<TB>::get(((const At<TB>::Raw*)p.zb)[column * p.step_zb]) : 0.0;
        double sum = 0.0;
        for (u64 k = 0; k < p.k; ++k) {
            const double x = At<TA>::get(((const At<TA>::Raw*)p.a)[a + k * p.col_a]) - za;
            sum += x * (At<TB>::get(((const At<TB>::Raw*)p.b)[b + k * p.row_b]) - zb);
        }
        sum *= __longlong_as_double((i64)p.alpha);
        if (p.c) sum += At<TY>::get(((const At<TY>::Raw*)p.c)[row * p.row_c + column * p.col_c]) * __longlong_as_double((i64)p.beta);
        ((At<TY>::Raw*)p.y)[i] = At<TY>::put(sum);
    }
}
"#;

/// Plans products as plain kernels.
pub struct Plain {
    device: Device,
    compiler: Compiler,
}

impl Plain {
    pub fn new(device: &Device, compiler: Compiler) -> Self {
        Self { device: device.clone(), compiler }
    }
}

/// The words behind the six addresses.
struct Words {
    kernel: Kernel,
    numbers: Vec<u64>,
    count: u64,
    /// Ports of c and of the zero points.
    others: [Option<usize>; 3],
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words").field("count", &self.count).finish_non_exhaustive()
    }
}

fn tag(dtype: DType) -> Result<&'static str> {
    Ok(match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I8 => "I8",
        DType::U8 => "U8",
        DType::I32 => "I32",
        other => return Err(Error::new(ErrorKind::Unsupported, format!("no product of {other}"))),
    })
}

/// Sizes with those of batches in front, four of them, and steps through them in elements; 0 where it broadcasts.
fn batches(shape: &[usize], whole: &[usize], matrix: usize) -> [u64; 4] {
    let mut steps = [0; 4];
    let mut step = matrix as u64;
    for (back, size) in shape.iter().rev().enumerate() {
        steps[3 - back] = if *size == 1 && whole[whole.len() - 1 - back] != 1 { 0 } else { step };
        step *= *size as u64;
    }
    steps
}

impl Backend for Plain {
    fn product(&self, call: &Call<'_>) -> Result<Arc<dyn Product>> {
        let missing = || Error::new(ErrorKind::Structure, "an operand is missing");
        let input = |i: usize| call.inputs.get(i).and_then(Option::as_ref);
        let (a, b, y) = (input(0).ok_or_else(missing)?, input(1).ok_or_else(missing)?, &call.outputs[0]);
        let (trans_a, trans_b, alpha, beta) = match call.op {
            Op::Gemm { alpha, beta, trans_a, trans_b } => (*trans_a, *trans_b, alpha.get(), beta.get()),
            _ => (false, false, 1.0, 1.0),
        };
        // Vectors are matrices of one row or column.
        let wide = |t: &Typed, front: bool| match *t.shape {
            [n] if front => vec![1, n],
            [n] => vec![n, 1],
            _ => t.shape.clone(),
        };
        let (sa, sb) = (wide(a, true), wide(b, false));
        let (ra, ca) = (sa[sa.len() - 2], sa[sa.len() - 1]);
        let (rb, cb) = (sb[sb.len() - 2], sb[sb.len() - 1]);
        let (m, k, row_a, col_a) = if trans_a { (ca, ra, 1, ca) } else { (ra, ca, ca, 1) };
        let (n, row_b, col_b) = if trans_b { (rb, 1, cb) } else { (cb, cb, 1) };
        let (front_a, front_b) = (&sa[..sa.len() - 2], &sb[..sb.len() - 2]);
        let long = front_a.len().max(front_b.len());
        let size = |front: &[usize], back: usize| front.len().checked_sub(back).map_or(1, |i| front[i]);
        let whole: Vec<usize> = (1..=long).rev().map(|back| size(front_a, back).max(size(front_b, back))).collect();
        let mut sizes = [1u64; 4];
        for (back, size) in whole.iter().rev().enumerate() {
            sizes[3 - back] = *size as u64;
        }
        let integer = matches!(call.op, Op::MatMulInteger);
        let others = if integer { [None, Some(2), Some(3)] } else { [Some(2), None, None] };
        let others = others.map(|port| port.filter(|p| input(*p).is_some()));
        let (mut row_c, mut col_c) = (0, 0);
        if let Some(c) = others[0].and_then(input) {
            let column = c.shape.last().copied().unwrap_or(1);
            let row = c.shape.len().checked_sub(2).map_or(1, |i| c.shape[i]);
            col_c = u64::from(column != 1);
            row_c = if row == 1 { 0 } else { column as u64 };
        }
        let step =
            |port: Option<usize>| port.and_then(input).map_or(0, |z| u64::from(z.shape.iter().product::<usize>() > 1));
        let count: usize = y.shape.iter().product();
        let numbers = [
            &[m, n, k].map(|n| n as u64)[..],
            &sizes,
            &batches(front_a, &whole, ra * ca),
            &batches(front_b, &whole, rb * cb),
            &[row_a, col_a, row_b, col_b].map(|n| n as u64),
            &[row_c, col_c, step(others[1]), step(others[2])],
            &[f64::from(alpha).to_bits(), f64::from(beta).to_bits(), count as u64],
        ]
        .concat();
        let types = [("TA", a), ("TB", b), ("TY", y)];
        let mut text = String::from("#include \"num.cuh\"\n");
        for (name, typed) in types {
            let _ = writeln!(text, "#define {name} {}", tag(typed.dtype)?);
        }
        let compiled = self.device.compile(self.compiler, &(text + TEXT))?;
        let kernel = Kernel::named(&self.device, &compiled.cubin, "product")?;
        Ok(Arc::new(Words { kernel, numbers, count: count as u64, others }))
    }
}

impl Product for Words {
    fn scratch(&self) -> u64 {
        0
    }

    unsafe fn launch(&self, stream: RawStream, inputs: &[u64], outputs: &[u64], _: u64) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let other = |port: Option<usize>| port.map_or(0, |p| inputs[p]);
        let [c, za, zb] = self.others.map(other);
        let addresses = [inputs[0], inputs[1], c, za, zb, outputs[0]];
        let words = [&addresses[..], &self.numbers].concat();
        let blocks = self.count.div_ceil(128).min(1 << 16) as u32;
        // SAFETY: the words are in the order of the text's parameter; the caller answers for the memory.
        unsafe { self.kernel.launch(stream, blocks, 128, &words, Start::InOrder) }
    }
}
