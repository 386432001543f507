#!/usr/bin/env python3
"""Compares normfuse with other optimisers on the same ONNX files, in one run on one machine.

  python3 -m venv VENV && VENV/bin/pip install -r benches/peers/requirements.txt
  cargo build --release --locked && cargo build --release --locked --manifest-path benches/peers/Cargo.toml
  VENV/bin/python benches/peers/peers.py FOLDER [--runs 11] [--norms graphs.md] [-o docs/peers.md]

Every .onnx of FOLDER that onnx.checker accepts goes through every tool, each in a process of its own. For each: the time of
its rewriting apart from reading and writing (the median of some runs), how many RMSNorms it found, how many quantisers it
fused with norms, and how far the rewritten model's results are from the original's, both run by that tool (by onnxruntime
without optimisation for what onnxscript and onnxruntime's Python optimiser write). Inputs are those of NAME.ref.npz or
NAME.npz beside the file, where there is one; else there is no such number.

`--norms` names a Markdown table with columns `file` and `RMSNorms...`; for files that are not in it, the norms that are
there are the most that any tool found.
"""

import argparse
import json
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ("normfuse", "rten", "tract", "onnxruntime", "onnxscript", "onnxruntime (Python)")
NORMS = {"RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
TIMEOUT = 600


def median_ms(run, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def norms_of(model):
    """Norms that are one op in a model, those of functions and subgraphs among them."""

    def count(nodes):
        total = 0
        for n in nodes:
            total += n.op_type in NORMS
            for a in n.attribute:
                for g in ([a.g] if a.HasField("g") else []) + list(a.graphs):
                    total += count(g.node)
        return total

    return count(model.graph.node) + sum(count(f.node) for f in model.functions)


def as_float(a):
    import numpy as np

    return a.astype(np.float64) if a.dtype.kind in "fV" or a.dtype.name.startswith(("bfloat", "float8")) else None


def difference(before, after):
    """max|a-b| / max|a| over all float results."""
    import numpy as np

    worst = 0.0
    for a, b in zip(before, after):
        a, b = as_float(np.asarray(a)), as_float(np.asarray(b))
        if a is None or a.size == 0:
            continue
        off = np.abs(a - b).max()
        if off:
            worst = max(worst, float(off / (np.abs(a).max() or 1.0)))
    return worst


def ort_run(path, inputs):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})


def ort_difference(path, rewritten, inputs):
    if inputs is None:
        return "no inputs"
    try:
        return difference(ort_run(path, inputs), ort_run(rewritten, inputs))
    except Exception as e:
        return f"does not run: {first_line(e)}"


def first_line(e):
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:160]


def onnxruntime_cpp(path, runs, inputs, folder):
    import onnx
    import onnxruntime as ort

    out = folder / "ort.onnx"

    def session(level, save):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        # Which kernels run is decided before the session is asked for, and costs no time here; weights are not repacked.
        options.add_session_config_entry("session.disable_prepacking", "1")
        if save:
            options.optimized_model_filepath = str(out)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    levels = ort.GraphOptimizationLevel
    plain = median_ms(lambda: session(levels.ORT_DISABLE_ALL, False), runs)
    found = {"import_ms": plain}
    full = median_ms(lambda: session(levels.ORT_ENABLE_ALL, False), runs)
    found["pass_ms"] = full - plain
    session(levels.ORT_ENABLE_ALL, True)
    found["norms"] = norms_of(onnx.load(out, load_external_data=False))
    found["quantisers"] = 0
    found["difference"] = ort_difference(path, out, inputs)
    return found


