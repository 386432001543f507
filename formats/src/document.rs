//! What the text and JSON forms share as files: UTF-8 text, and weights as references to data files beside it, each file
//! checked once against the identity that it had when the graph was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};

use normfuse_ir::{
    Data, Graph, body,
    document::{FileId, Identify, Resolve, WeightRef},
    infer,
};

use crate::{
    atomic,
    error::{FormatError, Result},
    map::{DataFolder, Fingerprint, MappedFile},
};

/// Reads a graph in the form that `parse` knows.
pub(crate) fn read(path: &Path, parse: fn(&str, Resolve) -> normfuse_ir::Result<Graph>) -> Result<Graph> {
    let file = MappedFile::open(path)?;
    let text = std::str::from_utf8(file.bytes()).map_err(|e| {
        FormatError::mismatch("UTF-8 text", format!("other bytes at offset {}", e.valid_up_to())).in_file(path)
    })?;
    let mut reader = Reader { folder: DataFolder::of_model(path)?, checked: BTreeSet::new(), failed: None };
    reader.graph(text, parse).map_err(|e| e.in_file(path))
}

/// Writes a graph in the form that `print` makes.
pub(crate) fn write(graph: &Graph, path: &Path, print: fn(&Graph, Identify) -> String) -> Result<()> {
    let mut ids = BTreeMap::new();
    collect(graph, &mut DataFolder::of_model(path)?, &mut ids, &mut BTreeSet::new())?;
    let text = print(graph, &mut |file| ids.get(file).cloned());
    atomic::write(path, |out| {
        out.write_all(text.as_bytes())?;
        Ok(out.write_all(if text.ends_with('\n') { b"" } else { b"\n" })?)
    })
}

/// Turns the references of one file into mapped regions. `ir` asks through a callback that returns its own error type,
/// so the full error is kept here until the reader has failed.
struct Reader {
    folder: DataFolder,
    checked: BTreeSet<String>,
    failed: Option<FormatError>,
}

impl Reader {
    fn graph(&mut self, text: &str, parse: fn(&str, Resolve) -> normfuse_ir::Result<Graph>) -> Result<Graph> {
        let parsed = parse(text, &mut |weight| {
            self.resolve(weight).map_err(|e| {
                let short = normfuse_ir::Error::new(normfuse_ir::ErrorKind::Value, e.to_string());
                self.failed = Some(e.at_node(&weight.name));
                short
            })
        });
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let graph = parsed?;
        check_bodies(&graph)?;
        Ok(graph)
    }

    fn resolve(&mut self, weight: &WeightRef) -> Result<Data> {
        let name = &weight.file;
        if let Some(id) = &weight.id
            && !self.checked.contains(name)
        {
            let file = self.folder.file(name)?;
            if file.len() != id.size {
                return Err(stale(&file, format!("{} bytes", id.size), format!("{} bytes", file.len())));
            }
            let found = &file.fingerprint().hash;
            if *found != id.hash {
                return Err(stale(&file, format!("hash {}", id.hash), found));
            }
            self.checked.insert(name.clone());
        }
        self.folder.region(name, weight.offset, weight.len).map(Data::External)
    }
}

/// Refuses a graph in which a fused op's descriptor and body are not one function. The types that the check needs are
/// those of a copy: the graph stays as it is written down.
fn check_bodies(graph: &Graph) -> Result<()> {
    if graph.nodes().all(|(_, n)| !n.op.is_fused()) {
        return Ok(());
    }
    let mut typed = graph.clone();
    infer::infer(&mut typed)?;
    body::check_all(&typed).map_err(FormatError::of_body)?;
    Ok(())
}

fn stale(file: &MappedFile, expected: String, found: impl std::fmt::Display) -> FormatError {
    FormatError::mismatch(expected, found)
        .in_file(file.path())
        .hint("the data file is not the one that this model was written with; write the model again from its source")
}

