//! Ops between their name with attributes and [`Op`], through serde, so that a new op needs no code here.

use serde_json::{Map, Value, json};

use super::literal;
use crate::{DType, Op, document::json::strict, op::ForeignOp};

/// The op's attributes as the text form shows them: without the number of results, which the line itself shows.
pub(super) fn attributes(op: &Op) -> Map<String, Value> {
    let map = match serde_json::to_value(op) {
        Ok(Value::Object(mut variant)) => match variant.values_mut().next().map(Value::take) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        },
        _ => Map::new(),
    };
    let hidden = |key: &str| match op {
        Op::Reduce { .. } => key == "op",
        Op::Split { .. } | Op::Attention(_) => key == "outputs",
        Op::Foreign(_) => matches!(key, "domain" | "op_type" | "outputs"),
        _ => false,
    };
    map.into_iter().filter(|(key, _)| !hidden(key)).collect()
}

/// The op of a name and its attributes on a line with `results` results.
pub(super) fn known(name: &str, mut given: Map<String, Value>, results: usize) -> Result<Op, String> {
    let tag = Value::String(name.to_owned());
    for variant in ["unary", "binary"] {
        if let Ok(op) = serde_json::from_value::<Op>(json!({ variant: tag.clone() })) {
            return no_attributes(name, &given).map(|()| op);
        }
    }
    // Ops without fields are plain strings to serde.
    if let Ok(op) = serde_json::from_value::<Op>(tag) {
        return no_attributes(name, &given).map(|()| op);
    }
    let variant = match name.strip_prefix("reduce_") {
        Some(what) if given.contains_key("op") => return Err(format!("`op` is part of the name: `reduce_{what}`")),
        Some(what) => {
            given.insert("op".into(), what.into());
            "reduce"
        }
        None => name,
    };
    for (key, value) in defaults(variant) {
        given.entry(key).or_insert(value);
    }
    if matches!(variant, "split" | "attention") {
        given.insert("outputs".into(), results.into());
    }
    if variant == "constant_of_shape" {
        constant_value(&mut given)?;
    }
    strict(&json!({ variant: given })).map_err(|e| {
        if e.starts_with("unknown variant `") && e.contains(&format!("`{variant}`")) {
            format!("expected an op, found `{name}` (a foreign op is written \"domain\".\"Name\")")
        } else {
            format!("`{name}`: {e}")
        }
    })
}

fn no_attributes(name: &str, given: &Map<String, Value>) -> Result<(), String> {
    match given.keys().next() {
        None => Ok(()),
        Some(key) => Err(format!("`{name}` has no attributes, found `{key}`")),
    }
}

/// A foreign op.
pub(super) fn foreign(
    domain: String,
    op_type: String,
    mut given: Map<String, Value>,
    results: usize,
) -> Result<Op, String> {
    for key in ["domain", "op_type", "outputs"] {
        if given.contains_key(key) {
            return Err(format!("`{key}` is written with the op, not as an attribute"));
        }
    }
    for (key, value) in defaults("foreign") {
        given.entry(key).or_insert(value);
    }
    given.insert("domain".into(), domain.into());
    given.insert("op_type".into(), op_type.into());
    given.insert("outputs".into(), results.into());
    strict(&json!({ "foreign": given }))
}

/// The name before the parenthesis; `None` for a foreign op.
pub(super) fn name(op: &Op) -> Result<String, &ForeignOp> {
    match op {
        Op::Foreign(f) => Err(f),
        op => Ok(op.name()),
    }
}

/// `value=1.5` becomes the bytes that the op holds.
fn constant_value(given: &mut Map<String, Value>) -> Result<(), String> {
    let dtype: DType =
        given.get("dtype").and_then(Value::as_str).ok_or("`dtype`: expected an element type")?.parse()?;
    let text = match given.get("value") {
        Some(Value::String(s)) => s.clone(),
        Some(v @ (Value::Number(_) | Value::Bool(_))) => v.to_string(),
        Some(other) => return Err(format!("`value`: expected an element of {dtype}, found {other}")),
        None if dtype == DType::Bool => "false".to_owned(),
        None => "0x0".to_owned(),
    };
    given.insert("value".into(), literal::parse_bytes(dtype, &text).map_err(|e| format!("`value`: {e}"))?.into());
    Ok(())
}

/// Attributes that may be left out, as in the newest ONNX operator of the name.
fn defaults(variant: &str) -> Vec<(String, Value)> {
    let map = match variant {
        "cast" => json!({"saturate": true}),
        "reduce" => json!({"axes": null, "keepdims": true}),
        "arg_reduce" => json!({"keepdims": true, "select_last": false}),
        "top_k" => json!({"axis": -1, "largest": true, "sorted": true}),
        "cum_sum" => json!({"exclusive": false, "reverse": false}),
        "softmax" => json!({"axis": -1, "log": false}),
        "layer_norm" | "rms_norm" => json!({"axis": -1, "eps": 1e-5, "stash": "f32"}),
        "skip_rms_norm" => json!({"eps": 1e-12}),
        "gemm" => json!({"alpha": 1.0, "beta": 1.0, "trans_a": false, "trans_b": false}),
        "attention" => json!({"is_causal": false, "softcap": 0.0, "qk_matmul_output_mode": 0}),
        "reshape" => json!({"allow_zero": false}),
        "flatten" => json!({"axis": 1}),
        "shape" => json!({"start": 0}),
        "constant_of_shape" => json!({"dtype": "f32"}),
        "gather" | "gather_elements" | "split" => json!({"axis": 0}),
        "gather_nd" => json!({"batch_dims": 0}),
        "scatter_elements" => json!({"axis": 0, "reduction": "none"}),
        "scatter_nd" => json!({"reduction": "none"}),
        "one_hot" => json!({"axis": -1}),
        "trilu" => json!({"upper": true}),
        "quantize_linear" => json!({"axis": 1, "block_size": 0, "saturate": true}),
        "dequantize_linear" => json!({"axis": 1, "block_size": 0}),
        "foreign" => json!({"encoding": "onnx", "attributes": [], "captures": 0, "reason": "unknown op"}),
        _ => Value::Null,
    };
    match map {
        Value::Object(map) => map.into_iter().collect(),
        _ => Vec::new(),
    }
}
