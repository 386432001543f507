//! Chains of elementwise ops as one kernel: each thread has a few neighbouring elements of the results, reads what they are made
//! of, and goes through the steps for each.

use std::fmt::Write as _;

use normfuse_ir::{DType, Error, ErrorKind, Op, Result};

use super::{
    Chain, Leaf, Lowered, Source, Typed, Word,
    place::{Walk, count, strides},
    step::{Expression, Operand, expression},
    text::{Params, tag},
};

/// How an operand lies along the innermost axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    /// Its elements are neighbours, too, and those of a thread are one vector.
    Along,
    /// Its elements are apart, or begin where no vector does.
    Apart,
    /// It is one element there.
    Still,
    /// It is one element altogether.
    Alone,
}

/// A chain whose shapes and dtypes have been looked at.
struct Plan<'a> {
    chain: &'a Chain,
    walk: Walk,
    lies: Vec<Lies>,
    /// The element of each operand at which index 0 of the walk would be.
    bases: Vec<i64>,
    /// Where the walk is along the axis of pieces, counted in elements of a row of them; nothing if there are none.
    along: Option<Vec<i64>>,
    expressions: Vec<Expression>,
    /// Elements of a thread.
    each: u64,
    /// True if they are of one row, and of one piece.
    rows: bool,
    /// Wide enough for every number of an element.
    index: &'static str,
}

fn structure(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Structure, message)
}

