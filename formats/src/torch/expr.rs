//! Sizes as the file spells them, in sympy's syntax: `2*s0 + 1`, or since torch 2.9 as the constructors of the same
//! expression, `Add(Mul(Integer(2), Symbol('s0', positive=True, integer=True)), Integer(1))`.

use std::sync::Arc;

use normfuse_ir::Dim;

/// Deepest nesting of an expression.
const MAX_DEPTH: u32 = 64;
/// Largest power of a size: tensors have few axes, and a power is that many factors.
const MAX_POWER: i64 = 8;

/// Longest expression in bytes; those of real models have some dozens.
const MAX_LEN: usize = 4096;

/// A size expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    Int(i64),
    Sym(Arc<str>),
    Op(Operator, Box<(Expr, Expr)>),
}

/// What joins two sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    Add,
    Mul,
    FloorDiv,
    /// Rounded up.
    CeilDiv,
    Mod,
    Max,
    Min,
    /// The right side is a small number.
    Pow,
}

impl Expr {
    /// Parses an expression.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LEN {
            return Err(format!("{} bytes, of which {MAX_LEN} are allowed", text.len()));
        }
        let mut p = Parser { rest: text, depth: 0 };
        let e = p.sum()?;
        p.skip();
        if p.rest.is_empty() { Ok(e) } else { Err(format!("unexpected `{}`", short(p.rest))) }
    }

    /// The size in its canonical form.
    pub fn dim(&self) -> Dim {
        match self {
            Self::Int(i) => Dim::from(*i),
            Self::Sym(s) => Dim::sym(s.clone()),
            Self::Op(op, ab) => {
                let (a, b) = (ab.0.dim(), ab.1.dim());
                match op {
                    Operator::Add => a + b,
                    Operator::Mul => a * b,
                    Operator::FloorDiv => a.floor_div(&b),
                    Operator::CeilDiv => a.ceil_div(&b),
                    Operator::Mod => a.modulo(&b),
                    Operator::Max => a.maximum(&b),
                    Operator::Min => a.minimum(&b),
                    Operator::Pow => (0..b.as_const().unwrap_or(0)).fold(Dim::from(1), |acc, _| acc * a.clone()),
                }
            }
        }
    }

    /// The product of two sizes.
    pub fn times(a: &Self, b: &Self) -> Self {
        Self::join(Operator::Mul, a.clone(), b.clone())
    }

    /// The sum of two sizes.
    pub fn plus(a: &Self, b: &Self) -> Self {
        Self::join(Operator::Add, a.clone(), b.clone())
    }

    fn join(op: Operator, a: Self, b: Self) -> Self {
        Self::Op(op, Box::new((a, b)))
    }
}

/// As much of a piece of text as a message needs.
fn short(text: &str) -> String {
    text.chars().take(20).collect()
}

struct Parser<'a> {
    rest: &'a str,
    depth: u32,
}

