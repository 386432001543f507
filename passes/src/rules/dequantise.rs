//! The quantised value as a number again, which graphs with fake quantisers go on with: it becomes a result of the norm's op
//! that quantises it.

use std::collections::BTreeSet;

use normfuse_ir::{
    DType, Dim, Granularity, Graph, NodeId, Op, Scheme, ValueId,
    op::BinaryOp,
    scheme::{Apply, Origin, Packing, ZeroPoint},
};

use super::{Rule, no_schemes, none};
use crate::{
    candidate::Refusal,
    consts,
    quant::{self, Quant, Reach, Use},
    reach::Order,
    region::{producer_op, typed},
    views::is_view,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "dequantise",
    summary: "What dequantises the codes of a norm's op again becomes a result of that op, in place of the codes if nobody else reads them.",
    picture: "
codes -> DequantizeLinear(scale, zero point) -> v
codes -> cast -> * scale -> [cast] -> v",
    preconditions: &[
        "own_scale: the scale is the one that the op computes for these codes, or the one that it is given",
        "own_zero_point: so is the zero point",
        "same_groups: as many codes meet one scale as values met one factor",
        "float: the scale is f32, f16, bf16 or f8e8m0, and the value f32, f16 or bf16",
        "unpacked: a code an element",
        "one_dtype: no other one of these codes comes first, to another type",
        "no_scaled_product: no product multiplies it with another dequantised value, which would be one of codes and scales",
        "supported: the runtime has a kernel for it",
    ],
    rewrites: none,
    schemes: no_schemes,
};

/// A dequantiser of codes that an epilogue makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dequantiser {
    /// `DequantizeLinear`, or the product of code and scale.
    pub node: NodeId,
    /// What it makes.
    pub value: ValueId,
    /// The dtype of that.
    pub dtype: DType,
    /// Where it reads what the quantiser was given.
    pub given_at: Vec<Use>,
    /// From the codes and the scale to the value, and views of that.
    pub nodes: BTreeSet<NodeId>,
}

/// What reads codes.
enum Reader {
    /// `DequantizeLinear`.
    Linear(NodeId),
    /// A cast, the product of what it makes, and how many codes meet one factor there.
    Spelled { cast: NodeId, product: NodeId, factor: Use, reach: Reach },
}

/// The codes of quantisers that are one, under their scheme on rows of a width.
struct Codes<'a> {
    graph: &'a Graph,
    quants: &'a [&'a Quant],
    scheme: &'a Scheme,
    width: u64,
}

/// True if something reads the codes of a quantiser as numbers.
pub fn is_read(graph: &Graph, q: &Quant) -> bool {
    !readers(graph, q).is_empty()
}

/// The dequantisers of the codes of quantisers that are one, all of one type; and those that stay ops, each with the first
/// precondition that fails. With `whole_products`, products of two dequantised values are as they are spelled.
pub fn find(
    (graph, order): (&Graph, &Order),
    quants: &[&Quant],
    (scheme, width): (&Scheme, u64),
    whole_products: bool,
) -> (Vec<Dequantiser>, Vec<Refusal>) {
    let codes = Codes { graph, quants, scheme, width };
    let mut all: Vec<Reader> = quants.iter().flat_map(|q| readers(graph, q)).collect();
    all.sort_by_key(|r| order.position(r.node()));
    all.dedup_by_key(|r| r.node());
    let (mut found, mut refused) = (Vec::<Dequantiser>::new(), Vec::new());
    for reader in all {
        let refuse =
            |precondition, hint: String| Refusal { rule: RULE.name, precondition, node: Some(reader.node()), hint };
        match codes.dequantiser(&reader) {
            Ok(d) => match found.first() {
                Some(first) if first.dtype != d.dtype => {
                    let hint = format!("it is in {}, `{}` in {}", d.dtype, graph.node(first.node).name, first.dtype);
                    refused.push(refuse("one_dtype", hint));
                }
                _ => match scaled_product(graph, order, d.value).filter(|_| !whole_products) {
                    Some(product) => {
                        let name = &graph.node(product).name;
                        let hint = format!("`{name}` multiplies two dequantised values: a product of codes and scales");
                        refused.push(refuse("no_scaled_product", hint));
                    }
                    None => found.push(d),
                },
            },
            // What is cast and multiplied may be anything: the op says what it is, products do not.
            Err(_) if matches!(reader, Reader::Spelled { .. }) => {}
            Err((precondition, hint)) => refused.push(refuse(precondition, hint)),
        }
    }
    (found, refused)
}

