//! `compressed-tensors`: groups of layers, each with a scheme for its weights and one for what it reads. Names of
//! parameters are `weight` (`weight_packed` for 4 bits), `weight_scale`, `weight_global_scale`, `input_scale`,
//! `input_global_scale`.
//!
//! Where several groups have a layer, one that names it (`model.mlp.down_proj`, `re:.*down_proj`) goes before one that has
//! its class (`Linear`), and of two alike the one that the file has first, as vLLM reads it.
//!
//! The config leaves open how a dynamic scale follows from the values; it is that of the kernels that vLLM runs these
//! models with: `max(amax / 448, 1 / (448 * 512))` for FP8, `max(amax, 1e-10) / 448` in groups, `max(amax / 127, 2^-23)`
//! for INT8, OCP's power of two for MX.

use normfuse_ir::{
    DType,
    linear::{Activation, ActivationPer, LinearScheme, NVFP4_GROUP, ScaleKind, ScaleRule, WeightPer, WeightScheme},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::{Group, Pattern, mxfp4, object, unknown};
use crate::error::{FormatError, Result};

/// Forms in which weights are kept that these names say.
const FORMATS: [&str; 7] = [
    "naive-quantized",
    "float-quantized",
    "int-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
];
const GROUP_FLOOR: f32 = 1e-10;
const FP8_FLOOR: f32 = 1.0 / (448.0 * 512.0);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are those of the file")]
struct Config {
    #[serde(rename = "quant_method")]
    _method: String,
    config_groups: Map<String, Value>,
    #[serde(default)]
    ignore: Vec<String>,
    format: Option<String>,
    kv_cache_scheme: Option<Value>,
    sparsity_config: Option<Value>,
    transform_config: Option<Value>,
    // What transformers writes of its own.
    run_compressed: Option<bool>,
    // What changes no bits.
    #[serde(rename = "global_compression_ratio")]
    _ratio: Option<IgnoredAny>,
    #[serde(rename = "quantization_status")]
    _status: Option<IgnoredAny>,
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layers {
    targets: Vec<String>,
    weights: Option<Args>,
    input_activations: Option<Args>,
    output_activations: Option<Value>,
    format: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    num_bits: u32,
    #[serde(rename = "type", default = "int")]
    kind: String,
    #[serde(default = "yes")]
    symmetric: bool,
    group_size: Option<i64>,
    strategy: Option<String>,
    block_structure: Option<[usize; 2]>,
    #[serde(default)]
    dynamic: Dynamic,
    scale_dtype: Option<String>,
    actorder: Option<Value>,
    // What calibration did, and the type of zero points that a symmetric scheme does not have.
    #[serde(rename = "observer")]
    _observer: Option<IgnoredAny>,
    #[serde(rename = "observer_kwargs")]
    _observer_kwargs: Option<IgnoredAny>,
    #[serde(rename = "zp_dtype")]
    _zero_points: Option<IgnoredAny>,
}

fn int() -> String {
    "int".into()
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Dynamic {
    Whether(bool),
    How(String),
}

impl Default for Dynamic {
    fn default() -> Self {
        Self::Whether(false)
    }
}

/// The groups in the file's order, and the layers that are in none.
pub fn read(config: Value) -> Result<(Vec<Group>, Vec<Pattern>)> {
    let config: Config = object(config, "compressed-tensors")?;
    check_format(config.format.as_deref())?;
    absent("kv_cache_scheme", config.kv_cache_scheme.as_ref())?;
    let sparsity = config.sparsity_config.filter(|s| s.get("format").is_none_or(|f| f != "dense"));
    absent("sparsity_config", sparsity.as_ref())?;
    absent("transform_config", config.transform_config.as_ref())?;
    if config.run_compressed == Some(false) {
        return Err(unknown("run_compressed", "true: with false weights are decompressed as they are loaded", false));
    }
    let read = |layers| object(layers, "config_groups").and_then(group);
    let named = |(name, layers): (String, Value)| read(layers).map_err(|e| e.at_node(name));
    let groups = config.config_groups.into_iter().map(named).collect::<Result<_>>()?;
    let skip = config.ignore.iter().map(|entry| Pattern::target("ignore", entry)).collect::<Result<_>>()?;
    Ok((groups, skip))
}

fn check_format(format: Option<&str>) -> Result<()> {
    match format.filter(|f| !FORMATS.contains(f)) {
        Some(other) => Err(unknown("format", FORMATS.join(", "), format!("`{other}`"))),
        None => Ok(()),
    }
}

/// Nothing is asked for: the field is null, or an object or a list of nothing.
pub fn absent(field: &str, value: Option<&Value>) -> Result<()> {
    fn empty(v: &Value) -> bool {
        let nothing = |o: &Map<String, Value>| o.values().all(empty);
        v.is_null() || v.as_object().is_some_and(nothing) || v.as_array().is_some_and(Vec::is_empty)
    }
    match value.filter(|v| !empty(v)) {
        Some(v) => Err(unknown(field, "none", v)),
        None => Ok(()),
    }
}

fn group(layers: Layers) -> Result<Group> {
    check_format(layers.format.as_deref())?;
    absent("output_activations", layers.output_activations.as_ref())?;
    let targets = layers.targets.iter().map(|t| Pattern::target("targets", t)).collect::<Result<_>>()?;
    let Some(weights) = layers.weights else { return Err(unknown("weights", "a scheme", "none")) };
    let weight = weight(&weights).map_err(|e| within(e, "weights"))?;
    let activation = layers.input_activations.as_ref().map(activation);
    let activation = activation.transpose().map_err(|e| within(e, "input_activations"))?;
    Ok(Group { targets, scheme: LinearScheme { weight, activation } })
}

/// Says of which of the two schemes an error is.
fn within(e: FormatError, of: &str) -> FormatError {
    let port = e.port().map_or_else(|| format!("`{of}`"), |p| format!("`{of}`, {p}"));
    match e.cause() {
        crate::Cause::Mismatch { expected, found } => FormatError::mismatch(expected, found).at_port(port),
        _ => e.at_port(port),
    }
}

impl Args {
    /// Type of the codes, of a scheme without zero points.
    fn element(&self) -> Result<DType> {
        if !self.symmetric {
            return Err(unknown("symmetric", "true", "false"));
        }
        if let Some(order) = self.actorder.as_ref().filter(|o| !o.is_null() && o.as_str() != Some("static")) {
            return Err(unknown("actorder", "none", order));
        }
        match (self.kind.as_str(), self.num_bits) {
            ("float", 8) => Ok(DType::F8E4M3FN),
            ("int", 8) => Ok(DType::I8),
            ("float", 4) => Ok(DType::F4E2M1),
            (kind, bits) => {
                Err(unknown("num_bits", "8 bits, or 4 of type float", format!("{bits} bits of type {kind}")))
            }
        }
    }

    fn group(&self) -> Result<usize> {
        let size = self.group_size.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        size.ok_or_else(|| unknown("group_size", "a size from 1 on", self.group_size.unwrap_or_default()))
    }

    /// Powers of two as scales: MX, by its group and the type of its scales.
    fn is_mx(&self, element: DType) -> Result<bool> {
        let bytes = match self.scale_dtype.as_deref() {
            None | Some("torch.float32" | "torch.bfloat16" | "torch.float16") => false,
            Some("torch.uint8" | "uint8" | "torch.float8_e8m0fnu") => true,
            Some("torch.float8_e4m3fn") if self.strategy.as_deref() == Some("tensor_group") => false,
            Some(other) => return Err(unknown("scale_dtype", "torch.uint8 or a float", format!("`{other}`"))),
        };
        let mx = bytes || element == DType::F4E2M1;
        if mx && self.group()? != mxfp4::GROUP {
            return Err(unknown("group_size", mxfp4::GROUP, self.group()?));
        }
        Ok(mx)
    }

    fn two_level(&self, element: DType) -> Result<()> {
        match (element, self.group()?) {
            (DType::F4E2M1, NVFP4_GROUP) => Ok(()),
            (DType::F4E2M1, n) => Err(unknown("group_size", NVFP4_GROUP, n)),
            (other, _) => Err(unknown("strategy", "`tensor_group` for 4 bits only", other)),
        }
    }

    fn strategy(&self) -> &str {
        // As compressed-tensors fills it in.
        self.strategy.as_deref().unwrap_or(match self.group_size {
            None => "tensor",
            Some(-1) => "channel",
            Some(_) => "group",
        })
    }
}

fn weight(args: &Args) -> Result<WeightScheme> {
    let element = args.element()?;
    if !matches!(args.dynamic, Dynamic::Whether(false)) {
        return Err(unknown("dynamic", "false", format!("{:?}", args.dynamic)));
    }
    let packed = element == DType::F4E2M1;
    let (per, kind) = match args.strategy() {
        "tensor" if !packed => (WeightPer::Tensor, ScaleKind::Float),
        "channel" if !packed => (WeightPer::Channel, ScaleKind::Float),
        "block" if !packed => {
            let Some([rows, columns]) = args.block_structure.filter(|b| b.iter().all(|n| *n > 0)) else {
                return Err(unknown("block_structure", "the rows and columns of a block", "none"));
            };
            (WeightPer::Block(rows, columns), ScaleKind::Float)
        }
        "group" => {
            let kind = if args.is_mx(element)? { ScaleKind::Power } else { ScaleKind::Float };
            (WeightPer::Group(args.group()?), kind)
        }
        "tensor_group" => {
            args.two_level(element)?;
            (WeightPer::Group(NVFP4_GROUP), ScaleKind::TwoLevel { global: "weight_global_scale".into() })
        }
        other => return Err(strategy(other, element)),
    };
    let codes = if packed { "weight_packed" } else { "weight" };
    Ok(WeightScheme { element, codes: codes.into(), cut: None, scale: "weight_scale".into(), per, kind })
}

fn activation(args: &Args) -> Result<Activation> {
    let element = args.element()?;
    let local = match &args.dynamic {
        Dynamic::Whether(true) => false,
        Dynamic::Whether(false) if args.strategy() == "tensor" && element != DType::F4E2M1 => {
            return Ok(Activation::Static { element, scale: "input_scale".into(), divide: false });
        }
        Dynamic::Whether(false) => return Err(unknown("dynamic", "true, or strategy `tensor`", "false")),
        Dynamic::How(how) if how == "local" => true,
        Dynamic::How(how) => return Err(unknown("dynamic", "true, false or `local`", format!("`{how}`"))),
    };
    if args.strategy() == "tensor_group" {
        args.two_level(element)?;
        if !local {
            return Err(unknown("dynamic", "`local` for strategy `tensor_group`", "true"));
        }
        return Ok(Activation::TwoLevel { global: "input_global_scale".into() });
    }
    let by_row = if element == DType::I8 { f32::EPSILON } else { FP8_FLOOR };
    let (per, rule) = match args.strategy() {
        other if local => return Err(strategy(other, element)),
        "tensor" if element != DType::F4E2M1 => (ActivationPer::Tensor, ScaleRule::FloorOnScale(by_row.into())),
        "token" if element != DType::F4E2M1 => (ActivationPer::Token, ScaleRule::FloorOnScale(by_row.into())),
        "group" if args.is_mx(element)? => (ActivationPer::Group(args.group()?), ScaleRule::Microscaling),
        "group" => (ActivationPer::Group(args.group()?), ScaleRule::FloorOnAmax(GROUP_FLOOR.into())),
        other => return Err(strategy(other, element)),
    };
    Ok(Activation::Dynamic { element, per, rule })
}

fn strategy(found: &str, element: DType) -> FormatError {
    unknown("strategy", format!("one that is known for {element}"), format!("`{found}`"))
}
