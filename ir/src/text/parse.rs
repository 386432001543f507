//! Parses a document.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    attr::{self, Aliases},
    lex::{Lexer, Pos, Tok},
    literal, ops,
    print::FILL_BUDGET,
};
use crate::{
    DType, Dim, Opaque, Result, Shape, Tensor, Type,
    document::{
        ConstDoc, Document, FileId, GraphDoc, InputDoc, Line, NodeDoc, OutputDoc, Payload, ValueDoc,
        json::{decode_base64, strict},
    },
    tensor::byte_len,
};

pub(super) fn document(text: &str) -> Result<Document> {
    let mut p = Parser {
        lexer: Lexer::new(text),
        doc: Document { normfuse: 1, files: BTreeMap::new(), bodies: Vec::new(), graph: GraphDoc::default() },
        aliases: Aliases::default(),
        labels: BTreeMap::new(),
        fill_left: FILL_BUDGET,
    };
    p.document()?;
    Ok(p.doc)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    doc: Document,
    aliases: Aliases,
    /// Bodies by name and N of `~N`.
    labels: BTreeMap<(String, usize), usize>,
    fill_left: usize,
}

/// Values of the graph being parsed, by name and N of `~N`.
#[derive(Default)]
struct Scope {
    values: BTreeMap<(String, usize), usize>,
    names: Vec<String>,
}

impl Scope {
    fn define(&mut self, name: String, n: usize, at: Pos) -> Result<()> {
        let number = self.names.len();
        if n > 1 && !self.values.contains_key(&(name.clone(), n - 1)) {
            return Err(at.error(format!("expected `%{name}~{}` before `%{name}~{n}`, found none", n - 1)));
        }
        self.names.push(name.clone());
        match self.values.insert((name, n), number) {
            None => Ok(()),
            Some(old) => {
                Err(at.error(format!("expected a new name, found `%{}`, which is defined above", self.names[old])))
            }
        }
    }
}

