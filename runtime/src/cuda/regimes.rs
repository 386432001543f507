//! Regimes: which launch shape for which widths and numbers of rows, as measured on a GPU.
//!
//! A table is text: a line for each class of op, width and number of rows with the launch shape that was the fastest
//! there (`normfuse tune` measures and writes it). Tables that were measured for an architecture are part of the crate.
//! Between its entries a table is read by this rule:
//! 1. the class is the op's: with or without a residual add, and the most that any quantiser of the rows needs to know of
//!    them (nothing, the row's largest magnitude, that of groups);
//! 2. rows of which nothing is found as a whole are as many narrower ones;
//! 3. of the widths, the nearest by ratio; of its numbers of rows, the nearest by ratio; of two as near the larger;
//! 4. the shape of that entry, with threads doubled or halved until each has about as many elements as there.
//!
//! Rows of f32 count as twice as wide, for so many registers do they take. A thread gets no more vectors than fit its registers,
//! and the weights of a very wide row are read late, whatever the entry says.

use std::{fmt, str::FromStr, sync::OnceLock};

use normfuse_ir::{Error, ErrorKind, FusedNorm, Granularity, Result, fused::Prologue, scheme::Origin};

use super::{
    shape::{LaunchShape, MAX_THREADS, Threads, VECTOR, fits_ahead, weighed},
    source::jobs,
};

/// The tables of this crate, by architecture.
const MEASURED: [(&str, &str); 1] = [("sm_90", include_str!("../../regimes/nvidia_h200.txt"))];

/// Most vectors of a thread: 16 do not fit its registers.
pub(super) const MOST_VECTORS: u64 = 12;

/// The most that a quantiser needs to know of a row before it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Needs {
    /// There is no quantiser.
    NoQuantiser,
    /// Nothing: its scale is given.
    Nothing,
    /// The largest magnitude of the row.
    Row,
    /// The largest magnitude of each group of it.
    Groups,
    /// The same of groups of at most 32.
    SmallGroups,
}

/// What comes before the quantisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Before {
    /// A norm, or nothing.
    Norm,
    /// A residual add and a norm.
    Add,
    /// A gated activation.
    Gate,
}

/// What decides a launch shape besides widths and rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class {
    /// What comes before the quantisers.
    pub before: Before,
    /// What the quantisers need.
    pub needs: Needs,
}

impl Class {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 15] = {
        let before = [Before::Norm, Before::Add, Before::Gate];
        let needs = [Needs::NoQuantiser, Needs::Nothing, Needs::Row, Needs::Groups, Needs::SmallGroups];
        let mut out = [Self { before: Before::Norm, needs: Needs::Nothing }; 15];
        let mut i = 0;
        while i < out.len() {
            out[i] = Self { before: before[i / needs.len()], needs: needs[i % needs.len()] };
            i += 1;
        }
        out
    };

    /// The class of some siblings of an op.
    pub fn of(norm: &FusedNorm, siblings: &[usize]) -> Self {
        let schemes = siblings.iter().flat_map(|k| &norm.siblings[*k].epilogues);
        let needs = schemes.map(|s| match (s.origin, s.granularity) {
            (Origin::Given, _) => Needs::Nothing,
            (_, Granularity::Group(g)) => {
                if g <= 32 {
                    Needs::SmallGroups
                } else {
                    Needs::Groups
                }
            }
            _ => Needs::Row,
        });
        let before = match norm.prologue {
            Prologue::None => Before::Norm,
            Prologue::ResidualAdd(_) => Before::Add,
            Prologue::Gated(_) => Before::Gate,
        };
        Self { before, needs: needs.max().unwrap_or(Needs::NoQuantiser) }
    }

    const fn name(self) -> &'static str {
        match (self.before, self.needs) {
            (Before::Norm, Needs::NoQuantiser) => "norm",
            (Before::Norm, Needs::Nothing) => "norm+given",
            (Before::Norm, Needs::Row) => "norm+row",
            (Before::Norm, Needs::Groups) => "norm+groups",
            (Before::Norm, Needs::SmallGroups) => "norm+small-groups",
            (Before::Add, Needs::NoQuantiser) => "add+norm",
            (Before::Add, Needs::Nothing) => "add+norm+given",
            (Before::Add, Needs::Row) => "add+norm+row",
            (Before::Add, Needs::Groups) => "add+norm+groups",
            (Before::Add, Needs::SmallGroups) => "add+norm+small-groups",
            (Before::Gate, Needs::NoQuantiser) => "gate",
            (Before::Gate, Needs::Nothing) => "gate+given",
            (Before::Gate, Needs::Row) => "gate+row",
            (Before::Gate, Needs::Groups) => "gate+groups",
            (Before::Gate, Needs::SmallGroups) => "gate+small-groups",
        }
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|c| c.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}, found `{name}`")
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One measured place of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// What kind of op.
    pub class: Class,
    /// Elements in a row, of 16 bits.
    pub width: u64,
    /// Rows.
    pub rows: u64,
    /// Threads that share a row.
    pub threads: u32,
    /// Rows of a block.
    pub rows_a_block: u32,
    /// Weights are read before the sum.
    pub ahead: bool,
    /// Rows come by bulk copies ([`LaunchShape::bulk`]).
    pub bulk: bool,
    /// Microseconds that it took.
    pub us: f64,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, width, rows, threads, rows_a_block, us, .. } = self;
        let ahead = if self.ahead { "ahead" } else { "late" };
        let copy = if self.bulk { "bulk" } else { "load" };
        write!(f, "{class:<21} {width:>6} {rows:>6} {threads:>5} {rows_a_block:>3} {ahead:<5} {copy:<4} {us:>9.2}")
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Regimes {
    entries: Vec<Entry>,
}