def onnxscript(path, runs, inputs, folder):
    import onnx
    import onnx_ir as ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort
    from onnxscript.rewriter.rules.fusion import _rms_normalization

    start = time.perf_counter()
    model = ir.load(path)
    found = {"import_ms": (time.perf_counter() - start) * 1e3}
    # Its rule for norms alone, and then all that it does for onnxruntime.
    rule = []
    whole = []
    for _ in range(runs):
        model = ir.load(path)
        start = time.perf_counter()
        _rms_normalization.fuse_rms_normalization(model)
        rule.append((time.perf_counter() - start) * 1e3)
    out = folder / "rule.onnx"
    ir.save(model, out)
    found["norms"] = norms_of(onnx.load(out, load_external_data=False))
    found["rule_ms"] = statistics.median(rule)
    # Seconds each: fewer runs are enough.
    for _ in range(min(runs, 3)):
        model = ir.load(path)
        start = time.perf_counter()
        try:
            model, _ = optimize_for_ort(model)
        except Exception as e:
            found["pass_ms"] = f"crash: {type(e).__name__}: {first_line(e)}"
            break
        whole.append((time.perf_counter() - start) * 1e3)
    else:
        found["pass_ms"] = statistics.median(whole)
        out = folder / "onnxscript.onnx"
        ir.save(model, out)
        found["norms"] = max(found["norms"], norms_of(onnx.load(out, load_external_data=False)))
    found["quantisers"] = 0
    found["difference"] = ort_difference(path, out, inputs)
    return found


def onnxruntime_python(path, runs, inputs, folder):
    import logging

    import onnx
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    logging.disable(logging.CRITICAL)
    times = []
    for _ in range(min(runs, 3)):
        start = time.perf_counter()
        model = onnx.load(path)
        read = (time.perf_counter() - start) * 1e3
        start = time.perf_counter()
        try:
            # The decoder with RMSNorm among its types of models; numbers of heads and hidden size 0: it finds them.
            optimised = optimize_by_fusion(model, "qwen3", 0, 0, FusionOptions("qwen3"))
        except Exception as e:
            return {"error": f"crash: {type(e).__name__}: {first_line(e)}"}
        times.append((time.perf_counter() - start) * 1e3)
    out = folder / "python.onnx"
    optimised.save_model_to_file(str(out))
    found = {"import_ms": read, "pass_ms": statistics.median(times), "quantisers": 0}
    found["norms"] = norms_of(optimised.model)
    found["difference"] = ort_difference(path, out, inputs)
    return found


def rust(tool, path, runs, folder):
    program = HERE / "target" / "release" / "peers"
    env = {"RTEN_OPTIMIZER_DEBUG": "info"} if tool == "rten" else {}
    command = [str(program), tool, str(path), str(runs)]
    if tool == "normfuse" or (folder / "manifest.json").exists():
        command.append(str(folder))
    found = last_line(command)
    if tool == "rten" and "error" not in found:
        # Its graph is private, and its log is what it says of it.
        log = subprocess.run(command[:3] + ["1"], capture_output=True, text=True, timeout=TIMEOUT, env=env).stdout
        found["norms"] = len(re.findall(r"(?m)^I\|.*RmsNorm", log)) + native_norms(path)
        found["quantisers"] = 0
    if tool == "tract":
        found.setdefault("quantisers", 0)
    return found


def native_norms(path):
    import onnx

    return norms_of(onnx.load(path, load_external_data=False))


def last_line(command):
    """The JSON that a process ends its output with, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"error": f"more than {TIMEOUT} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        return {"error": f"crash: {(done.stderr.strip().splitlines() or ['exit ' + str(done.returncode)])[-1][:160]}"}
    return json.loads(lines[-1])


PYTHON = {
    "onnxruntime": onnxruntime_cpp,
    "onnxscript": onnxscript,
    "onnxruntime (Python)": onnxruntime_python,
}


def inputs_of(path):
    """Inputs that lie beside a model, by name."""
    import ml_dtypes  # noqa: F401: gives numpy its narrow types
    import numpy as np
    import onnx

    stored = [p for p in (path.with_suffix(".ref.npz"), path.with_suffix(".npz")) if p.exists()]
    if not stored:
        return None
    values = {k.removeprefix("in."): v for k, v in np.load(stored[0]).items() if not k.startswith("out.")}
    model = onnx.load(path, load_external_data=False)
    constants = {t.name for t in model.graph.initializer}
    wanted = [i for i in model.graph.input if i.name not in constants]
    if any(i.name not in values for i in wanted):
        return None
    narrow = {onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16}
    found = {}
    for i in wanted:
        v = values[i.name]
        dtype = narrow.get(i.type.tensor_type.elem_type)
        # What numpy has no type for is stored as its bytes, or wider.
        is_bytes = v.dtype.itemsize == 2 and v.dtype.kind in "uV"
        found[i.name] = v if not dtype else v.view(dtype) if is_bytes else v.astype(dtype)
    return found


def leave(inputs, folder):
    """Inputs for the Rust tools: see benches/peers/src/tensors.rs."""
    listed = []
    for n, (name, v) in enumerate(inputs.items()):
        (folder / f"{n}.bin").write_bytes(v.tobytes())
        listed.append({"name": name, "dtype": str(v.dtype), "shape": list(v.shape), "file": f"{n}.bin"})
    (folder / "manifest.json").write_text(json.dumps(listed))


def is_legal(path):
    import onnx.checker

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception:  # its errors and those of its shape inference have no common base
        return False
    return True


def one(tool, path, runs):
    """What one tool does with one model, as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        inputs = inputs_of(path)
        if tool in PYTHON:
            try:
                return PYTHON[tool](path, runs, inputs, folder)
            except Exception as e:
                return {"error": first_line(e)}
        if inputs is not None:
            leave(inputs, folder)
        return rust(tool, path, runs, folder)


