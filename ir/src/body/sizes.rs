//! How much data an op and its body are compared on.
//!
//! Rows are independent of one another, and what joins them (the scale of a whole tensor) does so at any number of them.
//! So a model's own sizes need not be taken: symbols are bound to small numbers, and a leading size that is too large to
//! compare on becomes a symbol, in the operands and in the constant shapes by which the body restates them.

use std::collections::{BTreeMap, BTreeSet};

use super::operands::Operand;
use crate::{
    Dim, Error, ErrorKind, Graph, Op, Result, Shape, Tensor, Type,
    eval::{numbers::ints, shape::product},
    infer,
};

/// Most elements of one data set, all operands together.
pub(super) const DATA_SET: usize = 1 << 21;

/// Past this many elements no further data set of special rows is tried.
pub(super) const ALL_SETS: usize = 1 << 22;

/// Elements of ordinary data that are compared besides the special rows. Functions that differ in the last bit of an f32
/// only (a division, a product with the reciprocal) part in one value of 2^16 after a rounding to bf16.
const BULK: usize = 1 << 20;

/// What a body may make of one data set: elements of one value, and of all of them. Bodies restate, widen and split rows;
/// only one that somebody made up is far beyond this.
const VALUE: u64 = 1 << 23;
const VALUES: u64 = 1 << 29;

/// Sizes that symbols take in turn: one row, an even number, odd ones.
const SIZES: [i64; 4] = [1, 2, 3, 5];

/// How many data sets show every symbol in every size.
pub(super) const ROUNDS: usize = SIZES.len();

/// The sizes of one data set.
#[derive(Debug, Clone)]
pub(super) struct DataSet {
    sizes: BTreeMap<String, i64>,
    /// Shapes of all operands.
    pub(super) shapes: Vec<Vec<usize>>,
}

impl DataSet {
    pub(super) fn elements(&self) -> usize {
        self.shapes.iter().map(|s| product(s)).fold(0, usize::saturating_add)
    }

    /// How many rows it has; one where it has none, for a loop that counts them.
    pub(super) fn rows(&self) -> usize {
        self.shapes.first().map_or(1, |s| product(&s[..s.len().saturating_sub(1)])).max(1)
    }
}

/// Operands in sizes on which an op and its body can be compared.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) operands: Vec<Operand>,
    symbols: BTreeSet<String>,
    /// Leading sizes that became symbols, the largest first.
    freed: Vec<(Dim, String)>,
}

impl Extent {
    /// The sizes that the operands have, those too large to compare on freed.
    ///
    /// # Errors
    /// `Unsupported` if a single row is too large; `Shape` for sizes that are none.
    pub(super) fn of(operands: Vec<Operand>) -> Result<Self> {
        let mut extent = Self { symbols: symbols(&operands), operands, freed: Vec::new() };
        loop {
            let Some(e) = (0..SIZES.len()).find_map(|n| extent.round(n).err()) else { return Ok(extent) };
            if !extent.free_largest() {
                return Err(e);
            }
        }
    }

    /// True if the model's own sizes are among those that are compared.
    pub(super) fn is_own(&self) -> bool {
        self.freed.is_empty()
    }

    /// True if the number of rows may vary.
    pub(super) fn has_symbols(&self) -> bool {
        !self.symbols.is_empty()
    }

    /// The `n`-th data set of special rows: the same symbol is the same size everywhere.
    pub(super) fn round(&self, n: usize) -> Result<DataSet> {
        let size = |(i, s): (usize, &String)| (s.clone(), SIZES[(n + i) % SIZES.len()]);
        self.fit(self.symbols.iter().enumerate().map(size).collect())
    }

    /// The data set of ordinary rows: the first symbol grows, the others are 1.
    pub(super) fn bulk(&self) -> Result<DataSet> {
        let row = self.bind(self.symbols.iter().map(|s| (s.clone(), 1)).collect())?;
        let many = (BULK / row.elements().max(1)).clamp(1, 4095) as i64 | 1;
        self.fit(row.sizes.into_keys().enumerate().map(|(i, s)| (s, if i == 0 { many } else { 1 })).collect())
    }

