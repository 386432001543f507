//! The kernels' elementary functions against the CPU's, over every f32.

use std::{env, fmt::Write, fs, path::Path};

use normfuse_ir::{DType, num};
use normfuse_runtime::cuda::{Buffer, Device, Kernel, Start};
use rayon::prelude::*;

use crate::{compiler, or_skip};

type Function = (&'static str, fn(f32) -> f32);

/// In the words of `kernels/num.cuh`, and on the CPU.
const FUNCTIONS: [Function; 31] = [
    ("rsqrt_exact(x)", num::rsqrt),
    ("is_moderate(x) ? inverse_of_moderate(x) : 1.0f / x", |x| 1.0 / x),
    ("divide_by<0x43e00000u>(x)", |x| x / 448.0),
    ("log_f(x)", num::log),
    ("log2_f(x)", num::log2),
    ("exp_f(x)", num::exp),
    ("[&] { float v[2] = {x, -1.0f}; return x > 0.0f ? exp_f(x) : (powers_of(v), v[0]); }()", num::exp),
    ("exp2_f(x)", num::exp2),
    ("ceil_log2_f(x)", |x| num::log2(x).ceil()),
    ("floor_log2_f(x)", |x| num::log2(x).floor()),
    ("pow_f(2.0f, x)", |x| num::pow(2.0, x)),
    ("pow_f(x, -0.5f)", |x| num::pow(x, -0.5)),
    ("(float)E2M1::encode(x, true)", |x| f32::from(num::cast_f32_to(DType::F4E2M1, x, true))),
    ("sigmoid_f(x)", num::sigmoid),
    ("silu_f(x)", num::silu),
    ("gelu_f(x)", num::gelu),
    ("gelu_tanh_f(x)", num::gelu_tanh),
    ("low_of<BF16>(pair_of<SIGMOID, BF16, F32>({x, 1.0f}))", |x| num::round_to(DType::BF16, num::sigmoid(x))),
    ("high_of<F16>(pair_of<SIGMOID, F16, F32>({1.0f, x}))", |x| num::round_to(DType::F16, num::sigmoid(x))),
    ("low_of<BF16>(pair_of<SILU, BF16, F32>({x, 1.0f}))", |x| num::round_to(DType::BF16, num::silu(x))),
    ("high_of<F16>(pair_of<SILU, F16, F32>({1.0f, x}))", |x| num::round_to(DType::F16, num::silu(x))),
    ("low_of<BF16>(pair_of<SIGMOID_PRODUCT, BF16, F32>({x, 1.0f}))", |x| {
        num::round_to(DType::BF16, x * num::sigmoid(x))
    }),
    ("low_of<F16>(pair_of<SIGMOID_PRODUCT, F16, F32>({x, x}))", |x| num::round_to(DType::F16, x * num::sigmoid(x))),
    ("low_of<BF16>(pair_of<GELU_TANH, BF16, F32>({x, x}))", |x| num::round_to(DType::BF16, num::gelu_tanh(x))),
    ("high_of<F16>(pair_of<GELU_TANH, F16, F32>({x, x}))", |x| num::round_to(DType::F16, num::gelu_tanh(x))),
    ("(float)E4M3FN::encode(x, false)", |x| f32::from(num::cast_f32_to(DType::F8E4M3FN, x, false))),
    ("(float)sin_wide(x)", num::sin),
    ("(float)cos_wide(x)", num::cos),
    ("(float)tanh_wide(x)", num::tanh),
    ("(float)erf_wide(x)", num::erf),
    ("(float)softplus_wide(x)", num::softplus),
];

/// Of bf16 alone.
const OF_BF16: [Function; 5] = [
    ("(float)(is_nan(x) ? 7 : e2m1_pair(store_pair<BF16>(1.0f, x)) >> 16)", |x| {
        f32::from(num::cast_f32_to(DType::F4E2M1, x, true))
    }),
    ("low_of<BF16>(pair_of<SIGMOID, BF16, BF16>({x, 1.0f}))", |x| num::round_to(DType::BF16, num::sigmoid(x))),
    ("high_of<BF16>(pair_of<SILU, BF16, BF16>({1.0f, x}))", |x| num::round_to(DType::BF16, num::silu(x))),
    ("low_of<BF16>(pair_of<SIGMOID_PRODUCT, BF16, BF16>({x, x}))", |x| num::round_to(DType::BF16, x * num::sigmoid(x))),
    ("low_of<BF16>(pair_of<GELU_TANH, BF16, BF16>({x, x}))", |x| num::round_to(DType::BF16, num::gelu_tanh(x))),
];

/// Inputs a launch.
const AT_ONCE: u64 = 1 << 26;

/// A kernel that writes a function of `input`, which is made of the number `i`.
fn text(function: &str, input: &str) -> String {
    format!(
        "#include \"gate.cuh\"\nstruct Params {{ float* out; i64 first; }};\n\
         extern \"C\" __global__ void fused_norm(const __grid_constant__ Params p) {{\n    \
         const i64 own = (i64)blockIdx.x * blockDim.x + threadIdx.x, i = p.first + own;\n    \
         const float x = {input};\n    p.out[own] = {function};\n}}\n"
    )
}

/// True if the kernels' value of a function is that of the CPU.
fn same(on_cpu: fn(f32) -> f32, x: f32, found: f32) -> bool {
    let want = on_cpu(x);
    found.to_bits() == want.to_bits() || (found.is_nan() && want.is_nan())
}

/// The values of a function of one launch's inputs, from `first` on.
fn values(device: &Device, kernel: &Kernel, buffer: &Buffer, (first, count): (u64, u64)) -> Vec<u8> {
    // SAFETY: the buffer has a float for each thread, and nothing else uses it.
    unsafe {
        let stream = device.stream().cu_stream();
        kernel.launch(stream, (count / 256) as u32, 256, &[buffer.address(), first], Start::InOrder).unwrap();
    }
    device.wait().unwrap();
    buffer.download().unwrap()
}

/// What gates and rows of 16 bits ask for.
#[test]
fn every_number_of_16_bits_has_the_value_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let buffer = device.alloc(4 << 16).unwrap();
    let mut wrong = String::new();
    let all = FUNCTIONS.iter().map(|f| (f, &[DType::BF16, DType::F16][..]));
    for ((name, on_cpu), dtypes) in all.chain(OF_BF16.iter().map(|f| (f, &[DType::BF16][..]))) {
        for dtype in dtypes.iter().copied() {
            let input = if dtype == DType::BF16 { "load<BF16>((u16)i)" } else { "load<F16>((u16)i)" };
            let compiled = compiler.compile(&text(name, input), device.arch()).unwrap();
            let kernel = Kernel::load(&device, &compiled.cubin).unwrap();
            let found = values(&device, &kernel, &buffer, (0, 1 << 16));
            for (bits, found) in found.chunks(4).enumerate() {
                let bits = bits as u16;
                let x = if dtype == DType::BF16 {
                    half::bf16::from_bits(bits).to_f32()
                } else {
                    half::f16::from_bits(bits).to_f32()
                };
                let found = f32::from_le_bytes(found.try_into().unwrap());
                if !same(*on_cpu, x, found) {
                    let _ = writeln!(wrong, "{name} of {dtype} {x:e}: {found:e}, expected {:e}", on_cpu(x));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
#[ignore = "takes minutes of a GPU and of 16 cores: 31 functions of 2^32 numbers; FUNCTIONS=NAME takes those with it in their text"]
fn every_f32_has_the_value_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let buffer = device.alloc(AT_ONCE as usize * 4).unwrap();
    let mut log = String::new();
    let mut all = 0;
    let wanted = env::var("FUNCTIONS").unwrap_or_default();
    for (name, on_cpu) in FUNCTIONS.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let compiled = compiler.compile(&text(name, "__uint_as_float((u32)i)"), device.arch()).unwrap();
        let kernel = Kernel::load(&device, &compiled.cubin).unwrap();
        let (mut wrong, mut example) = (0u64, None);
        for first in (0..1u64 << 32).step_by(AT_ONCE as usize) {
            let found = values(&device, &kernel, &buffer, (first, AT_ONCE));
            let differs = |(i, bytes): (usize, &[u8])| {
                let x = f32::from_bits((first + i as u64) as u32);
                let got = f32::from_le_bytes(bytes.try_into().unwrap());
                (!same(on_cpu, x, got)).then(|| (x, got, on_cpu(x)))
            };
            let bad: Vec<(f32, f32, f32)> = found.par_chunks(4).enumerate().filter_map(differs).collect();
            wrong += bad.len() as u64;
            example = example.or(bad.first().copied());
        }
        let _ =
            writeln!(log, "{name}: {wrong} of 2^32 differ{}", example.map_or_else(String::new, |e| format!(", {e:?}")));
        all += wrong;
        // After each, so that what was done is there if the run is cut short.
        if let Some(folder) = env::var_os("OUT") {
            let text = format!("{}\n{log}", device.name());
            fs::write(Path::new(&folder).join("elementary.txt"), text).unwrap();
        }
    }
    eprintln!("{}\n{log}", device.name());
    assert_eq!(all, 0, "\n{log}");
}

/// `multiply_pairs<BF16>`: products in pairs, as the CPU has them by way of f32.
#[test]
#[ignore = "takes a minute: 2^32 products"]
fn every_product_of_bf16_has_the_value_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = compiler() else { return };
    let text = "#include \"norm.cuh\"\nstruct Params { u32* out; i64 first; };\n\
         extern \"C\" __global__ void fused_norm(const __grid_constant__ Params p) {\n    \
         const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;\n    const u32 at = (u32)(p.first + 2 * i);\n    \
         const u32 left = at >> 16, right = at & 0xffff;\n    \
         p.out[i] = multiply_pairs<BF16>(left | left << 16, right | (right + 1) << 16);\n}\n";
    let kernel = Kernel::load(&device, &compiler.compile(text, device.arch()).unwrap().cubin).unwrap();
    let buffer = device.alloc(AT_ONCE as usize * 2).unwrap();
    let product = |at: u32| {
        let [a, b] = [at >> 16, at & 0xffff].map(|bits| f32::from_bits(bits << 16));
        half::bf16::from_f32(a * b)
    };
    let mut wrong = 0;
    for first in (0..1u64 << 32).step_by(AT_ONCE as usize) {
        // SAFETY: the buffer has a pair for each thread, and nothing else uses it.
        unsafe {
            let stream = device.stream().cu_stream();
            kernel.launch(stream, (AT_ONCE / 512) as u32, 256, &[buffer.address(), first], Start::InOrder).unwrap();
        }
        device.wait().unwrap();
        let differs = |(i, bytes): (usize, &[u8])| {
            let got = half::bf16::from_le_bytes([bytes[0], bytes[1]]);
            let want = product((first + i as u64) as u32);
            got.to_bits() != want.to_bits() && !(got.is_nan() && want.is_nan())
        };
        wrong += buffer.download().unwrap().par_chunks(2).enumerate().filter(|at| differs(*at)).count();
    }
    eprintln!("{}\nproducts of bf16: {wrong} of 2^32 differ", device.name());
    assert_eq!(wrong, 0);
}
