//! Inputs of a model, as `peers.py` leaves them in a folder: `manifest.json` and raw little-endian bytes a tensor.

use std::{error::Error, fs, path::Path};

use serde_json::Value;

/// One input.
pub struct Input {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Input {
    /// Every input of a folder, in the order of the manifest.
    pub fn all(folder: &Path) -> Result<Vec<Self>, Box<dyn Error>> {
        let text = fs::read_to_string(folder.join("manifest.json"))?;
        let listed: Vec<Value> = serde_json::from_str(&text)?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        listed
            .iter()
            .map(|v| {
                let sizes = v["shape"].as_array().into_iter().flatten();
                Ok(Self {
                    name: text(&v["name"]),
                    dtype: text(&v["dtype"]),
                    shape: sizes.filter_map(Value::as_u64).map(|n| n as usize).collect(),
                    bytes: fs::read(folder.join(text(&v["file"])))?,
                })
            })
            .collect()
    }

    pub fn i64s(&self) -> Vec<i64> {
        self.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }

    pub fn f32s(&self) -> Vec<f32> {
        self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }
}

/// The largest difference of all results over the largest magnitude, result by result.
pub fn difference(before: &[Vec<f32>], after: &[Vec<f32>]) -> f64 {
    let largest = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0, f64::max);
    let of = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        if a.len() != b.len() {
            return f64::INFINITY;
        }
        let size = largest(&mut a.iter().map(|v| f64::from(v.abs())));
        let off = largest(&mut a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())));
        if off == 0.0 { 0.0 } else { off / size }
    };
    largest(&mut before.iter().zip(after).map(of))
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
