//! Nodes of one graph, in order, under their names.

use std::{collections::BTreeMap, collections::BTreeSet};

use normfuse_ir::{DType, Def, Descriptor, Graph, Node, Op, Opaque, Tensor, Type, ValueId, op::Dialect};

use super::{functions::Functions, ops::ints, scope, scope::Scope, types, weights};
use crate::{
    FormatError, Result,
    onnx::{
        DOMAIN, dtype, fields,
        names::captured,
        ops as table,
        proto::{AttributeProto, NodeProto, StringStringEntryProto, ValueInfoProto, attribute_proto::AttributeType},
        scaled::{self, Spelled},
    },
};

/// The nodes of one graph while they are written.
pub struct Writer<'g> {
    pub graph: &'g Graph,
    pub opset: i64,
    scope: Scope,
    nodes: Vec<NodeProto>,
    /// Constants that ONNX wants as operands and the IR has as attributes, by contents.
    helpers: BTreeMap<(DType, Vec<usize>, Vec<u8>), String>,
    /// The same in order of first use.
    helper_order: Vec<(String, Tensor)>,
    /// Names of lists of integers in the source.
    integers: BTreeMap<Vec<i64>, String>,
    domains: BTreeSet<String>,
    /// Names that subgraphs read.
    captured: BTreeSet<String>,
    /// Functions count their nodes instead of naming them: equal bodies are then equal as text.
    body: bool,
}

impl<'g> Writer<'g> {
    /// For the graph of a model.
    pub fn new(graph: &'g Graph, opset: i64) -> Result<Self> {
        let integers = fields::integers(graph);
        Ok(Self { body: false, integers, ..Self::with_scope(graph, opset, Scope::of_model(graph)?) })
    }

    /// For the body of a function, with its names.
    pub fn with_scope(graph: &'g Graph, opset: i64, scope: Scope) -> Self {
        Self {
            graph,
            opset,
            scope,
            nodes: Vec::new(),
            helpers: BTreeMap::new(),
            helper_order: Vec::new(),
            integers: BTreeMap::new(),
            domains: BTreeSet::new(),
            captured: BTreeSet::new(),
            body: true,
        }
    }

    /// Writes every node, producers first.
    pub fn all_nodes(&mut self, functions: &mut Functions) -> Result<()> {
        let (made, leaves): (Vec<ValueId>, Vec<ValueId>) =
            self.scope.copies.keys().copied().partition(|v| self.graph.producer(*v).is_some());
        for v in leaves {
            self.copies(v);
        }
        let made: BTreeSet<ValueId> = made.into_iter().collect();
        for id in self.graph.topo_order()? {
            let node = self.graph.node(id);
            self.node(node, functions).map_err(|e| e.at_node(&node.name))?;
            for v in node.outputs.iter().filter(|v| made.contains(v)) {
                self.copies(*v);
            }
        }
        Ok(())
    }

    fn copies(&mut self, value: ValueId) {
        let from = self.scope.name(value).to_owned();
        for to in self.scope.copies.get(&value).cloned().unwrap_or_default() {
            self.nodes.push(NodeProto {
                name: (!self.body).then(|| format!("{to}_copy")),
                op_type: Some("Identity".into()),
                input: vec![from.clone()],
                output: vec![to],
                ..NodeProto::default()
            });
        }
    }

