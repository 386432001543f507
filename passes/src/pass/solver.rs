//! Regions, solved with a memory.

use std::{collections::BTreeSet, rc::Rc};

use normfuse_ir::Graph;

use super::Memo;
use crate::{
    Options,
    norms::Norm,
    proof::Proof,
    region::{Expr, Region},
    rules::{self, Rewrites, Rule},
    solve::{self, Solution},
};

/// Saturation under some of the rules, with a memory: a region that repeats in every layer is solved once.
pub(super) struct Solver {
    pub(super) rewrites: Rewrites,
    pub(super) memo: Memo<Vec<Expr>, Rc<Solution>>,
    /// By region and position.
    proofs: Memo<(Vec<Expr>, usize), Rc<Proof>>,
}

impl Solver {
    pub(super) fn new(options: &Options, on: impl Fn(&Rule) -> bool) -> Self {
        let mut rewrites = rules::always();
        let mut names = BTreeSet::new();
        for rule in options.rules().filter(|r| on(r)) {
            // Rules may share rewrites; each is applied once.
            rewrites.extend((rule.rewrites)().into_iter().filter(|r| names.insert(r.name.to_string())));
        }
        Self { rewrites, memo: Memo::default(), proofs: Memo::default() }
    }

    pub(super) fn solve(&mut self, region: &Region) -> Rc<Solution> {
        if let Some(s) = self.memo.get(&region.exprs) {
            return Rc::clone(s);
        }
        let s = Rc::new(solve::solve(&region.exprs, &self.rewrites));
        self.memo.insert(region.exprs.clone(), Rc::clone(&s));
        s
    }

    /// Why a norm of the region is one.
    pub(super) fn prove(&mut self, graph: &Graph, region: &Region, norm: &Norm) -> Vec<String> {
        let result = norm.results.iter().find_map(|(_, values)| values.first());
        let Some(position) = result.and_then(|v| region.local(*v)) else { return Vec::new() };
        let rewrites = &self.rewrites;
        let proof = self.proofs.entry((region.exprs.clone(), position));
        let proof = Rc::clone(proof.or_insert_with(|| Rc::new(Proof::new(&region.exprs, rewrites, position))));
        proof.lines(graph, region, norm)
    }
}
