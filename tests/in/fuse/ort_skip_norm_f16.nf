# onnxruntime's add and norm of f16 rows: the norm reads the sum in f32, and it is handed out in f16.
graph "ort_skip_norm_f16"
opset "" 20
input %x: f16[batch, seq, 256]
input %res: f16[batch, seq, 256]
const %w: f16[256] = fill(1.2001953)
const %inv: f32[] = 103.1367
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%y, %sum = skip_rms_norm(%x, %res, %w) {eps=1e-6}
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
output %sum
