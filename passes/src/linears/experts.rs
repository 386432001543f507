//! Experts of a layer in one parameter, as transformers 5 has them, of tensors for each, as checkpoints have them.
//!
//! ```text
//! experts.gate_up_proj [E, 2 I, H]    experts.0.gate_proj.weight, experts.0.up_proj.weight, experts.1.gate_proj.weight, ...
//! experts.down_proj    [E, H, I]      experts.0.down_proj.weight, ...
//! ```
//! Gates come before what they are multiplied with. Quantised tensors become numbers of the parameter's type: what
//! multiplies them is no linear layer, so what it reads stays as it is.

use std::collections::BTreeSet;

use normfuse_ir::{DType, Def, Graph, Op, Result, Shape, Type, ValueId, linear::LinearScheme};

use super::{
    Source,
    find::{Linear, TORCH_LINEAR},
    weight,
    write::Writer,
};

/// The last part of a parameter's name, and the layers that each expert has in it.
const STACKS: [(&str, &[&str]); 2] = [("gate_up_proj", &["gate_proj", "up_proj"]), ("down_proj", &["down_proj"])];
/// The module that has them.
const EXPERTS: &str = "experts";

/// What became of the parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unstacked {
    /// Parameters that went, each with those in its place.
    pub parameters: Vec<(String, Vec<String>)>,
    /// Those of the new parameters that are scales.
    pub scales: Vec<String>,
}

/// A parameter of all experts.
struct Stack {
    value: ValueId,
    name: String,
    dtype: DType,
    /// Experts, rows of all layers of one, columns.
    sizes: [usize; 3],
    /// The layers of an expert.
    layers: &'static [&'static str],
}

impl Stack {
    fn of(graph: &Graph, value: ValueId) -> Option<Self> {
        let v = graph.value(value);
        let (module, leaf) = v.name.rsplit_once('.')?;
        let is_of_experts = module.rsplit('.').next() == Some(EXPERTS) && !matches!(v.def, Def::Node { .. });
        let (_, layers) = STACKS.iter().find(|(name, _)| *name == leaf).filter(|_| is_of_experts)?;
        let [experts, rows, columns] = *v.ty.shape.as_ref()?.as_concrete()? else { return None };
        let dtype = v.ty.dtype.filter(|d| matches!(d, DType::F32 | DType::F16 | DType::BF16))?;
        let is_whole = experts * rows * columns > 0 && rows.is_multiple_of(layers.len());
        let sizes = [experts, rows, columns];
        is_whole.then(|| Self { value, name: v.name.clone(), dtype, sizes, layers })
    }

    /// The module of a layer of an expert.
    fn module(&self, expert: usize, layer: &str) -> String {
        let experts = self.name.rsplit_once('.').map_or("", |(module, _)| module);
        format!("{experts}.{expert}.{layer}")
    }

    /// Modules of all layers, in the order in which the parameter has them.
    fn modules(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.sizes[0]).flat_map(move |e| self.layers.iter().map(move |layer| self.module(e, layer)))
    }

    fn rows(&self) -> usize {
        self.sizes[1] / self.layers.len()
    }
}

/// Makes the parameters of all experts of those for each that the checkpoint has; one that it has itself stays. A tensor that
/// it lacks is a parameter like any other, so binding says so.
///
/// # Errors
/// A name that the graph has for something else; groups that do not divide the rows of a weight.
pub fn unstack(graph: &mut Graph, source: Source<'_>) -> Result<Unstacked> {
    let mut done = Unstacked::default();
    let Some(stored) = source.stored else { return Ok(done) };
    let is_apart = |stack: &Stack| {
        // The codes may have another name than the weight.
        let has = |module: &str, codes: &str| stored(&format!("{module}.{codes}")).is_some();
        let codes = |module: &str| scheme(source, module).map_or("weight", |s| s.weight.codes.as_str());
        stored(&stack.name).is_none() && stack.modules().any(|m| has(&m, "weight") || has(&m, codes(&m)))
    };
    let all = graph.values().filter_map(|(id, _)| Stack::of(graph, id));
    let stacks: Vec<Stack> = all.filter(is_apart).collect();
    if stacks.is_empty() {
        return Ok(done);
    }
    let idle = graph.unused_consts();
    let mut writer = Writer::new(graph);
    for stack in &stacks {
        let names = assemble(&mut writer, stack, source, &mut done.scales)?;
        done.parameters.push((stack.name.clone(), names));
    }
    graph.remove_unused_consts(&idle);
    graph.remove_unread_inputs(&stacks.iter().map(|s| s.value).collect::<BTreeSet<_>>());
    Ok(done)
}

fn scheme<'a>(source: Source<'a>, module: &str) -> Option<&'a LinearScheme> {
    (source.scheme)(module, Some(TORCH_LINEAR))
}

/// Puts the layers' weights, one below the other, in the parameter's place; the names of what they are made of.
fn assemble(w: &mut Writer<'_>, stack: &Stack, source: Source<'_>, scales: &mut Vec<String>) -> Result<Vec<String>> {
    let [experts, rows, columns] = stack.sizes;
    w.retire(stack.value);
    let mut all = Vec::new();
    let mut parts = Vec::new();
    for module in stack.modules() {
        w.called(&format!("{}/{module}", stack.name));
        let mut names = Vec::new();
        parts.push(part(w, stack, module, source, &mut names)?);
        // Codes come first.
        scales.extend(names.iter().skip(1).cloned());
        all.append(&mut names);
    }
    w.called(&format!("{}/all", stack.name));
    let rows_of_all = w.node("rows", Op::Concat { axis: 0 }, &parts)?;
    let y = w.reshape("experts", rows_of_all, &[experts as i64, rows as i64, columns as i64])?;
    w.graph.replace_uses(stack.value, y);
    Ok(all)
}

/// The weight of a layer in the parameter's type.
fn part(
    w: &mut Writer<'_>,
    stack: &Stack,
    module: String,
    source: Source<'_>,
    names: &mut Vec<String>,
) -> Result<ValueId> {
    let (rows, columns) = (stack.rows(), stack.sizes[2]);
    let parameter = format!("{module}.weight");
    let Some(scheme) = scheme(source, &module) else {
        let value = w.input(&parameter, Type::tensor(stack.dtype, Shape::from_concrete(&[rows, columns])))?;
        names.push(parameter);
        return Ok(value);
    };
    let linear = Linear {
        module,
        class: None,
        parameter,
        weight: stack.value,
        turned: false,
        rows,
        columns,
        products: Vec::new(),
        other_reader: None,
    };
    weight::check_columns(&scheme.weight, columns).map_err(|e| e.at_node(&linear.module))?;
    let value = weight::dequantised(w, &linear, &scheme.weight, source, names)?;
    w.cast("cast", value, DType::F32, stack.dtype)
}
