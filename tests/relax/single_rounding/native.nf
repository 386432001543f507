# ONNX's norm multiplies two numbers of 16 bits at its end: that product is in f32 then.
graph "native"
opset "" 23
input %x: bf16[batch, seq, 256]
input %res: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.203125)
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%h = add(%x, %res)
%y = rms_norm(%h, %w) {axis=-1, eps=1e-6, stash=f32}
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
output %h
