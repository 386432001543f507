//! A GPU: its context, a stream, memory.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaStream, DriverError, result,
    sys::{self, CUdevice_attribute as Attribute},
};
use normfuse_ir::{Error, ErrorKind, FusedNorm, Result};

use super::{
    arguments::Region,
    cache::Cache,
    driver,
    nvrtc::{Compiled, Compiler},
    regimes::Regimes,
    shape::LaunchShape,
};

/// An opened GPU. Several may be open at once; nothing is global but the driver's own context of the device.
#[derive(Debug, Clone)]
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    arch: String,
    name: String,
    /// Version of the driver, as it counts them: 13000 for 13.0.
    driver: i32,
    cache: Cache,
}

/// An error of the driver's, with the call that it came from.
pub(super) fn failed(call: &str, error: DriverError) -> Error {
    let name = error.error_name().ok().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let what = error.error_string().ok().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Error::new(ErrorKind::Unsupported, format!("{call} failed: {name}: {what}"))
}

impl Device {
    /// Opens the GPU of a number, with a stream of its own and the user's cache of compiled kernels.
    ///
    /// # Errors
    /// `Unsupported` if there is no driver, one that lacks a function that is called, or no such GPU.
    pub fn open(ordinal: usize) -> Result<Self> {
        driver::probe()?;
        let context = CudaContext::new(ordinal).map_err(|e| failed(&format!("opening GPU {ordinal}"), e))?;
        let stream = context.new_stream().map_err(|e| failed("cuStreamCreate", e))?;
        let (major, minor) = context.compute_capability().map_err(|e| failed("cuDeviceGetAttribute", e))?;
        let name = context.name().map_err(|e| failed("cuDeviceGetName", e))?;
        let mut driver = 0;
        // SAFETY: the driver is loaded, and the pointer is to an integer that lives past the call.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result();
        asked.map_err(|e| failed("cuDriverGetVersion", e))?;
        // From Blackwell on, narrow floats are converted by instructions of one architecture alone.
        let own = if major >= 10 { "a" } else { "" };
        let arch = format!("sm_{major}{minor}{own}");
        Ok(Self { context, stream, arch, name, driver, cache: Cache::of_user() })
    }

    /// The same with another cache of compiled kernels.
    #[must_use]
    pub fn with_cache(self, cache: Cache) -> Self {
        Self { cache, ..self }
    }

    /// The launch shape for an op and a number of rows: by the table that was measured for the architecture, else as
    /// [`LaunchShape::choose`] works it out; in clusters where the GPU has them.
    pub fn shape(&self, norm: &FusedNorm, rows: u64, aligned: bool) -> LaunchShape {
        match Regimes::of_arch(&self.arch) {
            Some(table) => table.choose(norm, rows, aligned),
            None if self.has_clusters() => LaunchShape::choose(norm, rows, aligned).clustered(norm, rows),
            None => LaunchShape::choose(norm, rows, aligned),
        }
    }

    /// Machine code of a text for this GPU, compiled unless it is in the cache.
    ///
    /// # Errors
    /// `Unsupported` with the compiler's messages.
    pub fn compile(&self, compiler: Compiler, text: &str) -> Result<Compiled> {
        let compiled = compiler.compile_once(&self.cache, text, &self.arch, self.driver);
        let capability = self.context.compute_capability();
        match compiled {
            Err(e) if capability.is_ok_and(|found| found < (8, 9)) => {
                Err(e.hint(format!("{} is older than compute capability 8.9, which converts FP8", self.name)))
            }
            compiled => compiled,
        }
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture to compile for, such as `sm_90`.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// The stream that everything here runs on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Bytes of the cache that all multiprocessors share.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn l2_bytes(&self) -> Result<usize> {
        let bytes = self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        bytes.map(|n| n.max(0) as usize).map_err(|e| failed("cuDeviceGetAttribute", e))
    }

