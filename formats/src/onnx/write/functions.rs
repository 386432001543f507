//! Bodies of fused ops to local functions, one for each distinct body.

use std::collections::BTreeMap;

use normfuse_ir::{FusedNorm, Node};
use prost::Message;

use super::{nodes::Writer, scope::Scope};
use crate::{
    FormatError, Result,
    onnx::{
        DOMAIN,
        proto::{FunctionProto, OperatorSetIdProto},
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
}

impl Functions {
    /// None yet.
    pub fn new(opset: i64, opsets: BTreeMap<String, i64>) -> Self {
        Self { opset, opsets, by_content: BTreeMap::new(), by_name: BTreeMap::new() }
    }

    /// The name of the function that spells a fused node.
    ///
    /// # Errors
    /// If the node has no body, or one that does not fit its descriptor or the opset.
    pub fn of(&mut self, node: &Node, fused: &FusedNorm) -> Result<String> {
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
        let mut proto = FunctionProto {
            domain: Some(DOMAIN.into()),
            input: ins,
            output: outs,
            attribute: vec!["descriptor".into()],
            opset_import: self.imports(&writer),
            node: writer.into_function_nodes(),
            ..FunctionProto::default()
        };
        let content = proto.encode_to_vec();
        if let Some(name) = self.by_content.get(&content) {
            return Ok(name.clone());
        }
        let hash = blake3::hash(&content).to_hex();
        // Eight digits read well; two bodies that share them get more.
        let name = (8..=hash.len())
            .map(|n| format!("FusedNorm_{}", &hash[..n]))
            .find(|n| !self.by_name.contains_key(n))
            .ok_or_else(|| FormatError::invalid("two functions of one hash"))?;
        proto.name = Some(name.clone());
        self.by_content.insert(content, name.clone());
        self.by_name.insert(name.clone(), proto);
        Ok(name)
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

    /// The functions, by name.
    pub fn into_protos(self) -> Vec<FunctionProto> {
        self.by_name.into_values().collect()
    }
}