def listed_norms(table):
    """file -> RMSNorms, of a Markdown table."""
    found = {}
    column = None
    for line in table.read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if cells[0] == "file":
            column = next(i for i, c in enumerate(cells) if c.startswith("RMSNorms"))
        elif column and len(cells) > column and cells[column].isdigit():
            found[cells[0]] = int(cells[column])
    return found


def number(v, digits=1):
    return f"{v:.{digits}f}" if isinstance(v, (int, float)) else "n/a"


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{cpu.group(1) if cpu else platform.machine()}, {len_cpus()} cores"


def len_cpus():
    import os

    return len(os.sched_getaffinity(0))


def versions():
    lock = (HERE / "Cargo.lock").read_text()

    def locked(name):
        return re.search(rf'name = "{name}"\nversion = "(.*)"', lock).group(1)

    found = {n: version(n) for n in ("onnxruntime", "onnxscript", "onnx")}
    found |= {n: locked(n) for n in ("rten", "tract-onnx")}
    return ", ".join(f"{n} {v}" for n, v in found.items()) + f", Python {platform.python_version()}"


def write(args, results, out):
    """The page: what was measured and how, totals, and a table a file."""
    known = listed_norms(args.norms) if args.norms else {}
    there = {}
    for name, found in results.items():
        most = max((r.get("norms", 0) for r in found.values() if "error" not in r), default=0)
        there[name] = known.get(name, most)
    lines = [PAGE.format(command=args.command, runs=args.runs, machine=machine(), versions=versions(), files=len(results))]
    lines += ["## Totals", "", "| tool | files read | norms | quantisers fused with norms | pass, ms in all | largest difference |", "|---|---|---|---|---|---|"]
    total = sum(there.values())
    for tool in TOOLS:
        rows = [found[tool] for found in results.values()]
        read = [r for r in rows if "error" not in r]
        times = [r["pass_ms"] for r in read if isinstance(r.get("pass_ms"), (int, float))]
        off = [r["difference"] for r in read if isinstance(r.get("difference"), (int, float))]
        lines.append(
            f"| {tool} | {len(read)} | {sum(r.get('norms', 0) for r in read)} of {total} "
            f"| {sum(r.get('quantisers', 0) for r in read)} | {number(sum(times))} ({len(times)} files) "
            f"| {f'{max(off):.1e}' if off else 'n/a'} ({len(off)} files) |"
        )
    lines += [
        "",
        "Each beside normfuse on the files that both read:",
        "",
        "| tool | files | norms | norms, normfuse | pass, ms | pass, ms, normfuse |",
        "|---|---|---|---|---|---|",
    ]
    for tool in TOOLS[1:]:
        both = [(f[tool], f[TOOLS[0]], there[name]) for name, f in results.items() if "error" not in f[tool]]
        total = sum(n for *_, n in both)
        timed = [(a["pass_ms"], b["pass_ms"]) for a, b, _ in both if isinstance(a.get("pass_ms"), (int, float))]
        lines.append(
            f"| {tool} | {len(both)} | {sum(a.get('norms', 0) for a, *_ in both)} of {total} "
            f"| {sum(b['norms'] for _, b, _ in both)} of {total} "
            f"| {number(sum(a for a, _ in timed))} | {number(sum(b for _, b in timed))} |"
        )
    for name, found in results.items():
        lines += ["", f"## {name}", "", "| tool | pass, ms | norms | quantisers | difference |", "|---|---|---|---|---|"]
        for tool in TOOLS:
            r = found[tool]
            if "error" in r:
                lines.append(f"| {tool} | n/a | n/a | n/a | {clean(r['error'])} |")
                continue
            off = r.get("difference", "n/a")
            off = f"{off:.1e}" if isinstance(off, (int, float)) and off else clean(str(off))
            time_cell = number(r["pass_ms"], 2) if isinstance(r["pass_ms"], (int, float)) else clean(r["pass_ms"])
            if "rule_ms" in r:
                time_cell += f" (its norm rule alone {number(r['rule_ms'], 2)})"
            lines.append(f"| {tool} | {time_cell} | {r.get('norms', 'n/a')} of {there[name]} | {r.get('quantisers', 'n/a')} | {off} |")
    out.write_text("\n".join(lines) + "\n")


