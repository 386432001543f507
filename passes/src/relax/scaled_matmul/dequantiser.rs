//! What dequantises a value: codes, and scales that are met by blocks of them.

use normfuse_ir::{DType, Dim, Graph, NodeId, Op, Shape, ValueId, op::BinaryOp};

use super::super::spread::{Block, Spread};
use crate::{
    quant,
    region::{producer_op, typed},
    views::is_view,
};

/// Most nodes between a product and what dequantises its operand.
const BETWEEN: usize = 8;

/// A dequantised value.
pub struct Found {
    pub codes: ValueId,
    pub dtype: DType,
    pub scale: ValueId,
    /// How the scales are spread over the codes.
    spread: Spread,
    /// Columns that there would be if the last block of them were whole.
    columns: Option<Dim>,
    /// The value is the matrix, turned around.
    pub turned: bool,
    /// What the numbers are rounded to on the way to the product, in order.
    pub rounded: Vec<DType>,
}

/// Why a dequantised value is none of codes that a product could scale: what it does or has.
type Otherwise = &'static str;

const ZERO_POINT: Otherwise = "has zero points";
const DIVIDED: Otherwise = "is divided by its scales, and a product with their inverses is another number";
const UNKNOWN: Otherwise = "meets its scales in a way that no block says";

impl Found {
    /// Neighbours that share a scale, among rows and along columns of the stored matrix with so many columns.
    pub fn blocks(&self, columns: u64) -> Option<(Block, Block)> {
        let whole = self.columns.as_ref().and_then(Dim::as_const).and_then(|n| u64::try_from(n).ok());
        self.spread.blocks(whole.unwrap_or(columns))
    }
}

/// What dequantises a value, moved and cast between floats; `None` if nothing does that is known.
pub fn dequantiser(graph: &Graph, value: ValueId) -> Option<Result<Found, Otherwise>> {
    let (mut at, mut turned, mut rounded) = (value, false, Vec::new());
    for _ in 0..BETWEEN {
        let (id, op) = producer_op(graph, at)?;
        let node = graph.node(id);
        match op {
            Op::DequantizeLinear { .. } | Op::Binary(BinaryOp::Mul) => {
                rounded.push(typed(graph, at)?.0);
                rounded.reverse();
                let found = if matches!(op, Op::Binary(_)) { spelled(graph, id)? } else { linear(graph, id)? };
                return Some(found.map(|f| Found { turned, rounded, ..f }));
            }
            Op::Binary(BinaryOp::Div) => return cast_codes(graph, node.input(0)?).map(|_| Err(DIVIDED)),
            Op::Transpose { perm } if !is_view(graph, id) => {
                let matrix = typed(graph, at)?.1.rank() == 2 && perm.as_deref().is_none_or(|p| p == [1, 0]);
                // What is moved on must be the whole matrix still.
                let whole = graph.value(at).ty.shape == graph.value(value).ty.shape;
                (matrix && whole && !turned).then_some(())?;
                turned = true;
            }
            Op::Cast { to, .. } => {
                let from = typed(graph, node.input(0)?)?.0;
                (to.is_arithmetic_float() && from.is_arithmetic_float()).then_some(())?;
                rounded.push(*to);
            }
            _ if is_view(graph, id) => {}
            _ => return None,
        }
        at = node.input(0)?;
    }
    None
}

