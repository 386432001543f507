//! Which tensors of a program share memory. In-place ops change all of them; the IR has no such ops, so each becomes a
//! new value of the tensor that it changes, and a tensor that would have changed along with it is not read again.

use std::collections::HashMap;

use normfuse_ir::ValueId;

use crate::error::{FormatError, Result};

/// What of its storage a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, in order.
    Whole,
    /// All of it, in order, in another shape.
    Reshaped,
    /// A range of one axis.
    Slice { axis: usize, start: i64, end: i64 },
    /// One place of an axis, which it does not have.
    Select { axis: usize, index: i64 },
    /// Some other view, or perhaps a copy.
    Other,
}

#[derive(Debug, Clone)]
struct Tensor {
    /// `None` while nothing was written into fresh memory.
    value: Option<ValueId>,
    storage: usize,
    version: u32,
    part: Part,
}

/// Start, end and value of what was written.
type Piece = (i64, i64, ValueId);

#[derive(Debug, Clone)]
struct Storage {
    /// A parameter, constant or input: others see it.
    given: bool,
    version: u32,
    /// The tensor that is all of it, its other names, and the op that changed it last.
    whole: String,
    aliases: Vec<String>,
    changed_by: String,
    /// Written ranges of memory that was fresh: axis, then start, end and value in order.
    pieces: Option<(usize, Vec<Piece>)>,
    /// Older memory that this may be a part of, or all of.
    perhaps: Vec<usize>,
}

impl Storage {
    /// Writes a range of an axis of fresh memory; `None` if that is not beside what was written before.
    fn fill(&mut self, axis: usize, piece: Piece, sizes: &[Option<i64>]) -> Option<Write> {
        let (first, pieces) = self.pieces.get_or_insert_with(|| (axis, Vec::new()));
        if *first != axis || !pieces.iter().all(|(a, b, _)| piece.1 <= *a || *b <= piece.0) {
            return None;
        }
        pieces.push(piece);
        pieces.sort_by_key(|p| p.0);
        let joined = pieces.windows(2).all(|w| w[0].1 == w[1].0);
        let (from, to) = (pieces.first()?.0, pieces.last()?.1);
        if !joined || from != 0 || sizes.get(axis) != Some(&Some(to)) {
            return Some(Write::Pending);
        }
        let pieces = pieces.iter().map(|p| p.2).collect();
        self.pieces = None;
        Some(Write::Joined { axis, pieces })
    }
}

/// A write, as values.
#[derive(Debug, PartialEq, Eq)]
pub enum Write {
    /// The storage holds this now.
    Whole(ValueId),
    /// The storage holds this in its own shape.
    Reshaped(ValueId),
    /// Fresh memory is full: these side by side.
    Joined { axis: usize, pieces: Vec<ValueId> },
    /// Of what was there, a range is this now.
    Into { old: ValueId, axis: usize, start: i64, end: i64, new: ValueId },
    /// Fresh memory is not full yet.
    Pending,
}

/// The tensors of a program by name.
#[derive(Debug, Default)]
pub struct Memory {
    /// In-place ops are removed already, as far as torch removes them.
    pub decomposed: bool,
    tensors: HashMap<String, Tensor>,
    storages: Vec<Storage>,
}

impl Memory {
    fn storage(&mut self, whole: &str, given: bool) -> usize {
        self.storages.push(Storage {
            given,
            version: 0,
            whole: whole.to_owned(),
            aliases: Vec::new(),
            changed_by: String::new(),
            pieces: None,
            perhaps: Vec::new(),
        });
        self.storages.len() - 1
    }

    fn put(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        match self.tensors.insert(name.to_owned(), tensor) {
            None => Ok(()),
            Some(_) => {
                Err(FormatError::mismatch("every value to be made once", format!("two that are called `{name}`")))
            }
        }
    }

    /// A tensor in memory of its own.
    ///
    /// # Errors
    /// A name that is taken; so for all.
    pub fn define(&mut self, name: &str, value: ValueId, given: bool) -> Result<()> {
        let storage = self.storage(name, given);
        self.put(name, Tensor { value: Some(value), storage, version: 0, part: Part::Whole })
    }

    /// What a call makes of which only its operands are known: it may be memory of its own, or that of any of these.
    /// Nothing can be written through it, and a write into theirs may change it.
    pub fn perhaps(&mut self, name: &str, value: ValueId, of: &[&str]) -> Result<()> {
        let of: Vec<usize> = of.iter().filter_map(|t| self.tensors.get(*t)).map(|t| t.storage).collect();
        let storage = self.storage(name, false);
        self.storages[storage].perhaps = of;
        self.put(name, Tensor { value: Some(value), storage, version: 0, part: Part::Whole })
    }

