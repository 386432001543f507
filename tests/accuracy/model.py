"""A small DeepSeek-shaped model, the quantisers before its linear layers, and the arithmetic that it learns.

A question is `a + b` of two digits each, as eight tokens: `a1 a0 + b1 b0 = ? ?`. The answer is what the last three
positions say: hundreds, tens, ones.
"""

import torch
from torch import nn
from torch.nn import functional as F

PLUS, EQUALS, ASK, VOCABULARY = 10, 11, 12, 16
ANSWER = 3  # positions that answer
FP8 = torch.float8_e4m3fn
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]  # what codes of four bits mean

HIDDEN, LAYERS, HEADS = 128, 2, 4
Q_LORA, KV_LORA, NOPE, ROPE, VALUE, INNER = 256, 128, 32, 16, 64, 256
EPS = 1e-6


def questions(pairs):
    """Tokens [n, 8] and answers [n, 3] of pairs [n, 2] of numbers below 100."""
    a, b = pairs.unbind(-1)
    c = a + b
    plus, equals, ask = (torch.full_like(a, token) for token in (PLUS, EQUALS, ASK))
    tokens = torch.stack([a // 10, a % 10, plus, b // 10, b % 10, equals, ask, ask], -1)
    return tokens, torch.stack([c // 100, c // 10 % 10, c % 10], -1)


def plain(x):
    """No quantiser."""
    return x


def fp8_token(x):
    """FP8, one scale for a row: the code of every value, and back."""
    s = (x.abs().amax(-1, keepdim=True).float() / 448.0).clamp(min=1 / (448.0 * 512))
    q = (x.float() * s.reciprocal()).clamp(-448.0, 448.0).to(FP8)
    return (q.to(torch.float32) * s).to(x.dtype)


def fp8_group(x):
    """FP8, one scale for 128 values."""
    rows = x.unflatten(-1, (-1, 128))
    amax = rows.abs().amax(-1, keepdim=True).float()
    s = (amax / 448.0).clamp(min=1 / (448.0 * 512))
    q = (rows.float() / s).clamp(-448.0, 448.0).to(FP8)
    return (q.to(torch.float32) * s).flatten(-2).to(x.dtype)


def mxfp4(x):
    """MXFP4: codes of four bits, two in a byte, and for 32 values a scale that is a power of two, rounded down."""
    rows = x.float().unflatten(-1, (-1, 32))
    amax = rows.abs().amax(-1, keepdim=True).clamp(min=2.0**-126)
    exponent = torch.floor(torch.log2(amax)) - 2
    y = (rows / torch.exp2(exponent.clamp(-127, 127))).clamp(-6, 6)
    # How many bounds a magnitude is above is its code; at a bound, the code whose last bit is 0.
    a = y.abs()
    code = (a > 0.25).to(torch.uint8) + (a >= 0.75).to(torch.uint8) + (a > 1.25).to(torch.uint8)
    code = code + (a >= 1.75).to(torch.uint8) + (a > 2.5).to(torch.uint8) + (a >= 3.5).to(torch.uint8)
    code = (code + (a > 5.0).to(torch.uint8) | (y < 0).to(torch.uint8) << 3).flatten(-2)
    packed, scale = code[..., 0::2] | code[..., 1::2] << 4, (exponent.squeeze(-1) + 127).to(torch.uint8)
    codes = torch.stack((packed & 0xF, packed >> 4), -1).flatten(-2)
    values = torch.tensor(E2M1 + [-v for v in E2M1], device=x.device)[codes.long()].unflatten(-1, (-1, 32))
    return (values * torch.exp2(scale.float() - 127).unsqueeze(-1)).flatten(-2).to(x.dtype)


QUANTISERS = {"plain": plain, "fp8_token": fp8_token, "fp8_group": fp8_group, "mxfp4": mxfp4}


class Linear(nn.Linear):
    """A linear layer without bias that quantises its input."""

    quantise = staticmethod(plain)

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        return F.linear(self.quantise(x), self.weight)


class Norm(nn.Module):
    """DeepSeek's RMSNorm: in f32, rounded, and then times the weight."""

    def __init__(self, width):
        super().__init__()
        # Weights of trained norms are far from 1 and from one another, so training starts there.
        self.weight = nn.Parameter(torch.exp(torch.randn(width) * 0.5))

    def forward(self, x):
        v = x.float()
        v = v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + EPS)
        return self.weight * v.to(x.dtype)


def rotate(x, cos, sin):
    """RoPE by halves."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


class Attention(nn.Module):
    """MLA: queries and keys through low ranks with a norm each, RoPE on a part of the head."""

    def __init__(self):
        super().__init__()
        self.q_a_proj = Linear(HIDDEN, Q_LORA)
        self.q_a_layernorm = Norm(Q_LORA)
        self.q_b_proj = Linear(Q_LORA, HEADS * (NOPE + ROPE))
        self.kv_a_proj_with_mqa = Linear(HIDDEN, KV_LORA + ROPE)
        self.kv_a_layernorm = Norm(KV_LORA)
        self.kv_b_proj = Linear(KV_LORA, HEADS * (NOPE + VALUE))
        self.o_proj = Linear(HEADS * VALUE, HIDDEN)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        q = q.view(batch, length, HEADS, NOPE + ROPE).transpose(1, 2)
        q_nope, q_rope = q.split([NOPE, ROPE], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([KV_LORA, ROPE], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent))
        k_nope, v = kv.view(batch, length, HEADS, NOPE + VALUE).transpose(1, 2).split([NOPE, VALUE], -1)
        k_rope = rotate(k_rope.unsqueeze(1), cos, sin).expand(-1, HEADS, -1, -1)
        q = torch.cat([q_nope, rotate(q_rope, cos, sin)], -1)
        k = torch.cat([k_nope, k_rope], -1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, HEADS * VALUE))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self):
        super().__init__()
        self.gate_proj = Linear(HIDDEN, INNER)
        self.up_proj = Linear(HIDDEN, INNER)
        self.down_proj = Linear(INNER, HIDDEN)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self):
        super().__init__()
        self.input_layernorm = Norm(HIDDEN)
        self.self_attn = Attention()
        self.post_attention_layernorm = Norm(HIDDEN)
        self.mlp = Mlp()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Tokens [batch, length] to logits [batch, 3, vocabulary] of the answer's positions; the head is not quantised."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.norm = Norm(HIDDEN)
        self.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def quantise(self, name):
        """Puts the quantiser of this name before every linear layer but the head."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.quantise = QUANTISERS[name]
        return self

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        place = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)
        step = 10000.0 ** (-torch.arange(0, ROPE, 2, dtype=torch.float32, device=tokens.device) / ROPE)
        angle = torch.outer(place, step).repeat(1, 2)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x)[:, -ANSWER:])
