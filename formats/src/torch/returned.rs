//! What the model's results are called: it may return a dictionary, or an object with fields.

use serde::Deserialize;
use serde_json::Value;

/// A part of what is returned, as torch writes down a tree. Leaves have no kind.
#[derive(Deserialize)]
struct Tree {
    r#type: Option<String>,
    #[serde(default)]
    context: Option<String>,
    #[serde(default)]
    children_spec: Vec<Tree>,
}

/// The names of the results in their order, of those that have one: keys and fields, and places in lists below those
/// (`past_key_values.0.1`). Empty if the text is no such tree of so many results.
pub fn names(out_spec: &str, results: usize) -> Vec<Option<String>> {
    let mut names = Vec::new();
    if let Ok((_, tree)) = serde_json::from_str::<(i64, Tree)>(out_spec) {
        tree.names(None, &mut names);
    }
    if names.len() == results { names } else { Vec::new() }
}

impl Tree {
    fn names(&self, path: Option<&str>, names: &mut Vec<Option<String>>) {
        if self.r#type.is_none() {
            names.push(path.map(str::to_owned));
            return;
        }
        // Keys of a dictionary, or names of fields.
        let keys: Option<Vec<Value>> = self.context.as_deref().and_then(|c| serde_json::from_str(c).ok());
        let keys = keys.filter(|k| k.len() == self.children_spec.len());
        for (i, child) in self.children_spec.iter().enumerate() {
            let key = keys.as_ref().map(|k| match &k[i] {
                Value::String(s) => s.clone(),
                other => other.to_string(),
            });
            let path = match (path, key) {
                (Some(path), Some(key)) => Some(format!("{path}.{key}")),
                (Some(path), None) => Some(format!("{path}.{i}")),
                (None, key) => key,
            };
            child.names(path.as_deref(), names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: &str = r#"{"type": null, "context": null, "children_spec": []}"#;

    fn of(spec: &str, results: usize) -> Vec<String> {
        let spec = spec.replace("LEAF", LEAF);
        names(&spec, results).into_iter().map(|n| n.unwrap_or_else(|| "-".into())).collect()
    }

    #[test]
    fn keys_and_fields_are_names_and_places_below_them_are_numbers() {
        let inner = r#"{"type": "builtins.list", "context": "null", "children_spec": [LEAF, LEAF]}"#;
        let fields = format!(
            r#"[1, {{"type": "a.Output", "context": "[\"logits\", \"cache\"]", "children_spec": [LEAF, {inner}]}}]"#
        );
        assert_eq!(of(&fields, 3), ["logits", "cache.0", "cache.1"]);
        let numbers = r#"[1, {"type": "builtins.dict", "context": "[3]", "children_spec": [LEAF]}]"#;
        assert_eq!(of(numbers, 1), ["3"]);
    }

    #[test]
    fn what_has_no_name_is_called_as_its_tensor() {
        assert_eq!(of("[1, LEAF]", 1), ["-"]);
        let tuple = r#"[1, {"type": "builtins.tuple", "context": "null", "children_spec": [LEAF, LEAF]}]"#;
        assert_eq!(of(tuple, 2), ["-", "-"]);
        assert!(of(tuple, 3).is_empty() && of("", 0).is_empty() && of("[1", 1).is_empty());
    }
}