    /// A call whose only effect can be on what it is given: all of that, and what may share its memory, has changed.
    pub fn may_change(&mut self, names: &[&str], by: &str) {
        let mut changed: Vec<usize> = names.iter().filter_map(|t| self.tensors.get(*t)).map(|t| t.storage).collect();
        let mut next = 0;
        while let Some(storage) = changed.get(next) {
            let older = self.storages[*storage].perhaps.clone();
            changed.extend(older);
            next += 1;
        }
        changed.sort_unstable();
        changed.dedup();
        for storage in changed {
            self.storages[storage].version += 1;
            by.clone_into(&mut self.storages[storage].changed_by);
            self.changes_with(storage);
        }
    }

    /// After a change of some memory: what may be the same has perhaps changed too.
    fn changes_with(&mut self, storage: usize) {
        let by = self.storages[storage].changed_by.clone();
        let mut changed = vec![storage];
        // What perhaps is older memory is younger.
        for i in storage + 1..self.storages.len() {
            let s = &mut self.storages[i];
            if s.perhaps.iter().any(|older| changed.contains(older)) {
                s.version += 1;
                s.changed_by.clone_from(&by);
                changed.push(i);
            }
        }
    }

    /// Memory that nothing was written into.
    pub fn fresh(&mut self, name: &str) -> Result<()> {
        let storage = self.storage(name, false);
        self.put(name, Tensor { value: None, storage, version: 0, part: Part::Whole })
    }

    /// A view of another tensor; its own value is needed unless that is of fresh memory.
    pub fn view(&mut self, name: &str, of: &str, part: Part, value: Option<ValueId>) -> Result<()> {
        let Some(t) = self.tensors.get(of) else { return Err(undefined(of)) };
        let part = match (t.part, part) {
            (whole, Part::Whole) => whole,
            (Part::Whole, part) => part,
            (Part::Reshaped, Part::Reshaped) => Part::Reshaped,
            _ => Part::Other,
        };
        let tensor = Tensor { value, storage: t.storage, version: t.version, part };
        if part == Part::Whole {
            self.storages[t.storage].aliases.push(name.to_owned());
        }
        self.put(name, tensor)
    }

    /// An error about an in-place op, with what to do.
    pub fn advised(&self, e: FormatError) -> FormatError {
        e.hint(if self.decomposed {
            "write it out of place in the model: run_decompositions() has left it as it is"
        } else {
            "export the model with run_decompositions(), which removes in-place ops"
        })
    }

    /// True for a tensor that a node made.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// True for all of some memory into which nothing was written yet.
    pub fn is_fresh(&self, name: &str) -> bool {
        let of = |t: &Tensor| t.value.is_none() && t.part == Part::Whole;
        self.tensors.get(name).is_some_and(of)
    }

    /// True for all of some memory into which nothing was written, nor into a part of it.
    pub fn is_untouched(&self, name: &str) -> bool {
        self.is_fresh(name) && self.tensors.get(name).is_some_and(|t| self.storages[t.storage].pieces.is_none())
    }

    /// The tensor's value.
    ///
    /// # Errors
    /// A name that nothing made, memory that was not written, and a tensor that an op has changed under another name.
    pub fn read(&self, name: &str) -> Result<ValueId> {
        let t = self.tensors.get(name).ok_or_else(|| undefined(name))?;
        let s = &self.storages[t.storage];
        if t.version != s.version {
            let found = format!("`{name}`, whose memory `{}` changed under another name", s.changed_by);
            return Err(self.advised(FormatError::mismatch("a tensor that is not changed behind its back", found)));
        }
        t.value.ok_or_else(|| {
            FormatError::mismatch("a tensor with contents", format!("`{name}`, memory that is not written in full"))
        })
    }

