//! Inputs of a graph: from a file, by name, or made up from a seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use normfuse::{
    cuda::exec::{Given, is_small},
    formats::{FormatError, parameters, ranges, tensors},
    ir::{DType, Def, Dim, Graph, Op, Shape, Tensor, Value, ValueId, tensor::byte_len},
};

use super::{
    args::Binding,
    bits,
    dice::Dice,
    failure::{Failure, Result},
};

/// Random inputs larger than this are refused: a size that a file merely claims must not fill the memory.
pub const MOST_BYTES: usize = 4 << 30;

/// What is to be done about a size that the program was not exported for.
const OTHER_SIZES: &str = "the program was exported for those sizes alone: export it for others, too";

/// The graph's inputs from a file, in the graph's order; those that the file lacks have their defaults, or weights that
/// were made up. Names match with or without `in.` before them; entries that
/// begin with `out.` or `out32.` are references that other programs keep beside the inputs.
pub fn load(graph: &Graph, path: &Path, made_up: &BTreeMap<String, Tensor>) -> Result<Vec<Tensor>> {
    let mut found: BTreeMap<String, Tensor> = BTreeMap::new();
    for (name, tensor) in tensors::read(path)? {
        if name.starts_with("out.") || name.starts_with("out32.") {
            continue;
        }
        let bare = name.strip_prefix("in.").unwrap_or(&name).to_owned();
        if found.insert(bare, tensor).is_some() {
            return Err(FormatError::invalid(format!("two tensors are named `{name}`")).in_file(path).into());
        }
    }
    let inputs: Vec<&Value> = graph.inputs().iter().map(|v| graph.value(*v)).collect();
    let all = || inputs.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
    let parameters = parameters::without_data(graph)?;
    let is_parameter = |name: &str| parameters.iter().any(|v| graph.value(*v).name == name);
    let mut bound = Vec::with_capacity(inputs.len());
    for value in &inputs {
        let given = found.remove(value.name.strip_prefix("in.").unwrap_or(&value.name));
        let other = || value.stored().or_else(|| made_up.get(&value.name)).cloned();
        let tensor = given.or_else(other).ok_or_else(|| {
            let hint = if is_parameter(&value.name) {
                "it is a parameter without data: give --weights FILE, or --random-weights SEED for a trial".into()
            } else {
                format!("the graph takes: {}", all())
            };
            FormatError::mismatch(format!("input `{}`", value.name), "no tensor of that name").in_file(path).hint(hint)
        })?;
        let at_input = |e: FormatError| e.at_port(format!("input `{}`", value.name)).in_file(path);
        of_declared_sizes(&tensor, value).map_err(at_input)?;
        bound.push(as_declared(tensor, value).map_err(|e| at_input(FormatError::invalid(e)))?);
    }
    if let Some(name) = found.keys().next() {
        let found = format!("tensor `{name}`, which is no input");
        return Err(FormatError::mismatch(format!("inputs {}", all()), found).in_file(path).into());
    }
    in_range(graph, &inputs, &bound).map_err(|e| e.in_file(path))?;
    Ok(bound)
}

/// # Errors
/// A size that the program was not exported for.
fn in_range(graph: &Graph, inputs: &[&Value], given: &[Tensor]) -> Result<(), FormatError> {
    for range in ranges::of(graph) {
        for (value, tensor) in inputs.iter().zip(given) {
            let axes = value.ty.shape.iter().flat_map(|s| &s.0).zip(tensor.shape());
            let mut sizes = axes.enumerate().filter(|(_, (dim, _))| **dim == Dim::from(range.symbol.as_str()));
            let Some((axis, (_, size))) =
                sizes.find(|(_, (_, n))| !i64::try_from(**n).is_ok_and(|n| range.contains(n)))
            else {
                continue;
            };
            return Err(FormatError::mismatch(format!("`{}` {}", range.symbol, range.sizes()), format!("{size}"))
                .at_port(format!("input `{}`, axis {axis}", value.name))
                .hint(OTHER_SIZES));
        }
    }
    Ok(())
}

/// # Errors
/// Another number of axes than the graph declares, or another size of one that is a number there.
fn of_declared_sizes(tensor: &Tensor, value: &Value) -> Result<(), FormatError> {
    let Some(declared) = &value.ty.shape else { return Ok(()) };
    let found = tensor.shape();
    let same = |(dim, n): (&Dim, &usize)| dim.as_const().is_none_or(|size| i64::try_from(*n) == Ok(size));
    if declared.rank() == found.len() && declared.0.iter().zip(found).all(same) {
        return Ok(());
    }
    let (expected, found) = (format!("{} axes, {declared}", declared.rank()), format!("{}, {found:?}", found.len()));
    Err(FormatError::mismatch(expected, found)
        .hint("the graph takes these sizes: transpose, reshape or cut the tensor"))
}

