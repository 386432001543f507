//! The program: see `normfuse --help`.
mod cli;

/// Graphs are hundreds of thousands of small vectors: the pass takes a third less time than with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
