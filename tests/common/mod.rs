//! What the whole-program tests share: the program, as users run it, and small ONNX models built by hand.
#![allow(dead_code)] // each test program uses its own part

pub mod bits;
pub mod onnx;
pub mod refusal;
pub mod shuffle;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// A path as an argument.
pub fn s(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The most memory that it held, in KiB (`VmHWM`); 0 where the system does not tell.
    pub peak_kib: u64,
}

/// Runs the program to its end, under no switches but the defaults.
pub fn normfuse<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Done {
    normfuse_with(&[], args)
}

/// Runs the program to its end with these variables, and without the switches that whoever runs the tests may have set.
pub fn normfuse_with<S: AsRef<OsStr>>(variables: &[(&str, &str)], args: impl IntoIterator<Item = S>) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_normfuse"));
    for (name, _) in std::env::vars_os() {
        if ["NORMFUSE_", "ATOM_"].iter().any(|p| name.to_string_lossy().starts_with(p)) {
            command.env_remove(name);
        }
    }
    let mut child = command
        .envs(variables.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let id = child.id();
    let finished = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut peak = 0;
            while !finished.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(peak_kib(id));
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        // Both pipes are read while it runs, or a full one would stop it.
        let mut err = child.stderr.take().expect("piped");
        let stderr = scope.spawn(move || std::io::read_to_string(&mut err).expect("stderr is UTF-8"));
        let stdout = std::io::read_to_string(child.stdout.take().expect("piped")).expect("stdout is UTF-8");
        let stderr = stderr.join().expect("reader");
        let status = child.wait().expect("it ends");
        finished.store(true, std::sync::atomic::Ordering::Relaxed);
        let peak_kib = watcher.join().expect("watcher");
        let code = status.code().unwrap_or_else(|| panic!("killed: {status}; {stderr}"));
        assert!(!stderr.contains("panicked"), "{stderr}");
        Done { code, stdout, stderr, peak_kib }
    })
}

/// The high-water mark of a process that still runs.
fn peak_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

impl Done {
    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless standard error says this.
    #[track_caller]
    pub fn says(self, what: &str) -> Self {
        assert!(self.stderr.contains(what), "expected `{what}` in: {}", self.stderr);
        self
    }

    /// Standard output as one JSON object.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in: {}", self.stdout))
    }
}

/// A model of `tests/models`.
pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

/// Names of the files in a folder, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