    /// The sizes, halved until a data set holds them: where a symbol counts twice, rows are as its square.
    fn fit(&self, sizes: BTreeMap<String, i64>) -> Result<DataSet> {
        let mut set = self.bind(sizes)?;
        while set.elements() > DATA_SET {
            if set.sizes.values().all(|n| *n <= 1) {
                let shown: Vec<String> = self.operands.iter().map(|o| format!("{} {}", o.name, o.ty())).collect();
                let message = format!(
                    "{} take more than the {DATA_SET} elements on which a fused op and its body are compared",
                    shown.join(", ")
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            set = self.bind(set.sizes.into_iter().map(|(s, n)| (s, (n / 2).max(1))).collect())?;
        }
        Ok(set)
    }

    fn bind(&self, sizes: BTreeMap<String, i64>) -> Result<DataSet> {
        let size = |o: &Operand, d: &Dim| {
            d.eval(&|s| sizes.get(s).copied())
                .and_then(|v| usize::try_from(v).ok())
                .ok_or_else(|| Error::new(ErrorKind::Shape, format!("no size fits the dimension {d}")).at_port(&o.name))
        };
        let shape = |o: &Operand| o.shape.iter().map(|d| size(o, d)).collect();
        let shapes = self.operands.iter().map(shape).collect::<Result<_>>()?;
        Ok(DataSet { sizes, shapes })
    }

    /// Makes the largest leading size a symbol; false if there is none that helps.
    fn free_largest(&mut self) -> bool {
        let ones = |d: &Dim| d.eval(&|_| Some(1)).filter(|n| *n >= 0).unwrap_or(i64::MAX);
        let leading = self.operands.iter_mut().flat_map(|o| o.leading().to_vec());
        let Some(largest) = leading.filter(|d| ones(d) > 1).max_by_key(ones) else { return false };
        let mut name = format!("rows{}", self.freed.len());
        while self.symbols.contains(&name) {
            name.push('\'');
        }
        for d in self.operands.iter_mut().flat_map(Operand::leading).filter(|d| **d == largest) {
            *d = Dim::sym(name.as_str());
        }
        self.freed.push((largest, name));
        self.symbols = symbols(&self.operands);
        true
    }

    /// The body for inputs of these types: with the sizes that were freed as the data set has them, and no larger than a check
    /// may be.
    ///
    /// # Errors
    /// `Unsupported` if it would make too much of them, and what inference finds wrong.
    pub(super) fn body(&self, body: &Graph, set: &DataSet, inputs: &[Tensor]) -> Result<Graph> {
        let mut body = body.clone();
        for (from, name) in &self.freed {
            if let (Some(from), Some(to)) = (from.as_const(), set.sizes.get(name)) {
                replace_size(&mut body, from, *to);
            }
        }
        let made: Vec<_> = body.values().filter(|(_, v)| v.as_const().is_none()).map(|(id, _)| id).collect();
        for id in &made {
            *body.type_mut(*id) = Type::default();
        }
        for (id, t) in body.inputs().to_vec().into_iter().zip(inputs) {
            *body.type_mut(id) = Type::tensor(t.dtype(), Shape::from_concrete(t.shape()));
        }
        infer::infer(&mut body)?;
        let mut all = 0u64;
        for id in made {
            let value = body.value(id);
            let known = value.ty.shape.iter().flat_map(|s| &s.0).filter_map(Dim::as_const);
            let n = known.fold(1u64, |n, d| n.saturating_mul(d.unsigned_abs()));
            all = all.saturating_add(n);
            if n > VALUE || all > VALUES {
                let message =
                    format!("value `{}` of the body has {n} elements, too many for rows of this size", value.name);
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(body)
    }
}

/// Rewrites the constant shapes in which a graph restates its rows, from one leading size to another. The size is the
/// first entry that it divides (a reshape may have merged it with its neighbours), before a `-1`, which takes what is
/// left, and before the last entry, which is never rows. Where this guesses wrong, the graph no longer computes what its
/// descriptor says, and that is found.
fn replace_size(graph: &mut Graph, from: i64, to: i64) {
    let users: Vec<_> =
        graph.nodes().filter(|(_, n)| matches!(n.op, Op::Reshape { .. } | Op::Expand)).map(|(id, _)| id).collect();
    for id in users {
        let Some(shape) = graph.node(id).input(1).and_then(|v| graph.value(v).as_const()) else { continue };
        if shape.len() > infer::MAX_KNOWN {
            continue;
        }
        let Ok(mut target) = ints(shape) else { continue };
        let leading = target.len().saturating_sub(1);
        let entry = target[..leading].iter_mut().take_while(|d| **d >= 0).find(|d| **d > 0 && **d % from == 0);
        if let Some(d) = entry {
            *d = *d / from * to;
            let name = format!("shape of node {}", id.index());
            let value = graph.add_const(name, Tensor::from_i64(&[target.len()], &target));
            graph.set_input(id, 1, Some(value));
        }
    }
}

/// The symbols in the operands' shapes.
fn symbols(operands: &[Operand]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for dim in operands.iter().flat_map(|o| &o.shape) {
        dim.visit_symbols(&mut |s| {
            names.insert(s.to_string());
        });
    }
    names
}
