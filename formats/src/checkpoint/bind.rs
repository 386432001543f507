//! Parameters of a graph from a checkpoint, by name.

use std::collections::{BTreeMap, BTreeSet};

use normfuse_ir::{Data, Def, Graph, NodeId, Tensor, ValueId, eval::numbers::Numbers};
use serde::Serialize;

use super::{
    Checkpoint, Stored,
    misfit::{Misfit, Wrong},
};
use crate::{
    error::{Cause, FormatError, Result},
    parameters::{self, Parameter},
    tensors::{at_tensor, check_bools},
};

/// What a caller permits and knows about names.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What names in the model have in front of those in the checkpoint.
    pub prefix: String,
    /// Parameters of the model that the checkpoint has under another name, too or instead.
    pub tied: Vec<(String, String)>,
    /// Tensors of the checkpoint that the model need not have: these, and all in modules of these names.
    pub allow_extra: Vec<String>,
    /// Parameters of the model that the checkpoint need not have: they keep the data which the model's file has for
    /// them, and are inputs where it has none.
    pub allow_missing: Vec<String>,
    /// Parameters that are scales of quantised values.
    pub scales: Vec<String>,
    /// The graph is a compiled form of one that the checkpoint was bound to: parameters that went into other values, and
    /// tensors of the checkpoint that it does not have, are no fault, and what it has data for keeps it.
    pub compiled: bool,
}

/// What was bound, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Bound {
    /// The checkpoint's file, without its folder.
    pub checkpoint: String,
    /// How many values of the graph have their data from the checkpoint.
    pub bound: usize,
    /// Parameters in the checkpoint that no result of the program depends on.
    pub unread: Vec<String>,
    /// Parameters that keep the data of the model's file: buffers that checkpoints do not have, and what was permitted.
    pub kept: Vec<String>,
    /// The same of those for which the model's file has no data: they are inputs.
    pub open: Vec<String>,
    /// Tensors of the checkpoint that the model does not have, as was permitted.
    pub extra: Vec<String>,
}

/// A parameter and where it is in the graph.
struct Slot {
    parameter: Parameter,
    value: Option<ValueId>,
    /// The checkpoint must have it.
    required: bool,
}

/// Gives the graph's parameters their data: regions of the checkpoint's files, of which nothing but scales is read. What a
/// parameter is, [`parameters`] says; dtypes and shapes must be those of the graph, and nothing is converted. Inputs
/// that are parameters become constants.
///
/// # Errors
/// Everything that does not fit at once, as [`Misfit`]; the graph is then as it was.
pub fn bind(graph: &mut Graph, checkpoint: &Checkpoint, rules: &Rules) -> Result<Bound> {
    bind_inner(graph, checkpoint, rules).map_err(|e| e.in_file(checkpoint.path()))
}

fn bind_inner(graph: &mut Graph, checkpoint: &Checkpoint, rules: &Rules) -> Result<Bound> {
    let record = parameters::recorded(graph)?;
    let mut binder = Binder { graph, checkpoint, rules, claimed: BTreeMap::new(), misfit: Misfit::default() };
    let mut bound = Bound {
        checkpoint: checkpoint.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        ..Bound::default()
    };
    let slots = binder.slots(record.as_deref());
    let mut given = Vec::new();
    for slot in &slots {
        if let Some((value, tensor)) = binder.slot(slot, &mut bound)? {
            given.push((value, tensor, slot.parameter.name.clone()));
        }
    }
    binder.extra(&mut bound);
    if !rules.compiled {
        binder.named_in_vain(&slots);
    }
    let mut misfit = binder.misfit;
    if !misfit.faults.is_empty() {
        misfit.faults.sort();
        misfit.advice = advice(&misfit, graph, rules);
        return Err(FormatError::new(Cause::Misfit(Box::new(misfit))));
    }
    bound.bound = given.len();
    let idle = graph.unused_consts();
    let now = give(graph, given);
    let mut record = record;
    for p in record.iter_mut().flatten() {
        if let Some(now) = now.get(&p.name) {
            p.value = (*now != p.name).then(|| now.clone());
        }
    }
    graph.remove_unused_consts(&idle);
    if let Some(record) = record {
        let names: BTreeSet<&str> = record.iter().map(Parameter::value).collect();
        let asked = graph.inputs().iter().copied().filter(|v| names.contains(graph.value(*v).name.as_str())).collect();
        graph.remove_unread_inputs(&asked);
        bound.open.retain(|name| graph.inputs().iter().any(|v| graph.value(*v).name == *name));
        parameters::record(graph, &record);
        parameters::note_without_data(graph);
    }
    for list in [&mut bound.unread, &mut bound.kept, &mut bound.open, &mut bound.extra] {
        list.sort();
    }
    Ok(bound)
}

