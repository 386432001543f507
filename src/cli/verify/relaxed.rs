//! How far a relaxed op may be from what the source has in its place.
//!
//! Outputs of a whole graph have no bound: what one op changes, the next ones may magnify. So each relaxed op is held against the source by
//! itself, on the source's own operands. What has the name of one of the source's values is that value; what the pass has put between
//! (views, transposes, casts) is computed.
//!
//! - `single-rounding`: the op against the exact one. The value that is quantised has changed by half a unit of bf16 at most, so a scale changes by that
//!   (a power of two, or a scale of few bits: to its neighbour), and a code by what its scale does, and to its neighbour.
//! - `scaled-matmul`: codes times scales against each operand of the source's product, by the roundings that the source has on the way to
//!   it; and the product, by these, what sums of f32 round, and the roundings of both results.

mod moved;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use normfuse::{
    cpu::Plan,
    ir::{
        self, DType, Error, ErrorKind, Graph, NodeId, Op, Tensor, Type, ValueId,
        eval::eval_node,
        fused::{FusedNorm, OutPort},
        infer,
        op::BinaryOp,
        scaled::ScalePer,
        scheme::{Packing, ScaleLayout, Scheme},
    },
    passes::Report,
};

use self::moved::Moved;
use super::{Pair, Run};
use crate::cli::{
    bits,
    failure::{Failure, Result},
};

/// Half a unit in the last place of bf16, which is more than one of f16: what a rounding to 16 bits changes at most.
const ROUNDING: f64 = 1.0 / 256.0;
/// From here on a number in 16 bits may be infinite.
const LARGE: f64 = 32768.0;
/// Most nodes between a product of the source and what dequantises its operand.
const BETWEEN: usize = 32;

impl Pair<'_> {
    /// Holds each op that was relaxed against the source, over the same runs. `exact` is the graph as it is without relaxations.
    ///
    /// # Errors
    /// The first op that is further from the source than its relaxation allows.
    pub fn check_relaxed(&self, runs: &[Run], exact: &Graph, report: &Report) -> Result<()> {
        let failed = |e: &Error| Failure::Check(format!("a relaxed op does not run on the source's values: {e}"));
        let mut typed = self.original.clone();
        infer::infer(&mut typed).map_err(Failure::of_graph(self.original_file))?;
        let relaxed = Relaxed { source: &typed, exact, made: self.rewritten, plan: &self.original_plan };
        for run in runs {
            let far = relaxed.further(&run.given, report).map_err(|e| failed(&e))?;
            if let Some(why) = far {
                return Err(Failure::Check(format!("{why} ({})", run.label)));
            }
        }
        Ok(())
    }
}

struct Relaxed<'g> {
    source: &'g Graph,
    exact: &'g Graph,
    made: &'g Graph,
    plan: &'g Plan,
}

