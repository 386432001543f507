//! normfuse reads a model graph, finds RMSNorms (alone, or feeding quantisers), replaces each such place with one fused
//! op and runs the result, with the same bits as the graph that it was given.
//!
//! This crate re-exports the four that do the work and opens and saves files by their extension; the program `normfuse`
//! is its other half. Another compiler needs [`passes`] and [`ir`] alone.
//!
//! ```
//! use normfuse::{cpu, ir, passes};
//!
//! // A graph as text: an RMSNorm, and the quantiser that it feeds.
//! let text = include_str!("../tests/in/fuse/quant_token.nf");
//! let source = ir::text::parse(text, &mut |w| panic!("{} is in another file", w.name))?;
//!
//! let mut fused = source.clone();
//! let options = passes::Options { supports: std::sync::Arc::new(cpu::supports), ..passes::Options::default() };
//! let report = passes::run(&mut fused, &options)?;
//! assert_eq!(report.summary.fused.norm_quant, 1);
//!
//! // Same inputs, same bits.
//! let rows = [0x80, 0x3f, 0x49, 0xc0].repeat(3 * 128); // 1.0 and -3.140625 as bf16, in turn
//! let x = ir::Tensor::from_bytes(ir::DType::BF16, vec![1, 3, 256], rows)?;
//! let before = cpu::Plan::new(&source)?.run(&[x.clone()])?;
//! let after = cpu::Plan::new(&fused)?.run(&[x])?;
//! for (a, b) in before.iter().zip(&after) {
//!     assert_eq!(a.bytes(), b.bytes());
//! }
//! # Ok::<(), ir::Error>(())
//! ```

pub mod testing;

use std::path::Path;

pub use normfuse_formats as formats;
pub use normfuse_ir as ir;
pub use normfuse_passes as passes;
pub use normfuse_runtime::{cpu, cuda};

use formats::{FormatError, dot, json, nf, onnx, torch};
use ir::Graph;

/// A form in which a graph is kept in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// A whole ONNX `ModelProto`.
    Onnx,
    /// A `torch.export` archive; it is only read.
    Pt2,
    /// The text form.
    Nf,
    /// The JSON form.
    Json,
    /// Graphviz, for people to look at; it is only written.
    Dot,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Onnx, Self::Pt2, Self::Nf, Self::Json, Self::Dot];

    /// Its name, which is also the extension of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Pt2 => "pt2",
            Self::Nf => "nf",
            Self::Json => "json",
            Self::Dot => "dot",
        }
    }

    /// The format that a file's extension names.
    ///
    /// # Errors
    /// An extension that is none of theirs.
    pub fn of(path: &Path) -> Result<Self, FormatError> {
        let extension = path.extension().and_then(|e| e.to_str());
        let named = |name: &str| Self::ALL.into_iter().find(|f| name.eq_ignore_ascii_case(f.name()));
        extension.and_then(named).ok_or_else(|| {
            let found = extension.map_or_else(|| "a name without an ending".into(), |e| format!("`.{e}`"));
            FormatError::mismatch("a file that ends in .onnx, .pt2, .nf, .json or .dot", found).in_file(path)
        })
    }
}

/// Reads a graph from a file, in the format that the extension names. Weights stay in their files.
///
/// # Errors
/// What the format's reader finds wrong, with the file and the node.
pub fn open(path: &Path) -> Result<Graph, FormatError> {
    if path.is_dir() {
        return Err(FormatError::mismatch("a model in a file that ends in .onnx, .pt2, .nf or .json", "a folder")
            .in_file(path)
            .hint("name the model's file; what it refers to is found beside it"));
    }
    match Format::of(path)? {
        Format::Onnx => onnx::read(path),
        Format::Pt2 => torch::read(path),
        Format::Nf => nf::read(path),
        Format::Json => json::read(path),
        Format::Dot => {
            Err(FormatError::mismatch("a format that is read: .onnx, .pt2, .nf or .json", "Graphviz").in_file(path))
        }
    }
}

/// Writes a graph to a file. The file appears under its name when it is whole, and not at all if anything fails.
///
/// # Errors
/// What the format's writer cannot say or do, with the file and the node.
pub fn save(graph: &Graph, path: &Path, format: Format, options: &onnx::WriteOptions) -> Result<(), FormatError> {
    match format {
        Format::Onnx => onnx::write(graph, path, options),
        Format::Pt2 => Err(FormatError::mismatch("a format that is written: .onnx, .nf, .json or .dot", "`.pt2`")
            .in_file(path)
            .hint("torch.export archives are only read")),
        Format::Nf => nf::write(graph, path),
        Format::Json => json::write(graph, path),
        Format::Dot => dot::write(graph, path),
    }
}
