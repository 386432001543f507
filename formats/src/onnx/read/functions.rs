//! Local functions: every call is replaced by the function's nodes, as `onnx.inliner` would, but for our own domain.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    FormatError, Result,
    onnx::{
        DOMAIN,
        names::{Names, subgraphs_mut},
        ops as table,
        proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto},
        read::{attrs::port, ours::Ours, unfold},
    },
};

/// What identifies a function: domain, name, overload.
pub type Key = (String, String, String);

/// The function that a node would call.
pub fn key(node: &NodeProto) -> Key {
    (domain(node.domain()).to_owned(), node.op_type().to_owned(), node.overload().to_owned())
}

/// A node of the flattened graph.
pub struct Flat {
    /// The node.
    pub node: NodeProto,
    /// The default domain's opset where the node was written: a function may import another than the model.
    pub opset: i64,
}

/// Operator sets by domain, with the default domain's two names as one.
pub fn opsets(imports: &[OperatorSetIdProto]) -> Result<BTreeMap<String, i64>> {
    let mut out = BTreeMap::new();
    for o in imports {
        let domain = domain(o.domain());
        if let Some(before) = out.insert(domain.to_owned(), o.version())
            && before != o.version()
        {
            return Err(FormatError::mismatch(
                format!("one version of the operator set `{domain}`"),
                format!("{before} and {}", o.version()),
            ));
        }
    }
    Ok(out)
}

/// `ai.onnx` is the default domain's other name.
pub fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// Replaces calls by what they call.
pub struct Inliner<'m> {
    functions: HashMap<Key, &'m FunctionProto>,
    ours: Ours,
    names: Names,
    /// Imports of the model and of the functions that were inlined.
    opsets: BTreeMap<String, i64>,
}

impl<'m> Inliner<'m> {
    /// Over the functions of a model; `names` holds every value name that the model uses outside of them.
    ///
    /// # Errors
    /// If two functions have one name.
    pub fn new(functions: &'m [FunctionProto], opsets: BTreeMap<String, i64>, names: Names) -> Result<Self> {
        let mut map = HashMap::new();
        for f in functions {
            let key = (domain(f.domain()).to_owned(), f.name().to_owned(), f.overload().to_owned());
            if map.insert(key, f).is_some() {
                return Err(FormatError::mismatch("one function of that name", "two").at_node(f.name()));
            }
        }
        Ok(Self { functions: map, ours: Ours::default(), names, opsets })
    }

    /// The names, those of inlined values among them, and the operator sets of everything that was inlined.
    pub fn finish(self) -> (Names, BTreeMap<String, i64>) {
        (self.names, self.opsets)
    }

    /// The nodes of a graph or function with every call replaced.
    ///
    /// # Errors
    /// Recursion, calls nested too deeply, operands or attributes that the function does not have.
    pub fn flatten(&mut self, nodes: Vec<NodeProto>, opset: i64) -> Result<Vec<Flat>> {
        unfold::check(&self.functions, &mut self.ours, &nodes)?;
        let mut out = Vec::with_capacity(nodes.len());
        for node in nodes {
            self.expand(node, opset, &mut out)?;
        }
        Ok(out)
    }

    fn expand(&mut self, mut node: NodeProto, opset: i64, out: &mut Vec<Flat>) -> Result<()> {
        let label = label(&node);
        for g in subgraphs_mut(&mut node) {
            self.expand_subgraph(g, opset).map_err(|e| e.at_node(&label))?;
        }
        let key = key(&node);
        let function = self.functions.get(&key).copied();
        if function.is_none() && key.0 == DOMAIN && key.1.starts_with(table::SCALED) {
            let name = format!("a local function `{DOMAIN}.{}`", key.1);
            return Err(FormatError::mismatch(name, "none").at_node(label));
        }
        let function = function.filter(|f| !self.ours.stays(f, &node));
        let Some(function) = function else {
            out.push(Flat { node, opset });
            return Ok(());
        };
        let inner = self.import(function, opset).map_err(|e| e.at_node(&label))?;
        let body = self.instantiate(function, &node).map_err(|e| e.at_node(&label))?;
        for node in body {
            self.expand(node, inner, out)?;
        }
        Ok(())
    }

