//! Parameters, buffers and constants: regions of the archive, in the layout that the file gives each tensor.

use std::collections::BTreeMap;

use normfuse_ir::{DType, Op, Tensor, tensor::byte_len};

use super::{
    archive::Archive,
    dtype,
    schema::{Payload, PayloadConfig, SymInt, TensorMeta},
};
use crate::error::{FormatError, Result};

/// The tensors that an archive has outside of its graph, by their names in the model.
pub struct Weights<'a> {
    archive: &'a Archive,
    tensors: BTreeMap<String, (&'static str, Payload)>,
    /// Names of one tensor, by its place.
    tied: BTreeMap<String, Vec<String>>,
}

/// A tensor of the model.
pub enum Weight {
    /// Its elements, and the op that brings them from the order in which they lie into the tensor's.
    Stored(Tensor, Vec<Op>),
    /// It was exported without data: whoever runs the model gives it.
    Unbound,
    /// A pickled object, which is never unpickled: it is code.
    Pickled,
}

impl<'a> Weights<'a> {
    /// Reads the lists of tensors that go with a model.
    ///
    /// # Errors
    /// Lists that are no JSON of torch's schema, and two tensors of one name.
    pub fn of(archive: &'a Archive, model: &str) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for kind in ["weights", "constants"] {
            let record = format!("data/{kind}/{model}_{kind}_config.json");
            let Some(json) = archive.record(&record) else { continue };
            let list: PayloadConfig = serde_json::from_slice(json).map_err(|e| {
                FormatError::mismatch("a list of tensors in torch's schema", e).at_port(format!("record `{record}`"))
            })?;
            for (name, payload) in list.config {
                if tensors.insert(name.clone(), (kind, payload)).is_some() {
                    return Err(FormatError::invalid(format!("`{name}` is both a weight and a constant")));
                }
            }
        }
        let mut tied: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, (kind, payload)) in &tensors {
            if let Some(place) = place(kind, payload) {
                tied.entry(place).or_default().push(name.clone());
            }
        }
        Ok(Self { archive, tensors, tied })
    }

    /// Other names of the same elements in the same layout.
    pub fn tied(&self, name: &str) -> Vec<String> {
        let place = self.tensors.get(name).and_then(|(kind, payload)| place(kind, payload));
        let all = place.and_then(|p| self.tied.get(&p));
        all.into_iter().flatten().filter(|n| *n != name).cloned().collect()
    }

    /// Records that hold more than the tensors in them take, each with how many bytes more. Tensors may be views of what
    /// was larger, so this is no error.
    pub fn longer(&self) -> Vec<(String, u64)> {
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, payload) in self.tensors.values() {
            let Some(meta) = payload.tensor_meta.as_ref().filter(|m| m.device.r#type != "meta") else { continue };
            let Some(end) = end_of(meta).filter(|_| !payload.use_pickle) else { continue };
            let record = ends.entry(format!("data/{kind}/{}", payload.path_name)).or_default();
            *record = end.max(*record);
        }
        let more = |(record, end): (String, u64)| {
            let more = (self.archive.record(&record)?.len() as u64).checked_sub(end)?;
            (more > 0).then_some((record, more))
        };
        ends.into_iter().filter_map(more).collect()
    }

    /// A tensor by its name in the model.
    ///
    /// # Errors
    /// If it is not listed, its record is missing or too short, or its layout is one that no tensor has.
    pub fn get(&self, name: &str) -> Result<Weight> {
        let (kind, payload) = self
            .tensors
            .get(name)
            .ok_or_else(|| FormatError::mismatch("data for the tensor, or a note that it has none", "neither"))?;
        if payload.use_pickle {
            return Ok(Weight::Pickled);
        }
        let meta = payload
            .tensor_meta
            .as_ref()
            .ok_or_else(|| FormatError::mismatch("the type of the tensor's data", "none"))?;
        let record = format!("data/{kind}/{}", payload.path_name);
        if payload.path_name.split(['/', '\\']).any(|part| part == "..") {
            return Err(FormatError::mismatch("a record inside the archive", format!("`{record}`")));
        }
        if meta.device.r#type == "meta" {
            return Ok(Weight::Unbound);
        }
        if meta.layout.is_some_and(|l| l != 7) {
            return Err(FormatError::mismatch("a strided tensor", format!("layout {:?}", meta.layout)));
        }
        self.stored(&record, meta)
    }

    fn stored(&self, record: &str, meta: &TensorMeta) -> Result<Weight> {
        let mut sizes = numbers(&meta.sizes)?;
        let mut strides = numbers(&meta.strides)?;
        let mut offset = meta.storage_offset.as_ref().map_or(Ok(0), number)?;
        if strides.len() != sizes.len() {
            return Err(FormatError::mismatch(format!("{} strides", sizes.len()), strides.len()));
        }
        let dtype = match dtype::of_parts(meta.dtype) {
            // Complex numbers are their parts, side by side.
            Some(part) => {
                for n in strides.iter_mut().chain([&mut offset]) {
                    *n = n.checked_mul(2).ok_or_else(|| too_far(*n))?;
                }
                sizes.push(2);
                strides.push(1);
                part
            }
            None => dtype::of(meta.dtype)?,
        };
        byte_len(dtype, &sizes)?;
        let size = dtype.bits() as u64 / 8;
        let start = (offset as u64).checked_mul(size).ok_or_else(|| too_far(offset))?;
        let layout = Layout::of(&sizes, &strides)
            .ok_or_else(|| FormatError::mismatch("strides of elements that do not overlap", format!("{strides:?}")))?;
        let data = |len: usize| self.archive.data(record, start, len as u64);
        let tensor = if layout.dense {
            Tensor::new(dtype, layout.sizes.clone(), data(byte_len(dtype, &layout.sizes)?)?)?
        } else {
            // Rows with gaps between them. Elements do not overlap, so there are no more of them than the record has.
            let end = layout.last.checked_add(1).and_then(|n| n.checked_mul(size as usize));
            let all = data(end.ok_or_else(|| too_far(layout.last))?)?;
            gathered(dtype, &layout, &all)?
        };
        if dtype == DType::Bool
            && let Some(b) = tensor.bytes().iter().find(|b| **b > 1)
        {
            return Err(FormatError::mismatch("bools of 0 or 1", b));
        }
        Ok(Weight::Stored(tensor, layout.ops(&sizes)))
    }
}

