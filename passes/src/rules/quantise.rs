//! The end of every quantiser, whatever its scale: a value that met its scale, perhaps clamped, is cast. Always on: by
//! itself it recognises nothing, since only the quantiser rules make values meet scales.

use egg::rewrite;

use super::{Rewrites, quantised_type};

/// The rewrites.
pub fn rewrites() -> Rewrites {
    vec![
        rewrite!("quantise"; "(cast ?q (app ?how ?s ?v))" => "(quant ?q none none ?how ?s ?v)"
            if quantised_type("?q")),
        rewrite!("quantise-clamped"; "(cast ?q (clamp ?lo ?hi (app ?how ?s ?v)))" => "(quant ?q ?lo ?hi ?how ?s ?v)"
            if quantised_type("?q")),
    ]
}
