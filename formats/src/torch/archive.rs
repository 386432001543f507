//! The archive: a zip file whose records are stored as they are, so that weights are regions of the mapped file.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use normfuse_ir::{Data, Region};
use zip::{CompressionMethod, result::ZipError};

use crate::{
    error::{FormatError, Result},
    map::MappedFile,
    zipped,
};

/// Where a record's bytes lie in the file.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    len: u64,
}

/// The records of a `.pt2` archive by their names inside the archive's own folder.
#[derive(Debug)]
pub struct Archive {
    file: Arc<MappedFile>,
    /// The file's name, by which weights refer to it.
    name: Arc<str>,
    records: BTreeMap<String, Span>,
}

impl Archive {
    /// Opens an archive; nothing but its directory is read.
    ///
    /// # Errors
    /// What is no zip archive of torch's: cut off, with compressed or encrypted records, or with record names that leave
    /// the archive's folder.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into();
        let mut zip = zipped::open(file.bytes()).map_err(zip_error)?;
        if zip.has_duplicate_names() {
            return Err(FormatError::invalid("two records of the archive have the same name"));
        }
        let mut all = BTreeMap::new();
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(zip_error)?;
            let record = entry.name().map_err(zip_error)?.into_owned();
            let at = |e: FormatError| e.at_port(format!("record `{record}`"));
            if leaves(&record) {
                return Err(at(FormatError::mismatch("a name inside the archive", "one that leaves it")));
            }
            if entry.is_dir() {
                continue;
            }
            if entry.encrypted() || entry.compression() != CompressionMethod::Stored {
                let found = if entry.encrypted() { "encrypted".into() } else { format!("{:?}", entry.compression()) };
                return Err(at(FormatError::mismatch("a record that is stored as it is", found)
                    .hint("save it again with torch.export.save, which compresses nothing")));
            }
            let start = entry.data_start().ok_or_else(|| at(FormatError::invalid("the record has no data")))?;
            let span = Span { start, len: entry.size() };
            if entry.compressed_size() != span.len {
                let found = format!("{} bytes", entry.compressed_size());
                return Err(at(FormatError::mismatch(format!("{} bytes, as its header says", span.len), found)));
            }
            file.region(span.start, span.len).map_err(at)?;
            all.insert(record, span);
        }
        let archive = Self { records: inside(all)?, file, name };
        archive.is_little_endian()?;
        Ok(archive)
    }

    /// A record's bytes, if it is there.
    pub fn record(&self, name: &str) -> Option<&[u8]> {
        let span = self.records.get(name)?;
        // In bounds: checked where the record was found.
        self.file.bytes().get(usize::try_from(span.start).ok()?..)?.get(..usize::try_from(span.len).ok()?)
    }

    /// A part of a record as a tensor's data.
    ///
    /// # Errors
    /// A record that is not there or ends before the part does.
    pub fn data(&self, record: &str, offset: u64, len: u64) -> Result<Data> {
        let span = self.span(record)?;
        match offset.checked_add(len) {
            Some(end) if end <= span.len => {
                let offset = span.start + offset;
                let data = Arc::new(self.file.region(offset, len)?);
                Ok(Data::External(Region { file: self.name.clone(), offset, len, data }))
            }
            _ => Err(FormatError::mismatch(
                format!("{len} bytes at offset {offset} of the record `{record}`"),
                format!("a record of {} bytes", span.len),
            )),
        }
    }

    /// Weights are read where they lie, by machines whose numbers begin with the low byte, as nearly all do.
    fn is_little_endian(&self) -> Result<()> {
        const RECORD: &str = "byteorder";
        match self.record(RECORD).map(<[u8]>::trim_ascii) {
            None | Some(b"little") => Ok(()),
            Some(other) => {
                let begin: String = String::from_utf8_lossy(other).chars().take(20).collect();
                Err(FormatError::mismatch("`little`: numbers that begin with the low byte", format!("`{begin}`"))
                    .at_port(format!("record `{RECORD}`"))
                    .hint("export the model on a little-endian machine"))
            }
        }
    }

    fn span(&self, record: &str) -> Result<Span> {
        let found = self.records.get(record).copied();
        found.ok_or_else(|| FormatError::mismatch(format!("a record `{record}` in the archive"), "none"))
    }

    /// The only record of a folder with that extension.
    ///
    /// # Errors
    /// None, or several.
    pub fn only(&self, folder: &str, extension: &str) -> Result<&str> {
        let mut found =
            self.records.keys().filter(|r| r.starts_with(folder) && r.ends_with(extension)).map(String::as_str);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(FormatError::mismatch(format!("a record {folder}NAME{extension}"), "none")
                .hint("a .pt2 file is what torch.export.save writes, torch 2.8 or later")),
            (Some(a), Some(b)) => Err(FormatError::mismatch("one model in the archive", format!("`{a}` and `{b}`"))
                .hint("save each model in a file of its own")),
        }
    }
}

/// The records of the folder that has the archive's marker, by their names in it.
fn inside(all: BTreeMap<String, Span>) -> Result<BTreeMap<String, Span>> {
    const MARKER: &str = "archive_format";
    let root = all.keys().find_map(|r| r.strip_suffix(MARKER).filter(|f| f.is_empty() || f.ends_with('/')));
    let Some(root) = root.map(str::to_owned) else {
        let old = all.keys().any(|r| r.ends_with("serialized_exported_program.json"));
        let found = if old { "the layout of torch before 2.8" } else { "none" };
        return Err(FormatError::mismatch(format!("a record `{MARKER}`"), found)
            .hint("save it again with torch.export.save, torch 2.8 or later"));
    };
    Ok(all.into_iter().filter_map(|(r, span)| Some((r.strip_prefix(&root)?.to_owned(), span))).collect())
}

/// True for names that are absolute or climb: whoever unpacks such an archive writes outside of it.
fn leaves(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':');
    name.starts_with(['/', '\\']) || drive || name.split(['/', '\\']).any(|part| part == "..") || name.contains('\0')
}

fn zip_error(e: ZipError) -> FormatError {
    match e {
        ZipError::Io(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => e.into(),
        e => FormatError::invalid(format!("this is no zip archive that can be read: {e}"))
            .hint("a .pt2 file is what torch.export.save writes; the file may be cut off"),
    }
}
