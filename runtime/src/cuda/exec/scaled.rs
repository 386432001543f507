//! Products of codes and scales: which form of the library's computes them, and what lies where for it.
//!
//! The library reads the scales of groups by columns, for a number of rows that is a multiple of 4. So a fused op whose scales go to
//! nothing but such products writes them like that, and codes and results have room for the rows that are only there to be counted:
//! those are read as whatever lies there, and make nothing but rows of the result that nobody reads.

use std::sync::Arc;

use normfuse_ir::{
    DType, Error, ErrorKind, FusedNorm, Granularity, Node, NodeId, Op, Result, Scheme, Tensor, ValueId,
    fused::OutPort,
    op::BinaryOp,
    scaled::{ScalePer, ScaledMatMul},
    scheme::ScaleLayout,
};

use super::{
    super::{
        ops::{Chain, Leaf, Source, Step as ChainStep, Typed},
        product::{Scaled, Scales},
    },
    builder::Builder,
    step::{Place, Work},
};

/// Columns of a group, and rows and columns of a block.
const GROUP: u64 = 128;
/// Bytes that rows of codes and of results are a multiple of.
const MULTIPLE: usize = 16;
/// Rows go in so many where groups have scales.
const ROWS: usize = 4;

/// Rows for which the library takes less time than for fewer, where there is one scale for all.
const FEWEST_ROWS: usize = 8;
/// Rows up to which a product that is scaled behind it takes less time than the library's with scales of rows, which reads the weights at
/// half the speed of memory.
const FEW_ROWS: usize = 64;

/// Sizes of a product's left side.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    m: usize,
    /// With those that are only counted.
    rows: usize,
    k: usize,
}

impl Sizes {
    fn groups(self) -> usize {
        self.k.div_ceil(GROUP as usize)
    }
}

/// Says of a product of matrices of these codes, the right one `[N, K]`, whether there is a form of it.
///
/// # Errors
/// Why there is none.
pub fn supports_scaled(
    product: &ScaledMatMul,
    codes: [DType; 2],
    [n, k]: [usize; 2],
) -> std::result::Result<(), String> {
    forms(product).map_err(|e| e.to_string())?;
    if codes == [DType::F8E5M2; 2] {
        return Err("`scaled_matmul` has no form on the GPU for codes of f8e5m2 on both sides".into());
    }
    if k == 0 || !k.is_multiple_of(MULTIPLE) || !(n * product.to.bits() / 8).is_multiple_of(MULTIPLE) {
        let (to, bytes) = (product.to, MULTIPLE);
        return Err(format!(
            "`scaled_matmul` has no form on the GPU for sums of {k} codes and rows of {n} {to}: both are multiples of {bytes} bytes there"
        ));
    }
    Ok(())
}

/// How the library has the scales of both sides.
fn forms(product: &ScaledMatMul) -> Result<[Scales; 2]> {
    let refused = |what: String| {
        let hint = "scales may be one a tensor, one a row, one for 128 columns of a row, and of a weight one for 128 rows and 128 columns";
        Err(Error::new(ErrorKind::Unsupported, format!("`scaled_matmul` has no form on the GPU for {what}")).hint(hint))
    };
    match product.group() {
        None if (product.a, product.b) == (ScalePer::Tensor, ScalePer::Tensor) => Ok([Scales::One; 2]),
        None => Ok([Scales::Rows; 2]),
        Some(GROUP) => match product.b {
            ScalePer::Tensor | ScalePer::Block(GROUP, _) => Ok([Scales::Groups, Scales::Blocks]),
            ScalePer::Row | ScalePer::Block(1, _) => Ok([Scales::Groups; 2]),
            ScalePer::Block(rows, _) => refused(format!("scales of {rows} rows")),
        },
        Some(columns) => refused(format!("scales of {columns} columns")),
    }
}

