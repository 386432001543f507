//! Whether a plan fits into the memory that a GPU has free, and what would.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use normfuse_ir::{Error, ErrorKind, Graph, Result};

use super::{
    arena::ALIGNMENT,
    concrete::Given,
    plan::Plan,
    step::{Place, Step},
};
use crate::signature::Signature;

/// What is on the GPU already, and what the caller brings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    /// Bytes of weights that are still to be uploaded.
    pub missing: u64,
    /// True if what is made of weights is there.
    pub made: bool,
    /// True if inputs and results lie in the caller's memory.
    pub operands: bool,
}

/// Bytes of a GPU's memory that a plan is about to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Weights that are uploaded.
    weights: u64,
    /// Most that is there beside them while something is made of weights.
    making: u64,
    /// What stays of that.
    made: u64,
    /// What the host has made for these sizes, and words in which kernels meet and fail.
    small: u64,
    arena: u64,
    /// Inputs and results.
    operands: u64,
}

impl Need {
    pub fn of(plan: &Plan, held: Held) -> Self {
        let of = |wanted: &dyn Fn(&Place) -> bool| -> u64 {
            plan.roots.iter().filter(|r| wanted(&r.place)).map(|r| r.bytes.next_multiple_of(ALIGNMENT)).sum()
        };
        let words = 4 * plan.faults as u64 + plan.meeting;
        let [making, made] =
            if held.made { [0; 2] } else { [making(plan) + words, of(&|p| matches!(p, Place::Kept(_)))] };
        let operands = of(&|p| matches!(p, Place::Input(_) | Place::Output(_)));
        Self {
            weights: held.missing,
            making,
            made,
            small: words + of(&|p| matches!(p, Place::Host(_))),
            arena: plan.arena.bytes,
            operands: if held.operands { 0 } else { operands },
        }
    }

    /// Most that is there at a time.
    pub fn peak(&self) -> u64 {
        let run = self.weights + self.made + self.small + self.operands;
        self.of_weights().max(run.saturating_add(self.arena))
    }

    /// What no sizes of inputs change.
    fn of_weights(&self) -> u64 {
        self.weights + self.making.max(self.made)
    }