/// `DequantizeLinear` without a zero point.
fn linear(graph: &Graph, id: NodeId) -> Option<Result<Found, Otherwise>> {
    let node = graph.node(id);
    let Op::DequantizeLinear { axis, block_size, .. } = node.op else { return None };
    let (codes, scale) = (node.input(0)?, node.input(1)?);
    let (dtype, shape) = typed(graph, codes)?;
    let scales = typed(graph, scale)?.1;
    if !node.input(2).is_none_or(|z| quant::is_zero(graph, z)) {
        return Some(Err(ZERO_POINT));
    }
    let axis = usize::try_from(if axis < 0 { axis + shape.rank() as i64 } else { axis }).ok()?;
    let size = shape.0.get(axis)?;
    // As a broadcast: the axis of blocks is two, which of them and where in it.
    let (mut from, mut to, mut columns) = (Vec::new(), Vec::new(), None);
    for (i, d) in shape.0.iter().enumerate() {
        match block_size {
            0 => {
                from.push(if i == axis && !scales.is_single() { d.clone() } else { Dim::from(1) });
                to.push(d.clone());
            }
            block if i == axis => {
                let block = Dim::from(size.as_const().map_or(block as i64, |n| n.min(block as i64)));
                let count = size.ceil_div(&block);
                let whole = &count * &block;
                if whole != *size {
                    // A last block that is cut off: of rows, or of columns.
                    if size.as_const().is_none() || axis > 0 && axis + 1 < shape.rank() {
                        return Some(Err(UNKNOWN));
                    }
                    columns = (axis + 1 == shape.rank()).then_some(whole);
                }
                from.extend([count.clone(), Dim::from(1)]);
                to.extend([count, block]);
            }
            _ => {
                from.push(d.clone());
                to.push(d.clone());
            }
        }
    }
    let met = Met::of(graph, scale).and_then(|met| met.spread(Shape(from), Shape(to)));
    let found = met.map(|(scale, spread, cut)| {
        let columns = columns.or(cut);
        Found { codes, dtype, scale, spread, columns, turned: false, rounded: Vec::new() }
    });
    Some(found.ok_or(UNKNOWN))
}

/// Codes that are cast, times scales that broadcast to them.
fn spelled(graph: &Graph, id: NodeId) -> Option<Result<Found, Otherwise>> {
    let node = graph.node(id);
    let shape = typed(graph, node.outputs[0])?.1;
    for (port, other) in [(0, 1), (1, 0)] {
        let (value, factor) = (node.input(port)?, node.input(other)?);
        if is_shifted(graph, value) {
            return Some(Err(ZERO_POINT));
        }
        let Some((codes, dtype)) =
            cast_codes(graph, value).filter(|_| typed(graph, value).is_some_and(|(_, s)| s == shape))
        else {
            continue;
        };
        let from = typed(graph, factor)?.1.clone();
        let met = Met::of(graph, factor).and_then(|met| met.spread(from, shape.clone()));
        let found = met.map(|(scale, spread, columns)| {
            let rounded = Vec::new();
            Found { codes, dtype, scale, spread, columns, turned: false, rounded }
        });
        return Some(found.ok_or(UNKNOWN));
    }
    None
}

/// True of codes that something is subtracted from before they meet their scales.
fn is_shifted(graph: &Graph, value: ValueId) -> bool {
    let (mut at, mut shifted) = (value, false);
    for _ in 0..BETWEEN {
        if typed(graph, at).is_some_and(|(d, _)| d.is_quantised()) {
            return shifted;
        }
        let Some((id, op)) = producer_op(graph, at) else { return false };
        match op {
            Op::Binary(BinaryOp::Sub) if !shifted => shifted = true,
            Op::Cast { .. } => {}
            _ if is_view(graph, id) => {}
            _ => return false,
        }
        let Some(before) = graph.node(id).input(0) else { return false };
        at = before;
    }
    false
}

/// Codes that a value is, as numbers: cast, and views of that.
fn cast_codes(graph: &Graph, value: ValueId) -> Option<(ValueId, DType)> {
    let mut at = value;
    for _ in 0..BETWEEN {
        let (id, op) = producer_op(graph, at)?;
        let from = graph.node(id).input(0)?;
        match op {
            Op::Cast { to, .. } => {
                let dtype = typed(graph, from)?.0;
                // Anything else than a float would round them.
                (to.is_arithmetic_float() && (dtype.is_arithmetic_float() || dtype.embeds_in(*to))).then_some(())?;
                if dtype.is_quantised() {
                    return Some((from, dtype));
                }
            }
            _ if is_view(graph, id) => {}
            _ => return None,
        }
        at = from;
    }
    None
}

