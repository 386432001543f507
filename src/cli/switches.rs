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

/// The pass's options under these switches, for what runs here.
pub fn options(switches: &Resolution) -> passes::Options {
    passes::Options {
        disabled: switches.disabled.clone(),
        supports: Arc::new(cpu::supports),
        supports_quantize: Arc::new(cpu::supports_quantize),
        ..passes::Options::default()
    }
}
