//! Checkpoints: a model's parameters by name, in one `.safetensors` file or in several with an index
//! (`model.safetensors.index.json`). Files are mapped and their headers checked; no tensor is read.
//!
//! [`bind`] gives a graph its parameters from one, by name: either everything fits, or nothing is bound and the error
//! lists all that does not.

mod bind;
mod index;
mod misfit;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
    sync::Arc,
};

use normfuse_ir::{DType, Region};

pub use bind::{Bound, Rules, bind, check_prefix, is_within};
pub use misfit::{Fault, Misfit, Wrong};

use crate::{
    error::{FormatError, Result},
    map::{DataFolder, MappedFile},
    safetensors,
    tensors::at_tensor,
};

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

/// A tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its element type, if the IR has it.
    pub dtype: Option<DType>,
    /// As `.safetensors` calls that type.
    pub type_name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its elements are.
    pub region: Region,
}

impl Checkpoint {
    /// Maps the files of a checkpoint and checks their headers.
    ///
    /// # Errors
    /// A file that is missing or damaged, one outside of the index's folder, an index that is none, and one that does not
    /// agree with its files: the error names the file and the tensor.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path).map_err(|e| e.in_file(path))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        const WANTED: &str = "a checkpoint: FILE.safetensors, or the FILE.safetensors.index.json of one in parts";
        if path.is_dir() {
            return Err(FormatError::mismatch(WANTED, "a folder").hint("name the file in it"));
        }
        let mut checkpoint = Self { path: path.to_path_buf(), tensors: BTreeMap::new() };
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if extension.eq_ignore_ascii_case("safetensors") {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            let mut faults = Vec::new();
            checkpoint.add(&MappedFile::open(path)?, &name, None, &mut faults)?;
            together(faults)?;
        } else if extension.eq_ignore_ascii_case("json") {
            let index = index::read(path)?;
            let mut folder = DataFolder::of_checkpoint(path)?;
            let mut faults = Vec::new();
            for (shard, names) in &index {
                match folder.file(shard) {
                    Ok(file) => {
                        let added = checkpoint.add(&file, shard, Some(names), &mut faults);
                        added.map_err(|e| e.in_file(file.path()))?;
                    }
                    Err(e) => faults.push(e.at_port(format!("part `{shard}`"))),
                }
            }
            together(faults)?;
        } else {
            let found =
                if extension.is_empty() { "no extension".into() } else { format!("the extension `{extension}`") };
            return Err(FormatError::mismatch(WANTED, found));
        }
        Ok(checkpoint)
    }

    /// Takes in the tensors of one file; `listed` are those that the index has for it. Where they disagree is one of the faults.
    fn add(
        &mut self,
        file: &Arc<MappedFile>,
        name: &str,
        listed: Option<&Vec<String>>,
        faults: &mut Vec<FormatError>,
    ) -> Result<()> {
        const HINT: &str = "index and files are not of one checkpoint";
        let name: Arc<str> = name.into();
        let mut listed =
            listed.map(|names| names.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>());
        for entry in safetensors::entries(file)? {
            let tensor = entry.name;
            if listed.as_mut().is_some_and(|l| !l.remove(tensor.as_str())) {
                let e = FormatError::mismatch("a tensor that the index has for this file", "one that it has not");
                faults.push(at_tensor(e, &tensor).hint(HINT).in_file(file.path()));
                continue;
            }
            let data = Arc::new(file.region(entry.offset, entry.len)?);
            let region = Region { file: name.clone(), offset: entry.offset, len: entry.len, data };
            let stored = Stored { dtype: entry.dtype, type_name: entry.type_name, shape: entry.shape, region };
            match self.tensors.entry(tensor) {
                Entry::Vacant(free) => drop(free.insert(stored)),
                Entry::Occupied(taken) => {
                    let other = taken.get().region.file.to_string();
                    let e = FormatError::mismatch("each tensor in one file", format!("it in `{other}`, too"));
                    faults.push(at_tensor(e, taken.key()).in_file(file.path()));
                }
            }
        }
        for missing in listed.iter().flatten() {
            let e = FormatError::mismatch("a tensor that the index has for this file", "none of that name");
            faults.push(at_tensor(e, missing).hint(HINT).in_file(file.path()));
        }
        Ok(())
    }

    /// The file that was opened: the index of a checkpoint in parts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// All tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Stored)> + '_ {
        self.tensors.iter().map(|(name, stored)| (name.as_str(), stored))
    }
}

/// Nothing, the one fault, or all of them.
fn together(mut faults: Vec<FormatError>) -> Result<()> {
    match faults.len() {
        0 => Ok(()),
        1 => Err(faults.swap_remove(0)),
        n => {
            let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let all = all.join("\n  ");
            Err(FormatError::invalid(format!("{n} faults in the parts that the index names:\n  {all}")))
        }
    }
}

impl Stored {
    /// The same bytes as the codes that they are: files have elements of 4 bits two to a byte along the last axis, and
    /// powers of two by their bytes, as `U8`.
    pub(crate) fn as_codes(&self, wanted: Option<DType>) -> Self {
        let mut codes = self.clone();
        if self.dtype == Some(DType::U8) && matches!(wanted, Some(DType::F4E2M1 | DType::F8E8M0)) {
            codes.dtype = wanted;
            if wanted == Some(DType::F4E2M1)
                && let Some(last) = codes.shape.last_mut()
            {
                *last *= 2;
            }
        }
        codes
    }
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.dtype {
            Some(dtype) => write!(f, "{dtype}")?,
            None => write!(f, "{}", self.type_name)?,
        }
        write!(f, "{:?} in {}", self.shape, self.region.file)
    }
}

#[cfg(test)]
mod tests;
