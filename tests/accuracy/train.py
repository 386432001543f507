#!/usr/bin/env python3
"""Trains the small model of model.py until it answers, and writes what the accuracy gate reads.

  python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy safetensors==0.8.0
  nice venv/bin/python tests/accuracy/train.py [FOLDER]

weights.safetensors   the trained weights in bf16, which all programs share
NAME.pt2              the program as torch.export writes it, without weights: plain, and with every linear layer's input
                      quantised to FP8 with a scale a row (fp8_token) or for 128 values (fp8_group), or to MXFP4 (mxfp4)
questions.npz         questions that training never saw: `in.tokens`, and the right answers `out.answers`

No quantiser takes part in training: what quantised activations cost is in the table of docs/accuracy.md. The same
torch, seed and number of threads give the same weights.
"""

import pathlib
import sys
import time

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from model import QUANTISERS, Model, questions

HELD_OUT, STEPS, BATCH, ENOUGH = 2000, 700, 384, 0.95


def right(model, tokens, answers):
    """The share of questions whose three digits are all right."""
    with torch.no_grad():
        return (model(tokens).argmax(-1) == answers).all(-1).float().mean().item()


def train(seen, held_out):
    """A model in f32 that answers, trained on pairs `seen`."""
    model, tokens, answers = Model(), *questions(seen)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, STEPS, pct_start=0.1)
    start = time.time()
    for step in range(STEPS):
        pick = torch.randint(len(tokens), (BATCH,))
        logits = model(tokens[pick])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), answers[pick].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            share = right(model, *questions(held_out))
            print(f"step {step + 1}, {time.time() - start:.0f} s, loss {loss.item():.4f}, right {share:.2%}", flush=True)
    return model


def last_frame(trace):
    """The last file and line of a stack trace, without the folders of this machine."""
    lines = trace.rstrip().splitlines()
    at = max((i for i, line in enumerate(lines) if line.lstrip().startswith("File ")), default=0)
    name = pathlib.PurePath(lines[at].split('"')[1]).name if '"' in lines[at] else ""
    return "\n".join([lines[at].replace(lines[at].split('"')[1], name) if name else lines[at], *lines[at + 1:]])


def export(model, name, folder):
    """Writes the program with this quantiser, its weights left out."""
    example = questions(torch.tensor([[12, 34], [56, 78], [9, 10]]))[0]
    batch = torch.export.Dim("batch", min=1, max=4096)
    with torch.no_grad():
        program = torch.export.export(model.eval().quantise(name), (), kwargs={"tokens": example},
                                      dynamic_shapes={"tokens": {0: batch}})
    for node in program.graph.nodes:
        if trace := node.meta.get("stack_trace"):
            node.meta["stack_trace"] = last_frame(trace)
    for key, tensor in program.state_dict.items():
        program.state_dict[key] = nn.Parameter(tensor.to("meta"), requires_grad=False)
    torch.export.save(program, folder / f"{name}.pt2")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    torch.manual_seed(6)
    torch.set_num_threads(1)
    numbers = torch.arange(100)
    pairs = torch.cartesian_prod(numbers, numbers)[torch.randperm(10000)]
    held_out, seen = pairs[:HELD_OUT], pairs[HELD_OUT:]
    model = train(seen, held_out).to(torch.bfloat16).requires_grad_(False).eval()
    tokens, answers = questions(held_out)
    for name in QUANTISERS:
        share = right(model.quantise(name), tokens, answers)
        print(f"{name} in bf16: {share:.2%}")
        if name == "plain" and share < ENOUGH:
            sys.exit(f"{ENOUGH:.0%} of the held-out questions are needed")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors")
    np.savez_compressed(folder / "questions.npz", **{"in.tokens": tokens.numpy(), "out.answers": answers.numpy()})
    for name in QUANTISERS:
        export(model, name, folder)


if __name__ == "__main__":
    main()
