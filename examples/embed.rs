//! The pass inside another compiler: its own program goes into the IR, through the pass, and comes back with one fused
//! op in it. Only `normfuse::ir` and `normfuse::passes` are used, as a host that depends on those two crates alone would:
//! no files, no ONNX, no runtime.
//!
//! ```sh
//! cargo run --example embed
//! ```

mod host;

use std::{collections::BTreeMap, error::Error, sync::Arc};

use host::{Inst, Kind, Program};
use normfuse::{
    ir::{DType, FusedNorm, Graph, Node, Op, ValueId, fused::Prologue},
    passes::{self, Observer, Options, Site},
};

/// Writes down what becomes of each anchor.
#[derive(Default)]
struct Log(Vec<String>);

impl Observer for Log {
    fn decided(&mut self, site: &Site) {
        let why = site.hint.clone().unwrap_or_else(|| format!("{} instructions in one", site.replaced.len()));
        self.0.push(format!("{} at {}: {:?}, {why}", site.kind.name(), site.anchor, site.outcome));
    }
}

/// From the IR back to the host: instructions that are still there are taken over as they were, line numbers and all.
fn from_ir(graph: &Graph, source: &Program, known: &BTreeMap<ValueId, usize>) -> Result<Program, Box<dyn Error>> {
    let mut program = Program::default();
    let mut place: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (value, def) in graph.values().filter(|(v, _)| graph.producer(*v).is_none()) {
        let old = known.get(&value).ok_or_else(|| format!("the pass made the constant `{}`", def.name))?;
        place.insert(value, program.0.len());
        program.0.push(source.0[*old].clone());
    }
    for id in graph.topo_order()? {
        let node = graph.node(id);
        let args: Vec<usize> = node.operands().map(|(_, v)| place[&v]).collect();
        if let Op::FusedNorm(descriptor) = &node.op {
            fused(&mut program, graph, node, descriptor, &args, &mut place)?;
            continue;
        }
        let old = known.get(&node.outputs[0]).ok_or_else(|| format!("the pass made the node `{}`", node.name))?;
        place.insert(node.outputs[0], program.0.len());
        program.0.push(Inst { args, ..source.0[*old].clone() });
    }
    Ok(program)
}

fn fused(
    program: &mut Program,
    graph: &Graph,
    node: &Node,
    descriptor: &Arc<FusedNorm>,
    args: &[usize],
    place: &mut BTreeMap<ValueId, usize>,
) -> Result<(), Box<dyn Error>> {
    let op = program.push(&node.name, Kind::Fused(Box::new((**descriptor).clone())), args, DType::F32, &[]);
    for (port, value) in descriptor.out_ports().into_iter().zip(&node.outputs) {
        let def = graph.value(*value);
        let (dtype, shape) = def.ty.dtype.zip(def.ty.shape.as_ref()).ok_or("the pass types what it makes")?;
        let shape: Vec<i64> = shape.0.iter().map(|d| d.as_const().unwrap_or(-1)).collect();
        place.insert(*value, program.push(&def.name, Kind::Port(port), &[op], dtype, &shape));
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let source = Program::example();
    let (mut graph, known) = source.to_ir()?;
    let options = Options {
        // What this compiler has kernels for: everything but a residual add.
        supports: Arc::new(|fused: &FusedNorm| match fused.prologue {
            Prologue::None => Ok(()),
            Prologue::ResidualAdd { .. } => Err("no kernel adds a residual".into()),
            Prologue::Gated(_) => Err("no kernel has an activation".into()),
        }),
        supports_quantize: Arc::new(|_| Err("no kernel quantises alone".into())),
        verify: true,
        ..Options::default()
    };
    let mut log = Log::default();
    passes::run_with(&mut graph, &options, &mut log)?;
    let fused = from_ir(&graph, &source, &known)?;
    println!("{}\n{source}\nbecomes\n\n{fused}", log.0.join("\n"));
    assert!(fused.0.iter().any(|i| matches!(i.kind, Kind::Fused(_))));

    // A node that the compiler calls its own is left alone, and what needs it does not fuse.
    let (mut graph, _) = source.to_ir()?;
    let options = Options { opaque: Some(Arc::new(|node: &Node| node.name == "n16")), ..Options::default() };
    let report = passes::run(&mut graph, &options)?;
    assert_eq!(report.summary.fused.norm_quant, 0);
    assert!(graph.nodes().any(|(_, n)| n.name == "n16" && matches!(n.op, Op::Cast { .. })));
    println!("with `n16` opaque: {}", report.sites[0].hint.as_deref().unwrap_or("the norm alone fuses"));
    Ok(())
}
