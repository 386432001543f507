//! Tokens of the text form.

use std::fmt;

use crate::{Error, ErrorKind, Result};

/// A place in the text, both numbers from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pos {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Pos {
    /// A parse error here.
    pub(super) fn error(self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Parse, format!("line {}, column {}: {message}", self.line, self.column))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tok<'a> {
    Newline,
    End,
    /// A word: letters, digits, `_` and `.`, not starting with a digit.
    Word(&'a str),
    /// Starts with a digit, or `-` and more.
    Number(&'a str),
    Str(String),
    /// `%name`, `&name`, `!name` or `@name`, with N of `~N` (1 where it is not written).
    Name(char, String, usize),
    Punct(char),
}

impl fmt::Display for Tok<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newline => f.write_str("the end of the line"),
            Self::End => f.write_str("the end of the text"),
            Self::Word(s) | Self::Number(s) => write!(f, "`{s}`"),
            Self::Str(s) => write!(f, "{s:?}"),
            Self::Name(sigil, name, 1) => write!(f, "`{sigil}{name}`"),
            Self::Name(sigil, name, n) => write!(f, "`{sigil}{name}~{n}`"),
            Self::Punct(c) => write!(f, "`{c}`"),
        }
    }
}

/// True for characters of names that need no quotes.
pub(super) fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '/' | '-')
}

