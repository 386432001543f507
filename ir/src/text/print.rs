//! Prints a document.

use std::{collections::BTreeMap, fmt::Write};

use serde::Serialize;
use serde_json::Value;

use super::{
    attr,
    lex::{name, quote},
    literal, ops,
};
use crate::{
    Op, Opaque, Scheme, Tensor, Type,
    document::{ConstDoc, Document, GraphDoc, Line, NodeDoc, Payload, json::encode_base64},
};

/// How many bytes all `fill(..)` constants of a text may take together: the reader allocates no more than that on the
/// text's word, and the printer stays within it.
pub(super) const FILL_BUDGET: usize = 64 << 20;

pub(super) fn document(doc: &Document) -> String {
    print(doc, false)
}

/// A document without the contents of its weights.
pub(super) fn outline(doc: &Document) -> String {
    print(doc, true)
}

fn print(doc: &Document, outline: bool) -> String {
    let mut p =
        Printer { out: String::new(), schemes: schemes(doc), labels: Vec::new(), fill_left: FILL_BUDGET, outline };
    for (file, id) in &doc.files {
        p.line(format_args!("file {} size {} hash {}", quote(file), id.size, quote(&id.hash)));
    }
    for i in 0..p.schemes.len() {
        let (value, label) = p.schemes[i].clone();
        let _ = write!(p.out, "scheme !{} = ", name(&label));
        attr::print(&value, &[], &mut p.out);
        p.out.push('\n');
    }
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for body in &doc.bodies {
        let label = numbered('&', &body.name, count(&mut taken, &body.name));
        p.line(format_args!("body {label}"));
        p.graph(body, "  ");
        p.line(format_args!("end"));
        p.labels.push(label);
    }
    match doc.graph.name.as_str() {
        "" if outline => p.line(format_args!("graph")),
        graph => p.line(format_args!("graph {}", quote(graph))),
    }
    p.graph(&doc.graph, "");
    p.out
}

fn count<'a>(taken: &mut BTreeMap<&'a str, usize>, name: &'a str) -> usize {
    let n = taken.entry(name).or_insert(0);
    *n += 1;
    *n
}

fn numbered(sigil: char, s: &str, n: usize) -> String {
    if n == 1 { format!("{sigil}{}", name(s)) } else { format!("{sigil}{}~{n}", name(s)) }
}

/// Every distinct scheme of the document, in order of appearance, with a short unique name.
fn schemes(doc: &Document) -> Vec<(Value, String)> {
    let mut all: Vec<&Scheme> = Vec::new();
    for graph in doc.bodies.iter().chain([&doc.graph]) {
        for line in &graph.lines {
            match line {
                Line::Input(v) => all.extend(v.ty.scheme.as_deref()),
                Line::Const(c) => all.extend(c.scheme.as_deref()),
                Line::Node(n) => {
                    all.extend(n.results.iter().filter_map(|r| r.ty.scheme.as_deref()));
                    match &n.op {
                        Op::Quantize(s) => all.push(s),
                        Op::FusedNorm(f) => all.extend(f.siblings.iter().flat_map(|s| &s.epilogues)),
                        _ => {}
                    }
                }
            }
        }
        all.extend(graph.outputs.iter().filter_map(|o| o.declared.scheme.as_deref()));
    }
    let mut distinct: Vec<&Scheme> = Vec::new();
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    let mut named = Vec::new();
    for s in all {
        if distinct.contains(&s) {
            continue;
        }
        distinct.push(s);
        let label: String = s.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let label = label.trim_end_matches('_').to_owned();
        let n = taken.entry(label.clone()).or_insert(0);
        *n += 1;
        named.push((value(s), if *n == 1 { label } else { format!("{label}.{n}") }));
    }
    named
}

fn value<T: Serialize>(v: &T) -> Value {
    serde_json::to_value(v).unwrap_or_default()
}

struct Printer {
    out: String,
    schemes: Vec<(Value, String)>,
    /// `&name` of each body.
    labels: Vec<String>,
    fill_left: usize,
    outline: bool,
}

impl Printer {
    fn line(&mut self, text: std::fmt::Arguments) {
        let _ = self.out.write_fmt(text);
        self.out.push('\n');
    }

    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn attrs(&mut self, v: &Value) {
        attr::print(v, &self.schemes, &mut self.out);
    }

    fn graph(&mut self, doc: &GraphDoc, indent: &str) {
        for (domain, version) in &doc.info.opsets {
            self.line(format_args!("{indent}opset {} {version}", quote(domain)));
        }
        for (key, text) in &doc.info.fields {
            self.line(format_args!("{indent}field {} {}", quote(key), quote(text)));
        }
        for (key, text) in &doc.info.metadata {
            self.line(format_args!("{indent}metadata {} {}", quote(key), quote(text)));
        }
        for text in &doc.info.notes {
            self.line(format_args!("{indent}note {}", quote(text)));
        }
        let plain: Vec<&str> = doc
            .lines
            .iter()
            .flat_map(|line| match line {
                Line::Input(v) => vec![v.name.as_str()],
                Line::Const(c) => vec![c.name.as_str()],
                Line::Node(n) => n.results.iter().map(|r| r.name.as_str()).collect(),
            })
            .collect();
        let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
        let names: Vec<String> = plain.iter().map(|s| numbered('%', s, count(&mut taken, s))).collect();
        let mut next = 0;
        for line in &doc.lines {
            self.put(indent);
            match line {
                Line::Input(v) => {
                    let _ = write!(self.out, "input {}", names[next]);
                    self.ty(&v.ty);
                    if let Some(c) = &v.default {
                        self.put(" default ");
                        self.tensor(c);
                    }
                    next += 1;
                }
                Line::Const(c) => {
                    self.constant(c, &names[next]);
                    next += 1;
                }
                Line::Node(n) => {
                    self.node(n, &names, next);
                    next += n.results.len();
                }
            }
            self.put("\n");
        }
        for out in &doc.outputs {
            if let (Some(value), Some(plain)) = (names.get(out.value), plain.get(out.value)) {
                let _ = write!(self.out, "{indent}output {value}");
                if *plain != out.name {
                    let _ = write!(self.out, " as {}", quote(&out.name));
                }
                self.ty(&out.declared);
                self.put("\n");
            }
        }
    }