impl Relaxed<'_> {
    /// The first op that is too far from the source, if one is.
    fn further(&self, given: &[Tensor], report: &Report) -> ir::Result<Option<String>> {
        let kept = self.kept(given, report)?;
        let mut exact = Forced::new([self.source, self.exact, self.exact], &kept);
        let mut names: Vec<&String> =
            report.sites.iter().filter(|s| !s.relaxed.is_empty()).filter_map(|s| s.op.as_ref()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let (Some(before), Some(after)) = (named(self.exact, name), named(self.made, name)) else {
                return Ok(Some(format!("`{name}` is in only one of the exact and the relaxed graph")));
            };
            if let Some(why) = self.norm(&mut exact, before, after)? {
                return Ok(Some(format!("`{name}` is not what single-rounding makes of it: {why}")));
            }
        }
        let mut made = Forced::new([self.source, self.exact, self.made], &kept);
        for product in &report.products {
            if let ([source], Some(id)) = (&products(self.source, &product.node)[..], named(self.made, &product.op)) {
                let made_of = self.source.node(*source).outputs[0];
                made.place(self.end(id, *source), made_of)?;
            }
        }
        for product in &report.products {
            let sources = products(self.source, &product.node);
            let (false, Some(after)) = (sources.is_empty(), named(self.made, &product.op)) else {
                return Ok(Some(format!("there is no `{}`, or no `{}` in its place", product.node, product.op)));
            };
            // Names of nodes may be there twice.
            let mut far = None;
            for before in sources {
                far = self.product(&mut made, before, after)?;
                if far.is_none() {
                    break;
                }
            }
            if let Some(why) = far {
                let (op, node) = (&product.op, &product.node);
                return Ok(Some(format!("`{op}` is not what scaled-matmul makes of `{node}`: {why}")));
            }
        }
        Ok(None)
    }

    /// The source's values that the other graphs have too, and those around its products.
    fn kept(&self, given: &[Tensor], report: &Report) -> ir::Result<BTreeMap<String, Tensor>> {
        let mut wanted: BTreeSet<&str> =
            self.made.values().chain(self.exact.values()).map(|(_, v)| v.name.as_str()).collect();
        for id in report.products.iter().flat_map(|p| products(self.source, &p.node)) {
            let node = self.source.node(id);
            let around = node.operands().map(|(_, v)| v).chain(node.outputs.iter().copied());
            wanted.extend(around.map(|v| self.source.value(v).name.as_str()));
        }
        let name = |v: ValueId| self.source.value(v).name.clone();
        let mut kept: BTreeMap<String, Tensor> =
            self.source.inputs().iter().zip(given).map(|(v, t)| (name(*v), t.clone())).collect();
        for (_, value) in self.source.values() {
            if let (Some(tensor), true) = (value.as_const(), wanted.contains(value.name.as_str())) {
                kept.insert(value.name.clone(), tensor.clone());
            }
        }
        self.plan.run_observed(given, &mut |done| {
            let outputs = &self.source.node(done.node).outputs;
            let shared =
                outputs.iter().map(|v| name(*v)).zip(done.outputs).filter(|(n, _)| wanted.contains(n.as_str()));
            kept.extend(shared.map(|(n, t)| (n, t.clone())));
            Ok(())
        })?;
        Ok(kept)
    }

    /// Why an op is not the exact one but for a rounding.
    fn norm(&self, values: &mut Forced<'_>, before: NodeId, after: NodeId) -> ir::Result<Option<String>> {
        let (old, new) = (self.exact.node(before), self.made.node(after));
        let (Op::FusedNorm(exact), Op::FusedNorm(relaxed)) = (&old.op, &new.op) else {
            return Ok(Some("it is no fused norm".into()));
        };
        // An operand may be another one where the pass has relaxed what makes it, and then it has a new name.
        let name = |g: &Graph, v: ValueId| g.value(v).name.clone();
        let here: BTreeSet<String> = self.exact.values().map(|(_, v)| v.name.clone()).collect();
        let operands = old.operands().zip(new.operands()).map(|(o, n)| (name(self.exact, o.1), name(self.made, n.1)));
        if let Some((want, found)) = operands.into_iter().find(|(want, found)| want != found && here.contains(found)) {
            return Ok(Some(format!("it reads `{found}`, expected `{want}`")));
        }
        let operands: Vec<Tensor> = old.operands().map(|(_, v)| values.value(v)).collect::<ir::Result<_>>()?;
        let refs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
        let results = (eval_node(&old.op, &refs)?, eval_node(&new.op, &refs)?);
        let ports = exact.out_ports();
        if ports != relaxed.out_ports() {
            return Ok(Some("it has other results".into()));
        }
        let all: Vec<(OutPort, Tensor, Tensor)> =
            ports.into_iter().zip(results.0).zip(results.1).map(|((p, a), b)| (p, a, b)).collect();
        for (port, want, found) in &all {
            if let Some(why) = result(exact, relaxed, *port, (want, found), &all)? {
                return Ok(Some(format!("{port}: {why}")));
            }
        }
        Ok(None)
    }

    /// The value that has the place of a product: with what that adds, where it is added behind.
    fn end(&self, id: NodeId, source: NodeId) -> ValueId {
        let mut at = self.made.node(id).outputs[0];
        let adds = |id: NodeId| matches!(self.made.node(id).op, Op::Binary(BinaryOp::Add));
        if self.source.node(source).input(2).is_some()
            && self.made.node(id).input(4).is_none()
            && let [(add, 0)] = self.made.users(at)[..]
            && adds(add)
        {
            at = self.made.node(add).outputs[0];
            let wanted = self.source.value(self.source.node(source).outputs[0]).ty.dtype;
            if self.made.value(at).ty.dtype != wanted
                && let [(cast, 0)] = self.made.users(at)[..]
            {
                at = self.made.node(cast).outputs[0];
            }
        }
        at
    }

    /// Why a product of codes is not the source's product.
    fn product(&self, values: &mut Forced<'_>, before: NodeId, after: NodeId) -> ir::Result<Option<String>> {
        let (old, new) = (self.source.node(before), self.made.node(after));
        let Op::ScaledMatMul(op) = new.op else { return Ok(Some("it is no scaled product".into())) };
        let operands: Vec<Tensor> = new.operands().map(|(_, v)| values.value(v)).collect::<ir::Result<_>>()?;
        let refs: Vec<Option<&Tensor>> = operands.iter().map(Some).collect();
        let y = eval_node(&new.op, &refs)?.remove(0);
        let [a, b, scale_a, scale_b, ..] = &operands[..] else {
            return Ok(Some("it has too few operands".into()));
        };
        let sides = [numbers(a, scale_a, op.a)?, numbers(b, scale_b, op.b)?];
        let mut roundings = [0.0; 2];
        let k = a.shape().last().copied().unwrap_or(1);
        let n = b.shape().first().copied().unwrap_or(1);
        for (i, side) in sides.iter().enumerate() {
            let operand = old.input(i).ok_or_else(|| structure("a product without operands"))?;
            let want = bits::numbers(&values.of_source(operand)?)?;
            if want.len() != side.len() {
                return Ok(Some(format!("operand {i} has {} elements, expected {}", side.len(), want.len())));
            }
            roundings[i] = roundings_before(self.source, operand);
            // The right one is stored as the op has it, or the other way.
            let by_rows = i == 0 || matches!(old.op, Op::Gemm { trans_b: true, .. });
            let at = |j: usize| if by_rows { j } else { j % k * n + j / k };
            let tiny = if self.source.value(operand).ty.dtype == Some(DType::F16) { 2f64.powi(-24) } else { 1e-37 };
            for (j, found) in side.iter().enumerate() {
                let want = want[at(j)];
                if !near(want, *found, 2.0 * roundings[i] * found.abs() + tiny) {
                    let which = ["left", "right"][i];
                    return Ok(Some(format!("element {j} of its {which} operand is {found:e}, expected {want:e}")));
                }
            }
        }
        let out = old.outputs[0];
        let (want, mut found) = (bits::numbers(&values.of_source(out)?)?, bits::numbers(&y)?);
        if let (Some(bias), None) = (old.input(2), operands.get(4)) {
            let bias = bits::numbers(&values.of_source(bias)?)?;
            found.iter_mut().zip(bias.iter().cycle()).for_each(|(y, bias)| *y += bias);
        }
        if want.len() != found.len() {
            return Ok(Some(format!("it has {} elements, expected {}", found.len(), want.len())));
        }
        let ends = unit(self.source.value(out).ty.dtype.unwrap_or(op.to)) + unit(op.to);
        let [ra, rb] = roundings.map(|r| 2.0 * r);
        let inner = ra + rb + ra * rb + 4.0 * (k as f64 + 8.0) * unit(DType::F32);
        let most = magnitudes(&sides, k, n)?;
        for (j, (want, found)) in want.iter().zip(&found).enumerate() {
            if want.is_finite() && !near(*want, *found, inner * most[j] + 2.0 * ends * want.abs() + 2f64.powi(-24)) {
                return Ok(Some(format!("element {j} is {found:e}, expected {want:e}")));
            }
        }
        Ok(None)
    }
}

