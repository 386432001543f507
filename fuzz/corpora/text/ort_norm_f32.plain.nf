graph "ort_norm_f32"
opset "" 20
input %x: f32[batch, seq, 256]
input %res: f32[batch, seq, 256]
const %w: f32[256] = fill(1.2)
%h: f32[batch, seq, 256] = add(%x, %res)
%y: f32[batch, seq, 256] = rms_norm(%h, %w) {axis=-1, eps=1e-6, stash=f32, root=reciprocal_sqrt, cast=after_scale}
output %y
output %h
