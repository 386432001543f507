//! The command line's contract: exit codes, what goes where, the JSON report, and files that appear whole or not at all.

mod common;

use std::{fs, path::Path};

use common::{files, model, normfuse, onnx, s};

#[test]
fn the_report_is_one_json_object_with_a_stable_shape() {
    let m = model("deepseek_v3_fp8.onnx");
    let run = || normfuse(["compile", s(&m), "--report", "json"]).code(0);
    let done = run();
    assert_eq!(done.stderr, "");
    assert_eq!(done.stdout.lines().count(), 1);
    let report = done.json();
    assert_eq!(report["model"], "deepseek_v3_fp8.onnx");
    assert_eq!(report["format"], "onnx");
    assert_eq!(report["relax"], serde_json::json!([]));
    let summary = &report["summary"];
    assert_eq!(summary["norms"], 5);
    assert_eq!(summary["fused"]["norm_quant"], 4);
    assert_eq!(summary["fused"]["norm"], 1);
    assert_eq!(summary["fused"]["sibling_norm"], 1);
    for key in ["nodes_before", "nodes_after", "quants", "rejected", "launches_saved", "bytes_saved_per_token"] {
        assert!(summary[key].is_u64(), "{key}");
    }
    let sites = report["sites"].as_array().unwrap();
    let replaced: usize = sites.iter().map(|s| s["replaced"].as_array().unwrap().len()).sum();
    let fused = sites.iter().filter(|s| s["outcome"] == "fused").count();
    assert_eq!(fused, 5);
    let ops: std::collections::BTreeSet<_> = sites.iter().filter_map(|s| s["op"].as_str()).collect();
    assert_eq!(summary["launches_saved"], replaced - ops.len());
    for site in sites {
        for key in ["anchor", "kind", "outcome", "rule"] {
            assert!(site[key].is_string(), "{key} of {site}");
        }
        for key in ["op", "precondition", "node", "hint"] {
            assert!(site.get(key).is_some(), "{key} of {site}");
        }
    }
    // Order of keys is part of the shape, and nothing depends on the run.
    assert!(
        done.stdout.starts_with("{\"model\":\"deepseek_v3_fp8.onnx\",\"format\":\"onnx\",\"relax\":[],\"summary\":{")
    );
    assert_eq!(done.stdout, run().stdout);
}

#[test]
fn the_text_report_names_sites_and_what_was_verified() {
    let done = normfuse(["compile", s(&model("deepseek_v3_fp8.onnx")), "--verify"]).code(0);
    for part in ["5 recognised, 4 fused with quantisers, 1 without", "f8e4m3fn/group128", "whole graph equal in 3 runs"]
    {
        assert!(done.stdout.contains(part), "no `{part}` in {}", done.stdout);
    }
}

#[test]
fn outputs_that_are_all_nan_are_equal_and_prove_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.onnx"), folder.path().join("out.onnx"));
    let mut m = onnx::one_norm(onnx::floats("w", &[8], &[1.0; 8]));
    let weights = &mut m.graph.as_mut().unwrap().initializer;
    *weights.iter_mut().find(|t| t.name() == "w").unwrap() = onnx::floats("w", &[8], &[f32::NAN; 8]);
    onnx::save(&m, &path);
    let args = ["compile", s(&path), "-o", s(&out), "--verify", "--report", "json", "--require", "norm=1"];
    let report = normfuse(args).code(0).json();
    assert!(report["verify"]["skipped"].as_str().unwrap().contains("NaN"), "{report}");
    let done = normfuse(["verify", s(&path), s(&out)]).code(0).says("note: ").says("NaN");
    assert!(done.stdout.contains("NaN in both"), "{}", done.stdout);
}