    /// Bytes of memory that nobody has.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn free_memory(&self) -> Result<usize> {
        Ok(self.memory()?.0 as usize)
    }

    /// Bytes of memory that nobody has, and of all.
    pub(super) fn memory(&self) -> Result<(u64, u64)> {
        self.bind()?;
        let asked = result::mem_get_info().map_err(|e| failed("cuMemGetInfo", e));
        asked.map(|(free, total)| (free as u64, total as u64))
    }

    /// Multiprocessors.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn multiprocessors(&self) -> Result<u32> {
        let count = self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        count.map(i32::unsigned_abs).map_err(|e| failed("cuDeviceGetAttribute", e))
    }

    /// True from Hopper on.
    fn has_clusters(&self) -> bool {
        let major = self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        major.is_ok_and(|major| major >= 9)
    }

    /// True if it is the same GPU.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.context.ordinal() == other.context.ordinal()
    }

    pub(super) fn new_stream(&self) -> Result<Arc<CudaStream>> {
        self.context.new_stream().map_err(|e| failed("cuStreamCreate", e))
    }

    /// Makes the GPU the calling thread's.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| failed("cuCtxSetCurrent", e))
    }

    /// Waits for all that was put on the stream.
    ///
    /// # Errors
    /// `Unsupported` with what went wrong in a kernel.
    pub fn wait(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| failed("cuStreamSynchronize", e))
    }

    /// Memory of the GPU, with the bytes that were there before.
    ///
    /// # Errors
    /// `Unsupported` if there is not as much.
    pub fn alloc(&self, len: usize) -> Result<Buffer> {
        self.bind()?;
        // SAFETY: the context is current; nothing reads the memory before something writes it but copies to the host.
        let address = unsafe { result::malloc_sync(len.max(1)) };
        let address = address.map_err(|e| failed(&format!("allocating {len} bytes on the GPU"), e))?;
        Ok(Buffer { device: self.clone(), address, len })
    }

    /// Memory of the GPU with these bytes.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn upload(&self, bytes: &[u8]) -> Result<Buffer> {
        let mut buffer = self.alloc(bytes.len())?;
        buffer.write(bytes)?;
        Ok(buffer)
    }
}

/// Memory of a GPU, given back when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    address: sys::CUdeviceptr,
    len: usize,
}

impl Buffer {
    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// All of it, for a launch.
    pub fn region(&self) -> Region {
        Region::new(self.address, self.len as u64)
    }

    /// The GPU.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes one byte everywhere.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn fill(&mut self, byte: u8) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the buffer has as many bytes, and this is the only reference.
        let done = unsafe { result::memset_d8_async(self.address, byte, self.len, self.device.stream.cu_stream()) };
        done.map_err(|e| failed("cuMemsetD8Async", e))
    }

    /// Copies bytes into it, once all that was put on the stream is done.
    ///
    /// # Errors
    /// `Structure` for another number of bytes; `Unsupported` with what the driver says.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.len {
            let message = format!("expected {} bytes, found {}", self.len, bytes.len());
            return Err(Error::new(ErrorKind::Structure, message));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        // On the stream: `cuMemcpyHtoD` would come back when the bytes are no longer needed, which may be before they have arrived, and
        // no stream but the default one waits for it.
        // SAFETY: the buffer is as long as the bytes, which live until the stream was waited for, and this is the only reference.
        let put = unsafe { result::memcpy_htod_async(self.address, bytes, self.device.stream.cu_stream()) };
        put.map_err(|e| failed("cuMemcpyHtoDAsync", e))?;
        self.device.wait()
    }

    /// The bytes, once all that was put on the stream is done.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says, or what went wrong in a kernel.
    pub fn download(&self) -> Result<Vec<u8>> {
        self.device.wait()?;
        let mut bytes = vec![0u8; self.len];
        if self.len > 0 {
            self.device.bind()?;
            // SAFETY: both have as many bytes.
            let done = unsafe { result::memcpy_dtoh_sync(&mut bytes, self.address) };
            done.map_err(|e| failed("cuMemcpyDtoH", e))?;
        }
        Ok(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it was allocated by this driver and is given back once; the driver waits for kernels that use it.
            // There is nothing to be done about a failure.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}
