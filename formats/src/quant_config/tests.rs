use serde_json::{Value, json};

use super::QuantConfig;

fn read(config: &Value) -> QuantConfig {
    QuantConfig::parse(config.to_string().as_bytes()).unwrap()
}

#[track_caller]
fn refused(config: &Value, words: &[&str]) {
    let e = QuantConfig::parse(config.to_string().as_bytes()).unwrap_err().to_string();
    for w in words {
        assert!(e.contains(w), "expected {w:?} in {e:?}");
    }
}

fn scheme(config: &QuantConfig, module: &str) -> Option<String> {
    config.scheme_of(module, None).map(ToString::to_string)
}

/// As DeepSeek-V3's config.json has it.
fn deepseek() -> Value {
    json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]})
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

#[test]
fn deepseek_v3() {
    let whole = json!({"hidden_size": 7168, "quantization_config": deepseek()});
    for config in [read(&whole), read(&deepseek())] {
        let found = scheme(&config, "model.layers.0.mlp.up_proj");
        assert_eq!(found.as_deref(), Some("f8e4m3fn/block128x128 x f8e4m3fn/group128"));
        assert_eq!(scheme(&config, "lm_head"), None, "the head is in bf16");
        assert_eq!(scheme(&config, "wrapper.lm_head"), None);
        assert_eq!(config.scheme_of("model.layers.3.mlp.gate", Some("x.DeepseekV3TopkRouter")), None);
    }
    let powers = read(&with(deepseek(), "scale_fmt", json!("ue8m0")));
    assert_eq!(scheme(&powers, "m.p").unwrap(), "f8e4m3fn/block128x128 x f8e4m3fn/group128(pow2)");
    let fixed = read(&with(deepseek(), "activation_scheme", json!("static")));
    assert_eq!(scheme(&fixed, "m.p").unwrap(), "f8e4m3fn/block128x128 x f8e4m3fn/tensor(static)");
}

#[test]
fn modules_that_are_not_converted() {
    let listed = json!(["model.layers.6", "model.layers.*.self_attn"]);
    let config = read(&with(deepseek(), "modules_to_not_convert", listed));
    for skipped in ["model.layers.6.mlp.up_proj", "m.model.layers.6", "model.layers.7.self_attn.o_proj", "lm_head"] {
        assert_eq!(scheme(&config, skipped), None, "{skipped}");
    }
    for kept in ["model.layers.60.mlp.up_proj", "model.layers.7.mlp.up_proj", "my_lm_head", "lm_header"] {
        assert!(scheme(&config, kept).is_some(), "{kept}");
    }
}

/// What `to_dict()` of its config has beside DeepSeek's own fields.
#[test]
fn fp8_as_transformers_writes_it() {
    let written = json!({"quant_method": "fp8", "modules_to_not_convert": null, "modules_to_convert": null,
        "activation_scheme": "dynamic", "weight_block_size": [128, 128], "dequantize": false, "scale_fmt": "float",
        "expert_dtype": "fp8"});
    let found = scheme(&read(&written), "model.layers.0.mlp.up_proj");
    assert_eq!(found, scheme(&read(&deepseek()), "model.layers.0.mlp.up_proj"));
    assert!(scheme(&read(&with(deepseek(), "fmt", json!("float8_e4m3fn"))), "m.p").is_some());
    assert_eq!(scheme(&read(&with(deepseek(), "ignored_layers", json!(["m.p"]))), "m.p"), None);
    assert!(scheme(&read(&with(written.clone(), "modules_to_convert", json!([]))), "m.p").is_some());
    refused(&with(written.clone(), "dequantize", json!(true)), &["`dequantize`", "false", "found true"]);
    refused(&with(written.clone(), "expert_dtype", json!("fp4")), &["`expert_dtype`", "`fp8`", "`fp4`"]);
    refused(&with(written, "modules_to_convert", json!(["embed"])), &["`modules_to_convert`", "embed"]);
}

#[test]
fn what_is_not_known_is_named() {
    refused(&json!({}), &["quantization_config", "quant_method"]);
    refused(&json!([1]), &["quantization_config"]);
    refused(&json!({"quant_method": "gptq", "bits": 4}), &["quant_method", "gptq", "compressed-tensors"]);
    refused(&with(deepseek(), "rotate", json!(true)), &["rotate"]);
    refused(&with(deepseek(), "fmt", json!("e5m2")), &["fmt", "e5m2"]);
    refused(&with(deepseek(), "scale_fmt", json!("e5m3")), &["scale_fmt", "e5m3"]);
    refused(&with(deepseek(), "activation_scheme", json!("local")), &["local", "dynamic"]);
    refused(&with(deepseek(), "weight_block_size", Value::Null), &["weight_block_size"]);
    refused(&with(deepseek(), "weight_block_size", json!([0, 128])), &["weight_block_size"]);
    refused(&with(deepseek(), "modules_to_not_convert", json!(["a("])), &["modules_to_not_convert"]);
    assert!(QuantConfig::parse(b"{").is_err());
}

