//! The text of a chain's kernel, and its words.

use std::fmt::Write as _;

use normfuse_ir::Result;

use super::{
    super::{
        Word,
        text::{Params, tag},
    },
    plan::{Lies, Plan},
    structure,
};

impl Plan<'_> {
    pub fn params(&self) -> Result<Params> {
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
                Lies::Along | Lies::Alternate(_) | Lies::Still => p.signed(&format!("step{i}"), &steps[..outer]),
            }
            if self.bases[i] != 0 {
                p.signed(&format!("base{i}"), &self.bases[i..=i]);
            }
        }
        if let Some(steps) = &self.along {
            p.signed("row", steps);
            p.numbers("cut", self.choices());
            p.numbers("piece", self.pieces().0.into_iter().flatten());
        }
        Ok(p)
    }

    /// A function of one element.
    pub fn body(&self) -> String {
        let mut names = String::new();
        for (i, input) in self.chain.inputs.iter().enumerate() {
            let _ = write!(names, "Raw<{}> x{i}, ", tag(input.dtype));
        }
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            let _ = write!(names, "Raw<{}>& y{port}, ", tag(self.expressions[k].dtype));
        }
        for cut in 0..self.choices().len() {
            let _ = write!(names, "bool before{cut}, ");
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

    /// Where the operands' elements are of the element of number `flat`, and of which pieces it is.
    fn places(&self, flat: &str) -> String {
        let (index, rank) = (self.index, self.walk.rank());
        let mut text = format!("    {index} rest = {flat};\n");
        for (i, lies) in self.lies.iter().enumerate() {
            let base = if self.bases[i] == 0 { "0".to_owned() } else { format!("({index})p.base{i}[0]") };
            if *lies != Lies::Alone || self.bases[i] != 0 {
                let _ = writeln!(text, "    {index} at{i} = {base};");
            }
        }
        if self.along.is_some() {
            let _ = writeln!(text, "    {index} along = 0;");
        }
        for axis in (0..rank).rev() {
            let coordinate = if axis == 0 {
                format!("    {{ const {index} c = rest;")
            } else {
                let n = format!("({index})p.size[{}]", axis - 1);
                format!("    {{ const {index} q = rest / {n}, c = rest - q * {n}; rest = q;")
            };
            text += &coordinate;
            for (i, lies) in self.lies.iter().enumerate() {
                let _ = match lies {
                    Lies::Along if axis + 1 == rank => write!(text, " at{i} += c;"),
                    Lies::Alternate(_) if axis + 1 == rank => write!(text, " at{i} += 2 * c;"),
                    Lies::Still if axis + 1 == rank => Ok(()),
                    Lies::Alone => Ok(()),
                    _ => write!(text, " at{i} += c * ({index})p.step{i}[{axis}];"),
                };
            }
            if self.along.is_some() {
                let _ = write!(text, " along += c * ({index})p.row[{axis}];");
            }
            text += " }\n";
        }
        for cut in 0..self.choices().len() {
            let _ = writeln!(text, "    const bool before{cut} = along < ({index})p.cut[{cut}];");
        }
        for piece in 0..self.pieces().0.len() {
            let [from, to] = [0, 1].map(|end| format!("({index})p.piece[{}]", 2 * piece + end));
            let _ = writeln!(text, "    const bool in_piece{piece} = along >= {from} && along < {to};");
        }
        text
    }

    /// The call of `body` for element `k`, of operands that are named by `input`.
    fn call(&self, k: &str, input: impl Fn(usize) -> String) -> String {
        let mut text = String::new();
        for i in 0..self.lies.len() {
            let _ = write!(text, "{}, ", input(i));
        }
        for port in 0..self.chain.outputs.len() {
            let _ = write!(text, "r{port}, ");
        }
        for cut in 0..self.choices().len() {
            let _ = write!(text, "before{cut}, ");
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

    /// One element of an operand, `k` behind the first one of the thread.
    fn element(&self, i: usize, k: Option<&str>) -> String {
        let lies = self.lies[i];
        let at = if lies == Lies::Alone && self.bases[i] == 0 { "0".to_owned() } else { format!("at{i}") };
        let at = match (lies, k) {
            (Lies::Along, Some(k)) => format!("{at} + {k}"),
            (Lies::Apart, Some(k)) => {
                format!("({0})({at} + ({0}){k} * ({0})p.step{i}[{1}])", self.index, self.walk.rank() - 1)
            }
            _ => at,
        };
        format!("read_at<{}>(p.x{i}, {at})", tag(self.chain.inputs[i].dtype))
    }

    /// True where a thread has one element of the operand for all of its own.
    fn is_one(&self, i: usize) -> bool {
        matches!(self.lies[i], Lies::Still | Lies::Alone)
    }

    /// Reads into `in{i}` what a thread needs of an operand for its elements of one row.
    fn read(&self, i: usize) -> String {
        let (t, each) = (tag(self.chain.inputs[i].dtype), self.each);
        if self.is_one(i) {
            return format!("    in{i} = {};\n", self.element(i, None));
        }
        if let Lies::Alternate(from) = self.lies[i] {
            return format!(
                "    {{\n    Pack<{t}, {}> both;\n    both.read(p.x{i}, at{i} - {from});\n#pragma unroll\n    for (int k = 0; k < {each}; \
                 ++k) in{i}.set(k, both[2 * k + {from}]);\n    }}\n",
                2 * each
            );
        }
        let vector = format!("in{i}.read(p.x{i}, at{i});\n");
        if self.lies[i] == Lies::Along && !self.is_cut_off() {
            return format!("    {vector}");
        }
        let element = self.element(i, Some("k"));
        let element = if self.is_cut_off() { format!("k < some ? {element} : (Raw<{t}>)0") } else { element };
        let each_alone = format!("#pragma unroll\n    for (int k = 0; k < {each}; ++k) in{i}.set(k, {element});\n");
        if self.lies[i] == Lies::Along {
            return format!("    if (some == {each}) {vector}    else\n{each_alone}");
        }
        each_alone
    }

    /// Zeros in place of what an operand has in its piece.
    fn nothing(&self, i: usize) -> String {
        let (t, each) = (tag(self.chain.inputs[i].dtype), self.each);
        if self.is_one(i) {
            return format!("    in{i} = 0;\n");
        }
        format!("#pragma unroll\n    for (int k = 0; k < {each}; ++k) in{i}.set(k, (Raw<{t}>)0);\n")
    }

    /// What a thread reads for its elements of one row: all that is of one piece together.
    fn reads(&self) -> String {
        let mut text = String::new();
        for i in 0..self.lies.len() {
            let (t, each) = (tag(self.chain.inputs[i].dtype), self.each);
            let _ = if self.is_one(i) {
                writeln!(text, "    Raw<{t}> in{i};")
            } else {
                writeln!(text, "    Pack<{t}, {each}> in{i};")
            };
        }
        let (pieces, of) = self.pieces();
        let all = |what: &dyn Fn(usize) -> String, piece: Option<usize>| -> String {
            (0..of.len()).filter(|i| of[*i] == piece).map(what).collect()
        };
        text += &all(&|i| self.read(i), None);
        for piece in 0..pieces.len() {
            let (there, not) = (all(&|i| self.read(i), Some(piece)), all(&|i| self.nothing(i), Some(piece)));
            let _ = write!(text, "    if (in_piece{piece}) {{\n{there}    }} else {{\n{not}    }}\n");
        }
        text
    }

    pub fn kernel(&self) -> String {
        let each = self.each;
        let mut text = format!("    const u64 first = (u64)own * {each};\n    if (first >= p.count) return;\n");
        if self.is_cut_off() {
            let _ = writeln!(text, "    const int some = p.count - first < {each} ? (int)(p.count - first) : {each};");
        }
        for (port, &k) in self.chain.outputs.iter().enumerate() {
            let _ = writeln!(text, "    Pack<{}, {each}> out{port};", tag(self.expressions[k].dtype));
        }
        if !self.rows {
            let of = self.pieces().1;
            let element = |i: usize| {
                let read = self.element(i, None);
                let zero = format!("(Raw<{}>)0", tag(self.chain.inputs[i].dtype));
                of[i].map_or_else(|| read.clone(), |piece| format!("in_piece{piece} ? {read} : {zero}"))
            };
            for k in 0..each {
                let places = self.places(&format!("({})(first + {k})", self.index));
                let there = if self.is_cut_off() { format!("if ({k} < some) ") } else { String::new() };
                let _ = writeln!(text, "    {there}{{\n{places}    {}\n    }}", self.call(&k.to_string(), element));
            }
            return text + &self.writes();
        }
        text += &self.places(&format!("({})first", self.index));
        text += &self.reads();
        let held = |i: usize| if self.is_one(i) { format!("in{i}") } else { format!("in{i}[k]") };
        // Past the end there are zeros, of which nothing is to be reported.
        let faults = self.expressions.iter().any(|e| e.faults);
        let guard = if faults && self.is_cut_off() { "if (k < some) " } else { "" };
        let call = self.call("k", held);
        let _ = writeln!(text, "#pragma unroll\n    for (int k = 0; k < {each}; ++k) {guard}{{ {call} }}");
        text + &self.writes()
    }

    fn writes(&self) -> String {
        let all = |how: &str, more: &str| -> String {
            let mut text = String::new();
            for port in 0..self.chain.outputs.len() {
                let _ = writeln!(text, "    out{port}.{how}(p.y{port}, first{more});");
            }
            text
        };
        let whole = all("write", "");
        if !self.is_cut_off() {
            return format!("    others_may_begin();\n{whole}");
        }
        let some = all("write_some", ", some");
        format!("    others_may_begin();\n    if (some == {}) {{\n{whole}    }} else {{\n{some}    }}\n", self.each)
    }
}
