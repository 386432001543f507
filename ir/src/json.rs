//! The JSON form: a [`Document`] through serde.
//!
//! ```json
//! {
//!   "normfuse": 1,
//!   "files": {"model.data": {"size": 4096, "hash": "ab12"}},
//!   "bodies": [],
//!   "graph": {
//!     "name": "decoder",
//!     "info": {"opsets": {"": 20}, "fields": {}, "metadata": [], "notes": []},
//!     "lines": [
//!       {"input": {"name": "x", "type": {"dtype": "bf16", "shape": ["rows", 256]}}},
//!       {"const": {"name": "eps", "dtype": "f32", "shape": [], "values": "1e-6"}},
//!       {"const": {"name": "w", "dtype": "bf16", "shape": [256], "region": {"file": "model.data", "offset": 0}}},
//!       {"node": {"name": "y", "op": {"cast": {"to": "f32", "saturate": true}}, "inputs": [0], "results": [{"name": "y"}]}}
//!     ],
//!     "outputs": [{"name": "y", "value": 3}]
//!   }
//! }
//! ```
//! Operands, outputs and bodies are numbers: values count from 0 within their graph in order of definition, an input or
//! constant one each, a node one a result; a node may use only what is defined before it. `info`, `type`, `files`,
//! `bodies`, `provenance`, `body` and `scheme` are left out where they are empty. Constants of more than 64 elements
//! have `base64` in place of `values`.

use serde_json::Value;

use crate::{
    Error, ErrorKind, Graph, Result,
    document::{Document, Identify, Resolve},
};

/// The JSON of a graph, without identities of data files.
pub fn to_value(graph: &Graph) -> Value {
    // Only maps with keys that are not strings fail to serialise, and a document has none.
    serde_json::to_value(Document::of(graph, &mut |_| None)).unwrap_or_default()
}

/// The JSON text of a graph; `identify` tells size and hash of each data file.
pub fn print_with(graph: &Graph, identify: Identify) -> String {
    serde_json::to_string_pretty(&Document::of(graph, identify)).unwrap_or_default()
}

/// The JSON text of a graph, without identities of data files.
pub fn print(graph: &Graph) -> String {
    print_with(graph, &mut |_| None)
}

/// The graph of a JSON value; `resolve` turns weight references into bytes.
///
/// # Errors
/// `Parse` where the JSON is not of the schema, `Structure` where operands do not fit an op, and what `resolve` returns.
pub fn from_value(value: Value, resolve: Resolve) -> Result<Graph> {
    serde_json::from_value::<Document>(value).map_err(|e| bad(&e))?.into_graph(resolve)
}

/// The graph of a JSON text.
///
/// # Errors
/// As [`from_value`]; `Parse` errors name line and column.
pub fn parse(text: &str, resolve: Resolve) -> Result<Graph> {
    serde_json::from_str::<Document>(text).map_err(|e| bad(&e))?.into_graph(resolve)
}

fn bad(e: &serde_json::Error) -> Error {
    Error::new(ErrorKind::Parse, e.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::{
        self, WeightRef,
        tests::{ALL, mutate, resolve},
    };

    #[test]
    fn carries_what_the_text_form_carries() {
        let graph = text::parse(ALL, &mut resolve).unwrap();
        assert_eq!(text::print(&from_value(to_value(&graph), &mut resolve).unwrap()), ALL);
        let printed = print(&graph);
        let back = parse(&printed, &mut resolve).unwrap();
        assert_eq!(text::print(&back), ALL);
        assert_eq!(print(&back), printed);
        assert!(printed.contains("\"values\": \"1e-6\"") && printed.contains("\"eps\": 0.000001"), "{printed}");
    }

    #[test]
    fn the_documented_example_reads() {
        let example: String = include_str!("json.rs")
            .lines()
            .skip_while(|l| !l.starts_with("//! ```json"))
            .skip(1)
            .take_while(|l| !l.starts_with("//! ```"))
            .map(|l| l.trim_start_matches("//! "))
            .collect();
        let mut seen: Vec<WeightRef> = Vec::new();
        let graph = parse(&example, &mut |w| {
            seen.push(w.clone());
            resolve(w)
        })
        .unwrap();
        assert_eq!(seen[0].id.as_ref().map(|id| id.size), Some(4096));
        assert!(text::print(&graph).contains("%y = cast(%x) {to=f32, saturate=true}\noutput %y\n"));
    }

    fn with(edit: impl FnOnce(&mut Value)) -> String {
        let graph = text::parse(ALL, &mut resolve).unwrap();
        let mut value = to_value(&graph);
        edit(&mut value);
        from_value(value, &mut resolve).expect_err("edited").to_string()
    }

    #[test]
    fn what_is_not_of_the_schema_is_refused() {
        assert!(with(|v| v["normfuse"] = json!(2)).contains("expected version 1 of the document, found 2"));
        assert!(with(|v| v["extra"] = json!(2)).contains("unknown field `extra`"));
        assert!(
            with(|v| v["graph"]["outputs"][0]["value"] = json!(1u64 << 40)).contains("expected the number of a value")
        );
        let node = |v: &mut Value, f: &dyn Fn(&mut Value)| {
            let lines = v["graph"]["lines"].as_array_mut().unwrap();
            f(&mut lines.iter_mut().find(|l| l.get("node").is_some()).unwrap()["node"]);
        };
        assert!(
            with(|v| node(v, &|n| n["inputs"] = json!([999]))).contains("defined before the node, found value 999")
        );
        assert!(with(|v| node(v, &|n| n["body"] = json!(7))).contains("found body 7 of 1"));
        assert!(with(|v| node(v, &|n| n["op"]["cast"]["too"] = json!(1))).contains("there is no attribute `too`"));
        assert!(
            with(|v| node(v, &|n| n["op"] = json!({"split": {"axis": 0, "outputs": u64::MAX}})))
                .contains("has 18446744073709551615 results, found 1")
        );
        let constant = |v: &mut Value, with: Value| {
            let lines = v["graph"]["lines"].as_array_mut().unwrap();
            lines.iter_mut().find(|l| l.get("const").is_some()).unwrap()["const"] = with;
        };
        let c = |extra: Value| {
            let mut c = json!({"name": "axes", "dtype": "f32", "shape": [1u64 << 40]});
            c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            with(move |v| constant(v, c))
        };
        assert!(c(json!({})).contains("expected one of `values`, `base64` and `region`"));
        assert!(c(json!({"values": "[1]"})).contains("expected 1099511627776 elements, found 1"));
        assert!(c(json!({"base64": "AAAA"})).contains("takes 4398046511104 bytes, found 3"));
        let deep = format!("{{\"graph\": {{\"lines\": [{{\"node\": {{\"op\": {}", "[".repeat(100_000));
        assert!(parse(&deep, &mut resolve).unwrap_err().to_string().contains("recursion limit"));
        assert!(parse("{\"normfuse\": 1", &mut resolve).unwrap_err().to_string().contains("line 1 column"));
    }

    #[test]
    fn mutations_never_panic() {
        let printed = print(&text::parse(ALL, &mut resolve).unwrap());
        let mut parsed = 0;
        mutate(&printed, 1000, |json| {
            if let Ok(graph) = parse(json, &mut resolve) {
                parsed += 1;
                let again = print(&graph);
                assert_eq!(print(&parse(&again, &mut resolve).unwrap()), again);
            }
        });
        assert!(parsed > 10, "only {parsed} mutations still parse: the loop tests too little");
    }
}