impl Reader {
    fn node(&self) -> NodeId {
        match self {
            Self::Linear(node) | Self::Spelled { product: node, .. } => *node,
        }
    }
}

/// What reads the codes of a quantiser, themselves or through views.
fn readers(graph: &Graph, q: &Quant) -> Vec<Reader> {
    let mut found = Vec::new();
    let mut queue = vec![q.q];
    while let Some(codes) = queue.pop() {
        for (user, port) in graph.users(codes) {
            let node = graph.node(user);
            match &node.op {
                _ if port != 0 => {}
                Op::DequantizeLinear { .. } => found.push(Reader::Linear(user)),
                Op::Cast { to, .. } if matches!(to, DType::F32 | DType::F16 | DType::BF16) => {
                    found.extend(spelled(graph, user, q.scheme.element, *to));
                }
                _ if q.nodes.contains(&user) && is_view(graph, user) => queue.extend(&node.outputs),
                _ => {}
            }
        }
    }
    found
}

/// Codes as numbers that only a product reads.
fn spelled(graph: &Graph, cast: NodeId, element: DType, to: DType) -> Option<Reader> {
    let value = *graph.node(cast).outputs.first()?;
    let codes = graph.node(cast).input(0)?;
    if typed(graph, codes)?.0 != element || !element.embeds_in(to) {
        return None;
    }
    let product = only_reader(graph, value)?;
    let (met, factor, apply, reach) = quant::application(graph, product)?;
    (met == value && apply == Apply::Multiply).then_some(Reader::Spelled { cast, product, factor: factor.1, reach })
}

/// The one node that reads a value, if it is no result of the graph.
fn only_reader(graph: &Graph, value: ValueId) -> Option<NodeId> {
    let mut users = graph.uses(value).map(|(user, _)| user);
    let first = users.next().filter(|_| !graph.is_output(value))?;
    users.all(|user| user == first).then_some(first)
}

