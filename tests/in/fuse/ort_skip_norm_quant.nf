# onnxruntime's add and norm in one, in f32, with static FP8 behind; the sum is read again.
graph "ort_skip_norm_quant"
opset "" 20
input %x: f32[batch, seq, 256]
input %res: f32[batch, seq, 256]
const %w: f32[256] = fill(1.2)
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%y, %sum = skip_rms_norm(%x, %res, %w) {eps=1e-6}
%m = mul(%y, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
output %sum
