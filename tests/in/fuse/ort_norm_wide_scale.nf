# onnxruntime's norm of f16 rows with an f32 scale: the result is f32. aten's would take rsqrt instead.
graph "ort_norm_wide_scale"
opset "" 20
input %x: f16[batch, seq, 256]
input %res: f16[batch, seq, 256]
const %w: f32[256] = fill(1.2)
%h = add(%x, %res)
%y = rms_norm(%h, %w) {eps=1e-6, root=rsqrt, cast=after_scale}
output %y
