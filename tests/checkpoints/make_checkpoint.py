#!/usr/bin/env python3
"""Makes the checkpoints in this folder: small DeepSeek-V3s in the layout and under the names that DeepSeek ships.

  python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 onnx==1.23.2
  venv/bin/python tests/checkpoints/make_checkpoint.py [FOLDER [NAME]]

Of each model, `deepseek_v3` with a dense layer and `deepseek_v3_moe` with one of experts:

model.pt2                                 the model in bf16 as torch.export writes it, without its weights
model*.safetensors, .index.json           e4m3 weights with a scale for each block of 128 x 128 (weight_scale_inv);
                                          norms, embedding and head in bf16
config.json                               with the quantization_config
reference.npz                             `in.*` the input, `out.logits` what torch computed with DeepSeek's arithmetic:
                                          activations in groups of 128, partial products of a group in f32, times both
                                          scales, added up; experts in bf16, with weights that are what
                                          their codes mean
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

sys.path.append(str(pathlib.Path(__file__).parent.parent / "models"))
from make_models import Prefill, SMALL, build, dims, last_frame  # noqa: E402

FP8 = torch.float8_e4m3fn
BLOCK = 128
QUANTISATION = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]}


def config(**more):
    # Rows are multiples of 128; kv_a_proj has 144 rows, so its last block is cut off.
    return transformers.DeepseekV3Config(
        hidden_size=128, intermediate_size=256, num_key_value_heads=2, q_lora_rank=256, kv_lora_rank=128,
        qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=64, num_experts_per_tok=2, n_shared_experts=1, **more,
        **SMALL)


def models():
    return {
        "deepseek_v3": config(n_routed_experts=4, n_group=2, topk_group=1, moe_intermediate_size=32,
                              first_k_dense_replace=1),
        "deepseek_v3_moe": config(n_routed_experts=3, n_group=1, topk_group=1, moe_intermediate_size=128,
                                  first_k_dense_replace=0),
    }


def blocks(scale, shape):
    """A scale for each element."""
    rows, columns = shape
    return scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:rows, :columns]


def quantise_weight(w):
    rows, columns = w.shape
    padded = nn.functional.pad(w.float(), (0, -columns % BLOCK, 0, -rows % BLOCK))
    amax = padded.abs().unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).amax((1, 3))
    scale = amax / 448.0
    return (w.float() / blocks(scale, w.shape)).clamp(-448, 448).to(FP8), scale


class Fp8Linear(nn.Module):
    """DeepSeek's act_quant and fp8_gemm."""

    def __init__(self, linear):
        super().__init__()
        assert linear.bias is None
        self.weight, self.weight_scale_inv = quantise_weight(linear.weight.data)

    def forward(self, x):
        groups = x.float().unflatten(-1, (-1, BLOCK))
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448.0
        q = (groups / scale).clamp(-448, 448).to(FP8)
        total = 0.0
        for g in range(groups.shape[-2]):
            part = self.weight[:, g * BLOCK:(g + 1) * BLOCK].float()
            rows = self.weight_scale_inv[:, g].repeat_interleave(BLOCK)[:part.shape[0]]
            total = total + (q[..., g, :].float() @ part.T) * scale[..., g, :] * rows
        return total.to(x.dtype)


def export_without_weights(path, model, ids):
    """Buffers that the model computes when it is made stay: no checkpoint has them."""
    with torch.no_grad():
        program = torch.export.export(Prefill(model).eval(), (), kwargs={"input_ids": ids}, dynamic_shapes={"input_ids": dims()})
    for node in program.graph.nodes:
        if trace := node.meta.get("stack_trace"):
            node.meta["stack_trace"] = last_frame(trace.rstrip())
    for name, tensor in program.state_dict.items():
        program.state_dict[name] = nn.Parameter(tensor.to("meta"), requires_grad=False)
    torch.export.save(program, path)


def quantise_experts(name, stack):
    """The tensors of each expert, and in the parameter of all the numbers that they mean."""
    layers = ["gate_proj", "up_proj"] if name.endswith("gate_up_proj") else ["down_proj"]
    tensors = {}
    for e, expert in enumerate(stack):
        for layer, w in zip(layers, expert.chunk(len(layers))):
            own = f"{name.rpartition('.')[0]}.{e}.{layer}"
            codes, scale = quantise_weight(w)
            tensors[f"{own}.weight"], tensors[f"{own}.weight_scale_inv"] = codes, scale
            w.copy_(codes.float() * blocks(scale, w.shape))
    return tensors


def make(folder, config):
    folder.mkdir(parents=True, exist_ok=True)
    ids = torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(2))
    model = build(config, torch.bfloat16)
    # Numbers of a model that was trained: at the initial 0.02 the layers would hardly change what they add to.
    for p in model.parameters():
        if p.dim() >= 2:
            p.data.mul_(4)

    export_without_weights(folder / "model.pt2", model, ids)
    tensors = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, leaf = name.rpartition(".")
            quantised = Fp8Linear(module)
            setattr(model.get_submodule(parent), leaf, quantised)
            tensors[f"{name}.weight"], tensors[f"{name}.weight_scale_inv"] = quantised.weight, quantised.weight_scale_inv
    for name, tensor in model.state_dict().items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            tensors.update(quantise_experts(name, tensor))
        else:
            tensors[name] = tensor
    parts = {name: f"model-{1 + ('self_attn' not in name):05}-of-00002.safetensors" for name in tensors}
    for part in sorted(set(parts.values())):
        save_file({n: t.contiguous() for n, t in tensors.items() if parts[n] == part}, folder / part)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(parts.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    described = {"model_type": "deepseek_v3", "torch_dtype": "bfloat16", "quantization_config": QUANTISATION}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")

    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    np.savez_compressed(folder / "reference.npz", **{"in.input_ids": ids.numpy(), "out.logits": logits.float().numpy()})
    for file in sorted(folder.iterdir()):
        print(f"{folder.name}/{file.name}: {file.stat().st_size} bytes")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for name, config in models().items():
        if name in (sys.argv[2:] or models()):
            make(folder / name, config)


if __name__ == "__main__":
    main()