    /// The error if `free` bytes of `total` are too few. `at_most` is asked for the largest size that would do, if sizes are to blame.
    ///
    /// # Errors
    /// `Unsupported` with what is short.
    pub fn fits(&self, free: u64, total: u64, at_most: impl FnOnce() -> Option<(String, i64)>) -> Result<()> {
        let short = self.peak().saturating_sub(free);
        if short == 0 {
            return Ok(());
        }
        let alone = self.of_weights() > free;
        let made = if alone { self.making.max(self.made) } else { self.made };
        let mut message = format!(
            "expected {} MiB of free memory on the GPU (weights {} MiB, made of them {} MiB, arena {} MiB, inputs and results {} MiB), \
             found {} MiB of {}: {} MiB are short",
            mib(self.peak()),
            mib(self.weights),
            mib(made),
            mib(self.arena),
            mib(self.operands),
            free >> 20,
            total >> 20,
            mib(short),
        );
        let hint = if alone {
            message += ", and the weights alone do not fit";
            "free memory, take a larger GPU, or weights of fewer bits"
        } else {
            let left = free.saturating_sub(self.weights + self.made + self.small) >> 20;
            let whose = if self.operands > 0 { "the arena, inputs and results" } else { "the arena" };
            let _ = write!(message, "; beside weights, {left} MiB are left for {whose}");
            if let Some((symbol, size)) = at_most() {
                let _ = write!(message, " ({symbol}: at most {size})");
            }
            "bind smaller sizes, or free memory"
        };
        Err(Error::new(ErrorKind::Unsupported, message).hint(hint))
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Most bytes that are there while something is made of weights: each step's operands are uploaded or allocated for it, and given
/// back when no later one reads them, but for what is kept.
fn making(plan: &Plan) -> u64 {
    let roots = |step: &Step| step.operands().map(|v| plan.values[v].root).collect::<BTreeSet<usize>>();
    let mut last = BTreeMap::new();
    for (i, step) in plan.once.iter().enumerate() {
        last.extend(roots(step).into_iter().map(|root| (root, i)));
    }
    let bytes = |root: &usize| plan.roots[*root].bytes.next_multiple_of(ALIGNMENT);
    let (mut there, mut most) = (BTreeSet::new(), 0);
    for (i, step) in plan.once.iter().enumerate() {
        there.extend(roots(step).into_iter().filter(|root| !matches!(plan.roots[*root].place, Place::Weight(_))));
        most = most.max(there.iter().map(bytes).sum::<u64>() + step.scratch);
        there.retain(|root| last.get(root) > Some(&i) || matches!(plan.roots[*root].place, Place::Kept(_)));
    }
    most
}

/// The largest size below the one that did not fit that does, of the largest dimension with a name.
pub fn at_most(graph: &Graph, given: &[Given], fits: impl Fn(&[Given]) -> bool) -> Option<(String, i64)> {
    let types: Vec<_> = given.iter().map(|g| (g.typed.0, &g.typed.1[..])).collect();
    let bound = Signature::of(graph).and_then(|s| s.check(&types)).ok()?;
    // Of equal ones the first by name.
    let (symbol, size) = bound.iter().rev().max_by_key(|(_, size)| **size)?;
    let of = |size: i64| {
        let mut sizes = bound.clone();
        sizes.insert(symbol.clone(), size);
        resized(graph, given, &sizes).is_some_and(|given| fits(&given))
    };
    largest(*size, of).map(|found| (symbol.clone(), found))
}

/// The largest number from 1 to below `end` that fits, if all below one that fits do.
fn largest(end: i64, fits: impl Fn(i64) -> bool) -> Option<i64> {
    let (mut low, mut high) = (1, end);
    if low >= high || !fits(low) {
        return None;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

/// The same inputs for other sizes; `None` if one has contents that would have to be others.
fn resized(graph: &Graph, given: &[Given], sizes: &BTreeMap<String, i64>) -> Option<Vec<Given>> {
    let one = |(id, given): (&normfuse_ir::ValueId, &Given)| {
        let Some(shape) = &graph.value(*id).ty.shape else { return Some(given.clone()) };
        let axes = shape.0.iter().zip(&given.typed.1);
        // A size that no symbol decides is as it was.
        let axes = axes.map(|(dim, n)| dim.eval(&|s| sizes.get(s).copied()).map_or(Some(*n), |n| n.try_into().ok()));
        let shape: Vec<usize> = axes.collect::<Option<_>>()?;
        let same = shape == given.typed.1;
        let contents = given.contents.clone();
        (same || contents.is_none()).then_some(Given { typed: (given.typed.0, shape), contents })
    };
    graph.inputs().iter().zip(given).map(one).collect()
}

#[cfg(test)]
mod tests {
    use normfuse_ir::{infer, text};

    use super::{
        super::{OnPaper, executable::given as describe, host_inputs},
        *,
    };

    const MIB: u64 = 1 << 20;

    /// Two weights of 1 MiB that are turned into others once, as much in a weight that is read as it is, and an arena.
    const TURNED: &str = r#"graph "g"
opset "" 20
input %x: f32[batch, seq, 512]
const %a: f32[512, 512] = fill(0.5)
const %b: f32[512, 512] = fill(0.25)
const %w: f32[512, 512] = fill(2.0)
%ea = exp(%a)
%eb = exp(%b)
%sum = reduce_mean(%x) {axes=[-1], keepdims=true}
%y = matmul(%x, %ea)
%z = matmul(%y, %eb)
%v = matmul(%z, %w)
%out = mul(%v, %sum)
output %out
"#;

    fn graph(source: &str) -> Graph {
        let mut graph = text::parse(source, &mut |w| panic!("{}", w.name)).unwrap();
        infer::infer(&mut graph).unwrap();
        graph
    }

    fn of_sizes(graph: &Graph, batch: usize, seq: usize) -> Vec<Given> {
        let x = normfuse_ir::Tensor::from_f32(&[batch, seq, 512], &vec![0.0; batch * seq * 512]);
        describe(&host_inputs(graph).unwrap(), &[x])
    }

    fn need(graph: &Graph, seq: usize, held: Held) -> Need {
        Need::of(&Plan::new(graph, &of_sizes(graph, 1, seq), &OnPaper).unwrap(), held)
    }

    const FRESH: Held = Held { missing: MIB, made: false, operands: false };

    #[test]
    fn what_goes_before_the_next_comes_is_counted_once() {
        let need = need(&graph(TURNED), 512, FRESH);
        assert_eq!((need.weights, need.made, need.operands), (MIB, 2 * MIB, 2 * MIB));
        // The second of two weights, what is made of it, and what was made of the first: not the first itself.
        assert_eq!(need.making, 3 * MIB);
        assert_eq!(need.peak(), MIB + 2 * MIB + need.small + 2 * MIB + need.arena);
    }

    #[test]
    fn what_is_there_or_the_callers_is_not_counted() {
        let graph = graph(TURNED);
        let brought = need(&graph, 512, Held { operands: true, ..FRESH });
        assert_eq!(brought.peak() + 2 * MIB, need(&graph, 512, FRESH).peak());
        let again = need(&graph, 512, Held { missing: 0, made: true, operands: true });
        assert_eq!(again.peak(), again.small + again.arena);
    }

    #[test]
    fn what_fits_to_the_byte_fits() {
        let need = need(&graph(TURNED), 512, FRESH);
        need.fits(need.peak(), 80 << 30, || panic!("it fits")).unwrap();
        need.fits(need.peak() - 1, 80 << 30, || None).unwrap_err();
    }

    #[test]
    fn an_arena_that_does_not_fit_is_told_with_what_would() {
        let graph = graph(TURNED);
        let large = need(&graph, 4096, FRESH);
        let free = need(&graph, 1000, FRESH).peak();
        let at_most = || {
            let fits = |given: &[Given]| Need::of(&Plan::new(&graph, given, &OnPaper).unwrap(), FRESH).peak() <= free;
            at_most(&graph, &of_sizes(&graph, 1, 4096), fits)
        };
        let said = large.fits(free, 16 * MIB, at_most).unwrap_err().to_string();
        let begins = "expected 35 MiB of free memory on the GPU (weights 1 MiB, made of them 2 MiB, arena 16 MiB, inputs and results \
                      16 MiB), found 10 MiB of 16: 25 MiB are short; beside weights, 7 MiB are left for the arena, inputs and results ";
        assert!(said.starts_with(begins), "{said}");
        assert!(said.contains("(seq: at most 1000)"), "{said}");
        assert!(said.contains("bind smaller sizes, or free memory"), "{said}");
    }

    #[test]
    fn weights_that_do_not_fit_are_told_without_sizes() {
        let need = need(&graph(TURNED), 4096, FRESH);
        let said = need.fits(3 * MIB, 16 * MIB, || panic!("no size fits")).unwrap_err().to_string();
        assert!(said.contains("are short, and the weights alone do not fit"), "{said}");
    }

    #[test]
    fn the_largest_size_is_found() {
        for most in 1..20 {
            assert_eq!(largest(20, |n| n <= most), Some(most));
        }
        assert_eq!(largest(20, |_| false), None);
        assert_eq!(largest(1, |_| true), None);
    }

    /// Inputs whose contents decide sizes are not made up.
    #[test]
    fn contents_of_other_sizes_are_not_made_up() {
        let graph =
            graph("graph \"g\"\nopset \"\" 20\ninput %x: f32[n]\ninput %to: i64[m]\n%y = expand(%x, %to)\noutput %y\n");
        let given = |sizes: &[(&str, i64)]| {
            let tensors = [normfuse_ir::Tensor::from_f32(&[1], &[0.0]), normfuse_ir::Tensor::from_i64(&[2], &[3, 4])];
            let sizes = sizes.iter().map(|(s, n)| ((*s).to_owned(), *n)).collect();
            resized(&graph, &describe(&host_inputs(&graph).unwrap(), &tensors), &sizes)
        };
        assert_eq!(given(&[("n", 4), ("m", 2)]).unwrap()[0].typed.1, [4]);
        assert_eq!(given(&[("n", 1), ("m", 3)]), None);
    }
}
