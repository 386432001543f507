//! `normfuse bench MODEL`: a model before and after fusion, whole and by op.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

use normfuse::{
    cpu::Plan,
    cuda::{self, measure::Time},
    ir::{Graph, Tensor},
    passes,
};

use super::{
    args,
    failure::{Failure, Result},
    gpu, inputs, output,
    progress::Progress,
    run, switches, table,
    weights::Of,
};

/// How long a graph takes.
struct Times {
    whole: Time,
    /// By op: how many steps, and microseconds of all of them.
    ops: BTreeMap<String, (usize, f64)>,
}

pub fn main(args: &args::Bench, model: &Path) -> Result<()> {
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
    let report = passes::run(&mut fused, &options).map_err(Failure::of_graph(model))?;
    let mut all = Vec::new();
    for (what, graph) in [("timing the source", source), ("timing the fused graph", fused)] {
        progress.step(what);
        all.push(times(args, model, graph, &given)?);
    }
    drop(progress);
    let fused = report.summary.fused;
    output::print(&format!(
        "{}: fused {} norm_quant, {} norm, {} gated_act, {} quant\n{}",
        model.display(),
        fused.norm_quant,
        fused.norm,
        fused.gated_act,
        fused.quant,
        text(&all[0], &all[1])
    ))
}

fn times(args: &args::Bench, model: &Path, graph: Graph, given: &[Tensor]) -> Result<Times> {
    let replays = usize::from(args.gpu.replays);
    let of_graph = Failure::of_graph(model);
    match args.device {
        args::Device::Cpu => on_cpu(&graph, given, replays).map_err(of_graph),
        args::Device::Cuda(number) => {
            let executable = gpu::load(&Arc::new(graph), model, number)?;
            on_gpu(&executable, given, replays).map_err(of_graph)
        }
    }
}

fn on_cpu(graph: &Graph, given: &[Tensor], replays: usize) -> normfuse::ir::Result<Times> {
    let plan = Plan::new(graph)?;
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

fn on_gpu(executable: &cuda::exec::Executable, given: &[Tensor], replays: usize) -> normfuse::ir::Result<Times> {
    let bound = executable.bind(&executable.given(given))?;
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
    let count = |t: &Times| t.ops.values().map(|(n, _)| n).sum::<usize>().to_string();
    let (before, after) = (&source.whole, &fused.whole);
    let whole = [count(source), us(before.us), spread(before), count(fused), us(after.us), spread(after)];
    rows.push([vec!["whole".to_owned()], whole.to_vec()].concat());
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
