//! Symbolic sizes: polynomials with integer coefficients over symbols and over floordiv, mod, min and max of such
//! polynomials, in one canonical form, so that equal sizes compare equal.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Add, Mul, Sub},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

mod division;
mod range;

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
pub struct Dim(Arc<Vec<(Monomial, i64)>>);

impl Dim {
    /// A symbol.
    pub fn sym(name: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(vec![(vec![(Atom::Sym(name.into()), 1)], 1)]))
    }

    /// The size of which nothing is known; the name tells unknowns apart (`?` is prefixed).
    pub fn unknown(tag: impl fmt::Display) -> Self {
        Self::sym(format!("?{tag}"))
    }

    /// True if some symbol of the size is unknown.
    pub fn has_unknown(&self) -> bool {
        let mut found = false;
        self.visit_symbols(&mut |s| found |= s.starts_with('?'));
        found
    }

    /// Calls `f` with every symbol, in canonical order, repeats included.
    pub fn visit_symbols(&self, f: &mut dyn FnMut(&str)) {
        for (atom, _) in self.0.iter().flat_map(|(m, _)| m) {
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
        match self.0.as_slice() {
            [] => Some(0),
            [(m, c)] if m.is_empty() => Some(*c),
            _ => None,
        }
    }

    /// True if arithmetic overflowed or the expression grew too large, here or in an operand: nothing can be concluded
    /// from comparing such a size, not even with itself.
    pub fn is_collapsed(&self) -> bool {
        let mut found = false;
        self.visit_symbols(&mut |s| found |= s == OVERFLOW || s == COMPLEX);
        found
    }

    /// True if arithmetic overflowed i64.
    pub fn is_overflow(&self) -> bool {
        let mut found = false;
        self.visit_symbols(&mut |s| found |= s == OVERFLOW);
        found
    }

    fn from_terms(terms: BTreeMap<Monomial, i64>) -> Self {
        Self(Arc::new(terms.into_iter().filter(|(_, c)| *c != 0).collect())).bounded()
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
        if !take(self.0.len()) || !self.0.iter().flat_map(|(m, _)| m).all(|(_, power)| take(*power as usize)) {
            return false;
        }
        self.0.iter().flat_map(|(m, _)| m).all(|(atom, _)| match atom {
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
        let mut terms: BTreeMap<Monomial, i64> = self.0.iter().cloned().collect();
        for (m, c) in other.0.iter() {
            let slot = terms.entry(m.clone()).or_insert(0);
            match f(*slot, *c) {
                Some(v) => *slot = v,
                None => return Self::overflow(),
            }
        }
        Self::from_terms(terms)
    }

    fn times(&self, other: &Self) -> Self {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => return a.checked_mul(b).map_or_else(Self::overflow, Self::from),
            (Some(1), _) => return other.clone(),
            (_, Some(1)) => return self.clone(),
            _ => {}
        }
        if self.0.len() * other.0.len() > 4 * MAX_WEIGHT {
            return Self::complex();
        }
        let mut terms: BTreeMap<Monomial, i64> = BTreeMap::new();
        for (ma, ca) in self.0.iter() {
            for (mb, cb) in other.0.iter() {
                let mut powers: BTreeMap<Atom, u32> = ma.iter().cloned().collect();
                for (a, p) in mb {
                    // No overflow: a power is at most MAX_WEIGHT.
                    *powers.entry(a.clone()).or_insert(0) += p;
                }
                let slot = terms.entry(powers.into_iter().collect()).or_insert(0);
                match ca.checked_mul(*cb).and_then(|c| slot.checked_add(c)) {
                    Some(v) => *slot = v,
                    None => return Self::overflow(),
                }
            }
        }
        Self::from_terms(terms)
    }

    fn atom(atom: Atom) -> Self {
        Self(Arc::new(vec![(vec![(atom, 1)], 1)])).bounded()
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
        self.0.iter().try_fold(0i64, |sum, (m, c)| {
            let product = m.iter().try_fold(*c, |acc, (atom, power)| {
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
        Self(Arc::new(if v == 0 { vec![] } else { vec![(vec![], v)] }))
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

/// Symbols print bare where they look like a name, else in double quotes with `\` escapes.
fn write_sym(f: &mut fmt::Formatter<'_>, s: &str) -> fmt::Result {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '?');
    let function = matches!(s, "floordiv" | "mod" | "min" | "max");
    if !s.is_empty() && !s.starts_with(|c: char| c.is_ascii_digit()) && s.chars().all(plain) && !function {
        f.write_str(s)
    } else {
        write!(f, "\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sym(s) => write_sym(f, s),
            Self::FloorDiv(a, b) => write!(f, "floordiv({a}, {b})"),
            Self::Mod(a, b) => write!(f, "mod({a}, {b})"),
            Self::Min(a, b) => write!(f, "min({a}, {b})"),
            Self::Max(a, b) => write!(f, "max({a}, {b})"),
        }
    }
}

impl fmt::Display for Dim {
    /// `2*batch*seq + 1`: products first, the constant last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        let (constant, products): (Vec<_>, Vec<_>) = self.0.iter().partition(|(m, _)| m.is_empty());
        for (i, (m, c)) in products.into_iter().chain(constant).enumerate() {
            let sign = if *c < 0 { "-" } else { "+" };
            match (i, *c < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                _ => write!(f, " {sign} ")?,
            }
            let mut first = true;
            if c.unsigned_abs() != 1 || m.is_empty() {
                write!(f, "{}", c.unsigned_abs())?;
                first = false;
            }
            for (atom, power) in m {
                for _ in 0..*power {
                    if !first {
                        f.write_str("*")?;
                    }
                    first = false;
                    write!(f, "{atom}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Dim {
    type Err = String;

    /// Parses what [`Display`](fmt::Display) prints, and any expression of `+ - *`, `//`, parentheses, integers, names,
    /// quoted names and the functions `floordiv mod min max`.
    fn from_str(s: &str) -> Result<Self, String> {
        let mut p = Parser { rest: s, depth: 0 };
        let d = p.sum()?;
        p.skip();
        if p.rest.is_empty() { Ok(d) } else { Err(format!("unexpected `{}` in size `{s}`", p.rest)) }
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl Parser<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Result<Dim, String> {
        self.depth += 1;
        if self.depth > 64 {
            return Err("size expression is nested too deeply".into());
        }
        let mut acc = if self.eat("-") { Dim::from(0) - self.product()? } else { self.product()? };
        loop {
            if self.eat("+") {
                acc = acc + self.product()?;
            } else if self.eat("-") {
                acc = acc - self.product()?;
            } else {
                self.depth -= 1;
                return Ok(acc);
            }
        }
    }

    fn product(&mut self) -> Result<Dim, String> {
        let mut acc = self.factor()?;
        loop {
            if self.eat("*") {
                acc = acc * self.factor()?;
            } else if self.eat("//") {
                acc = acc.floor_div(&self.factor()?);
            } else {
                return Ok(acc);
            }
        }
    }

    fn factor(&mut self) -> Result<Dim, String> {
        self.skip();
        if self.eat("(") {
            let d = self.sum()?;
            return if self.eat(")") { Ok(d) } else { Err("expected `)` in size".into()) };
        }
        if self.eat("\"") {
            let mut name = String::new();
            let mut chars = self.rest.char_indices();
            while let Some((i, c)) = chars.next() {
                match c {
                    '"' => {
                        self.rest = &self.rest[i + 1..];
                        return Ok(Dim::sym(name));
                    }
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    c => name.push(c),
                }
            }
            return Err("unclosed `\"` in size".into());
        }
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '?')))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            return Err(format!("expected a size, found `{}`", rest.chars().next().unwrap_or(' ')));
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse::<i64>().map(Dim::from).map_err(|e| format!("`{word}`: {e}"));
        }
        let function: Option<fn(&Dim, &Dim) -> Dim> = match word {
            "floordiv" => Some(Dim::floor_div),
            "mod" => Some(Dim::modulo),
            "min" => Some(Dim::minimum),
            "max" => Some(Dim::maximum),
            _ => None,
        };
        let Some(function) = function else { return Ok(Dim::sym(word)) };
        if !self.eat("(") {
            return Err(format!("expected `(` after `{word}`"));
        }
        let a = self.sum()?;
        if !self.eat(",") {
            return Err(format!("expected `,` in `{word}(...)`"));
        }
        let b = self.sum()?;
        if self.eat(")") { Ok(function(&a, &b)) } else { Err(format!("expected `)` after `{word}(...`")) }
    }
}

impl Serialize for Dim {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.as_const() {
            Some(c) => s.serialize_i64(c),
            None => s.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Repr {
            Num(i64),
            Text(String),
        }
        match Repr::deserialize(d)? {
            Repr::Num(n) => Ok(n.into()),
            Repr::Text(s) => s.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// A symbolic shape, outermost size first; empty for a scalar.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of numbers.
    pub fn from_concrete(sizes: &[usize]) -> Self {
        Self(sizes.iter().map(|&d| Dim::from(d as i64)).collect())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> Dim {
        self.0.iter().fold(Dim::from(1), |n, d| &n * d)
    }

    /// The numbers, if every size is one that is not negative.
    pub fn as_concrete(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.as_const().and_then(|c| usize::try_from(c).ok())).collect()
    }

    /// The last size.
    pub fn last(&self) -> Option<&Dim> {
        self.0.last()
    }

    /// Row-major strides, in elements.
    pub fn row_major_strides(&self) -> Vec<Dim> {
        let mut strides = vec![Dim::from(1); self.rank()];
        for i in (0..self.rank().saturating_sub(1)).rev() {
            strides[i] = &strides[i + 1] * &self.0[i + 1];
        }
        strides
    }
}

impl<D: Into<Dim>> FromIterator<D> for Shape {
    fn from_iter<I: IntoIterator<Item = D>>(iter: I) -> Self {
        Self(iter.into_iter().map(Into::into).collect())
    }
}

impl From<Vec<Dim>> for Shape {
    fn from(v: Vec<Dim>) -> Self {
        Self(v)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

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
