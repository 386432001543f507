//! `model.safetensors.index.json`: which file holds which tensor.

use std::{collections::BTreeMap, fmt, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

use crate::{
    error::{FormatError, Result},
    map::MappedFile,
};

/// Files by name, and the tensors in each.
pub type Index = BTreeMap<String, Vec<String>>;

#[derive(Deserialize)]
struct Document {
    weight_map: Pairs,
}

/// Tensors with their files, each tensor once.
struct Pairs(Index);

/// Reads an index.
///
/// # Errors
/// What is no JSON, has no `weight_map`, or has a tensor twice.
pub fn read(path: &Path) -> Result<Index> {
    let file = MappedFile::open(path)?;
    let document: Document = serde_json::from_slice(file.bytes()).map_err(|e| {
        FormatError::mismatch("a `weight_map` from tensors to files", e)
            .hint("the index of a checkpoint is called FILE.safetensors.index.json")
    })?;
    Ok(document.weight_map.0)
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of files by tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut index = Index::new();
                let mut seen = std::collections::BTreeSet::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if !seen.insert(tensor.clone()) {
                        return Err(A::Error::custom(format!("the tensor `{tensor}` twice")));
                    }
                    index.entry(file).or_default().push(tensor);
                }
                Ok(Pairs(index))
            }
        }

        d.deserialize_map(Map)
    }
}