    /// Calls inside the branches of an `If` or a loop's body: the graph goes on as an attribute, so its nodes cannot
    /// carry an opset of their own.
    fn expand_subgraph(&mut self, graph: &mut GraphProto, opset: i64) -> Result<()> {
        let mut flat = Vec::with_capacity(graph.node.len());
        for node in std::mem::take(&mut graph.node) {
            self.expand(node, opset, &mut flat)?;
        }
        for f in flat {
            if domain(f.node.domain()) == DOMAIN {
                return Err(FormatError::mismatch("fused ops in the main graph only", "one inside a subgraph")
                    .at_node(label(&f.node)));
            }
            if f.opset != opset && domain(f.node.domain()).is_empty() {
                return Err(FormatError::mismatch(
                    format!("functions called inside a subgraph to import opset {opset}"),
                    f.opset,
                )
                .at_node(label(&f.node)));
            }
            graph.node.push(f.node);
        }
        Ok(())
    }

    /// Adds a function's imports to the model's; returns its opset of the default domain.
    fn import(&mut self, function: &FunctionProto, opset: i64) -> Result<i64> {
        let imports = opsets(&function.opset_import)?;
        for (domain, version) in &imports {
            if domain.is_empty() {
                continue;
            }
            let have = *self.opsets.entry(domain.clone()).or_insert(*version);
            if have != *version {
                return Err(FormatError::mismatch(
                    format!("the local function `{}` to import `{domain}` {have} as the model does", function.name()),
                    version,
                ));
            }
        }
        Ok(imports.get("").copied().unwrap_or(opset))
    }

    /// A function's nodes under the names and attributes of one call.
    fn instantiate(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>> {
        for (what, have, max) in [
            ("operands", call.input.len(), function.input.len()),
            ("results", call.output.len(), function.output.len()),
        ] {
            if have > max {
                return Err(FormatError::mismatch(
                    format!("at most {max} {what} for the local function `{}`", function.name()),
                    have,
                ));
            }
        }
        let attributes = Attributes::new(function, call)?;
        let prefix = label(call);
        let mut rename: HashMap<String, String> = HashMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            // An operand that the call leaves out is left out inside.
            rename.insert(formal.clone(), call.input.get(i).cloned().unwrap_or_default());
        }
        let inputs: HashSet<&str> = function.input.iter().map(String::as_str).collect();
        let made: HashSet<&str> = function.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        let mut copies = Vec::new();
        for (i, formal) in function.output.iter().enumerate() {
            let Some(actual) = call.output.get(i).filter(|n| !n.is_empty()) else { continue };
            if inputs.contains(formal.as_str()) || rename.contains_key(formal) || !made.contains(formal.as_str()) {
                // An operand handed through, or one value under two names.
                copies.push((formal, actual));
            } else {
                rename.insert(formal.clone(), actual.clone());
            }
        }
        let mut out = Vec::with_capacity(function.node.len() + copies.len());
        for node in &function.node {
            let mut node = node.clone();
            attributes.substitute(&mut node).map_err(|e| e.at_node(label_of(&node, &prefix)))?;
            for name in &mut node.input {
                if !name.is_empty() {
                    *name = rename.get(name.as_str()).cloned().ok_or_else(|| {
                        FormatError::mismatch(
                            "an operand that the function has made or been given",
                            format!("`{name}`"),
                        )
                        .at_node(format!("{prefix}/{}", node.op_type.as_deref().unwrap_or_default()))
                    })?;
                }
            }
            for name in &mut node.output {
                if !name.is_empty() {
                    *name = match rename.get(name.as_str()) {
                        Some(actual) if function.output.contains(name) => actual.clone(),
                        _ => {
                            let fresh = self.names.fresh(&format!("{prefix}/{name}"));
                            rename.insert(name.clone(), fresh.clone());
                            fresh
                        }
                    };
                }
            }
            for g in subgraphs_mut(&mut node) {
                self.rename_subgraph(g, &rename, &prefix);
            }
            node.name = Some(label_of(&node, &prefix));
            out.push(node);
        }
        for (formal, actual) in copies {
            let from = rename.get(formal).cloned().ok_or_else(|| {
                FormatError::mismatch(
                    format!("the local function `{}` to make its result `{formal}`", function.name()),
                    "nothing that does",
                )
            })?;
            out.push(NodeProto {
                name: Some(format!("{prefix}/{formal}")),
                op_type: Some("Identity".into()),
                input: vec![from],
                output: vec![actual.clone()],
                ..NodeProto::default()
            });
        }
        Ok(out)
    }

