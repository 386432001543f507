//! Launches that are recorded once and replayed as one: CUDA graphs.

use std::{fmt, mem, sync::Arc};

use cudarc::driver::{
    CudaGraph, CudaStream, result,
    sys::{CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode},
};
use normfuse_ir::{Error, ErrorKind, Result};

use super::{
    arguments::Arguments,
    device::{Buffer, Device, failed},
    fused_norm::FusedNormKernel,
    source::Params,
};

/// Recorded launches. It keeps the kernels and buffers that they use.
pub struct Graph {
    device: Device,
    // Before what it uses, so that it is gone before that is.
    recorded: CudaGraph,
    _kernels: Vec<FusedNormKernel>,
    _buffers: Vec<Arc<Buffer>>,
    launches: usize,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs, which each call makes so, by one thread
// at a time.
unsafe impl Send for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("launches", &self.launches).finish_non_exhaustive()
    }
}

impl Graph {
    /// Launches in it.
    pub fn launches(&self) -> usize {
        self.launches
    }

    /// Puts all of it on the device's stream, behind what is there.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: the stream is the device's, whose buffers' downloads wait for it; what the launches use is kept here.
        unsafe { self.replay_on(self.device.stream().cu_stream()) }
    }

    /// Puts all of it on a stream of the caller's.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    ///
    /// # Safety
    /// The stream is one of this GPU's, and lives. Memory that the recording does not keep is still there, nothing else
    /// writes what the launches read or touches what they write meanwhile, and this graph is not dropped before they are done.
    pub unsafe fn replay_on(&self, stream: CUstream) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the graph was instantiated and lives; the caller answers for the stream.
        unsafe { result::graph::launch(self.recorded.cu_graph_exec(), stream) }.map_err(|e| failed("cuGraphLaunch", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // The last replay may still run. There is nothing to be done about a failure.
        let _ = self.device.wait();
    }
}

/// Launches on their way into a [`Graph`].
pub struct Recording<'a> {
    device: &'a Device,
    stream: Arc<CudaStream>,
    buffers: Vec<Arc<Buffer>>,
    kernels: Vec<FusedNormKernel>,
    launches: usize,
    open: bool,
}

impl fmt::Debug for Recording<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("launches", &self.launches).finish_non_exhaustive()
    }
}

