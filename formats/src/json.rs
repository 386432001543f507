//! The IR's JSON form in a file, its weights in data files beside it.

use std::path::Path;

use normfuse_ir::{Graph, json};

use crate::{document, error::Result};

/// Reads a graph; weights are mapped.
///
/// # Errors
/// As [`crate::nf::read`].
pub fn read(path: &Path) -> Result<Graph> {
    document::read(path, json::parse)
}

/// Writes a graph. Weights stay in their data files, which must lie in the folder of `path`.
///
/// # Errors
/// As [`crate::nf::write`].
pub fn write(graph: &Graph, path: &Path) -> Result<()> {
    document::write(graph, path, json::print_with)
}
