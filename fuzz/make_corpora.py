#!/usr/bin/env python3
"""Makes the seeds in corpora/: small files of every reader, and of every kind that it tells apart.

  cargo build --release
  python3 -m venv venv && venv/bin/pip install torch==2.15.0 numpy==2.4.6
  venv/bin/python fuzz/make_corpora.py [TARGET ...]

text, onnx and json need the program alone, npz numpy, pt2 torch, config and safetensors nothing. Files called `found_*` are what a fuzzer once broke a
reader with: they stay.
"""

import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
NORMFUSE = os.environ.get("NORMFUSE", ROOT / "target/release/normfuse")
OFF = {"NORMFUSE_RMSNORM_QUANT_FUSION": "off"}
GRAPHS = 20


def put(target, name, data):
    (HERE / "corpora" / target / name).write_bytes(data)


def graphs():
    """The smallest graphs of the tests of each folder, where there are most things in few bytes."""
    for folder in sorted((ROOT / "tests/in").iterdir()):
        files = sorted(folder.glob("*.nf"), key=lambda f: (f.stat().st_size, f.name))
        yield from files[:max(3, GRAPHS * len(files) // 160)]


def convert(target, ending):
    """Each as it is and each fused, so that there are bodies, schemes and functions."""
    for source in graphs():
        for name, switches in [("plain", OFF), ("fused", {})]:
            if name == "fused" and source.parent.name == "reject":
                continue
            out = HERE / "corpora" / target / f"{source.stem}.{name}{ending}"
            run = subprocess.run([NORMFUSE, "compile", source, "-o", out, "--emit", ending[1:]],
                                 env=os.environ | switches, capture_output=True, text=True)
            if run.returncode:
                print(f"{source.name}, {name}: {run.stderr.strip()}", file=sys.stderr)


def text():
    convert("text", ".nf")
    put("text", "weight.nf", b"""graph "w"
file "w.data" size 4096 hash "0123"
weight %w: f32[4] = "w.data"[16..+16]
input %x: f32[a, 4] default f32[1, 4] = [nan, -inf, 0x7fc00001, 1e-45]
const %b: bool[2] = [true, false]
const %n: i64[] = -9223372036854775808
const %z: bf16[64] = base64 "AAAA"
%y: f32[a, 4] = mul(%x, %w) @"a name" from {replaced=[a, b], rules=[norm]}
%q, %s = "com.acme"."Magic"(%y, _) {outputs=2}
output %s as "result": ?[2*a + 1]
""")


def onnx():
    convert("onnx", ".onnx")


def json_form():
    convert("json", ".json")
    for file in (HERE / "corpora/json").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()), separators=(",", ":")))


