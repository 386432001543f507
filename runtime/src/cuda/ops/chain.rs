//! Chains of elementwise ops as one kernel: each thread has a few neighbouring elements of the results, reads what they are made
//! of, and goes through the steps for each.

use std::fmt::Write as _;

use normfuse_ir::{DType, Error, ErrorKind, Result};

use super::{
    Chain, Lowered, Source, Typed, Word,
    place::{Walk, broadcast, count},
    step::{Expression, Operand, expression},
    text::{Params, tag},
};

/// How an operand lies along the innermost axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    /// Its elements are neighbours, too.
    Along,
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
    expressions: Vec<Expression>,
    /// Elements of a thread.
    each: u64,
    /// True if they are neighbours in every operand.
    rows: bool,
    /// Wide enough for every number of an element.
    index: &'static str,
}

fn structure(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Structure, message)
}

/// The expressions of all steps, over the names that `body` gives operands and steps.
fn expressions(chain: &Chain) -> Result<Vec<Expression>> {
    let mut all: Vec<Expression> = Vec::with_capacity(chain.steps.len());
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
        let made = expression(&step.op, &named)?;
        if made.dtype != step.dtype {
            let message = format!("`{}` gives {}, not {}", step.op.name(), made.dtype, step.dtype);
            return Err(Error::new(ErrorKind::DType, message));
        }
        all.push(made);
    }
    Ok(all)
}

impl<'a> Plan<'a> {
    fn of(chain: &'a Chain) -> Result<Self> {
        let expressions = expressions(chain)?;
        let mut steps: Vec<Vec<i64>> = vec![super::place::strides(&chain.shape)];
        for input in &chain.inputs {
            // One element is one whatever its rank.
            let own = if count(&input.shape) == 1 { &[][..] } else { &input.shape };
            steps.push(broadcast(own, &chain.shape)?);
        }
        let mut walk = Walk::merged(&chain.shape, &steps);
        // The results are walked along whole, so their steps say nothing more.
        walk.steps.remove(0);
        let lies: Vec<Lies> = walk
            .steps
            .iter()
            .map(|s| match (s.last(), s.iter().all(|&s| s == 0)) {
                (_, true) => Lies::Alone,
                (Some(0), _) => Lies::Still,
                _ => Lies::Along,
            })
            .collect();
        let results = || chain.outputs.iter().filter_map(|&k| expressions.get(k)).map(|e| e.dtype);
        let nibbles = chain.inputs.iter().map(|x| x.dtype).chain(results()).any(|d| d.bits() == 4);
        let widest = chain.inputs.iter().map(|x| x.dtype).chain(results()).map(DType::bits).max().unwrap_or(8);
        let heavy = expressions.iter().any(|e| e.heavy);
        let most = if heavy { 2 } else { (128 / widest.max(8)).clamp(2, 8) as u64 };
        let rows = walk.rank() == 1 || walk.inner().is_multiple_of(most);
        let each = if rows { most } else { 1 + u64::from(nibbles) };
        let index = if walk.count() < 1 << 31 { "u32" } else { "u64" };
        Ok(Self { chain, walk, lies, expressions, each, rows, index })
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
        // Along the innermost axis the text has the step.
        let outer = self.walk.rank() - 1;
        for (i, steps) in self.walk.steps.iter().enumerate() {
            if self.lies[i] != Lies::Alone {
                p.signed(&format!("step{i}"), &steps[..outer]);
            }
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
            if *lies != Lies::Alone {
                let _ = writeln!(text, "    u64 at{i} = 0;");
            }
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
                if axis + 1 == rank && *lies == Lies::Along {
                    let _ = write!(text, " at{i} += c;");
                } else if axis + 1 < rank && *lies != Lies::Alone {
                    let _ = write!(text, " at{i} += c * p.step{i}[{axis}];");
                }
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

    fn kernel(&self) -> String {
        let each = self.each;
        let dtype = |i: usize| tag(self.chain.inputs[i].dtype);
        let mut text = format!("    const u64 first = (u64)own * {each};\n    if (first >= p.count) return;\n");
        let _ = writeln!(text, "    const int some = p.count - first < {each} ? (int)(p.count - first) : {each};");
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            let _ = writeln!(text, "    Pack<{}, {each}> out{port};", tag(self.expressions[k].dtype));
        }
        let element = |i: usize, lies: Lies| match lies {
            Lies::Alone => format!("read_at<{}>(p.x{i}, 0)", dtype(i)),
            _ => format!("read_at<{}>(p.x{i}, at{i})", dtype(i)),
        };
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
            let t = dtype(i);
            match lies {
                Lies::Along => {
                    let _ = writeln!(
                        text,
                        "    Pack<{t}, {each}> in{i};\n    if (some == {each}) in{i}.read(p.x{i}, at{i});\n    else\n#pragma unroll\n        \
                         for (int k = 0; k < {each}; ++k) in{i}.set(k, k < some ? read_at<{t}>(p.x{i}, at{i} + k) : (Raw<{t}>)0);"
                    );
                }
                _ => {
                    let _ = writeln!(text, "    const Raw<{t}> in{i} = {};", element(i, *lies));
                }
            }
        }
        let held = |i: usize, lies: Lies| match lies {
            Lies::Along => format!("in{i}[k]"),
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
pub fn of_node(op: &normfuse_ir::Op, inputs: &[Option<Typed>], output: &Typed) -> Chain {
    let mut kept = Vec::new();
    let mut operands = Vec::new();
    for input in inputs {
        operands.push(input.as_ref().map(|x| {
            kept.push(x.clone());
            Source::Input(kept.len() - 1)
        }));
    }
    let step = super::Step { op: op.clone(), operands, dtype: output.dtype };
    Chain { shape: output.shape.clone(), inputs: kept, steps: vec![step], outputs: vec![0] }
}
