//! Every op on every dtype: its text compiles, and its results are the evaluator's.

use std::collections::BTreeMap;

use normfuse_runtime::cuda::ops::Launch;

use super::{cases, compare, compile, ready};

/// Texts of a family that are compiled where there may be no GPU; a GPU's tests compile all.
const SHARE: usize = 8;

/// So many texts, spread over all of them; all with `OPS=all`.
fn share<'a>(launches: impl Iterator<Item = &'a Launch>) -> impl Iterator<Item = &'a Launch> {
    let texts: BTreeMap<&str, &Launch> = launches.map(|l| (&*l.text, l)).collect();
    let all = std::env::var_os("OPS").is_some_and(|v| v == "all");
    let step = if all { 1 } else { texts.len().div_ceil(SHARE).max(1) };
    eprintln!("{} texts, one of {step} compiled", texts.len());
    texts.into_values().step_by(step).collect::<Vec<_>>().into_iter()
}

/// The first test compiles for Hopper; the second runs.
macro_rules! families {
    ($($name:ident)*) => {$(
        mod $name {
            #[test]
            fn compiles_without_spills() {
                let all = super::ready(super::cases::$name());
                super::compile(super::share(all.iter().flat_map(|r| &r.lowered.launches)), "sm_90");
            }

            #[test]
            fn has_the_bits_of_the_evaluator() {
                super::compare(&super::ready(super::cases::$name()));
            }
        }
    )*};
}

families! { unary binary casts reductions rows_of_floats movement indices quantisers integer_products }

#[test]
fn blackwell_compiles_too() {
    let all = [cases::rows_of_floats(), cases::movement(), cases::indices()].concat();
    let all = ready(all.into_iter().step_by(5).collect());
    compile(share(all.iter().flat_map(|r| &r.lowered.launches)), "sm_100a");
}
