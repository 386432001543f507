//! One graph on the CPU and on a GPU.

use std::sync::Arc;

use normfuse::{
    cpu,
    cuda::{
        Compiler, Device,
        exec::{Executable, host_inputs},
        product::Products,
    },
    ir::{DType, Def, Graph, NodeId, Op, Shape, Tensor, Type, body::bits_equal, eval},
};

pub type Gpu = (Device, Compiler);

pub fn numbers(t: &Tensor) -> Vec<f32> {
    let wide = eval::cast(t, DType::F32, true).unwrap();
    wide.bytes().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// How far two results are apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Apart {
    /// 1 less their cosine.
    pub angle: f64,
    /// The largest difference, over the largest magnitude.
    pub largest: f64,
}

impl Apart {
    fn of(a: &Tensor, b: &Tensor) -> Self {
        assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
        let (a, b) = (numbers(a), numbers(b));
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let norms = (dot(&a, &a) * dot(&b, &b)).sqrt();
        let angle = if norms == 0.0 { 0.0 } else { 1.0 - dot(&a, &b) / norms };
        let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let differ = a.iter().zip(&b).fold(0.0f32, |m, (a, b)| if a == b { m } else { m.max((a - b).abs()) });
        let largest = if differ == 0.0 { 0.0 } else { f64::from(differ) / f64::from(largest) };
        Self { angle: if largest == 0.0 { 0.0 } else { angle }, largest }
    }

    /// The worse of both.
    fn and(self, other: Self) -> Self {
        // NaN is the worst.
        let worse = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
        Self { angle: worse(self.angle, other.angle), largest: worse(self.largest, other.largest) }
    }
}

/// True for ops whose sums are in an order of their own on each device.
pub fn is_product(op: &Op) -> bool {
    matches!(op, Op::MatMul | Op::Gemm { .. } | Op::ScaledMatMul(_) | Op::Attention(_))
}

/// What whole results are held to behind products: of f32 the largest difference is at most 1e-4 of the largest magnitude; of 16 bits
/// the cosine is at least 0.9999. Codes may flip: behind them it is at least 0.999.
pub fn is_far(graph: &Graph, want: &Tensor, apart: Apart) -> bool {
    let coded = graph.values().any(|(_, v)| v.ty.dtype.is_some_and(DType::is_quantised));
    let most = if coded { 1e-3 } else { 1e-4 };
    let strict = !coded && want.dtype() == DType::F32;
    // Comparisons with NaN are false.
    !(apart.angle <= most && (!strict || apart.largest <= 1e-4))
}

/// What a GPU made of a graph.
pub struct Ran {
    pub results: Vec<Tensor>,
    pub apart: Apart,
}

/// A graph on both; or what differs by more than it may.
pub fn compare((device, compiler): &Gpu, graph: &Graph, given: &[Tensor]) -> Result<Ran, String> {
    let want = cpu::Plan::new(graph).and_then(|plan| plan.run(given)).map_err(|e| format!("not on the CPU: {e}"))?;
    let products = Box::new(Products::new(device));
    let executable =
        Executable::load(Arc::new(graph.clone()), device, *compiler, products).map_err(|e| e.to_string())?;
    let results = executable.run(given).map_err(|e| e.to_string())?;
    let has_products = graph.nodes().any(|(_, n)| is_product(&n.op));
    // What is launched is recorded by the second run, and replayed by the third.
    for run in ["recorded", "replayed"] {
        let again = executable.run(given).map_err(|e| e.to_string())?;
        for (i, (found, again)) in results.iter().zip(&again).enumerate() {
            if let Some(differs) = bits_equal(found, again) {
                let name = &graph.outputs()[i].name;
                return Err(format!("`{name}`, launched and {run}, differs: {differs}"));
            }
        }
    }
    let mut worst = Apart::default();
    for (i, (want, found)) in want.iter().zip(&results).enumerate() {
        let name = &graph.outputs()[i].name;
        if let Some(differs) = bits_equal(want, found) {
            let apart = Apart::of(want, found);
            if !has_products {
                return Err(format!("`{name}`: {differs}"));
            }
            if is_far(graph, want, apart) {
                let Apart { angle, largest } = apart;
                return Err(format!(
                    "`{name}`: 1 - cosine is {angle:.1e}, the largest difference {largest:.1e} of the largest"
                ));
            }
            worst = worst.and(apart);
        }
    }
    Ok(Ran { results, apart: worst })
}

/// The graph without its products: what the CPU's made are inputs, what they read are results. So everything else has the same inputs on
/// both devices, and has to make the same bits.
pub fn between_products(graph: &Graph, given: &[Tensor]) -> Result<(Graph, Vec<Tensor>), String> {
    let mut made: Vec<(NodeId, Vec<Tensor>)> = Vec::new();
    let plan = cpu::Plan::new(graph).map_err(|e| e.to_string())?;
    let ran = plan.run_observed(given, &mut |done| {
        if is_product(&graph.node(done.node).op) {
            made.push((done.node, done.outputs.to_vec()));
        }
        Ok(())
    });
    ran.map_err(|e| e.to_string())?;
    let mut cut = graph.clone();
    let typed = |t: &Tensor| Type::tensor(t.dtype(), Shape::from_concrete(t.shape()));
    for (id, tensor) in graph.inputs().iter().zip(given) {
        *cut.type_mut(*id) = typed(tensor);
    }
    for (id, value) in graph.values() {
        if matches!(value.def, Def::Node { .. }) {
            (cut.type_mut(id).shape, cut.type_mut(id).strides) = (None, None);
        }
    }
    cut.declared_mut().for_each(|declared| *declared = Type::default());
    let mut inputs = given.to_vec();
    for (id, tensors) in made {
        let node = cut.node(id).clone();
        for (_, value) in node.operands() {
            if cut.producer(value).is_some() && !cut.is_output(value) {
                cut.add_output(cut.value(value).name.clone(), value);
            }
        }
        for (output, tensor) in node.outputs.iter().zip(tensors) {
            let input = cut.add_input(format!("made.{}", cut.value(*output).name), typed(&tensor));
            cut.replace_uses(*output, input);
            inputs.push(tensor);
        }
        cut.remove_node(id).map_err(|e| e.to_string())?;
    }
    Ok((cut, inputs))
}

/// Bytes of the arena, and of what is in use at one time at least; launches of a run.
pub fn memory(graph: &Graph, given: &[Tensor]) -> Result<(u64, u64, usize), String> {
    use normfuse::cuda::exec::{OnPaper, Plan, given as described};
    let host = host_inputs(graph).map_err(|e| e.to_string())?;
    let plan = Plan::new(graph, &described(&host, given), &OnPaper).map_err(|e| e.to_string())?;
    Ok((plan.arena().bytes, plan.arena().lower_bound, plan.launches()))
}
