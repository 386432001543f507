//! How a chain is walked along, and how its operands lie on the way.

use normfuse_ir::{DType, Error, ErrorKind, Result};

use super::{
    super::{
        Chain, Leaf,
        place::{Walk, count, strides},
        step::Expression,
    },
    expressions, structure,
};

/// How an operand lies along the innermost axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies {
    /// Its elements are neighbours, too, and those of a thread are one vector.
    Along,
    /// Every other element is one of its, and those of a thread are in two vectors, from this element of them on.
    Alternate(u64),
    /// Its elements are apart, or begin where no vector does.
    Apart,
    /// It is one element there.
    Still,
    /// It is one element altogether.
    Alone,
}

/// A chain whose shapes and dtypes have been looked at.
pub struct Plan<'a> {
    pub chain: &'a Chain,
    pub walk: Walk,
    pub lies: Vec<Lies>,
    /// The element of each operand at which index 0 of the walk would be.
    pub bases: Vec<i64>,
    /// Where the walk is along the axis of pieces, counted in elements of a row of them; nothing if there are none.
    pub along: Option<Vec<i64>>,
    pub expressions: Vec<Expression>,
    /// Elements of a thread.
    pub each: u64,
    /// True if they are of one row, and of one piece.
    pub rows: bool,
    /// Wide enough for the number of every element, and of the operands'. Products of 64 bits take four times as long.
    pub index: &'static str,
}

/// Steps of an operand along the axes of a chain, and the element at which index 0 of all of them would be.
fn steps_of(leaf: &Leaf, chain: &Chain) -> Result<(Vec<i64>, i64)> {
    let (lies, rank) = (&leaf.lies, chain.shape.len());
    let mut base = lies.offset as i64;
    let mut steps = vec![0; rank];
    // One element is one whatever its rank.
    if count(&lies.shape) == 1 {
        return Ok((steps, base));
    }
    let bad = || Error::new(ErrorKind::Shape, format!("{:?} does not broadcast to {:?}", lies.shape, chain.shape));
    let more = rank.checked_sub(lies.shape.len()).ok_or_else(bad)?;
    for (axis, (&own, &stride)) in lies.shape.iter().zip(&lies.strides).enumerate() {
        let at = more + axis;
        let piece = leaf.piece.as_ref().filter(|_| at == chain.axis);
        let whole = piece.map_or(chain.shape[at], ExactSizeIterator::len);
        if own == whole {
            steps[at] = stride as i64;
            base -= piece.map_or(0, |p| p.start as i64) * stride as i64;
        } else if own != 1 {
            return Err(bad());
        }
    }
    Ok((steps, base))
}

impl<'a> Plan<'a> {
    pub fn of(chain: &'a Chain) -> Result<Self> {
        let expressions = expressions(chain)?;
        let own = strides(&chain.shape);
        let joins = chain.inputs.iter().any(|x| x.piece.is_some()) || chain.steps.iter().any(|s| !s.ends.is_empty());
        if joins && chain.axis >= chain.shape.len() {
            return Err(structure(format!("a chain of {:?} joins along axis {}", chain.shape, chain.axis)));
        }
        // A row of pieces is what lies within one index of the axes before theirs.
        let row = (0..own.len()).map(|axis| if joins && axis >= chain.axis { own[axis] } else { 0 }).collect();
        let mut steps: Vec<Vec<i64>> = vec![own, row];
        let mut bases = Vec::with_capacity(chain.inputs.len());
        for input in &chain.inputs {
            let (own, base) = steps_of(input, chain)?;
            steps.push(own);
            bases.push(base);
        }
        let mut walk = Walk::merged(&chain.shape, &steps);
        // The results are walked along whole, so their steps say nothing more.
        walk.steps.remove(0);
        let along = Some(walk.steps.remove(0)).filter(|_| joins);
        let results = || chain.outputs.iter().filter_map(|&k| expressions.get(k)).map(|e| e.dtype);
        let nibbles = chain.inputs.iter().map(|x| x.dtype).chain(results()).any(|d| d.bits() == 4);
        let widest = chain.inputs.iter().map(|x| x.dtype).chain(results()).map(DType::bits).max().unwrap_or(8);
        let heavy = expressions.iter().any(|e| e.heavy);
        let most = if heavy { 2 } else { (128 / widest.max(8)).clamp(2, 8) as u64 };
        let largest = chain.inputs.iter().map(|x| x.held as u64).chain([walk.count()]).max().unwrap_or(0);
        let index = if largest < 1 << 31 { "u32" } else { "u64" };
        let mut plan = Self { chain, walk, lies: Vec::new(), bases, along, expressions, each: most, rows: true, index };
        let fewest = if nibbles { most } else { 2 };
        while plan.each > fewest && !plan.is_of_rows() {
            plan.each /= 2;
        }
        plan.rows = plan.is_of_rows();
        if !plan.rows {
            plan.each = 1 + u64::from(nibbles);
        }
        plan.lies = (0..plan.bases.len()).map(|i| plan.lies_of(i)).collect();
        Ok(plan)
    }

