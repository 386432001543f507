//! What the pass did and why: one site an anchor, and a summary.

use normfuse_ir::{DType, scheme::F32};
use serde::{Deserialize, Serialize};

use crate::relax::Relaxed;

/// What became of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is part of a fused op now.
    Fused,
    /// A precondition does not hold, so it must not fuse (or is not what it looks like).
    Rejected,
    /// All but one precondition hold: the site says what is missing.
    Nearest,
}

/// What an anchor is, or looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A norm without a quantiser in its op.
    Norm,
    /// A norm with at least one quantiser in its op.
    NormQuant,
    /// At least two norms in one op: what `--require` counts, the kind of no site.
    SiblingNorm,
    /// A quantiser with the gated activation before it in its op: what `--require` counts, the kind of no site.
    GatedAct,
    /// A quantiser that no norm took in.
    Quant,
}

impl Kind {
    /// Name in reports and for `--require`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::NormQuant => "norm_quant",
            Self::SiblingNorm => "sibling_norm",
            Self::GatedAct => "gated_act",
            Self::Quant => "quant",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Norm, Self::NormQuant, Self::SiblingNorm, Self::GatedAct, Self::Quant];
}

/// One anchor and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Name of the anchor node: the mean of squares, the native norm, or the quantiser's cast.
    pub anchor: String,
    /// Where it is in the model's source, if the format says so: `layers.3.norm (modeling.py:123)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// What became of it.
    pub outcome: Outcome,
    /// The rule that decided: the most specific one of a fused op, or the one whose precondition failed.
    pub rule: String,
    /// Name of the fused node, where there is one: also of a quantiser that was rejected by the norm that feeds it, and is an
    /// op of its own.
    pub op: Option<String>,
    /// How many norms share that node: more than one for sibling norms, 0 where nothing fused.
    #[serde(default)]
    pub siblings: usize,
    /// Names of the source nodes that the fused op replaced: of this norm and its quantisers, or of this quantiser.
    pub replaced: Vec<String>,
    /// Names of the weights, given scales and given zero points that the op reads for this norm: constants and inputs of
    /// the graph.
    #[serde(default)]
    pub weights: Vec<String>,
    /// How many of those have data. The others are inputs without a default.
    #[serde(default)]
    pub bound: usize,
    /// Schemes of the quantisers in the op.
    #[serde(default)]
    pub schemes: Vec<String>,
    /// The arithmetic of each of them in words, step by step.
    #[serde(default)]
    pub arithmetic: Vec<String>,
    /// Departures from the source's bits that the op was allowed, and what each changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relaxed: Vec<Relaxed>,
    /// Dequantisers of the codes that the op makes for this norm or quantiser.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dequantisers: Vec<Behind>,
    /// What pads the norm's result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pads: Vec<Behind>,
    /// The rewrites that recognised the norm, in the order in which they were applied to it.
    #[serde(default)]
    pub rewrites: Vec<String>,
    /// With [`crate::Options::explain`]: what the source computes as a term, each rewrite and what it changed, and the term that
    /// was recognised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// The first precondition that failed.
    pub precondition: Option<String>,
    /// The node at which it failed.
    pub node: Option<String>,
    /// What would help, or what was found.
    pub hint: Option<String>,
}

/// A node behind a result of an op that the op may make itself, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// Its name.
    pub node: String,
    /// The first precondition that failed; none where the op gives what it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<String>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Site {
    /// What people call it: its place, where that is known, and the anchor's name.
    pub fn title(&self) -> String {
        self.place.as_ref().map_or_else(|| self.anchor.clone(), |place| format!("{place} at {}", self.anchor))
    }
}

/// A product of two dequantised values that a product of codes and scales took the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaledProduct {
    /// Name of the product in the source.
    pub node: String,
    /// Where it is in the model's source, if the format says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Name of the new op.
    pub op: String,
    /// Its left side: type of the codes and what shares a scale.
    pub a: String,
    /// Its right side, a weight as a rule.
    pub b: String,
    /// Dtype of the result.
    pub to: DType,
    /// The largest difference from the source's product over the largest magnitude of that, on ordinary data.
    pub deviation: F32,
}

/// How many of each kind were fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fused {
    /// Norms in a fused op without a quantiser.
    pub norm: usize,
    /// Norms whose quantisers went into their fused op.
    pub norm_quant: usize,
    /// Fused ops with at least two norms.
    pub sibling_norm: usize,
    /// Quantisers whose op has the gated activation that they read.
    #[serde(default)]
    pub gated_act: usize,
    /// Quantisers that no norm feeds, each an op of its own.
    #[serde(default)]
    pub quant: usize,
}

/// Totals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Nodes of the graph as read (constants are values, not nodes).
    pub nodes_before: usize,
    /// Nodes of the graph as written.
    pub nodes_after: usize,
    /// RMSNorms recognised, fused or not.
    pub norms: usize,
    /// Quantisers recognised, fused or not.
    pub quants: usize,
    /// Fused, by kind.
    pub fused: Fused,
    /// Quantisers that are equal to another one in a norm's op, and are one with it there.
    #[serde(default)]
    pub merged_quants: usize,
    /// Sites that did not fuse (outcomes `rejected` and `nearest`).
    pub rejected: usize,
    /// Source ops replaced minus fused ops.
    pub launches_saved: usize,
    /// Bytes a token that are no longer moved: for each intermediate that vanished, elements a token times element size,
    /// once for the write and once for each read.
    pub bytes_saved_per_token: u64,
    /// Distinct fused ops whose body and descriptor were compared on hostile data (`--verify`), if asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verified: Option<usize>,
}

/// A rule, whether it was on, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleUse {
    /// Name of the rule.
    pub name: String,
    /// True if it was on.
    pub on: bool,
    /// Who switched it off, as [`crate::Options::disabled`] says.
    pub why_off: Option<String>,
    /// Fused sites in which it took part.
    pub matched: usize,
}

/// The report of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Totals.
    pub summary: Summary,
    /// One entry an anchor, in the order of the graph.
    pub sites: Vec<Site>,
    /// One entry a rule, in the order of [`crate::rules::ALL`].
    #[serde(default)]
    pub rules: Vec<RuleUse>,
    /// Products of dequantised values that multiply codes now, in the order of the graph.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<ScaledProduct>,
    /// What the reader and the pass want the user to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// Counts a fused site for a rule that took part in it.
    pub(crate) fn matched(&mut self, rule: &str) {
        if let Some(used) = self.rules.iter_mut().find(|r| r.name == rule) {
            used.matched += 1;
        }
    }

    /// How many sites of a kind fused, as `--require` counts them.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Norm => self.summary.fused.norm,
            Kind::NormQuant => self.summary.fused.norm_quant,
            Kind::SiblingNorm => self.summary.fused.sibling_norm,
            Kind::GatedAct => self.summary.fused.gated_act,
            Kind::Quant => self.summary.quants,
        }
    }
}