/// One group of compressed-tensors for all layers but the head.
fn compressed(weights: &Value, activations: &Value) -> Value {
    json!({"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "version": "0.13.0", "global_compression_ratio": null, "kv_cache_scheme": null, "sparsity_config": {},
        "transform_config": {}, "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations,
            "output_activations": null, "format": null}}})
}

fn args(bits: u32, kind: &str, strategy: &str, dynamic: &Value) -> Value {
    json!({"num_bits": bits, "type": kind, "strategy": strategy, "dynamic": dynamic, "symmetric": true,
        "group_size": null, "block_structure": null, "actorder": null, "observer": "minmax", "observer_kwargs": {},
        "scale_dtype": null, "zp_dtype": null})
}

fn grouped(args: Value, size: usize) -> Value {
    with(args, "group_size", json!(size))
}

/// As transformers writes it.
#[test]
fn run_compressed() {
    let (no, yes) = (json!(false), json!(true));
    let config = compressed(&args(8, "float", "channel", &no), &args(8, "float", "token", &yes));
    for neutral in [Value::Null, json!(true)] {
        assert!(scheme(&read(&with(config.clone(), "run_compressed", neutral)), "m.p").is_some());
    }
    refused(&with(config, "run_compressed", no), &["`run_compressed`", "found false"]);
}

#[test]
fn compressed_tensors() {
    let (no, yes) = (json!(false), json!(true));
    let cases = [
        (args(8, "float", "channel", &no), args(8, "float", "token", &yes), "f8e4m3fn/channel x f8e4m3fn/token"),
        (args(8, "float", "tensor", &no), args(8, "float", "tensor", &no), "f8e4m3fn/tensor x f8e4m3fn/tensor(static)"),
        (args(8, "float", "tensor", &no), args(8, "float", "tensor", &yes), "f8e4m3fn/tensor x f8e4m3fn/tensor"),
        (
            with(args(8, "float", "block", &no), "block_structure", json!([128, 64])),
            grouped(args(8, "float", "group", &yes), 64),
            "f8e4m3fn/block128x64 x f8e4m3fn/group64",
        ),
        (args(8, "int", "channel", &no), args(8, "int", "token", &yes), "i8/channel x i8/token"),
        (args(8, "int", "tensor", &no), args(8, "int", "tensor", &no), "i8/tensor x i8/tensor(static)"),
        (
            grouped(args(4, "float", "group", &no), 32),
            grouped(args(4, "float", "group", &yes), 32),
            "f4e2m1/group32(f8e8m0) x f4e2m1/group32(f8e8m0)",
        ),
        (
            with(grouped(args(8, "float", "group", &no), 32), "scale_dtype", json!("torch.uint8")),
            with(grouped(args(8, "float", "group", &yes), 32), "scale_dtype", json!("torch.uint8")),
            "f8e4m3fn/group32(f8e8m0) x f8e4m3fn/group32(f8e8m0)",
        ),
        (
            with(grouped(args(4, "float", "tensor_group", &no), 16), "scale_dtype", json!("torch.float8_e4m3fn")),
            grouped(args(4, "float", "tensor_group", &json!("local")), 16),
            "f4e2m1/group16(f8e4m3fn) x f4e2m1/group16(f8e4m3fn)",
        ),
        (args(8, "float", "channel", &no), Value::Null, "f8e4m3fn/channel, activations as they are"),
    ];
    for (weights, activations, expected) in cases {
        let config = read(&compressed(&weights, &activations));
        assert_eq!(scheme(&config, "model.layers.0.mlp.up_proj").as_deref(), Some(expected));
        assert_eq!(scheme(&config, "lm_head"), None);
    }
}

#[test]
fn targets_and_ignored_layers() {
    let weights = args(8, "float", "channel", &json!(false));
    let mut config = compressed(&weights, &Value::Null);
    let other = json!({"targets": ["re:.*self_attn.*", "model.mlp.down_proj"], "weights": args(8, "int", "tensor", &json!(false))});
    config["config_groups"] = json!({"a": other, "b": config["config_groups"]["group_0"]});
    config["ignore"] = json!(["re:.*mlp\\.gate$", "lm_head", "Router"]);
    let config = read(&config);
    let of = |module: &str| scheme(&config, module).map(|s| s.split(',').next().unwrap().to_owned());
    assert_eq!(of("model.layers.0.self_attn.q_proj").unwrap(), "i8/tensor");
    assert_eq!(of("model.mlp.down_proj").unwrap(), "i8/tensor");
    assert_eq!(of("model.layers.0.mlp.gate_proj").unwrap(), "f8e4m3fn/channel");
    assert_eq!((of("model.layers.0.mlp.gate"), of("lm_head")), (None, None));
    assert_eq!(config.scheme_of("m.self_attn", Some("a.Router")).map(ToString::to_string), None);
    assert_eq!(config.scheme_of("m.up", Some("a.Experts")).map(ToString::to_string), None);
}

