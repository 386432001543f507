//! Switches: which rules are on, and who says so. A master, a variable a rule, deprecated variables that people still
//! export, and the flags of a command line. This file has the table and the order of precedence; whoever calls reads the
//! environment and hands it over as pairs.
//!
//! For each rule the first of these that was set decides:
//! 1. a flag ([`DISABLE`], [`ENABLE`]);
//! 2. the rule's own variable ([`variable`]);
//! 3. a deprecated variable: those of single rules before that of the master, and of two that disagree the one that says
//!    off;
//! 4. [`MASTER`];
//! 5. the default: on.

pub mod near;

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};

use crate::rules;

/// The variable that switches every rule.
pub const MASTER: &str = "NORMFUSE_RMSNORM_QUANT_FUSION";

/// The flag that switches a rule off.
pub const DISABLE: &str = "--disable";

/// The flag that switches a rule on.
pub const ENABLE: &str = "--enable";

/// What every variable of ours begins with.
const PREFIX: &str = "NORMFUSE_";

/// The values that a variable may have, in lower case, and what they say.
pub const VALUES: [(&str, bool); 6] =
    [("1", true), ("true", true), ("on", true), ("0", false), ("false", false), ("off", false)];

/// What a deprecated variable switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every rule, as [`MASTER`] does.
    All,
    /// The rules that recognise quantisers: those whose names begin with `quant_`.
    Quantisers,
    /// One rule. While there is none of that name, nothing answers to the variable, and no rule of a host's may have it.
    Rule(&'static str),
}

impl Scope {
    /// True if the rule of this name is switched.
    pub fn covers(self, rule: &str) -> bool {
        match self {
            Self::All => true,
            Self::Quantisers => rule.starts_with("quant_"),
            Self::Rule(name) => rule == name,
        }
    }
}

/// A variable that is still read and should no longer be used.
#[derive(Debug, Clone, Copy)]
pub struct Deprecated {
    /// Its name.
    pub variable: &'static str,
    /// What it switches here.
    pub scope: Scope,
    /// What it switched in the engine that it comes from.
    pub meant: &'static str,
}

/// Every deprecated variable. They switched places of single models; rules do not know models, so each of them switches
/// the rules that did the work there, wherever they match.
pub const DEPRECATED: [Deprecated; 7] = [
    Deprecated {
        variable: "ATOM_ENABLE_RMSNORM_QUANT_FUSION",
        scope: Scope::All,
        meant: "every fusion of an RMSNorm with its quantisers",
    },
    Deprecated {
        variable: "ATOM_ENABLE_DS_INPUT_RMSNORM_QUANT_FUSION",
        scope: Scope::Quantisers,
        meant: "DeepSeek's input norm (add, norm, quantiser)",
    },
    Deprecated {
        variable: "ATOM_ENABLE_DS_QKNORM_QUANT_FUSION",
        scope: Scope::Rule("sibling_norm"),
        meant: "DeepSeek's dual norm of q_a and kv_a",
    },
    Deprecated {
        variable: "ATOM_LLAMA_ENABLE_AITER_TRITON_FUSED_RMSNORM_QUANT",
        scope: Scope::Quantisers,
        meant: "Llama's norms (add, norm, quantiser)",
    },
    Deprecated {
        variable: "ATOM_LLAMA_ENABLE_AITER_TRITON_FUSED_SILU_MUL_QUANT",
        scope: Scope::Rule("gated_act"),
        meant: "Llama's gated activation and its quantiser",
    },
    Deprecated {
        variable: "ATOM_ENABLE_QK_NORM_ROPE_CACHE_QUANT_FUSION",
        scope: Scope::Rule("qk_norm_rope"),
        meant: "norms of heads, RoPE and the write to the cache",
    },
    Deprecated {
        variable: "ATOM_ENABLE_ALLREDUCE_RMSNORM_FUSION",
        scope: Scope::Rule("all_reduce"),
        meant: "the all-reduce before a norm",
    },
];

