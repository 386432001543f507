//! How a model is quantised, as its `config.json` says it: Hugging Face's `quantization_config`.
//!
//! | `quant_method` | what is known |
//! |---|---|
//! | `fp8` | DeepSeek-V3's: weights in blocks, activations in groups (`dynamic`) or with one scale (`static`) |
//! | `compressed-tensors` | FP8, INT8, MXFP8, MXFP4 and NVFP4, by group of layers |
//! | `mxfp4` | GPT-OSS's, for linear layers |
//!
//! A field that is not known is an error: it may change bits.

mod compressed;
mod fp8;
mod mxfp4;
mod pattern;

use std::path::Path;

use normfuse_ir::linear::LinearScheme;
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::pattern::Pattern;
use crate::error::{FormatError, Result};

/// The field of a `config.json`.
const FIELD: &str = "quantization_config";
const METHOD: &str = "quant_method";

/// Which linear layers are quantised, and how.
#[derive(Debug)]
pub struct QuantConfig {
    method: String,
    groups: Vec<Group>,
    /// Layers that stay as they are.
    skip: Vec<Pattern>,
}

/// Layers that are quantised alike. The first group that names a layer decides, and one that names its class only where
/// none names the layer itself.
#[derive(Debug)]
struct Group {
    targets: Vec<Pattern>,
    scheme: LinearScheme,
}

impl QuantConfig {
    /// Reads a model's `config.json`, or a file that is its `quantization_config` alone.
    ///
    /// # Errors
    /// A file that is neither, a method that is not known, a field or value that is not known: the error names it.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || Self::parse(&std::fs::read(path)?);
        read().map_err(|e| e.in_file(path))
    }

    /// As [`QuantConfig::read`], of the file's contents.
    ///
    /// # Errors
    /// As [`QuantConfig::read`].
    pub fn parse(json: &[u8]) -> Result<Self> {
        const WANTED: &str = "a model's config.json with a `quantization_config`, or that object itself";
        let mut whole: Value = serde_json::from_slice(json).map_err(|e| FormatError::mismatch(WANTED, e))?;
        let inside = whole.get_mut(FIELD).map(Value::take);
        let config = inside.unwrap_or(whole);
        let Some(method) = config.get(METHOD) else {
            return Err(FormatError::mismatch(WANTED, format!("no field `{METHOD}`")));
        };
        let method = method.as_str().unwrap_or_default().to_owned();
        let (groups, skip) = match method.as_str() {
            "fp8" => fp8::read(config)?,
            "compressed-tensors" => compressed::read(config)?,
            "mxfp4" => mxfp4::read(config)?,
            other => {
                let expected = "`fp8`, `compressed-tensors` or `mxfp4`";
                return Err(FormatError::mismatch(expected, format!("`{other}`")).at_port(METHOD));
            }
        };
        Ok(Self { method, groups, skip })
    }

    /// The method, as the file names it.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The scheme of a layer, by the name of its module and, where it is known, of its class; `None` if it stays as it
    /// is. A layer of unknown class is taken for torch's `Linear`.
    pub fn scheme_of(&self, module: &str, class: Option<&str>) -> Option<&LinearScheme> {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(module, class));
        let named = |p: &Pattern| p.is_of_modules() && p.matches(module, class);
        let by_name = self.groups.iter().find(|g| g.targets.iter().any(named));
        let group = by_name.or_else(|| self.groups.iter().find(|g| matches(&g.targets)))?;
        (!matches(&self.skip)).then_some(&group.scheme)
    }
}

impl QuantConfig {
    /// True for a layer that some group has, and a list of those that are not quantised, too.
    pub fn spares(&self, module: &str, class: Option<&str>) -> bool {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(module, class));
        matches(&self.skip) && self.groups.iter().any(|g| matches(&g.targets))
    }

    /// Entries of the config's lists that name none of these layers, by the name of the module and its class.
    pub fn idle<'a>(&'a self, layers: &[(String, Option<String>)]) -> Vec<&'a str> {
        let patterns = self.groups.iter().flat_map(|g| &g.targets).chain(&self.skip);
        let idle = patterns.filter(|p| !layers.iter().any(|(module, class)| p.matches(module, class.as_deref())));
        idle.filter_map(|p| p.entry.as_deref()).collect()
    }
}

/// An object of the file as what it must be.
fn object<T: DeserializeOwned>(value: Value, what: &str) -> Result<T> {
    T::deserialize(value).map_err(|e| FormatError::invalid(e.to_string()).at_port(what))
}

/// The value of a field is none of those that are known.
fn unknown(field: &str, expected: impl std::fmt::Display, found: impl std::fmt::Display) -> FormatError {
    FormatError::mismatch(expected, found).at_port(format!("`{field}`"))
}

#[cfg(test)]
mod tests;