/// Collects the identities of all data files that a graph refers to, once it is sure that they lie in `folder` under
/// the names that the graph uses: a file of the same name that belongs to another model must not become this model's
/// weights. `same` are the copies that were compared before.
fn collect(
    graph: &Graph,
    folder: &mut DataFolder,
    ids: &mut BTreeMap<String, FileId>,
    same: &mut BTreeSet<(String, PathBuf)>,
) -> Result<()> {
    for (_, value) in graph.values() {
        let Some(tensor) = value.stored() else { continue };
        let Data::External(region) = tensor.data() else { continue };
        let mut check = |folder: &mut DataFolder| -> Result<()> {
            let file = match region.data.origin() {
                Some(origin) if !folder.path_of(&region.file)?.exists() => {
                    let expected = format!("the data file `{}` in {}", region.file, folder.root().display());
                    return Err(FormatError::mismatch(expected, format!("it at {} only", origin.display())));
                }
                _ => folder.file(&region.file)?,
            };
            let here = file.region(region.offset, region.len)?;
            let known = match region.data.origin() {
                Some(origin) if origin == file.path() => true,
                Some(origin) => {
                    let key = (region.file.to_string(), origin.to_path_buf());
                    // A copy beside the output is as good as the file itself.
                    same.contains(&key) || {
                        let copy = MappedFile::open(origin)?.fingerprint() == file.fingerprint();
                        copy && same.insert(key)
                    }
                }
                None => normfuse_ir::RegionBytes::bytes(&here) == region.data.bytes(),
            };
            if !known {
                return Err(FormatError::mismatch("the data file that the graph was read with", "another one")
                    .in_file(file.path()));
            }
            if !ids.contains_key(&*region.file) {
                let Fingerprint { size, hash } = file.fingerprint().clone();
                ids.insert(region.file.to_string(), FileId { size, hash });
            }
            Ok(())
        };
        check(folder).map_err(|e| {
            e.at_node(&value.name).hint(
                "text and JSON refer to weights in files beside them: write into that folder, or copy the file first",
            )
        })?;
    }
    for (_, node) in graph.nodes() {
        if let Some(body) = &node.body {
            collect(body, folder, ids, same)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use normfuse_ir::text;

    use super::*;
    use crate::{json, nf};

    const MODEL: &str = "graph \"g\"\nweight %w: f32[2] = \"w.data\"[4..+8]\nweight %v: u8[1] = \"w.data\"[0..+1]\n\
                         input %x: f32[2]\n%y = add(%x, %w)\noutput %y\n";

    fn model() -> (tempfile::TempDir, Graph) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("w.data"), [0u8, 1, 2, 3, 0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
        fs::write(dir.path().join("m.nf"), MODEL).unwrap();
        let graph = nf::read(&dir.path().join("m.nf")).unwrap();
        (dir, graph)
    }

    #[test]
    fn weights_are_mapped_and_round_trip_in_both_forms() {
        let (dir, graph) = model();
        let bytes = |g: &Graph| g.values().find_map(|(_, v)| v.as_const().map(|t| t.bytes().to_vec())).unwrap();
        assert_eq!(bytes(&graph), [0, 0, 128, 63, 0, 0, 0, 64]);
        let (a, b) = (dir.path().join("a.nf"), dir.path().join("a.json"));
        nf::write(&graph, &a).unwrap();
        json::write(&graph, &b).unwrap();
        let written = fs::read_to_string(&a).unwrap();
        assert!(written.starts_with("file \"w.data\" size 12 hash \""), "{written}");
        assert_eq!(written.lines().skip(1).collect::<Vec<_>>(), MODEL.lines().collect::<Vec<_>>());
        for back in [nf::read(&a).unwrap(), json::read(&b).unwrap()] {
            assert_eq!(text::print(&back), MODEL);
            assert_eq!(bytes(&back), bytes(&graph));
        }
    }

    #[test]
    fn a_stale_data_file_is_an_error() {
        let (dir, graph) = model();
        let (a, b) = (dir.path().join("a.nf"), dir.path().join("a.json"));
        nf::write(&graph, &a).unwrap();
        json::write(&graph, &b).unwrap();
        drop(graph);
        for (contents, want) in [(vec![9u8; 12], "expected hash"), (vec![0u8; 13], "expected 12 bytes, found 13 bytes")]
        {
            // Another file in its place: the mapped one stays as it is.
            fs::remove_file(dir.path().join("w.data")).unwrap();
            fs::write(dir.path().join("w.data"), contents).unwrap();
            for e in [nf::read(&a).unwrap_err(), json::read(&b).unwrap_err()] {
                assert!(e.to_string().contains(want), "{e}");
                assert_eq!((e.file().unwrap().file_name().unwrap().to_str(), e.node()), (Some("w.data"), Some("w")));
            }
        }
    }

    #[test]
    fn bad_references_name_file_and_weight() {
        let (dir, _) = model();
        let path = dir.path().join("bad.nf");
        let cases = [
            ("\"gone\"[4..+8]", "gone"),
            ("\"../w.data\"[4..+8]", "expected a path inside the model's folder"),
            ("\"w.data\"[8..+8]", "expected 8 bytes at offset 8, found a file of 12 bytes"),
            ("\"w.data\"[18446744073709551615..+8]", "found a file of 12 bytes"),
        ];
        for (reference, want) in cases {
            fs::write(&path, MODEL.replace("\"w.data\"[4..+8]", reference)).unwrap();
            let e = nf::read(&path).unwrap_err();
            assert!(e.to_string().contains(want), "{e}");
            assert_eq!(e.node(), Some("w"), "{e}");
        }
        fs::write(&path, b"graph \"\xff\"").unwrap();
        assert!(
            nf::read(&path).unwrap_err().to_string().contains("expected UTF-8 text, found other bytes at offset 7")
        );
        fs::write(&path, "input %x: f99").unwrap();
        let e = nf::read(&path).unwrap_err().to_string();
        assert!(e.contains("bad.nf: line 1, column 11"), "{e}");
        assert!(json::read(&path).unwrap_err().to_string().contains("line 1 column 1"));
    }

    #[test]
    fn another_folder_needs_the_same_data_file() {
        let (dir, graph) = model();
        let other = tempfile::tempdir().unwrap();
        let out = other.path().join("m.nf");
        let refused = |want: &str| {
            let e = nf::write(&graph, &out).unwrap_err();
            assert!(e.to_string().contains(want), "{e}");
            assert_eq!(e.node(), Some("w"));
            assert!(!out.exists());
        };
        refused(&format!("expected the data file `w.data` in {}", other.path().canonicalize().unwrap().display()));
        fs::write(other.path().join("w.data"), [7u8; 12]).unwrap();
        refused("expected the data file that the graph was read with, found another one");
        fs::remove_file(other.path().join("w.data")).unwrap();
        fs::copy(dir.path().join("w.data"), other.path().join("w.data")).unwrap();
        nf::write(&graph, &out).unwrap();
        assert_eq!(text::print(&nf::read(&out).unwrap()), MODEL);
    }
}
