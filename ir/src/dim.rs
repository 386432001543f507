//! Symbolic sizes: polynomials with integer coefficients over symbols and over floordiv, mod, min and max of such
//! polynomials, in one canonical form, so that equal sizes compare equal.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Add, Mul, Sub},
    sync::Arc,
};

mod division;
mod range;
mod shape;
mod text;

pub use shape::Shape;

/// Atoms (counted with their powers and insides) beyond which an expression collapses to [`COMPLEX`]: sizes come from
/// files, and a product of sums doubles its terms with every factor.
const MAX_WEIGHT: usize = 256;

/// What overflowed arithmetic gives. Two overflows have one name but need not be equal: see [`Dim::is_collapsed`].
const OVERFLOW: &str = "?overflow";

/// What an expression that grew too large gives; likewise.
const COMPLEX: &str = "?complex";

/// Something that a polynomial cannot look into.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Sym(Arc<str>),
    FloorDiv(Dim, Dim),
    Mod(Dim, Dim),
    Min(Dim, Dim),
    Max(Dim, Dim),
}

/// A product of atoms, each with its power; empty for 1.
type Monomial = Vec<(Atom, u32)>;

/// A size that may depend on symbols. Symbols stand for sizes that are at least 1 (the ONNX and torch.export reading).
///
/// Arithmetic that overflows i64, or that gives an expression too large to be useful, collapses to an unknown size
/// ([`Dim::is_collapsed`]), which is never provably equal to anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

/// Most sizes are numbers, and those take no memory of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Number(i64),
    /// A polynomial that is not a number, in canonical order and without zeros.
    Terms(Arc<Vec<(Monomial, i64)>>),
}

impl Dim {
    /// A symbol.
    pub fn sym(name: impl Into<Arc<str>>) -> Self {
        Self::one_atom(Atom::Sym(name.into()))
    }

    /// The size of which nothing is known; the name tells unknowns apart (`?` is prefixed).
    pub fn unknown(tag: impl fmt::Display) -> Self {
        Self::sym(format!("?{tag}"))
    }

    /// True if some symbol of the size is unknown.
    pub fn has_unknown(&self) -> bool {
        self.any_symbol(|s| s.starts_with('?'))
    }

