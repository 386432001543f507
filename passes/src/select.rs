//! Choosing among fusions: which norms share an op, and what each op takes in.
//!
//! By a device's description the largest legal fusion is the cheapest (see [`crate::cost`]), so it is tried first. Where
//! it is not legal, or a host prices ops by a table of its own, every choice is priced: the partitions of the sibling
//! norms, and for each op the subsets of its quantisers, with and without the add before it.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Graph, NodeId, Op};

use crate::{
    Options,
    candidate::{self, Candidate, Refusal, Take},
    cost::Price,
    norms::Norm,
    quant::Quant,
    reach::Order,
    rules::{dequantise, pad},
};

/// Most norms of which all partitions are priced; in larger groups norms join the first op that can take them.
const MAX_UNITS: usize = 5;
/// Most quantisers of which all subsets are priced; of more, all or none.
const MAX_QUANTISERS: usize = 5;

/// A norm and what it brings: its weights' norms, by position, and the quantisers that read their results.
pub struct Unit<'a> {
    /// Positions of the norms, one for each weight on the row.
    pub norms: Vec<usize>,
    /// The norms.
    pub members: Vec<&'a Norm>,
    /// Quantisers that read one of their results.
    pub quants: Vec<&'a Quant>,
}

/// What came of a group.
pub enum Choice {
    /// An op, and the positions of its norms.
    Fuse(Candidate, Vec<usize>),
    /// A norm that stays as it is.
    Leave(NodeId, Refusal),
}

/// Chooses the ops of a group of norms that may share one.
pub fn choose(graph: &Graph, order: &Order, units: &[Unit<'_>], options: &Options) -> Vec<Choice> {
    let merge = options.why_off("sibling_norm").is_none();
    let of_norms = units.iter().flat_map(|u| &u.members).flat_map(|n| &n.nodes);
    let group = of_norms.chain(units.iter().flat_map(|u| &u.quants).flat_map(|q| &q.nodes)).copied().collect();
    let price = Price::new(graph, group, &options.device, options.cost.as_ref());
    let mut s = Search { graph, order, units, options, price, tried: BTreeMap::new() };
    let all: Vec<usize> = (0..units.len()).collect();
    if merge || units.len() == 1 {
        match s.build(&all, &Take::default()) {
            Ok(candidate) if options.cost.is_none() && s.price.saves_launches(&candidate) => {
                return vec![s.fuse(candidate, &all)];
            }
            whole => {
                let found = s.cheapest(&all, whole);
                s.tried.insert(all.clone(), found);
            }
        }
    }
    let mut best: Option<(f64, Vec<Vec<usize>>)> = None;
    for partition in if merge { partitions(units.len()) } else { vec![singles(&all)] } {
        let saved: f64 = partition.iter().map(|block| s.block(block).as_ref().map_or(0.0, |(saved, _)| *saved)).sum();
        // Whoever comes first of equals: fewer ops before more.
        if best.as_ref().is_none_or(|(most, _)| saved > *most + 1e-9) {
            best = Some((saved, partition));
        }
    }
    let partition = match best {
        Some((_, partition)) => partition,
        None => s.greedy(),
    };
    let mut choices = Vec::new();
    for block in partition {
        // A block of several that does not fuse is its norms one by one.
        let parts = if s.block(&block).is_err() { singles(&block) } else { vec![block] };
        for part in parts {
            choices.push(match s.block(&part).clone() {
                Ok((_, candidate)) => s.fuse(candidate, &part),
                Err(refusal) => Choice::Leave(units[part[0]].members[0].anchor, refusal),
            });
        }
    }
    choices
}

fn singles(block: &[usize]) -> Vec<Vec<usize>> {
    block.iter().map(|i| vec![*i]).collect()
}

/// Every partition of `n` things into blocks, those with fewer blocks first; none if there are too many things.
fn partitions(n: usize) -> Vec<Vec<Vec<usize>>> {
    fn extend(i: usize, n: usize, blocks: &mut Vec<Vec<usize>>, out: &mut Vec<Vec<Vec<usize>>>) {
        if i == n {
            return out.push(blocks.clone());
        }
        for b in 0..blocks.len() {
            blocks[b].push(i);
            extend(i + 1, n, blocks, out);
            blocks[b].pop();
        }
        blocks.push(vec![i]);
        extend(i + 1, n, blocks, out);
        blocks.pop();
    }
    let mut out = Vec::new();
    if n <= MAX_UNITS {
        extend(0, n, &mut Vec::new(), &mut out);
        out.sort_by_key(Vec::len);
    }
    out
}

/// What an op saves, and the op; or why there is none.
type Priced = Result<(f64, Candidate), Refusal>;

struct Search<'a> {
    graph: &'a Graph,
    order: &'a Order,
    units: &'a [Unit<'a>],
    options: &'a Options,
    price: Price<'a>,
    tried: BTreeMap<Vec<usize>, Priced>,
}

