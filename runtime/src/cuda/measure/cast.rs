//! The limit: a kernel that reads bf16, writes FP8, and does nothing else.

use normfuse_ir::Result;
use rayon::prelude::*;

use super::timer::{Arena, Time, Timer};
use crate::cuda::{device::Device, kernel::Kernel, nvrtc::Compiler};

/// A cast kernel: threads a block, and vectors of 8 elements a thread.
#[derive(Debug)]
pub(super) struct Cast {
    threads: u32,
    vectors: u32,
    kernel: Kernel,
}

/// Bytes a vector: 8 elements of 2 bytes in, 8 of 1 byte out.
const VECTOR_BYTES: u64 = 24;

impl Cast {
    pub fn all(device: &Device, compiler: Compiler) -> Result<Vec<Self>> {
        let shapes: Vec<(u32, u32)> =
            [64, 128, 256, 512].into_iter().flat_map(|t| [1, 2, 4, 8].map(|v| (t, v))).collect();
        let made = shapes.into_par_iter().map(|(threads, vectors)| {
            let compiled = device.compile(compiler, &text(threads, vectors))?;
            Ok(Self { threads, vectors, kernel: Kernel::load(device, &compiled.cubin)? })
        });
        made.collect()
    }

    /// The time of the fastest for as many bytes.
    pub fn best(all: &[Self], timer: &Timer, arena: &Arena, bytes: u64, early: bool) -> Result<Time> {
        let count = bytes.div_ceil(VECTOR_BYTES);
        let mut best = Time { us: f64::INFINITY, low: f64::INFINITY, high: f64::INFINITY };
        for cast in all {
            let blocks = count.div_ceil(u64::from(cast.threads * cast.vectors)) as u32;
            let sets = arena.sets(&[count * 16, count * 8])?;
            let time = timer.replay(sets.len(), |i, stream| {
                let words = [sets[i][0], sets[i][1], count];
                // SAFETY: the arena has as many bytes at both addresses.
                unsafe { cast.kernel.launch(stream, blocks, cast.threads, &words, early.into()) }
            })?;
            if time.us < best.us {
                best = time;
            }
        }
        Ok(best)
    }
}

fn text(threads: u32, vectors: u32) -> String {
    format!(
        r#"#include "quant.cuh"
struct Params {{ const uint4* in; uint2* out; i64 count; }};
extern "C" __global__ void __launch_bounds__({threads}) fused_norm(const __grid_constant__ Params p) {{
    others_may_begin();
    begin();
    const i64 first = (i64)blockIdx.x * {threads} * {vectors} + threadIdx.x;
    Vector<BF16> v[{vectors}];
#pragma unroll
    for (int j = 0; j < {vectors}; ++j) {{
        if (first + j * {threads} < p.count) *reinterpret_cast<uint4*>(&v[j]) = p.in[first + j * {threads}];
    }}
#pragma unroll
    for (int j = 0; j < {vectors}; ++j) {{
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = two_saturated(v[j].pair(2 * i));
        if (first + j * {threads} < p.count) {{
            p.out[first + j * {threads}] = make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
        }}
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a GPU; where NVRTC is missing, nothing can be said.
    #[test]
    fn casts_compile() {
        match Compiler::load() {
            Ok(compiler) => assert!(!compiler.compile(&text(128, 4), "sm_90").unwrap().cubin.is_empty()),
            Err(e) => eprintln!("skipped: {e}"),
        }
    }
}
