//! `torch.export` archives (`.pt2`, torch 2.8 and later): read, in training IR or decomposed.
//!
//! Parameters keep their names in the model and stay where they are, as regions of the archive. One that was exported
//! without data is an input of the graph; [`crate::parameters`] tells which values they are. What ATen's ops mean is spelled in the IR's, with ATen's promotion and roundings;
//! in-place ops become values where that is provable; calls that are not known stay foreign. Every node knows its
//! module and its line in the model's source.

mod archive;
mod args;
mod build;
mod dtype;
mod expr;
mod import;
mod inline;
mod memory;
mod ops;
mod place;
mod promote;
mod returned;
mod schema;
mod version;
mod weights;

use std::path::Path;

use normfuse_ir::Graph;

use self::{
    archive::Archive,
    schema::{MAJOR, Program, Versioned},
    weights::Weights,
};
use crate::error::{FormatError, Result};

/// Reads a program.
///
/// # Errors
/// An archive that is broken, a program of another schema or one that contradicts itself, tensors that are pickled, and
/// in-place ops that are no values: the error names the file and the node.
pub fn read(path: &Path) -> Result<Graph> {
    read_inner(path).map_err(|e| e.in_file(path))
}

fn read_inner(path: &Path) -> Result<Graph> {
    let archive = Archive::open(path)?;
    let record = archive.only("models/", ".json")?;
    let json = archive.record(record).unwrap_or_default();
    let mut program = parse(json).map_err(|e| e.at_port(format!("record `{record}`")))?;
    inline::grad_modes(&mut program.graph_module.graph);
    let model = record.trim_start_matches("models/").trim_end_matches(".json");
    let weights = Weights::of(&archive, model)?;
    import::import(model, &program, &weights)
}

fn parse(json: &[u8]) -> Result<Program> {
    let program = serde_json::from_slice::<Program>(json);
    // Another major version may well not parse as this one.
    let version = match &program {
        Ok(p) => Some((p.schema_version.major, p.schema_version.minor)),
        Err(_) => {
            serde_json::from_slice::<Versioned>(json).ok().map(|v| (v.schema_version.major, v.schema_version.minor))
        }
    };
    if let Some((major, minor)) = version.filter(|v| v.0 != MAJOR) {
        return Err(FormatError::mismatch(
            format!("a program of torch's schema, major version {MAJOR}"),
            format!("version {major}.{minor}"),
        )
        .hint("export it again with torch 2.8 or later"));
    }
    program.map_err(|e| FormatError::mismatch(format!("a program of torch's schema, major version {MAJOR}"), e))
}
