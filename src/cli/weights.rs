//! `--weights` and `--quant-config`: the model's parameters from a checkpoint, quantised as its config says, and what the
//! report says of them.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use normfuse::{
    formats::{
        FormatError,
        checkpoint::{self, Bound, Checkpoint, Rules},
        parameters::{self, Parameter},
        quant_config::QuantConfig,
    },
    ir::{DType, Graph},
    passes::{
        Site,
        linears::{self, Quantised, Source},
    },
};

use super::{
    args,
    failure::{Failure, Result},
};

/// Which of two graphs is opened: the model, or what a compilation of it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Model,
    Compiled,
}

/// A graph with its weights.
pub struct Opened {
    pub graph: Graph,
    /// What the checkpoint gave it, if there is one.
    pub bound: Option<Bound>,
    /// What the config made of its linear layers, if there is one.
    pub quantised: Option<Quantised>,
}

/// Reads a graph, quantises its linear layers if a config is given, and binds its parameters if a checkpoint is given. What
/// was compiled is quantised already.
///
/// # Errors
/// As [`normfuse::open`], what the config says and is not known, and everything in which model and checkpoint do not fit.
pub fn open(path: &Path, args: &args::Checkpoint, of: Of) -> Result<Opened> {
    if args.weights_prefix.is_some() && args.weights.is_none() && args.quant_config.is_none() {
        return Err(Failure::Usage(
            "--weights-prefix needs names to put it in front of: give --weights or --quant-config".into(),
        ));
    }
    let config = args.quant_config.as_deref().filter(|_| of == Of::Model).map(QuantConfig::read).transpose()?;
    let mut graph = normfuse::open(path)?;
    let checkpoint = args.weights.as_deref().map(Checkpoint::open).transpose()?;
    let prefix = args.weights_prefix.clone().unwrap_or_default();
    if args.weights_prefix.is_some() && of == Of::Model {
        let names = parameters::names(&graph).map_err(|e| e.in_file(path))?;
        checkpoint::check_prefix(&prefix, &names).map_err(|e| e.at_port("--weights-prefix").in_file(path))?;
    }
    let mut scales = Vec::new();
    if of == Of::Model {
        scales = unstack(&mut graph, config.as_ref(), checkpoint.as_ref(), &prefix).map_err(|e| e.in_file(path))?;
    }
    let quantised = config.map(|c| quantise(&mut graph, &c, checkpoint.as_ref(), &prefix));
    let quantised = quantised.transpose().map_err(|e| e.in_file(path))?;
    scales.extend(quantised.iter().flat_map(|q| q.scales.iter().cloned()));
    let Some(checkpoint) = checkpoint else { return Ok(Opened { graph, bound: None, quantised }) };
    let rules = Rules {
        prefix,
        tied: args.tied.iter().map(|t| (t.name.clone(), t.stored.clone())).collect(),
        allow_extra: args.allow_extra.clone(),
        allow_missing: args.allow_missing.clone(),
        scales,
        compiled: of == Of::Compiled,
    };
    let bound = Some(checkpoint::bind(&mut graph, &checkpoint, &rules)?);
    Ok(Opened { graph, bound, quantised })
}

/// Makes parameters of all experts of those that the checkpoint has for each; those of the new ones that are scales.
fn unstack(
    graph: &mut Graph,
    config: Option<&QuantConfig>,
    checkpoint: Option<&Checkpoint>,
    prefix: &str,
) -> Result<Vec<String>, FormatError> {
    let Some(checkpoint) = checkpoint else { return Ok(Vec::new()) };
    let scheme = |module: &str, class: Option<&str>| config?.scheme_of(own(prefix, module), class);
    let find = |name: &str| stored(checkpoint, own(prefix, name));
    let done = linears::unstack(graph, Source { scheme: &scheme, spared: &|_, _| false, stored: Some(&find) })?;
    parameters::replace(graph, &done.parameters)?;
    if !done.parameters.is_empty() {
        let made: usize = done.parameters.iter().map(|(_, names)| names.len()).sum();
        graph.info.notes.push(format!(
            "{} parameters of all experts are made of the {made} that the checkpoint has for each",
            done.parameters.len()
        ));
    }
    Ok(done.scales)
}

