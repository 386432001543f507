//! What the caller of the pass may choose.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use normfuse_ir::{DType, Descriptor, Error, ErrorKind, FusedNorm, Node, Scheme, scaled::ScaledMatMul};

use crate::{
    cost::{CostTable, Device},
    relax::Relaxation,
    rules::{self, Rule},
    switches,
};

fn is_ours(rule: &str) -> bool {
    rules::ALL.iter().any(|r| r.name == rule)
}

/// Says what there are kernels for: the reason if there is none.
pub type Supports = Arc<dyn Fn(&FusedNorm) -> Result<(), String> + Send + Sync>;

/// The same for quantisers that are in no norm's op.
pub type SupportsQuantize = Arc<dyn Fn(&Scheme) -> Result<(), String> + Send + Sync>;

/// The same for products of codes and scales, with the types of both sides' codes and `[N, K]`.
pub type SupportsScaled = Arc<dyn Fn(&ScaledMatMul, [DType; 2], [usize; 2]) -> Result<(), String> + Send + Sync>;

/// Marks nodes.
pub type Marks = Arc<dyn Fn(&Node) -> bool + Send + Sync>;

/// What the caller may choose.
#[derive(Clone)]
pub struct Options {
    /// Names of rules that are switched off, each with who says so: a flag or variable of [`crate::switches`], or a host's
    /// own words.
    pub disabled: BTreeMap<String, String>,
    /// What the runtime that will execute the graph has kernels for.
    pub supports: Supports,
    /// And for which quantisers that no norm's op takes in.
    pub supports_quantize: SupportsQuantize,
    /// And which products of codes and scales it has, where [`Relaxation::ScaledMatmul`] makes such.
    pub supports_scaled: SupportsScaled,
    /// What fusions are chosen for.
    pub device: Device,
    /// The host's own measurements, in place of the device's description.
    pub cost: Option<CostTable>,
    /// Take dequantised values into norms' ops even where a product multiplies two of them. By default such a product keeps the
    /// codes and scales of both sides, since a backend that multiplies those finds it by its operands.
    pub whole_products: bool,
    /// Departures from the source's bits that are allowed: none by default.
    pub relax: BTreeSet<Relaxation>,
    /// Compare each distinct fused op with its body on hostile data, bit for bit.
    pub verify: bool,
    /// Say of each fused norm by which rewrites it is one ([`crate::Site::path`]). Takes many times as long as recognising it.
    pub explain: bool,
    /// Nodes that the pass neither looks into nor replaces. Their operands are taken to be all that they depend on.
    pub opaque: Option<Marks>,
    /// Rules of the host, beside [`rules::ALL`]: spellings that it knows to have the same bits. A rewrite that is wrong
    /// makes fused ops wrong; [`Options::verify`] finds out.
    pub extra_rules: Vec<Rule>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            disabled: BTreeMap::new(),
            supports: Arc::new(|_| Ok(())),
            supports_quantize: Arc::new(|_| Ok(())),
            supports_scaled: Arc::new(|_, _, _| Ok(())),
            device: Device::default(),
            cost: None,
            whole_products: false,
            relax: BTreeSet::new(),
            verify: false,
            explain: false,
            opaque: None,
            extra_rules: Vec::new(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: Vec<&str> = self.extra_rules.iter().map(|r| r.name).collect();
        f.debug_struct("Options")
            .field("disabled", &self.disabled)
            .field("device", &self.device)
            .field("whole_products", &self.whole_products)
            .field("relax", &self.relax)
            .field("verify", &self.verify)
            .field("explain", &self.explain)
            .field("extra_rules", &rules)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Who switched a rule off; `None` if it is on.
    pub fn why_off(&self, rule: &str) -> Option<&str> {
        self.disabled.get(rule).map(String::as_str)
    }

    /// What the host says to an op.
    pub(crate) fn supported(&self, descriptor: &Descriptor) -> Result<(), String> {
        match descriptor {
            Descriptor::Norm(norm) => (self.supports)(norm),
            Descriptor::Quantize(scheme) => (self.supports_quantize)(scheme),
        }
    }

    /// Every rule, ours and the host's, on or off.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        rules::ALL.into_iter().chain(&self.extra_rules)
    }

    /// # Errors
    /// A name that no rule has, or that two have.
    pub(crate) fn check(&self) -> normfuse_ir::Result<()> {
        let bad = |message: String| Error::new(ErrorKind::Value, message);
        self.device.check().map_err(|m| bad(format!("device `{}`: {m}", self.device.name)))?;
        if let Some(unknown) = self.disabled.keys().find(|d| self.rules().all(|r| r.name != **d)) {
            let known: Vec<&str> = self.rules().map(|r| r.name).collect();
            return Err(bad(format!("there is no rule `{unknown}`")).hint(format!("rules: {}", known.join(", "))));
        }
        if let Some(taken) = self.extra_rules.iter().find(|r| switches::is_reserved(r.name) && !is_ours(r.name)) {
            let hint = "switches that people already set mean something else by it: give the rule another name";
            return Err(bad(format!("the name `{}` of a rule is reserved", taken.name)).hint(hint));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.rules().find(|r| !names.insert(r.name)) {
            let of = if is_ours(twice.name) { ", one of them of normfuse's own" } else { "" };
            return Err(bad(format!("two rules have the name `{}`{of}", twice.name)).hint("rename the host's"));
        }
        // Ours may share rewrites; the name of a host's must be its own, or it would be taken for one of those.
        let ours = rules::ALL.iter().flat_map(|r| (r.rewrites)()).chain(rules::always());
        let mut names: BTreeSet<_> = ours.map(|r| r.name).collect();
        for rule in &self.extra_rules {
            if let Some(twice) = (rule.rewrites)().into_iter().find(|r| !names.insert(r.name)) {
                return Err(bad(format!("rule `{}`: another rewrite has the name `{}`", rule.name, twice.name)));
            }
        }
        Ok(())
    }
}