/// Values of a graph, with those of the source under its names.
struct Forced<'g> {
    source: &'g Graph,
    graph: &'g Graph,
    kept: &'g BTreeMap<String, Tensor>,
    types: HashMap<&'g str, &'g Type>,
    /// Fused ops without relaxations.
    ops: HashMap<&'g str, &'g Op>,
    made: HashMap<ValueId, Tensor>,
}

impl<'g> Forced<'g> {
    fn new([source, exact, graph]: [&'g Graph; 3], kept: &'g BTreeMap<String, Tensor>) -> Self {
        let types = source.values().map(|(_, v)| (v.name.as_str(), &v.ty)).collect();
        let ops = exact.nodes().filter(|(_, n)| n.op.is_fused()).map(|(_, n)| (n.name.as_str(), &n.op)).collect();
        Self { source, graph, kept, types, ops, made: HashMap::new() }
    }

    /// Says that a value is one of the source's under another name.
    fn place(&mut self, value: ValueId, of_source: ValueId) -> ir::Result<()> {
        let dtype = self.graph.value(value).ty.dtype;
        let tensor = self.of_source(of_source)?;
        let tensor = ir::eval::cast(&tensor, dtype.unwrap_or(tensor.dtype()), true)?;
        self.made.insert(value, tensor);
        Ok(())
    }

    /// A value of the source itself.
    fn of_source(&self, v: ValueId) -> ir::Result<Tensor> {
        let value = self.source.value(v);
        let kept = self.kept.get(&value.name).or_else(|| value.stored());
        kept.cloned().ok_or_else(|| structure(format!("`{}` was not computed", value.name)))
    }

    fn known(&self, v: ValueId) -> Option<&Tensor> {
        let value = self.graph.value(v);
        // Under the same name, an op may hand out the same elements in another shape.
        let same = |ty: &&Type| ty.dtype == value.ty.dtype && ty.shape == value.ty.shape;
        let of_source = || self.kept.get(&value.name).filter(|_| self.types.get(value.name.as_str()).is_some_and(same));
        self.made.get(&v).or_else(|| value.as_const()).or_else(of_source)
    }

    fn value(&mut self, v: ValueId) -> ir::Result<Tensor> {
        let mut stack = vec![v];
        while let Some(&at) = stack.last() {
            if self.known(at).is_some() {
                stack.pop();
                continue;
            }
            let name = &self.graph.value(at).name;
            let (id, _) = self.graph.producer(at).ok_or_else(|| structure(format!("`{name}` has no data")))?;
            let node = self.graph.node(id);
            let open: Vec<ValueId> = node.operands().map(|(_, v)| v).filter(|v| self.known(*v).is_none()).collect();
            if !open.is_empty() {
                stack.extend(open);
                continue;
            }
            let operands: Vec<Option<&Tensor>> = node.inputs.iter().map(|v| v.and_then(|v| self.known(v))).collect();
            // Where the source has no name for what a relaxed op makes, it is what the exact op makes.
            let op = self.ops.get(node.name.as_str()).copied().filter(|_| node.op.is_fused()).unwrap_or(&node.op);
            let results = eval_node(op, &operands)?;
            self.made.extend(node.outputs.iter().copied().zip(results));
        }
        self.known(v).cloned().ok_or_else(|| structure("a value that was not computed"))
    }
}

fn named(graph: &Graph, name: &str) -> Option<NodeId> {
    graph.nodes().find(|(_, n)| n.name == name).map(|(id, _)| id)
}

/// The products of that name.
fn products(graph: &Graph, name: &str) -> Vec<NodeId> {
    let product = |op: &Op| matches!(op, Op::MatMul | Op::Gemm { .. });
    graph.nodes().filter(|(_, n)| n.name == name && product(&n.op)).map(|(id, _)| id).collect()
}

fn structure(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Structure, message.into())
}

