//! How a command fails: a check that it was asked to make, or input that it cannot work on.

use normfuse::{formats::FormatError, ir};

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command worked, and what it was asked to check does not hold.
    #[error("check failed: {0}")]
    Check(String),
    /// A file or graph that cannot be used.
    #[error(transparent)]
    Input(#[from] FormatError),
    /// Arguments that make no sense for this model.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    /// The exit code that `--help` promises.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Check(_) => 1,
            Self::Input(_) | Self::Usage(_) => 2,
        }
    }

    /// An error of the IR, about a graph that came from this file.
    pub fn of_graph(file: &std::path::Path) -> impl Fn(ir::Error) -> Self + '_ {
        move |e| Self::Input(FormatError::from(e).in_file(file))
    }
}

/// Shorthand for what commands return.
pub type Result<T, E = Failure> = std::result::Result<T, E>;