impl Device {
    /// Records the launches that `record` makes, in their order, into a graph. They may use these buffers, which the graph
    /// keeps, and no others but by [`Recording::launch_unchecked`]. Nothing runs yet.
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use normfuse_ir::{DType, FusedNorm, fused::Sibling};
    /// use normfuse_runtime::cuda::{Arguments, Buffer, Compiler, Device, FusedNormKernel, LaunchShape};
    ///
    /// # fn main() -> normfuse_ir::Result<()> {
    /// let (rows, width) = (16, 4096);
    /// let norm = FusedNorm::of(vec![Sibling::plain(width, DType::BF16)]);
    /// let device = Device::open(0)?;
    /// let kernel = FusedNormKernel::new(&device, Compiler::load()?, &norm, LaunchShape::choose(&norm, rows, true))?;
    /// let bytes = (rows * width * 2) as usize;
    /// let x = Arc::new(device.upload(&vec![0x3f; bytes])?);
    /// let weight = Arc::new(device.upload(&vec![0x3f; width as usize * 2])?);
    /// let y = Arc::new(device.alloc(bytes)?);
    /// // Twice over itself: the second reads what the first wrote.
    /// let arguments = |from: &Buffer| Arguments {
    ///     inputs: vec![from.region().into(), weight.region().into()],
    ///     outputs: vec![y.region()],
    ///     rows: vec![rows],
    ///     scratch: None,
    /// };
    /// let graph = device.record(vec![x.clone(), weight.clone(), y.clone()], |recording| {
    ///     recording.launch(&kernel, &arguments(&x), false)?;
    ///     recording.launch(&kernel, &arguments(&y), true)
    /// })?;
    /// graph.replay()?;
    /// let result = y.download()?;
    /// # drop(result);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `record` gives, in which case nothing was recorded; `Structure` if it launched nothing; `Unsupported` with what the
    /// driver says.
    pub fn record(
        &self,
        buffers: Vec<Arc<Buffer>>,
        record: impl FnOnce(&mut Recording<'_>) -> Result<()>,
    ) -> Result<Graph> {
        // A stream of its own: what other threads put on the device's is no part of it.
        let stream = self.new_stream()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(|e| failed("cuStreamBeginCapture", e))?;
        let mut recording = Recording { device: self, stream, buffers, kernels: Vec::new(), launches: 0, open: true };
        record(&mut recording)?;
        let recorded = recording.end()?;
        let none = || Error::new(ErrorKind::Structure, "expected launches to record, found none");
        let recorded = recorded.filter(|_| recording.launches > 0).ok_or_else(none)?;
        Ok(Graph {
            device: self.clone(),
            recorded,
            _kernels: mem::take(&mut recording.kernels),
            _buffers: mem::take(&mut recording.buffers),
            launches: recording.launches,
        })
    }
}

impl Recording<'_> {
    /// Records a launch. With `early` it may begin while the one before it ends (programmatic dependent launch), and waits
    /// for that one's results itself. No rows are no launch.
    ///
    /// # Errors
    /// As [`Arguments::check`]; `Value` for memory that is in none of the recording's buffers or a kernel of another GPU.
    pub fn launch(&mut self, kernel: &FusedNormKernel, arguments: &Arguments, early: bool) -> Result<()> {
        let params = kernel.check(arguments)?;
        let norm = kernel.norm();
        let inputs = norm.in_ports().into_iter().map(|p| p.to_string()).zip(arguments.inputs.iter().map(|i| i.region));
        let outputs = norm.out_ports().into_iter().map(|p| p.to_string()).zip(arguments.outputs.iter().copied());
        let scratch = arguments.scratch.filter(|_| params.scratch.is_some()).map(|region| ("scratch".into(), region));
        for (port, region) in inputs.chain(outputs).chain(scratch) {
            if !self.buffers.iter().any(|b| region.within(b.region()) && b.device().is(self.device)) {
                let message = "expected memory of a buffer that the recording keeps, found other";
                return Err(Error::new(ErrorKind::Value, message).at_port(port));
            }
        }
        // SAFETY: all memory lies in buffers that the graph keeps, and is as large and as apart as the kernel needs.
        unsafe { self.launch_unchecked(kernel, &params, early) }
    }

    /// Records a launch on memory that somebody else keeps.
    ///
    /// # Errors
    /// As [`FusedNormKernel::launch`]; `Value` for a kernel of another GPU.
    ///
    /// # Safety
    /// As of [`FusedNormKernel::launch`], for every replay of the graph.
    pub unsafe fn launch_unchecked(&mut self, kernel: &FusedNormKernel, params: &Params, early: bool) -> Result<()> {
        if !kernel.device().is(self.device) {
            return Err(Error::new(ErrorKind::Value, "expected a kernel of the recording's GPU, found one of another"));
        }
        // SAFETY: the caller answers for the parameter.
        unsafe { kernel.launch(self.stream.cu_stream(), params, early) }?;
        self.launches += kernel.launches(&params.rows);
        self.kernels.push(kernel.clone());
        Ok(())
    }

    /// Counts launches that were put on the stream by other means than [`Recording::launch`].
    pub(super) fn counted(&mut self, launches: usize) {
        self.launches += launches;
    }

    /// The stream that records: what a host puts on it becomes part of the graph, in its place.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    fn end(&mut self) -> Result<Option<CudaGraph>> {
        self.open = false;
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        self.stream.end_capture(flags).map_err(|e| failed("cuStreamEndCapture", e))
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.open {
            // What was recorded so far is thrown away, as is that it could not be recorded.
            let _ = self.end();
        }
    }
}