impl Parser<'_> {
    fn document(&mut self) -> Result<()> {
        let mut graph = GraphDoc::default();
        let mut scope = Scope::default();
        let mut named = false;
        loop {
            let (tok, at) = self.lexer.peek()?.clone();
            match tok {
                Tok::End => break,
                Tok::Newline => {
                    self.lexer.next()?;
                    continue;
                }
                Tok::Word("file") => self.file()?,
                Tok::Word("scheme") => self.scheme()?,
                Tok::Word("body") => self.body()?,
                Tok::Word("graph") => {
                    self.lexer.next()?;
                    if named {
                        return Err(at.error("expected one `graph` line, found another"));
                    }
                    named = true;
                    graph.name = self.lexer.string("the graph's name")?;
                }
                _ => self.graph_line(&mut graph, &mut scope)?,
            }
            self.end_of_line()?;
        }
        self.doc.graph = graph;
        Ok(())
    }

    fn end_of_line(&mut self) -> Result<()> {
        match self.lexer.next()? {
            (Tok::Newline | Tok::End, _) => Ok(()),
            (found, at) => Err(at.error(format!("expected the end of the line, found {found}"))),
        }
    }

    fn file(&mut self) -> Result<()> {
        self.lexer.next()?;
        let at = self.lexer.pos()?;
        let file = self.lexer.string("the name of a data file")?;
        self.word("size")?;
        let size = self.lexer.number("the file's size")?;
        self.word("hash")?;
        let hash = self.lexer.string("the file's hash")?;
        match self.doc.files.insert(file, FileId { size, hash }) {
            None => Ok(()),
            Some(_) => Err(at.error("expected each data file once, found it again")),
        }
    }

    fn word(&mut self, word: &str) -> Result<()> {
        if self.lexer.eat_word(word)? {
            return Ok(());
        }
        let (found, at) = self.lexer.next()?;
        Err(at.error(format!("expected `{word}`, found {found}")))
    }

    fn scheme(&mut self) -> Result<()> {
        self.lexer.next()?;
        let (name, at) = match self.lexer.next()? {
            (Tok::Name('!', name, 1), at) => (name, at),
            (found, at) => return Err(at.error(format!("expected `!name`, found {found}"))),
        };
        self.lexer.expect('=')?;
        let value = attr::parse(&mut self.lexer, &self.aliases)?;
        self.aliases.define(name, &value).map_err(|e| at.error(e))
    }

    fn body(&mut self) -> Result<()> {
        let (_, start) = self.lexer.next()?;
        let (name, n, at) = self.label()?;
        self.end_of_line()?;
        let mut graph = GraphDoc { name: name.clone(), ..GraphDoc::default() };
        let mut scope = Scope::default();
        loop {
            match self.lexer.peek()?.0 {
                Tok::Newline => {
                    self.lexer.next()?;
                    continue;
                }
                Tok::Word("end") => {
                    self.lexer.next()?;
                    break;
                }
                Tok::End => return Err(start.error("expected the `end` of this body, found the end of the text")),
                _ => self.graph_line(&mut graph, &mut scope)?,
            }
            self.end_of_line()?;
        }
        self.doc.bodies.push(graph);
        match self.labels.insert((name, n), self.doc.bodies.len() - 1) {
            None => Ok(()),
            Some(_) => Err(at.error("expected a new name, found one that another body has")),
        }
    }

    fn label(&mut self) -> Result<(String, usize, Pos)> {
        match self.lexer.next()? {
            (Tok::Name('&', name, n), at) => Ok((name, n, at)),
            (found, at) => Err(at.error(format!("expected the name of a body, `&name`, found {found}"))),
        }
    }

    fn graph_line(&mut self, graph: &mut GraphDoc, scope: &mut Scope) -> Result<()> {
        let (tok, at) = self.lexer.peek()?.clone();
        let Tok::Word(word) = tok else { return self.node(graph, scope) };
        self.lexer.next()?;
        match word {
            "opset" => {
                let domain = self.lexer.string("the domain")?;
                let version = self.lexer.number("the version of the operator set")?;
                if graph.info.opsets.insert(domain, version).is_some() {
                    return Err(at.error("expected each domain once, found it again"));
                }
            }
            "field" => {
                let key = self.lexer.string("the key")?;
                let text = self.lexer.string("the value")?;
                if graph.info.fields.insert(key, text).is_some() {
                    return Err(at.error("expected each field once, found it again"));
                }
            }
            "metadata" => {
                let key = self.lexer.string("the key")?;
                graph.info.metadata.push((key, self.lexer.string("the value")?));
            }
            "note" => graph.info.notes.push(self.lexer.string("the note")?),
            "input" => {
                let name = self.definition(scope)?;
                let ty = self.optional_type()?;
                let default =
                    if self.lexer.eat_word("default")? { Some(self.tensor(name.clone(), None)?) } else { None };
                graph.lines.push(Line::Input(InputDoc { name, ty, default }));
            }
            "const" | "weight" => {
                let line = self.constant(word == "weight", scope)?;
                graph.lines.push(Line::Const(line));
            }
            "output" => {
                let value = self.operand(scope)?;
                let name = if self.lexer.eat_word("as")? {
                    self.lexer.string("the name of the output")?
                } else {
                    scope.names.get(value).cloned().unwrap_or_default()
                };
                graph.outputs.push(OutputDoc { name, value, declared: self.optional_type()? });
            }
            _ => {
                return Err(at.error(format!(
                    "expected a line that starts with graph, opset, field, metadata, note, file, scheme, body, input, \
                     const, weight, output or `%result`, found `{word}`"
                )));
            }
        }
        Ok(())
    }

    /// `%name` as a new value; the caller adds its line.
    fn definition(&mut self, scope: &mut Scope) -> Result<String> {
        match self.lexer.next()? {
            (Tok::Name('%', name, n), at) => {
                scope.define(name.clone(), n, at)?;
                Ok(name)
            }
            (found, at) => Err(at.error(format!("expected a value, `%name`, found {found}"))),
        }
    }

    fn operand(&mut self, scope: &Scope) -> Result<usize> {
        match self.lexer.next()? {
            (Tok::Name('%', name, n), at) => scope.values.get(&(name.clone(), n)).copied().ok_or_else(|| {
                at.error(format!("expected a value that is defined above, found {}", Tok::Name('%', name, n)))
            }),
            (found, at) => Err(at.error(format!("expected a value, `%name`, found {found}"))),
        }
    }

    // ---- types ----

    fn optional_type(&mut self) -> Result<Type> {
        if !self.lexer.eat(':')? {
            return Ok(Type::default());
        }
        self.full_type()
    }

    fn full_type(&mut self) -> Result<Type> {
        let mut ty = Type::default();
        let (tok, at) = self.lexer.next()?;
        match &tok {
            Tok::Punct('?') => {}
            Tok::Word(w) => ty.dtype = Some(w.parse::<DType>().map_err(|e| at.error(e))?),
            found => return Err(at.error(format!("expected an element type or `?`, found {found}"))),
        }
        if self.lexer.peek()?.0 == Tok::Punct('[') {
            ty.shape = Some(Shape(self.dims()?));
        }
        if self.lexer.eat_word("strides")? {
            ty.strides = Some(self.dims()?);
        }
        if self.lexer.eat_word("scheme")? {
            let at = self.lexer.pos()?;
            let value = attr::parse(&mut self.lexer, &self.aliases)?;
            ty.scheme = Some(attr::scheme(&value).map_err(|e| at.error(e))?.into());
        }
        if self.lexer.eat_word("opaque")? {
            let at = self.lexer.pos()?;
            let bytes = decode_base64(&self.lexer.string("the encoded type")?).map_err(|e| at.error(e))?;
            ty.opaque = Some(Opaque(bytes.into()));
        }
        Ok(ty)
    }

    fn dims(&mut self) -> Result<Vec<Dim>> {
        let (text, at) = self.lexer.bracketed()?;
        let mut dims = Vec::new();
        if text.trim().is_empty() {
            return Ok(dims);
        }
        let (mut depth, mut start, mut quoted, mut escaped) = (0i64, 0, false, false);
        for (i, c) in text.char_indices().chain([(text.len(), ',')]) {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted => depth -= 1,
                ',' if !quoted && depth <= 0 || i == text.len() => {
                    let dim = text.get(start..i).unwrap_or_default();
                    dims.push(dim.trim().parse().map_err(|e: String| at.error(e))?);
                    start = i + 1;
                }
                _ => {}
            }
        }
        Ok(dims)
    }

    // ---- constants ----

    fn constant(&mut self, weight: bool, scope: &mut Scope) -> Result<ConstDoc> {
        let name = self.definition(scope)?;
        self.lexer.expect(':')?;
        self.tensor(name, Some(weight))
    }

    /// A type and contents: a region of a file or not, or either if `weight` is `None`.
    fn tensor(&mut self, name: String, weight: Option<bool>) -> Result<ConstDoc> {
        let at = self.lexer.pos()?;
        let ty = self.full_type()?;
        let (Some(dtype), Some(shape)) = (ty.dtype, ty.shape.as_ref().and_then(Shape::as_concrete)) else {
            return Err(at.error("expected an element type and a shape of numbers, found another type"));
        };
        let len = byte_len(dtype, &shape).map_err(|e| at.error(e.message))?;
        self.lexer.expect('=')?;
        let weight = match weight {
            Some(weight) => weight,
            None => matches!(self.lexer.peek()?.0, Tok::Str(_)),
        };
        let payload = if weight { self.region(len)? } else { self.contents(dtype, &shape, len)? };
        Ok(ConstDoc { name, dtype, shape, scheme: ty.scheme, opaque: ty.opaque, payload })
    }

    fn region(&mut self, len: usize) -> Result<Payload> {
        let file = self.lexer.string("the name of a data file")?;
        let (text, at) = self.lexer.bracketed()?;
        let parsed = text
            .split_once("..+")
            .and_then(|(a, b)| Some((a.trim().parse::<u64>().ok()?, b.trim().parse::<u64>().ok()?)));
        let Some((offset, found)) = parsed else {
            return Err(at.error(format!("expected `offset..+length`, found `{text}`")));
        };
        if len as u64 != found {
            return Err(at.error(format!("expected {len} bytes as the type says, found {found}")));
        }
        Ok(Payload::Region { file, offset })
    }

    fn contents(&mut self, dtype: DType, shape: &[usize], len: usize) -> Result<Payload> {
        let at = self.lexer.pos()?;
        let bytes = if self.lexer.eat_word("base64")? {
            decode_base64(&self.lexer.string("the bytes")?)
        } else if self.lexer.eat_word("fill")? {
            self.lexer.expect('(')?;
            let element = self.element()?;
            self.lexer.expect(')')?;
            if len > self.fill_left {
                return Err(at.error(format!(
                    "expected at most {FILL_BUDGET} bytes in all constants that are filled, found {len} more"
                )));
            }
            self.fill_left -= len;
            literal::repeat(dtype, shape.iter().product(), &element)
        } else if shape.is_empty() {
            let element = self.element()?;
            literal::from_elements(dtype, shape, std::iter::once(element.as_str()))
        } else {
            self.lexer.expect('[')?;
            let mut elements = Vec::new();
            loop {
                self.lexer.skip_newlines()?;
                if self.lexer.eat(']')? {
                    break;
                }
                elements.push(self.element()?);
                attr::separator(&mut self.lexer, ']')?;
            }
            literal::from_elements(dtype, shape, elements.iter().map(String::as_str))
        };
        let bytes = bytes.map_err(|e| at.error(e))?;
        Tensor::from_bytes(dtype, shape.to_vec(), bytes).map(Payload::Inline).map_err(|e| at.error(e.message))
    }

    fn element(&mut self) -> Result<String> {
        match self.lexer.next()? {
            (Tok::Word(s) | Tok::Number(s), _) => Ok(s.to_owned()),
            (found, at) => Err(at.error(format!("expected an element, found {found}"))),
        }
    }

    // ---- nodes ----

    fn node(&mut self, graph: &mut GraphDoc, scope: &mut Scope) -> Result<()> {
        let start = self.lexer.pos()?;
        // Results are defined after the operands are read: a node cannot read itself.
        let mut results: Vec<(ValueDoc, usize, Pos)> = Vec::new();
        while let (Tok::Name('%', name, n), at) = self.lexer.peek()?.clone() {
            self.lexer.next()?;
            results.push((ValueDoc { name, ty: self.optional_type()? }, n, at));
            if !self.lexer.eat(',')? {
                self.lexer.expect('=')?;
                break;
            }
        }
        let op = self.op_name()?;
        self.lexer.expect('(')?;
        let mut inputs = Vec::new();
        loop {
            self.lexer.skip_newlines()?;
            if self.lexer.eat(')')? {
                break;
            }
            inputs.push(if self.lexer.eat_word("_")? { None } else { Some(self.operand(scope)?) });
            attr::separator(&mut self.lexer, ')')?;
        }
        let attributes = match self.lexer.peek()?.0 {
            Tok::Punct('{') | Tok::Name('!', ..) => attr::parse_object(&mut self.lexer, &self.aliases)?,
            _ => serde_json::Map::new(),
        };
        let op = match op {
            OpName::Known(name) => ops::known(&name, attributes, results.len()),
            OpName::Foreign(domain, op_type) => ops::foreign(domain, op_type, attributes, results.len()),
        }
        .map_err(|e| start.error(e))?;
        let name = match self.lexer.peek()?.0.clone() {
            Tok::Name('@', name, 1) => {
                self.lexer.next()?;
                name
            }
            _ => results.first().map(|(v, ..)| v.name.clone()).unwrap_or_default(),
        };
        let mut node = NodeDoc {
            name,
            op,
            inputs,
            results: Vec::new(),
            provenance: std::sync::Arc::default(),
            body: None,
            at: Some((start.line, start.column)),
        };
        self.node_tail(&mut node)?;
        for (value, n, at) in results {
            scope.define(value.name.clone(), n, at)?;
            node.results.push(value);
        }
        graph.lines.push(Line::Node(Box::new(node)));
        Ok(())
    }

    fn node_tail(&mut self, node: &mut NodeDoc) -> Result<()> {
        if self.lexer.eat_word("body")? {
            let (name, n, at) = self.label()?;
            let body = self.labels.get(&(name, n)).copied();
            node.body =
                Some(body.ok_or_else(|| at.error("expected a body that is defined above, found none of this name"))?);
        }
        if self.lexer.eat_word("from")? {
            let at = self.lexer.pos()?;
            let map = attr::parse_object(&mut self.lexer, &self.aliases)?;
            node.provenance = strict(&Value::Object(map)).map_err(|e| at.error(e))?;
        }
        Ok(())
    }

    fn op_name(&mut self) -> Result<OpName> {
        match self.lexer.next()? {
            (Tok::Word(w), _) => Ok(OpName::Known(w.to_owned())),
            (Tok::Str(domain), _) => {
                self.lexer.expect('.')?;
                Ok(OpName::Foreign(domain, self.lexer.string("the foreign op's name")?))
            }
            (found, at) => Err(at.error(format!("expected the name of an op, found {found}"))),
        }
    }
}

enum OpName {
    Known(String),
    Foreign(String, String),
}
