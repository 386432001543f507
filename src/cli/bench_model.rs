//! `normfuse bench MODEL`: a model before and after fusion, whole and by op.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

use normfuse::{
    cpu::Plan,
    cuda::{self, exec::Bound, measure::Time},
    ir::{Graph, Tensor},
    passes,
};
use tracing::debug;

use super::{
    args,
    failure::{Failure, Result},
    gpu, inputs, output,
    progress::Progress,
    run, switches, table,
    weights::Of,
};

/// Turns in which both graphs are timed, the first one first and then the other: what drifts meets both alike. What is timed first of all
/// in a process is another time than all that follows, and does not count.
const TURNS: [[usize; 2]; 3] = [[0, 1], [0, 1], [1, 0]];

/// The graphs, in the order in which they are made ready.
const WHAT: [&str; 2] = ["the source", "the fused graph"];

/// How long a graph takes.
struct Times {
    whole: Time,
    /// By op: how many steps, and microseconds of all of them.
    ops: BTreeMap<String, (usize, f64)>,
}

/// A graph that was made ready, with its inputs.
enum Ready<'a> {
    Cpu(&'a Graph, Plan),
    Gpu(Arc<Bound>),
}

pub fn main(args: &args::Bench, model: &Path) -> Result<()> {
    let of_graph = Failure::of_graph(model);
    let mut progress = Progress::new();
    progress.step("reading");
    let source = run::open(model, &args.weights, Of::Model)?;
    let random = args::Random { seed: 0, dims: args.dims.clone(), weights_seed: args.random_weights };
    let made = run::made_up(&source, &random)?;
    let dims = inputs::bindings(&source, &args.dims)?;
    let given = inputs::random(&source, 0, &dims, inputs::MOST_BYTES, &made)?;
    progress.step("fusing");
    let mut fused = source.clone();
    let switches = switches::read(&args::Switches { disable: Vec::new(), enable: Vec::new() })?;
    let mut options = switches::options(&switches);
    if let args::Device::Cuda(_) = args.device {
        options.supports = Arc::new(cuda::supports);
    }
    let report = passes::run(&mut fused, &options).map_err(&of_graph)?;
    let graphs = [Arc::new(source), Arc::new(fused)];
    let mut ready = Vec::new();
    let mut place = "the CPU".to_owned();
    // They live as long as what is bound of them is timed.
    let mut executables = Vec::new();
    for (graph, what) in graphs.iter().zip(WHAT) {
        progress.step(format!("preparing {what}"));
        ready.push(match args.device {
            args::Device::Cpu => Ready::Cpu(graph, Plan::new(graph).map_err(&of_graph)?),
            args::Device::Cuda(number) => {
                let executable = gpu::load(graph, model, number)?;
                let bound = executable.bind(&executable.given(&given)).map_err(&of_graph)?;
                executable.device().name().clone_into(&mut place);
                executables.push(executable);
                Ready::Gpu(bound)
            }
        });
    }
    let mut turns = [Vec::new(), Vec::new()];
    for (turn, order) in TURNS.into_iter().enumerate() {
        for which in order {
            progress.step(format!("timing {}", WHAT[which]));
            let times = ready[which].times(&given, usize::from(args.gpu.replays)).map_err(&of_graph)?;
            debug!("turn {turn}, {}: {:.1} us, of steps {:.1} us", WHAT[which], times.whole.us, times.steps().1);
            if turn > 0 {
                turns[which].push(times);
            }
        }
    }
    drop(progress);
    let [source, fused] = turns.map(|turns| Times::of(&turns));
    let count = report.summary.fused;
    output::print(&format!(
        "{} on {place}: fused {} norm_quant, {} norm, {} gated_act, {} quant\n{}{}",
        model.display(),
        count.norm_quant,
        count.norm,
        count.gated_act,
        count.quant,
        ready.iter().zip(["source", "fused"]).filter_map(|(ready, what)| ready.memory(what)).collect::<String>(),
        text(&source, &fused)
    ))
}

impl Times {
    /// Of several turns: means, and the widest spread.
    fn of(turns: &[Self]) -> Self {
        let count = turns.len().max(1) as f64;
        let whole = Time {
            us: turns.iter().map(|t| t.whole.us).sum::<f64>() / count,
            low: turns.iter().map(|t| t.whole.low).fold(f64::INFINITY, f64::min),
            high: turns.iter().map(|t| t.whole.high).fold(0.0, f64::max),
        };
        let mut ops = BTreeMap::<String, (usize, f64)>::new();
        for (op, (steps, us)) in turns.iter().flat_map(|t| &t.ops) {
            let entry = ops.entry(op.clone()).or_default();
            entry.0 = *steps;
            entry.1 += us / count;
        }
        Self { whole, ops }
    }

