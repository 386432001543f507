//! Calls of our own functions, which stay calls.

use std::collections::{HashMap, hash_map::Entry};

use super::functions::{Key, domain, key, opsets};
use crate::onnx::{
    DOMAIN, ops as table,
    proto::{FunctionProto, NodeProto},
    scaled::{self, Spelled},
    write::Functions,
};

/// Which functions of a model are the ones that we write. A layer's product is called by all layers, and its function is long: it
/// is spelled once for all calls that say the same of it.
#[derive(Default)]
pub struct Ours {
    /// By the function and what a call says that it is.
    known: HashMap<(Key, Spelled), bool>,
}

impl Ours {
    /// True if a call stays one: of our own functions, of which those that we know by their names must be what we write.
    pub fn stays(&mut self, function: &FunctionProto, node: &NodeProto) -> bool {
        domain(node.domain()) == DOMAIN
            && (!node.op_type().starts_with(table::SCALED) || self.is_product(function, node))
    }

    /// True if a function is the one that we write for the scaled product that the node says. Any other means what it spells.
    fn is_product(&mut self, function: &FunctionProto, node: &NodeProto) -> bool {
        let given = |name: &str| node.attribute.iter().find(|a| a.name() == name);
        let (Some(product), Some(sizes)) = (given(scaled::PRODUCT), given(scaled::SIZES)) else { return false };
        let text = std::str::from_utf8(product.s()).unwrap_or_default();
        let Some(product) = Spelled::parse(text, &sizes.ints, node.input.len() == 5) else { return false };
        if node.input.len() != product.inputs().len() || node.attribute.len() != 2 {
            return false;
        }
        match self.known.entry((key(node), product)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(is_written(function, &product)),
        }
    }
}

/// True if we write this function for a product.
fn is_written(function: &FunctionProto, product: &Spelled) -> bool {
    let opset = opsets(&function.opset_import).ok().and_then(|all| all.get("").copied());
    // There is no need to spell what the function is too short for.
    opset.filter(|_| function.node.len() >= product.groups()).is_some_and(|opset| {
        Functions::of_product(product, opset).is_ok_and(|ours| {
            (&ours.input, &ours.output, &ours.node) == (&function.input, &function.output, &function.node)
        })
    })
}

#[cfg(test)]
mod tests {
    use normfuse_ir::{DType, scaled::ScalePer, scaled::ScaledMatMul};

    use super::*;
    use crate::onnx::proto::AttributeProto;

    fn attributes(product: &Spelled) -> Vec<AttributeProto> {
        let named = |name: &str| AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
        vec![
            AttributeProto { s: Some(product.text().unwrap().into_bytes()), ..named(scaled::PRODUCT) },
            AttributeProto { ints: product.sizes.to_vec(), ..named(scaled::SIZES) },
        ]
    }

    #[test]
    fn a_function_is_spelled_once_for_all_calls_that_say_the_same() {
        let op = ScaledMatMul { a: ScalePer::Block(1, 8), b: ScalePer::Block(2, 8), to: DType::F32 };
        let product = Spelled { op, sizes: [6, 64], bias: false };
        let ours = Functions::of_product(&product, 21).unwrap();
        let mut call = NodeProto {
            domain: Some(DOMAIN.into()),
            op_type: Some(format!("{}_1", table::SCALED)),
            input: product.inputs(),
            attribute: attributes(&product),
            ..NodeProto::default()
        };
        let mut calls = Ours::default();
        for _ in 0..100 {
            assert!(calls.stays(&ours, &call));
        }
        assert_eq!(calls.known.len(), 1);
        // Other sizes are another function, and so is one of another name, whatever was found of this one.
        call.attribute = attributes(&Spelled { sizes: [7, 64], ..product });
        assert!(!calls.stays(&ours, &call) && !calls.stays(&ours, &call));
        assert_eq!(calls.known.len(), 2);
        call.op_type = Some(format!("{}_2", table::SCALED));
        call.attribute = attributes(&product);
        let other = FunctionProto { output: vec!["z".into()], ..ours.clone() };
        assert!(!calls.stays(&other, &call) && !calls.stays(&other, &call));
        assert_eq!(calls.known.len(), 3);
        // What only this call has is asked of each.
        call.op_type = Some(format!("{}_1", table::SCALED));
        assert!(calls.stays(&ours, &call));
        call.input.pop();
        assert!(!calls.stays(&ours, &call));
    }
}
