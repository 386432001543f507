//! The driver's library, asked for all that is called of it before anything is: the bindings panic on a function that it lacks.

use std::ffi::c_int;

use cudarc::driver::sys;
use normfuse_ir::{Error, ErrorKind, Result};

/// What the bindings load when we first call it, in the order of the alphabet: `nm` lists the same of the program.
const FUNCTIONS: [&str; 41] = [
    "cuCtxDestroy_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernelEx",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// The first version that has them all, as the driver counts versions: `cuEventElapsedTime_v2` came with CUDA 12.8, the others
/// before it.
const OLDEST: i32 = 12080;

/// Looks for the driver, and in it for all that is called.
///
/// # Errors
/// `Unsupported` if there is no driver, or with the first function that it lacks.
pub(super) fn probe() -> Result<()> {
    // SAFETY: it opens and closes the driver's library, whose constructors are safe to run.
    if !unsafe { sys::is_culib_present() } {
        let message = "no CUDA driver: the loader finds no libcuda.so";
        return Err(Error::new(ErrorKind::Unsupported, message).hint("run on the CPU, or install NVIDIA's driver"));
    }
    // SAFETY: it is there, and is the one that the bindings will call.
    let library = unsafe { sys::culib() };
    // SAFETY: a function without operands or results is not called: only its address is asked for.
    let has = |name: &str| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
    first_missing(has).map_or(Ok(()), |name| Err(refused(name, version(library))))
}

fn first_missing(has: impl Fn(&str) -> bool) -> Option<&'static str> {
    FUNCTIONS.into_iter().find(|name| !has(name))
}

/// The version that the library says it has, if it says one.
fn version(library: &libloading::Library) -> Option<i32> {
    // SAFETY: the function takes a pointer to an integer, in every version of the driver.
    let get = unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion") }.ok()?;
    let mut version = 0;
    // SAFETY: the pointer is to an integer that lives past the call; nothing has to be initialised before it.
    let done = unsafe { get(&raw mut version) };
    (done == 0).then_some(version)
}

fn refused(name: &str, version: Option<i32>) -> Error {
    let of = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
    let oldest = of(OLDEST);
    let found = match version {
        None => "a libcuda.so that says no version and".to_owned(),
        Some(v) => format!("one of CUDA {} that", of(v)),
    };
    let message = format!("expected a CUDA driver of CUDA {oldest} or later, found {found} has no `{name}`");
    let hint = match version {
        Some(v) if v < OLDEST => "install a newer NVIDIA driver (570 or later), or run on the CPU",
        _ => {
            "install NVIDIA's driver again, see that the loader finds no other libcuda.so before it, or run on the CPU"
        }
    };
    Error::new(ErrorKind::Unsupported, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_function_that_a_driver_lacks_is_named() {
        assert_eq!(first_missing(|_| true), None);
        assert_eq!(first_missing(|_| false), Some("cuCtxDestroy_v2"));
        assert_eq!(first_missing(|name| name != "cuEventElapsedTime_v2"), Some("cuEventElapsedTime_v2"));
    }

    #[test]
    fn a_driver_that_is_too_old_is_told_from_one_that_is_broken() {
        let old = refused("cuEventElapsedTime_v2", Some(12040)).to_string();
        assert_eq!(
            old,
            "expected a CUDA driver of CUDA 12.8 or later, found one of CUDA 12.4 that has no `cuEventElapsedTime_v2` \
             (install a newer NVIDIA driver (570 or later), or run on the CPU)"
        );
        let broken = refused("cuInit", Some(13010)).to_string();
        assert!(broken.contains("found one of CUDA 13.1 that has no `cuInit`"), "{broken}");
        assert!(broken.contains("install NVIDIA's driver again"), "{broken}");
        let none = refused("cuInit", None).to_string();
        assert!(none.contains("found a libcuda.so that says no version and has no `cuInit`"), "{none}");
    }
}
