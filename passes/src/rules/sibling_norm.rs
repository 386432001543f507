//! Sibling norms (the dual norm of multi-head latent attention, the q and k norms of others): several norms of the same
//! tokens become one op.

use super::{Rule, no_schemes, none};

/// The rule.
pub const RULE: Rule = Rule {
    name: "sibling_norm",
    summary: "Norms over the same tokens with no path between them become one fused op, quantised each as it was.",
    picture: "
     .-> * Wq_a -------------> norm -> [quant] -> q_b
h ---|
     '-> * Wkv_a -> slice ---> norm -> [quant] -> kv_b",
    preconditions: &[
        "same_tokens: the rows are projections or slices of one value, or one and the same value",
        "no_path: no norm depends on another, nor does merging them make a cycle with what is merged already",
        "supported: the runtime has a kernel for it",
    ],
    rewrites: none,
    schemes: no_schemes,
};