/// Where a tensor's elements are and how they lie; `None` for one without data, for all of those name the same record.
fn place(kind: &str, payload: &Payload) -> Option<String> {
    let meta = payload.tensor_meta.as_ref().filter(|m| m.device.r#type != "meta" && !payload.use_pickle)?;
    let layout = (meta.dtype, &meta.sizes, &meta.strides, &meta.storage_offset);
    Some(format!("{kind}/{} {layout:?}", payload.path_name))
}

/// Where a tensor's last byte is in its record.
fn end_of(meta: &TensorMeta) -> Option<u64> {
    let (sizes, strides) = (numbers(&meta.sizes).ok()?, numbers(&meta.strides).ok()?);
    let offset = meta.storage_offset.as_ref().map_or(Ok(0), number).ok()?;
    let size = match dtype::of_parts(meta.dtype) {
        Some(part) => part.bits() as u64 / 4,
        None => dtype::known(meta.dtype)?.bits() as u64 / 8,
    };
    if sizes.contains(&0) {
        return Some(0);
    }
    let mut last = offset as u64;
    for (n, stride) in sizes.iter().zip(&strides) {
        last = last.checked_add((*n as u64 - 1).checked_mul(*stride as u64)?)?;
    }
    last.checked_add(1)?.checked_mul(size)
}

fn too_far(n: usize) -> FormatError {
    FormatError::mismatch("an offset inside the record", n)
}

fn number(d: &SymInt) -> Result<usize> {
    match d {
        SymInt::Int(i) => usize::try_from(*i).map_err(|_| FormatError::mismatch("sizes of at least 0", i)),
        other => Err(FormatError::mismatch("a number, for the tensor has data", format!("{other:?}"))),
    }
}

fn numbers(all: &[SymInt]) -> Result<Vec<usize>> {
    all.iter().map(number).collect()
}

/// How a tensor's elements lie in its storage.
struct Layout {
    /// Sizes in the order of the strides, largest stride first, without axes along which nothing moves.
    sizes: Vec<usize>,
    strides: Vec<usize>,
    /// The axis of the tensor that each of them is.
    axes: Vec<usize>,
    /// Axes of stride 0: one element seen many times.
    repeated: bool,
    /// No gaps.
    dense: bool,
    /// Place of the last element.
    last: usize,
}

impl Layout {
    /// `None` if two elements share a place, apart from axes of stride 0, or places overflow.
    fn of(sizes: &[usize], strides: &[usize]) -> Option<Self> {
        let empty = sizes.contains(&0);
        let mut axes: Vec<usize> = (0..sizes.len()).filter(|a| strides[*a] != 0 && sizes[*a] != 1 && !empty).collect();
        axes.sort_by_key(|a| std::cmp::Reverse(strides[*a]));
        let (mut dense, mut span) = (true, 1usize);
        for a in axes.iter().rev() {
            if strides[*a] < span {
                return None;
            }
            dense &= strides[*a] == span;
            span = strides[*a].checked_mul(sizes[*a] - 1)?.checked_add(span)?;
        }
        let repeated = !empty && (0..sizes.len()).any(|a| strides[a] == 0 && sizes[a] != 1);
        if empty || (axes.is_sorted() && !repeated) {
            // In order: as it is, axes of size 1 and all.
            let strides = if empty { Vec::new() } else { strides.to_vec() };
            let dense = dense || empty;
            return Some(Self {
                sizes: sizes.to_vec(),
                strides,
                axes: Vec::new(),
                repeated: false,
                dense,
                last: span - 1,
            });
        }
        Some(Self {
            sizes: axes.iter().map(|a| sizes[*a]).collect(),
            strides: axes.iter().map(|a| strides[*a]).collect(),
            axes,
            repeated,
            dense,
            last: span - 1,
        })
    }

    /// From the stored order to the tensor's: a transposition, axes of size 1, a repetition.
    fn ops(&self, sizes: &[usize]) -> Vec<Op> {
        let mut ops = Vec::new();
        if self.axes.is_empty() && !self.repeated {
            return ops;
        }
        if !self.axes.is_sorted() {
            let mut order: Vec<usize> = (0..self.axes.len()).collect();
            order.sort_by_key(|i| self.axes[*i]);
            ops.push(Op::Transpose { perm: Some(order.into_iter().map(|i| i as i64).collect()) });
        }
        let missing: Vec<i64> = (0..sizes.len()).filter(|a| !self.axes.contains(a)).map(|a| a as i64).collect();
        if !missing.is_empty() {
            ops.push(Op::Unsqueeze { axes: missing });
        }
        if self.repeated {
            ops.push(Op::Expand);
        }
        ops
    }
}

fn gathered(dtype: DType, layout: &Layout, all: &[u8]) -> Result<Tensor> {
    let size = dtype.bits() / 8;
    let mut places = vec![0usize];
    for (n, stride) in layout.sizes.iter().zip(&layout.strides) {
        places = places.iter().flat_map(|p| (0..*n).map(move |i| p + i * stride)).collect();
    }
    let bytes = places.iter().flat_map(|p| all[p * size..(p + 1) * size].iter().copied()).collect();
    Ok(Tensor::from_bytes(dtype, layout.sizes.clone(), bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(sizes: &[usize], strides: &[usize]) -> Option<(Vec<usize>, bool, usize, Vec<Op>)> {
        Layout::of(sizes, strides).map(|l| (l.sizes.clone(), l.dense, l.last, l.ops(sizes)))
    }

    #[test]
    fn layouts_become_regions_and_views() {
        assert_eq!(layout(&[2, 3], &[3, 1]), Some((vec![2, 3], true, 5, vec![])));
        assert_eq!(layout(&[2, 1, 3], &[3, 99, 1]), Some((vec![2, 1, 3], true, 5, vec![])));
        assert_eq!(layout(&[], &[]), Some((vec![], true, 0, vec![])));
        assert_eq!(layout(&[0, 3], &[1, 7]), Some((vec![0, 3], true, 0, vec![])));
        let turn = Op::Transpose { perm: Some(vec![1, 0]) };
        assert_eq!(layout(&[2, 3], &[1, 2]), Some((vec![3, 2], true, 5, vec![turn])));
        assert_eq!(layout(&[2, 3], &[10, 1]), Some((vec![2, 3], false, 12, vec![])));
        let (add, repeat) = (Op::Unsqueeze { axes: vec![0] }, Op::Expand);
        assert_eq!(layout(&[4, 3], &[0, 1]), Some((vec![3], true, 2, vec![add, repeat])));
        assert_eq!(layout(&[2, 3], &[1, 1]), None);
        assert_eq!(layout(&[usize::MAX, 3], &[usize::MAX, 1]), None);
    }

    #[test]
    fn gaps_are_left_out() {
        let l = Layout::of(&[2, 2], &[3, 1]).unwrap();
        assert_eq!(gathered(DType::U8, &l, &[1, 2, 0, 3, 4]).unwrap().bytes(), [1, 2, 3, 4]);
    }
}
