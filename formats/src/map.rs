//! Mapped files: weights are read through the page cache and never copied.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Component, Path, PathBuf},
    sync::{Arc, OnceLock},
};

use memmap2::Mmap;
use normfuse_ir::{Region, RegionBytes};

use crate::error::{FormatError, Result};

/// A file mapped read-only.
pub struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
    fingerprint: OnceLock<Fingerprint>,
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.path.display(), self.len())
    }
}

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// If it is missing, not a regular file, or cannot be mapped.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        Self::open_inner(path).map_err(|e| e.in_file(path))
    }

    fn open_inner(path: &Path) -> Result<Arc<Self>> {
        // Asked before opening: opening a pipe would wait for a writer.
        let meta = std::fs::metadata(path)?;
        if !meta.is_file() {
            let found = if meta.is_dir() { "a folder" } else { "a device or pipe" };
            return Err(FormatError::mismatch("a regular file", found));
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        if usize::try_from(len).ok().and_then(|n| isize::try_from(n).ok()).is_none() {
            return Err(FormatError::mismatch("a file that fits the address space", format!("{len} bytes")));
        }
        let map = if len == 0 {
            None
        } else {
            // SAFETY: the mapping is read-only and is never handed out mutably. Another process that truncates the file
            // while we read it ends this process with a bus error and cannot corrupt memory; one that overwrites bytes
            // changes weights, which are plain bytes to us: any bit pattern is a valid u8.
            Some(unsafe { Mmap::map(&file)? })
        };
        // The canonical path is how writers tell whether a region's file is the one beside their output.
        Ok(Arc::new(Self { path: path.canonicalize()?, map, fingerprint: OnceLock::new() }))
    }

    /// The file's canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// True for a file of 0 bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// A part of the file; it keeps the mapping alive.
    ///
    /// # Errors
    /// If it ends past the end of the file.
    pub fn region(self: &Arc<Self>, offset: u64, len: u64) -> Result<MappedRegion> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len());
        match (usize::try_from(offset), usize::try_from(len), end) {
            (Ok(offset), Ok(len), Some(_)) => Ok(MappedRegion { file: self.clone(), offset, len }),
            _ => Err(FormatError::mismatch(
                format!("{len} bytes at offset {offset}"),
                format!("a file of {} bytes", self.len()),
            )
            .in_file(&self.path)
            .hint("the file is truncated or belongs to another model")),
        }
    }

    /// The file's size and sampled hash; computed once.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.fingerprint.get_or_init(|| Fingerprint::of(self.bytes()))
    }
}

/// A part of a mapped file.
#[derive(Debug, Clone)]
pub struct MappedRegion {
    file: Arc<MappedFile>,
    offset: usize,
    len: usize,
}

impl RegionBytes for MappedRegion {
    fn bytes(&self) -> &[u8] {
        // In bounds: checked where the region is made, and a mapping keeps its length.
        self.file.bytes().get(self.offset..self.offset + self.len).unwrap_or_default()
    }

    fn origin(&self) -> Option<&Path> {
        Some(self.file.path())
    }
}

/// What tells one data file from another without reading all of it: its size, and blake3 over the size (8 bytes, little
/// endian) followed by 256 blocks of 4 KiB at evenly spaced offsets (block `i` starts at `i * (size - 4096) / 255`), or
/// by the whole file where that is no longer. A file of 100 GB costs 1 MB of reading; a change between the samples that
/// keeps the size goes unseen, so this guards against mix-ups and not against an adversary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// The first 16 bytes of the hash, in hex.
    pub hash: String,
}

impl Fingerprint {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 256;

    /// Of a file's contents.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        if bytes.len() <= Self::BLOCK * Self::BLOCKS {
            hasher.update(bytes);
        } else {
            let span = (bytes.len() - Self::BLOCK) as u128;
            for i in 0..Self::BLOCKS {
                let start = (i as u128 * span / (Self::BLOCKS as u128 - 1)) as usize;
                hasher.update(&bytes[start..start + Self::BLOCK]);
            }
        }
        let hash = hasher.finalize().to_hex()[..32].to_owned();
        Self { size: bytes.len() as u64, hash }
    }
}

/// The data files beside a model, opened by the names that the model gives them and never outside its folder.
#[derive(Debug)]
pub struct DataFolder {
    root: PathBuf,
    /// Links may lead out of the folder.
    linked: bool,
    open: BTreeMap<String, Arc<MappedFile>>,
}

impl DataFolder {
    /// The folder of the model file at `model` (which need not exist yet).
    ///
    /// # Errors
    /// If the folder does not exist.
    pub fn of_model(model: &Path) -> Result<Self> {
        let parent = match model.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let root = parent.canonicalize().map_err(|e| FormatError::from(e).in_file(parent))?;
        Ok(Self { root, linked: false, open: BTreeMap::new() })
    }

    /// The folder of a checkpoint, whose files may be links to anywhere: whoever downloads models keeps files apart from
    /// their names. Names are refused as for a model.
    ///
    /// # Errors
    /// As [`DataFolder::of_model`].
    pub fn of_checkpoint(index: &Path) -> Result<Self> {
        Ok(Self { linked: true, ..Self::of_model(index)? })
    }

