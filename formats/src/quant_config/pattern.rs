//! Which layers a list names: by module, by class, or by a regular expression.

use regex::Regex;

use super::unknown;
use crate::error::Result;

/// An entry of a list.
#[derive(Debug)]
pub struct Pattern {
    /// As the list has it; `None` for what no list of the file has.
    pub entry: Option<String>,
    names: Names,
}

#[derive(Debug)]
enum Names {
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
            let names = if class { Names::Class(entry.to_owned()) } else { Names::Module(entry.to_owned()) };
            return Ok(Self { entry: Some(entry.to_owned()), names });
        };
        let names = Names::Regex(regex(field, entry, &format!("^(?:{expression})"))?);
        Ok(Self { entry: Some(entry.to_owned()), names })
    }

    /// All modules of a class, which no list of the file has.
    pub fn class(name: &str) -> Self {
        Self { entry: None, names: Names::Class(name.to_owned()) }
    }

    /// An entry of `modules_to_not_convert`: a module and all inside it, with or without the wrappers around it; transformers
    /// reads it as a regular expression.
    ///
    /// # Errors
    /// An expression that is none.
    pub fn module(field: &str, entry: &str) -> Result<Self> {
        let names = Names::Regex(regex(field, entry, &format!(r"^(?:.*\.)?(?:{entry})(?:\.|$)"))?);
        Ok(Self { entry: Some(entry.to_owned()), names })
    }

    /// The same, where no list of the file has it.
    pub fn implied(self) -> Self {
        Self { entry: None, ..self }
    }

    /// True if it names modules themselves and no class of them.
    pub fn is_of_modules(&self) -> bool {
        !matches!(self.names, Names::Class(_))
    }

    /// True if it names a module.
    pub fn matches(&self, module: &str, class: Option<&str>) -> bool {
        match &self.names {
            Names::Class(name) => class.map_or("Linear", |c| c.rsplit('.').next().unwrap_or(c)) == name,
            Names::Module(name) => {
                module.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
            Names::Regex(regex) => regex.is_match(module),
        }
    }
}

fn regex(field: &str, entry: &str, expression: &str) -> Result<Regex> {
    Regex::new(expression).map_err(|e| {
        let why = e.to_string();
        let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
        unknown(field, "modules by name or by a regular expression without look-around", format!("`{entry}`: {why}"))
    })
}
