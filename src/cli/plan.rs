//! `normfuse plan`: what a GPU would run, or what a model takes, as a table or as JSON.

use std::fmt::Write;

use normfuse::{
    cuda::exec::{Listed, OnPaper, Plan, host_inputs},
    formats::ranges,
    ir::{DType, Graph, Value},
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
    if args.inputs {
        drop(progress);
        return output::print(&if args.json { inputs_as_json(&graph) + "\n" } else { inputs_as_text(&graph) });
    }
    progress.step("planning");
    let of_graph = Failure::of_graph(&args.model);
    let dims = inputs::bindings(&graph, &args.dims)?;
    let given = inputs::described(&graph, &dims, &host_inputs(&graph).map_err(&of_graph)?)?;
    let plan = Plan::new(&graph, &given, &OnPaper).map_err(&of_graph)?;
    drop(progress);
    output::print(&if args.json { as_json(&graph, &plan) + "\n" } else { text(&graph, &plan) })
}

/// Inputs that callers give: those without data.
fn taken(graph: &Graph) -> impl Iterator<Item = &Value> {
    graph.inputs().iter().map(|v| graph.value(*v)).filter(|v| v.stored().is_none())
}

fn inputs_as_text(graph: &Graph) -> String {
    let mut rows = vec![["input", "type"].map(str::to_owned).to_vec()];
    let shape = |v: &Value| v.ty.shape.as_ref().map_or_else(|| "[?]".into(), ToString::to_string);
    let dtype = |v: &Value| v.ty.dtype.map_or("?", DType::name);
    rows.extend(taken(graph).map(|v| vec![v.name.clone(), format!("{}{}", dtype(v), shape(v))]));
    let mut text = table::columns(&rows);
    let ranges = ranges::of(graph);
    for symbol in inputs::symbols(graph) {
        let range = ranges.iter().find(|r| r.symbol == symbol).map_or_else(String::new, |r| format!(", {}", r.sizes()));
        let _ = writeln!(text, "--dim {symbol}=N{range}");
    }
    text
}

fn inputs_as_json(graph: &Graph) -> String {
    let input = |v: &Value| json!({"name": v.name, "dtype": v.ty.dtype.map(DType::name), "shape": v.ty.shape});
    let ranges = ranges::of(graph);
    let dim = |symbol: &String| {
        let range = ranges.iter().find(|r| r.symbol == *symbol);
        json!({"name": symbol, "min": range.and_then(|r| r.min), "max": range.and_then(|r| r.max)})
    };
    let all = json!({
        "inputs": taken(graph).map(input).collect::<Vec<_>>(),
        "dims": inputs::symbols(graph).iter().map(dim).collect::<Vec<_>>(),
    });
    format!("{all:#}")
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