    /// True if a symbol is such a one. Asked of every size by inference, so numbers answer at once.
    fn any_symbol(&self, is: fn(&str) -> bool) -> bool {
        let Repr::Terms(terms) = &self.0 else { return false };
        terms.iter().flat_map(|(m, _)| m).any(|(atom, _)| match atom {
            Atom::Sym(s) => is(s),
            Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                a.any_symbol(is) || b.any_symbol(is)
            }
        })
    }

    /// Calls `f` with every symbol, in canonical order, repeats included.
    pub fn visit_symbols(&self, f: &mut dyn FnMut(&str)) {
        for (atom, _) in self.terms().flat_map(|(m, _)| m) {
            match atom {
                Atom::Sym(s) => f(s),
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                    a.visit_symbols(f);
                    b.visit_symbols(f);
                }
            }
        }
    }

    /// The number, if the size does not depend on symbols.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Number(c) => Some(c),
            Repr::Terms(_) => None,
        }
    }

    /// True if arithmetic overflowed or the expression grew too large, here or in an operand: nothing can be concluded
    /// from comparing such a size, not even with itself.
    pub fn is_collapsed(&self) -> bool {
        self.any_symbol(|s| s == OVERFLOW || s == COMPLEX)
    }

    /// True if arithmetic overflowed i64.
    pub fn is_overflow(&self) -> bool {
        self.any_symbol(|s| s == OVERFLOW)
    }

    /// The products of atoms and their coefficients, in canonical order.
    fn terms(&self) -> impl Iterator<Item = (&Monomial, i64)> {
        static ONE: Monomial = Vec::new();
        let (number, terms) = match &self.0 {
            Repr::Number(c) => (Some((&ONE, *c)).filter(|(_, c)| *c != 0), &[][..]),
            Repr::Terms(terms) => (None, terms.as_slice()),
        };
        number.into_iter().chain(terms.iter().map(|(m, c)| (m, *c)))
    }

    fn from_terms(terms: BTreeMap<Monomial, i64>) -> Self {
        let terms: Vec<(Monomial, i64)> = terms.into_iter().filter(|(_, c)| *c != 0).collect();
        match terms.as_slice() {
            [] => Self::from(0),
            [(m, c)] if m.is_empty() => Self::from(*c),
            _ => Self(Repr::Terms(Arc::new(terms))).bounded(),
        }
    }

    fn one_atom(atom: Atom) -> Self {
        Self(Repr::Terms(Arc::new(vec![(vec![(atom, 1)], 1)])))
    }

    fn overflow() -> Self {
        Self::sym(OVERFLOW)
    }

    fn complex() -> Self {
        Self::sym(COMPLEX)
    }

    fn bounded(self) -> Self {
        let mut budget = MAX_WEIGHT;
        if self.spend(&mut budget) { self } else { Self::complex() }
    }

    /// Takes the weight of the expression off the budget; false once that is spent.
    fn spend(&self, budget: &mut usize) -> bool {
        let mut take = |n: usize| budget.checked_sub(n).map(|left| *budget = left).is_some();
        if !take(self.terms().count()) || !self.terms().flat_map(|(m, _)| m).all(|(_, power)| take(*power as usize)) {
            return false;
        }
        self.terms().flat_map(|(m, _)| m).all(|(atom, _)| match atom {
            Atom::Sym(_) => true,
            Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Min(a, b) | Atom::Max(a, b) => {
                a.spend(budget) && b.spend(budget)
            }
        })
    }

    fn combine(&self, other: &Self, f: impl Fn(i64, i64) -> Option<i64>) -> Self {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return f(a, b).map_or_else(Self::overflow, Self::from);
        }
        let mut terms: BTreeMap<Monomial, i64> = self.terms().map(|(m, c)| (m.clone(), c)).collect();
        for (m, c) in other.terms() {
            let slot = terms.entry(m.clone()).or_insert(0);
            match f(*slot, c) {
                Some(v) => *slot = v,
                None => return Self::overflow(),
            }
        }
        Self::from_terms(terms)
    }

    fn times(&self, other: &Self) -> Self {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => return a.checked_mul(b).map_or_else(Self::overflow, Self::from),
            (Some(c), None) => return other.scaled(c),
            (None, Some(c)) => return self.scaled(c),
            (None, None) => {}
        }
        if self.terms().count() * other.terms().count() > 4 * MAX_WEIGHT {
            return Self::complex();
        }
        let mut terms: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (ma, ca) in self.terms() {
            for (mb, cb) in other.terms() {
                let mut powers: BTreeMap<Atom, u32> = ma.iter().cloned().collect();
                for (a, p) in mb {
                    // No overflow: a power is at most MAX_WEIGHT.
                    *powers.entry(a.clone()).or_insert(0) += p;
                }
                let slot = terms.entry(powers.into_iter().collect()).or_insert(0);
                match ca.checked_mul(cb).and_then(|c| slot.checked_add(c)) {
                    Some(v) => *slot = v,
                    None => return Self::overflow(),
                }
            }
        }
        Self::from_terms(terms)
    }

    /// The product of sizes; 1 of none.
    pub fn product(sizes: &[Self]) -> Self {
        let mut number = Some(1i64);
        let mut rest: Option<Self> = None;
        for d in sizes {
            match d.as_const() {
                Some(0) => return Self::from(0),
                Some(c) => number = number.and_then(|n| n.checked_mul(c)),
                None => rest = Some(rest.map_or_else(|| d.clone(), |r| &r * d)),
            }
        }
        let number = number.map_or_else(Self::overflow, Self::from);
        rest.map_or(number.clone(), |r| &number * &r)
    }

    /// A number times the expression: as many terms, or none.
    fn scaled(&self, by: i64) -> Self {
        match by {
            0 => Self::from(0),
            1 => self.clone(),
            _ => {
                if let Some(c) = self.as_const() {
                    return c.checked_mul(by).map_or_else(Self::overflow, Self::from);
                }
                let terms = self.terms().map(|(m, c)| Some((m.clone(), c.checked_mul(by)?)));
                terms.collect::<Option<_>>().map_or_else(Self::overflow, |t| Self(Repr::Terms(Arc::new(t))))
            }
        }
    }

    fn atom(atom: Atom) -> Self {
        Self::one_atom(atom).bounded()
    }

    /// The smaller one. (Not `min`: on an owned value that would be `Ord::min`, the order of the canonical forms.)
    #[must_use]
    pub fn minimum(&self, other: &Self) -> Self {
        self.extreme(other, |d| d.max_value().is_some_and(|v| v <= 0), Atom::Min)
    }

    /// The larger one.
    #[must_use]
    pub fn maximum(&self, other: &Self) -> Self {
        self.extreme(other, |d| d.min_value().is_some_and(|v| v >= 0), Atom::Max)
    }

    fn extreme(&self, other: &Self, keep: impl Fn(&Self) -> bool, atom: fn(Self, Self) -> Atom) -> Self {
        if keep(&(self - other)) {
            return self.clone();
        }
        if keep(&(other - self)) {
            return other.clone();
        }
        let (a, b) = if self.cmp(other).is_le() { (self, other) } else { (other, self) };
        Self::atom(atom(a.clone(), b.clone()))
    }

    /// The number that the size is under a binding of its symbols; `None` for a free symbol, an overflow or a division
    /// by 0.
    pub fn eval(&self, bind: &impl Fn(&str) -> Option<i64>) -> Option<i64> {
        self.eval_dyn(bind)
    }

    fn eval_dyn(&self, bind: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        self.terms().try_fold(0i64, |sum, (m, c)| {
            let product = m.iter().try_fold(c, |acc, (atom, power)| {
                let pair = |a: &Self, b: &Self| Some((a.eval_dyn(bind)?, b.eval_dyn(bind)?));
                let v = match atom {
                    Atom::Sym(s) => bind(s)?,
                    Atom::FloorDiv(a, b) => {
                        pair(a, b).and_then(|(a, b)| Self::from(a).floor_div(&b.into()).as_const())?
                    }
                    Atom::Mod(a, b) => pair(a, b).and_then(|(a, b)| Self::from(a).modulo(&b.into()).as_const())?,
                    Atom::Min(a, b) => pair(a, b).map(|(a, b)| a.min(b))?,
                    Atom::Max(a, b) => pair(a, b).map(|(a, b)| a.max(b))?,
                };
                acc.checked_mul(v.checked_pow(*power)?)
            })?;
            sum.checked_add(product)
        })
    }
}

