"""Faults to put into a fused graph, as edits of its text. Each takes the text and returns it with the fault, or None
where the graph has no place for it. But for one, what is changed in a descriptor is changed in its body as well: a
descriptor that disagrees with its body is refused before it runs, and here the numbers are wanted."""

import re

# The weight of the second norm of a dual one, as a fused op reads it: last, before its descriptor.
READ = re.compile(r"%layers\.\d+\.self_attn\.kv_a_layernorm\.weight\) \{prologue")
FIRST_WEIGHT = re.compile(r"^weight %.*$", re.M)
KV_LORA = 128
# In a body: the row divided by its root mean square, rounded to bf16, times the weight.
ROUNDED = re.compile(r"^  (\S+): bf16(\[.*\]) = cast\((\S+)\) \{to=bf16, saturate=true\}\n"
                     r"  (\S+): bf16\[.*\] = mul\((%weight\d+), \1\)$", re.M)
# Scales that leave a fused op: the second of a pair of results of one scheme.
SCALE = re.compile(r"scheme !\w+, (%\w+): (f32|u8)\[([^]]*)\] scheme ")


def norm_weight_left_at_1(text):
    """The fused ops of dual norms have a weight of their own, which no checkpoint fills."""
    ones = f"const %weight1: bf16[{KV_LORA}] = [{', '.join(['1.0'] * KV_LORA)}]"
    text, ops = READ.subn("%weight1) {prologue", text)
    assert ops, "no dual norm"
    return FIRST_WEIGHT.sub(lambda found: f"{ones}\n{found[0]}", text, count=1)


def rounding_skipped(text):
    """Every norm multiplies its row by the weight in f32, without the rounding to bf16 before."""
    def unrounded(found):
        row, shape, wide, product, weight = found.groups()
        return (f"  {row}/w: f32[{shape.strip('[]').split(', ')[-1]}] = cast({weight}) {{to=f32, saturate=true}}\n"
                f"  {row}: f32{shape} = mul({row}/w, {wide})\n"
                f"  {product}: bf16{shape} = cast({row}) {{to=bf16, saturate=true}}")

    text, bodies = ROUNDED.subn(unrounded, text)
    assert bodies, "no body rounds its row"
    return only_in_descriptor(text)


def scale_transposed(text):
    """Scales that leave a fused op are read as if rows and groups were the other way round."""
    lines, turned = [], {}
    for line in text.splitlines():
        made, equals, rest = line.partition(" = ")
        if equals and not line.startswith(" "):
            for old, new in turned.items():
                rest = re.sub(re.escape(old) + r"(?![\w.])", new, rest)
        lines.append(made + equals + rest)
        for name, dtype, shape in SCALE.findall(made) if " body &" in rest else ():
            *outer, rows, groups = shape.split(", ")
            if groups == "1":
                continue
            order = [*range(len(outer)), len(outer) + 1, len(outer)]
            new = turned[name] = f"%turned/{name[1:]}"
            lines += [
                f"const {new}/shape: i64[{len(order)}] = [0, {', '.join([*outer[1:], rows, groups])}]",
                f"{new}/swapped: {dtype}[{', '.join([*outer, groups, rows])}] = transpose({name}) {{perm={order}}}",
                f"{new}: {dtype}[{shape}] = reshape({new}/swapped, {new}/shape) {{allow_zero=false}}"]
    return "\n".join(lines) + "\n" if turned else None


def only_in_descriptor(text):
    """The rounding is skipped in descriptors alone, which their bodies contradict."""
    return text.replace("root=rsqrt, normed=bf16", "root=rsqrt, normed=f32")


# Each with the exit code that `normfuse verify` has to end with: 1 outputs differ, 2 the file is refused.
FAULTS = [(norm_weight_left_at_1, 1), (rounding_skipped, 1), (only_in_descriptor, 2), (scale_transposed, 1)]
