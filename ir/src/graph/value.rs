//! Values and their types.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NodeId;
use crate::{DType, Scheme, Shape, Tensor};

/// A type that the IR has no words for (strings, sequences, 4-bit integers), as the source format encodes it. Only
/// foreign ops read and make such values, and they pass through untouched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Opaque(#[serde(with = "crate::document::base64_bytes")] pub Arc<[u8]>);

/// What is known about a value without running the graph.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Type {
    /// Element type, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DType>,
    /// Symbolic shape, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    /// Element strides, where they are not row-major.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strides: Option<Vec<crate::Dim>>,
    /// For quantised values and their scales: the scheme they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Arc<Scheme>>,
    /// In place of all this, a type that only its source format can say. A constant of such a type is its bytes: what
    /// the format keeps apart from the type, as `u8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<Opaque>,
}

impl Type {
    /// A row-major tensor type.
    pub fn tensor(dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { dtype: Some(dtype), shape: Some(shape.into()), ..Self::default() }
    }
}

/// Who makes a value.
#[derive(Debug, Clone)]
pub enum Def {
    /// An input of the graph.
    Input {
        /// What callers may pass who have nothing else to pass. It is no constant: another caller passes other data.
        default: Option<Tensor>,
    },
    /// A constant or weight.
    Const(Tensor),
    /// An output port of a node.
    Node {
        /// The node.
        node: NodeId,
        /// Its output port.
        port: usize,
    },
}

/// A value: name, type and producer.
#[derive(Debug, Clone)]
pub struct Value {
    /// Unique name; for weights the name in the model file or checkpoint.
    pub name: String,
    /// What is known of it.
    pub ty: Type,
    /// Who makes it.
    pub def: Def,
}

impl Value {
    /// The tensor, if the value is a constant.
    pub fn as_const(&self) -> Option<&Tensor> {
        match &self.def {
            Def::Const(t) => Some(t),
            _ => None,
        }
    }

    /// The tensor that is stored with the value: a constant, or the default of an input.
    pub fn stored(&self) -> Option<&Tensor> {
        match &self.def {
            Def::Const(t) => Some(t),
            Def::Input { default } => default.as_ref(),
            Def::Node { .. } => None,
        }
    }
}
