//! `--weights`: the model's parameters from a checkpoint, and what the report says of them.

use std::{collections::BTreeSet, path::Path};

use normfuse::{
    formats::{
        FormatError,
        checkpoint::{self, Bound, Checkpoint, Rules},
        parameters::{self, Parameter},
    },
    ir::Graph,
    passes::Site,
};

use super::{args, failure::Result};

/// Which of two graphs is bound: the model, or what a compilation of it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    Model,
    Compiled,
}

/// Reads a graph and binds its parameters, if a checkpoint is given.
///
/// # Errors
/// As [`normfuse::open`], and everything in which model and checkpoint do not fit.
pub fn open(path: &Path, args: &args::Checkpoint, of: Of) -> Result<(Graph, Option<Bound>)> {
    let mut graph = normfuse::open(path)?;
    let Some(file) = &args.weights else { return Ok((graph, None)) };
    let rules = Rules {
        prefix: args.weights_prefix.clone().unwrap_or_default(),
        tied: args.tied.iter().map(|t| (t.name.clone(), t.stored.clone())).collect(),
        allow_extra: args.allow_extra.clone(),
        allow_missing: args.allow_missing.clone(),
        compiled: of == Of::Compiled,
    };
    let bound = checkpoint::bind(&mut graph, &Checkpoint::open(file)?, &rules)?;
    Ok((graph, Some(bound)))
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
