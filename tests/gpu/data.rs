//! What graphs run on: inputs that an exporter left beside the model, or others.

use std::{collections::BTreeMap, path::Path};

use normfuse::{
    formats::{parameters, tensors},
    ir::{DType, Graph, Tensor, Value, ValueId, eval, tensor::byte_len},
};

use crate::files::input_shapes;

/// Numbers that look like none, the same in every run.
struct Dice(u32);

impl Dice {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// From -1 to 1.
    fn spread(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// Spread numbers of both signs, now and then a large one; integers from 0 to 2. Parameters that the file has no data of are small, so
/// that rows do not grow: a vector is near 1, a matrix makes rows no longer.
pub fn made_up(graph: &Graph, size: i64) -> Vec<Tensor> {
    let mut dice = Dice(0x9e37_79b9);
    let open = parameters::without_data(graph).unwrap();
    let mut tensor = |(id, shape): (&ValueId, Vec<usize>)| {
        let value = graph.value(*id);
        if let Some(stored) = value.stored() {
            return stored.clone();
        }
        let count: usize = shape.iter().product();
        let dtype = value.ty.dtype.unwrap();
        let matrix = shape.len() > 1 && shape[shape.len() - 1] > 1;
        let mut number = || match dtype {
            DType::Bool => 1.0,
            _ if dtype.is_int() => (dice.next() % 3) as f32,
            _ if open.contains(id) && matrix => dice.spread() / (shape[shape.len() - 1] as f32).sqrt(),
            _ if open.contains(id) => 1.0 + 0.05 * dice.spread(),
            _ if dice.next().is_multiple_of(37) => 20.0 * dice.spread(),
            _ => dice.spread(),
        };
        let numbers: Vec<f32> = (0..count).map(|_| number()).collect();
        eval::cast(&Tensor::from_f32(&shape, &numbers), dtype, true).unwrap()
    };
    graph.inputs().iter().zip(input_shapes(graph, size)).map(&mut tensor).collect()
}

/// Bytes of the parameters that the file has no data of.
pub fn missing_bytes(graph: &Graph) -> usize {
    let bytes = |v: &Value| {
        let sizes = v.ty.shape.as_ref()?.0.iter().map(|d| usize::try_from(d.as_const()?).ok());
        byte_len(v.ty.dtype?, &sizes.collect::<Option<Vec<_>>>()?).ok()
    };
    parameters::without_data(graph).unwrap().into_iter().filter_map(|id| bytes(graph.value(id))).sum()
}

/// Inputs of a model: those of `NAME.ref.npz` or `NAME.npz` beside it, by name, or by their order in a program of torch.export, which
/// calls them otherwise; made up where there are none.
pub fn inputs(path: &Path, graph: &Graph) -> Vec<Tensor> {
    let beside = ["ref.npz", "npz"].map(|end| path.with_extension(end)).into_iter().find(|p| p.exists());
    let Some(file) = beside.filter(|_| path.extension().is_none_or(|e| e != "nf")) else { return made_up(graph, 7) };
    let read = tensors::read(&file).unwrap();
    let ordered: Vec<&Tensor> = read.iter().filter(|(n, _)| n.starts_with("in.")).map(|(_, t)| t).collect();
    let named: BTreeMap<&str, &Tensor> = read.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let open = parameters::without_data(graph).unwrap();
    let asked: Vec<ValueId> =
        graph.inputs().iter().copied().filter(|v| graph.value(*v).stored().is_none() && !open.contains(v)).collect();
    let by_name = |id: &ValueId| {
        let name = &graph.value(*id).name;
        named.get(format!("in.{name}").as_str()).or_else(|| named.get(name.as_str())).copied()
    };
    let found: Option<Vec<&Tensor>> = asked.iter().map(by_name).collect();
    let Some(found) = found.or_else(|| (ordered.len() == asked.len()).then_some(ordered)) else {
        return made_up(graph, 7);
    };
    let mut all = if open.is_empty() {
        vec![None; graph.inputs().len()]
    } else {
        made_up(graph, 7).into_iter().map(Some).collect()
    };
    for (all, id) in all.iter_mut().zip(graph.inputs()) {
        let value = graph.value(*id);
        if let Some(at) = asked.iter().position(|v| v == id) {
            let to = value.ty.dtype.unwrap();
            *all = Some(if found[at].dtype() == to {
                found[at].clone()
            } else {
                eval::cast(found[at], to, true).unwrap()
            });
        } else if let Some(stored) = value.stored() {
            *all = Some(stored.clone());
        }
    }
    all.into_iter().map(Option::unwrap).collect()
}
