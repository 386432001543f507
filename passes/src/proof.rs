//! Why a value is a norm: egg's chain of rewrites from what the source computes to the recognised term, in the names of the
//! source. Costs more than recognition and is made only where somebody asks ([`crate::Options::explain`]).

use std::fmt::Write;

use egg::{CostFunction, Extractor, Id, Language, RecExpr};
use normfuse_ir::{DType, Graph, ValueId};

use crate::{
    norms::Norm,
    region::{Expr, Region},
    rules::Rewrites,
    solve,
    term::{Num, Term},
};

/// A term as a tree, with the rewrite that made it of what stood there before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    Word(String),
    List(Vec<Tree>),
    /// The name of a rewrite, whether it was applied from right to left, and what it made.
    Made(String, bool, Box<Tree>),
}

/// The terms from a value's own expression to the recognised one, each by one rewrite of the one before.
#[derive(Debug)]
pub struct Proof(Vec<Tree>);

impl Proof {
    /// The proof for a value of a region, by its position.
    pub fn new(exprs: &[Expr], rewrites: &Rewrites, position: usize) -> Self {
        let (runner, ids) = solve::saturate(exprs, rewrites, true);
        let (_, recognised) = Extractor::new(&runner.egraph, Recognised).find_best(ids[position]);
        let source = source(exprs, position);
        let mut eg = runner.egraph;
        let flat = eg.explain_equivalence(&source, &recognised).get_flat_strings();
        Self(flat.iter().map(|text| tree(&mut words(text).peekable())).collect())
    }

    /// The chain in words: the source's expression, each rewrite with what it changed, and the recognised term.
    pub fn lines(&self, graph: &Graph, region: &Region, norm: &Norm) -> Vec<String> {
        let names = Names::new(graph, region, norm);
        let mut lines = Vec::new();
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return lines };
        lines.push(names.whole(&stripped(first)));
        for pair in self.0.windows(2) {
            let (before, after) = (stripped(&pair[0]), &pair[1]);
            let Some((rule, reversed, old, new)) = change(&before, after) else { continue };
            let reversed = if reversed { ", read from right to left" } else { "" };
            let line = format!("by {rule}{reversed}: {} = {}", names.of(old), names.of(&stripped(new)));
            // What occurs more than once is rewritten more than once.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.push(format!("so it is {}", names.whole(&stripped(last))));
        lines
    }
}

/// Prefers what rules recognise to what graphs spell, then fewer terms.
struct Recognised;

impl CostFunction<Term> for Recognised {
    type Cost = u64;

    fn cost<C: FnMut(Id) -> u64>(&mut self, term: &Term, mut costs: C) -> u64 {
        let own = match term {
            Term::Rms(_) | Term::Normed(_) | Term::MeanSquare(_) | Term::Residual(_) => 1,
            _ if term.is_leaf() => 1,
            _ => 16,
        };
        term.fold(own, |sum: u64, child| sum.saturating_add(costs(child)))
    }
}

/// What the source computes, as one term.
fn source(exprs: &[Expr], position: usize) -> RecExpr<Term> {
    let mut all = RecExpr::default();
    let made = solve::build(&exprs[..=position], |term| all.add(term));
    // Only what the value is made of, with the value itself last.
    all[made[position]].build_recexpr(|id| all[id].clone())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let parens = |c: char| c == '(' || c == ')';
    text.split_whitespace().flat_map(move |word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let end = match rest.find(parens) {
                None => rest.len(),
                Some(0) => 1,
                Some(n) => n,
            };
            let (one, more) = rest.split_at(end);
            rest = more;
            (!one.is_empty()).then_some(one)
        })
    })
}

fn tree<'t>(words: &mut std::iter::Peekable<impl Iterator<Item = &'t str>>) -> Tree {
    let Some(word) = words.next() else { return Tree::Word(String::new()) };
    if word != "(" {
        return Tree::Word(word.to_owned());
    }
    let mut list = Vec::new();
    while words.peek().is_some_and(|w| *w != ")") {
        list.push(tree(words));
    }
    words.next();
    match list.as_slice() {
        [Tree::Word(how), Tree::Word(rule), made] if how == "Rewrite=>" || how == "Rewrite<=" => {
            Tree::Made(rule.clone(), how == "Rewrite<=", Box::new(made.clone()))
        }
        _ => Tree::List(list),
    }
}

/// The tree without marks.
fn stripped(tree: &Tree) -> Tree {
    match tree {
        Tree::Word(_) => tree.clone(),
        Tree::List(list) => Tree::List(list.iter().map(stripped).collect()),
        Tree::Made(.., made) => stripped(made),
    }
}

/// What was rewritten: rule, direction, before and after.
fn change<'t>(before: &'t Tree, after: &'t Tree) -> Option<(&'t str, bool, &'t Tree, &'t Tree)> {
    match (before, after) {
        (_, Tree::Made(rule, reversed, made)) => Some((rule, *reversed, before, made)),
        (Tree::List(a), Tree::List(b)) => a.iter().zip(b).find_map(|(a, b)| change(a, b)),
        _ => None,
    }
}

/// Names of the source for what terms stand for.
struct Names<'g> {
    graph: &'g Graph,
    leaves: Vec<ValueId>,
    /// The rows and the weight, where a node makes them.
    known: Vec<(Tree, ValueId)>,
}

impl<'g> Names<'g> {
    fn new(graph: &'g Graph, region: &Region, norm: &Norm) -> Self {
        let is_leaf = |i: &usize| matches!(region.exprs[*i], Expr::Leaf(_));
        let leaves = (0..region.exprs.len()).filter(is_leaf).map(|i| region.locals[i]).collect();
        let parts = norm.h.first().into_iter().chain(norm.weight.iter().filter_map(|(w, _)| w.first()));
        let known = parts.filter_map(|v| {
            let position = region.local(*v)?;
            let text = source(&region.exprs, position).to_string();
            Some((tree(&mut words(&text).peekable()), *v))
        });
        Self { graph, leaves, known: known.filter(|(t, _)| matches!(t, Tree::List(_))).collect() }
    }

    fn name(&self, value: ValueId) -> String {
        format!("%{}", self.graph.value(value).name)
    }

    /// A term in which rows and weight have their names.
    fn of(&self, tree: &Tree) -> String {
        match self.known.iter().find(|(known, _)| known == tree) {
            Some((_, value)) => self.name(*value),
            None => self.whole(tree),
        }
    }

    /// The same, but a term that is rows or a weight itself is spelled out.
    fn whole(&self, tree: &Tree) -> String {
        match tree {
            Tree::Word(word) => self.word(word),
            Tree::List(list) => {
                let mut text = String::from("(");
                for (i, part) in list.iter().enumerate() {
                    let _ = write!(text, "{}{}", if i > 0 { " " } else { "" }, self.of(part));
                }
                text + ")"
            }
            Tree::Made(.., made) => self.whole(made),
        }
    }

    fn word(&self, word: &str) -> String {
        let leaf = word.strip_prefix("leaf").and_then(|n| n.parse().ok()).and_then(|n: usize| self.leaves.get(n));
        match (leaf, word.parse::<Num>()) {
            (Some(value), _) => self.name(*value),
            // As it is written in its own dtype: the shortest digits that give its bits.
            (None, Ok(Num { dtype: DType::F64, bits })) => format!("{:?}", f64::from_bits(bits)),
            (None, Ok(num)) => format!("{:?}", num.value() as f32),
            (None, Err(())) => word.to_owned(),
        }
    }
}
