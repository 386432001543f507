//! What all fused ops have in common: a descriptor, ports in one language, and a body that spells them out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    DType, FusedNorm, Op, Scheme,
    fused::{InPort, OutPort, Prologue},
    scheme::ZeroPoint,
};

/// Everything that a fused op computes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptor {
    /// Norms, with what comes before and behind them.
    Norm(Arc<FusedNorm>),
    /// A quantiser that is in no norm's op. Its ports are those of a norm's first epilogue, and its rows are
    /// [`InPort::X`].
    Quantize(Arc<Scheme>),
}

impl Descriptor {
    /// That of an op; `None` for ops that are not fused ones.
    pub fn of(op: &Op) -> Option<Self> {
        match op {
            Op::FusedNorm(f) => Some(Self::Norm(Arc::clone(f))),
            Op::Quantize(s) => Some(Self::Quantize(Arc::clone(s))),
            _ => None,
        }
    }

    /// The op that it describes.
    pub fn op(&self) -> Op {
        match self {
            Self::Norm(f) => Op::FusedNorm(Arc::clone(f)),
            Self::Quantize(s) => Op::Quantize(Arc::clone(s)),
        }
    }

    /// What is in the op: `fused_norm`, `gated_act` where no norm is behind the gate, or `quantize`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Norm(f) if matches!(f.prologue, Prologue::Gated(_)) && f.norms() == 0 => "gated_act",
            Self::Norm(_) => "fused_norm",
            Self::Quantize(_) => "quantize",
        }
    }

    /// Operands in their fixed order.
    pub fn in_ports(&self) -> Vec<InPort> {
        match self {
            Self::Norm(f) => f.in_ports(),
            Self::Quantize(s) => {
                let mut ports = vec![InPort::X];
                ports.extend(s.given.is_some().then_some(InPort::Scale(0, 0)));
                ports.extend((s.zero_point == ZeroPoint::Given).then_some(InPort::ZeroPoint(0, 0)));
                ports
            }
        }
    }

    /// Results in their fixed order.
    pub fn out_ports(&self) -> Vec<OutPort> {
        match self {
            Self::Norm(f) => f.out_ports(),
            Self::Quantize(s) => s.out_ports(0, 0).collect(),
        }
    }

    /// The scheme of a port of a quantiser: of sibling `k`, its epilogue `e`.
    pub fn scheme(&self, k: usize, e: usize) -> Option<&Scheme> {
        match self {
            Self::Norm(f) => f.siblings.get(k)?.epilogues.get(e),
            Self::Quantize(s) => ((k, e) == (0, 0)).then_some(s),
        }
    }

    /// Every quantiser in the op, in port order.
    pub fn schemes(&self) -> Vec<&Scheme> {
        match self {
            Self::Norm(f) => f.siblings.iter().flat_map(|s| &s.epilogues).collect(),
            Self::Quantize(s) => vec![s],
        }
    }

    /// Dtype of rows, as the norm that reads them has it. A quantiser takes f32, f16 and bf16 alike.
    pub fn rows_dtype(&self, port: InPort) -> Option<DType> {
        match self {
            Self::Norm(f) => f.rows_dtype(port),
            Self::Quantize(_) => None,
        }
    }

    /// Width of the rows of sibling `k`, as the norm has it. A quantiser takes any that its groups divide.
    pub fn width(&self, k: usize) -> Option<u64> {
        match self {
            Self::Norm(f) => f.siblings.get(k).map(|s| s.width),
            Self::Quantize(_) => None,
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// A sentence that names the field, what was expected and what was found.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Norm(f) => f.check(),
            Self::Quantize(s) => s.check(),
        }
    }
}
