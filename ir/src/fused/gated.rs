//! Gated activations: `activation(gate) * up`, as the rows that norms or quantisers read.

use serde::{Deserialize, Serialize};

use super::computes;
use crate::{DType, num};

/// The function of the gate. Those of one op are rounded once, those that are spelled with several after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)` in one rounding.
    Silu,
    /// A sigmoid, rounded, and its product with `x`, rounded: silu as ONNX spells it.
    SigmoidProduct,
    /// The error function's gelu, in one rounding.
    Gelu,
    /// The tanh form of gelu, in one rounding.
    GeluTanh,
}

impl Activation {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Silu, Self::SigmoidProduct, Self::Gelu, Self::GeluTanh];

    /// The function of an f32, each rounding to `compute`.
    #[inline]
    pub fn apply(self, compute: DType, x: f32) -> f32 {
        let c = |v| num::round_to(compute, v);
        let x = c(x);
        c(match self {
            Self::Silu => num::silu(x),
            Self::SigmoidProduct => x * c(num::sigmoid(x)),
            Self::Gelu => num::gelu(x),
            Self::GeluTanh => num::gelu_tanh(x),
        })
    }
}

/// A gated activation. Nearly all have one dtype; what differs from it is said.
///
/// `a = cast[activated](activation[compute](gate))`, `h = round[product](a * up)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gated {
    /// The function of the gate.
    pub activation: Activation,
    /// Dtype of the gate, and of all that the other fields leave out.
    pub dtype: DType,
    /// Dtype of the other operand, if it is not that of the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<DType>,
    /// Dtype to which the gate and each step of the activation are rounded, if it is not that of the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<DType>,
    /// Dtype to which the activation is rounded before the product, if it is not that of the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<DType>,
    /// Dtype of the product, if it is not that of the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<DType>,
}

impl Gated {
    /// Operands, activation and product of one dtype.
    pub const fn of(activation: Activation, dtype: DType) -> Self {
        Self { activation, dtype, up: None, compute: None, activated: None, product: None }
    }

    /// A gate with these dtypes: of the operands, of the steps of the activation, of the activation and of the product.
    pub fn new(
        activation: Activation,
        [dtype, up]: [DType; 2],
        compute: DType,
        activated: DType,
        product: DType,
    ) -> Self {
        let unless = |d: DType| (d != dtype).then_some(d);
        Self {
            activation,
            dtype,
            up: unless(up),
            compute: unless(compute),
            activated: unless(activated),
            product: unless(product),
        }
    }

    /// Dtype of the second operand.
    pub fn up(self) -> DType {
        self.up.unwrap_or(self.dtype)
    }

    /// Dtype of the gate in the activation, and of each of its steps.
    pub fn compute(self) -> DType {
        self.compute.unwrap_or(self.dtype)
    }

    /// Dtype of the activation in the product.
    pub fn activated(self) -> DType {
        self.activated.unwrap_or(self.dtype)
    }

    /// Dtype of the product, which the siblings read.
    pub fn product(self) -> DType {
        self.product.unwrap_or(self.dtype)
    }

    /// What one element of the gate and one of the other operand make.
    #[inline]
    pub fn apply(self, gate: f32, up: f32) -> f32 {
        let activated = num::round_to(self.activated(), self.activation.apply(self.compute(), gate));
        num::round_to(self.product(), activated * up)
    }

    pub(super) fn check(self) -> Result<(), String> {
        let dtypes = [
            ("dtype", self.dtype),
            ("up", self.up()),
            ("compute", self.compute()),
            ("activated", self.activated()),
            ("product", self.product()),
        ];
        for (name, d) in dtypes {
            if !computes(d) {
                return Err(format!("prologue.{name}: expected f32, f16 or bf16, found {d}"));
            }
        }
        let [dtype, up] = [self.dtype, self.up()];
        if self != Self::new(self.activation, [dtype, up], self.compute(), self.activated(), self.product()) {
            return Err("prologue: a dtype that is the usual one is left out".into());
        }
        Ok(())
    }
}
