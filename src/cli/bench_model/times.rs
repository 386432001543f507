//! How long a form of a model takes, whole and by op.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use normfuse::{
    cpu::Plan,
    cuda::{
        exec::{Bound, Executable, Listed},
        measure::Time,
    },
    ir::{Graph, Result, Tensor},
};

use super::kinds::{Kind, Kinds};

/// What steps of an op, or of a kind, take together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    pub steps: usize,
    pub us: f64,
}

/// How long a graph takes.
pub struct Times {
    pub whole: Time,
    /// Microseconds of the whole without attention, on a GPU.
    pub outside: Option<f64>,
    /// The steps, each alone, by kind and op.
    pub ops: BTreeMap<(Kind, String), Sum>,
}

impl Times {
    /// Of several turns: means, and the widest spread.
    pub fn of(turns: &[Self]) -> Self {
        let count = turns.len().max(1) as f64;
        let whole = Time {
            us: turns.iter().map(|t| t.whole.us).sum::<f64>() / count,
            low: turns.iter().map(|t| t.whole.low).fold(f64::INFINITY, f64::min),
            high: turns.iter().map(|t| t.whole.high).fold(0.0, f64::max),
        };
        let outside: Option<Vec<f64>> = turns.iter().map(|t| t.outside).collect();
        let outside = outside.map(|all| all.iter().sum::<f64>() / count);
        let mut ops = BTreeMap::<_, Sum>::new();
        for (op, sum) in turns.iter().flat_map(|t| &t.ops) {
            let entry = ops.entry(op.clone()).or_default();
            entry.steps = sum.steps;
            entry.us += sum.us / count;
        }
        Self { whole, outside, ops }
    }

    /// Of the steps that are such.
    pub fn sum(&self, such: impl Fn(Kind, &str) -> bool) -> Sum {
        let all = self.ops.iter().filter(|((kind, op), _)| such(*kind, op));
        all.fold(Sum::default(), |all, (_, sum)| Sum { steps: all.steps + sum.steps, us: all.us + sum.us })
    }

    /// Steps, and microseconds of all of them.
    pub fn steps(&self) -> (usize, f64) {
        let all = self.sum(|_, _| true);
        (all.steps, all.us)
    }
}

/// A graph that was made ready.
pub struct Ready<'g> {
    graph: &'g Graph,
    kinds: Kinds,
    place: Place,
}

enum Place {
    Cpu(Plan),
    /// The executable lives as long as what is bound of it.
    Gpu(Arc<Bound>, Box<Executable>),
}

impl<'g> Ready<'g> {
    /// On the GPU that it was loaded for, else on the CPU.
    pub fn new(graph: &'g Arc<Graph>, loaded: Option<Executable>, given: &[Tensor], kinds: Kinds) -> Result<Self> {
        let place = match loaded {
            None => Place::Cpu(Plan::new(graph)?),
            Some(executable) => Place::Gpu(executable.bind(&executable.given(given))?, Box::new(executable)),
        };
        Ok(Self { graph, kinds, place })
    }

    /// Where it runs.
    pub fn place(&self) -> &str {
        match &self.place {
            Place::Cpu(_) => "the CPU",
            Place::Gpu(_, executable) => executable.device().name(),
        }
    }

    /// On a GPU, launches, bytes of weights and bytes of the arena.
    pub fn memory(&self) -> Option<[u64; 3]> {
        let Place::Gpu(bound, _) = &self.place else { return None };
        let plan = bound.plan();
        Some([plan.launches() as u64, plan.weight_bytes(), plan.arena().bytes])
    }

    pub fn times(&self, given: &[Tensor], replays: usize) -> Result<Times> {
        match &self.place {
            Place::Cpu(plan) => self.on_cpu(plan, given, replays),
            Place::Gpu(bound, _) => self.on_gpu(bound, given, replays),
        }
    }

    fn on_cpu(&self, plan: &Plan, given: &[Tensor], replays: usize) -> Result<Times> {
        plan.run(given)?;
        let (mut whole, mut each) = (Vec::new(), BTreeMap::<_, (usize, Vec<f64>)>::new());
        for _ in 0..replays {
            let began = Instant::now();
            let mut last = began;
            let mut ops = BTreeMap::<_, Sum>::new();
            plan.run_observed(given, &mut |done| {
                let now = Instant::now();
                let node = self.graph.node(done.node);
                let entry = ops.entry((self.kinds.step([&node.name].into_iter()), node.op.name())).or_default();
                entry.steps += 1;
                entry.us += (now - last).as_secs_f64() * 1e6;
                last = now;
                Ok(())
            })?;
            whole.push(began.elapsed().as_secs_f64() * 1e6);
            for (op, sum) in ops {
                let entry = each.entry(op).or_default();
                entry.0 = sum.steps;
                entry.1.push(sum.us);
            }
        }
        let median = |times: Vec<f64>| Time::of(times).map_or(0.0, |t| t.us);
        let ops = each.into_iter().map(|(op, (steps, times))| (op, Sum { steps, us: median(times) })).collect();
        Ok(Times { whole: Time::of(whole).unwrap_or(Time { us: 0.0, low: 0.0, high: 0.0 }), outside: None, ops })
    }

    fn on_gpu(&self, bound: &Bound, given: &[Tensor], replays: usize) -> Result<Times> {
        bound.run(given)?;
        let whole = bound.time(replays)?;
        let attends = |step: &Listed| self.kinds.step(step.nodes.iter()) == Kind::Attention;
        let outside = Some(bound.time_without(replays, attends)?.us);
        let mut ops = BTreeMap::<_, Sum>::new();
        for timed in bound.time_steps(replays)? {
            let entry = ops.entry((self.kinds.step(timed.step.nodes.iter()), timed.step.op)).or_default();
            entry.steps += 1;
            entry.us += timed.time.map_or(0.0, |t| t.us);
        }
        Ok(Times { whole, outside, ops })
    }
}
