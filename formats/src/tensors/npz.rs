//! `.npz`: a zip archive of `.npy` arrays.

use std::path::Path;

use normfuse_ir::Tensor;
use zip::{CompressionMethod, ZipWriter, result::ZipError, write::SimpleFileOptions};

use super::{at_tensor, check_bools, npy};
use crate::{
    atomic,
    error::{FormatError, Result},
    map::MappedFile,
    zipped,
};

pub(super) fn read(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = MappedFile::open(path)?;
    let mut archive = zipped::open(file.bytes()).map_err(zip_error)?;
    if archive.has_duplicate_names() {
        return Err(FormatError::invalid("two arrays have the same name"));
    }
    let mut tensors = Vec::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(zip_error)?;
        let file_name = entry.name().map_err(zip_error)?.into_owned();
        let Some(name) = file_name.strip_suffix(".npy").map(str::to_owned) else {
            return Err(FormatError::mismatch("arrays named NAME.npy", format!("`{file_name}`"))
                .hint("a .npz file is what numpy.savez writes"));
        };
        let tensor = npy::read(&mut entry).map_err(|e| at_tensor(e, &name))?;
        check_bools(&tensor).map_err(|e| at_tensor(e, &name))?;
        tensors.push((name, tensor));
    }
    Ok(tensors)
}

pub(super) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    atomic::write(path, |out| {
        let mut zip = ZipWriter::new(out);
        for (name, tensor) in tensors {
            // Stored, as numpy.savez does; the fixed default time keeps equal tensors equal files.
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .last_modified_time(zip::DateTime::default())
                .large_file(tensor.bytes().len() > 1 << 31);
            zip.start_file(format!("{name}.npy"), options).map_err(|e| at_tensor(zip_error(e), name))?;
            npy::write(&mut zip, tensor).map_err(|e| at_tensor(e, name))?;
        }
        zip.finish().map_err(zip_error)?;
        Ok(())
    })
}

fn zip_error(e: ZipError) -> FormatError {
    match e {
        ZipError::Io(e) => e.into(),
        e => FormatError::invalid(format!("this is no zip archive that can be read: {e}"))
            .hint("a .npz file is what numpy.savez writes"),
    }
}
