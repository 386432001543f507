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

A .pt2 with pickled tensors gets what they are made of as a checkpoint, so that it is compared like any other; the ones in
REFUSED read the pickled object itself, which normfuse has no op for. A file that onnx.checker refuses may be refused by
normfuse, too. Exits with 1 if anything failed.
"""

import argparse
import io
import json
import pathlib
import pickle
import struct
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
# Programs that compute with torchao's objects and not with the tensors in them.
REFUSED = {"deepseek_v3.prefill.L1.bf16.ao-mxfp8.pt2.pt2"}
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


class Made:
    """An object of a class that a pickle names: what it would be made of."""

    def __new__(cls, *parts, **named):
        made = super().__new__(cls)
        made.parts = [*parts, named]
        return made

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state):
        self.parts.append(state)


class Tensors(pickle.Unpickler):
    """A tensor of tensors as torch.save writes it. Of what it names nothing is imported or called."""

    DTYPES = {"CharStorage": np.int8, "ByteStorage": np.uint8, "FloatStorage": np.float32}

    def __init__(self, record):
        self.archive = zipfile.ZipFile(io.BytesIO(record))
        (pickled,) = [n for n in self.archive.namelist() if n.endswith("/data.pkl")]
        self.folder = pickled.removesuffix(".pkl")
        super().__init__(io.BytesIO(self.archive.read(pickled)))

    def find_class(self, module, name):
        if name == "_rebuild_tensor_v2":
            return self.tensor
        return dict if name == "OrderedDict" else type(name, (Made,), {})

    def persistent_load(self, storage):
        _, kind, key, *_ = storage
        return np.frombuffer(self.archive.read(f"{self.folder}/{key}"), self.DTYPES[kind.__name__])

    @staticmethod
    def tensor(storage, offset, sizes, strides, *_):
        strides = [n * storage.itemsize for n in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], sizes, strides).copy()


def parts(made, name=""):
    """Every tensor in it, under the name that holds it."""
    if isinstance(made, np.ndarray):
        yield name, made
    elif isinstance(made, dict):
        for key, value in made.items():
            yield from parts(value, key)
    elif isinstance(made, (list, tuple, Made)):
        for value in made.parts if isinstance(made, Made) else made:
            yield from parts(value, name)


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, t in tensors.items():
        dtype = {"int8": "I8", "uint8": "U8", "float32": "F32"}[t.dtype.name]
        header[name] = {"dtype": dtype, "shape": t.shape, "data_offsets": [len(data), len(data) + t.nbytes]}
        data += t.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


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
        everything = {name: p for config in lists for name, p in config["config"].items()}
        self.path = path
        self.pickled = {name: p["path_name"] for name, p in everything.items() if p["use_pickle"]}
        self.plain = sorted({name for name in everything if name not in self.pickled})

    def weights(self, file):
        """Arguments that bind what the pickled tensors are made of, which goes into a file."""
        if not self.pickled:
            return []
        tensors = {}
        with zipfile.ZipFile(self.path) as archive:
            for name, record in self.pickled.items():
                (entry,) = [n for n in archive.namelist() if n.endswith(f"/{record}")]
                tensors.update((f"{name}.{leaf}", t) for leaf, t in parts(Tensors(archive.read(entry)).load()))
        # Symmetric codes have zero points of 0, which the program does not read.
        tensors = {name: t for name, t in tensors.items() if not name.endswith(".zero_point") or t.any()}
        write_safetensors(file, tensors)
        return ["--weights", file, *(word for name in self.plain for word in ("--allow-missing", name))]

    def kind(self):
        dtype = next((self.TYPES[n] for n in (13, 6) if n in self.dtypes), "fp32")
        return dtype, bool(self.dtypes & self.CODES)


def is_legal(path):
    if path.suffix == ".pt2":
        return path.name not in REFUSED
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
        file = pathlib.Path(folder) / "weights.safetensors"
        weights = archive.weights(file) if archive and path.name not in REFUSED else []
        command = [program, "run", path, "--inputs", inputs, "--outputs", outputs, *weights]
        start = time.perf_counter()
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