struct Binder<'a> {
    graph: &'a Graph,
    checkpoint: &'a Checkpoint,
    rules: &'a Rules,
    /// Tensors of the checkpoint that are taken, and by which parameter.
    claimed: BTreeMap<&'a str, String>,
    misfit: Misfit,
}

impl<'a> Binder<'a> {
    /// The graph's parameters.
    fn slots(&self, record: Option<&[Parameter]>) -> Vec<Slot> {
        let leaves = self.graph.values().filter(|(_, v)| record.is_some() || !matches!(v.def, Def::Node { .. }));
        let by_name: BTreeMap<&str, ValueId> = leaves.map(|(id, v)| (v.name.as_str(), id)).collect();
        let Some(record) = record else {
            let is = |(name, id): &(&str, ValueId)| {
                parameters::is_called_like_one(self.graph.value(*id))
                    || self.checkpoint.get(self.key(name)).is_some()
                    || self.rules.tied.iter().any(|(a, _)| a == name)
            };
            let slot = |(name, id): (&str, ValueId)| Slot {
                parameter: Parameter::named(name),
                value: Some(id),
                required: true,
            };
            return by_name.into_iter().filter(is).map(slot).collect();
        };
        record
            .iter()
            .map(|p| {
                let value = by_name.get(p.value()).copied();
                Slot { parameter: p.clone(), value, required: !p.transient && !p.unread }
            })
            .collect()
    }