    /// The tensor that is all of the memory of this one.
    pub fn whole_of(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|t| self.storages[t.storage].whole.as_str())
    }

    /// What of its storage a tensor is.
    pub fn part(&self, name: &str) -> Option<Part> {
        self.tensors.get(name).map(|t| t.part)
    }

    /// Writes into a tensor, `sizes` being those of its whole memory; [`Memory::settle`] must follow unless the write is
    /// pending. `new` is the tensor's value, `piece` the same with all axes of the memory.
    ///
    /// # Errors
    /// A tensor that others see, one whose place in its memory is not known, or one that has changed already.
    pub fn write(
        &mut self,
        name: &str,
        new: ValueId,
        piece: ValueId,
        by: &str,
        sizes: &[Option<i64>],
    ) -> Result<Write> {
        let Some(t) = self.tensors.get(name).cloned() else { return Err(undefined(name)) };
        let refuse = |found: String| {
            Err(self.advised(FormatError::mismatch("an in-place op on a tensor that only this graph sees", found)))
        };
        let s = &self.storages[t.storage];
        if s.given {
            return refuse(format!("`{name}`, which is `{}` or a view of it", s.whole));
        }
        if !s.perhaps.is_empty() {
            let made = &s.whole;
            return refuse(format!("`{name}`, that is `{made}` or a view of it, which may share an operand's memory"));
        }
        let whole = s.whole.clone();
        let part = match t.part {
            Part::Select { axis, index } => Part::Slice { axis, start: index, end: index + 1 },
            part => part,
        };
        let write = match part {
            Part::Whole => Write::Whole(new),
            Part::Reshaped => Write::Reshaped(new),
            Part::Other | Part::Select { .. } => return refuse(format!("`{name}`, a view or copy of `{whole}`")),
            // Fresh memory: whichever slice of it this is, it was not written by another name.
            Part::Slice { axis, start, end } => match self.tensors.get(&whole).and_then(|w| w.value) {
                Some(_) if t.version != s.version => {
                    return refuse(format!("`{name}`, whose memory `{}` changed", s.changed_by));
                }
                Some(old) => Write::Into { old, axis, start, end, new: piece },
                None => {
                    // A copy, so that a refusal leaves everything as it was.
                    let mut filled = s.clone();
                    let Some(write) = filled.fill(axis, (start, end, piece), sizes) else {
                        return refuse(format!("`{name}`, which overlaps what was written into `{whole}` before"));
                    };
                    self.storages[t.storage].pieces = filled.pieces;
                    write
                }
            },
        };
        let s = &mut self.storages[t.storage];
        by.clone_into(&mut s.changed_by);
        if write == Write::Pending {
            // What the memory holds elsewhere is as it was.
            if let Some(t) = self.tensors.get_mut(name) {
                t.value = Some(new);
            }
        }
        Ok(write)
    }

    /// Before a write into what may be a view or a copy: if nothing else of that memory is read afterwards, by any name, then
    /// nobody can tell, and it is memory of its own.
    pub fn detach(&mut self, name: &str, read_later: impl Fn(&str) -> bool) {
        let Some(t) = self.tensors.get(name).cloned() else { return };
        let s = &self.storages[t.storage];
        if t.part != Part::Other || t.version != s.version || s.given || !s.perhaps.is_empty() {
            return;
        }
        let mut shared = vec![t.storage];
        for i in t.storage + 1..self.storages.len() {
            if self.storages[i].perhaps.iter().any(|older| shared.contains(older)) {
                shared.push(i);
            }
        }
        let others = self.tensors.iter().filter(|(other, o)| *other != name && shared.contains(&o.storage));
        if others.map(|(other, _)| other.as_str()).any(read_later) {
            return;
        }
        let storage = self.storage(name, false);
        if let Some(own) = self.tensors.get_mut(name) {
            *own = Tensor { storage, version: 0, part: Part::Whole, ..t };
        }
    }

    /// A copy of fresh memory with a range of an axis written, `sizes` being those of the memory. While it is not full
    /// it is defined as `name`, and the caller defines it when it is.
    ///
    /// # Errors
    /// A name that nothing made or that is taken, and a range that was written before.
    pub fn scatter(
        &mut self,
        of: &str,
        name: &str,
        axis: usize,
        piece: (i64, i64, ValueId),
        sizes: &[Option<i64>],
    ) -> Result<Write> {
        let Some(t) = self.tensors.get(of) else { return Err(undefined(of)) };
        let pieces = self.storages[t.storage].pieces.clone();
        let mut copy = Storage {
            given: false,
            version: 0,
            whole: name.into(),
            aliases: Vec::new(),
            changed_by: String::new(),
            pieces,
            perhaps: Vec::new(),
        };
        let Some(write) = copy.fill(axis, piece, sizes) else {
            let found = format!("a range of `{of}` that overlaps what was written before");
            return Err(FormatError::mismatch("ranges of new memory that are written once", found));
        };
        if write == Write::Pending {
            self.storages.push(copy);
            let storage = self.storages.len() - 1;
            self.put(name, Tensor { value: None, storage, version: 0, part: Part::Whole })?;
        }
        Ok(write)
    }

    /// After a write: the tensor has `own`, and all of its memory, by any name, is `whole`.
    pub fn settle(&mut self, name: &str, own: ValueId, whole: ValueId) {
        let Some(t) = self.tensors.get(name) else { return };
        let storage = t.storage;
        let s = &mut self.storages[storage];
        s.version += 1;
        let (version, root) = (s.version, s.whole.clone());
        let aliases = s.aliases.clone();
        let all = std::iter::once(&root).chain(&aliases).map(|key| (key.as_str(), whole));
        for (key, value) in all.chain([(name, own)]) {
            if let Some(t) = self.tensors.get_mut(key) {
                (t.value, t.version) = (Some(value), version);
            }
        }
        self.changes_with(storage);
    }
}

fn undefined(name: &str) -> FormatError {
    FormatError::mismatch("an operand that an input or an earlier node makes", format!("`{name}`"))
}
