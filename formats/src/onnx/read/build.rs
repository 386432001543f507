//! Puts flattened nodes into a `Graph`, one scope of names.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use normfuse_ir::{
    DType, Descriptor, Dim, Graph, NodeId, Op, Opaque, Provenance, Tensor, Type, ValueId,
    infer::{self, Inferred, Operand},
    op::{Dialect, ForeignAttr, ForeignOp},
};
use prost::Message;

use super::{
    attrs::{Attrs, port},
    functions::{Flat, domain, label},
    ops, types, types_foreign, unread,
};
use crate::{
    FormatError, Result,
    map::DataFolder,
    onnx::{
        DOMAIN, TENSOR_RT, fields,
        names::{Names, OMITTED, captured},
        ops as table,
        proto::{NodeProto, ValueInfoProto, tensor_proto::DataLocation},
        scaled::{self, Spelled},
    },
    reject::{Reject, foreign},
};

/// Bodies of the functions of our own domain, by name and overload.
pub type Bodies = BTreeMap<(String, String), Arc<Graph>>;

/// An op that ONNX has no name for.
fn own(node: &NodeProto, attrs: &Attrs<'_>, inputs: Vec<Option<ValueId>>) -> Result<ops::Mapped, Reject> {
    let op = table::OWN.iter().find(|(name, _)| *name == node.op_type()).map(|(_, op)| *op);
    match op {
        Some(op) if attrs.unknown().is_none() => Ok(ops::Mapped { op: Op::Unary(op), inputs, body: None }),
        _ => Err(FormatError::mismatch("no attributes", attrs.unknown().unwrap_or_default()).into()),
    }
}

/// A scaled product, whose function has been found to spell it for the sizes that the node says.
fn scaled(graph: &Graph, mut attrs: Attrs<'_>, inputs: Vec<Option<ValueId>>) -> Result<ops::Mapped, Reject> {
    let text = attrs.string(scaled::PRODUCT, "")?;
    let sizes = attrs.ints(scaled::SIZES)?.unwrap_or_default();
    let product = Spelled::parse(text, &sizes, inputs.len() == 5);
    let product = product.ok_or_else(|| FormatError::mismatch("the JSON of a scaled product", text))?;
    // The function spells those sizes, and the op those of its operand.
    let shape = inputs.get(1).copied().flatten().and_then(|b| graph.value(b).ty.shape.as_ref());
    for (axis, size) in product.sizes.iter().enumerate().filter(|(_, size)| **size != -1) {
        let known = shape.and_then(|s| s.0.get(axis)).and_then(Dim::as_const);
        if known != Some(*size) {
            let found = shape.map_or_else(|| "an unknown shape".to_owned(), ToString::to_string);
            let expected = format!("a right operand of {size} {}, as `sizes` says", ["rows", "columns"][axis]);
            return Err(FormatError::mismatch(expected, found).into());
        }
    }
    Ok(ops::Mapped { op: Op::ScaledMatMul(product.op), inputs, body: None })
}

/// A graph under construction.
pub struct Builder<'m> {
    /// The graph.
    pub graph: Graph,
    /// Opset of the default domain where the current node was written.
    pub opset: i64,
    names: &'m mut Names,
    folder: &'m mut DataFolder,
    bodies: &'m Bodies,
    scope: HashMap<String, ValueId>,
    declared: HashMap<&'m str, &'m ValueInfoProto>,
    /// Names that some node, subgraph or graph output reads.
    pub used: HashSet<String>,
    /// What anything but a `TRT_FP8DequantizeLinear` reads.
    read_as_bytes: HashSet<String>,
    outputs: HashSet<String>,
    /// Fused ops that were found to agree with their functions.
    checked: HashSet<String>,
    /// What the ops say about values that the file does not declare: some spellings are legible only with types.
    inferred: HashMap<ValueId, Inferred>,
    /// Opset of the model: a foreign op of the default domain can only be written back at that one.
    model_opset: i64,
}

impl<'m> Builder<'m> {
    /// An empty graph.
    pub fn new(name: &str, opset: i64, names: &'m mut Names, folder: &'m mut DataFolder, bodies: &'m Bodies) -> Self {
        Self {
            graph: Graph::new(name),
            opset,
            names,
            folder,
            bodies,
            scope: HashMap::new(),
            declared: HashMap::new(),
            used: HashSet::new(),
            read_as_bytes: HashSet::new(),
            outputs: HashSet::new(),
            checked: HashSet::new(),
            inferred: HashMap::new(),
            model_opset: opset,
        }
    }

