//! Linear layers to quantised ones, as a model's configuration says: each layer that is chosen reads a quantised value
//! and a quantised weight.
//!
//! ```text
//! x ── matmul ── y        x ─ quantiser ─ q, s ─ dequantize_linear ─ matmul (f32) ─ cast ── y
//!        │                    codes, scale ─ dequantize_linear ─ transpose ─┘
//!   transpose(W)
//! ```
//! The quantiser is spelled in the plain ops that [`crate::run`] recognises, so that a norm's op takes it in; layers that
//! read one value with one scheme share one. Weights come from where they are: parameters that a checkpoint has are
//! inputs until they are bound to it, a weight that the graph has is quantised here, and one without data leaves inputs
//! in its place.

mod activation;
mod experts;
mod find;
mod host;
mod weight;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use normfuse_ir::{
    DType, Error, ErrorKind, Graph, Op, Result, ValueId, infer,
    linear::{Activation, LinearScheme},
    op::BinaryOp,
};
use serde::Serialize;

use self::{
    find::{Linear, Product},
    write::Writer,
};

pub use self::experts::{Unstacked, unstack};

/// A parameter's element type, if the IR has it, and its shape.
pub type Lookup<'a> = dyn Fn(&str) -> Option<(Option<DType>, Vec<usize>)> + 'a;

/// Which layers are quantised, and where their parameters are.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The scheme of a layer, by its module's name and its class, where the graph knows it; `None` leaves it as it is.
    pub scheme: &'a dyn Fn(&str, Option<&str>) -> Option<&'a LinearScheme>,
    /// True for a layer of which the configuration says by name that it stays as it is.
    pub spared: &'a dyn Fn(&str, Option<&str>) -> bool,
    /// Element type (if the IR has it) and shape of a parameter in the checkpoint, by its name in the model. Without a
    /// checkpoint the weights are those of the graph.
    pub stored: Option<&'a Lookup<'a>>,
}

/// What became of the linear layers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Quantised {
    /// How many are quantised, by scheme.
    pub schemes: BTreeMap<String, usize>,
    /// Quantisers of what they read: layers that read one value in one scheme share one.
    pub quantisers: usize,
    /// Layers that stay as they are.
    pub left: Vec<String>,
    /// Parameters that went, each with those in its place.
    #[serde(skip)]
    pub parameters: Vec<(String, Vec<String>)>,
    /// Those of the new parameters that are scales.
    #[serde(skip)]
    pub scales: Vec<String>,
}

/// Quantises the layers that the source chooses. A layer is a product with a parameter `MODULE.weight`.
///
/// # Errors
/// The graph is not legal, it has no layer that is chosen nor one that is spared by name, or one cannot be quantised so: its rows have no known size or
/// one that its groups do not divide, or something other than the layer reads its weight. The graph is then of no use.
pub fn quantise(graph: &mut Graph, source: Source<'_>) -> Result<Quantised> {
    infer::infer(graph)?;
    let mut done = Quantised::default();
    let linears = find::all(graph);
    let mut shared = Shared::default();
    let mut spared = false;
    let idle = graph.unused_consts();
    let mut writer = Writer::new(graph);
    for linear in &linears {
        let Some(scheme) = (source.scheme)(&linear.module, linear.class.as_deref()) else {
            spared |= (source.spared)(&linear.module, linear.class.as_deref());
            done.left.push(linear.module.clone());
            continue;
        };
        convert(&mut writer, linear, scheme, source, &mut shared, &mut done).map_err(|e| {
            let hint = "put the layer on the list of those that are not quantised";
            e.at_node(&linear.module).hint(hint)
        })?;
        *done.schemes.entry(scheme.to_string()).or_default() += 1;
    }
    done.quantisers = shared.len();
    if done.schemes.is_empty() && !spared {
        let found = match done.left.len() {
            0 => "no product with a parameter `MODULE.weight`".into(),
            n => format!("{n} linear layers, `{}` the first, and none that is named", done.left[0]),
        };
        let message = format!("expected linear layers that the configuration quantises, found {found}");
        return Err(Error::new(ErrorKind::Structure, message));
    }
    graph.remove_unused_consts(&idle);
    graph.remove_unread_inputs(&linears.iter().map(|l| l.weight).collect::<BTreeSet<_>>());
    Ok(done)
}

/// What is quantised, with which given scale and how; and the value that came of it.
type Shared = HashMap<(ValueId, Option<ValueId>, Activation), ValueId, foldhash::fast::FixedState>;

fn convert(
    w: &mut Writer<'_>,
    linear: &Linear,
    scheme: &LinearScheme,
    source: Source<'_>,
    shared: &mut Shared,
    done: &mut Quantised,
) -> Result<()> {
    if let Some(n) = scheme.columns().find(|n| *n == 0 || !linear.columns.is_multiple_of(*n)) {
        return Err(weight::rows_of(n, linear.columns));
    }
    if let Some(reader) = &linear.other_reader {
        let message = format!("its weight is read by `{reader}` too, which is no product of this layer");
        return Err(Error::new(ErrorKind::Structure, message));
    }
    w.at(linear.products[0].node);
    w.retire(linear.weight);
    let mut names = Vec::new();
    let weight = weight::dequantised(w, linear, &scheme.weight, source, &mut names)?;
    let transposed = w.node("weight.transpose", Op::Transpose { perm: Some(vec![1, 0]) }, &[weight])?;
    let given = match &scheme.activation {
        Some(Activation::Static { scale: name, .. } | Activation::TwoLevel { global: name }) => {
            Some(weight::scalar(w, linear, name, source, &mut names)?)
        }
        _ => None,
    };
    for product in &linear.products {
        let product = &product.now(w.graph);
        w.at(product.node);
        let x = match &scheme.activation {
            None => w.cast("x", product.x, product.dtype, DType::F32)?,
            Some(activation) => {
                let key = (product.x, given, activation.clone());
                if let Some(x) = shared.get(&key) {
                    *x
                } else {
                    let x = activation::dequantised(w, product, linear.columns, activation, given)?;
                    shared.insert(key, x);
                    x
                }
            }
        };
        let y = replace(w, product, x, transposed)?;
        // A value that is quantised already, and that this layer made, has another id from here on.
        let stale: Vec<_> = shared.keys().filter(|(v, ..)| *v == product.result).cloned().collect();
        for (_, given, activation) in stale {
            if let Some(x) = shared.remove(&(product.result, given, activation.clone())) {
                shared.insert((y, given, activation), x);
            }
        }
    }
    // Codes come first.
    done.scales.extend(names.iter().skip(1).cloned());
    done.parameters.push((linear.parameter.clone(), names));
    Ok(())
}

/// Puts the scaled product in the place of the one that was there; its result.
fn replace(w: &mut Writer<'_>, product: &Product, x: ValueId, weight: ValueId) -> Result<ValueId> {
    let y = w.node("product", Op::MatMul, &[x, weight])?;
    let mut y = w.cast("cast", y, DType::F32, product.dtype)?;
    if let Some(bias) = product.bias {
        y = w.node("bias", Op::Binary(BinaryOp::Add), &[y, bias])?;
    }
    w.graph.replace_uses(product.result, y);
    let name = w.graph.value(product.result).name.clone();
    w.graph.remove_dead([product.node]);
    // Who looks for the layer's result finds it under the name that it had.
    w.graph.rename_value(y, name);
    Ok(y)
}

#[cfg(test)]
mod tests;
