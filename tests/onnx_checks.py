#!/usr/bin/env python3
"""Checks what normfuse writes with the tools of ONNX's own project.

  onnx_checks.py [--normfuse PROGRAM] FOLDER...

For every FOLDER/NAME.onnx: compile it; the rewritten file, and the source read and written with all rules off, pass
onnx.checker's full check; source, both of these, and the rewritten file after onnx.inliner give equal bits on the inputs
of NAME.npz or NAME.ref.npz, or on made ones where there are none. They run in onnxruntime with its optimisations off, or,
where its CPU provider cannot run the source, in onnx.reference. A source that fails onnx.checker itself may be refused;
where it is read, what it means is ours to say, and the three files are compared with one another.

For every FOLDER/NAME.nf and NAME.pt2 the source is what normfuse writes of it as ONNX with all rules off; a graph with an op that
ONNX has no name for, or with a fused op that nothing spells, is passed over, and so is an archive with pickled tensors; where nothing fuses the files must be the same. What
an archive has no data for is an input: such files are checked and not run. Prints a line a model, of graphs only what failed and how many did not, and exits with 1 if
anything failed.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.reference
import onnxruntime as ort

# Element types of ONNX that numpy knows through ml_dtypes only.
NARROW = {onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16, onnx.TensorProto.FLOAT16: np.float16}


# Zeros over zeros and the like are meant.
np.seterr(all="ignore")


class Failed(Exception):
    pass


def normfuse(program, *args):
    done = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"normfuse {' '.join(map(str, args))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def all_rules(program, model):
    """The rules' names, from the error that lists them."""
    done = subprocess.run([program, "compile", model, "--disable", "?"], capture_output=True, text=True)
    return done.stderr.rpartition("rules: ")[2].strip().split(", ")


def inputs_of(path, model):
    """The inputs beside a model, in the types that it declares; made ones if there are none. None for an archive without
    inputs for all that its program reads."""
    for name in (path.with_suffix(".npz"), path.with_suffix(".ref.npz")):
        if name.exists():
            arrays = np.load(name)
            break
    else:
        return None if path.suffix == ".pt2" else made_inputs(model)
    if path.suffix == ".pt2" and any(f"in.{value.name}" not in arrays for value in model.graph.input):
        return None
    feeds = {}
    for value in model.graph.input:
        array = arrays[f"in.{value.name}"]
        narrow = NARROW.get(value.type.tensor_type.elem_type)
        feeds[value.name] = array.astype(narrow) if narrow else array
    return feeds


def made_inputs(model):
    """Small inputs of odd sizes, with a row of zeros, an outlier and ties of narrow floats among them."""
    random = np.random.default_rng(7)
    sizes = {}
    feeds = {}
    stored = {t.name for t in model.graph.initializer}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        # One name is one size; an axis without one is fixed nowhere.
        named = [d.dim_param or f"{value.name}.{i}" for i, d in enumerate(kind.shape.dim)]
        dims = [
            d.dim_value or sizes.setdefault(name, 2 + len(sizes) % 2) for d, name in zip(kind.shape.dim, named)
        ]
        dtype = NARROW.get(kind.elem_type) or onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        count = int(np.prod(dims, dtype=np.int64))
        numbers = random.standard_normal(count) * np.exp2(random.integers(-3, 4, count))
        numbers[::7] = np.round(numbers[::7] * 4) / 4
        if dims and count > dims[-1]:
            numbers[: dims[-1]] = 0
        if count > 4:
            numbers[-3] = 300
        feeds[value.name] = numbers.reshape(dims).astype(np.float32).astype(dtype)
    return feeds