    /// Types that the file declares for values inside the graph.
    pub fn declare(&mut self, infos: &'m [ValueInfoProto]) {
        for info in infos {
            self.declared.entry(info.name()).or_insert(info);
        }
    }

    /// The data folder, for reading tensors.
    pub fn folder(&mut self) -> &mut DataFolder {
        self.folder
    }

    fn define(&mut self, name: &str, value: ValueId) -> Result<()> {
        if self.scope.insert(name.to_owned(), value).is_some() {
            return Err(FormatError::mismatch("every value to be made once", format!("two that are called `{name}`")));
        }
        Ok(())
    }

    /// Adds a graph input.
    pub fn input(&mut self, name: &str, ty: Type) -> Result<ValueId> {
        let id = self.graph.add_input(name, ty);
        self.define(name, id)?;
        Ok(id)
    }

    /// Adds a constant under a name of the file.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId> {
        let id = self.graph.add_const(name, tensor);
        self.define(name, id)?;
        Ok(id)
    }

    /// Adds a constant that the IR has no type for.
    pub fn opaque(&mut self, name: &str, bytes: Tensor, rest: Opaque) -> Result<()> {
        let id = self.constant(name, bytes)?;
        self.graph.type_mut(id).opaque = Some(rest);
        Ok(())
    }

    /// Adds a constant that the file does not have.
    pub fn fresh_constant(&mut self, base: &str, tensor: Tensor) -> ValueId {
        let name = self.names.fresh(base);
        self.graph.add_const(name, tensor)
    }

    /// Declares a result of the graph.
    pub fn output(&mut self, name: &str) -> Result<ValueId> {
        let id = self.scope.get(name).copied().ok_or_else(|| {
            FormatError::mismatch("a value for every graph output", "nothing that makes it")
                .at_port(format!("graph output `{name}`"))
        })?;
        if !self.outputs.insert(name.to_owned()) {
            return Err(
                FormatError::mismatch("one graph output of that name", "two").at_port(format!("graph output `{name}`"))
            );
        }
        self.graph.add_output(name, id);
        Ok(id)
    }

    /// Adds every node.
    ///
    /// # Errors
    /// Operands that nothing makes, or that only a later node makes; nodes that are wrong in themselves.
    pub fn nodes(&mut self, nodes: &[Flat], outputs: impl Iterator<Item = &'m str>) -> Result<()> {
        self.used.extend(outputs.map(str::to_owned));
        self.read_as_bytes.clone_from(&self.used);
        for flat in nodes {
            self.used.extend(flat.node.input.iter().cloned());
            self.used.extend(captured(&flat.node));
            if (flat.node.domain(), flat.node.op_type()) != (TENSOR_RT, "TRT_FP8DequantizeLinear") {
                self.read_as_bytes.extend(flat.node.input.iter().cloned());
                self.read_as_bytes.extend(captured(&flat.node));
            }
        }
        for (i, flat) in nodes.iter().enumerate() {
            self.opset = flat.opset;
            self.node(&flat.node).map_err(|reject| {
                let e = match reject {
                    Missing::Operand(name) => missing(&name, nodes, i),
                    Missing::No(e) => e,
                };
                e.at_node(label(&flat.node))
            })?;
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeProto) -> Result<(), Missing> {
        if !node.device_configurations.is_empty() {
            return Err(FormatError::mismatch("a node for one device", "device configurations").into());
        }
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            inputs.push(if name.is_empty() { None } else { Some(self.resolve(name)?) });
        }
        let mut attrs = Attrs::new(node)?;
        if domain(node.domain()).is_empty()
            && node.op_type() == "Constant"
            && let Some(t) = ops::constant(&mut attrs, self.folder)?
            && let ([], [name]) = (node.input.as_slice(), node.output.as_slice())
        {
            self.constant(name, t)?;
            return Ok(());
        }
        let mut trimmed = inputs.clone();
        while trimmed.last() == Some(&None) {
            trimmed.pop();
        }
        let declared = |n: &String| self.declared.get(n.as_str()).is_some_and(|v| is_opaque(v));
        let opaque = inputs.iter().flatten().any(|v| self.graph.value(*v).ty.opaque.is_some())
            || node.output.iter().any(declared);
        let mapped = match domain(node.domain()) {
            _ if opaque => foreign("a value of a type that normfuse does not know"),
            DOMAIN if table::OWN.iter().any(|(name, _)| *name == node.op_type()) => own(node, &attrs, trimmed),
            DOMAIN if node.op_type().starts_with(table::SCALED) => scaled(&self.graph, attrs, trimmed),
            DOMAIN => self.fused(node, attrs).map(|(op, body)| ops::Mapped { op, inputs: trimmed, body: Some(body) }),
            _ => ops::Cx { b: self, node, attrs, inputs: trimmed }.map(),
        };
        match mapped {
            Ok(mapped) => {
                self.add(node, mapped)?;
            }
            Err(Reject::Bad(e)) => return Err(e.into()),
            Err(Reject::Foreign(reason)) => {
                let known = types_foreign::results(self, node, &inputs);
                let mapped = self.foreign(node, inputs, reason)?;
                let id = self.add(node, mapped)?;
                for (value, ty) in self.graph.node(id).outputs.clone().into_iter().zip(known) {
                    self.complete(value, ty);
                }
                self.infer(id);
            }
        }
        Ok(())
    }

    fn resolve(&self, name: &str) -> Result<ValueId, Missing> {
        self.scope.get(name).copied().ok_or_else(|| Missing::Operand(name.to_owned()))
    }

    fn add(&mut self, node: &NodeProto, mapped: ops::Mapped) -> Result<NodeId> {
        let count = mapped.op.num_outputs();
        let named: Vec<&str> = (0..count)
            .map(|result| node.output.get(table::result_port(&mapped.op, result)).map_or("", String::as_str))
            .collect();
        let names: Vec<String> = (0..count)
            .map(|port| match named.get(port) {
                Some(name) if !name.is_empty() => (*name).to_owned(),
                _ => self.names.fresh(&format!("{OMITTED}{}_{port}", label(node))),
            })
            .collect();
        let title = match node.name() {
            "" => format!("{}_{}", node.op_type(), self.graph.node_bound()),
            name => name.to_owned(),
        };
        // What ModelOpt calls bytes: see `Cx::tensor_rt_op`.
        let codes = matches!(mapped.op, Op::QuantizeLinear { dialect: Dialect::TensorRt, .. });
        let id = self.graph.add_node(title, mapped.op, &mapped.inputs, names)?;
        let outputs = self.graph.node(id).outputs.clone();
        for (port, value) in outputs.into_iter().enumerate() {
            let name = self.graph.value(value).name.clone();
            if named.get(port).is_some_and(|n| !n.is_empty()) {
                self.define(&name, value)?;
            }
            if let Some(info) = self.declared.get(name.as_str()) {
                let mut ty = types::declared(&name, info.r#type.as_ref());
                if codes && ty.dtype == Some(DType::U8) {
                    ty.dtype = None;
                }
                *self.graph.type_mut(value) = ty;
            }
        }
        self.infer(id);
        let (_, provenance, body) = self.graph.node_meta_mut(id);
        let from = fields::provenance(node.doc_string(), &node.metadata_props);
        if from != Provenance::default() {
            *provenance = Arc::new(from);
        }
        let fused = mapped.body.is_some();
        *body = mapped.body;
        if fused {
            self.check_body(id)?;
        }
        Ok(id)
    }

    /// Refuses a file in which a fused op's descriptor and function are not one function: everything downstream runs the
    /// descriptor, and a runtime that does not know us runs the function. Nodes that differ in nothing that the check
    /// sees are checked once.
    fn check_body(&mut self, id: NodeId) -> Result<()> {
        let node = self.graph.node(id);
        let mut types: Vec<Type> = node.inputs.iter().map(|v| v.map(|v| self.ty(v)).unwrap_or_default()).collect();
        // An unknown size is named after its value; a layer's names must not tell it from the next layer.
        let mut unknown: Vec<Dim> = Vec::new();
        for d in types.iter_mut().filter_map(|t| t.shape.as_mut()).flat_map(|s| &mut s.0) {
            if d.has_unknown() {
                let i = unknown.iter().position(|u| u == d).unwrap_or_else(|| {
                    unknown.push(d.clone());
                    unknown.len() - 1
                });
                *d = Dim::sym(format!("u{i}"));
            }
        }
        let function = node.body.as_ref().map(|b| b.name.as_str()).unwrap_or_default();
        if self.checked.insert(format!("{function} {:?} {types:?}", node.op)) {
            normfuse_ir::body::check(node, &types).map_err(FormatError::of_body)?;
        }
        Ok(())
    }

    /// Adds a node that one node of the file needs beside its own; returns its only result.
    pub fn helper(&mut self, base: &str, op: Op, inputs: &[Option<ValueId>]) -> Result<ValueId> {
        let name = self.names.fresh(base);
        let id = self.graph.add_node(name.clone(), op, inputs, [name])?;
        self.infer(id);
        self.graph.node(id).outputs.first().copied().ok_or_else(|| FormatError::invalid("a node without results"))
    }

    fn foreign(
        &mut self,
        node: &NodeProto,
        mut inputs: Vec<Option<ValueId>>,
        reason: String,
    ) -> Result<ops::Mapped, Missing> {
        if domain(node.domain()).is_empty() && self.opset != self.model_opset {
            return Err(FormatError::invalid(format!(
                "`{}` was written for opset {} by a local function, and the model imports {}: {reason}",
                node.op_type(),
                self.opset,
                self.model_opset
            ))
            .hint("convert the function to the model's opset")
            .into());
        }
        if let Some(a) = node.attribute.iter().find(|a| {
            let mut tensors = a.t.iter().chain(&a.tensors);
            tensors.any(|t| t.data_location() == DataLocation::External)
        }) {
            return Err(FormatError::mismatch("inline data in the attribute of an op that is kept as it is", reason)
                .at_port(port(a.name()))
                .into());
        }
        let captures = captured(node);
        for name in &captures {
            inputs.push(Some(self.resolve(name)?));
        }
        self.graph.info.notes.extend(unread::note(node));
        let op = ForeignOp {
            domain: node.domain().to_owned(),
            op_type: node.op_type().to_owned(),
            overload: node.overload().to_owned(),
            encoding: "onnx".into(),
            attributes: node
                .attribute
                .iter()
                .map(|a| ForeignAttr { name: a.name().to_owned(), payload: a.encode_to_vec().into() })
                .collect(),
            captures: captures.len(),
            outputs: node.output.len(),
            reason,
        };
        Ok(ops::Mapped { op: Op::Foreign(Arc::new(op)), inputs, body: None })
    }

    /// A fused op: its descriptor, and the function that spells it.
    fn fused(&mut self, node: &NodeProto, mut attrs: Attrs<'_>) -> Result<(Op, Arc<Graph>), Reject> {
        let scheme = attrs.string(fields::SCHEME, "")?;
        let (name, text) = match scheme {
            "" => (fields::DESCRIPTOR, attrs.string(fields::DESCRIPTOR, "")?),
            text => (fields::SCHEME, text),
        };
        if let Some(other) = attrs.unknown() {
            return Err(FormatError::mismatch(format!("only the attribute `{name}`"), format!("`{other}`")).into());
        }
        let at = |e: FormatError| e.at_port(format!("attribute `{name}`"));
        let parsed = if scheme.is_empty() {
            serde_json::from_str(text).map(|norm| Descriptor::Norm(Arc::new(norm)))
        } else {
            serde_json::from_str(text).map(|scheme| Descriptor::Quantize(Arc::new(scheme)))
        };
        let what = if scheme.is_empty() { "the JSON of a fused norm" } else { "the JSON of a scheme" };
        let fused = parsed.map_err(|e| at(FormatError::mismatch(what, e)))?;
        fused.check().map_err(|e| at(FormatError::invalid(e)))?;
        let body = self
            .bodies
            .get(&(node.op_type().to_owned(), node.overload().to_owned()))
            .ok_or_else(|| FormatError::mismatch(format!("a local function `{DOMAIN}.{}`", node.op_type()), "none"))?;
        let (ins, outs) = (fused.in_ports().len(), fused.out_ports().len());
        if (body.inputs().len(), body.outputs().len()) != (ins, outs) {
            return Err(FormatError::mismatch(
                format!("a function of {ins} operands and {outs} results, as the descriptor has"),
                format!("{} and {}", body.inputs().len(), body.outputs().len()),
            )
            .into());
        }
        if node.output.len() > outs {
            return Err(FormatError::mismatch(format!("{outs} results"), node.output.len()).into());
        }
        Ok((fused.op(), body.clone()))
    }

    /// Remembers what a node's op says about its results. What it cannot say, or says against the file, is nobody's
    /// business here: inference proper reports that.
    fn infer(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let types: Vec<Option<Type>> = node.inputs.iter().map(|v| v.map(|v| self.ty(v))).collect();
        let operands: Vec<Option<Operand<'_>>> = types
            .iter()
            .zip(&node.inputs)
            .map(|(ty, v)| {
                let known = v.and_then(|v| self.inferred.get(&v)).and_then(|i| i.known.as_deref());
                ty.as_ref().map(|ty| Operand { ty, known })
            })
            .collect();
        if let Ok(results) = infer::infer_node(&node.op, &operands, &id.index()) {
            let outputs = node.outputs.clone();
            self.inferred.extend(outputs.into_iter().zip(results));
        }
    }

    /// Adds what a foreign op's name says of its result to what the file declares: a size as a number or expression is
    /// worth more than a name that the exporter made up for it.
    fn complete(&mut self, value: ValueId, known: Type) {
        let ty = self.graph.type_mut(value);
        ty.dtype = ty.dtype.or(known.dtype);
        ty.shape = match (ty.shape.take(), known.shape) {
            (Some(declared), Some(known)) if declared.equals(&known) != Some(false) => Some(known),
            (declared, known) => declared.or(known),
        };
    }

    // ---- what the mapping of ops asks ----

    /// A value's type: what the file declares, completed by what its op says.
    pub fn ty(&self, value: ValueId) -> Type {
        let mut ty = self.graph.value(value).ty.clone();
        if let Some(i) = self.inferred.get(&value) {
            ty.dtype = ty.dtype.or(i.ty.dtype);
            ty.shape = ty.shape.or_else(|| i.ty.shape.clone());
        }
        ty
    }

    /// A value's element type, where it is known.
    pub fn dtype(&self, value: ValueId) -> Option<DType> {
        self.ty(value).dtype
    }

    /// A value's number of axes, where it is known.
    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.ty(value).shape.as_ref().map(normfuse_ir::Shape::rank)
    }

    /// True if some node, subgraph or graph output reads the name.
    pub fn is_used(&self, name: &str) -> bool {
        self.used.contains(name)
    }

    /// True if the file declares a value inside the graph as u8.
    pub fn is_declared_bytes(&self, name: &str) -> bool {
        let declared = self.declared.get(name).map(|info| types::declared(name, info.r#type.as_ref()));
        declared.is_some_and(|ty| ty.dtype == Some(DType::U8))
    }

    /// True if anything but a `TRT_FP8DequantizeLinear` reads the name.
    pub fn is_read_as_bytes(&self, name: &str) -> bool {
        self.read_as_bytes.contains(name)
    }

    /// The integers of a small constant.
    pub fn const_ints(&self, value: ValueId) -> Option<Vec<i64>> {
        let t = self.graph.value(value).as_const()?;
        // Axes and the like: nobody has more axes than this, and no weight must be paged in to find out.
        if t.len() > 64 {
            return None;
        }
        let bytes = t.bytes();
        match t.dtype() {
            DType::I64 => Some(bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            DType::I32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect()),
            DType::Bool | DType::U8 => Some(bytes.iter().map(|b| i64::from(*b)).collect()),
            _ => None,
        }
    }
}

fn is_opaque(info: &ValueInfoProto) -> bool {
    types::declared(info.name(), info.r#type.as_ref()).opaque.is_some()
}

/// A failure of which the message needs the whole node list.
enum Missing {
    Operand(String),
    No(FormatError),
}

impl From<FormatError> for Missing {
    fn from(e: FormatError) -> Self {
        Self::No(e)
    }
}

fn missing(name: &str, nodes: &[Flat], at: usize) -> FormatError {
    let found = match nodes.iter().skip(at).position(|f| f.node.output.iter().any(|o| o == name)) {
        Some(0) => format!("`{name}`, which it makes itself"),
        Some(later) => {
            let later = nodes.get(at + later).map(|f| label(&f.node)).unwrap_or_default();
            return FormatError::mismatch(
                "operands that an earlier node makes",
                format!("`{name}`, which the later node `{later}` makes"),
            )
            .hint("the graph has a cycle, or its nodes are not in topological order");
        }
        None => format!("`{name}`, which nothing makes"),
    };
    FormatError::mismatch("operands that an earlier node makes", found)
}
