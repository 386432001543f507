//! `fp8`, as DeepSeek-V3 ships it: weights e4m3 in blocks with a scale each (`weight_scale_inv`), what a layer reads in
//! groups as wide as a block, or with one scale of the checkpoint (`input_scale`).
//!
//! A group's scale is that of DeepSeek's `act_quant`: `max(amax, 1e-4) / 448`, with `scale_fmt: ue8m0` the power of two
//! above it, and codes are `x / scale`.

use normfuse_ir::{
    DType,
    linear::{Activation, ActivationPer, LinearScheme, ScaleKind, ScaleRule, WeightPer, WeightScheme},
};
use serde::Deserialize;
use serde_json::Value;

use super::{Group, Pattern, compressed::absent, object, unknown};
use crate::error::Result;

/// `act_quant`'s floor on the largest magnitude.
const FLOOR: f32 = 1e-4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "quant_method")]
    _method: String,
    #[serde(default)]
    activation_scheme: Scheme,
    fmt: Option<String>,
    scale_fmt: Option<String>,
    weight_block_size: Option<[usize; 2]>,
    modules_to_not_convert: Option<Vec<String>>,
    // The same list, as some checkpoints call it.
    ignored_layers: Option<Vec<String>>,
    // What transformers writes of its own, and what is neutral of it.
    dequantize: Option<bool>,
    expert_dtype: Option<String>,
    modules_to_convert: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "snake_case")]
enum Scheme {
    #[default]
    Dynamic,
    Static,
}

/// The one group, and the layers that are in none.
pub fn read(config: Value) -> Result<(Vec<Group>, Vec<Pattern>)> {
    let config: Config = object(config, "fp8")?;
    if let Some(fmt) = config.fmt.filter(|f| !matches!(f.as_str(), "e4m3" | "float8_e4m3fn")) {
        return Err(unknown("fmt", "`e4m3` or `float8_e4m3fn`", format!("`{fmt}`")));
    }
    if config.dequantize == Some(true) {
        return Err(unknown("dequantize", "false: with true nothing is quantised", true));
    }
    if let Some(dtype) = config.expert_dtype.filter(|d| d != "fp8") {
        return Err(unknown("expert_dtype", "`fp8`", format!("`{dtype}`")));
    }
    absent("modules_to_convert", config.modules_to_convert.as_ref())?;
    let Some([rows, columns]) = config.weight_block_size.filter(|b| b.iter().all(|n| *n > 0)) else {
        return Err(unknown("weight_block_size", "the rows and columns of a block, as in [128, 128]", "none"));
    };
    let element = DType::F8E4M3FN;
    let rule = match config.scale_fmt.as_deref() {
        None | Some("float") => ScaleRule::FloorOnAmax(FLOOR.into()),
        Some("ue8m0") => ScaleRule::PowerAbove(FLOOR.into()),
        Some(other) => return Err(unknown("scale_fmt", "`ue8m0` or `float`", format!("`{other}`"))),
    };
    let activation = match config.activation_scheme {
        Scheme::Dynamic => Activation::Dynamic { element, per: ActivationPer::Group(columns), rule },
        Scheme::Static => Activation::Static { element, scale: "input_scale".into(), divide: true },
    };
    let weight = WeightScheme {
        element,
        codes: "weight".into(),
        cut: None,
        scale: "weight_scale_inv".into(),
        per: WeightPer::Block(rows, columns),
        kind: ScaleKind::Float,
    };
    let scheme = LinearScheme { weight, activation: Some(activation) };
    let listed = config.modules_to_not_convert.or(config.ignored_layers);
    Ok((vec![Group { targets: linears(), scheme }], skipped(listed)?))
}

/// All of torch's linear layers.
pub fn linears() -> Vec<Pattern> {
    vec![Pattern::class("Linear")]
}

/// `modules_to_not_convert`, and the head, which these methods never convert.
///
/// # Errors
/// An entry that is no expression.
pub fn skipped(listed: Option<Vec<String>>) -> Result<Vec<Pattern>> {
    let pattern = |entry: &str| Pattern::module("modules_to_not_convert", entry);
    let head = pattern("lm_head").map(Pattern::implied);
    let listed = listed.into_iter().flatten().map(|entry| pattern(&entry));
    std::iter::once(head).chain(listed).collect()
}
