//! Saturating a region and reading off what was recognised.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeFrom,
};

use egg::{FromOp, Id, Runner, SimpleScheduler, Symbol};
use normfuse_ir::{DType, fused::Root};

use crate::{
    region::Expr,
    rules::{self, Rewrites, find},
    term::{Analyse, Eg, Facts, Leaf, LeafFacts, Tag, Term},
};

/// Limits of one saturation. Never a time limit: the result must not depend on the machine.
const MAX_ITERATIONS: usize = 24;
const MAX_E_NODES: usize = 20_000;

/// A norm, in positions of the region.
#[derive(Debug, Clone, PartialEq)]
pub struct NormMatch {
    /// The rows.
    pub h: Vec<usize>,
    /// Dtype of the rows.
    pub input: DType,
    /// The rows, then casts of them: what may be handed out as the sum where the rows are one.
    pub sums: Vec<(DType, Vec<usize>)>,
    /// Operands of the residual add that makes the rows.
    pub add: Option<(Vec<usize>, Vec<usize>)>,
    /// How the row is divided.
    pub root: Root,
    /// Width of the row.
    pub width: u64,
    /// Added to the mean square.
    pub eps: f32,
    /// Dtype of the statistics.
    pub compute: DType,
    /// Dtype to which squares are rounded, if another.
    pub squares: Option<DType>,
    /// Dtype to which the normalised row is rounded.
    pub normed: DType,
    /// Dtype of the weight product, if another.
    pub product: Option<DType>,
    /// The weight and whether one is added to it; without one the norm is weightless.
    pub weight: Option<(Vec<usize>, bool)>,
    /// Candidates for the normed value: the product, then casts of it.
    pub results: Vec<(DType, Vec<usize>)>,
}

/// What saturation found in a region.
#[derive(Debug, Clone, Default)]
pub struct Solution {
    /// Norms with a weight, then the same rows without one, each in order of the first result.
    pub norms: Vec<NormMatch>,
    /// Names of the rewrites that fired, sorted.
    pub fired: Vec<String>,
}

struct Solved<'a> {
    eg: &'a Eg,
    /// Canonical class of each value.
    class: Vec<Id>,
    members: BTreeMap<Id, Vec<usize>>,
}

/// Saturates the region's terms under the rewrites and reads the result.
pub fn solve(exprs: &[Expr], rewrites: &Rewrites) -> Solution {
    let (runner, ids) = saturate(exprs, rewrites, false);
    let eg = &runner.egraph;
    let class: Vec<Id> = ids.iter().map(|id| eg.find(*id)).collect();
    let mut members: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
    for (i, c) in class.iter().enumerate() {
        members.entry(*c).or_default().push(i);
    }
    let solved = Solved { eg, class, members };
    let fired: BTreeSet<String> =
        runner.iterations.iter().flat_map(|i| i.applied.keys().map(ToString::to_string)).collect();
    Solution { norms: solved.norms(), fired: fired.into_iter().collect() }
}

/// The saturated e-graph, and the class of each value as it was added; with egg's explanations, if somebody asks why.
pub(crate) fn saturate(exprs: &[Expr], rewrites: &Rewrites, explain: bool) -> (Runner<Term, Analyse>, Vec<Id>) {
    let mut leaves = Vec::new();
    for e in exprs {
        facts_of_leaves(e, &mut leaves);
    }
    let mut eg = Eg::new(Analyse { leaves });
    if explain {
        eg = eg.with_explanations_enabled();
    }
    let ids = build(exprs, |term| eg.add(term));
    let runner = Runner::<Term, Analyse>::new(Analyse::default())
        .with_egraph(eg)
        .with_scheduler(SimpleScheduler)
        .with_iter_limit(MAX_ITERATIONS)
        .with_node_limit(MAX_E_NODES)
        .with_time_limit(std::time::Duration::from_secs(u64::from(u32::MAX)))
        .run(rewrites);
    (runner, ids)
}

