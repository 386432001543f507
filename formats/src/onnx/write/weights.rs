//! Constants to `TensorProto`: bytes inline, references to the source's data files, or a new data file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use normfuse_ir::{Data, Opaque, Region, RegionBytes, Tensor};
use prost::Message;

use crate::{
    FormatError, Result,
    atomic::AtomicFile,
    onnx::{
        dtype,
        proto::{GraphProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
    },
};

/// Weights from this size on start on a page, so that they can be mapped one by one.
const PAGE_FROM: u64 = 64 << 10;
const PAGE: u64 = 4096;
/// Alignment of the others.
const SMALL: u64 = 64;

struct Held(Arc<dyn RegionBytes>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// A tensor with its bytes in the message; the bytes are shared, not copied.
pub fn inline(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto { raw_data: Some(raw(tensor)), ..header(name, tensor) }
}

fn raw(tensor: &Tensor) -> Bytes {
    match tensor.data() {
        Data::Inline(b) => Bytes::from_owner(Held(b.clone())),
        Data::External(r) => Bytes::from_owner(Held(r.data.clone())),
    }
}

fn header(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()).filter(|n| !n.is_empty()),
        data_type: Some(dtype::to_onnx(tensor.dtype())),
        // A tensor that exists has sizes far below i64::MAX.
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        ..TensorProto::default()
    }
}

/// Where external weights go.
pub struct Weights {
    folder: PathBuf,
    copy: Option<Copy>,
}

struct Copy {
    /// Name of the new data file, as the model writes it.
    location: String,
    path: PathBuf,
    /// Where each region starts in the new file; the key is its source, offset and length.
    placed: BTreeMap<(PathBuf, u64, u64), u64>,
    regions: Vec<(u64, Region)>,
    end: u64,
}

impl Weights {
    /// For a model at `path`.
    pub fn new(path: &Path, copy: bool) -> Result<Self> {
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let folder = parent.canonicalize().map_err(|e| FormatError::from(e).in_file(parent))?;
        let copy = if copy {
            let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
                FormatError::mismatch("an output name in UTF-8, for the model names its data file", path.display())
            })?;
            let location = format!("{name}.data");
            let path = path.with_file_name(&location);
            Some(Copy { location, path, placed: BTreeMap::new(), regions: Vec::new(), end: 0 })
        } else {
            None
        };
        Ok(Self { folder, copy })
    }

    /// A constant of the model.
    ///
    /// # Errors
    /// If its bytes lie where the new model must not point.
    pub fn initializer(&mut self, name: &str, tensor: &Tensor) -> Result<TensorProto> {
        self.place(header(name, tensor), tensor)
    }

    /// A constant of a type that the IR lacks, as [`opaque`](crate::onnx::read) took it apart.
    ///
    /// # Errors
    /// If it is not that, and as [`Weights::initializer`].
    pub fn opaque(&mut self, name: &str, bytes: &Tensor, Opaque(rest): &Opaque, out: &mut GraphProto) -> Result<()> {
        let GraphProto { initializer, sparse_initializer, .. } =
            GraphProto::decode(&**rest).map_err(|e| FormatError::mismatch("an encoded initializer", e))?;
        for mut t in initializer {
            t.name = Some(name.to_owned());
            out.initializer.push(if bytes.is_empty() { t } else { self.place(t, bytes)? });
        }
        for mut t in sparse_initializer {
            if let Some(values) = &mut t.values {
                values.name = Some(name.to_owned());
            }
            out.sparse_initializer.push(t);
        }
        Ok(())
    }

    /// Gives a tensor its bytes.
    fn place(&mut self, t: TensorProto, tensor: &Tensor) -> Result<TensorProto> {
        let Data::External(region) = tensor.data() else { return Ok(TensorProto { raw_data: Some(raw(tensor)), ..t }) };
        let (location, offset) = match &mut self.copy {
            Some(copy) => (copy.location.clone(), copy.place(region)?),
            None => (self.locate(region)?, region.offset),
        };
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        Ok(TensorProto {
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                entry("location", location),
                entry("offset", offset.to_string()),
                entry("length", region.len.to_string()),
            ],
            ..t
        })
    }

    /// The region's file as seen from the new model's folder.
    fn locate(&self, region: &Region) -> Result<String> {
        let beside = self.folder.join(&*region.file).canonicalize().ok();
        let Some(origin) = region.data.origin() else {
            // Somebody else's bytes: all that can be asked is that the file which they name is there.
            return match beside {
                Some(_) => Ok(region.file.to_string()),
                None => {
                    Err(FormatError::mismatch(format!("the data file `{}` beside the new model", region.file), "none")
                        .hint("write beside the source, or pass --copy-weights"))
                }
            };
        };
        if beside.as_deref() == Some(origin) {
            return Ok(region.file.to_string());
        }
        let below = origin.strip_prefix(&self.folder).ok().and_then(|p| {
            p.components().map(|c| c.as_os_str().to_str()).collect::<Option<Vec<_>>>().map(|parts| parts.join("/"))
        });
        below.ok_or_else(|| {
            FormatError::mismatch(
                format!(
                    "weights inside of {}, for ONNX allows no path out of the model's folder",
                    self.folder.display()
                ),
                origin.display(),
            )
            .hint("write beside the source, or pass --copy-weights")
        })
    }

    /// Writes the new data file, if there is one; the caller commits it.
    ///
    /// # Errors
    /// If a source file has shrunk or the disk refuses.
    pub fn finish(self) -> Result<Option<AtomicFile>> {
        let Some(copy) = self.copy.filter(|c| !c.regions.is_empty()) else { return Ok(None) };
        let mut out = AtomicFile::create(&copy.path)?;
        let mut at = 0;
        for (start, region) in &copy.regions {
            let gap = start.saturating_sub(at);
            io::copy(&mut io::repeat(0).take(gap), &mut out)?;
            stream(region, &mut out)?;
            at = start + region.len;
        }
        Ok(Some(out))
    }
}