/// The variable that switches a rule.
pub fn variable(rule: &str) -> String {
    format!("{PREFIX}{}", rule.to_ascii_uppercase())
}

/// True for a name that a rule of a host's must not have: a variable means something else by it, or will.
pub fn is_reserved(rule: &str) -> bool {
    variable(rule) == MASTER || DEPRECATED.iter().any(|d| matches!(d.scope, Scope::Rule(name) if name == rule))
}

/// A switch that somebody set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The flag or variable.
    pub by: String,
    /// What it says.
    pub on: bool,
    /// The rules that it decides; others of its rules were decided by something that comes first.
    pub decides: Vec<String>,
}

/// Which rules are off, and everything that was said about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolution {
    /// Rules that are off, each with the flag or variable that says so.
    pub disabled: BTreeMap<String, String>,
    /// Every switch that was set, in order of precedence.
    pub settings: Vec<Setting>,
    /// One sentence a deprecated variable, and one a variable that looks like a switch of ours and is none.
    pub warnings: Vec<String>,
}

/// A switch that says nothing, or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// A flag names a rule that does not exist.
    #[error("{flag} {rule}: no such rule; rules: {known}")]
    UnknownRule {
        /// The flag.
        flag: &'static str,
        /// What it names.
        rule: String,
        /// The rules that exist.
        known: String,
    },
    /// The flags say both.
    #[error("{DISABLE} {rule} and {ENABLE} {rule}: use one of them")]
    Contradiction {
        /// The rule.
        rule: String,
    },
    /// A variable has none of the [`VALUES`].
    #[error("{variable}: found `{found}`, expected 1, true, on, 0, false or off")]
    Value {
        /// The variable.
        variable: String,
        /// Its value.
        found: String,
    },
}

/// Decides which rules are off, from the flags of a command line (names of rules) and the environment as pairs of name
/// and value; pairs that are no switches are passed over.
///
/// # Errors
/// A flag that names no rule, a rule that is switched both ways by flags, a variable with another value than
/// [`VALUES`]; the latter also where something that comes first decides.
pub fn resolve(
    disable: &[String],
    enable: &[String],
    environment: &[(String, String)],
) -> Result<Resolution, SwitchError> {
    let known: Vec<&str> = rules::ALL.iter().map(|r| r.name).collect();
    resolve_among(&known, disable, enable, environment)
}