/// A choice between pieces, each of which goes on until `p.cut` of its number.
fn choice(operands: &[Option<Operand<'_>>], cut: &mut usize) -> Result<Expression> {
    let mut text = String::new();
    let mut dtypes = operands.iter().map(|o| o.map(|(dtype, _)| dtype));
    let dtype = dtypes.next().flatten().filter(|first| dtypes.all(|d| d == Some(*first)));
    let dtype = dtype.ok_or_else(|| structure("pieces of several dtypes do not join"))?;
    for (i, (_, name)) in operands.iter().flatten().enumerate() {
        if i + 1 < operands.len() {
            let _ = write!(text, "along < p.cut[{cut}] ? {name} : ");
            *cut += 1;
        } else {
            text += name;
        }
    }
    Ok(Expression { text, dtype, heavy: false, faults: false })
}

/// The expressions of all steps, over the names that `body` gives operands and steps.
fn expressions(chain: &Chain) -> Result<Vec<Expression>> {
    let mut all: Vec<Expression> = Vec::with_capacity(chain.steps.len());
    let mut cut = 0;
    for (k, step) in chain.steps.iter().enumerate() {
        let mut operands: Vec<Option<(DType, String)>> = Vec::new();
        for operand in &step.operands {
            operands.push(match *operand {
                None => None,
                Some(Source::Input(i)) => {
                    let input = chain.inputs.get(i).ok_or_else(|| structure(format!("a chain has no operand {i}")))?;
                    Some((input.dtype, format!("x{i}")))
                }
                Some(Source::Step(j)) => {
                    let earlier = all.get(j).ok_or_else(|| structure(format!("step {k} reads step {j}")))?;
                    Some((earlier.dtype, format!("s{j}")))
                }
            });
        }
        let named: Vec<Option<Operand<'_>>> =
            operands.iter().map(|o| o.as_ref().map(|(d, name)| (*d, name.as_str()))).collect();
        let made = match step.op {
            Op::Concat { .. } if step.ends.len() == named.len() => choice(&named, &mut cut)?,
            Op::Concat { .. } => return Err(structure(format!("step {k} does not say where its pieces end"))),
            _ => expression(&step.op, &named)?,
        };
        if made.dtype != step.dtype {
            let message = format!("`{}` gives {}, not {}", step.op.name(), made.dtype, step.dtype);
            return Err(Error::new(ErrorKind::DType, message));
        }
        all.push(made);
    }
    Ok(all)
}

/// Steps of an operand along the axes of a chain, and the element at which index 0 of all of them would be.
fn steps_of(leaf: &Leaf, chain: &Chain) -> Result<(Vec<i64>, i64)> {
    let (lies, rank) = (&leaf.lies, chain.shape.len());
    let mut base = lies.offset as i64;
    let mut steps = vec![0; rank];
    // One element is one whatever its rank.
    if count(&lies.shape) == 1 {
        return Ok((steps, base));
    }
    let bad = || Error::new(ErrorKind::Shape, format!("{:?} does not broadcast to {:?}", lies.shape, chain.shape));
    let more = rank.checked_sub(lies.shape.len()).ok_or_else(bad)?;
    for (axis, (&own, &stride)) in lies.shape.iter().zip(&lies.strides).enumerate() {
        let at = more + axis;
        let piece = leaf.piece.as_ref().filter(|_| at == chain.axis);
        let whole = piece.map_or(chain.shape[at], ExactSizeIterator::len);
        if own == whole {
            steps[at] = stride as i64;
            base -= piece.map_or(0, |p| p.start as i64) * stride as i64;
        } else if own != 1 {
            return Err(bad());
        }
    }
    Ok((steps, base))
}

impl<'a> Plan<'a> {
    fn of(chain: &'a Chain) -> Result<Self> {
        let expressions = expressions(chain)?;
        let own = strides(&chain.shape);
        let joins = chain.inputs.iter().any(|x| x.piece.is_some()) || chain.steps.iter().any(|s| !s.ends.is_empty());
        if joins && chain.axis >= chain.shape.len() {
            return Err(structure(format!("a chain of {:?} joins along axis {}", chain.shape, chain.axis)));
        }
        // A row of pieces is what lies within one index of the axes before theirs.
        let row = (0..own.len()).map(|axis| if joins && axis >= chain.axis { own[axis] } else { 0 }).collect();
        let mut steps: Vec<Vec<i64>> = vec![own, row];
        let mut bases = Vec::with_capacity(chain.inputs.len());
        for input in &chain.inputs {
            let (own, base) = steps_of(input, chain)?;
            steps.push(own);
            bases.push(base);
        }
        let mut walk = Walk::merged(&chain.shape, &steps);
        // The results are walked along whole, so their steps say nothing more.
        walk.steps.remove(0);
        let along = Some(walk.steps.remove(0)).filter(|_| joins);
        let results = || chain.outputs.iter().filter_map(|&k| expressions.get(k)).map(|e| e.dtype);
        let nibbles = chain.inputs.iter().map(|x| x.dtype).chain(results()).any(|d| d.bits() == 4);
        let widest = chain.inputs.iter().map(|x| x.dtype).chain(results()).map(DType::bits).max().unwrap_or(8);
        let heavy = expressions.iter().any(|e| e.heavy);
        let most = if heavy { 2 } else { (128 / widest.max(8)).clamp(2, 8) as u64 };
        let index = if walk.count() < 1 << 31 { "u32" } else { "u64" };
        let mut plan = Self { chain, walk, lies: Vec::new(), bases, along, expressions, each: most, rows: true, index };
        let fewest = if nibbles { most } else { 2 };
        while plan.each > fewest && !plan.is_of_rows() {
            plan.each /= 2;
        }
        plan.rows = plan.is_of_rows();
        if !plan.rows {
            plan.each = 1 + u64::from(nibbles);
        }
        plan.lies = (0..plan.bases.len()).map(|i| plan.lies_of(i)).collect();
        Ok(plan)
    }

    /// True if the elements of each thread are of one row, and of one piece.
    fn is_of_rows(&self) -> bool {
        let whole = |n: u64| n.is_multiple_of(self.each);
        (self.walk.rank() == 1 || whole(self.walk.inner())) && self.cuts().into_iter().all(whole)
    }

    fn lies_of(&self, input: usize) -> Lies {
        let whole = |n: &i64| n.unsigned_abs().is_multiple_of(self.each);
        match self.walk.steps[input].split_last() {
            Some((0, outer)) if outer.iter().all(|s| *s == 0) => Lies::Alone,
            Some((0, _)) => Lies::Still,
            Some((1, outer)) if self.rows && outer.iter().all(whole) && whole(&self.bases[input]) => Lies::Along,
            _ => Lies::Apart,
        }
    }

    /// Elements of a row of pieces for each index of their axis.
    fn within(&self) -> u64 {
        count(self.chain.shape.get(self.chain.axis + 1..).unwrap_or_default())
    }

    /// Where in a row of pieces the operands' ones begin and end.
    fn ends_of(&self, input: usize) -> Option<[u64; 2]> {
        let piece = self.chain.inputs[input].piece.as_ref()?;
        Some([piece.start, piece.end].map(|n| n as u64 * self.within()))
    }

    /// Where in a row of pieces another one begins, in the order of the steps' choices.
    fn choices(&self) -> Vec<u64> {
        let ends = self.chain.steps.iter().filter_map(|s| s.ends.split_last());
        ends.flat_map(|(_, ends)| ends).map(|n| *n as u64 * self.within()).collect()
    }

    fn cuts(&self) -> Vec<u64> {
        let inputs = (0..self.chain.inputs.len()).filter_map(|i| self.ends_of(i)).flatten();
        self.choices().into_iter().chain(inputs).collect()
    }

    fn params(&self) -> Result<Params> {
        let mut p = Params::default();
        for i in 0..self.chain.inputs.len() {
            p.input(&format!("x{i}"), Word::Input(i));
        }
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            if k >= self.expressions.len() {
                return Err(structure(format!("a chain has no step {k}")));
            }
            p.output(&format!("y{port}"), Word::Output(port));
        }
        if self.expressions.iter().any(|e| e.faults) {
            p.fault();
        }
        p.number("count", self.walk.count());
        p.numbers("size", self.walk.sizes.iter().skip(1).copied());
        // Along the innermost axis the text has the step, but of what lies apart.
        let outer = self.walk.rank() - 1;
        for (i, steps) in self.walk.steps.iter().enumerate() {
            match self.lies[i] {
                Lies::Alone => {}
                Lies::Apart => p.signed(&format!("step{i}"), steps),
                Lies::Along | Lies::Still => p.signed(&format!("step{i}"), &steps[..outer]),
            }
            if self.bases[i] != 0 {
                p.signed(&format!("base{i}"), &self.bases[i..=i]);
            }
            if let Some(ends) = self.ends_of(i) {
                p.numbers(&format!("ends{i}"), ends);
            }
        }
        if let Some(steps) = &self.along {
            p.signed("row", steps);
            p.numbers("cut", self.choices());
        }
        Ok(p)
    }

    /// A function of one element.
    fn body(&self) -> String {
        let mut names = String::new();
        for (i, input) in self.chain.inputs.iter().enumerate() {
            let _ = write!(names, "Raw<{}> x{i}, ", tag(input.dtype));
        }
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            let _ = write!(names, "Raw<{}>& y{port}, ", tag(self.expressions[k].dtype));
        }
        if self.along.is_some() {
            names += "const Params& p, const u64 along, ";
        }
        let mut text = format!("__device__ __forceinline__ void body({names}u32* fault) {{\n");
        for (k, e) in self.expressions.iter().enumerate() {
            let _ = writeln!(text, "    const Raw<{}> s{k} = {};", tag(e.dtype), e.text);
        }
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            let _ = writeln!(text, "    y{port} = s{k};");
        }
        text + "}\n"
    }

    /// Where the operands' elements are of the element of number `flat`.
    fn places(&self, flat: &str) -> String {
        let (index, rank) = (self.index, self.walk.rank());
        let mut text = format!("    {index} rest = {flat};\n");
        for (i, lies) in self.lies.iter().enumerate() {
            let base = if self.bases[i] == 0 { "0".to_owned() } else { format!("(u64)p.base{i}[0]") };
            if *lies != Lies::Alone || self.bases[i] != 0 {
                let _ = writeln!(text, "    u64 at{i} = {base};");
            }
        }
        if self.along.is_some() {
            text += "    u64 along = 0;\n";
        }
        for axis in (0..rank).rev() {
            let coordinate = if axis == 0 {
                "    { const u64 c = rest;".to_owned()
            } else {
                let n = format!("({index})p.size[{}]", axis - 1);
                format!("    {{ const {index} q = rest / {n}; const u64 c = rest - q * {n}; rest = q;")
            };
            text += &coordinate;
            for (i, lies) in self.lies.iter().enumerate() {
                let _ = match lies {
                    Lies::Along if axis + 1 == rank => write!(text, " at{i} += c;"),
                    Lies::Still if axis + 1 == rank => Ok(()),
                    Lies::Alone => Ok(()),
                    _ => write!(text, " at{i} += c * p.step{i}[{axis}];"),
                };
            }
            if self.along.is_some() {
                let _ = write!(text, " along += c * p.row[{axis}];");
            }
            text += " }\n";
        }
        text
    }

    /// The call of `body` for element `k`, of operands that are named by `input`.
    fn call(&self, k: &str, input: impl Fn(usize, Lies) -> String) -> String {
        let mut text = String::new();
        for (i, &lies) in self.lies.iter().enumerate() {
            let _ = write!(text, "{}, ", input(i, lies));
        }
        for port in 0..self.chain.outputs.len() {
            let _ = write!(text, "r{port}, ");
        }
        if self.along.is_some() {
            text += "p, along, ";
        }
        let fault = if self.expressions.iter().any(|e| e.faults) { "p.fault" } else { "nullptr" };
        let mut all = String::new();
        for (port, &step) in self.chain.outputs.iter().enumerate() {
            let _ = write!(all, "Raw<{}> r{port}; ", tag(self.expressions[step].dtype));
        }
        let _ = write!(all, "body({text}{fault});");
        for port in 0..self.chain.outputs.len() {
            let _ = write!(all, " out{port}.set({k}, r{port});");
        }
        all
    }

    /// True in the text where an operand's piece is.
    fn guard(&self, input: usize) -> Option<String> {
        self.ends_of(input).map(|_| format!("along >= p.ends{input}[0] && along < p.ends{input}[1]"))
    }

    /// One element of an operand, `k` behind the first one of the thread.
    fn element(&self, i: usize, lies: Lies, k: Option<&str>) -> String {
        let at = if lies == Lies::Alone && self.bases[i] == 0 { "0".to_owned() } else { format!("at{i}") };
        let at = match (lies, k) {
            (Lies::Along, Some(k)) => format!("{at} + {k}"),
            (Lies::Apart, Some(k)) => format!("{at} + {k} * p.step{i}[{}]", self.walk.rank() - 1),
            _ => at,
        };
        format!("read_at<{}>(p.x{i}, {at})", tag(self.chain.inputs[i].dtype))
    }

    /// The same, or a zero where the operand's piece is not.
    fn guarded(&self, i: usize, lies: Lies) -> String {
        let read = self.element(i, lies, None);
        let zero = format!("(Raw<{}>)0", tag(self.chain.inputs[i].dtype));
        self.guard(i).map_or_else(|| read.clone(), |guard| format!("{guard} ? {read} : {zero}"))
    }

    /// What a thread reads of an operand for its elements of one row.
    fn reads(&self, i: usize, lies: Lies) -> String {
        let (t, each) = (tag(self.chain.inputs[i].dtype), self.each);
        if matches!(lies, Lies::Still | Lies::Alone) {
            return format!("    const Raw<{t}> in{i} = {};\n", self.guarded(i, lies));
        }
        let zero = format!("(Raw<{t}>)0");
        let all =
            |what: &str| format!("#pragma unroll\n        for (int k = 0; k < {each}; ++k) in{i}.set(k, {what});\n");
        let mut read = all(&format!("k < some ? {} : {zero}", self.element(i, lies, Some("k"))));
        if lies == Lies::Along {
            read = format!("    if (some == {each}) in{i}.read(p.x{i}, at{i});\n    else\n{read}");
        }
        if let Some(guard) = self.guard(i) {
            read = format!("    if ({guard}) {{\n{read}    }} else {{\n{}    }}\n", all(&zero));
        }
        format!("    Pack<{t}, {each}> in{i};\n{read}")
    }

    fn kernel(&self) -> String {
        let each = self.each;
        let mut text = format!("    const u64 first = (u64)own * {each};\n    if (first >= p.count) return;\n");
        let _ = writeln!(text, "    const int some = p.count - first < {each} ? (int)(p.count - first) : {each};");
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            let _ = writeln!(text, "    Pack<{}, {each}> out{port};", tag(self.expressions[k].dtype));
        }
        let element = |i: usize, lies: Lies| self.guarded(i, lies);
        if !self.rows {
            for k in 0..each {
                let places = self.places(&format!("({})(first + {k})", self.index));
                let _ = writeln!(
                    text,
                    "    if ({k} < some) {{\n{places}    {}\n    }}",
                    self.call(&k.to_string(), element)
                );
            }
            return text + &self.writes("some");
        }
        text += &self.places(&format!("({})first", self.index));
        for (i, lies) in self.lies.iter().enumerate() {
            text += &self.reads(i, *lies);
        }
        let held = |i: usize, lies: Lies| match lies {
            Lies::Along | Lies::Apart => format!("in{i}[k]"),
            _ => format!("in{i}"),
        };
        // Past the end there are zeros, of which nothing is to be reported.
        let guard = if self.expressions.iter().any(|e| e.faults) { "if (k < some) " } else { "" };
        let _ = writeln!(
            text,
            "#pragma unroll\n    for (int k = 0; k < {each}; ++k) {guard}{{ {} }}",
            self.call("k", held)
        );
        text + &self.writes("some")
    }

    fn writes(&self, some: &str) -> String {
        let mut text = format!("    if ({some} == {}) {{\n", self.each);
        for port in 0..self.chain.outputs.len() {
            let _ = writeln!(text, "        out{port}.write(p.y{port}, first);");
        }
        text += "    } else {\n";
        for port in 0..self.chain.outputs.len() {
            let _ = writeln!(text, "        out{port}.write_some(p.y{port}, first, {some});");
        }
        text + "    }\n"
    }
}