    fn node(&mut self, node: &Node, functions: &mut Functions) -> Result<()> {
        let inputs = node.inputs.iter().map(|v| v.map_or("", |v| self.scope.name(v)).to_owned()).collect();
        let mut output = Vec::new();
        for (result, v) in node.outputs.iter().enumerate() {
            output.resize(table::result_port(&node.op, result), String::new());
            output.push(self.scope.name(*v).to_owned());
        }
        let mut proto = NodeProto {
            name: (!self.body && !node.name.is_empty()).then(|| node.name.clone()),
            input: inputs,
            output,
            ..NodeProto::default()
        };
        match &node.op {
            Op::Foreign(f) => {
                proto.attribute = scope::attributes(node)?;
                proto.input.truncate(node.inputs.len().saturating_sub(f.captures));
                self.captured.extend(captured(&proto));
                proto.op_type = Some(f.op_type.clone());
                proto.domain = Some(f.domain.clone()).filter(|d| !d.is_empty());
                proto.overload = Some(f.overload.clone()).filter(|o| !o.is_empty());
                self.domains.extend((!f.domain.is_empty()).then(|| f.domain.clone()));
            }
            op if op.is_fused() => {
                let fused = Descriptor::of(op).ok_or_else(|| FormatError::invalid("no descriptor"))?;
                let text = match &fused {
                    Descriptor::Norm(norm) => serde_json::to_string(&**norm),
                    Descriptor::Quantize(scheme) => serde_json::to_string(&**scheme),
                };
                let text = text.map_err(|e| FormatError::invalid(format!("the descriptor does not serialise: {e}")))?;
                proto.attribute = vec![string(fields::descriptor(&fused), &text)];
                proto.op_type = Some(functions.of(node, &fused)?);
                proto.domain = Some(DOMAIN.into());
            }
            Op::Unary(op) if table::OWN.iter().any(|(_, own)| own == op) => {
                proto.op_type = Some(functions.own(*op)?);
                proto.domain = Some(DOMAIN.into());
                self.domains.insert(DOMAIN.into());
            }
            Op::ScaledMatMul(op) => {
                self.element_types(node)?;
                let product = Spelled::of(self.graph, node, *op)?;
                proto.attribute = vec![string(scaled::PRODUCT, &product.text()?), ints(scaled::SIZES, &product.sizes)];
                proto.op_type = Some(functions.scaled(&product)?);
                proto.domain = Some(DOMAIN.into());
                proto.input.truncate(product.inputs().len());
                self.domains.insert(DOMAIN.into());
            }
            _ => {
                self.spell(node, &mut proto)?;
                if proto.domain.is_none() {
                    self.element_types(node)?;
                }
                self.domains.extend(proto.domain.clone());
                while proto.input.last().is_some_and(String::is_empty) {
                    proto.input.pop();
                }
                if matches!(node.op, Op::Attention(_) | Op::SkipRmsNorm { .. }) {
                    while proto.output.last().is_some_and(String::is_empty) {
                        proto.output.pop();
                    }
                }
            }
        }
        if !self.body {
            proto.doc_string = Some(node.provenance.doc.clone()).filter(|d| !d.is_empty());
            proto.metadata_props = metadata(node);
        }
        self.nodes.push(proto);
        Ok(())
    }

    /// Fails at opsets whose ops know no tensors of a type that a node makes, or reads of an input or a constant. What
    /// nodes of other domains make is theirs: ModelOpt's quantisers make FP8 at opsets without it.
    fn element_types(&self, node: &Node) -> Result<()> {
        let made = match node.op {
            Op::Cast { to, .. } | Op::BitCast { to } | Op::QuantizeLinear { to, .. } => Some(to),
            _ => None,
        };
        let leaves = node.inputs.iter().flatten().filter(|v| self.graph.producer(**v).is_none());
        let types = leaves.filter_map(|v| self.graph.value(*v).ty.dtype).chain(made);
        for (d, opset) in types.filter_map(|d| Some((d, dtype::since(d)?))) {
            self.since(opset, &format!("tensors of {d}"))?;
        }
        Ok(())
    }

    /// The name of a constant operand that the graph has as an attribute.
    pub fn helper(&mut self, base: &str, tensor: Tensor) -> String {
        let key = (tensor.dtype(), tensor.shape().to_vec(), tensor.bytes().to_vec());
        if let Some(name) = self.helpers.get(&key) {
            return name.clone();
        }
        let name = self.scope.fresh.fresh(base);
        self.helpers.insert(key, name.clone());
        self.helper_order.push((name.clone(), tensor));
        name
    }

    /// The constant operand that lists these integers, by the name that the source has for it.
    pub fn ints(&mut self, values: &[i64]) -> String {
        let base = self.integers.get(values).cloned().unwrap_or_else(|| {
            let list: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("ints_{}", list.join("_"))
        });
        self.helper(&base, Tensor::from_i64(&[values.len()], values))
    }