/// The tensor in the dtype that the graph declares, if no value changes by that.
fn as_declared(tensor: Tensor, value: &Value) -> Result<Tensor, String> {
    match value.ty.dtype {
        Some(to) if to != tensor.dtype() => bits::cast_exactly(&tensor, to)
            .map_err(|e| format!("expected {to}, found {} that does not convert exactly: {e}", tensor.dtype())),
        _ => Ok(tensor),
    }
}

/// Symbols in the shapes of the inputs that callers must give, in order of appearance.
pub fn symbols(graph: &Graph) -> Vec<String> {
    let mut symbols: Vec<String> = Vec::new();
    for value in graph.inputs().iter().map(|v| graph.value(*v)).filter(|v| v.stored().is_none()) {
        for dim in value.ty.shape.iter().flat_map(|s| &s.0) {
            dim.visit_symbols(&mut |s| {
                if !symbols.iter().any(|known| known == s) {
                    symbols.push(s.to_owned());
                }
            });
        }
    }
    symbols
}

/// Sizes by name, from `--dim`.
///
/// # Errors
/// A name that no input's shape has, a size that the program was not exported for.
pub fn bindings(graph: &Graph, dims: &[Binding]) -> Result<BTreeMap<String, i64>> {
    let (known, ranges) = (symbols(graph), ranges::of(graph));
    let mut bound = BTreeMap::new();
    for b in dims {
        if !known.contains(&b.name) {
            let has = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(Failure::Usage(format!(
                "--dim {}: no input has such a dimension; symbolic ones: {has}",
                b.name
            )));
        }
        if let Some(range) = ranges.iter().find(|r| r.symbol == b.name && !r.contains(b.size)) {
            return Err(Failure::Usage(format!(
                "--dim {}={}: expected a size {}; {OTHER_SIZES}",
                b.name,
                b.size,
                range.sizes()
            )));
        }
        bound.insert(b.name.clone(), b.size);
    }
    Ok(bound)
}

/// Random inputs of the sizes that `dims` gives, in the graph's order; equal seeds give equal inputs.
///
/// Inputs with a default have that, and parameters without data the weights that were made up for them. Floats are spread around 0, now and then a large one. Integers that index a table stay inside it; the others are 1
/// (the meaning of a mask that hides nothing) or, under odd seeds, 0 and 1.
///
/// # Errors
/// Parameters for which no weights were made up; an input whose type is not known, a symbol that is not bound, inputs of
/// more than `most` bytes together.
pub fn random(
    graph: &Graph,
    seed: u64,
    dims: &BTreeMap<String, i64>,
    most: usize,
    made_up: &BTreeMap<String, Tensor>,
) -> Result<Vec<Tensor>> {
    let open = parameters::without_data(graph)?.into_iter().map(|v| graph.value(v).name.as_str());
    let open: Vec<&str> = open.filter(|name| !made_up.contains_key(*name)).collect();
    if let Some(first) = open.first() {
        return Err(Failure::Usage(format!(
            "{} parameters have no data, `{first}` the first: give --weights FILE, or --random-weights SEED for a trial",
            open.len()
        )));
    }
    if let Some(flags) = unbound(graph, dims) {
        return Err(Failure::Usage(format!(
            "random inputs need the sizes of symbolic dimensions: {flags} (or give --inputs)"
        )));
    }
    let mut left = most;
    let mut made = Vec::new();
    for (i, id) in graph.inputs().iter().enumerate() {
        let value = graph.value(*id);
        if let Some(given) = value.stored().or_else(|| made_up.get(&value.name)) {
            made.push(given.clone());
            continue;
        }
        let at = |message: String| Failure::Usage(format!("input `{}`: {message}", value.name));
        let (Some(dtype), Some(shape)) = (value.ty.dtype, &value.ty.shape) else {
            return Err(at("the graph does not say its type; give --inputs".into()));
        };
        let shape = concrete(shape, dims).map_err(at)?;
        let bytes = byte_len(dtype, &shape).map_err(|e| at(e.to_string()))?;
        left = left.checked_sub(bytes).ok_or_else(|| {
            at(format!("{dtype}{shape:?} and the inputs before it take more than {} MiB", most >> 20))
        })?;
        let mut dice = Dice::new(seed, i as u64);
        made.push(fill(dtype, &shape, &mut dice, bound_of_index(graph, *id), seed).map_err(at)?);
    }
    Ok(made)
}

