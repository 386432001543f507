//! The one error type of this crate: what is wrong, where, and what to do.

use std::fmt;

/// What kind of thing is wrong; callers branch on it, people read the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The graph's structure is wrong: a dangling value, a cycle, a wrong number of operands.
    Structure,
    /// Element types do not fit the op.
    DType,
    /// Shapes do not fit the op, or are impossible.
    Shape,
    /// The two ends of a quantised edge disagree about its scheme.
    Scheme,
    /// Text or JSON that does not parse.
    Parse,
    /// The op cannot be executed here (a foreign op, a dtype that the op does not support).
    Unsupported,
    /// Data that an op cannot work on (an index out of range, a negative size).
    Value,
}

/// An error that names the node and port it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The class of the error.
    pub kind: ErrorKind,
    /// What was expected and what was found.
    pub message: String,
    /// The node's name, once it is known.
    pub node: Option<String>,
    /// The operand or result's name within the node.
    pub port: Option<String>,
    /// What the user can do about it.
    pub hint: Option<String>,
}

/// Shorthand for this crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a message that says what was expected and found.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), node: None, port: None, hint: None }
    }

    /// Names the node, unless an inner frame already did.
    #[must_use]
    pub fn at_node(mut self, node: impl Into<String>) -> Self {
        self.node.get_or_insert_with(|| node.into());
        self
    }

    /// Names the operand or result, unless an inner frame already did.
    #[must_use]
    pub fn at_port(mut self, port: impl Into<String>) -> Self {
        self.port.get_or_insert_with(|| port.into());
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "node `{node}`")?;
            if let Some(port) = &self.port {
                write!(f, ", {port}")?;
            }
            f.write_str(": ")?;
        } else if let Some(port) = &self.port {
            write!(f, "{port}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