/// A name as the checkpoint and the config have it.
fn own<'n>(prefix: &str, name: &'n str) -> &'n str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// The type of a tensor of the checkpoint.
fn stored(checkpoint: &Checkpoint, name: &str) -> Option<(Option<DType>, Vec<usize>)> {
    let stored = checkpoint.get(name)?;
    Some((stored.dtype, stored.shape.clone()))
}

/// Rewrites the linear layers that the config names, before anything is bound: their new parameters are bound like any
/// other, so what the checkpoint lacks of them is in its list of errors.
fn quantise(
    graph: &mut Graph,
    config: &QuantConfig,
    checkpoint: Option<&Checkpoint>,
    prefix: &str,
) -> Result<Quantised, FormatError> {
    let layers = RefCell::new(Vec::new());
    let scheme = |module: &str, class: Option<&str>| {
        let module = own(prefix, module);
        let scheme = config.scheme_of(module, class);
        layers.borrow_mut().push((module.to_owned(), class.map(str::to_owned)));
        scheme
    };
    let find = |name: &str| stored(checkpoint?, own(prefix, name));
    let stored: Option<&dyn Fn(&str) -> _> = if checkpoint.is_some() { Some(&find) } else { None };
    let spared = |module: &str, class: Option<&str>| config.spares(own(prefix, module), class);
    let done = linears::quantise(graph, Source { scheme: &scheme, spared: &spared, stored })?;
    if done.schemes.is_empty() {
        graph.info.notes.push(
            "nothing is quantised: every linear layer that the config is for is among those that it leaves as they are"
                .into(),
        );
    }
    parameters::replace(graph, &done.parameters)?;
    let idle = config.idle(&layers.into_inner());
    if !idle.is_empty() {
        let names = idle.join("`, `");
        graph.info.notes.push(format!("the config names what is no linear layer of the model: `{names}`"));
    }
    Ok(done)
}

/// Refuses an output that would be written over what is read.
///
/// # Errors
/// The file is the checkpoint or the config.
pub fn check_output(out: &Path, there: &Path, args: &args::Checkpoint) -> Result<()> {
    let is =
        |file: &Option<std::path::PathBuf>| file.as_ref().is_some_and(|f| f.canonicalize().is_ok_and(|f| f == there));
    let what = match args {
        a if is(&a.weights) => "the checkpoint",
        a if is(&a.quant_config) => "the config",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!("{} is {what} itself: write to another file", out.display())))
}

/// With a checkpoint, every weight that a fused op reads has data: a norm whose weight is nobody's computes with
/// whatever a caller passes. Inputs that the program's signature leaves to the caller may be weights, and so may those
/// that the user says need not be in the checkpoint.
///
/// # Errors
/// All weights of fused ops that have none.
pub fn check(graph: &Graph, sites: &[Site], bound: Option<&Bound>, args: &args::Checkpoint) -> Result<()> {
    let (Some(_), Some(file)) = (bound, &args.weights) else { return Ok(()) };
    let record = parameters::recorded(graph)?;
    let permitted = |name: &str| args.allow_missing.iter().any(|p| checkpoint::is_within(name, p));
    let given_by_caller = |name: &str| match &record {
        Some(all) => !all.iter().map(Parameter::value).any(|p| p == name),
        None => false,
    };
    let inputs = graph.inputs().iter().map(|v| graph.value(*v)).filter(|v| v.stored().is_none());
    let inputs: BTreeSet<&str> = inputs.map(|v| v.name.as_str()).collect();
    let mut open: Vec<String> = Vec::new();
    for site in sites.iter().filter(|s| s.bound < s.weights.len()) {
        let names = site.weights.iter().filter(|n| inputs.contains(n.as_str()));
        let op = site.op.as_deref().unwrap_or_default();
        open.extend(names.filter(|n| !permitted(n) && !given_by_caller(n)).map(|n| format!("\n  {n}, read by {op}")));
    }
    if open.is_empty() {
        return Ok(());
    }
    open.sort();
    open.dedup();
    let n = open.len();
    let message =
        format!("{n} weights of fused ops are bound to nothing, neither here nor in the model:{}", open.concat());
    Err(FormatError::invalid(message).in_file(file).into())
}