/// The flags that are missing, if the sizes of some symbols are.
fn unbound(graph: &Graph, dims: &BTreeMap<String, i64>) -> Option<String> {
    let free = symbols(graph).into_iter().filter(|s| !dims.contains_key(s));
    let flags: Vec<String> = free.map(|s| format!("--dim {s}=N")).collect();
    (!flags.is_empty()).then(|| flags.join(" "))
}

/// What inputs of these sizes are, for a plan: those that decide sizes have the contents of [`random`] inputs, the others none.
///
/// # Errors
/// As [`random`], but for parameters without data, which a plan does not need.
pub fn described(graph: &Graph, dims: &BTreeMap<String, i64>, read: &BTreeSet<usize>) -> Result<Vec<Given>> {
    if let Some(flags) = unbound(graph, dims) {
        return Err(Failure::Usage(format!("a plan needs the sizes of symbolic dimensions: {flags}")));
    }
    let one = |(i, id): (usize, &ValueId)| {
        let value = graph.value(*id);
        let at = |message: String| Failure::Usage(format!("input `{}`: {message}", value.name));
        let unknown = || at("the graph does not say its type".into());
        let (dtype, shape) = value.ty.dtype.zip(value.ty.shape.as_ref()).ok_or_else(unknown)?;
        let shape = concrete(shape, dims).map_err(at)?;
        let contents = (read.contains(&i) && is_small(&shape)).then(|| match value.stored() {
            Some(tensor) => Ok(tensor.bytes().to_vec()),
            None => fill(dtype, &shape, &mut Dice::new(0, i as u64), bound_of_index(graph, *id), 0)
                .map(|t| t.bytes().to_vec())
                .map_err(at),
        });
        Ok(Given { typed: (dtype, shape), contents: contents.transpose()? })
    };
    graph.inputs().iter().enumerate().map(one).collect()
}

/// The size itself, or one from the range on that the program was exported for.
pub fn exported_size(ranges: &[ranges::Range], symbol: &str, size: i64) -> i64 {
    let Some(range) = ranges.iter().find(|r| r.symbol == symbol && !r.contains(size)) else { return size };
    let above = range.min.filter(|min| size < *min).map_or(size, |min| min.saturating_add(size));
    range.max.map_or(above, |max| above.min(max))
}

fn concrete(shape: &Shape, dims: &BTreeMap<String, i64>) -> Result<Vec<usize>, String> {
    let size = |d: &Dim| d.eval(&|s| dims.get(s).copied()).and_then(|n| usize::try_from(n).ok());
    shape.0.iter().map(|d| size(d).ok_or_else(|| format!("`{d}` is not a size under these --dim"))).collect()
}

/// The length of the axis that an integer input indexes, where it does.
fn bound_of_index(graph: &Graph, input: ValueId) -> Option<u64> {
    let mut bound: Option<u64> = None;
    let mut queue = vec![input];
    let mut seen = BTreeSet::new();
    while let Some(value) = queue.pop() {
        for (user, port) in graph.users(value) {
            let node = graph.node(user);
            match &node.op {
                Op::Gather { axis } if port == 1 => {
                    let length = node.input(0).and_then(|table| axis_length(graph, table, *axis));
                    bound = bound.into_iter().chain(length).min();
                }
                Op::Unary(normfuse::ir::op::UnaryOp::Identity)
                | Op::Cast { .. }
                | Op::Reshape { .. }
                | Op::Squeeze { .. }
                | Op::Unsqueeze { .. }
                | Op::Flatten { .. }
                | Op::Transpose { .. }
                | Op::Expand
                    if port == 0 && seen.insert(user) =>
                {
                    queue.extend(&node.outputs);
                }
                _ => {}
            }
        }
    }
    bound
}

fn axis_length(graph: &Graph, table: ValueId, axis: i64) -> Option<u64> {
    let value = graph.value(table);
    let axis_of = |rank: usize| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok();
    if let Def::Const(t) = &value.def {
        return t.shape().get(axis_of(t.shape().len())?).map(|n| *n as u64);
    }
    let shape = value.ty.shape.as_ref()?;
    shape.0.get(axis_of(shape.rank())?)?.as_const().and_then(|n| u64::try_from(n).ok())
}

