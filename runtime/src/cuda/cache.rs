//! Machine code kept on disk: a kernel is compiled once, and not again by every process that wants it.
//!
//! An entry is a file named by the hash of all that its bytes depend on: the kernel's text, the files that it includes, the
//! compiler's options and version, the architecture, and the driver's version. It is written beside its name and renamed,
//! and says its own length and hash: what is cut off or damaged is compiled anew and replaced. Nothing is ever removed; the
//! folder may be, at any time.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use normfuse_ir::Result;

use super::nvrtc::Compiled;

/// The variable that names the folder of compiled kernels, or says `off`.
pub const VARIABLE: &str = "NORMFUSE_CUDA_CACHE";

/// What an entry begins with; another format has another number.
const MAGIC: &[u8; 16] = b"normfuse cubin 1";
/// Behind it: the key, two lengths, and the hash of what follows.
const HEADER: usize = MAGIC.len() + 32 + 8 + 8 + 32;

/// What an entry is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(blake3::Hash);

impl Key {
    /// Of everything that decides the machine code, in an order that does not change.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // With its length, so that no two lists of parts are the same bytes.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize())
    }
}

/// A folder of compiled kernels, or none. Clones share what has been said of it.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
    /// True once it was said that the folder cannot be written.
    said: Arc<AtomicBool>,
}

impl Cache {
    /// The user's: the folder that `NORMFUSE_CUDA_CACHE` names (`off` for none), else `normfuse` in `XDG_CACHE_HOME`, else
    /// `~/.cache/normfuse`. Without any of them nothing is kept.
    pub fn of_user() -> Self {
        let folder = folder(env::var_os(VARIABLE), env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"));
        folder.map_or_else(Self::off, Self::at)
    }

    /// In a folder, which is made when there is something to keep.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()), ..Self::default() }
    }

    /// One that keeps nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// The folder, if it keeps anything.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What is kept under a key; else what `make` gives, which is kept from then on. That it cannot be kept is no error: it
    /// is logged, once a cache.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&self, key: Key, make: impl FnOnce() -> Result<Compiled>) -> Result<Compiled> {
        let Some(folder) = &self.folder else { return make() };
        let file = folder.join(format!("{}.cubin", key.0.to_hex()));
        match fs::read(&file).map(|bytes| parse(key, &bytes)) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(why)) => {
                tracing::warn!(file = %file.display(), why, "a compiled kernel is damaged and is made anew");
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.say(&file, &e),
        }
        let made = make()?;
        if let Err(e) = store(folder, &file, &entry(key, &made)) {
            self.say(&file, &e);
        }
        Ok(made)
    }

    fn say(&self, file: &Path, why: &io::Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(file = %file.display(), %why, "compiled kernels are not kept; {VARIABLE} names another folder, or is `off`");
        }
    }
}

/// The folder that the environment asks for. A relative `XDG_CACHE_HOME` does not count, as its specification says.
fn folder(variable: Option<OsString>, xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let set = |v: Option<OsString>| v.filter(|v| !v.is_empty());
    if let Some(named) = set(variable) {
        return (!named.eq_ignore_ascii_case("off")).then(|| PathBuf::from(named));
    }
    let xdg = set(xdg).map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| set(home).map(|home| Path::new(&home).join(".cache"))).map(|caches| caches.join("normfuse"))
}

fn entry(key: Key, compiled: &Compiled) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + compiled.cubin.len() + compiled.log.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(key.0.as_bytes());
    out.extend_from_slice(&(compiled.cubin.len() as u64).to_le_bytes());
    out.extend_from_slice(&(compiled.log.len() as u64).to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&compiled.cubin).update(compiled.log.as_bytes());
    out.extend_from_slice(hasher.finalize().as_bytes());
    out.extend_from_slice(&compiled.cubin);
    out.extend_from_slice(compiled.log.as_bytes());
    out
}

/// What an entry holds, or what is wrong with it.
fn parse(key: Key, bytes: &[u8]) -> std::result::Result<Compiled, &'static str> {
    let mut rest = bytes;
    let mut take = |n: usize| rest.split_off(..n).ok_or("it is cut off");
    if take(MAGIC.len())? != MAGIC {
        return Err("it is of another format");
    }
    if take(32)? != key.0.as_bytes() {
        return Err("it is another kernel's");
    }
    let mut length = || take(8).map(|b| b.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)));
    let (cubin, log) = (length()?, length()?);
    let hash = take(32)?;
    if cubin.checked_add(log) != Some(rest.len() as u64) {
        return Err("it is not as long as it says");
    }
    if blake3::hash(rest).as_bytes() != hash {
        return Err("its bytes have another hash");
    }
    // No longer than the file, as was just seen.
    let (cubin, log) = rest.split_at(cubin as usize);
    let log = String::from_utf8(log.to_vec()).map_err(|_| "its log is no text")?;
    Ok(Compiled { cubin: cubin.to_vec(), log })
}