impl Search<'_> {
    fn build(&self, block: &[usize], take: &Take) -> Result<Candidate, Refusal> {
        let members: Vec<&Norm> = block.iter().flat_map(|u| &self.units[*u].members).copied().collect();
        let quants: Vec<&Quant> = block.iter().flat_map(|u| &self.units[*u].quants).copied().collect();
        candidate::build(self.graph, self.order, &members, &quants, take, self.options)
    }

    fn fuse(&self, candidate: Candidate, block: &[usize]) -> Choice {
        Choice::Fuse(candidate, block.iter().flat_map(|u| &self.units[*u].norms).copied().collect())
    }

    /// The cheapest op of a block, if one is legal and pays.
    fn block(&mut self, block: &[usize]) -> &Priced {
        if !self.tried.contains_key(block) {
            let found = self.cheapest(block, self.build(block, &Take::default()));
            self.tried.insert(block.to_vec(), found);
        }
        &self.tried[block]
    }

    /// The cheapest op of a block, given the one that takes everything in.
    fn cheapest(&self, block: &[usize], whole: Result<Candidate, Refusal>) -> Priced {
        let pays = |c: Candidate| Some((self.price.saving(&c), c)).filter(|(saved, _)| *saved > 0.0);
        let (why, mut best) = match whole {
            Ok(c) if self.options.cost.is_none() => {
                // With the zeros behind its rows it may have been worth it.
                let pad = c.kept.iter().find(|(_, r)| r.rule == pad::RULE.name).map(|(_, r)| r.clone());
                return pays(c).ok_or_else(|| pad.unwrap_or_else(|| self.does_not_pay(block[0])));
            }
            Ok(c) => (None, pays(c)),
            // A norm that is none, or that depends on itself, is none with less either.
            Err(r) if r.precondition != "supported" => return Err(r),
            Err(r) => (Some(r), None),
        };
        let units = || block.iter().map(|u| &self.units[*u]);
        let quants: Vec<NodeId> = units().flat_map(|u| &u.quants).map(|q| q.anchor).collect();
        let adds = units().flat_map(|u| &u.members).any(|n| n.add.is_some());
        let pads = units().flat_map(|u| &u.members).any(|n| pad::is_read(self.graph, self.order, n));
        let numbers = units().flat_map(|u| &u.quants).any(|q| dequantise::is_read(self.graph, q));
        let masks: Vec<u32> =
            if quants.len() <= MAX_QUANTISERS { (0..1 << quants.len()).rev().collect() } else { vec![u32::MAX, 0] };
        // From all to none, so that of equals the larger is kept.
        for (i, mask) in masks.into_iter().enumerate() {
            let left = quants.iter().enumerate().filter(|(i, _)| *i < 32 && mask >> i & 1 == 0);
            let without: BTreeSet<NodeId> = left.map(|(_, n)| *n).collect();
            // Of the three, from all to none.
            for [residual, padded, dequantised] in (0..8).map(|n| [n & 4 == 0, n & 2 == 0, n & 1 == 0]) {
                let whole = i == 0 && residual && padded && dequantised;
                if whole || !(residual || adds) || !(padded || pads) || !(dequantised || numbers) {
                    continue;
                }
                let take = Take { without: without.clone(), residual, dequantised, padded, why: why.clone() };
                let Some(found) = self.build(block, &take).ok().and_then(pays) else { continue };
                if best.as_ref().is_none_or(|(saved, _)| found.0 > saved + 1e-9) {
                    best = Some(found);
                }
            }
        }
        best.ok_or_else(|| why.unwrap_or_else(|| self.does_not_pay(block[0])))
    }

    /// Norms join the first op that can take them.
    fn greedy(&mut self) -> Vec<Vec<usize>> {
        let mut blocks: Vec<Vec<usize>> = Vec::new();
        'units: for u in 0..self.units.len() {
            for block in &mut blocks {
                let with: Vec<usize> = block.iter().copied().chain([u]).collect();
                if self.block(&with).is_ok() {
                    *block = with;
                    continue 'units;
                }
            }
            blocks.push(vec![u]);
        }
        blocks
    }

    fn does_not_pay(&self, unit: usize) -> Refusal {
        let anchor = self.units[unit].members[0].anchor;
        let op = &self.graph.node(anchor).op;
        let native = matches!(op, Op::RmsNorm { .. } | Op::SkipRmsNorm { .. });
        let hint = if native && self.options.cost.is_none() {
            format!("`{}` is one op already and feeds no quantiser", op.name())
        } else {
            "by the table of costs a fused op takes longer than what it would replace".to_owned()
        };
        Refusal { rule: "rms_norm", precondition: "saves_something", node: Some(anchor), hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_all_there_and_the_fewest_blocks_come_first() {
        assert_eq!(partitions(0), [Vec::<Vec<usize>>::new()]);
        assert_eq!(partitions(2), [vec![vec![0, 1]], vec![vec![0], vec![1]]]);
        assert_eq!([1, 2, 3, 4, 5].map(|n| partitions(n).len()), [1, 2, 5, 15, 52]);
        assert!(partitions(6).is_empty());
    }
}
