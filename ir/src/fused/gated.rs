//! Gated activations: `activation(gate) * up`, as the rows that norms or quantisers read.

use serde::{Deserialize, Serialize};

use super::computes;
use crate::{DType, num, scheme::F32};

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
}

/// A gated activation. Nearly all have one dtype and no bounds; what differs from that is said.
///
/// `x = min(cast[compute](gate), gate_max)`, `u = round[shifted](clamp(up, -up_limit, up_limit) + 1)`,
/// `a = cast[activated](activation[compute](x))`, `h = round[product](a * u)`. A bound that is left out bounds nothing, and NaN
/// passes all of them; without `shifted` nothing is added. With `alpha`, the sigmoid is that of `round[compute](x * alpha)`.
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
    /// What the operand of the sigmoid is multiplied with, in a [`Activation::SigmoidProduct`], if it is not 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<F32>,
    /// The most that the gate is, a number of `compute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_max: Option<F32>,
    /// The largest magnitude of the other operand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_limit: Option<F32>,
    /// Dtype to which the other operand plus one is rounded, if one is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shifted: Option<DType>,
}

impl Gated {
    /// Operands, activation and product of one dtype.
    pub const fn of(activation: Activation, dtype: DType) -> Self {
        Self {
            activation,
            dtype,
            up: None,
            compute: None,
            activated: None,
            product: None,
            alpha: None,
            gate_max: None,
            up_limit: None,
            shifted: None,
        }
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
            ..Self::of(activation, dtype)
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

    /// True for one that bounds, adds or scales: more than an activation and a product.
    pub fn is_bounded(self) -> bool {
        self.alpha.is_some() || self.gate_max.is_some() || self.up_limit.is_some() || self.shifted.is_some()
    }

    /// What the activation is of: an element of the gate in `compute`, and no more than it may be.
    #[inline]
    fn gate(self, gate: f32) -> f32 {
        let x = num::round_to(self.compute(), gate);
        self.gate_max.map_or(x, |most| num::min(x, most.get()))
    }

    /// The activation of what [`Gated::gate`] made, rounded to `compute`.
    #[inline]
    fn activation(self, x: f32) -> f32 {
        let c = |v| num::round_to(self.compute(), v);
        c(match self.activation {
            Activation::Silu => num::silu(x),
            Activation::SigmoidProduct => {
                let scaled = self.alpha.map_or(x, |alpha| c(x * alpha.get()));
                x * c(num::sigmoid(scaled))
            }
            Activation::Gelu => num::gelu(x),
            Activation::GeluTanh => num::gelu_tanh(x),
        })
    }

    /// The second factor of the product, of an element of the other operand.
    #[inline]
    pub fn factor(self, up: f32) -> f32 {
        let up = self.up_limit.map_or(up, |limit| num::min(num::max(up, -limit.get()), limit.get()));
        self.shifted.map_or(up, |dtype| num::round_to(dtype, up + 1.0))
    }

    /// What one element of the gate and one of the other operand make.
    #[inline]
    pub fn apply(self, gate: f32, up: f32) -> f32 {
        let activated = num::round_to(self.activated(), self.activation(self.gate(gate)));
        num::round_to(self.product(), activated * self.factor(up))
    }

    pub(super) fn check(self) -> Result<(), String> {
        let dtypes = [
            ("dtype", self.dtype),
            ("up", self.up()),
            ("compute", self.compute()),
            ("activated", self.activated()),
            ("product", self.product()),
            ("shifted", self.shifted.unwrap_or(self.dtype)),
        ];
        for (name, d) in dtypes {
            if !computes(d) {
                return Err(format!("prologue.{name}: expected f32, f16 or bf16, found {d}"));
            }
        }
        let [dtype, up] = [self.dtype, self.up()];
        let usual = Self::new(self.activation, [dtype, up], self.compute(), self.activated(), self.product());
        let Self { alpha, gate_max, up_limit, shifted, .. } = self;
        if self != (Self { alpha, gate_max, up_limit, shifted, ..usual }) {
            return Err("prologue: a dtype that is the usual one is left out".into());
        }
        if let Some(alpha) = alpha {
            if self.activation != Activation::SigmoidProduct {
                return Err("prologue.alpha: expected the activation `sigmoid_product`, which has a sigmoid".into());
            }
            if !alpha.get().is_finite() || alpha.get() == 1.0 {
                return Err(format!("prologue.alpha: expected a finite number that is not 1, found {}", alpha.get()));
            }
        }
        for (name, bound, of) in [("gate_max", gate_max, self.compute()), ("up_limit", up_limit, self.up())] {
            let fits = |b: f32| b.is_finite() && b > 0.0 && num::round_to(of, b) == b;
            if let Some(bound) = bound.map(F32::get).filter(|b| !fits(*b)) {
                return Err(format!("prologue.{name}: expected a finite number over 0 that {of} holds, found {bound}"));
            }
        }
        Ok(())
    }
}
