"""The trained model as an FP8 checkpoint: weights as codes with their scales, and the config that says so."""

import json
import struct

import numpy as np

# A scale for each row of a weight and of what the layer reads; and one for 128x128 of the weight and 128 of what it reads.
CONFIGS = {
    "w8a8_token": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False},
                "input_activations": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True},
            }
        },
    },
    "w8a8_block": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
}
LARGEST = np.float32(448)


def read(path):
    """Tensors of a safetensors file: dtype, shape, bytes."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    of = lambda t: (t["dtype"], t["shape"], data[8 + length + t["data_offsets"][0] : 8 + length + t["data_offsets"][1]])
    return {name: of(t) for name, t in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}


def write(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


def e4m3(x):
    """Codes of the nearest numbers, ties to even, of f32 up to 448."""
    magnitude = np.minimum(np.abs(x), LARGEST)
    exponent = np.maximum(np.frexp(magnitude)[1] - 1, -6)
    units = np.rint(np.ldexp(magnitude, 3 - exponent)).astype(np.int32)
    # 16 units are 8 of the next exponent, and below 8 of them there is no leading one: the code counts on in both cases.
    code = (exponent + 6) * 8 + units
    return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def quantise(weight, block):
    """Codes and scales of a matrix, a scale for each row or for each block of so many rows and columns."""
    rows, columns = weight.shape
    down, across = (1, columns) if block is None else (min(block, rows), block)
    up = lambda n, by: -(-n // by)
    scale = np.zeros((up(rows, down), up(columns, across)), np.float32)
    codes = np.zeros(weight.shape, np.uint8)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            at = (slice(i * down, (i + 1) * down), slice(j * across, (j + 1) * across))
            scale[i, j] = np.abs(weight[at]).max() / LARGEST
            codes[at] = e4m3(weight[at] / scale[i, j])
    return codes, scale


def make(name, source, weights, config):
    """Writes the checkpoint of a config, and the config."""
    blocks = CONFIGS[name]["quant_method"] == "fp8"
    tensors = {}
    for module, (dtype, shape, data) in read(source).items():
        if not module.endswith("_proj.weight") and "_proj_with_mqa" not in module:
            tensors[module] = (dtype, shape, data)
            continue
        wide = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
        codes, scale = quantise(wide, 128 if blocks else None)
        tensors[module] = ("F8_E4M3", shape, codes.tobytes())
        tensors[module + ("_scale_inv" if blocks else "_scale")] = ("F32", list(scale.shape), scale.tobytes())
    write(weights, tensors)
    config.write_text(json.dumps({"quantization_config": CONFIGS[name]}))