/// True for words: what may stand as a key or a bare string in attributes.
pub(super) fn is_word(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && s.chars().all(is_word_char)
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

pub(super) struct Lexer<'a> {
    rest: &'a str,
    pos: Pos,
    peeked: Option<(Tok<'a>, Pos)>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, pos: Pos { line: 1, column: 1 }, peeked: None }
    }

    /// Where the next token starts, roughly: for errors about what follows.
    pub(super) fn pos(&mut self) -> Result<Pos> {
        Ok(self.peek()?.1)
    }

    pub(super) fn peek(&mut self) -> Result<&(Tok<'a>, Pos)> {
        let next = match self.peeked.take() {
            Some(t) => t,
            None => self.scan()?,
        };
        Ok(self.peeked.insert(next))
    }

    pub(super) fn next(&mut self) -> Result<(Tok<'a>, Pos)> {
        match self.peeked.take() {
            Some(t) => Ok(t),
            None => self.scan(),
        }
    }

    /// Takes the next token if it is this punctuation.
    pub(super) fn eat(&mut self, c: char) -> Result<bool> {
        let yes = self.peek()?.0 == Tok::Punct(c);
        if yes {
            self.peeked = None;
        }
        Ok(yes)
    }

    /// Takes the next token if it is this word.
    pub(super) fn eat_word(&mut self, word: &str) -> Result<bool> {
        let yes = self.peek()?.0 == Tok::Word(word);
        if yes {
            self.peeked = None;
        }
        Ok(yes)
    }

    pub(super) fn expect(&mut self, c: char) -> Result<()> {
        match self.next()? {
            (Tok::Punct(p), _) if p == c => Ok(()),
            (found, at) => Err(at.error(format!("expected `{c}`, found {found}"))),
        }
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        match self.next()? {
            (Tok::Str(s), _) => Ok(s),
            (found, at) => Err(at.error(format!("expected {what} in quotes, found {found}"))),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        let (tok, at) = self.next()?;
        match &tok {
            Tok::Number(s) => s.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| at.error(format!("expected {what}, found {tok}")))
    }

    /// Inside brackets, lines may be broken anywhere.
    pub(super) fn skip_newlines(&mut self) -> Result<()> {
        while self.peek()?.0 == Tok::Newline {
            self.peeked = None;
        }
        Ok(())
    }

    /// The raw text between `[` (which must come next) and its `]`, on one line; quotes may hold brackets.
    pub(super) fn bracketed(&mut self) -> Result<(&'a str, Pos)> {
        self.expect('[')?;
        let start = self.pos;
        let (mut quoted, mut escaped) = (false, false);
        for (i, c) in self.rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '\n' if !quoted => break,
                ']' if !quoted => {
                    let text = self.take(i);
                    self.take(1);
                    // A quoted symbol may hold a line break.
                    self.pos.line += text.matches('\n').count();
                    return Ok((text, start));
                }
                _ => {}
            }
        }
        Err(start.error("expected `]`, found the end of the line"))
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        self.pos.column += taken.chars().count();
        taken
    }

    fn take_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let n = self.rest.find(|c| !f(c)).unwrap_or(self.rest.len());
        self.take(n)
    }

    fn scan(&mut self) -> Result<(Tok<'a>, Pos)> {
        self.take_while(|c| matches!(c, ' ' | '\t' | '\r'));
        if self.rest.starts_with('#') {
            self.take_while(|c| c != '\n');
        }
        let at = self.pos;
        let Some(c) = self.rest.chars().next() else { return Ok((Tok::End, at)) };
        let second = self.rest[c.len_utf8()..].chars().next();
        let tok = match c {
            '\n' => {
                self.rest = &self.rest[1..];
                self.pos = Pos { line: at.line + 1, column: 1 };
                Tok::Newline
            }
            '%' | '&' | '!' | '@' => {
                self.take(1);
                self.name(c)?
            }
            '"' => Tok::Str(self.quoted()?),
            c if c.is_ascii_alphabetic() || c == '_' => Tok::Word(self.take_while(is_word_char)),
            c if c.is_ascii_digit() || c == '-' && second.is_some_and(|c| c.is_ascii_alphanumeric()) => {
                Tok::Number(self.scan_number())
            }
            '(' | ')' | '[' | ']' | '{' | '}' | ',' | '=' | ':' | '?' | '.' => {
                self.take(1);
                Tok::Punct(c)
            }
            c => return Err(at.error(format!("expected a token, found {c:?}"))),
        };
        Ok((tok, at))
    }

    fn scan_number(&mut self) -> &'a str {
        let hex = self.rest.trim_start_matches('-').starts_with("0x");
        let mut before = ' ';
        let end = self.rest.char_indices().find(|&(i, c)| {
            let sign = matches!(c, '+' | '-') && (i == 0 || !hex && matches!(before, 'e' | 'E'));
            before = c;
            !(sign || is_word_char(c))
        });
        self.take(end.map_or(self.rest.len(), |(i, _)| i))
    }

    fn name(&mut self, sigil: char) -> Result<Tok<'a>> {
        let at = self.pos;
        let name = if self.rest.starts_with('"') {
            self.quoted()?
        } else {
            let bare = self.take_while(is_name_char);
            if bare.is_empty() {
                let found = self.rest.chars().next().map_or("the end of the text".to_owned(), |c| format!("{c:?}"));
                return Err(at.error(format!("expected a name after `{sigil}`, found {found}")));
            }
            bare.to_owned()
        };
        if !self.rest.starts_with('~') {
            return Ok(Tok::Name(sigil, name, 1));
        }
        self.take(1);
        let digits = self.take_while(|c| c.is_ascii_digit());
        match digits.parse() {
            Ok(n) if n >= 1 => Ok(Tok::Name(sigil, name, n)),
            _ => Err(at.error(format!("expected a number from 1 after `~`, found `{digits}`"))),
        }
    }

    fn quoted(&mut self) -> Result<String> {
        let at = self.pos;
        self.take(1);
        let mut out = String::new();
        loop {
            out.push_str(self.take_while(|c| !matches!(c, '"' | '\\' | '\n')));
            match self.rest.chars().next() {
                Some('"') => {
                    self.take(1);
                    return Ok(out);
                }
                Some('\\') => {
                    let here = self.pos;
                    self.take(1);
                    out.push(self.escape().ok_or_else(|| {
                        here.error("expected one of the escapes \\\" \\\\ \\n \\r \\t \\u{hex}, found another")
                    })?);
                }
                _ => return Err(at.error("expected a closing `\"`, found the end of the line")),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.take(c.len_utf8());
        match c {
            '"' | '\\' => Some(c),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'u' => {
                let (hex, _) = self.rest.strip_prefix('{')?.split_once('}')?;
                // Six digits hold every character; what is longer is not one.
                let c = (hex.len() <= 6).then(|| u32::from_str_radix(hex, 16).ok().and_then(char::from_u32))??;
                let n = hex.len() + 2;
                self.take(n);
                Some(c)
            }
            _ => None,
        }
    }
}

/// A string in quotes, with escapes for quotes, backslashes and control characters.
pub(super) fn quote(s: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A name after a sigil: bare where it may be.
pub(super) fn name(s: &str) -> String {
    if !s.is_empty() && s.chars().all(is_name_char) { s.to_owned() } else { quote(s) }
}
