//! Switches as users set them: flags and variables, what the report says of them, and `normfuse rules`.

mod common;

use std::path::{Path, PathBuf};

use common::{Done, model, normfuse, normfuse_with, s};
use normfuse::passes::{
    rules,
    switches::{DEPRECATED, MASTER, variable},
};
use serde_json::{Value, json};

fn deepseek() -> PathBuf {
    model("deepseek_v3_fp8.onnx")
}

/// Compiles under variables and flags; the report as JSON.
fn compile(variables: &[(&str, &str)], flags: &[&str]) -> (Done, Value) {
    let m = deepseek();
    let args: Vec<&str> = ["compile", s(&m), "--report", "json"].into_iter().chain(flags.iter().copied()).collect();
    let done = normfuse_with(variables, args).code(0);
    let report = done.json();
    (done, report)
}

/// The entry of a rule in a report's list.
fn rule<'r>(report: &'r Value, name: &str) -> &'r Value {
    report["rules"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap()
}

#[test]
fn the_report_counts_the_fused_sites_of_each_rule() {
    let (done, report) = compile(&[], &[]);
    assert_eq!(done.stderr, "");
    assert_eq!(report["switches"], json!([]));
    for (name, matched) in
        [("rms_norm", 5), ("residual_add", 2), ("quant_group", 4), ("quant_token", 0), ("dequantise", 2)]
    {
        assert_eq!(
            *rule(&report, name),
            json!({ "name": name, "on": true, "why_off": null, "matched": matched }),
            "{name}"
        );
    }
    let text = normfuse(["compile", s(&deepseek())]).code(0).stdout;
    assert!(
        text.contains(
            "unmatched     gated_act, quant_static, quant_tensor, quant_token, quant_mx, quant_nvfp4, padded_norm (on, and in no fused op)"
        ),
        "{text}"
    );
}

#[test]
fn the_report_says_what_switched_a_rule_off() {
    let m = deepseek();
    for (variables, flags, why) in [
        (vec![("NORMFUSE_QUANT_GROUP", "off")], vec![], "NORMFUSE_QUANT_GROUP"),
        (vec![], vec!["--disable", "quant_group"], "--disable"),
        (vec![("NORMFUSE_QUANT_GROUP", "1")], vec!["--disable", "quant_group"], "--disable"),
    ] {
        let (_, report) = compile(&variables, &flags);
        assert_eq!(
            report["summary"]["fused"],
            json!({ "norm": 5, "norm_quant": 0, "sibling_norm": 1, "gated_act": 0, "quant": 0 })
        );
        let group = rule(&report, "quant_group");
        assert_eq!((&group["on"], &group["why_off"], &group["matched"]), (&json!(false), &json!(why), &json!(0)));
        let rejected: Vec<&Value> =
            report["sites"].as_array().unwrap().iter().filter(|s| s["outcome"] != "fused").collect();
        assert_eq!(rejected.len(), 4);
        for site in rejected {
            assert_eq!(
                (&site["rule"], &site["precondition"]),
                (&json!("quant_group"), &json!("switched_on")),
                "{site}"
            );
            assert_eq!(site["hint"], format!("the rule is switched off by {why}"));
        }
        let args: Vec<&str> = ["compile", s(&m)].into_iter().chain(flags).collect();
        let text = normfuse_with(&variables, args).code(0).stdout;
        assert!(text.contains(&format!("off         quant_group (by {why})")), "{text}");
    }
}