def safetensors():
    def file(name, header, data=b""):
        put("safetensors", name, json.dumps(header, separators=(",", ":")).encode() + b"\n" + data)

    def entry(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    at, all_types = 0, {}
    for dtype, size in [("F64", 8), ("I64", 8), ("U64", 8), ("F32", 4), ("I32", 4), ("U32", 4), ("F16", 2), ("BF16", 2),
                        ("I16", 2), ("U16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("I8", 1), ("U8", 1),
                        ("BOOL", 1)]:
        all_types[dtype.lower()] = entry(dtype, [2], at, at + 2 * size)
        at += 2 * size
    file("types.safetensors", {"__metadata__": {"format": "pt"}} | all_types, bytes(at))
    file("shapes.safetensors", {"scalar": entry("F32", [], 0, 4), "none": entry("F32", [0, 3], 4, 4),
                                "model.norm.weight": entry("F32", [2, 1, 2], 4, 20)}, bytes(20))
    file("fp4.safetensors", {"w": entry("F4", [4], 0, 2)}, bytes(2))
    file("odd_fp4.safetensors", {"w": entry("F4", [3], 0, 2)}, bytes(2))
    file("complex.safetensors", {"c": entry("C64", [1], 0, 8)}, bytes(8))
    file("empty.safetensors", {})
    file("overlap.safetensors", {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12))
    file("gap.safetensors", {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12))
    file("huge.safetensors", {"a": entry("F32", [2**32, 2**32], 0, 2**64 - 1)}, bytes(4))
    file("backwards.safetensors", {"a": entry("F32", [1], 4, 0)}, bytes(4))
    file("long.safetensors", {"a": entry("U8", [4], 0, 4)}, bytes(5))
    put("safetensors", "twice.safetensors", b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}\n12')
    header = json.dumps({"x": entry("F32", [2], 0, 8)}).encode()
    whole = len(header).to_bytes(8, "little") + header + bytes(8)
    put("safetensors", "whole.safetensors", whole)
    put("safetensors", "cut.safetensors", whole[:-3])
    put("safetensors", "claims.safetensors", b"\xff" * 8 + header)
    for name, place in [("index", "t.safetensors"), ("index_outside", "../t.safetensors"), ("index_missing", "u")]:
        put("safetensors", f"{name}.json", json.dumps({"metadata": {"total_size": 8},
                                                       "weight_map": {"x": place}}).encode())


def config():
    def file(name, value):
        put("config", f"{name}.json", json.dumps(value, separators=(",", ":")).encode())

    def args(bits, kind, strategy, dynamic=False, **more):
        return {"num_bits": bits, "type": kind, "strategy": strategy, "dynamic": dynamic, "symmetric": True} | more

    def compressed(name, weights, activations=None, ignore=("lm_head",), targets=("Linear",), **more):
        group = {"targets": targets, "weights": weights, "input_activations": activations}
        file(name, {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ignore} | more)

    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
    file("fp8", {"model_type": "deepseek_v3", "hidden_size": 7168, "quantization_config": fp8})
    file("fp8_alone", fp8)
    file("fp8_ue8m0", fp8 | {"scale_fmt": "ue8m0", "weight_block_size": [4, 32]})
    file("fp8_static", fp8 | {"activation_scheme": "static"})
    file("fp8_skips", fp8 | {"modules_to_not_convert": ["layers.1", r"mlp\.(up|down)_proj", "lm_head"]})
    file("fp8_no_blocks", {"quant_method": "fp8"})
    file("fp8_huge_blocks", fp8 | {"weight_block_size": [2**64 - 1, 2**64 - 1]})
    file("mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]})
    file("awq", {"quant_method": "awq", "bits": 4, "group_size": 128})
    file("none", {"hidden_size": 128})
    compressed("fp8_channel", args(8, "float", "channel"), args(8, "float", "token", True, observer=None))
    compressed("fp8_tensor", args(8, "float", "tensor"), args(8, "float", "tensor"), format="float-quantized")
    compressed("fp8_block", args(8, "float", "block", block_structure=[128, 128]),
               args(8, "float", "group", True, group_size=128))
    compressed("int8", args(8, "int", "channel", actorder=None), args(8, "int", "token", True), version="0.12.2")
    compressed("int8_static", args(8, "int", "channel"), args(8, "int", "tensor"))
    mx = {"group_size": 32, "scale_dtype": "torch.uint8"}
    compressed("mxfp8", args(8, "float", "group", **mx), args(8, "float", "group", True, **mx))
    compressed("mxfp4_group", args(4, "float", "group", **mx), args(4, "float", "group", True, **mx),
               format="mxfp4-pack-quantized")
    compressed("nvfp4", args(4, "float", "tensor_group", group_size=16),
               args(4, "float", "tensor_group", "local", group_size=16), format="nvfp4-pack-quantized")
    compressed("weights_only", args(8, "float", "group", group_size=64))
    compressed("by_name", args(8, "int", "channel"), None, [r"re:.*up_proj", "Head"], ["re:model.layers.[0-9]+", "Head"])
    compressed("no_expression", args(8, "int", "channel"), None, ["re:("])
    compressed("asymmetric", args(8, "int", "channel") | {"symmetric": False})
    compressed("int4", args(4, "int", "group", group_size=128))
    compressed("odd_group", args(8, "float", "group", group_size=-1), args(8, "float", "group", True, group_size=0))
    compressed("kv_cache", args(8, "float", "tensor"), kv_cache_scheme=args(8, "float", "tensor"),
               sparsity_config={"format": "dense"}, transform_config={})


def npz():
    import numpy as np

    def npy(a):
        out = io.BytesIO()
        np.save(out, a)
        return out.getvalue()

    for dtype in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", "c8", "U3"]:
        put("npz", f"{dtype.replace('?', 'bool').replace('>', 'big_')}.npy", npy(np.zeros((2, 3), dtype)))
    put("npz", "scalar.npy", npy(np.float32(1)))
    put("npz", "none.npy", npy(np.zeros((0, 4), "f4")))
    put("npz", "fortran.npy", npy(np.asfortranarray(np.arange(6, dtype="i4").reshape(2, 3))))
    put("npz", "records.npy", npy(np.zeros(2, [("a", "f4"), ("b", "i4")])))
    for version in [(2, 0), (3, 0)]:
        out = io.BytesIO()
        np.lib.format.write_array(out, np.arange(3, dtype="i8"), version=version)
        put("npz", f"version_{version[0]}.npy", out.getvalue())
    whole = npy(np.zeros((4, 4), "f4"))
    put("npz", "cut.npy", whole[:-5])
    put("npz", "long.npy", whole + b"x")
    put("npz", "huge.npy", whole.replace(b"(4, 4), ", b"(4000000000, 4000000000), ", 1))
    for save in [np.savez, np.savez_compressed]:
        out = io.BytesIO()
        save(out, a=np.arange(4, dtype="f4"), b=np.array([True, False]))
        put("npz", f"{save.__name__}.npz", out.getvalue())


def pt2():
    import pt2_seeds
    for name, archive in pt2_seeds.archives():
        with zipfile.ZipFile(io.BytesIO(archive)) as z:
            records = {n.split("/", 1)[1]: z.read(n) for n in z.namelist()}
        put("pt2", f"{name}.lines", lines(records))
        if name == "norm":
            put("pt2", "norm.pt2", archive)
            put("pt2", "cut.pt2", archive[:-100])


def lines(records):
    """The records that matter, a line each: the program, the list of weights, all of their bytes as one record `w`."""
    model = next(n for n in records if n.startswith("models/") and n.endswith(".json"))
    program = json.loads(records[model])
    for node in program["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {k: v for k, v in node["metadata"].items() if k == "nn_module_stack"}
    calls = program["graph_module"]["module_call_graph"]
    specs = [{"fqn": "", "signature": {"out_spec": c["signature"]["out_spec"]}} for c in calls if not c["fqn"]]
    program["graph_module"]["module_call_graph"] = specs
    for name in ["example_inputs", "verifiers"]:
        program.pop(name, None)
    config, data = {}, b""
    for kind in ["weights", "constants"]:
        listed = records.get(f"data/{kind}/{pathlib.PurePath(model).stem}_{kind}_config.json", b'{"config":{}}')
        for name, payload in json.loads(listed)["config"].items():
            meta = payload["tensor_meta"]
            size = {7: 4, 13: 2, 5: 8, 10: 8, 12: 1, 29: 1, 6: 2}[meta["dtype"]]
            data += bytes(-len(data) % size)
            meta["storage_offset"]["as_int"] += len(data) // size
            data += records[f"data/{kind}/{payload['path_name']}"]
            config[name] = payload | {"path_name": "w"}
    parts = [program, {"config": config}]
    return b"\n".join([json.dumps(p, separators=(",", ":")).encode() for p in parts] + [data])


MAKERS = {"onnx": onnx, "pt2": pt2, "text": text, "json": json_form, "npz": npz, "safetensors": safetensors,
          "config": config}

if __name__ == "__main__":
    for target in sys.argv[1:] or MAKERS:
        folder = HERE / "corpora" / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if not old.name.startswith("found_"):
                old.unlink()
        MAKERS[target]()
        files = list(folder.iterdir())
        print(f"{target}: {len(files)} files, {sum(f.stat().st_size for f in files)} bytes")
