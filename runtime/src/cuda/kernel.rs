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
    /// Loads machine code.
    ///
    /// # Errors
    /// `Unsupported` if it is for another GPU, or has no kernel of the name.
    pub fn load(device: &Device, cubin: &[u8]) -> Result<Self> {
        device.bind()?;
        // SAFETY: the image is what the compiler made; the driver checks it, and copies what it needs.
        let handle = unsafe { result::module::load_data(cubin.as_ptr().cast()) };
        let handle = handle.map_err(|e| failed("cuModuleLoadData", e))?;
        let module = Arc::new(Module { device: device.clone(), handle });
        let name = std::ffi::CString::new(ENTRY).map_err(|_| Error::new(ErrorKind::Value, "a name has a zero byte"))?;
        // SAFETY: the module is loaded and lives as long as the kernel.
        let function = unsafe { result::module::get_function(handle, name) };
        let function = function.map_err(|e| failed("cuModuleGetFunction", e))?;
        Ok(Self { device: device.clone(), module, function })
    }

    /// Puts a launch on a stream of the kernel's GPU: `blocks` of `threads`, with the parameter's words. With `early`, it
    /// may begin while the kernel before it on the stream ends (programmatic dependent launch); it waits for that one's
    /// results itself.
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
        early: bool,
    ) -> Result<()> {
        self.device.bind()?;
        let mut attribute = sys::CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
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
            numAttrs: u32::from(early),
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