    /// Renames a subgraph's outer names, and gives its own names the call's prefix: two calls of one function must not
    /// define one name twice.
    fn rename_subgraph(&mut self, graph: &mut GraphProto, outer: &HashMap<String, String>, prefix: &str) {
        let mut rename = outer.clone();
        let mut define = |name: &mut Option<String>| {
            if let Some(name) = name.as_mut().filter(|n| !n.is_empty()) {
                let fresh = self.names.fresh(&format!("{prefix}/{name}"));
                rename.insert(std::mem::replace(name, fresh.clone()), fresh);
            }
        };
        graph.input.iter_mut().for_each(|v| define(&mut v.name));
        // A default of an input shares the input's name.
        let inputs: HashSet<String> = graph.input.iter().map(|v| v.name().to_owned()).collect();
        for t in &mut graph.initializer {
            let shared = rename.get(t.name()).filter(|n| inputs.contains(*n)).cloned();
            let fresh = shared.unwrap_or_else(|| self.names.fresh(&format!("{prefix}/{}", t.name())));
            rename.insert(t.name().to_owned(), fresh.clone());
            t.name = Some(fresh);
        }
        for node in &graph.node {
            for name in node.output.iter().filter(|n| !n.is_empty()) {
                let fresh = self.names.fresh(&format!("{prefix}/{name}"));
                rename.insert(name.clone(), fresh);
            }
        }
        let apply = |name: &mut String| {
            if let Some(new) = rename.get(name.as_str()) {
                name.clone_from(new);
            }
        };
        for node in &mut graph.node {
            node.input.iter_mut().chain(&mut node.output).for_each(apply);
            for g in subgraphs_mut(node) {
                self.rename_subgraph(g, &rename, prefix);
            }
        }
        for v in graph.output.iter_mut().chain(&mut graph.value_info) {
            v.name.as_mut().map(apply);
        }
        for a in &mut graph.quantization_annotation {
            a.tensor_name.as_mut().map(apply);
        }
    }
}

/// A function's attributes under one call: what was given, else the defaults.
struct Attributes<'a> {
    values: HashMap<&'a str, &'a AttributeProto>,
}

impl<'a> Attributes<'a> {
    fn new(function: &'a FunctionProto, call: &'a NodeProto) -> Result<Self> {
        let mut values: HashMap<&str, &AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        for a in &call.attribute {
            if !values.contains_key(a.name()) && !function.attribute.iter().any(|n| n == a.name()) {
                return Err(FormatError::mismatch(
                    format!("an attribute of the local function `{}`", function.name()),
                    format!("`{}`, which it does not declare", a.name()),
                ));
            }
            values.insert(a.name(), a);
        }
        Ok(Self { values })
    }

    /// Replaces references by values; a reference to an attribute that nobody gave leaves the attribute out.
    fn substitute(&self, node: &mut NodeProto) -> Result<()> {
        let mut kept = Vec::with_capacity(node.attribute.len());
        for mut a in std::mem::take(&mut node.attribute) {
            if a.ref_attr_name().is_empty() {
                for g in a.g.iter_mut().chain(&mut a.graphs) {
                    for inner in &mut g.node {
                        self.substitute(inner)?;
                    }
                }
                kept.push(a);
            } else if let Some(value) = self.values.get(a.ref_attr_name()) {
                if a.r#type.is_some() && a.r#type() != value.r#type() {
                    return Err(FormatError::mismatch(
                        format!("type {}", a.r#type().as_str_name()),
                        format!("type {} from the call", value.r#type().as_str_name()),
                    )
                    .at_port(port(a.name())));
                }
                kept.push(AttributeProto { name: a.name, ..(*value).clone() });
            }
        }
        node.attribute = kept;
        Ok(())
    }
}

/// What a node is called in messages and as a prefix.
pub fn label(node: &NodeProto) -> String {
    match (node.name(), node.output.iter().find(|o| !o.is_empty())) {
        ("", Some(out)) => out.clone(),
        ("", None) => node.op_type().to_owned(),
        (name, _) => name.to_owned(),
    }
}

fn label_of(node: &NodeProto, prefix: &str) -> String {
    match node.name() {
        // Outputs already carry the prefix where the function made the name.
        "" => format!("{prefix}/{}", node.op_type()),
        name => format!("{prefix}/{name}"),
    }
}