    /// A parameter's name as the checkpoint has it.
    fn key<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.rules.prefix.as_str()).unwrap_or(name)
    }

    /// The value that a parameter is and the tensor that it gets, if it gets one; what does not fit is noted.
    fn slot(&mut self, slot: &Slot, bound: &mut Bound) -> Result<Option<(ValueId, Tensor)>> {
        let p = &slot.parameter;
        let has_data = slot.value.is_some_and(|v| !self.is_open_input(v));
        // What is no part of the model's state is as the model computed it.
        if p.transient && (has_data || slot.value.is_none()) {
            bound.kept.extend(has_data.then(|| p.name.clone()));
            return Ok(None);
        }
        let checkpoint = self.checkpoint;
        let found = self.found(p);
        for (name, _) in &found {
            self.claim(name, p);
        }
        let Some((name, stored)) = found.first().copied() else {
            self.not_found(slot, has_data, bound);
            return Ok(None);
        };
        for (other, also) in &found[1..] {
            let same_type = (also.dtype, &also.shape) == (stored.dtype, &stored.shape);
            if !same_type || also.region.data.bytes() != stored.region.data.bytes() {
                self.misfit.add(Wrong::Tied, &p.name, format!("which `{name}` and `{other}` both are and differ"));
            }
        }
        // Otherwise a comparison would not see what the compiled graph itself has.
        if let Some(value) = slot.value.filter(|_| self.rules.compiled && has_data) {
            bound.kept.push(self.graph.value(value).name.clone());
            return Ok(None);
        }
        let Some(value) = slot.value else {
            if p.unread {
                bound.unread.push(p.name.clone());
            } else if !self.rules.compiled {
                let detail = "which a compilation took into another value: bind the model that was compiled";
                self.misfit.add(Wrong::Gone, &p.name, detail);
            }
            return Ok(None);
        };
        let stored = &stored.as_codes(self.graph.value(value).ty.dtype);
        if !self.fits(value, &p.name, stored) {
            return Ok(None);
        }
        let Some(dtype) = stored.dtype else { return Ok(None) };
        let data = Data::External(stored.region.clone());
        let tensor = Tensor::new(dtype, stored.shape.clone(), data).map_err(|e| at_tensor(e, name))?;
        check_bools(&tensor).map_err(|e| at_tensor(e, name).in_file(checkpoint.path()))?;
        if let Some(found) = self.rules.scales.contains(&p.name).then(|| no_scale(&tensor)).flatten() {
            self.misfit.add(Wrong::Scale, &p.name, format!("expected finite numbers above 0, found {found}"));
        }
        Ok(Some((value, tensor)))
    }

    /// The tensors of the checkpoint that a parameter is: under its own name first.
    fn found(&self, p: &Parameter) -> Vec<(&'a str, &'a Stored)> {
        let by_rule = self.rules.tied.iter().filter(|(a, _)| *a == p.name).map(|(_, b)| b.as_str());
        let names = std::iter::once(p.name.as_str()).chain(p.tied.iter().map(String::as_str)).map(|n| self.key(n));
        let mut found: Vec<(&str, &Stored)> = Vec::new();
        for name in names.chain(by_rule) {
            if let Some((name, stored)) = self.checkpoint.tensors.get_key_value(name)
                && found.iter().all(|(n, _)| n != name)
            {
                found.push((name, stored));
            }
        }
        found
    }

    /// Takes a tensor for a parameter; only parameters that are tied may have one together.
    fn claim(&mut self, name: &'a str, p: &Parameter) {
        let Some(other) = self.claimed.insert(name, p.name.clone()) else { return };
        let by_rule = |n: &str| self.rules.tied.iter().any(|(a, b)| a == n && b == name);
        if !p.tied.contains(&other) && !by_rule(&p.name) && !by_rule(&other) {
            self.misfit.add(Wrong::Tied, &p.name, format!("and `{other}`, which are both `{name}` in the checkpoint"));
        }
    }

    fn not_found(&mut self, slot: &Slot, has_data: bool, bound: &mut Bound) {
        let p = &slot.parameter;
        let Some(value) = slot.value else {
            if slot.required && !self.rules.compiled {
                self.misfit.add(Wrong::Missing, &p.name, "of which the graph does not know the type");
            }
            return;
        };
        if !slot.required || permits(&self.rules.allow_missing, &p.name) {
            let list = if has_data { &mut bound.kept } else { &mut bound.open };
            list.push(self.graph.value(value).name.clone());
        } else {
            let ty = &self.graph.value(value).ty;
            let shape = ty.shape.as_ref().map_or_else(String::new, ToString::to_string);
            let dtype = ty.dtype.map_or_else(String::new, |d| d.to_string());
            let key = self.key(&p.name);
            let sought = if key == p.name { String::new() } else { format!(", which is `{key}` in the checkpoint") };
            let why = if has_data { "" } else { ", and the model has no data for it" };
            self.misfit.add(Wrong::Missing, &p.name, format!("{dtype}{shape}{sought}{why}"));
        }
    }

    fn is_open_input(&self, value: ValueId) -> bool {
        let value = self.graph.value(value);
        matches!(value.def, Def::Input { .. }) && value.stored().is_none()
    }

    /// True if a tensor has the type of a value.
    fn fits(&mut self, value: ValueId, name: &str, stored: &Stored) -> bool {
        let before = self.misfit.faults.len();
        let ty = &self.graph.value(value).ty;
        let sizes = |d: &normfuse_ir::Dim| d.as_const().and_then(|n| usize::try_from(n).ok());
        let shape = ty.shape.as_ref().and_then(|s| s.0.iter().map(sizes).collect::<Option<Vec<_>>>());
        if ty.opaque.is_some() || ty.dtype.is_none() || ty.dtype != stored.dtype {
            let expected = ty.dtype.filter(|_| ty.opaque.is_none());
            let expected = expected.map_or_else(|| "a type that normfuse does not know".into(), |d| d.to_string());
            self.misfit.add(Wrong::Type, name, format!("expected {expected}, found {stored}"));
        }
        if ty.opaque.is_none() && shape.as_ref() != Some(&stored.shape) {
            let expected = ty.shape.as_ref().map_or_else(|| "a shape that is known".into(), ToString::to_string);
            self.misfit.add(Wrong::Shape, name, format!("expected {expected}, found {stored}"));
        }
        self.misfit.faults.len() == before
    }

    /// What the caller's rules name, and is not there.
    fn named_in_vain(&mut self, slots: &[Slot]) {
        let parameters = || slots.iter().map(|s| s.parameter.name.as_str());
        // Also what only its reader shows to be a weight.
        let leaf = |name: &str| {
            let mut leaves = self.graph.values().filter(|(_, v)| !matches!(v.def, Def::Node { .. }));
            leaves.any(|(_, v)| is_within(&v.name, name))
        };
        let tensors = || self.checkpoint.tensors().map(|(name, _)| name);
        let mut unknown = Vec::new();
        let mut parameter = |flag: &str, name: &str, known: bool| {
            if !known {
                let near = nearest(name, parameters());
                unknown.push((name.to_owned(), format!("which {flag} says is a parameter; the model has {near}")));
            }
        };
        for name in &self.rules.allow_missing {
            parameter("--allow-missing", name, leaf(name) || parameters().any(|p| is_within(p, name)));
        }
        for (name, _) in &self.rules.tied {
            parameter("--tied", name, parameters().any(|p| p == name));
        }
        let mut tensor = |flag: &str, name: &str, known: bool| {
            if !known {
                let near = nearest(name, tensors());
                unknown.push((name.to_owned(), format!("which {flag} says is in the checkpoint; that has {near}")));
            }
        };
        for name in &self.rules.allow_extra {
            tensor("--allow-extra", name, tensors().any(|t| is_within(t, name)));
        }
        for (_, name) in &self.rules.tied {
            tensor("--tied", name, tensors().any(|t| t == name));
        }
        for (name, detail) in unknown {
            self.misfit.add(Wrong::Unknown, &name, detail);
        }
    }

    /// What no parameter is.
    fn extra(&mut self, bound: &mut Bound) {
        for (name, stored) in self.checkpoint.tensors() {
            if self.claimed.contains_key(name) {
                continue;
            }
            if self.rules.compiled || permits(&self.rules.allow_extra, name) {
                bound.extra.push(name.to_owned());
            } else {
                self.misfit.add(Wrong::Extra, name, stored.to_string());
            }
        }
    }
}