/// Writes a file beside its name and renames it: nobody sees half of it.
fn store(folder: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    make_folder(folder)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = file.with_extension(format!("{}.{count}.tmp", std::process::id()));
    let written =
        File::create(&beside).and_then(|mut out| out.write_all(bytes)).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // It may never have been there.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// For the user alone: what is loaded from there runs.
fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(n: u8) -> Compiled {
        Compiled { cubin: vec![n; 1000], log: "ptxas info : Used 32 registers\n".into() }
    }

    fn never() -> Result<Compiled> {
        unreachable!("it is kept")
    }

    /// The one entry of a cache.
    fn only(folder: &Path) -> PathBuf {
        let mut files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        let one = files.next().unwrap();
        assert_eq!(files.next(), None);
        one
    }

    #[test]
    fn what_was_made_is_kept_and_found_again() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("a/b");
        let (a, b) = (Key::of(["text", "sm_90"]), Key::of(["text", "sm_100a"]));
        let cache = Cache::at(&folder);
        assert_eq!(cache.get(a, || Ok(compiled(1))).unwrap(), compiled(1));
        assert_eq!(cache.get(a, never).unwrap(), compiled(1));
        assert_eq!(cache.get(b, || Ok(compiled(2))).unwrap(), compiled(2));
        // By another process, too; and nothing but the two is left.
        assert_eq!(Cache::at(&folder).get(a, never).unwrap(), compiled(1));
        assert_eq!(Cache::at(&folder).get(b, never).unwrap(), compiled(2));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn a_key_is_of_its_parts_and_not_of_their_sum() {
        assert_ne!(Key::of(["ab", "c"]), Key::of(["a", "bc"]));
        assert_ne!(Key::of(["a"]), Key::of(["a", ""]));
        assert_eq!(Key::of(["a", "b"]), Key::of(["a", "b"]));
    }

    #[test]
    fn a_failure_is_not_kept() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::at(temp.path());
        let error = normfuse_ir::Error::new(normfuse_ir::ErrorKind::Unsupported, "no");
        assert_eq!(cache.get(Key::of(["a"]), || Err(error.clone())), Err(error));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    /// Whatever byte is damaged, wherever the file ends, whatever is behind it: it is made anew, and the file is whole again.
    #[test]
    fn a_damaged_entry_is_made_anew() {
        let temp = tempfile::tempdir().unwrap();
        let key = Key::of(["a"]);
        let cache = Cache::at(temp.path());
        cache.get(key, || Ok(compiled(1))).unwrap();
        let file = only(temp.path());
        let whole = fs::read(&file).unwrap();
        let mut damaged: Vec<Vec<u8>> = [0, 1, 15, 16, 48, 63, HEADER, HEADER + 1, whole.len() - 1]
            .into_iter()
            .map(|len| whole[..len].to_vec())
            .collect();
        damaged.extend((0..whole.len()).step_by(7).chain([whole.len() - 1]).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            bytes
        }));
        damaged.push([&whole[..], &[0]].concat());
        for bytes in damaged {
            fs::write(&file, &bytes).unwrap();
            assert_eq!(cache.get(key, || Ok(compiled(2))).unwrap(), compiled(2));
            assert_eq!(cache.get(key, never).unwrap(), compiled(2));
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let key = Key::of(["a"]);
        let mut bytes = entry(key, &compiled(1));
        bytes[48..64].fill(0xff);
        assert_eq!(parse(key, &bytes), Err("it is not as long as it says"));
    }

    #[test]
    fn an_entry_under_another_name_is_not_taken() {
        let temp = tempfile::tempdir().unwrap();
        let (a, b) = (Key::of(["a"]), Key::of(["b"]));
        let cache = Cache::at(temp.path());
        cache.get(a, || Ok(compiled(1))).unwrap();
        fs::copy(only(temp.path()), temp.path().join(format!("{}.cubin", b.0.to_hex()))).unwrap();
        assert_eq!(cache.get(b, || Ok(compiled(2))).unwrap(), compiled(2));
    }

    #[test]
    fn a_folder_that_cannot_be_is_said_once_and_is_no_error() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = Cache::at(file.join("below"));
        for n in [1, 2] {
            assert_eq!(cache.get(Key::of(["a"]), || Ok(compiled(n))).unwrap(), compiled(n));
        }
        assert!(cache.said.load(Ordering::Relaxed));
        assert!(!Cache::at(temp.path()).said.load(Ordering::Relaxed));
    }

    #[test]
    fn the_folder_is_where_the_environment_says() {
        let at = |variable: &str, xdg: &str, home: &str| {
            let set = |v: &str| (v != "-").then(|| OsString::from(v));
            folder(set(variable), set(xdg), set(home)).map_or_else(|| "off".into(), |p| p.display().to_string())
        };
        assert_eq!(at("-", "-", "/home/a"), "/home/a/.cache/normfuse");
        assert_eq!(at("-", "/var/c", "/home/a"), "/var/c/normfuse");
        assert_eq!(at("-", "relative", "/home/a"), "/home/a/.cache/normfuse");
        assert_eq!(at("", "", "/home/a"), "/home/a/.cache/normfuse");
        assert_eq!(at("here", "/var/c", "/home/a"), "here");
        assert_eq!(at("off", "/var/c", "/home/a"), "off");
        assert_eq!(at("OFF", "/var/c", "/home/a"), "off");
        assert_eq!(at("-", "-", "-"), "off");
    }
}
