//! `normfuse verify`: two graphs on the same inputs, every output bit for bit, and the first place where they part.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use normfuse::{
    cpu::Plan,
    formats::{FormatError, ranges},
    ir::{self, Error, ErrorKind, Graph, Tensor},
};

use serde::Serialize;

use super::{
    args, bits,
    failure::{Failure, Result},
    inputs, output,
    progress::Progress,
    run, table,
    weights::Of,
};

mod bisect;
mod relaxed;

/// Random runs that a comparison makes where no file gives inputs.
const RUNS: usize = 3;
/// Small and mostly odd: no kernel's vector width divides them all.
const SIZES: [i64; 6] = [1, 3, 5, 2, 7, 4];

pub fn main(args: &args::Verify) -> Result<()> {
    let mut progress = Progress::new();
    progress.step("reading");
    let original = run::open(&args.original, &args.weights, Of::Model)?;
    let rewritten = run::open(&args.rewritten, &args.weights, Of::Compiled)?;
    let pair = Pair::new(&original, &args.original, &rewritten)?;
    progress.step("running both");
    let outcome = match &args.inputs {
        Some(file) => {
            let given = inputs::load(&original, file, &run::made_up(&original, &args.random)?)?;
            let label = format!("inputs of {}", file.display());
            let results = pair.run_original(&given)?;
            Outcome { runs: vec![pair.compare(label, &given, &results)?] }
        }
        None => pair.compare_random(&args.random, inputs::MOST_BYTES, Until::Differs, &progress)?,
    };
    let mut text = outcome.text();
    if args.bisect
        && let Some(run) = outcome.runs.iter().find(|r| r.differs())
    {
        progress.step("bisecting");
        text.push_str(&bisect::text(&pair, run).map_err(Failure::of_graph(&args.rewritten))?);
    }
    drop(progress);
    output::print(&text)?;
    outcome.check()?;
    if outcome.is_all_nan() {
        eprintln!("note: {ALL_NAN}");
    }
    Ok(())
}

/// What an equality of this kind is worth.
pub const ALL_NAN: &str = "every element of every output is NaN in both graphs, so no number was compared";

/// Two graphs with one interface.
pub struct Pair<'g> {
    original: &'g Graph,
    original_file: &'g Path,
    rewritten: &'g Graph,
    original_plan: Plan,
    rewritten_plan: Plan,
    /// Position of each input of the rewritten graph among the original's.
    input_order: Vec<usize>,
    /// Position of each output of the original among the rewritten graph's.
    output_order: Vec<usize>,
}

/// One run of both.
pub struct Run {
    label: String,
    /// Inputs, in the original's order.
    given: Vec<Tensor>,
    outputs: Vec<(String, Tensor, bits::Compared)>,
    /// Where the graphs part, if they do.
    parting: Option<String>,
}

/// How many random runs a comparison makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// No more after one that differs: that one is looked into.
    Differs,
    /// All, to say how far two graphs are from one another.
    Enough,
}

/// How far an output of one graph is from that of another, over all runs.
#[derive(Debug, Serialize)]
pub struct Distance {
    output: String,
    /// Elements whose bits differ.
    differ: usize,
    /// Elements.
    of: usize,
    /// The largest difference between two numbers; none where one of the two is no number.
    max_abs: Option<f64>,
}

impl std::fmt::Display for Distance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { output, differ, of, max_abs } = self;
        match max_abs {
            _ if *differ == 0 => write!(f, "{output} equal"),
            Some(by) => write!(f, "{output} differs in {differ} of {of} elements, at most by {by:.3e}"),
            None => write!(
                f,
                "{output} differs in {differ} of {of} elements, some of them infinite or NaN in one graph alone"
            ),
        }
    }
}

/// All runs.
pub struct Outcome {
    pub runs: Vec<Run>,
}

impl<'g> Pair<'g> {
    /// Plans both.
    ///
    /// # Errors
    /// An original that does not run here; interfaces that differ, or a rewritten graph that alone does not run.
    pub fn new(original: &'g Graph, original_file: &'g Path, rewritten: &'g Graph) -> Result<Self> {
        let inputs = |g: &Graph| g.inputs().iter().map(|v| g.value(*v).name.clone()).collect::<Vec<_>>();
        let outputs = |g: &Graph| g.outputs().iter().map(|o| o.name.clone()).collect::<Vec<_>>();
        let input_order = order("inputs", &inputs(original), &inputs(rewritten))?;
        for (&v, at) in rewritten.inputs().iter().zip(&input_order) {
            let (theirs, own) = (original.value(original.inputs()[*at]), rewritten.value(v));
            let equal = match (theirs.stored(), own.stored()) {
                (None, None) => true,
                (Some(a), Some(b)) => ir::body::bits_equal(a, b).is_none(),
                _ => false,
            };
            if !equal {
                return Err(Failure::Check(format!("input `{}` has another default, or only one has one", own.name)));
            }
        }
        let output_order = order("outputs", &outputs(rewritten), &outputs(original))?;
        Ok(Self {
            original,
            original_file,
            rewritten,
            original_plan: Plan::new(original).map_err(Failure::of_graph(original_file))?,
            rewritten_plan: Plan::new(rewritten).map_err(|e| only_rewritten(&e))?,
            input_order,
            output_order,
        })
    }