#[test]
fn a_group_that_names_a_layer_goes_before_one_of_its_class() {
    let group = |target: &str, kind: &str, strategy: &str| json!({"targets": [target], "weights": args(8, kind, strategy, &json!(false))});
    let text = |groups: &[(&str, Value)]| {
        let groups: Vec<String> = groups.iter().map(|(name, g)| format!("\"{name}\": {g}")).collect();
        format!(r#"{{"quant_method": "compressed-tensors", "config_groups": {{{}}}}}"#, groups.join(", "))
    };
    let of = |groups: &[(&str, Value)], module: &str| {
        let config = QuantConfig::parse(text(groups).as_bytes()).unwrap();
        scheme(&config, module).map(|s| s.split(',').next().unwrap().to_owned())
    };
    for name in ["re:.*down_proj", "layers.0.down_proj"] {
        let groups = [("group_0", group("Linear", "float", "channel")), ("group_1", group(name, "int", "tensor"))];
        assert_eq!(of(&groups, "layers.0.down_proj").unwrap(), "i8/tensor");
        assert_eq!(of(&groups, "layers.0.up_proj").unwrap(), "f8e4m3fn/channel");
    }
    // In the order of the file, which is neither that of names nor of numbers.
    let ten = ("group_10", group("re:.*down_proj", "int", "tensor"));
    let two = ("group_2", group("re:.*_proj", "float", "tensor"));
    assert_eq!(of(&[two.clone(), ten.clone()], "l.down_proj").unwrap(), "f8e4m3fn/tensor");
    assert_eq!(of(&[ten, two], "l.down_proj").unwrap(), "i8/tensor");
}

#[test]
fn what_compressed_tensors_does_not_say_here_is_named() {
    let (no, yes) = (json!(false), json!(true));
    let (w, a) = (args(8, "float", "channel", &no), args(8, "float", "token", &yes));
    let group = |w: &Value, a: &Value| compressed(w, a);
    refused(&group(&args(4, "int", "group", &no), &a), &["group_0", "weights", "num_bits", "4 bits of type int"]);
    refused(&group(&with(w.clone(), "symmetric", no.clone()), &a), &["weights", "symmetric"]);
    refused(&group(&with(w.clone(), "actorder", json!("group")), &a), &["actorder"]);
    refused(&group(&with(w.clone(), "mystery", json!(1)), &a), &["mystery"]);
    refused(&group(&w, &args(8, "float", "channel", &yes)), &["input_activations", "strategy", "channel"]);
    refused(&group(&w, &args(8, "float", "token", &no)), &["input_activations", "dynamic"]);
    refused(&group(&w, &args(8, "float", "token", &json!("later"))), &["dynamic", "later"]);
    refused(&group(&args(4, "float", "tensor", &no), &a), &["strategy", "tensor"]);
    refused(&group(&grouped(args(4, "float", "tensor_group", &no), 32), &a), &["group_size", "16"]);
    refused(&group(&args(8, "float", "block", &no), &a), &["block_structure"]);
    let all = compressed(&w, &a);
    refused(&with(all.clone(), "format", json!("marlin-24")), &["format", "marlin-24"]);
    refused(&with(all.clone(), "kv_cache_scheme", json!({"num_bits": 8})), &["kv_cache_scheme"]);
    refused(&with(all.clone(), "sparsity_config", json!({"format": "sparse-24-bitmask"})), &["sparsity_config"]);
    refused(
        &with(all.clone(), "transform_config", json!({"config_groups": {"u": {"type": "hadamard"}}})),
        &["transform_config"],
    );
    refused(
        &with(all.clone(), "ignore", json!(["re:(?=a)"])),
        &["`ignore`", "modules by name or by a regular expression without look-around", "`re:(?=a)`: look-around"],
    );
    refused(&with(all, "surprise", json!(1)), &["surprise"]);
}

#[test]
fn gpt_oss() {
    let config = read(&json!({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}));
    let found = scheme(&config, "model.layers.0.mlp.up_proj").unwrap();
    assert_eq!(found, "f4e2m1/group32(f8e8m0) x f4e2m1/group32(f8e8m0)");
    assert_eq!(scheme(&config, "model.layers.0.self_attn.q_proj"), None);
    refused(&json!({"quant_method": "mxfp4", "dequantize": true}), &["dequantize"]);
}
