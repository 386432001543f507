//! Time on a GPU: launches recorded in a CUDA graph, replayed between events.

use cudarc::driver::{
    DriverError, result,
    sys::{CUevent_flags, CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode},
};
use normfuse_ir::{Error, ErrorKind, Result};

use crate::cuda::{
    device::{Buffer, Device, failed},
    kernel::{Kernel, Start},
    nvrtc::Compiler,
};

/// Launches in a graph, at least and at most.
const LAUNCHES: (usize, usize) = (20, 400);

/// How long a launch took, in microseconds: of all replays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// The median.
    pub us: f64,
    /// What a tenth of the replays were faster than.
    pub low: f64,
    /// What a tenth of the replays were slower than.
    pub high: f64,
}

impl Time {
    /// Of the times of replays; `None` without any.
    pub fn of(mut times: Vec<f64>) -> Option<Self> {
        times.sort_by(f64::total_cmp);
        let last = times.len().checked_sub(1)?;
        Some(Self { us: times[last / 2], low: times[last / 10], high: times[last - last / 10] })
    }

    /// Half of what lies between low and high, as a part of the median.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / 2.0 / self.us
    }
}

/// Captures launches and times their replays.
#[derive(Debug)]
pub(in crate::cuda) struct Timer {
    device: Device,
    /// Replays that are timed.
    pub replays: usize,
}

/// The words for a failed call.
fn of(call: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| failed(call, e)
}

impl Timer {
    pub fn new(device: &Device, replays: usize) -> Self {
        Self { device: device.clone(), replays }
    }

    /// The time of one of the launches that `launch` makes, each for a set of buffers.
    pub fn replay(&self, sets: usize, mut launch: impl FnMut(usize, CUstream) -> Result<()>) -> Result<Time> {
        let stream = self.device.stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(of("cuStreamBeginCapture"))?;
        let launched = (0..sets).try_for_each(|i| launch(i, stream.cu_stream()));
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(of("cuStreamEndCapture"));
        launched?;
        let nothing = || Error::new(ErrorKind::Structure, "expected launches to time, found none");
        let graph = graph?.ok_or_else(nothing)?;
        graph.launch().and_then(|()| graph.launch()).map_err(of("cuGraphLaunch"))?;
        self.device.wait()?;
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let mut times = Vec::with_capacity(self.replays);
        for _ in 0..self.replays {
            let start = stream.record_event(timed).map_err(of("cuEventRecord"))?;
            graph.launch().map_err(of("cuGraphLaunch"))?;
            let end = stream.record_event(timed).map_err(of("cuEventRecord"))?;
            let ms = start.elapsed_ms(&end).map_err(of("cuEventElapsedTime"))?;
            times.push(f64::from(ms) * 1e3 / sets as f64);
        }
        Time::of(times).ok_or_else(nothing)
    }

    /// Bytes a second, read and written, of the driver's copy within the GPU.
    pub(super) fn copy_bandwidth(&self, arena: &Arena) -> Result<f64> {
        let half = arena.len() / 2;
        let time = self.replay(4, |_, stream| {
            // SAFETY: both halves lie in the arena.
            let done =
                unsafe { result::memcpy_dtod_async(arena.address() + half, arena.address(), half as usize, stream) };
            done.map_err(of("cuMemcpyDtoDAsync"))
        })?;
        Ok(2.0 * half as f64 / time.us * 1e6)
    }
}

/// Memory in which buffers rotate.
#[derive(Debug)]
pub(super) struct Arena {
    buffer: Buffer,
    filler: Kernel,
}

/// Writes bf16 numbers between 1/8 and 8 of both signs, which also are f32 numbers of such sizes: no operand is NaN,
/// denormal, or as regular as hardware likes it.
const FILLER: &str = r#"#include "norm.cuh"
struct Params { u32* out; i64 count; };
extern "C" __global__ void fused_norm(const __grid_constant__ Params p) {
    const i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    for (i64 i = first; i < p.count; i += (i64)gridDim.x * blockDim.x) {
        u32 x = (u32)i * 0x9e3779b9u + (u32)(i >> 32);
        x = (x ^ (x >> 16)) * 0x85ebca6bu;
        x = (x ^ (x >> 13)) * 0xc2b2ae35u;
        x ^= x >> 16;
        // Sign, an exponent of 124 to 131 (of bits 16 to 18), seven bits of fraction; twice.
        const u32 low = (x & 0x807f) | ((124 + (x >> 8 & 7)) << 7), y = x >> 16;
        const u32 high = (y & 0x807f) | ((124 + (y >> 8 & 7)) << 7);
        p.out[i] = low | high << 16;
    }
}
"#;

impl Arena {
    /// As much as is wanted, or half of what is free.
    const BYTES: usize = 4 << 30;
    /// What a graph goes through before it comes back to the same bytes, at least: more than a cache holds.
    const ROUND: u64 = 300 << 20;

    pub fn new(device: &Device, compiler: Compiler) -> Result<Self> {
        let filler = Kernel::load(device, &device.compile(compiler, FILLER)?.cubin)?;
        let free = result::mem_get_info().map_err(of("cuMemGetInfo"))?.0;
        Ok(Self { buffer: device.alloc((Self::BYTES).min(free / 2) & !0xffff)?, filler })
    }

    /// Writes new operands over what kernels left.
    pub fn refresh(&self) -> Result<()> {
        let stream = self.filler.device().stream().cu_stream();
        // SAFETY: the arena has as many words, and nothing else uses it meanwhile: everything is on one stream.
        unsafe { self.filler.launch(stream, 2048, 512, &[self.address(), self.len() / 4], Start::InOrder) }
    }

    pub fn address(&self) -> u64 {
        self.buffer.address()
    }

    pub fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Addresses for buffers of these sizes, set after set.
    pub fn sets(&self, sizes: &[u64]) -> Result<Vec<Vec<u64>>> {
        let one: u64 = sizes.iter().map(|n| n.next_multiple_of(256)).sum::<u64>().max(256);
        if one > self.len() {
            let message = format!("expected operands and results of at most {} bytes, found {one}", self.len());
            return Err(Error::new(ErrorKind::Shape, message).hint("measure fewer rows"));
        }
        let wanted = usize::try_from(Self::ROUND / one).unwrap_or(usize::MAX).saturating_add(1);
        let there = usize::try_from(self.len() / one).unwrap_or(usize::MAX);
        let count = wanted.clamp(LAUNCHES.0, LAUNCHES.1);
        // Spread over the arena, so that few small sets are as far apart as many; round again where there is no room for as many.
        let places = count.min(there) as u64;
        let sets = (0..count as u64).map(|i| {
            let mut at = self.address() + ((self.len() / places * (i % places)) & !255);
            let mut set = Vec::with_capacity(sizes.len());
            for size in sizes {
                set.push(at);
                at += size.next_multiple_of(256);
            }
            set
        });
        Ok(sets.collect())
    }
}