/// The first element that is no scale, and its place. A block that holds nothing but zeros may have the scale 0 where
/// scales have 8 bits, for the tensor's own scale makes them vanish, too.
fn no_scale(scales: &Tensor) -> Option<String> {
    let Numbers::F32(all) = Numbers::of(scales) else { return None };
    let small = scales.dtype().bits() == 8;
    let fits = |v: f32| v.is_finite() && (v > 0.0 || (v == 0.0 && small));
    let place = all.iter().position(|v| !fits(*v))?;
    Some(format!("{} at element {place}", all[place]))
}

/// The names that begin most like one, for who may have meant another.
fn nearest<'n>(name: &str, all: impl Iterator<Item = &'n str>) -> String {
    const LISTED: usize = 3;
    let common = |other: &str| name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let mut all: Vec<&str> = all.collect();
    all.sort_by_key(|other| (std::cmp::Reverse(common(other)), *other));
    let more = all.len().saturating_sub(LISTED);
    all.truncate(LISTED);
    match (all.is_empty(), more) {
        (true, _) => "none".into(),
        (_, 0) => all.join(", "),
        _ => format!("{} and {more} more", all.join(", ")),
    }
}

/// A prefix ends a module's name, and some parameter's name begins with it.
///
/// # Errors
/// The prefixes that names have.
pub fn check_prefix(prefix: &str, names: &[String]) -> Result<()> {
    if prefix.ends_with('.') && names.iter().any(|n| n.starts_with(prefix)) {
        return Ok(());
    }
    let first = |n: &String| n.split_once('.').map_or_else(|| n.clone(), |(module, _)| format!("{module}."));
    let begin: BTreeSet<String> = names.iter().map(first).collect();
    let expected = "a prefix of the parameters' names that ends with a dot";
    let listed = nearest(prefix, begin.iter().map(String::as_str));
    Err(FormatError::mismatch(expected, format!("`{prefix}`")).hint(format!("names in the model begin with: {listed}")))
}