    /// True if the elements of each thread are of one row, and of one piece.
    fn is_of_rows(&self) -> bool {
        let whole = |n: u64| n.is_multiple_of(self.each);
        (self.walk.rank() == 1 || whole(self.walk.inner())) && self.cuts().into_iter().all(whole)
    }

    /// True if the last thread may have fewer elements than the others.
    pub fn is_cut_off(&self) -> bool {
        !self.walk.count().is_multiple_of(self.each)
    }

    fn lies_of(&self, input: usize) -> Lies {
        let whole = |n: &i64| n.unsigned_abs().is_multiple_of(self.each);
        match self.walk.steps[input].split_last() {
            Some((0, outer)) if outer.iter().all(|s| *s == 0) => Lies::Alone,
            Some((0, _)) => Lies::Still,
            Some((1, outer)) if self.rows && outer.iter().all(whole) && whole(&self.bases[input]) => Lies::Along,
            Some((2, outer)) if self.rows && !self.is_cut_off() => {
                self.alternate(input, outer).map_or(Lies::Apart, Lies::Alternate)
            }
            _ => Lies::Apart,
        }
    }

    /// Where in two vectors the elements of each thread begin, if all of those vectors are of the operand.
    fn alternate(&self, input: usize, outer: &[i64]) -> Option<u64> {
        let both = 2 * self.each;
        let leaf = &self.chain.inputs[input];
        let from = self.bases[input].rem_euclid(both as i64) as u64;
        let last: usize = leaf.lies.shape.iter().zip(&leaf.lies.strides).map(|(n, s)| n.saturating_sub(1) * s).sum();
        let fits = from < 2
            && leaf.dtype.bits() >= 8
            && outer.iter().all(|s| s.unsigned_abs().is_multiple_of(both))
            && (leaf.lies.offset + last + 1).next_multiple_of(both as usize) <= leaf.held;
        fits.then_some(from)
    }

    /// Elements of a row of pieces for each index of their axis.
    fn within(&self) -> u64 {
        count(self.chain.shape.get(self.chain.axis + 1..).unwrap_or_default())
    }

    /// Where in a row of pieces the operand's one begins and ends.
    fn ends_of(&self, input: usize) -> Option<[u64; 2]> {
        let piece = self.chain.inputs[input].piece.as_ref()?;
        Some([piece.start, piece.end].map(|n| n as u64 * self.within()))
    }

    /// The pieces that operands are of, each once, and which of them each operand is of.
    pub fn pieces(&self) -> (Vec<[u64; 2]>, Vec<Option<usize>>) {
        let mut all = Vec::new();
        let of = (0..self.chain.inputs.len())
            .map(|i| {
                let ends = self.ends_of(i)?;
                all.iter().position(|own| *own == ends).or_else(|| {
                    all.push(ends);
                    Some(all.len() - 1)
                })
            })
            .collect();
        (all, of)
    }

    /// Where in a row of pieces another one begins, in the order of the steps' choices.
    pub fn choices(&self) -> Vec<u64> {
        let ends = self.chain.steps.iter().filter_map(|s| s.ends.split_last());
        ends.flat_map(|(_, ends)| ends).map(|n| *n as u64 * self.within()).collect()
    }

    fn cuts(&self) -> Vec<u64> {
        let inputs = (0..self.chain.inputs.len()).filter_map(|i| self.ends_of(i)).flatten();
        self.choices().into_iter().chain(inputs).collect()
    }
}
