//! The kernels' elementary functions against the CPU's, over every f32.

use std::{env, fmt::Write, fs, path::Path};

use normfuse_ir::{DType, num};
use normfuse_runtime::cuda::{Compiler, Device, Kernel};
use rayon::prelude::*;

use crate::or_skip;

type Function = (&'static str, fn(f32) -> f32);

/// In the words of `kernels/num.cuh`, and on the CPU.
const FUNCTIONS: [Function; 13] = [
    ("rsqrt_exact(x)", num::rsqrt),
    ("is_moderate(x) ? inverse_of_moderate(x) : 1.0f / x", |x| 1.0 / x),
    ("divide_by<0x43e00000u>(x)", |x| x / 448.0),
    ("log_f(x)", num::log),
    ("log2_f(x)", num::log2),
    ("exp_f(x)", num::exp),
    ("exp2_f(x)", num::exp2),
    ("ceil_log2_f(x)", |x| num::log2(x).ceil()),
    ("floor_log2_f(x)", |x| num::log2(x).floor()),
    ("pow_f(2.0f, x)", |x| num::pow(2.0, x)),
    ("pow_f(x, -0.5f)", |x| num::pow(x, -0.5)),
    ("(float)E2M1::encode(x, true)", |x| f32::from(num::cast_f32_to(DType::F4E2M1, x, true))),
    ("(float)E4M3FN::encode(x, false)", |x| f32::from(num::cast_f32_to(DType::F8E4M3FN, x, false))),
];

/// Inputs a launch.
const AT_ONCE: u64 = 1 << 26;

fn text(function: &str) -> String {
    format!(
        "#include \"norm.cuh\"\nstruct Params {{ float* out; i64 first; }};\n\
         extern \"C\" __global__ void fused_norm(const __grid_constant__ Params p) {{\n    \
         const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;\n    \
         const float x = __uint_as_float((u32)(p.first + i));\n    p.out[i] = {function};\n}}\n"
    )
}

#[test]
#[ignore = "takes minutes of a GPU and of 16 cores: thirteen functions of 2^32 numbers; FUNCTIONS=NAME takes those with it in their text"]
fn every_f32_has_the_value_of_the_cpu() {
    let Some(device) = or_skip(Device::open(0)) else { return };
    let Some(compiler) = or_skip(Compiler::load()) else { return };
    let buffer = device.alloc(AT_ONCE as usize * 4).unwrap();
    let mut log = String::new();
    let mut all = 0;
    let wanted = env::var("FUNCTIONS").unwrap_or_default();
    for (name, on_cpu) in FUNCTIONS.into_iter().filter(|(name, _)| name.contains(&wanted)) {
        let compiled = compiler.compile(&text(name), device.arch()).unwrap();
        let kernel = Kernel::load(&device, &compiled.cubin).unwrap();
        let (mut wrong, mut example) = (0u64, None);
        for first in (0..1u64 << 32).step_by(AT_ONCE as usize) {
            // SAFETY: the buffer has a float for each thread, and nothing else uses it.
            unsafe {
                let stream = device.stream().cu_stream();
                kernel.launch(stream, (AT_ONCE / 256) as u32, 256, &[buffer.address(), first], false).unwrap();
            }
            device.wait().unwrap();
            let found = buffer.download().unwrap();
            let differs = |(i, bytes): (usize, &[u8])| {
                let x = f32::from_bits((first + i as u64) as u32);
                let got = f32::from_le_bytes(bytes.try_into().unwrap());
                let want = on_cpu(x);
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                (!same).then_some((x, got, want))
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
    let Some(compiler) = or_skip(Compiler::load()) else { return };
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
            kernel.launch(stream, (AT_ONCE / 512) as u32, 256, &[buffer.address(), first], false).unwrap();
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