    /// Defaults of inputs and constants that the nodes read, those of the graph first.
    pub fn constants(&self) -> impl Iterator<Item = (&str, &Tensor, Option<&Opaque>)> {
        // An operand of the IR can be an attribute of this opset, so ask what the written nodes read.
        let mut read: BTreeSet<&str> = self.graph.outputs().iter().map(|o| self.scope.name(o.value)).collect();
        read.extend(self.nodes.iter().flat_map(|n| &n.input).map(String::as_str));
        read.extend(self.captured.iter().map(String::as_str));
        let own = self.graph.values().filter_map(move |(id, v)| match &v.def {
            Def::Const(_) if !read.contains(self.scope.name(id)) && !self.graph.users(id).is_empty() => None,
            _ => v.stored().map(|t| (self.scope.name(id), t, v.as_const().and(v.ty.opaque.as_ref()))),
        });
        own.chain(self.helper_order.iter().map(|(n, t)| (n.as_str(), t, None)))
    }

    /// Declarations of what nodes make, graph outputs apart.
    pub fn value_info(&self) -> impl Iterator<Item = ValueInfoProto> + '_ {
        let declared = fields::declared(self.graph);
        let outputs: BTreeSet<&str> = self.graph.outputs().iter().map(|o| o.name.as_str()).collect();
        let types: BTreeMap<&str, &Type> = self
            .graph
            .values()
            .filter(|(_, v)| matches!(v.def, Def::Node { .. }) && declared.contains(&v.name))
            .map(|(id, v)| (self.scope.name(id), &v.ty))
            .collect();
        let codes: BTreeSet<&str> = self
            .graph
            .nodes()
            .filter(|(_, n)| matches!(n.op, Op::QuantizeLinear { dialect: Dialect::TensorRt, .. }))
            .flat_map(|(_, n)| &n.outputs)
            .filter(|v| self.graph.users(**v).iter().all(|(n, _)| dequantises(self.graph.node(*n))))
            .map(|v| self.scope.name(*v))
            .collect();
        let names = self.nodes.iter().flat_map(|n| &n.output).filter(move |n| !outputs.contains(n.as_str()));
        names.filter_map(move |n| {
            let ty = *types.get(n.as_str())?;
            if codes.contains(n.as_str()) && ty.dtype.is_some() {
                // As ModelOpt declares them: its opsets know no FP8. The reader knows them by their readers.
                return types::declaration(n, &Type { dtype: Some(DType::U8), ..ty.clone() });
            }
            types::declaration(n, ty)
        })
    }

    /// Domains of the nodes, the default one apart.
    pub fn domains(&self) -> &BTreeSet<String> {
        &self.domains
    }

    /// The nodes.
    pub fn into_nodes(self) -> Vec<NodeProto> {
        self.nodes
    }

    /// The nodes of a function, its constants first.
    pub fn into_function_nodes(self) -> Vec<NodeProto> {
        let constants = self.constants().map(|(name, t, _)| NodeProto {
            op_type: Some("Constant".into()),
            output: vec![name.to_owned()],
            attribute: vec![AttributeProto {
                name: Some("value".into()),
                r#type: Some(AttributeType::Tensor as i32),
                t: Some(weights::inline("", t)),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        });
        constants.chain(self.nodes.iter().cloned()).collect()
    }
}

fn dequantises(node: &Node) -> bool {
    matches!(node.op, Op::DequantizeLinear { dialect: Dialect::TensorRt, .. })
}

fn metadata(node: &Node) -> Vec<StringStringEntryProto> {
    let mut all = node.provenance.metadata.clone();
    for (key, list) in [(fields::REPLACED, &node.provenance.replaced), (fields::RULES, &node.provenance.rules)] {
        if !list.is_empty() {
            all.push((key.into(), serde_json::Value::from(list.clone()).to_string()));
        }
    }
    fields::entries(&all)
}

/// A string attribute.
pub fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..AttributeProto::default()
    }
}