impl Builder<'_> {
    /// Plans the steps of a product of codes and scales.
    pub(super) fn scaled(&mut self, id: NodeId, node: &Node, product: &ScaledMatMul) -> Result<()> {
        let missing = || Error::new(ErrorKind::Structure, "`scaled_matmul` lacks an operand");
        let given = |port: usize| node.input(port).ok_or_else(missing);
        let forms = forms(product)?;
        if self.concrete.is_once(id) {
            let message = "`scaled_matmul` of constants alone has no form on the GPU";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let (a, b) = (self.operand(given(0)?)?, self.operand(given(1)?)?);
        let (Typed { dtype: of_a, shape }, of_b) = (self.values[a].typed.clone(), self.values[b].typed.clone());
        let (&[ref lead @ .., k], &[n, _]) = (&shape[..], &of_b.shape[..]) else { return Err(missing()) };
        let m: usize = lead.iter().product();
        let behind = forms == [Scales::Rows; 2] && m <= FEW_ROWS;
        let rows = match forms[0] {
            Scales::Groups => m.next_multiple_of(ROWS),
            Scales::One => m.max(FEWEST_ROWS),
            _ if behind => m.max(FEWEST_ROWS),
            _ => m,
        };
        let sizes = Sizes { m, rows, k };
        if m * n > 0 {
            supports_scaled(product, [of_a, of_b.dtype], [n, k]).map_err(|e| Error::new(ErrorKind::Unsupported, e))?;
        }
        let bias = node.input(4).map(|v| self.operand(v)).transpose()?;
        if let Some(bias) = bias
            && self.values[bias].typed.dtype != product.to
        {
            let found = self.values[bias].typed.dtype;
            let message =
                format!("`scaled_matmul` has no form on the GPU that adds {found} to a result of {}", product.to);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if m * n == 0 {
            self.results(&node.outputs, false)?;
            return Ok(());
        }
        let a = self.with_rows(node, a, sizes);
        if behind {
            let scales = [self.operand(given(2)?)?, self.operand(given(3)?)?];
            return self.scaled_behind(node, product, ([a, b], scales, bias), (sizes, n));
        }
        let scale_a = self.scales(node, given(2)?, (product.a, forms[0]), [m, rows], sizes.groups())?;
        let scale_b = self.scales(node, given(3)?, (product.b, forms[1]), [n, n], sizes.groups())?;
        let codes = [of_a, of_b.dtype];
        let scaled = Scaled { m: rows, n, k, codes, scales: forms, to: product.to, bias: bias.is_some() };
        let planned = self.backend.scaled(&scaled)?;
        let scratch = planned.scratch();
        let y = self.results(&node.outputs, false)?;
        for value in &y {
            self.widen(*value, (rows * n * product.to.bits() / 8) as u64);
        }
        let inputs: Vec<usize> = [a, b, scale_a, scale_b].into_iter().chain(bias).collect();
        self.step(node, node.op.name(), &inputs, y, Work::Product(planned), scratch);
        Ok(())
    }

    /// A product of codes alone, and a kernel that scales it, adds the bias and rounds: the same steps for each element.
    fn scaled_behind(
        &mut self,
        node: &Node,
        product: &ScaledMatMul,
        ([a, b], scales, bias): ([usize; 2], [usize; 2], Option<usize>),
        (Sizes { m, rows, k }, n): (Sizes, usize),
    ) -> Result<()> {
        let one = self.rooted(Typed { dtype: DType::F32, shape: vec![1] }, Place::Host(Tensor::from_f32(&[1], &[1.0])));
        let codes = [a, b].map(|v| self.values[v].typed.dtype);
        let scaled = Scaled { m: rows, n, k, codes, scales: [Scales::One; 2], to: DType::F32, bias: false };
        let planned = self.backend.scaled(&scaled)?;
        let sums = self.temporary(Typed { dtype: DType::F32, shape: vec![m, n] });
        self.widen(sums, (rows * n * DType::F32.bits() / 8) as u64);
        let scratch = planned.scratch();
        self.step(node, node.op.name(), &[a, b, one, one], vec![sums], Work::Product(planned), scratch);

        let mut inputs: Vec<(usize, Typed)> = vec![(sums, self.values[sums].typed.clone())];
        for (value, (per, shape)) in scales.into_iter().zip([(product.a, [m, 1]), (product.b, [1, n])]) {
            let shape = if per == ScalePer::Row { shape.to_vec() } else { Vec::new() };
            inputs.push((value, Typed { dtype: DType::F32, shape }));
        }
        inputs.extend(bias.map(|value| (value, Typed { dtype: product.to, shape: vec![1, n] })));
        let f32s = |op, operands: [Source; 2]| ChainStep {
            op: Op::Binary(op),
            operands: operands.map(Some).to_vec(),
            dtype: DType::F32,
            ends: Vec::new(),
        };
        let cast = |x, to| ChainStep {
            op: Op::Cast { to, saturate: true },
            operands: vec![Some(x)],
            dtype: to,
            ends: Vec::new(),
        };
        let mut steps = vec![
            f32s(BinaryOp::Mul, [Source::Input(0), Source::Input(1)]),
            f32s(BinaryOp::Mul, [Source::Step(0), Source::Input(2)]),
        ];
        if bias.is_some() {
            steps.push(cast(Source::Input(3), DType::F32));
            steps.push(f32s(BinaryOp::Add, [Source::Step(1), Source::Step(2)]));
        }
        steps.push(cast(Source::Step(steps.len() - 1), product.to));
        let leaves = inputs.iter().map(|(_, typed)| Leaf::from(typed)).collect();
        let outputs = vec![steps.len() - 1];
        let lowered = self.backend.chain(&Chain { shape: vec![m, n], axis: 0, inputs: leaves, steps, outputs })?;
        let y = self.results(&node.outputs, false)?;
        let values: Vec<usize> = inputs.into_iter().map(|(value, _)| value).collect();
        self.step(node, "scales".into(), &values, y, Work::Kernels(lowered), 0);
        Ok(())
    }

    /// Codes with room for the rows that are only counted.
    fn with_rows(&mut self, node: &Node, a: usize, sizes: Sizes) -> usize {
        let bytes = (sizes.rows * sizes.k) as u64;
        if sizes.rows == sizes.m || self.widen(a, bytes) {
            return a;
        }
        let typed = self.values[a].typed.clone();
        let own = typed.clone();
        let copy = self.temporary(typed);
        self.widen(copy, bytes);
        let held = super::concrete::bytes_of(&own) as u64;
        self.step(node, "copy".into(), &[a], vec![copy], Work::Copy(held), 0);
        copy
    }

    /// Gives a value's memory so many bytes, if it is the arena's.
    fn widen(&mut self, value: usize, bytes: u64) -> bool {
        let (root, offset) = (self.values[value].root, self.values[value].offset);
        let root = &mut self.roots[root];
        let own = matches!(root.place, Place::Arena(_));
        if own {
            root.bytes = root.bytes.max(offset + bytes);
        }
        own
    }

    /// The scales of a side, as the library reads them: of so many rows of its own, which become as many.
    fn scales(
        &mut self,
        node: &Node,
        id: ValueId,
        (per, form): (ScalePer, Scales),
        [own, rows]: [usize; 2],
        groups: usize,
    ) -> Result<usize> {
        let of = |shape: &[usize]| Typed { dtype: DType::F32, shape: shape.to_vec() };
        if let (Scales::Groups, ScalePer::Block(..)) = (form, per)
            && let Some(columns) = self.columns.get(&id).copied()
            && self.values[columns].typed.shape == [groups, rows]
        {
            return Ok(columns);
        }
        let value = self.operand(id)?;
        let [down, across] = [own.div_ceil(GROUP as usize), groups.next_multiple_of(4)];
        match (form, per) {
            (Scales::Blocks, ScalePer::Tensor) => self.spread(node, value, &[down, across]),
            (Scales::Blocks, _) => self.padded(node, value, [down, groups], [down, across]),
            (Scales::Groups, ScalePer::Tensor) => self.spread(node, value, &[groups, rows]),
            (Scales::Groups, ScalePer::Row) => {
                let row = self.part(value, of(&[1, own]), 0);
                let row = self.padded(node, row, [1, own], [1, rows])?;
                self.spread(node, row, &[groups, rows])
            }
            (Scales::Groups, ScalePer::Block(..)) => {
                let by_rows = self.part(value, of(&[own, groups]), 0);
                let columns = self.transposed(node, by_rows, &[1, 0])?;
                self.padded(node, columns, [groups, own], [groups, rows])
            }
            (Scales::Rows, ScalePer::Tensor) => self.spread(node, value, &[own]),
            _ => Ok(value),
        }
    }

    /// A value that repeats along axes, written out.
    fn spread(&mut self, node: &Node, value: usize, shape: &[usize]) -> Result<usize> {
        let mut typed = self.values[value].typed.clone();
        // One element may have any rank.
        if typed.shape.iter().all(|d| *d == 1) {
            typed.shape = Vec::new();
        }
        if typed.shape == shape {
            return Ok(value);
        }
        let value = self.part(value, typed.clone(), 0);
        let result = Typed { dtype: DType::F32, shape: shape.to_vec() };
        let sizes: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let sizes = Tensor::from_i64(&[sizes.len()], &sizes);
        let of_sizes = Typed { dtype: DType::I64, shape: vec![shape.len()] };
        self.lowered_with(node, &Op::Expand, &[value], &[Some(typed), Some(of_sizes)], &[None, Some(sizes)], result)
    }

    /// A matrix with rows and columns behind its own.
    fn padded(&mut self, node: &Node, value: usize, from: [usize; 2], to: [usize; 2]) -> Result<usize> {
        let of = |shape: [usize; 2]| Typed { dtype: DType::F32, shape: shape.to_vec() };
        let value = self.part(value, of(from), 0);
        if from == to {
            return Ok(value);
        }
        let pads = [0, 0, to[0] - from[0], to[1] - from[1]].map(|n| n as i64);
        let pads = Tensor::from_i64(&[4], &pads);
        let of_pads = Typed { dtype: DType::I64, shape: vec![4] };
        self.lowered_with(node, &Op::Pad, &[value], &[Some(of(from)), Some(of_pads)], &[None, Some(pads)], of(to))
    }

    /// A fused norm that writes its scales as those who read them want them.
    pub(super) fn laid_out(&self, norm: &Arc<FusedNorm>, node: &Node) -> Arc<FusedNorm> {
        let mut norm = norm.clone();
        for (port, value) in norm.clone().out_ports().into_iter().zip(&node.outputs) {
            let OutPort::Scale(k, e) = port else { continue };
            if let Some(scheme) = self.for_products(&norm.siblings[k].epilogues[e], Some(*value)) {
                Arc::make_mut(&mut norm).siblings[k].epilogues[e] = scheme;
            }
        }
        norm
    }

    /// Lets a quantiser write the scales of groups by columns where nothing but products of codes and scales read them.
    pub(super) fn for_products(&self, scheme: &Scheme, scale: Option<ValueId>) -> Option<Scheme> {
        let grouped = matches!(scheme.granularity, Granularity::Group(g) if u64::from(g) == GROUP);
        let is_product = |p: &ScaledMatMul| matches!(p.a, ScalePer::Block(..)) && forms(p).is_ok();
        let reads = |user: NodeId, port: usize| matches!(&self.graph.node(user).op, Op::ScaledMatMul(p) if port == 2 && is_product(p));
        scale
            .filter(|scale| grouped && self.goes_to(*scale, &reads))
            .map(|_| Scheme { layout: ScaleLayout::TmaAligned, ..scheme.clone() })
    }
}