    fn run_original(&self, given: &[Tensor]) -> Result<Vec<Tensor>> {
        self.original_plan.run(given).map_err(Failure::of_graph(self.original_file))
    }

    fn for_rewritten(&self, given: &[Tensor]) -> Vec<Tensor> {
        self.input_order.iter().map(|i| given[*i].clone()).collect()
    }

    /// Compares on random inputs of several sizes and seeds, of at most `most` bytes together.
    ///
    /// # Errors
    /// If the original runs under none of the sizes.
    pub fn compare_random(
        &self,
        random: &args::Random,
        most: usize,
        until: Until,
        progress: &Progress,
    ) -> Result<Outcome> {
        let given = inputs::bindings(self.original, &random.dims)?;
        let free: Vec<String> = inputs::symbols(self.original).into_iter().filter(|s| !given.contains_key(s)).collect();
        let made = run::made_up(self.original, random)?;
        let ranges = ranges::of(self.original);
        let mut outcome = Outcome { runs: Vec::new() };
        let mut refused = None;
        for attempt in 0..2 * SIZES.len() {
            if outcome.runs.len() == RUNS || until == Until::Differs && outcome.differs() {
                break;
            }
            progress.at(outcome.runs.len() + 1, RUNS);
            let seed = random.seed.wrapping_add(attempt as u64);
            let mut dims: BTreeMap<String, i64> = given.clone();
            for (i, symbol) in free.iter().enumerate() {
                let size = SIZES[(attempt + i) % SIZES.len()];
                dims.insert(symbol.clone(), inputs::exported_size(&ranges, symbol, size));
            }
            let tensors = inputs::random(self.original, seed, &dims, most, &made)?;
            let mut label = format!("seed {seed}");
            for (name, size) in &dims {
                let _ = write!(label, " {name}={size}");
            }
            // Sizes are guesses: not every combination is one that the graph can run.
            match self.original_plan.run(&tensors) {
                Ok(results) => outcome.runs.push(self.compare(label, &tensors, &results)?),
                Err(e) => drop(refused.get_or_insert((label, e))),
            }
        }
        match refused {
            Some((label, e)) if outcome.runs.is_empty() => Err(FormatError::from(e)
                .in_file(self.original_file)
                .hint(format!("inputs were random: {label}; give --dim NAME=N, or `normfuse verify` its --inputs"))
                .into()),
            _ => Ok(outcome),
        }
    }

    /// Runs the rewritten graph and compares its outputs with those of the original.
    fn compare(&self, label: String, given: &[Tensor], want: &[Tensor]) -> Result<Run> {
        let found = self.rewritten_plan.run(&self.for_rewritten(given)).map_err(|e| only_rewritten(&e))?;
        let mut run = Run { label, given: given.to_vec(), outputs: Vec::new(), parting: None };
        for ((out, want), at) in self.original.outputs().iter().zip(want).zip(&self.output_order) {
            let compared = bits::compare(want, &found[*at])
                .map_err(|e| Failure::Check(format!("output `{}` changed its type: {e}", out.name)))?;
            run.outputs.push((out.name.clone(), want.clone(), compared));
        }
        if run.differs() {
            run.parting = self.parting(given);
        }
        Ok(run)
    }

    /// The first node of the rewritten graph that computes other bits than the original has under the same name.
    fn parting(&self, given: &[Tensor]) -> Option<String> {
        let name_of =
            |graph: &Graph, node, port: usize| graph.node(node).outputs.get(port).map(|v| graph.value(*v).name.clone());
        let shared: std::collections::BTreeSet<&str> = self.rewritten.values().map(|(_, v)| v.name.as_str()).collect();
        let mut kept: BTreeMap<String, Tensor> = BTreeMap::new();
        let kept_all = self.original_plan.run_observed(given, &mut |done| {
            for (port, tensor) in done.outputs.iter().enumerate() {
                if let Some(name) = name_of(self.original, done.node, port).filter(|n| shared.contains(n.as_str())) {
                    kept.insert(name, tensor.clone());
                }
            }
            Ok(())
        });
        let mut found = None;
        let rerun = self.rewritten_plan.run_observed(&self.for_rewritten(given), &mut |done| {
            for (port, tensor) in done.outputs.iter().enumerate() {
                let Some(name) = name_of(self.rewritten, done.node, port) else { continue };
                let Some(want) = kept.get(&name) else { continue };
                // A port may have the rows of the values that it replaced in another shape: the elements are the same.
                let flat = tensor.reshaped(want.shape().to_vec()).unwrap_or_else(|_| tensor.clone());
                let what = match bits::compare(want, &flat) {
                    Ok(c) if c.differing == 0 => continue,
                    Ok(c) => describe(&c),
                    Err(e) => e,
                };
                found = Some(self.site(done.node, &name, &what));
                return Err(Error::new(ErrorKind::Value, "found"));
            }
            Ok(())
        });
        // The second run ends early where it found something; else both have run before with these inputs.
        drop((kept_all, rerun));
        found
    }