/// Why a reader of codes is no dequantiser that the op can take in.
type Fails = (&'static str, String);

impl Codes<'_> {
    fn name(&self, value: ValueId) -> &str {
        &self.graph.value(value).name
    }

    fn dequantiser(&self, reader: &Reader) -> Result<Dequantiser, Fails> {
        let id = reader.node();
        let node = self.graph.node(id);
        let mut d = Dequantiser {
            node: id,
            value: node.outputs[0],
            dtype: DType::F32,
            given_at: Vec::new(),
            nodes: BTreeSet::from([id]),
        };
        if self.scheme.packing != Packing::None {
            return Err(("unpacked", "two codes are in a byte, or codes are no values of their type".into()));
        }
        let zero = match reader {
            Reader::Linear(_) => {
                self.own_scale((id, 1), &mut d)?;
                self.groups_of_linear(id)?;
                node.input(2)
            }
            Reader::Spelled { cast, factor, reach, .. } => {
                d.nodes.insert(*cast);
                self.own_scale(*factor, &mut d)?;
                self.groups_of_product(*reach, node.outputs[0])?;
                d.value = narrowed(self.graph, d.value, &mut d.nodes);
                None
            }
        };
        self.own_zero_point(id, zero, &mut d)?;
        let dtype = typed(self.graph, d.value).map(|(d, _)| d);
        let scale = self.scheme.scale.as_ref().map_or(DType::F32, |s| s.dtype);
        match dtype {
            Some(dtype @ (DType::F32 | DType::F16 | DType::BF16))
                if scale.is_arithmetic_float() || scale == DType::F8E8M0 =>
            {
                d.dtype = dtype;
            }
            Some(dtype) => return Err(("float", format!("scales of {scale}, values of {dtype}"))),
            None => return Err(("float", "its type is unknown".into())),
        }
        quant::views_behind(self.graph, [d.value].into_iter(), &mut d.nodes);
        Ok(d)
    }

    /// Back through views to what the quantiser computes or was given; these are nodes of the dequantiser then.
    fn back(&self, (mut user, mut port): Use, to: impl Fn(ValueId) -> bool, d: &mut Dequantiser) -> Option<Use> {
        let mut views = Vec::new();
        loop {
            let value = self.graph.node(user).input(port)?;
            if to(value) {
                d.nodes.extend(views);
                return Some((user, port));
            }
            (user, _) = self.graph.producer(value).filter(|(n, _)| is_view(self.graph, *n))?;
            port = 0;
            views.push(user);
        }
    }

    fn own_scale(&self, at: Use, d: &mut Dequantiser) -> Result<(), Fails> {
        let given = self.scheme.origin == Origin::Given;
        let operand = self.quants.first().and_then(|q| q.given).filter(|_| given);
        let own = |v: ValueId| match operand {
            Some(own) => consts::same(self.graph, own, v),
            None => self.quants.iter().any(|q| q.scale == Some(v)),
        };
        let Some(at_own) = self.back(at, own, d) else {
            let name = self.graph.node(at.0).input(at.1).map_or("", |v| self.name(v));
            let kind = if given { "given" } else { "computed" };
            return Err(("own_scale", format!("the codes meet `{name}`, not the scale that is {kind} for them")));
        };
        d.given_at.extend(given.then_some(at_own));
        Ok(())
    }

    fn own_zero_point(&self, id: NodeId, zero: Option<ValueId>, d: &mut Dequantiser) -> Result<(), Fails> {
        let fits = match (self.scheme.zero_point, zero) {
            (ZeroPoint::None, zero) => zero.is_none_or(|z| quant::is_zero(self.graph, z)),
            (_, None) => false,
            (ZeroPoint::Given, Some(_)) => {
                let operand = self.quants.first().and_then(|q| q.zero);
                let own = |v| operand.is_some_and(|own| consts::same(self.graph, own, v));
                let at = self.back((id, 2), own, d);
                d.given_at.extend(at);
                at.is_some()
            }
            (ZeroPoint::Range, Some(_)) => {
                self.back((id, 2), |v| self.quants.iter().any(|q| q.zero_out == Some(v)), d).is_some()
            }
        };
        let found = zero.map_or_else(|| "none".to_owned(), |z| format!("`{}`", self.name(z)));
        if fits { Ok(()) } else { Err(("own_zero_point", format!("the zero point is {found}, not that of the codes"))) }
    }

    /// How many values met one factor, in a row.
    fn group(&self) -> Option<u64> {
        match self.scheme.granularity {
            Granularity::Group(g) => Some(u64::from(g)),
            Granularity::Token => Some(self.width),
            Granularity::Tensor | Granularity::Channel => None,
        }
    }

    fn groups_of_linear(&self, id: NodeId) -> Result<(), Fails> {
        let node = self.graph.node(id);
        let Op::DequantizeLinear { axis, block_size, .. } = node.op else { return Ok(()) };
        let shape = |port| node.input(port).and_then(|v| typed(self.graph, v)).map(|(_, s)| s);
        let (Some(codes), Some(scales)) = (shape(0), shape(1)) else {
            return Err(("same_groups", "the shape of an operand is unknown".into()));
        };
        let rank = codes.rank() as i64;
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|a| *a < codes.rank());
        let fixed = |dims: &[Dim]| dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(d.as_const()?).ok()?));
        let (last, group) = (codes.last().and_then(Dim::as_const), self.group());
        let fits = match (self.scheme.granularity, block_size) {
            // One scale for all.
            (Granularity::Tensor, 0) => scales.is_single(),
            (Granularity::Channel, 0) => {
                axis == codes.rank().checked_sub(1) && last == i64::try_from(self.width).ok() && !scales.is_single()
            }
            (Granularity::Tensor | Granularity::Channel, _) => false,
            // Codes are consecutive in groups if there is nothing before the axis.
            (_, 0) if scales.is_single() => fixed(&codes.0) == group,
            (_, 0) => axis.is_some_and(|a| fixed(&codes.0[..a]) == Some(1) && fixed(&codes.0[a + 1..]) == group),
            // A block that is longer than the row ends with it.
            (_, block) => {
                let block = last.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).map(|n| (n, block.min(n)));
                axis == codes.rank().checked_sub(1)
                    && block.is_some_and(|(n, block)| n % block == 0 && Some(block) == group)
            }
        };
        let said = match block_size {
            0 => format!("scales of {scales} along axis {}", axis.unwrap_or_default()),
            n => format!("a scale for {n} codes along axis {}", axis.unwrap_or_default()),
        };
        if fits { Ok(()) } else { Err(("same_groups", format!("{said} of {codes}, where values met {}", self.met()))) }
    }

    fn groups_of_product(&self, reach: Reach, product: ValueId) -> Result<(), Fails> {
        let all = || typed(self.graph, product).and_then(|(_, s)| s.numel().as_const());
        let fits = match (reach, self.group()) {
            (Reach::All, None) => self.scheme.granularity == Granularity::Tensor,
            // All that there is, is one group.
            (Reach::All, Some(group)) => all() == i64::try_from(group).ok(),
            (Reach::Row(n), group) => Some(n) == group,
            (Reach::Channel, _) => false,
        };
        if fits { Ok(()) } else { Err(("same_groups", format!("values met {}", self.met()))) }
    }

    fn met(&self) -> String {
        match (self.group(), self.scheme.granularity) {
            (Some(n), _) => format!("one for {n}"),
            (None, Granularity::Channel) => "one a channel".into(),
            (None, _) => "one for all".into(),
        }
    }
}