impl Regimes {
    /// Of measured places.
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries }
    }

    /// The table that was measured for an architecture such as `sm_90`, if one was.
    pub fn of_arch(arch: &str) -> Option<&'static Self> {
        static TABLES: OnceLock<Vec<(&str, Regimes)>> = OnceLock::new();
        let tables = TABLES.get_or_init(|| {
            // A test reads them all, so that none is left out here.
            let parsed = MEASURED.iter().filter_map(|(arch, text)| Some((*arch, Self::parse(text).ok()?)));
            parsed.collect()
        });
        tables.iter().find(|(of, _)| *of == arch).map(|(_, table)| table)
    }

    /// Its places.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Reads a table.
    ///
    /// # Errors
    /// `Parse`, with the line and what was expected of it.
    pub fn parse(text: &str) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let bad =
                |what: String| Error::new(ErrorKind::Parse, format!("line {} of a table of regimes: {what}", i + 1));
            let entry = entry(line).map_err(bad)?;
            let place = |e: &Entry| (e.class, e.width, e.rows);
            if entries.iter().any(|e| place(e) == place(&entry)) {
                return Err(bad(format!(
                    "{} at {} and {} rows is there already",
                    entry.class, entry.width, entry.rows
                )));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The launch shape for an op and a number of rows; where the table has nothing of a class, that of
    /// [`LaunchShape::choose`].
    pub fn choose(&self, norm: &FusedNorm, rows: u64, aligned: bool) -> LaunchShape {
        let pieces = LaunchShape::pieces(norm, rows);
        let parts = rows.saturating_mul(u64::from(pieces));
        let found: Option<Vec<(Entry, u32)>> = jobs(norm)
            .iter()
            .map(|siblings| {
                let width = siblings.iter().map(|k| weighed(norm, *k)).max().unwrap_or(1) / u64::from(pieces);
                let entry = self.nearest(Class::of(norm, siblings), width, parts)?;
                Some((entry, scaled(&entry, width)))
            })
            .collect();
        let Some(found) = found else { return LaunchShape::choose(norm, rows, aligned).clustered(norm, rows) };
        let block = found.iter().map(|(e, threads)| (threads * e.rows_a_block).min(MAX_THREADS)).max().unwrap_or(32);
        let mut shape = LaunchShape {
            block: block.max(found.iter().map(|f| f.1).max().unwrap_or(32)),
            jobs: found.iter().map(|(_, threads)| Threads { threads: *threads }).collect(),
            aligned,
            ahead: found.iter().all(|(e, _)| e.ahead) && fits_ahead(norm),
            bulk: found.iter().all(|(e, _)| e.bulk),
            pieces,
        };
        shape.bulk &= shape.can_copy(norm);
        shape.clustered(norm, rows)
    }

    fn nearest(&self, class: Class, width: u64, rows: u64) -> Option<Entry> {
        let far = |a: u64, b: u64| (a.max(1) as f64 / b.max(1) as f64).ln().abs();
        let key = |e: &Entry| (far(e.width, width), far(e.rows, rows));
        // A table may have been measured without gates, which read two operands as adds do.
        let has = |class: Class| self.entries.iter().any(|e| e.class == class);
        let gate = class.before == Before::Gate && !has(class);
        let class = if gate { Class { before: Before::Add, ..class } } else { class };
        let of_class = self.entries.iter().filter(|e| e.class == class);
        let better = |best: &Entry, e: &Entry| {
            let ((bw, br), (w, r)) = (key(best), key(e));
            let order = w.total_cmp(&bw).then(best.width.cmp(&e.width)).then(r.total_cmp(&br));
            order.then(best.rows.cmp(&e.rows)).is_lt()
        };
        of_class.fold(None, |best: Option<Entry>, e| match best {
            Some(b) if !better(&b, e) => Some(b),
            _ => Some(*e),
        })
    }
}