    fn ty(&mut self, ty: &Type) {
        if *ty == Type::default() {
            return;
        }
        match ty.dtype {
            Some(d) => {
                let _ = write!(self.out, ": {d}");
            }
            None => self.put(": ?"),
        }
        if let Some(shape) = &ty.shape {
            let _ = write!(self.out, "{shape}");
        }
        if let Some(strides) = &ty.strides {
            let list: Vec<String> = strides.iter().map(ToString::to_string).collect();
            let _ = write!(self.out, " strides [{}]", list.join(", "));
        }
        if let Some(scheme) = &ty.scheme {
            self.put(" scheme ");
            self.attrs(&value(&**scheme));
        }
        self.opaque(ty.opaque.as_ref());
    }

    fn opaque(&mut self, opaque: Option<&Opaque>) {
        if let Some(Opaque(bytes)) = opaque {
            let _ = write!(self.out, " opaque \"{}\"", encode_base64(bytes));
        }
    }

    fn constant(&mut self, c: &ConstDoc, name: &str) {
        let left_out = self.left_out(c);
        let keyword = match c.payload {
            Payload::Inline(_) if !left_out => "const",
            _ => "weight",
        };
        let _ = write!(self.out, "{keyword} {name}: ");
        self.tensor(c);
    }

    /// True for contents that an outline does not show.
    fn left_out(&self, c: &ConstDoc) -> bool {
        self.outline
            && match &c.payload {
                Payload::Inline(t) => super::is_weight(t),
                Payload::Region { .. } => true,
            }
    }

    fn tensor(&mut self, c: &ConstDoc) {
        let shape: Vec<String> = c.shape.iter().map(ToString::to_string).collect();
        let _ = write!(self.out, "{}[{}]", c.dtype, shape.join(", "));
        if let Some(scheme) = &c.scheme {
            self.put(" scheme ");
            self.attrs(&value(&**scheme));
        }
        self.opaque(c.opaque.as_ref());
        if self.left_out(c) {
            return;
        }
        self.put(" = ");
        match &c.payload {
            Payload::Inline(t) => self.contents(t),
            Payload::Region { file, offset } => {
                let len = crate::tensor::byte_len(c.dtype, &c.shape).unwrap_or_default();
                let _ = write!(self.out, "{}[{offset}..+{len}]", quote(file));
            }
        }
    }

    fn contents(&mut self, t: &Tensor) {
        if t.len() <= literal::MAX_LISTED {
            let text = literal::print(t);
            return self.put(&text);
        }
        match literal::uniform(t) {
            Some(text) if t.bytes().len() <= self.fill_left => {
                self.fill_left -= t.bytes().len();
                let _ = write!(self.out, "fill({text})");
            }
            _ => {
                let _ = write!(self.out, "base64 \"{}\"", encode_base64(t.bytes()));
            }
        }
    }

    fn node(&mut self, n: &NodeDoc, names: &[String], first: usize) {
        for (i, result) in n.results.iter().enumerate() {
            if i > 0 {
                self.put(", ");
            }
            self.put(&names[first + i]);
            self.ty(&result.ty);
        }
        if !n.results.is_empty() {
            self.put(" = ");
        }
        match ops::name(&n.op) {
            Ok(op) => self.put(&op),
            Err(f) => {
                let _ = write!(self.out, "{}.{}", quote(&f.domain), quote(&f.op_type));
            }
        }
        let operands: Vec<&str> =
            n.inputs.iter().map(|v| v.and_then(|v| names.get(v)).map_or("_", String::as_str)).collect();
        let _ = write!(self.out, "({})", operands.join(", "));
        let mut attributes = ops::attributes(&n.op);
        if let Op::ConstantOfShape { dtype, value } = &n.op {
            attributes.insert("value".into(), attr::of_literal(&literal::print_bytes(*dtype, value)));
        }
        if !attributes.is_empty() {
            self.put(" ");
            self.attrs(&Value::Object(attributes));
        }
        if n.results.first().map_or("", |r| &r.name) != n.name {
            let _ = write!(self.out, " @{}", name(&n.name));
        }
        if let Some(label) = n.body.and_then(|b| self.labels.get(b)) {
            let _ = write!(self.out, " body {label}");
        }
        if *n.provenance != crate::Provenance::default() {
            self.put(" from ");
            self.attrs(&value(&n.provenance));
        }
    }
}
