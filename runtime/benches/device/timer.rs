//! Time on a GPU: launches captured in a CUDA graph, replayed between events.

use cudarc::driver::{
    result,
    sys::{CUevent_flags, CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode},
};
use normfuse_runtime::cuda::{Buffer, Device};

use crate::Outcome;

/// Launches in a graph, at least and at most.
const LAUNCHES: (usize, usize) = (20, 400);
const REPLAYS: usize = 15;

pub struct Timer {
    device: Device,
}

impl Timer {
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone() }
    }

    /// Microseconds of one of the launches that `launch` makes, each for a set of buffers.
    pub fn replay(&self, sets: usize, mut launch: impl FnMut(usize, CUstream) -> Outcome<()>) -> Outcome<f64> {
        let stream = self.device.stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let launched = (0..sets).try_for_each(|i| launch(i, stream.cu_stream()));
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags);
        launched?;
        let graph = graph?.ok_or("nothing was captured")?;
        graph.launch()?;
        graph.launch()?;
        stream.synchronize()?;
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let mut times = Vec::with_capacity(REPLAYS);
        for _ in 0..REPLAYS {
            let start = stream.record_event(timed)?;
            graph.launch()?;
            let end = stream.record_event(timed)?;
            times.push(f64::from(start.elapsed_ms(&end)?) * 1e3 / sets as f64);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[REPLAYS / 2])
    }

    /// Bytes a second, read and written, of the driver's copy within the GPU.
    pub fn copy_bandwidth(&self, arena: &Arena) -> Outcome<f64> {
        let half = arena.len() / 2;
        let us = self.replay(4, |_, stream| {
            // SAFETY: both halves lie in the arena.
            unsafe { result::memcpy_dtod_async(arena.address() + half, arena.address(), half as usize, stream) }?;
            Ok(())
        })?;
        Ok(2.0 * half as f64 / us * 1e6)
    }
}

/// Memory in which buffers rotate.
pub struct Arena {
    buffer: Buffer,
}

impl Arena {
    const BYTES: usize = 4 << 30;
    /// What a graph goes through before it comes back to the same bytes: more than a cache holds.
    const ROUND: u64 = 300 << 20;

    pub fn new(device: &Device) -> Outcome<Self> {
        Ok(Self { buffer: device.alloc(Self::BYTES)? })
    }

    /// Writes small numbers of every dtype over what kernels left: no operand is a NaN or denormal.
    pub fn refresh(&mut self) -> Outcome<()> {
        Ok(self.buffer.fill(0x3d)?)
    }

    pub fn address(&self) -> u64 {
        self.buffer.address()
    }

    pub fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Addresses for buffers of these sizes, set after set.
    pub fn sets(&self, sizes: &[u64]) -> Vec<Vec<u64>> {
        let one: u64 = sizes.iter().map(|n| n.next_multiple_of(256)).sum();
        let wanted = (Self::ROUND / one.max(1)) as usize + 1;
        let there = (self.len() / one.max(1)) as usize;
        let count = wanted.clamp(LAUNCHES.0, LAUNCHES.1).min(there.max(1));
        // Spread over the arena, so that few small sets are as far apart as many.
        let mut sets = Vec::with_capacity(count);
        for i in 0..count as u64 {
            let mut at = self.address() + (self.len() / count as u64 * i).next_multiple_of(256).min(self.len() - one);
            at &= !255;
            let mut set = Vec::with_capacity(sizes.len());
            for size in sizes {
                set.push(at);
                at += size.next_multiple_of(256);
            }
            sets.push(set);
        }
        sets
    }
}