    /// Steps, and microseconds of all of them.
    fn steps(&self) -> (usize, f64) {
        self.ops.values().fold((0, 0.0), |(n, us), (more, time)| (n + more, us + time))
    }
}

impl Ready<'_> {
    /// The memory that it takes on a GPU, as a line.
    fn memory(&self, what: &str) -> Option<String> {
        let Self::Gpu(bound) = self else { return None };
        let (plan, mib) = (bound.plan(), |bytes: u64| bytes as f64 / f64::from(1 << 20));
        let (weights, arena) = (mib(plan.weight_bytes()), mib(plan.arena().bytes));
        Some(format!("  {what}: {} launches, weights {weights:.1} MiB, arena {arena:.1} MiB\n", plan.launches()))
    }

    fn times(&self, given: &[Tensor], replays: usize) -> normfuse::ir::Result<Times> {
        match self {
            Self::Cpu(graph, plan) => on_cpu(graph, plan, given, replays),
            Self::Gpu(bound) => on_gpu(bound, given, replays),
        }
    }
}

fn on_cpu(graph: &Graph, plan: &Plan, given: &[Tensor], replays: usize) -> normfuse::ir::Result<Times> {
    plan.run(given)?;
    let (mut whole, mut each) = (Vec::new(), BTreeMap::<String, (usize, Vec<f64>)>::new());
    for _ in 0..replays {
        let began = Instant::now();
        let mut last = began;
        let mut ops = BTreeMap::<String, (usize, f64)>::new();
        plan.run_observed(given, &mut |done| {
            let now = Instant::now();
            let entry = ops.entry(graph.node(done.node).op.name()).or_default();
            entry.0 += 1;
            entry.1 += (now - last).as_secs_f64() * 1e6;
            last = now;
            Ok(())
        })?;
        whole.push(began.elapsed().as_secs_f64() * 1e6);
        for (op, (count, us)) in ops {
            let entry = each.entry(op).or_default();
            entry.0 = count;
            entry.1.push(us);
        }
    }
    let median = |times: Vec<f64>| Time::of(times).map_or(0.0, |t| t.us);
    let ops = each.into_iter().map(|(op, (count, times))| (op, (count, median(times)))).collect();
    Ok(Times { whole: Time::of(whole).unwrap_or(Time { us: 0.0, low: 0.0, high: 0.0 }), ops })
}

fn on_gpu(bound: &Bound, given: &[Tensor], replays: usize) -> normfuse::ir::Result<Times> {
    bound.run(given)?;
    let whole = bound.time(replays)?;
    let mut ops = BTreeMap::<String, (usize, f64)>::new();
    for timed in bound.time_steps(replays)? {
        let entry = ops.entry(timed.step.op).or_default();
        entry.0 += 1;
        entry.1 += timed.time.map_or(0.0, |t| t.us);
    }
    Ok(Times { whole, ops })
}

fn text(source: &Times, fused: &Times) -> String {
    let us = |us: f64| format!("{us:.1}");
    let spread = |t: &Time| format!("+-{:.1}%", t.spread() * 100.0);
    let mut rows = vec![["", "source", "us", "", "fused", "us", ""].map(str::to_owned).to_vec()];
    let (before, after) = (&source.whole, &fused.whole);
    let whole = |t: &Times| [t.steps().0.to_string(), us(t.whole.us), spread(&t.whole)];
    rows.push([vec!["whole".to_owned()], whole(source).to_vec(), whole(fused).to_vec()].concat());
    let alone = |t: &Times| [String::new(), us(t.steps().1), String::new()];
    rows.push([vec!["all steps, each alone".to_owned()], alone(source).to_vec(), alone(fused).to_vec()].concat());
    let mut ops: Vec<&String> = source.ops.keys().chain(fused.ops.keys()).collect();
    ops.sort_unstable();
    ops.dedup();
    let time = |t: &Times, op: &str| t.ops.get(op).map_or(0.0, |(_, us)| *us);
    ops.sort_by(|a, b| time(source, b).max(time(fused, b)).total_cmp(&time(source, a).max(time(fused, a))));
    for op in ops {
        let cells = |t: &Times| match t.ops.get(op) {
            Some((n, time)) => [n.to_string(), us(*time), String::new()],
            None => ["-", "-", ""].map(str::to_owned),
        };
        rows.push([vec![op.clone()], cells(source).to_vec(), cells(fused).to_vec()].concat());
    }
    let gain = before.us / after.us;
    format!("{}fused is {gain:.2} times as fast\n", table::columns(&rows))
}
