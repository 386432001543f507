"""What others need for the ops of the device bench: torch.compile of the plain form and of a cast of the same bytes, and
kernels written by hand in Triton. Needs torch with CUDA, and Triton.

    python rivals.py < CELLS

CELLS has a line `OP N M BYTES` for each cell: the op by its name, elements in a row, rows, and the bytes that the op reads and
writes. Of each comes a line `OP N M WHO US LOW HIGH` for torch, torch_cast and triton: the median of replays of a CUDA
graph over operands that rotate through more memory than the cache has, and what a tenth of them were faster and slower
than. What is measured is compared with the plain form first, as dequantised values; one that differs stops the run.
"""

import concurrent.futures
import multiprocessing
import os
import sys

import torch
import triton
import triton.language as tl

EPS = 1e-6
TOP = 448.0
FP8 = torch.float8_e4m3fn
REPLAYS = 15
# Launches in a graph, and the bytes that it goes through at least.
LAUNCHES = (20, 400)
ROUND = 300 << 20


# ---- the plain form ----


def norm(x, w):
    h = x.float()
    r = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return (h * r).to(x.dtype) * w


def no_quantiser(y, s):
    return (y,)


def fp8_static(y, s):
    return ((y.float() / s).clamp(-TOP, TOP).to(FP8),)


def fp8_token(y, s):
    v = y.float()
    scale = v.abs().amax(-1, keepdim=True).clamp(min=1e-10) / TOP
    return (v / scale).clamp(-TOP, TOP).to(FP8), scale


def fp8_group128(y, s):
    v = y.float().view(y.shape[0], -1, 128)
    scale = v.abs().amax(-1, keepdim=True).clamp(min=1e-10) / TOP
    return (v / scale).clamp(-TOP, TOP).to(FP8).view(y.shape), scale.squeeze(-1)


def fp8_group128_columns(y, s):
    q, scale = fp8_group128(y, s)
    return q, scale.t().contiguous()


QUANTISERS = {
    "": no_quantiser,
    "fp8_static": fp8_static,
    "fp8_token": fp8_token,
    "fp8_group128": fp8_group128,
    "fp8_group128_columns": fp8_group128_columns,
}


def parts(op):
    """(with a residual add, quantiser) of a name; None if the op has no rival here."""
    words = op.split("+")
    add = words[0] == "add"
    words = words[add:]
    if words[:1] != ["rms_norm"] or len(words) > 2:
        return None
    quantiser = words[1] if len(words) == 2 else ""
    return (add, quantiser) if quantiser in QUANTISERS else None


def plain(op):
    add, quantiser = parts(op)
    quantise = QUANTISERS[quantiser]

    def added(x, residual, w, s):
        h = x + residual
        return (h, *quantise(norm(h, w), s))

    def alone(x, w, s):
        return quantise(norm(x, w), s)

    return added if add else alone


def cast(x):
    return x.clamp(-TOP, TOP).to(FP8)


# ---- by hand, in Triton: a row a program, in registers ----