#[test]
fn inputs_with_a_default_stay_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("m.onnx"), folder.path().join("out.onnx"));
    let x = normfuse::ir::Tensor::from_f32(&[1, 8], &[3.0, -1.0, 0.5, 0.0, 2.0, 7.0, -4.0, 1.0]);
    let given = |named: &[(&str, normfuse::ir::Tensor)]| {
        let file = folder.path().join("in.npz");
        let named: Vec<_> = named.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        normfuse::formats::tensors::write(&file, &named).unwrap();
        file
    };
    // A weight may come from a caller, a number that a rule looks at may not.
    for (name, dims, fused) in [("w", &[8][..], 1), ("eps", &[], 0), ("two", &[], 0)] {
        let mut m = onnx::one_norm(onnx::floats("w", &[8], &[0.5; 8]));
        m.graph.as_mut().unwrap().input.push(onnx::value(name, onnx::FLOAT, dims));
        onnx::save(&m, &path);
        let done = normfuse(["compile", s(&path), "-o", s(&out), "--verify", "--report", "json"]).code(0);
        assert_eq!(done.json()["summary"]["fused"]["norm"], fused, "{name}");
        assert_eq!(done.json()["verify"]["runs"], 3, "{name}: {}", done.stdout);
        let written = onnx::load(&out).graph.unwrap();
        let names: Vec<&str> = written.input.iter().map(onnx::ValueInfoProto::name).collect();
        assert_eq!(names, ["x", name]);
        assert!(written.initializer.iter().any(|t| t.name() == name));
        // With and without, and in the other forms.
        let other = normfuse::ir::Tensor::from_f32(
            &dims.iter().map(|d| *d as usize).collect::<Vec<_>>(),
            &[3.0; 8][..dims.iter().product::<i64>() as usize],
        );
        let alone = given(&[("x", x.clone())]);
        normfuse(["verify", s(&path), s(&out), "--inputs", s(&alone)]).code(0);
        let run = |model: &Path, inputs: &Path| normfuse(["run", s(model), "--inputs", s(inputs)]).code(0).stdout;
        let default = run(&path, &alone);
        for form in ["m.nf", "m.json"] {
            let form = folder.path().join(form);
            normfuse(["compile", s(&path), "-o", s(&form)]).code(0);
            assert_eq!(run(&form, &alone), default, "{name}");
        }
        let both = given(&[("x", x.clone()), (name, other)]);
        normfuse(["verify", s(&path), s(&out), "--inputs", s(&both)]).code(0);
        assert_ne!(run(&path, &both), default, "{name}");
        let initializer = m.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.name() == name).unwrap();
        *initializer = onnx::floats(name, dims, &vec![0.25; dims.iter().product::<i64>() as usize]);
        onnx::save(&m, &path);
        normfuse(["verify", s(&path), s(&out)]).code(1).says(&format!("`{name}` has another default"));
    }
}

#[test]
fn requirements_decide_the_exit_code_and_whether_a_file_appears() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let m = model("deepseek_v3_fp8.onnx");
    let done = normfuse(["compile", s(&m), "-o", s(&out), "--require", "norm_quant=5", "--report", "json"]).code(1);
    let stderr = &done.stderr;
    assert!(
        stderr.contains("--require norm_quant=5: found 4; sites that did not:\n  node_mean_4 (norm): "),
        "{stderr}"
    );
    assert_eq!(done.json()["summary"]["fused"]["norm_quant"], 4);
    assert_eq!(files(folder.path()), [""; 0]);
    normfuse(["compile", s(&m), "-o", s(&out), "--require", "norm_quant=4", "--require", "norm>=1"]).code(0);
    assert_eq!(files(folder.path()), ["out.onnx"]);
}

#[test]
fn rules_can_be_switched_off_by_name() {
    let m = model("deepseek_v3_fp8.onnx");
    let off = normfuse(["compile", s(&m), "--disable", "rms_norm", "--report", "json"]).code(0).json();
    assert_eq!(
        off["summary"]["fused"],
        serde_json::json!({ "norm": 0, "norm_quant": 0, "sibling_norm": 0, "gated_act": 0, "quant": 4 })
    );
    let both = ["compile", s(&m), "--disable", "rms_norm", "--disable", "quant_group", "--report", "json"];
    let off = normfuse(both).code(0).json();
    assert_eq!(off["summary"]["nodes_before"], off["summary"]["nodes_after"]);
    normfuse(["compile", s(&m), "--disable", "rms"]).code(2).says("no such rule; rules: ");
}

