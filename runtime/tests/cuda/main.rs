//! The CUDA backend against the CPU's, bit for bit. Compiling needs NVRTC and no GPU; running needs a GPU. What is missing
//! skips its tests, and says so on standard error.

#[allow(dead_code, reason = "the CPU's tests use all of it")]
#[path = "../cpu/check.rs"]
mod check;
#[allow(dead_code, reason = "the CPU's tests use all of it")]
#[path = "../cpu/schemes.rs"]
mod schemes;

use std::io::{self, Write};

use normfuse_runtime::cuda::{Compiler, NVRTC_VARIABLE};

mod arguments;
mod compile;
mod elementary;
mod launches;
mod matrix;
mod ops;
mod regimes;
mod tensor_scale;
mod variants;

/// What is there, or none, and the reason is said, past the harness, which would keep it to itself.
fn or_skip<T>(found: normfuse_ir::Result<T>) -> Option<T> {
    found.inspect_err(|e| _ = writeln!(io::stderr(), "skipped: {e}")).ok()
}

/// NVRTC, where it is; where `NORMFUSE_NVRTC` names it, it has to be there.
fn compiler() -> Option<Compiler> {
    let found = Compiler::load();
    if let (Err(e), true) = (&found, std::env::var_os(NVRTC_VARIABLE).is_some()) {
        panic!("{e}");
    }
    or_skip(found)
}