/// The launch that computes a chain.
///
/// # Errors
/// `Structure`, `DType` and `Shape` for operands that do not fit, `Unsupported` for steps that are not elementwise.
pub fn lower(chain: &Chain) -> Result<Lowered> {
    let plan = Plan::of(chain)?;
    let params = plan.params()?;
    if count(&chain.shape) == 0 || chain.outputs.is_empty() {
        return Ok(Lowered::default());
    }
    let threads = plan.walk.count().div_ceil(plan.each);
    let launch = params.launch("scalar.cuh", &plan.body(), &plan.kernel(), threads)?;
    Ok(Lowered { launches: vec![launch], scratch: 0 })
}

/// A node that is elementwise, as a chain of one step.
pub fn of_node(op: &Op, inputs: &[Option<Typed>], output: &Typed) -> Chain {
    let mut kept = Vec::new();
    let mut operands = Vec::new();
    for input in inputs {
        operands.push(input.as_ref().map(|x| {
            kept.push(Leaf::from(x));
            Source::Input(kept.len() - 1)
        }));
    }
    let step = super::Step { op: op.clone(), operands, dtype: output.dtype, ends: Vec::new() };
    Chain { shape: output.shape.clone(), axis: 0, inputs: kept, steps: vec![step], outputs: vec![0] }
}