impl Copy {
    /// Gives a region its place; a region that two tensors share is copied once.
    fn place(&mut self, region: &Region) -> Result<u64> {
        let source = region.data.origin().map_or_else(|| PathBuf::from(&*region.file), Path::to_path_buf);
        if self.path.canonicalize().is_ok_and(|p| p == source) {
            return Err(FormatError::mismatch(
                format!("a data file that can be replaced by `{}`", self.location),
                "one that the source reads its weights from",
            )
            .hint("choose another output name, or leave out --copy-weights"));
        }
        let key = (source, region.offset, region.len);
        if let Some(at) = self.placed.get(&key) {
            return Ok(*at);
        }
        let align = if region.len >= PAGE_FROM { PAGE } else { SMALL };
        let too_long = || FormatError::invalid("the weights are longer than a file can be");
        let start = self.end.checked_next_multiple_of(align).ok_or_else(too_long)?;
        self.end = start.checked_add(region.len).ok_or_else(too_long)?;
        self.placed.insert(key, start);
        self.regions.push((start, region.clone()));
        Ok(start)
    }
}

/// Copies through the file rather than through the mapping: 100 GB of mapped pages would count as this process's memory.
fn stream(region: &Region, out: &mut AtomicFile) -> Result<()> {
    let Some(origin) = region.data.origin() else { return Ok(out.write_all(region.data.bytes())?) };
    let copied = (|| {
        let mut file = File::open(origin)?;
        file.seek(SeekFrom::Start(region.offset))?;
        io::copy(&mut file.take(region.len), out)
    })()
    .map_err(|e| FormatError::from(e).in_file(origin))?;
    if copied != region.len {
        return Err(FormatError::mismatch(format!("{} bytes at offset {}", region.len, region.offset), copied)
            .in_file(origin)
            .hint("the file has changed since it was read"));
    }
    Ok(())
}