    fn site(&self, node: normfuse::ir::NodeId, value: &str, what: &str) -> String {
        let node = self.rewritten.node(node);
        let mut text =
            format!("first site that differs: `{}` ({}), value `{value}`: {what}", node.name, node.op.name());
        if node.op.is_fused() && !node.provenance.replaced.is_empty() {
            let _ = write!(text, "; it replaced {}", node.provenance.replaced.join(", "));
        }
        text
    }
}

fn only_rewritten(e: &Error) -> Failure {
    Failure::Check(format!("the original runs and the rewritten graph does not: {e}"))
}

/// Where each of `of` is among `among`.
fn order(what: &str, among: &[String], of: &[String]) -> Result<Vec<usize>> {
    if among.len() != of.len() {
        return Err(Failure::Check(format!(
            "the graphs have other {what}: {} and {}",
            among.join(", "),
            of.join(", ")
        )));
    }
    of.iter()
        .map(|name| {
            among
                .iter()
                .position(|n| n == name)
                .ok_or_else(|| Failure::Check(format!("only one of the graphs has `{name}` among its {what}")))
        })
        .collect()
}

fn describe(c: &bits::Compared) -> String {
    let mut text = format!("{} of {} elements differ, at most by {:e}", c.differing, c.elements, c.max_abs);
    if let Some((i, want, found)) = c.first {
        let _ = write!(text, "; element {i}: expected {want:e}, found {found:e}");
    }
    text
}

impl Run {
    fn differs(&self) -> bool {
        self.outputs.iter().any(|(_, _, c)| c.differing > 0)
    }
}

impl Outcome {
    /// True if some run differs.
    pub fn differs(&self) -> bool {
        self.runs.iter().any(Run::differs)
    }

    /// What was compared: a line a run, a line an output.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for run in &self.runs {
            let _ = writeln!(text, "{}", run.label);
            let rows: Vec<Vec<String>> = run
                .outputs
                .iter()
                .map(|(name, t, c)| {
                    let result = if c.differing > 0 { describe(c) } else { format!("{} elements equal", c.elements) };
                    let nans = if c.nans > 0 { format!("({} NaN in both)", c.nans) } else { String::new() };
                    vec![name.clone(), format!("{}{:?}", t.dtype(), t.shape()), result, nans]
                })
                .collect();
            text.push_str(&table::columns(&rows));
        }
        text
    }

    /// How far the two are from one another, by output.
    pub fn distances(&self) -> Vec<Distance> {
        let mut distances: Vec<Distance> = Vec::new();
        for (output, _, c) in self.runs.iter().flat_map(|r| &r.outputs) {
            let max_abs = c.max_abs.is_finite().then_some(c.max_abs);
            match distances.iter_mut().find(|d| d.output == *output) {
                Some(d) => {
                    d.differ += c.differing;
                    d.of += c.elements;
                    d.max_abs = d.max_abs.zip(max_abs).map(|(a, b)| a.max(b));
                }
                None => {
                    distances.push(Distance { output: output.clone(), differ: c.differing, of: c.elements, max_abs });
                }
            }
        }
        distances
    }

    /// True if there are outputs and none has a number.
    pub fn is_all_nan(&self) -> bool {
        let mut compared = self.runs.iter().flat_map(|r| &r.outputs).map(|(_, _, c)| c).peekable();
        compared.peek().is_some() && compared.all(|c| c.elements > 0 && c.nans == c.elements)
    }

    /// # Errors
    /// The difference, with the first site.
    pub fn check(&self) -> Result<()> {
        if let Some(run) = self.runs.iter().find(|r| r.differs()) {
            let names: Vec<&str> =
                run.outputs.iter().filter(|(_, _, c)| c.differing > 0).map(|(n, _, _)| n.as_str()).collect();
            let site = run.parting.as_deref().unwrap_or("no value before the outputs has the same name in both graphs");
            return Err(Failure::Check(format!("{} differs ({}); {site}", names.join(", "), run.label)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use normfuse::ir::text;

    use super::*;

    fn graph(op: &str) -> Graph {
        let text = format!("graph \"g\"\ninput %x: f32[2]\n%y = {op}(%x)\noutput %y\n");
        text::parse(&text, &mut |_| unreachable!("no weights")).unwrap()
    }

    #[test]
    fn a_rewritten_graph_that_alone_does_not_run_is_a_failed_check() {
        let (runs, foreign) = (graph("abs"), graph("\"x\".\"Y\""));
        let pair = |a, b| Pair::new(a, Path::new("m.onnx"), b).map(drop);
        pair(&runs, &runs).unwrap();
        assert!(matches!(pair(&foreign, &runs), Err(Failure::Input(_))));
        assert!(matches!(pair(&runs, &foreign), Err(Failure::Check(_))));
    }
}