/// [`resolve`] for a list of rules.
fn resolve_among(
    known: &[&str],
    disable: &[String],
    enable: &[String],
    environment: &[(String, String)],
) -> Result<Resolution, SwitchError> {
    for (flag, names) in [(DISABLE, disable), (ENABLE, enable)] {
        if let Some(rule) = names.iter().find(|n| !known.contains(&n.as_str())) {
            return Err(SwitchError::UnknownRule { flag, rule: rule.clone(), known: known.join(", ") });
        }
    }
    if let Some(rule) = disable.iter().find(|r| enable.contains(r)) {
        return Err(SwitchError::Contradiction { rule: rule.clone() });
    }
    let environment: BTreeMap<&str, &str> = environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let set = |variable: &str| environment.get(variable).map(|found| value(variable, found)).transpose();

    // Everything that was set, first what comes first: by whom, what it says, and for which rules.
    let mut said: Vec<(Setting, Vec<&str>)> = Vec::new();
    let mut say = |by: &str, on: bool, rules: Vec<&'_ str>| {
        let setting = Setting { by: by.to_owned(), on, decides: Vec::new() };
        said.push((setting, known.iter().copied().filter(|k| rules.contains(k)).collect()));
    };
    for (flag, on, names) in [(DISABLE, false, disable), (ENABLE, true, enable)] {
        if !names.is_empty() {
            say(flag, on, names.iter().map(String::as_str).collect());
        }
    }
    for rule in known {
        if let Some(on) = set(&variable(rule))? {
            say(&variable(rule), on, vec![*rule]);
        }
    }
    let mut deprecated: Vec<(bool, bool, &Deprecated)> = Vec::new();
    for d in &DEPRECATED {
        if let Some(on) = set(d.variable)? {
            deprecated.push((d.scope == Scope::All, on, d));
        }
    }
    // `false` sorts first: single rules before the master's name, off before on. The sort is stable.
    deprecated.sort_by_key(|(all, on, _)| (*all, *on));
    for (_, on, d) in &deprecated {
        say(d.variable, *on, covered(known, d.scope));
    }
    if let Some(on) = set(MASTER)? {
        say(MASTER, on, known.to_vec());
    }

    let mut resolution = Resolution::default();
    for rule in known {
        if let Some((setting, _)) = said.iter_mut().find(|(_, rules)| rules.contains(rule)) {
            setting.decides.push((*rule).to_owned());
            if !setting.on {
                resolution.disabled.insert((*rule).to_owned(), setting.by.clone());
            }
        }
    }
    resolution.warnings = deprecated.iter().map(|(.., d)| deprecation(known, d, &said)).collect();
    let switches: Vec<String> = known.iter().map(|r| variable(r)).chain([MASTER.to_owned()]).collect();
    let unknown = environment.keys().filter(|n| n.starts_with(PREFIX) && !switches.iter().any(|s| s == **n));
    resolution.warnings.extend(unknown.map(|name| {
        let near = near::nearest(name, switches.iter().map(String::as_str), 1).concat();
        format!(
            "{name} is no switch and changes nothing; the nearest one is {near}, and `normfuse rules` lists all of them"
        )
    }));
    resolution.settings = said.into_iter().map(|(setting, _)| setting).collect();
    Ok(resolution)
}

fn value(variable: &str, found: &str) -> Result<bool, SwitchError> {
    VALUES
        .iter()
        .find(|(text, _)| found.eq_ignore_ascii_case(text))
        .map(|(_, on)| *on)
        .ok_or_else(|| SwitchError::Value { variable: variable.to_owned(), found: found.to_owned() })
}

fn covered<'r>(known: &[&'r str], scope: Scope) -> Vec<&'r str> {
    known.iter().copied().filter(|r| scope.covers(r)).collect()
}

/// The variables to use in place of a deprecated one; empty while nothing answers to it.
pub fn replacements(deprecated: &Deprecated) -> Vec<String> {
    let known: Vec<&str> = rules::ALL.iter().map(|r| r.name).collect();
    replacements_among(&known, deprecated)
}

fn replacements_among(known: &[&str], deprecated: &Deprecated) -> Vec<String> {
    match deprecated.scope {
        Scope::All => vec![MASTER.to_owned()],
        scope => covered(known, scope).into_iter().map(variable).collect(),
    }
}

/// What there is to say about a deprecated variable that is set.
fn deprecation(known: &[&str], deprecated: &Deprecated, said: &[(Setting, Vec<&str>)]) -> String {
    let name = deprecated.variable;
    let instead = replacements_among(known, deprecated);
    if instead.is_empty() {
        return format!("{name} is deprecated, and no rule answers to it yet: it changes nothing");
    }
    let mut text = format!("{name} is deprecated: use {}", instead.join(", "));
    // Whoever comes after it and says otherwise of a rule that it decides.
    let mut later = said.iter().skip_while(|(s, _)| s.by != name);
    if let Some((own, _)) = later.next() {
        let overridden: Vec<&str> = later
            .filter(|(s, rules)| s.on != own.on && rules.iter().any(|r| own.decides.iter().any(|d| d == r)))
            .map(|(s, _)| s.by.as_str())
            .collect();
        if !overridden.is_empty() {
            let _ = write!(text, "; it overrides {}, which says otherwise", overridden.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests;
