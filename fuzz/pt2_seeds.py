"""Small torch programs of every family of ops that the reader of .pt2 knows, as archives."""

import io
import re
import warnings

import torch
from torch import nn
from torch.export import Dim

warnings.filterwarnings("ignore")
BF16, F8 = torch.bfloat16, torch.float8_e4m3fn


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(8, eps=1e-6, dtype=BF16)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        q = (y * self.scale).clamp(-448, 448).to(F8)
        return self.norm(x), q


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)

    def forward(self, x):
        q = self.q(x).view(*x.shape[:-1], 2, 4).transpose(1, 2)
        k, v = self.kv(x).view(*x.shape[:-1], 2, 4).transpose(1, 2).split([2, 2], dim=-1)
        k = torch.cat([k, -k], dim=-1)
        v = torch.cat((v, v), dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Rope(nn.Module):
    def forward(self, x, ids):
        freqs = torch.outer(torch.arange(x.shape[1]), torch.tensor([1.0, 0.5]))
        turns = torch.polar(torch.ones_like(freqs), freqs)
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        y = torch.view_as_real(pairs * turns).flatten(2)
        return y.to(x.dtype), torch.cos(freqs[ids])


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3, 8, 4))
        self.gate = nn.Linear(8, 3)

    def forward(self, x):
        scores, which = torch.topk(self.gate(x).softmax(-1), 2)
        mask = torch.zeros_like(self.gate(x)).scatter_(1, which, 1.0)
        y = torch.bmm(x[which.flatten()].unsqueeze(1), self.w[which.flatten()]).squeeze(1)
        return y.view(-1, 2, 4).sum(1) * scores.sum(-1, keepdim=True), torch.where(mask > 0, mask, 2.0)


class InPlace(nn.Module):
    def forward(self, x):
        y = x.new_empty(x.shape[0], 8)
        y[:, :4].copy_(x[:, 4:])
        y[:, 4:].copy_(x[:, :4])
        y.mul_(2).add_(x)
        return y, torch.empty_like(x).fill_(1.0)


class Parts(nn.Module):
    """Parts of memory by place and by step, and a buffer of complex numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(2, 4), torch.randn(2, 4)))

    def forward(self, x):
        y = x.clone().relu_()
        y[1] = x[0]
        z = torch.slice_scatter(x, y[:, ::2], 1, 0, 8, 2).remainder_(2)
        pairs = torch.view_as_complex(x.view(2, 4, 2)) * self.turns
        z = torch.add(z, y, alpha=2) / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) / 8**0.5)
        return {"logits": nn.functional.pad(z, (1, -1)), "parts": [torch.view_as_real(pairs), torch.layer_norm(x, [8])]}


class Indexing(nn.Module):
    def forward(self, x, ids):
        one = nn.functional.one_hot(ids, 4)
        y = torch.einsum("ij,kj->ik", x, x[ids])
        z = torch.index_put(x, (ids,), x[ids])
        return one, y, z, x.gather(1, ids.unsqueeze(-1)), x.cumsum(-1), torch.tril(y), x.diff(dim=-1)


class Bits(nn.Module):
    def forward(self, x):
        b = x.view(torch.int32) if x.dtype == torch.float32 else x.view(torch.int16)
        e = (b & 0x7F80) >> 7
        return e.to(torch.uint8), (e == 3) | (e < 1), ~(e > 5), x.abs().amax(-1).log2().floor().exp2()


def archive(model, inputs, shapes=None):
    program = torch.export.export(model.eval().requires_grad_(False), inputs, dynamic_shapes=shapes)
    saved = []
    for form in (program, program.run_decompositions()):
        for node in form.graph.nodes:
            if trace := node.meta.get("stack_trace"):
                # Without the folders of the machine.
                node.meta["stack_trace"] = re.sub(r'"[^"]*/', '"/example/', trace)
        out = io.BytesIO()
        torch.export.save(form, out)
        saved.append(out.getvalue())
    return saved


def archives():
    """Name and bytes of each: as exported, and decomposed."""
    torch.manual_seed(0)
    rows, ids = Dim("rows", min=2, max=64), torch.tensor([0, 2])
    cases = {
        "norm": (Norm(), (torch.randn(2, 3, 8).to(BF16),), ({1: rows},)),
        "attention": (Attention(), (torch.randn(1, 3, 8),), ({1: rows},)),
        "rope": (Rope(), (torch.randn(1, 3, 4).to(BF16), ids), ({1: rows}, None)),
        "experts": (Experts(), (torch.randn(4, 8),), ({0: rows},)),
        "in_place": (InPlace(), (torch.randn(3, 8),), ({0: rows},)),
        "parts": (Parts(), (torch.randn(2, 8),), None),
        "indexing": (Indexing(), (torch.randn(3, 4), ids), None),
        "bits": (Bits(), (torch.randn(2, 4),), None),
        "bits_16": (Bits(), (torch.randn(2, 4).to(BF16),), ({0: rows},)),
    }
    for name, (model, inputs, shapes) in cases.items():
        plain, decomposed = archive(model, inputs, shapes)
        yield name, plain
        yield f"{name}_decomposed", decomposed