/// The threads of an entry for a row of another width: about as many elements each, and no more vectors than fit.
fn scaled(entry: &Entry, width: u64) -> u32 {
    let (vectors, there) = (width.div_ceil(VECTOR), entry.width.div_ceil(VECTOR));
    // To the nearest power of two by ratio.
    let ratio = (vectors as f64 / there as f64).log2().round();
    let threads = (f64::from(entry.threads) * ratio.exp2()) as u64;
    let least = vectors.div_ceil(MOST_VECTORS).next_power_of_two();
    let most = vectors.next_power_of_two();
    threads.min(most).max(least).clamp(32, u64::from(MAX_THREADS)) as u32
}

fn entry(line: &str) -> std::result::Result<Entry, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [class, width, rows, threads, rows_a_block, ahead, copy, us] = words[..] else {
        let columns = "class, width, rows, threads, rows a block, ahead or late, load or bulk, us";
        return Err(format!("expected {columns}; found `{line}`"));
    };
    let class: Class = class.parse()?;
    let number = |word: &str, what: &str| {
        word.parse::<u64>().ok().filter(|n| *n > 0).ok_or_else(|| format!("expected {what}, found `{word}`"))
    };
    let width = number(width, "a width")?;
    let threads = number(threads, "threads")?;
    let rows_a_block = number(rows_a_block, "rows of a block")?;
    let block = threads.saturating_mul(rows_a_block);
    if !threads.is_power_of_two() || threads < 32 || block > u64::from(MAX_THREADS) {
        return Err(format!(
            "expected a power of two from 32 threads on and at most {MAX_THREADS} a block, found {threads} x {rows_a_block}"
        ));
    }
    if width.div_ceil(VECTOR) > MOST_VECTORS * threads {
        return Err(format!(
            "expected at most {MOST_VECTORS} vectors a thread, found {width} elements of {threads} threads"
        ));
    }
    let ahead = match ahead {
        "ahead" => true,
        "late" => false,
        other => return Err(format!("expected ahead or late, found `{other}`")),
    };
    let bulk = match copy {
        "bulk" => true,
        "load" => false,
        other => return Err(format!("expected load or bulk, found `{other}`")),
    };
    let us = us.parse::<f64>().ok().filter(|us| us.is_finite() && *us > 0.0);
    let us = us.ok_or_else(|| format!("expected microseconds, found `{}`", words[7]))?;
    // Both fit, as was just seen.
    Ok(Entry {
        class,
        width,
        rows: number(rows, "rows")?,
        threads: threads as u32,
        rows_a_block: rows_a_block as u32,
        ahead,
        bulk,
        us,
    })
}
