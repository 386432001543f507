//! `normfuse rules`: what there is to recognise, what is switched on, and what may be relaxed.

use std::fmt::Write;

use normfuse::passes::{
    Relaxation,
    rules::{self, Rule},
    switches::{self, DEPRECATED, MASTER, Resolution, Setting},
};
use serde::Serialize;

use super::{args, failure::Result, output, switches as cli_switches};

pub fn main(args: &args::Rules) -> Result<()> {
    if args.markdown {
        return output::print(&markdown());
    }
    let switches = cli_switches::read(&args.switches)?;
    match args.report {
        args::ReportForm::Text => output::print(&text(&switches)),
        args::ReportForm::Json => output::print(&json(&switches)),
    }
}

/// A precondition is written `name: what must hold`.
fn precondition(text: &'static str) -> (&'static str, &'static str) {
    text.split_once(": ").unwrap_or((text, ""))
}

fn text(switches: &Resolution) -> String {
    let mut text = String::new();
    for rule in rules::ALL {
        let state = switches.disabled.get(rule.name).map_or("on".into(), |why| format!("off, by {why}"));
        let _ = writeln!(text, "{} ({state})\n  {}", rule.name, rule.summary);
        for line in rule.picture.trim_matches('\n').lines() {
            let _ = writeln!(text, "{}", format!("    {line}").trim_end());
        }
        let _ = writeln!(text, "  switch: {}", switches::variable(rule.name));
        let _ = writeln!(text, "  preconditions:");
        for p in rule.preconditions {
            let _ = writeln!(text, "    {p}");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "all of them: {MASTER}; see docs/environment_variables.md");
    let _ = writeln!(text, "what compile --relax allows: {}", Relaxation::ALL.map(Relaxation::name).join(", "));
    text
}

/// The list; field order is the order of the JSON object's keys.
#[derive(Serialize)]
struct Document<'a> {
    master: &'static str,
    rules: Vec<Entry<'a>>,
    switches: &'a [Setting],
    /// What `--relax` takes.
    relaxations: [&'static str; Relaxation::ALL.len()],
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'static str,
    summary: &'static str,
    picture: &'static str,
    preconditions: Vec<Precondition>,
    switch: String,
    on: bool,
    why_off: Option<&'a str>,
}

#[derive(Serialize)]
struct Precondition {
    name: &'static str,
    holds_if: &'static str,
}

fn json(switches: &Resolution) -> String {
    let entry = |rule: &&'static Rule| {
        let why_off = switches.disabled.get(rule.name).map(String::as_str);
        let preconditions = rule.preconditions.iter().map(|p| precondition(p));
        Entry {
            name: rule.name,
            summary: rule.summary,
            picture: rule.picture.trim_matches('\n'),
            preconditions: preconditions.map(|(name, holds_if)| Precondition { name, holds_if }).collect(),
            switch: switches::variable(rule.name),
            on: why_off.is_none(),
            why_off,
        }
    };
    let document = Document {
        master: MASTER,
        rules: rules::ALL.iter().map(entry).collect(),
        switches: &switches.settings,
        relaxations: Relaxation::ALL.map(Relaxation::name),
    };
    // Every field is a string, a truth value or a list of them: there is nothing that JSON cannot say.
    serde_json::to_string(&document).unwrap_or_default() + "\n"
}

/// `docs/environment_variables.md`.
fn markdown() -> String {
    let mut text = String::from(
        "# Environment variables

<!-- Made by `normfuse rules --markdown`; a test fails when it is not up to date. -->

Each rule of the pass has a switch; all are on unless something switches them off. `normfuse rules` shows what is on now and
who says so, and every report lists the switches that were set.

Accepted values, in upper or lower case: `1`, `true`, `on` and `0`, `false`, `off`. Anything else is an error (exit code 2), and
so is a variable that is set to nothing. Any other variable whose name begins with `NORMFUSE_` changes nothing, and a warning on
standard error names the switch whose name is nearest to it.

For each rule the first of these that is set decides:

1. the flags `--disable RULE` and `--enable RULE`;
2. the rule's own variable;
3. a deprecated variable: those of single rules before that of the master, and of two that disagree the one that says off;
4. the master;
5. the default: on.

## The master

",
    );
    let _ = writeln!(text, "| variable | what it switches |\n|---|---|\n| `{MASTER}` | every rule |");
    let _ = writeln!(text, "\n## The rules\n\n| variable | rule | what it does |\n|---|---|---|");
    for rule in rules::ALL {
        let _ = writeln!(text, "| `{}` | `{}` | {} |", switches::variable(rule.name), rule.name, rule.summary);
    }
    text.push_str(
        "
## Deprecated names

They are still read, and each warns once on standard error. They switched places of single models; rules do not know models, so
each of them switches the rules that did the work there, wherever they match.

| variable | what it switched | use instead |
|---|---|---|
",
    );
    for d in &DEPRECATED {
        let instead: Vec<String> = switches::replacements(d).iter().map(|v| format!("`{v}`")).collect();
        let instead = if instead.is_empty() {
            "nothing answers to it yet: it is accepted and changes nothing".into()
        } else {
            instead.join(", ")
        };
        let _ = writeln!(text, "| `{}` | {} | {instead} |", d.variable, d.meant);
    }
    text.push_str(
        "
## Of the GPU

These switch no rule, and are read where kernels are compiled.

| variable | what it says |
|---|---|
| `NORMFUSE_NVRTC` | the library that compiles kernels, or the folder that has it |
| `NORMFUSE_CUBLASLT` | the library that multiplies matrices on a GPU, or the folder that has it |
| `NORMFUSE_CUDA_CACHE` | the folder of compiled kernels, or `off`; else `normfuse` under `XDG_CACHE_HOME`, or under `~/.cache` |
",
    );
    text
}