/// The region's values as terms, each handed to `add`, operands first; leaves have the numbers that they come in.
pub(crate) fn build(exprs: &[Expr], mut add: impl FnMut(Term) -> Id) -> Vec<Id> {
    let mut ids: Vec<Id> = Vec::with_capacity(exprs.len());
    let mut leaves = 0..;
    for e in exprs {
        let id = build_one(e, &ids, &mut leaves, &mut add);
        ids.push(id);
    }
    ids
}

fn build_one(e: &Expr, ids: &[Id], leaves: &mut RangeFrom<u32>, add: &mut impl FnMut(Term) -> Id) -> Id {
    match e {
        Expr::Local(i) => ids[*i],
        Expr::Leaf(_) => add(Term::Leaf(Leaf(leaves.next().unwrap_or(u32::MAX)))),
        Expr::Const(n) => add(Term::Num(*n)),
        Expr::Int(i) => add(Term::Int(*i)),
        Expr::Ty(t) => add(Term::Ty(*t)),
        Expr::Tag(t) => add(Term::Tag(*t)),
        Expr::Op(head, args) => {
            let children: Vec<Id> = args.iter().map(|a| build_one(a, ids, leaves, add)).collect();
            let term = Term::from_op(head, children.clone());
            add(term.unwrap_or_else(|_| Term::Other(Symbol::from(head), children)))
        }
    }
}

fn facts_of_leaves(e: &Expr, leaves: &mut Vec<LeafFacts>) {
    match e {
        Expr::Leaf(facts) => leaves.push(*facts),
        Expr::Op(_, args) => {
            for a in args {
                facts_of_leaves(a, leaves);
            }
        }
        _ => {}
    }
}

/// Drops readings whose product is among another one's casts: a product of 16-bit values that is rounded to f32 and then to
/// 16 bits is a product in 16 bits, too.
fn one_a_result(found: Vec<NormMatch>) -> Vec<NormMatch> {
    let is_cast_of = |m: &NormMatch, wide: &NormMatch| {
        let own = m.results.first().map_or(&[][..], |(_, values)| values);
        let mut casts = wide.results.iter().skip(1).flat_map(|(_, values)| values);
        m.h == wide.h && own.first().is_some_and(|own| casts.any(|v| v == own))
    };
    let kept: Vec<bool> = found.iter().map(|m| !found.iter().any(|wide| is_cast_of(m, wide))).collect();
    found.into_iter().zip(kept).filter_map(|(m, kept)| kept.then_some(m)).collect()
}

