#!/usr/bin/env python3
"""Exports one decoder layer of DeepSeek-V3 and one of Llama-3-8B in their real sizes, without weights, and their quantised configs.

  make_layers.py FOLDER        (torch 2.9 or newer, transformers 5; no GPU)

FOLDER gets NAME.decode.pt2 (one new token for each of `batch` sequences, with a past of 1,024 tokens) and NAME.prefill.pt2 (`seq` tokens
of one sequence) of some 100 kB each, and NAME.SCHEME.json for `normfuse ... --quant-config`: deepseek_v3.block (FP8, 1x128 activations and
128x128 weights), llama.token (FP8 by token and by channel) and llama.static (FP8, one given scale a tensor).
"""

import json
import pathlib
import sys

import torch
from torch import nn
from transformers import DeepseekV3Config, LlamaConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

PAST = 1024


class Cache:
    """What an attention asks of a cache, with the past as operands."""

    def __init__(self, past):
        self.past, self.present = past, None

    def join(self, key, value):
        self.present = tuple(torch.cat([old, new], 2) for old, new in zip(self.past, (key, value)))
        return self.present

    def update(self, key, value, *_, **__):
        """Multi-head latent attention hands over what keys and values are made of; here the past has those themselves."""
        return (key, value) if key.shape[1] != self.past[0].shape[1] else self.join(key, value)

    def get_seq_length(self, *_):
        return PAST


class Layer(nn.Module):
    """A decoder layer, the model's last norm behind it, as a graph of a stream of hidden states."""

    def __init__(self, layer, decode):
        super().__init__()
        self.layer, self.decode = layer, decode

    def forward(self, hidden, cos, sin, *past):
        cache = Cache(past) if self.decode else None
        attention = self.layer.self_attn
        vars(attention).pop("expand_kv", None)
        if self.decode and hasattr(attention, "expand_kv"):
            expand = attention.expand_kv
            attention.expand_kv = lambda *latent: cache.join(*expand(*latent))
        made = self.layer(hidden, position_embeddings=(cos, sin), attention_mask=None, past_key_values=cache, use_cache=self.decode)
        made = made[0] if isinstance(made, tuple) else made
        return (made, *cache.present) if self.decode else made


def layers():
    deepseek = DeepseekV3Config(num_hidden_layers=1, first_k_dense_replace=1)
    llama = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=1)
    for name, config, kind in [("deepseek_v3", deepseek, DeepseekV3DecoderLayer), ("llama", llama, LlamaDecoderLayer)]:
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            layer = kind(config, 0).eval().requires_grad_(False).to(torch.bfloat16)
        if name == "deepseek_v3":
            heads, sizes, rotary = config.num_attention_heads, (192, 128), config.qk_rope_head_dim
        else:
            heads, sizes, rotary = config.num_key_value_heads, (128, 128), 128
        yield name, layer, config.hidden_size, (heads, sizes), rotary


def export(path, layer, decode, hidden, heads, rotary):
    batch, seq = (2, 1) if decode else (1, 8)
    empty = lambda *shape: torch.empty(*shape, dtype=torch.bfloat16, device="meta")
    args = [empty(batch, seq, hidden), empty(1, seq, rotary), empty(1, seq, rotary)]
    if decode:
        rows = torch.export.Dim("batch", min=1, max=4096)
        shapes, args = [{0: rows}, None, None], args + [empty(batch, heads[0], PAST, size) for size in heads[1]]
        past = (({0: rows}, {0: rows}),)
    else:
        rows = torch.export.Dim("seq", min=2, max=65536)
        shapes, past = [{1: rows}, {1: rows}, {1: rows}], ()
    with torch.no_grad():
        program = torch.export.export(Layer(layer, decode).eval(), tuple(args), dynamic_shapes=(*shapes, *past), strict=False)
    torch.export.save(program, path)
    print(path, len([n for n in program.graph.nodes if n.op == "call_function"]), "nodes")


def configs(folder):
    block = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    args = lambda **more: {"num_bits": 8, "type": "float", "symmetric": True, **more}
    tensors = lambda weights, inputs: {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
        "ignore": [],
    }
    token = tensors(args(strategy="channel", dynamic=False), args(strategy="token", dynamic=True))
    static = tensors(args(strategy="tensor", dynamic=False), args(strategy="tensor", dynamic=False))
    for name, config in [("deepseek_v3.block", block), ("llama.token", token), ("llama.static", static)]:
        (folder / f"{name}.json").write_text(json.dumps({"quantization_config": config}, indent=1) + "\n")


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    configs(folder)
    for name, layer, hidden, heads, rotary in layers():
        for decode in (True, False):
            export(folder / f"{name}.{'decode' if decode else 'prefill'}.pt2", layer, decode, hidden, heads, rotary)


if __name__ == "__main__":
    main()
