# onnxruntime's norm is in f32 until its end, which is what goes.
graph "native_in_f32"
opset "" 20
input %x: f16[batch, seq, 256]
input %res: f16[batch, seq, 256]
const %w: f16[256] = fill(1.2001953)
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%h = add(%x, %res)
%y = rms_norm(%h, %w) {eps=1e-6, root=reciprocal_sqrt, cast=after_scale}
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
output %h
