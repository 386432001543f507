#!/usr/bin/env python3
"""Makes the programs in this folder: what torch.export writes for ops whose meaning is not in their name, each with
inputs and what torch computed.

  python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy==2.4.6
  venv/bin/python tests/aten/make.py [NAME ...]

NAME.pt2 is the program as exported, NAME.decomposed.pt2 the same after run_decompositions(), where it then has
other ops that are worth a test. NAME.npz has the inputs (`in.*`) and the results in their order (`out.*`). All are equal
bit for bit.
"""

import pathlib
import sys
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


def floats(*all):
    """16-bit results in f32, for numpy has no bfloat16."""
    return tuple(t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in all)


class Narrow(nn.Module):
    """Casts to 8-bit floats of what those do not hold; a NaN is 1000 in the results."""

    def forward(self, x, d):
        e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
        codes = [x.to(k) for k in (e4m3, e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)]
        codes += [x.bfloat16().to(e4m3), x.half().to(e4m3)]
        codes = [c.float() for c in codes + [d.to(k) for k in (e4m3, e5m2, torch.bfloat16, torch.float16)]]
        return tuple(torch.where(torch.isnan(c), 1000.0, c) for c in codes)


class Numbers(nn.Module):
    """Numbers and tensors of rank 0 beside 16-bit tensors: `want` is what CUDA kernels compute."""

    C = 10.1

    def forward(self, x, r, n):
        c, s, h, x = self.C, x.shape[0], x.half(), x.bfloat16()
        return floats(x + c, x - c, c - x, c + x, x * c, c * x, c / x, x + r, x * r, r - x, r / x, h - c,
                      torch.add(x, c, alpha=2), torch.add(x, r, alpha=64), n + c, x * (s * 257), x**0.3)

    def want(self, x, r, n):
        c, s, h, x = self.C, x.shape[0], x.half().float(), x.bfloat16().float()
        low, e = r.bfloat16().float(), torch.tensor(0.3).bfloat16().float()
        # Python's `c / x` is a product with the reciprocal.
        over = (1 / x).bfloat16().float() * c
        wide = (x + c, x - c, c - x, c + x, x * c, c * x, over, x + low, x * low, low - x, low / x)
        return floats(*(v.bfloat16() for v in wide), (h - c).half(), (x + 2 * torch.tensor(c)).bfloat16(),
                      (x + 64 * low).bfloat16(), n + c, (x * (s * 257)).bfloat16(), (x**e).bfloat16())


class Norms(nn.Module):
    """Rows of whole numbers, whose sums are exact in any order; small ones, beside which a norm's eps matters."""

    def forward(self, x, w, b, d):
        small = x * 2.0**-12
        h = x.bfloat16()
        norm = torch.linalg.vector_norm
        return floats(torch.rms_norm(small, [8]).bfloat16(), torch.rms_norm(small.bfloat16(), [8], w.bfloat16()),
                torch.rms_norm(d, [8]).float(), torch.layer_norm(h, [8], w.bfloat16(), b.bfloat16()),
                torch.layer_norm(x, [8]).bfloat16(), torch.native_layer_norm(h, [8], w.bfloat16(), b.bfloat16(), 1e-3)[0],
                norm(x, dim=-1), norm(h, dim=-1, keepdim=True), norm(x, 1, dim=(0, 1)), norm(h, float("inf")),
                norm(h, 2, dim=-1, dtype=torch.float32), x / (norm(x, dim=-1, keepdim=True) / 8**0.5))


class Sums(nn.Module):
    """Sums with a factor, remainders, padding, and ops along the axes that torch gives a tensor of rank 0."""

    def forward(self, x, y, i, j, r):
        h, g = x.bfloat16(), y.bfloat16()
        return floats(torch.add(x, y, alpha=2), torch.sub(x, y, alpha=0.5), torch.sub(h, g, alpha=4), torch.add(i, j, alpha=3),
                torch.rsub(x, y, alpha=2), x % y, torch.fmod(x, y), h % g, h % 0.3, x % -2, i % j, torch.fmod(i, j), i % -3,
                nn.functional.pad(x, (1, 2)), nn.functional.pad(x, (0, 1, -1, 2), value=1.5),
                nn.functional.pad(i, (2, 0), value=-1), nn.functional.pad(i > 0, (1, 1), value=True),
                torch.softmax(r, 0), torch.log_softmax(r, -1), r.sum(0), r.mean(-1), r.amax(0), r.cumsum(0))