/// True for a name on the list and for one in a module on it.
fn permits(list: &[String], name: &str) -> bool {
    list.iter().any(|module| is_within(name, module))
}

/// True for the name itself and for what is in the module of that name: `model.layers.60` is not within
/// `model.layers.6`.
pub fn is_within(name: &str, module: &str) -> bool {
    let rest = name.strip_prefix(module);
    rest.is_some_and(|r| r.is_empty() || r.starts_with('.') || module.ends_with('.'))
}

/// What may help, in the words of the command line.
fn advice(misfit: &Misfit, graph: &Graph, rules: &Rules) -> Vec<String> {
    let of = |w: Wrong| misfit.faults.iter().filter(move |f| f.wrong == w);
    let extra: BTreeSet<&str> = of(Wrong::Extra).map(|f| f.name.as_str()).collect();
    let missing: Vec<&str> = of(Wrong::Missing).map(|f| f.name.as_str()).collect();
    // A wrapper around the model puts its own name in front of all names.
    let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &missing {
        let cuts = name.match_indices('.').map(|(at, _)| name.split_at(at + 1));
        cuts.filter(|(_, rest)| extra.contains(rest)).for_each(|(prefix, _)| *prefixes.entry(prefix).or_default() += 1);
    }
    let best = prefixes.into_iter().max_by_key(|(prefix, n)| (*n, std::cmp::Reverse(prefix.len())));
    let mut advice = Vec::new();
    if !rules.scales.is_empty() && rules.scales.iter().all(|s| missing.contains(&s.as_str())) {
        advice.push(format!(
            "the checkpoint has none of the {} scales that the config asks for: it is not quantised, and binding does not \
             quantise it. Without --weights, weights that the model's file has are quantised as the config says",
            rules.scales.len()
        ));
        return advice;
    }
    if let Some((prefix, n)) = best.filter(|_| rules.prefix.is_empty()) {
        advice.push(format!("names of {n} parameters that are missing would be found with --weights-prefix {prefix}"));
        if n == missing.len() {
            return advice;
        }
    }
    if !missing.is_empty() {
        advice.push("a parameter that is tied to another: --tied NAME=NAME_IN_THE_CHECKPOINT".into());
        advice.push("parameters that need not be in the checkpoint: --allow-missing NAME_OR_MODULE".into());
    }
    if !extra.is_empty() {
        advice.push("tensors that the model need not have: --allow-extra NAME_OR_MODULE".into());
        if parameters::recorded(graph).is_ok_and(|r| r.is_none()) {
            advice.push("an exporter that computes with parameters leaves other constants in their place".into());
        }
    }
    advice
}

/// Puts tensors where the parameters are; returns the names of the values that those are now.
fn give(graph: &mut Graph, given: Vec<(ValueId, Tensor, String)>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    let mut leaves = Vec::new();
    for (value, tensor, name) in given {
        let title = match graph.value(value).def {
            Def::Node { node, .. } => instead_of_view(graph, value, node, tensor),
            Def::Input { default: Some(_) } => {
                graph.set_default(value, tensor);
                graph.value(value).name.clone()
            }
            Def::Const(_) | Def::Input { default: None } => {
                leaves.push((value, tensor));
                graph.value(value).name.clone()
            }
        };
        names.insert(name, title);
    }
    graph.set_consts(leaves);
    names
}

/// A parameter that is a view of how its file has it: the checkpoint has it as it is. What the file has goes once
/// nobody reads it, and its name goes to what is there now.
fn instead_of_view(graph: &mut Graph, value: ValueId, node: NodeId, tensor: Tensor) -> String {
    let mut stored = value;
    while let Some((made_by, _)) = graph.producer(stored)
        && let Some(of) = graph.node(made_by).input(0)
    {
        stored = of;
    }
    let (title, view) = (graph.value(stored).name.clone(), graph.value(value).name.clone());
    let new = graph.add_const(title.clone(), tensor);
    graph.rename_value(stored, view);
    graph.replace_uses(value, new);
    graph.remove_dead([node]);
    title
}
