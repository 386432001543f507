//! `mxfp4`, as GPT-OSS ships it: weights e2m1 in groups of 32 with a power of two each, as `weight_blocks` (two codes a
//! byte, `[N, K / 32, 16]`) and `weight_scales`. The config does not say what a layer reads in: it is quantised as the
//! weight is, which a product of two MXFP4 operands needs.

use normfuse_ir::{
    DType,
    linear::{Activation, ActivationPer, LinearScheme, ScaleKind, ScaleRule, WeightPer, WeightScheme},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Group, Pattern,
    fp8::{linears, skipped},
    object,
};
use crate::error::Result;

/// Values a scale.
pub const GROUP: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "quant_method")]
    _method: String,
    modules_to_not_convert: Option<Vec<String>>,
}

/// The one group, and the layers that are in none.
pub fn read(config: Value) -> Result<(Vec<Group>, Vec<Pattern>)> {
    let config: Config = object(config, "mxfp4")?;
    let (element, per) = (DType::F4E2M1, ActivationPer::Group(GROUP));
    let weight = WeightScheme {
        element,
        codes: "weight_blocks".into(),
        cut: Some(GROUP),
        scale: "weight_scales".into(),
        per: WeightPer::Group(GROUP),
        kind: ScaleKind::Power,
    };
    let activation = Activation::Dynamic { element, per, rule: ScaleRule::Microscaling };
    let scheme = LinearScheme { weight, activation: Some(activation) };
    Ok((vec![Group { targets: linears(), scheme }], skipped(config.modules_to_not_convert)?))
}