#[test]
fn what_only_one_runtime_has_a_kernel_for_is_fused_where_that_was_asked_for() {
    // Rows wider than the kernels take.
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/gated/clamped.nf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide.nf");
    fs::write(&wide, text.replace("seq, 128]", "seq, 131200]")).unwrap();
    let report = |flags: &[&str]| {
        let args = ["compile", s(&wide), "--verify", "--report", "json"];
        normfuse(args.into_iter().chain(flags.iter().copied())).code(0).json()
    };
    for flags in [&[][..], &["--runs-on", "both"], &["--runs-on", "cuda"]] {
        let report = report(flags);
        let site = &report["sites"][0];
        assert_eq!(report["summary"]["fused"]["gated_act"], 0);
        assert_eq!(site["precondition"], "supported");
        let hint = site["hint"].as_str().unwrap();
        assert!(hint.contains("the kernels take rows of at most 65536"), "{hint}");
        assert_eq!(hint.contains("--runs-on cpu"), flags != ["--runs-on", "cuda"], "{hint}");
    }
    assert_eq!(report(&["--runs-on", "cpu"])["summary"]["fused"]["gated_act"], 1);
    assert!(normfuse(["compile", s(&wide), "--runs-on", "tpu"]).code(2).stderr.contains("cpu, cuda"));
}

#[test]
fn relaxations_are_known_by_name_and_never_skipped_silently() {
    let m = model("llama_ts.onnx");
    let known = "[possible values: single-rounding, scaled-matmul]";
    for name in ["speed", ""] {
        normfuse(["compile", s(&m), "--relax", name]).code(2).says("for '--relax <NAME>'").says(known);
    }
    let done = normfuse(["compile", s(&m), "--relax", "scaled_matmul"]).code(2);
    done.says(known).says("a similar value exists: 'scaled-matmul'");
    // Semantics name it, and nothing implements it.
    for name in ["scale-bits", "weight-folding", "allreduce-order"] {
        let done = normfuse(["compile", s(&m), "--relax", "single-rounding", "--relax", name]).code(2);
        done.says(&format!("--relax {name}: relaxation {name} has no rule yet, so it would change nothing"));
    }
    let done = normfuse(["compile", s(&m), "--relax", "single-rounding", "--verify"]).code(0);
    assert!(done.stdout.contains("single-rounding changes nothing"), "{}", done.stdout);
    assert!(done.stdout.contains("whole graph equal in 3 runs\n"), "{}", done.stdout);
}

#[test]
fn products_of_codes_and_scales_are_said_one_by_one() {
    let m = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/scaled/norm_then_product.nf");
    let relax = ["compile", s(&m), "--relax", "scaled-matmul", "--verify"];
    insta::assert_snapshot!("scaled_products", normfuse(relax).code(0).stdout);
    let report = normfuse([relax.as_slice(), &["--report", "json"]].concat()).json();
    let product = &report["products"][0];
    assert_eq!(
        (&product["to"], report["products"].as_array().unwrap().len()),
        (&serde_json::json!("bf16"), 2),
        "{product}"
    );
    assert!(report["verify"]["relaxed"].is_array(), "{report}");
    // Nothing is scaled that nobody asked for.
    assert!(normfuse(["compile", s(&m), "--report", "json"]).json().get("products").is_none());
}

#[test]
fn what_was_relaxed_is_said_site_by_site_and_not_called_equal() {
    let m = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relax/single_rounding/product_in_f32.nf");
    let temp = tempfile::tempdir().unwrap();
    let (exact, relaxed) = (temp.path().join("exact.nf"), temp.path().join("relaxed.nf"));
    let compile = |more: &[&str]| normfuse([&["compile", s(&m), "--verify"], more].concat()).code(0);
    let relax = ["--relax", "single-rounding"];
    insta::assert_snapshot!("relaxed", compile(&relax).stdout);
    let plain = compile(&["-o", s(&exact), "--report", "json"]);
    assert!(!plain.stdout.contains("relaxed"), "{}", plain.stdout);
    let twice = ["-o", s(&relaxed), "--report", "json"];
    let report = compile(&[relax.as_slice(), &relax, &twice].concat()).json();
    assert_eq!(report["relax"], serde_json::json!(["single-rounding"]));
    let sites: Vec<_> = report["sites"].as_array().unwrap().iter().filter(|s| s.get("relaxed").is_some()).collect();
    assert_eq!(sites.len(), 1);
    let told = &sites[0]["relaxed"][0];
    assert_eq!(told["relaxation"], "single-rounding");
    let by_output = told["deviation"].as_array().unwrap();
    assert_eq!(
        by_output.iter().map(|d| d["output"].as_str().unwrap()).collect::<Vec<_>>(),
        ["sum", "q0_0", "scale0_0"]
    );
    assert_eq!(by_output[0]["differ"], 0);
    assert!(by_output[1..].iter().all(|d| d["differ"].as_u64() > Some(0) && d["differ"].as_u64() <= d["of"].as_u64()));
    assert!(by_output[1..].iter().all(|d| d["most"].as_f64() > Some(0.0)), "{told}");
    assert_eq!(report["verify"]["runs"], 3);
    let far = report["verify"]["relaxed"].as_array().unwrap();
    assert_eq!(far.iter().map(|d| d["output"].as_str().unwrap()).collect::<Vec<_>>(), ["q", "s", "h"]);
    assert!(far[1]["differ"].as_u64() > Some(0) && far[1]["max_abs"].as_f64() > Some(0.0), "{far:?}");
    assert_eq!(far[2]["differ"], 0);
    // The files say so, too: one is the source, the other is not.
    normfuse(["verify", s(&m), s(&exact)]).code(0);
    normfuse(["verify", s(&m), s(&relaxed)]).code(1);
    // As ONNX, its function spells out the relaxed op, or it would not be read.
    let onnx = temp.path().join("relaxed.onnx");
    normfuse([&["compile", s(&m), "-o", s(&onnx), "--copy-weights"], relax.as_slice()].concat()).code(0);
    normfuse(["verify", s(&relaxed), s(&onnx)]).code(0);
    // What fails without a relaxation fails with it.
    normfuse([&["compile", s(&m), "--require", "norm=3"], relax.as_slice()].concat()).code(1);
}

