//! Bodies of fused ops to local functions, one for each distinct body.

use std::collections::BTreeMap;

use normfuse_ir::{Descriptor, Node, op::UnaryOp};
use prost::Message;

use super::{nodes::Writer, scope::Scope};
use crate::{
    FormatError, Result,
    onnx::{
        DOMAIN, fields, ops as table,
        proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto, attribute_proto::AttributeType},
        scaled::{self, Spelled},
    },
};

/// The functions of a model.
pub struct Functions {
    opset: i64,
    /// The model's imports, which those of its functions must be compatible with.
    opsets: BTreeMap<String, i64>,
    /// By encoded contents without the name.
    by_content: BTreeMap<Vec<u8>, String>,
    by_name: BTreeMap<String, FunctionProto>,
    /// Names of those that spell scaled products.
    by_product: BTreeMap<Spelled, String>,
}

impl Functions {
    /// None yet.
    pub fn new(opset: i64, opsets: BTreeMap<String, i64>) -> Self {
        Self { opset, opsets, by_content: BTreeMap::new(), by_name: BTreeMap::new(), by_product: BTreeMap::new() }
    }

    /// The name of the function that spells a fused node.
    ///
    /// # Errors
    /// If the node has no body, or one that does not fit its descriptor or the opset.
    pub fn of(&mut self, node: &Node, fused: &Descriptor) -> Result<String> {
        let Some(body) = &node.body else {
            return Err(FormatError::mismatch("a fused op with the source that it stands for", "none")
                .hint("only the rewrite that made the op knows it; write .nf or .json instead"));
        };
        let ins: Vec<String> = fused.in_ports().iter().map(ToString::to_string).collect();
        let outs: Vec<String> = fused.out_ports().iter().map(ToString::to_string).collect();
        if (body.inputs().len(), body.outputs().len()) != (ins.len(), outs.len()) {
            return Err(FormatError::mismatch(
                format!("a body of {} operands and {} results", ins.len(), outs.len()),
                format!("{} and {}", body.inputs().len(), body.outputs().len()),
            ));
        }
        let scope = Scope::of_body(body, &ins, &outs)?;
        let mut writer = Writer::with_scope(body, self.opset, scope);
        writer.all_nodes(self)?;
        let proto = FunctionProto {
            domain: Some(DOMAIN.into()),
            input: ins,
            output: outs,
            attribute: vec![fields::descriptor(fused).into()],
            opset_import: self.imports(&writer),
            node: writer.into_function_nodes(),
            ..FunctionProto::default()
        };
        self.named(
            proto,
            match fused {
                Descriptor::Norm(_) => "FusedNorm",
                Descriptor::Quantize(_) => "Quantize",
            },
        )
    }

    /// The name of the function that spells a scaled product.
    ///
    /// # Errors
    /// Sizes for which there is none, or an opset that cannot say it.
    pub fn scaled(&mut self, product: &Spelled) -> Result<String> {
        if let Some(name) = self.by_product.get(product) {
            return Ok(name.clone());
        }
        let name = self.named(Self::of_product(product, self.opset)?, table::SCALED)?;
        self.by_product.insert(*product, name.clone());
        Ok(name)
    }

    /// The function that spells a scaled product, without a name.
    ///
    /// # Errors
    /// As [`Functions::scaled`].
    pub fn of_product(product: &Spelled, opset: i64) -> Result<FunctionProto> {
        let mut functions = Self::new(opset, BTreeMap::new());
        let body = product.body()?;
        let (ins, outs) = (product.inputs(), vec![scaled::OUTPUT.to_owned()]);
        let mut writer = Writer::with_scope(&body, opset, Scope::of_body(&body, &ins, &outs)?);
        writer.all_nodes(&mut functions)?;
        Ok(FunctionProto {
            domain: Some(DOMAIN.into()),
            input: ins,
            output: outs,
            attribute: vec![scaled::PRODUCT.into(), scaled::SIZES.into()],
            opset_import: functions.imports(&writer),
            node: writer.into_function_nodes(),
            ..FunctionProto::default()
        })
    }

