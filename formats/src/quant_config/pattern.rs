//! Which layers a list names: by module, by class, or by a regular expression.

use regex::Regex;

use super::unknown;
use crate::error::Result;

/// An entry of a list.
#[derive(Debug)]
pub enum Pattern {
    /// A class, by the last part of its name.
    Class(String),
    /// A module: this one, or one of that name in a wrapper.
    Module(String),
    /// A module whose name begins with a match.
    Regex(Regex),
}

impl Pattern {
    /// An entry as compressed-tensors has it: a class or a module, or `re:` and a regular expression that matches the
    /// beginning of the module's name, as Python's `re.match` does.
    ///
    /// # Errors
    /// An expression that is none, or one with what only Python has.
    pub fn target(field: &str, entry: &str) -> Result<Self> {
        let Some(expression) = entry.strip_prefix("re:") else {
            // Modules are instances of classes, and those begin with a capital.
            let class = !entry.contains('.') && entry.starts_with(|c: char| c.is_ascii_uppercase());
            return Ok(if class { Self::Class(entry.to_owned()) } else { Self::Module(entry.to_owned()) });
        };
        regex(field, &format!("^(?:{expression})")).map(Self::Regex)
    }

    /// An entry of `modules_to_not_convert`: a module and all inside it, with or without the wrappers around it; transformers
    /// reads it as a regular expression.
    ///
    /// # Errors
    /// An expression that is none.
    pub fn module(field: &str, entry: &str) -> Result<Self> {
        regex(field, &format!(r"^(?:.*\.)?(?:{entry})(?:\.|$)")).map(Self::Regex)
    }

    /// True if it names a module.
    pub fn matches(&self, module: &str, class: Option<&str>) -> bool {
        match self {
            Self::Class(name) => class.map_or("Linear", |c| c.rsplit('.').next().unwrap_or(c)) == name,
            Self::Module(name) => {
                module.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
            Self::Regex(regex) => regex.is_match(module),
        }
    }
}

fn regex(field: &str, expression: &str) -> Result<Regex> {
    Regex::new(expression).map_err(|e| {
        let found = e.to_string();
        unknown(field, "a regular expression", found.lines().last().unwrap_or_default().trim())
    })
}