#[test]
fn every_format_is_written_and_the_graph_formats_compile_again() {
    let folder = tempfile::tempdir().unwrap();
    let m = model("deepseek_v3_fp8.onnx");
    for extension in ["onnx", "nf", "json", "dot"] {
        let out = folder.path().join(format!("fused.{extension}"));
        normfuse(["compile", s(&m), "-o", s(&out)]).code(0);
        if extension == "dot" {
            let text = std::fs::read_to_string(&out).unwrap();
            assert!(text.starts_with("digraph ") && text.matches("style=filled").count() == 4);
            normfuse(["compile", s(&out)]).code(2).says("Graphviz");
            continue;
        }
        normfuse(["verify", s(&m), s(&out)]).code(0);
        // What is fused stays fused, and there is nothing left to do.
        let again = normfuse(["compile", s(&out), "--report", "json"]).code(0).json();
        assert_eq!(again["summary"]["nodes_before"], again["summary"]["nodes_after"], "{extension}");
    }
    let odd = folder.path().join("graph.txt");
    normfuse(["compile", s(&m), "-o", s(&odd), "--emit", "nf"]).code(0);
    assert!(std::fs::read_to_string(&odd).unwrap().contains("fused_norm"));
    normfuse(["compile", s(&m), "-o", s(&folder.path().join("graph.exe"))]).code(2).says("ends in .onnx");
    normfuse(["compile", s(&m), "--emit", "nf"]).code(2).says("--output");
    normfuse(["compile", s(folder.path())]).code(2).says("found a folder");
    normfuse(["compile", s(&folder.path().join("graph"))]).code(2).says("a name without an ending");
}

#[test]
fn equal_input_gives_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let m = model("deepseek_v3_fp8.onnx");
    let write = |name: &str| {
        let out = folder.path().join(name);
        normfuse(["compile", s(&m), "-o", s(&out)]).code(0);
        std::fs::read(out).unwrap()
    };
    assert!(write("a.onnx") == write("b.onnx"));
    assert!(write("a.nf") == write("b.nf"));
}

#[test]
fn a_file_that_is_read_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("m.onnx");
    std::fs::copy(model("llama_ts.onnx"), &copy).unwrap();
    let before = std::fs::read(&copy).unwrap();
    normfuse(["compile", s(&copy), "-o", s(&copy)]).code(2).says("is the model itself");
    assert!(before == std::fs::read(&copy).unwrap());
    let nowhere = folder.path().join("no/such/folder/out.onnx");
    normfuse(["compile", s(&copy), "-o", s(&nowhere)]).code(2).says("no/such/folder");
    normfuse(["compile", s(&copy), "-o", s(folder.path()), "--emit", "onnx"]).code(2);
    assert_eq!(files(folder.path()), ["m.onnx"]);
}