/// True of numbers that are so far apart at most. What is infinite in the source may be a large number, and NaN what it makes of that.
fn near(want: f64, found: f64, most: f64) -> bool {
    let off_range = !want.is_finite() && (!found.is_finite() || found.abs() >= LARGE);
    off_range || (want - found).abs() <= most
}

/// Half a unit in the last place, relative.
const fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => ROUNDING,
        DType::F16 => 1.0 / 2048.0,
        DType::F64 => 0.0,
        _ => 1.0 / (1u64 << 24) as f64,
    }
}

/// What the source rounds, relative, between codes and an operand of a product.
fn roundings_before(source: &Graph, operand: ValueId) -> f64 {
    let (mut at, mut sum) = (operand, 0.0);
    for _ in 0..BETWEEN {
        let Some((id, _)) = source.producer(at) else { break };
        let node = source.node(id);
        let own = source.value(at).ty.dtype.map_or(ROUNDING, unit);
        match node.op {
            Op::Binary(BinaryOp::Mul) | Op::DequantizeLinear { .. } => return sum + own,
            Op::Cast { .. } => sum += own,
            _ => {}
        }
        let Some(before) = node.input(0) else { break };
        at = before;
    }
    sum + ROUNDING
}

/// What codes stand for, row by row.
fn numbers(codes: &Tensor, scales: &Tensor, per: ScalePer) -> ir::Result<Vec<f64>> {
    let k = codes.shape().last().copied().unwrap_or(1).max(1);
    let (values, scales) = (bits::numbers(codes)?, bits::numbers(scales)?);
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    let scale = |i: usize| match per {
        ScalePer::Tensor => 0,
        ScalePer::Row => i / k,
        ScalePer::Block(r, c) => i / k / size(r) * k.div_ceil(size(c)) + i % k / size(c),
    };
    let of = |(i, v): (usize, &f64)| scales.get(scale(i)).map(|s| v * s).ok_or_else(|| structure("too few scales"));
    values.iter().enumerate().map(of).collect()
}