class Heads(nn.Module):
    """Attention without heads and without a batch; all of the weight is on one key."""

    def forward(self, q, k, v, mask):
        attention = nn.functional.scaled_dot_product_attention
        return (attention(q, k, v, attn_mask=mask), attention(q, k, v, attn_mask=mask[0], scale=2.0),
                attention(q[0], k[0], v[0], is_causal=True))


class Writes(nn.Module):
    """In-place ops on memory that only the program sees, also through one place of an axis."""

    def forward(self, x, y):
        a = x.clone().relu_()
        b = (x * 2).clamp_(-1, 1).neg_().add_(y, alpha=2)
        c = x.clone()
        c[:, 1] = y[:, 0]
        c[-1].mul_(3).remainder_(2)
        d = x.new_zeros(2, x.shape[1])
        d[1] = x[0]
        e = torch.slice_scatter(x, y[:, ::2], 1, 0, 4, 2)
        f = torch.select_scatter(x, y[0], 0, -1)
        g = x.bfloat16().sigmoid_().pow_(2)
        return floats(a, b, c, d, e, f, g)


class Fresh(nn.Module):
    """New memory that is filled place by place; run_decompositions() reads it before it has contents."""

    def forward(self, x):
        y = x.new_empty(2, x.shape[1])
        y[1] = x[0]
        y[-2] = x[1]
        return y


class ComplexBuffer(nn.Module):
    """Rotations that are a buffer, as DeepSeek-V2's are in its own code; one lies in memory as another order of axes."""

    def __init__(self):
        super().__init__()
        whole = torch.tensor([[1, 2j, -1, 4], [0.5j, 1, -2j, 2], [1j, 4, 1, -0.5]], dtype=torch.complex64)
        self.register_buffer("turns", whole, persistent=False)
        self.register_buffer("turned", torch.view_as_complex(torch.randn(4, 3, 2)).t())
        self.register_buffer("tail", torch.view_as_complex(torch.randn(5, 4, 2))[2:])

    def forward(self, x, ids):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        y = torch.view_as_real(pairs * self.turns[ids]).flatten(-2)
        return y, torch.view_as_real(self.turned), self.tail.imag.clone(), torch.view_as_real(self.turns.conj().resolve_conj())


class Corners(nn.Module):
    """Integers at the end of their range, NaNs, ranges of fractions, a bias that is added before the one rounding."""

    def forward(self, i, u, x, a, w, b):
        h, v, c = a.bfloat16(), w.bfloat16(), b.bfloat16()
        linear = nn.functional.linear
        return floats(i // 3, i // -3, i.int() * 2**24 // 7, torch.div(i.long() * 2**56, 5, rounding_mode="floor"), i**2, u**2,
                      u**3, i.long()**2, -u, u // 7, torch.sign(x), torch.sign(x.bfloat16()), torch.sign(i), torch.any(x > 0, dim=[]),
                      torch.arange(0, 2.1, 0.3), torch.arange(0, 1, 0.1), torch.arange(1, 3, 0.25, dtype=torch.float16),
                      linear(h, v, c), linear(h[None], v, c), linear(a, w, b))


class Named(nn.Module):
    """Results with names, one of which an input has, and results in a list under one."""

    def forward(self, x):
        return {"logits": x + 1, "cache": [x * 2, (x * 3, x - 1)], "x": x * 4}


