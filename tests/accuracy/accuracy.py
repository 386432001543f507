#!/usr/bin/env python3
"""The accuracy gate: do fused graphs of a trained model give the answers of their sources?

  python3 -m venv venv && venv/bin/pip install numpy
  cargo build --release && venv/bin/python tests/accuracy/accuracy.py --normfuse target/release/normfuse --faults

Each program of this folder (what train.py wrote), and the plain one with weights of FP8 (checkpoint.py), answers the
held-out questions as it is, fused, and fused with each --relax that normfuse has a rule for. Under the default contract the logits must have the same bits, so that the answers
are the same to the last one. With --faults, graphs that are wrong on purpose must be told from their sources by
`normfuse verify`. Exit code 1 if any of this does not hold.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from checkpoint import CONFIGS, make
from faults import FAULTS

HERE = pathlib.Path(__file__).parent
WEIGHTS = "weights.safetensors"
# What has to fuse: every norm but the last with its quantisers, both gates, and the quantisers that neither feeds.
QUANTISED = ["norm_quant=8", "quant=12", "gated_act=2"]
REQUIRED = {"plain": ["norm=9"], "fp8_token": QUANTISED, "fp8_group": QUANTISED, "mxfp4": QUANTISED, **{c: QUANTISED for c in CONFIGS}}


class Gate:
    """A folder with programs, weights and questions, the program under test, and what went wrong so far."""

    def __init__(self, args, folder):
        self.normfuse, self.device, self.folder = args.normfuse, args.device, folder
        self.wrong = []
        shutil.copy(HERE / WEIGHTS, folder)
        for name in REQUIRED:
            shutil.copy(HERE / f"{'plain' if name in CONFIGS else name}.pt2", folder / f"{name}.pt2")
        for name in CONFIGS:
            make(name, HERE / WEIGHTS, folder / f"{name}.safetensors", folder / f"{name}.json")
        stored = np.load(HERE / "questions.npz")
        tokens, self.answers = (stored[k][: args.questions] for k in ("in.tokens", "out.answers"))
        np.savez(folder / "questions.npz", **{"in.tokens": tokens})

    def call(self, *words):
        """How normfuse ended, with what it wrote."""
        return subprocess.run([self.normfuse, *words], cwd=self.folder, capture_output=True, text=True, check=False)

    def demand(self, what, done):
        """Notes that a call had to succeed and did not."""
        if done.returncode != 0:
            self.wrong.append(f"{what}: exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.returncode == 0

    def checkpoint(self, name):
        """What gives a program its weights."""
        quantised = name in CONFIGS
        return ["--weights", f"{name}.safetensors", "--quant-config", f"{name}.json"] if quantised else ["--weights", WEIGHTS]

    def compile(self, name, out, *more):
        """Compiles a program; returns how that ended."""
        return self.call("compile", f"{name}.pt2", *self.checkpoint(name), "-o", out, *more)

    def logits(self, graph):
        """What a graph computes of the questions, or None if it does not run."""
        weights = self.checkpoint(graph.removesuffix(".pt2")) if graph.endswith(".pt2") else []
        device = ["--device", self.device] if self.device else []
        done = self.call("run", graph, *weights, *device, "--inputs", "questions.npz", "--outputs", "out.npz")
        if not self.demand(f"run {graph}", done):
            return None
        with np.load(self.folder / "out.npz") as out:
            return out[out.files[0]]

    def row(self, graph, how, logits, source, note=""):
        """Prints a line of the table; returns how many answers are not the source's, and whether the bits are equal."""
        said, wanted = logits.argmax(-1), source.argmax(-1)
        right, count = int((said == self.answers).all(-1).sum()), len(self.answers)
        changed, equal = int((said != wanted).any(-1).sum()), logits.tobytes() == source.tobytes()
        bits = "equal" if equal else "differ"
        print(f"{graph:<11} {how:<24} {right:>5} of {count} {right / count:>8.2%} {changed:>8}   {bits:<6} {note}".rstrip(),
              flush=True)
        return changed, equal

    def relaxations(self):
        """The names that --relax knows, as the program lists them."""
        return json.loads(self.call("rules", "--report", "json").stdout)["relaxations"]

    def contract(self, name):
        """Source and fused graph of a program, and each relaxation; returns the source's logits."""
        source = self.logits(f"{name}.pt2")
        require = [word for kind in REQUIRED[name] for word in ("--require", kind)]
        if not self.demand(f"compile {name}", self.compile(name, f"{name}.nf", *require)) or source is None:
            return None
        self.row(name, "source", source, source)
        fused = self.logits(f"{name}.nf")
        if fused is not None:
            changed, equal = self.row(name, "fused", fused, source)
            if changed or not equal:
                self.wrong.append(f"{name}: fused, {changed} answers changed, logits equal: {equal}")
        for relax in self.relaxations():
            done = self.compile(name, f"{name}.relaxed.nf", *require, "--relax", relax, "--report", "json")
            if not self.demand(f"compile {name} --relax {relax}", done):
                continue
            report = json.loads(done.stdout)
            sites = sum("relaxed" in site for site in report["sites"]) + len(report.get("products", []))
            logits = self.logits(f"{name}.relaxed.nf")
            if logits is not None:
                _, equal = self.row(name, f"--relax {relax}", logits, source, f"relaxed at {sites}")
                if not sites and not equal:
                    self.wrong.append(f"{name}: --relax {relax} changes logits and says of no site that it does")
        return source

    def fault(self, name, fault, code, source):
        """A fused graph with a fault, of which verification has to end with this code."""
        text = fault((self.folder / f"{name}.nf").read_text())
        if text is None:
            return
        faulty, how = f"{name}.faulty.nf", fault.__name__.replace("_", " ")
        (self.folder / faulty).write_text(text)
        verify = self.call("verify", f"{name}.pt2", faulty, *self.checkpoint(name), "--inputs", "questions.npz")
        if verify.returncode != code:
            found = f"ended with {verify.returncode}, not {code}"
            self.wrong.append(f"{name}: {how}: verify {found}: {verify.stderr.strip() or verify.stdout.strip()}")
        if verify.returncode == 2:
            print(f"{name:<11} {how:<24} {'refused before it runs':>42}   verify: 2", flush=True)
            return
        logits = self.logits(faulty)
        if logits is not None:
            site = verify.stderr.partition("first site that differs: `")[2].partition("`")[0]
            self.row(name, how, logits, source, f"verify: {verify.returncode}, {site or 'no site'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normfuse", type=pathlib.Path, default=HERE.parent.parent / "target/release/normfuse")
    parser.add_argument("--device", help="passed on to `normfuse run`, such as cuda")
    parser.add_argument("--questions", type=int, help="how many of the held-out questions to ask (default: all)")
    parser.add_argument("--faults", action="store_true", help="see that faults are caught as well")
    args = parser.parse_args()
    args.normfuse = args.normfuse.absolute()
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(args, pathlib.Path(folder))
        head = f"{'program':<11} {'graph':<24} {'right':>13} {'':>8} {'changed':>8}   logits"
        print(head)
        sources = {name: gate.contract(name) for name in REQUIRED}
        if args.faults:
            print(f"\n{head}")
            for fault, code in FAULTS:
                for name, source in sources.items():
                    if source is not None:
                        gate.fault(name, fault, code, source)
    for wrong in gate.wrong:
        print(f"error: {wrong}", file=sys.stderr)
    sys.exit(1 if gate.wrong else 0)


if __name__ == "__main__":
    main()
