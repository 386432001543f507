//! A kernel that is loaded on a GPU.

use std::{ffi::c_void, ptr, sync::Arc};

use cudarc::driver::{
    result,
    sys::{self, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig},
};
use normfuse_ir::{Error, ErrorKind, Result};

use super::{
    device::{Device, failed},
    source::ENTRY,
};

/// How a launch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// When the kernel before it on the stream has ended.
    InOrder,
    /// While that one ends (programmatic dependent launch); it waits for its results itself.
    Early,
    /// When the kernel before it has ended, and all blocks at the same time (cooperative launch), so that they can wait for one
    /// another.
    Together,
}

impl From<bool> for Start {
    /// Early or in order.
    fn from(early: bool) -> Self {
        if early { Self::Early } else { Self::InOrder }
    }
}

/// A loaded kernel of one parameter.
#[derive(Debug, Clone)]
pub struct Kernel {
    device: Device,
    module: Arc<Module>,
    function: sys::CUfunction,
}

// SAFETY: the driver's handles may be used from any thread whose current context is theirs, which each call makes so.
unsafe impl Send for Kernel {}
// SAFETY: as above; launches do not change the handle.
unsafe impl Sync for Kernel {}

#[derive(Debug)]
struct Module {
    device: Device,
    handle: sys::CUmodule,
}

// SAFETY: as for `Kernel`.
unsafe impl Send for Module {}
// SAFETY: as for `Kernel`.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it was loaded once and nothing of it is used again. There is nothing to be done about a failure.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

impl Kernel {
    /// Loads machine code, and of it the kernel that is called as all are.
    ///
    /// # Errors
    /// `Unsupported` if it is for another GPU, or has no kernel of the name.
    pub fn load(device: &Device, cubin: &[u8]) -> Result<Self> {
        Self::named(device, cubin, ENTRY)
    }

    /// Loads machine code, and of it the kernel of a name.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn named(device: &Device, cubin: &[u8], name: &str) -> Result<Self> {
        device.bind()?;
        // SAFETY: the image is what the compiler made; the driver checks it, and copies what it needs.
        let handle = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
        let handle = handle.map_err(|e| failed("cuModuleLoadData", e))?;
        Self::of(Arc::new(Module { device: device.clone(), handle }), name)
    }

    /// Another kernel of the same machine code.
    ///
    /// # Errors
    /// `Unsupported` if there is none of the name.
    pub fn beside(&self, name: &str) -> Result<Self> {
        self.device.bind()?;
        Self::of(self.module.clone(), name)
    }

    fn of(module: Arc<Module>, name: &str) -> Result<Self> {
        let name = std::ffi::CString::new(name).map_err(|_| Error::new(ErrorKind::Value, "a name has a zero byte"))?;
        // SAFETY: the module is loaded and lives as long as the kernel.
        let function = unsafe { result::module::get_function(module.handle, name) };
        let function = function.map_err(|e| failed("cuModuleGetFunction", e))?;
        Ok(Self { device: module.device.clone(), module, function })
    }

    /// Blocks of so many threads that the whole GPU runs at the same time.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    pub fn resident(&self, threads: u32) -> Result<u64> {
        self.device.bind()?;
        let mut blocks = 0;
        // SAFETY: the function is loaded, and the pointer is to an integer that lives past the call.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&raw mut blocks, self.function, threads.cast_signed(), 0)
        }
        .result()
        .map_err(|e| failed("cuOccupancyMaxActiveBlocksPerMultiprocessor", e))?;
        Ok(u64::from(blocks.unsigned_abs()) * u64::from(self.device.multiprocessors()?))
    }

    /// Puts a launch on a stream of the kernel's GPU: `blocks` of `threads`, with the parameter's words.
    ///
    /// # Errors
    /// `Unsupported` with what the driver says.
    ///
    /// # Safety
    /// The words are what the kernel's text says: addresses of memory of this GPU, as large as the kernel reads and
    /// writes, until the launch is done. Nothing else writes what it reads, or touches what it writes, at the same time.
    pub unsafe fn launch(
        &self,
        stream: sys::CUstream,
        blocks: u32,
        threads: u32,
        words: &[u64],
        start: Start,
    ) -> Result<()> {
        self.device.bind()?;
        let (id, value) = if start == Start::Together {
            (CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CUlaunchAttributeValue { cooperative: 1 })
        } else {
            let value = CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
            (CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, value)
        };
        let mut attribute = sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let config = CUlaunchConfig {
            gridDimX: blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(start != Start::InOrder),
        };
        let mut params = [words.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function's one parameter has as many words; the caller answers for what they point to.
        unsafe { sys::cuLaunchKernelEx(&raw const config, self.function, params.as_mut_ptr(), ptr::null_mut()) }
            .result()
            .map_err(|e| failed("cuLaunchKernelEx", e))
    }

    /// The GPU that it is loaded on.
    pub fn device(&self) -> &Device {
        &self.module.device
    }
}