    /// The folder's canonical path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of the file `name` in this folder; it need not exist.
    ///
    /// # Errors
    /// If the name is empty or absolute, or its `..` lead out of the folder.
    pub fn path_of(&self, name: &str) -> Result<PathBuf> {
        let refuse = |found: String| {
            Err(FormatError::mismatch("a path inside the model's folder", found)
                .hint("data files must lie beside the model or below it"))
        };
        let mut inside: Vec<&std::ffi::OsStr> = Vec::new();
        for part in Path::new(name).components() {
            match part {
                Component::Normal(part) => inside.push(part),
                Component::CurDir => {}
                Component::ParentDir if inside.pop().is_some() => {}
                Component::ParentDir => return refuse(format!("`{name}`, which leaves it")),
                Component::RootDir | Component::Prefix(_) => return refuse(format!("the absolute path `{name}`")),
            }
        }
        if inside.is_empty() {
            return refuse(format!("`{name}`"));
        }
        Ok(inside.into_iter().fold(self.root.clone(), |p, part| p.join(part)))
    }

    /// Maps the file `name`, once however often it is asked for.
    ///
    /// # Errors
    /// As [`DataFolder::path_of`]; also if the file is missing or a symbolic link leads out of a model's folder.
    pub fn file(&mut self, name: &str) -> Result<Arc<MappedFile>> {
        if let Some(file) = self.open.get(name) {
            return Ok(file.clone());
        }
        let path = self.path_of(name)?;
        let missing = if self.linked {
            "the index names this file for some of its tensors; put it beside the index"
        } else {
            "the model's weights are in this file; put it beside the model"
        };
        let real = path.canonicalize().map_err(|e| FormatError::from(e).in_file(&path).hint(missing))?;
        if !self.linked && !real.starts_with(&self.root) {
            return Err(FormatError::mismatch("a file inside the model's folder", "a link that leads out of it")
                .in_file(&path)
                .hint("replace the link by the file"));
        }
        let file = MappedFile::open(&real)?;
        self.open.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    /// A region of the file `name`.
    ///
    /// # Errors
    /// As [`DataFolder::file`] and [`MappedFile::region`].
    pub fn region(&mut self, name: &str, offset: u64, len: u64) -> Result<Region> {
        let data = Arc::new(self.file(name)?.region(offset, len)?);
        Ok(Region { file: name.into(), offset, len, data })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("m/sub")).unwrap();
        fs::write(dir.path().join("m/w.data"), [1u8, 2, 3, 4]).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        let folder = DataFolder::of_model(&dir.path().join("m/model.onnx")).unwrap();
        (dir, folder)
    }

    #[test]
    fn regions_are_bounded_by_the_file() {
        let (_dir, mut f) = folder();
        assert_eq!(f.region("w.data", 1, 3).unwrap().data.bytes(), [2, 3, 4]);
        assert!(f.region("sub/../w.data", 4, 0).unwrap().data.bytes().is_empty());
        for (offset, len) in [(1, 4), (5, 0), (u64::MAX, 1), (1, u64::MAX)] {
            let e = f.region("w.data", offset, len).unwrap_err().to_string();
            assert!(e.contains("w.data") && e.contains("found a file of 4 bytes"), "{e}");
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let (_dir, mut f) = folder();
        for name in ["../secret", "sub/../../secret", "/etc/passwd", "", ".", "sub/.."] {
            let e = f.file(name).unwrap_err().to_string();
            assert!(e.contains("expected a path inside the model's folder"), "{name}: {e}");
        }
        let e = f.file("gone.data").unwrap_err().to_string();
        assert!(e.contains("gone.data"), "{e}");
        assert!(f.file("sub").unwrap_err().to_string().contains("found a folder"));
        assert!(f.file("w\0x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_that_leave_the_folder_are_refused() {
        let (dir, mut f) = folder();
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("m/out")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("m/w.data"), dir.path().join("m/in")).unwrap();
        assert!(f.file("out").unwrap_err().to_string().contains("a link that leads out"));
        assert_eq!(f.file("in").unwrap().bytes(), [1, 2, 3, 4]);
    }

    #[cfg(unix)]
    #[test]
    fn links_of_a_checkpoint_are_followed_and_names_are_not() {
        let (dir, _) = folder();
        let index = dir.path().join("m/model.safetensors.index.json");
        std::os::unix::fs::symlink("../secret", dir.path().join("m/part")).unwrap();
        let mut f = DataFolder::of_checkpoint(&index).unwrap();
        assert_eq!(f.file("part").unwrap().bytes(), b"s");
        for name in ["../secret", "/etc/passwd", "sub/../../secret"] {
            assert!(f.file(name).unwrap_err().to_string().contains("inside the model's folder"), "{name}");
        }
    }

    #[test]
    fn an_empty_file_maps_to_nothing() {
        let (dir, mut f) = folder();
        fs::write(dir.path().join("m/empty"), "").unwrap();
        assert!(f.file("empty").unwrap().is_empty());
        assert!(f.region("empty", 0, 0).unwrap().data.bytes().is_empty());
        assert!(f.region("empty", 0, 1).is_err());
    }

    #[test]
    fn fingerprints_see_size_ends_and_samples() {
        let n = Fingerprint::BLOCK * Fingerprint::BLOCKS + 12345;
        let mut big = vec![7u8; n];
        let whole = Fingerprint::of(&big);
        assert_eq!((whole.size, whole.hash.len()), (n as u64, 32));
        assert_ne!(whole, Fingerprint::of(&big[1..]));
        for at in [0, n - 1] {
            big[at] = 8;
            assert_ne!(whole.hash, Fingerprint::of(&big).hash, "byte {at}");
            big[at] = 7;
        }
        let small = vec![0u8; 10_000];
        let mut other = small.clone();
        other[5000] = 1;
        assert_ne!(Fingerprint::of(&small), Fingerprint::of(&other));
    }
}
