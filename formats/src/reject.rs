//! Why a reader does not make a node of the file one of the IR's ops.

use crate::FormatError;

/// Why a node or call is none of the IR's ops.
pub enum Reject {
    /// It may be right, but not in a way that the IR can say: keep it as it is.
    Foreign(String),
    /// It is wrong.
    Bad(FormatError),
}

impl From<FormatError> for Reject {
    fn from(e: FormatError) -> Self {
        Self::Bad(e)
    }
}

impl From<normfuse_ir::Error> for Reject {
    fn from(e: normfuse_ir::Error) -> Self {
        Self::Bad(e.into())
    }
}

/// Keeps a node foreign.
pub fn foreign<T>(reason: impl Into<String>) -> Result<T, Reject> {
    Err(Reject::Foreign(reason.into()))
}