class Bounds(nn.Module):
    """Bounds that are tensors, and powers of a number; a NaN is 1000 in the results."""

    def forward(self, x, y, i, j):
        h, r, hardtanh = x.bfloat16(), y[0, 0], nn.functional.hardtanh
        bounds = (torch.clamp(x, y, y + 1), torch.clamp(x, min=r), torch.clamp(x, max=y[0]), torch.clamp(h, r, r + 2),
                  torch.clamp(h, min=y), torch.clamp(i, y[0]), torch.clamp(i, j - 2, j), torch.clamp_min(x, r),
                  torch.clamp_max(h, r.bfloat16()), torch.ops.aten.clamp_max.Tensor(i, j), torch.max(x, y), torch.min(x, y),
                  torch.max(h, y), torch.min(i, y), torch.max(i, j.int()), torch.max(x, r), hardtanh(x), hardtanh(h, -448.3, 448),
                  hardtanh(x.clone(), -0.5, 2, inplace=True), torch.clone(x).clamp_(y - 3, y))
        whole = i.float()
        powers = (2**whole, 2.0**whole.bfloat16(), 3**i.abs(), 0.5**i, torch.pow(2, i.abs()), torch.pow(1, x), 10.1**h.round().clamp(1, 2),
                  torch.pow(2.0, whole.clone().half()), torch.pow(-2, whole))
        return tuple(torch.where(torch.isnan(v), 1000.0, v) if v.is_floating_point() else v for v in floats(*bounds, *powers))


