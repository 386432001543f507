//! Each scheme on a small graph: what the layers become, and that it computes about the same.

use normfuse::{
    cpu::Plan,
    formats::{quant_config::QuantConfig, tensors},
    ir::{DType, Graph, Op, Tensor, ValueId, eval, text},
    passes::{
        self, Options,
        linears::{self, Quantised, Source},
    },
};
use serde_json::{Value, json};

use super::{common::normfuse, cosine, numbers};

/// A norm that two layers, a router and a head read, and a layer behind one of them.
const MODEL: &str = r#"graph "model"
input %x: bf16[tokens, 256]
input %model.norm.weight: bf16[256]
input %model.mlp.up_proj.weight: bf16[128, 256]
input %model.mlp.gate_proj.weight: bf16[128, 256]
input %model.mlp.down_proj.weight: bf16[64, 128]
input %model.mlp.router.weight: bf16[8, 256]
input %lm_head.weight: bf16[32, 256]
const %two: f32[] = 2.0
const %eps: f32[] = 1e-6
%wide = cast(%x) {to=f32}
%squares = pow(%wide, %two)
%mean = reduce_mean(%squares) {axes=[-1]}
%root = add(%mean, %eps)
%r = rsqrt(%root)
%scaled = mul(%wide, %r)
%narrow = cast(%scaled) {to=bf16}
%normed = mul(%model.norm.weight, %narrow)
%up.t = transpose(%model.mlp.up_proj.weight) {perm=[1, 0]}
%up = matmul(%normed, %up.t)
%gate.t = transpose(%model.mlp.gate_proj.weight) {perm=[1, 0]}
%gate = matmul(%normed, %gate.t)
%router.t = transpose(%model.mlp.router.weight) {perm=[1, 0]}
%router = matmul(%normed, %router.t) from {metadata=[[torch.class, a.Router]]}
%head.t = transpose(%lm_head.weight) {perm=[1, 0]}
%head = matmul(%normed, %head.t)
%act = silu(%gate)
%h = mul(%act, %up)
%down.t = transpose(%model.mlp.down_proj.weight) {perm=[1, 0]}
%down = matmul(%h, %down.t)
output %down
output %router
output %head
"#;

fn model() -> Graph {
    text::parse(MODEL, &mut |_| unreachable!("no weights")).unwrap()
}

/// The same with weights.
fn with_data() -> Graph {
    let mut graph = model();
    let parameters: Vec<ValueId> = graph.inputs()[1..].to_vec();
    let made: Vec<(ValueId, Tensor)> = parameters.into_iter().map(|v| (v, noise(&graph, v))).collect();
    graph.set_consts(made);
    graph
}

fn noise(graph: &Graph, value: ValueId) -> Tensor {
    let v = graph.value(value);
    let shape = v.ty.shape.as_ref().unwrap().as_concrete().unwrap();
    let (centre, spread) = if shape.len() == 1 { (1.0, 0.5) } else { (0.0, 0.125) };
    numbered(&shape, v.name.len() as u32, centre, spread)
}

/// Pseudo-random numbers around a centre, in bf16.
fn numbered(shape: &[usize], seed: u32, centre: f32, spread: f32) -> Tensor {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| centre + spread * (next() + next() + next())).collect();
    let wide = Tensor::from_f32(shape, &values);
    eval::eval_node(&Op::Cast { to: DType::BF16, saturate: true }, &[Some(&wide)]).unwrap().swap_remove(0)
}

fn quantise(graph: &mut Graph, config: &Value) -> normfuse::ir::Result<Quantised> {
    let config = QuantConfig::parse(config.to_string().as_bytes()).unwrap();
    let scheme = |module: &str, class: Option<&str>| config.scheme_of(module, class);
    linears::quantise(graph, Source { scheme: &scheme, spared: &|m, c| config.spares(m, c), stored: None })
}

#[expect(clippy::needless_pass_by_value, reason = "what is made in the call reads better")]
fn args(bits: u32, kind: &str, strategy: &str, dynamic: Value) -> Value {
    json!({"num_bits": bits, "type": kind, "strategy": strategy, "dynamic": dynamic, "symmetric": true})
}

fn grouped(mut args: Value, size: usize) -> Value {
    args["group_size"] = json!(size);
    args
}

