#!/usr/bin/env python3
"""Makes the programs in this folder: what torch.export writes for ops whose meaning is not in their name, each with
inputs and what torch computed.

  python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy==2.4.6
  venv/bin/python tests/aten/make.py

NAME.pt2 is the program as exported, NAME.decomposed.pt2 the same after run_decompositions(), where it then has other
ops. NAME.npz has the inputs (`in.*`) and the results in their order (`out.*`). All are equal bit for bit.
"""

import pathlib
import warnings

import numpy as np
import torch
from torch import nn
from torch.export import Dim

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent


class ComplexRope(nn.Module):
    """As DeepSeek-V2 and Llama 4 rotate: by complex numbers."""

    def forward(self, x, angles, ids):
        turns = torch.polar(torch.ones_like(angles), angles) * 1.5
        turns = turns[ids]
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        y = torch.view_as_real(pairs * turns[:, :, None, :]).flatten(3)
        sum_ = torch.view_as_real(pairs + turns.unsqueeze(2) - pairs.conj())
        whole = torch.view_as_complex(angles.reshape(5, 2, 2))
        return y.type_as(x), sum_, (pairs * angles[0]).imag, (-pairs).real.clone(), torch.view_as_real(whole * whole)


class Einsum(nn.Module):
    def forward(self, a, b, c):
        return (torch.einsum("bij,bjk->bik", a, b), torch.einsum("bij,kj->bki", a, c),
                torch.einsum("bij,bik->bkj", a, torch.einsum("bij,bjk->bik", a, b)),
                torch.einsum("ij,k->kij", c, c[0]), torch.einsum("bij->jbi", a))


class Put(nn.Module):
    def forward(self, x, ids, rows, mask):
        y = torch.index_put(x, (ids,), rows)
        z = torch.index_put(x, (ids, ids), rows[:, 0])
        w = torch.index_put(x, (ids,), rows[0], accumulate=True)
        x = x.clone()
        x[mask] = 7.0
        x[mask[:, 0]] = rows[0]
        return y, z, w, x


class Constants(nn.Module):
    """Arguments that are no tensors are numbers of the program; and `square`, also where it is rounded."""

    def forward(self, x, mask=None, use_cache=False, names="a", count=3):
        y = x if mask is None or use_cache else x + mask
        return y.square(), torch.square(y.bfloat16()).float() * count


class Lookup(nn.Module):
    def forward(self, x, i, j):
        return x[i, j], x[:, i, j], x[i, :, j], x[:, :, j], x[i, :2], x[i[:, None], j[None, :]]


class Whole(nn.Module):
    def forward(self, i, j):
        return (i // j, i // 3, torch.div(i, j, rounding_mode="trunc"), i.repeat(2), i.repeat(3, 1, 2),
                i.unsqueeze(0).repeat(j.shape[0], 1))


class Bits(nn.Module):
    """Exponents, as quantisers to powers of two take them."""

    def forward(self, x, i):
        bits = x.view(torch.int32)
        exponent = (bits >> 23) & 0xFF
        power = (exponent << 23).view(torch.float32)
        return exponent, power, bits >> 3, i << 2, i >> 1, i >> 0, x.to(torch.bfloat16).view(torch.int16)


class Modes(nn.Module):
    """What rotary embeddings run without gradients is a program in the program."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, x):
        y = x * self.w
        with torch.no_grad():
            angles = torch.outer(x[:, 0], self.w)
            turned = angles * 3
        y = nn.functional.dropout(y + turned, 0.5, training=False)
        return torch.where(y > 0, y, 2.0), torch.where(y > 0, -1.0, y), angles


class Pieces(nn.Module):
    """New memory that is filled in pieces; run_decompositions() leaves slice_scatter of it."""

    def forward(self, a, b):
        y = a.new_empty(a.shape[0], 5)
        y[:, 2:] = b
        y[:, :2] = a
        z = torch.zeros_like(y)
        z[:, 1:3].copy_(a)
        return y, z


class Mask(nn.Module):
    def forward(self, x, mask):
        return x[mask] * 2


def main():
    torch.manual_seed(0)

    def whole(*shape):
        """Integers, whose products and sums are exact in any order."""
        return torch.randint(-8, 9, shape).float()

    def powers(*shape):
        """Powers of two: where memory is strided, torch's complex products round once, with a fused multiply-add."""
        return torch.randint(-2, 3, shape).float().exp2() * (1 - 2 * torch.randint(0, 2, shape))

    def angles(*shape):
        """Angles whose sine and cosine torch rounds correctly, which it does not always."""
        while True:
            a = torch.randn(shape)
            p, wide = torch.polar(torch.ones_like(a), a), a.double()
            if torch.equal(p.real, wide.cos().float()) and torch.equal(p.imag, wide.sin().float()):
                return a

    n = Dim("n", min=2, max=64)
    ids = torch.tensor([2, 0, -1])
    cases = {
        "complex_rope": (ComplexRope(), dict(x=powers(1, 3, 2, 8), angles=angles(5, 4),
                                             ids=torch.tensor([[4, 0, 2]])), ({1: n}, None, {1: n})),
        "einsum": (Einsum(), dict(a=whole(2, 3, 4), b=whole(2, 4, 5), c=whole(6, 4)),
                   ({1: n}, None, None)),
        "put": (Put(), dict(x=torch.randn(4, 4), ids=torch.tensor([3, 0, 1]), rows=torch.randn(3, 4),
                            mask=torch.randn(4, 4) > 0), None),
        "lookup": (Lookup(), dict(x=torch.randn(3, 4, 5), i=ids, j=torch.tensor([0, 2, 1])), None),
        "whole": (Whole(), dict(i=torch.tensor([-7, 7, -6, 0, 5]), j=torch.tensor([2, -2, 3, 5, -1])), ({0: n}, {0: n})),
        "bits": (Bits(), dict(x=torch.randn(3, 4) * 1e3, i=torch.tensor([-7, 5, 2**62, -2**63])), None),
        "modes": (Modes(), dict(x=torch.randn(4, 3)), ({0: n},)),
        "constants": (Constants(), dict(x=torch.randn(3, 5)), None),
        "pieces": (Pieces(), dict(a=torch.randn(3, 2), b=torch.randn(3, 3)), ({0: n}, {0: n})),
    }
    for name, (model, inputs, shapes) in cases.items():
        model.eval()
        want = [w.detach() for w in model(*inputs.values())]
        fixed = dict(mask=None, use_cache=False, names="q", count=3) if name == "constants" else {}
        program = torch.export.export(model, tuple(inputs.values()), fixed, dynamic_shapes=shapes)
        for p, ending in [(program, "pt2"), (program.run_decompositions(), "decomposed.pt2")]:
            for node in p.graph.nodes:
                node.meta.pop("stack_trace", None)
            torch.export.save(p, HERE / f"{name}.{ending}")
        arrays = {f"in.{k}": v.numpy() for k, v in inputs.items()}
        np.savez(HERE / f"{name}.npz", **arrays, **{f"out.{i}": w.numpy() for i, w in enumerate(want)})
        print(name, sorted({str(c.target) for c in program.graph.nodes if c.op == "call_function"}))
    # A size that depends on data: normfuse has no words for it.
    program = torch.export.export(Mask(), (torch.randn(2), torch.tensor([True, False])))
    torch.export.save(program, HERE / "mask.pt2")


if __name__ == "__main__":
    main()
