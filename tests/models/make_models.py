#!/usr/bin/env python3
"""Makes the models in this folder: one small export per exporter, random weights, no download.

  python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0 onnx==1.23.2 onnxscript==0.7.2
  venv/bin/python tests/models/make_models.py [FOLDER]

deepseek_v3_fp8  dynamo exporter, opset 20, bf16; every Linear that a norm feeds quantises its input to FP8, 1x128;
                 and the same model as a torch.export archive
deepseek_v3_static  the same two, with one given scale for each Linear's input, as calibration leaves them
llama_token      the same two of a smaller model, with one scale for each row of a Linear's input
deepseek_v2      torch.export archive, bf16: rotary embeddings by complex numbers
llama4           the same, with a layer that has none and scales its queries by the position, chunked attention and experts
llama_ts         TorchScript exporter, opset 17, fp32
llama_native     dynamo exporter at opset 23, which writes RMSNormalization and Attention, bf16

Beside each NAME.onnx (and NAME.pt2) lies NAME.npz: `in.*` the inputs, `out.*` what torch computed eagerly.
"""

import pathlib
import re
import sys
import warnings

import numpy as np
import onnx
import torch
import transformers
from torch import nn

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()

SMALL = dict(vocab_size=64, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=256,
             bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)


def build(config, dtype):
    """A causal language model with weights that a seed decides; norm weights are not all one."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa",
                                                          experts_implementation="batched_mm")
    model = model.eval().requires_grad_(False)
    for name, p in model.named_parameters():
        if p.dim() == 1 and "norm" in name:
            p.data.add_(0.1 * torch.randn(p.shape))
    return model.to(dtype)


def llama():
    return transformers.LlamaConfig(hidden_size=64, intermediate_size=96, num_key_value_heads=1, rms_norm_eps=1e-5,
                                    **SMALL)


def deepseek(width=128):
    # Rows of 128 and 256 values, so that groups of 128 divide them.
    return transformers.DeepseekV3Config(
        hidden_size=width, intermediate_size=width, num_key_value_heads=2, q_lora_rank=2 * width, kv_lora_rank=width,
        qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16, n_routed_experts=4, n_group=2, topk_group=1,
        num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=32, first_k_dense_replace=0, **SMALL)


def deepseek_v2():
    return transformers.DeepseekV2Config(
        hidden_size=32, intermediate_size=32, num_key_value_heads=2, q_lora_rank=32, kv_lora_rank=32,
        qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=4, n_group=2, topk_group=1,
        topk_method="group_limited_greedy", num_experts_per_tok=2, n_shared_experts=1, moe_intermediate_size=16,
        first_k_dense_replace=0, **SMALL)


def llama4():
    return transformers.Llama4TextConfig(
        hidden_size=32, intermediate_size=32, intermediate_size_mlp=32, num_key_value_heads=1, head_dim=16,
        num_local_experts=2, num_experts_per_tok=1, moe_layers=[1], no_rope_layers=[1, 0], floor_scale=2,
        attention_chunk_size=4, **{**SMALL, "num_hidden_layers": 2})


class Fp8Linear(nn.Module):
    """A Linear whose input is quantised to FP8, one scale for 128 values, in plain torch."""

    def __init__(self, linear):
        super().__init__()
        self.dtype = linear.weight.dtype
        self.register_buffer("scale", linear.weight.float().abs().amax().reshape(1) / 448.0)
        self.register_buffer("weight", (linear.weight.float() / self.scale).to(torch.float8_e4m3fn))

    def forward(self, x):
        rows = x.flatten(0, -2).unflatten(-1, (-1, 128))
        amax = rows.abs().max(dim=-1, keepdim=True)[0].float()
        s = (amax / 448.0).clamp(min=1 / (448.0 * 512))
        q = (rows.float() / s).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
        back = (q.to(torch.float32) * s).flatten(-2).view(x.shape)
        weight = (self.weight.to(torch.float32) * self.scale).to(self.dtype)
        return nn.functional.linear(back.to(self.dtype), weight)


class StaticFp8Linear(Fp8Linear):
    """The same with one scale for all of the input, which is a buffer of the layer."""

    def __init__(self, linear, amax):
        super().__init__(linear)
        self.register_buffer("input_scale", (amax / 448.0).float().reshape(1))

    def forward(self, x):
        q = (x.float() * self.input_scale.reciprocal()).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
        back = q.to(torch.float32) * self.input_scale
        weight = (self.weight.to(torch.float32) * self.scale).to(self.dtype)
        return nn.functional.linear(back.to(self.dtype), weight)


class TokenFp8Linear(Fp8Linear):
    """The same with one scale for each row of the input."""

    def forward(self, x):
        s = (x.abs().amax(dim=-1, keepdim=True).float() / 448.0).clamp(min=1 / (448.0 * 512))
        q = (x.float() * s.reciprocal()).clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
        weight = (self.weight.to(torch.float32) * self.scale).to(self.dtype)
        return nn.functional.linear((q.to(torch.float32) * s).to(self.dtype), weight)


def quantise_after_norms(model, ids, quantised=lambda linear, amax: Fp8Linear(linear)):
    """Puts a quantised layer in the place of every Linear that reads what a norm wrote, the head excepted."""
    normed, found, keep, hooks = set(), {}, [], []

    def after_norm(_module, _args, out):
        normed.add(out.data_ptr())
        keep.append(out)

    def before_linear(name):
        return lambda _module, args: found.update({name: args[0].abs().amax()}) if args[0].data_ptr() in normed else None

    for name, module in model.named_modules():
        if "RMSNorm" in type(module).__name__:
            hooks.append(module.register_forward_hook(after_norm))
        elif isinstance(module, nn.Linear) and name != "lm_head":
            hooks.append(module.register_forward_pre_hook(before_linear(name)))
    model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    for name, amax in found.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, quantised(model.get_submodule(name), amax))


class Prefill(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


class MaskedPrefill(Prefill):
    """An explicit mask keeps transformers from ops that the TorchScript exporter lacks."""

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def last_frame(trace):
    """Whole stack traces have the paths of the machine that they were made on: the line of the model stays."""
    last = "\n".join(trace.splitlines()[-2:])
    return re.sub(r'"[^"]*/(site-packages/|tests/models/)', r'"\1', last)


def tidy(path):
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [p for p in node.metadata_props if p.key != "pkg.torch.onnx.class_hierarchy"]  # `namespace` has it too
        for prop in kept:
            if prop.key == "pkg.torch.onnx.stack_trace":
                prop.value = last_frame(prop.value)
        del node.metadata_props[:]
        node.metadata_props.extend(onnx.StringStringEntryProto(key=p.key, value=p.value) for p in kept)
    onnx.save(model, path)


def dims():
    return {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("seq", min=2, max=256)}


def export_pt2(folder, name, wrapper, inputs):
    with torch.no_grad():
        program = torch.export.export(wrapper, (), kwargs=inputs, dynamic_shapes={k: dims() for k in inputs})
    for node in program.graph.nodes:
        if trace := node.meta.get("stack_trace"):
            node.meta["stack_trace"] = last_frame(trace.rstrip())
    path = folder / f"{name}.pt2"
    torch.export.save(program, path)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(program.graph.nodes)} nodes")


def save_reference(folder, name, inputs, want):
    arrays = {f"in.{k}": v.numpy() for k, v in inputs.items()}
    np.savez_compressed(folder / f"{name}.npz", **arrays, **{"out.logits": want.float().numpy()})


def export(folder, name, wrapper, inputs, **how):
    with torch.no_grad():
        want = wrapper(**inputs)
        path = folder / f"{name}.onnx"
        names = dict(input_names=list(inputs), output_names=["logits"])
        if how["opset_version"] < 18:
            axes = {k: {0: "batch", 1: "seq"} for k in inputs}
            torch.onnx.export(wrapper, tuple(inputs.values()), path, dynamo=False, dynamic_axes=axes, **names, **how)
        else:
            program = torch.onnx.export(wrapper, (), kwargs=inputs, dynamo=True, verbose=False,
                                        dynamic_shapes={k: dims() for k in inputs}, **names, **how)
            program.save(path, external_data=False)
            tidy(path)
    save_reference(folder, name, inputs, want)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(onnx.load(path).graph.node)} nodes")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    ids = torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(2))

    model = build(deepseek(), torch.bfloat16)
    quantise_after_norms(model, ids)
    export(folder, "deepseek_v3_fp8", Prefill(model).eval(), {"input_ids": ids}, opset_version=20)
    export_pt2(folder, "deepseek_v3_fp8", Prefill(model).eval(), {"input_ids": ids})

    model = build(deepseek(width=32), torch.bfloat16)
    quantise_after_norms(model, ids, StaticFp8Linear)
    export(folder, "deepseek_v3_static", Prefill(model).eval(), {"input_ids": ids}, opset_version=20)
    export_pt2(folder, "deepseek_v3_static", Prefill(model).eval(), {"input_ids": ids})

    model = build(llama(), torch.bfloat16)
    quantise_after_norms(model, ids, lambda linear, amax: TokenFp8Linear(linear))
    export(folder, "llama_token", Prefill(model).eval(), {"input_ids": ids}, opset_version=20)
    export_pt2(folder, "llama_token", Prefill(model).eval(), {"input_ids": ids})

    for name, config in [("deepseek_v2", deepseek_v2()), ("llama4", llama4())]:
        model = Prefill(build(config, torch.bfloat16)).eval()
        export_pt2(folder, name, model, {"input_ids": ids})
        save_reference(folder, name, {"input_ids": ids}, model(ids))

    model = build(llama(), torch.bfloat16)
    export(folder, "llama_native", Prefill(model).eval(), {"input_ids": ids}, opset_version=23)

    model = build(llama(), torch.float32)
    masked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    export(folder, "llama_ts", MaskedPrefill(model).eval(), masked, opset_version=17)


if __name__ == "__main__":
    main()
