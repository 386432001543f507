#!/usr/bin/env python3
"""Runs models with normfuse and compares the results with what their authors' framework computed.

  references.py [--normfuse PROGRAM] FOLDER...

For every FOLDER/NAME.onnx or NAME.pt2 with NAME.ref.npz or NAME.npz (`in.*` the inputs, `out.*` the reference; for a .pt2,
which names neither as callers do, in the order of its signature): `normfuse run`, and a line a model: seconds, then for each result the largest difference over the largest reference, the cosine, and how many
rows have the same largest element. What is asked depends on what the file computes in:

  fp32, no quantiser    largest difference at most 1e-5 of the largest reference
  fp16, no quantiser    2e-3 likewise
  bf16, or quantisers   cosine at least 0.9995, and the same largest element in every row whose two largest elements are
                        further apart than 2% of the largest reference: a rounding apart is a tie

A file that onnx.checker refuses may be refused by normfuse, too, and so may a .pt2 with pickled tensors. Exits with 1 if
anything failed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np
import onnx
import onnx.checker

TENSOR = onnx.TensorProto
LIMITS = {"fp32": 1e-5, "fp16": 2e-3}
COSINE, TIE = 0.9995, 0.02
# Element types that only a quantiser casts to.
CODES = {
    getattr(TENSOR, name)
    for name in (
        "INT8", "UINT8", "INT4", "UINT4", "FLOAT4E2M1", "FLOAT8E8M0",
        "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ",
    )
}  # fmt: skip


def nodes_of(graph):
    """Every node, those of subgraphs among them."""
    for node in graph.node:
        yield node
        for a in node.attribute:
            for g in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
                yield from nodes_of(g)


def kind_of(model):
    """(fp32, fp16 or bf16; whether it has quantisers), as the file has it."""
    nodes = list(nodes_of(model.graph)) + [n for f in model.functions for n in f.node]
    casts = {a.i for n in nodes if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    types = casts | {t.data_type for t in model.graph.initializer}
    types |= {a.t.data_type for n in nodes for a in n.attribute if a.type == onnx.AttributeProto.TENSOR}
    dtype = "bf16" if TENSOR.BFLOAT16 in types else "fp16" if TENSOR.FLOAT16 in types else "fp32"
    return dtype, bool(casts & CODES) or any("Quant" in n.op_type for n in nodes)


class Archive:
    """What of a torch.export archive the comparison needs."""

    # torch's numbers of bool's neighbours: i8 and u8 are codes where floats are cast to them, FP8 always.
    TYPES = {6: "fp16", 13: "bf16"}
    CODES = {1, 2, 29, 30, 31, 32}

    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            json_of = lambda end: [json.loads(archive.read(n)) for n in archive.namelist() if n.endswith(end)]
            (program,) = json_of("models/model.json")
            lists = json_of("_weights_config.json") + json_of("_constants_config.json")
        module = program["graph_module"]
        specs = lambda side, kind: [s[kind]["arg"] for s in module["signature"][side] if kind in s]
        self.inputs = [a["as_tensor"]["name"] for a in specs("input_specs", "user_input")]
        self.outputs = [a["as_tensor"]["name"] for a in specs("output_specs", "user_output")]
        self.dtypes = {v["dtype"] for v in module["graph"]["tensor_values"].values()}
        self.pickled = any(p["use_pickle"] for config in lists for p in config["config"].values())

    def kind(self):
        dtype = next((self.TYPES[n] for n in (13, 6) if n in self.dtypes), "fp32")
        return dtype, bool(self.dtypes & self.CODES)


def is_legal(path):
    if path.suffix == ".pt2":
        return not Archive(path).pickled
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception:  # its errors and those of its shape inference have no common base
        return False
    return True


def compare(found, want, dtype, quantised):
    """A line about one result, and whether it is near enough."""
    if found.shape != want.shape:
        return f"shape {found.shape}, expected {want.shape}", False
    a, b = found.astype(np.float64), want.astype(np.float64)
    largest = np.abs(b).max(initial=0.0)
    error = np.abs(a - b).max(initial=0.0) / (largest or 1.0)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float((a * b).sum() / norms) if norms else float(np.array_equal(a, b))
    top = np.sort(b, axis=-1)[..., -2:] if b.ndim and b.shape[-1] > 1 else np.zeros((0, 2))
    decided = top[..., -1] - top[..., 0] > TIE * largest
    same = (a.argmax(-1) == b.argmax(-1))[decided] if decided.size else np.ones(0, bool)
    # Comparisons with NaN are false, so a NaN is never near enough.
    if quantised or dtype == "bf16":
        near = cosine >= COSINE and bool(same.all())
    else:
        near = error <= LIMITS[dtype]
    return f"error {error:.1e}, cosine {cosine:.6f}, argmax {same.sum()}/{same.size}", bool(near)


def check(program, path, reference):
    """("ok", "refused" or "FAIL", and the rest of a model's line)."""
    archive = Archive(path) if path.suffix == ".pt2" else None
    dtype, quantised = archive.kind() if archive else kind_of(onnx.load(path, load_external_data=False))
    kind = f"{dtype}{' quantised' if quantised else ''}"
    with tempfile.TemporaryDirectory() as folder:
        outputs = pathlib.Path(folder) / "out.npz"
        inputs = reference
        if archive:
            named = dict(zip(archive.inputs, [v for k, v in np.load(reference).items() if k.startswith("in.")], strict=True))
            inputs = pathlib.Path(folder) / "in.npz"
            np.savez(inputs, **named)
        start = time.perf_counter()
        command = [program, "run", path, "--inputs", inputs, "--outputs", outputs]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            verdict = "FAIL" if is_legal(path) else "refused"
            return verdict, f"{kind}: exit {done.returncode}: {done.stderr.strip()}"
        found = dict(np.load(outputs))
    want = {k.removeprefix("out."): v for k, v in np.load(reference).items() if k.startswith("out.")}
    if archive:
        found = {name: found[own] for name, own in zip(want, archive.outputs, strict=True)}
    results = {k: compare(found[k], v, dtype, quantised) if k in found else ("missing", False) for k, v in want.items()}
    line = "; ".join(f"{name}: {text}" for name, (text, _) in results.items())
    return "ok" if all(near for _, near in results.values()) else "FAIL", f"{kind}, {seconds:.2f} s; {line}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normfuse", default="target/release/normfuse", help="the program [default: %(default)s]")
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    counts = dict.fromkeys(["ok", "refused", "skipped", "FAIL"], 0)
    for model in (m for folder in args.folders for m in sorted([*folder.glob("*.onnx"), *folder.glob("*.pt2")])):
        beside = [p for p in (model.with_suffix(".ref.npz"), model.with_suffix(".npz")) if p.exists()]
        reference = next((p for p in beside if any(k.startswith("out.") for k in np.load(p).files)), None)
        if reference is None:
            verdict, line = "skipped", "no reference beside it"
        else:
            verdict, line = check(args.normfuse, model, reference)
        counts[verdict] += 1
        print(f"{verdict:8}{model.name}: {line}", flush=True)
    print("references:", ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    if not counts["ok"]:
        sys.exit("nothing was compared")
    sys.exit(counts["FAIL"] > 0)


if __name__ == "__main__":
    main()