#[expect(clippy::needless_pass_by_value, reason = "what is made in the call reads better")]
fn compressed(weights: Value, activations: Value) -> Value {
    json!({"quant_method": "compressed-tensors", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": activations}}})
}

/// Every scheme, by name, and how near the quantised graph is to the one in bf16.
fn schemes() -> Vec<(&'static str, Value, f64)> {
    let (no, yes) = (json!(false), json!(true));
    let mut blocks = args(8, "float", "block", no.clone());
    blocks["block_structure"] = json!([128, 128]);
    let mut bytes = grouped(args(8, "float", "group", no.clone()), 32);
    bytes["scale_dtype"] = json!("torch.uint8");
    let mut byte_rows = bytes.clone();
    byte_rows["dynamic"] = yes.clone();
    let fp8 =
        |scale_fmt: Value| json!({"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": scale_fmt});
    let f4 = |strategy: &str, size, dynamic: Value| grouped(args(4, "float", strategy, dynamic), size);
    vec![
        ("fp8", fp8(Value::Null), 0.995),
        ("fp8_ue8m0", fp8(json!("ue8m0")), 0.995),
        (
            "fp8_token",
            compressed(args(8, "float", "channel", no.clone()), args(8, "float", "token", yes.clone())),
            0.995,
        ),
        (
            "fp8_tensor",
            compressed(args(8, "float", "tensor", no.clone()), args(8, "float", "tensor", yes.clone())),
            0.995,
        ),
        ("fp8_blocks", compressed(blocks, grouped(args(8, "float", "group", yes.clone()), 128)), 0.995),
        ("fp8_weights", compressed(args(8, "float", "channel", no.clone()), Value::Null), 0.998),
        ("int8", compressed(args(8, "int", "channel", no.clone()), args(8, "int", "token", yes.clone())), 0.998),
        ("mxfp8", compressed(bytes, byte_rows), 0.995),
        ("mxfp4", compressed(f4("group", 32, no.clone()), f4("group", 32, yes)), 0.95),
        ("gpt_oss", json!({"quant_method": "mxfp4"}), 0.95),
    ]
}

/// What needs scales that only a checkpoint has.
fn given() -> Vec<(&'static str, Value)> {
    let no = json!(false);
    let f4 = |dynamic: Value| grouped(args(4, "float", "tensor_group", dynamic), 16);
    vec![
        ("fp8_static", json!({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "static"})),
        ("fp8_given", compressed(args(8, "float", "tensor", no.clone()), args(8, "float", "tensor", no.clone()))),
        ("int8_given", compressed(args(8, "int", "channel", no.clone()), args(8, "int", "tensor", no.clone()))),
        ("nvfp4", compressed(f4(no), f4(json!("local")))),
    ]
}

/// Runs a graph on rows, with `given` for each input that is one number.
fn run(graph: &Graph, given: f32) -> Vec<Tensor> {
    let mut graph = graph.clone();
    normfuse::ir::infer::infer(&mut graph).unwrap();
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .map(|v| match graph.value(*v).ty.shape.as_ref().unwrap().as_concrete() {
            Some(shape) => Tensor::from_f32(&shape, &[given]),
            None => numbered(&[5, 256], 77, 0.0, 0.5),
        })
        .collect();
    Plan::new(&graph).unwrap().run(&inputs).unwrap()
}

/// Quantised and fused: bits stay, and numbers are near those of the bf16 graph.
fn check(name: &str, config: &Value, near: f64, scale: f32) {
    let source = with_data();
    let mut quantised = source.clone();
    let done = quantise(&mut quantised, config).unwrap();
    assert_eq!(done.schemes.values().sum::<usize>(), 3, "{name}: {done:?}");
    assert_eq!(done.left, ["model.mlp.router", "lm_head"], "{name}");
    let mut fused = quantised.clone();
    let report = passes::run(&mut fused, &Options { verify: true, ..Options::default() }).unwrap();
    let weights_only = name == "fp8_weights";
    assert_eq!(report.summary.fused.norm_quant, usize::from(!weights_only), "{name}: {report:?}");
    let (before, between, after) = (run(&source, scale), run(&quantised, scale), run(&fused, scale));
    for (a, b) in between.iter().zip(&after) {
        assert_eq!(a.bytes(), b.bytes(), "{name}");
    }
    for (a, b) in before.iter().zip(&after) {
        let found = cosine(&numbers(a), &numbers(b));
        assert!(found >= near, "{name}: cosine {found}");
    }
    assert!(before[0].bytes() != after[0].bytes() && before[2].bytes() == after[2].bytes(), "{name}");
}

#[test]
fn every_scheme_computes_about_the_same_and_fuses() {
    for (name, config, near) in schemes() {
        check(name, &config, near, 0.0);
    }
}

#[test]
fn given_scales_do_too() {
    // The largest magnitudes are below 4: as FP8 and INT8 scales, and as NVFP4's global scale.
    for (name, config) in given() {
        let (near, scale) = match name {
            "nvfp4" => (0.95, 448.0 * 6.0 / 4.0),
            "int8_given" => (0.995, 4.0 / 127.0),
            _ => (0.995, 4.0 / 448.0),
        };
        check(name, &config, near, scale);
    }
}

/// A tensor as checkpoints have it: what is not as wide as a byte, or a power of two, as bytes.
fn as_stored(tensor: &Tensor) -> Tensor {
    let mut shape = tensor.shape().to_vec();
    match tensor.dtype() {
        DType::F4E2M1 => *shape.last_mut().unwrap() /= 2,
        DType::F8E8M0 => {}
        _ => return tensor.clone(),
    }
    Tensor::from_bytes(DType::U8, shape, tensor.bytes().to_vec()).unwrap()
}

/// What the graph quantises is what a checkpoint of the same numbers gives, by the names that the config says.
#[test]
fn checkpoints_of_every_scheme_bind() {
    for (name, config) in schemes().into_iter().map(|(n, c, _)| (n, c)).chain(given()) {
        let mut made = with_data();
        quantise(&mut made, &config).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut stored: Vec<(String, Tensor)> = Vec::new();
        for (_, v) in made.values().filter(|(_, v)| v.name.starts_with("model.") || v.name.starts_with("lm_head")) {
            match (v.stored(), &v.ty.shape) {
                (Some(t), _) => stored.push((v.name.clone(), as_stored(t))),
                (None, Some(shape)) if v.name.contains(".input_") => {
                    stored.push((v.name.clone(), Tensor::from_f32(&shape.as_concrete().unwrap(), &[0.5])));
                }
                _ => {}
            }
        }
        tensors::write(&at("w.safetensors"), &stored).unwrap();
        tensors::write(&at("x.safetensors"), &[("x".into(), numbered(&[5, 256], 77, 0.0, 0.5))]).unwrap();
        std::fs::write(at("m.nf"), MODEL).unwrap();
        std::fs::write(at("config.json"), config.to_string()).unwrap();
        let path = |name: &str| at(name).to_str().unwrap().to_owned();
        let from = ["--weights", &path("w.safetensors"), "--quant-config", &path("config.json")];
        let inputs = ["--inputs", &path("x.safetensors"), "--outputs", &path("y.safetensors")];
        normfuse([&["run", &path("m.nf")], &from[..], &inputs].concat()).code(0);
        let found = tensors::read(&at("y.safetensors")).unwrap();
        for (want, output) in run(&made, 0.5).iter().zip(made.outputs()) {
            let (_, y) = found.iter().find(|(n, _)| *n == output.name).unwrap();
            assert_eq!(want.bytes(), y.bytes(), "{name}: {}", output.name);
        }
    }
}

#[test]
fn what_the_layers_become() {
    for (name, config) in schemes().into_iter().map(|(n, c, _)| (n, c)).chain(given()) {
        let mut graph = model();
        quantise(&mut graph, &config).unwrap();
        normfuse::ir::infer::infer(&mut graph).unwrap();
        graph.verify().unwrap();
        insta::assert_snapshot!(name, text::print_outline(&graph));
    }
}

#[test]
fn targets_choose_layers_by_name_class_and_expression() {
    let weights = || args(8, "float", "channel", json!(false));
    let group = |targets: Value| json!({"targets": targets, "weights": weights()});
    let left = |targets: Value, ignore: Value| {
        let config =
            json!({"quant_method": "compressed-tensors", "ignore": ignore, "config_groups": {"a": group(targets)}});
        quantise(&mut model(), &config).map(|q| q.left)
    };
    let all = ["model.mlp.up_proj", "model.mlp.gate_proj", "model.mlp.router", "lm_head", "model.mlp.down_proj"];
    let but = |chosen: &[&str]| all.iter().filter(|m| !chosen.contains(m)).map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(left(json!(["re:.*mlp.*_proj"]), json!(["re:.*down"])).unwrap(), but(&all[..2]));
    assert_eq!(left(json!(["lm_head"]), json!([])).unwrap(), but(&["lm_head"]));
    assert_eq!(
        left(json!(["Router", "down_proj"]), json!([])).unwrap(),
        but(&["model.mlp.router", "model.mlp.down_proj"])
    );
    assert_eq!(left(json!(["Linear"]), json!(["lm_head"])).unwrap(), ["model.mlp.router", "lm_head"]);
    // `re:` matches from the beginning.
    let e = left(json!(["re:mlp"]), json!([])).unwrap_err().to_string();
    assert!(e.contains("5 linear layers, `model.mlp.up_proj` the first, and none that is named"), "{e}");
}

/// torch's exporter of ONNX stores weights transposed and without a name; the module is in the node's metadata.
#[test]
fn a_weight_that_an_exporter_transposed_is_known_by_its_place() {
    let turned = |class: &str| {
        let place = format!(
            "{{metadata=[[pkg.torch.onnx.class_hierarchy, \"['a.M', '{class}', 'aten.linear.default']\"], \
             [pkg.torch.onnx.name_scopes, \"['', 'mlp', 'mlp.up_proj', 'linear']\"]]}}"
        );
        let text = format!(
            "graph \"g\"\ninput %x: bf16[tokens, 256]\ninput %val_1: bf16[256, 128]\n\
             %y = matmul(%x, %val_1) from {place}\noutput %y\n"
        );
        let mut graph = text::parse(&text, &mut |_| unreachable!("no weights")).unwrap();
        let weight = graph.inputs()[1];
        graph.set_consts([(weight, numbered(&[256, 128], 9, 0.0, 0.125))]);
        graph
    };
    let config = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let source = turned("torch.nn.modules.linear.Linear");
    let mut quantised = source.clone();
    let done = quantise(&mut quantised, &config).unwrap();
    assert_eq!(done.parameters[0].1, ["mlp.up_proj.weight", "mlp.up_proj.weight_scale_inv"]);
    let found = cosine(&numbers(&run(&source, 0.0)[0]), &numbers(&run(&quantised, 0.0)[0]));
    assert!((0.995..1.0).contains(&found), "cosine {found}");
    assert!(quantise(&mut turned("a.Router"), &config).is_err());
}

#[test]
fn a_layer_that_cannot_be_quantised_so_is_named() {
    let config = json!({"quant_method": "mxfp4", "modules_to_not_convert": ["router"]});
    let rows = MODEL.replace("down_proj.weight: bf16[64, 128]", "down_proj.weight: bf16[64, 100]");
    let rows =
        rows.replace("%down = matmul(%h, %down.t)", "%cut = slice(%h, %i0, %i100, %i1)\n%down = matmul(%cut, %down.t)");
    let rows = rows.replace(
        "const %two",
        "const %i0: i64[1] = [0]\nconst %i100: i64[1] = [100]\nconst %i1: i64[1] = [1]\nconst %two",
    );
    let refused = |text: &str, words: &[&str]| {
        let mut graph = text::parse(text, &mut |_| unreachable!("no weights")).unwrap();
        let e = quantise(&mut graph, &config).unwrap_err().to_string();
        for w in words {
            assert!(e.contains(w), "expected {w:?} in {e:?}");
        }
    };
    refused(&rows, &["node `model.mlp.down_proj`", "multiple of 32 values, found 100"]);
    let read =
        MODEL.replace("output %down\n", "%other = abs(%model.mlp.up_proj.weight)\noutput %down\noutput %other\n");
    refused(&read, &["node `model.mlp.up_proj`", "read by `other` too"]);
    let unknown = MODEL.replace("mul(%act, %up)", "\"my\".\"Gate\"(%act, %up)");
    refused(&unknown, &["node `model.mlp.down_proj`", "a shape that is known"]);
    let none = "graph \"g\"\ninput %x: bf16[2, 32]\ninput %w: bf16[32, 4]\n%y = matmul(%x, %w)\noutput %y\n";
    refused(none, &["no product with a parameter `MODULE.weight`"]);
}

/// A decomposed product of three axes multiplies with a batch of copies of the weight; copies of one that was not turned
/// are no layer.
#[test]
fn a_weight_that_is_repeated_a_batch_is_one() {
    let shape = "const %sizes: i64[3] = [2, 128, 64]\n%batch = reshape(%h, %three)\n";
    let three = "const %three: i64[3] = [2, -1, 128]\n";
    let source = MODEL.replace("tokens", "6").replace(
        "%down = matmul(%h, %down.t)",
        &format!("{three}{shape}%copies = expand(%down.t, %sizes)\n%down = matmul(%batch, %copies)"),
    );
    let config = json!({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"});
    let modules = |source: &str| {
        let mut graph = text::parse(source, &mut |_| unreachable!("no weights")).unwrap();
        let parameters: Vec<ValueId> = graph.inputs()[1..].to_vec();
        let made: Vec<(ValueId, Tensor)> = parameters.into_iter().map(|v| (v, noise(&graph, v))).collect();
        graph.set_consts(made);
        let quantised = quantise(&mut graph, &config).unwrap();
        quantised.parameters.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert!(modules(&source).contains(&"model.mlp.down_proj.weight".to_owned()));
    let unturned = source
        .replace("bf16[64, 128]", "bf16[128, 64]")
        .replace("%down.t = transpose(%model.mlp.down_proj.weight) {perm=[1, 0]}\n", "")
        .replace("expand(%down.t,", "expand(%model.mlp.down_proj.weight,");
    assert!(!modules(&unturned).contains(&"model.mlp.down_proj.weight".to_owned()));
}
