//! NVIDIA's libraries, found where they usually are and loaded for good.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use normfuse_ir::{Error, ErrorKind};

/// A library, and what users need to know of it.
pub(super) struct Library {
    /// What it is called.
    pub name: &'static str,
    /// How the names of its files begin.
    pub file: &'static str,
    /// How those of another one begin that it opens by name, beside it, where the loader may not look.
    pub opens: Option<&'static str>,
    /// What it is needed for.
    pub purpose: &'static str,
    /// The environment variable that names it, or a folder that has it.
    pub variable: &'static str,
    /// The Python package that brings it.
    pub package: &'static str,
    /// Its folder among those of older packages.
    pub folder: &'static str,
}

impl Library {
    /// Loads it for good: from where its variable says, else by the loader's path (as `present` finds it), else from `CUDA_HOME`,
    /// `CUDA_PATH`, `/usr/local/cuda` or the packages of a Python environment. Once it is, bindings find it by its name, wherever
    /// it was. The error is every place that was looked at.
    pub fn load(&self, present: impl Fn() -> bool) -> Result<(), String> {
        let mut places = Vec::new();
        let mut tried = |path: &Path| {
            places.push(path.display().to_string());
            self.newest(path).is_some_and(|file| self.keep(&file))
        };
        if let Some(path) = env::var_os(self.variable).map(PathBuf::from) {
            if !tried(&path) {
                return Err(format!("{} (as {} says)", path.display(), self.variable));
            }
        } else if !present() && !self.folders().iter().any(|folder| tried(folder)) {
            return Err(searched(&places));
        }
        if present() { Ok(()) } else { Err(format!("{} (a version that is unknown here)", places.join(", "))) }
    }

    /// The error for users, with the places that were looked at.
    pub fn missing(&self, places: &str) -> Error {
        let message = format!("{} is needed {}; looked for {} in {places}", self.name, self.purpose, self.file);
        Error::new(ErrorKind::Unsupported, message)
            .hint(format!("`pip install {}`, or name the library in {}", self.package, self.variable))
    }

    /// The library itself, or the newest one in a folder.
    fn newest(&self, path: &Path) -> Option<PathBuf> {
        if path.is_file() { Some(path.to_owned()) } else { newest_of(path, self.file) }
    }

    /// Loads it for good, after the one that it opens.
    fn keep(&self, file: &Path) -> bool {
        // SAFETY: the files are NVIDIA's libraries by their names, whose constructors are safe to run.
        let open = |file: &Path| unsafe { libloading::Library::new(file) }.map(std::mem::forget).is_ok();
        if let Some(other) = self.opens.and_then(|opens| newest_of(file.parent()?, opens)) {
            // An old version has none, and a new one that lacks it says so when it is used.
            let _ = open(&other);
        }
        open(file)
    }

    /// Folders that may have it, besides those of the loader.
    fn folders(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        for home in homes.chain([PathBuf::from("/usr/local/cuda")]) {
            all.extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|sub| home.join(sub)));
        }
        let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        let system = ["/usr/local", "/usr"].map(PathBuf::from);
        for root in environments.chain(system) {
            for python in children(&root.join("lib"), "python3") {
                for site in ["site-packages", "dist-packages"] {
                    let nvidia = python.join(site).join("nvidia");
                    all.extend(["cu13", "cu12", self.folder].map(|sub| nvidia.join(sub).join("lib")));
                }
            }
        }
        all.retain(|folder| folder.is_dir());
        all
    }
}

/// Where a library was looked for in vain: by the loader, then in these folders.
fn searched(folders: &[String]) -> String {
    if folders.is_empty() {
        return "the loader's path; no folder of CUDA or of a Python environment is there to look in".into();
    }
    format!("the loader's path, {}", folders.join(", "))
}

fn newest_of(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found = children(folder, prefix);
    found.sort_by_key(|p| p.as_os_str().len());
    found.pop()
}

fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::nvrtc::LIBRARY;

    #[test]
    fn the_error_lists_the_folders_or_says_that_there_are_none() {
        let said = |folders: &[&str]| {
            let folders: Vec<String> = folders.iter().map(ToString::to_string).collect();
            LIBRARY.missing(&searched(&folders)).to_string()
        };
        let (none, two) = (said(&[]), said(&["/opt/cuda/lib64", "/venv/nvidia/cu13/lib"]));
        let hint = " (`pip install nvidia-cuda-nvrtc`, or name the library in NORMFUSE_NVRTC)";
        let begins = "NVRTC is needed to compile kernels; looked for libnvrtc.so in the loader's path";
        let reason = "; no folder of CUDA or of a Python environment is there to look in";
        assert_eq!(none, format!("{begins}{reason}{hint}"));
        assert_eq!(two, format!("{begins}, /opt/cuda/lib64, /venv/nvidia/cu13/lib{hint}"));
    }
}
