//! A node's attributes, with a record of which ones somebody understood.

use std::collections::HashSet;

use normfuse_ir::scheme::F32;

use crate::{
    FormatError, Result,
    onnx::proto::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType},
};

/// Typed access to the attributes of one node.
pub struct Attrs<'a> {
    attributes: &'a [AttributeProto],
    taken: Vec<bool>,
}

impl<'a> Attrs<'a> {
    /// The attributes of a node.
    ///
    /// # Errors
    /// If two have one name, or one refers to an attribute of a function outside of any function.
    pub fn new(node: &'a NodeProto) -> Result<Self> {
        let mut names = HashSet::new();
        for a in &node.attribute {
            if !names.insert(a.name()) {
                return Err(FormatError::mismatch("one attribute of that name", "two").at_port(port(a.name())));
            }
            if !a.ref_attr_name().is_empty() {
                return Err(FormatError::mismatch(
                    "a value",
                    format!("a reference to the function attribute `{}` outside of a function", a.ref_attr_name()),
                )
                .at_port(port(a.name())));
            }
        }
        Ok(Self { attributes: &node.attribute, taken: vec![false; node.attribute.len()] })
    }

    /// The first attribute that nobody asked for.
    pub fn unknown(&self) -> Option<&'a str> {
        self.attributes.iter().zip(&self.taken).find(|(_, taken)| !**taken).map(|(a, _)| a.name())
    }

    fn take(&mut self, name: &str, want: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let Some(i) = self.attributes.iter().position(|a| a.name() == name) else { return Ok(None) };
        if let Some(taken) = self.taken.get_mut(i) {
            *taken = true;
        }
        let Some(a) = self.attributes.get(i) else { return Ok(None) };
        // Files older than IR version 2 have no type; there the field that is set tells.
        let found = a.r#type();
        if found != want && found != AttributeType::Undefined {
            return Err(FormatError::mismatch(
                format!("a value of type {}", want.as_str_name()),
                format!("type {}", found.as_str_name()),
            )
            .at_port(port(name)));
        }
        Ok(Some(a))
    }

    /// An integer, if it is there.
    pub fn opt_int(&mut self, name: &str) -> Result<Option<i64>> {
        Ok(self.take(name, AttributeType::Int)?.map(AttributeProto::i))
    }

    /// An integer or its default.
    pub fn int(&mut self, name: &str, default: i64) -> Result<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// A truth value, written as 0 or 1.
    pub fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.opt_int(name)? {
            None => Ok(default),
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(n) => Err(FormatError::mismatch("0 or 1", n).at_port(port(name))),
        }
    }

    /// An integer that is not negative, or its default.
    pub fn count(&mut self, name: &str) -> Result<Option<u64>> {
        self.opt_int(name)?
            .map(|n| {
                u64::try_from(n).map_err(|_| FormatError::mismatch("a number of at least 0", n).at_port(port(name)))
            })
            .transpose()
    }

    /// A float, if it is there.
    pub fn opt_float(&mut self, name: &str) -> Result<Option<F32>> {
        Ok(self.take(name, AttributeType::Float)?.map(|a| F32::new(a.f())))
    }

    /// A float or its default.
    pub fn float(&mut self, name: &str, default: f32) -> Result<F32> {
        Ok(self.opt_float(name)?.unwrap_or(F32::new(default)))
    }

    /// A string or its default.
    pub fn string(&mut self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.take(name, AttributeType::String)? {
            None => Ok(default),
            Some(a) => std::str::from_utf8(a.s())
                .map_err(|_| FormatError::mismatch("UTF-8", "other bytes").at_port(port(name))),
        }
    }

    /// Integers, if they are there.
    pub fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.take(name, AttributeType::Ints)?.map(|a| a.ints.clone()))
    }

    /// Floats, if they are there.
    pub fn floats(&mut self, name: &str) -> Result<Option<&'a [f32]>> {
        Ok(self.take(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    /// A tensor, if it is there.
    pub fn tensor(&mut self, name: &str) -> Result<Option<&'a TensorProto>> {
        match self.take(name, AttributeType::Tensor)? {
            None => Ok(None),
            Some(a) => match &a.t {
                Some(t) => Ok(Some(t)),
                None => Err(FormatError::mismatch("a tensor", "nothing").at_port(port(name))),
            },
        }
    }
}

/// How messages name an attribute.
pub fn port(name: &str) -> String {
    format!("attribute `{name}`")
}
