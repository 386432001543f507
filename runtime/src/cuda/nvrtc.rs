//! Compiling CUDA C++ through NVRTC, which needs no GPU and no compiler, only its own library.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    ptr,
    sync::{OnceLock, PoisonError, RwLock},
};

use cudarc::nvrtc::sys;
use normfuse_ir::{Error, ErrorKind, Result};

use super::{
    cache::{Cache, Key},
    library::Library,
    source::HEADERS,
};

/// The variable that names the library, or a folder that has it.
pub const VARIABLE: &str = "NORMFUSE_NVRTC";

pub(super) const LIBRARY: Library = Library {
    name: "NVRTC",
    file: "libnvrtc.so",
    opens: Some("libnvrtc-builtins.so"),
    purpose: "to compile kernels",
    variable: VARIABLE,
    package: "nvidia-cuda-nvrtc",
    folder: "cuda_nvrtc",
};

/// What keeps the bits: no contraction of products and sums, no flushing of denormals, IEEE division and roots.
const OPTIONS: [&str; 7] = [
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "--device-as-default-execution-space",
    "--ptxas-options=-v",
];

/// NVRTC 13.0 now and then has no log where several threads compile at the same time: such a text is
/// compiled again while no other one is. The library itself is one for the whole process.
static ALONE: RwLock<()> = RwLock::new(());

/// A compiled kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code for one architecture.
    pub cubin: Vec<u8>,
    /// What the assembler says: registers, shared memory, spills.
    pub log: String,
}

impl Compiled {
    /// Registers a thread, as the log says: of the kernel that takes the most.
    pub fn registers(&self) -> Option<u32> {
        self.numbers_before(" registers").max()
    }

    /// Bytes of registers that went to memory, as the log says: stores and loads, of all kernels.
    pub fn spills(&self) -> Option<u32> {
        let [stores, loads] = [" bytes spill stores", " bytes spill loads"].map(|what| {
            let mut all = self.numbers_before(what).peekable();
            all.peek().is_some().then(|| all.sum::<u32>())
        });
        Some(stores? + loads?)
    }

    fn numbers_before<'a>(&'a self, what: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.log
            .match_indices(what)
            .filter_map(|(at, _)| self.log[..at].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
    }
}

/// NVRTC, loaded.
#[derive(Debug, Clone, Copy)]
pub struct Compiler(());

impl Compiler {
    /// Loads the library: from where `NORMFUSE_NVRTC` says, else by the loader's path, else from `CUDA_HOME`, `CUDA_PATH`,
    /// `/usr/local/cuda` or the packages of a Python environment.
    ///
    /// # Errors
    /// `Unsupported` with every place that was looked at.
    pub fn load() -> Result<Self> {
        static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
        // SAFETY: it opens and closes a library of a known name, whose constructors are safe to run.
        let loaded = LOADED.get_or_init(|| LIBRARY.load(|| unsafe { sys::is_culib_present() }));
        loaded.as_ref().map(|()| Self(())).map_err(|places| LIBRARY.missing(places))
    }

    /// Major and minor version.
    ///
    /// # Errors
    /// `Unsupported` if the library does not say.
    pub fn version(self) -> Result<(i32, i32)> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the library is loaded, and both pointers are to integers that live past the call.
        check(unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }, "nvrtcVersion")?;
        Ok((major, minor))
    }

    /// As [`Compiler::compile`], out of a cache if it is there; `driver` is the version of the driver that will run it.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn compile_once(self, cache: &Cache, text: &str, arch: &str, driver: i32) -> Result<Compiled> {
        let (major, minor) = self.version()?;
        let versions = format!("NVRTC {major}.{minor}, driver {driver}");
        let files = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
        let key = Key::of([text, arch, &versions].into_iter().chain(OPTIONS).chain(files));
        cache.get(key, || self.compile(text, arch))
    }

    /// Machine code of a text for an architecture such as `sm_90`. Deterministic for one version of the library.
    ///
    /// # Errors
    /// `Unsupported` with the compiler's messages.
    pub fn compile(self, text: &str, arch: &str) -> Result<Compiled> {
        let among_others = {
            let _shared = ALONE.read().unwrap_or_else(PoisonError::into_inner);
            self.compile_text(text, arch)?
        };
        let (cubin, log) = if among_others.1.is_empty() {
            let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
            self.compile_text(text, arch)?
        } else {
            among_others
        };
        let Some(cubin) = cubin else {
            let message = format!("a kernel does not compile for {arch}:\n{}", log.trim());
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        Ok(Compiled { cubin, log })
    }

    /// Machine code, if a text compiles, and the compiler's messages.
    #[allow(clippy::unused_self, reason = "who has one has loaded the library")]
    fn compile_text(self, text: &str, arch: &str) -> Result<(Option<Vec<u8>>, String)> {
        let c = |s: &str| CString::new(s).map_err(|_| Error::new(ErrorKind::Value, "a kernel's text has a zero byte"));
        let source = c(text)?;
        let (mut names, mut texts) = (Vec::new(), Vec::new());
        for (name, text) in HEADERS {
            names.push(c(name)?);
            texts.push(c(text)?);
        }
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
        let (name_pointers, text_pointers) = (pointers(&names), pointers(&texts));
        let mut program = Program(ptr::null_mut());
        // SAFETY: all strings end with a zero and live past the call, which copies them; counts are those of the arrays.
        let created = unsafe {
            sys::nvrtcCreateProgram(
                &raw mut program.0,
                source.as_ptr(),
                c"fused_norm.cu".as_ptr(),
                HEADERS.len() as c_int,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        check(created, "nvrtcCreateProgram")?;
        let mut options = vec![c(&format!("--gpu-architecture={arch}"))?];
        for option in OPTIONS {
            options.push(c(option)?);
        }
        let option_pointers = pointers(&options);
        // SAFETY: the program was created above, and the options live past the call.
        let compiled = unsafe { sys::nvrtcCompileProgram(program.0, options.len() as c_int, option_pointers.as_ptr()) };
        let log = program.log()?;
        let cubin = (compiled == sys::nvrtcResult::NVRTC_SUCCESS).then(|| program.cubin()).transpose()?;
        Ok((cubin, log))
    }
}

/// A program of the library's, which is destroyed when it is dropped.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> Result<String> {
        let mut size = 0;
        // SAFETY: the program exists, and the pointer is to a size that lives past the call.
        check(unsafe { sys::nvrtcGetProgramLogSize(self.0, &raw mut size) }, "nvrtcGetProgramLogSize")?;
        let mut bytes = vec![0u8; size.max(1)];
        // SAFETY: the buffer has as many bytes as the library asked for.
        check(unsafe { sys::nvrtcGetProgramLog(self.0, bytes.as_mut_ptr().cast()) }, "nvrtcGetProgramLog")?;
        let text = CStr::from_bytes_until_nul(&bytes).map(CStr::to_string_lossy).unwrap_or_default();
        Ok(text.into_owned())
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: as above.
        check(unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut size) }, "nvrtcGetCUBINSize")?;
        let mut bytes = vec![0u8; size];
        // SAFETY: as above.
        check(unsafe { sys::nvrtcGetCUBIN(self.0, bytes.as_mut_ptr().cast()) }, "nvrtcGetCUBIN")?;
        Ok(bytes)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the program exists and is not used again. There is nothing to be done about a failure.
            let _ = unsafe { sys::nvrtcDestroyProgram(&raw mut self.0) };
        }
    }
}

fn check(result: sys::nvrtcResult, call: &str) -> Result<()> {
    if result == sys::nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{call} failed: {result:?}")))
}