impl<'a> Parser<'a> {
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

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) {
            return Ok(());
        }
        let found = self.rest.chars().next().map_or_else(|| "the end".into(), |c| format!("`{c}`"));
        Err(format!("expected `{token}`, found {found}"))
    }

    fn sum(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        let mut acc = self.product()?;
        loop {
            if self.eat("+") {
                acc = Expr::join(Operator::Add, acc, self.product()?);
            } else if self.eat("-") {
                let minus = Expr::join(Operator::Mul, Expr::Int(-1), self.product()?);
                acc = Expr::join(Operator::Add, acc, minus);
            } else {
                self.depth -= 1;
                return Ok(acc);
            }
        }
    }

    fn product(&mut self) -> Result<Expr, String> {
        let mut acc = self.signed()?;
        loop {
            self.skip();
            if self.eat("//") {
                acc = Expr::join(Operator::FloorDiv, acc, self.signed()?);
            } else if !self.rest.starts_with("**") && self.eat("*") {
                acc = Expr::join(Operator::Mul, acc, self.signed()?);
            } else if self.eat("%") {
                acc = Expr::join(Operator::Mod, acc, self.signed()?);
            } else {
                return Ok(acc);
            }
        }
    }

    fn signed(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        let e = if self.eat("-") {
            match self.signed()? {
                Expr::Int(i) => Expr::Int(i.checked_neg().ok_or("a number that is too large")?),
                e => Expr::join(Operator::Mul, Expr::Int(-1), e),
            }
        } else {
            let base = self.atom()?;
            if self.eat("**") { power(base, &self.signed()?)? } else { base }
        };
        self.depth -= 1;
        Ok(e)
    }

    fn word(&mut self) -> &'a str {
        self.skip();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn atom(&mut self) -> Result<Expr, String> {
        if self.eat("(") {
            let e = self.sum()?;
            self.expect(")")?;
            return Ok(e);
        }
        let word = self.word();
        if word.is_empty() {
            let found = self.rest.chars().next().map_or_else(|| "the end".into(), |c| format!("`{c}`"));
            return Err(format!("expected a size, found {found}"));
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.parse().map(Expr::Int).map_err(|_| format!("`{}` is no number", short(word)));
        }
        match word {
            "Symbol" => self.symbol(),
            _ if self.eat("(") => self.call(word),
            _ => Ok(Expr::Sym(word.into())),
        }
    }

    /// `Symbol('s0', positive=True, integer=True)`: what is said of it is true of every size.
    fn symbol(&mut self) -> Result<Expr, String> {
        self.expect("(")?;
        self.skip();
        let quote = if self.eat("'") { '\'' } else { '"' };
        if quote == '"' {
            self.expect("\"")?;
        }
        let (name, rest) = self.rest.split_once(quote).ok_or("a symbol's name does not end")?;
        if name.is_empty() {
            return Err("a symbol has no name".into());
        }
        self.rest = rest;
        while self.eat(",") {
            self.word();
            self.expect("=")?;
            self.word();
        }
        self.expect(")")?;
        Ok(Expr::Sym(name.into()))
    }

    fn call(&mut self, function: &str) -> Result<Expr, String> {
        let mut args = Vec::new();
        if !self.eat(")") {
            loop {
                args.push(self.sum()?);
                if self.eat(",") {
                    // sympy's own keyword.
                    if self.eat("evaluate=") {
                        self.word();
                        self.expect(")")?;
                        break;
                    }
                    continue;
                }
                self.expect(")")?;
                break;
            }
        }
        let fold = match function {
            "Add" => Some(Operator::Add),
            "Mul" => Some(Operator::Mul),
            "Max" => Some(Operator::Max),
            "Min" => Some(Operator::Min),
            // A clean division has no rest; of sizes, which are not negative, all remainders are one.
            "FloorDiv" | "CleanDiv" => Some(Operator::FloorDiv),
            "Mod" | "PythonMod" => Some(Operator::Mod),
            "Integer" | "Identity" | "Pow" | "PowByNatural" | "CeilDiv" => None,
            _ => return Err(format!("`{}` is no function of sizes that normfuse knows", short(function))),
        };
        let found = args.len();
        let exactly = |n: usize| {
            if found == n { Ok(()) } else { Err(format!("`{function}` takes {n} arguments, found {found}")) }
        };
        let mut args = args.into_iter();
        let mut next = || args.next().ok_or_else(|| format!("`{function}` without arguments"));
        match (function, fold) {
            ("Integer" | "Identity", _) => {
                exactly(1)?;
                next()
            }
            ("Pow" | "PowByNatural", _) => {
                exactly(2)?;
                power(next()?, &next()?)
            }
            ("CeilDiv", _) => {
                exactly(2)?;
                Ok(Expr::join(Operator::CeilDiv, next()?, next()?))
            }
            (_, Some(op)) => {
                if matches!(op, Operator::FloorDiv | Operator::Mod) {
                    exactly(2)?;
                }
                let first = next()?;
                Ok(args.fold(first, |acc, e| Expr::join(op, acc, e)))
            }
            _ => Err(format!("`{}` is no function of sizes that normfuse knows", short(function))),
        }
    }
}

fn power(base: Expr, exponent: &Expr) -> Result<Expr, String> {
    match exponent {
        Expr::Int(n) if (0..=MAX_POWER).contains(n) => Ok(Expr::join(Operator::Pow, base, Expr::Int(*n))),
        _ => Err(format!("a power other than 0 to {MAX_POWER}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_one_size() {
        for (text, size) in [
            ("2*s0 + 1", "2*s0 + 1"),
            ("Add(Mul(Integer(2), Symbol('s0', positive=True, integer=True)), Integer(1))", "2*s0 + 1"),
            ("s0**2", "s0*s0"),
            ("Pow(Symbol('s0', integer=True), Integer(2))", "s0*s0"),
            ("-s0 + 5", "5 - s0"),
            ("Add(Symbol('s1'), Integer(-1))", "s1 - 1"),
            ("(s0 + s1)//4", "floordiv(s0 + s1, 4)"),
            ("FloorDiv(Symbol('s0'), Integer(4))", "floordiv(s0, 4)"),
            ("CeilDiv(s0, 4)", "floordiv(s0 + 3, 4)"),
            ("Mod(s0, 4)", "mod(s0, 4)"),
            ("Max(1, s0, s1)", "max(s0, s1)"),
            ("Min(Integer(4), Mul(Integer(2), Symbol(\"s70\", positive=True)))", "min(4, 2*s70)"),
            ("s0*s1*s2 - 3*s1", "s0*s1*s2 - 3*s1"),
        ] {
            let found = Expr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).dim();
            assert_eq!(found, size.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        let deep = "(".repeat(5000) + "s0";
        let minus = "-".repeat(5000) + "s0";
        // Not nested as it is written, and nested as it is read.
        let long = "1+".repeat(250_000) + "s0";
        for text in [
            "",
            "s0 +",
            "2 s0",
            "Symbol('s0",
            "Symbol()",
            "Where(s0, 1, 2)",
            "s0**s1",
            "s0**99",
            "s0**-1",
            "Mod(s0)",
            "99999999999999999999",
            "Max()",
            "s0)",
            "Rational(1, 2)",
            "s0/2",
            &deep,
            &minus,
            &long,
        ] {
            let e = Expr::parse(text).unwrap_err();
            assert!(e.len() < 200, "{e}");
        }
        Expr::parse(&("1+".repeat(2000) + "s0")).unwrap().dim();
    }
}
