//! `normfuse bench MODEL`: a model as it is, with each norm and quantiser as an op of its own, and fused; whole and by op.

mod kinds;
mod shown;
mod times;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use normfuse::{
    cuda,
    ir::{FusedNorm, Graph, fused::Prologue},
    passes::{self, Options, Relaxation, Report},
};
use tracing::debug;

use super::{
    args,
    compile::relaxations,
    failure::{Failure, Result},
    gpu::Gpu,
    inputs, output,
    progress::Progress,
    run, switches,
    weights::Of,
};
use kinds::Kinds;
use times::{Ready, Times};

/// What is timed, by position.
const FORMS: [&str; 3] = ["source", "apart", "fused"];

/// Turns in which all forms are timed, one behind the other: what drifts meets them alike. What is timed first of all in a process is
/// another time than all that follows, and does not count.
const TURNS: [[usize; 3]; 3] = [[0, 1, 2], [0, 1, 2], [2, 1, 0]];

/// Most bytes of inputs: a cache of many sequences is large.
const MOST_BYTES: usize = 16 << 30;

/// A form of the model, and how long it takes.
pub struct Form {
    pub name: &'static str,
    pub times: Times,
    /// Launches, bytes of weights and bytes of the arena, on a GPU.
    pub memory: Option<[u64; 3]>,
}

pub fn main(args: &args::Bench, model: &Path) -> Result<()> {
    let of_graph = Failure::of_graph(model);
    let relax = relaxations(&args.relax)?;
    let mut progress = Progress::new();
    progress.step("reading");
    let source = run::open(model, &args.weights, Of::Model)?;
    let dims = inputs::bindings(&source, &args.dims)?;
    let gpu = Gpu::open(args.device)?;
    let random = args::Random { seed: 0, dims: args.dims.clone(), weights_seed: args.random_weights };
    let made = run::made_up(&source, &random)?;
    let given = inputs::random(&source, 0, &dims, MOST_BYTES, &made)?;
    progress.step("fusing");
    let (graphs, report) = forms(args, relax, &source, model)?;
    drop(source);
    let replaced: BTreeSet<&str> = report.sites.iter().flat_map(|s| &s.replaced).map(String::as_str).collect();
    let mut ready = Vec::new();
    for (graph, name) in graphs.iter().zip(FORMS) {
        progress.step(format!("preparing: {name}"));
        let loaded = gpu.as_ref().map(|gpu| gpu.load(graph, model, &progress)).transpose()?;
        ready.push(Ready::new(graph, loaded, &given, Kinds::of(graph, &replaced)).map_err(&of_graph)?);
    }
    let mut turns = FORMS.map(|_| Vec::new());
    for (turn, order) in TURNS.into_iter().enumerate() {
        for which in order {
            progress.step(format!("timing: {}", FORMS[which]));
            let times = ready[which].times(&given, usize::from(args.gpu.replays)).map_err(&of_graph)?;
            debug!("turn {turn}, {}: {:.1} us, of steps {:.1} us", FORMS[which], times.whole.us, times.steps().1);
            if turn > 0 {
                turns[which].push(times);
            }
        }
    }
    drop(progress);
    let all: Vec<Form> = ready
        .iter()
        .zip(&turns)
        .zip(FORMS)
        .map(|((ready, turns), name)| Form { name, times: Times::of(turns), memory: ready.memory() })
        .collect();
    let place = ready.first().map_or("", |r| r.place());
    let shown = if args.json { shown::json } else { shown::text };
    output::print(&shown(model, place, &report, &all))
}

/// The forms of a model, and what the pass says of the fused one. With `--relax`, all of them are relaxed.
fn forms(
    args: &args::Bench,
    relax: BTreeSet<Relaxation>,
    source: &Graph,
    model: &Path,
) -> Result<([Arc<Graph>; 3], Report)> {
    let switches = switches::read(&args::Switches { disable: Vec::new(), enable: Vec::new() })?;
    let mut fused = Options { relax, ..switches::options(&switches, args.device.into()) };
    if let args::Device::Cuda(_) = args.device {
        fused.supports_scaled = Arc::new(cuda::exec::supports_scaled);
    }
    let supports = fused.supports.clone();
    let alone = move |norm: &FusedNorm| alone(norm).and_then(|()| supports(norm));
    let apart = Options { supports: Arc::new(alone), ..fused.clone() };
    let none = fused.rules().map(|r| (r.name.to_owned(), "what was there before".to_owned()));
    let none = Options { disabled: none.collect(), ..fused.clone() };
    let form = |options: &Options| {
        let mut graph = source.clone();
        let report = passes::run(&mut graph, options).map_err(Failure::of_graph(model))?;
        Ok::<_, Failure>((Arc::new(graph), report))
    };
    let ((none, _), (apart, _), (fused, report)) = (form(&none)?, form(&apart)?, form(&fused)?);
    Ok(([none, apart, fused], report))
}

/// Refuses what is more than one norm.
fn alone(norm: &FusedNorm) -> std::result::Result<(), String> {
    let quantises = norm.siblings.iter().any(|s| !s.epilogues.is_empty());
    if quantises || norm.siblings.len() > 1 || matches!(norm.prologue, Prologue::Gated(_)) {
        return Err("each norm and each quantiser is an op of its own".into());
    }
    Ok(())
}
