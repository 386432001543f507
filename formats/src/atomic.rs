//! Writing a file so that nobody ever sees half of it.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::error::{FormatError, Result};

/// A file beside the target that becomes the target on [`AtomicFile::commit`] and is removed if that never happens.
///
/// Several files that belong together (a model and its weights) are each written and flushed first and committed last.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temp: PathBuf,
    out: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts a new file beside `target`; `target` itself is not touched.
    ///
    /// # Errors
    /// If the folder does not exist or cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| FormatError::mismatch("the path of a file", "a folder").in_file(target))?;
        // The process id keeps two processes apart, the counter two files of one process.
        for attempt in 0..1000u32 {
            let mut temp = std::ffi::OsString::from(".");
            temp.push(name);
            temp.push(format!(".{}.{attempt}.tmp", std::process::id()));
            let temp = target.with_file_name(temp);
            match File::options().write(true).create_new(true).open(&temp) {
                Ok(file) => {
                    return Ok(Self { target: target.to_path_buf(), temp, out: Some(BufWriter::new(file)) });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(FormatError::from(e).in_file(target)),
            }
        }
        Err(FormatError::invalid("1000 unfinished copies lie beside it").in_file(target).hint("remove the .tmp files"))
    }

    /// The path that the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes everything to disk and gives the file its name, replacing what was there.
    ///
    /// # Errors
    /// If the disk refuses; the target is then as it was and the temporary file is gone.
    pub fn commit(mut self) -> Result<()> {
        let target = self.target.clone();
        self.finish().map_err(|e| FormatError::from(e).in_file(&target))
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(out) = self.out.take() else { return Ok(()) };
        let moved = out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.temp, &self.target));
        if moved.is_err() {
            let _ = fs::remove_file(&self.temp);
        }
        moved
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Some(out) => out.write(buf),
            None => Err(io::Error::other("the file is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl io::Seek for AtomicFile {
    fn seek(&mut self, pos: io::SeekFrom) -> io::Result<u64> {
        match &mut self.out {
            Some(out) => out.seek(pos),
            None => Err(io::Error::other("the file is finished")),
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.out.take().is_some() {
            let _ = fs::remove_file(&self.temp);
        }
    }
}

/// Writes a whole file through `fill`, or leaves what was there.
///
/// # Errors
/// What `fill` returns, or that the disk refuses.
pub fn write(target: &Path, fill: impl FnOnce(&mut AtomicFile) -> Result<()>) -> Result<()> {
    let mut file = AtomicFile::create(target)?;
    fill(&mut file).map_err(|e| e.in_file(target))?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut v: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        v.sort();
        v
    }

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        fs::write(&path, "old").unwrap();
        let err = write(&path, |f| {
            f.write_all(b"half")?;
            assert_eq!(fs::read(&path).unwrap(), b"old");
            Err(FormatError::invalid("stop"))
        });
        assert_eq!(err.unwrap_err().file(), Some(path.as_path()));
        assert_eq!(names(dir.path()), ["a.bin"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, |f| Ok(f.write_all(b"new")?)).unwrap();
        assert_eq!(names(dir.path()), ["a.bin"]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn two_at_a_time_do_not_collide_and_a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let (a, b) = (AtomicFile::create(&path).unwrap(), AtomicFile::create(&path).unwrap());
        drop(a);
        b.commit().unwrap();
        assert_eq!(names(dir.path()), ["a.bin"]);
        let missing = dir.path().join("no/such/x");
        assert_eq!(AtomicFile::create(&missing).unwrap_err().file(), Some(missing.as_path()));
        // A folder in the target's place: the rename fails and nothing is left behind.
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/full"), "").unwrap();
        assert!(write(&dir.path().join("d"), |_| Ok(())).is_err());
        assert_eq!(names(dir.path()), ["a.bin", "d"]);
    }
}
