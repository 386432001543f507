//! The program: see `normfuse --help`.
mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