fn fill(dtype: DType, shape: &[usize], dice: &mut Dice, bound: Option<u64>, seed: u64) -> Result<Tensor, String> {
    let count: usize = shape.iter().product();
    if dtype.is_float() {
        return dice.floats(dtype, shape, Dice::activation).map_err(|e| e.to_string());
    }
    let mut draw = || match bound {
        Some(n) => dice.next() % n.clamp(1, 100),
        None if seed % 2 == 1 => dice.next() % 2,
        None => 1,
    };
    let values: Vec<i64> = (0..count).map(|_| draw() as i64).collect();
    bits::cast(&Tensor::from_i64(shape, &values), dtype).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use normfuse::ir::{NodeId, Type};

    use super::*;

    fn lookup() -> (Graph, NodeId) {
        let mut g = Graph::new("g");
        let shape: Shape = vec![Dim::from("batch"), Dim::from("seq") + Dim::from(1)].into();
        let ids = g.add_input("ids", Type::tensor(DType::I64, shape));
        let table = g.add_const("table", Tensor::from_f32(&[3, 2], &[0.0; 6]));
        let node = g.add_node("n", Op::Gather { axis: 0 }, &[Some(table), Some(ids)], ["y"]).unwrap();
        g.add_output("y", g.node(node).outputs[0]);
        (g, node)
    }

    fn values(t: &Tensor) -> Vec<f64> {
        bits::numbers(t).unwrap()
    }

    #[test]
    fn indices_stay_inside_their_table_and_repeat_with_the_seed() {
        let (g, _) = lookup();
        let dims = BTreeMap::from([("batch".to_owned(), 3), ("seq".to_owned(), 20)]);
        let a = random(&g, 7, &dims, MOST_BYTES, &BTreeMap::new()).unwrap().remove(0);
        assert_eq!(a.shape(), [3, 21]);
        assert!(values(&a).iter().all(|v| (0.0..3.0).contains(v)) && values(&a).contains(&2.0));
        assert_eq!(values(&a), values(&random(&g, 7, &dims, MOST_BYTES, &BTreeMap::new()).unwrap()[0]));
        assert_ne!(values(&a), values(&random(&g, 8, &dims, MOST_BYTES, &BTreeMap::new()).unwrap()[0]));
    }

    #[test]
    fn sizes_that_are_missing_are_listed() {
        let (g, _) = lookup();
        let e = random(&g, 0, &BTreeMap::new(), MOST_BYTES, &BTreeMap::new()).unwrap_err().to_string();
        assert!(e.contains("--dim batch=N --dim seq=N"), "{e}");
        let e = bindings(&g, &[Binding { name: "sea".into(), size: 2 }]).unwrap_err().to_string();
        assert!(e.contains("batch, seq"), "{e}");
    }

    #[test]
    fn sizes_that_the_program_was_not_exported_for_are_refused() {
        let (mut g, _) = lookup();
        g.info.metadata.push(("torch.export.ranges".into(), "2..99 batch; 3.. seq".into()));
        let dim = |name: &str, size| [Binding { name: name.into(), size }];
        assert_eq!(bindings(&g, &dim("batch", 99)).unwrap().len(), 1);
        let e = bindings(&g, &dim("batch", 200)).unwrap_err().to_string();
        assert!(e.contains("--dim batch=200: expected a size from 2 to 99"), "{e}");
        let e = bindings(&g, &dim("seq", 2)).unwrap_err().to_string();
        assert!(e.contains("--dim seq=2: expected a size from 3 on"), "{e}");
        let inputs: Vec<&Value> = g.inputs().iter().map(|v| g.value(*v)).collect();
        let of = |rows: usize| in_range(&g, &inputs, &[Tensor::from_i64(&[rows, 4], &vec![0; rows * 4])]);
        of(99).unwrap();
        let e = of(1).unwrap_err().to_string();
        assert!(e.contains("input `ids`, axis 0") && e.contains("expected `batch` from 2 to 99, found 1"), "{e}");
    }

    #[test]
    fn sizes_that_fill_the_memory_are_refused() {
        let (g, _) = lookup();
        for size in [i64::MAX, 1 << 40, 1 << 30] {
            let dims = BTreeMap::from([("batch".to_owned(), size), ("seq".to_owned(), size)]);
            assert!(random(&g, 0, &dims, MOST_BYTES, &BTreeMap::new()).is_err());
        }
    }
}
