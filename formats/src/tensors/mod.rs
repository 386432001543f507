//! Named tensors in files: inputs and outputs of runs. `.npz` is what numpy reads; `.safetensors` also knows bfloat16 and
//! the 8-bit and 4-bit floats.

mod npy;
mod npz;
mod safetensors;

use std::path::Path;

use normfuse_ir::{DType, Tensor};

use crate::error::{FormatError, Result};

#[derive(Clone, Copy)]
enum Container {
    Npz,
    Safetensors,
}

fn container(path: &Path) -> Result<Container> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "npz" => Ok(Container::Npz),
        "safetensors" => Ok(Container::Safetensors),
        _ => Err(FormatError::mismatch("a .npz or .safetensors file", format!("the extension `{extension}`"))
            .in_file(path)
            .hint("numpy.savez and safetensors.numpy.save_file write these")),
    }
}

/// Reads all tensors of a `.npz` or `.safetensors` file, in file order.
///
/// # Errors
/// If the file is missing, damaged, or has an element type that is not one of the IR's.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    match container(path)? {
        Container::Npz => npz::read(path),
        Container::Safetensors => safetensors::read(path),
    }
    .map_err(|e| e.in_file(path))
}

/// Writes tensors into a `.npz` or `.safetensors` file, by its extension. A `.npz` keeps their order; `.safetensors`
/// sorts by alignment and name, as that format wants.
///
/// # Errors
/// If a name comes twice, the format lacks an element type, or the disk refuses; what was at `path` is then as it was.
pub fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some((name, _)) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
        return Err(FormatError::mismatch("each name once", format!("`{name}` twice")).in_file(path));
    }
    match container(path)? {
        Container::Npz => npz::write(path, tensors),
        Container::Safetensors => safetensors::write(path, tensors),
    }
    .map_err(|e| e.in_file(path))
}

/// Names the tensor in an error.
pub(crate) fn at_tensor(e: impl Into<FormatError>, name: &str) -> FormatError {
    e.into().at_port(format!("tensor `{name}`"))
}

/// Bools other than 0 and 1 would make two files of equal tensors differ, and every reader has its own idea of them.
pub(crate) fn check_bools(t: &Tensor) -> Result<()> {
    if t.dtype() == DType::Bool
        && let Some(b) = t.bytes().iter().find(|b| **b > 1)
    {
        return Err(FormatError::mismatch("bools of 0 or 1", b));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
