//! Which rules are on: the flags and the environment, handed to the pass's table of switches.

use std::sync::Arc;

use normfuse::{
    cpu, cuda,
    passes::{
        self,
        switches::{self, Resolution},
    },
};

use super::{
    args,
    failure::{Failure, Result},
};

/// Reads the switches; warnings go to standard error, each once.
///
/// # Errors
/// A rule that does not exist, or a variable that says neither on nor off.
pub fn read(flags: &args::Switches) -> Result<Resolution> {
    // What the runtime reads is no switch. A name or value that is not UTF-8 is none of ours; what replaces the bytes keeps it so.
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter(|(name, _)| !cuda::VARIABLES.iter().any(|v| name == v))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let resolution =
        switches::resolve(&flags.disable, &flags.enable, &environment).map_err(|e| Failure::Usage(e.to_string()))?;
    for warning in &resolution.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(resolution)
}

/// The pass's options under these switches, for what runs there.
pub fn options(switches: &Resolution, runs_on: args::RunsOn) -> passes::Options {
    passes::Options {
        disabled: switches.disabled.clone(),
        supports: Arc::new(move |norm| on(runs_on, || cpu::supports(norm), || cuda::supports(norm))),
        supports_quantize: Arc::new(move |scheme| {
            on(runs_on, || cpu::supports_quantize(scheme), || cuda::supports_quantize(scheme))
        }),
        ..passes::Options::default()
    }
}

/// What a runtime lacks for an op, of those that it has to run on.
fn on(
    runs_on: args::RunsOn,
    on_cpu: impl Fn() -> std::result::Result<(), String>,
    on_gpu: impl Fn() -> std::result::Result<(), String>,
) -> std::result::Result<(), String> {
    match runs_on {
        args::RunsOn::Cpu => on_cpu(),
        args::RunsOn::Cuda => on_gpu(),
        args::RunsOn::Both => {
            on_cpu()?;
            on_gpu().map_err(|why| format!("{why} (on a GPU; `--runs-on cpu` asks for none)"))
        }
    }
}
