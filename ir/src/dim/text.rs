//! Sizes as text: printing, parsing, and the serde that goes through both.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Atom, Dim};

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
        if let Some(c) = self.as_const() {
            return write!(f, "{c}");
        }
        let (constant, products): (Vec<_>, Vec<_>) = self.terms().partition(|(m, _)| m.is_empty());
        for (i, (m, c)) in products.into_iter().chain(constant).enumerate() {
            let sign = if c < 0 { "-" } else { "+" };
            match (i, c < 0) {
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