    /// Keeps a function under a name that its contents decide.
    fn named(&mut self, mut proto: FunctionProto, kind: &str) -> Result<String> {
        let content = proto.encode_to_vec();
        if let Some(name) = self.by_content.get(&content) {
            return Ok(name.clone());
        }
        let hash = blake3::hash(&content).to_hex();
        // Eight digits read well; two bodies that share them get more.
        let name = (8..=hash.len())
            .map(|n| format!("{kind}_{}", &hash[..n]))
            .find(|n| !self.by_name.contains_key(n))
            .ok_or_else(|| FormatError::invalid("two functions of one hash"))?;
        proto.name = Some(name.clone());
        self.by_content.insert(content, name.clone());
        self.by_name.insert(name.clone(), proto);
        Ok(name)
    }

    /// The name of the function for an op that ONNX lacks.
    ///
    /// # Errors
    /// An op that is none of those, or an opset that cannot say it.
    pub fn own(&mut self, op: UnaryOp) -> Result<String> {
        let found = table::OWN.iter().find(|(_, own)| *own == op);
        let (name, _) = found.ok_or_else(|| FormatError::invalid("no function of our own"))?;
        if op != UnaryOp::Rsqrt && self.opset < 15 {
            return Err(FormatError::mismatch(format!("an opset of 15 or later for `{name}`"), self.opset));
        }
        let node = |op: &str, input: &[&str], output: &str| NodeProto {
            op_type: Some(op.into()),
            input: input.iter().map(|s| (*s).to_owned()).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        };
        let number = |v: f32| {
            let value = Some(AttributeType::Float as i32);
            let attribute = AttributeProto {
                name: Some("value_float".into()),
                r#type: value,
                f: Some(v),
                ..AttributeProto::default()
            };
            NodeProto { attribute: vec![attribute], ..node("Constant", &[], "wide") }
        };
        let nodes = match op {
            UnaryOp::Rsqrt => vec![node("Sqrt", &["x"], "root"), node("Reciprocal", &["root"], "y")],
            UnaryOp::Exp2 => {
                vec![number(2.0), node("CastLike", &["wide", "x"], "base"), node("Pow", &["base", "x"], "y")]
            }
            _ => vec![
                number(std::f32::consts::LN_2),
                node("CastLike", &["wide", "x"], "ln2"),
                node("Log", &["x"], "log"),
                node("Div", &["log", "ln2"], "y"),
            ],
        };
        self.by_name.entry((*name).to_owned()).or_insert_with(|| FunctionProto {
            domain: Some(DOMAIN.into()),
            name: Some((*name).to_owned()),
            input: vec!["x".into()],
            output: vec!["y".into()],
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(self.opset) }],
            node: nodes,
            ..FunctionProto::default()
        });
        Ok((*name).to_owned())
    }

    /// The operator sets of a body's nodes.
    fn imports(&self, writer: &Writer<'_>) -> Vec<OperatorSetIdProto> {
        let version = |domain: &str| self.opsets.get(domain).copied().unwrap_or(1);
        let others = writer.domains().iter().map(|d| (d.clone(), version(d)));
        std::iter::once((String::new(), self.opset))
            .chain(others)
            .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain), version: Some(version) })
            .collect()
    }

    /// The functions, by name; those that bodies call come before them, as tools that read the list once expect.
    pub fn into_protos(self) -> Vec<FunctionProto> {
        let is_own = |f: &FunctionProto| {
            f.name().starts_with(table::SCALED) || table::OWN.iter().any(|(name, _)| f.name() == *name)
        };
        let (own, bodies): (Vec<_>, Vec<_>) = self.by_name.into_values().partition(is_own);
        own.into_iter().chain(bodies).collect()
    }
}