#[test]
fn the_master_switches_everything_and_what_is_more_special_decides() {
    let (_, off) = compile(&[(MASTER, "0")], &[]);
    assert_eq!(off["summary"]["nodes_before"], off["summary"]["nodes_after"]);
    // What it is stays known, and why it did not fuse.
    assert_eq!((&off["summary"]["norms"], &off["summary"]["quants"]), (&json!(5), &json!(4)));
    let sites = off["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 9);
    for site in sites {
        assert_eq!(site["precondition"], "switched_on", "{site}");
        assert_eq!(site["hint"], format!("the rule is switched off by {MASTER}"));
    }
    let all: Vec<&str> = off["rules"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(off["switches"], json!([{ "by": MASTER, "on": false, "decides": all }]));

    // The rule's variable over the master, and the flag over both.
    let variables = [(MASTER, "0"), ("NORMFUSE_RMS_NORM", "TRUE")];
    let (_, norms) = compile(&variables, &[]);
    assert_eq!(
        norms["summary"]["fused"],
        json!({ "norm": 5, "norm_quant": 0, "sibling_norm": 0, "gated_act": 0, "quant": 0 })
    );
    let (_, both) = compile(&variables, &["--enable", "quant_group"]);
    assert_eq!(both["summary"]["fused"]["norm_quant"], 4);
    assert_eq!(both["switches"][0], json!({ "by": "--enable", "on": true, "decides": ["quant_group"] }));
}

#[test]
fn a_norm_that_is_none_is_told_apart_from_one_that_is_switched_off() {
    let lookalike = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/in/reject/layer_norm.nf");
    let told = |flags: &[&str]| {
        let args: Vec<&str> = ["explain", s(&lookalike)].into_iter().chain(flags.iter().copied()).collect();
        normfuse(args).code(0).stdout
    };
    assert!(told(&[]).contains("not_centred fails"));
    assert_eq!(told(&[]), told(&["--disable", "rms_norm"]));
}

#[test]
fn deprecated_variables_work_and_warn_once() {
    let alias = "ATOM_ENABLE_RMSNORM_QUANT_FUSION";
    for (master, old) in [("1", "0"), ("0", "1")] {
        let (done, report) = compile(&[(MASTER, master), (alias, old)], &[]);
        assert_eq!(report["summary"]["fused"]["norm_quant"], if old == "1" { 4 } else { 0 });
        assert_eq!(
            done.stderr,
            format!("warning: {alias} is deprecated: use {MASTER}; it overrides {MASTER}, which says otherwise\n")
        );
    }
    let all: Vec<(&str, &str)> = DEPRECATED.iter().map(|d| (d.variable, "on")).collect();
    let m = deepseek();
    for args in [vec!["compile", s(&m)], vec!["explain", s(&m)], vec!["rules"]] {
        let done = normfuse_with(&all, args).code(0);
        assert_eq!(done.stderr.lines().count(), 7, "{}", done.stderr);
        for (name, _) in &all {
            assert_eq!(done.stderr.matches(&format!("{name} is deprecated")).count(), 1, "{}", done.stderr);
        }
    }
    // What does not run the pass does not speak of its switches.
    assert_eq!(normfuse_with(&all, ["verify", s(&m), s(&m)]).code(0).stderr, "");
}

#[test]
fn switches_that_say_nothing_are_errors() {
    let m = deepseek();
    for (variable, value) in
        [(MASTER, "yes"), ("NORMFUSE_QUANT_TOKEN", ""), ("ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION", "2")]
    {
        let done = normfuse_with(&[(variable, value)], ["compile", s(&m)]).code(2);
        assert_eq!(done.stderr, format!("error: {variable}: found `{value}`, expected 1, true, on, 0, false or off\n"));
        assert_eq!(done.stdout, "");
    }
    normfuse(["compile", s(&m), "--enable", "rms"]).code(2).says("--enable rms: no such rule; rules: ");
    normfuse(["explain", s(&m), "--disable", "rms"]).code(2).says("--disable rms: no such rule; rules: ");
    normfuse(["compile", s(&m), "--enable", "rms_norm", "--disable", "rms_norm"]).code(2).says("use one of them");
}

#[test]
fn rules_are_listed_with_their_state() {
    let variables = [("NORMFUSE_QUANT_STATIC", "0")];
    let text = normfuse_with(&variables, ["rules", "--disable", "rms_norm"]).code(0).stdout;
    for part in [
        "rms_norm (off, by --disable)\n  A row divided",
        "quant_static (off, by NORMFUSE_QUANT_STATIC)",
        "quant_group (on)",
        "  switch: NORMFUSE_QUANT_GROUP\n",
        "    no_escape: ",
        "what compile --relax allows: single-rounding, scaled-matmul\n",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let listed = normfuse_with(&variables, ["rules", "--report", "json"]).code(0).json();
    assert_eq!(listed["master"], MASTER);
    assert_eq!(listed["relaxations"], json!(["single-rounding", "scaled-matmul"]));
    let of = |name: &str| listed["rules"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone();
    let quant = of("quant_static");
    assert_eq!((&quant["on"], &quant["why_off"]), (&json!(false), &json!("NORMFUSE_QUANT_STATIC")));
    let norm = of("rms_norm");
    assert_eq!(
        (&norm["on"], &norm["why_off"], &norm["switch"]),
        (&json!(true), &json!(null), &json!("NORMFUSE_RMS_NORM"))
    );
    assert!(norm["picture"].as_str().unwrap().contains("sqrt"));
    for p in norm["preconditions"].as_array().unwrap() {
        assert!(!p["name"].as_str().unwrap().contains(' ') && !p["holds_if"].as_str().unwrap().is_empty(), "{p}");
    }
}

#[test]
fn the_page_of_variables_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/environment_variables.md");
    let page = std::fs::read_to_string(path).unwrap();
    // Whatever is on here: the page is about the switches, not about this machine.
    let made = normfuse_with(&[(MASTER, "0")], ["rules", "--markdown"]).code(0).stdout;
    assert!(page == made, "run: normfuse rules --markdown > docs/environment_variables.md");
    for d in &DEPRECATED {
        assert!(page.contains(d.variable), "{}", d.variable);
    }
}

#[test]
fn the_page_of_fusions_says_what_the_rules_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fusions.md");
    let page = std::fs::read_to_string(path).unwrap();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    assert_eq!(sections.len(), rules::ALL.len());
    for rule in rules::ALL {
        let name = rule.name;
        let section = sections.iter().find(|s| s.starts_with(&format!("`{name}`\n"))).expect(name);
        assert!(section.contains(rule.picture), "{name}: another picture than {}", rule.picture);
        for precondition in rule.preconditions {
            assert!(section.contains(&format!("\n- {precondition}\n")), "{name}: no `{precondition}`");
        }
        assert_eq!(section.matches("\n- ").count(), rule.preconditions.len(), "{name}: other preconditions");
        assert!(section.contains(&variable(name)), "{name}: no switch");
    }
}

#[test]
fn an_unmet_requirement_lists_the_sites_that_missed_it() {
    let m = deepseek();
    let stderr = |flags: &[&str]| {
        let args: Vec<&str> = ["compile", s(&m)].into_iter().chain(flags.iter().copied()).collect();
        normfuse(args).code(1).stderr
    };
    assert_eq!(
        stderr(&["--require", "norm_quant=8"]),
        "error: check failed: --require norm_quant=8: found 4; sites that did not:\n  \
         node_mean_4 (norm): fused by residual_add into fused_norm/node_mean_4: no quantiser reads it with nothing between\n"
    );
    // A reason, a precondition and a hint for what did not fuse at all.
    let off = stderr(&["--require", "norm_quant=8", "--disable", "quant_group"]);
    let quants = off.lines().filter(|l| {
        l.contains(" (quant): rejected by quant_group: switched_on fails at ")
            && l.ends_with("is switched off by --disable")
    });
    assert_eq!(quants.count(), 4, "{off}");
    // Too many is also unmet, and each requirement has its own list.
    let two = stderr(&["--require", "norm_quant=3", "--require", "norm=2", "--require", "norm>=1"]);
    let (many, few) = two.split_once("--require norm=2: found 1; sites that did not:").expect("the second");
    assert_eq!(many.matches("(norm_quant): fused by quant_group").count(), 4, "{two}");
    assert_eq!(few.matches("(norm_quant): fused by quant_group").count(), 4, "{two}");
    assert!(!two.contains("norm>=1"));
}

/// `NORMFUSE_NVRTC` names a library, `NORMFUSE_CUDA_CACHE` a folder: they are no switches, and no misspelt ones.
#[test]
fn a_variable_of_the_runtime_is_not_taken_for_a_switch() {
    let (done, _) = compile(&[("NORMFUSE_NVRTC", "/nowhere"), ("NORMFUSE_CUDA_CACHE", "/nowhere")], &[]);
    assert_eq!(done.stderr, "");
    let (done, _) = compile(&[("NORMFUSE_NVRT", "/nowhere")], &[]);
    assert!(done.stderr.contains("NORMFUSE_NVRT is no switch"), "{}", done.stderr);
}
