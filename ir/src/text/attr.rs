//! Attribute values: JSON's data model in a form that is easy to read and to type.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::lex::{Lexer, Tok, is_word, quote};
use crate::{Scheme, document::json::strict};

const MAX_DEPTH: usize = 64;

/// Uses of scheme names in one value: each stands for far more than its own few bytes.
const MAX_EXPANSIONS: usize = 10_000;

/// Schemes that have a name (`!name`), since many lines repeat them.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    by_name: BTreeMap<String, Value>,
}

impl Aliases {
    pub(super) fn define(&mut self, name: String, value: &Value) -> Result<(), String> {
        let scheme = scheme(value)?;
        match self.by_name.insert(name, serde_json::to_value(scheme).unwrap_or_default()) {
            None => Ok(()),
            Some(_) => Err("expected a new name, found one that is defined above".to_owned()),
        }
    }
}

/// A scheme from its value.
pub(super) fn scheme(value: &Value) -> Result<Scheme, String> {
    strict(value).map_err(|e| format!("expected a scheme: {e}"))
}

/// Prints a value; an object that has a name prints as the name.
pub(super) fn print(v: &Value, names: &[(Value, String)], out: &mut String) {
    match v {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&number(n)),
        Value::String(s) => out.push_str(&string(s)),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                print(item, names, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            if let Some((_, name)) = names.iter().find(|(named, _)| named == v) {
                out.push('!');
                out.push_str(name);
                return;
            }
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                out.push_str(&string(key));
                out.push('=');
                print(item, names, out);
            }
            out.push('}');
        }
    }
}

/// Floats of attributes are f32 (the IR has no others), and the shortest decimal of the f32 reads best.
fn number(n: &Number) -> String {
    match n.as_f64() {
        Some(v) if n.is_f64() && f64::from(v as f32) == v => format!("{:?}", v as f32),
        Some(v) if n.is_f64() => format!("{v:?}"),
        _ => n.to_string(),
    }
}

/// The value that prints as this literal: a number or bool where that is exact, else a string.
pub(super) fn of_literal(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match parse_number(text) {
            Some(n) if number(&n) == text => Value::Number(n),
            _ => Value::String(text.to_owned()),
        },
    }
}

fn string(s: &str) -> String {
    if is_word(s) && !matches!(s, "true" | "false" | "null") { s.to_owned() } else { quote(s) }
}

/// Parses a value.
pub(super) fn parse(lexer: &mut Lexer, aliases: &Aliases) -> crate::Result<Value> {
    Reader { lexer, aliases, left: MAX_EXPANSIONS }.value(0)
}

/// Parses `{key=value, ...}` or a name of such a value.
pub(super) fn parse_object(lexer: &mut Lexer, aliases: &Aliases) -> crate::Result<Map<String, Value>> {
    let at = lexer.pos()?;
    match parse(lexer, aliases)? {
        Value::Object(map) => Ok(map),
        _ => Err(at.error("expected attributes in `{` and `}`, found another value")),
    }
}

struct Reader<'r, 't> {
    lexer: &'r mut Lexer<'t>,
    aliases: &'r Aliases,
    left: usize,
}

impl Reader<'_, '_> {
    fn value(&mut self, depth: usize) -> crate::Result<Value> {
        let (tok, at) = self.lexer.next()?;
        if depth > MAX_DEPTH {
            return Err(at.error(format!("expected at most {MAX_DEPTH} levels of brackets, found more")));
        }
        match tok {
            Tok::Word("true") => Ok(Value::Bool(true)),
            Tok::Word("false") => Ok(Value::Bool(false)),
            Tok::Word("null") => Ok(Value::Null),
            Tok::Word(word) => Ok(Value::String(word.to_owned())),
            Tok::Str(s) => Ok(Value::String(s)),
            Tok::Number(text) => parse_number(text)
                .map(Value::Number)
                .ok_or_else(|| at.error(format!("expected a number, found `{text}`"))),
            Tok::Name('!', name, 1) => {
                let Some(scheme) = self.aliases.by_name.get(&name) else {
                    return Err(at.error(format!("expected a name that a `scheme` line defines, found `!{name}`")));
                };
                self.left = self.left.checked_sub(1).ok_or_else(|| {
                    at.error(format!("expected at most {MAX_EXPANSIONS} named schemes in one value, found more"))
                })?;
                Ok(scheme.clone())
            }
            Tok::Punct('[') => {
                let mut items = Vec::new();
                loop {
                    self.lexer.skip_newlines()?;
                    if self.lexer.eat(']')? {
                        return Ok(Value::Array(items));
                    }
                    items.push(self.value(depth + 1)?);
                    separator(self.lexer, ']')?;
                }
            }
            Tok::Punct('{') => {
                let mut map = Map::new();
                loop {
                    self.lexer.skip_newlines()?;
                    if self.lexer.eat('}')? {
                        return Ok(Value::Object(map));
                    }
                    let key = match self.lexer.next()? {
                        (Tok::Word(w), _) => w.to_owned(),
                        (Tok::Str(s), _) => s,
                        (found, at) => {
                            return Err(at.error(format!("expected the name of an attribute, found {found}")));
                        }
                    };
                    let at = self.lexer.pos()?;
                    self.lexer.expect('=')?;
                    let item = self.value(depth + 1)?;
                    if map.contains_key(&key) {
                        return Err(at.error(format!("expected each attribute once, found `{key}` again")));
                    }
                    map.insert(key, item);
                    separator(self.lexer, '}')?;
                }
            }
            tok => Err(at.error(format!("expected a value, found {tok}"))),
        }
    }
}

/// A comma, or nothing before the closing bracket.
pub(super) fn separator(lexer: &mut Lexer, close: char) -> crate::Result<()> {
    lexer.skip_newlines()?;
    if lexer.eat(',')? || lexer.peek()?.0 == Tok::Punct(close) {
        return Ok(());
    }
    let (found, at) = lexer.next()?;
    Err(at.error(format!("expected `,` or `{close}`, found {found}")))
}

fn parse_number(text: &str) -> Option<Number> {
    if let Ok(v) = text.parse::<i64>() {
        // `-0` is a float: an integer has no negative zero.
        if v != 0 || !text.starts_with('-') {
            return Some(v.into());
        }
    } else if let Ok(v) = text.parse::<u64>() {
        return Some(v.into());
    } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        // An integer that fits nowhere must not become a float that is nearly it.
        return None;
    }
    // `-inf` would parse as a float; JSON has no such number.
    text.parse::<f64>().ok().and_then(Number::from_f64)
}