def clean(text):
    """A message as a cell: no paths, no bars, one line."""
    text = re.sub(r"(/[\w.\-]+)+/", "", text)
    return re.sub(r"\s+", " ", text).replace("|", "/")[:140]


PAGE = """# normfuse beside other optimisers

Made by `{command}`; each number is from that one run, times are medians of {runs} runs (of 3 for the whole of onnxscript and
for onnxruntime's Python optimiser, which take seconds). {files} files, each legal by onnx.checker. Machine: {machine}. {versions}.

| tool | pass | norms |
|---|---|---|
| normfuse | `passes::run`: inference, recognition, rewriting and the verifier, twice | recognised, fused or native; quantisers are epilogues of fused norms |
| rten | loading with optimisation less loading without, since it optimises while it loads | its log of fusions, and native norms |
| tract | `into_decluttered`, after reading and typing | ops `RmsNorm` and `ScaledRmsNorm` in the decluttered model |
| onnxruntime | a session with all optimisations less one with none | norms in the optimised model that it saves |
| onnxscript | `optimize_for_ort`; beside it the rule for norms alone | norms in the model that it writes, by whichever of the two finds more |
| onnxruntime (Python) | `optimize_by_fusion` for models of the type `qwen3` | norms in the model that it writes |

Difference: max|a-b| / max|a| over the float results, original against rewritten, both run by the tool itself (for onnxscript and
the Python optimiser by onnxruntime without optimisation); 0 means the same bits. None of the others has an op that norms and
quantises, so their quantisers are 0 by construction.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="models; with --tool a single one")
    parser.add_argument("--runs", type=int, default=11, help="runs of which the median is taken [default: %(default)s]")
    parser.add_argument("--norms", type=pathlib.Path, help="a Markdown table of files and how many norms they have")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=ROOT / "docs" / "peers.md")
    parser.add_argument("--tool", choices=TOOLS, help="only this one, on one model, as JSON")
    args = parser.parse_args()
    if args.tool:
        print(json.dumps(one(args.tool, args.folder, args.runs)))
        return
    norms = " --norms graphs.md" if args.norms else ""
    args.command = f"benches/peers/peers.py FOLDER --runs {args.runs}{norms}"
    results = {}
    for path in sorted(args.folder.glob("*.onnx")):
        if not is_legal(path):
            print(f"{path.name}: not legal, left out", file=sys.stderr)
            continue
        results[path.name] = {}
        for tool in TOOLS:
            command = [sys.executable, __file__, str(path), "--tool", tool, "--runs", str(args.runs)]
            results[path.name][tool] = last_line(command)
            print(path.name, tool, results[path.name][tool], file=sys.stderr, flush=True)
    write(args, results, args.output)


if __name__ == "__main__":
    main()