impl From<i64> for Dim {
    fn from(v: i64) -> Self {
        Self(Repr::Number(v))
    }
}

impl From<&str> for Dim {
    /// A symbol of that name.
    fn from(v: &str) -> Self {
        Self::sym(v)
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $body:expr) => {
        impl $trait<&Dim> for &Dim {
            type Output = Dim;

            fn $method(self, other: &Dim) -> Dim {
                let ($a, $b) = (self, other);
                $body
            }
        }
        impl $trait for Dim {
            type Output = Dim;

            fn $method(self, other: Dim) -> Dim {
                (&self).$method(&other)
            }
        }
    };
}

operator!(Add, add, |a, b| a.combine(b, i64::checked_add));
operator!(Sub, sub, |a, b| a.combine(b, i64::checked_sub));
operator!(Mul, mul, |a, b| a.times(b));

#[cfg(test)]
mod tests {
    use super::*;

    fn d(s: &str) -> Dim {
        s.parse().unwrap()
    }

    #[test]
    fn equal_sizes_have_one_form() {
        assert_eq!(d("seq*batch"), d("batch * seq"));
        assert_eq!(d("(a + 1)*(a - 1)"), d("a*a - 1"));
        assert_eq!(d("256*b//128"), d("2*b"));
        assert_eq!(d("a - a + 3").as_const(), Some(3));
        assert_ne!(d("a//2*2"), d("a"));
        assert_eq!(d("min(a, a + 1)"), d("a"));
        assert_eq!(d("mod(4*a, 4)").as_const(), Some(0));
    }

    #[test]
    fn what_prints_parses_back() {
        for s in ["0", "7", "-3", "a", "a*b + 1", "-2*a + b", "floordiv(a, 4)*b", "max(a, b) - 1", "\"x y\"", "\"min\""]
        {
            let v = d(s);
            assert_eq!(d(&v.to_string()), v, "{s} printed as {v}");
        }
    }

    #[test]
    fn evaluates_under_a_binding() {
        let bind = |s: &str| (s == "a").then_some(7);
        assert_eq!(d("a*a - floordiv(a, 2) + mod(a, 4)").eval(&bind), Some(49));
        assert_eq!(d("a + b").eval(&bind), None);
        assert_eq!(d("floordiv(a, a - 7)").eval(&bind), None);
    }

    #[test]
    fn hostile_expressions_are_errors() {
        for s in ["", "a+", "(a", "min(a)", "min(a,b", "99999999999999999999", "\"a", "a $"] {
            assert!(s.parse::<Dim>().is_err(), "{s}");
        }
        assert!(("(".repeat(1000) + "a").parse::<Dim>().is_err());
        assert!(d("9223372036854775807 + 1").has_unknown());
    }
}
