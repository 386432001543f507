//! `normfuse test`: what every graph of a folder compiles to, against the snapshots beside them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use normfuse::{
    Format,
    formats::{FormatError, atomic::AtomicFile},
    testing,
};
use serde::de::IgnoredAny;

use super::{
    args,
    failure::{Failure, Result},
    output,
    progress::Progress,
    switches,
};

/// What a snapshot's name has after its graph's.
const SUFFIX: &str = "snap";

pub fn main(args: &args::Test) -> Result<()> {
    let options = switches::options(&switches::read(&args.switches)?, args.host.runs_on);
    let mut progress = Progress::new();
    progress.step("testing");
    let mut found = Folder::default();
    found.walk(&args.folder)?;
    if found.graphs.is_empty() {
        return Err(Failure::Usage(format!("{}: no graph in it (.onnx, .pt2, .nf or .json)", args.folder.display())));
    }
    let mut cases = Vec::new();
    let mut bad = Vec::new();
    for (i, graph) in found.graphs.iter().enumerate() {
        progress.at(i, found.graphs.len());
        match Case::of(graph, &options) {
            Ok(case) => cases.push(case),
            Err(e) => bad.push(e.to_string()),
        }
    }
    drop(progress);
    let orphans: Vec<&PathBuf> = found.snapshots.iter().filter(|s| found.graph_of(s).is_none()).collect();
    let tally = Tally::of(&cases, orphans.len());
    if args.update {
        if bad.is_empty() {
            update(&cases, &orphans)?;
            output::print(&(updated(&cases, &orphans) + &tally.line(true)))?;
        }
    } else {
        output::print(&(differences(&cases, &orphans) + &tally.line(false)))?;
    }
    if !bad.is_empty() {
        return Err(Failure::Usage(bad.join("\nerror: ")));
    }
    match tally.off() {
        0 => Ok(()),
        _ if args.update => Ok(()),
        n => Err(Failure::Check(format!("{n} snapshots are not what the graphs compile to (--update writes them)"))),
    }
}

/// The files of a folder and of those in it, by name.
#[derive(Default)]
struct Folder {
    graphs: Vec<PathBuf>,
    snapshots: Vec<PathBuf>,
}

impl Folder {
    fn walk(&mut self, folder: &Path) -> Result<()> {
        let failed = |e| FormatError::from(e).in_file(folder);
        let mut entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // A link to a folder may lead back up; folders that start with a dot belong to tools.
            if entry.file_type().map_err(failed)?.is_dir() {
                if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                    self.walk(&path)?;
                }
            } else if is_snapshot(&path) {
                self.snapshots.push(path);
            } else if is_graph(&path)? {
                self.graphs.push(path);
            }
        }
        Ok(())
    }

    fn graph_of(&self, snapshot: &Path) -> Option<&PathBuf> {
        let graph = snapshot.with_extension("");
        self.graphs.iter().find(|g| **g == graph)
    }
}

/// `NAME.onnx.snap` and the like: files of other tools that end in `.snap` are none of ours.
fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == SUFFIX) && Format::of(&path.with_extension("")).is_ok_and(is_read)
}

fn is_read(format: Format) -> bool {
    format != Format::Dot
}

/// Model folders hold other JSON too (configurations, tokenizers): only what says that it is a graph is one.
#[allow(clippy::zero_sized_map_values, reason = "this is how serde skips what is in an object")]
fn is_graph(path: &Path) -> Result<bool> {
    match Format::of(path) {
        Ok(Format::Json) => {
            let text = fs::read(path).map_err(|e| FormatError::from(e).in_file(path))?;
            Ok(match serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&text) {
                Ok(keys) => keys.contains_key("normfuse"),
                // What is no JSON at all may be half a graph: its reader will say so.
                Err(e) => !e.is_data(),
            })
        }
        Ok(format) => Ok(is_read(format)),
        Err(_) => Ok(false),
    }
}

fn snapshot_path(graph: &Path) -> PathBuf {
    let mut name = graph.as_os_str().to_owned();
    name.push(".");
    name.push(SUFFIX);
    name.into()
}

/// One graph.
struct Case {
    snapshot: PathBuf,
    pinned: Option<String>,
    found: String,
    diff: Option<String>,
}

impl Case {
    fn of(graph: &Path, options: &normfuse::passes::Options) -> Result<Self> {
        let source = normfuse::open(graph)?;
        let found = testing::snapshot(&source, options).map_err(Failure::of_graph(graph))?;
        let snapshot = snapshot_path(graph);
        let pinned = match fs::read_to_string(&snapshot) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(FormatError::from(e).in_file(&snapshot).into()),
        };
        let diff = pinned.as_ref().and_then(|p| testing::diff(&snapshot.display().to_string(), p, &found));
        Ok(Self { snapshot, pinned, found, diff })
    }

    fn equal(&self) -> bool {
        self.pinned.is_some() && self.diff.is_none()
    }
}

struct Tally {
    equal: usize,
    differ: usize,
    missing: usize,
    orphaned: usize,
}

impl Tally {
    fn of(cases: &[Case], orphaned: usize) -> Self {
        let count = |f: &dyn Fn(&Case) -> bool| cases.iter().filter(|c| f(c)).count();
        Self {
            equal: count(&Case::equal),
            differ: count(&|c| c.diff.is_some()),
            missing: count(&|c| c.pinned.is_none()),
            orphaned,
        }
    }

    fn off(&self) -> usize {
        self.differ + self.missing + self.orphaned
    }

    fn line(&self, update: bool) -> String {
        let [differ, missing, orphaned] =
            if update { ["updated", "new", "removed"] } else { ["differ", "missing", "orphaned"] };
        let mut text = format!("{} graphs: {} equal", self.equal + self.differ + self.missing, self.equal);
        for (n, what) in [(self.differ, differ), (self.missing, missing), (self.orphaned, orphaned)] {
            if n > 0 {
                let _ = write!(text, ", {n} {what}");
            }
        }
        text + "\n"
    }
}

fn differences(cases: &[Case], orphans: &[&PathBuf]) -> String {
    let mut text = String::new();
    for case in cases {
        match (&case.diff, &case.pinned) {
            (Some(diff), _) => text.push_str(diff),
            (None, None) => _ = writeln!(text, "missing: {}", case.snapshot.display()),
            (None, Some(_)) => {}
        }
    }
    for orphan in orphans {
        let _ = writeln!(text, "orphaned: {} has no graph beside it", orphan.display());
    }
    text
}

fn updated(cases: &[Case], orphans: &[&PathBuf]) -> String {
    let mut text = String::new();
    for case in cases.iter().filter(|c| !c.equal()) {
        let what = if case.pinned.is_some() { "updated" } else { "new" };
        let _ = writeln!(text, "{what}: {}", case.snapshot.display());
    }
    for orphan in orphans {
        let _ = writeln!(text, "removed: {}", orphan.display());
    }
    text
}

/// Writes what is not equal and removes what has no graph. Every new file is on disk before the first old one goes.
fn update(cases: &[Case], orphans: &[&PathBuf]) -> Result<()> {
    let mut files = Vec::new();
    for case in cases.iter().filter(|c| !c.equal()) {
        let mut file = AtomicFile::create(&case.snapshot)?;
        file.write_all(case.found.as_bytes())
            .and_then(|()| file.flush())
            .map_err(|e| FormatError::from(e).in_file(&case.snapshot))?;
        files.push(file);
    }
    for file in files {
        file.commit()?;
    }
    for orphan in orphans {
        fs::remove_file(orphan).map_err(|e| FormatError::from(e).in_file(orphan))?;
    }
    Ok(())
}