#[test]
fn explain_tells_of_every_anchor_and_of_one_node() {
    let m = model("deepseek_v3_fp8.onnx");
    let report = normfuse(["compile", s(&m), "--report", "json"]).code(0).json();
    let all = normfuse(["explain", s(&m)]).code(0);
    assert_eq!(all.stderr, "");
    for site in report["sites"].as_array().unwrap() {
        assert!(all.stdout.contains(site["anchor"].as_str().unwrap()), "{site}");
    }
    let site = report["sites"].as_array().unwrap().iter().find(|s| s["outcome"] == "fused").unwrap();
    let inner = site["replaced"][1].as_str().unwrap();
    let one = normfuse(["explain", s(&m), "--node", inner]).code(0);
    assert!(one.stdout.contains("fused by") && one.stdout.contains(site["op"].as_str().unwrap()), "{}", one.stdout);
    normfuse(["explain", s(&m), "--node", &format!("{inner}x")]).code(2).says(inner);
    let columns = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/fuse/scales_by_columns.nf");
    let told = normfuse(["explain", s(&columns)]).code(0).stdout;
    assert!(told.contains("cast f8e4m3fn; scales column-major\n"), "{told}");
}

#[test]
fn logs_go_to_standard_error_and_results_to_standard_output() {
    let m = model("llama_ts.onnx");
    let quiet = normfuse(["compile", s(&m), "--report", "json"]).code(0);
    let loud = normfuse(["-vv", "compile", s(&m), "--report", "json"]).code(0);
    assert_eq!(quiet.stdout, loud.stdout);
    assert!(quiet.stderr.is_empty() && loud.stderr.contains("DEBUG"), "{}", loud.stderr);
    normfuse(["compile", s(&m), "--log", "loud"]).code(2);
}

#[test]
fn help_names_the_exit_codes_and_bad_usage_is_exit_2() {
    for command in [vec!["--help"], vec!["compile", "--help"], vec!["verify", "--help"]] {
        let help = normfuse(&command).code(0).stdout;
        assert!(help.contains("1  a check failed") && help.contains("2  bad input or usage"), "{help}");
    }
    let m = model("llama_ts.onnx");
    for bad in [
        vec![],
        vec!["fuse"],
        vec!["compile"],
        vec!["compile", s(&m), "--report", "xml"],
        vec!["compile", s(&m), "--require", "norms=1"],
        vec!["compile", s(&m), "--copy-weights"],
        vec!["run", s(&m), "--device", "tpu"],
        vec!["run", s(&m), "--dim", "seq=0"],
        vec!["verify", s(&m)],
    ] {
        let done = normfuse(&bad).code(2);
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{bad:?}");
    }
}

/// What a GPU is needed for says so where there is none, after everything else was checked.
#[test]
fn bench_and_tune_say_what_they_lack() {
    let list = normfuse(["bench", "--op", "list"]).code(0).stdout;
    assert!(list.lines().any(|l| l == "add+rms_norm+fp8_group128"), "{list}");
    normfuse(["bench"]).code(2).says("MODEL");
    normfuse(["bench", "--op", "rms"]).code(2).says("found `rms`").says("rms_norm+fp8_token");
    normfuse(["bench", "--op", "rms_norm", "--dim", "k=4"]).code(2).says("found `k=4`");
    normfuse(["bench", "--op", "rms_norm+mxfp8", "--dim", "n=40"]).code(2).says("groups of 32");
    normfuse(["bench", "--op", "rms_norm", "--replays", "0"]).code(2).says("--replays");
    let temp = tempfile::tempdir().unwrap();
    let table = temp.path().join("table.txt");
    std::fs::write(&table, "# a comment\nnorm 4096 1 48 1 late load 1.5\n").unwrap();
    let bad = normfuse(["bench", "--op", "rms_norm", "--regimes", s(&table)]).code(2);
    bad.says("table.txt: line 2 of a table of regimes").says("found 48 x 1");
    // No GPU is opened by a number that none has.
    let missing = temp.path().join("out.txt");
    for command in [vec!["bench", "--op", "rms_norm"], vec!["tune", "--output", s(&missing)]] {
        let done = normfuse([&command[..], &["--gpu", "99"]].concat()).code(2);
        assert!(done.stderr.contains("no CUDA driver") || done.stderr.contains("opening GPU 99"), "{}", done.stderr);
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "no table was written");
    normfuse(["tune", "--output", "/nowhere/table.txt"]).code(2).says("/nowhere/table.txt");
}

