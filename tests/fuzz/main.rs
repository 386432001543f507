//! Random graphs that try to make the pass wrong: it must take every legal one, give a legal one back, report what it
//! did, and change no bit of what the graph computes.
//!
//! `PROPTEST_CASES` says how many cases each property tries and `PROPTEST_RNG_SEED` which; without them a run is short
//! and always the same. A failure prints the smallest graph that was found, as text that can go under `tests/in`.

mod dequantise;
mod fp4;
mod graphs;
mod judge;
mod maker;
mod mutate;
mod norm;
mod quant;
#[path = "../common/shuffle.rs"]
mod shuffle;
mod tape;

use std::cell::RefCell;

use judge::{Tally, judge};
use proptest::{
    collection::vec,
    num::u16::ANY,
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use tape::Tape;

/// A tape's numbers, which tell a reader nothing.
struct Choices(Vec<u16>);

impl std::fmt::Debug for Choices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} choices", self.0.len())
    }
}

/// Tries a property on many cases: a tape for a graph, one for what is done to it, and a seed for data.
fn tries(what: &str, cases: u32, property: impl Fn(&[u16], &[u16], u64, &mut Tally) -> Result<(), String>) -> Tally {
    let set = |name: &str| std::env::var_os(name).is_some();
    let mut config = Config { failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    if !set("PROPTEST_CASES") {
        config.cases = cases;
    }
    if !set("PROPTEST_RNG_SEED") {
        config.rng_seed = RngSeed::Fixed(1);
    }
    let tally = RefCell::new(Tally::default());
    let case = (vec(ANY, 0..600).prop_map(Choices), vec(ANY, 0..24).prop_map(Choices), ANY);
    let result = TestRunner::new(config).run(&case, |(graph, change, seed)| {
        property(&graph.0, &change.0, seed.into(), &mut tally.borrow_mut()).map_err(TestCaseError::fail)
    });
    let tally = tally.into_inner();
    println!("{what}: {tally:?}");
    if let Err(failure) = result {
        panic!("{failure}");
    }
    tally
}

#[test]
fn whatever_the_grammar_makes_keeps_its_bits() {
    let tally = tries("graphs", 150, |choices, _, seed, tally| judge(&graphs::graph(choices), seed, tally));
    // A generator whose graphs are refused or never fuse would test nothing.
    assert_eq!((tally.refused, tally.dumb), (0, 0));
    assert!(
        tally.norm_quant > 0
            && tally.norm > 0
            && tally.siblings > 0
            && tally.quant * tally.gated > 0
            && tally.dequantised.iter().all(|n| *n > 0)
            && tally.rejected > 0,
        "{tally:?}"
    );
}

#[test]
fn a_changed_graph_fuses_rightly_or_not_at_all() {
    let tally = tries("changed graphs", 150, |choices, change, seed, tally| {
        let mut graph = graphs::graph(choices);
        let mut tape = Tape::new(change);
        let mut changes = Vec::new();
        for _ in 0..=tape.below(2) {
            changes.extend(mutate::mutate(&mut graph, &mut tape));
        }
        judge(&graph, seed, tally).map_err(|e| format!("after {changes:?}: {e}"))
    });
    assert!(tally.refused < tally.graphs / 2 && tally.norm_quant > 0, "{tally:?}");
}

#[test]
fn the_order_of_nodes_changes_nothing() {
    let tally = tries("shuffled graphs", 500, |choices, change, seed, tally| {
        let mut graph = graphs::graph(choices);
        if seed.is_multiple_of(2) {
            mutate::mutate(&mut graph, &mut Tape::new(change));
        }
        judge::same_in_any_order(&graph, seed, tally)
    });
    assert!(
        tally.norm_quant > 0
            && tally.norm > 0
            && tally.siblings > 0
            && tally.quant * tally.gated > 0
            && tally.dequantised.iter().all(|n| *n > 0)
            && tally.rejected > 0,
        "{tally:?}"
    );
}