class Spelled(nn.Module):
    """Norms and their quantisers, two schemes in every spelling: numbers or tensors as bounds, powers of two as powers of a number."""

    def forward(self, x):
        floor, least, most = torch.tensor(1e-10), torch.tensor(-448.0), torch.tensor(448.0)
        floors = [lambda a: a.clamp(min=1e-10), lambda a: torch.clamp(a, floor), lambda a: torch.clamp_min(a, floor),
                  lambda a: torch.max(a, floor), lambda a: torch.maximum(floor, a)]
        bounds = [lambda v: v.clamp(-448, 448), lambda v: torch.clamp(v, least, most), lambda v: torch.min(torch.max(v, least), most),
                  lambda v: nn.functional.hardtanh(v, -448, 448), lambda v: torch.clamp_max(torch.clamp_min(v, least), most)]
        powers = [lambda e: 2**e, lambda e: torch.pow(2.0, e)]
        results = []
        for i, (f, b, p) in enumerate([(f, bounds[0], None) for f in floors] + [(floors[0], b, None) for b in bounds[1:]] +
                                      [(floors[0], bounds[0], p) for p in powers]):
            h = x[i].float()
            n = (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16().float()
            s = f(n.abs().amax(-1, keepdim=True)) / 448
            s = p(torch.ceil(torch.log2(s))) if p else s
            results += [b(n / s).to(torch.float8_e4m3fn), s]
        return results


class Ranges(nn.Module):
    """Whole numbers in any type: counted as such, and rounded once. Torch's CPU rounds the start of every few elements, too."""

    BOUNDS = [((257, 300), torch.bfloat16), ((0, 600, 2), torch.bfloat16), ((1, 3000, 7), torch.float16), ((2049, 2100), torch.float16),
              ((16777217, 16777330), torch.float32), ((0, 60000000, 7000001), torch.float32), ((300, 257, -3), torch.bfloat16),
              ((2**53 + 1, 2**53 + 9, 2), torch.float64), ((3, 9, 2), torch.uint8), ((5, -6, -2), torch.int8), ((1, 5), torch.int16)]

    def ranges(self, arange, x):
        return floats(*(arange(bounds, dtype) for bounds, dtype in self.BOUNDS), arange((x.shape[0] + 255,), torch.bfloat16))

    def forward(self, x):
        return *self.ranges(lambda bounds, dtype: torch.arange(*bounds, dtype=dtype), x), torch.eye(4) * x[0, 0]

    def want(self, x):
        return *self.ranges(lambda bounds, dtype: torch.arange(*bounds).to(dtype), x), torch.eye(4) * x[0, 0]


class Promoted(nn.Module):
    """Floats that are made of integers are of torch's default type at export."""

    def __init__(self, default):
        super().__init__()
        self.default = default

    def forward(self, i, b):
        return floats(i / 3, i * 0.1, torch.sqrt(i.abs()), torch.where(b, i, 0.3), i / i.max(), b * 1.5, i**2.0, i.abs() ** 0.5,
                      torch.rsqrt(i * i + 1) * 0 + 1, torch.exp2(i), i.float() / 3, i * 0.1 > 0.25)


class Experts(nn.Module):
    """An order turned round, as experts of transformers do, and places of an axis that is not the first."""

    def forward(self, x, ids, pos, k):
        inverse = torch.empty_like(ids)
        inverse[ids] = torch.arange(ids.shape[0])
        places = torch.empty_like(ids)
        places.scatter_(0, ids, torch.arange(ids.shape[0]) * 2)
        cache = x.new_zeros(2, 3, 8, 4)
        cache[:, :, pos] = k
        other = cache.clone()
        other[:, pos, 1] = 5.0
        other[:, :, pos, pos] = k[..., 0]
        other[1, :, pos] = 7.0
        return x[inverse], inverse, places, cache, other


class Aliases(nn.Module):
    """Writes that are read under an older name, and one into what may be a view of what nobody reads again."""

    def forward(self, x, b):
        a = x.clone()
        c = a.mul_(2)
        c[:, 0] = 0
        d = torch.relu(x).add_(1)
        e = d
        d[0].mul_(3)
        f = (x @ x.t()).reshape(-1, 3)
        f.add_(b)
        return a, c, d, e, f


class Scaled(nn.Module):
    """Products of codes and scales: of whole numbers and powers of two, which are exact in any order up to the last rounding."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("weight", weight.to(torch.float8_e4m3fn))

    def forward(self, x, w, one, two, rows, channels, bias):
        a, b = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t()
        f, v2, kind = torch._scaled_mm, nn.functional.scaled_mm, nn.functional.ScalingType
        y = (f(a, b, one, two, out_dtype=torch.bfloat16),
             f(a, b, one, two, bias=bias.half(), out_dtype=torch.float16),
             f(a, self.weight.t(), rows, channels, out_dtype=torch.bfloat16, use_fast_accum=True),
             f(a, self.weight.t(), rows, channels, bias=bias.bfloat16(), out_dtype=torch.bfloat16),
             v2(a, b, one, kind.TensorWise, two, kind.TensorWise, output_dtype=torch.float32),
             v2(a, b, rows, kind.RowWise, channels, kind.RowWise, output_dtype=torch.bfloat16))
        return tuple(t.float() for t in y)


class Left(nn.Module):
    """Calls that stay foreign: what they compute is a matter of the backend, or no op of the IR's."""

    def forward(self, x):
        return (torch.add(x, x, alpha=3), nn.functional.pad(x, (1, 1), mode="reflect"), torch.native_layer_norm(x, [4], None,
                None, 1e-5)[1], torch.linalg.vector_norm(x, 3))


class Mask(nn.Module):
    def forward(self, x, mask):
        return x[mask] * 2


def save(program, name):
    """Without stack traces, which have the folders of the machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, HERE / name)


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

    edges = [400.0, 448, 463.9, 464, 464.1, 480, 500, 57344, 61439, 61440, 65504, 1e9, float("inf"), float("nan"), 240, 248]
    edges = torch.tensor([s * v for v in edges for s in (1, -1)])
    doubles = torch.tensor([1.0625 + 2**-40, 1 + 2**-8 + 2**-40, 1 + 2**-11 + 2**-40, 464 + 2**-30, -1e300],
                           dtype=torch.float64)
    n = Dim("n", min=2, max=64)
    ids = torch.tensor([2, 0, -1])
    nan = float("nan")
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
        "narrow": (Narrow(), dict(x=edges, d=doubles), None),
        "numbers": (Numbers(), dict(x=(torch.randn(8, 24) * 30).abs(), r=torch.tensor(10.1), n=torch.tensor([1, 2])),
                    ({0: n}, None, None)),
        "norms": (Norms(), dict(x=whole(4, 8), w=whole(8), b=whole(8), d=whole(2, 8).double() * 2.0**-12), None),
        "sums": (Sums(), dict(x=torch.randn(3, 4) * 4, y=torch.randn(3, 4), i=torch.randint(-9, 9, (3, 4)),
                              j=torch.tensor([-3, 2, 5, -7]), r=torch.tensor(1.5)), None),
        "heads": (Heads(), dict(q=30 * torch.eye(4)[torch.tensor([[2, 0, 1], [3, 3, 2]])],
                                k=30 * torch.eye(4).expand(2, 4, 4)[:, :, [1, 0, 3, 2]], v=torch.randn(2, 4, 4),
                                mask=torch.tensor([[[1, 0, 0, 1]] * 3, [[0, 1, 1, 1]] * 3]) > 0), None),
        "writes": (Writes(), dict(x=torch.randn(3, 4), y=torch.randn(3, 4)), None),
        "fresh": (Fresh(), dict(x=torch.randn(2, 3)), None),
        "complex_buffer": (ComplexBuffer(), dict(x=powers(2, 3, 8), ids=torch.tensor([2, 0, 1])), None),
        "corners": (Corners(), dict(i=torch.tensor([-128, -127, -3, 0, 5, 127], dtype=torch.int8),
                                    u=torch.tensor([0, 1, 7, 200, 255], dtype=torch.uint8),
                                    x=torch.tensor([[0.0, -0.0, float("nan")], [-2, float("inf"), 3]]), a=whole(8, 16),
                                    w=whole(6, 16), b=torch.randn(6) * 50), ({}, {}, {}, {0: n}, {}, {})),
        "bounds": (Bounds(), dict(x=torch.tensor([[1.5, -3.0, nan, 0.25], [600, -500, 2.75, 7]]),
                                  y=torch.tensor([[0.5, 2.0, 1.0, nan], [3, -2.5, 1, 8]]), i=torch.tensor([[-3, 5, 0, 7], [1, 2, -2, 4]]),
                                  j=torch.tensor([2, 3, -1, 9])), None),
        "ranges": (Ranges(), dict(x=torch.randn(4, 4)), ({0: n},)),
        "promoted_bf16": (Promoted(torch.bfloat16), dict(i=torch.tensor([-4, 9, 1, 3]), b=torch.tensor([True, False, True, False])), None),
        "promoted_f64": (Promoted(torch.float64), dict(i=torch.tensor([-4, 9, 1, 3]), b=torch.tensor([True, False, True, False])), None),
        "experts": (Experts(), dict(x=torch.randn(4, 2), ids=torch.tensor([2, 0, 3, 1]), pos=torch.tensor([2, 0]),
                                    k=torch.randn(2, 3, 2, 4)), None),
        "aliases": (Aliases(), dict(x=whole(3, 4), b=whole(3)), None),
        "named": (Named(), dict(x=torch.randn(2)), None),
        "scaled": (Scaled(whole(16, 48)), dict(x=whole(3, 48), w=whole(16, 48), one=torch.tensor(0.5), two=torch.tensor([[0.125]]),
                                               rows=powers(3, 1), channels=powers(1, 16), bias=whole(16)),
                   ({0: n}, None, None, None, {0: n}, None, None)),
    }
    made = sys.argv[1:] or [*cases, "mask", "left", "spelled"]
    for name, (model, inputs, shapes) in cases.items():
        if name not in made:
            continue
        model.eval()
        torch.set_default_dtype(getattr(model, "default", torch.float32))
        results = getattr(model, "want", model)(*inputs.values())
        want = [w.detach() for w in torch.utils._pytree.tree_leaves(results)]
        fixed = dict(mask=None, use_cache=False, names="q", count=3) if name == "constants" else {}
        program = torch.export.export(model, tuple(inputs.values()), fixed, dynamic_shapes=shapes)
        forms = [(program, "pt2")]
        if name not in ("fresh", "heads"):
            forms.append((program.run_decompositions(), "decomposed.pt2"))
        for p, ending in forms:
            save(p, f"{name}.{ending}")
        arrays = {f"in.{k}": v.numpy() for k, v in inputs.items()}
        digits = len(str(len(want) - 1))
        np.savez(HERE / f"{name}.npz", **arrays, **{f"out.{i:0{digits}}": w.numpy() for i, w in enumerate(want)})
        torch.set_default_dtype(torch.float32)
        print(name, sorted({str(c.target) for c in program.graph.nodes if c.op == "call_function"}))
    # Calls that stay foreign; a size that depends on data is one of them.
    foreign = {"mask": (Mask(), (torch.randn(2), torch.tensor([True, False]))), "left": (Left(), (torch.randn(3, 4),))}
    for name, (model, inputs) in foreign.items():
        if name in made:
            save(torch.export.export(model, inputs), f"{name}.pt2")
    if "spelled" in made:
        program = torch.export.export(Spelled(), (torch.randn(11, 4, 64).bfloat16(),))
        save(program, "spelled.pt2")
        save(program.run_decompositions(), "spelled.decomposed.pt2")


if __name__ == "__main__":
    main()
