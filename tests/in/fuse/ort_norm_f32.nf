# onnxruntime's norm on f32 rows whose residual add is read again.
graph "ort_norm_f32"
opset "" 20
input %x: f32[batch, seq, 256]
input %res: f32[batch, seq, 256]
const %w: f32[256] = fill(1.2)
%h = add(%x, %res)
%y = rms_norm(%h, %w) {eps=1e-6, root=reciprocal_sqrt, cast=after_scale}
output %y
output %h
