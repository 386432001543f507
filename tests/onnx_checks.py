#!/usr/bin/env python3
"""Checks what normfuse writes with the tools of ONNX's own project.

  onnx_checks.py [--normfuse PROGRAM] FOLDER...

For every FOLDER/NAME.onnx: compile it; the rewritten file, and the source read and written with all rules off, pass
onnx.checker's full check; source, both of these, and the rewritten file after onnx.inliner give equal bits on the inputs
of NAME.npz or NAME.ref.npz. They run in onnxruntime with its optimisations off, or, where its CPU provider cannot run the
source, in onnx.reference. A source that fails onnx.checker itself may be refused; where it is read, what it means is
ours to say, and the three files are compared with one another. Prints a line a model and exits with 1 if anything failed.
"""

import argparse
import json
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
    """The inputs beside a model, in the types that it declares; None if there are none."""
    for name in (path.with_suffix(".npz"), path.with_suffix(".ref.npz")):
        if name.exists():
            arrays = np.load(name)
            break
    else:
        return None
    feeds = {}
    for value in model.graph.input:
        array = arrays[f"in.{value.name}"]
        narrow = NARROW.get(value.type.tensor_type.elem_type)
        feeds[value.name] = array.astype(narrow) if narrow else array
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


def check(program, rules, path, folder):
    """Returns a line about one model; raises Failed."""
    rewritten, untouched, inlined = (folder / f"{kind}.onnx" for kind in ("rewritten", "untouched", "inlined"))
    illegal = illegality(path)
    try:
        report = json.loads(normfuse(program, "compile", path, "-o", rewritten, "--copy-weights", "--report", "json"))
    except Failed as e:
        if illegal is None:
            raise
        return f"illegal, and refused: {e}"
    off = [flag for rule in rules for flag in ("--disable", rule)]
    normfuse(program, "compile", path, "-o", untouched, "--copy-weights", *off)
    for written in (rewritten, untouched):
        problem = illegality(written)
        if problem and not illegal:
            raise Failed(f"{written.name} fails onnx.checker: {problem}")
    onnx.save(onnx.inliner.inline_local_functions(onnx.load(rewritten)), inlined)

    fused = report["summary"]["fused"]
    line = f"{report['summary']['norms']} norms, {fused['norm_quant']} fused with quantisers, {fused['norm']} without"
    feeds = inputs_of(path, onnx.load(path, load_external_data=False))
    if feeds is None:
        return f"{line}; no inputs to run it on"
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
    for written in others:
        try:
            found = run(written, feeds)
        except Exception as e:
            raise Failed(f"{engine} runs {first.name} but not {written.name}: {e}") from e
        if len(want) != len(found) or not all(map(same_bits, want, found)):
            raise Failed(f"{written.name} differs from {first.name} in {engine}")
    against = "one another (the source is illegal)" if illegal else "the source"
    return f"{line}; {len(others)} files bit-equal to {against} in {engine}"


def first_line(error):
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normfuse", default="target/release/normfuse", help="the program [default: %(default)s]")
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    models = [m for folder in args.folders for m in sorted(folder.glob("*.onnx"))]
    if not models:
        sys.exit("no models")
    rules = all_rules(args.normfuse, models[0])
    failed = 0
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"ok    {model.name}: {check(args.normfuse, rules, model, pathlib.Path(folder))}", flush=True)
            except Failed as e:
                failed += 1
                print(f"FAIL  {model.name}: {e}", flush=True)
    print(f"onnx checks: {len(models)} models, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
