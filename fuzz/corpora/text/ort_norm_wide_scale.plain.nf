graph "ort_norm_wide_scale"
opset "" 20
input %x: f16[batch, seq, 256]
input %res: f16[batch, seq, 256]
const %w: f32[256] = fill(1.2)
%h: f16[batch, seq, 256] = add(%x, %res)
%y: f32[batch, seq, 256] = rms_norm(%h, %w) {axis=-1, eps=1e-6, stash=f32, root=rsqrt, cast=after_scale}
output %y