impl Solved<'_> {
    fn facts(&self, id: Id) -> Facts {
        self.eg[id].data
    }

    fn members(&self, id: Id) -> Vec<usize> {
        self.members.get(&self.eg.find(id)).cloned().unwrap_or_default()
    }

    /// The class itself, or what it is a lossless cast of, as long as some value of the region is that.
    fn narrowest(&self, id: Id) -> Id {
        let mut id = id;
        while let Some(inner) = find(self.eg, id, |t| match t {
            Term::Cast([_, x]) => {
                let (from, to) = (self.facts(*x).dtype?, self.facts(id).dtype?);
                (from != to && from.embeds_in(to) && !self.members(*x).is_empty()).then_some(*x)
            }
            _ => None,
        }) {
            id = inner;
        }
        id
    }

    /// Classes of the region's values, in order of their first value.
    fn classes(&self) -> Vec<Id> {
        let mut seen = BTreeSet::new();
        self.class.iter().copied().filter(|c| seen.insert(*c)).collect()
    }

    /// Classes of the region's values, and before each what it is a cast of where no value is that: a native norm has
    /// its product inside.
    fn products(&self) -> Vec<Id> {
        let mut seen = BTreeSet::new();
        let inner = |class: Id| {
            find(self.eg, class, |t| match t {
                Term::Cast([_, x]) if self.members(*x).is_empty() => Some(self.eg.find(*x)),
                _ => None,
            })
        };
        self.classes().into_iter().flat_map(|c| inner(c).into_iter().chain([c])).filter(|c| seen.insert(*c)).collect()
    }

    fn norms(&self) -> Vec<NormMatch> {
        let mut found: Vec<NormMatch> = Vec::new();
        for class in self.products() {
            let rms = |form: Tag| {
                find(self.eg, class, |t| match t {
                    Term::Rms([f, w, p]) if rules::tag(self.eg, *f) == Some(form) => Some((*w, *p)),
                    _ => None,
                })
            };
            // One plus a weight says more than a weight that somebody else computes.
            let hit = rms(Tag::PlusOne).map(|h| (h, true)).or_else(|| rms(Tag::Plain).map(|h| (h, false)));
            if let Some(((w, p), plus_one)) = hit
                && let Some(m) = self.norm(class, p, Some((w, plus_one)))
            {
                found.push(m);
            }
        }
        let mut found = one_a_result(found);
        for class in self.classes() {
            let direct = find(self.eg, class, |t| matches!(t, Term::Normed(_)).then_some(()));
            if direct.is_some()
                && let Some(m) = self.norm(class, class, None)
            {
                found.push(m);
            }
        }
        found
    }

    /// A class and the casts of it that are values of the region.
    fn with_casts(&self, class: Id) -> Option<Vec<(DType, Vec<usize>)>> {
        let mut all = vec![(self.facts(class).dtype?, self.members(class))];
        for c in self.classes() {
            let cast = find(self.eg, c, |t| match t {
                Term::Cast([_, y]) if self.eg.find(*y) == self.eg.find(class) => self.facts(c).dtype,
                _ => None,
            });
            if let Some(dtype) = cast
                && c != self.eg.find(class)
                && dtype.is_arithmetic_float()
            {
                all.push((dtype, self.members(c)));
            }
        }
        Some(all)
    }

    fn norm(&self, class: Id, p: Id, weight: Option<(Id, bool)>) -> Option<NormMatch> {
        let normalised = rules::rms_norm::normed(self.eg, p)?;
        let [root, n, eps, squares, x] = normalised.term;
        let root = match rules::tag(self.eg, root)? {
            Tag::RecipSqrt => Root::ReciprocalSqrt,
            Tag::Rsqrt => Root::Rsqrt,
            Tag::DivSqrt => Root::DivideBySqrt,
            _ => return None,
        };
        let h = self.narrowest(x);
        let add = find(self.eg, h, |t| match t {
            Term::Residual([a, b]) => Some((self.members(self.narrowest(*a)), self.members(self.narrowest(*b)))),
            _ => None,
        })
        .filter(|(a, b)| !a.is_empty() && !b.is_empty());
        let weight = weight.map(|(w, plus_one)| (self.members(self.narrowest(w)), plus_one));
        if weight.as_ref().is_some_and(|(w, _)| w.is_empty()) {
            return None;
        }
        let eps = if rules::tag(self.eg, eps) == Some(Tag::NoEps) {
            0.0
        } else {
            let number = self.facts(eps).konst?;
            Some(number as f32).filter(|e| f64::from(*e) == number)?
        };
        let (compute, normed) = (self.facts(x).dtype?, normalised.dtype?);
        let product = if weight.is_some() { self.facts(class).dtype? } else { normed };
        Some(NormMatch {
            h: self.members(h),
            input: self.facts(h).dtype?,
            sums: self.with_casts(h)?,
            add,
            root,
            width: u64::try_from(self.facts(n).int?).ok()?,
            eps,
            compute,
            squares: self.facts(squares).dtype.filter(|d| *d != compute),
            normed,
            product: (product != normed).then_some(product),
            weight,
            // The product itself, then its casts that are no way station of a quantiser: an exact up-cast is the
            // reader's.
            results: self.with_casts(class)?,
        })
    }
}
