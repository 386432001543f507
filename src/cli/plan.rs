//! `normfuse plan`: what a GPU would run, as a table or as JSON.

use std::fmt::Write;

use normfuse::{
    cuda::exec::{Listed, OnPaper, Plan, host_inputs},
    ir::Graph,
};
use serde_json::json;

use super::{
    args,
    failure::{Failure, Result},
    inputs, output,
    progress::Progress,
    run, table,
    weights::Of,
};

pub fn main(args: &args::Plan) -> Result<()> {
    let mut progress = Progress::new();
    progress.step("reading");
    let graph = run::open(&args.model, &args.weights, Of::Model)?;
    progress.step("planning");
    let of_graph = Failure::of_graph(&args.model);
    let dims = inputs::bindings(&graph, &args.dims)?;
    let given = inputs::described(&graph, &dims, &host_inputs(&graph).map_err(&of_graph)?)?;
    let plan = Plan::new(&graph, &given, &OnPaper).map_err(&of_graph)?;
    drop(progress);
    output::print(&if args.json { as_json(&graph, &plan) + "\n" } else { text(&graph, &plan) })
}

/// `bf16[1, 8, 4096]`, of each result.
fn results(step: &Listed) -> String {
    let one = |t: &normfuse::cuda::ops::Typed| format!("{}{:?}", t.dtype, t.shape);
    step.results.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn text(graph: &Graph, plan: &Plan) -> String {
    let mut rows = vec![["step", "op", "launches", "bytes", "scratch", "results"].map(str::to_owned).to_vec()];
    for step in plan.list() {
        let op = if step.once { format!("{} (once)", step.op) } else { step.op.clone() };
        let numbers = [step.launches as u64, step.bytes, step.scratch].map(|n| n.to_string());
        let [launches, bytes, scratch] = numbers;
        rows.push(vec![step.name.clone(), op, launches, bytes, scratch, results(&step)]);
    }
    let mut text = table::columns(&rows);
    let arena = plan.arena();
    let _ = writeln!(
        text,
        "{} nodes, {} launches a run; arena {} bytes, at least {} are in use at one time; weights {} bytes. Scratch of products is \
         not counted.",
        graph.node_count(),
        plan.launches(),
        arena.bytes,
        arena.lower_bound,
        plan.weight_bytes(),
    );
    text
}

fn as_json(graph: &Graph, plan: &Plan) -> String {
    let step = |s: &Listed| {
        json!({
            "step": s.name,
            "op": s.op,
            "nodes": s.nodes.len(),
            "launches": s.launches,
            "bytes": s.bytes,
            "scratch": s.scratch,
            "once": s.once,
            "results": s.results.iter().map(|t| json!({"dtype": t.dtype.name(), "shape": t.shape})).collect::<Vec<_>>(),
        })
    };
    let all = json!({
        "nodes": graph.node_count(),
        "launches": plan.launches(),
        "arena": plan.arena().bytes,
        "arena_lower_bound": plan.arena().lower_bound,
        "weights": plan.weight_bytes(),
        "steps": plan.list().iter().map(step).collect::<Vec<_>>(),
    });
    format!("{all:#}")
}