/// Scales where codes meet them.
struct Met {
    scale: ValueId,
    spread: Spread,
    /// Rows that there would be if the last block of them were whole.
    rows: Option<Dim>,
    /// The same of columns.
    columns: Option<Dim>,
}

impl Met {
    fn of(graph: &Graph, value: ValueId) -> Option<Self> {
        let plain = |value| {
            let (scale, spread) = Spread::back(graph, value)?;
            Some(Self { scale, spread, rows: None, columns: None })
        };
        if let Some((whole, rows, columns)) = cut(graph, value) {
            return plain(whole).map(|met| Self { rows, columns, ..met });
        }
        Self::gathered(graph, value).or_else(|| plain(value))
    }

    /// Scales of blocks of rows, gathered so that each row has its own: row i has those of block i / r.
    fn gathered(graph: &Graph, value: ValueId) -> Option<Self> {
        let (id, Op::Gather { axis: 0 }) = producer_op(graph, value)? else { return None };
        let node = graph.node(id);
        let (scale, rows) = (node.input(0)?, graph.value(node.input(1)?).as_const()?);
        let rows = normfuse_ir::eval::numbers::ints(rows).ok()?;
        let block = rows.iter().take_while(|r| **r == 0).count();
        let shape = typed(graph, scale)?.1;
        let in_blocks = block > 0 && rows.iter().enumerate().all(|(i, r)| *r == (i / block) as i64);
        let [count, rest @ ..] = &shape.0[..] else { return None };
        (in_blocks && count.as_const() == Some(rows.len().div_ceil(block) as i64)).then_some(())?;
        let of = |n: i64| Shape([&[count.clone(), Dim::from(n)], rest].concat());
        let mut spread = Spread::of(shape);
        spread.expand(&of(1), &of(block as i64))?;
        let whole = rows.len().next_multiple_of(block);
        let rows = (whole != rows.len()).then(|| Dim::from(whole as i64));
        Some(Self { scale, spread, rows, columns: None })
    }

    /// The scales, how they are spread after a broadcast, and how many columns that has where the last block is cut off.
    fn spread(mut self, mut from: Shape, mut to: Shape) -> Option<(ValueId, Spread, Option<Dim>)> {
        for shape in [&mut from, &mut to] {
            if let Some(rows) = &self.rows {
                *shape.0.first_mut()? = rows.clone();
            }
            if let Some(columns) = &self.columns {
                *shape.0.last_mut()? = columns.clone();
            }
        }
        self.spread.expand(&from, &to)?;
        Some((self.scale, self.spread, self.columns))
    }
}

/// Scales that are repeated for whole blocks and then cut off: the matrix before that, and its rows and columns where they were more.
fn cut(graph: &Graph, value: ValueId) -> Option<(ValueId, Option<Dim>, Option<Dim>)> {
    let (id, Op::Slice) = producer_op(graph, value)? else { return None };
    let node = graph.node(id);
    let before = node.input(0)?;
    let (whole, left) = (typed(graph, before)?.1, typed(graph, value)?.1);
    let ints = |port: usize| {
        let list = graph.value(node.input(port)?).as_const()?;
        normfuse_ir::eval::numbers::ints(list).ok()
    };
    // From the first one on, one after another.
    let all = |port: usize, of: i64| ints(port).is_some_and(|list| list.iter().all(|i| *i == of));
    (all(1, 0) && (node.input(4).is_none() || all(4, 1))).then_some(())?;
    let ([rows, columns], [some_rows, some_columns]) = (&whole.0[..], &left.0[..]) else { return None };
    let more = |whole: &Dim, left: &Dim| (whole != left).then(|| whole.clone());
    Some((before, more(rows, some_rows), more(columns, some_columns)))
}
