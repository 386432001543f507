graph "ort_skip_norm_alone"
opset "" 20
input %x: f32[batch, seq, 256]
input %res: f32[batch, seq, 256]
const %w: f32[256] = fill(1.2)
%y: f32[batch, seq, 256], %sum: f32[batch, seq, 256] = skip_rms_norm(%x, %res, %w) {eps=1e-6}
output %y
output %sum
