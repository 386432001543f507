//! `.nf`: the IR's text form in a file, its weights in data files beside it.

use std::path::Path;

use normfuse_ir::{Graph, text};

use crate::{document, error::Result};

/// Reads a graph; weights are mapped.
///
/// # Errors
/// If the file is missing or not UTF-8, does not parse, or a data file is missing, too short or not the one that the
/// graph was written with.
pub fn read(path: &Path) -> Result<Graph> {
    document::read(path, text::parse)
}

/// Writes a graph. Weights stay in their data files, which must lie in the folder of `path`.
///
/// # Errors
/// If a data file lies elsewhere, or the disk refuses; what was at `path` is then as it was.
pub fn write(graph: &Graph, path: &Path) -> Result<()> {
    document::write(graph, path, text::print_with)
}
