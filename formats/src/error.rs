//! The one error type of this crate: which file, which node and port, what was expected and found, what to do.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use normfuse_ir as ir;

use crate::checkpoint::Misfit;

/// Shorthand for this crate's results.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The system could not open, map, read or write the file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The graph or tensor in the file is not one that the IR accepts.
    #[error("{0}")]
    Ir(#[from] ir::Error),
    /// The file says one thing where another was needed.
    #[error("expected {expected}, found {found}")]
    Mismatch {
        /// What a well-formed file has there.
        expected: String,
        /// What this file has.
        found: String,
    },
    /// A checkpoint and a model that do not belong together: everything that is wrong.
    #[error("{0}")]
    Misfit(Box<Misfit>),
    /// Anything else that makes the file unusable, as one sentence.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Debug)]
struct Inner {
    file: Option<PathBuf>,
    node: Option<String>,
    port: Option<String>,
    cause: Cause,
    hint: Option<String>,
}

/// An error that names the file and, where it is about one, the node and port. Boxed: results stay small.
#[derive(Debug)]
pub struct FormatError(Box<Inner>);

impl FormatError {
    /// An error of which only the cause is known yet.
    pub fn new(cause: impl Into<Cause>) -> Self {
        Self(Box::new(Inner { file: None, node: None, port: None, cause: cause.into(), hint: None }))
    }

    /// The file has `found` where `expected` was needed.
    pub fn mismatch(expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::new(Cause::Mismatch { expected: expected.to_string(), found: found.to_string() })
    }

    /// One sentence that says what is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Cause::Invalid(message.into()))
    }

    /// Names the file, unless an inner frame already did.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        self.0.file.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// Names the node, unless an inner frame already did.
    #[must_use]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.0.node.get_or_insert_with(|| node.into());
        self
    }

    /// Names the operand, result or attribute, unless an inner frame already did.
    #[must_use]
    pub fn at_port(mut self, port: impl Into<String>) -> Self {
        self.0.port.get_or_insert_with(|| port.into());
        self
    }

    /// Adds what the user can do, unless an inner frame already did.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// A fused op in a file does not agree with the body that the file has for it, or cannot be compared.
    pub(crate) fn of_body(e: ir::Error) -> Self {
        let differs = e.kind != ir::ErrorKind::Unsupported;
        let hint = "the file was changed or made by another version: compile the source model again";
        if differs { Self::from(e).hint(hint) } else { e.into() }
    }

    /// The file that the error is about.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The node that the error is about.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The operand, result or attribute that the error is about.
    pub fn port(&self) -> Option<&str> {
        self.0.port.as_deref()
    }

    /// What went wrong.
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }
}

impl From<io::Error> for FormatError {
    fn from(e: io::Error) -> Self {
        Self::new(e)
    }
}

impl From<ir::Error> for FormatError {
    /// What the IR says of the place becomes this error's own, so that outer frames do not name it again.
    fn from(mut e: ir::Error) -> Self {
        let (node, port, hint) = (e.node.take(), e.port.take(), e.hint.take());
        Self(Box::new(Inner { file: None, node, port, cause: e.into(), hint }))
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "{}: ", file.display())?;
        }
        match (&self.0.node, &self.0.port) {
            (Some(node), Some(port)) => write!(f, "node `{node}`, {port}: ")?,
            (Some(node), None) => write!(f, "node `{node}`: ")?,
            (None, Some(port)) => write!(f, "{port}: ")?,
            (None, None) => {}
        }
        write!(f, "{}", self.0.cause)?;
        match &self.0.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FormatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message of the cause is part of our own, so the chain goes on with what lies below it.
        std::error::Error::source(&self.0.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_file_node_port_expected_found_and_hint_once() {
        let e = FormatError::mismatch("8 bytes", "7")
            .at_port("raw_data")
            .at_node("w")
            .at_node("outer")
            .in_file(Path::new("m.onnx"))
            .hint("export it again");
        assert_eq!(e.to_string(), "m.onnx: node `w`, raw_data: expected 8 bytes, found 7 (export it again)");
        assert_eq!((e.node(), e.port(), e.file()), (Some("w"), Some("raw_data"), Some(Path::new("m.onnx"))));
    }

    #[test]
    fn an_ir_error_keeps_its_node() {
        let inner = ir::Error::new(ir::ErrorKind::Shape, "rank 3").at_node("n").at_port("x").hint("transpose it");
        let e = FormatError::from(inner).at_node("outer").hint("or else");
        assert_eq!((e.node(), e.port()), (Some("n"), Some("x")));
        assert_eq!(e.in_file(Path::new("f")).to_string(), "f: node `n`, x: rank 3 (transpose it)");
    }
}