/// The product of the magnitudes of two matrices, the second one of which is `[n, k]`.
fn magnitudes([a, b]: &[Vec<f64>; 2], k: usize, n: usize) -> ir::Result<Vec<f64>> {
    let narrow = |side: &[f64]| side.iter().map(|v| v.abs() as f32).collect::<Vec<_>>();
    let left = Tensor::from_f32(&[a.len() / k.max(1), k], &narrow(a));
    let right = ir::eval::movement::transpose(&Tensor::from_f32(&[n, k], &narrow(b)), None)?;
    bits::numbers(&ir::eval::matmul(&left, &right)?)
}

/// Why a result of a relaxed norm is not the exact one but for a rounding.
fn result(
    exact: &FusedNorm,
    relaxed: &FusedNorm,
    port: OutPort,
    (want, found): (&Tensor, &Tensor),
    all: &[(OutPort, Tensor, Tensor)],
) -> ir::Result<Option<String>> {
    if (want.dtype(), want.shape()) != (found.dtype(), found.shape()) {
        return Ok(Some(format!("it is of another type, {}{:?}", found.dtype(), found.shape())));
    }
    let (OutPort::Q(k, e) | OutPort::Scale(k, e) | OutPort::ZeroPoint(k, e) | OutPort::Dequantised(k, e)) = port else {
        return Ok(ir::body::bits_equal(want, found).map(|_| "other bits, where nothing was relaxed".into()));
    };
    if exact.siblings[k] == relaxed.siblings[k] {
        return Ok(ir::body::bits_equal(want, found).map(|_| "other bits, where nothing was relaxed".into()));
    }
    let scheme = &exact.siblings[k].epilogues[e];
    let of = |p: OutPort| all.iter().find(|(at, ..)| *at == p);
    let moved = match of(OutPort::Scale(k, e)) {
        Some((_, a, b)) => {
            let in_order = scheme.layout == ScaleLayout::RowMajor;
            Moved::each(in_order, scale_dtype(scheme, a), &scales(scheme, a)?, &scales(scheme, b)?)
        }
        None if scheme.given.is_some() => vec![Moved::default()],
        None => vec![Moved { by: 0.0, doubled: true }],
    };
    let (x, y) = match port {
        OutPort::Q(..) => (codes(scheme, want)?, codes(scheme, found)?),
        OutPort::Scale(..) => (scales(scheme, want)?, scales(scheme, found)?),
        _ => (bits::numbers(want)?, bits::numbers(found)?),
    };
    let largest = x.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    let zero_point = of(OutPort::ZeroPoint(k, e)).is_some();
    // The scales of a row are one after another, as its groups are.
    let of_element = |i: usize| moved.get(i * moved.len() / x.len().max(1)).copied().unwrap_or_default();
    let allowed = |i: usize, a: f64, b: f64| match port {
        _ if a.is_nan() && b.is_nan() => true,
        OutPort::Scale(..) => moved::scale(scale_dtype(scheme, want), a, b),
        OutPort::ZeroPoint(..) => near(a, b, moved::zero_points(of_element(i))),
        OutPort::Dequantised(..) => near(a, b, moved::dequantised(scheme.element) * largest),
        _ => moved::code(scheme.element, a, b, of_element(i), zero_point),
    };
    let far = x.iter().zip(&y).enumerate().find(|(i, (a, b))| !allowed(*i, **a, **b));
    Ok(far.map(|(i, (a, b))| format!("element {i} is {b:e}, expected {a:e} or a number near it")))
}

/// Scales as numbers, or exponents.
fn scales(scheme: &Scheme, t: &Tensor) -> ir::Result<Vec<f64>> {
    if scheme.layout == ScaleLayout::PackedUe8m0 {
        return Ok(t.bytes().iter().copied().map(f64::from).collect());
    }
    bits::numbers(t)
}

fn scale_dtype(scheme: &Scheme, t: &Tensor) -> DType {
    if scheme.layout == ScaleLayout::PackedUe8m0 { DType::U8 } else { t.dtype() }
}

/// Codes as numbers.
fn codes(scheme: &Scheme, t: &Tensor) -> ir::Result<Vec<f64>> {
    Ok(match scheme.packing {
        Packing::None => bits::numbers(t)?,
        Packing::Codes => t.bytes().iter().map(|b| moved::of_nibble(*b)).collect(),
        Packing::Nibbles => t.bytes().iter().flat_map(|b| [*b, *b >> 4]).map(moved::of_nibble).collect(),
    })
}

#[cfg(test)]
mod tests;