/// What a product in f32 is rounded to, if nothing but that cast reads it.
fn narrowed(graph: &Graph, product: ValueId, nodes: &mut BTreeSet<NodeId>) -> ValueId {
    let mut passed = Vec::new();
    let mut value = product;
    while let Some(reader) = only_reader(graph, value) {
        let node = graph.node(reader);
        passed.push(reader);
        match node.op {
            Op::Cast { to: DType::F16 | DType::BF16, .. }
                if typed(graph, value).is_some_and(|(d, _)| d == DType::F32) =>
            {
                nodes.extend(passed);
                return node.outputs[0];
            }
            _ if is_view(graph, reader) && node.input(0) == Some(value) => value = node.outputs[0],
            _ => break,
        }
    }
    product
}

/// Most nodes between a product and what dequantises its operand.
const BETWEEN: usize = 8;

/// The first product that multiplies a value, itself, cast or moved, with another one that comes from codes.
fn scaled_product(graph: &Graph, order: &Order, value: ValueId) -> Option<NodeId> {
    let mut found = BTreeSet::new();
    let mut queue = vec![(value, 0)];
    while let Some((value, depth)) = queue.pop() {
        for (user, port) in graph.uses(value) {
            let node = graph.node(user);
            let other = match node.op {
                Op::MatMul | Op::Gemm { .. } if port < 2 => node.input(1 - port),
                _ => None,
            };
            if other.is_some_and(|other| is_dequantised(graph, other)) {
                found.insert((order.position(user), user));
            } else if depth < BETWEEN && port == 0 && moves(graph, user) {
                queue.extend(node.outputs.iter().map(|v| (*v, depth + 1)));
            }
        }
    }
    found.pop_first().map(|(_, user)| user)
}

/// Views, transpositions and casts between floats.
fn moves(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    match node.op {
        Op::Transpose { .. } | Op::Reshape { .. } => true,
        Op::Cast { to, .. } => {
            to.is_arithmetic_float()
                && node.input(0).and_then(|v| typed(graph, v)).is_some_and(|(d, _)| d.is_arithmetic_float())
        }
        _ => is_view(graph, id),
    }
}

/// True for numbers that codes stand for, as an op or as the product of a cast says it.
fn is_dequantised(graph: &Graph, value: ValueId) -> bool {
    let back = |mut value: ValueId| {
        for _ in 0..BETWEEN {
            match producer_op(graph, value) {
                Some((id, _)) if moves(graph, id) => value = graph.node(id).input(0)?,
                _ => break,
            }
        }
        producer_op(graph, value)
    };
    let is_code = |v: ValueId| {
        back(v).is_some_and(|(id, op)| {
            let from = graph.node(id).input(0).and_then(|v| typed(graph, v));
            matches!(op, Op::Cast { .. }) && from.is_some_and(|(d, _)| d.is_quantised())
        })
    };
    match back(value) {
        Some((_, Op::DequantizeLinear { .. })) => true,
        Some((id, Op::Binary(BinaryOp::Mul))) => graph.node(id).operands().any(|(_, v)| is_code(v)),
        _ => false,
    }
}
