//! How few numbers are spread over many: which element of a small tensor each element of a large one meets, through views, expansions
//! and a broadcast.
//!
//! A spread is the digits of the flat index of the large tensor, row-major: each counts along the small one, or repeats. Digits that
//! count enumerate the small tensor in row-major order, so that views change nothing.

use normfuse_ir::{Dim, Graph, NodeId, Op, Shape, ValueId};

use crate::{
    region::{producer_op, typed},
    views::is_view,
};

/// One digit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digit {
    size: Dim,
    /// It counts along the small tensor.
    counts: bool,
}

/// The digits of a spread tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    digits: Vec<Digit>,
}

/// Most nodes between the small tensor and where it is met.
const DEPTH: usize = 12;

impl Spread {
    /// The value that `value` is a spread of, as far back as views, expansions and exact casts go, and how.
    pub fn back(graph: &Graph, value: ValueId) -> Option<(ValueId, Self)> {
        let mut expansions: Vec<NodeId> = Vec::new();
        let mut root = value;
        for _ in 0..DEPTH {
            let Some((id, op)) = producer_op(graph, root) else { break };
            let input = graph.node(id).input(0);
            match (op, input) {
                (_, Some(x)) if is_view(graph, id) => root = x,
                (Op::Expand, Some(x)) => {
                    expansions.push(id);
                    root = x;
                }
                (Op::Cast { to, .. }, Some(x))
                    if typed(graph, x).is_some_and(|(d, _)| d.is_float() && d.embeds_in(*to)) =>
                {
                    root = x;
                }
                _ => break,
            }
        }
        let mut spread = Self::of(typed(graph, root)?.1);
        for id in expansions.iter().rev() {
            let node = graph.node(*id);
            spread.expand(typed(graph, node.input(0)?)?.1, typed(graph, node.outputs[0])?.1)?;
        }
        Some((root, spread))
    }

    /// A tensor itself.
    pub fn of(shape: &Shape) -> Self {
        let digits = shape.0.iter().filter(|d| !is_one(d)).map(|d| Digit { size: d.clone(), counts: true });
        Self { digits: digits.collect() }
    }

    /// Broadcasts from one shape to another.
    pub fn expand(&mut self, from: &Shape, to: &Shape) -> Option<()> {
        let ahead = to.rank().checked_sub(from.rank())?;
        let mut digits = Vec::with_capacity(to.rank());
        let mut rest = std::mem::take(&mut self.digits).into_iter();
        for (axis, size) in to.0.iter().enumerate() {
            let own = axis.checked_sub(ahead).map_or_else(|| Dim::from(1), |i| from.0[i].clone());
            if own != *size {
                is_one(&own).then_some(())?;
                digits.push(Digit { size: size.clone(), counts: false });
                continue;
            }
            // The digits that make up this axis.
            let mut made = Dim::from(1);
            while made != own {
                let digit = rest.next()?;
                made = &made * &digit.size;
                digits.push(digit);
            }
        }
        rest.next().is_none().then_some(())?;
        self.digits = digits;
        Some(())
    }

    /// Elements of the large tensor that meet one of the small one, among rows and along columns of a matrix with so many columns.
    pub fn blocks(&self, columns: u64) -> Option<(Block, Block)> {
        let mut along = Dim::from(1);
        let want = Dim::from(i64::try_from(columns).ok()?);
        let mut at = self.digits.len();
        while along != want {
            at = at.checked_sub(1)?;
            along = &self.digits[at].size * &along;
        }
        let (rows, columns) = self.digits.split_at(at);
        Some((block(rows)?, block(columns)?))
    }
}

/// How many neighbours meet one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// All of them.
    All,
    /// So many.
    Of(u64),
}

/// Digits that count, then digits that repeat.
fn block(digits: &[Digit]) -> Option<Block> {
    let repeats = digits.iter().rev().take_while(|d| !d.counts).count();
    let (counting, repeating) = digits.split_at(digits.len() - repeats);
    if !counting.iter().all(|d| d.counts) {
        return None;
    }
    if counting.is_empty() && !repeating.is_empty() {
        return Some(Block::All);
    }
    let size = |n: u64, d: &Digit| n.checked_mul(u64::try_from(d.size.as_const()?).ok()?);
    repeating.iter().try_fold(1, size).map(Block::Of)
}

fn is_one(d: &Dim) -> bool {
    d.as_const() == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &[i64]) -> Shape {
        Shape(sizes.iter().map(|n| Dim::from(*n)).collect())
    }

    fn spread(steps: &[(&[i64], &[i64])]) -> Option<Spread> {
        let mut all = Spread::of(&shape(steps[0].0));
        steps.iter().try_for_each(|(from, to)| all.expand(&shape(from), &shape(to)))?;
        Some(all)
    }

    #[test]
    fn blocks_are_what_repeats() {
        // A scale for 128 by 64 of a [256, 192].
        let both = spread(&[(&[2, 1, 3, 1], &[2, 128, 3, 64])]).unwrap();
        assert_eq!(both.blocks(192), Some((Block::Of(128), Block::Of(64))));
        // Said in two steps, the second in another shape.
        let two = spread(&[(&[2, 1, 3], &[2, 128, 3]), (&[256, 3, 1], &[256, 3, 64])]).unwrap();
        assert_eq!(two, both);
        let row = spread(&[(&[5, 1], &[5, 192])]).unwrap();
        assert_eq!(row.blocks(192), Some((Block::Of(1), Block::All)));
        let one = spread(&[(&[1], &[5, 192])]).unwrap();
        assert_eq!(one.blocks(192), Some((Block::All, Block::All)));
        let column = spread(&[(&[192], &[5, 192])]).unwrap();
        assert_eq!(column.blocks(192), Some((Block::All, Block::Of(1))));
    }

    #[test]
    fn what_is_no_block_is_none() {
        // Every other one meets the same: repeated as a whole.
        let tiled = spread(&[(&[1, 3], &[64, 3])]).unwrap();
        assert_eq!(tiled.blocks(192), None);
        // An axis that cuts through what was expanded before.
        assert_eq!(spread(&[(&[2, 1, 3], &[2, 128, 3]), (&[384, 2, 1], &[384, 2, 64])]), None);
        assert_eq!(spread(&[(&[2], &[3])]), None);
        assert_eq!(spread(&[(&[2, 3], &[3])]), None);
    }

    #[test]
    fn rows_may_be_symbols() {
        let tokens = Dim::sym("tokens");
        let of =
            |tail: &[i64]| Shape(std::iter::once(tokens.clone()).chain(tail.iter().map(|n| Dim::from(*n))).collect());
        let mut groups = Spread::of(&of(&[2, 1]));
        groups.expand(&of(&[2, 1]), &of(&[2, 64])).unwrap();
        assert_eq!(groups.blocks(128), Some((Block::Of(1), Block::Of(64))));
    }
}
