//! `normfuse test` and the snapshots it keeps: what they depend on, what they do not, and what is written when.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Done, files, model, normfuse, shuffle};
use normfuse::{
    ir::{Graph, body::hostile::Rng, text},
    passes::{self, Options},
    testing,
};

/// Two independent norms of one input, in the order and under the names that are given.
fn two_norms(first: &str, names: [&str; 2], weight: &str) -> String {
    let norm = |w: &str, y: &str| {
        format!(
            "%{y}_sq = mul(%x, %x)\n%{y}_ms = reduce_mean(%{y}_sq) {{axes=[-1], keepdims=true}}\n\
             %{y}_ve = add(%{y}_ms, %eps_of_{y})\n%{y}_rt = sqrt(%{y}_ve)\n%{y}_r = reciprocal(%{y}_rt)\n\
             %{y}_n = mul(%x, %{y}_r)\n%{y} = mul(%{y}_n, %{w})\n"
        )
    };
    let [a, b] = names;
    let (na, nb) = (norm("w.a", a), norm("w.b", b));
    let norms = if first == "a" { na + &nb } else { nb + &na };
    format!(
        "graph \"{first}\"\nopset \"\" 20\nfield \"producer\" \"{first}\"\ninput %x: f32[rows, 8]\n\
         const %w.a: f32[8] = fill({weight})\nconst %w.b: f32[8] = fill({weight})\n\
         const %eps_of_{a}: f32[] = 1e-6\nconst %eps_of_{b}: f32[] = 1e-5\n{norms}\
         output %{a} as \"one\"\noutput %{b} as \"two\"\n"
    )
}

fn parse(source: &str) -> Graph {
    text::parse(source, &mut |w| panic!("{} is in another file", w.name)).unwrap_or_else(|e| panic!("{e}\n{source}"))
}

fn snapshot(source: &str) -> String {
    testing::snapshot(&parse(source), &Options::default()).unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let nested = dir.path().join("more");
    fs::create_dir(&nested).unwrap();
    fs::write(dir.path().join("a.nf"), two_norms("a", ["y", "z"], "1.0")).unwrap();
    fs::write(nested.join("b.nf"), two_norms("a", ["y", "z"], "1.0")).unwrap();
    let path = dir.path().to_path_buf();
    (dir, path)
}

fn test(folder: &Path, more: &[&str]) -> Done {
    let mut args = vec!["test", folder.to_str().unwrap()];
    args.extend(more);
    normfuse(args)
}

#[test]
fn names_order_metadata_and_weights_are_not_seen() {
    let one = snapshot(&two_norms("a", ["y", "z"], "1.0"));
    assert_eq!(one, snapshot(&two_norms("a", ["/model/y_3", "val_17"], "1.0")));
    assert_eq!(one, snapshot(&two_norms("b", ["p", "q"], "0.25")));
    // What it computes is: outputs the other way round, another eps.
    let text = two_norms("a", ["y", "z"], "1.0");
    assert_ne!(one, snapshot(&text.replace("1e-5", "1e-4")));
    assert_ne!(one, snapshot(&text.replace("output %y as", "output %z_n as")));
    assert!(one.contains("weight %w.a: f32[8]\n") && one.contains("as \"one\"\n"), "{one}");
}

#[test]
fn a_snapshot_shows_the_compilation_of_the_graph_itself() {
    let source = parse(include_str!("in/fuse/quant_group.nf"));
    let mut graph = source.clone();
    let report = normfuse::passes::run(&mut graph, &Options::default()).unwrap();
    let snapshot = testing::snapshot(&source, &Options::default()).unwrap();
    let s = &report.summary;
    assert!(snapshot.contains(&format!("nodes: {} before, {} after\n", s.nodes_before, s.nodes_after)), "{snapshot}");
    assert!(snapshot.contains(&format!("saves: {} launches", s.launches_saved)), "{snapshot}");
    let replaced = snapshot.lines().find_map(|l| l.strip_prefix("  replaces ")).unwrap();
    assert_eq!(replaced.split(", ").count(), report.sites[0].replaced.len());
}

#[test]
fn errors_speak_of_the_names_of_the_source() {
    let source =
        parse("graph \"g\"\nopset \"\" 20\ninput %x: f32[2]\ninput %i: i64[2]\n%mine = add(%x, %i)\noutput %mine\n");
    let error = testing::snapshot(&source, &Options::default()).unwrap_err();
    assert_eq!(error.node.as_deref(), Some("mine"), "{error}");
}

#[test]
fn update_writes_what_the_next_test_finds() {
    let (_keep, dir) = folder();
    let done = test(&dir, &[]).code(1).says("2 snapshots are not");
    assert!(done.stdout.contains("a.nf.snap") && done.stdout.ends_with("2 graphs: 0 equal, 2 missing\n"), "{done:?}");
    assert_eq!(files(&dir), ["a.nf", "more"]);
    let done = test(&dir, &["--update"]).code(0);
    assert!(done.stdout.contains("new: ") && done.stdout.ends_with("2 graphs: 0 equal, 2 new\n"), "{done:?}");
    assert_eq!(
        (files(&dir), files(&dir.join("more"))),
        (vec!["a.nf".into(), "a.nf.snap".into(), "more".into()], vec!["b.nf".into(), "b.nf.snap".into()])
    );
    let text = fs::read_to_string(dir.join("a.nf.snap")).unwrap();
    assert!(text.starts_with("fused norm at ") && !text.contains(dir.to_str().unwrap()), "{text}");
    assert_eq!(text, fs::read_to_string(dir.join("more/b.nf.snap")).unwrap());
    assert_eq!(test(&dir, &[]).code(0).stdout, "2 graphs: 2 equal\n");
    assert_eq!(test(&dir, &["--update"]).code(0).stdout, "2 graphs: 2 equal\n");
    // A checkout with other line ends is no difference.
    fs::write(dir.join("a.nf.snap"), text.replace('\n', "\r\n")).unwrap();
    test(&dir, &[]).code(0);
}