@triton.jit
def rms_kernel(X, Residual, W, S, Sum, Q, Scale, M, N: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, HOW: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < N
    x = tl.load(X + row * N + at, mask=inside, other=0.0)
    if ADD:
        x = x + tl.load(Residual + row * N + at, mask=inside, other=0.0)
        tl.store(Sum + row * N + at, x, mask=inside)
    w = tl.load(W + at, mask=inside, other=0.0)
    h = x.to(tl.float32)
    r = tl.rsqrt(tl.sum(h * h, axis=0) / N + 1e-6)
    y = (h * r).to(tl.bfloat16) * w
    if HOW == 0:
        tl.store(Q + row * N + at, y, mask=inside)
    elif HOW == 1:
        q = tl.clamp(y.to(tl.float32) / tl.load(S), -448.0, 448.0)
        tl.store(Q + row * N + at, q.to(tl.float8e4nv), mask=inside)
    elif HOW == 2:
        v = y.to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(v), axis=0), 1e-10) / 448.0
        tl.store(Scale + row, scale)
        tl.store(Q + row * N + at, tl.clamp(v / scale, -448.0, 448.0).to(tl.float8e4nv), mask=inside)
    else:
        v = tl.reshape(y.to(tl.float32), (BLOCK // 128, 128))
        scale = tl.maximum(tl.max(tl.abs(v), axis=1), 1e-10) / 448.0
        group = tl.arange(0, BLOCK // 128)
        to = row * (N // 128) + group if HOW == 3 else group.to(tl.int64) * M + row
        tl.store(Scale + to, scale, mask=group < N // 128)
        q = tl.clamp(v / scale[:, None], -448.0, 448.0).to(tl.float8e4nv)
        tl.store(Q + row * N + at, tl.reshape(q, (BLOCK,)), mask=inside)


def by_hand(op, warps):
    add, quantiser = parts(op)
    how = list(QUANTISERS).index(quantiser)

    def run(*operands):
        x, *rest = operands
        residual = rest.pop(0) if add else x
        w, s = rest
        m, n = x.shape
        q = torch.empty_like(x, dtype=FP8 if how else x.dtype)
        total = torch.empty_like(x) if add else x
        shape = {2: (m, 1), 3: (m, n // 128), 4: (n // 128, m)}.get(how, (1,))
        scale = torch.empty(shape, dtype=torch.float32, device=x.device)
        block = triton.next_power_of_2(n)
        rms_kernel[(m,)](x, residual, w, s, total, q, scale, m, n, block, add, how, num_warps=warps)
        return (*([total] if add else []), q, *([scale] if how >= 2 else []))

    return run


# ---- measuring ----


def operands(op, n, m):
    add, _ = parts(op)
    rows = [torch.randn(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(1 + add)]
    w = torch.randn(n, device="cuda", dtype=torch.bfloat16)
    return (*rows, w, torch.full((1,), 0.05, device="cuda"))


def time(function, sets):
    """(median, low, high) microseconds a call."""
    # What made the operands was on another stream.
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for s in sets[:2]:
            function(*s)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            # Results are kept, so that each call has memory of its own.
            kept = [function(*s) for s in sets]
        graph.replay()
        graph.replay()
        stream.synchronize()
        times = []
        for _ in range(REPLAYS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / len(sets))
    del kept, graph
    times.sort()
    last = len(times) - 1
    return times[last // 2], times[last // 10], times[last - last // 10]


def count(size):
    return min(max(ROUND // size + 1, LAUNCHES[0]), LAUNCHES[1])


def values(op, results):
    """Dequantised, in f32."""
    _, quantiser = parts(op)
    if quantiser in ("", "fp8_static"):
        return results[-1].float()
    q, scale = results[-2].float(), results[-1]
    if quantiser == "fp8_token":
        return q * scale
    scale = scale.t() if quantiser == "fp8_group128_columns" else scale
    return (q.view(q.shape[0], -1, 128) * scale[:, :, None]).view(q.shape)


def check(op, who, function, args):
    want, found = values(op, plain(op)(*args)), values(op, function(*args))
    far = ((want - found).norm() / want.norm()).item()
    if not far < 0.02:
        sys.exit(f"{who} of {op} at {tuple(args[0].shape)} differs from the plain form by {far}")


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def elements(size):
    # 2 bytes in and 1 out, in whole vectors.
    return size // 3 // 8 * 8


def warm(cell):
    """Compiles what a cell needs into the caches on disk, which processes share."""
    op, n, m, size = cell
    compiled(plain(op))(*operands(op, n, m))
    compiled(cast)(torch.zeros(elements(size), device="cuda", dtype=torch.bfloat16))
    for warps in (4, 8, 16):
        by_hand(op, warps)(*operands(op, n, m))
    torch.cuda.synchronize()


def main():
    cells = []
    for line in sys.stdin:
        op, n, m, size = line.split()
        if parts(op) is not None:
            cells.append((op, int(n), int(m), int(size)))
    workers = min(12, os.cpu_count() or 1, len(cells))
    if workers > 1:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            list(pool.map(warm, cells))
    print(f"# torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}", flush=True)
    for op, n, m, size in cells:
        sets = [operands(op, n, m) for _ in range(count(size))]
        torch_form = compiled(plain(op))
        check(op, "torch.compile", torch_form, sets[0])
        found = {"torch": time(torch_form, sets)}
        best = None
        for warps in (4, 8, 16):
            function = by_hand(op, warps)
            check(op, "triton", function, sets[0])
            took = time(function, sets)
            best = took if best is None or took[0] < best[0] else best
        found["triton"] = best
        del sets
        flat = [(torch.randn(elements(size), device="cuda").to(torch.bfloat16),) for _ in range(count(size))]
        found["torch_cast"] = time(compiled(cast), flat)
        del flat
        torch.cuda.empty_cache()
        for who, (us, low, high) in found.items():
            print(f"{op} {n} {m} {who} {us:.4f} {low:.4f} {high:.4f}", flush=True)


if __name__ == "__main__":
    main()
