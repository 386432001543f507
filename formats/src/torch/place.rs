//! Where in the model's source a node was: its module, and the line that called it. Folders stay out: they are those of
//! whoever exported the model.

use std::fmt;

use normfuse_ir::Provenance;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// The class of a layer that is nothing but a product with its weight.
const LINEAR: &str = "torch.nn.modules.linear.Linear";

/// A node's place; empty parts are not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// `model.layers.3.self_attn.q_a_layernorm`.
    pub module: String,
    /// `modeling_deepseek_v3.py:123`.
    pub source: String,
    /// Class of the module: `transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3TopkRouter`.
    pub class: String,
}

impl Place {
    /// As key-value metadata of a node that calls this ATen op.
    pub fn metadata(&self, target: &str) -> Vec<(String, String)> {
        let pairs =
            [(Provenance::MODULE, &self.module), (Provenance::SOURCE, &self.source), (Provenance::CLASS, &self.class)];
        // A product is taken for a linear layer unless its class says that it is none.
        let product =
            ["linear", "mm", "addmm", "matmul"].iter().any(|op| target.ends_with(&format!("aten.{op}.default")));
        let told = if product && self.class != LINEAR { 3 } else { 2 };
        let pairs = pairs.into_iter().take(told);
        pairs.filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.into(), v.clone())).collect()
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Metadata;
        impl<'de> Visitor<'de> for Metadata {
            type Value = Place;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node's metadata")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Place, A::Error> {
                let mut place = Place::default();
                while let Some(key) = map.next_key::<Key>()? {
                    match key {
                        Key::Module => [place.module, place.class] = map.next_value::<Read<true>>()?.0,
                        Key::Source => [place.source, _] = map.next_value::<Read<false>>()?.0,
                        Key::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(place)
            }
        }
        d.deserialize_map(Metadata)
    }
}

#[derive(Deserialize)]
enum Key {
    #[serde(rename = "nn_module_stack")]
    Module,
    #[serde(rename = "stack_trace")]
    Source,
    #[serde(other)]
    Other,
}

/// What is kept of a long text; the text itself is never held.
struct Read<const MODULE: bool>([String; 2]);

impl<'de, const MODULE: bool> Deserialize<'de> for Read<MODULE> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text<const MODULE: bool>;
        impl<const MODULE: bool> Visitor<'_> for Text<MODULE> {
            type Value = Read<MODULE>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Read(if MODULE { module(text) } else { [source(text), String::new()] }))
            }
        }
        d.deserialize_str(Text)
    }
}

/// The innermost module of a stack and its class: `key,path,class` for each, outermost first, with `;` between.
fn module(stack: &str) -> [String; 2] {
    let last = stack.rsplit(';').next().unwrap_or_default();
    let both = last.split_once(',').and_then(|(_, rest)| rest.rsplit_once(','));
    let (path, class) = both.filter(|(path, _)| !path.starts_with('_')).unwrap_or_default();
    [path.to_owned(), class.to_owned()]
}

/// The innermost frame of a trace that is not torch's own, as `file:line`.
fn source(trace: &str) -> String {
    let frames = trace.rsplit('\n').filter_map(|line| {
        let (path, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
        let number = rest.split(|c: char| !c.is_ascii_digit()).next().filter(|n| !n.is_empty())?;
        Some((path, number))
    });
    let own = |path: &str| !path.split(['/', '\\']).any(|part| part == "torch");
    let mut innermost = None;
    for (path, number) in frames {
        let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
        if own(path) {
            return format!("{file}:{number}");
        }
        innermost.get_or_insert_with(|| format!("{file}:{number}"));
    }
    innermost.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_say_the_class_of_what_is_no_linear_layer() {
        let place = |class: &str| {
            let json = format!(r#"{{"nn_module_stack": "L__x,model.gate,{class}"}}"#);
            serde_json::from_str::<Place>(&json).unwrap()
        };
        let class = |p: &Place, target: &str| p.metadata(target).into_iter().find(|(k, _)| k == Provenance::CLASS);
        let router = place("b.Router");
        assert_eq!(class(&router, "torch.ops.aten.linear.default").unwrap().1, "b.Router");
        assert_eq!(class(&router, "torch.ops.aten.abs.default"), None);
        assert_eq!(class(&place(LINEAR), "torch.ops.aten.linear.default"), None);
    }

    #[test]
    fn a_place_has_the_module_and_the_line_and_no_folder() {
        let json = r#"{"from_node": "x", "nn_module_stack": "L__self__,,a.Prefill;L__self__model,model,b.Model;L__x,model.layers.3.norm,b.Norm",
            "stack_trace": "File \"/home/me/run.py\", line 9, in forward\n    return m(x)\n  File \"/home/me/modeling_x.py\", line 123, in forward\n    y = F.silu(x)\n  File \"/lib/torch/nn/functional.py\", line 7, in silu\n    return"}"#;
        let place: Place = serde_json::from_str(json).unwrap();
        assert_eq!((place.module.as_str(), place.source.as_str()), ("model.layers.3.norm", "modeling_x.py:123"));
        let torch = r#"{"stack_trace": "File \"torch/fx/passes/runtime_assert.py\", line 24, in f"}"#;
        assert_eq!(serde_json::from_str::<Place>(torch).unwrap().source, "runtime_assert.py:24");
        assert_eq!(serde_json::from_str::<Place>("{}").unwrap(), Place::default());
    }
}