#[test]
fn what_differs_is_shown_as_a_unified_diff() {
    let (_keep, dir) = folder();
    test(&dir, &["--update"]).code(0);
    let before = fs::read_to_string(dir.join("a.nf.snap")).unwrap();
    let done = test(&dir, &["--disable", "rms_norm"]).code(1);
    for part in ["--- ", "a.nf.snap (pinned)", "+++ ", "@@ ", "\n-fused norm at", "\n+rejected norm at", "2 differ\n"] {
        assert!(done.stdout.contains(part), "no `{part}` in {}", done.stdout);
    }
    assert_eq!(before, fs::read_to_string(dir.join("a.nf.snap")).unwrap());
    let done = test(&dir, &["--disable", "rms_norm", "--update"]).code(0);
    assert!(done.stdout.contains("updated: ") && done.stdout.ends_with("2 updated\n"), "{done:?}");
    test(&dir, &["--disable", "rms_norm"]).code(0);
    test(&dir, &[]).code(1);
}

#[test]
fn a_snapshot_without_a_graph_is_orphaned() {
    let (_keep, dir) = folder();
    test(&dir, &["--update"]).code(0);
    fs::remove_file(dir.join("a.nf")).unwrap();
    // Another tool's snapshot, and a folder that is nobody's business.
    fs::write(dir.join("other.snap"), "").unwrap();
    fs::create_dir(dir.join(".cache")).unwrap();
    fs::write(dir.join(".cache/c.nf"), "no graph").unwrap();
    let done = test(&dir, &[]).code(1);
    assert!(done.stdout.contains("orphaned: ") && done.stdout.ends_with("1 graphs: 1 equal, 1 orphaned\n"), "{done:?}");
    let done = test(&dir, &["--update"]).code(0);
    assert!(done.stdout.contains("removed: "), "{done:?}");
    assert_eq!(files(&dir), [".cache", "more", "other.snap"]);
}

#[test]
fn bad_input_is_exit_2_and_writes_nothing() {
    let (_keep, dir) = folder();
    fs::write(dir.join("more/config.json"), "{\"hidden_size\": 8}").unwrap();
    fs::write(dir.join("more/list.json"), "[1, 2]").unwrap();
    test(&dir, &["--update"]).code(0);
    fs::remove_file(dir.join("a.nf.snap")).unwrap();
    for (name, text) in
        [("c.nf", "graph"), ("d.json", "{\"normfuse\": 1"), ("e.json", "{\"normfuse\": 7}"), ("f.onnx", "x")]
    {
        let bad = dir.join(name);
        fs::write(&bad, text).unwrap();
        let done = test(&dir, &["--update"]).code(2).says(name);
        assert!(done.stdout.is_empty(), "{done:?}");
        assert!(!dir.join("a.nf.snap").exists(), "{name}");
        // The others are compared all the same.
        assert!(test(&dir, &[]).code(2).stdout.contains("a.nf.snap"));
        fs::remove_file(bad).unwrap();
    }
    test(&dir, &["--disable", "rms"]).code(2).says("no such rule");
    test(&dir.join("nowhere"), &[]).code(2).says("nowhere");
    let empty = tempfile::tempdir().unwrap();
    test(empty.path(), &[]).code(2).says("no graph in it");
}

#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_others_as_they_were() {
    let (_keep, dir) = folder();
    test(&dir, &["--update"]).code(0);
    let old = fs::read_to_string(dir.join("a.nf.snap")).unwrap();
    fs::write(dir.join("a.nf.snap"), "old").unwrap();
    // A folder stands where the second snapshot goes.
    fs::remove_file(dir.join("more/b.nf.snap")).unwrap();
    fs::create_dir(dir.join("more/b.nf.snap")).unwrap();
    test(&dir, &["--update"]).code(2).says("b.nf.snap");
    assert_eq!(fs::read_to_string(dir.join("a.nf.snap")).unwrap(), "old");
    assert_eq!(files(&dir), ["a.nf", "a.nf.snap", "more"]);
    fs::remove_dir(dir.join("more/b.nf.snap")).unwrap();
    test(&dir, &["--update"]).code(0);
    assert_eq!(fs::read_to_string(dir.join("a.nf.snap")).unwrap(), old);
}

#[test]
fn the_models_here_compile_to_their_snapshots() {
    let folder = model("llama_ts.onnx");
    test(folder.parent().unwrap(), &[]).code(0);
}

#[test]
fn the_models_here_compile_to_one_result_in_any_order_of_nodes() {
    for name in ["deepseek_v3_fp8.onnx", "llama_native.onnx", "llama_ts.onnx"] {
        let source = normfuse::open(&model(name)).unwrap();
        let compiled = |mut graph: Graph| {
            let report = passes::run(&mut graph, &Options::default()).unwrap();
            (report, shuffle::lines(&graph))
        };
        let (one, pinned) = (compiled(source.clone()), testing::snapshot(&source, &Options::default()).unwrap());
        for seed in 0..5 {
            let other = shuffle::shuffled(&source, &mut Rng::new(seed));
            assert_eq!(testing::snapshot(&other, &Options::default()).unwrap(), pinned, "{name}, shuffle {seed}");
            assert!(compiled(other) == one, "{name}, shuffle {seed}: the order of nodes decides");
        }
    }
}