#[test]
fn explain_shows_the_chain_from_the_source_to_the_recognised_term() {
    for name in ["add_rms", "rms_one_plus_weight"] {
        let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/in/fuse/{name}.nf"));
        let explain = || normfuse(["explain", s(&graph)]).code(0).stdout;
        let text = explain();
        assert_eq!(text, explain(), "{name}: the same every time");
        insta::assert_snapshot!(format!("explain_{name}"), text);
    }
    // It is nothing that a report has unless somebody asks.
    let m = model("llama_ts.onnx");
    let report = normfuse(["compile", s(&m), "--report", "json"]).code(0).json();
    assert!(report["sites"].as_array().unwrap().iter().all(|site| site.get("path").is_none()));
}

/// What a GPU would run is planned without one.
#[test]
fn plan_lists_steps_and_memory() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/fuse/quant_token.nf");
    let text = normfuse(["plan", s(&model), "--dim", "batch=1", "--dim", "seq=8"]).code(0).stdout;
    insta::assert_snapshot!(text);
    let json = normfuse(["plan", s(&model), "--dim", "batch=1", "--dim", "seq=8", "--json"]).code(0).json();
    assert_eq!(json["steps"].as_array().unwrap().len(), text.lines().count() - 2);
    assert!(json["arena"].as_u64() >= json["arena_lower_bound"].as_u64());
    normfuse(["plan", s(&model)]).code(2).says("--dim batch=N --dim seq=N");
    normfuse(["plan", s(&model), "--dim", "sea=1"]).code(2).says("batch, seq");
    let taken = normfuse(["plan", s(&model), "--inputs"]).code(0).stdout;
    assert!(taken.contains("--dim batch=N\n--dim seq=N\n"), "{taken}");
    let taken = normfuse(["plan", s(&model), "--inputs", "--json"]).code(0).json();
    let named = |list: &str| taken[list].as_array().unwrap().iter().map(|i| i["name"].clone()).collect::<Vec<_>>();
    assert_eq!((named("inputs").len(), named("dims")), (1, vec!["batch".into(), "seq".into()]), "{taken}");
    assert_eq!(taken["inputs"][0]["shape"], serde_json::json!(["batch", "seq", 256]), "{taken}");
}

/// A model is timed before and after fusion, on the CPU where nothing else is said.
#[test]
fn bench_times_a_model() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/fuse/quant_token.nf");
    let text = normfuse(["bench", s(&model), "--dim", "batch=1", "--dim", "seq=8", "--replays", "2"]).code(0).stdout;
    for said in ["fused 1 norm_quant", "whole", "reduce_mean", "fused_norm", "times as fast"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let json = ["bench", s(&model), "--dim", "batch=1", "--dim", "seq=8", "--replays", "2", "--json"];
    let json = normfuse(json).code(0).json();
    let steps = |form: usize, kind: &str| json["forms"][form]["kinds"][kind]["steps"].as_u64().unwrap();
    let [source, apart, fused] = [0, 1, 2].map(|form| steps(form, "fusible"));
    assert!(source > apart && (apart, fused) == (2, 1), "{json}");
    assert_eq!(json["forms"][1]["form"], "apart");
    // All forms are relaxed alike.
    let scaled = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/scaled/norm_then_product.nf");
    let sizes = ["--dim", "batch=1", "--dim", "seq=2", "--replays", "1", "--json"];
    let relaxed =
        normfuse([&["bench", s(&scaled), "--relax", "scaled-matmul"], sizes.as_slice()].concat()).code(0).json();
    let op = |form: &serde_json::Value| form["ops"].as_array().unwrap().iter().any(|op| op["op"] == "scaled_matmul");
    assert!(relaxed["forms"].as_array().unwrap().iter().all(op), "{relaxed}");
    normfuse(["bench", s(&model), "--relax", "speed"]).code(2).says("possible values: single-rounding");
    normfuse(["bench", s(&model), "--op", "rms_norm"]).code(2).says("cannot be used with");
    // No GPU is opened by a number that none has.
    for command in ["run", "bench"] {
        let done = normfuse([command, s(&model), "--dim", "batch=1", "--dim", "seq=8", "--device", "cuda:99"]).code(2);
        assert!(done.stderr.contains("no CUDA driver") || done.stderr.contains("opening GPU 99"), "{}", done.stderr);
    }
}
