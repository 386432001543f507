#!/usr/bin/env python3
"""Times decoder layers on a GPU: normfuse's source, apart and fused forms, and torch of the same arithmetic, eager and compiled.

  python3 benches/layers/make_layers.py target/layers
  python3 benches/layers/layers.py target/layers --normfuse target/release/normfuse [-o FILE]

Every form is a CUDA graph that is replayed. Products are scaled ones (`--relax scaled-matmul`, `torch._scaled_mm`). *outside* is the layer
without what attends and puts new keys and values behind the cached ones; torch's has q, k and v as results instead. *attention* is the
rest of the whole. *products* and what is fused are each alone.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import torch
import torch.nn.functional as F

FP8 = torch.float8_e4m3fn
PAST = 1024
DEV = "cuda"
CASES = [
    ("deepseek_v3", "block", "decode", (1, 8, 64)),
    ("deepseek_v3", "block", "prefill", (512, 4096)),
    ("llama", "token", "decode", (1, 8, 64)),
    ("llama", "token", "prefill", (512, 4096)),
    ("llama", "static", "decode", (1, 8, 64)),
    ("llama", "static", "prefill", (512, 4096)),
]


def replay(run, replays):
    """Median microseconds of a recording, and how wide the middle four fifths are."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    times = []
    for i in range(replays + 3):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end) * 1e3)
    times.sort()
    return statistics.median(times), (times[len(times) * 9 // 10] - times[len(times) // 10]) / statistics.median(times)


class Linear:
    """A weight of FP8 codes, with scales by tensor, by channel, or by 128x128."""

    def __init__(self, out, into, scheme):
        self.scheme = scheme
        self.codes = (torch.randn(out, into, device=DEV) * 0.5).to(FP8)
        up = lambda n: -(-n // 128)
        if scheme == "block":
            self.scale = torch.rand(up(out), up(into), device=DEV) / 100
        elif scheme == "token":
            self.scale = torch.rand(1, out, device=DEV) / 100
        else:
            self.scale, self.given = torch.tensor(0.01, device=DEV), torch.tensor(0.02, device=DEV)

    def quantise(self, x):
        wide = x.float()
        if self.scheme == "static":
            return (wide / self.given).clamp(-448, 448).to(FP8), self.given
        rows = wide.view(x.shape[0], -1, 128) if self.scheme == "block" else wide
        scale = (rows.abs().amax(-1, keepdim=True) / 448).clamp_min(1e-12)
        return (rows / scale).clamp(-448, 448).to(FP8).view(x.shape), scale.view(x.shape[0], -1)

    def __call__(self, quantised):
        codes, scale = quantised
        rows = codes.shape[0]
        if self.scheme == "block":
            if rows % 4:
                more = -rows % 4
                codes = F.pad(codes.view(torch.uint8), (0, 0, 0, more)).view(FP8)
                scale = F.pad(scale, (0, 0, 0, more))
            scale = scale.t().contiguous().t()
            scales = (scale, self.scale.t())
        else:
            scales = (scale, self.scale)
        made = torch._scaled_mm(codes, self.codes.t(), *scales, out_dtype=torch.bfloat16)
        return made[:rows]


def share(linears, x):
    """Linears of the same input: one quantiser where its scale is none of the linear's own."""
    if linears[0].scheme == "static":
        return [linear(linear.quantise(x)) for linear in linears]
    quantised = linears[0].quantise(x)
    return [linear(quantised) for linear in linears]


def norm(x, weight):
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(torch.bfloat16)


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Layer:
    def __init__(self, scheme, mode, m):
        self.decode, self.skip = mode == "decode", False
        self.batch, self.seq = (m, 1) if self.decode else (1, m)
        self.lin = lambda out, into: Linear(out, into, scheme)
        self.one = lambda n: torch.rand(n, device=DEV, dtype=torch.bfloat16) + 0.5
        self.bf = lambda *shape: torch.randn(*shape, device=DEV, dtype=torch.bfloat16) / 4

    def tail(self, x, attended):
        """The output projection, the second norm and the gated linears."""
        x = x + self.o(self.o.quantise(attended))
        gate, up = share([self.gate, self.up], norm(x, self.n2))
        made = F.silu(gate) * up
        return x + self.down(self.down.quantise(made))

    def attend(self, q, k, v):
        if self.skip:
            return self.attended, q, k, v
        if self.decode:
            k, v = torch.cat([self.past[0], k], 2), torch.cat([self.past[1], v], 2)
        made = F.scaled_dot_product_attention(q, k, v, is_causal=not self.decode, enable_gqa=q.shape[1] != k.shape[1], scale=self.scale)
        return (made, k, v) if self.decode else (made,)


class DeepSeek(Layer):
    def __init__(self, *args):
        super().__init__(*args)
        self.n1, self.n2, self.nq, self.nkv = self.one(7168), self.one(7168), self.one(1536), self.one(512)
        self.qa, self.qb, self.kva, self.kvb = self.lin(1536, 7168), self.lin(24576, 1536), self.lin(576, 7168), self.lin(32768, 512)
        self.o, self.gate, self.up, self.down = self.lin(7168, 16384), self.lin(18432, 7168), self.lin(18432, 7168), self.lin(7168, 18432)
        self.scale = 192**-0.5
        self.x = self.bf(self.batch * self.seq, 7168)
        self.cos, self.sin = self.bf(1, 1, self.seq, 64), self.bf(1, 1, self.seq, 64)
        self.past = [self.bf(self.batch, 128, PAST, n) for n in (192, 128)] if self.decode else None
        self.attended = self.bf(self.batch, 128, self.seq, 128)
        self.products = [self.qa, self.qb, self.kva, self.kvb, self.o, self.gate, self.up, self.down]

    def __call__(self, x):
        q, kv = share([self.qa, self.kva], norm(x, self.n1))
        q = self.qb(self.qb.quantise(norm(q, self.nq)))
        kv, k_rope = kv.split([512, 64], -1)
        kv = self.kvb(self.kvb.quantise(norm(kv, self.nkv)))
        heads = lambda t, n: t.view(self.batch, self.seq, -1, n).transpose(1, 2)
        q, q_rope = heads(q, 192).split([128, 64], -1)
        k, v = heads(kv, 256).split([128, 128], -1)
        pairs = lambda t: t.unflatten(-1, (32, 2)).transpose(-1, -2).flatten(-2)
        q = torch.cat([q, turn(pairs(q_rope), self.cos, self.sin)], -1)
        k_rope = turn(pairs(heads(k_rope, 64)), self.cos, self.sin).expand(-1, 128, -1, -1)
        k = torch.cat([k, k_rope], -1)
        attended, *present = self.attend(q, k, v)
        attended = attended.transpose(1, 2).reshape(x.shape[0], -1)
        return (self.tail(x, attended), *present)


class Llama(Layer):
    def __init__(self, *args):
        super().__init__(*args)
        self.n1, self.n2 = self.one(4096), self.one(4096)
        self.q, self.k, self.v, self.o = self.lin(4096, 4096), self.lin(1024, 4096), self.lin(1024, 4096), self.lin(4096, 4096)
        self.gate, self.up, self.down = self.lin(14336, 4096), self.lin(14336, 4096), self.lin(4096, 14336)
        self.scale = 128**-0.5
        self.x = self.bf(self.batch * self.seq, 4096)
        self.cos, self.sin = self.bf(1, 1, self.seq, 128), self.bf(1, 1, self.seq, 128)
        self.past = [self.bf(self.batch, 8, PAST, 128) for _ in range(2)] if self.decode else None
        self.attended = self.bf(self.batch, 32, self.seq, 128)
        self.products = [self.q, self.k, self.v, self.o, self.gate, self.up, self.down]

    def __call__(self, x):
        heads = lambda t: t.view(self.batch, self.seq, -1, 128).transpose(1, 2)
        q, k, v = (heads(t) for t in share([self.q, self.k, self.v], norm(x, self.n1)))
        attended, *present = self.attend(turn(q, self.cos, self.sin), turn(k, self.cos, self.sin), v)
        return (self.tail(x, attended.transpose(1, 2).reshape(x.shape[0], -1)), *present)


def of_torch(name, scheme, mode, m, replays):
    """Microseconds of eager and compiled, whole and without attention, and of all products."""
    layer = {"deepseek_v3": DeepSeek, "llama": Llama}[name](scheme, mode, m)
    found, products = {}, 0.0
    with torch.no_grad():
        for linear in layer.products:
            quantised = linear.quantise(layer.bf(m, linear.codes.shape[1]))
            products += replay(lambda: [linear(quantised) for _ in range(20)], replays)[0] / 20
        for form in ("eager", "compile"):
            torch._dynamo.reset()
            times = []
            for layer.skip in (False, True):
                run = layer if form == "eager" else torch.compile(layer.__call__, dynamic=False)
                times.append(replay(lambda: run(layer.x), replays))
            (us, spread), (outside, _) = times
            found[form] = {"us": us, "spread": spread, "outside": outside, "products": products}
    del layer
    torch.cuda.empty_cache()
    return found


def of_normfuse(args, name, scheme, mode, m):
    model = args.folder / f"{name}.{mode}.pt2"
    taken = subprocess.run([args.normfuse, "plan", model, "--inputs", "--json"], capture_output=True, text=True, check=True)
    (symbol,) = (dim["name"] for dim in json.loads(taken.stdout)["dims"])
    call = [args.normfuse, "bench", model, "--quant-config", args.folder / f"{name}.{scheme}.json", "--relax", "scaled-matmul"]
    call += ["--random-weights", "1", "--device", "cuda", "--dim", f"{symbol}={m}", "--replays", str(args.replays), "--json"]
    done = subprocess.run(list(map(str, call)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, call))}\n{done.stderr}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--normfuse", default="target/release/normfuse")
    parser.add_argument("--replays", type=int, default=50)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("-m", type=int, action="append", help="rows, of those that are measured (may be repeated)")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="everything that was measured, as JSON lines")
    args = parser.parse_args()
    out = args.output.open("w") if args.output else None
    head = f"{'layer':28} {'M':>5} {'form':8} {'whole':>9} {'+-':>6} {'attention':>9} {'outside':>9} {'products':>9} {'norms, quantisers, gates':>24} {'launches':>8}"
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n{head}", flush=True)
    failed = 0
    for name, scheme, mode, sizes in CASES:
        title = f"{name} {scheme} {mode}"
        if args.only not in title:
            continue
        for m in [m for m in sizes if not args.m or m in args.m]:
            rows, raw = [], {"layer": title, "m": m}
            try:
                found = raw["normfuse"] = of_normfuse(args, name, scheme, mode, m)
                for form in found["forms"]:
                    kinds = form["kinds"]
                    spread = (form["high"] - form["low"]) / form["us"]
                    outside, products = form["without_attention"], kinds["products"]["us"]
                    more = f"{kinds['fusible']['us']:.1f}", form["memory"]["launches"]
                    rows.append((form["form"], form["us"], spread, form["us"] - outside, outside, products, *more))
                if not args.no_torch:
                    raw["torch"] = of_torch(name, scheme, mode, m, args.replays)
                    for form, t in raw["torch"].items():
                        rows.append((form, t["us"], t["spread"], t["us"] - t["outside"], t["outside"], t["products"], "", ""))
            except Exception as e:  # The others are worth measuring.
                print(f"{title} {m}: {e}", file=sys.stderr, flush=True)
                failed += 1
            for form, us, spread, attention, outside, products, fusible, launches in rows:
                times = f"{us:9.1f} {spread:6.1%} {attention:9.1f} {outside:9.1f} {products:9.1f}"
                print(f"{title:28} {m:5} {form:8} {times} {fusible:>24} {launches:>8}", flush=True)
            if out:
                print(json.dumps(raw), file=out, flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