def run_ort(path, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def run_reference(path, feeds):
    return onnx.reference.ReferenceEvaluator(str(path)).run(None, feeds)


def same_bits(a, b):
    """Bit for bit; NaN equals NaN."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    equal = a.view(unsigned) == b.view(unsigned)
    if a.dtype.kind in "fV" and a.dtype.itemsize <= 8:
        equal |= np.isnan(a.astype(np.float64)) & np.isnan(b.astype(np.float64))
    return bool(np.all(equal))


def illegality(path):
    """What onnx.checker says against a file, or None."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as e:  # its errors and those of its shape inference have no common base
        return str(e)
    return None


class PassedOver(Exception):
    """A graph that ONNX cannot say."""


def check(program, rules, model, folder):
    """Returns a line about one model; raises Failed, or PassedOver."""
    rewritten, untouched, inlined = (folder / f"{kind}.onnx" for kind in ("rewritten", "untouched", "inlined"))
    off = [flag for rule in rules for flag in ("--disable", rule)]
    path = model
    if model.suffix != ".onnx":
        try:
            normfuse(program, "compile", model, "-o", folder / "source.onnx", "--copy-weights", *off)
        except Failed as e:
            if "pickled" in str(e):
                raise PassedOver("pickled tensors") from e
            if "ONNX has no op" in str(e) or "a fused op needs a body" in str(e):
                raise PassedOver(first_line(e)) from e
            raise
        path = folder / "source.onnx"
    illegal = illegality(path)
    try:
        report = json.loads(normfuse(program, "compile", path, "-o", rewritten, "--copy-weights", "--runs-on", "cpu", "--report", "json"))
    except Failed as e:
        if illegal is None:
            raise
        return f"illegal, and refused: {e}"
    normfuse(program, "compile", path, "-o", untouched, "--copy-weights", *off)
    for written in (rewritten, untouched):
        problem = illegality(written)
        if problem and not illegal:
            raise Failed(f"{written.name} fails onnx.checker: {problem}")
    if path.suffix != model.suffix and rewritten.read_bytes() == untouched.read_bytes():
        return "nothing fused"
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(rewritten)), inlined)

    fused = report["summary"]["fused"]
    line = f"{report['summary']['norms']} norms, {fused['norm_quant']} fused with quantisers, {fused['norm']} without"
    beside = model if model.suffix == ".pt2" else path
    feeds = inputs_of(beside, onnx.load(path, load_external_data=False))
    if feeds is None:
        return f"{line}; not run"
    first, *others = (untouched, rewritten, inlined) if illegal else (path, untouched, rewritten, inlined)
    run, engine = run_ort, "onnxruntime"
    try:
        want = run(first, feeds)
    except Exception as of_ort:  # onnxruntime has no common base for what it cannot run
        run, engine = run_reference, "onnx.reference"
        try:
            want = run(first, feeds)
        except Exception as e:
            return f"{line}; runs neither in onnxruntime ({first_line(of_ort)}) nor in onnx.reference ({first_line(e)})"
    equal = 0
    for written in others:
        try:
            found = run(written, feeds)
        except Exception as e:
            # onnx.reference runs no op within a model's function that the standard spells by its types, such as Gelu; the same
            # op runs in the inlined file.
            if engine == "onnx.reference" and written == rewritten and "context dependent" in str(e):
                continue
            raise Failed(f"{engine} runs {first.name} but not {written.name}: {e}") from e
        equal += 1
        if len(want) != len(found) or not all(map(same_bits, want, found)):
            raise Failed(f"{written.name} differs from {first.name} in {engine}")
    against = "one another (the source is illegal)" if illegal else "the source"
    return f"{line}; {equal} files bit-equal to {against} in {engine}"


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normfuse", default="target/release/normfuse", help="the program [default: %(default)s]")
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    found = [m for folder in args.folders for m in sorted(folder.iterdir()) if m.suffix in (".onnx", ".pt2", ".nf")]
    if not found:
        sys.exit("no models")
    rules = all_rules(args.normfuse, found[0])
    counts = dict.fromkeys(("ok", "over", "FAIL"), 0)
    unfused = unrun = 0
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(outcome, [args.normfuse] * len(found), [rules] * len(found), found)
        for model, (verdict, line) in zip(found, outcomes):
            counts[verdict] += 1
            unfused += line == "nothing fused"
            unrun += "runs neither" in line
            if verdict == "FAIL" or model.suffix != ".nf":
                print(f"{verdict:5} {model.name}: {line}", flush=True)
    print(
        f"onnx checks: {len(found)} models, {counts['FAIL']} failed; {counts['over']} that ONNX cannot say,"
        f" {unfused} in which nothing fuses; {unrun} that neither engine runs"
    )
    sys.exit(counts["FAIL"] > 0)


def outcome(program, rules, model):
    with tempfile.TemporaryDirectory() as folder:
        try:
            return "ok", check(program, rules, model, pathlib.Path(folder))
        except PassedOver as e:
            return "over", str(e)
        except Failed as e:
            return "FAIL", str(e)


if __name__ == "__main__":
    main()
